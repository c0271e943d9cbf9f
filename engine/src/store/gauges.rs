//! A log's numbers as they are now: what is counted all along, and what is looked at when somebody asks.

use super::drive::Drive;
use super::log::Log;
use super::metrics::{Gauges, LogMetrics, Queue, RealmMetrics, SlabState};
use super::recovery;
use super::state::{Purpose, Realm, State};

impl<D: Drive> Log<D> {
    /// All numbers, as they are now. Looks at every slab, so it is for now and then.
    pub fn metrics(&self) -> LogMetrics {
        let (mut metrics, now) = self.metrics.snapshot();
        for realm in self.state.borrow_mut().realms.values_mut() {
            realm.pins.end(now);
        }
        let state = self.state.borrow();
        metrics.stat = self.stat();
        for realm in &mut metrics.realms {
            if let Some(of) = realm.id.and_then(|id| state.realms.get(&id)) {
                look_at_realm(realm, of);
            }
        }
        metrics.slab_blocks = self.layout.slab_blocks;
        metrics.free_blocks = self.drive.free_blocks();
        metrics.quarantined_blobs = state.quarantine.len() as u64;
        metrics.early_moved_blocks = self.early.blocks.get();
        metrics.stuck_slabs = self.damaged_slabs(&state);
        metrics.scrub = self.scrub_metrics();
        let mut gauges = Gauges::default();
        self.look_at_queues(&state, &mut gauges);
        self.look_at_slabs(&state, &mut gauges, metrics.free_blocks);
        metrics.set(&gauges);
        metrics
    }

    fn look_at_queues(&self, state: &State<D::Extent>, gauges: &mut Gauges) {
        let queued = state.queue.len() as u64;
        gauges.queue(Queue::Journal, queued + self.in_frame.get());
        let realms = state.realms.values();
        let waiting = realms.map(|realm| {
            let purposes = [Purpose::Clients, Purpose::Compaction];
            let waiting = purposes.map(|purpose| realm.waiting(purpose) as u64);
            waiting.iter().sum::<u64>()
        });
        gauges.queue(Queue::Window, waiting.sum());
        gauges.queue(Queue::Room, self.room.borrow().len() as u64);
        let (reads, writes) = self.metrics.transfers();
        gauges.queue(Queue::Reads, reads);
        gauges.queue(Queue::Writes, writes);
    }

    fn look_at_slabs(&self, state: &State<D::Extent>, gauges: &mut Gauges, free_blocks: u64) {
        let slab_blocks = self.layout.slab_blocks;
        for slab in state.slabs.values() {
            let is = match slab.is_sealed {
                true => SlabState::Sealed,
                false => SlabState::Open,
            };
            gauges.slabs(is, 1);
            if slab.is_sealed {
                gauges.filled(slab.live, slab_blocks);
            }
        }
        let is_there = |number: &u64| state.slabs.contains_key(number);
        let emptying = self.emptying.get().filter(is_there);
        gauges.slabs(SlabState::Emptying, emptying.map_or(0, |_| 1));
        let mut numbers: Vec<u64> = state
            .quarantine
            .iter()
            .map(|position| position.0 / slab_blocks)
            .filter(is_there)
            .collect();
        numbers.dedup();
        gauges.slabs(SlabState::Quarantined, numbers.len() as u64);
        let waiting = state.snapshot.as_ref().map_or(0, |it| it.retired.len());
        let retired = state.retired.len() + state.forgotten.len() + waiting;
        gauges.slabs(SlabState::Retired, retired as u64);
        let free = free_blocks.saturating_sub(recovery::reserve_blocks(&self.layout));
        gauges.slabs(SlabState::Free, free / slab_blocks);
    }
}

fn look_at_realm(metrics: &mut RealmMetrics, realm: &Realm) {
    metrics.blobs = realm.blobs;
    metrics.used_blocks = realm.used_blocks;
    metrics.quota_blocks = realm.options.quota_blocks;
    metrics.pinned_blobs = realm.pins.len();
    metrics.pinned_blocks = realm.pins.blocks();
}
