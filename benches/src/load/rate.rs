//! Rate limits: a bucket that fills with time and is emptied by I/O.

/// A bucket of tokens (I/Os or bytes). Time is given by the caller, in ticks.
///
/// Invariant: `tokens <= burst`. The bucket may go below zero by one request,
/// so that a request larger than the burst is served late instead of never.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    tokens: f64,
    burst: f64,
    tokens_per_tick: f64,
    last_ticks: u64,
}

/// How much of a second may be made up for at once after a late poll: enough
/// to hide that the scheduler took the core for a moment, too little to be seen
/// as a burst in a figure that is printed once in a second.
const BURST_SECONDS: f64 = 0.02;

impl Bucket {
    pub(crate) fn new(per_second: f64, ticks_hz: u64, now_ticks: u64) -> Self {
        let burst = (per_second * BURST_SECONDS).max(1.0);
        Self {
            tokens: burst,
            burst,
            tokens_per_tick: per_second / ticks_hz as f64,
            last_ticks: now_ticks,
        }
    }

    /// Adds what has flowed in since the last call.
    pub(crate) fn refill(&mut self, now_ticks: u64) {
        let passed = now_ticks.saturating_sub(self.last_ticks) as f64;
        self.tokens = (self.tokens + passed * self.tokens_per_tick).min(self.burst);
        self.last_ticks = now_ticks.max(self.last_ticks);
    }

    /// Takes `cost` if there is anything left.
    pub(crate) fn take(&mut self, cost: f64) -> bool {
        let room = self.tokens > 0.0;
        if room {
            self.tokens -= cost;
        }
        room
    }
}

/// The limits of one job: I/Os per second, bytes per second, or both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    iops: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Limits {
    pub(crate) fn new(
        iops: Option<f64>,
        bytes_per_second: Option<f64>,
        ticks_hz: u64,
        now_ticks: u64,
    ) -> Self {
        let bucket = |rate: f64| Bucket::new(rate, ticks_hz, now_ticks);
        Self {
            iops: iops.map(bucket),
            bytes: bytes_per_second.map(bucket),
        }
    }

    pub(crate) fn any(&self) -> bool {
        self.iops.is_some() || self.bytes.is_some()
    }

    pub(crate) fn refill(&mut self, now_ticks: u64) {
        for bucket in [&mut self.iops, &mut self.bytes].into_iter().flatten() {
            bucket.refill(now_ticks);
        }
    }

    /// Whether one more I/O of `io_bytes` may go now; takes its share if so.
    pub(crate) fn admit(&mut self, io_bytes: u32) -> bool {
        if self
            .bytes
            .as_ref()
            .is_some_and(|bucket| bucket.tokens <= 0.0)
        {
            return false;
        }
        if let Some(bucket) = &mut self.iops
            && !bucket.take(1.0)
        {
            return false;
        }
        match &mut self.bytes {
            Some(bucket) => bucket.take(f64::from(io_bytes)),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000;

    /// Runs a second of polls `every` ticks apart and counts what is admitted.
    fn admitted(limits: &mut Limits, io_bytes: u32, every: usize) -> u32 {
        let mut count = 0;
        for now in (0..=HZ).step_by(every) {
            limits.refill(now);
            while limits.admit(io_bytes) {
                count += 1;
            }
        }
        count
    }

    #[test]
    fn an_iops_limit_is_kept_to_within_its_burst() {
        let mut limits = Limits::new(Some(5_000.0), None, HZ, 0);
        let count = admitted(&mut limits, 4096, 100);
        assert!((4_990..=5_101).contains(&count), "{count}");
    }

    #[test]
    fn a_byte_limit_holds_for_io_larger_than_the_burst() {
        // 10 MB/s in I/Os of 1 MB: a burst is 200 kB.
        let mut limits = Limits::new(None, Some(10e6), HZ, 0);
        let count = admitted(&mut limits, 1_000_000, 100);
        assert!((10..=11).contains(&count), "{count}");
    }

    #[test]
    fn the_tighter_of_two_limits_decides_and_the_other_is_not_charged_for_refusals() {
        let mut limits = Limits::new(Some(1_000.0), Some(100.0 * 4096.0), HZ, 0);
        let count = admitted(&mut limits, 4096, 100);
        assert!((99..=103).contains(&count), "{count}");
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let mut limits = Limits::new(Some(1_000.0), None, HZ, 0);
        limits.refill(100 * HZ);
        let mut count = 0;
        while limits.admit(4096) {
            count += 1;
        }
        assert!(count <= 21, "{count}");
    }

    #[test]
    fn no_limit_admits_everything() {
        let mut limits = Limits::default();
        assert!(!limits.any());
        assert!((0..1000).all(|_| limits.admit(u32::MAX)));
    }
}
