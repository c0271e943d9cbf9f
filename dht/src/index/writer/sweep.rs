//! What goes over all lines of a partition: verification after a start, clearing a slab, a scan. The first two go in
//! steps as small as the caller likes, between which the index is used as ever.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::{PositionRange, Writer, raised, sum_of};
use crate::index::address::{CLASSES, Hash};
use crate::index::entry::{Entry, Fingerprint, Heat, Position};
use crate::index::line::{self, Line};

/// Whether hints lead to all that was counted.
fn covers(hints: u16, counted: u16) -> bool {
    let count = |hints: u16, class: usize| hints >> (2 * class) & 3;
    hints == counted || (0..CLASSES).all(|class| count(hints, class) >= count(counted, class))
}

/// A clearing under way.
#[derive(Debug)]
pub(super) struct Clearing {
    pub(super) range: Range<Position>,
    next: u64,
}

/// A verification under way: what was seen in the lines before `next`, kept up to date with what is written there.
///
/// As long as nothing is written, one pass over all lines counts which keys are elsewhere, and one over the hints compares:
/// twenty times as fast as looking each home's keys up. The first write ends that, and the verification begins anew.
#[derive(Debug, Default)]
pub(super) struct Verifying {
    pub(super) next: u64,
    sum: u64,
    entries: u64,
    was_written: bool,
    /// What the hints of each line have to say at least.
    counted: Vec<u16>,
    /// Lines whose hints were compared.
    compared: u64,
}

impl Verifying {
    pub(super) fn note(&mut self, number: u64, change: u64, old: &Line, new: &Line) {
        if !self.was_written {
            *self = Self {
                was_written: true,
                ..Self::default()
            };
        }
        if number < self.next {
            let entries = |line: &Line| line.entries().count() as u64;
            self.sum = self.sum.wrapping_add(change);
            self.entries = self
                .entries
                .wrapping_add(entries(new))
                .wrapping_sub(entries(old));
        }
    }
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// There are lines left.
    Unfinished,
    /// Every line is right, and together they are what the last run left.
    Sound,
    /// Something is wrong: the index is not to be believed, and has to be made anew.
    Damaged,
}

impl Writer {
    /// Verifies some more lines of an adopted partition: each line's checksum, that every entry is in one of its
    /// lines and can be found there, and in the end that all entries are there and none is old.
    pub fn verify_step(&mut self, lines: u64) -> Verification {
        if self.part().trust().damaged.load(Relaxed) {
            return Verification::Damaged;
        }
        let Some(verifying) = &self.verifying else {
            return Verification::Sound;
        };
        let all = self.shape().lines();
        let done = if verifying.was_written {
            let first = verifying.next;
            let end = first.saturating_add(lines).min(all);
            (first..end)
                .all(|number| self.verify_line(number))
                .then_some(end == all)
        } else {
            self.verify_unwritten(lines, all)
        };
        match done {
            None => return self.distrust(),
            Some(false) => return Verification::Unfinished,
            Some(true) => {}
        }
        let seen = self.verifying.as_ref().map(|seen| (seen.sum, seen.entries));
        if seen != Some((self.sum, self.entries)) {
            return self.distrust();
        }
        self.verifying = None;
        self.part().trust().verified.store(true, Relaxed);
        Verification::Sound
    }

    fn distrust(&self) -> Verification {
        self.part().trust().damaged.store(true, Relaxed);
        Verification::Damaged
    }

    /// Verifies some more of lines that nobody writes; whether that was all, or `None` if something is wrong.
    fn verify_unwritten(&mut self, lines: u64, all: u64) -> Option<bool> {
        let mut verifying = self.verifying.take()?;
        let done = self.verify_lines(&mut verifying, lines, all);
        self.verifying = Some(verifying);
        done
    }

    fn verify_lines(&self, verifying: &mut Verifying, lines: u64, all: u64) -> Option<bool> {
        if verifying.counted.is_empty() {
            verifying.counted = vec![0; all as usize];
        }
        let first = verifying.next;
        let end = first.saturating_add(lines).min(all);
        for number in first..end {
            let counted = &mut verifying.counted;
            let line = self.checked_line(number, |home, hash| {
                let hints = &mut counted[home as usize];
                *hints = raised(*hints, hash.class());
            })?;
            verifying.sum = verifying.sum.wrapping_add(sum_of(&line));
            verifying.entries += line.entries().count() as u64;
        }
        verifying.next = end;
        let left = lines - (end - first);
        let from = verifying.compared;
        let to = if end == all {
            from.saturating_add(left).min(all)
        } else {
            from
        };
        for number in from..to {
            let counted = verifying.counted[number as usize];
            if !covers(self.part().hints(number), counted) {
                return None;
            }
            self.part().set_hints(number, counted);
        }
        verifying.compared = to;
        Some(to == all)
    }

