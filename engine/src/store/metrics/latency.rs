//! How long things took: a histogram that is recorded in a few instructions and read out through hdrhistogram.
//!
//! Each power of two of nanoseconds is cut into sixteen parts, so a time is kept to one part in sixteen, and what is said of
//! it lies within one in 32. Recording is a shift, an add and an increment; hdrhistogram's own `record` checks bounds and
//! maintains totals, and takes several times as long.

use std::time::Duration;

use hdrhistogram::Histogram;

const PART_BITS: u32 = 4;
const PARTS: usize = 1 << PART_BITS;
/// Times of 2^40 ns (18 minutes) and more are one.
const BITS: u32 = 40;
const BUCKETS: usize = (BITS - PART_BITS + 1) as usize * PARTS;

/// Times, and how often each was taken. 4.7 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    total_ns: u64,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total_ns: 0,
            max_ns: 0,
        }
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary {
            count, p50, p99, ..
        } = self.summary();
        write!(f, "Latencies({count}: p50 {p50:?}, p99 {p99:?})")
    }
}

/// What is mostly asked of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many were timed.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Of a hundred, 99 took no longer.
    pub p99: Duration,
    /// Of a thousand, 999 took no longer.
    pub p999: Duration,
    /// The longest, as it was.
    pub max: Duration,
}

impl Latencies {
    /// Adds one.
    #[inline]
    pub fn record(&mut self, time: Duration) {
        let ns = time.as_nanos() as u64;
        self.counts[bucket_of(ns)] += 1;
        self.total_ns = self.total_ns.wrapping_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds those of another core.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
        self.total_ns = self.total_ns.wrapping_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.total_ns)
    }

    /// How many took no longer than `time`, rounded up to the bucket that it is in.
    pub fn within(&self, time: Duration) -> u64 {
        let last = bucket_of(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.counts[..=last].iter().sum()
    }

    /// Mean, percentiles and the longest.
    pub fn summary(&self) -> Summary {
        let all = self.to_hdr();
        if all.is_empty() {
            return Summary::default();
        }
        let at = |quantile: f64| {
            let ns = all.value_at_quantile(quantile);
            Duration::from_nanos(ns.min(self.max_ns))
        };
        Summary {
            count: all.len(),
            mean: Duration::from_nanos(self.total_ns / all.len()),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(self.max_ns),
        }
    }

    /// As a histogram of nanoseconds.
    pub fn to_hdr(&self) -> Histogram<u64> {
        let mut all =
            Histogram::new(3).expect("three significant digits are within hdrhistogram's bounds");
        let counts = self.counts.iter().enumerate();
        for (bucket, count) in counts.filter(|(_, count)| **count > 0) {
            let middle = start_of(bucket).midpoint(start_of(bucket + 1) - 1);
            let recorded = all.record_n(middle, *count);
            recorded.expect("a histogram that grows takes any value");
        }
        all
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    // Values below twice PARTS are buckets of their own; above, the exponent chooses a run of PARTS buckets and the bits
    // after the leading one a part.
    let ns = ns.min((1 << BITS) - 1);
    let shift = (u64::BITS - PART_BITS - 1).saturating_sub((ns | 1).leading_zeros());
    shift as usize * PARTS + (ns >> shift) as usize
}

fn start_of(bucket: usize) -> u64 {
    if bucket < 2 * PARTS {
        return bucket as u64;
    }
    let shift = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS) as u64) << shift
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_have_buckets() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(start_of(BUCKETS), 1 << BITS);
        assert_eq!(Latencies::default().summary(), Summary::default());
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_bucket(ns in any::<u64>(), shift in 24u32..64) {
            let ns = ns >> shift;
            let bucket = bucket_of(ns);
            let (start, next) = (start_of(bucket), start_of(bucket + 1));
            prop_assert!(start <= ns && ns < next, "{ns} in {start}..{next}");
            prop_assert!(next - start <= 1 + ns / PARTS as u64);
        }

        #[test]
        fn what_is_said_is_close_to_the_sorted_times(
            mut times in prop::collection::vec(1u64..10_000_000_000, 1..300),
            others in prop::collection::vec(1u64..10_000_000, 0..300),
        ) {
            let of = |times: &[u64]| {
                let mut all = Latencies::default();
                times.iter().for_each(|ns| all.record(Duration::from_nanos(*ns)));
                all
            };
            let mut all = of(&times);
            all.merge(&of(&others));
            times.extend(&others);
            prop_assert_eq!(&all, &of(&times));
            times.sort_unstable();
            let said = all.summary();
            let at = |quantile: f64| {
                let rank = (quantile * times.len() as f64).ceil() as usize;
                times[rank.clamp(1, times.len()) - 1]
            };
            for (said, exact) in [(said.p50, at(0.5)), (said.p99, at(0.99)), (said.p999, at(0.999))] {
                let off = (said.as_nanos() as f64 - exact as f64).abs();
                prop_assert!(off <= exact as f64 / 24.0 + 1.0, "{said:?} for {exact} ns");
            }
            prop_assert_eq!(said.count, times.len() as u64);
            prop_assert_eq!(said.max.as_nanos() as u64, times[times.len() - 1]);
            prop_assert_eq!(all.total().as_nanos() as u64, times.iter().sum::<u64>());
            let middle = Duration::from_nanos(times[times.len() / 2]);
            let within = times.iter().filter(|ns| bucket_of(**ns) <= bucket_of(middle.as_nanos() as u64));
            prop_assert_eq!(all.within(middle), within.count() as u64);
        }
    }
}
