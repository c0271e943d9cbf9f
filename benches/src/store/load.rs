//! What is asked of a side: numbered blobs, put and got by as many tasks as requests are to be in flight.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use oriel_engine::reactor::{handle, spawn_local};
use oriel_spdk::ticks;

use super::adapter::{SideError, Target};
use crate::load::histogram::Latencies;
use crate::load::rng::{Rng, mix};
use crate::load::zipf::Zipf;

/// How large blobs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// All alike.
    Fixed(u64),
    /// 64 KiB to 32 MiB in powers of two, each as often as any other: blocks of a language model's keys and values.
    KvCache,
}

const KV_SMALLEST: u64 = 64 << 10;
const KV_SIZES: u64 = 10;

impl Sizes {
    pub(super) fn of(self, number: u64) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::KvCache => KV_SMALLEST << (mix(number) % KV_SIZES),
        }
    }

    pub(super) fn largest(self) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::KvCache => KV_SMALLEST << (KV_SIZES - 1),
        }
    }

    fn all(self) -> Vec<u64> {
        match self {
            Self::Fixed(bytes) => vec![bytes],
            Self::KvCache => (0..KV_SIZES).map(|at| KV_SMALLEST << at).collect(),
        }
    }

    /// What a blob has on average.
    pub(super) fn mean(self) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::KvCache => (0..KV_SIZES).map(|at| KV_SMALLEST << at).sum::<u64>() / KV_SIZES,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    pub(super) sizes: Sizes,
    pub(super) read_percent: u8,
    /// Skews which blobs are read.
    pub(super) zipf_theta: Option<f64>,
    pub(super) depth: u32,
    pub(super) time: Duration,
    /// Bytes of blobs that may be put, for the drive to hold them.
    pub(super) put_bytes_max: u64,
    pub(super) seed: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) latencies: Latencies,
}

struct Shared<T> {
    target: Rc<T>,
    course: Course,
    zipf: Option<Zipf>,
    rng: RefCell<Rng>,
    /// Blobs `0..stored` can be read.
    stored: u64,
    next: Cell<u64>,
    put_bytes: Cell<u64>,
    end_ticks: u64,
    blobs: Cell<u64>,
    bytes: Cell<u64>,
    last_ticks: Cell<u64>,
    latencies: RefCell<Latencies>,
}

/// Bytes to be stored: nothing that could be compressed.
pub(super) fn payload(bytes: u64) -> Vec<u8> {
    let mut rng = Rng::new(bytes);
    let words = (0..bytes.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes());
    words.take(bytes as usize).collect()
}

/// Puts blobs from number 0 on, as many as `bytes` take; how many there are.
pub(super) async fn fill<T: Target>(
    target: &Rc<T>,
    course: &Course,
    bytes: u64,
) -> Result<u64, SideError> {
    let filling = Course {
        read_percent: 0,
        // As long as it takes.
        time: Duration::from_secs(3600),
        put_bytes_max: bytes,
        ..*course
    };
    Ok(run(target, &filling, 0).await?.blobs)
}

/// Runs a course over a side that holds the blobs `0..stored`.
pub(super) async fn run<T: Target>(
    target: &Rc<T>,
    course: &Course,
    stored: u64,
) -> Result<Done, SideError> {
    if course.read_percent > 0 {
        for bytes in course.sizes.all() {
            target.prepare(bytes, course.depth)?;
        }
    }
    let start_ticks = ticks::now();
    let hz = ticks::per_second() as f64;
    let shared = Rc::new(Shared {
        target: Rc::clone(target),
        course: *course,
        zipf: course.zipf_theta.and_then(|theta| Zipf::new(stored, theta)),
        rng: RefCell::new(Rng::new(course.seed)),
        stored,
        next: Cell::new(stored),
        put_bytes: Cell::new(0),
        end_ticks: start_ticks + (course.time.as_secs_f64() * hz) as u64,
        blobs: Cell::new(0),
        bytes: Cell::new(0),
        last_ticks: Cell::new(start_ticks),
        latencies: RefCell::new(Latencies::new()),
    });
    let workers: Vec<_> = (0..course.depth)
        .map(|_| {
            let worker = spawn_local("blobs", work(Rc::clone(&shared)));
            worker.map_err(|_| SideError::NoTask)
        })
        .collect();
    let mut result = Ok(());
    for worker in workers {
        result = result.and(worker?.await);
    }
    result?;
    let seconds = shared.last_ticks.get().saturating_sub(start_ticks) as f64 / hz;
    Ok(Done {
        blobs: shared.blobs.get(),
        bytes: shared.bytes.get(),
        seconds,
        latencies: shared.latencies.borrow().clone(),
    })
}

