//! The units of this crate: bytes, shards, stripes, and sets of shards.

use std::fmt;

/// A number of bytes: a length, or a distance from the start of a blob or of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a length in memory.
    pub(crate) fn in_memory(self) -> usize {
        usize::try_from(self.0).expect("lengths of buffers in memory fit the address space")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a shard in its scheme: data shards from 0 to k - 1, then parity shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u8);

impl ShardIndex {
    /// The number as an array index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a stripe in its blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StripeIndex(pub u64);

impl fmt::Display for StripeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a unit's checksum in the blob's table of checksums: stripe by stripe, data units first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChecksumIndex(pub u64);

/// A set of shards of one scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ShardSet(u32);

impl ShardSet {
    /// No shard.
    pub const EMPTY: Self = Self(0);

    /// The shards from `from` up to but not including `to`.
    pub(crate) const fn span(from: usize, to: usize) -> Self {
        Self((((1u64 << to) - 1) & !((1u64 << from) - 1)) as u32)
    }

    /// The set whose members are the bits of `mask`, shard 0 the lowest.
    pub const fn from_mask(mask: u32) -> Self {
        Self(mask)
    }

    /// The members as bits, shard 0 the lowest.
    pub const fn mask(self) -> u32 {
        self.0
    }

    /// Whether the shard is a member.
    pub const fn contains(self, shard: ShardIndex) -> bool {
        shard.0 < 32 && self.0 >> shard.0 & 1 == 1
    }

    /// This set and one more shard, which must be of some scheme (below 32).
    #[must_use]
    pub const fn with(self, shard: ShardIndex) -> Self {
        Self(self.0 | 1 << shard.0)
    }

    /// The shards in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The shards in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The shards in this set and not in the other.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The number of members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest `count` members, or all if there are fewer.
    #[must_use]
    pub(crate) fn lowest(self, count: usize) -> Self {
        if self.len() <= count {
            self
        } else {
            self.iter().take(count).collect()
        }
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ShardIndex> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let lowest = rest.trailing_zeros();
            rest &= rest.wrapping_sub(1);
            (lowest < 32).then_some(ShardIndex(lowest as u8))
        })
    }
}

impl FromIterator<ShardIndex> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardIndex>>(shards: I) -> Self {
        shards.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, shard) in self.iter().enumerate() {
            if place > 0 {
                f.write_str(" ")?;
            }
            shard.fmt(f)?;
        }
        f.write_str("}")
    }
}
