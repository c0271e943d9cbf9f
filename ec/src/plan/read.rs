//! Reading a range of a blob: whole, degraded or hedged.

use std::fmt;
use std::ops::Range;

use super::solve::{Choice, Part, Run, Runs, solve};
use super::{Check, PlanError, Reads, Rebuild, Rebuilds, ShardRead};
use crate::layout::Layout;
use crate::limits::SHARDS_MAX;
use crate::units::{Bytes, ShardIndex, ShardSet, StripeIndex};

/// What is to be read and what is known of the shards.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    layout: Layout,
    range: Range<Bytes>,
    missing: ShardSet,
    slow: ShardSet,
    hedged: bool,
    check: Check,
}

impl ReadRequest {
    /// A read of a range of the blob's bytes, all shards being well and units being checked.
    pub fn new(layout: Layout, range: Range<Bytes>) -> Self {
        let nothing = ShardSet::EMPTY;
        Self {
            layout,
            range,
            missing: nothing,
            slow: nothing,
            hedged: false,
            check: Check::Units,
        }
    }

    /// These shards cannot be read.
    #[must_use]
    pub fn missing(mut self, shards: ShardSet) -> Self {
        self.missing = shards;
        self
    }

    /// These shards are to be read around, and read only where too few others are left.
    #[must_use]
    pub fn slow(mut self, shards: ShardSet) -> Self {
        self.slow = shards;
        self
    }

    /// Asks for one shard more than needed, so that any one may come too late: see [`ReadPlan::settle`].
    #[must_use]
    pub fn hedged(mut self) -> Self {
        self.hedged = true;
        self
    }

    /// Who checks the bytes.
    #[must_use]
    pub fn checked_by(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// Plans the read with the fewest shards, and among those with the fewest bytes.
    ///
    /// # Errors
    ///
    /// The range is not within the blob, too few shards are left, or shards are named that the scheme does not have.
    pub fn plan(&self) -> Result<ReadPlan, PlanError> {
        let members = self.layout.geometry().scheme.all();
        let named = self.missing.union(self.slow);
        if !named.minus(members).is_empty() {
            return Err(PlanError::ForeignShards {
                found: named,
                members,
            });
        }
        if self.range.start > self.range.end || self.range.end > self.layout.length() {
            return Err(PlanError::OutOfRange {
                range: self.range.clone(),
                length: self.layout.length(),
            });
        }
        let runs = runs(&self.layout, &self.range);
        let wanted = runs
            .iter()
            .fold(ShardSet::EMPTY, |all, run| all.union(run.wanted()));
        let present = members.minus(self.missing);
        let mut choice = Choice {
            usable: present.minus(self.slow),
            preferred: ShardSet::EMPTY,
            avoided: self.slow,
            check: self.check,
            fewest_shards: true,
            spare: self.hedged,
            held: &[],
        };
        loop {
            match solve(&self.layout, &runs, &choice) {
                Ok(solution) => {
                    return Ok(ReadPlan {
                        layout: self.layout,
                        range: self.range.clone(),
                        absent: members.minus(choice.usable),
                        check: self.check,
                        reads: solution.reads,
                        rebuilds: solution.rebuilds,
                        spare: self.hedged,
                    });
                }
                Err(short) => {
                    // A slow shard is better than no answer; one whose bytes are wanted anyway helps most.
                    let left = present.minus(choice.usable);
                    let first = |shards: ShardSet| shards.iter().next();
                    let Some(more) = first(left.intersection(wanted)).or_else(|| first(left))
                    else {
                        return Err(short);
                    };
                    choice.usable = choice.usable.with(more);
                }
            }
        }
    }
}

/// Cuts a range of a blob into runs.
fn runs(layout: &Layout, range: &Range<Bytes>) -> Runs {
    let stripe_bytes = layout.geometry().stripe_bytes().get();
    let whole_end = layout.full_stripes() * stripe_bytes;
    let mut runs = Runs::new();
    let mut at = range.start.get();
    let end = range.end.get();
    while at < end {
        let first = at / stripe_bytes;
        let start = first * stripe_bytes;
        let (shape, count, stop) = match layout.tail().filter(|_| at >= whole_end) {
            Some(tail) => (tail, 1, end),
            None if at > start || end < start + stripe_bytes => {
                (layout.full_shape(), 1, end.min(start + stripe_bytes))
            }
            None => {
                let last = end.min(whole_end) / stripe_bytes;
                (layout.full_shape(), last - first, last * stripe_bytes)
            }
        };
        // Within the first of the run's stripes; the others want the same.
        let wanted_end = stop - (count - 1) * stripe_bytes;
        let mut want = [Part::default(); SHARDS_MAX];
        for shard in shape.data().iter() {
            let unit = u64::from(shape.unit);
            let unit_start = start + shard.index() as u64 * unit;
            let offset = |position: u64| position.saturating_sub(unit_start).min(unit) as u32;
            want[shard.index()] = Part::new(offset(at), offset(wanted_end));
        }
        runs.push(Run {
            first,
            count,
            shape,
            want,
        });
        at = stop;
    }
    runs
}

/// A planned read. Its buffers are those of [`Self::reads`]; [`Self::execute`] turns them into the blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPlan {
    pub(super) layout: Layout,
    pub(super) range: Range<Bytes>,
    /// The shards that the plan does without.
    pub(super) absent: ShardSet,
    pub(super) check: Check,
    pub(super) reads: Reads,
    pub(super) rebuilds: Rebuilds,
    /// Whether any one of the reads may be left out.
    spare: bool,
}

