//! What a drive's core lays out for the other cores: slabs that get no more windows, and how to get at the drive.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::keys::Finder;
use super::super::metrics::Observe;
use super::super::shown::Shown;
use crate::clock::Clock;
use crate::reactor::CoreId;

/// What the drive itself adds, which is of its own type.
pub(super) type OfDrive = Arc<dyn Any + Send + Sync>;

/// What a core needs to read from the drive by itself.
pub(super) struct Door {
    pub(super) of_drive: OfDrive,
    pub(super) slab_blocks: u64,
    pub(super) finder: Finder,
    pub(super) clock: Clock,
    pub(super) observe: Observe,
    /// The cores that there are.
    pub(super) cores: Vec<CoreId>,
}

/// A slab that lies there.
#[derive(Clone)]
pub(super) struct OnShelf {
    pub(super) shown: Arc<Shown>,
    /// Where it is on the drive.
    pub(super) place: OfDrive,
}

#[derive(Default)]
struct Inner {
    /// `None` before the drive's log is open, and from when it is closed on.
    door: Option<Arc<Door>>,
    slabs: HashMap<u64, OnShelf>,
    /// Cores that have the drive open, each once.
    visitors: Vec<CoreId>,
}

/// The lock is taken when a core reads from a slab for the first time, not by reads after that.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Inner>);

impl Shelf {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cores may come from now on.
    pub(super) fn open(&self, door: Door) {
        self.inner().door = Some(Arc::new(door));
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.inner().slabs.contains_key(&number)
    }

    /// Lays a slab out; those that were given back go, once nobody reads from them.
    pub(super) fn lay(&self, number: u64, slab: OnShelf) {
        let mut inner = self.inner();
        let is_of_use = |slab: &OnShelf| {
            let holds = &slab.shown.holds;
            !holds.is_closed() || holds.is_held()
        };
        inner.slabs.retain(|_, slab| is_of_use(slab));
        match inner.door {
            Some(_) => {
                inner.slabs.insert(number, slab);
            }
            None => slab.shown.holds.close(),
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<OnShelf> {
        let slab = self.inner().slabs.get(&number).cloned();
        slab.filter(|slab| !slab.shown.holds.is_closed())
    }

    /// A core comes to read. It goes when it is told to.
    pub(super) fn visit(&self, core: CoreId) -> Option<Arc<Door>> {
        let mut inner = self.inner();
        let door = inner.door.clone()?;
        if !inner.visitors.contains(&core) {
            inner.visitors.push(core);
        }
        Some(door)
    }

    pub(super) fn visitors(&self) -> Vec<CoreId> {
        self.inner().visitors.clone()
    }

    /// The last visitor's visit is over.
    pub(super) fn all_left(&self) {
        self.inner().visitors.clear();
    }

    /// Nobody begins to read any more.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.door = None;
        inner
            .slabs
            .values()
            .for_each(|slab| slab.shown.holds.close());
    }

    /// Whether somebody reads from what is or was there.
    pub(super) fn is_held(&self) -> bool {
        let inner = self.inner();
        inner.slabs.values().any(|slab| slab.shown.holds.is_held())
    }
}
