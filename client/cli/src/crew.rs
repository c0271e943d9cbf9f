//! Several things at a time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{CliError, Exit};
use crate::out::Out;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with each item, so many at a time, and says what fails. One failure does not stop the others, but a node
/// that is gone does. Failures of one kind are how it ends; those of several kinds are a failure.
pub(crate) fn each<I: Sync>(
    out: &Out,
    jobs: u16,
    items: &[I],
    label: impl Fn(&I) -> String + Sync,
    work: impl Fn(&I) -> Result<(), CliError> + Sync,
) -> Result<Exit, CliError> {
    let (next, stops) = (AtomicUsize::new(0), AtomicBool::new(false));
    let exits = Mutex::new(BTreeSet::new());
    let turn = || {
        while !stops.load(Ordering::Relaxed)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = work(item) {
                let exit = error.exit();
                // Of those who find the node gone at the same time, one says so.
                if !(exit.is_fatal() && stops.swap(true, Ordering::Relaxed)) {
                    out.failed(&error, Some(&label(item)));
                }
                lock(&exits).insert(exit);
            }
        }
    };
    let count = usize::from(jobs).min(items.len());
    std::thread::scope(|scope| {
        for number in 0..count {
            let thread = std::thread::Builder::new().name(format!("job-{number}"));
            match thread.spawn_scoped(scope, turn) {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(CliError::Thread(error)),
                // Those that there are do the work.
                Err(_) => break,
            }
        }
        Ok(())
    })?;
    out.end();
    let begun = next.load(Ordering::Relaxed).min(items.len());
    if begun < items.len() && !lock(&exits).contains(&Exit::BrokenPipe) {
        out.note(format_args!("{} more were not tried", items.len() - begun));
    }
    let exits = lock(&exits);
    Ok(together(&exits))
}

/// How several things ended.
pub(crate) fn together(exits: &BTreeSet<Exit>) -> Exit {
    let mut failures = exits.iter().filter(|exit| **exit != Exit::Done);
    match (failures.next(), failures.next()) {
        (None, _) => Exit::Done,
        (Some(exit), None) => *exit,
        _ if exits.contains(&Exit::BrokenPipe) => Exit::BrokenPipe,
        _ => Exit::Failed,
    }
}

/// Bytes that may be in memory at a time.
pub(crate) struct Budget {
    max: u64,
    taken: Mutex<u64>,
    given_back: Condvar,
}

/// Some of a budget, until it is dropped.
pub(crate) struct Share<'a> {
    of: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(max: u64) -> Self {
        Self {
            max,
            taken: Mutex::new(0),
            given_back: Condvar::new(),
        }
    }

    /// Waits until there is as much; whoever wants more than there ever is gets all of it.
    pub(crate) fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.min(self.max);
        let mut taken = lock(&self.taken);
        while self.max - *taken < bytes {
            let waited = self.given_back.wait(taken);
            taken = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *taken += bytes;
        Share { of: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *lock(&self.of.taken) -= self.bytes;
        self.of.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::UsageError;

    #[test]
    fn every_item_is_done_whatever_fails() {
        let out = Out::new(false, false);
        let items: Vec<u32> = (0..100).collect();
        let done = Mutex::new(BTreeSet::new());
        let exit = each(&out, 7, &items, u32::to_string, |item| {
            lock(&done).insert(*item);
            match item {
                50 => Err(CliError::NoBlob),
                _ => Ok(()),
            }
        });
        assert_eq!(exit.unwrap(), Exit::NotFound);
        assert_eq!(done.into_inner().unwrap().len(), 100);
    }

    #[test]
    fn nothing_is_begun_when_nobody_listens_any_more() {
        let out = Out::new(false, false);
        let items: Vec<u32> = (0..100).collect();
        let done = AtomicUsize::new(0);
        let exit = each(&out, 1, &items, u32::to_string, |_| {
            done.fetch_add(1, Ordering::Relaxed);
            let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            Err(CliError::Output(gone))
        });
        assert_eq!(exit.unwrap(), Exit::BrokenPipe);
        assert_eq!(done.into_inner(), 1);
    }

    #[test]
    fn failures_of_several_kinds_are_a_failure() {
        let exit = |exits: &[Exit]| together(&exits.iter().copied().collect());
        assert_eq!(exit(&[]), Exit::Done);
        assert_eq!(exit(&[Exit::Done, Exit::Refused]), Exit::Refused);
        assert_eq!(exit(&[Exit::NotFound, Exit::Refused]), Exit::Failed);
        assert_eq!(exit(&[Exit::NotFound, Exit::BrokenPipe]), Exit::BrokenPipe);
        let usage: CliError = UsageError::Terminal.into();
        assert_eq!(usage.exit(), Exit::Usage);
    }

    #[test]
    fn a_budget_is_never_overdrawn() {
        let budget = Budget::new(10);
        let most = Mutex::new((0_u64, 0_u64));
        std::thread::scope(|scope| {
            for job in 0..8_u64 {
                let (budget, most) = (&budget, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = (job + round) % 13;
                        let share = budget.take(bytes);
                        let held = bytes.min(10);
                        {
                            let mut most = lock(most);
                            most.0 += held;
                            most.1 = most.1.max(most.0);
                        }
                        lock(most).0 -= held;
                        drop(share);
                    }
                });
            }
        });
        let (left, most) = most.into_inner().unwrap();
        assert!(left == 0 && (1..=10).contains(&most), "{left}, {most}");
    }
}
