//! Many chains of moves at once, the shortest first.
//!
//! Where caps leave little room, thousands of shards can find no place by one
//! move each. One search tells how many moves every node is away from those
//! that have to give (its level), and then all chains of that length are made,
//! each going down one level with each move. A place that did not help is not
//! looked at again on that level, so a pass costs about one look at every
//! place. What these passes leave is for [`augment`](super::augment), which
//! misses nothing, but makes one chain for each search.

use super::fill::Fill;
use super::tree::NONE;

const UNREACHED: u32 = u32::MAX;

/// Nodes by their distance from what is to be placed.
struct Levels {
    /// By level: the nodes; on the last one only those that want a shard.
    nodes: Vec<Vec<u16>>,
    /// For every node: the places of its list that were looked at.
    cursor: Vec<usize>,
    /// Nodes that cannot pass anything on any more.
    is_done: Vec<bool>,
}

/// Places what is open and relieves what is heavy, as far as that goes. Nodes in `heavy` stand there as often as they are
/// above their quota.
pub(super) fn flow(fill: &mut Fill<'_>, open: &mut Vec<usize>, heavy: &mut Vec<u16>) {
    if open.is_empty() && heavy.is_empty() {
        return;
    }
    let mut own = vec![Vec::new(); fill.quota.len()];
    for (place, node) in fill.places.iter().enumerate() {
        if *node != NONE {
            own[usize::from(*node)].push(place);
        }
    }
    loop {
        let before = open.len() + heavy.len();
        let Some(mut levels) = Levels::new(fill, &own, open, heavy) else {
            return;
        };
        open.retain(|place| !levels.close(fill, &mut own, *place));
        heavy.retain(|node| !levels.pass(fill, &mut own, *node, 0));
        if open.len() + heavy.len() == before || open.len() + heavy.len() == 0 {
            return;
        }
    }
}

impl Levels {
    /// Nothing where no node that wants a shard can be reached.
    fn new(fill: &Fill<'_>, own: &[Vec<usize>], open: &[usize], heavy: &[u16]) -> Option<Self> {
        let mut level = vec![UNREACHED; fill.quota.len()];
        let mut nodes = vec![Vec::new(), Vec::new()];
        for node in heavy {
            if std::mem::replace(&mut level[usize::from(*node)], 0) == UNREACHED {
                nodes[0].push(*node);
            }
        }
        let mut fresh: Vec<u16> = (0..fill.quota.len() as u16)
            .filter(|node| level[usize::from(*node)] == UNREACHED)
            .collect();
        let reach = |place: usize, fresh: &mut Vec<u16>, reached: &mut Vec<u16>| {
            fresh.retain(|node| {
                let fits = fill.fits(place, *node);
                if fits {
                    reached.push(*node);
                }
                !fits
            });
        };
        for place in open {
            reach(*place, &mut fresh, &mut nodes[1]);
        }
        for depth in 0.. {
            let mut reached = std::mem::take(&mut nodes[depth + 1]);
            let places = nodes[depth].iter().flat_map(|node: &u16| {
                let list = own[usize::from(*node)].iter();
                list.filter(|place| fill.places[**place] == *node)
            });
            for place in places {
                if fresh.is_empty() {
                    break;
                }
                reach(*place, &mut fresh, &mut reached);
            }
            if reached.is_empty() {
                return None;
            }
            let wanting = reached.iter().filter(|node| fill.wants(**node));
            let wanting: Vec<u16> = wanting.copied().collect();
            if !wanting.is_empty() {
                nodes[depth + 1] = wanting;
                break;
            }
            nodes[depth + 1] = reached;
            nodes.push(Vec::new());
        }
        Some(Self {
            nodes,
            cursor: vec![0; fill.quota.len()],
            is_done: vec![false; fill.quota.len()],
        })
    }

    /// Closes an open place.
    fn close(&mut self, fill: &mut Fill<'_>, own: &mut [Vec<usize>], place: usize) -> bool {
        self.give(fill, own, place, 0)
    }

    /// Takes one of its shards from a node of this level.
    fn pass(
        &mut self,
        fill: &mut Fill<'_>,
        own: &mut [Vec<usize>],
        node: u16,
        depth: usize,
    ) -> bool {
        let number = usize::from(node);
        while let Some(place) = own[number].get(self.cursor[number]).copied() {
            if fill.places[place] == node && self.give(fill, own, place, depth) {
                return true;
            }
            self.cursor[number] += 1;
        }
        self.is_done[number] = true;
        false
    }

    /// Gives this place to a node of the next level, which gives up another for it unless it wants one.
    fn give(
        &mut self,
        fill: &mut Fill<'_>,
        own: &mut [Vec<usize>],
        place: usize,
        depth: usize,
    ) -> bool {
        let count = self.nodes.get(depth + 1).map_or(0, Vec::len);
        for step in 0..count {
            // Not always the same first.
            let node = self.nodes[depth + 1][(place + step) % count];
            if self.is_done[usize::from(node)] || !fill.fits(place, node) {
                continue;
            }
            let takes = fill.wants(node)
                // The chain behind it may have changed this very partition; then the node is one that wants a shard now.
                || (self.pass(fill, own, node, depth + 1) && fill.fits(place, node));
            if takes {
                fill.put(place, node);
                own[usize::from(node)].push(place);
                return true;
            }
        }
        false
    }
}
