//! From members and the ring before to the ring after: a pure function.
//!
//! ```text
//!   1 caps    may every partition have its shards within the caps asked for? If not, the least is given up, and said
//!   2 quotas  how many shards each node shall have: its weight's share; where a domain's share is above its cap the rest
//!             is shared by the others; rounded so that every node and every domain is less than one shard off
//!   3 keep    what was placed stays where it is, unless its node is gone or a cap forbids it
//!   4 fill    open shards go to nodes below their quota, nodes above theirs give up shards: one move each
//!   5 chains  what is left goes by chains of moves, the shortest first, as in a maximum flow; the flow from partitions
//!             through zones, racks and nodes always exists, since the quotas respect the caps
//! ```
//!
//! Without a ring before, 3 to 5 are replaced by laying out the nodes in the
//! order of their domains, each as often as its quota says, and dealing this
//! row out to the partitions in turn: copies of a node, a rack or a zone then
//! fall on different partitions as long as there are any. Swaps that break no
//! cap shuffle the result, so that the partitions of one node are shared with
//! all others, and its loss is rebuilt by all.

mod augment;
mod caps;
mod fill;
mod levels;
mod quota;
mod tree;

use std::fmt;

use super::limits::{OWNERS_MAX, WEIGHT_MAX};
use super::line::Line;
use super::member::{Member, Members, MembersError, Name};
use super::units::{Epoch, NodeSlot};
use super::{Ring, Spec, SpecError};
use fill::Fill;
use tree::Tree;

/// A kind of failure domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A zone: racks that fail together.
    Zone,
    /// A rack: nodes that fail together.
    Rack,
    /// A node.
    Node,
}

impl Level {
    /// From the outermost to the innermost.
    pub const ALL: [Self; 3] = [Self::Zone, Self::Rack, Self::Node];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zone => "zone",
            Self::Rack => "rack",
            Self::Node => "node",
        })
    }
}

/// A failure domain by its names, from the outermost to the innermost that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPath {
    /// What kind it is.
    pub level: Level,
    /// Its zone.
    pub zone: Name,
    /// Its rack; of a zone the first.
    rack: Name,
    /// Its node; of a rack or a zone the first.
    node: Name,
}

impl DomainPath {
    /// The rack, unless this is a zone.
    pub fn rack(&self) -> Option<&Name> {
        (self.level != Level::Zone).then_some(&self.rack)
    }

    /// The node, if this is one.
    pub fn node(&self) -> Option<&Name> {
        (self.level == Level::Node).then_some(&self.node)
    }
}

impl fmt::Display for DomainPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { level, zone, .. } = self;
        match (self.rack(), self.node()) {
            (Some(rack), Some(node)) => write!(f, "{level} {node} (zone {zone}, rack {rack})"),
            (Some(rack), None) => write!(f, "{level} {rack} (zone {zone})"),
            _ => write!(f, "{level} {zone}"),
        }
    }
}

/// What a ring cannot do for lack of domains.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// A domain holds more shards of a partition than was asked for.
    Crowded {
        /// The domain.
        domain: DomainPath,
        /// The most shards asked for.
        asked: u8,
        /// The most shards of one partition that it holds.
        found: u8,
        /// The number of partitions that have more than asked for there.
        partitions: u32,
    },
    /// A domain cannot hold as much as its weight would have it.
    Full {
        /// The domain.
        domain: DomainPath,
        /// The share of all shards by weight, from 0 to 1.
        wanted: f64,
        /// The share that it gets.
        gets: f64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crowded {
                domain,
                asked,
                found,
                partitions,
            } => write!(
                f,
                "{domain} holds up to {found} shards of a partition, in {partitions} partitions more than the {asked} asked for: add another {}",
                domain.level
            ),
            Self::Full {
                domain,
                wanted,
                gets,
            } => write!(
                f,
                "{domain} has {:.1} % of the weight and gets {:.1} % of the shards, the most that its cap allows: add weight to others",
                wanted * 100.0,
                gets * 100.0
            ),
        }
    }
}

/// Why there is no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No member takes shards.
    #[error("no node takes shards: at least one has to be joining or up, with a weight above 0")]
    NoNodes,
    /// A weight is too large.
    #[error(
        "node {name} has the weight {found}: choose at most {WEIGHT_MAX}; only the proportions matter"
    )]
    Weight {
        /// The node.
        name: Name,
        /// Its weight.
        found: u32,
    },
    /// The members cannot be.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// The numbers asked for cannot be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The ring before has other numbers.
    #[error(
        "the ring of epoch {epoch} has {} partitions of {} owners, and {} of {} are asked for: these two numbers never change",
        before.partitions(), before.owners(), asked.partitions(), asked.owners()
    )]
    OtherShape {
        /// The epoch of the ring before.
        epoch: Epoch,
        /// What it was asked for.
        before: Spec,
        /// What is asked for now.
        asked: Spec,
    },
    /// There is no epoch left.
    #[error("epoch {epoch} is the last one: start a new cluster")]
    LastEpoch {
        /// The epoch of the ring before.
        epoch: Epoch,
    },
}

/// A ring, and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Built {
    /// The ring, of the epoch after the one before.
    pub ring: Ring,
    /// What falls short, if anything does.
    pub warnings: Vec<Warning>,
    /// The shards that shall go to another node than before; those that may stay after all are not counted.
    pub moved: usize,
    /// The moves that the lines have no place for yet, which only happens above 13 owners: build again when those under
    /// way are settled.
    pub deferred: usize,
}

