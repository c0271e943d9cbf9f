//! A table in memory that one writer changes while others read it.
//!
//! ```text
//!   writer, a line:  word 0 := WRITING    words 1..7 := new    word 0 := new sum and epoch
//!                                release fence             release
//!
//!   reader:          a := word 0 (acquire)   words 1..7   fence   b := word 0
//!                    a is WRITING or a != b: again.   Then the checksum.
//! ```
//!
//! Readers take no lock and write nothing, and read one cache line. Within one
//! coherent machine they never see a torn line, and need no luck for it: a
//! line is only ever replaced by one of a later epoch, so word 0, which holds
//! checksum and epoch, is never the same again once it has changed. Between
//! machines that share CXL 2.0 memory, where one's stores become visible to
//! the other line by line and late, the checksum alone tells torn and stale
//! mixtures, with the odds of 32 bits.
//!
//! There is no second copy of the table and no switch between copies: that
//! would put a second dependent line into every lookup. While an epoch is
//! being published, some lines are new and some old; each is a line of its
//! own epoch, which is what owners compare.
//!
//! One writer at a time is the caller's to see to. A writer that dies halfway
//! leaves its line at WRITING, which readers report as locked, and the next
//! `publish` mends.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::Ring;
use super::limits::{LINE_WORDS, READ_TRIES};
use super::line::{Line, LineError, Words};
use super::table::Table;
use super::units::{Epoch, PartitionId, Partitions};

/// Word 0 while a line is written: the epoch in it is one that no ring reaches.
const WRITING: u64 = u64::MAX;

/// Why a table does not fit its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedError {
    /// The memory has another size.
    #[error(
        "{found} words of memory for a table of {partitions} partitions, which takes {expected}"
    )]
    Size {
        /// The words there are.
        found: usize,
        /// The words that it takes.
        expected: usize,
        /// The partitions.
        partitions: Partitions,
    },
    /// The ring has another number of partitions.
    #[error("a ring of {found} partitions does not fit a table of {expected}")]
    Partitions {
        /// The ring's.
        found: Partitions,
        /// The table's.
        expected: Partitions,
    },
    /// The table already has a later line.
    #[error(
        "partition {partition} is of epoch {found}, later than the line to be written: another writer is at work"
    )]
    Later {
        /// The partition.
        partition: PartitionId,
        /// The epoch of its line.
        found: Epoch,
    },
}

/// Lines in shared memory, for reading. All zeros is a table that nobody has published yet: every line is damaged.
#[derive(Clone, Copy, Debug)]
pub struct SharedTable<'a> {
    words: &'a [AtomicU64],
    partitions: Partitions,
}

/// How many words a table of this many partitions takes.
pub const fn shared_words(partitions: Partitions) -> usize {
    partitions.count() * LINE_WORDS
}

impl<'a> SharedTable<'a> {
    /// The table in these words, which should begin at a cache line.
    ///
    /// # Errors
    ///
    /// A number of words that such a table does not have.
    pub fn new(words: &'a [AtomicU64], partitions: Partitions) -> Result<Self, SharedError> {
        let expected = shared_words(partitions);
        if words.len() != expected {
            return Err(SharedError::Size {
                found: words.len(),
                expected,
                partitions,
            });
        }
        Ok(Self { words, partitions })
    }

    fn of(&self, partition: PartitionId) -> Option<&'a [AtomicU64; LINE_WORDS]> {
        let (lines, _) = self.words.as_chunks();
        lines.get(partition.index())
    }

    /// The first line that is damaged or locked, if any: to be asked before a table that was found is believed.
    ///
    /// # Errors
    ///
    /// What is wrong with that line.
    pub fn verify(&self) -> Result<(), LineError> {
        self.partitions
            .iter()
            .try_for_each(|partition| self.line(partition).map(drop))
    }

    /// Writes all lines of the ring that differ from those here. Only one writer may be at work at a time.
    ///
    /// # Errors
    ///
    /// A ring of another size, or a line that is older than the one here; lines before that one are written.
    pub fn publish(&self, ring: &Ring) -> Result<usize, SharedError> {
        if ring.partitions() != self.partitions {
            return Err(SharedError::Partitions {
                found: ring.partitions(),
                expected: self.partitions,
            });
        }
        let (lines, _) = self.words.as_chunks();
        let mut written = 0;
        for ((partition, at), new) in self.partitions.iter().zip(lines).zip(ring.lines()) {
            let old = Line::check(partition, load(at));
            match old {
                Ok(old) if old == *new => continue,
                Ok(old) if old.epoch() >= new.epoch() => {
                    return Err(SharedError::Later {
                        partition,
                        found: old.epoch(),
                    });
                }
                _ => store(at, new.words()),
            }
            written += 1;
        }
        Ok(written)
    }
}

/// Without a look at whether a writer is at work.
fn load(at: &[AtomicU64; LINE_WORDS]) -> Words {
    std::array::from_fn(|word| at[word].load(Ordering::Relaxed))
}

fn store(at: &[AtomicU64; LINE_WORDS], words: &Words) {
    at[0].store(WRITING, Ordering::Relaxed);
    // Whoever sees one of the stores below also sees the mark above.
    fence(Ordering::Release);
    for (at, word) in at.iter().zip(words).skip(1) {
        at.store(*word, Ordering::Relaxed);
    }
    at[0].store(words[0], Ordering::Release);
}

impl Table for SharedTable<'_> {
    #[inline]
    fn partitions(&self) -> Partitions {
        self.partitions
    }

    #[inline]
    fn line(&self, partition: PartitionId) -> Result<Line, LineError> {
        let Some(at) = self.of(partition) else {
            return Err(LineError::NoPartition {
                partition,
                partitions: self.partitions.count(),
            });
        };
        for _ in 0..READ_TRIES {
            let before = at[0].load(Ordering::Acquire);
            if before != WRITING {
                let mut words = load(at);
                words[0] = before;
                fence(Ordering::Acquire);
                if at[0].load(Ordering::Relaxed) == before {
                    return Line::check(partition, words);
                }
            }
            wait();
        }
        Err(LineError::Locked { partition })
    }
}

#[cfg(not(loom))]
fn wait() {
    std::hint::spin_loop();
}

#[cfg(loom)]
fn wait() {
    loom::thread::yield_now();
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::ring::units::NodeSlot;

    fn line(epoch: u32, nodes: [u16; 6]) -> Line {
        let owners = nodes.map(NodeSlot);
        Line::new(PartitionId(0), Epoch(epoch), &owners, &owners)
            .unwrap()
            .0
    }

    /// One line, without the size of a whole table.
    fn read(words: &[AtomicU64; LINE_WORDS]) -> Line {
        let partitions = Partitions::default();
        SharedTable { words, partitions }
            .line(PartitionId(0))
            .expect("a line of some epoch")
    }

    #[test]
    fn loom_a_reader_sees_whole_lines() {
        let mut model = loom::model::Builder::new();
        // Every load may yield an old value, so that more switches than these take hours.
        model.preemption_bound = Some(2);
        model.check(|| {
            let lines = [line(1, [1, 2, 3, 4, 5, 6]), line(2, [7, 8, 9, 10, 11, 12])];
            let words: &'static [AtomicU64; LINE_WORDS] =
                Box::leak(Box::new(lines[0].words().map(AtomicU64::new)));
            let writer = loom::thread::spawn(move || store(words, lines[1].words()));
            let seen = read(words);
            assert!(lines.contains(&seen), "{seen:?}");
            writer.join().unwrap();
            assert_eq!(read(words), lines[1]);
        });
    }
}
