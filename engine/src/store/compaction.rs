//! Moving the blobs out of slabs that hold little else than what was deleted, so that the slabs can be given back.
//!
//! It begins when a slab is wanted and the drive has no room for it; and ahead of that, when little room is left and there
//! are slabs that are at most half full, at a rate (`Background`) that ends as soon as somebody waits. The slab that is
//! emptied is the one whose room is worth most beside the copying that it takes: `(1 - u) * age / (1 + u)` for one that is
//! `u` full, since what has been there for long will stay. A blob is checked before it is moved; one that is damaged stays where it is, and its slab with it.

use std::cell::Cell;
use std::task::Poll;

use super::answer::{Heard, answer};
use super::choice::{Candidate, Room, Urgency, choose, urgency};
use super::directory::directory_blocks;
use super::drive::{Drive, DriveError};
use super::error::StoreError;
use super::frame::Entry;
use super::journal::{remember, ring_bell};
use super::log::{Log, yield_now};
use super::metrics::Step;
use super::pace::Pace;
use super::record::Record;
use super::recovery;
use super::state::{Purpose, Queued, State};
use super::types::{BLOCK_BYTES, Position, RealmId};
use crate::clock::Moment;
use crate::limits::{EARLY_REST, EMPTY_PAUSE, EMPTY_TRIES, MOVES_AT_ONCE, STUCK_REST};

/// Why a slab could not be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stuck {
    /// There was no room for its blobs, or some of them are about to go.
    NoRoom,
    /// Something in it is damaged.
    Damaged,
    /// Nobody waited for it: it is tried again when somebody does.
    Early,
    /// A transfer failed or memory was short, each time that it was tried. It may go well from then on.
    Until(Moment),
}

/// Whether the same may go well another time, with nothing else changed.
fn may_pass(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Drive(DriveError::NoMemory { .. } | DriveError::Io { .. })
    )
}

/// What is done of it before anybody waits.
pub(super) struct Early {
    /// Something has changed that may make it worth while.
    may_begin: Cell<bool>,
    /// Others count on blobs to stay where they are.
    stops: Cell<bool>,
    pace: Pace,
    pub(super) blocks: Cell<u64>,
}

impl Default for Early {
    fn default() -> Self {
        Self {
            may_begin: Cell::new(true),
            stops: Cell::new(false),
            pace: Pace::default(),
            blocks: Cell::new(0),
        }
    }
}

/// A move that waits for the journal.
type Moving = Heard<Result<(), StoreError>>;

impl<D: Drive> Log<D> {
    pub(super) fn ring_compaction(&self) {
        ring_bell(&self.compaction_bell);
    }

    /// Whether emptying a slab would help those who wait for room.
    pub(super) fn wants_compaction(&self, state: &State<D::Extent>) -> bool {
        self.is_compacting.get() || self.victim(state, Urgency::Now).is_some()
    }

    /// There may be something to do before anybody waits for room.
    pub(super) fn look_for_early_work(&self) {
        if self.background.compaction_bytes_per_second > 0 {
            self.early.may_begin.set(true);
            self.ring_compaction();
        }
    }

    /// Slabs that are not emptied since something in them is damaged.
    pub(super) fn damaged_slabs(&self, state: &State<D::Extent>) -> u64 {
        let stuck = self.stuck.borrow();
        let damaged = stuck
            .iter()
            .filter(|(number, why)| **why == Stuck::Damaged && state.slabs.contains_key(number));
        damaged.count() as u64
    }

    /// Has what nobody waits for make way; it goes on after a while.
    pub(super) fn stop_early_compaction(&self) {
        self.early.stops.set(true);
        self.ring_compaction();
    }

    fn is_waited_for(&self) -> bool {
        !self.room.borrow().is_empty()
    }

    /// The slab to be emptied now, if any.
    fn next_victim(&self, state: &State<D::Extent>) -> Option<(Candidate, Urgency)> {
        let is_waited_for = self.is_waited_for();
        if !is_waited_for {
            let rate = self.background.compaction_bytes_per_second;
            if rate == 0 || self.closing.get() || !self.early.may_begin.get() {
                return None;
            }
        }
        let slab_blocks = self.layout.slab_blocks;
        let room = Room {
            free: self
                .drive
                .free_blocks()
                .saturating_sub(recovery::reserve_blocks(&self.layout)),
            used: state.slabs.len() as u64 * slab_blocks,
            slab_blocks,
        };
        let next = urgency(room, is_waited_for)
            .and_then(|urgency| Some((self.victim(state, urgency)?, urgency)));
        // Looking at all slabs takes its time: not again before something has changed.
        self.early.may_begin.set(next.is_some());
        next
    }

