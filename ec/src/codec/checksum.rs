//! CRC32C, the checksum of a stored unit.

#![forbid(unsafe_code)]

use std::fmt;

use super::{isal, portable};
use crate::limits::SHARDS_MAX;

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

    /// The checksum of what this one covers, followed by `length` bytes whose own checksum is `next`.
    #[must_use]
    pub fn followed_by(self, next: Self, length: usize) -> Self {
        Self(portable::over_zeros(self.0, length) ^ next.0)
    }

    /// The states from which the checksums go on, as kernels want them.
    pub(super) fn states(checksums: &[Self]) -> [u32; SHARDS_MAX] {
        let mut states = [0; SHARDS_MAX];
        for (state, checksum) in states.iter_mut().zip(checksums) {
            *state = !checksum.0;
        }
        states
    }

    /// Takes the states back.
    pub(super) fn set_states(checksums: &mut [Self], states: &[u32; SHARDS_MAX]) {
        for (checksum, state) in checksums.iter_mut().zip(states) {
            checksum.0 = !state;
        }
    }

    /// The checksum of the XOR of some inputs, without looking at it: `before` and `after` are the inputs' checksums before
    /// and after their last `length` bytes, `own` is the sum's own before those bytes.
    pub(super) fn of_sum(before: &[Self], after: &[Self], own: Self, length: usize) -> Self {
        // The state after some bytes is the state before, moved on over as many zeros, XOR a function of the bytes alone
        // that is linear. So the bytes' part of the sum is the XOR of the inputs' parts.
        let state = |sum: &Self| !sum.0;
        let start = before
            .iter()
            .map(state)
            .fold(state(&own), |sum, state| sum ^ state);
        let end = after.iter().map(state).fold(0, |sum, state| sum ^ state);
        Self(!(end ^ portable::over_zeros(start, length)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_of_two_parts_make_that_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
        for cut in [0, 1, 63, 4096, 9_999, 10_000] {
            let (one, other) = bytes.split_at(cut);
            let joined = Crc32c::of(one).followed_by(Crc32c::of(other), other.len());
            assert_eq!(joined, Crc32c::of(&bytes), "cut at {cut}");
        }
    }
}
