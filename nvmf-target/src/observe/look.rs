//! What the cores are asked for: all that is counted, at one moment.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oriel_engine::reactor::ReactorHandle;
use oriel_engine::store::{NodeMetrics, NodeStat, NodeStore, SpdkDrive, StoreId};
use oriel_spdk::nvmf::{Connections, PollGroupStat};

use super::Record;
use crate::node::served_here;

/// What does not change while a node runs.
pub(crate) struct Identity {
    pub(crate) node: String,
    pub(crate) store: StoreId,
    pub(crate) started: Instant,
    /// The one part that does change.
    pub(crate) record: Arc<Record>,
}

/// A store that is served, on the main core.
pub(crate) struct Serving {
    pub(crate) store: NodeStore<SpdkDrive>,
    pub(crate) connections: Arc<Connections>,
}

thread_local! {
    static SERVING: RefCell<Option<Rc<Serving>>> = const { RefCell::new(None) };
}

/// From now on this is what is looked at on this core.
pub(super) fn set(serving: Option<Serving>) {
    SERVING.replace(serving.map(Rc::new));
}

/// All numbers of a moment.
pub(super) struct Look {
    pub(super) metrics: NodeMetrics,
    pub(super) stat: NodeStat,
    /// The queues of hosts that each core serves.
    pub(super) queues: Vec<(u32, PollGroupStat)>,
    /// And all of them together, with those that were refused.
    pub(super) connections: Arc<Connections>,
}

/// Gathers them, on the main core; nothing where no store is served.
pub(super) async fn take(reactors: &ReactorHandle) -> Option<Look> {
    let serving = SERVING.with_borrow(Clone::clone)?;
    let mut queues = Vec::new();
    for core in reactors.cores() {
        let stat = reactors.spawn(core, "look at the hosts' queues", || async {
            served_here()
        });
        if let Ok(stat) = stat
            && let Ok(Some(stat)) = stat.await
        {
            queues.push((core.0, stat));
        }
    }
    Some(Look {
        metrics: serving.store.metrics().await,
        stat: serving.store.stat().await,
        queues,
        connections: Arc::clone(&serving.connections),
    })
}

impl Identity {
    pub(super) fn up_for(&self) -> Duration {
        self.started.elapsed()
    }
}
