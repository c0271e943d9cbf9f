//! What is on the drives of a node: of one that is stopped, and of one that has no room left.

use oriel_engine::store::{
    NodeStore, OpenOptions, Problem, SlabState, check, index_in_memory, match_parts,
};

use super::life::{BLOBS_MAX, INDEXES, STORE, Simulation};
use crate::store_sim::drive::SimDrive;
use crate::store_sim::run::run_one_in;

impl Simulation {
    /// Looks at all drives while the store is stopped: as long as none was ever lost, nothing evicted and none forgotten, no
    /// blob lacks a part, whatever the last life was doing when it ended.
    pub(super) fn look_at_drives(&self) -> Result<(), String> {
        let is_calm = {
            let report = self.report.borrow();
            report.pulled + report.missing == 0
        };
        let faults = &self.plan.faults;
        let is_calm = is_calm && faults.write_errors + faults.flush_errors == 0;
        let is_calm = is_calm && self.plan.wears_out.is_none();
        if !is_calm || self.plan.large == 0 || self.plan.cache.is_some() {
            return Ok(());
        }
        let options = OpenOptions {
            store: Some(STORE),
            blobs_max: BLOBS_MAX,
            realms: vec![self.realm()],
            clock: self.world.clock(),
            ..OpenOptions::default()
        };
        let mut reports = Vec::new();
        for drive in self.drives.borrow().iter() {
            let idle = INDEXES.with_borrow_mut(Vec::pop);
            let index = idle.unwrap_or_else(|| index_in_memory(BLOBS_MAX).unwrap());
            let checked = run_one_in(Some(&self.world), check(drive, index.clone(), &options));
            INDEXES.with_borrow_mut(|idle| idle.push(index.used_before()));
            // One that is no drive of the store has nothing of it.
            reports.extend(checked.ok_or("a check does not end")?);
        }
        for problem in match_parts(&reports) {
            match problem {
                Problem::NoBlob { .. } => self.report.borrow_mut().orphans += 1,
                problem => return Err(problem.to_string()),
            }
        }
        Ok(())
    }

    /// Whether a drive that takes blobs has no room for another slab, and no two slabs that compaction could make one of.
    pub(super) async fn is_a_drive_full(&self, store: &NodeStore<SimDrive>) -> bool {
        let takes: Vec<bool> = store
            .stat()
            .await
            .drives
            .iter()
            .map(|drive| !drive.is_draining)
            .collect();
        let drives = store.metrics().await.drives;
        drives.iter().zip(takes).any(|(drive, takes)| {
            let log = drive.log.as_ref().filter(|_| takes);
            log.is_some_and(|log| {
                // Clients leave the last one to compaction.
                log.slabs(SlabState::Free) < 2 && log.slabs_by_eighths[..3].iter().sum::<u64>() < 2
            })
        })
    }
}
