//! Failures of hosts' requests in the log. A drive that has stopped fails each of them, and hosts try again: the first ones are
//! told one by one, the others counted, so that no host fills the log.

use std::cell::RefCell;
use std::time::Instant;

use oriel_protocol::Status;

use crate::limits::{TROUBLE_REST, TROUBLE_TOLD};

thread_local! {
    /// Of this core's requests.
    static TROUBLE: RefCell<Vec<(Status, Told)>> = const { RefCell::new(Vec::new()) };
}

/// Whether a failure with that status is to be told, and how many were not since the last one that was.
pub(crate) fn tell(status: Status) -> Option<u64> {
    let now = Instant::now();
    TROUBLE.with_borrow_mut(|trouble| {
        if let Some((_, told)) = trouble.iter_mut().find(|(of, _)| *of == status) {
            return told.tell(now);
        }
        trouble.push((status, Told::first(now)));
        Some(0)
    })
}

/// What was told of one status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    /// The first of those that are counted.
    since: Instant,
    failures: u64,
}

impl Told {
    fn first(now: Instant) -> Self {
        Self {
            since: now,
            failures: 1,
        }
    }

    fn tell(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= TROUBLE_REST {
            let untold = self.failures.saturating_sub(TROUBLE_TOLD);
            *self = Self::first(now);
            return Some(untold);
        }
        self.failures += 1;
        (self.failures <= TROUBLE_TOLD).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_failures_are_told_and_the_others_counted() {
        let start = Instant::now();
        let mut told = Told::first(start);
        for _ in 1..TROUBLE_TOLD {
            assert_eq!(told.tell(start), Some(0));
        }
        let rest = TROUBLE_REST - Duration::from_millis(1);
        for _ in 0..1000 {
            assert_eq!(told.tell(start + rest), None);
        }
        // All begins again.
        let again = start + TROUBLE_REST;
        assert_eq!(told.tell(again), Some(1000));
        assert_eq!(told.tell(again), Some(0));
        // Who fails now and then is always told.
        let mut now = again;
        for _ in 0..10 {
            now += TROUBLE_REST;
            assert_eq!(told.tell(now), Some(0));
        }
    }

    #[test]
    fn one_kind_of_failure_does_not_hide_another() {
        for _ in 0..TROUBLE_TOLD {
            assert_eq!(tell(Status::Stopped), Some(0));
        }
        assert_eq!(tell(Status::Stopped), None);
        assert_eq!(tell(Status::Damaged), Some(0));
    }
}
