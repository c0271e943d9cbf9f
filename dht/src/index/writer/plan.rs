//! What a split is going to change, worked out before anything is.
//!
//! A split is about the entries of line `old`, and about those whose home it is but that are elsewhere. Afterwards each
//! is in `old`, in `new`, or in its other line, which is another one for all keys whose home is `new` by then. Both
//! lines have two seats. Who gets them:
//!
//! 1. Who can be nowhere else: both its lines are these two, or no room was found in its other line (`stubborn`).
//! 2. Guests of `old`, who have their home somewhere else.
//! 3. Who is in `old` already, and at home there.
//! 4. Who is elsewhere and may come home now.
//!
//! Rule 1 keeps the table growing. Four keys of one home that have the same other line fill both lines for good, which
//! chance brings about in one of some ten million homes. If a key of this split finds its other line to be such a one,
//! somebody else has to leave the seat that it needs.

use super::{Writer, raised};
use crate::index::address::{CLASSES, Shape, TURNS_OF_CLASS};
use crate::index::entry::{Fingerprint, Heat};
use crate::index::line::Slot;
use crate::limits::SLOTS;

/// An entry to be written, with what it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub(super) slot: Slot,
    pub(super) heat: Heat,
    /// Where it was.
    pub(super) line: u64,
    pub(super) at: usize,
}

/// What a split is going to change.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) next: Shape,
    /// The content of the line that is split, and of the new one.
    pub(super) old_line: [Option<Moving>; SLOTS],
    pub(super) new_line: [Option<Moving>; SLOTS],
    /// Entries elsewhere that leave their place: they come home, or go to their new other line.
    pub(super) leaving: Vec<Moving>,
    pub(super) arriving: Vec<(u64, usize, Moving)>,
    pub(super) old_hints: u16,
    pub(super) new_hints: u16,
}

/// What stands in a split's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// An entry wants a place in this line, which is full.
    Full { line: u64, key: Fingerprint },
    /// A guest has no seat left, and has to go home first.
    Guest { at: usize },
    /// More entries want a seat than there are, and none of them can be anywhere else.
    Seats,
}

/// An entry that a split is about.
#[derive(Debug, Clone, Copy)]
struct Wish {
    moving: Moving,
    /// Which of the two lines it is to have a seat in.
    line: u64,
    /// None for a guest.
    other: Option<u64>,
    class: usize,
    rank: u8,
}

impl Writer {
    pub(super) fn plan(&mut self) -> Result<Plan, Obstacle> {
        let (old, new, next) = {
            let shape = self.shape();
            (shape.split(), shape.lines(), shape.next())
        };
        let mut plan = Plan {
            next,
            old_line: [None; SLOTS],
            new_line: [None; SLOTS],
            leaving: Vec::new(),
            arriving: Vec::new(),
            old_hints: 0,
            new_hints: 0,
        };
        let mut wishes = self.wishes(old, next);
        wishes.sort_by_key(|wish| wish.rank);
        for wish in wishes {
            let Wish { moving, line, .. } = wish;
            if plan.seat(line == new, moving) {
                if moving.line != old {
                    plan.leaving.push(moving);
                }
                continue;
            }
            let Some(other) = wish.other else {
                return Err(Obstacle::Guest { at: moving.at });
            };
            let hints = plan.hints(line == new);
            *hints = raised(*hints, wish.class);
            if other == moving.line && other != old {
                continue;
            }
            if moving.line != old {
                plan.leaving.push(moving);
            }
            if other == new || other == old {
                if !plan.seat(other == new, moving) {
                    return Err(Obstacle::Seats);
                }
                continue;
            }
            let free = self.free_for(&plan, other);
            let key = moving.slot.fingerprint;
            let line = other;
            let at = free.ok_or(Obstacle::Full { line, key })?;
            plan.arriving.push((line, at, moving));
        }
        Ok(plan)
    }

    fn wishes(&mut self, old: u64, next: Shape) -> Vec<Wish> {
        let seeds = self.table.seeds;
        self.look_at(1);
        self.drop_dead(old);
        let elsewhere = self.elsewhere(old);
        let inside = self.line(old).0.entries();
        let inside = inside.map(|(at, slot)| self.taken(old, at, slot));
        let wish = |moving: Moving| {
            let (home, hash) = self.home_of(&moving.slot);
            let class = hash.class();
            let stubborn = self.stubborn.contains(&moving.slot.fingerprint);
            if home != old {
                return Wish {
                    moving,
                    line: next.other(seeds, home, hash.turn()),
                    other: None,
                    class,
                    rank: if stubborn { 0 } else { 1 },
                };
            }
            let line = next.home(hash);
            let other = next.other(seeds, line, hash.turn());
            let confined = other == old || other == self.shape().lines();
            Wish {
                moving,
                line,
                other: Some(other),
                class,
                rank: match moving.line {
                    _ if stubborn || confined => 0,
                    from if from == old => 2,
                    _ => 3,
                },
            }
        };
        inside.chain(elsewhere).map(wish).collect()
    }

    /// A place in a line that is free, and that the plan has not given away.
    fn free_for(&mut self, plan: &Plan, line: u64) -> Option<usize> {
        self.look_at(1);
        let there = self.line(line).0;
        let given = |at: usize| {
            let mut arriving = plan.arriving.iter();
            arriving.any(|(its_line, its_at, _)| (*its_line, *its_at) == (line, at))
        };
        (0..SLOTS).find(|at| there.slots[*at].is_none() && !given(*at))
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
    pub(super) fn count_elsewhere(&mut self, home: u64, class: usize) -> u16 {
        self.look_at(TURNS_OF_CLASS as usize);
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

    /// The keys of `home` that are in their other lines. Those that a clearing would take out are taken out.
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
        self.look_at(turns.len());
        let mut found = Vec::new();
        for (turn, line) in turns {
            for (at, slot) in self.line(line).0.entries() {
                let (its_home, hash) = self.home_of(&slot);
                if its_home != home || hash.turn() != turn {
                    continue;
                }
                if self.is_dead(&slot) {
                    self.take_out(line, at);
                } else {
                    found.push(self.taken(line, at, slot));
                }
            }
        }
        found
    }
}

impl Plan {
    /// Puts an entry into the new line or the old one, where there is room.
    fn seat(&mut self, new: bool, moving: Moving) -> bool {
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

    fn hints(&mut self, new: bool) -> &mut u16 {
        if new {
            &mut self.new_hints
        } else {
            &mut self.old_hints
        }
    }
}
