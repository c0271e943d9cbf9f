//! Members that take shards, in the order of their domains.

use std::ops::Range;

use super::super::member::{Member, Members, Name};
use super::super::units::NodeSlot;
use super::{DomainPath, Level};

/// No node.
pub(super) const NONE: u16 = u16::MAX;

/// Nodes in the order of zones, racks and slots; the numbers of nodes, racks and zones are places in these lists.
pub(super) struct Tree {
    pub(super) nodes: Vec<Leaf>,
    pub(super) racks: Vec<Branch>,
    pub(super) zones: Vec<Branch>,
    /// A node's number by its slot; NONE where the slot's node takes nothing.
    numbers: Vec<u16>,
}

#[derive(Clone, Copy)]
pub(super) struct Leaf {
    pub(super) slot: NodeSlot,
    pub(super) weight: u32,
    pub(super) rack: u16,
    pub(super) zone: u16,
}

/// A rack with its nodes, or a zone with its racks.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) children: Range<usize>,
    pub(super) weight: u64,
}

impl Tree {
    pub(super) fn new(members: &Members) -> Self {
        let mut takers: Vec<(&Name, &Name, NodeSlot, &Member)> = members
            .iter()
            .filter(|(_, member)| member.share() > 0)
            .map(|(slot, member)| (&member.zone, &member.rack, slot, member))
            .collect();
        takers.sort_by_key(|(zone, rack, slot, _)| (*zone, *rack, *slot));
        let mut tree = Self {
            nodes: Vec::with_capacity(takers.len()),
            racks: Vec::new(),
            zones: Vec::new(),
            numbers: vec![NONE; members.slots()],
        };
        let mut before: Option<(&Name, &Name)> = None;
        for (zone, rack, slot, member) in takers {
            if before.map(|(zone, _)| zone) != Some(zone) {
                let at = tree.racks.len();
                tree.zones.push(Branch::starting(at));
            }
            if before != Some((zone, rack)) {
                let at = tree.nodes.len();
                tree.racks.push(Branch::starting(at));
                if let Some(zone) = tree.zones.last_mut() {
                    zone.children.end += 1;
                }
            }
            before = Some((zone, rack));
            let last = tree
                .racks
                .last_mut()
                .into_iter()
                .chain(tree.zones.last_mut());
            last.for_each(|branch| branch.weight += u64::from(member.share()));
            if let Some(rack) = tree.racks.last_mut() {
                rack.children.end += 1;
            }
            tree.numbers[slot.index()] = tree.nodes.len() as u16;
            tree.nodes.push(Leaf {
                slot,
                weight: member.share(),
                rack: (tree.racks.len() - 1) as u16,
                zone: (tree.zones.len() - 1) as u16,
            });
        }
        tree
    }

    pub(super) fn number(&self, slot: NodeSlot) -> u16 {
        self.numbers.get(slot.index()).copied().unwrap_or(NONE)
    }

    pub(super) fn weight(&self) -> u64 {
        self.zones.iter().map(|zone| zone.weight).sum()
    }

    /// The name of a domain, by its number.
    pub(super) fn path(&self, members: &Members, level: Level, number: usize) -> DomainPath {
        let first = match level {
            Level::Node => number,
            Level::Rack => self.racks[number].children.start,
            Level::Zone => self.racks[self.zones[number].children.start].children.start,
        };
        let member = members
            .get(self.nodes[first].slot)
            .expect("the tree was made from these members");
        DomainPath {
            level,
            zone: member.zone.clone(),
            rack: member.rack.clone(),
            node: member.name.clone(),
        }
    }
}

impl Branch {
    fn starting(at: usize) -> Self {
        Self {
            children: at..at,
            weight: 0,
        }
    }
}
