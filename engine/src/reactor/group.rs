//! All reactors of a program: how they start, and how they stop together.
//!
//! Stopping must lose nothing, although cores send each other work until the
//! end. So there is one count of reasons to go on, the passes: each reactor holds
//! one until, asked to stop, it has run dry; each piece of work on its way to
//! another core holds one until its task has ended, or, if a reactor called for
//! it, keeps that one from giving its own up. Only who holds a pass can
//! make work, so when the count is zero there is none anywhere, and it stays
//! zero. Then:
//!
//! ```text
//!   Running ──stop──► Draining ──no passes──► Stopping: inboxes close and run
//!      empty ──all dry──► sources finish, one core at a time, main core last
//!          └──── deadline passed at any time ────► Abandoned: name what hangs
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handle::{CoreId, Order, ReactorHandle};
use super::local::Local;
use super::shutdown::{ExitStatus, Signals};
use super::source::{Launch, LaunchError};
use super::stats::PerCore;
use super::turn::{End, Reactor};
use super::watchdog::{self, Held};
use crate::clock::Clock;
use crate::limits;
use crate::mailbox::{Doorbell, OwnLine, Receiver, Sender, with_doorbell};

/// When an idle reactor sleeps. Without one it never does, as a storage node
/// wants it: a sleeping reactor polls no drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Turns without work before the first nap.
    pub idle_turns: u32,
    /// The longest nap. Messages and timers end one early; completions that have
    /// to be polled for, SPDK's, do not.
    pub sleep_max: Duration,
}

/// Called on the watchdog's own thread.
pub type OnHeld = Arc<dyn Fn(&Held) + Send + Sync>;

/// How reactors run.
#[derive(Clone)]
pub struct ReactorConfig {
    /// Messages that each reactor's inbox holds; a power of two.
    pub inbox_slots: usize,
    /// Tasks that may live on a reactor at once.
    pub tasks_max: usize,
    /// How long one thing may hold a reactor before the watchdog names it.
    pub held_limit: Duration,
    /// What the watchdog does then; `None` logs a warning.
    pub on_held: Option<OnHeld>,
    /// Sleep when idle; `None` never sleeps.
    pub backoff: Option<Backoff>,
    /// How long stopping may take.
    pub shutdown_deadline: Duration,
    /// Stop on SIGTERM and SIGINT; a second one ends the process at once.
    pub signals: bool,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self {
            inbox_slots: limits::INBOX_SLOTS,
            tasks_max: limits::TASKS_MAX,
            held_limit: limits::HELD_LIMIT,
            on_held: None,
            backoff: None,
            shutdown_deadline: limits::SHUTDOWN_DEADLINE,
            signals: true,
            clock: Clock::monotonic(),
        }
    }
}

/// What still ran on a core when the deadline passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hanging {
    /// The core.
    pub core: CoreId,
    /// The tasks, or the SPDK thread, or what holds the reactor.
    pub what: Vec<String>,
}

/// Why the reactors did not run to a clean end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A core did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The operating system refused something at the start.
    #[error("cannot {what}")]
    Start {
        /// What was to be done.
        what: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// Stopping took too long. What ran then is left as it is: end the process
    /// with [`ExitStatus::end_process`], not by dropping the environment.
    #[error(
        "the program did not stop within {deadline:?} of being asked to; still running: {}",
        HangingList(hanging)
    )]
    DeadlinePassed {
        /// The time there was.
        deadline: Duration,
        /// What hangs, core by core.
        hanging: Vec<Hanging>,
    },
}

impl RunError {
    /// The status to end the process with.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::DeadlinePassed { .. } => ExitStatus::DeadlinePassed,
            _ => ExitStatus::Failed,
        }
    }
}

pub(crate) struct HangingList<'a>(pub(crate) &'a [Hanging]);

