//! Names what holds a reactor: a thread of its own looks at each reactor's
//! activity word a few times within the limit. A word that has not changed for
//! the limit is one task, message or SPDK thread that has not returned.
//!
//! It also has the last word of a shutdown: where the main reactor itself hangs,
//! nobody else can report that, or end the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::activity::Reading;
use super::group::{Group, HangingList, ReactorConfig};
use super::handle::CoreId;
use super::shutdown::ExitStatus;
use crate::limits;

/// Something has held a reactor for too long, and still does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The core whose reactor does not turn.
    pub core: CoreId,
    /// What holds it: "task 'x'", "SPDK thread 'x'" or "message X".
    pub by: Arc<str>,
    /// For how long, at the least.
    pub at_least: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    word: Reading,
    since: Instant,
    /// Reported at the limit and then at each doubling, not at each sample.
    report_at: Duration,
}

/// What was seen of each reactor; apart from the thread, so that a test can turn
/// it by hand.
#[derive(Debug)]
struct Watch {
    reactors: Vec<Watched>,
    limit: Duration,
}

impl Watch {
    fn new(reactors: usize, limit: Duration, now: Instant) -> Self {
        let watched = Watched {
            word: Reading::default(),
            since: now,
            report_at: limit,
        };
        Self {
            reactors: vec![watched; reactors],
            limit,
        }
    }

    /// Looks at one reactor; what holds it and for how long, if that is news.
    fn look(&mut self, index: usize, word: Reading, now: Instant) -> Option<(Arc<str>, Duration)> {
        let watched = &mut self.reactors[index];
        if watched.word != word {
            *watched = Watched {
                word,
                since: now,
                report_at: self.limit,
            };
            return None;
        }
        let held = now - watched.since;
        if held < watched.report_at {
            return None;
        }
        let name = word.name()?;
        while watched.report_at <= held {
            watched.report_at *= 2;
        }
        Some((name, held))
    }
}

/// The running watchdog; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say; a panic of the callback was printed.
            let _ = thread.join();
        }
    }
}

pub(crate) fn start(group: &Arc<Group>, config: &ReactorConfig) -> std::io::Result<Watchdog> {
    let done = Arc::new(AtomicBool::new(false));
    let (of_thread, group, config) = (done.clone(), group.clone(), config.clone());
    let thread = thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || watch(&group, &config, &of_thread))?;
    Ok(Watchdog {
        done,
        thread: Some(thread),
    })
}

/// The thread that starts us is pinned to a reactor's core, and we would inherit
/// that: no watchdog could then interrupt the reactor that hangs.
fn leave_the_pinned_core() {
    let mut all = rustix::thread::CpuSet::new();
    for core in 0..rustix::thread::CpuSet::MAX_CPU {
        all.set(core);
    }
    // The kernel keeps the cores that exist and that we may use. Refused, we
    // still work, as long as the kernel preempts.
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

fn watch(group: &Group, config: &ReactorConfig, done: &AtomicBool) {
    leave_the_pinned_core();
    let limit = config.held_limit.max(Duration::from_micros(100));
    let mut watch = Watch::new(group.cores.len(), limit, Instant::now());
    let mut stopping_since = None;
    while !done.load(Ordering::Acquire) {
        thread::park_timeout(limit / limits::WATCHDOG_SAMPLES_PER_LIMIT);
        let now = Instant::now();
        for (index, member) in group.cores.iter().enumerate() {
            let word = member.shown.activity.read();
            if let Some((by, at_least)) = watch.look(index, word, now) {
                let held = Held {
                    core: member.core,
                    by,
                    at_least,
                };
                report(config, &held);
            }
        }
        if group.stop.load(Ordering::Acquire) {
            let since = *stopping_since.get_or_insert_with(|| {
                // A signal's handler cannot wake reactors that sleep.
                group.request_stop();
                now
            });
            if now - since > group.shutdown_deadline + limits::SHUTDOWN_GRACE {
                end_the_process(group);
            }
        }
    }
}

fn report(config: &ReactorConfig, held: &Held) {
    match &config.on_held {
        Some(on_held) => on_held(held),
        None => tracing::warn!(
            core = held.core.0,
            by = &*held.by,
            at_least_ms = held.at_least.as_millis() as u64,
            "something holds a reactor: its drives are not polled meanwhile"
        ),
    }
}

/// The main reactor had its deadline and its grace, and did not return.
fn end_the_process(group: &Group) -> ! {
    group.abandon();
    thread::sleep(limits::SHUTDOWN_GRACE / 2);
    let hanging = group.what_hangs();
    let deadline = group.shutdown_deadline;
    // Not through `tracing` alone: its subscriber may be what hangs.
    eprintln!(
        "the program did not stop within {deadline:?} of being asked to; still running: {}",
        HangingList(&hanging)
    );
    ExitStatus::DeadlinePassed.end_process()
}
