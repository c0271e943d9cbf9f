//! Reads of other cores' drives, by the core that wants them.
//!
//! ```text
//!   read ──► the slab is on the shelf? ── yes ──► hold it ──► this core's own channel to the device ──► release
//!                     │ no: it still gets windows, was not asked for yet, is damaged or on its way out
//!                     └──► a message to the drive's core, which reads, and lays the slab out if it gets no more windows
//! ```
//!
//! What cores share does not change: where the windows of a slab are that gets no more of them, and the index, which is made
//! for readers beside its writer. Only what is there is found so; whatever is out of the ordinary is the drive's core's to say.
//! A slab is held while it is read, by a count of this core's own, and not given back before.

mod blob;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use oriel_dht::index::Fingerprint;

use super::seat::{Guest, Locals, NodeDrive, ReadEnd, Seat};
use super::shelf::{Door, Shelf};
use super::table::Table;
use crate::limits::USES_AT_ONCE;
use crate::store::metrics::{
    Detached, Gauges, LogMetrics, Metrics, Operation, Outcome, Queue, ReadFor,
};
use crate::store::position::Described;
use crate::store::shown::Shown;
use crate::store::types::{BLOCK_BYTES, Form, Key, Location, Position, RealmId};
pub(super) use blob::Wants;

use crate::reactor::{self, CoreId, Source};

type PlaceOf<D> = <<D as NodeDrive>::Guest as Guest<<D as NodeDrive>::Payload>>::Place;

/// Blobs that were used.
pub(super) type Uses = Vec<(RealmId, Fingerprint)>;

/// A slab, for this core.
struct Visited<D: NodeDrive> {
    shown: Arc<Shown>,
    place: Arc<PlaceOf<D>>,
}

/// A drive of another core, for this one.
pub(super) struct Visit<D: NodeDrive> {
    guest: D::Guest,
    door: Arc<Door>,
    shelf: Arc<Shelf>,
    /// Which of the cores this is.
    core: usize,
    slabs: RefCell<HashMap<u64, Rc<Visited<D>>>>,
    metrics: Metrics,
    /// The table whose realms are counted.
    version: Cell<u64>,
    /// Blobs of caches that were used, of which their policies have not heard yet.
    uses: RefCell<Uses>,
    /// Buffers for blocks of checksums, to be used again.
    trailers: RefCell<Vec<D::Payload>>,
}

thread_local! {
    static VISITS: RefCell<Locals> = RefCell::default();
    static HAS_LEAVER: Cell<bool> = const { Cell::new(false) };
}

/// A read on its way.
struct Reading<D: NodeDrive, R> {
    visit: Rc<Visit<D>>,
    slab: Rc<Visited<D>>,
    purpose: ReadFor,
    blocks: u64,
    /// Where it is an operation of its own.
    observed: Option<Detached>,
    end: R,
}

impl<D: NodeDrive, R> Reading<D, R> {
    /// The drive is done with it.
    fn leave(self, is_done: bool) -> R {
        let Visit { core, metrics, .. } = &*self.visit;
        self.slab.shown.holds.release(*core);
        metrics.read_ends();
        let observed = self.observed.map(|observed| metrics.attach(&observed));
        if is_done {
            metrics.read(self.purpose, self.blocks);
            let bytes = self.blocks * BLOCK_BYTES as u64;
            observed
                .into_iter()
                .for_each(|it| it.end(Outcome::Done, bytes));
        }
        self.end
    }
}

impl<D: NodeDrive, R: ReadEnd<D::Payload>> ReadEnd<D::Payload> for Reading<D, R> {
    fn ended(self, payload: D::Payload, is_filled: bool) {
        self.leave(is_filled).ended(payload, is_filled);
    }
}

impl<D: NodeDrive> Visit<D> {
    fn begin(shelf: &Arc<Shelf>, door: Arc<Door>, here: CoreId) -> Option<Self> {
        let of_drive = door.of_drive.downcast_ref()?;
        Some(Self {
            guest: D::Guest::enter(of_drive)?,
            core: door.cores.iter().position(|core| *core == here)?,
            slabs: RefCell::default(),
            metrics: Metrics::new(door.clock.clone(), door.observe, std::iter::empty()),
            version: Cell::new(0),
            uses: RefCell::default(),
            trailers: RefCell::default(),
            shelf: shelf.clone(),
            door,
        })
    }

    /// Counts for realms by themselves that have come.
    pub(super) fn learn(&self, table: &Table<D>) {
        if self.version.replace(table.version) != table.version {
            let realms = table.realms.iter();
            realms.for_each(|realm| self.metrics.add_realm(realm.id));
        }
    }

    fn slab(&self, number: u64) -> Option<Rc<Visited<D>>> {
        let mut slabs = self.slabs.borrow_mut();
        if let Some(slab) = slabs.get(&number) {
            if !slab.shown.holds.is_closed() {
                return Some(slab.clone());
            }
            slabs.remove(&number);
        }
        let found = self.shelf.get(number)?;
        let place = found.place.downcast().ok()?;
        let slab = Rc::new(Visited {
            shown: found.shown,
            place,
        });
        slabs.retain(|_, slab| !slab.shown.holds.is_closed());
        slabs.insert(number, slab.clone());
        Some(slab)
    }

