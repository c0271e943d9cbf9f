//! Readers with a writer beside them, and without. What counts is a reader's lookups in the time that it had a core:
//! where cores are scarce, a writer takes that from it like any other thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use oriel_dht::index::{Index, Writer};
use rustix::time::{ClockId, clock_gettime};

use super::rig::{Keys, Rig, entry, key};
use crate::against::ratio::{Comparison, Round, median};

/// One turn of either kind.
const TURN: Duration = Duration::from_millis(20);
/// Turns of a round, of which the median counts.
const TURNS: usize = 11;

/// Readers' lookups a second with a writer at work in the same index, against those without one.
pub(super) struct Beside {
    pub(super) readers: Option<Comparison>,
    /// Changes a second of the writer meanwhile.
    pub(super) writes: f64,
}

pub(super) fn measure(rig: &mut Rig, readers: u32, rounds: u32) -> Beside {
    let (mut results, mut writes) = (Vec::new(), Vec::new());
    let mut next = rig.entries;
    for _ in 0..rounds {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            without.push(turn(rig, readers, None).0);
            let (reads, written) = turn(rig, readers, Some(&mut next));
            with.push(reads);
            writes.push(written);
        }
        results.push(Round {
            ours: median(with),
            theirs: median(without),
        });
    }
    Beside {
        readers: Comparison::of(&results),
        writes: median(writes),
    }
}

/// Lookups and changes a second of one turn.
fn turn(rig: &mut Rig, readers: u32, writing: Option<&mut u64>) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    let rates = Mutex::new(Vec::new());
    // The writer has a key less in, to put one in before it takes one out.
    let mut writers = std::mem::take(&mut rig.writers);
    let mut written = 0;
    let start = Instant::now();
    thread::scope(|scope| {
        for reader in 0..readers {
            let (rig, stop, rates) = (&*rig, &stop, &rates);
            scope.spawn(move || {
                let rate = read(rig, reader, stop);
                rates
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(rate);
            });
        }
        match writing {
            None => thread::sleep(TURN),
            Some(next) => written = write(&rig.index, &mut writers[0], rig.entries, next, start),
        }
        stop.store(true, Ordering::Relaxed);
    });
    let seconds = start.elapsed().as_secs_f64();
    rig.writers = writers;
    let rates = rates.into_inner().unwrap_or_else(PoisonError::into_inner);
    (rates.iter().sum(), written as f64 / seconds)
}

/// The thread's own time.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Lookups a second of this thread's own time.
fn read(rig: &Rig, reader: u32, stop: &AtomicBool) -> f64 {
    let start = cpu_time();
    let probes = rig.probes(Keys::Hits);
    let mut count = 0;
    for keys in probes.chunks(256).cycle().skip(reader as usize * 1000) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for key in keys {
            std::hint::black_box(rig.index.get(*key));
        }
        count += keys.len() as u64;
    }
    count as f64 / (cpu_time() - start).as_secs_f64().max(1e-9)
}

/// Takes the oldest key out and puts a new one in, as fast as it can: the fill stays, the entries come and go.
fn write(index: &Index, writer: &mut Writer, entries: u64, next: &mut u64, start: Instant) -> u64 {
    let mut written = 0;
    while start.elapsed() < TURN {
        for _ in 0..64 {
            let oldest = *next - entries;
            writer.prefetch(key(*next + 8));
            writer.prefetch(key(oldest + 8));
            let gone = writer.remove(key(oldest));
            debug_assert!(gone.is_some(), "of {} entries", index.entries());
            if writer.insert(key(*next), entry(*next)).is_err() {
                return written;
            }
            *next += 1;
            written += 2;
        }
    }
    written
}

pub(super) fn describe(rig: &mut Rig, readers: u32, rounds: u32) -> String {
    let Beside {
        readers: outcome,
        writes,
    } = measure(rig, readers, rounds);
    match outcome {
        Some(outcome) => format!(
            "      {readers} reading: {:.2} M/s, with a writer {:.2} M/s ({:.3}) beside its {:.2} M changes/s",
            outcome.theirs / 1e6,
            outcome.ours / 1e6,
            outcome.ratio,
            writes / 1e6
        ),
        None => "      readers did not get a core".to_owned(),
    }
}
