//! From what was read to what was wanted, in memory.
//!
//! Stripe by stripe, so that a unit is still in the cache when it is used after its checksum was computed.

use arrayvec::ArrayVec;

use super::solve::{Part, Run};
use super::verify::{UnitCheck, unit_check};
use super::{Check, ReadPlan, Rebuild, RepairPlan, ShardRead, repair};
use crate::codec::{Codec, CodecError, Crc32c};
use crate::geometry::Scheme;
use crate::layout::Layout;
use crate::limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX};
use crate::units::{ChecksumIndex, ShardIndex, ShardSet, StripeIndex};

/// Why a plan could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError {
    /// The codec is of another scheme than the plan.
    #[error(
        "a plan for {expected} carried out with a codec for {found}: use the codec of the blob's geometry"
    )]
    OtherScheme {
        /// The plan's scheme.
        expected: Scheme,
        /// The codec's scheme.
        found: Scheme,
    },
    /// The number of buffers is not that of the reads, or of the shards to be rebuilt.
    #[error("{found} buffers where the plan has {expected}")]
    Buffers {
        /// The plan's number.
        expected: usize,
        /// The number given.
        found: usize,
    },
    /// A shard's buffer has not the length of its read, or of the shard.
    #[error("shard {shard}: a buffer of {found} bytes where the plan has {expected}")]
    Length {
        /// The shard.
        shard: ShardIndex,
        /// The plan's length.
        expected: u64,
        /// The buffer's length.
        found: u64,
    },
    /// The output has not the length of the range.
    #[error("an output of {found} bytes for a range of {expected}")]
    Output {
        /// The range's length.
        expected: u64,
        /// The output's length.
        found: u64,
    },
    /// A unit that was read is not what was written. No byte of it was used.
    #[error(
        "shard {shard} stripe {stripe}: checksum {found} where {expected} was stored: plan again without the shard"
    )]
    Corrupted {
        /// The shard that holds it.
        shard: ShardIndex,
        /// The stripe that it belongs to.
        stripe: StripeIndex,
        /// The checksum stored.
        expected: Crc32c,
        /// The checksum of what was read.
        found: Crc32c,
    },
    /// A rebuilt unit is not what was written: checksums and sources do not belong together.
    #[error(
        "shard {shard} stripe {stripe}: rebuilt with checksum {found} where {expected} was stored: do not write it"
    )]
    Rebuilt {
        /// The shard that was rebuilt.
        shard: ShardIndex,
        /// The stripe.
        stripe: StripeIndex,
        /// The checksum stored.
        expected: Crc32c,
        /// The checksum of what was rebuilt.
        found: Crc32c,
    },
    /// The codec rejects what the plan asks of it.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl ReadPlan {
    /// Writes the range's bytes to `output` from the bytes of [`Self::reads`], one buffer for each in their order. With
    /// [`Check::Units`] every unit is compared with its checksum before it is used; with [`Check::Device`] `checksums` is
    /// not asked.
    ///
    /// # Errors
    ///
    /// A corrupted unit, or buffers, output or codec that are not the plan's. The output may then have been written in part.
    pub fn execute(
        &self,
        codec: &mut Codec,
        buffers: &[&[u8]],
        checksums: impl Fn(ChecksumIndex) -> Crc32c,
        output: &mut [u8],
    ) -> Result<(), ExecuteError> {
        check_codec(&self.layout, codec)?;
        check_buffers(&self.reads, buffers)?;
        let expected = self.range.end.get() - self.range.start.get();
        if output.len() as u64 != expected {
            return Err(ExecuteError::Output {
                expected,
                found: output.len() as u64,
            });
        }
        let input = Input {
            layout: &self.layout,
            reads: &self.reads,
            buffers,
        };
        let mut rest = output;
        for run in &self.runs() {
            for stripe in (run.first..run.first + run.count).map(StripeIndex) {
                if self.check == Check::Units {
                    input.check(stripe, &checksums)?;
                }
                let mut lost: ArrayVec<Target<'_>, PARITY_SHARDS_MAX> = ArrayVec::new();
                for shard in run.wanted().iter() {
                    let part = run.want[shard.index()];
                    let (piece, after) = rest.split_at_mut((part.to - part.from) as usize);
                    rest = after;
                    if self.absent.contains(shard) {
                        lost.push(Target {
                            shard,
                            part,
                            bytes: piece,
                        });
                    } else {
                        piece.copy_from_slice(input.bytes(stripe, shard, part));
                    }
                }
                input.rebuild(codec, &self.rebuilds, stripe, &mut lost)?;
            }
        }
        Ok(())
    }
}