    /// Begins a read; what has to go by the drive's core comes back.
    pub(super) fn begin_read<R: ReadEnd<D::Payload>>(
        self: Rc<Self>,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
        end: R,
    ) -> Result<(), (D::Payload, R)> {
        let blocks = (payload.as_ref().len() / BLOCK_BYTES) as u64;
        let slab_blocks = self.door.slab_blocks;
        let (number, block) = (position.0 / slab_blocks, position.0 % slab_blocks);
        let found = self.slab(number).filter(|slab| {
            let window = slab.shown.windows.window(block as u32).ok().flatten();
            let is_inside = window.is_some_and(|window| block + blocks <= window.end.into());
            slab.shown.realm == realm && is_inside && blocks > 0 && !slab.shown.is_damaged()
        });
        let Some(slab) = found else {
            return Err((payload, end));
        };
        let observed = self.metrics.begin_detached(Operation::Read, realm);
        self.begin_blocks(
            &slab,
            (ReadFor::Window, Some(observed)),
            block,
            payload,
            end,
        )
    }

    fn begin_blocks<R: ReadEnd<D::Payload>>(
        self: Rc<Self>,
        slab: &Rc<Visited<D>>,
        (purpose, observed): (ReadFor, Option<Detached>),
        block: u64,
        payload: D::Payload,
        end: R,
    ) -> Result<(), (D::Payload, R)> {
        if !slab.shown.holds.hold(self.core) {
            return Err((payload, end));
        }
        self.metrics.read_begins();
        let reading = Reading {
            slab: slab.clone(),
            visit: self.clone(),
            purpose,
            blocks: (payload.as_ref().len() / BLOCK_BYTES) as u64,
            observed,
            end,
        };
        let begun = self.guest.begin_read(&slab.place, block, payload, reading);
        begun.map_err(|(payload, reading)| (payload, reading.leave(false)))
    }

    /// A blob that can be seen from here, its slab, and its first block there.
    fn find(
        &self,
        realm: RealmId,
        fingerprint: Fingerprint,
    ) -> Option<(Location, Rc<Visited<D>>, u64)> {
        let location = self.door.finder.get(fingerprint)?;
        let slab_blocks = self.door.slab_blocks;
        let slab = self.slab(location.position.0 / slab_blocks)?;
        let is_good = slab.shown.realm == realm && !slab.shown.is_damaged();
        let is_found = is_good && location.form == Form::Whole;
        is_found.then(|| (location, slab, location.position.0 % slab_blocks))
    }

    /// A blob of a cache was used; those that were used of late, if it is time to say so.
    fn used(&self, realm: RealmId, fingerprint: Fingerprint) -> Uses {
        let mut uses = self.uses.borrow_mut();
        uses.push((realm, fingerprint));
        match uses.len() {
            USES_AT_ONCE.. => std::mem::take(&mut *uses),
            _ => Uses::new(),
        }
    }

    /// Where a blob is, if it can be seen from here, and blobs that were used of late, if it is time to say so.
    pub(super) fn describe(
        &self,
        realm: RealmId,
        key: &Key,
        is_cache: bool,
    ) -> Option<(Described, Uses)> {
        let fingerprint = self.door.finder.fingerprint(realm, key);
        let (location, slab, start) = self.find(realm, fingerprint)?;
        let checksum = slab.shown.windows.checksum(start as u32)?;
        let observed = self.metrics.begin(Operation::Locate, realm);
        observed.end(Outcome::Done, 0);
        let uses = match is_cache {
            true => self.used(realm, fingerprint),
            false => Uses::new(),
        };
        Some((Described { location, checksum }, uses))
    }
}

/// Numbers of a drive of another core that were counted here.
pub(super) fn numbers<D: NodeDrive>(id: u64) -> Option<LogMetrics> {
    let visit = VISITS.with_borrow(|visits| visits.get::<Visit<D>>(id))?;
    let mut numbers = visit.metrics.snapshot().0;
    let mut gauges = Gauges::default();
    gauges.queue(Queue::Reads, visit.metrics.transfers().0);
    numbers.set(&gauges);
    Some(numbers)
}

/// Ends a visit, if there is one.
pub(super) fn end(id: u64) {
    let visit = VISITS.with_borrow_mut(|visits| visits.remove(id));
    drop(visit);
}

impl<D: NodeDrive> Seat<D> {
    /// The drive as it is read from this core, where it is another's.
    pub(super) fn visit(&self) -> Option<Rc<Visit<D>>> {
        let known = VISITS.with_borrow(|visits| visits.has(self.id).then(|| visits.get(self.id)));
        if let Some(known) = known {
            return known;
        }
        let here = reactor::core_here()?;
        let door = self.shelf.visit(here)?;
        leave_in_time();
        let visit = Visit::<D>::begin(&self.shelf, door, here).map(Rc::new);
        let noted: Rc<dyn Any> = match &visit {
            Some(visit) => visit.clone(),
            // It is not tried again.
            None => Rc::new(()),
        };
        VISITS.with_borrow_mut(|visits| visits.insert(self.id, noted));
        visit
    }
}

/// Ends this core's visits before its SPDK threads go, if nobody did so before.
struct Leaver;

impl Source for Leaver {
    fn name(&self) -> String {
        "visits to other cores' drives".into()
    }

    fn poll(&mut self) -> bool {
        false
    }

    fn finish(&mut self) -> bool {
        let visits = VISITS.take();
        drop(visits);
        HAS_LEAVER.set(false);
        true
    }
}

fn leave_in_time() {
    if !HAS_LEAVER.replace(true) {
        reactor::attach(Leaver);
    }
}