    fn victim(&self, state: &State<D::Extent>, urgency: Urgency) -> Option<Candidate> {
        let stuck = self.stuck.borrow();
        let now = self.clock.now();
        let is_stuck = |number| match stuck.get(number) {
            Some(Stuck::Early) => urgency == Urgency::Early,
            Some(Stuck::Until(then)) => now < *then,
            Some(Stuck::NoRoom | Stuck::Damaged) => true,
            None => false,
        };
        let candidates = state.slabs.iter().filter(|(number, slab)| {
            slab.is_sealed && slab.pending == 0 && slab.live > 0 && !is_stuck(number)
        });
        let slab_blocks = self.layout.slab_blocks;
        let candidates = candidates.map(|(number, slab)| Candidate {
            number: *number,
            realm: slab.realm,
            live: slab.live,
            blobs: slab.blobs(),
            age: state.next_slab - number,
        });
        let full_at = slab_blocks * urgency.full_eighths();
        let candidates: Vec<_> = candidates
            .filter(|candidate| candidate.live * 8 <= full_at)
            .collect();
        let room = |candidate: &Candidate| {
            let open = state.realms.get(&candidate.realm);
            let open = open.and_then(|realm| realm.open(Purpose::Compaction));
            // Blobs move to later positions only.
            let open = open.filter(|open| open.number > candidate.number);
            open.map_or(0, |open| {
                let taken = open.next_block + directory_blocks(open.windows + candidate.blobs);
                slab_blocks.saturating_sub(taken)
            })
        };
        choose(&candidates, slab_blocks, room)
    }

    /// Empties slabs while somebody waits for room, or soon may.
    pub(super) async fn compact(&self) -> Result<(), StoreError> {
        loop {
            let next = std::future::poll_fn(|cx| {
                if self.is_ending.get() || self.check_running().is_err() {
                    return Poll::Ready(None);
                }
                let state = self.state.borrow();
                if !self.holds_compaction.get()
                    && let Some(victim) = self.next_victim(&state)
                {
                    self.is_compacting.set(true);
                    self.early.stops.set(false);
                    return Poll::Ready(Some(victim));
                }
                remember(&mut self.compaction_bell.borrow_mut(), cx.waker());
                Poll::Pending
            });
            let Some((victim, urgency)) = next.await else {
                return self.check_running();
            };
            self.emptying.set(Some(victim.number));
            let emptied = self.empty_patiently(victim.number).await.and_then(|()| {
                // What is being deleted stays until that is written.
                let state = self.state.borrow();
                let slab = state.slabs.get(&victim.number);
                match slab.is_some_and(|slab| slab.live > 0) {
                    true => Err(StoreError::Full),
                    false => Ok(()),
                }
            });
            self.is_compacting.set(false);
            self.emptying.set(None);
            let makes_way = emptied == Err(StoreError::Closing);
            if let Err(error) = emptied
                && !makes_way
                && self.check_running().is_ok()
            {
                let why = match (&error, urgency) {
                    (StoreError::Full | StoreError::LogEnds, Urgency::Now) => Stuck::NoRoom,
                    (StoreError::Full | StoreError::LogEnds, Urgency::Early) => Stuck::Early,
                    (passing, _) if may_pass(passing) => {
                        Stuck::Until(self.clock.now() + STUCK_REST)
                    }
                    _ => Stuck::Damaged,
                };
                if matches!(why, Stuck::Damaged | Stuck::Until(_)) {
                    tracing::warn!(slab = victim.number, %error, "a slab could not be emptied");
                }
                let mut stuck = self.stuck.borrow_mut();
                if let Stuck::Until(_) = why {
                    // Whoever waits goes on once each was tried: none is again before all are.
                    let passing = stuck.values_mut();
                    passing
                        .filter(|other| matches!(other, Stuck::Until(_)))
                        .for_each(|other| *other = why);
                }
                stuck.insert(victim.number, why);
            }
            self.ring();
            self.ring_maintenance();
            self.tell_of_room();
            if makes_way {
                let until = self.clock.now() + EARLY_REST;
                let is_over = || self.rests() || self.is_waited_for();
                self.wait_until(until, &self.compaction_bell, is_over).await;
            }
        }
    }

