//! Schemes (how many shards) and geometries (a scheme and its stripe unit).

use std::fmt;

use crate::limits::{BLOCK_BYTES, DATA_SHARDS_MAX, PARITY_SHARDS_MAX, UNIT_BYTES_MAX};
use crate::units::{Bytes, ShardIndex, ShardSet};

/// Why a scheme or a geometry cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// The number of data shards is 0 or too large.
    #[error("{found} data shards: choose from 1 to {max}")]
    DataShards {
        /// The number asked for.
        found: usize,
        /// The largest number.
        max: usize,
    },
    /// The number of parity shards is too large.
    #[error("{found} parity shards: choose from 0 to {max}")]
    ParityShards {
        /// The number asked for.
        found: usize,
        /// The largest number.
        max: usize,
    },
    /// The number of copies is 0 or too large.
    #[error("{found} copies: choose from 1 to {max}")]
    Copies {
        /// The number asked for.
        found: usize,
        /// The largest number.
        max: usize,
    },
    /// The stripe unit is not a power of two in its range.
    #[error("a stripe unit of {found} bytes: choose a power of two from {min} to {max}")]
    Unit {
        /// The unit asked for.
        found: u64,
        /// The smallest unit.
        min: u32,
        /// The largest unit.
        max: u32,
    },
}

/// The number of data and of parity shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scheme {
    /// From 1 to [`DATA_SHARDS_MAX`].
    data: u8,
    /// From 0 to [`PARITY_SHARDS_MAX`].
    parity: u8,
}

impl Scheme {
    /// `k` data and `m` parity shards: any `m` may be lost.
    ///
    /// # Errors
    ///
    /// Numbers outside of the limits.
    pub const fn ec(k: usize, m: usize) -> Result<Self, GeometryError> {
        if k == 0 || k > DATA_SHARDS_MAX {
            return Err(GeometryError::DataShards {
                found: k,
                max: DATA_SHARDS_MAX,
            });
        }
        if m > PARITY_SHARDS_MAX {
            return Err(GeometryError::ParityShards {
                found: m,
                max: PARITY_SHARDS_MAX,
            });
        }
        Ok(Self {
            data: k as u8,
            parity: m as u8,
        })
    }

    /// `copies` equal shards: the scheme `ec(1, copies - 1)`, whose coefficients are all 1.
    ///
    /// # Errors
    ///
    /// Numbers outside of the limits.
    pub const fn replicate(copies: usize) -> Result<Self, GeometryError> {
        if copies == 0 || copies > 1 + PARITY_SHARDS_MAX {
            return Err(GeometryError::Copies {
                found: copies,
                max: 1 + PARITY_SHARDS_MAX,
            });
        }
        Self::ec(1, copies - 1)
    }

    /// The number of data shards, k.
    pub const fn data_shards(self) -> usize {
        self.data as usize
    }

    /// The number of parity shards, m.
    pub const fn parity_shards(self) -> usize {
        self.parity as usize
    }

    /// The number of shards, k + m.
    pub const fn shards(self) -> usize {
        self.data_shards() + self.parity_shards()
    }

    /// Every shard.
    pub const fn all(self) -> ShardSet {
        ShardSet::span(0, self.shards())
    }

    /// The parity shards.
    pub const fn parity(self) -> ShardSet {
        ShardSet::span(self.data_shards(), self.shards())
    }

    /// Whether the shard holds parity.
    pub const fn is_parity(self, shard: ShardIndex) -> bool {
        shard.index() >= self.data_shards()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// The bytes of a stripe on one shard: a power of two from [`BLOCK_BYTES`] to [`UNIT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StripeUnit(u32);

impl StripeUnit {
    /// A unit of this many bytes.
    ///
    /// # Errors
    ///
    /// A number that is not a power of two or is out of range.
    pub const fn new(bytes: Bytes) -> Result<Self, GeometryError> {
        let found = bytes.get();
        if !found.is_power_of_two() || found < BLOCK_BYTES as u64 || found > UNIT_BYTES_MAX as u64 {
            return Err(GeometryError::Unit {
                found,
                min: BLOCK_BYTES,
                max: UNIT_BYTES_MAX,
            });
        }
        Ok(Self(found as u32))
    }

    /// The unit's length.
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0 as u64)
    }

    pub(crate) const fn raw(self) -> u32 {
        self.0
    }
}

/// A scheme and its stripe unit: how the blobs of a realm are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The number of shards.
    pub scheme: Scheme,
    /// The bytes of a stripe on one shard.
    pub unit: StripeUnit,
}

impl Geometry {
    /// A geometry of the scheme with this unit.
    pub const fn new(scheme: Scheme, unit: StripeUnit) -> Self {
        Self { scheme, unit }
    }

    /// The blob bytes in a whole stripe.
    pub const fn stripe_bytes(self) -> Bytes {
        Bytes(self.unit.bytes().get() * self.scheme.data_shards() as u64)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} unit {}", self.scheme, self.unit.0)
    }
}
