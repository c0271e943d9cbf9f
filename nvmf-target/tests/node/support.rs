//! A node in a process of its own, on a file, which can be ended and killed; and the host's side of it.

#![allow(dead_code, reason = "each of the tests uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oriel_client::blob::Blobs;
use oriel_client::nvme::Status as NvmeStatus;
use oriel_client::{CommandError, Controller, Namespace, Options, block_on};
use oriel_engine::clock::Clock;
use oriel_engine::reactor::{
    Backoff, ReactorConfig, ReactorHandle, attach, sleep, spawn_local, start,
};
use oriel_engine::store::*;
use oriel_nvmf_target::{Hosts, Node, NodeSpec, Realm};
use oriel_protocol::Status;
use oriel_spdk::bdev::IoKind;
use oriel_spdk::bdev::create::{self, Fault, Kind};
use oriel_spdk::nvmf::{Address, Nqn, TcpOptions, TransportOptions};
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, Subsystems};

pub(crate) const HOST: &str = "nqn.2016-06.io.oriel:friend";
/// Any host may use it, and checks what it reads by itself.
pub(crate) const OPEN: &str = "open";
/// `HOST` alone may use it; the node checks what it reads. At most `QUOTA` blocks.
pub(crate) const CLOSED: &str = "closed";
pub(crate) const QUOTA: u64 = 64;
pub(crate) const BLOCK: usize = 4096;
/// The longest blob of the node below.
pub(crate) const LONGEST: usize = (2048 - 1 - 3) * BLOCK;

const STORE: StoreId = StoreId([0x5e; 16]);
const FORMAT: NodeFormat = NodeFormat {
    drive: FormatOptions {
        slab_blocks: 2048,
        journal_blocks: 256,
    },
    slot_blocks: 1 << 30,
};
const FILE_BYTES: u64 = 256 << 20;
/// A drive in memory: a few slabs.
const MEMORY_BLOCKS: u64 = 16 << 10;
/// The drives, as many of them as a node has.
const DRIVES: [&str; 2] = ["drive", "second"];
/// More writes than anybody sends.
const FOR_EVER: u32 = 1 << 30;

/// The test that the node's process runs.
const ENTRY: &str = "node_process";
const MARK: &str = "NODE ";
const HOW: &str = "ORIEL_NODE_TEST";
const START_LIMIT: Duration = Duration::from_secs(120);

/// The machine is small, and a node keeps its cores busy: one at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// ThreadSanitizer does not see how SPDK synchronises.
pub(crate) fn is_skipped() -> bool {
    let is_skipped = std::env::var_os("TSAN_OPTIONS").is_some();
    if is_skipped {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
    }
    is_skipped
}

/// Nonsense from a host that is gone before it is answered ends a target of SPDK v20.07 that was not mended.
pub(crate) fn is_skipped_or_fragile() -> bool {
    let is_fragile = oriel_spdk::SPDK_RELEASE == "20.07" && !oriel_spdk_sys::SPDK_MENDED;
    if is_fragile {
        eprintln!("skipped: this SPDK v20.07 is not mended; scripts/bootstrap builds one that is");
    }
    is_fragile || is_skipped()
}

// ---- The node's process, from outside ----------------------------------------------------------

pub(crate) struct NodeProcess {
    /// What it prints has to go somewhere.
    _lines: Receiver<String>,
    child: Child,
    directory: Rc<tempfile::TempDir>,
    pub(crate) address: SocketAddr,
    setup: Setup,
}

impl Setup {
    const PLAIN: Self = Self {
        drives: 1,
        cores: 2,
        in_memory: false,
        breaks: false,
        connections_max: None,
        put_time: oriel_nvmf_target::limits::PUT_TIME,
        // Longer than any test takes.
        host_patience: Duration::from_secs(600),
    };
}

/// What a node has.
#[derive(Clone, Copy)]
struct Setup {
    drives: usize,
    cores: usize,
    /// The drives are gone with the process.
    in_memory: bool,
    /// The last of them can be made to fail.
    breaks: bool,
    /// Connections that it takes, if there is a limit.
    connections_max: Option<u32>,
    /// How long a put by parts lasts without a command.
    put_time: Duration,
    /// How long a host may take nothing.
    host_patience: Duration,
}

impl NodeProcess {
    /// With an empty drive.
    pub(crate) fn start() -> Self {
        Self::start_with(oriel_nvmf_target::limits::PUT_TIME)
    }

    /// With so many drives, of which the last can be made to [wear out](Self::wear_out).
    pub(crate) fn start_with_drives(drives: usize) -> Self {
        Self::start_as(Setup {
            drives,
            breaks: true,
            ..Setup::PLAIN
        })
    }

    /// The same, with so many connections at most.
    pub(crate) fn start_with_connections(most: u32) -> Self {
        Self::start_as(Setup {
            connections_max: Some(most),
            ..Setup::PLAIN
        })
    }

    /// The same; puts by parts last so long without a command.
    pub(crate) fn start_with(put_time: Duration) -> Self {
        Self::start_as(Setup {
            put_time,
            ..Setup::PLAIN
        })
    }

