//! Time as the reactors see it: injected, so that tests turn it by hand.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::{Add, Sub};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::reactor;

/// A point in time, counted from the start of its clock. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    nanos: u64,
}

impl Moment {
    /// The start of every clock.
    pub const START: Self = Self { nanos: 0 };

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    /// Saturates: a wait of more than 584 years does not end.
    fn add(self, wait: Duration) -> Self {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Self {
            nanos: self.nanos.saturating_add(wait),
        }
    }
}

impl Sub for Moment {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Where reactors take the time from. Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Monotonic { start: Instant },
    Manual(Arc<Manual>),
}

#[derive(Debug, Default)]
struct Manual {
    nanos: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// Who is to be woken, by the time and the order in which they asked.
#[derive(Debug, Default)]
struct Sleepers {
    asked: u64,
    by_time: BTreeMap<(u64, u64), Waker>,
}

impl Manual {
    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the sleepers, until it is dropped.
struct Place<'a> {
    manual: &'a Manual,
    key: Option<(u64, u64)>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.manual.sleepers().by_time.remove(&key);
        }
    }
}

impl Clock {
    /// The operating system's monotonic clock.
    pub fn monotonic() -> Self {
        Self(Kind::Monotonic {
            start: Instant::now(),
        })
    }

    /// A clock that stands still until [`advance`](Self::advance) is called.
    pub fn manual() -> Self {
        Self(Kind::Manual(Arc::default()))
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Moment {
        let nanos = match &self.0 {
            // 2^64 ns are 584 years.
            Kind::Monotonic { start } => start.elapsed().as_nanos() as u64,
            Kind::Manual(manual) => manual.nanos.load(Ordering::Acquire),
        };
        Moment { nanos }
    }

    /// Ends at that time: by the timers of the reactor that it is awaited on, or when a manual clock is advanced that far.
    /// Where there is neither, it never ends.
    pub async fn sleep_until(&self, until: Moment) {
        match &self.0 {
            Kind::Monotonic { .. } if reactor::core_here().is_some() => {
                reactor::sleep(until.since(self.now())).await;
            }
            Kind::Monotonic { .. } => std::future::pending().await,
            Kind::Manual(manual) => manual.sleep_until(until.nanos).await,
        }
    }

    /// The time for which somebody sleeps on a manual clock, the earliest one.
    pub fn earliest_sleeper(&self) -> Option<Moment> {
        match &self.0 {
            Kind::Manual(manual) => {
                let sleepers = manual.sleepers();
                let ((nanos, _), _) = sleepers.by_time.first_key_value()?;
                Some(Moment { nanos: *nanos })
            }
            Kind::Monotonic { .. } => None,
        }
    }

    /// Moves a manual clock forward, and wakes those who slept until then.
    ///
    /// # Panics
    /// On a monotonic clock, which nobody moves.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Kind::Manual(manual) => {
                let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
                let now = manual.nanos.fetch_add(by, Ordering::AcqRel) + by;
                let due = {
                    let mut sleepers = manual.sleepers();
                    let later = sleepers.by_time.split_off(&(now, u64::MAX));
                    std::mem::replace(&mut sleepers.by_time, later)
                };
                due.into_values().for_each(Waker::wake);
            }
            Kind::Monotonic { .. } => panic!("only a manual clock is advanced"),
        }
    }
}

impl Manual {
    async fn sleep_until(&self, until: u64) {
        let mut place = pin!(Place {
            manual: self,
            key: None
        });
        poll_fn(|cx| {
            let mut sleepers = self.sleepers();
            if self.nanos.load(Ordering::Acquire) >= until {
                return Poll::Ready(());
            }
            let key = place.key.unwrap_or((until, sleepers.asked));
            if place.key.replace(key).is_none() {
                sleepers.asked += 1;
            }
            sleepers.by_time.insert(key, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use super::*;

    #[test]
    fn sleepers_of_a_manual_clock_wake_when_it_gets_there() {
        let clock = Clock::manual();
        let mut cx = Context::from_waker(Waker::noop());
        let at = |nanos| Moment::START + Duration::from_nanos(nanos);
        assert_eq!(clock.earliest_sleeper(), None);
        {
            let mut late = pin!(clock.sleep_until(at(20)));
            let mut early = pin!(clock.sleep_until(at(10)));
            assert!(late.as_mut().poll(&mut cx).is_pending());
            assert!(early.as_mut().poll(&mut cx).is_pending());
            assert_eq!(clock.earliest_sleeper(), Some(at(10)));
            clock.advance(Duration::from_nanos(10));
            assert!(late.as_mut().poll(&mut cx).is_pending());
            assert!(early.as_mut().poll(&mut cx).is_ready());
            assert_eq!(clock.earliest_sleeper(), Some(at(20)));
        }
        // Who has gone does not sleep any more.
        assert_eq!(clock.earliest_sleeper(), None);
        let mut past = pin!(clock.sleep_until(at(10)));
        assert!(past.as_mut().poll(&mut cx).is_ready());
    }
}
