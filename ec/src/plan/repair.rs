//! Rebuilding lost shards of a blob with the fewest bytes moved.
//!
//! With a code of this kind k shards must be read to rebuild one, but the same k rebuild all that are lost: so all lost
//! shards are rebuilt at one place, and from the shards that lie there already as far as there are any. A tail stripe of
//! fewer data shards needs fewer sources, and lost shards that hold nothing of it cost nothing.

use std::fmt;

use super::solve::{Choice, Part, Run, Runs, solve};
use super::{Check, PlanError, Reads, Rebuild, Rebuilds, ShardRead};
use crate::layout::Layout;
use crate::limits::SHARDS_MAX;
use crate::units::{Bytes, ShardSet};

/// What is lost and what is known of the other shards.
#[derive(Clone, Debug)]
pub struct RepairRequest {
    layout: Layout,
    lost: ShardSet,
    missing: ShardSet,
    local: ShardSet,
    slow: ShardSet,
}

impl RepairRequest {
    /// A repair of these shards from all others.
    pub fn new(layout: Layout, lost: ShardSet) -> Self {
        let nothing = ShardSet::EMPTY;
        Self {
            layout,
            lost,
            missing: nothing,
            local: nothing,
            slow: nothing,
        }
    }

    /// These shards cannot be read either, but are not to be rebuilt.
    #[must_use]
    pub fn missing(mut self, shards: ShardSet) -> Self {
        self.missing = shards;
        self
    }

    /// These shards lie where the repair is done: reading them moves no bytes.
    #[must_use]
    pub fn local(mut self, shards: ShardSet) -> Self {
        self.local = shards;
        self
    }

    /// These shards are read only where too few others are left.
    #[must_use]
    pub fn slow(mut self, shards: ShardSet) -> Self {
        self.slow = shards;
        self
    }

    /// Plans the repair.
    ///
    /// # Errors
    ///
    /// Too few shards are left, or shards are named that the scheme does not have.
    pub fn plan(&self) -> Result<RepairPlan, PlanError> {
        let members = self.layout.geometry().scheme.all();
        let named = self
            .lost
            .union(self.missing)
            .union(self.slow)
            .union(self.local);
        if !named.minus(members).is_empty() {
            return Err(PlanError::ForeignShards {
                found: named,
                members,
            });
        }
        let choice = Choice {
            usable: members.minus(self.lost).minus(self.missing),
            preferred: self.local,
            avoided: self.slow,
            check: Check::Units,
            fewest_shards: false,
            spare: false,
            held: &[],
        };
        let solution = solve(&self.layout, &runs(&self.layout, self.lost), &choice)?;
        Ok(RepairPlan {
            layout: self.layout,
            lost: self.lost,
            local: self.local,
            reads: solution.reads,
            rebuilds: solution.rebuilds,
        })
    }
}

/// Whole stripes and the tail stripe, each wanting what it holds of some shards.
pub(super) fn runs(layout: &Layout, shards: ShardSet) -> Runs {
    let whole =
        (layout.full_stripes() > 0).then(|| (0, layout.full_stripes(), layout.full_shape()));
    let tail = layout.tail().map(|shape| (layout.full_stripes(), 1, shape));
    let all = whole.into_iter().chain(tail).map(|(first, count, shape)| {
        let mut want = [Part::default(); SHARDS_MAX];
        for shard in shards.iter() {
            want[shard.index()] = Part::new(0, shape.stored(shard));
        }
        Run {
            first,
            count,
            shape,
            want,
        }
    });
    all.filter(|run| !run.wanted().is_empty()).collect()
}

/// A planned repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPlan {
    pub(super) layout: Layout,
    pub(super) lost: ShardSet,
    local: ShardSet,
    pub(super) reads: Reads,
    pub(super) rebuilds: Rebuilds,
}

impl RepairPlan {
    /// The reads, at most one from each shard, in the order of shards.
    pub fn reads(&self) -> &[ShardRead] {
        &self.reads
    }

    /// What is rebuilt from them.
    pub fn rebuilds(&self) -> &[Rebuild] {
        &self.rebuilds
    }

    /// The shards to be rebuilt.
    pub fn lost(&self) -> ShardSet {
        self.lost
    }

    /// The bytes that come from elsewhere.
    pub fn bytes_moved(&self) -> Bytes {
        let remote = self
            .reads
            .iter()
            .filter(|read| !self.local.contains(read.shard));
        Bytes(remote.map(|read| read.length.get()).sum())
    }

    /// The bytes that are written.
    pub fn bytes_written(&self) -> Bytes {
        Bytes(
            self.lost
                .iter()
                .map(|shard| self.layout.shard_bytes(shard).get())
                .sum(),
        )
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rebuild {} of {}; moves {}",
            self.lost,
            self.layout,
            self.bytes_moved()
        )?;
        write!(f, ", writes {}", self.bytes_written())?;
        for read in &self.reads {
            write!(f, "\n  {read}")?;
        }
        for rebuild in &self.rebuilds {
            write!(f, "\n  {rebuild}")?;
        }
        Ok(())
    }
}
