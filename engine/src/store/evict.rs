//! Making room in caches, and keeping what is pinned.

use std::time::Duration;

use oriel_dht::index::Fingerprint;

use super::answer::answer;
use super::drive::Drive;
use super::error::StoreError;
use super::frame::Entry;
use super::log::Log;
use super::state::{Pin, Queued, State};
use super::types::{Form, Key, RealmId};
use crate::clock::Moment;
use crate::limits::{PIN_TIME_MAX, PINNED_PART};

impl<D: Drive> Log<D> {
    /// Keeps a blob from being evicted for a time, counted from now; when that ends, or `None` if there is no such blob.
    pub fn pin(
        &self,
        realm: RealmId,
        key: &Key,
        time: Duration,
    ) -> Result<Option<Moment>, StoreError> {
        self.check_realm(realm)?;
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        let blob = state.keys.fingerprint(realm, key);
        let Some(location) = state.locate(blob) else {
            return Ok(None);
        };
        let of_realm = state.realm(realm);
        let of_realm = of_realm.ok_or(StoreError::UnknownRealm { realm })?;
        of_realm.pins.retain(|_, pin| pin.until > now);
        let blocks = super::record::window_blocks(location.length);
        let others = of_realm.pins.iter().filter(|(pinned, _)| **pinned != blob);
        let pinned: u64 = others.map(|(_, pin)| pin.blocks).sum();
        let all = of_realm.options.quota_blocks;
        let most = all.unwrap_or(of_realm.used_blocks) / PINNED_PART;
        if pinned + blocks > most {
            return Err(StoreError::TooManyPins { realm, most });
        }
        let until = now + time.min(PIN_TIME_MAX);
        of_realm.pins.insert(blob, Pin { until, blocks });
        Ok(Some(until))
    }

    /// Lets a blob be evicted again; whether it was pinned.
    pub fn unpin(&self, realm: RealmId, key: &Key) -> bool {
        let mut state = self.state.borrow_mut();
        let blob = state.keys.fingerprint(realm, key);
        let realm = state.realm(realm);
        realm.is_some_and(|realm| realm.pins.remove(&blob).is_some())
    }

    /// The caches that have something to give when the drive is full, the one with most first.
    pub(super) fn caches(&self, state: &State<D::Extent>) -> Vec<RealmId> {
        let realms = state.realms.iter();
        let caches = realms.filter(|(_, realm)| realm.eviction.is_some() && realm.blobs > 0);
        let mut caches: Vec<_> = caches.map(|(id, realm)| (realm.used_blocks, *id)).collect();
        caches.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
        caches.into_iter().map(|(_, id)| id).collect()
    }

    /// Evicts blobs of a cache until so many blocks of windows are free; how many are, which is none if nothing can go.
    pub(super) async fn evict(&self, id: RealmId, blocks: u64) -> Result<u64, StoreError> {
        self.check_running()?;
        let mut gone = 0;
        let mut evicted = 0;
        let mut answers = Vec::new();
        {
            let now = self.clock.now();
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            while gone < blocks {
                let Some((blob, freed)) = next_victim(state, id, now) else {
                    break;
                };
                // Not there, or about to go anyway.
                let Some(location) = state.locate_quietly(blob) else {
                    continue;
                };
                let position = location.position;
                if location.form != Form::Whole {
                    self.has_evicted_parts.set(true);
                }
                state.dying.insert(blob);
                let (send, heard) = answer();
                state.queue.push_back(Queued {
                    answer: Some(send),
                    blob: Some(blob),
                    ..Queued::silent(Entry::Evict { blob, position })
                });
                answers.push(heard);
                gone += freed;
                state.stat.blobs_evicted += 1;
                evicted += 1;
            }
        }
        self.metrics.evicted(id, evicted);
        self.ring();
        for heard in answers {
            heard.await.unwrap_or(Err(StoreError::Closing))?;
        }
        Ok(gone)
    }
}

/// Takes the blob that goes next out of a cache's policy.
fn next_victim<E>(state: &mut State<E>, id: RealmId, now: Moment) -> Option<(Fingerprint, u64)> {
    let realm = state.realm(id)?;
    let eviction = realm.eviction.as_mut()?;
    // Those that are passed over come last, so behind all that are pinned is one that is not.
    for _ in 0..=realm.pins.len() {
        let (blob, blocks) = eviction.victim()?;
        let pin = realm.pins.get(&blob);
        if pin.is_some_and(|pin| pin.until > now) {
            eviction.spare(blob);
            continue;
        }
        eviction.removed(blob);
        return Some((blob, blocks));
    }
    None
}
