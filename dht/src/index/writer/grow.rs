//! Growing by one line: the keys of line `split` are dealt out between it and a new last line.
//!
//! Besides the two entries in the line there are those of its keys that are elsewhere; the hints say in which of 256
//! lines to look. They come home where there is room now. While the split lasts, the shape says so, and a reader that
//! does not find a key that has to do with these lines waits: some hundred nanoseconds, for one line in all of them.
//!
//! Invariant: an insert does two steps of growing at most, and none for which the lines that it may still look at would
//! not suffice. That is enough: from seven tenths on, seven inserts call for five splits and may do fourteen steps, and
//! a table that cannot grow for a while has a tenth of its places left until inserts find no room.

use super::Writer;
use super::plan::{Moving, Obstacle, Plan};
use crate::index::address::{CLASSES, Hash};
use crate::index::entry::Fingerprint;
use crate::index::line::Line;
use crate::limits::{GROW_PERMILLE, SLOTS, SPLIT_LINES_MAX};

/// Steps of growing in one insert.
const STEPS_OF_INSERT: u32 = 2;
/// Lines held free for the next split; more than any split takes are those of plans that have changed.
pub(super) const HELD_MAX: usize = 16;
/// More keys than have anything to do with one split.
pub(super) const STUBBORN_MAX: usize = 16;

/// No line is left, or no room for a key whose other line is another one after the split.
#[derive(Debug)]
pub(in crate::index) struct Blocked;

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
        for _ in 0..STEPS_OF_INSERT {
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
        if self.left < SPLIT_LINES_MAX {
            return Ok(false);
        }
        match self.plan() {
            Ok(plan) => {
                self.carry_out(&plan);
                self.forget_plans();
                return Ok(true);
            }
            Err(Obstacle::Full { line, key }) => {
                // Room that was made for one entry is not to be taken again by making room for the next.
                let held = std::mem::take(&mut self.held);
                let room = self.make_room(&[line], &held);
                self.held = held;
                match room {
                    Some(_) => self.hold(line)?,
                    None => self.insist(key)?,
                }
            }
            Err(Obstacle::Guest { at }) => self.send_home(at)?,
            Err(Obstacle::Seats) => return Err(self.blocked()),
        }
        Ok(false)
    }

    fn forget_plans(&mut self) {
        self.held.clear();
        self.stubborn.clear();
    }

    /// Nothing that was found out about this split has helped. The next step begins anew, with other entries around.
    fn blocked(&mut self) -> Blocked {
        self.forget_plans();
        Blocked
    }

    fn hold(&mut self, line: u64) -> Result<(), Blocked> {
        if self.held.len() == HELD_MAX {
            return Err(self.blocked());
        }
        self.held.push(line);
        Ok(())
    }

    /// No room was found for a key: from now on others have to make way for it.
    fn insist(&mut self, key: Fingerprint) -> Result<(), Blocked> {
        // What the insert had left may have been too little to look for room.
        if self.left == 0 {
            return Ok(());
        }
        if self.stubborn.contains(&key) || self.stubborn.len() == STUBBORN_MAX {
            return Err(self.blocked());
        }
        self.stubborn.push(key);
        Ok(())
    }

    /// Moves a guest out of the line that is to be split.
    fn send_home(&mut self, at: usize) -> Result<(), Blocked> {
        let old = self.shape().split();
        let Some(guest) = self.line(old).0.slots[at] else {
            return Ok(());
        };
        let (home, _) = self.home_of(&guest);
        self.look_at(1);
        let free = self.line(home).0.free().map(|slot| (home, slot));
        match free.or_else(|| self.make_room(&[home], &[])) {
            Some(free) => {
                self.move_entry((old, at), free);
                Ok(())
            }
            None => self.insist(guest.fingerprint),
        }
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
        // Of a key that leaves its home for its other line, the hint tells before it is gone.
        let hints = either(self.part().hints(old), plan.old_hints);
        self.part().set_hints(old, hints);
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

/// The higher hint of each class.
fn either(a: u16, b: u16) -> u16 {
    let classes =
        (0..CLASSES).map(|class| (a >> (2 * class) & 3).max(b >> (2 * class) & 3) << (2 * class));
    classes.sum()
}
