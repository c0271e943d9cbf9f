//! CRC32C, the checksum of a stored unit.

#![forbid(unsafe_code)]

use std::fmt;

use super::{isal, portable};

/// The CRC32C (Castagnoli) of some bytes, to which more bytes can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The checksum of no bytes.
    pub const EMPTY: Self = Self(0);

    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::EMPTY.and(bytes)
    }

    /// The checksum of what this one covers, followed by these bytes.
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        Self(!isal::crc32c(!self.0, bytes))
    }

    /// [`Self::and`] in plain Rust.
    #[must_use]
    pub fn and_portable(self, bytes: &[u8]) -> Self {
        Self(!portable::crc32c(!self.0, bytes))
    }

    /// The checksum with this value, for example one read from a journal.
    pub const fn from_value(value: u32) -> Self {
        Self(value)
    }

    /// The value, for example to be stored.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
