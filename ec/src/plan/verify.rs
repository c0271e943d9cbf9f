//! Which units to compare with which checksums.

use std::fmt;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::{ExecuteError, PlanError, Reads, ShardRead};
use crate::codec::Crc32c;
use crate::layout::Layout;
use crate::units::{Bytes, ChecksumIndex, ShardIndex, ShardSet, StripeIndex};

/// A unit to be compared with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitCheck {
    /// The shard that holds it.
    pub shard: ShardIndex,
    /// The stripe that it belongs to.
    pub stripe: StripeIndex,
    /// Where in the shard it starts.
    pub offset: Bytes,
    /// Its length.
    pub length: Bytes,
    /// The place of its checksum in the blob's table.
    pub checksum: ChecksumIndex,
}

/// A planned comparison of some shards' units with their checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyPlan {
    layout: Layout,
    stripes: Range<u64>,
    reads: Reads,
}

impl VerifyPlan {
    /// Plans to check the units of some shards in some stripes.
    ///
    /// # Errors
    ///
    /// The scheme does not have the shards or the blob does not have the stripes.
    pub fn new(
        layout: Layout,
        shards: ShardSet,
        stripes: Range<StripeIndex>,
    ) -> Result<Self, PlanError> {
        let members = layout.geometry().scheme.all();
        if !shards.minus(members).is_empty() {
            return Err(PlanError::ForeignShards {
                found: shards,
                members,
            });
        }
        let range = stripes.start.0..stripes.end.0;
        if range.start > range.end || range.end > layout.stripes() {
            return Err(PlanError::NoSuchStripes {
                range,
                stripes: layout.stripes(),
            });
        }
        let start = layout.shard_start(stripes.start).get();
        let limit = layout.shard_start(stripes.end).get();
        let reads = shards.iter().filter_map(|shard| {
            let end = layout.shard_bytes(shard).get().min(limit);
            (start < end).then(|| ShardRead {
                shard,
                offset: Bytes(start),
                length: Bytes(end - start),
            })
        });
        Ok(Self {
            layout,
            stripes: range,
            reads: reads.collect(),
        })
    }

    /// Plans to check every unit of a blob.
    pub fn whole(layout: Layout) -> Self {
        let stripes = StripeIndex(0)..StripeIndex(layout.stripes());
        Self::new(layout, layout.geometry().scheme.all(), stripes)
            .expect("all shards and stripes are the layout's own")
    }

    /// The reads, at most one from each shard, in the order of shards.
    pub fn reads(&self) -> &[ShardRead] {
        &self.reads
    }

    /// The units, shard by shard.
    pub fn units(&self) -> impl Iterator<Item = UnitCheck> {
        self.reads.iter().flat_map(|read| {
            self.stripes
                .clone()
                .filter_map(|stripe| self.unit(read.shard, stripe))
        })
    }

    fn unit(&self, shard: ShardIndex, stripe: u64) -> Option<UnitCheck> {
        unit_check(&self.layout, shard, StripeIndex(stripe))
    }

    /// Compares the bytes of [`Self::reads`] (one buffer for each, in their order) with the checksums, and hands every
    /// finding to `found`.
    ///
    /// # Errors
    ///
    /// The buffers are not those of the reads. A corrupted unit is a finding, not an error: the others are checked too.
    pub fn execute(
        &self,
        buffers: &[&[u8]],
        checksums: impl Fn(ChecksumIndex) -> Crc32c,
        mut found: impl FnMut(ExecuteError),
    ) -> Result<(), ExecuteError> {
        super::execute::check_buffers(&self.reads, buffers)?;
        for (read, buffer) in self.reads.iter().zip(buffers) {
            for unit in self
                .stripes
                .clone()
                .filter_map(|stripe| self.unit(read.shard, stripe))
            {
                if let Err(finding) = super::execute::check_unit(unit, *read, buffer, &checksums) {
                    found(finding);
                }
            }
        }
        Ok(())
    }
}

/// What a shard holds of a stripe, if anything.
pub(super) fn unit_check(
    layout: &Layout,
    shard: ShardIndex,
    stripe: StripeIndex,
) -> Option<UnitCheck> {
    Some(UnitCheck {
        shard,
        stripe,
        offset: layout.shard_start(stripe),
        length: Bytes(u64::from(layout.stripe(stripe)?.stored(shard))),
        checksum: layout.checksum(stripe, shard)?,
    })
}

impl fmt::Display for VerifyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: ArrayVec<_, { crate::limits::SHARDS_MAX }> =
            self.reads.iter().map(|read| read.shard).collect();
        let shards: ShardSet = shards.into_iter().collect();
        write!(
            f,
            "check {shards} of {}, stripes {}..{}",
            self.layout, self.stripes.start, self.stripes.end
        )?;
        for read in &self.reads {
            write!(f, "\n  {read}")?;
        }
        Ok(())
    }
}
