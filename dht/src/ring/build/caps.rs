//! How many shards of a partition each domain can take.

use super::super::Spread;
use super::Level;
use super::tree::Tree;

/// The caps that hold, and what each domain can take of one partition under them.
#[derive(Clone)]
pub(super) struct Caps {
    pub(super) zone: usize,
    pub(super) rack: usize,
    pub(super) node: usize,
    /// By rack: its own cap, or less where its nodes cannot take as much.
    pub(super) rack_room: Vec<usize>,
    /// By zone, in the same way.
    pub(super) zone_room: Vec<usize>,
}

impl Caps {
    fn new(tree: &Tree, [zone, rack, node]: [usize; 3]) -> Self {
        let rack_room: Vec<usize> = tree
            .racks
            .iter()
            .map(|branch| rack.min(branch.children.len() * node))
            .collect();
        let zone_room = tree
            .zones
            .iter()
            .map(|branch| zone.min(rack_room[branch.children.clone()].iter().sum()))
            .collect();
        Self {
            zone,
            rack,
            node,
            rack_room,
            zone_room,
        }
    }

    /// The shards of a partition that all domains together can take.
    fn room(&self) -> usize {
        self.zone_room.iter().sum()
    }

    /// The caps asked for, or where they leave no room for all owners the least above them that do. The outermost cap
    /// that helps is raised first: zones fail less often than racks, and racks less often than nodes.
    pub(super) fn sufficient(tree: &Tree, asked: Spread, owners: usize) -> Self {
        let mut numbers = asked.caps().map(usize::from);
        loop {
            let caps = Self::new(tree, numbers);
            let room = caps.room();
            if room >= owners {
                return caps;
            }
            let raised = |at: usize| {
                let mut more = numbers;
                more[at] += 1;
                more
            };
            let helps = |at: &usize| Self::new(tree, raised(*at)).room() > room;
            numbers = match (0..Level::ALL.len()).find(helps) {
                Some(at) => raised(at),
                // Each cap is held down by another.
                None => numbers.map(|cap| cap + 1),
            };
        }
    }

    pub(super) fn of(&self, level: Level) -> usize {
        match level {
            Level::Zone => self.zone,
            Level::Rack => self.rack,
            Level::Node => self.node,
        }
    }
}
