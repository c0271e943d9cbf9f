//! What a simulated drive does wrong, and what it remembers of it.

use std::cell::Cell;
use std::collections::BTreeSet;

use oriel_engine::clock::Moment;
use oriel_engine::store::ExtentName;

use super::world::{Rng, World};

/// How often each thing goes wrong, in thousandths of the calls that it can go wrong with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Faults {
    /// A read says that it failed.
    pub(crate) read_errors: u64,
    /// A write says that it failed, and has been carried out in part; an extent is not made.
    pub(crate) write_errors: u64,
    /// A flush says that it failed; what it was to make durable is so in part.
    pub(crate) flush_errors: u64,
    /// An extent is not made, for want of room that nobody knew of.
    pub(crate) no_room: u64,
    /// There is no memory for a buffer, nor for any other for a while.
    pub(crate) no_memory: u64,
    /// Every other time of this length nothing goes wrong; all the time, if it is 0.
    pub(crate) burst_nanos: u64,
    /// A bit of what is on the drive changes.
    pub(crate) rot: u64,
    /// A write says that it is done and is not carried out.
    pub(crate) lost: u64,
    /// A write is carried out somewhere else.
    pub(crate) misdirected: u64,
}

impl Faults {
    /// Whether what the drive gives back may be something else than what was written.
    pub(crate) fn corrupt(&self) -> bool {
        self.rot + self.lost + self.misdirected > 0
    }
}

/// How a drive takes its time, and what it does wrong.
pub(crate) struct Temper {
    pub(crate) world: World,
    pub(crate) faults: Faults,
    /// The longest that a call takes as a rule.
    pub(crate) nanos_max: u64,
    /// Calls in a thousand that take a hundred times as long.
    pub(crate) slow: u64,
    /// Until when there is no memory, in nanoseconds from the start of the clock.
    pub(crate) short_until: Cell<u64>,
}

impl Temper {
    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        self.world.random(choose)
    }

    pub(crate) fn strikes(&self, chances: u64) -> bool {
        chances > 0 && !self.is_calm() && self.random(|rng| rng.in_thousand(chances))
    }

    fn nanos(&self) -> u64 {
        self.world.clock().now().since(Moment::START).as_nanos() as u64
    }

    /// Whether there is memory for a buffer.
    pub(crate) fn has_memory(&self) -> bool {
        if self.strikes(self.faults.no_memory) {
            let nanos = self.random(|rng| rng.below(30 * self.nanos_max));
            self.short_until.set(self.nanos() + nanos);
            return false;
        }
        self.nanos() >= self.short_until.get()
    }

    fn is_calm(&self) -> bool {
        let turn = self.nanos().checked_div(self.faults.burst_nanos);
        turn.is_some_and(|turn| turn % 2 == 1)
    }

    pub(crate) fn latency(&self) -> u64 {
        let nanos = self.random(|rng| rng.between(1, self.nanos_max));
        match self.random(|rng| rng.in_thousand(self.slow)) {
            true => nanos * 100,
            false => nanos,
        }
    }
}

/// The blocks that do not hold what was written to them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Harm(BTreeSet<(ExtentName, u64)>);

impl Harm {
    pub(crate) fn add(&mut self, name: ExtentName, block: u64, blocks: u64) {
        self.0
            .extend((block..block + blocks).map(|block| (name, block)));
    }

    /// The blocks have been written anew.
    pub(crate) fn heal(&mut self, name: ExtentName, block: u64, blocks: u64) {
        for block in block..block + blocks {
            self.0.remove(&(name, block));
        }
    }

    pub(crate) fn forget(&mut self, name: ExtentName) {
        self.0.retain(|(harmed, _)| *harmed != name);
    }

    pub(crate) fn within(&self, name: ExtentName, block: u64, blocks: u64) -> bool {
        let range = (name, block)..(name, block + blocks);
        self.0.range(range).next().is_some()
    }

    /// Whether anything but data has suffered.
    pub(crate) fn of_bookkeeping(&self) -> bool {
        let is_slab = |name: &ExtentName| matches!(name, ExtentName::Slab(_));
        self.0.iter().any(|(name, _)| !is_slab(name))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
