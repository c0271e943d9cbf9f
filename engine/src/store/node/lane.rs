//! One drive of a store, on its core: its log, and what others ask of it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use oriel_dht::index::Fingerprint;
use oriel_dht::region::Section;

use super::super::drive::DriveError;
use super::super::error::{OpenError, StoreError};
use super::super::log::{Log, Put};
use super::super::options::{LogStat, RealmOptions, RealmStat};
use super::super::reading::Wanted;
use super::super::record::Role;
use super::super::recovery::{OpenOptions, Recovery, open};
use super::super::reserve::{Commit, Reserved};
use super::super::types::{BLOCK_BYTES, Form, Key, KeyKind, Location, Position, RealmId, StoreId};
use super::super::walk::Page;
use super::gate::{Entered, Gate, Latched, Stale};
use super::kept::{IndexPlace, LaneIndex};
use super::ledger::Ledger;
use super::open::stopped;
use super::place::DriveNumber;
use super::seat::{NoLane, NodeDrive, on_core};
use super::shelf::{Door, OnShelf, Shelf};
use super::table::{Command, Shared};
use super::visit;
use crate::limits::{DOUBTFUL_MAX, LEASE_LEFT_PART};
use crate::reactor;

/// What a lane did not do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It was asked with an old table.
    Stale,
    /// The drive is lost, or not of the store any more.
    Gone(StoreError),
    /// It has used up its positions, and wants more.
    NoLease,
    /// The log's own words.
    Error(StoreError),
}

impl From<Stale> for Refused {
    fn from(_: Stale) -> Self {
        Self::Stale
    }
}

/// A change that is under way, and perhaps a key that nobody else changes.
pub(super) struct Held<D> {
    _key: Option<Latched>,
    _entered: Entered,
    _of: std::marker::PhantomData<D>,
}

/// Whose it is, for asking it for more positions.
struct Owner<D: NodeDrive> {
    number: DriveNumber,
    shared: Arc<Shared<D>>,
}

pub(super) struct Lane<D: NodeDrive> {
    pub(super) name: Arc<str>,
    pub(super) drive: D,
    pub(super) ledger: Ledger<D>,
    /// `None` once it is closed.
    index: RefCell<Option<LaneIndex>>,
    /// What other cores see of it, and its seat's number.
    shelf: Arc<Shelf>,
    id: u64,
    log: RefCell<Option<Rc<Log<D>>>>,
    gate: Rc<Gate>,
    owner: RefCell<Option<Owner<D>>>,
    /// The end of its positions for which more were asked for.
    asked_at: Cell<u64>,
    /// Keys of changes whose end nobody knows.
    doubtful: RefCell<HashSet<(RealmId, Key)>>,
}

/// A change of a key, which is in doubt unless its end is known.
struct Change<'a> {
    doubtful: &'a RefCell<HashSet<(RealmId, Key)>>,
    key: (RealmId, Key),
    is_known: bool,
}

impl Change<'_> {
    fn ended<T>(mut self, how: &Result<T, StoreError>) {
        self.is_known = !matches!(how, Err(StoreError::Stopped { .. }));
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.is_known && self.doubtful.borrow().len() < DOUBTFUL_MAX {
            self.doubtful.borrow_mut().insert(self.key);
        }
    }
}

type Returned<D, T> = (<D as NodeDrive>::Payload, Result<T, Refused>);

impl<D: NodeDrive> Lane<D> {
    pub(super) fn new(
        drive: D,
        index: IndexPlace,
        name: Arc<str>,
        (id, shelf): (u64, Arc<Shelf>),
    ) -> Self {
        Self {
            name,
            drive,
            shelf,
            id,
            ledger: Ledger::default(),
            index: RefCell::new(Some(LaneIndex::new(index))),
            log: RefCell::new(None),
            gate: Rc::default(),
            owner: RefCell::new(None),
            asked_at: Cell::new(0),
            doubtful: RefCell::default(),
        }
    }

