//! Making room: when a key's two lines are full, entries are moved to their own other lines, along the shortest path
//! that ends at a free place.

use super::Writer;
use crate::index::address::Hash;
use crate::index::line::Line;
use crate::limits::{SEARCH_LINES_MAX, SEARCH_MOVES_MAX, SLOTS};

/// A place that was reached, and from where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    line: u64,
    /// The line that this place's entry may move to.
    to: u64,
    /// The place whose entry may move to this line. None for the lines where room is wanted.
    from: Option<u16>,
    slot: u8,
    /// Entries that move if this one does.
    moves: u8,
}

/// Places of one search.
pub(super) const NODES_MAX: usize = (SEARCH_LINES_MAX + 2) * SLOTS;

const _: () = assert!(NODES_MAX <= u16::MAX as usize && SEARCH_MOVES_MAX <= u8::MAX as usize);

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
        self.look_at(2);
        for line in [home, other] {
            self.drop_dead(line);
            if let Some(slot) = self.line(line).0.free() {
                return Some((line, slot));
            }
        }
        self.make_room(&[home, other], &[])
    }

    /// Empties a place in one of these lines, which are full, and takes none in those that are held.
    pub(in crate::index) fn make_room(
        &mut self,
        lines: &[u64],
        held: &[u64],
    ) -> Option<(u64, usize)> {
        let mut nodes = std::mem::take(&mut self.search);
        nodes.clear();
        let place = self.search(&mut nodes, lines, held);
        self.search = nodes;
        place
    }

    /// Breadth first, so that as few entries as possible move.
    fn search(
        &mut self,
        nodes: &mut Vec<Node>,
        lines: &[u64],
        held: &[u64],
    ) -> Option<(u64, usize)> {
        let mut most = SEARCH_LINES_MAX.min(self.left);
        let mut reached = Reached([0; 128]);
        for line in held {
            reached.first_time(*line);
        }
        for line in lines {
            reached.first_time(*line);
            self.reach(nodes, *line, None);
        }
        let mut at = 0;
        while at < nodes.len() && most > 0 {
            let Node { to, moves, .. } = nodes[at];
            if reached.first_time(to) {
                most -= 1;
                self.look_at(1);
                self.drop_dead(to);
                if let Some(slot) = self.line(to).0.free() {
                    return Some(self.shift(nodes, at, (to, slot)));
                }
                if nodes.len() + SLOTS <= NODES_MAX && usize::from(moves) < SEARCH_MOVES_MAX {
                    self.reach(nodes, to, Some(at));
                }
            }
            at += 1;
        }
        None
    }

    /// Adds the places of a full line.
    fn reach(&self, nodes: &mut Vec<Node>, number: u64, from: Option<usize>) {
        let moves = from.map_or(1, |from| nodes[from].moves + 1);
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
                to,
                from: from.map(|from| from as u16),
                slot: slot as u8,
                moves,
            });
        }
    }

    /// Moves the entries along a path, the last one first. Returns the place at its beginning, free now.
    fn shift(&mut self, nodes: &[Node], last: usize, free: (u64, usize)) -> (u64, usize) {
        let (mut free, mut next) = (free, Some(last));
        while let Some(at) = next {
            let node = nodes[at];
            let place = (node.line, usize::from(node.slot));
            self.move_entry(place, free);
            free = place;
            next = node.from.map(usize::from);
        }
        free
    }

    /// Moves an entry from one of its lines to the other, in the order that keeps it in readers' sight.
    pub(super) fn move_entry(&mut self, from: (u64, usize), to: (u64, usize)) {
        let entries = |line: &Line| line.slots[from.1];
        if let Some(slot) = entries(&self.line(from.0).0) {
            let heat = self.part().heat(from.0, from.1);
            self.put(to.0, to.1, slot, heat);
            self.take_out(from.0, from.1);
        }
    }
}
