//! Work by itself that clients are not to notice: at a rate, and at a slower one while they use the drive.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::drive::Drive;
use super::journal::remember;
use super::log::Log;
use crate::clock::Moment;

/// What a store does by itself, and how fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Background {
    /// Bytes a second that compaction moves at most before anybody waits for room; at 0 it begins only then. Whoever waits
    /// is never made to wait for a rate.
    pub compaction_bytes_per_second: u64,
    /// Bytes a second that are read at most to see whether they are still what was written; at 0 none are.
    pub scrub_bytes_per_second: u64,
    /// A round of that begins no sooner than so long after the one before it began.
    pub scrub_round: Duration,
}

impl Default for Background {
    /// 128 MiB a second for compaction, 16 MiB a second for scrubbing, once a week.
    fn default() -> Self {
        Self {
            compaction_bytes_per_second: 128 << 20,
            scrub_bytes_per_second: 16 << 20,
            scrub_round: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// When the next part of some work may begin.
#[derive(Default)]
pub(super) struct Pace(Cell<Option<Moment>>);

impl Pace {
    /// Plans `bytes` of work at a rate; the time at which it may begin.
    pub(super) fn plan(&self, now: Moment, bytes: u64, per_second: u64) -> Moment {
        let begin = self.0.get().map_or(now, |next| next.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.max(1));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.0.set(Some(begin + Duration::from_nanos(nanos)));
        begin
    }
}

impl<D: Drive> Log<D> {
    /// Waits until that time, or until it is over, which is looked at whenever the bell is rung.
    pub(super) async fn wait_until(
        &self,
        time: Moment,
        bell: &RefCell<Option<Waker>>,
        is_over: impl Fn() -> bool,
    ) {
        if is_over() || self.clock.now() >= time {
            return;
        }
        let mut sleep = pin!(self.clock.sleep_until(time));
        poll_fn(|cx| {
            if is_over() || sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            remember(&mut bell.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Nothing is begun any more that nobody asked for.
    pub(super) fn rests(&self) -> bool {
        self.closing.get() || self.is_ending.get() || self.check_running().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_begins_when_what_came_before_has_had_its_time() {
        let at = |millis| Moment::START + Duration::from_millis(millis);
        let pace = Pace::default();
        assert_eq!(pace.plan(at(10), 1000, 1000), at(10));
        assert_eq!(pace.plan(at(10), 500, 1000), at(1010));
        assert_eq!(pace.plan(at(20), 1, 1000), at(1510));
        // Time in which nothing was done is not made up for.
        assert_eq!(pace.plan(at(5000), 1000, 1000), at(5000));
        assert_eq!(pace.plan(at(5000), 0, 1000), at(6000));
        // No rate is as good as none at all.
        let never = Pace::default();
        never.plan(at(0), u64::MAX, 0);
        assert!(never.plan(at(0), 1, 1) > at(1 << 40));
    }
}
