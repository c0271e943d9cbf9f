//! What the store's users and its parts speak of.

use std::fmt;

/// Bytes of a block: the unit of the log, of a drive's atomic write and of a checksum.
pub const BLOCK_BYTES: usize = 4096;

/// A blob's name: the BLAKE3 of its bytes, or a hash of the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key that these bytes have as content.
    pub fn of_content(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a key came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// A hash that the caller computed over something of his own; nobody can check it.
    Name,
    /// The BLAKE3 of the blob's bytes, checked when it is committed.
    Content,
}

/// A block of the log. Positions are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log block {}", self.0)
    }
}

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
