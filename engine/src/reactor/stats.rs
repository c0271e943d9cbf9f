//! A reactor's numbers, readable from any thread. The owner alone writes them,
//! so a plain store each is enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::activity::ActivityWord;
use crate::mailbox::OwnLine;

/// What one reactor has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReactorStats {
    /// Turns of the loop.
    pub turns: u64,
    /// Time of turns that found something to do.
    pub busy: Duration,
    /// Time of turns that found nothing, sleep included.
    pub idle: Duration,
    /// The part of `idle` that was slept (back-off).
    pub asleep: Duration,
    /// Polls of tasks.
    pub tasks_run: u64,
    /// Tasks that live now.
    pub tasks_live: u64,
    /// Messages taken from mailboxes.
    pub messages: u64,
    /// Timers that fired.
    pub timers_fired: u64,
    /// Messages that wait in the reactor's inbox now.
    pub inbox_depth: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) turns: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    pub(crate) idle_ns: AtomicU64,
    pub(crate) asleep_ns: AtomicU64,
    pub(crate) tasks_run: AtomicU64,
    pub(crate) tasks_live: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) timers_fired: AtomicU64,
}

/// What one core shows to the others.
#[derive(Debug, Default)]
pub(crate) struct PerCore {
    pub(crate) counters: OwnLine<Counters>,
    pub(crate) activity: ActivityWord,
}

/// Adds to a number that only the caller's thread writes.
#[inline]
pub(crate) fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

pub(crate) fn add_time(number: &AtomicU64, more: Duration) {
    add(number, more.as_nanos() as u64);
}

impl PerCore {
    pub(crate) fn snapshot(&self, inbox_depth: usize) -> ReactorStats {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let time = |number: &AtomicU64| Duration::from_nanos(read(number));
        let counters = &*self.counters;
        ReactorStats {
            turns: read(&counters.turns),
            busy: time(&counters.busy_ns),
            idle: time(&counters.idle_ns),
            asleep: time(&counters.asleep_ns),
            tasks_run: read(&counters.tasks_run),
            tasks_live: read(&counters.tasks_live),
            messages: read(&counters.messages),
            timers_fired: read(&counters.timers_fired),
            inbox_depth,
        }
    }
}
