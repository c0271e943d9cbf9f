//! Every insert of a growing index timed, since the growing happens in them.
//!
//! The longest of a million inserts is mostly what the machine did meanwhile: a loop of nothing but looks at the clock
//! has pauses of milliseconds where cores are shared. So the same index grows several times, by the same keys and the
//! same hashes, which makes every insert the same work each time; what counts of an insert is the shortest of its
//! times. An interruption would have to hit the same insert every time to be taken for the index's own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use oriel_dht::index::{Index, IndexSize, Verification, Writer};
use oriel_dht::region::{Existing, Place, Region, SectionKind, SectionSpec};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};

use super::IndexError;
use super::rig::{entry, key};

/// From a 64th of its size to all of it.
const ENTRIES: u64 = 1 << 20;
const SIZE: IndexSize = IndexSize {
    partitions: 1,
    entries: ENTRIES / 64,
    entries_max: ENTRIES,
};
const PAGE: usize = 4096;

/// Whether the memory's pages are there before the first insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pages {
    Populated,
    /// The kernel finds and clears a page when an insert first touches it.
    Untouched,
}

impl Pages {
    pub(super) const BOTH: [Self; 2] = [Self::Populated, Self::Untouched];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Populated => "pages populated",
            Self::Untouched => "pages untouched",
        }
    }
}

/// Of the inserts that grow an index, each the shortest of its times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps {
    pub(super) longest: Duration,
    pub(super) mean: Duration,
    /// 999 of 1000 were no longer.
    pub(super) permille: Duration,
    /// Lines that the insert which looked at most of them looked at.
    pub(super) lines: u64,
    /// The longest time of any insert in the best run, interruptions included.
    pub(super) interrupted: Duration,
    /// The longest turn of a loop that only looks at the clock, as often, in its best run.
    pub(super) idle: Duration,
}

/// An empty index in a file without a name: what there is besides zeros.
struct Seedling {
    bytes: u64,
    pages: Vec<(u64, Vec<u8>)>,
}

fn memory_file(bytes: u64) -> Result<OwnedFd, IndexError> {
    let file = memfd_create("oriel-perf-index", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, bytes)?;
    Ok(file)
}

fn place_of(file: &OwnedFd) -> Place {
    Place::Path(format!("/proc/self/fd/{}", file.as_raw_fd()).into())
}

impl Seedling {
    fn new() -> Result<Self, IndexError> {
        let file = memory_file(0)?;
        let spec = SectionSpec {
            kind: SectionKind::INDEX,
            version: 1,
            bytes: SIZE.section_bytes()?,
        };
        let region = Region::create(&place_of(&file), &[spec], Existing::Replace)?;
        let (index, writers) = Index::create(region.section(SectionKind::INDEX, 1)?, &SIZE)?;
        index.close(writers)?;
        let bytes = region.bytes();
        region.close()?;
        let mut pages = Vec::new();
        let mut page = vec![0; PAGE];
        for offset in (0..bytes).step_by(PAGE) {
            let length = pread(&file, &mut page, offset)?;
            if page[..length].iter().any(|byte| *byte != 0) {
                pages.push((offset, page[..length].to_vec()));
            }
        }
        Ok(Self { bytes, pages })
    }

    /// The same index again, with the same hashes.
    fn plant(&self, pages: Pages) -> Result<(Index, Writer), IndexError> {
        let file = memory_file(self.bytes)?;
        for (offset, page) in &self.pages {
            pwrite(&file, page, *offset)?;
        }
        let region = Region::open(&place_of(&file))?;
        if pages == Pages::Populated {
            region.populate();
        }
        let (index, mut writers) = Index::adopt(region.section(SectionKind::INDEX, 1)?)?;
        let mut writer = writers.pop().expect("an index of one partition");
        assert_eq!(writer.verify_step(u64::MAX), Verification::Sound);
        Ok((index, writer))
    }
}

/// Grows the index so many times.
pub(super) fn measure(pages: Pages, runs: u32) -> Result<Steps, IndexError> {
    let seedling = Seedling::new()?;
    // Written to now, so that no page of it is brought in between two looks at the clock.
    let mut shortest = vec![Duration::MAX; ENTRIES as usize];
    let mut steps = Steps {
        longest: Duration::ZERO,
        mean: Duration::MAX,
        permille: Duration::ZERO,
        lines: 0,
        interrupted: Duration::MAX,
        idle: Duration::MAX,
    };
    for _ in 0..runs {
        let (index, mut writer) = seedling.plant(pages)?;
        let small = index.slots();
        let mut interrupted = Duration::ZERO;
        let begin = Instant::now();
        let mut last = begin;
        for (number, shortest) in (0..ENTRIES).zip(&mut shortest) {
            let looked = writer.lines_looked_at();
            writer.insert(key(number), entry(number))?;
            let now = Instant::now();
            *shortest = (now - last).min(*shortest);
            interrupted = interrupted.max(now - last);
            steps.lines = steps.lines.max(writer.lines_looked_at() - looked);
            last = now;
        }
        assert!(index.slots() > 32 * small, "it did not grow");
        steps.mean = steps.mean.min((last - begin) / ENTRIES as u32);
        steps.interrupted = steps.interrupted.min(interrupted);
        steps.idle = steps.idle.min(idle());
    }
    shortest.sort_unstable();
    steps.longest = shortest[shortest.len() - 1];
    steps.permille = shortest[shortest.len() * 999 / 1000];
    Ok(steps)
}

/// What the machine does to a loop that does nothing.
fn idle() -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    for number in 0..ENTRIES {
        std::hint::black_box(entry(number));
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

pub(super) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(super) fn describe(pages: Pages, runs: u32) -> Result<String, IndexError> {
    let steps = measure(pages, runs)?;
    Ok(format!(
        "growing to 64 times its size, {}, an insert: {:.2} us on average, 999 of 1000 within {:.1} us, longest {:.1} us, \
         {} lines at most ({:.0} us with interruptions; a loop of nothing {:.0} us)",
        pages.name(),
        us(steps.mean),
        us(steps.permille),
        us(steps.longest),
        steps.lines,
        us(steps.interrupted),
        us(steps.idle)
    ))
}