    /// Makes the place of its index, if it has to be made. Where that fails, nothing is changed.
    pub(super) fn make_index(
        &self,
        of: (StoreId, DriveNumber),
        blobs_max: u64,
    ) -> Result<Section, OpenError> {
        let mut index = self.index.borrow_mut();
        let index = index.as_mut().ok_or_else(|| stopped(NoLane))?;
        index.section(of, blobs_max)
    }

    /// Opens the log of that drive of the store.
    pub(super) async fn open(
        &self,
        of: (StoreId, DriveNumber),
        options: &OpenOptions,
    ) -> Result<Recovery, OpenError> {
        let index = self.make_index(of, options.blobs_max)?;
        let options = OpenOptions {
            keeps_index: self.index.borrow().as_ref().is_some_and(LaneIndex::is_kept),
            ..options.clone()
        };
        let (log, recovery) = open(self.drive.clone(), index, &options).await?;
        if let Some(of_drive) = self.drive.door()
            && reactor::core_here().is_some()
        {
            self.shelf.open(Door {
                of_drive: Arc::new(of_drive),
                slab_blocks: log.layout.slab_blocks,
                finder: log.state.borrow().keys.finder(),
                clock: options.clock.clone(),
                observe: options.observe,
                cores: reactor::handle().cores(),
            });
        }
        self.log.replace(Some(Rc::new(log)));
        Ok(recovery)
    }

    /// Lays the slab of a position out for the other cores, of which one has read from it, if it gets no more windows.
    pub(super) fn show(&self, position: Position) {
        let Ok(log) = self.log() else {
            return;
        };
        let slab_blocks = log.layout.slab_blocks;
        let number = position.0 / slab_blocks;
        let cores = reactor::core_here().map_or(0, |_| reactor::handle().cores().len());
        if cores < 2 || self.shelf.has(number) {
            return;
        }
        let shown = log.state.borrow_mut().show(number, slab_blocks, cores);
        if let Some((extent, shown)) = shown
            && let Some(place) = self.drive.place(&extent)
        {
            let place = Arc::new(place);
            self.shelf.lay(number, OnShelf { shown, place });
        }
    }

    /// The same of the slab that a blob is in.
    pub(super) fn show_blob(&self, realm: RealmId, key: &Key) {
        let location = self.log().ok().and_then(|log| log.peek(realm, key));
        if let Some(location) = location {
            self.show(location.position);
        }
    }

    /// Blobs that were used on other cores.
    pub(super) fn used(&self, uses: &[(RealmId, Fingerprint)]) {
        if let Ok(log) = self.log() {
            let mut state = log.state.borrow_mut();
            uses.iter()
                .for_each(|(realm, blob)| state.used(*realm, *blob));
        }
    }

    /// Has the other cores let go of the drive.
    async fn close_shelf(&self) {
        self.shelf.close();
        while self.shelf.is_held() {
            reactor::yield_now().await;
        }
        let id = self.id;
        for core in self.shelf.visitors() {
            // One that has stopped has let go of everything.
            let _ = on_core(core, move || async move { visit::end(id) }).await;
        }
        self.shelf.all_left();
    }

    /// Whose it is from now on.
    pub(super) fn belongs(&self, number: DriveNumber, shared: Arc<Shared<D>>) {
        self.owner.replace(Some(Owner { number, shared }));
    }

    /// Runs the log until it is closed, or stops because the drive failed or was removed.
    pub(super) async fn run(&self) -> Result<(), StoreError> {
        let log = self.log()?;
        let mut run = pin!(log.run());
        let mut removed = pin!(self.drive.removed());
        let mut is_removed = false;
        let ended = poll_fn(|cx| {
            if !is_removed && removed.as_mut().poll(cx).is_ready() {
                is_removed = true;
                let reason = DriveError::Failed {
                    reason: format!("'{}' was removed", self.name),
                };
                log.stop(Vec::new(), reason);
            }
            run.as_mut().poll(cx)
        })
        .await;
        // Of what is not known to be deleted or not, this core alone keeps silent.
        self.shelf.close();
        ended
    }

