//! Large blobs that are being changed: who puts one, and who changes what is under a key.
//!
//! - A put has a **generation**, the number that tells its parts from those of all others: a hash of the roster's term and
//!   epoch when this start could change anything first, and a count. No other start has that term and epoch on the drives
//!   that are left. The term alone would not do: by forgetting a drive a start without a majority goes on in the term of
//!   another. While the put is under way its parts are no orphans.
//! - Who commits or deletes a manifest, or decides by it, has its key **latched**, so that what he knows of it stays so.
//!   Evictions and moves alone do without.
//!
//! Nothing here is on the way of blobs that fit a slab.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;

use super::super::record::u64_at;
use super::super::types::{Key, RealmId};
use super::seat::NodeDrive;
use super::table::{Command, Shared};

type Waiting = Vec<oneshot::Sender<()>>;

#[derive(Default)]
struct Inner {
    /// Term and epoch when there was a majority first.
    began: Option<(u64, u64)>,
    puts: u64,
    under_way: HashSet<(RealmId, Key, u64)>,
    latched: HashMap<(RealmId, Key), Waiting>,
}

#[derive(Default)]
pub(super) struct Puts(Mutex<Inner>);

impl Puts {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the store can be changed, if it could not be before.
    pub(super) fn begin(&self, term: u64, epoch: u64) {
        self.inner().began.get_or_insert((term, epoch));
    }

    /// Whether that put has neither ended nor been given up.
    pub(super) fn is_under_way(&self, realm: RealmId, key: Key, generation: u64) -> bool {
        self.inner().under_way.contains(&(realm, key, generation))
    }
}

/// A put that is under way, until it is dropped.
pub(super) struct UnderWay<D: NodeDrive> {
    shared: Arc<Shared<D>>,
    realm: RealmId,
    key: Key,
    pub(super) generation: u64,
    /// It leaves nothing that has to be swept up.
    is_clean: AtomicBool,
}

impl<D: NodeDrive> UnderWay<D> {
    pub(super) fn new(shared: Arc<Shared<D>>, realm: RealmId, key: Key) -> Self {
        let generation = {
            let mut inner = shared.large.inner();
            let (term, epoch) = inner.began.unwrap_or_default();
            let numbers = [term, epoch, inner.puts].map(u64::to_le_bytes);
            inner.puts += 1;
            let generation = u64_at(blake3::hash(numbers.as_flattened()).as_bytes(), 0);
            inner.under_way.insert((realm, key, generation));
            generation
        };
        Self {
            shared,
            realm,
            key,
            generation,
            is_clean: AtomicBool::new(true),
        }
    }

    pub(super) fn set_clean(&self, is_clean: bool) {
        self.is_clean.store(is_clean, Ordering::Relaxed);
    }
}

impl<D: NodeDrive> Drop for UnderWay<D> {
    fn drop(&mut self) {
        let put = (self.realm, self.key, self.generation);
        self.shared.large.inner().under_way.remove(&put);
        if !*self.is_clean.get_mut() {
            self.shared.command(Command::Sweep);
        }
    }
}

/// A key whose manifest nobody else commits or deletes, until it is dropped.
pub(super) struct Latch<D: NodeDrive> {
    shared: Arc<Shared<D>>,
    key: (RealmId, Key),
}

impl<D: NodeDrive> Latch<D> {
    pub(super) async fn of(shared: &Arc<Shared<D>>, realm: RealmId, key: Key) -> Self {
        let key = (realm, key);
        loop {
            let wait = match shared.large.inner().latched.entry(key) {
                Place::Vacant(place) => {
                    place.insert(Vec::new());
                    let shared = shared.clone();
                    return Self { shared, key };
                }
                Place::Occupied(mut waiting) => {
                    let (send, heard) = oneshot::channel();
                    waiting.get_mut().push(send);
                    heard
                }
            };
            // Whoever has it drops it in the end, with or without a word.
            let _ = wait.await;
        }
    }
}

impl<D: NodeDrive> Drop for Latch<D> {
    fn drop(&mut self) {
        let waiting = self.shared.large.inner().latched.remove(&self.key);
        drop(waiting);
    }
}
