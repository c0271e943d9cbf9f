//! Time as the reactors see it: injected, so that tests turn it by hand.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    Manual { nanos: Arc<AtomicU64> },
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
        Self(Kind::Manual {
            nanos: Arc::default(),
        })
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Moment {
        let nanos = match &self.0 {
            // 2^64 ns are 584 years.
            Kind::Monotonic { start } => start.elapsed().as_nanos() as u64,
            Kind::Manual { nanos } => nanos.load(Ordering::Acquire),
        };
        Moment { nanos }
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    /// On a monotonic clock, which nobody moves.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Kind::Manual { nanos } => {
                let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
                nanos.fetch_add(by, Ordering::AcqRel);
            }
            Kind::Monotonic { .. } => panic!("only a manual clock is advanced"),
        }
    }
}