    /// Lets [`run`](Self::run) come to its end.
    pub(super) fn finish(&self) {
        self.shelf.close();
        if let Ok(log) = self.log() {
            log.close();
        }
    }

    /// Whether somebody still has its log.
    pub(super) fn is_read(&self) -> bool {
        let log = self.log.borrow();
        self.shelf.is_held() || log.as_ref().is_some_and(|log| Rc::strong_count(log) > 1)
    }

    /// Lets go of the log, which nobody runs any more.
    pub(super) fn drop_log(&self) {
        self.log.take();
    }

    /// Lets go of the drive; its index is kept for the next start, if that can be.
    pub(super) async fn close(&self) -> Result<(), DriveError> {
        self.close_shelf().await;
        let (log, index) = (self.log.take(), self.index.take());
        if let Some(index) = index {
            index.close(&self.name, log).await;
        }
        self.ledger.drop_extents();
        self.drive.clone().close().await
    }

    pub(super) fn log(&self) -> Result<Rc<Log<D>>, StoreError> {
        self.log.borrow().clone().ok_or(StoreError::Closing)
    }

    pub(super) fn live(&self) -> Result<Rc<Log<D>>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        log.check_running().map_err(Refused::Gone)?;
        Ok(log)
    }

    pub(super) fn refused(&self, error: StoreError) -> Refused {
        match error {
            StoreError::Stopped { .. } | StoreError::Closing => Refused::Gone(error),
            StoreError::LogEnds => Refused::NoLease,
            // Whatever it was, the drive's being lost is the reason.
            error => match self.live() {
                Ok(_) => Refused::Error(error),
                Err(gone) => gone,
            },
        }
    }

    // ---- Positions ------------------------------------------------------------------------------

    pub(super) fn set_leases(&self, slabs: Vec<std::ops::Range<u64>>) -> Result<(), StoreError> {
        self.log()?.state.borrow_mut().leases = Some(slabs);
        Ok(())
    }

    /// Slabs that it may still make.
    pub(super) fn slabs_left(&self) -> u64 {
        let Ok(log) = self.log() else {
            return 0;
        };
        let state = log.state.borrow();
        let next = state.next_slab;
        let left = |slabs: &std::ops::Range<u64>| slabs.end.saturating_sub(slabs.start.max(next));
        state.leases.iter().flatten().map(left).sum()
    }

    /// Asks for more positions before they are used up, and for a sweep when parts of blobs made room for this one.
    fn look_after_lease(&self, log: &Log<D>) {
        if log.has_evicted_parts.take()
            && let Some(owner) = &*self.owner.borrow()
        {
            owner.shared.command(Command::Sweep);
        }
        let (left, of_one, end) = {
            let state = log.state.borrow();
            let Some(last) = state.leases.as_ref().and_then(|leases| leases.last()) else {
                return;
            };
            let left = last.end.saturating_sub(state.next_slab.max(last.start));
            (left, last.end - last.start, last.end)
        };
        if left * LEASE_LEFT_PART < of_one
            && self.asked_at.replace(end) != end
            && let Some(owner) = &*self.owner.borrow()
        {
            let number = owner.number;
            owner.shared.command(Command::Lease {
                number,
                reply: None,
            });
        }
    }

    fn change(&self, realm: RealmId, key: Key) -> Change<'_> {
        Change {
            doubtful: &self.doubtful,
            key: (realm, key),
            is_known: false,
        }
    }

    /// Whether a blob of a drive that failed may be there when the drive comes back.
    pub(super) fn may_have(&self, realm: RealmId, key: Key) -> bool {
        let Ok(log) = self.log() else {
            return true;
        };
        let state = log.state.borrow();
        let is_known = state
            .keys
            .peek(state.keys.fingerprint(realm, &key))
            .is_some();
        let doubtful = self.doubtful.borrow();
        let is_doubtful = doubtful.len() == DOUBTFUL_MAX || doubtful.contains(&(realm, key));
        is_known || is_doubtful || !log.is_trusted.get()
    }

    // ---- Changes --------------------------------------------------------------------------------

    pub(super) async fn hold(
        &self,
        version: u64,
        key: Option<(RealmId, Key)>,
    ) -> Result<Held<D>, Refused> {
        let entered = self.gate.enter(version).await?;
        self.live()?;
        let key = match key {
            Some(key) => Some(self.gate.latch(key).await),
            None => None,
        };
        Ok(Held {
            _key: key,
            _entered: entered,
            _of: std::marker::PhantomData,
        })
    }

    /// For a change by that version of the table; by none, if the caller holds the lane already.
    async fn enter(&self, version: Option<u64>) -> Result<Option<Held<D>>, Refused> {
        match version {
            Some(version) => self.hold(version, None).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn put(
        &self,
        version: Option<u64>,
        realm: RealmId,
        what: (Key, KeyKind, Role),
        payload: D::Payload,
        length: u64,
    ) -> Returned<D, Put> {
        let entered = self.enter(version).await;
        let (entered, log) = match entered.and_then(|entered| Ok((entered, self.live()?))) {
            Ok(both) => both,
            Err(refused) => return (payload, Err(refused)),
        };
        let buf = self.drive.take(payload);
        let change = self.change(realm, what.0);
        let (buf, put) = log.put_as(realm, what, buf, length).await;
        change.ended(&put);
        self.look_after_lease(&log);
        drop(entered);
        (D::give(buf), put.map_err(|error| self.refused(error)))
    }

    pub(super) async fn delete(
        &self,
        version: Option<u64>,
        realm: RealmId,
        key: Key,
        wanted: Option<Form>,
    ) -> Result<bool, Refused> {
        let _entered = self.enter(version).await?;
        let log = self.live()?;
        let change = self.change(realm, key);
        let deleted = log.delete_form(realm, key, wanted).await;
        change.ended(&deleted);
        deleted.map_err(|error| self.refused(error))
    }

    pub(super) async fn reserve(&self, realm: RealmId, length: u64) -> Result<Reserved, Refused> {
        let log = self.live()?;
        let reserved = log.reserve(realm, length).await;
        self.look_after_lease(&log);
        reserved.map_err(|error| self.refused(error))
    }

    pub(super) async fn write(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
    ) -> Returned<D, ()> {
        let log = match self.live() {
            Ok(log) => log,
            Err(refused) => return (payload, Err(refused)),
        };
        let buf = self.drive.take(payload);
        let (buf, written) = log.write(realm, position, buf).await;
        (D::give(buf), written.map_err(|error| self.refused(error)))
    }

    pub(super) async fn commit(
        &self,
        version: Option<u64>,
        realm: RealmId,
        commit: Commit,
        role: Role,
    ) -> Result<Put, Refused> {
        let _entered = self.enter(version).await?;
        let log = self.live()?;
        let change = self.change(realm, commit.key);
        let committed = log.commit_as(realm, &commit, role).await;
        change.ended(&committed);
        committed.map_err(|error| self.refused(error))
    }

    pub(super) fn abandon(&self, realm: RealmId, position: Position) -> bool {
        self.log().is_ok_and(|log| log.abandon(realm, position))
    }

    // ---- Reads ----------------------------------------------------------------------------------

    /// What is not there may have been moved by those who know a newer table.
    pub(super) fn unless_stale<T>(
        &self,
        version: u64,
        found: Option<T>,
    ) -> Result<Option<T>, Refused> {
        match found {
            None if self.gate.version() > version => Err(Refused::Stale),
            found => Ok(found),
        }
    }

    /// As of a drive that is read although it takes no changes any more, if it has failed.
    pub(super) async fn read(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let read = log.read(realm, &key, offset, bytes).await;
        self.unless_stale(version, read.map_err(|error| self.refused(error))?)
    }

    pub(super) async fn read_into(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
        offset: u64,
        payload: D::Payload,
    ) -> Returned<D, Option<u64>> {
        let log = match self.log() {
            Ok(log) => log,
            Err(error) => return (payload, Err(Refused::Gone(error))),
        };
        let buf = self.drive.take(payload);
        let (buf, read) = log.read_into(realm, &key, offset, buf).await;
        let read = read.map_err(|error| self.refused(error));
        (
            D::give(buf),
            read.and_then(|read| self.unless_stale(version, read)),
        )
    }

    pub(super) async fn locate(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
    ) -> Result<Option<Location>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        log.check_realm(realm).map_err(Refused::Error)?;
        let mut located = log.locate(realm, &key);
        if located.is_none() {
            // An index that was taken over may miss it until it is verified.
            log.trusted().await.map_err(|error| self.refused(error))?;
            located = log.locate(realm, &key);
        }
        self.unless_stale(version, located)
    }

    /// Whether a blob is there, which does not count as a use of it.
    pub(super) async fn has(&self, realm: RealmId, key: Key) -> Result<bool, Refused> {
        let log = self.live()?;
        log.check_realm(realm).map_err(Refused::Error)?;
        log.trusted().await.map_err(|error| self.refused(error))?;
        Ok(log.peek(realm, &key).is_some())
    }

    /// Bits of the keys that are there, which none of them is used by.
    pub(super) fn probe(&self, version: u64, realm: RealmId, keys: &[Key]) -> Result<u64, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let there = log.probe(realm, keys);
        match self.gate.version() > version {
            true => Err(Refused::Stale),
            false => Ok(there),
        }
    }

    pub(super) async fn list(
        &self,
        realm: RealmId,
        from: Position,
        most: usize,
    ) -> Result<Page, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let page = log.list(realm, from, most).await;
        page.map_err(|error| self.refused(error))
    }

    pub(super) fn stat(&self) -> LogStat {
        self.log()
            .map_or_else(|_| LogStat::default(), |log| log.stat())
    }

    pub(super) fn realm_stat(&self, realm: RealmId) -> Option<RealmStat> {
        self.log().ok()?.realm_stat(realm)
    }

    /// The store's realms, all of them.
    pub(super) fn set_realms(&self, realms: &[RealmOptions]) {
        if let Ok(log) = self.log() {
            log.set_realms(realms);
        }
    }

    /// What its windows of each realm may take: the drive's share of the store's quotas.
    pub(super) fn set_quotas(&self, shares: &[(RealmId, Option<u64>)]) {
        let Ok(log) = self.log() else {
            return;
        };
        let mut state = log.state.borrow_mut();
        for (realm, share) in shares {
            if let Some(realm) = state.realm(*realm) {
                realm.options.quota_blocks = *share;
            }
        }
    }

    // ---- Moves between drives -------------------------------------------------------------------

    /// A blob's bytes, checked, in whole blocks.
    pub(super) async fn export(
        &self,
        realm: RealmId,
        key: Key,
        offset: u64,
        bytes: usize,
    ) -> Result<Option<D::Payload>, Refused> {
        let log = self.live()?;
        let buf = self.drive.buffer(bytes.next_multiple_of(BLOCK_BYTES));
        let buf = buf.map_err(|error| Refused::Error(error.into()))?;
        let read = log.read_window(realm, &key, offset, Wanted::Window, buf);
        let (buf, read) = read.await;
        let read = read.map_err(|error| self.refused(error))?;
        Ok(read.map(|_| D::give(buf)))
    }

    /// A window for a blob that comes from another drive. The store's quota is not exceeded by a move, so a drive's share
    /// of it gives way.
    pub(super) async fn import(&self, realm: RealmId, length: u64) -> Result<Reserved, Refused> {
        match self.reserve(realm, length).await {
            Err(Refused::Error(StoreError::OverQuota { .. } | StoreError::CacheHeld { .. })) => {}
            other => return other,
        }
        let log = self.live()?;
        if let Some(realm) = log.state.borrow_mut().realm(realm) {
            let needed = realm.used_blocks + super::super::record::window_blocks(length);
            realm.options.quota_blocks = Some(needed);
        }
        self.reserve(realm, length).await
    }
}
