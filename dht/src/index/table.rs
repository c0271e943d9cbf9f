//! What readers and writers share: the memory of an index, and how a key is looked up in it.
//!
//! Invariant, whatever a writer does: an entry that is in the index is in its home line, or it is in its other line
//! and the home's hint for its class is not zero. To move an entry, the writer writes it to its new place first, then
//! raises the hint if need be, then takes it from its old place, then lowers the hint if need be.
//!
//! A reader that finds its key is done: it saw it, whole, in a line. A reader that does not has to rule out that the
//! key moved behind its back:
//! - hint zero: it looked at the home alone. Had the key been elsewhere then, the hint was not zero before and the
//!   home is written before it is zero again. So hint and home's version, looked at once more, tell.
//! - hint not zero: it looked at the other line, then at the home. A key that was in neither was at home first and in
//!   the other line later, which was written in between. So the other line's version tells.
//! - the shape tells whether the key's lines are others by now; those that are being split just now say to wait.

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;
#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::address::{Hash, Seeds, Shape};
use super::entry::{Entry, Fingerprint, Heat};
use super::layout::{HEAT_OF_WORD, HINTS_OF_WORD, Layout};
use super::line::{self, Damaged, Seen, Shared};
use super::pause::Pause;
use crate::limits::LINE_WORDS;
use crate::region::Section;
use crate::region::memory::{AtomicU64, prefetch};

#[derive(Debug)]
pub(super) struct Table {
    pub(super) section: Section,
    pub(super) layout: Layout,
    pub(super) seeds: Seeds,
    pub(super) trust: Box<[Trust]>,
}

/// What is known about a partition that came out of an earlier run.
#[derive(Debug)]
pub(super) struct Trust {
    /// Every line was found right since this start.
    pub(super) verified: AtomicBool,
    /// Something was found wrong.
    pub(super) damaged: AtomicBool,
}

impl Trust {
    pub(super) fn new(verified: bool) -> Self {
        Self {
            verified: AtomicBool::new(verified),
            damaged: AtomicBool::new(false),
        }
    }
}

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) line: u64,
    pub(super) slot: usize,
    pub(super) entry: Entry,
}

/// Counts what a lookup touches.
pub(super) trait Count {
    fn line(&mut self);
    fn hint(&mut self);
}

impl Count for () {
    #[inline(always)]
    fn line(&mut self) {}
    #[inline(always)]
    fn hint(&mut self) {}
}

/// Cache lines that lookups touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Touched {
    /// Lines of entries, each a load that waits for the memory when the caches do not have it.
    pub entry_lines: u64,
    /// Lines of hints: one line of hints for 32 of entries, loaded beside the first of these, not before it.
    pub hint_lines: u64,
}

impl Count for Touched {
    fn line(&mut self) {
        self.entry_lines += 1;
    }
    fn hint(&mut self) {
        self.hint_lines += 1;
    }
}

/// One partition's words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    state: &'a AtomicU64,
    hints: &'a [AtomicU64],
    heat: &'a [AtomicU64],
    lines: &'a [Shared],
    seeds: Seeds,
    trust: &'a Trust,
}

impl Table {
    #[inline]
    pub(super) fn partition_of(&self, hash: Hash) -> usize {
        hash.partition(self.layout.partitions as usize)
    }

    #[inline]
    pub(super) fn part(&self, partition: usize) -> Part<'_> {
        let words = self.section.words();
        let (layout, at) = (self.layout, partition as u64);
        let lines = &words[layout.lines(at)..][..layout.lines_max as usize * LINE_WORDS];
        Part {
            state: &words[layout.state(at)],
            hints: &words[layout.hints(at)..][..layout.hints_words() as usize],
            heat: &words[layout.heat(at)..][..layout.heat_words() as usize],
            lines: lines.as_chunks().0,
            seeds: self.seeds,
            trust: &self.trust[partition],
        }
    }

    /// The word beside the shape: how many entries, for whoever asks.
    pub(super) fn entries(&self, partition: usize) -> &AtomicU64 {
        &self.section.words()[self.layout.summary(partition as u64) + LINE_WORDS - 1]
    }

    #[inline]
    pub(super) fn find(
        &self,
        fingerprint: Fingerprint,
        count: &mut impl Count,
    ) -> Option<(usize, Found)> {
        let hash = self.seeds.hash(fingerprint);
        let partition = self.partition_of(hash);
        let found = self.part(partition).find(fingerprint, hash, count)?;
        Some((partition, found))
    }
}

impl<'a> Part<'a> {
    #[inline]
    pub(super) fn shape(&self) -> Shape {
        Shape(self.state.load(Acquire))
    }

    pub(super) fn set_shape(&self, shape: Shape) {
        self.state.store(shape.0, Release);
    }

