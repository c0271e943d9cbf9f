//! What the protocol speaks of.

use std::fmt;

use crate::error::{DecodeError, Expected};
use crate::limits::{LENGTH_MAX, NAMESPACE_BLOCKS, QUIET_BLOCKS};

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
    /// The BLAKE3 of the blob's bytes, which the node checks before the blob is visible.
    Content,
}

/// A block of a realm's namespace. Positions are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Position(pub u64);

impl Position {
    /// The first block that comes after so many; `None` behind the last block of the namespace.
    pub fn after(self, blocks: u64) -> Option<Self> {
        let end = self.0.checked_add(blocks)?;
        (end <= NAMESPACE_BLOCKS).then_some(Self(end))
    }

    /// Checks that so many blocks from here on may be a window.
    pub(crate) fn window(raw: u64, blocks: u64, field: &'static str) -> Result<Self, DecodeError> {
        let most = (NAMESPACE_BLOCKS - QUIET_BLOCKS).saturating_sub(blocks);
        let expected = Expected::Between {
            least: QUIET_BLOCKS,
            most,
        };
        DecodeError::check((QUIET_BLOCKS..=most).contains(&raw), field, raw, expected)?;
        Ok(Self(raw))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log block {}", self.0)
    }
}

/// A blob's length in bytes: 1 to 2^36 - 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Length(u64);

impl Length {
    /// `None` for no bytes, and for more than there can be.
    pub const fn new(bytes: u64) -> Option<Self> {
        match bytes {
            1..=LENGTH_MAX => Some(Self(bytes)),
            _ => None,
        }
    }

    /// Bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Blocks of data.
    pub const fn blocks(self) -> u64 {
        crate::limits::data_blocks(self.0)
    }

    /// Blocks of the vector of checksums.
    pub const fn vector_blocks(self) -> u64 {
        crate::limits::vector_blocks(self.0)
    }

    pub(crate) fn decode(raw: u64, field: &'static str) -> Result<Self, DecodeError> {
        let expected = Expected::Between {
            least: 1,
            most: LENGTH_MAX,
        };
        Self::new(raw).ok_or(DecodeError::Field {
            field,
            found: raw,
            expected,
        })
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// A version of the routing table; 0 where a node has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// Names a store, so that a client notices when another one answers at the same address.
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
