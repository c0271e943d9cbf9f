//! The choice of shards, the same for reads and repairs.
//!
//! What is wanted is given run by run: stripes of one shape that want the same parts of their units. A part on a usable
//! shard is read. A part on another is rebuilt, for which a stripe of d data shards must give d of its shards at the same
//! offsets. In a tail stripe the last data shard may be shorter; beyond its end it counts as zeros, so that the offsets
//! there need one shard less. Hence two bands, each with its own number of sources:
//!
//! ```text
//!          0        last      unit
//! data 0   |=========|=========|
//! data 1   |=========|=========|      offsets below `last`: any 3 of 5 shards
//! data 2   |=========|                offsets from `last` on: any 2 of 4
//! parity   |=========|=========|
//! parity   |=========|=========|
//! ```
//!
//! Shards to read are added one by one, data before parity, until every band is served. The order of runs does not
//! matter: of the k shards that serve whole stripes at most k - d hold nothing of a tail with d data shards, so that at
//! least d of them serve the tail too.

use arrayvec::ArrayVec;

use super::{Check, PlanError, Reads, Rebuild, Rebuilds, ShardRead};
use crate::layout::{Layout, StripeShape};
use crate::limits::{BLOCK_BYTES, RUNS_MAX, SHARDS_MAX};
use crate::units::{Bytes, ShardIndex, ShardSet, StripeIndex};

/// Offsets within a unit; empty where `from` is not below `to`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl Part {
    pub(crate) fn new(from: u32, to: u32) -> Self {
        if from < to {
            Self { from, to }
        } else {
            Self::default()
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.from >= self.to
    }

    fn length(self) -> u32 {
        self.to - self.from
    }

    /// The shortest part that covers both.
    fn hull(self, other: Self) -> Self {
        if self.is_empty() {
            other
        } else if other.is_empty() {
            self
        } else {
            Self {
                from: self.from.min(other.from),
                to: self.to.max(other.to),
            }
        }
    }

    /// The part within `from..to`.
    pub(crate) fn within(self, from: u32, to: u32) -> Self {
        Self::new(self.from.max(from), self.to.min(to))
    }

    fn in_blocks(self) -> Self {
        let from = self.from & !(BLOCK_BYTES - 1);
        Self {
            from,
            to: self.to.next_multiple_of(BLOCK_BYTES),
        }
    }
}

/// Stripes of one shape that want the same parts of their units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) shape: StripeShape,
    pub(crate) want: [Part; SHARDS_MAX],
}

pub(crate) type Runs = ArrayVec<Run, RUNS_MAX>;

impl Run {
    pub(crate) fn wanted(&self) -> ShardSet {
        (0..SHARDS_MAX as u8)
            .map(ShardIndex)
            .filter(|shard| !self.want[shard.index()].is_empty())
            .collect()
    }

    /// The offsets that a read covers in every stripe of the run.
    fn held(&self, layout: &Layout, read: &ShardRead) -> Part {
        let unit = layout.geometry().unit.bytes().get();
        let stored = u64::from(self.shape.stored(read.shard));
        let covered = |stripe: u64| {
            let offset = |position: u64| position.saturating_sub(stripe * unit).min(stored) as u32;
            Part::new(offset(read.offset.get()), offset(read.end()))
        };
        // A read is contiguous, so that the first and the last stripe have the least of it.
        let last = covered(self.first + self.count - 1);
        covered(self.first).within(last.from, last.to)
    }

    /// The offsets that cover the wanted parts of some shards.
    fn hull(&self, shards: ShardSet) -> Part {
        shards
            .iter()
            .fold(Part::default(), |hull, shard| {
                hull.hull(self.want[shard.index()])
            })
            .in_blocks()
    }
}

/// What to choose from and by what measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// The shards that can be read.
    pub(crate) usable: ShardSet,
    /// The shards to take before others.
    pub(crate) preferred: ShardSet,
    /// The shards to take after others.
    pub(crate) avoided: ShardSet,
    pub(crate) check: Check,
    /// Whether to read few shards before few bytes; the reverse otherwise.
    pub(crate) fewest_shards: bool,
    /// Whether to read so much that any one shard may fail to answer.
    pub(crate) spare: bool,
    /// What was read already and costs nothing.
    pub(crate) held: &'a [ShardRead],
}

/// A band of a run: its offsets, the shards that have something there, and how many of them must be read.
#[derive(Clone, Copy)]
struct Band {
    part: Part,
    members: ShardSet,
    width: usize,
}

/// The bands of a run that `hull` touches.
fn bands(shape: StripeShape, hull: Part) -> impl Iterator<Item = Band> {
    let all = shape.shards();
    let width = usize::from(shape.data_shards);
    let below = Band {
        part: hull.within(0, shape.last),
        members: all,
        width,
    };
    let last = ShardSet::EMPTY.with(shape.last_shard());
    let above = Band {
        part: hull.within(shape.last, shape.unit),
        members: all.minus(last),
        width: width - 1,
    };
    [below, above]
        .into_iter()
        .filter(|band| !band.part.is_empty())
}

/// What a choice leads to.
pub(crate) struct Solution {
    pub(crate) reads: Reads,
    pub(crate) rebuilds: Rebuilds,
}

