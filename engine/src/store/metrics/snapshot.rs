//! What a log has done and does, as it is at one moment: plain values that can be sent to another core and added up.

use std::time::Duration;

use super::super::options::LogStat;
use super::super::types::{BLOCK_BYTES, RealmId};
use super::latency::Latencies;
use super::names::{ErrorKind, Operation, Outcome, Queue, ReadFor, SlabState, Step, WrittenFor};

/// Adds place by place.
fn add_all<const N: usize>(to: &mut [u64; N], more: &[u64; N]) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += more;
    }
}

/// One kind of operation in one realm.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OperationMetrics {
    /// How many were begun.
    pub begun: u64,
    pub(super) ended: [u64; Outcome::ALL.len()],
    /// Bytes of blobs that came in or went out.
    pub bytes: u64,
    /// How long those took that were timed and did not fail.
    pub timed: Latencies,
}

impl OperationMetrics {
    /// How many have ended so.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize]
    }

    /// How many are under way.
    pub fn under_way(&self) -> u64 {
        self.begun - self.ended.iter().sum::<u64>()
    }

    fn merge(&mut self, other: &Self) {
        self.begun += other.begun;
        add_all(&mut self.ended, &other.ended);
        self.bytes += other.bytes;
        self.timed.merge(&other.timed);
    }
}

/// One realm.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RealmMetrics {
    /// Which; `None` for what was asked of realms that there are not.
    pub id: Option<RealmId>,
    pub(super) operations: [OperationMetrics; Operation::ALL.len()],
    pub(super) errors: [u64; ErrorKind::ALL.len()],
    /// Keys that were probed.
    pub probed_keys: u64,
    /// Those of them that were there.
    pub found_keys: u64,
    /// Blobs that made room for others.
    pub evicted_blobs: u64,
    /// Blobs in it.
    pub blobs: u64,
    /// Blocks of its windows, with blobs and reserved.
    pub used_blocks: u64,
    /// The most of them, if there is a quota.
    pub quota_blocks: Option<u64>,
    /// Blobs that are pinned.
    pub pinned_blobs: u64,
    /// Their blocks.
    pub pinned_blocks: u64,
}

impl RealmMetrics {
    /// What was asked of it.
    pub fn operation(&self, operation: Operation) -> &OperationMetrics {
        &self.operations[operation as usize]
    }

    /// Operations that ended with an error of that kind.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize]
    }

    /// Adds the same realm on another drive, or another realm.
    pub fn merge(&mut self, other: &Self) {
        for (to, more) in self.operations.iter_mut().zip(&other.operations) {
            to.merge(more);
        }
        add_all(&mut self.errors, &other.errors);
        self.probed_keys += other.probed_keys;
        self.found_keys += other.found_keys;
        self.evicted_blobs += other.evicted_blobs;
        self.blobs += other.blobs;
        self.used_blocks += other.used_blocks;
        self.quota_blocks = self
            .quota_blocks
            .zip(other.quota_blocks)
            .map(|(a, b)| a + b);
        self.pinned_blobs += other.pinned_blobs;
        self.pinned_blocks += other.pinned_blocks;
    }
}

/// One step of a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepMetrics {
    /// How often it was done.
    pub done: u64,
    /// How often it failed.
    pub failed: u64,
    /// How long those took that were done and timed.
    pub timed: Latencies,
}

/// How far scrubbing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubMetrics {
    /// Rounds that came to their end.
    pub rounds: u64,
    /// A round is under way.
    pub is_under_way: bool,
    /// Slabs that this round, or the last one, has looked at.
    pub slabs_done: u64,
    /// Slabs that it had to look at.
    pub slabs: u64,
    /// Blobs that were read, in all rounds.
    pub blobs: u64,
    /// Those of them that were damaged.
    pub damaged_blobs: u64,
    /// Blobs and slabs that could not be read.
    pub unreadable: u64,
    /// How long ago the last round came to its end.
    pub last_round_ago: Option<Duration>,
    /// How long that one took.
    pub last_round_took: Option<Duration>,
}

