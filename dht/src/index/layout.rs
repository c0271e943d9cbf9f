//! The section of an index: how large, and what lies where.
//!
//! ```text
//!   line 0        header: magic, version, partitions, lines of each, three seeds, checksum
//!   then          for each partition two lines:
//!                   state     shape (below `lines`), entries
//!                   summary   of the clean stop: mark, generation, entries, sum, shape, checksum
//!   then          hints: 16 bits for each line: eight classes of 2 bits, how many of the class's keys are
//!                 elsewhere (3: three or more)
//!   then          heat: 8 bits for each line: 4 bits for each entry
//!   then          lines (see `line`), partition after partition
//! ```
//!
//! Hints and heat are a 21st part of the lines: mostly in the cache, and fetched beside the line where not, since
//! their place depends on the key alone.

use std::sync::atomic::Ordering;

use super::address::Seeds;
use crate::limits::{
    GROW_PERMILLE, LINE_WORDS, LINES_STEP, PARTITION_LINES_MAX, PARTITION_LINES_MIN,
    PARTITIONS_MAX, SLOTS,
};
use crate::region::memory::AtomicU64;

/// Version of this layout.
pub(super) const VERSION: u32 = 1;
const MAGIC: u64 = u64::from_le_bytes(*b"ORIELIDX");

/// Lines whose hints are in one word.
pub(super) const HINTS_OF_WORD: u64 = 4;
/// Lines whose heat is in one word.
pub(super) const HEAT_OF_WORD: u64 = 8;
/// A table that has a power of two of lines can be this full, in thousandths; its keys then find no room any more.
const FULL_PERMILLE: u64 = 850;

const _: () = assert!(super::address::CLASSES as u64 * 2 * HINTS_OF_WORD == 64);
const _: () = assert!(SLOTS as u64 * 4 * HEAT_OF_WORD == 64);
const _: () = assert!(GROW_PERMILLE < FULL_PERMILLE);

/// How large an index is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSize {
    /// Parts with one writer each; a power of two, at most 256.
    pub partitions: u32,
    /// Entries to have room for at the start; more come by growing.
    pub entries: u64,
    /// Entries to have room for in the end.
    pub entries_max: u64,
}

/// A size that makes no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The number of partitions.
    #[error("an index has 1 to 256 partitions, a power of two, not {0}")]
    Partitions(u32),
    /// The number of entries.
    #[error("{0} entries are more than one index can have; split them over several")]
    Entries(u64),
}

/// Where everything is, in words from the section's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) partitions: u64,
    /// Lines that each partition has room for.
    pub(super) lines_max: u64,
}

/// Lines that hold so many entries with room to spare: at most 85 % full where a power of two of lines does it, at
/// most 70 % otherwise, since a table between two powers of two has some lines with twice the keys of others.
fn lines_for(entries: u64) -> u64 {
    let slots = SLOTS as u64;
    let even = (entries * 1000).div_ceil(slots * FULL_PERMILLE);
    let uneven = (entries * 1000).div_ceil(slots * GROW_PERMILLE);
    let even = even.max(PARTITION_LINES_MIN).next_power_of_two();
    even.min(uneven.next_multiple_of(LINES_STEP))
        .max(PARTITION_LINES_MIN)
}

/// Entries of one partition when all have together `entries`: their share and six times its spread.
fn share(entries: u64, partitions: u64) -> u64 {
    let mean = entries.div_ceil(partitions);
    if partitions == 1 {
        mean
    } else {
        mean + 6 * (mean.isqrt() + 1)
    }
}

impl IndexSize {
    fn check(&self) -> Result<(), SizeError> {
        let partitions = u64::from(self.partitions);
        if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
            return Err(SizeError::Partitions(self.partitions));
        }
        let most = self.entries.max(self.entries_max);
        if most / partitions > PARTITION_LINES_MAX {
            return Err(SizeError::Entries(most));
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Result<Layout, SizeError> {
        self.check()?;
        let partitions = u64::from(self.partitions);
        let lines_max = lines_for(share(self.entries.max(self.entries_max), partitions));
        Ok(Layout {
            partitions,
            lines_max,
        })
    }

    /// Lines of each partition at the start.
    pub(super) fn lines(&self) -> u64 {
        lines_for(share(self.entries, u64::from(self.partitions)))
    }

    /// Bytes of a section for this index.
    pub fn section_bytes(&self) -> Result<u64, SizeError> {
        Ok(self.layout()?.words() * 8)
    }
}

impl Layout {
    fn line(number: u64) -> u64 {
        number * LINE_WORDS as u64
    }

    /// The two lines of a partition.
    pub(super) fn state(&self, partition: u64) -> usize {
        Self::line(1 + 2 * partition) as usize
    }

    pub(super) fn summary(&self, partition: u64) -> usize {
        Self::line(2 + 2 * partition) as usize
    }

    fn hints_of_all(&self) -> u64 {
        Self::line(1 + 2 * self.partitions)
    }

    pub(super) fn hints_words(&self) -> u64 {
        self.lines_max / HINTS_OF_WORD
    }

    pub(super) fn hints(&self, partition: u64) -> usize {
        (self.hints_of_all() + partition * self.hints_words()) as usize
    }

    fn heat_of_all(&self) -> u64 {
        self.hints_of_all() + self.partitions * self.hints_words()
    }

    pub(super) fn heat_words(&self) -> u64 {
        self.lines_max / HEAT_OF_WORD
    }