    /// Verifies the next line, and the hints of the keys whose home it is.
    fn verify_line(&mut self, number: u64) -> bool {
        let hints = self.part().hints(number);
        let elsewhere = self.elsewhere(number);
        let mut counted = 0;
        for moving in elsewhere {
            let hash = self.table.seeds.hash(moving.slot.fingerprint);
            counted = raised(counted, hash.class());
        }
        if !covers(hints, counted) {
            return false;
        }
        let Some(line) = self.checked_line(number, |_, _| {}) else {
            return false;
        };
        self.part().set_hints(number, counted);
        if let Some(verifying) = &mut self.verifying {
            verifying.sum = verifying.sum.wrapping_add(sum_of(&line));
            verifying.entries += line.entries().count() as u64;
            verifying.next = number + 1;
        }
        true
    }

    /// A line that is right, each key of which is at home there or can be found there; shows the homes of the latter.
    fn checked_line(&self, number: u64, mut show: impl FnMut(u64, Hash)) -> Option<Line> {
        let part = self.part();
        let (first, content) = line::own(part.line(number));
        let line = Line::check(number, first, &content).ok()?;
        for (at, slot) in line.entries() {
            let (home, hash) = self.home_of(&slot);
            if home != number {
                let other = self.shape().other(self.table.seeds, home, hash.turn());
                if number != other || part.hint(home, hash.class()) == 0 {
                    return None;
                }
                show(home, hash);
            }
            // A key that is there twice would have two answers.
            let twice = line
                .entries()
                .any(|(other, twin)| other != at && twin.fingerprint == slot.fingerprint);
            if twice {
                return None;
            }
        }
        Some(line)
    }

    /// Begins to take out all entries whose position is in this range, such as a slab's. The range must not get new
    /// entries before it is done. Lookups find such an entry until the clearing has come to it.
    ///
    /// Panics where another clearing is under way.
    pub fn begin_clear(&mut self, range: PositionRange) {
        assert!(self.clearing.is_none(), "one clearing at a time");
        self.clearing = Some(Clearing { range, next: 0 });
    }

    /// Clears some more lines. True when the clearing is done.
    pub fn clear_step(&mut self, lines: u64) -> bool {
        let Some(clearing) = &self.clearing else {
            return true;
        };
        let first = clearing.next;
        let end = first.saturating_add(lines).min(self.shape().lines());
        for number in first..end {
            self.drop_dead(number);
        }
        let done = end == self.shape().lines();
        if done {
            self.clearing = None;
        } else if let Some(clearing) = &mut self.clearing {
            clearing.next = end;
        }
        done
    }

    /// Takes out all entries whose position is in this range, at once. Returns how many.
    pub fn clear(&mut self, range: PositionRange) -> u64 {
        let before = self.entries;
        self.begin_clear(range);
        while !self.clear_step(u64::MAX) {}
        before - self.entries
    }

    /// Shows every entry of the partition once.
    pub fn scan(&self, mut show: impl FnMut(Fingerprint, Entry, Heat)) {
        for number in 0..self.shape().lines() {
            for (at, slot) in self.line(number).0.entries() {
                show(slot.fingerprint, slot.entry, self.part().heat(number, at));
            }
        }
    }

    /// Halves the heat of some lines' entries, from `first` on, and shows each with what it has left. Returns the line
    /// to go on with; after the last one that is 0. An eviction clock's hand.
    pub fn cool(
        &mut self,
        first: u64,
        lines: u64,
        mut show: impl FnMut(Fingerprint, Entry, Heat),
    ) -> u64 {
        let all = self.shape().lines();
        let end = first.saturating_add(lines).min(all);
        for number in first..end {
            for (at, slot) in self.line(number).0.entries() {
                let part = self.part();
                part.change_heat(number, at, |heat| Heat(heat.0 / 2));
                show(slot.fingerprint, slot.entry, part.heat(number, at));
            }
        }
        if end == all { 0 } else { end }
    }
}
