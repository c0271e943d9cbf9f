//! Every insert of a growing index timed, since the growing happens in them.

use std::time::Duration;

use oriel_dht::index::IndexSize;
use rustix::time::{ClockId, clock_gettime};

use super::IndexError;
use super::rig::{entry, index_of, key};

/// From a 64th of its size to all of it.
const ENTRIES: u64 = 1 << 20;

/// Of the inserts of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub(super) longest: Duration,
    pub(super) mean: Duration,
    /// 999 of 1000 were no longer.
    pub(super) permille: Duration,
}

/// The thread's own time: what it waited for its core is no pause of the index.
pub(super) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The best of some runs: what interrupts take is counted as the thread's own.
pub(super) fn measure(rounds: u32) -> Result<Steps, IndexError> {
    let mut best: Option<Steps> = None;
    for _ in 0..rounds {
        let steps = run()?;
        if best.is_none_or(|best| steps.longest < best.longest) {
            best = Some(steps);
        }
    }
    Ok(best.expect("there is at least one round"))
}

fn run() -> Result<Steps, IndexError> {
    let size = IndexSize {
        partitions: 1,
        entries: ENTRIES / 64,
        entries_max: ENTRIES,
    };
    let (index, mut writers, _) = index_of(&size, None)?;
    let small = index.slots();
    let mut times = Vec::with_capacity(ENTRIES as usize);
    let begin = cpu_time();
    let mut last = begin;
    for number in 0..ENTRIES {
        writers[0].insert(key(number), entry(number))?;
        let after = cpu_time();
        times.push(after - last);
        last = after;
    }
    assert!(index.slots() > 32 * small, "it did not grow");
    times.sort_unstable();
    Ok(Steps {
        longest: times[times.len() - 1],
        mean: (last - begin) / ENTRIES as u32,
        permille: times[times.len() * 999 / 1000],
    })
}

pub(super) fn describe(rounds: u32) -> Result<Vec<String>, IndexError> {
    let steps = measure(rounds)?;
    Ok(vec![format!(
        "growing to 64 times its size, an insert: {:.2} us on average, 999 of 1000 within {:.1} us, longest {:.1} us",
        steps.mean.as_secs_f64() * 1e6,
        steps.permille.as_secs_f64() * 1e6,
        steps.longest.as_secs_f64() * 1e6
    )])
}