impl RepairPlan {
    /// Writes the lost shards to `outputs`, one for each in the order of shards and of the shard's length, from the bytes of
    /// [`Self::reads`]. Sources are checked before and rebuilt units after.
    ///
    /// # Errors
    ///
    /// A corrupted unit, or buffers, outputs or codec that are not the plan's.
    pub fn execute(
        &self,
        codec: &mut Codec,
        buffers: &[&[u8]],
        checksums: impl Fn(ChecksumIndex) -> Crc32c,
        outputs: &mut [&mut [u8]],
    ) -> Result<(), ExecuteError> {
        check_codec(&self.layout, codec)?;
        check_buffers(&self.reads, buffers)?;
        if outputs.len() != self.lost.len() {
            return Err(ExecuteError::Buffers {
                expected: self.lost.len(),
                found: outputs.len(),
            });
        }
        for (shard, output) in self.lost.iter().zip(&*outputs) {
            let (expected, found) = (self.layout.shard_bytes(shard).get(), output.len() as u64);
            if found != expected {
                return Err(ExecuteError::Length {
                    shard,
                    expected,
                    found,
                });
            }
        }
        let input = Input {
            layout: &self.layout,
            reads: &self.reads,
            buffers,
        };
        for run in &repair::runs(&self.layout, self.lost) {
            for stripe in (run.first..run.first + run.count).map(StripeIndex) {
                input.check(stripe, &checksums)?;
                self.rebuild_stripe(codec, &input, run, stripe, outputs)?;
                for (shard, output) in self.lost.iter().zip(&*outputs) {
                    if let Some(unit) = unit_check(&self.layout, shard, stripe) {
                        let bytes = &output[unit.offset.in_memory()..][..unit.length.in_memory()];
                        let (expected, found) = (checksums(unit.checksum), Crc32c::of(bytes));
                        if found != expected {
                            return Err(ExecuteError::Rebuilt {
                                shard,
                                stripe,
                                expected,
                                found,
                            });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn rebuild_stripe(
        &self,
        codec: &mut Codec,
        input: &Input<'_>,
        run: &Run,
        stripe: StripeIndex,
        outputs: &mut [&mut [u8]],
    ) -> Result<(), ExecuteError> {
        let start = self.layout.shard_start(stripe).in_memory();
        let mut lost: ArrayVec<Target<'_>, PARITY_SHARDS_MAX> = ArrayVec::new();
        for (shard, output) in self.lost.iter().zip(outputs) {
            let part = run.want[shard.index()];
            if !part.is_empty() {
                lost.push(Target {
                    shard,
                    part,
                    bytes: &mut output[start..][..part.to as usize],
                });
            }
        }
        input.rebuild(codec, &self.rebuilds, stripe, &mut lost)
    }
}

/// Where the bytes of a lost unit's part go.
struct Target<'a> {
    shard: ShardIndex,
    part: Part,
    bytes: &'a mut [u8],
}

/// What was read.
struct Input<'a> {
    layout: &'a Layout,
    reads: &'a [ShardRead],
    buffers: &'a [&'a [u8]],
}

impl<'a> Input<'a> {
    /// The bytes of a part of a unit.
    fn bytes(&self, stripe: StripeIndex, shard: ShardIndex, part: Part) -> &'a [u8] {
        let place = self.reads.binary_search_by_key(&shard, |read| read.shard);
        let place = place.expect("a plan reads every shard that it uses");
        let start = self.layout.shard_start(stripe).get() + u64::from(part.from)
            - self.reads[place].offset.get();
        &self.buffers[place][start as usize..][..(part.to - part.from) as usize]
    }

    /// Compares the stripe's units with their checksums.
    fn check(
        &self,
        stripe: StripeIndex,
        checksums: impl Fn(ChecksumIndex) -> Crc32c,
    ) -> Result<(), ExecuteError> {
        for (read, buffer) in self.reads.iter().zip(self.buffers) {
            // A shard may have been read for other stripes only.
            let unit = unit_check(self.layout, read.shard, stripe).filter(|unit| {
                read.offset <= unit.offset && unit.offset.get() + unit.length.get() <= read.end()
            });
            if let Some(unit) = unit {
                check_unit(unit, *read, buffer, &checksums)?;
            }
        }
        Ok(())
    }

    /// Rebuilds the lost parts of a stripe: together where they have the same offsets, as they do but at a range's ends.
    fn rebuild(
        &self,
        codec: &mut Codec,
        rebuilds: &[Rebuild],
        stripe: StripeIndex,
        lost: &mut [Target<'_>],
    ) -> Result<(), ExecuteError> {
        for step in rebuilds.iter().filter(|step| step.covers(stripe)) {
            let mut open: ShardSet = lost.iter().map(|target| target.shard).collect();
            while let Some(first) = lost.iter().find(|target| open.contains(target.shard)) {
                let part = first.part.within(step.from, step.to);
                let mut together: ArrayVec<(ShardIndex, &mut [u8]), PARITY_SHARDS_MAX> =
                    ArrayVec::new();
                let before = open;
                let alike = lost
                    .iter_mut()
                    .filter(|target| before.contains(target.shard));
                for target in alike.filter(|target| target.part.within(step.from, step.to) == part)
                {
                    open = open.minus(ShardSet::EMPTY.with(target.shard));
                    let skipped = part.from.saturating_sub(target.part.from) as usize;
                    if !part.is_empty() {
                        let bytes = &mut target.bytes[skipped..][..(part.to - part.from) as usize];
                        together.push((target.shard, bytes));
                    }
                }
                if part.is_empty() {
                    continue;
                }
                let sources: ArrayVec<(ShardIndex, &[u8]), DATA_SHARDS_MAX> = step
                    .sources
                    .iter()
                    .map(|shard| (shard, self.bytes(stripe, shard, part)))
                    .collect();
                codec.decode_band(usize::from(step.width), &sources, &mut together)?;
            }
        }
        Ok(())
    }
}

fn check_codec(layout: &Layout, codec: &Codec) -> Result<(), ExecuteError> {
    let (expected, found) = (layout.geometry().scheme, codec.scheme());
    if expected != found {
        Err(ExecuteError::OtherScheme { expected, found })
    } else {
        Ok(())
    }
}

pub(super) fn check_buffers(reads: &[ShardRead], buffers: &[&[u8]]) -> Result<(), ExecuteError> {
    if buffers.len() != reads.len() {
        return Err(ExecuteError::Buffers {
            expected: reads.len(),
            found: buffers.len(),
        });
    }
    for (read, buffer) in reads.iter().zip(buffers) {
        let (expected, found) = (read.length.get(), buffer.len() as u64);
        if found != expected {
            return Err(ExecuteError::Length {
                shard: read.shard,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Compares one unit, which the read covers, with its checksum.
pub(super) fn check_unit(
    unit: UnitCheck,
    read: ShardRead,
    buffer: &[u8],
    checksums: impl Fn(ChecksumIndex) -> Crc32c,
) -> Result<(), ExecuteError> {
    let start = (unit.offset.get() - read.offset.get()) as usize;
    let expected = checksums(unit.checksum);
    let found = Crc32c::of(&buffer[start..][..unit.length.in_memory()]);
    if found != expected {
        return Err(ExecuteError::Corrupted {
            shard: unit.shard,
            stripe: unit.stripe,
            expected,
            found,
        });
    }
    Ok(())
}
