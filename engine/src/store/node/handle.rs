//! What a store of many drives does for its users, on any core.
//!
//! A key whose blob can be in one place only, which is the rule, costs one call of that drive. Where drives come, go or were
//! away, lookups walk through the places in the order that `place.rs` gives; changes hold the key in all of them.

use std::cell::{Ref, RefCell};
use std::ops::Deref;
use std::sync::Arc;

use futures_channel::oneshot;

use super::super::error::StoreError;
use super::super::log::Put;
use super::super::record::{Role, window_blocks};
use super::super::reserve::{Commit, Reserved};
use super::super::types::{BLOCK_BYTES, Form, Key, KeyKind, Position, RealmId};
use super::error::{Loss, NodeError};
use super::lane::Refused;
use super::seat::{Guard, NoLane, NodeDrive, Seat};
use super::table::{Command, Shared, Table};

/// A store of many drives. Each core has a clone of its own.
pub struct NodeStore<D> {
    pub(super) shared: Arc<Shared<D>>,
    table: RefCell<Arc<Known<D>>>,
}

/// The table as one clone of the store knows it: cores that counted the users of the same would slow each other down.
pub(super) struct Known<D>(Arc<Table<D>>);

impl<D> Deref for Known<D> {
    type Target = Table<D>;
    fn deref(&self) -> &Table<D> {
        &self.0
    }
}

impl<D> Clone for NodeStore<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            table: RefCell::new(Arc::new(Known(self.table.borrow().0.clone()))),
        }
    }
}

/// Why an attempt came to nothing.
pub(super) enum Again {
    /// The table was an old one, or will be.
    NewTable,
    /// The drive needs positions.
    Lease(u16),
    Never(NodeError),
}

pub(super) type Attempt<T> = Result<T, Again>;

