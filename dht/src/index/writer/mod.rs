//! The one writer of a partition.
//!
//! Invariants:
//! - There is one `Writer` for each partition, so nobody else changes its lines, its hints or its shape.
//! - Every change of a line goes through `put_line`, which keeps the count and the sum of all entries.
//! - An entry moves as the table's module says, so that readers never miss it on its way.

mod grow;
mod plan;
mod room;
mod sweep;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(loom)]
use loom::sync::Arc;
use std::ops::Range;
#[cfg(not(loom))]
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::address::{Hash, Shape, TURNS_OF_CLASS, fold};
use super::entry::{Entry, Fingerprint, Heat, Position};
use super::line::{self, Line, Slot};
use super::table::{Found, Part, Table};
use crate::limits::{INSERT_LINES_MAX, SLOTS};
pub use sweep::Verification;
use sweep::{Clearing, Verifying};

/// Writes the entries of one partition; see [`super::Index::partition_of`]. It moves between threads but exists once.
#[derive(Debug)]
pub struct Writer {
    table: Arc<Table>,
    partition: usize,
    entries: u64,
    /// Over all entries of the partition, in no order: what a later run finds has to have the same.
    sum: u64,
    clearing: Option<Clearing>,
    verifying: Option<Verifying>,
    /// Lines in which there is room for the split that comes next.
    held: Vec<u64>,
    /// Keys that have to be in the lines of the next split, as no other place was found for them.
    stubborn: Vec<Fingerprint>,
    /// Lines that the insert under way may still look at; no end of them where none is under way.
    left: usize,
    /// Lines looked at since the writer was made.
    looked: u64,
    /// Kept so that a search allocates nothing.
    search: Vec<room::Node>,
}

/// Why an entry was not inserted. It comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The key is there.
    #[error("the key is in the index already, at block {}", present.position.block())]
    Present {
        /// What is there.
        present: Entry,
        /// What was to be inserted.
        given: Entry,
    },
    /// No room now.
    #[error(
        "the index is full ({entries} entries in {slots} places); remove some, or make a larger one"
    )]
    Full {
        /// What was to be inserted.
        given: Entry,
        /// Entries of the partition.
        entries: u64,
        /// Places of the partition. Not all of them can be taken.
        slots: u64,
    },
}

/// Why an entry was not replaced. The new one comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The key is not there.
    #[error("the key is not in the index")]
    Absent {
        /// What was to be written.
        given: Entry,
    },
    /// The key is at another position than expected.
    #[error("the key is at block {}, not where it was expected", present.position.block())]
    Changed {
        /// What is there.
        present: Entry,
        /// What was to be written.
        given: Entry,
    },
}

