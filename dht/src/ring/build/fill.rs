//! Shards on nodes: dealing, keeping, filling.

use super::caps::Caps;
use super::levels;
use super::tree::{NONE, Tree};

/// Swaps tried for each shard of a new table, which meets about twice as many.
const SWAPS: usize = 4;

/// Nodes tried at random for a place before all are looked at.
const GUESSES: usize = 8;

/// A node's own shards tried for one that it can give up, before a longer chain of moves is looked for.
const GIVES: usize = 64;

/// A table in the making. Places are numbered partition by partition, shard by shard.
pub(super) struct Fill<'a> {
    pub(super) tree: &'a Tree,
    pub(super) caps: &'a Caps,
    pub(super) owners: usize,
    /// The node of every place, by number; NONE where it is open.
    pub(super) places: Vec<u16>,
    /// What every node has.
    pub(super) count: Vec<u32>,
    /// What every node shall have.
    pub(super) quota: Vec<u32>,
    /// Rack and zone of every node, close together.
    domains: Vec<(u16, u16)>,
    random: Random,
}

/// A sequence that looks random and is always the same (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

impl<'a> Fill<'a> {
    pub(super) fn new(tree: &'a Tree, caps: &'a Caps, partitions: usize, owners: usize) -> Self {
        Self {
            tree,
            caps,
            owners,
            places: vec![NONE; partitions * owners],
            count: vec![0; tree.nodes.len()],
            quota: vec![0; tree.nodes.len()],
            domains: tree
                .nodes
                .iter()
                .map(|node| (node.rack, node.zone))
                .collect(),
            random: Random(partitions as u64),
        }
    }

    pub(super) fn row(&self, partition: usize) -> std::ops::Range<usize> {
        partition * self.owners..(partition + 1) * self.owners
    }

    /// Whether the partition of this place may have a shard on this node there, beside its other shards.
    pub(super) fn fits(&self, place: usize, node: u16) -> bool {
        let (rack, zone) = self.domains[usize::from(node)];
        let (mut in_node, mut in_rack, mut in_zone) = (0, 0, 0);
        for at in self.row(place / self.owners) {
            let other = self.places[at];
            if at == place || other == NONE {
                continue;
            }
            let (other_rack, other_zone) = self.domains[usize::from(other)];
            in_node += usize::from(other == node);
            in_rack += usize::from(other_rack == rack);
            in_zone += usize::from(other_zone == zone);
        }
        in_node < self.caps.node && in_rack < self.caps.rack && in_zone < self.caps.zone
    }

    pub(super) fn put(&mut self, place: usize, node: u16) {
        let before = std::mem::replace(&mut self.places[place], node);
        if before != NONE {
            self.count[usize::from(before)] -= 1;
        }
        self.count[usize::from(node)] += 1;
    }

    pub(super) fn wants(&self, node: u16) -> bool {
        self.count[usize::from(node)] < self.quota[usize::from(node)]
    }

    /// Takes over what was placed before, where its node is still there and no cap forbids it.
    pub(super) fn keep(&mut self, before: impl Iterator<Item = u16>) {
        for (place, node) in before.enumerate() {
            if node != NONE && self.fits(place, node) {
                self.put(place, node);
            }
        }
    }

    /// Places everything anew. A domain's nodes are neighbours in the row that is dealt out, so that its copies, as many
    /// as its cap allows for every partition, come no more often to one partition than that.
    pub(super) fn deal(&mut self) {
        let partitions = self.places.len() / self.owners;
        let quota = std::mem::take(&mut self.quota);
        let row = quota
            .iter()
            .enumerate()
            .flat_map(|(node, quota)| std::iter::repeat_n(node as u16, *quota as usize));
        for (at, node) in row.enumerate() {
            self.put(at % partitions * self.owners + at / partitions, node);
        }
        self.quota = quota;
        for _ in 0..SWAPS * self.places.len() {
            let (a, b) = (
                self.random.below(self.places.len()),
                self.random.below(self.places.len()),
            );
            let (node_a, node_b) = (self.places[a], self.places[b]);
            let together = a / self.owners == b / self.owners;
            if together || (node_a != node_b && self.fits(a, node_b) && self.fits(b, node_a)) {
                self.places.swap(a, b);
            }
        }
    }

