//! How long a load from the region's memory takes.
//!
//! The lines that are going to be loaded are first thrown out of the caches, so that the answer is the memory's own
//! even for a region that fits the cache. Nothing is written: the chase gets its dependence by adding what it loaded,
//! masked to nothing, to the next address.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::flush::Flush;
use super::memory::{self, AtomicU64};
use crate::limits::LINE_WORDS;

/// Lines in one measurement: long against a clock's error, short against what disturbs a machine.
const CHASE_LINES: usize = 4096;
/// Measurements, of which the median counts.
const ROUNDS: usize = 9;

/// The time of a load that no cache can serve, TLB misses included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// One load after the other, each address known only when the load before is done.
    pub idle: Duration,
    /// Independent loads, as many at once as the core keeps in flight; the time of one is the whole by their number.
    pub overlapped: Duration,
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ns a load, {:.1} ns overlapped",
            self.idle.as_nanos(),
            self.overlapped.as_secs_f64() * 1e9
        )
    }
}

/// Lines in an order that no prefetcher foresees: a full-period generator over the next power of two.
struct Course {
    next: u64,
    lines: usize,
}

impl Course {
    #[inline]
    fn next(&mut self, dependence: u64) -> usize {
        self.next = self
            .next
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407 + dependence);
        let line = (u128::from(self.next) * self.lines as u128) >> 64;
        line as usize * LINE_WORDS
    }
}

pub(super) fn measure(words: &[AtomicU64]) -> Latency {
    let lines = words.len() / LINE_WORDS;
    let flush = match Flush::detect() {
        // `clwb` would leave the line in the cache.
        Flush::Clwb => Flush::ClflushOpt,
        other => other,
    };
    let nothing = black_box(0);
    let mut idle = Vec::with_capacity(ROUNDS);
    let mut overlapped = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let course = || Course {
            next: 0x9e37_79b9 + round as u64,
            lines,
        };
        throw_out(words, course(), flush);
        let (mut chase, mut last) = (course(), 0);
        let start = Instant::now();
        for _ in 0..CHASE_LINES {
            last = words[chase.next(last & nothing)].load(Ordering::Relaxed);
        }
        black_box(last);
        idle.push(start.elapsed());

        throw_out(words, course(), flush);
        let (mut all, mut sum) = (course(), 0_u64);
        let start = Instant::now();
        for _ in 0..CHASE_LINES {
            sum ^= words[all.next(0)].load(Ordering::Relaxed);
        }
        black_box(sum);
        overlapped.push(start.elapsed());
    }
    Latency {
        idle: middle(idle) / CHASE_LINES as u32,
        overlapped: middle(overlapped) / CHASE_LINES as u32,
    }
}

fn throw_out(words: &[AtomicU64], mut course: Course, flush: Flush) {
    for _ in 0..CHASE_LINES {
        memory::write_back(&words[course.next(0)], flush);
    }
    memory::full_fence();
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
