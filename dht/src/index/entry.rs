//! What the index maps, and what to: a key's fingerprint to a place in the log.

use crate::limits::{LENGTH_BITS, POSITION_BITS};

/// The 128 bits that stand for a key. Two keys are the same to the index if and only if these are; nothing shorter is
/// ever compared in their stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Fingerprint {
    /// From sixteen bytes of the key, or of a hash of it.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self {
            low: both as u64,
            high: (both >> 64) as u64,
        }
    }

    /// The sixteen bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.low) | u128::from(self.high) << 64).to_le_bytes()
    }
}

/// A block of the log. Below 2^50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(u64);

impl Position {
    /// None from 2^50 on.
    pub const fn new(block: u64) -> Option<Self> {
        if block >> POSITION_BITS == 0 {
            Some(Self(block))
        } else {
            None
        }
    }

    /// The block's number.
    pub const fn block(self) -> u64 {
        self.0
    }
}

/// Bytes of a blob. Below 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Length(u64);

impl Length {
    /// None from 64 GiB on.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes >> LENGTH_BITS == 0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Eight bits whose meaning is the store's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

/// How often an entry was touched since it was written or last cooled, up to 15. Approximate: a touch may be lost
/// when two happen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Heat(pub u8);

impl Heat {
    /// Where it stops counting.
    pub const MAX: Self = Self(15);
}

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its first block in the log.
    pub position: Position,
    /// Its size.
    pub length: Length,
    /// What the store notes about it.
    pub flags: Flags,
}
