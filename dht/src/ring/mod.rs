//! Which nodes own a key: a table of partitions, a cache line each.
//!
//! ```text
//!   key  --first bits-->  partition  --one load-->  line: owner of shard 0, 1, 2, ...; who shall own the moving ones
//!
//!   members, weights, domains ---+
//!   shards wanted, caps ---------+--> build() --> Ring --> bytes for MAP, pages of a RingView elsewhere
//!   the ring before -------------+                 |
//!                                                  +--> SharedTable: lines in memory that other cores read
//!                                                  +--> Plan: the moves still to be made; settle() takes them off
//! ```
//!
//! A [`Ring`] is a value: [`build`] makes it from the ring before by a pure
//! function, and nothing in it depends on clocks, chance or the order in which
//! members are named. Shard i of a partition belongs to the i-th owner of its
//! line; what changes one owner leaves the others in their places.
//!
//! A ring that differs from the one before is in *transition*: its lines name
//! the old owner of each moving shard and the new one, in the same cache line.
//! Readers ask the old owner (or both), writers write to both, and when a
//! shard has arrived, [`Ring::settle`] makes the new owner the only one.
//!
//! Nothing here maps memory or talks to anybody, so that a client can route
//! with it as a node does.

mod build;
pub mod limits;
mod line;
mod member;
mod pages;
mod shared;
mod table;
mod transition;
mod units;

pub use build::{BuildError, Built, DomainPath, Level, Warning, build};
pub use line::{Line, LineError, Words};
pub use member::{
    Address, AddressError, Member, Members, MembersError, Name, NameError, State, StateError,
    Transport,
};
pub use pages::{PagesError, RingView};
pub use shared::{SharedError, SharedTable, shared_words};
pub use table::Table;
pub use transition::{Move, Plan, SettleError, Throttle};
pub use units::{Epoch, Key, NodeSlot, PartitionId, Partitions, PartitionsError, Shard};

use limits::OWNERS_MAX;

/// How many shards of a partition may lie in one domain of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// On one node.
    pub node: u8,
    /// In one rack.
    pub rack: u8,
    /// In one zone.
    pub zone: u8,
}

/// What a ring is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    partitions: Partitions,
    owners: u8,
    spread: Spread,
}

/// What no ring can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The number of owners is 0 or too large.
    #[error("{found} owners for each partition: choose from 1 to {OWNERS_MAX}")]
    Owners {
        /// The number asked for.
        found: u8,
    },
    /// A cap of 0 leaves no place for any shard.
    #[error("at most 0 shards on a {level}: allow at least 1")]
    NoRoom {
        /// The kind of domain.
        level: Level,
    },
}

impl Spec {
    /// `owners` shards for each partition, of which at most so many may fail together. Caps above `owners` are the same
    /// as `owners`: no cap.
    ///
    /// # Errors
    ///
    /// Numbers out of range.
    pub fn new(partitions: Partitions, owners: u8, spread: Spread) -> Result<Self, SpecError> {
        if owners == 0 || usize::from(owners) > OWNERS_MAX {
            return Err(SpecError::Owners { found: owners });
        }
        for (level, cap) in Level::ALL.into_iter().zip(spread.caps()) {
            if cap == 0 {
                return Err(SpecError::NoRoom { level });
            }
        }
        let [zone, rack, node] = spread.caps().map(|cap| cap.min(owners));
        Ok(Self {
            partitions,
            owners,
            spread: Spread { node, rack, zone },
        })
    }

    /// The number of partitions.
    pub const fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// The number of owners of each partition: of shards, k + m.
    pub const fn owners(&self) -> usize {
        self.owners as usize
    }

    /// How many of them may fail together.
    pub const fn spread(&self) -> Spread {
        self.spread
    }

    /// The shards of all partitions.
    pub const fn shards(&self) -> usize {
        self.partitions.count() * self.owners()
    }
}

impl Spread {
    /// For an erasure code with `parity` parity shards that is to survive the loss of any one domain of this kind: no
    /// such domain holds more than `parity` shards, as in the placement rule of the crate `ec`, and where that domain is
    /// larger than a node, a node holds one. Without parity nothing survives a loss, and shards are only spread by weight.
    pub const fn surviving(level: Level, parity: u8) -> Self {
        let parity = if parity == 0 { u8::MAX } else { parity };
        let free = u8::MAX;
        match level {
            Level::Node => Self {
                node: parity,
                rack: free,
                zone: free,
            },
            Level::Rack => Self {
                node: 1,
                rack: parity,
                zone: free,
            },
            Level::Zone => Self {
                node: 1,
                rack: parity,
                zone: parity,
            },
        }
    }

    /// From the outermost kind of domain to the innermost.
    const fn caps(self) -> [u8; 3] {
        [self.zone, self.rack, self.node]
    }
}

/// A routing table with all that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    epoch: Epoch,
    spec: Spec,
    members: Members,
    lines: Vec<Line>,
}

impl Ring {
    /// The version of this ring.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it was asked for.
    pub const fn spec(&self) -> Spec {
        self.spec
    }

    /// The nodes by their slots.
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// The lines, partition by partition.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many shards every node has, and how many it shall have, by slot.
    pub fn shards_by_node(&self) -> Vec<Holding> {
        let mut holdings = vec![Holding::default(); self.members.slots()];
        for line in &self.lines {
            for owner in line.owners() {
                holdings[owner.index()].has += 1;
            }
            for target in line.targets() {
                holdings[target.index()].shall_have += 1;
            }
        }
        holdings
    }
}

/// The shards of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// What it has now.
    pub has: u32,
    /// What it has once all moves are done.
    pub shall_have: u32,
}

impl Table for Ring {
    #[inline]
    fn partitions(&self) -> Partitions {
        self.spec.partitions
    }

    /// The lines of a ring were checked as they were made or taken in, and nobody else writes to them.
    #[inline]
    fn line(&self, partition: PartitionId) -> Result<Line, LineError> {
        let line = self.lines.get(partition.index());
        line.copied().ok_or(LineError::NoPartition {
            partition,
            partitions: self.lines.len(),
        })
    }
}

// Lines of a ring lie in cache lines of their own.
const _: () = assert!(align_of::<Line>() == limits::LINE_BYTES);
const _: () = assert!(size_of::<Line>() == limits::LINE_BYTES);