impl<T: Target> Shared<T> {
    /// A blob to read, or one to put.
    fn choose(&self) -> Option<(bool, u64)> {
        let mut rng = self.rng.borrow_mut();
        let read_percent = u64::from(self.course.read_percent);
        let is_read = self.stored > 0
            && (read_percent == 100 || (read_percent > 0 && rng.below(100) < read_percent));
        if is_read {
            let number = match &self.zipf {
                // The most wanted ones do not lie side by side.
                Some(zipf) => mix(zipf.rank(&mut rng)) % self.stored,
                None => rng.below(self.stored),
            };
            return Some((true, number));
        }
        let number = self.next.get();
        let bytes = self.put_bytes.get() + self.course.sizes.of(number);
        if bytes > self.course.put_bytes_max {
            return None;
        }
        self.next.set(number + 1);
        self.put_bytes.set(bytes);
        Some((false, number))
    }
}

async fn work<T: Target>(shared: Rc<Shared<T>>) -> Result<(), SideError> {
    let mut start_ticks = ticks::now();
    while start_ticks < shared.end_ticks && !handle().is_stopping() {
        let Some((is_read, number)) = shared.choose() else {
            return Ok(());
        };
        let bytes = shared.course.sizes.of(number);
        if is_read {
            shared.target.get(number, bytes).await?;
        } else {
            shared.target.put(number, bytes).await?;
        }
        let now_ticks = ticks::now();
        shared
            .latencies
            .borrow_mut()
            .record(now_ticks - start_ticks);
        shared.blobs.set(shared.blobs.get() + 1);
        shared.bytes.set(shared.bytes.get() + bytes);
        shared.last_ticks.set(now_ticks);
        start_ticks = now_ticks;
    }
    Ok(())
}

impl Done {
    /// Nothing yet.
    pub(super) fn nothing() -> Self {
        Self {
            blobs: 0,
            bytes: 0,
            seconds: 0.0,
            latencies: Latencies::new(),
        }
    }

    /// One after the other.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.latencies = other.latencies.clone();
        self
    }

    /// Both at the same time.
    pub(super) fn beside(mut self, other: Self) -> Self {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies.add(&other.latencies);
        self
    }

    pub(super) fn speed(&self) -> Speed {
        let per_second = |count: u64| count as f64 / self.seconds.max(1e-9);
        let percentiles = self.latencies.percentiles(ticks::per_second());
        let at = |wanted: f64| {
            let found = percentiles.iter().find(|(percent, _)| *percent == wanted);
            found.map(|(_, us)| *us)
        };
        Speed {
            per_second: per_second(self.blobs),
            mib_per_second: per_second(self.bytes) / f64::from(1 << 20),
            p50_us: at(50.0),
            p99_us: at(99.0),
        }
    }
}

/// How fast a side was.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Speed {
    pub(super) per_second: f64,
    pub(super) mib_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99_us: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kv_mix_has_every_size_about_as_often() {
        let mut counts = [0u64; KV_SIZES as usize];
        for number in 0..100_000 {
            let size = Sizes::KvCache.of(number);
            counts[(size / KV_SMALLEST).trailing_zeros() as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)));
        assert_eq!(Sizes::KvCache.largest(), 32 << 20);
        assert_eq!(Sizes::KvCache.mean(), (64 << 10) * 1023 / 10);
    }

    #[test]
    fn a_payload_is_as_long_as_asked_and_not_all_alike() {
        let bytes = payload(4099);
        assert_eq!(bytes.len(), 4099);
        assert_ne!(bytes[..2048], bytes[2048..4096]);
    }
}
