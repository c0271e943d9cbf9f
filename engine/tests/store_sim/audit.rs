//! What the store counts has to be what it was asked and what is there.

use std::future::Future;

use oriel_engine::store::{
    LogMetrics, Operation, Outcome, Position, Queue, SlabState, window_blocks,
};

use super::api::Store;
use super::life::Simulation;
use super::run::run_one;

impl Simulation {
    /// Asks something of the store that it has to count.
    pub(super) async fn tallied<T>(
        &self,
        operation: Operation,
        asked: impl Future<Output = T>,
    ) -> T {
        let tally = |more: (u64, u64)| {
            let mut tallies = self.tallies.borrow_mut();
            let (asked, answered) = tallies.entry(operation).or_default();
            *asked += more.0;
            *answered += more.1;
        };
        tally((1, 0));
        let answer = asked.await;
        tally((0, 1));
        answer
    }

    /// Nothing is under way any more: what was asked is what the store has counted.
    pub(super) fn audit(&self, store: &Store) -> Result<(), String> {
        let metrics = store.metrics();
        self.note(|report| {
            report.early += metrics.early_moved_blocks;
            report.rounds += metrics.scrub.rounds;
            report.scrubbed_itself += metrics.scrub.blobs;
            report.found_itself += metrics.scrub.damaged_blobs;
        });
        // What a scrub finds, or another look after a read that failed, has suffered.
        if metrics.scrub.damaged_blobs > 0 && !self.plan.faults.corrupt() {
            return Err(format!(
                "there is no reason for damage: {:?}",
                metrics.scrub
            ));
        }
        if metrics.stuck_slabs > 0 && !self.plan.faults.corrupt() && self.plan.removal.is_none() {
            return Err(format!(
                "{} slabs are left for good, and nothing is damaged",
                metrics.stuck_slabs
            ));
        }
        let all = metrics.all_realms();
        let tallies = self.tallies.borrow();
        for operation in [
            Operation::Get,
            Operation::Put,
            Operation::Delete,
            Operation::Reserve,
            Operation::Write,
            Operation::Commit,
        ] {
            let (asked, answered) = tallies.get(&operation).copied().unwrap_or_default();
            let of = all.operation(operation);
            let ended = [Outcome::Done, Outcome::Nothing, Outcome::Failed];
            let ended: u64 = ended.map(|outcome| of.ended(outcome)).iter().sum();
            let given_up = of.ended(Outcome::GivenUp);
            if (asked, answered, 0) != (of.begun, ended, of.under_way())
                || given_up != asked - answered
            {
                return Err(format!(
                    "{operation:?}: {asked} asked, {answered} answered, and counted as {of:?}"
                ));
            }
        }
        for queue in [Queue::Reads, Queue::Writes] {
            let waits = metrics.queue(queue);
            if waits > 0 {
                return Err(format!(
                    "{waits} {queue:?} are counted, and none is under way"
                ));
            }
        }
        audit_slabs(&metrics)
    }

    /// On a store that nobody uses, what is counted is what a walk finds.
    pub(super) fn audit_blocks(&self, store: &Store) -> Result<(), String> {
        let metrics = store.metrics();
        let mut all_blocks = 0;
        for realm in &self.plan.realms {
            let (mut blobs, mut blocks) = (0, 0);
            let listed = store.log.list(realm.id, Position(0), usize::MAX);
            let listed = run_one(listed).ok_or("listing does not end")?;
            for blob in listed.map_err(|error| error.to_string())?.blobs {
                blobs += 1;
                blocks += window_blocks(blob.location.length);
            }
            let counted = metrics.realms.iter().find(|of| of.id == Some(realm.id));
            let counted = counted.ok_or("a realm is not counted")?;
            if (counted.blobs, counted.used_blocks) != (blobs, blocks) {
                return Err(format!(
                    "{blobs} blobs of {blocks} blocks are in {}, and counted as {counted:?}",
                    realm.id
                ));
            }
            all_blocks += blocks;
        }
        let live = metrics.stat.live_blocks;
        match live == all_blocks {
            true => audit_slabs(&metrics),
            false => Err(format!("{live} blocks live, and blobs have {all_blocks}")),
        }
    }
}

fn audit_slabs(metrics: &LogMetrics) -> Result<(), String> {
    let of = |state| metrics.slabs(state);
    let by_fill: u64 = metrics.slabs_by_eighths.iter().sum();
    let counted = of(SlabState::Open) + of(SlabState::Sealed);
    let all = metrics.stat.slabs;
    match (counted, by_fill) == (all, of(SlabState::Sealed)) {
        true => Ok(()),
        false => Err(format!("{all} slabs are counted as {metrics:?}")),
    }
}
