//! The shortest chain of moves that places one more shard.
//!
//! Seen as a flow, every partition sends a unit for each owner through (partition,
//! zone), (partition, rack) and (partition, node), whose capacities are the
//! caps, to nodes, whose capacities are the quotas. What is placed is a flow,
//! and an open place is a unit that has not found its way. This is the usual
//! breadth-first search for an augmenting path, over a graph that is never
//! built: from a partition to any node that fits, from that node to all its
//! places, each of which, once given up, lets another node in: one of the same
//! rack (the rack holds no more than before), of the zone, or of elsewhere.
//!
//! Every vertex is visited once, so a path may pass a partition more than once
//! and break no cap. The quotas respect the caps, so a flow that fills
//! everything exists, and with it a path from every open place.

use std::collections::{HashSet, VecDeque};

use super::fill::Fill;
use super::tree::NONE;

/// What searches share: the places of every node. Entries that are no longer true are left out as they are met.
pub(super) struct Chains {
    own: Option<Vec<Vec<u32>>>,
}

/// One search.
struct Search<'s, 'f> {
    fill: &'s Fill<'f>,
    /// Nodes not reached yet, by rack.
    fresh: Vec<Vec<u16>>,
    /// For every node reached: the place that it would take.
    takes: Vec<u32>,
    queue: VecDeque<u16>,
    partitions: HashSet<u32>,
    /// (partition, zone) and (partition, rack), told apart by the lowest bit.
    domains: HashSet<u64>,
}

impl Fill<'_> {
    pub(super) fn chains(&self) -> Chains {
        Chains { own: None }
    }
}

impl Chains {
    fn own(&mut self, fill: &Fill<'_>) -> &mut Vec<Vec<u32>> {
        self.own.get_or_insert_with(|| {
            let mut own = vec![Vec::new(); fill.quota.len()];
            for (place, node) in fill.places.iter().enumerate() {
                if *node != NONE {
                    own[usize::from(*node)].push(place as u32);
                }
            }
            own
        })
    }

    /// Closes an open place.
    pub(super) fn fill(&mut self, fill: &mut Fill<'_>, place: usize) {
        let own = self.own(fill);
        let mut search = Search::new(fill);
        let found = search.open(place).or_else(|| search.run(own));
        let path = found.map(|node| search.path(node, |at| at == place));
        self.apply(fill, path);
    }

    /// Takes one shard away from a node.
    pub(super) fn relieve(&mut self, fill: &mut Fill<'_>, node: u16) {
        let own = self.own(fill);
        let mut search = Search::new(fill);
        search.reach(node, u32::MAX);
        let found = search.run(own);
        let path = found.map(|found| search.path(found, |at| fill.places[at] == node));
        self.apply(fill, path);
    }

    fn apply(&mut self, fill: &mut Fill<'_>, path: Option<Vec<(usize, u16)>>) {
        let path = path.expect("quotas respect the caps, so there is always a path");
        let own = self.own(fill);
        for (place, node) in &path {
            fill.put(*place, *node);
            own[usize::from(*node)].push(*place as u32);
        }
    }
}

impl<'s, 'f> Search<'s, 'f> {
    fn new(fill: &'s Fill<'f>) -> Self {
        let nodes =
            |rack: &super::tree::Branch| rack.children.clone().map(|node| node as u16).collect();
        Self {
            fill,
            fresh: fill.tree.racks.iter().map(nodes).collect(),
            takes: vec![u32::MAX; fill.quota.len()],
            queue: VecDeque::new(),
            partitions: HashSet::new(),
            domains: HashSet::new(),
        }
    }

    /// A node is reached, through the place that it would take.
    fn reach(&mut self, node: u16, place: u32) {
        self.takes[usize::from(node)] = place;
        let rack = usize::from(self.fill.tree.nodes[usize::from(node)].rack);
        self.fresh[rack].retain(|fresh| *fresh != node);
        self.queue.push_back(node);
    }