impl ReadPlan {
    /// The reads, at most one from each shard, in the order of shards.
    pub fn reads(&self) -> &[ShardRead] {
        &self.reads
    }

    /// What is rebuilt from them.
    pub fn rebuilds(&self) -> &[Rebuild] {
        &self.rebuilds
    }

    /// The shards that are read.
    pub fn shards(&self) -> ShardSet {
        self.reads.iter().map(|read| read.shard).collect()
    }

    /// The bytes that are read.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.reads.iter().map(|read| read.length.get()).sum())
    }

    /// The range of the blob.
    pub fn range(&self) -> Range<Bytes> {
        self.range.clone()
    }

    /// Who checks the bytes.
    pub fn check(&self) -> Check {
        self.check
    }

    /// The plan that makes do with the reads that have arrived; it asks for no others.
    ///
    /// # Errors
    ///
    /// More must arrive first.
    pub fn settle(&self, arrived: ShardSet) -> Result<Self, PlanError> {
        let usable = self.shards().intersection(arrived);
        let choice = Choice {
            usable,
            preferred: ShardSet::EMPTY,
            avoided: ShardSet::EMPTY,
            check: self.check,
            fewest_shards: false,
            spare: false,
            held: &self.reads,
        };
        let solution = solve(&self.layout, &self.runs(), &choice)?;
        // What arrived was asked for by this plan's reads, so the buffers are still theirs.
        let reads: Reads = self
            .reads
            .iter()
            .copied()
            .filter(|read| usable.contains(read.shard))
            .collect();
        let covered = solution.reads.iter().all(|need| {
            let mut had = reads.iter();
            had.any(|read| {
                read.shard == need.shard && read.offset <= need.offset && read.end() >= need.end()
            })
        });
        if !covered {
            let first = self.rebuilds.first().map_or(0, |rebuild| rebuild.first.0);
            let needed = self.layout.geometry().scheme.data_shards();
            return Err(PlanError::TooManyLost {
                stripe: StripeIndex(first),
                left: usable,
                needed,
            });
        }
        let absent = self.layout.geometry().scheme.all().minus(usable);
        Ok(Self {
            absent,
            reads,
            rebuilds: solution.rebuilds,
            spare: false,
            ..self.clone()
        })
    }

    pub(super) fn runs(&self) -> Runs {
        runs(&self.layout, &self.range)
    }

    /// The pieces of the range in its order, each with the place of its shard's bytes: for scatter lists, and to see which
    /// are rebuilt.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let unit = self.layout.geometry().unit.bytes().get();
        let mut blob_offset = self.range.start.get();
        let absent = self.absent;
        self.runs()
            .into_iter()
            .flat_map(move |run| {
                let parts = (run.first..run.first + run.count).flat_map(move |stripe| {
                    run.wanted()
                        .iter()
                        .map(move |shard| (stripe, shard, run.want[shard.index()]))
                        .collect::<StripePieces>()
                });
                parts.map(move |(stripe, shard, part)| (stripe, shard, part, unit))
            })
            .map(move |(stripe, shard, part, unit)| {
                let piece = Piece {
                    blob_offset: Bytes(blob_offset),
                    shard,
                    shard_offset: Bytes(stripe * unit + u64::from(part.from)),
                    length: Bytes(u64::from(part.to - part.from)),
                    rebuilt: absent.contains(shard),
                };
                blob_offset += piece.length.get();
                piece
            })
    }
}

type StripePieces = arrayvec::ArrayVec<(u64, ShardIndex, Part), SHARDS_MAX>;

/// A part of a range that lies in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the blob it starts.
    pub blob_offset: Bytes,
    /// The shard that it lies on.
    pub shard: ShardIndex,
    /// Where in the shard it starts.
    pub shard_offset: Bytes,
    /// Its length.
    pub length: Bytes,
    /// Whether it is rebuilt from other shards.
    pub rebuilt: bool,
}

impl fmt::Display for ReadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.range.start, self.range.end);
        write!(f, "bytes {from}..{to} of {}", self.layout)?;
        if !self.absent.is_empty() {
            write!(f, "; without {}", self.absent)?;
        }
        if self.spare {
            f.write_str("; any one read may be late")?;
        }
        for read in &self.reads {
            write!(f, "\n  {read}")?;
        }
        for rebuild in &self.rebuilds {
            write!(f, "\n  {rebuild}")?;
        }
        Ok(())
    }
}