impl<D: NodeDrive> NodeStore<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        let table = RefCell::new(Arc::new(Known(shared.table())));
        Self { shared, table }
    }

    pub(super) fn table(&self) -> Arc<Known<D>> {
        let mut table = self.table.borrow_mut();
        if table.version != self.shared.version() {
            *table = Arc::new(Known(self.shared.table()));
        }
        table.clone()
    }

    /// The same without a count; nothing may wait while it is there.
    pub(super) fn table_here(&self) -> Ref<'_, Table<D>> {
        if self.table.borrow().version != self.shared.version() {
            *self.table.borrow_mut() = Arc::new(Known(self.shared.table()));
        }
        Ref::map(self.table.borrow(), |table| &***table)
    }

    /// Does what has to be done before the next attempt.
    pub(super) async fn before_next(
        &self,
        table: &Table<D>,
        again: Again,
    ) -> Result<(), NodeError> {
        match again {
            Again::Never(error) => return Err(error),
            Again::NewTable => self.shared.newer_than(table.version).await,
            Again::Lease(at) => {
                let row = table.row(at);
                let (reply, granted) = oneshot::channel();
                let (number, reply) = (row.number, Some(reply));
                self.shared.command(Command::Lease { number, reply });
                if !granted.await.unwrap_or(false) && !self.shared.has_ended() {
                    return Err(NodeError::LogEnds { drive: row.label() });
                }
            }
        }
        match self.shared.has_ended() {
            true => Err(NodeError::Closing),
            false => Ok(()),
        }
    }

    /// What a drive's answer means.
    pub(super) fn heard<T>(
        &self,
        table: &Table<D>,
        at: u16,
        answer: Result<Result<T, Refused>, NoLane>,
    ) -> Attempt<T> {
        let row = table.row(at);
        let number = row.number;
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refused::Stale)) => Err(Again::NewTable),
            Ok(Err(Refused::NoLease)) => Err(Again::Lease(at)),
            Ok(Err(Refused::Error(source))) => {
                let drive = row.label();
                Err(Again::Never(NodeError::Drive { drive, source }))
            }
            Ok(Err(Refused::Gone(reason))) => {
                let reason = Some(reason);
                self.shared.command(Command::Lost { number, reason });
                Err(Again::NewTable)
            }
            Err(NoLane) => {
                let reason = None;
                self.shared.command(Command::Lost { number, reason });
                Err(Again::NewTable)
            }
        }
    }

    /// Holds a key in every place where it may be.
    pub(super) async fn hold(
        &self,
        table: &Table<D>,
        realm: RealmId,
        key: Key,
        places: &[u16],
        home: u16,
    ) -> Result<Vec<Guard<D>>, (u16, Result<Refused, NoLane>)> {
        let mut guards = Vec::new();
        for &at in places {
            let latch = (at == home).then_some((realm, key));
            let Some(seat) = table.seat(at) else {
                return Err((at, Err(NoLane)));
            };
            match seat.hold(table.version, latch).await {
                Ok(Ok(guard)) => guards.push(guard),
                Ok(Err(refused)) => return Err((at, Ok(refused))),
                Err(no_lane) => return Err((at, Err(no_lane))),
            }
        }
        Ok(guards)
    }

    async fn held(
        &self,
        table: &Table<D>,
        realm: RealmId,
        key: Key,
        places: &[u16],
        home: u16,
    ) -> Attempt<Vec<Guard<D>>> {
        if let [_] = places {
            // The drive itself sees to it.
            return Ok(Vec::new());
        }
        let held = self.hold(table, realm, key, places, home).await;
        held.or_else(|(at, refused)| self.heard(table, at, refused.map(Err)))
    }

    pub(super) fn seat<'a>(&self, table: &'a Table<D>, at: u16) -> Attempt<&'a Seat<D>> {
        let lost = || Again::Never(table.lost(at));
        table.seat(at).ok_or_else(lost)
    }

    /// Whether one of the places other than the home has the blob.
    async fn is_elsewhere(
        &self,
        table: &Table<D>,
        realm: RealmId,
        key: Key,
        places: &[u16],
        home: u16,
    ) -> Attempt<bool> {
        for &at in places.iter().filter(|at| **at != home) {
            let seat = self.seat(table, at)?;
            let has = seat.call(move |lane| async move { lane.has(realm, key).await });
            if self.heard(table, at, has.await)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a blob of that key is put.
    fn home(&self, table: &Table<D>, realm: RealmId, key: &Key) -> Attempt<u16> {
        table.check_writable().map_err(Again::Never)?;
        let spread = table.spread(realm, key);
        let home = spread.home.ok_or(Again::Never(NodeError::NoDrive))?;
        match (spread.is_lost_behind_home, spread.lost.last()) {
            (true, Some(lost)) => Err(Again::Never(table.lost(*lost))),
            _ => Ok(home),
        }
    }

    // ---- Changes --------------------------------------------------------------------------------

    /// Stores a blob. The first to finish under a key wins.
    pub async fn put(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
        bytes: &[u8],
    ) -> Result<Put, NodeError> {
        let length = bytes.len() as u64;
        if length > self.table().length_max() {
            return Box::pin(self.put_in_parts(realm, key, kind, bytes)).await;
        }
        let window = window_blocks(length.max(1)) as usize * BLOCK_BYTES;
        let mut payload = D::payload(window).map_err(NodeError::Memory)?;
        payload.as_mut()[..bytes.len()].copy_from_slice(bytes);
        self.put_payload(realm, key, kind, payload, length).await.1
    }

    /// Stores the blob of `length` bytes that a buffer begins with, without a copy. The buffer has the bytes of the whole
    /// window. It comes back, unless the core of the drive has stopped.
    pub async fn put_payload(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
        payload: D::Payload,
        length: u64,
    ) -> (Option<D::Payload>, Result<Put, NodeError>) {
        let role = Role::Whole;
        self.put_as(realm, (key, kind, role), payload, length).await
    }

    /// The same, for what is a part of a large blob or its manifest.
    pub(super) async fn put_as(
        &self,
        realm: RealmId,
        what: (Key, KeyKind, Role),
        payload: D::Payload,
        length: u64,
    ) -> (Option<D::Payload>, Result<Put, NodeError>) {
        let mut slot = Some(payload);
        let result = loop {
            let table = self.table();
            let attempt = self.try_put(&table, realm, what, &mut slot, length);
            match attempt.await {
                Ok(put) => break Ok(put),
                Err(again) => {
                    if let Err(error) = self.before_next(&table, again).await {
                        break Err(error);
                    }
                    if slot.is_none() {
                        break Err(NodeError::Closing);
                    }
                }
            }
        };
        (slot, result)
    }

    async fn try_put(
        &self,
        table: &Table<D>,
        realm: RealmId,
        what: (Key, KeyKind, Role),
        slot: &mut Option<D::Payload>,
        length: u64,
    ) -> Attempt<Put> {
        let key = what.0;
        let home = self.home(table, realm, &key)?;
        let places = &table.spread(realm, &key).present;
        let _held = self.held(table, realm, key, places, home).await?;
        if self.is_elsewhere(table, realm, key, places, home).await? {
            return Ok(Put::AlreadyThere);
        }
        let seat = self.seat(table, home)?;
        let (version, payload) = (unheld(table, places), slot.take());
        let payload = payload.ok_or(Again::Never(NodeError::Closing))?;
        let put = seat
            .call(move |lane| async move { lane.put(version, realm, what, payload, length).await });
        let answer = put.await.map(|(payload, put)| {
            *slot = Some(payload);
            put
        });
        self.heard(table, home, answer)
    }

    /// Takes a blob away; whether it was there. Where a drive comes or goes in the middle, it looks again, and may so take
    /// away what somebody else put meanwhile.
    pub async fn delete(&self, realm: RealmId, key: Key) -> Result<bool, NodeError> {
        match self.delete_form(realm, key, Some(Form::Whole)).await {
            Err(error) if error.is_in_parts() => Box::pin(self.delete_large(realm, key)).await,
            deleted => deleted,
        }
    }

    /// Takes away what is under a key, if it is of that form, or whatever it is.
    pub(super) async fn delete_form(
        &self,
        realm: RealmId,
        key: Key,
        wanted: Option<Form>,
    ) -> Result<bool, NodeError> {
        let mut was_there = false;
        loop {
            let table = self.table();
            match self
                .try_delete(&table, realm, (key, wanted), &mut was_there)
                .await
            {
                Ok(()) => return Ok(was_there),
                Err(again) => self.before_next(&table, again).await?,
            }
        }
    }

    async fn try_delete(
        &self,
        table: &Table<D>,
        realm: RealmId,
        (key, wanted): (Key, Option<Form>),
        was_there: &mut bool,
    ) -> Attempt<()> {
        table.check_writable().map_err(Again::Never)?;
        let spread = table.spread(realm, &key);
        let places = &spread.present;
        if let Some(&last) = places.last() {
            let home = spread.home.unwrap_or(last);
            let _held = self.held(table, realm, key, places, home).await?;
            // What is looked up first goes last, so that nobody sees an older copy.
            for &at in places.iter().rev() {
                let seat = self.seat(table, at)?;
                let version = unheld(table, places);
                let deleted =
                    seat.call(
                        move |lane| async move { lane.delete(version, realm, key, wanted).await },
                    );
                *was_there |= self.heard(table, at, deleted.await)?;
            }
        }
        self.check_lost(table, realm, key).await
    }

    /// Whether a drive that is lost has the blob, or may have it.
    pub(super) async fn check_lost(
        &self,
        table: &Table<D>,
        realm: RealmId,
        key: Key,
    ) -> Attempt<()> {
        for &at in &table.spread(realm, &key).lost {
            let may_be = match table.seat(at) {
                None => Err(NoLane),
                // It failed while the store was open, so what was on it is known.
                Some(seat) => {
                    seat.call(move |lane| async move { lane.may_have(realm, key) })
                        .await
                }
            };
            if may_be.unwrap_or(true) {
                return Err(Again::Never(table.lost(at)));
            }
        }
        Ok(())
    }

    /// Hands out a window for a blob of up to so many bytes, on the drive where that key's blob belongs.
    pub async fn reserve(
        &self,
        realm: RealmId,
        key: &Key,
        length: u64,
    ) -> Result<Reserved, NodeError> {
        loop {
            let table = self.table();
            let attempt = async {
                let home = self.home(&table, realm, key)?;
                let seat = self.seat(&table, home)?;
                let reserved =
                    seat.call(move |lane| async move { lane.reserve(realm, length).await });
                self.heard(&table, home, reserved.await)
            };
            match attempt.await {
                Ok(reserved) => return Ok(reserved),
                Err(again) => self.before_next(&table, again).await?,
            }
        }
    }

    /// The drive that a window is on.
    fn row_of(&self, table: &Table<D>, position: Position) -> Result<u16, NodeError> {
        let at = table.row_of(position);
        let at = at.ok_or(NodeError::NoSuchPosition { position })?;
        match table.is_present(at) {
            true => Ok(at),
            false => Err(table.lost(at)),
        }
    }

    /// Writes whole blocks into a window that is reserved in the realm.
    pub async fn write(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
    ) -> (Option<D::Payload>, Result<(), NodeError>) {
        let table = self.table();
        let at = match self.row_of(&table, position) {
            Ok(at) => at,
            Err(error) => return (Some(payload), Err(error)),
        };
        let Some(seat) = table.seat(at) else {
            return (Some(payload), Err(table.lost(at)));
        };
        let written =
            seat.call(move |lane| async move { lane.write(realm, position, payload).await });
        let mut slot = None;
        let answer = written.await.map(|(payload, written)| {
            slot = Some(payload);
            written
        });
        (slot, self.ended(&table, at, answer))
    }

    /// What an answer means to those who do not try again: their window is on that drive and nowhere else.
    pub(super) fn ended<T>(
        &self,
        table: &Table<D>,
        at: u16,
        answer: Result<Result<T, Refused>, NoLane>,
    ) -> Result<T, NodeError> {
        let loss = match &answer {
            Ok(Err(Refused::Gone(reason))) => Loss::Failed(reason.clone()),
            _ => Loss::CoreStopped,
        };
        let drive = table.row(at).label();
        self.heard(table, at, answer).map_err(|again| match again {
            Again::Never(error) => error,
            Again::NewTable | Again::Lease(_) if self.shared.has_ended() => NodeError::Closing,
            Again::NewTable | Again::Lease(_) => NodeError::Lost { drive, loss },
        })
    }

    /// Makes what was written into a reserved window a blob.
    pub async fn commit(&self, realm: RealmId, commit: &Commit) -> Result<Put, NodeError> {
        self.commit_as(realm, commit, Role::Whole).await
    }

    /// The same, for what is a part of a large blob.
    pub(super) async fn commit_as(
        &self,
        realm: RealmId,
        commit: &Commit,
        role: Role,
    ) -> Result<Put, NodeError> {
        let commit = *commit;
        loop {
            let table = self.table();
            let attempt = async {
                let (position, key) = (commit.position, commit.key);
                let home = self.home(&table, realm, &key)?;
                let at = self.row_of(&table, position).map_err(Again::Never)?;
                if at != home {
                    return Err(Again::Never(NodeError::Moved { position }));
                }
                let places = &table.spread(realm, &key).present;
                let _held = self.held(&table, realm, key, places, home).await?;
                let seat = self.seat(&table, home)?;
                if self.is_elsewhere(&table, realm, key, places, home).await? {
                    let give_up =
                        seat.call(move |lane| async move { Ok(lane.abandon(realm, position)) });
                    return match self.heard(&table, home, give_up.await)? {
                        true => Ok(Put::AlreadyThere),
                        false => {
                            let (drive, source) = (
                                table.row(home).label(),
                                StoreError::NotReserved { position },
                            );
                            Err(Again::Never(NodeError::Drive { drive, source }))
                        }
                    };
                }
                let version = unheld(&table, places);
                let committed = seat.call(move |lane| async move {
                    lane.commit(version, realm, commit, role).await
                });
                self.heard(&table, home, committed.await)
            };
            match attempt.await {
                Ok(put) => return Ok(put),
                Err(again) => self.before_next(&table, again).await?,
            }
        }
    }

    /// Gives a reserved window up; whether it was reserved.
    pub async fn abandon(&self, realm: RealmId, position: Position) -> bool {
        let table = self.table();
        let Ok(at) = self.row_of(&table, position) else {
            return false;
        };
        let Some(seat) = table.seat(at) else {
            return false;
        };
        let given_up = seat.call(move |lane| async move { lane.abandon(realm, position) });
        given_up.await.unwrap_or(false)
    }
}

/// What a drive has to know of the table if nobody holds the key; what is held is not changed by newer tables meanwhile.
fn unheld<D>(table: &Table<D>, places: &[u16]) -> Option<u64> {
    (places.len() == 1).then_some(table.version)
}
