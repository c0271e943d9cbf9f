//! The units of the ring: epochs, partitions, node slots and shards.

use std::fmt;

use super::limits::{PARTITION_BITS_DEFAULT, PARTITION_BITS_MAX, PARTITION_BITS_MIN};

/// A version of the ring. It only grows; it is no time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The version after this one; nothing after the last, which at a change a second comes after 136 years.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A slice of key space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node's number in a ring. It stays the node's as long as a line names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(pub u16);

impl NodeSlot {
    /// Nobody: never the number of a node.
    pub const NOBODY: Self = Self(u16::MAX);

    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An owner's place in its partition: owner i holds shard i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u8);

impl Shard {
    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The caller's name for a blob, of which the first bytes choose the partition.
pub type Key = [u8; 32];

/// How many partitions there are: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partitions {
    bits: u8,
}

/// A number of partitions that no ring can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found} partitions: choose a power of two from {} to {}",
    1u32 << PARTITION_BITS_MIN,
    1u32 << PARTITION_BITS_MAX
)]
pub struct PartitionsError {
    /// The number asked for.
    pub found: u64,
}

impl Partitions {
    /// This many partitions.
    ///
    /// # Errors
    ///
    /// A number that is not a power of two or is out of range.
    pub const fn new(count: u64) -> Result<Self, PartitionsError> {
        let bits = count.trailing_zeros() as u8;
        if !count.is_power_of_two() || bits < PARTITION_BITS_MIN || bits > PARTITION_BITS_MAX {
            return Err(PartitionsError { found: count });
        }
        Ok(Self { bits })
    }

    /// The number of partitions.
    pub const fn count(self) -> usize {
        1 << self.bits
    }

    /// The number as a power of two.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The partition of a key: its highest bits, the first byte being the most significant.
    #[inline]
    pub const fn of(self, key: &Key) -> PartitionId {
        let [a, b, c, d, ..] = *key;
        PartitionId(u32::from_be_bytes([a, b, c, d]) >> (32 - self.bits))
    }

    /// Every partition, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = PartitionId> {
        (0..1u32 << self.bits).map(PartitionId)
    }
}

impl Default for Partitions {
    fn default() -> Self {
        Self {
            bits: PARTITION_BITS_DEFAULT,
        }
    }
}

impl fmt::Display for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bits_of_a_key_choose_its_partition() {
        let mut key = [0xEE; 32];
        key[..4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        assert_eq!(Partitions::default().of(&key), PartitionId(0x1234));
        let ten = Partitions::new(1024).unwrap();
        assert_eq!(ten.of(&key), PartitionId(0x1234 >> 6));
        let twenty = Partitions::new(1 << 20).unwrap();
        assert_eq!(twenty.of(&key), PartitionId(0x12345));
        assert_eq!(twenty.of(&[0xFF; 32]), PartitionId((1 << 20) - 1));
    }

    #[test]
    fn numbers_of_partitions_out_of_range_are_refused() {
        for found in [0, 1, 512, 1000, 1 << 21, u64::MAX] {
            assert_eq!(Partitions::new(found), Err(PartitionsError { found }));
        }
        let message = PartitionsError { found: 1000 }.to_string();
        assert_eq!(
            message,
            "1000 partitions: choose a power of two from 1024 to 1048576"
        );
    }
}
