//! Plans: which shards to read and what to rebuild, decided without I/O.
//!
//! Every plan is a small value of fixed size: making one allocates nothing. It is printable, so that a person can read
//! why it reads what it reads.

#![forbid(unsafe_code)]

mod execute;
mod read;
mod repair;
mod solve;
mod verify;

use std::fmt;
use std::ops::Range;

use arrayvec::ArrayVec;

pub use execute::ExecuteError;
pub use read::{Piece, ReadPlan, ReadRequest};
pub use repair::{RepairPlan, RepairRequest};
pub use verify::{UnitCheck, VerifyPlan};

use crate::limits::{REBUILDS_MAX, SHARDS_MAX};
use crate::units::{Bytes, ShardIndex, ShardSet, StripeIndex};

/// Who makes sure that bytes are those that were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// Every unit is read whole and compared with its checksum before a byte of it is used.
    #[default]
    Units,
    /// The device checks every block that it returns (end-to-end protection), so that only the blocks needed are read.
    Device,
}

/// One contiguous read from a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRead {
    /// The shard.
    pub shard: ShardIndex,
    /// Where in the shard it starts, a multiple of [`crate::limits::BLOCK_BYTES`].
    pub offset: Bytes,
    /// How much it reads, a multiple of [`crate::limits::BLOCK_BYTES`].
    pub length: Bytes,
}

impl ShardRead {
    pub(crate) fn end(&self) -> u64 {
        self.offset.get() + self.length.get()
    }
}

impl fmt::Display for ShardRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "read shard {} from {} length {}",
            self.shard, self.offset, self.length
        )
    }
}

/// What is rebuilt in some stripes: `lost` from `sources`, at offsets `from..to` of their units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// The first stripe.
    pub first: StripeIndex,
    /// The number of stripes.
    pub stripes: u64,
    /// Where in the units it starts.
    pub from: u32,
    /// Where in the units it ends.
    pub to: u32,
    /// The data shards that hold something at these offsets; as many sources are needed.
    pub width: u8,
    /// The shards to rebuild.
    pub lost: ShardSet,
    /// The shards to rebuild them from.
    pub sources: ShardSet,
}

impl Rebuild {
    fn covers(&self, stripe: StripeIndex) -> bool {
        (self.first.0..self.first.0 + self.stripes).contains(&stripe.0)
    }
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.first.0 + self.stripes;
        write!(
            f,
            "stripes {}..{end} offsets {}..{}: ",
            self.first, self.from, self.to
        )?;
        write!(f, "rebuild {} from {}", self.lost, self.sources)
    }
}

pub(crate) type Reads = ArrayVec<ShardRead, SHARDS_MAX>;
pub(crate) type Rebuilds = ArrayVec<Rebuild, REBUILDS_MAX>;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The range reaches beyond the blob.
    #[error("bytes {}..{} of a blob of {length} bytes: read within the blob", range.start, range.end)]
    OutOfRange {
        /// The range asked for.
        range: Range<Bytes>,
        /// The blob's length.
        length: Bytes,
    },
    /// Too few shards are left.
    #[error(
        "stripe {stripe}: {left} are left of which {needed} are needed: bring shards back or give the blob up"
    )]
    TooManyLost {
        /// The first stripe that cannot be read.
        stripe: StripeIndex,
        /// The shards of the stripe that are left.
        left: ShardSet,
        /// The number of shards needed, one more where a spare is asked for.
        needed: usize,
    },
    /// The shard is none of the scheme's.
    #[error("{found} names shards that are none of the scheme's {members}")]
    ForeignShards {
        /// The shards named.
        found: ShardSet,
        /// The scheme's shards.
        members: ShardSet,
    },
    /// The stripes are not all the blob's.
    #[error("stripes {}..{} of a blob of {stripes} stripes", range.start, range.end)]
    NoSuchStripes {
        /// The range asked for.
        range: Range<u64>,
        /// The blob's stripes.
        stripes: u64,
    },
}
