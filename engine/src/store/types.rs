//! What the store's users and its parts speak of.

use std::fmt;

pub use oriel_protocol::{Key, KeyKind, Position};

/// Bytes of a block: the unit of the log, of a drive's atomic write and of a checksum.
pub const BLOCK_BYTES: usize = 4096;

/// The number of a slab, counted from the store's first one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SlabNumber(pub u64);

/// A realm of a store: one tenant's blobs, or one class of them. A key means something within its realm only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RealmId(pub u16);

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "realm {}", self.0)
    }
}

/// What a window holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// A blob.
    Whole,
    /// A part of a blob that is longer than a slab.
    Part,
    /// The manifest of such a blob, under the blob's key.
    Manifest,
}

/// Where a blob is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The first block of its window.
    pub position: Position,
    /// The length in bytes of what the window holds.
    pub length: u64,
    /// What it holds.
    pub form: Form,
}

/// Names a store, so that what belongs to another one is never taken for its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The blocks that this many bytes take.
pub(crate) const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}
