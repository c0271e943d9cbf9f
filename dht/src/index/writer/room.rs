//! Making room: when a key's two lines are full, entries are moved to their own other lines, along the shortest path
//! that ends at a free place.

use super::Writer;
use crate::index::address::Hash;
use crate::index::line::Line;
use crate::limits::{SEARCH_LINES_MAX, SLOTS};

/// A place that was reached, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    line: u64,
    slot: usize,
    /// The place whose entry may move to this line. None for the lines where room is wanted.
    from: Option<usize>,
    /// The line that this place's entry may move to.
    to: u64,
}

/// Lines that a search has seen, by some bits of their numbers. That a line is mistaken for another now and then makes
/// the search pass it by, no more.
struct Reached([u64; 128]);

impl Reached {
    fn first_time(&mut self, line: u64) -> bool {
        let bits = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 13);
        let (word, bit) = (&mut self.0[(bits / 64) as usize], 1 << (bits % 64));
        let first = *word & bit == 0;
        *word |= bit;
        first
    }
}

impl Writer {
    /// A free place for a key: at home, else in its other line, else after moving others.
    pub(super) fn room_for(&mut self, hash: Hash) -> Option<(u64, usize)> {
        let shape = self.shape();
        let home = shape.home(hash);
        let other = shape.other(self.table.seeds, home, hash.turn());
        for line in [home, other] {
            self.drop_dead(line);
            if let Some(slot) = self.line(line).0.free() {
                return Some((line, slot));
            }
        }
        self.make_room(&[home, other], &[], SEARCH_LINES_MAX)
    }

    /// Empties a place in one of these lines, which are full, and takes none in those that are held. Looks at so many
    /// lines at most.
    pub(in crate::index) fn make_room(
        &mut self,
        lines: &[u64],
        held: &[u64],
        most: usize,
    ) -> Option<(u64, usize)> {
        let mut nodes = std::mem::take(&mut self.search);
        nodes.clear();
        let place = self.search(&mut nodes, lines, held, most);
        self.search = nodes;
        place
    }

    /// Breadth first, so that as few entries as possible move.
    fn search(
        &mut self,
        nodes: &mut Vec<Node>,
        lines: &[u64],
        held: &[u64],
        most: usize,
    ) -> Option<(u64, usize)> {
        let mut reached = Reached([0; 128]);
        for line in held {
            reached.first_time(*line);
        }
        for line in lines {
            reached.first_time(*line);
            self.reach(nodes, *line, None);
        }
        let mut at = 0;
        while at < nodes.len() {
            let to = nodes[at].to;
            if reached.first_time(to) {
                self.drop_dead(to);
                if let Some(slot) = self.line(to).0.free() {
                    return Some(self.shift(nodes, at, (to, slot)));
                }
                if nodes.len() < most * SLOTS {
                    self.reach(nodes, to, Some(at));
                }
            }
            at += 1;
        }
        None
    }

    /// Adds the places of a full line.
    fn reach(&self, nodes: &mut Vec<Node>, number: u64, from: Option<usize>) {
        for (slot, entry) in self.line(number).0.entries() {
            let (home, hash) = self.home_of(&entry);
            let to = if home == number {
                self.shape().other(self.table.seeds, home, hash.turn())
            } else {
                home
            };
            self.part().prefetch_line(to);
            nodes.push(Node {
                line: number,
                slot,
                from,
                to,
            });
        }
    }

    /// Moves the entries along a path, the last one first. Returns the place at its beginning, free now.
    fn shift(&mut self, nodes: &[Node], last: usize, free: (u64, usize)) -> (u64, usize) {
        let (mut free, mut next) = (free, Some(last));
        while let Some(at) = next {
            let Node {
                line, slot, from, ..
            } = nodes[at];
            self.move_entry((line, slot), free);
            free = (line, slot);
            next = from;
        }
        free
    }

    /// Moves an entry from one of its lines to the other, in the order that keeps it in readers' sight.
    fn move_entry(&mut self, from: (u64, usize), to: (u64, usize)) {
        let entries = |line: &Line| line.slots[from.1];
        if let Some(slot) = entries(&self.line(from.0).0) {
            let heat = self.part().heat(from.0, from.1);
            self.put(to.0, to.1, slot, heat);
            self.take_out(from.0, from.1);
        }
    }
}