    /// Waits until so many blocks may be moved, unless somebody waits for the room. An error where they may not.
    async fn keep_move_pace(&self, blocks: u64) -> Result<(), StoreError> {
        if self.is_waited_for() {
            return Ok(());
        }
        let bytes = blocks * BLOCK_BYTES as u64;
        let rate = self.background.compaction_bytes_per_second;
        let begin = self.early.pace.plan(self.clock.now(), bytes, rate);
        let is_over = || self.rests() || self.early.stops.get() || self.is_waited_for();
        self.wait_until(begin, &self.compaction_bell, is_over).await;
        match self.is_waited_for() {
            true => Ok(()),
            false if self.rests() || self.early.stops.get() => Err(StoreError::Closing),
            false => {
                self.early.blocks.set(self.early.blocks.get() + blocks);
                Ok(())
            }
        }
    }

    /// Moves every blob out of a slab, and tries those again where a transfer failed or memory was short.
    async fn empty_patiently(&self, number: u64) -> Result<(), StoreError> {
        for _ in 1..EMPTY_TRIES {
            match self.empty(number).await {
                Err(passing) if may_pass(&passing) => {
                    let then = self.clock.now() + EMPTY_PAUSE;
                    let is_over = || self.rests() || self.early.stops.get();
                    self.wait_until(then, &self.compaction_bell, is_over).await;
                }
                emptied => return emptied,
            }
        }
        self.empty(number).await
    }

    /// Moves every blob out of a slab that can be moved.
    async fn empty(&self, number: u64) -> Result<(), StoreError> {
        let realm = match self.state.borrow().slabs.get(&number) {
            Some(slab) => slab.realm,
            None => return Ok(()),
        };
        self.move_on(realm, number);
        let records = self.live_records(number, Position(0)).await?;
        let mut worst: Result<(), StoreError> = Ok(());
        let mut moving = Vec::new();
        for record in records {
            if moving.len() == MOVES_AT_ONCE {
                settle(&mut moving).await?;
            }
            if let Err(makes_way) = self.keep_move_pace(record.blocks()).await {
                settle(&mut moving).await?;
                return Err(makes_way);
            }
            match self.relocate(realm, &record).await {
                Ok(moved) => moving.extend(moved),
                // The others can go.
                Err(error @ StoreError::Damaged { .. }) => {
                    self.suspect(record.position);
                    worst = worst.and(Err(error));
                }
                Err(error) if may_pass(&error) => {
                    self.check_running()?;
                    worst = Err(error);
                    yield_now().await;
                }
                Err(error) => {
                    settle(&mut moving).await?;
                    return Err(error);
                }
            }
        }
        settle(&mut moving).await?;
        worst
    }

    /// Blobs move to later positions only, so that a walk in steps misses none. A slab that is being filled with moved blobs
    /// and is older than the one that is emptied gets no more of them.
    fn move_on(&self, realm: RealmId, number: u64) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let lane = state.realms.get_mut(&realm);
        let lane = lane.map(|realm| realm.lane(Purpose::Compaction));
        if let Some(lane) = lane
            && let Some(open) = lane.open.take_if(|open| open.number < number)
            && let Some(slab) = state.slabs.get_mut(&open.number)
        {
            slab.seal();
            state.changed.insert(open.number);
            self.ring_maintenance();
        }
    }

    /// Copies a blob to another window, if it is still there, and has the journal say so.
    async fn relocate(
        &self,
        realm: RealmId,
        record: &Record,
    ) -> Result<Option<Moving>, StoreError> {
        let began = self.metrics.now();
        let fingerprint = self.state.borrow().keys.fingerprint(realm, &record.key);
        let Some((window, checksum)) = self.copy(realm, record).await? else {
            return Ok(None);
        };
        let position = window.taken.position;
        debug_assert!(position > record.position, "blobs move to later positions");
        self.metrics.stepped(Step::Move, began, true);
        self.check_running()?;
        let (send, heard) = answer();
        let moved = Record {
            position,
            checksum,
            ..*record
        };
        let from = record.position;
        let queued = Queued {
            answer: Some(send),
            blob: Some(fingerprint),
            window: Some((position, window.taken.counted)),
            ..Queued::silent(Entry::Move {
                record: moved,
                from,
            })
        };
        window.hand_over();
        self.enqueue(queued);
        let stat = &mut self.state.borrow_mut().stat;
        stat.blobs_moved += 1;
        stat.blocks_moved += record.blocks();
        Ok(Some(heard))
    }
}

/// Waits until the journal has all of them.
async fn settle(moving: &mut Vec<Moving>) -> Result<(), StoreError> {
    for moved in moving.drain(..) {
        moved.await.unwrap_or(Err(StoreError::Closing))?;
    }
    Ok(())
}
