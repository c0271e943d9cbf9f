//! Pins: blobs that caches keep for a time, wherever they lie.

use std::time::Duration;

use super::super::error::StoreError;
use super::super::log::yield_now;
use super::super::types::{Form, Key, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::lane::{Lane, Refused};
use super::seat::NodeDrive;
use super::table::Table;
use crate::clock::Moment;
use crate::limits::PIN_TIME_MAX;

/// Parts that are pinned in one go.
const PINNED_AT_ONCE: u64 = 256;

/// Until when a blob is pinned, and whether it is one in parts.
type Pinned = (Moment, Form);

impl<D: NodeDrive> Lane<D> {
    async fn pin(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
        time: Duration,
    ) -> Result<Option<Pinned>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        if log.peek(realm, &key).is_none() {
            // An index that was taken over may miss it until it is verified.
            log.trusted().await.map_err(|error| self.refused(error))?;
        }
        let form = log.peek(realm, &key).map(|location| location.form);
        let until = match log.is_cache(realm) {
            true => log.pin(realm, &key, time).map_err(Refused::Error)?,
            // What is durable stays anyway.
            false => Some(log.clock.now() + time.min(PIN_TIME_MAX)),
        };
        self.unless_stale(version, until.zip(form))
    }

    fn unpin(&self, realm: RealmId, key: Key) -> Result<Option<Form>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let form = log.peek(realm, &key).map(|location| location.form);
        Ok(form.filter(|_| log.unpin(realm, &key)))
    }
}

impl<D: NodeDrive> NodeStore<D> {
    /// Keeps a blob from being evicted for a time, counted from now, of ten minutes at most: a lease that ends by itself, with
    /// the program, and where the blob goes to another drive. When it ends; `None` if there is no such blob.
    pub async fn pin(
        &self,
        realm: RealmId,
        key: &Key,
        time: Duration,
    ) -> Result<Option<Moment>, NodeError> {
        match self.pin_one(realm, *key, time).await? {
            Some((_, Form::Manifest)) => Box::pin(self.pin_parts(realm, key, time)).await,
            pinned => Ok(pinned.map(|(until, _)| until)),
        }
    }

    async fn pin_one(
        &self,
        realm: RealmId,
        key: Key,
        time: Duration,
    ) -> Result<Option<Pinned>, NodeError> {
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let pinned =
                seat.call(move |lane| async move { lane.pin(version, realm, key, time).await });
            self.heard(table, at, pinned.await)
        };
        self.look(realm, key, ask).await
    }

    /// Pins the parts of a blob whose manifest is pinned; all of them or, where one cannot be, nothing of the blob. If that is
    /// since one has gone, then the rest goes, as for one who reads it.
    async fn pin_parts(
        &self,
        realm: RealmId,
        key: &Key,
        time: Duration,
    ) -> Result<Option<Moment>, NodeError> {
        let manifest = match self.manifest(realm, key).await {
            Ok(Some(manifest)) => manifest,
            other => {
                self.unpin_one(realm, *key).await?;
                return other.map(|_| None);
            }
        };
        let mut ends = None;
        let mut failed = Ok(None);
        for (number, part) in (0..).zip(manifest.part_keys()) {
            give_way(u64::from(number) + 1).await;
            match self.pin_one(realm, part, time).await {
                // The first one ends first.
                Ok(Some((until, _))) => ends = ends.or(Some(until)),
                other => {
                    failed = other.map(|_| Some(number));
                    ends = None;
                    break;
                }
            }
        }
        if ends.is_none() {
            self.unpin(realm, key).await?;
        }
        if let Some(gone) = failed? {
            self.is_incomplete(realm, &manifest, gone).await?;
        }
        Ok(ends)
    }

    /// Lets a blob be evicted again; whether it was pinned.
    pub async fn unpin(&self, realm: RealmId, key: &Key) -> Result<bool, NodeError> {
        let form = self.unpin_one(realm, *key).await?;
        let mut failed = Ok(());
        if form == Some(Form::Manifest)
            && let Some(manifest) = self.manifest(realm, key).await?
        {
            for (at, part) in (1..).zip(manifest.part_keys()) {
                give_way(at).await;
                // Whatever keeps one, the others can go.
                let unpinned = self.unpin_one(realm, part).await;
                failed = failed.and(unpinned.map(drop));
            }
        }
        failed.map(|()| form.is_some())
    }

    async fn unpin_one(&self, realm: RealmId, key: Key) -> Result<Option<Form>, NodeError> {
        let ask = async |table: &Table<D>, at: u16| {
            let seat = self.seat(table, at)?;
            let unpinned = seat.call(move |lane| async move { lane.unpin(realm, key) });
            self.heard(table, at, unpinned.await)
        };
        self.look(realm, key, ask).await
    }
}

/// Lets others have their turns after so many parts, all of which may be on this core.
async fn give_way(parts: u64) {
    if parts.is_multiple_of(PINNED_AT_ONCE) {
        yield_now().await;
    }
}

impl NodeError {
    /// Whether a cache has as many pins as it may.
    pub fn is_of_pins(&self) -> bool {
        matches!(
            self,
            Self::Drive {
                source: StoreError::TooManyPins { .. },
                ..
            }
        )
    }
}
