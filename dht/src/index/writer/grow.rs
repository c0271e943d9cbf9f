//! Growing by one line: the keys of line `split` are dealt out between it and a new last line.
//!
//! Besides the two entries in the line there are those of its keys that are elsewhere; the hints say in which of 256
//! lines to look. They come home where there is room now. While the split lasts, the shape says so, and a reader that
//! does not find a key that has to do with these lines waits: some hundred nanoseconds, for one line in all of them.

use super::{Writer, raised};
use crate::index::address::{CLASSES, Hash, Shape, TURNS_OF_CLASS};
use crate::index::entry::Heat;
use crate::index::line::{Line, Slot};
use crate::limits::{GROW_PERMILLE, SEARCH_LINES_MAX, SLOTS};

/// Steps of growing in one insert: at seven tenths full, two inserts need hardly three.
const STEPS_OF_INSERT: u32 = 2;
/// Steps for a key that found no room.
const STEPS_OF_RESCUE: u32 = 4;
/// Lines held free for the next split; more than any split takes are those of plans that have changed.
const HELD_MAX: usize = 16;
/// Above this many of 1000 places taken, growing has fallen behind and may look further for room.
const BEHIND_PERMILLE: u64 = 750;
/// Lines looked at for the room of one entry, when growing has fallen behind.
const ROOM_LINES_BEHIND: usize = 1024;

/// No line is left, or no room for a key whose other line is another one after the split.
#[derive(Debug)]
pub(in crate::index) struct Blocked;

/// An entry to be written, with what it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub(super) slot: Slot,
    heat: Heat,
    /// Where it was.
    line: u64,
    at: usize,
}

/// What a split is going to change.
#[derive(Debug)]
struct Plan {
    next: Shape,
    /// The content of the line that is split, and of the new one.
    old_line: [Option<Moving>; SLOTS],
    new_line: [Option<Moving>; SLOTS],
    /// Entries elsewhere that leave their place: they come home, or go to their new other line.
    leaving: Vec<Moving>,
    arriving: Vec<(u64, usize, Moving)>,
    old_hints: u16,
    new_hints: u16,
}

impl Writer {
    /// Goes on growing where the partition is fuller than it should be and may still grow. A bounded piece of work.
    pub(super) fn grow(&mut self) {
        for _ in 0..STEPS_OF_INSERT {
            let slots = self.shape().lines() * SLOTS as u64;
            let wanted = self.entries * 1000 > slots * GROW_PERMILLE;
            // Making room is the longer kind of step, and enough for one insert.
            if !wanted || !matches!(self.step(), Ok(true)) {
                return;
            }
        }
    }

    /// Room for a key that finds none, where growing a little out of turn brings it.
    pub(super) fn room_by_growing(&mut self, hash: Hash) -> Option<(u64, usize)> {
        for _ in 0..STEPS_OF_RESCUE {
            if self.step().ok()?
                && let Some(room) = self.room_for(hash)
            {
                return Some(room);
            }
        }
        None
    }

    /// Splits a line, or makes the room that this takes first. True when it is split.
    pub(in crate::index) fn step(&mut self) -> Result<bool, Blocked> {
        if self.shape().lines() >= self.table.layout.lines_max {
            return Err(Blocked);
        }
        match self.plan() {
            Ok(plan) => {
                self.carry_out(&plan);
                self.held.clear();
                Ok(true)
            }
            Err(full) => {
                // Room that was made for one entry is not to be taken again by making room for the next.
                let mut held = std::mem::take(&mut self.held);
                if held.len() > HELD_MAX {
                    held.clear();
                }
                let slots = self.shape().lines() * SLOTS as u64;
                let most = if self.entries * 1000 > slots * BEHIND_PERMILLE {
                    ROOM_LINES_BEHIND
                } else {
                    SEARCH_LINES_MAX
                };
                // One at a time, so that a step stays short.
                let line = full[0];
                self.make_room(&[line], &held, most).ok_or(Blocked)?;
                held.push(line);
                self.held = held;
                Ok(false)
            }
        }
    }

    fn taken(&self, line: u64, at: usize, slot: Slot) -> Moving {
        let heat = self.part().heat(line, at);
        Moving {
            slot,
            heat,
            line,
            at,
        }
    }

    /// How many keys of a home's class are in their other lines.
    pub(super) fn count_elsewhere(&self, home: u64, class: usize) -> u16 {
        let first = class as u64 * TURNS_OF_CLASS;
        let turns = first..first + TURNS_OF_CLASS;
        let others = turns.map(|turn| {
            let line = self.shape().other(self.table.seeds, home, turn);
            let entries = self.line(line).0.entries();
            let counted = entries.filter(|(_, slot)| {
                let (its_home, hash) = self.home_of(slot);
                its_home == home && hash.turn() == turn
            });
            counted.count() as u16
        });
        others.sum()
    }