/// Makes the ring for these members. The order in which they are given makes no difference, and the same arguments
/// always give the same ring.
///
/// # Errors
///
/// Arguments of which no ring can be made; each says what to change.
pub fn build(spec: Spec, nodes: &[Member], before: Option<&Ring>) -> Result<Built, BuildError> {
    if let Some(node) = nodes.iter().find(|node| node.weight > WEIGHT_MAX) {
        return Err(BuildError::Weight {
            name: node.name.clone(),
            found: node.weight,
        });
    }
    let epoch = match before {
        None => Epoch(1),
        Some(ring) => following(spec, ring)?,
    };
    let members = match before {
        None => Members::EMPTY.replaced(nodes, |_| false)?,
        Some(ring) => {
            let holdings = ring.shards_by_node();
            let named = |slot: NodeSlot| {
                let holding = holdings.get(slot.index());
                holding.is_some_and(|holding| holding.has + holding.shall_have > 0)
            };
            ring.members.replaced(nodes, named)?
        }
    };
    let tree = Tree::new(&members);
    if tree.nodes.is_empty() {
        return Err(BuildError::NoNodes);
    }
    let (partitions, owners) = (spec.partitions().count(), spec.owners());
    let caps = caps::Caps::sufficient(&tree, spec.spread(), owners);
    let mut fill = Fill::new(&tree, &caps, partitions, owners);
    if let Some(ring) = before {
        let targets = ring.lines.iter().flat_map(|line| line.targets());
        fill.keep(targets.map(|slot| tree.number(slot)));
    }
    let quotas = quota::quotas(&tree, &caps, partitions, owners, &fill.count);
    fill.quota = quotas.shards;
    match before {
        None => fill.deal(),
        Some(ring) => {
            let holders = ring.lines.iter().flat_map(|line| line.owners());
            fill.fill(holders.map(|slot| tree.number(slot)));
        }
    }

    let mut warnings: Vec<Warning> = quotas
        .full
        .iter()
        .map(|(level, number, wanted, gets)| Warning::Full {
            domain: tree.path(&members, *level, *number),
            wanted: *wanted,
            gets: *gets,
        })
        .collect();
    warnings.extend(crowded(&fill, &members, spec));
    let targets: Vec<NodeSlot> = fill
        .places
        .iter()
        .map(|node| tree.nodes[usize::from(*node)].slot)
        .collect();
    let (lines, moved, deferred) = lines(spec, epoch, &targets, before);
    let ring = Ring {
        epoch,
        spec,
        members,
        lines,
    };
    Ok(Built {
        ring,
        warnings,
        moved,
        deferred,
    })
}

fn following(spec: Spec, before: &Ring) -> Result<Epoch, BuildError> {
    let same = before.spec.partitions == spec.partitions && before.spec.owners == spec.owners;
    if !same {
        return Err(BuildError::OtherShape {
            epoch: before.epoch,
            before: before.spec,
            asked: spec,
        });
    }
    before.epoch.next().ok_or(BuildError::LastEpoch {
        epoch: before.epoch,
    })
}

/// Lines that say: what was stays until it has moved to where it shall be. Lines that say the same as before keep their
/// epoch. With the lines come the number of moves that are new and of those that found no place.
fn lines(
    spec: Spec,
    epoch: Epoch,
    targets: &[NodeSlot],
    before: Option<&Ring>,
) -> (Vec<Line>, usize, usize) {
    let (mut moved, mut deferred) = (0, 0);
    let make = |(partition, targets): (_, &[NodeSlot])| {
        let old = before.map(|ring| ring.lines[super::PartitionId::index(partition)]);
        let owners: arrayvec::ArrayVec<NodeSlot, OWNERS_MAX> = match &old {
            Some(line) => line.owners().collect(),
            None => targets.iter().copied().collect(),
        };
        if let Some(line) = &old {
            let both = line.owners().zip(line.targets()).zip(targets);
            moved += both
                .filter(|((owner, before), target)| before != *target && owner != *target)
                .count();
        }
        let (new, left) = Line::new(partition, epoch, &owners, targets)
            .expect("a spec has as many owners as a line can have");
        deferred += left;
        match old {
            Some(old) if old.same_content(&new) => old,
            _ => new,
        }
    };
    let lines = spec
        .partitions()
        .iter()
        .zip(targets.chunks_exact(spec.owners()))
        .map(make)
        .collect();
    (lines, moved, deferred)
}

/// The domains that hold more of a partition than was asked for.
fn crowded(fill: &Fill<'_>, members: &Members, spec: Spec) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (level, asked) in Level::ALL.into_iter().zip(spec.spread().caps()) {
        if fill.caps.of(level) <= usize::from(asked) {
            continue;
        }
        let number = |node: u16| {
            let leaf = fill.tree.nodes[usize::from(node)];
            match level {
                Level::Node => usize::from(node),
                Level::Rack => leaf.rack.into(),
                Level::Zone => leaf.zone.into(),
            }
        };
        // By domain: the most shards of one partition, and the partitions with too many.
        let mut found = vec![(0, 0); fill.tree.nodes.len()];
        for row in fill.places.chunks_exact(fill.owners) {
            for (at, node) in row.iter().enumerate() {
                let domain = number(*node);
                let same = |other: &&u16| number(**other) == domain;
                let is_first = !row[..at].iter().any(|other| number(*other) == domain);
                let held = row.iter().filter(same).count();
                if is_first && held > usize::from(asked) {
                    let (most, partitions) = &mut found[domain];
                    *most = held.max(*most);
                    *partitions += 1;
                }
            }
        }
        let over = found.iter().enumerate().filter(|(_, (most, _))| *most > 0);
        warnings.extend(over.map(|(domain, (most, partitions))| Warning::Crowded {
            domain: fill.tree.path(members, level, domain),
            asked,
            found: *most as u8,
            partitions: *partitions,
        }));
    }
    warnings
}
