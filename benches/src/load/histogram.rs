//! Latencies, recorded in a few instructions and read out through hdrhistogram.
//!
//! The counters are log-linear: each power of two of ticks is cut into 128
//! equal parts, so a latency is kept to better than one part in 128. Recording
//! is a shift, an add and an increment; hdrhistogram's own `record` checks
//! bounds and maintains totals that a measured loop has no use for.

use hdrhistogram::Histogram;

const PART_BITS: u32 = 7;
const PARTS: usize = 1 << PART_BITS;
const BUCKETS: usize = (u64::BITS - PART_BITS + 1) as usize * PARTS;

/// The percentiles that bdevperf prints.
pub(crate) const PERCENTILES: [f64; 12] = [
    1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99,
];

/// Counts of latencies in ticks.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    counts: Box<[u64]>,
    total_ticks: u64,
    min_ticks: u64,
    max_ticks: u64,
    samples: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            total_ticks: 0,
            min_ticks: u64::MAX,
            max_ticks: 0,
            samples: 0,
        }
    }

    #[inline]
    pub(crate) fn record(&mut self, ticks: u64) {
        self.counts[bucket_of(ticks)] += 1;
        self.total_ticks = self.total_ticks.wrapping_add(ticks);
        self.min_ticks = self.min_ticks.min(ticks);
        self.max_ticks = self.max_ticks.max(ticks);
        self.samples += 1;
    }

    /// Takes those of another one as well.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, others) in self.counts.iter_mut().zip(&other.counts) {
            *count += others;
        }
        self.total_ticks = self.total_ticks.wrapping_add(other.total_ticks);
        self.min_ticks = self.min_ticks.min(other.min_ticks);
        self.max_ticks = self.max_ticks.max(other.max_ticks);
        self.samples += other.samples;
    }

    pub(crate) fn summary(&self, ticks_hz: u64) -> Summary {
        let micros = |ticks: f64| ticks * 1e6 / ticks_hz as f64;
        if self.samples == 0 {
            return Summary::default();
        }
        Summary {
            samples: self.samples,
            average_us: micros(self.total_ticks as f64 / self.samples as f64),
            min_us: micros(self.min_ticks as f64),
            max_us: micros(self.max_ticks as f64),
        }
    }

    /// The percentiles of `PERCENTILES`, in microseconds, none without samples.
    pub(crate) fn percentiles(&self, ticks_hz: u64) -> Vec<(f64, f64)> {
        let histogram = self.to_hdr();
        if histogram.is_empty() {
            return Vec::new();
        }
        let micros = |ticks: u64| ticks as f64 * 1e6 / ticks_hz as f64;
        PERCENTILES
            .iter()
            .map(|p| {
                (
                    *p,
                    micros(histogram.value_at_percentile(*p).min(self.max_ticks)),
                )
            })
            .collect()
    }

    /// The filled buckets: from, to (microseconds), count, and percent so far.
    pub(crate) fn buckets(&self, ticks_hz: u64) -> impl Iterator<Item = (f64, f64, u64, f64)> {
        let micros = move |ticks: u64| ticks as f64 * 1e6 / ticks_hz as f64;
        let mut so_far = 0;
        let filled = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        filled.map(move |(index, count)| {
            so_far += count;
            let percent = so_far as f64 * 100.0 / self.samples as f64;
            (
                micros(start_of(index)),
                micros(end_of(index)),
                *count,
                percent,
            )
        })
    }

    fn to_hdr(&self) -> Histogram<u64> {
        let mut histogram =
            Histogram::new(3).expect("three significant digits are within hdrhistogram's bounds");
        for (index, count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let middle = start_of(index) / 2 + end_of(index) / 2 + 1;
            histogram
                .record_n(middle, *count)
                .expect("an auto-resizing histogram takes any value");
        }
        histogram
    }
}

/// What the table's latency columns show.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) samples: u64,
    pub(crate) average_us: f64,
    pub(crate) min_us: f64,
    pub(crate) max_us: f64,
}

#[inline]
fn bucket_of(ticks: u64) -> usize {
    // Values below two times PARTS map to themselves; above, the exponent
    // chooses a run of PARTS buckets and the bits after the leading one a part.
    let shift = (u64::BITS - PART_BITS - 1).saturating_sub((ticks | 1).leading_zeros());
    shift as usize * PARTS + (ticks >> shift) as usize
}

fn start_of(index: usize) -> u64 {
    if index < 2 * PARTS {
        return index as u64;
    }
    let shift = index / PARTS - 1;
    ((index % PARTS + PARTS) as u64) << shift
}

/// The last value that falls into the bucket.
fn end_of(index: usize) -> u64 {
    if index + 1 < BUCKETS {
        start_of(index + 1) - 1
    } else {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_lies_in_its_bucket(ticks in any::<u64>(), shift in 0u32..64) {
            let ticks = ticks >> shift;
            let index = bucket_of(ticks);
            prop_assert!(start_of(index) <= ticks && ticks <= end_of(index));
            let width = end_of(index) - start_of(index);
            prop_assert!(width <= ticks / PARTS as u64);
        }

        #[test]
        fn percentiles_are_close_to_the_sorted_values(mut values in prop::collection::vec(1u64..10_000_000, 1..500)) {
            let mut latencies = Latencies::new();
            values.iter().for_each(|value| latencies.record(*value));
            values.sort_unstable();
            // One tick is a microsecond here.
            for (percent, micros) in latencies.percentiles(1_000_000) {
                let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).clamp(1, values.len());
                let exact = values[rank - 1] as f64;
                prop_assert!((micros - exact).abs() <= exact * 0.02 + 1.0, "p{percent}: {micros} against {exact}");
            }
            let summary = latencies.summary(1_000_000);
            prop_assert_eq!(summary.min_us, values[0] as f64);
            prop_assert_eq!(summary.max_us, values[values.len() - 1] as f64);
        }
    }

    #[test]
    fn the_largest_value_has_a_bucket() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(0), 0);
    }

    #[test]
    fn nothing_recorded_is_all_zero_and_no_percentiles() {
        let latencies = Latencies::new();
        assert_eq!(latencies.summary(1000), Summary::default());
        assert!(latencies.percentiles(1000).is_empty());
        assert_eq!(latencies.buckets(1000).count(), 0);
    }
}