    /// Visits nodes in the order of their distance until one wants a shard.
    fn run(&mut self, own: &mut [Vec<u32>]) -> Option<u16> {
        while let Some(node) = self.queue.pop_front() {
            let list = &mut own[usize::from(node)];
            list.retain(|place| self.fill.places[*place as usize] == node);
            for place in &*list {
                if let Some(found) = self.give_up(*place as usize, node) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// How many shards of the partition are on nodes that this is true of.
    fn held(&self, partition: usize, of: impl Fn(u16) -> bool) -> usize {
        let row = &self.fill.places[self.fill.row(partition)];
        row.iter()
            .filter(|node| **node != NONE && of(**node))
            .count()
    }

    fn domain_is_new(&mut self, partition: usize, domain: u16, is_rack: bool) -> bool {
        let vertex = (partition as u64) << 32 | u64::from(domain) << 1 | u64::from(is_rack);
        self.domains.insert(vertex)
    }

    /// The node gives up this place: who could take it?
    fn give_up(&mut self, place: usize, node: u16) -> Option<u16> {
        let partition = place / self.fill.owners;
        let leaf = self.fill.tree.nodes[usize::from(node)];
        if !self.domain_is_new(partition, leaf.rack, true) {
            return None;
        }
        if let Some(found) = self.enter_rack(place, leaf.rack) {
            return Some(found);
        }
        if !self.domain_is_new(partition, leaf.zone, false) {
            return None;
        }
        self.enter_zone(place, leaf.zone)
            .or_else(|| self.open(place))
    }

    /// The partition of this place has a shard to give to any domain that has room.
    fn open(&mut self, place: usize) -> Option<u16> {
        let partition = place / self.fill.owners;
        if !self.partitions.insert(partition as u32) {
            return None;
        }
        (0..self.fill.tree.zones.len() as u16).find_map(|zone| {
            let nodes = &self.fill.tree.nodes;
            let held = self.held(partition, |node| nodes[usize::from(node)].zone == zone);
            let enter = held < self.fill.caps.zone && self.domain_is_new(partition, zone, false);
            if enter {
                self.enter_zone(place, zone)
            } else {
                None
            }
        })
    }

    fn enter_zone(&mut self, place: usize, zone: u16) -> Option<u16> {
        let partition = place / self.fill.owners;
        self.fill.tree.zones[usize::from(zone)]
            .children
            .clone()
            .find_map(|rack| {
                if self.fresh[rack].is_empty() {
                    return None;
                }
                let nodes = &self.fill.tree.nodes;
                let held = self.held(partition, |node| {
                    usize::from(nodes[usize::from(node)].rack) == rack
                });
                let enter =
                    held < self.fill.caps.rack && self.domain_is_new(partition, rack as u16, true);
                if enter {
                    self.enter_rack(place, rack as u16)
                } else {
                    None
                }
            })
    }

    fn enter_rack(&mut self, place: usize, rack: u16) -> Option<u16> {
        let partition = place / self.fill.owners;
        let candidates = std::mem::take(&mut self.fresh[usize::from(rack)]);
        let mut found = None;
        let (mut left, mut entered) = (Vec::new(), Vec::new());
        for node in candidates {
            let held = self.held(partition, |other| other == node);
            if found.is_some() || held >= self.fill.caps.node {
                left.push(node);
                continue;
            }
            entered.push(node);
            if self.fill.wants(node) {
                found = Some(node);
            }
        }
        self.fresh[usize::from(rack)] = left;
        for node in entered {
            self.takes[usize::from(node)] = place as u32;
            self.queue.push_back(node);
        }
        found
    }

    /// The moves from the node that was found back to the start: place and the node that takes it.
    fn path(&self, mut node: u16, is_start: impl Fn(usize) -> bool) -> Vec<(usize, u16)> {
        let mut path = Vec::new();
        loop {
            let place = self.takes[usize::from(node)] as usize;
            path.push((place, node));
            if is_start(place) {
                return path;
            }
            node = self.fill.places[place];
        }
    }
}