impl Writer {
    pub(super) fn new(table: Arc<Table>, partition: usize, entries: u64, sum: u64) -> Self {
        table.entries(partition).store(entries, Relaxed);
        let verified = table.part(partition).trust().verified.load(Relaxed);
        Self {
            table,
            partition,
            entries,
            sum,
            clearing: None,
            verifying: (!verified).then(Verifying::default),
            held: Vec::with_capacity(grow::HELD_MAX),
            stubborn: Vec::with_capacity(grow::STUBBORN_MAX),
            left: usize::MAX,
            looked: 0,
            search: Vec::with_capacity(room::NODES_MAX),
        }
    }

    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.partition as u32
    }

    /// Entries of the partition.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Places for entries now; growing makes more, up to [`Writer::slots_max`].
    pub fn slots(&self) -> u64 {
        self.shape().lines() * SLOTS as u64
    }

    /// Places for entries when the partition is as large as it can get.
    pub fn slots_max(&self) -> u64 {
        self.table.layout.lines_max * SLOTS as u64
    }

    /// Lines of entries that this writer has looked at to find room and to grow: the work that its inserts are. Each
    /// insert looks at [`INSERT_LINES_MAX`] at most.
    pub fn lines_looked_at(&self) -> u64 {
        self.looked
    }

    /// Puts a key in that is not there. Grows the partition by a line or two where it is fuller than seven tenths.
    pub fn insert(&mut self, fingerprint: Fingerprint, given: Entry) -> Result<(), InsertError> {
        let hash = self.hash(fingerprint);
        self.left = INSERT_LINES_MAX;
        self.look_at(2);
        let result = self.insert_hashed(fingerprint, hash, given);
        self.left = usize::MAX;
        result
    }

    fn insert_hashed(
        &mut self,
        fingerprint: Fingerprint,
        hash: Hash,
        given: Entry,
    ) -> Result<(), InsertError> {
        if let Some(found) = self.find(fingerprint, hash) {
            let present = found.entry;
            return Err(InsertError::Present { present, given });
        }
        let Some((line, at)) = self.room_for(hash).or_else(|| self.room_by_growing(hash)) else {
            return Err(InsertError::Full {
                given,
                entries: self.entries,
                slots: self.slots(),
            });
        };
        let slot = Slot {
            fingerprint,
            entry: given,
        };
        self.put(line, at, slot, Heat::default());
        self.grow();
        Ok(())
    }

    /// Changes a key's entry, if it is still at the position that the caller knows. Returns what was there.
    pub fn replace_if_unchanged(
        &mut self,
        fingerprint: Fingerprint,
        expected: Position,
        given: Entry,
    ) -> Result<Entry, ReplaceError> {
        let hash = self.hash(fingerprint);
        let Some(found) = self.find(fingerprint, hash) else {
            return Err(ReplaceError::Absent { given });
        };
        let present = found.entry;
        if present.position != expected {
            return Err(ReplaceError::Changed { present, given });
        }
        let (old, mut line) = self.line(found.line);
        line.slots[found.slot] = Some(Slot {
            fingerprint,
            entry: given,
        });
        self.put_line(found.line, &old, &line);
        Ok(present)
    }

    /// Takes a key out. Returns what was there.
    pub fn remove(&mut self, fingerprint: Fingerprint) -> Option<Entry> {
        let hash = self.hash(fingerprint);
        let found = self.find(fingerprint, hash)?;
        self.take_out(found.line, found.slot);
        Some(found.entry)
    }

    /// Takes a key out if it is still at the position that the caller knows.
    pub fn remove_if_unchanged(
        &mut self,
        fingerprint: Fingerprint,
        expected: Position,
    ) -> Option<Entry> {
        let hash = self.hash(fingerprint);
        let found = self.find(fingerprint, hash)?;
        if found.entry.position != expected {
            return None;
        }
        self.take_out(found.line, found.slot);
        Some(found.entry)
    }

    /// Asks for the memory that an insert of this key will touch, some time before it.
    pub fn prefetch(&self, fingerprint: Fingerprint) {
        self.part().prefetch(self.table.seeds.hash(fingerprint));
    }

    // ---- Shared by the parts of the writer --------------------------------------------------------------------------

    fn part(&self) -> Part<'_> {
        self.table.part(self.partition)
    }

    fn shape(&self) -> Shape {
        self.part().shape()
    }

    /// Panics on a key of another partition, whose writer is somewhere else.
    fn hash(&self, fingerprint: Fingerprint) -> Hash {
        let hash = self.table.seeds.hash(fingerprint);
        assert_eq!(
            self.table.partition_of(hash),
            self.partition,
            "a key was given to the writer of another partition"
        );
        hash
    }

    fn find(&self, fingerprint: Fingerprint, hash: Hash) -> Option<Found> {
        self.part().find(fingerprint, hash, &mut ())
    }

    fn home_of(&self, slot: &Slot) -> (u64, Hash) {
        let hash = self.table.seeds.hash(slot.fingerprint);
        (self.shape().home(hash), hash)
    }

    /// Every line that is looked at for the sake of an insert is counted here, once for each look.
    fn look_at(&mut self, lines: usize) {
        self.looked += lines as u64;
        self.left = self.left.saturating_sub(lines);
    }

    fn line(&self, number: u64) -> (Line, Line) {
        let (_, content) = line::own(self.part().line(number));
        let line = Line::decode(&content);
        (line, line)
    }

    /// Writes a line that held `old`.
    fn put_line(&mut self, number: u64, old: &Line, new: &Line) {
        let change = sum_of(new).wrapping_sub(sum_of(old));
        self.sum = self.sum.wrapping_add(change);
        if let Some(verifying) = &mut self.verifying {
            verifying.note(number, change, old, new);
        }
        let entries = |line: &Line| line.entries().count() as u64;
        // In a damaged line of an earlier run there may be more than were counted.
        self.entries = self
            .entries
            .wrapping_add(entries(new))
            .wrapping_sub(entries(old));
        line::write(number, self.part().line(number), &new.encode());
    }

    fn tell_entries(&self) {
        self.table
            .entries(self.partition)
            .store(self.entries, Relaxed);
    }

    /// Fills a free place. The hint is raised where the line is not the key's home.
    fn put(&mut self, number: u64, at: usize, slot: Slot, heat: Heat) {
        let (old, mut line) = self.line(number);
        debug_assert!(line.slots[at].is_none());
        line.slots[at] = Some(slot);
        self.part().change_heat(number, at, |_| heat);
        self.put_line(number, &old, &line);
        let (home, hash) = self.home_of(&slot);
        if home != number {
            self.raise(home, hash.class());
        }
        self.tell_entries();
    }

    /// Empties a place. The hint is lowered where the line is not the key's home.
    fn take_out(&mut self, number: u64, at: usize) {
        let (old, mut line) = self.line(number);
        let Some(slot) = line.slots[at].take() else {
            return;
        };
        self.put_line(number, &old, &line);
        let (home, hash) = self.home_of(&slot);
        if home != number {
            self.lower(home, hash.class());
        }
        self.tell_entries();
    }

    fn raise(&self, home: u64, class: usize) {
        let hints = self.part().hints(home);
        self.part().set_hints(home, raised(hints, class));
    }

    /// Three means three or more, so there the class is counted anew, unless that is too much for the insert under way:
    /// a hint that is too high costs lookups a line, and the next split of the home makes it right. A hint of an earlier
    /// run that is not verified yet may be too low already.
    fn lower(&mut self, home: u64, class: usize) {
        let unverified = |verifying: &Verifying| home >= verifying.next;
        if self.verifying.as_ref().is_some_and(unverified) {
            return;
        }
        let hints = self.part().hints(home);
        let less = match hints >> (2 * class) & 3 {
            0 => return,
            3 if self.left < TURNS_OF_CLASS as usize => return,
            3 => self.count_elsewhere(home, class).min(3),
            count => count - 1,
        };
        let others = hints & !(3 << (2 * class));
        self.part().set_hints(home, others | less << (2 * class));
    }

    /// Whether an entry's place in the log is being cleared.
    fn is_dead(&self, slot: &Slot) -> bool {
        let dead = |clearing: &Clearing| clearing.range.contains(&slot.entry.position);
        self.clearing.as_ref().is_some_and(dead)
    }

    /// Takes those entries out of a line that a clearing under way would take out anyway, so that none of them is
    /// moved past it.
    fn drop_dead(&mut self, number: u64) {
        if self.clearing.is_some() {
            for (at, slot) in self.line(number).0.entries() {
                if self.is_dead(&slot) {
                    self.take_out(number, at);
                }
            }
        }
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(super) fn sum(&self) -> u64 {
        self.sum
    }
}

fn raised(hints: u16, class: usize) -> u16 {
    let count = hints >> (2 * class) & 3;
    if count < 3 {
        hints + (1 << (2 * class))
    } else {
        hints
    }
}

/// Adds up over all lines to the same whatever the order, and to another value when an entry is lost, old or double.
pub(super) fn sum_of(line: &Line) -> u64 {
    let one = |(_, slot): (usize, Slot)| {
        let Entry {
            position,
            length,
            flags,
        } = slot.entry;
        let key = fold(
            slot.fingerprint.low ^ 0x9e37_79b9_7f4a_7c15,
            slot.fingerprint.high ^ 0xd6e8_feb8_6659_fd93,
        );
        let place = position.block() << 8 | u64::from(flags.0);
        fold(key ^ place, length.bytes() ^ 0xa076_1d64_78bd_642f)
    };
    line.entries().map(one).fold(0, u64::wrapping_add)
}

/// A run of blocks of the log.
pub type PositionRange = Range<Position>;
