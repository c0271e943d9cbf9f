//! What a reactor polls, and what threads it runs on: SPDK's in the node, plain
//! threads where there is no SPDK (tools, tests, the thread sanitizer).

use oriel_spdk::env::LaunchError as EnvLaunchError;
use oriel_spdk::{Env, SpdkThread};

use super::activity::ActivityId;
use super::handle::CoreId;

/// Something that a reactor polls every turn.
pub trait Source {
    /// What the watchdog calls it, for example "SPDK thread 'disk'".
    fn name(&self) -> String;

    /// Does what there is to do now, without waiting; whether there was any.
    fn poll(&mut self) -> bool;

    /// Called again and again once every task of every reactor has ended, until
    /// it says that nothing is left and it may be dropped. The other reactors
    /// still turn meanwhile.
    fn finish(&mut self) -> bool;
}

impl Source for SpdkThread {
    fn name(&self) -> String {
        format!("SPDK thread '{}'", SpdkThread::name(self))
    }

    #[inline]
    fn poll(&mut self) -> bool {
        SpdkThread::poll(self)
    }

    fn finish(&mut self) -> bool {
        self.poll_exit()
    }
}

pub(crate) struct Attached {
    pub(crate) source: Box<dyn Source>,
    pub(crate) activity: ActivityId,
}

impl Attached {
    pub(crate) fn new(source: Box<dyn Source>) -> Self {
        let activity = ActivityId::of(&source.name());
        Self { source, activity }
    }
}

/// A core's reactor did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The environment refused.
    #[error("no reactor on core {core}")]
    Env {
        /// The core.
        core: CoreId,
        /// Its reason.
        source: EnvLaunchError,
    },
    /// The operating system gave no thread, or did not pin it.
    #[error(
        "no thread for a reactor on core {core}: is the core there, and may this process use it?"
    )]
    Thread {
        /// The core.
        core: CoreId,
        /// Its reason.
        source: std::io::Error,
    },
}

/// A worker's whole life, to be run on its core.
pub type Work = Box<dyn FnOnce() + Send>;

/// Threads for reactors: the calling one for the main core, one for each other.
pub trait Launch {
    /// The core of the calling thread.
    fn main_core(&self) -> CoreId;

    /// The other cores.
    fn workers(&self) -> Vec<CoreId>;

    /// Runs `work` on the thread of a worker core.
    fn launch(&mut self, core: CoreId, work: Work) -> Result<(), LaunchError>;

    /// Waits until all that was launched has returned.
    fn join(&mut self);
}

impl Launch for &Env {
    fn main_core(&self) -> CoreId {
        CoreId(Env::main_core(self))
    }

    fn workers(&self) -> Vec<CoreId> {
        let main = Env::main_core(self);
        self.cores()
            .iter()
            .filter(|&core| core != main)
            .map(CoreId)
            .collect()
    }

    fn launch(&mut self, core: CoreId, work: Work) -> Result<(), LaunchError> {
        Env::launch(self, core.0, work).map_err(|source| LaunchError::Env { core, source })
    }

    fn join(&mut self) {
        self.join_all();
    }
}

/// Reactors on threads of the operating system, without SPDK.
#[derive(Debug)]
pub struct OsThreads {
    cores: Vec<CoreId>,
    pinned: bool,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl OsThreads {
    /// One thread on each of these cores; the first is the calling thread's.
    ///
    /// # Panics
    /// Without any core.
    pub fn pinned(cores: impl IntoIterator<Item = CoreId>) -> Self {
        Self::new(cores.into_iter().collect(), true)
    }

    /// So many threads that the scheduler may put anywhere, numbered as cores.
    ///
    /// # Panics
    /// With a count of zero.
    pub fn unpinned(count: u32) -> Self {
        Self::new((0..count).map(CoreId).collect(), false)
    }

    fn new(cores: Vec<CoreId>, pinned: bool) -> Self {
        assert!(!cores.is_empty(), "reactors need at least one core");
        Self {
            cores,
            pinned,
            threads: Vec::new(),
        }
    }
}

/// Keeps the calling thread on one core.
pub fn pin_to(core: CoreId) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if core.0 as usize >= rustix::thread::CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(core.0 as usize);
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(())
}

impl Launch for OsThreads {
    fn main_core(&self) -> CoreId {
        self.cores[0]
    }

    fn workers(&self) -> Vec<CoreId> {
        self.cores[1..].to_vec()
    }

    fn launch(&mut self, core: CoreId, work: Work) -> Result<(), LaunchError> {
        let failed = |source| LaunchError::Thread { core, source };
        let (report, pinned) = std::sync::mpsc::channel();
        let pin = self.pinned;
        let thread = std::thread::Builder::new()
            .name(format!("reactor-{core}"))
            .spawn(move || {
                let result = if pin { pin_to(core) } else { Ok(()) };
                let go = result.is_ok();
                let _ = report.send(result);
                if go {
                    work();
                }
            })
            .map_err(failed)?;
        self.threads.push(thread);
        let result = pinned.recv().expect("the thread reports before its work");
        result.map_err(failed)
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