    /// Brings every node to its quota and closes every open place, with few moves. `holders` are the nodes that have the
    /// shards at the moment: one that is on its way elsewhere and may stay need not move at all.
    pub(super) fn fill(&mut self, holders: impl Iterator<Item = u16>) {
        for (place, holder) in holders.enumerate() {
            let may_stay = self.places[place] == NONE && holder != NONE && self.wants(holder);
            if may_stay && self.fits(place, holder) {
                self.put(place, holder);
            }
        }
        let mut wanted = self.wanted();
        let mut open: Vec<usize> = (0..self.places.len())
            .filter(|place| self.places[*place] == NONE)
            .collect();
        self.random.shuffle(&mut open);
        open.retain(|place| match self.taker(*place, &mut wanted) {
            Some(node) => {
                self.put(*place, node);
                false
            }
            None => true,
        });
        let mut heavy = self.give(&mut wanted);
        levels::flow(self, &mut open, &mut heavy);
        let mut chains = self.chains();
        for place in open {
            chains.fill(self, place);
        }
        for node in heavy {
            chains.relieve(self, node);
        }
    }

    /// Every node below its quota, as often as it is.
    fn wanted(&self) -> Vec<u16> {
        let missing = |node: usize| self.quota[node].saturating_sub(self.count[node]) as usize;
        (0..self.quota.len())
            .flat_map(|node| std::iter::repeat_n(node as u16, missing(node)))
            .collect()
    }

    /// A node below its quota that fits the place, and rather one that is far below.
    fn taker(&mut self, place: usize, wanted: &mut Vec<u16>) -> Option<u16> {
        let mut guesses = 0;
        while guesses < GUESSES && !wanted.is_empty() {
            let at = self.random.below(wanted.len());
            let node = wanted[at];
            if !self.wants(node) {
                wanted.swap_remove(at);
            } else if self.fits(place, node) {
                wanted.swap_remove(at);
                return Some(node);
            } else {
                guesses += 1;
            }
        }
        // Its entries in the list are found stale later.
        let nodes = self.quota.len();
        let start = self.random.below(nodes);
        (0..nodes)
            .map(|step| ((start + step) % nodes) as u16)
            .find(|node| self.wants(*node) && self.fits(place, *node))
    }

    /// Nodes above their quota give up shards to nodes below theirs. Those that could not come back, as often as they
    /// are above.
    fn give(&mut self, wanted: &mut Vec<u16>) -> Vec<u16> {
        let mut own: Vec<Vec<u32>> = vec![Vec::new(); self.quota.len()];
        let above = |fill: &Self, node: usize| fill.count[node].saturating_sub(fill.quota[node]);
        let mut heavy: Vec<u16> = (0..self.quota.len())
            .flat_map(|node| std::iter::repeat_n(node as u16, above(self, node) as usize))
            .collect();
        if heavy.is_empty() {
            return heavy;
        }
        for (place, node) in self.places.iter().enumerate() {
            let node = usize::from(*node);
            if node != usize::from(NONE) && above(self, node) > 0 {
                own[node].push(place as u32);
            }
        }
        for list in &mut own {
            self.random.shuffle(list);
        }
        self.random.shuffle(&mut heavy);
        heavy.retain(|node| {
            let list = &mut own[usize::from(*node)];
            for _ in 0..GIVES.min(list.len()) {
                let Some(place) = list.pop().map(|place| place as usize) else {
                    break;
                };
                if let Some(taker) = self.taker(place, wanted) {
                    self.put(place, taker);
                    return false;
                }
            }
            true
        });
        heavy
    }
}
