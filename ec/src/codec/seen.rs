//! Whether the shards of a call are what they should be, found out in the few nanoseconds that a short call leaves.

#![forbid(unsafe_code)]

use super::CodecError;
use crate::units::{ShardIndex, ShardSet};

/// What a list of shards comes to. Rejections are rare, so what is wrong is found out only then.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// The shards, if [`Self::ascending`] holds and none is above 31.
    mask: u32,
    /// Each shard was above the one before.
    ascending: bool,
    /// One more than the last shard.
    next: u32,
    /// Bits in which a buffer's length differs from what is expected.
    lengths_differ: usize,
}

impl Seen {
    pub(super) const NONE: Self = Self {
        mask: 0,
        ascending: true,
        next: 0,
        lengths_differ: 0,
    };

    #[inline(always)]
    pub(super) fn see(&mut self, shard: ShardIndex, length: usize, expected: usize) {
        let shard = u32::from(shard.0);
        self.ascending &= shard >= self.next;
        self.next = shard + 1;
        self.mask |= 1u32.wrapping_shl(shard);
        self.lengths_differ |= length ^ expected;
    }

    pub(super) fn shards(&self) -> ShardSet {
        ShardSet::from_mask(self.mask)
    }

    /// Whether both lists are in order, of this stripe, without a shard in common and all of the expected length.
    pub(super) fn in_order(&self, other: &Self, members: ShardSet) -> bool {
        let outside = (self.mask | other.mask) & !members.mask();
        self.ascending
            & other.ascending
            & (self.next.max(other.next) <= u32::BITS)
            & (self.mask & other.mask == 0)
            & (outside == 0)
            & (self.lengths_differ | other.lengths_differ == 0)
    }
}

/// Says which shard may not be given, is given twice or has another length than the others.
pub(super) fn check_shards(
    members: ShardSet,
    expected: usize,
    shards: impl Iterator<Item = (ShardIndex, usize)>,
) -> Result<(), CodecError> {
    let mut seen = ShardSet::EMPTY;
    for (shard, found) in shards {
        if !members.contains(shard) {
            return Err(CodecError::ForeignShard { shard, members });
        }
        if seen.contains(shard) {
            return Err(CodecError::RepeatedShard { shard });
        }
        if found != expected {
            return Err(CodecError::Length {
                shard,
                expected,
                found,
            });
        }
        seen = seen.with(shard);
    }
    Ok(())
}
