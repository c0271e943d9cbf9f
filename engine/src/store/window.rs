//! Who may create a key, and where: claims and windows.

use std::rc::Rc;
use std::task::Poll;

use oriel_dht::index::Fingerprint;

use super::answer::{Heard, answer};
use super::directory::directory_blocks;
use super::drive::{Drive, DriveError, ExtentName};
use super::error::StoreError;
use super::frame::Entry;
use super::journal::{remember, ring_bell};
use super::log::Log;
use super::recovery;
use super::slab::Slab;
use super::state::{Open, Purpose, Queued};
use super::types::{Position, RealmId, SlabNumber};
use crate::limits::{EVICTED_PART, READERS_LOOK, READERS_WAIT};

/// What stands between a caller and a window.
enum Next {
    /// Blobs of its cache have to go.
    Evict(u64),
    /// A slab has to be made.
    Wait(Heard<Result<(), StoreError>>),
}

/// What there is to do while the drive has no room for another slab.
enum Wanting {
    /// Space is about to come back.
    Wait(Heard<()>),
    /// A slab comes back when its last reader ends, which nobody tells.
    Look,
    /// Blobs of one of these caches have to go.
    Evict(Vec<RealmId>),
}

/// A run of blocks in a slab, to be written.
pub(super) struct Taken<E> {
    pub(super) position: Position,
    /// Blocks by which the realm's use went up.
    pub(super) counted: u64,
    pub(super) extent: Rc<E>,
}