/// A log: one drive of a store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogMetrics {
    /// How long it has been open.
    pub open_for: Duration,
    /// What it holds, and what was counted all along.
    pub stat: LogStat,
    /// Its realms, by their numbers, and last what was asked of realms that there are not.
    pub realms: Vec<RealmMetrics>,
    pub(super) steps: [StepMetrics; Step::ALL.len()],
    pub(super) written_blocks: [u64; WrittenFor::ALL.len()],
    pub(super) read_blocks: [u64; ReadFor::ALL.len()],
    pub(super) queues: [u64; Queue::ALL.len()],
    pub(super) slabs: [u64; SlabState::ALL.len()],
    /// Slabs that get no more blobs, by how full they are: place `n` for those that hold up to `n + 1` eighths.
    pub slabs_by_eighths: [u64; 8],
    /// Reads that the drive answered with an error.
    pub failed_reads: u64,
    /// Writes that it answered with an error, also when they were tried again.
    pub failed_writes: u64,
    /// Blocks of a slab.
    pub slab_blocks: u64,
    /// Blocks that the drive has left.
    pub free_blocks: u64,
    /// Blobs that were found damaged and are not served.
    pub quarantined_blobs: u64,
    /// Blocks that were moved ahead of time.
    pub early_moved_blocks: u64,
    /// Slabs that compaction leaves as they are, since something in them is damaged.
    pub stuck_slabs: u64,
    /// How far scrubbing is.
    pub scrub: ScrubMetrics,
}

impl LogMetrics {
    /// Adds what other cores have counted of this log.
    pub(in super::super) fn add_visit(&mut self, visit: &Self) {
        add_all(&mut self.read_blocks, &visit.read_blocks);
        add_all(&mut self.queues, &visit.queues);
        for realm in &visit.realms {
            let mut own = self.realms.iter_mut();
            if let Some(own) = own.find(|own| own.id == realm.id) {
                for (to, more) in own.operations.iter_mut().zip(&realm.operations) {
                    to.merge(more);
                }
            }
        }
    }

    /// How a step went.
    pub fn step(&self, step: Step) -> &StepMetrics {
        &self.steps[step as usize]
    }

    /// Blocks that were written for that.
    pub fn written_blocks(&self, purpose: WrittenFor) -> u64 {
        self.written_blocks[purpose as usize]
    }

    /// Blocks that were read for that.
    pub fn read_blocks(&self, purpose: ReadFor) -> u64 {
        self.read_blocks[purpose as usize]
    }

    /// How many wait there.
    pub fn queue(&self, queue: Queue) -> u64 {
        self.queues[queue as usize]
    }

    /// Slabs of that state.
    pub fn slabs(&self, state: SlabState) -> u64 {
        self.slabs[state as usize]
    }

    /// All realms together.
    pub fn all_realms(&self) -> RealmMetrics {
        let mut realms = self.realms.iter();
        let mut all = realms.next().cloned().unwrap_or_default();
        all.id = None;
        realms.for_each(|realm| all.merge(realm));
        all
    }

    /// Bytes of blobs that were put, at once and in steps.
    pub fn put_bytes(&self) -> u64 {
        let all = self.all_realms();
        let of = |operation| all.operation(operation).bytes;
        of(Operation::Put) + of(Operation::Commit)
    }

    /// Bytes written to the drive for each byte that was put; `None` before any was.
    pub fn write_amplification(&self) -> Option<f64> {
        let written: u64 = self.written_blocks.iter().sum();
        ratio(written * BLOCK_BYTES as u64, self.put_bytes())
    }

    /// Blocks of slabs for each block of a blob's window; `None` without blobs.
    pub fn space_amplification(&self) -> Option<f64> {
        let retired = self.slabs(SlabState::Retired);
        ratio(
            (self.stat.slabs + retired) * self.slab_blocks,
            self.stat.live_blocks,
        )
    }
}

/// What is looked at when somebody asks.
#[derive(Default)]
pub(in super::super) struct Gauges {
    queues: [u64; Queue::ALL.len()],
    slabs: [u64; SlabState::ALL.len()],
    by_eighths: [u64; 8],
}

impl Gauges {
    pub(in super::super) fn queue(&mut self, queue: Queue, waiting: u64) {
        self.queues[queue as usize] = waiting;
    }

    pub(in super::super) fn slabs(&mut self, state: SlabState, more: u64) {
        self.slabs[state as usize] += more;
    }

    /// A slab that gets no more blobs.
    pub(in super::super) fn filled(&mut self, live: u64, slab_blocks: u64) {
        let eighths = (live * 8).div_ceil(slab_blocks).clamp(1, 8);
        self.by_eighths[eighths as usize - 1] += 1;
    }
}

impl LogMetrics {
    pub(in super::super) fn set(&mut self, gauges: &Gauges) {
        self.queues = gauges.queues;
        self.slabs = gauges.slabs;
        self.slabs_by_eighths = gauges.by_eighths;
    }
}

pub(super) fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}