    pub(super) fn heat(&self, partition: u64) -> usize {
        (self.heat_of_all() + partition * self.heat_words()) as usize
    }

    fn lines_of_all(&self) -> u64 {
        (self.heat_of_all() + self.partitions * self.heat_words())
            .next_multiple_of(LINE_WORDS as u64)
    }

    pub(super) fn lines(&self, partition: u64) -> usize {
        (self.lines_of_all() + Self::line(partition * self.lines_max)) as usize
    }

    /// Words of all of it.
    pub(super) fn words(&self) -> u64 {
        self.lines_of_all() + Self::line(self.partitions * self.lines_max)
    }
}

/// What is wrong with the header of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeaderDamaged;

fn checksum(words: &[u64]) -> u64 {
    let crc = words.iter().fold(0, |crc, word| {
        crc32c::crc32c_append(crc, &word.to_le_bytes())
    });
    u64::from(crc)
}

/// Writes the header line.
pub(super) fn write_header(words: &[AtomicU64], layout: Layout, seeds: Seeds) {
    let [a, b, c] = seeds.0;
    let mut line = [
        MAGIC,
        u64::from(VERSION),
        layout.partitions,
        layout.lines_max,
        a,
        b,
        c,
        0,
    ];
    line[7] = checksum(&line[..7]);
    for (word, value) in words.iter().zip(line) {
        word.store(value, Ordering::Release);
    }
}

/// Reads the header line of a section of `words.len()` words.
pub(super) fn read_header(words: &[AtomicU64]) -> Result<(Layout, Seeds), HeaderDamaged> {
    let mut line = [0; LINE_WORDS];
    if words.len() < LINE_WORDS {
        return Err(HeaderDamaged);
    }
    for (value, word) in line.iter_mut().zip(words) {
        *value = word.load(Ordering::Acquire);
    }
    let [magic, version, partitions, lines_max, a, b, c, sum] = line;
    let sane = magic == MAGIC
        && version == u64::from(VERSION)
        && sum == checksum(&line[..7])
        && partitions.is_power_of_two()
        && partitions <= PARTITIONS_MAX
        && lines_max.is_multiple_of(HEAT_OF_WORD)
        && (HEAT_OF_WORD..=PARTITION_LINES_MAX).contains(&lines_max);
    let layout = Layout {
        partitions,
        lines_max,
    };
    if sane && layout.words() <= words.len() as u64 {
        Ok((layout, Seeds([a, b, c])))
    } else {
        Err(HeaderDamaged)
    }
}

/// What a writer leaves behind when it ends as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    /// Of the region, so that a summary of an earlier run is not taken for one of the last.
    pub(super) generation: u64,
    pub(super) entries: u64,
    /// Over all entries, whatever their order.
    pub(super) sum: u64,
    pub(super) shape: u64,
}

const CLOSED: u64 = u64::from_le_bytes(*b"CLOSED..");

impl Summary {
    pub(super) fn write(&self, line: &[AtomicU64]) {
        let mut words = [
            CLOSED,
            self.generation,
            self.entries,
            self.sum,
            self.shape,
            0,
            0,
            0,
        ];
        words[5] = checksum(&words[..5]);
        for (word, value) in line.iter().zip(words) {
            word.store(value, Ordering::Release);
        }
    }

    pub(super) fn read(line: &[AtomicU64]) -> Option<Self> {
        let mut words = [0; LINE_WORDS];
        for (value, word) in words.iter_mut().zip(line) {
            *value = word.load(Ordering::Acquire);
        }
        let [mark, generation, entries, sum, shape, crc, ..] = words;
        (mark == CLOSED && crc == checksum(&words[..5])).then_some(Self {
            generation,
            entries,
            sum,
            shape,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_million_entries_take_less_than_64_bytes_each() {
        for (partitions, entries) in [
            (1, 10_000_000),
            (8, 10_000_000),
            (16, 14_300_000),
            (1, 9_000_000),
        ] {
            let size = IndexSize {
                partitions,
                entries: 0,
                entries_max: entries,
            };
            let bytes = size.section_bytes().expect("a size that can be");
            assert!(
                bytes < 64 * entries,
                "{partitions} {entries} {}",
                bytes as f64 / entries as f64
            );
        }
    }

    #[test]
    fn nothing_overlaps() {
        let layout = Layout {
            partitions: 4,
            lines_max: 128,
        };
        let mut ends = vec![8];
        for partition in 0..4 {
            ends.extend([layout.state(partition) + 8, layout.summary(partition) + 8]);
        }
        assert!(ends.is_sorted());
        assert_eq!(layout.hints(0), *ends.last().expect("it has ends"));
        assert_eq!(layout.hints(3) + 128 / 4, layout.heat(0));
        assert!(layout.heat(3) + 128 / 8 <= layout.lines(0));
        assert!(layout.lines(0).is_multiple_of(8));
        assert_eq!(layout.lines(3) as u64 + 128 * 8, layout.words());
    }

    #[test]
    fn sizes_that_make_no_index_are_refused() {
        let size = |partitions, entries_max| IndexSize {
            partitions,
            entries: 0,
            entries_max,
        };
        assert_eq!(size(3, 5).section_bytes(), Err(SizeError::Partitions(3)));
        assert_eq!(
            size(512, 5).section_bytes(),
            Err(SizeError::Partitions(512))
        );
        assert!(matches!(
            size(1, u64::MAX).section_bytes(),
            Err(SizeError::Entries(_))
        ));
    }
}