impl<D: Drive> Log<D> {
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        match &*self.stopped.borrow() {
            Some(reason) => Err(reason.clone()),
            None if self.closing.get() => Err(StoreError::Closing),
            None => Ok(()),
        }
    }

    /// The right to create a key; `None` if it is there.
    pub(super) async fn claim(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<Claim<'_, D>>, StoreError> {
        self.check_open()?;
        self.trusted().await?;
        loop {
            self.check_running()?;
            let other = {
                let mut state = self.state.borrow_mut();
                if state.locate(fingerprint).is_some() {
                    return Ok(None);
                }
                let blobs = state.keys.len() + state.claims.len() as u64;
                match state.claims.get_mut(&fingerprint) {
                    Some(waiting) => {
                        let (send, heard) = answer();
                        waiting.push(send);
                        heard
                    }
                    None if blobs >= self.layout.blobs_max => {
                        return Err(StoreError::TooManyBlobs { blobs });
                    }
                    None => {
                        state.claims.insert(fingerprint, Vec::new());
                        let log = self;
                        return Ok(Some(Claim { log, fingerprint }));
                    }
                }
            };
            // Whoever holds the claim drops it in the end, with or without a word.
            let _ = other.await;
        }
    }

    pub(super) fn release_claim(&self, fingerprint: Fingerprint) {
        let waiting = self.state.borrow_mut().claims.remove(&fingerprint);
        for heard in waiting.into_iter().flatten() {
            heard.send(());
        }
    }

    pub(super) fn release_window(&self, position: Position, blocks: u64) {
        let mut state = self.state.borrow_mut();
        state.release_window(position, blocks, self.layout.slab_blocks);
        drop(state);
        self.ring_maintenance();
    }

    /// A window of a realm. It has to be released or to come into the journal.
    pub(super) async fn take_window(
        &self,
        id: RealmId,
        blocks: u64,
        purpose: Purpose,
    ) -> Result<Taken<D::Extent>, StoreError> {
        let slab_blocks = self.layout.slab_blocks;
        self.trusted().await?;
        let mut evicted = 0;
        loop {
            self.check_running()?;
            if self.is_ending.get() {
                return Err(StoreError::Closing);
            }
            let next = {
                let mut state = self.state.borrow_mut();
                let state = &mut *state;
                let realm = state.realms.get_mut(&id);
                let realm = realm.ok_or(StoreError::UnknownRealm { realm: id })?;
                let quota = realm.options.quota_blocks.unwrap_or(u64::MAX);
                let over = (realm.used_blocks + blocks).saturating_sub(quota);
                // Where the quota was lowered, what is too much goes as blobs come: twice what each of them takes, which
                // whoever has waited for need not wait for again.
                let is_lowered = realm.used_blocks > quota;
                let is_paid = is_lowered && evicted >= 2 * blocks;
                let is_over = purpose == Purpose::Clients && over > 0 && !is_paid;
                let is_cache = realm.eviction.is_some() && blocks <= quota;
                let lane = realm.lane(purpose);
                let fits = |open: &Open| {
                    let directory = directory_blocks(open.windows + 1);
                    open.next_block + blocks + directory <= slab_blocks
                };
                match &mut lane.open {
                    _ if is_over && is_cache => Next::Evict(match is_lowered {
                        true => over.min(2 * blocks - evicted),
                        false => over.min(blocks),
                    }),
                    _ if is_over => return Err(StoreError::OverQuota { realm: id, quota }),
                    Some(open) if fits(open) => {
                        let Open {
                            number, next_block, ..
                        } = *open;
                        open.next_block += blocks;
                        open.windows += 1;
                        // Those of a move come for as many that go.
                        let counted = match purpose {
                            Purpose::Clients => blocks,
                            Purpose::Compaction => 0,
                        };
                        realm.used_blocks += counted;
                        let slab = state.slabs.get_mut(&number);
                        let slab = slab.expect("an open slab is there");
                        slab.pending += 1;
                        return Ok(Taken {
                            position: Position(number * slab_blocks + next_block),
                            counted,
                            extent: slab.extent.clone(),
                        });
                    }
                    _ => {
                        let (send, heard) = answer();
                        lane.opening.push(send);
                        if lane.opening.len() == 1 {
                            state.wanted[purpose as usize].push_back(id);
                        }
                        Next::Wait(heard)
                    }
                }
            };
            match next {
                Next::Wait(heard) => {
                    ring_bell(&self.slab_bells[purpose as usize]);
                    heard.await.unwrap_or(Err(StoreError::Closing))?;
                }
                Next::Evict(over) => {
                    let gone = self.evict(id, over).await?;
                    evicted += gone;
                    if gone == 0 {
                        let state = self.state.borrow();
                        let quota = state.realms[&id].options.quota_blocks.unwrap_or(u64::MAX);
                        return Err(StoreError::CacheHeld { realm: id, quota });
                    }
                }
            }
        }
    }

    /// Makes slabs for those who wait for one; for as long as the journal is written. Slabs are made here and not where
    /// they are wanted, since whoever wants one may give up while it is made.
    pub(super) async fn make_slabs(&self, purpose: Purpose) -> Result<(), StoreError> {
        loop {
            let next = std::future::poll_fn(|cx| {
                if self.is_ending.get() || self.check_running().is_err() {
                    return Poll::Ready(None);
                }
                let mut state = self.state.borrow_mut();
                if let Some(id) = state.wanted[purpose as usize].pop_front() {
                    return Poll::Ready(Some(id));
                }
                remember(
                    &mut self.slab_bells[purpose as usize].borrow_mut(),
                    cx.waker(),
                );
                Poll::Pending
            });
            let Some(id) = next.await else {
                self.refuse_waiting(purpose);
                return Ok(());
            };
            let made = self.open_slab(id, purpose).await;
            let waiting = {
                let mut state = self.state.borrow_mut();
                let realm = state.realm(id);
                realm.map(|realm| std::mem::take(&mut realm.lane(purpose).opening))
            };
            for heard in waiting.into_iter().flatten() {
                heard.send(made.clone());
            }
        }
    }

    /// No slab is made any more.
    fn refuse_waiting(&self, purpose: Purpose) {
        let reason = self.check_running().err().unwrap_or(StoreError::Closing);
        let waiting: Vec<_> = {
            let mut state = self.state.borrow_mut();
            let realms = state.realms.values_mut();
            let lanes = realms.map(|realm| std::mem::take(&mut realm.lane(purpose).opening));
            lanes.flatten().collect()
        };
        for heard in waiting {
            heard.send(Err(reason.clone()));
        }
    }

    /// Waits until a checkpoint says who a realm is that came while the log is used: nobody could tell later whose its blobs are.
    async fn recorded(&self, id: RealmId) -> Result<(), StoreError> {
        loop {
            self.check_running()?;
            if self.is_ending.get() {
                return Err(StoreError::Closing);
            }
            if self.state.borrow().realms[&id].is_recorded {
                return Ok(());
            }
            let (send, heard) = answer();
            // It is told after every checkpoint.
            self.room.borrow_mut().push(send);
            let _ = heard.await;
        }
    }

    /// Makes another slab the one that the realm's windows come from.
    async fn open_slab(&self, id: RealmId, purpose: Purpose) -> Result<(), StoreError> {
        let slab_blocks = self.layout.slab_blocks;
        self.recorded(id).await?;
        self.make_room(purpose).await?;
        let number = {
            let mut state = self.state.borrow_mut();
            let number = state.next_number().ok_or(StoreError::LogEnds)?;
            if (number + 1).saturating_mul(slab_blocks) >> oriel_dht::limits::POSITION_BITS != 0 {
                return Err(StoreError::LogEnds);
            }
            state.next_slab = number + 1;
            number
        };
        let name = ExtentName::Slab(number);
        let extent = match self.drive.create(name, slab_blocks).await {
            Err(DriveError::NoRoom { .. }) => return Err(StoreError::Full),
            // Nothing has been made, and whoever waits has memory to give back.
            Err(error @ DriveError::NoMemory { .. }) => return Err(error.into()),
            made => Rc::new(made.map_err(|reason| self.stop(Vec::new(), reason))?),
        };
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.slabs.insert(number, Slab::new(extent, id));
        // In the journal before any window of it, since the queue keeps its order.
        let entry = Entry::Slab(SlabNumber(number), id);
        state.queue.push_back(Queued::silent(entry));
        let realm = state.realms.get_mut(&id).expect("a realm stays");
        let open = Open {
            number,
            next_block: 0,
            windows: 0,
        };
        if let Some(before) = realm.lane(purpose).open.replace(open)
            && let Some(slab) = state.slabs.get_mut(&before.number)
        {
            slab.seal();
            state.changed.insert(before.number);
        }
        self.ring_maintenance();
        self.ring_scrub();
        self.look_for_early_work();
        Ok(())
    }

    /// Blocks that have to be free for another slab. The last one is compaction's: without it there would be no way back
    /// from a full drive.
    fn blocks_needed(&self, purpose: Purpose) -> u64 {
        let slabs = match purpose {
            Purpose::Clients => 2,
            Purpose::Compaction => 1,
        };
        slabs * self.layout.slab_blocks + recovery::reserve_blocks(&self.layout)
    }

    /// Evicts a part of a slab from the first of these caches that can give it.
    async fn evict_of(&self, caches: &[RealmId]) -> Result<(), StoreError> {
        let blocks = self.layout.slab_blocks.div_ceil(EVICTED_PART);
        for cache in caches {
            if self.evict(*cache, blocks).await? > 0 {
                return Ok(());
            }
        }
        Err(StoreError::Full)
    }

    /// Waits until there is room for another slab, if space is about to come back.
    async fn make_room(&self, purpose: Purpose) -> Result<(), StoreError> {
        let needed = self.blocks_needed(purpose);
        // Until when readers are waited for, from the first look on.
        let mut patience = None;
        let is_over = || self.is_ending.get() || self.check_running().is_err();
        loop {
            self.check_running()?;
            if self.is_ending.get() {
                return Err(StoreError::Closing);
            }
            if self.drive.free_blocks() >= needed {
                return Ok(());
            }
            let now = self.clock.now();
            let next = {
                let mut state = self.state.borrow_mut();
                state.retire();
                state.let_leave();
                let deleting = state
                    .snapshot
                    .as_ref()
                    .is_some_and(|snapshot| !snapshot.retired.is_empty());
                let is_read = |extent: &Rc<D::Extent>| Rc::strong_count(extent) > 1;
                let comes_back = deleting
                    || self.is_deleting.get()
                    || self.is_checkpointing.get()
                    || !state.retired.is_empty()
                    || !state.forgotten.iter().all(is_read)
                    || (self.scrubbing.is_reading() && !state.forgotten.is_empty());
                let compacts = || purpose == Purpose::Clients && self.wants_compaction(&state);
                if comes_back || compacts() {
                    if !state.retired.is_empty() {
                        self.wants_checkpoint.set(true);
                    }
                    let (send, heard) = answer();
                    self.room.borrow_mut().push(send);
                    Wanting::Wait(heard)
                } else {
                    if purpose == Purpose::Compaction {
                        return Err(StoreError::Full);
                    }
                    let caches = self.caches(&state);
                    let is_left = !state.forgotten.is_empty() || !state.leaving.is_empty();
                    let is_all = is_left && caches.is_empty();
                    match is_all && now < *patience.get_or_insert(now + READERS_WAIT) {
                        true => Wanting::Look,
                        false => Wanting::Evict(caches),
                    }
                }
            };
            let heard = match next {
                Wanting::Wait(heard) => heard,
                Wanting::Look => {
                    let then = now + READERS_LOOK;
                    let bell = &self.slab_bells[purpose as usize];
                    self.wait_until(then, bell, is_over).await;
                    self.ring_maintenance();
                    continue;
                }
                Wanting::Evict(caches) => {
                    self.evict_of(&caches).await?;
                    continue;
                }
            };
            self.ring();
            self.ring_maintenance();
            self.ring_compaction();
            let _ = heard.await;
        }
    }
}

/// The right to create a key, until it is dropped or handed over to the journal's writer.
pub(super) struct Claim<'a, D: Drive> {
    log: &'a Log<D>,
    fingerprint: Fingerprint,
}

impl<D: Drive> Claim<'_, D> {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl<D: Drive> Drop for Claim<'_, D> {
    fn drop(&mut self) {
        self.log.release_claim(self.fingerprint);
        if self.log.closing.get() {
            self.log.ring();
        }
    }
}

/// A window that is being written, until it is dropped or handed over to the journal's writer.
pub(super) struct Window<'a, D: Drive> {
    log: &'a Log<D>,
    pub(super) taken: Taken<D::Extent>,
    is_handed_over: bool,
}

impl<'a, D: Drive> Window<'a, D> {
    pub(super) fn new(log: &'a Log<D>, taken: Taken<D::Extent>) -> Self {
        Self {
            log,
            taken,
            is_handed_over: false,
        }
    }

    pub(super) fn hand_over(mut self) {
        self.is_handed_over = true;
    }
}

impl<D: Drive> Drop for Window<'_, D> {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.log
                .release_window(self.taken.position, self.taken.counted);
        }
    }
}
