//! Whether the shards of a call are what they should be, found out in the few nanoseconds that a short call leaves.

#![forbid(unsafe_code)]

use super::CodecError;
use crate::units::{ShardIndex, ShardSet};

/// What is known of the shards given so far. Rejections are rare, so what is wrong is found out only then.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    members: ShardSet,
    length: usize,
    pub(super) shards: ShardSet,
    /// The shards came in ascending order.
    pub(super) sorted: bool,
    /// One more than the last shard.
    highest: u8,
    /// Every shard may be given, is new, and has the length.
    pub(super) good: bool,
}

impl Seen {
    pub(super) fn new(members: ShardSet, length: usize) -> Self {
        Self {
            members,
            length,
            shards: ShardSet::EMPTY,
            sorted: true,
            highest: 0,
            good: true,
        }
    }

    /// The same, before a second list that is in an order of its own.
    pub(super) fn second_list(self) -> Self {
        Self { highest: 0, ..self }
    }

    #[inline(always)]
    pub(super) fn see(&mut self, shard: ShardIndex, length: usize) {
        let known = self.members.contains(shard) && !self.shards.contains(shard);
        self.good &= known & (length == self.length);
        self.sorted &= shard.0 >= self.highest;
        self.highest = shard.0.saturating_add(1);
        if known {
            self.shards = self.shards.with(shard);
        }
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