    /// The keys of `home` that are in their other lines.
    pub(super) fn elsewhere(&mut self, home: u64) -> Vec<Moving> {
        let (shape, seeds) = (self.shape(), self.table.seeds);
        let hints = self.part().hints(home);
        let mut turns = Vec::new();
        for class in (0..CLASSES).filter(|class| hints >> (2 * class) & 3 != 0) {
            let first = class as u64 * TURNS_OF_CLASS;
            turns.extend((first..first + TURNS_OF_CLASS).map(|turn| {
                let line = shape.other(seeds, home, turn);
                self.part().prefetch_line(line);
                (turn, line)
            }));
        }
        let mut found = Vec::new();
        for (turn, line) in turns {
            self.drop_dead(line);
            for (at, slot) in self.line(line).0.entries() {
                let (its_home, hash) = self.home_of(&slot);
                if its_home == home && hash.turn() == turn {
                    found.push(self.taken(line, at, slot));
                }
            }
        }
        found
    }

    /// Err names the lines that are full and in which an entry needs room first.
    fn plan(&mut self) -> Result<Plan, Vec<u64>> {
        let (shape, seeds) = (self.shape(), self.table.seeds);
        let (old, new, next) = (shape.split(), shape.lines(), shape.next());
        self.drop_dead(old);
        let mut elsewhere = self.elsewhere(old);
        let mut plan = Plan {
            next,
            old_line: [None; SLOTS],
            new_line: [None; SLOTS],
            leaving: Vec::new(),
            arriving: Vec::new(),
            old_hints: 0,
            new_hints: 0,
        };
        for (at, slot) in self.line(old).0.entries() {
            let (home, hash) = self.home_of(&slot);
            let line = if home == old {
                next.home(hash)
            } else {
                next.other(seeds, home, hash.turn())
            };
            let moving = Some(self.taken(old, at, slot));
            if line == old {
                plan.old_line[at] = moving;
            } else {
                debug_assert_eq!(line, new);
                plan.new_line[at] = moving;
            }
        }
        // Those first that can be in these two lines only.
        elsewhere.sort_by_key(|moving| {
            let hash = seeds.hash(moving.slot.fingerprint);
            let other = next.other(seeds, next.home(hash), hash.turn());
            other != old && other != new
        });
        let mut full = Vec::new();
        for moving in elsewhere {
            let hash = seeds.hash(moving.slot.fingerprint);
            let home = next.home(hash);
            if plan.settle(home == new, moving) {
                plan.leaving.push(moving);
                continue;
            }
            let hints = if home == new {
                &mut plan.new_hints
            } else {
                &mut plan.old_hints
            };
            *hints = raised(*hints, hash.class());
            let other = next.other(seeds, home, hash.turn());
            if other == moving.line {
                continue;
            }
            plan.leaving.push(moving);
            if other == new || other == old {
                // A guest of the line that its siblings fill: making room in the old one changes the plan.
                if !plan.settle(other == new, moving) {
                    full.push(old);
                }
                continue;
            }
            let taken = |at: &usize| {
                let there = self.line(other).0.slots[*at].is_some();
                !there
                    && plan
                        .arriving
                        .iter()
                        .all(|(line, slot, _)| (*line, *slot) != (other, *at))
            };
            match (0..SLOTS).find(taken) {
                Some(free) => plan.arriving.push((other, free, moving)),
                None => full.push(other),
            }
        }
        if full.is_empty() { Ok(plan) } else { Err(full) }
    }

    fn carry_out(&mut self, plan: &Plan) {
        let shape = self.shape();
        let (old, new) = (shape.split(), shape.lines());
        self.part().set_shape(shape.while_splitting());
        self.fill(new, &plan.new_line);
        for (line, at, moving) in &plan.arriving {
            let (before, mut after) = self.line(*line);
            after.slots[*at] = Some(moving.slot);
            self.part().change_heat(*line, *at, |_| moving.heat);
            self.put_line(*line, &before, &after);
        }
        self.fill(old, &plan.old_line);
        for moving in &plan.leaving {
            let (before, mut after) = self.line(moving.line);
            after.slots[moving.at] = None;
            self.put_line(moving.line, &before, &after);
        }
        self.part().set_hints(new, plan.new_hints);
        self.part().set_hints(old, plan.old_hints);
        self.part().set_shape(plan.next);
        self.tell_entries();
    }

    fn fill(&mut self, number: u64, places: &[Option<Moving>; SLOTS]) {
        let (before, mut after) = (self.line(number).0, Line::default());
        for (at, moving) in places.iter().enumerate() {
            if let Some(moving) = moving {
                after.slots[at] = Some(moving.slot);
                self.part().change_heat(number, at, |_| moving.heat);
            }
        }
        if before != after {
            self.put_line(number, &before, &after);
        }
    }
}

impl Plan {
    /// Puts an entry into the new line or the old one, where there is room.
    fn settle(&mut self, new: bool, moving: Moving) -> bool {
        let line = if new {
            &mut self.new_line
        } else {
            &mut self.old_line
        };
        match line.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(moving);
                true
            }
            None => false,
        }
    }
}
