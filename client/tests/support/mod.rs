//! SPDK's NVMe-oF target in a process of its own, which can be ended, killed and stopped.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use oriel_client::{Digests, Options};
use oriel_spdk::bdev::create;
use oriel_spdk::nvmf::{
    Address, NamespaceOptions, Nqn, SubsystemSpec, Target, TargetOptions, TcpOptions,
    TransportOptions,
};
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, Subsystems, block_on};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const SUBSYSTEM: &str = "nqn.2016-06.io.oriel:test";
pub(crate) const HOST: &str = "nqn.2016-06.io.oriel:host";

/// Blocks of 4096 bytes of namespace 1.
pub(crate) const BLOCKS: u64 = 4096;
/// Blocks of 512 bytes of namespace 2.
pub(crate) const SMALL_BLOCKS: u64 = 16384;

/// The test that the target's process runs.
pub(crate) const ENTRY: &str = "target_process";

const MARK: &str = "TARGET ";
const HOW: &str = "ORIEL_CLIENT_TEST_TARGET";
const START_LIMIT: Duration = Duration::from_secs(60);

/// The machine is small, and a target keeps a core busy: one at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that nobody has now.
pub(crate) fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    probe.local_addr().unwrap()
}

/// How a target is to be.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Data in capsules, in bytes.
    pub(crate) in_capsule_bytes: u32,
    /// The largest transfer, in bytes.
    pub(crate) io_bytes_max: u32,
    /// Whether any host may connect, or `HOST` alone.
    pub(crate) any_host: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            in_capsule_bytes: 4096,
            io_bytes_max: 131_072,
            any_host: true,
        }
    }
}

/// A target's process.
pub(crate) struct TargetProcess {
    /// What it prints has to go somewhere.
    _lines: Option<Receiver<String>>,
    child: Child,
    pub(crate) address: SocketAddr,
    setup: Setup,
}

impl TargetProcess {
    pub(crate) fn start(setup: Setup) -> Self {
        Self::start_at(free_address(), setup)
    }

    fn start_at(address: SocketAddr, setup: Setup) -> Self {
        let how = format!(
            "{} {} {} {}",
            address.port(),
            setup.in_capsule_bytes,
            setup.io_bytes_max,
            setup.any_host
        );
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                ENTRY,
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(HOW, how)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let mut target = Self {
            _lines: None,
            child,
            address,
            setup,
        };
        loop {
            match lines.recv_timeout(START_LIMIT) {
                Ok(line) if line.contains(MARK) => {
                    target._lines = Some(lines);
                    return target;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the target does not start"),
                Err(RecvTimeoutError::Disconnected) => panic!("the target's process ended"),
            }
        }
    }

    /// The process that is killed, and started again at the same address with empty drives.
    pub(crate) fn kill_and_start_again(self) -> Self {
        let (address, setup) = (self.address, self.setup);
        drop(self);
        Self::start_at(address, setup)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// It answers nothing any more, and its connections stay.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        // Its threads go on until each of them has seen the signal.
        while !self.stands_still() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.map(Result::unwrap).all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            // Behind the name, which may have parentheses of its own.
            stat.rsplit(')')
                .next()
                .unwrap()
                .trim_start()
                .starts_with('T')
        })
    }

    /// It goes on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it in order.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the target's process failed: {status}");
    }

    pub(crate) fn options(&self, digests: Digests) -> Options {
        Options {
            host: HOST.into(),
            digests,
            connect_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(60),
            ..Options::new(self.address, SUBSYSTEM)
        }
    }
}

impl Drop for TargetProcess {
    fn drop(&mut self) {
        // Best effort: after a failed test it may still be there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What the target's process does.
pub(crate) fn target_main() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
        .with_writer(std::io::stderr)
        .init();
    let how = std::env::var(HOW).expect("the test that starts this says how");
    let words: Vec<&str> = how.split(' ').collect();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, words[0].parse().unwrap()));
    let setup = Setup {
        in_capsule_bytes: words[1].parse().unwrap(),
        io_bytes_max: words[2].parse().unwrap(),
        any_host: words[3].parse().unwrap(),
    };
    let env = EnvOptions {
        name: "client-test-target".into(),
        cores: CoreSet::single(CoreSet::allowed().iter().last().unwrap()),
        ..EnvOptions::default()
    };
    let env = env.start().unwrap();
    let thread = SpdkThread::create("target").unwrap();
    block_on(&thread, async {
        let sub = Rc::new(Subsystems::start().await.unwrap());
        serve(&sub, address, setup).await;
        let sub = Rc::into_inner(sub).expect("the target let go of the subsystems");
        sub.stop().await;
    });
    thread.exit();
    drop(env);
}

async fn serve(sub: &Rc<Subsystems>, address: SocketAddr, setup: Setup) {
    create::malloc(sub, "Mem0", BLOCKS, 4096).await.unwrap();
    create::malloc(sub, "Mem1", SMALL_BLOCKS, 512)
        .await
        .unwrap();
    let target = Target::new(sub, &TargetOptions::default()).unwrap();
    let transport = TransportOptions {
        shared_buffers: Some(512),
        buffer_cache: Some(32),
        in_capsule_bytes: Some(setup.in_capsule_bytes),
        io_bytes_max: Some(setup.io_bytes_max),
        ..TransportOptions::tcp(TcpOptions::default())
    };
    target.add_transport(&transport).await.unwrap();
    let _group = target.poll_groups().join().unwrap();
    let address = Address::tcp(address);
    let discovery = target.add_subsystem(&SubsystemSpec::discovery()).unwrap();
    discovery.add_listener(address).await.unwrap();
    let _discovery = discovery.start().await.unwrap();
    let name: Nqn = SUBSYSTEM.parse().unwrap();
    let subsystem = target.add_subsystem(&SubsystemSpec::new(name)).unwrap();
    for device in ["Mem0", "Mem1"] {
        let options = NamespaceOptions::default();
        subsystem
            .add_namespace(device, &options, |_, _| {})
            .unwrap();
    }
    subsystem.allow_any_host(setup.any_host).unwrap();
    if !setup.any_host {
        subsystem.add_host(&HOST.parse().unwrap()).unwrap();
    }
    subsystem.add_listener(address).await.unwrap();
    let _running = subsystem.start().await.unwrap();
    println!("{MARK}ready");
    std::io::stdout().flush().unwrap();
    let commands = lines_of(std::io::stdin());
    std::future::poll_fn(|_| match commands.try_recv() {
        Ok(_) | Err(TryRecvError::Empty) => {
            // Cores are shared where tests run.
            std::thread::yield_now();
            Poll::Pending
        }
        Err(TryRecvError::Disconnected) => Poll::Ready(()),
    })
    .await;
    target.shut_down().await.unwrap();
}
