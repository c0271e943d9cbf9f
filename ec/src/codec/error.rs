//! What can be wrong with buffers.

#![forbid(unsafe_code)]

use crate::geometry::Scheme;
use crate::units::{ShardIndex, ShardSet};

/// Why buffers could not be coded. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The number of data buffers is not that of the stripe.
    #[error("{found} data buffers where the stripe has {expected} data shards")]
    DataBuffers {
        /// The stripe's data shards.
        expected: usize,
        /// The buffers given.
        found: usize,
    },
    /// The number of parity buffers is not that of the scheme.
    #[error("{found} parity buffers where the scheme has {expected} parity shards")]
    ParityBuffers {
        /// The scheme's parity shards.
        expected: usize,
        /// The buffers given.
        found: usize,
    },
    /// The number of checksums is not that of the buffers.
    #[error("room for {found} checksums where there are {expected} buffers")]
    Checksums {
        /// The number of buffers.
        expected: usize,
        /// The checksums given.
        found: usize,
    },
    /// A buffer's length differs from that of the stripe's other buffers.
    #[error("shard {shard}: a buffer of {found} bytes where {expected} are expected")]
    Length {
        /// Whose buffer it is.
        shard: ShardIndex,
        /// The length that fits.
        expected: usize,
        /// The buffer's length.
        found: usize,
    },
    /// The shard is none of the scheme's, or holds nothing in this stripe.
    #[error("shard {shard} is not one of this stripe's {members}")]
    ForeignShard {
        /// The shard.
        shard: ShardIndex,
        /// The stripe's shards.
        members: ShardSet,
    },
    /// A shard is given twice, or is both a source and to be rebuilt.
    #[error("shard {shard} is given twice: each shard has one buffer")]
    RepeatedShard {
        /// The shard.
        shard: ShardIndex,
    },
    /// There are fewer sources than data shards.
    #[error("cannot rebuild {lost} from {sources}: {needed} sources are needed")]
    TooFewSources {
        /// The shards to be rebuilt.
        lost: ShardSet,
        /// The sources given.
        sources: ShardSet,
        /// The number of sources needed.
        needed: usize,
    },
    /// The stripe's shape is not of the codec's scheme.
    #[error(
        "a stripe with parity from shard {found} on, coded with scheme {scheme}: use the codec of its geometry"
    )]
    OtherScheme {
        /// The codec's scheme.
        scheme: Scheme,
        /// The number of data shards that the shape has.
        found: usize,
    },
}
