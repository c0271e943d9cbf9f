//! The numbers of a store of many drives: those of each drive, gathered from the cores.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::super::metrics::{
    LogMetrics, NodeSamples, RealmMetrics, Sample, drive_samples, reactor_samples,
};
use super::error::DriveLabel;
use super::handle::NodeStore;
use super::lane::Lane;
use super::seat::{NodeDrive, Seat, on_core};
use super::visit;
use crate::reactor::{self, CoreId, ReactorStats};

/// One drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveMetrics {
    /// Its number and name.
    pub drive: DriveLabel,
    /// It is being emptied.
    pub is_draining: bool,
    /// Blobs that belong on it may be elsewhere, and are on their way.
    pub is_filling: bool,
    /// Its log's numbers; `None` if it is lost.
    pub log: Option<LogMetrics>,
}

/// All drives, and the reactors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeMetrics {
    /// The drives, by number.
    pub drives: Vec<DriveMetrics>,
    /// What the reactors have done since they were started; none in a simulation.
    pub reactors: Vec<(CoreId, ReactorStats)>,
    /// Blobs that went from one drive to another.
    pub moved_blobs: u64,
    /// Their bytes.
    pub moved_bytes: u64,
}

impl NodeMetrics {
    /// Each realm on all drives, and last what was asked of realms that there are not.
    pub fn realms(&self) -> Vec<RealmMetrics> {
        let mut realms: BTreeMap<(bool, u16), RealmMetrics> = BTreeMap::new();
        let logs = self.drives.iter().filter_map(|drive| drive.log.as_ref());
        for realm in logs.flat_map(|log| &log.realms) {
            let place = (realm.id.is_none(), realm.id.map_or(0, |id| id.0));
            realms
                .entry(place)
                .and_modify(|sum| sum.merge(realm))
                .or_insert_with(|| realm.clone());
        }
        realms.into_values().collect()
    }

    /// Shows all numbers. Those of a realm are those of its part on a drive.
    pub fn samples<'a>(&'a self, show: &mut dyn FnMut(Sample<'a>)) {
        for of in &self.drives {
            // A lost one may have had the path of one that is here.
            let same = self
                .drives
                .iter()
                .filter(|same| same.drive.name == of.drive.name);
            let name = match of.log.is_none() && same.count() > 1 {
                true => &*of.drive.to_string(),
                false => &*of.drive.name,
            };
            drive_samples(
                name,
                [of.log.is_none(), of.is_draining, of.is_filling],
                show,
            );
            if let Some(log) = &of.log {
                log.samples(name, show);
            }
        }
        for (core, stats) in &self.reactors {
            reactor_samples(core.0, stats, show);
        }
        let node = NodeSamples {
            moved_blobs: self.moved_blobs,
            moved_bytes: self.moved_bytes,
        };
        node.samples(show);
    }
}

impl<D: NodeDrive> Lane<D> {
    fn metrics(&self) -> Option<LogMetrics> {
        let log = self.log().ok()?;
        Some(log.metrics())
    }
}

impl<D: NodeDrive> Seat<D> {
    /// What other cores have counted of its drive.
    async fn visits(&self) -> Vec<LogMetrics> {
        let mut all = Vec::new();
        for core in self.shelf.visitors() {
            let id = self.id;
            let counted = on_core(core, move || async move { visit::numbers::<D>(id) });
            all.extend(counted.await.flatten());
        }
        all
    }
}

impl<D: NodeDrive> NodeStore<D> {
    /// All numbers, drive by drive, as they are now.
    pub async fn metrics(&self) -> NodeMetrics {
        let table = self.table();
        let mut drives = Vec::new();
        for row in &table.rows {
            let log = match row.seat.as_ref().filter(|_| row.loss.is_none()) {
                Some(seat) => {
                    let log = seat.call(|lane| async move { lane.metrics() }).await;
                    let mut log = log.ok().flatten();
                    if let Some(log) = &mut log {
                        for visit in seat.visits().await {
                            log.add_visit(&visit);
                        }
                    }
                    log
                }
                None => None,
            };
            drives.push(DriveMetrics {
                drive: row.label(),
                is_draining: row.is_draining,
                is_filling: row.is_hungry,
                log,
            });
        }
        let reactors = reactor::core_here().map(|_| {
            let handle = reactor::handle();
            let stats = |core| Some((core, handle.stats(core)?));
            handle.cores().into_iter().filter_map(stats).collect()
        });
        NodeMetrics {
            drives,
            reactors: reactors.unwrap_or_default(),
            moved_blobs: self.shared.moved_blobs.load(Ordering::Relaxed),
            moved_bytes: self.shared.moved_bytes.load(Ordering::Relaxed),
        }
    }
}
