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
use std::hint::select_unpredictable;
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
    partitions: Box<[Places]>,
}

/// Where a partition's words are, worked out once.
#[derive(Debug)]
#[repr(align(64))]
struct Places {
    state: usize,
    hints: usize,
    heat: usize,
    lines: usize,
    trust: Trust,
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
    fn new(verified: bool) -> Self {
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
    words: &'a [AtomicU64],
    places: &'a Places,
    seeds: Seeds,
}

impl Table {
    pub(super) fn new(section: Section, layout: Layout, seeds: Seeds, verified: bool) -> Self {
        let partitions = (0..layout.partitions).map(|at| Places {
            state: layout.state(at),
            hints: layout.hints(at),
            heat: layout.heat(at),
            lines: layout.lines(at),
            trust: Trust::new(verified),
        });
        Self {
            partitions: partitions.collect(),
            section,
            layout,
            seeds,
        }
    }

    pub(super) fn trusts(&self) -> impl Iterator<Item = &Trust> {
        self.partitions.iter().map(|places| &places.trust)
    }

    #[inline(always)]
    pub(super) fn partition_of(&self, hash: Hash) -> usize {
        hash.partition(self.partitions.len())
    }

    #[inline(always)]
    pub(super) fn part(&self, partition: usize) -> Part<'_> {
        Part {
            words: self.section.words(),
            places: &self.partitions[partition],
            seeds: self.seeds,
        }
    }

    /// The word beside the shape: how many entries, for whoever asks.
    pub(super) fn entries(&self, partition: usize) -> &AtomicU64 {
        &self.section.words()[self.layout.summary(partition as u64) + LINE_WORDS - 1]
    }

    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn shape(&self) -> Shape {
        Shape(self.words[self.places.state].load(Acquire))
    }

    pub(super) fn set_shape(&self, shape: Shape) {
        self.words[self.places.state].store(shape.0, Release);
    }

    #[inline(always)]
    pub(super) fn line(&self, number: u64) -> &'a Shared {
        let at = self.places.lines + number as usize * LINE_WORDS;
        self.words[at..]
            .first_chunk()
            .expect("the section holds every line")
    }

    #[inline(always)]
    fn hints_word(&self, home: u64) -> &'a AtomicU64 {
        &self.words[self.places.hints + (home / HINTS_OF_WORD) as usize]
    }

    fn heat_word(&self, line: u64) -> &'a AtomicU64 {
        &self.words[self.places.heat + (line / HEAT_OF_WORD) as usize]
    }

    /// Asks for the lines that a lookup starts with.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: Hash) {
        let home = self.shape().home(hash);
        prefetch(self.hints_word(home));
        prefetch(&self.line(home)[0]);
    }

    /// Asks for what a lookup that makes the entry warmer starts with.
    #[inline(always)]
    pub(super) fn prefetch_with_heat(&self, hash: Hash) {
        self.prefetch(hash);
        prefetch(self.heat_word(self.shape().home(hash)));
    }

    /// Asks for the other line too where the hint says that it is wanted; the hint is there by now.
    #[inline(always)]
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
    #[inline(always)]
    pub(super) fn hint(&self, home: u64, class: usize) -> u64 {
        let word = self.hints_word(home).load(Acquire);
        word >> (home % HINTS_OF_WORD * 16 + class as u64 * 2) & 3
    }

    /// All classes of a home, two bits each.
    pub(super) fn hints(&self, home: u64) -> u16 {
        let word = self.hints_word(home).load(Relaxed);
        (word >> (home % HINTS_OF_WORD * 16)) as u16
    }

    /// For the partition's writer only.
    pub(super) fn set_hints(&self, home: u64, hints: u16) {
        let word = self.hints_word(home);
        let shift = home % HINTS_OF_WORD * 16;
        let others = word.load(Relaxed) & !(0xffff << shift);
        word.store(others | u64::from(hints) << shift, Release);
    }

    pub(super) fn heat(&self, line: u64, slot: usize) -> Heat {
        let word = self.heat_word(line).load(Relaxed);
        Heat((word >> heat_shift(line, slot) & 15) as u8)
    }

    /// Changes an entry's heat unless someone else changes a neighbour's at the same time, three times in a row.
    pub(super) fn change_heat(&self, line: u64, slot: usize, change: impl Fn(Heat) -> Heat) {
        let word = self.heat_word(line);
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
    #[inline(always)]
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
            // The home is most often the line, and on its way before the hint that says so is there. Which of the two
            // it is cannot be foreseen; see `look` about branches.
            prefetch(&self.line(home)[0]);
            let other = shape.other(self.seeds, home, hash.turn());
            let hint = self.hint(home, class);
            let first = select_unpredictable(hint != 0, other, home);
            count.hint();
            count.line();
            let seen = self.look(first, fingerprint);
            if let Some(found) = found(first, &seen) {
                return Some(found);
            }
            let is_lost = if hint == 0 {
                self.hint(home, class) == 0 && seen.is_current(self.line(home))
            } else {
                count.line();
                if let Some(found) = found(home, &self.look(home, fingerprint)) {
                    return Some(found);
                }
                seen.is_current(self.line(other))
            };
            if is_lost && self.is_still(shape, home, hash) {
                return None;
            }
            pause.wait();
        }
    }

    /// Whether a key's lines are what they were under an earlier shape, and not being split.
    #[inline(always)]
    fn is_still(&self, then: Shape, home: u64, hash: Hash) -> bool {
        let now = self.shape();
        if now == then && !now.is_splitting() {
            return true;
        }
        let other = |shape: Shape| shape.other(self.seeds, home, hash.turn());
        let same = now.home(hash) == home && other(now) == other(then);
        same && !(now.is_splitting() && (now.split() == home || now.split() == other(now)))
    }

    #[inline(always)]
    fn look(&self, number: u64, fingerprint: Fingerprint) -> Seen {
        let line = self.line(number);
        if self.places.trust.verified.load(Relaxed) {
            line::look(line, fingerprint)
        } else {
            self.look_at_unverified(number, fingerprint)
        }
    }

    #[cold]
    fn look_at_unverified(&self, number: u64, fingerprint: Fingerprint) -> Seen {
        let line = self.line(number);
        line::look_checked(number, line, fingerprint).unwrap_or_else(|Damaged| {
            self.places.trust.damaged.store(true, Relaxed);
            Seen::nothing(line)
        })
    }

    pub(super) fn trust(&self) -> &'a Trust {
        &self.places.trust
    }
}

fn heat_shift(line: u64, slot: usize) -> u64 {
    line % HEAT_OF_WORD * 8 + slot as u64 * 4
}

#[inline(always)]
fn found(line: u64, seen: &Seen) -> Option<Found> {
    let (slot, entry) = seen.found?;
    Some(Found { line, slot, entry })
}