    /// The same; hosts that take nothing for so long are cut off.
    pub(crate) fn start_impatient(host_patience: Duration) -> Self {
        Self::start_as(Setup {
            host_patience,
            ..Setup::PLAIN
        })
    }

    /// With a drive in memory, and one core for everything: what hosts get then is what the node gives them in its turns.
    pub(crate) fn start_on_one_core_in_memory() -> Self {
        Self::start_as(Setup {
            cores: 1,
            in_memory: true,
            ..Setup::PLAIN
        })
    }

    fn start_as(setup: Setup) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for drive in &DRIVES[..setup.drives] {
            let file = std::fs::File::create(directory.path().join(drive)).unwrap();
            file.set_len(FILE_BYTES).unwrap();
        }
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        Self::start_at(address, Rc::new(directory), setup)
    }

    fn start_at(address: SocketAddr, directory: Rc<tempfile::TempDir>, setup: Setup) -> Self {
        let (port, path) = (address.port(), directory.path());
        let Setup {
            drives,
            cores,
            in_memory,
            breaks,
            ..
        } = setup;
        let millis = setup.put_time.as_millis();
        let most = setup.connections_max.unwrap_or_default();
        let patience = setup.host_patience.as_millis();
        let how = format!(
            "{port} {drives} {cores} {in_memory} {breaks} {most} {millis} {patience} {}",
            path.display()
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
            // A node on one core does everything on the test's thread, and what is built for tests takes much of a stack.
            .env("RUST_MIN_STACK", "8388608")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        loop {
            match lines.recv_timeout(START_LIMIT) {
                Ok(line) if line.contains(MARK) => {
                    return Self {
                        _lines: lines,
                        child,
                        directory,
                        address,
                        setup,
                    };
                }
                Ok(_) => {}
                Err(error) => {
                    let _ = child.kill();
                    let status = child.wait();
                    match error {
                        RecvTimeoutError::Timeout => panic!("the node does not start"),
                        RecvTimeoutError::Disconnected => {
                            panic!("the node's process ended: {status:?}")
                        }
                    }
                }
            }
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// From now on its last drive answers every write with an error.
    pub(crate) fn wear_out(&mut self) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "wear out").unwrap();
    }

    /// Ends it in order.
    pub(crate) fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the node's process failed: {status}");
    }

    /// Ends it in order, or kills it, and starts it again on the same file and address.
    pub(crate) fn again(mut self, is_killed: bool) -> Self {
        match is_killed {
            true => self.child.kill().unwrap(),
            false => self.finish(),
        }
        let (address, directory) = (self.address, Rc::clone(&self.directory));
        let setup = self.setup;
        drop(self);
        Self::start_at(address, directory, setup)
    }

    /// How many sockets it has open.
    pub(crate) fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        let of = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        of.filter(|what| what.as_os_str().as_encoded_bytes().starts_with(b"socket:"))
            .count()
    }

    pub(crate) fn options(&self, realm: &str) -> Options {
        Options {
            host: HOST.into(),
            connect_timeout: Duration::from_secs(60),
            command_timeout: Duration::from_secs(120),
            ..Options::new(self.address, format!("nqn.2026-11.io.oriel:test:{realm}"))
        }
    }

    pub(crate) fn connect(&self, realm: &str) -> Controller {
        let controller = Controller::connect(self.options(realm)).unwrap();
        controller.wait().unwrap()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Best effort: after a failed test it may still be there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn namespace(controller: &Controller) -> Namespace {
    block_on(controller.namespace(1)).unwrap()
}

pub(crate) fn blobs(controller: &Controller) -> Blobs<Namespace> {
    block_on(Blobs::open(namespace(controller))).unwrap()
}

/// The status of a command that failed, as the protocol has it.
pub(crate) fn status<T: std::fmt::Debug>(result: Result<T, CommandError>) -> Status {
    let error = result.unwrap_err();
    match &error {
        CommandError::Status { status, .. } => {
            let NvmeStatus { kind, code, .. } = *status;
            Status::from_code(kind, code).unwrap_or_else(|| panic!("{error}"))
        }
        other => panic!("no status: {other}"),
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

// ---- The node's process, from inside -----------------------------------------------------------

fn realms() -> Vec<Realm> {
    vec![
        Realm {
            name: OPEN.into(),
            options: RealmOptions {
                verify: false,
                ..RealmOptions::new(RealmId(1))
            },
            hosts: Hosts::Any,
        },
        Realm {
            name: CLOSED.into(),
            options: RealmOptions {
                quota_blocks: Some(QUOTA),
                ..RealmOptions::new(RealmId(2))
            },
            hosts: Hosts::Only(vec![HOST.parse::<Nqn>().unwrap().into()]),
        },
    ]
}

/// What the node's process does.
pub(crate) fn node_main() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let how = std::env::var(HOW).expect("the test that starts this says how");
    let mut how = how.splitn(9, ' ');
    let mut next = || how.next().unwrap();
    let (port, drives, cores) = (next(), next(), next());
    let (in_memory, breaks) = (next(), next());
    let (most, put_time, patience, directory) = (next(), next(), next(), next());
    let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
    let setup = Setup {
        drives: drives.parse().unwrap(),
        cores: cores.parse().unwrap(),
        in_memory: in_memory.parse().unwrap(),
        breaks: breaks.parse().unwrap(),
        connections_max: Some(most.parse().unwrap()).filter(|most| *most > 0),
        put_time: millis(put_time),
        host_patience: millis(patience),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
    let directory = PathBuf::from(directory);
    let env = EnvOptions {
        name: "node-test".into(),
        cores: CoreSet::allowed().first(setup.cores),
        ..EnvOptions::default()
    };
    let env = env.start().unwrap();
    let config = ReactorConfig {
        signals: false,
        // The tests share two cores with whatever else runs there.
        held_limit: Duration::from_secs(60),
        backoff: Some(Backoff::small_machine()),
        ..ReactorConfig::default()
    };
    start(&env, config, |reactors| async move {
        attach(SpdkThread::create("main").unwrap());
        for core in reactors.cores().into_iter().skip(1) {
            let there = reactors.spawn(core, "make a thread", || async {
                attach(SpdkThread::create("other").unwrap());
            });
            there.unwrap().await.unwrap();
        }
        let subsystems = Subsystems::start().await.unwrap();
        // In boxes, since what is built for tests moves futures about, and a test's thread has a small stack.
        Box::pin(serve(&reactors, &subsystems, &directory, address, setup)).await;
        subsystems.stop().await;
    })
    .unwrap();
}

async fn serve(
    reactors: &ReactorHandle,
    subsystems: &Subsystems,
    directory: &Path,
    address: SocketAddr,
    setup: Setup,
) {
    let drives = &DRIVES[..setup.drives];
    let kind = if setup.in_memory {
        Kind::Malloc
    } else {
        Kind::Aio
    };
    let mut breaks = None;
    let mut seats = Vec::new();
    for drive in drives {
        let path = directory.join(drive);
        // In boxes, as all that is this long.
        match kind {
            Kind::Malloc => Box::pin(create::malloc(subsystems, drive, MEMORY_BLOCKS, 4096)).await,
            _ => Box::pin(create::aio(subsystems, drive, &path, 4096)).await,
        }
        .unwrap();
        let mut device = String::from(*drive);
        if setup.breaks && Some(drive) == drives.last() {
            device = create::error(subsystems, drive).await.unwrap();
            breaks = Some(device.clone());
        }
        // Not the core that hosts first come to: memory goes between the two.
        let core = *reactors.cores().last().unwrap();
        let load = move || async move {
            // One that was formatted before is loaded.
            let loaded = SpdkDrive::format(&device, &FORMAT.drive).await.unwrap();
            Seat::new(loaded, index_in_memory(4096).unwrap(), drive)
        };
        let seat = reactors.spawn(core, "load a drive", load).unwrap();
        seats.push(seat.await.unwrap());
    }
    match format_node(&seats, STORE, &FORMAT).await {
        Ok(()) => {}
        Err(NodeOpenError::Drive {
            source: OpenError::Formatted { .. },
            ..
        }) => {}
        Err(error) => panic!("{error}"),
    }
    let clock = Clock::monotonic();
    let options = NodeOptions {
        drive: OpenOptions {
            store: Some(STORE),
            blobs_max: 4096,
            realms: realms().iter().map(|realm| realm.options.clone()).collect(),
            clock: clock.clone(),
            ..OpenOptions::default()
        },
        ..NodeOptions::default()
    };
    let (store, keeper, recovery) = Box::pin(open_node(seats, options)).await.unwrap();
    assert_eq!(recovery.lost, []);
    let keeper = spawn_local("keeper", Box::pin(keeper.run())).unwrap();
    let spec = NodeSpec {
        node: "test".into(),
        store: STORE,
        realms: realms(),
        transports: vec![TransportOptions {
            shared_buffers: Some(128),
            buffer_cache: Some(16),
            ..TransportOptions::tcp(TcpOptions {
                host_patience: Some(setup.host_patience),
                ..TcpOptions::default()
            })
        }],
        listeners: vec![Address::tcp(address)],
        connections_max: setup.connections_max,
        put_time: setup.put_time,
    };
    let node = Box::pin(Node::start(subsystems, &store, &clock, &spec))
        .await
        .unwrap();
    println!("{MARK}ready");
    std::io::stdout().flush().unwrap();
    let commands = lines_of(std::io::stdin());
    loop {
        match commands.try_recv() {
            Ok(_) => {
                let device = breaks.as_ref().unwrap();
                create::inject(subsystems, device, IoKind::Write, Fault::Fail, FOR_EVER)
                    .await
                    .unwrap();
            }
            Err(TryRecvError::Empty) => sleep(Duration::from_millis(1)).await,
            Err(TryRecvError::Disconnected) => break,
        }
    }
    node.stop().await.unwrap();
    store.close();
    keeper.await;
    if let Some(device) = breaks {
        create::delete(subsystems, Kind::Error, &device)
            .await
            .unwrap();
    }
    for drive in drives {
        create::delete(subsystems, kind, drive).await.unwrap();
    }
}