    #[inline]
    pub(super) fn line(&self, number: u64) -> &'a Shared {
        &self.lines[number as usize]
    }

    /// Asks for the lines that a lookup starts with.
    #[inline]
    pub(super) fn prefetch(&self, hash: Hash) {
        let home = self.shape().home(hash);
        prefetch(&self.hints[(home / HINTS_OF_WORD) as usize]);
        prefetch(&self.line(home)[0]);
    }

    /// Asks for the other line too where the hint says that it is wanted; the hint is there by now.
    #[inline]
    pub(super) fn prefetch_other(&self, hash: Hash) {
        let shape = self.shape();
        let home = shape.home(hash);
        if self.hint(home, hash.class()) != 0 {
            prefetch(&self.line(shape.other(self.seeds, home, hash.turn()))[0]);
        }
    }

    pub(super) fn prefetch_line(&self, number: u64) {
        prefetch(&self.line(number)[0]);
    }

    /// How many of a home's keys of a class are elsewhere; 3 is three or more.
    #[inline]
    pub(super) fn hint(&self, home: u64, class: usize) -> u64 {
        let word = self.hints[(home / HINTS_OF_WORD) as usize].load(Acquire);
        word >> (home % HINTS_OF_WORD * 16 + class as u64 * 2) & 3
    }

    /// All classes of a home, two bits each.
    pub(super) fn hints(&self, home: u64) -> u16 {
        let word = self.hints[(home / HINTS_OF_WORD) as usize].load(Relaxed);
        (word >> (home % HINTS_OF_WORD * 16)) as u16
    }

    /// For the partition's writer only.
    pub(super) fn set_hints(&self, home: u64, hints: u16) {
        let word = &self.hints[(home / HINTS_OF_WORD) as usize];
        let shift = home % HINTS_OF_WORD * 16;
        let others = word.load(Relaxed) & !(0xffff << shift);
        word.store(others | u64::from(hints) << shift, Release);
    }

    pub(super) fn heat(&self, line: u64, slot: usize) -> Heat {
        let word = self.heat[(line / HEAT_OF_WORD) as usize].load(Relaxed);
        Heat((word >> heat_shift(line, slot) & 15) as u8)
    }

    /// Changes an entry's heat unless someone else changes a neighbour's at the same time, three times in a row.
    pub(super) fn change_heat(&self, line: u64, slot: usize, change: impl Fn(Heat) -> Heat) {
        let word = &self.heat[(line / HEAT_OF_WORD) as usize];
        let shift = heat_shift(line, slot);
        let mut now = word.load(Relaxed);
        for _ in 0..3 {
            let heat = Heat((now >> shift & 15) as u8);
            let wanted = change(heat).min(Heat::MAX);
            if wanted == heat {
                return;
            }
            let changed = now & !(15 << shift) | u64::from(wanted.0) << shift;
            match word.compare_exchange_weak(now, changed, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(other) => now = other,
            }
        }
    }

    /// Looks a key up, from any thread.
    #[inline]
    pub(super) fn find(
        &self,
        fingerprint: Fingerprint,
        hash: Hash,
        count: &mut impl Count,
    ) -> Option<Found> {
        let mut pause = Pause::new();
        let class = hash.class();
        loop {
            let shape = self.shape();
            let home = shape.home(hash);
            let is_lost = if self.hint(home, class) == 0 {
                count.hint();
                count.line();
                let at_home = self.look(home, fingerprint);
                if let Some(found) = found(home, &at_home) {
                    return Some(found);
                }
                self.hint(home, class) == 0 && at_home.is_current(self.line(home))
            } else {
                let other = shape.other(self.seeds, home, hash.turn());
                count.hint();
                count.line();
                let elsewhere = self.look(other, fingerprint);
                if let Some(found) = found(other, &elsewhere) {
                    return Some(found);
                }
                count.line();
                if let Some(found) = found(home, &self.look(home, fingerprint)) {
                    return Some(found);
                }
                elsewhere.is_current(self.line(other))
            };
            if is_lost && self.is_still(shape, home, hash) {
                return None;
            }
            pause.wait();
        }
    }

    /// Whether a key's lines are what they were under an earlier shape, and not being split.
    #[inline]
    fn is_still(&self, then: Shape, home: u64, hash: Hash) -> bool {
        let now = self.shape();
        if now == then && !now.is_splitting() {
            return true;
        }
        let other = |shape: Shape| shape.other(self.seeds, home, hash.turn());
        let same = now.home(hash) == home && other(now) == other(then);
        same && !(now.is_splitting() && (now.split() == home || now.split() == other(now)))
    }

    #[inline]
    fn look(&self, number: u64, fingerprint: Fingerprint) -> Seen {
        let line = self.line(number);
        if self.trust.verified.load(Relaxed) {
            line::look(line, fingerprint)
        } else {
            self.look_at_unverified(number, fingerprint)
        }
    }

    #[cold]
    fn look_at_unverified(&self, number: u64, fingerprint: Fingerprint) -> Seen {
        let line = self.line(number);
        line::look_checked(number, line, fingerprint).unwrap_or_else(|Damaged| {
            self.trust.damaged.store(true, Relaxed);
            Seen::nothing(line)
        })
    }

    pub(super) fn trust(&self) -> &'a Trust {
        self.trust
    }
}

fn heat_shift(line: u64, slot: usize) -> u64 {
    line % HEAT_OF_WORD * 8 + slot as u64 * 4
}

#[inline]
fn found(line: u64, seen: &Seen) -> Option<Found> {
    let (slot, entry) = seen.found?;
    Some(Found { line, slot, entry })
}
