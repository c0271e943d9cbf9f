//! Making room in caches, and keeping what is pinned.

use std::time::Duration;

use oriel_dht::index::Fingerprint;

use super::answer::answer;
use super::drive::Drive;
use super::error::StoreError;
use super::eviction::LOOKS_MAX;
use super::frame::Entry;
use super::log::{Log, yield_now};
use super::state::{Queued, State};
use super::types::{Form, Key, RealmId};
use crate::clock::Moment;
use crate::limits::{PASSED_OVER_AT_ONCE, PIN_TIME_MAX, PINNED_PART};

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
        of_realm.pins.end(now);
        let blocks = super::record::window_blocks(location.length);
        let pinned = of_realm.pins.blocks_beside(blob);
        let all = of_realm.options.quota_blocks;
        let most = all.unwrap_or(of_realm.used_blocks) / PINNED_PART;
        if pinned + blocks > most {
            return Err(StoreError::TooManyPins { realm, most });
        }
        let until = now + time.min(PIN_TIME_MAX);
        of_realm.pins.insert(blob, until, blocks);
        Ok(Some(until))
    }

    pub(super) fn is_cache(&self, realm: RealmId) -> bool {
        let mut state = self.state.borrow_mut();
        let realm = state.realm(realm);
        realm.is_some_and(|realm| realm.eviction.is_some())
    }

    /// Lets a blob be evicted again; whether it was pinned.
    pub fn unpin(&self, realm: RealmId, key: &Key) -> bool {
        let mut state = self.state.borrow_mut();
        let blob = state.keys.fingerprint(realm, key);
        let realm = state.realm(realm);
        realm.is_some_and(|realm| realm.pins.remove(blob))
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
        let mut passed_over = 0;
        loop {
            let is_later = {
                let now = self.clock.now();
                let mut state = self.state.borrow_mut();
                let state = &mut *state;
                loop {
                    if gone >= blocks {
                        break false;
                    }
                    let (blob, freed) = match next_victim(state, id, now, &mut passed_over) {
                        Victim::Blob(blob, freed) => (blob, freed),
                        Victim::Later => break true,
                        Victim::None => break false,
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
            };
            if gone > 0 || !is_later {
                break;
            }
            yield_now().await;
            self.check_running()?;
            // Nobody writes the journal any more.
            if self.is_ending.get() {
                return Err(StoreError::Closing);
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

enum Victim {
    Blob(Fingerprint, u64),
    /// So many that are pinned came first that others have their turn before there is another look.
    Later,
    None,
}

/// Takes the blob that goes next out of a cache's policy.
fn next_victim<E>(state: &mut State<E>, id: RealmId, now: Moment, passed_over: &mut u64) -> Victim {
    let realm = state.realm(id);
    let Some((pins, eviction)) = realm.and_then(|it| Some((&it.pins, it.eviction.as_mut()?)))
    else {
        return Victim::None;
    };
    while let Some((blob, blocks)) = eviction.victim() {
        if !pins.holds(blob, now) {
            eviction.removed(blob);
            return Victim::Blob(blob, blocks);
        }
        eviction.spare(blob);
        *passed_over += 1;
        // So often each that is pinned may come, by the queues of the policy that has most, before all others have come.
        if *passed_over > pins.len() * LOOKS_MAX {
            break;
        }
        if passed_over.is_multiple_of(PASSED_OVER_AT_ONCE) {
            return Victim::Later;
        }
    }
    Victim::None
}