impl fmt::Display for HangingList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for hanging in self.0.iter().filter(|hanging| !hanging.what.is_empty()) {
            let what = hanging.what.join(", ");
            write!(f, "{separator}core {}: {what}", hanging.core)?;
            separator = "; ";
        }
        if separator.is_empty() {
            f.write_str("nothing that has a name")?;
        }
        Ok(())
    }
}

/// A clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished<T> {
    /// What the root future returned.
    pub value: T,
    /// The signal that asked to stop, if one did.
    pub signal: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Running,
    Stopping,
    Abandoned,
}

pub(crate) struct Member {
    pub(crate) core: CoreId,
    pub(crate) inbox: Sender<Box<dyn Order>>,
    pub(crate) shown: Arc<PerCore>,
    doorbell: Option<Arc<Doorbell>>,
}

/// What the reactors share.
pub(crate) struct Group {
    /// The main core first.
    pub(crate) cores: Vec<Member>,
    pub(crate) stop: Arc<AtomicBool>,
    passes: OwnLine<AtomicUsize>,
    phase: AtomicU8,
    /// Reactors that have not yet run what was left in their inbox.
    pub(crate) not_dry: AtomicUsize,
    /// One more than the index of the reactor whose sources may finish now.
    pub(crate) leaves_next: AtomicUsize,
    hanging: Mutex<Vec<Hanging>>,
    /// A reactor panicked.
    crashed: AtomicBool,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) shutdown_deadline: Duration,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("phase", &self.phase())
            .field("passes", &self.passes.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Group {
    pub(crate) fn member(&self, core: CoreId) -> Option<&Member> {
        self.cores.iter().find(|member| member.core == core)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Stopping,
            _ => Phase::Abandoned,
        }
    }

    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        for doorbell in self.cores.iter().filter_map(|m| m.doorbell.as_ref()) {
            doorbell.ring();
        }
    }

    pub(crate) fn abandon(&self) {
        self.phase.store(Phase::Abandoned as u8, Ordering::Release);
        self.request_stop();
    }

    pub(crate) fn report_hanging(&self, hanging: Hanging) {
        let mut all = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(hanging);
    }

    /// What was reported; for a core that did not get to it, what holds it.
    pub(crate) fn what_hangs(&self) -> Vec<Hanging> {
        let mut all = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
        for member in &self.cores {
            if !all.iter().any(|hanging| hanging.core == member.core) {
                let name = member.shown.activity.read().name();
                all.push(Hanging {
                    core: member.core,
                    what: name.map(|n| format!("held by {n}")).into_iter().collect(),
                });
            }
        }
        all.clone()
    }

    /// Gives the other reactors a moment to say what hangs on them.
    fn await_reports(&self) {
        let until = Instant::now() + limits::SHUTDOWN_GRACE / 2;
        while Instant::now() < until {
            let all = self.hanging.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() == self.cores.len() {
                return;
            }
            drop(all);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A reason for all reactors to go on.
#[derive(Debug)]
pub(crate) struct Pass {
    group: Arc<Group>,
}

impl Pass {
    /// Another pass; `None` once there is none left.
    pub(crate) fn take(group: &Arc<Group>) -> Option<Self> {
        let more = |passes: usize| (passes > 0).then(|| passes + 1);
        let taken = group
            .passes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| Self {
            group: group.clone(),
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.group.passes.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Not over `Abandoned`, which may come at any time.
            let _ = self.group.phase.compare_exchange(
                Phase::Running as u8,
                Phase::Stopping as u8,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }
}

/// A reactor that unwinds takes the others with it instead of leaving them to
/// wait for it. (Release builds abort.)
struct TakeOthersAlong(Arc<Group>);

impl Drop for TakeOthersAlong {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed.store(true, Ordering::Release);
            self.0.abandon();
        }
    }
}

/// Starts the reactors, runs the main core's on the calling thread, and returns
/// when all have stopped: after `root`'s future has ended, or a signal came.
///
/// After a signal, `root` and every other task is expected to see
/// [`stop_requested`](super::stop_requested) and to end; what they do until then
/// is done in full.
pub fn start<F, Fut>(
    mut threads: impl Launch,
    config: ReactorConfig,
    root: F,
) -> Result<Finished<Fut::Output>, RunError>
where
    F: FnOnce(ReactorHandle) -> Fut,
    Fut: Future + 'static,
    Fut::Output: 'static,
{
    let mut inboxes = Vec::new();
    let mut members = Vec::new();
    let main = threads.main_core();
    let workers = threads.workers();
    for &core in std::iter::once(&main).chain(&workers) {
        let doorbell = config.backoff.map(|_| Arc::new(Doorbell::default()));
        let (inbox, receiver) = with_doorbell(config.inbox_slots, doorbell.clone());
        inboxes.push(receiver);
        members.push(Member {
            core,
            inbox,
            shown: Arc::default(),
            doorbell,
        });
    }
    let count = members.len();
    let group = Arc::new(Group {
        cores: members,
        stop: Arc::default(),
        passes: OwnLine(AtomicUsize::new(count)),
        phase: AtomicU8::new(Phase::Running as u8),
        not_dry: AtomicUsize::new(count),
        leaves_next: AtomicUsize::new(count),
        hanging: Mutex::default(),
        crashed: AtomicBool::new(false),
        backoff: config.backoff,
        shutdown_deadline: config.shutdown_deadline,
    });
    let started = |what| move |source| RunError::Start { what, source };
    let signals = config
        .signals
        .then(|| Signals::catch(&group.stop))
        .transpose()
        .map_err(started("catch SIGTERM and SIGINT"))?;
    let watchdog = watchdog::start(&group, &config).map_err(started("start the watchdog"))?;

    let mut launched = Ok(());
    let mut inboxes = inboxes.into_iter().enumerate();
    let main_inbox = inboxes.next();
    for (index, inbox) in inboxes {
        let (group, config) = (group.clone(), config.clone());
        let core = group.cores[index].core;
        let work = Box::new(move || {
            let _guard = TakeOthersAlong(group.clone());
            reactor(index, &group, &config, inbox).run();
        });
        launched = threads.launch(core, work);
        if launched.is_err() {
            break;
        }
    }
    if let Err(error) = launched {
        // The reactors that run have nothing to do yet and can be left at once.
        group.abandon();
        threads.join();
        return Err(error.into());
    }

    let handle = ReactorHandle {
        group: group.clone(),
    };
    let (_, inbox) = main_inbox.expect("the main core is always among the members");
    let value = Rc::new(Cell::new(None));
    let end = {
        let _guard = TakeOthersAlong(group.clone());
        let main = reactor(0, &group, &config, inbox);
        main.start_root(|| root(handle), value.clone());
        main.run()
    };
    if end == End::Abandoned && !group.crashed.load(Ordering::Acquire) {
        group.await_reports();
        return Err(RunError::DeadlinePassed {
            deadline: config.shutdown_deadline,
            hanging: group.what_hangs(),
        });
    }
    // Goes on with a worker's panic, if that is why it ended.
    threads.join();
    drop(watchdog);
    let signal = signals.as_ref().and_then(Signals::caught);
    let value = value.take();
    Ok(Finished {
        value: value.expect("a clean end means that the root task has ended"),
        signal,
    })
}

fn reactor(
    index: usize,
    group: &Arc<Group>,
    config: &ReactorConfig,
    inbox: Receiver<Box<dyn Order>>,
) -> Reactor {
    let member = &group.cores[index];
    let local = Local::new(
        ReactorHandle {
            group: group.clone(),
        },
        index,
        config.clock.clone(),
        config.tasks_max,
        member.doorbell.clone(),
    );
    // One of those that `start` counted.
    local.pass.replace(Some(Pass {
        group: group.clone(),
    }));
    Reactor::new(index, local, inbox)
}
