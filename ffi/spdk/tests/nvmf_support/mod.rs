//! What the target's tests share: a process with a target on two cores, and a host in another.

pub(crate) mod host;

use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use oriel_spdk::bdev::create;
use oriel_spdk::nvmf::{
    Address, NamespaceOptions, Nqn, Nsid, PollGroups, Running, Stopped, Subsystem, SubsystemSpec,
    Target, TargetOptions, TcpOptions, TransportOptions,
};
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, Subsystems, block_on};

/// Queues that each of the two poll groups has served.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) worker: AtomicU64,
}

/// A process in which targets can be made and served on one core or two.
pub(crate) struct Rig {
    pub(crate) sub: Rc<Subsystems>,
    pub(crate) env: Rc<oriel_spdk::Env>,
}

/// The machine is small, and every SPDK process keeps its cores busy: one test at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pending, after a turn for other processes: cores are shared where tests run.
pub(crate) fn pending<T>() -> Poll<T> {
    std::thread::yield_now();
    Poll::Pending
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// SPDK's own words about what went wrong, which stand in a failed test's output.
pub(crate) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
}

pub(crate) fn with_rig<F: Future<Output = ()>>(body: impl FnOnce(Rig) -> F) {
    log_to_stderr();
    let env = EnvOptions {
        name: "target".into(),
        cores: CoreSet::allowed().first(2),
        ..EnvOptions::default()
    };
    let env = Rc::new(env.start().unwrap());
    // A test that fails leaves the other core running, which the environment's end would wait for.
    let _failed = AbortOnPanic;
    let thread = SpdkThread::create("test").unwrap();
    block_on(&thread, async {
        let sub = Rc::new(Subsystems::start().await.unwrap());
        let rig = Rig {
            sub: Rc::clone(&sub),
            env: Rc::clone(&env),
        };
        body(rig).await;
        let sub = Rc::into_inner(sub).expect("the test let go of the subsystems");
        sub.stop().await;
    });
    // Panics if a poll group, a descriptor or a poller of the target was left.
    thread.exit();
    drop(Rc::into_inner(env).expect("the test let go of the environment"));
}

/// A port that nobody has now.
pub(crate) fn free_address() -> Address {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Address::tcp(probe.local_addr().unwrap())
}

pub(crate) fn nqn(name: &str) -> Nqn {
    format!("nqn.2016-06.io.oriel:{name}").parse().unwrap()
}

pub(crate) fn small_tcp() -> TransportOptions {
    TransportOptions {
        shared_buffers: Some(256),
        buffer_cache: Some(32),
        ..TransportOptions::tcp(TcpOptions::default())
    }
}

impl Rig {
    pub(crate) async fn target(&self) -> Target {
        let target = Target::new(&self.sub, &TargetOptions::default()).unwrap();
        target.add_transport(&small_tcp()).await.unwrap();
        target
    }

    /// Serves the target on the other core until it ends.
    pub(crate) fn serve_elsewhere(&self, groups: PollGroups) -> Arc<Served> {
        let served = Arc::new(Served::default());
        let core = self.env.cores().iter().nth(1);
        let core = core.expect("these tests need two cores");
        let theirs = Arc::clone(&served);
        let work = move || {
            let thread = SpdkThread::create("worker").unwrap();
            let group = groups.join().unwrap();
            while !group.is_closed() {
                if !thread.poll() {
                    // Cores are shared where tests run.
                    std::thread::yield_now();
                }
                let stat = group.stat();
                let queues = stat.admin_queues_total + stat.io_queues_total;
                theirs.worker.fetch_max(queues, Ordering::Relaxed);
            }
            thread.exit();
        };
        self.env.launch(core, work).unwrap();
        served
    }

    pub(crate) async fn malloc(&self, name: &str) {
        create::malloc(&self.sub, name, 2048, 4096).await.unwrap();
    }

    /// A running subsystem with one namespace on `bdev` that every host may use.
    pub(crate) async fn open_subsystem(
        &self,
        target: &Target,
        name: &str,
        bdev: &str,
        address: Address,
    ) -> Subsystem<Running> {
        let subsystem = stopped(target, name);
        let options = NamespaceOptions::default();
        let nsid = subsystem.add_namespace(bdev, &options, |_, _| {}).unwrap();
        assert_eq!(nsid, Nsid::FIRST);
        subsystem.allow_any_host(true).unwrap();
        subsystem.add_listener(address).await.unwrap();
        subsystem.start().await.unwrap()
    }
}

pub(crate) fn stopped(target: &Target, name: &str) -> Subsystem<Stopped> {
    target
        .add_subsystem(&SubsystemSpec::new(nqn(name)))
        .unwrap()
}