/// Chooses the reads and the rebuilds that give all that the runs want.
pub(crate) fn solve(
    layout: &Layout,
    runs: &Runs,
    choice: &Choice<'_>,
) -> Result<Solution, PlanError> {
    let chosen = choose_shards(runs, choice)?;
    let mut rebuilds = Rebuilds::new();
    // From where to where each shard is read, in bytes of the shard.
    let mut spans = [(u64::MAX, 0u64); SHARDS_MAX];
    for run in runs {
        let mut parts = [Part::default(); SHARDS_MAX];
        for read in choice
            .held
            .iter()
            .filter(|read| choice.usable.contains(read.shard))
        {
            parts[read.shard.index()] = run.held(layout, read);
        }
        for shard in run.wanted().intersection(choice.usable).iter() {
            let part = widen(run.want[shard.index()], run.shape, shard, choice.check);
            parts[shard.index()] = parts[shard.index()].hull(part);
        }
        let lost = run.wanted().minus(choice.usable);
        let spare = usize::from(choice.spare);
        let hull = run.hull(if choice.spare { run.wanted() } else { lost });
        for band in bands(run.shape, hull) {
            let from = chosen.intersection(band.members);
            let sources = choose_sources(
                &mut parts,
                run.shape,
                band,
                from,
                band.width + spare,
                choice,
            );
            let lost_here = lost.intersection(band.members);
            if !lost_here.is_empty() {
                rebuilds.push(Rebuild {
                    first: StripeIndex(run.first),
                    stripes: run.count,
                    from: band.part.from,
                    to: band.part.to,
                    width: band.width as u8,
                    lost: lost_here,
                    sources: sources.lowest(band.width),
                });
            }
        }
        let unit = layout.geometry().unit.bytes().get();
        for (part, span) in parts
            .iter()
            .zip(&mut spans)
            .filter(|(part, _)| !part.is_empty())
        {
            span.0 = span.0.min(run.first * unit + u64::from(part.from));
            span.1 = span
                .1
                .max((run.first + run.count - 1) * unit + u64::from(part.to));
        }
    }
    let reads = spans
        .iter()
        .enumerate()
        .filter(|(_, span)| span.0 < span.1)
        .map(|(shard, span)| ShardRead {
            shard: ShardIndex(shard as u8),
            offset: Bytes(span.0),
            length: Bytes(span.1 - span.0),
        });
    Ok(Solution {
        reads: reads.collect(),
        rebuilds,
    })
}

/// The shards that may be read: with `fewest_shards`, as few as serve every run.
fn choose_shards(runs: &Runs, choice: &Choice<'_>) -> Result<ShardSet, PlanError> {
    let direct = runs
        .iter()
        .fold(ShardSet::EMPTY, |all, run| all.union(run.wanted()));
    let mut chosen = if choice.fewest_shards {
        direct.intersection(choice.usable)
    } else {
        choice.usable
    };
    for run in runs {
        let lost = run.wanted().minus(choice.usable);
        let hull = run.hull(if choice.spare { run.wanted() } else { lost });
        for band in bands(run.shape, hull) {
            let needed = band.width + usize::from(choice.spare);
            while chosen.intersection(band.members).len() < needed {
                let more = band.members.intersection(choice.usable).minus(chosen);
                let best = more
                    .iter()
                    .min_by_key(|shard| (choice.rank(*shard), *shard));
                let Some(best) = best else {
                    let left = band.members.intersection(choice.usable);
                    return Err(PlanError::TooManyLost {
                        stripe: StripeIndex(run.first),
                        left,
                        needed,
                    });
                };
                chosen = chosen.with(best);
            }
        }
    }
    Ok(chosen)
}

/// The `count` shards whose reads grow least when they must cover the band, and grows them.
fn choose_sources(
    parts: &mut [Part; SHARDS_MAX],
    shape: StripeShape,
    band: Band,
    mut from: ShardSet,
    count: usize,
    choice: &Choice<'_>,
) -> ShardSet {
    let mut sources = ShardSet::EMPTY;
    while sources.len() < count {
        let grown = |shard: ShardIndex| {
            widen(
                parts[shard.index()].hull(band.part),
                shape,
                shard,
                choice.check,
            )
        };
        let growth = |shard: ShardIndex| {
            let before = parts[shard.index()];
            grown(shard).length()
                - if before.is_empty() {
                    0
                } else {
                    before.length()
                }
        };
        let best = from.iter().min_by_key(|shard| {
            let growth = growth(*shard);
            let rank = if growth == 0 {
                0
            } else {
                1 + choice.rank(*shard)
            };
            (rank, growth, parts[shard.index()].is_empty(), *shard)
        });
        let best = best.expect("choose_shards left enough shards for every band");
        parts[best.index()] = grown(best);
        from = from.minus(ShardSet::EMPTY.with(best));
        sources = sources.with(best);
    }
    sources
}

impl Choice<'_> {
    fn rank(&self, shard: ShardIndex) -> u8 {
        if self.preferred.contains(shard) {
            0
        } else if self.avoided.contains(shard) {
            2
        } else {
            1
        }
    }
}

/// What must be read of a unit to use a part of it.
fn widen(part: Part, shape: StripeShape, shard: ShardIndex, check: Check) -> Part {
    let stored = shape.stored(shard);
    match check {
        _ if part.is_empty() => part,
        Check::Units => Part {
            from: 0,
            to: stored,
        },
        Check::Device => part.in_blocks().within(0, stored),
    }
}
