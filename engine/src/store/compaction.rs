//! Moving the blobs out of slabs that hold little else than what was deleted, so that the slabs can be given back.
//!
//! It begins when a slab is wanted and the drive has no room for it. The slab that is emptied is the one whose room is worth
//! most beside the copying that it takes: `(1 - u) * age / (1 + u)` for one that is `u` full, since what has been there for
//! long will stay. A blob is checked before it is moved; one that is damaged stays where it is, and its slab with it.

use std::collections::HashMap;
use std::task::Poll;

use super::answer::{Heard, answer};
use super::directory::directory_blocks;
use super::drive::Drive;
use super::error::StoreError;
use super::frame::Entry;
use super::journal::{remember, ring_bell};
use super::log::Log;
use super::reading::check_window;
use super::record::{Record, data_blocks};
use super::state::{Purpose, Queued, State};
use super::trailer;
use super::types::{BLOCK_BYTES, Position, RealmId};
use super::window::Window;
use crate::limits::{FULL_EIGHTHS, MOVES_AT_ONCE};

/// Why a slab could not be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stuck {
    /// There was no room for its blobs, or some of them are about to go.
    NoRoom,
    /// Something in it is damaged.
    Damaged,
}

/// A slab that may be emptied.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) realm: RealmId,
    /// Blocks of its windows that hold blobs.
    pub(super) live: u64,
    /// Those blobs.
    pub(super) blobs: u64,
    /// Slabs that were made since.
    pub(super) age: u64,
}

impl Candidate {
    /// What a slab needs to take its blobs, beside so many blocks of so many others.
    fn needs_beside(&self, live: u64, blobs: u64) -> u64 {
        self.live + live + directory_blocks(self.blobs + blobs)
    }
}

/// The slab whose room is worth most beside what it costs, among those of which at least one slab comes free: its blobs
/// fit what is left of the slab that is being filled (the `room` there is for them), or a new one together with those of
/// another.
pub(super) fn choose(
    candidates: &[Candidate],
    slab_blocks: u64,
    room: impl Fn(&Candidate) -> u64,
) -> Option<Candidate> {
    let worth = |candidate: &Candidate| {
        let full = candidate.live as f64 / slab_blocks as f64;
        (1.0 - full) * (candidate.age + 1) as f64 / (1.0 + full)
    };
    // Of each realm, the two that hold least.
    let mut least: HashMap<RealmId, [Option<&Candidate>; 2]> = HashMap::new();
    for candidate in candidates {
        let [first, second] = least.entry(candidate.realm).or_default();
        if first.is_none_or(|least| candidate.live < least.live) {
            *second = first.replace(candidate);
        } else if second.is_none_or(|least| candidate.live < least.live) {
            *second = Some(candidate);
        }
    }
    let helps = |candidate: &&Candidate| {
        let least = least.get(&candidate.realm).into_iter().flatten().flatten();
        let least = least
            .copied()
            .find(|other| other.number != candidate.number);
        candidate.live <= room(candidate)
            || least
                .is_some_and(|other| candidate.needs_beside(other.live, other.blobs) <= slab_blocks)
    };
    let best = candidates.iter().filter(helps);
    best.max_by(|one, other| worth(one).total_cmp(&worth(other)))
        .copied()
}

/// A move that waits for the journal.
type Moving = Heard<Result<(), StoreError>>;

impl<D: Drive> Log<D> {
    pub(super) fn ring_compaction(&self) {
        ring_bell(&self.compaction_bell);
    }

    /// Whether emptying a slab would help those who wait for room.
    pub(super) fn wants_compaction(&self, state: &State<D::Extent>) -> bool {
        self.is_compacting.get() || self.victim(state).is_some()
    }

    fn victim(&self, state: &State<D::Extent>) -> Option<Candidate> {
        let stuck = self.stuck.borrow();
        let candidates = state.slabs.iter().filter(|(number, slab)| {
            slab.is_sealed && slab.pending == 0 && slab.live > 0 && !stuck.contains_key(number)
        });
        let slab_blocks = self.layout.slab_blocks;
        let candidates = candidates.map(|(number, slab)| Candidate {
            number: *number,
            realm: slab.realm,
            live: slab.live,
            blobs: slab.blobs(),
            age: state.next_slab - number,
        });
        let full_at = slab_blocks * FULL_EIGHTHS;
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

    /// Empties slabs while somebody waits for room.
    pub(super) async fn compact(&self) -> Result<(), StoreError> {
        loop {
            let next = std::future::poll_fn(|cx| {
                if self.is_ending.get() || self.check_running().is_err() {
                    return Poll::Ready(None);
                }
                let state = self.state.borrow();
                if !self.holds_compaction.get()
                    && !self.room.borrow().is_empty()
                    && let Some(victim) = self.victim(&state)
                {
                    self.is_compacting.set(true);
                    return Poll::Ready(Some(victim));
                }
                remember(&mut self.compaction_bell.borrow_mut(), cx.waker());
                Poll::Pending
            });
            let Some(victim) = next.await else {
                return self.check_running();
            };
            let emptied = self.empty(victim.number).await.and_then(|()| {
                // What is being deleted stays until that is written.
                let state = self.state.borrow();
                let slab = state.slabs.get(&victim.number);
                match slab.is_some_and(|slab| slab.live > 0) {
                    true => Err(StoreError::Full),
                    false => Ok(()),
                }
            });
            self.is_compacting.set(false);
            if let Err(error) = emptied {
                let why = match error {
                    StoreError::Full => Stuck::NoRoom,
                    _ => Stuck::Damaged,
                };
                if why == Stuck::Damaged {
                    tracing::warn!(slab = victim.number, %error, "a slab could not be emptied");
                }
                self.stuck.borrow_mut().insert(victim.number, why);
            }
            self.ring();
            self.ring_maintenance();
            self.tell_of_room();
        }
    }

    /// Moves every blob out of a slab.
    async fn empty(&self, number: u64) -> Result<(), StoreError> {
        let slab = {
            let state = self.state.borrow();
            let slab = state.slabs.get(&number);
            slab.map(|slab| (slab.realm, slab.extent.clone()))
        };
        let Some((realm, extent)) = slab else {
            return Ok(());
        };
        self.move_on(realm, number);
        let records = self.live_records(number, Position(0)).await?;
        let mut worst = Ok(());
        let mut moving = Vec::new();
        for record in records {
            if moving.len() == MOVES_AT_ONCE {
                settle(&mut moving).await?;
            }
            match self.relocate(realm, &extent, &record).await {
                Ok(moved) => moving.extend(moved),
                // The others can go.
                Err(error @ StoreError::Damaged { .. }) => worst = Err(error),
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
        extent: &D::Extent,
        record: &Record,
    ) -> Result<Option<Moving>, StoreError> {
        let fingerprint = {
            let state = self.state.borrow();
            let fingerprint = state.keys.fingerprint(realm, &record.key);
            if state.locate_quietly(fingerprint) != Some(record.location()) {
                return Ok(None);
            }
            fingerprint
        };
        let slab_blocks = self.layout.slab_blocks;
        let blocks = record.blocks();
        let buf = self.drive.buffer(blocks as usize * BLOCK_BYTES)?;
        let at = record.position.0 % slab_blocks;
        let (mut buf, read) = self.drive.read(extent, at, buf).await;
        read?;
        check_window(record, buf.as_ref())?;
        let taken = self.take_window(realm, blocks, Purpose::Compaction).await?;
        let window = Window::new(self, taken);
        let position = window.taken.position;
        debug_assert!(position > record.position, "blobs move to later positions");
        let checksum = move_window(record, buf.as_mut(), position);
        let at = position.0 % slab_blocks;
        self.drive.write(&window.taken.extent, at, buf).await.1?;
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
            window: Some((position, blocks)),
            ..Queued::silent(Entry::Move {
                record: moved,
                from,
            })
        };
        window.hand_over();
        self.enqueue(queued);
        let stat = &mut self.state.borrow_mut().stat;
        stat.blobs_moved += 1;
        stat.blocks_moved += blocks;
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

/// Makes a window's bytes those of another position; the checksum for its record.
fn move_window(record: &Record, window: &mut [u8], to: Position) -> u32 {
    let data_bytes = data_blocks(record.length) as usize * BLOCK_BYTES;
    let trailer = &mut window[data_bytes..];
    match trailer.is_empty() {
        true => record.checksum,
        false => trailer::move_to(trailer, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u64, live: u64, age: u64) -> Candidate {
        Candidate {
            number,
            realm: RealmId(0),
            live,
            blobs: 1,
            age,
        }
    }

    fn chosen(room: u64, all: &[Candidate]) -> Option<u64> {
        choose(all, 100, |_| room).map(|one| one.number)
    }

    #[test]
    fn the_slab_with_most_to_gain_is_emptied_first() {
        assert_eq!(chosen(100, &[]), None);
        assert_eq!(
            chosen(100, &[candidate(1, 50, 3), candidate(2, 10, 3)]),
            Some(2)
        );
        // What is a little fuller and much older is worth more.
        assert_eq!(
            chosen(100, &[candidate(1, 30, 9), candidate(2, 20, 2)]),
            Some(1)
        );
    }

    #[test]
    fn a_slab_whose_emptying_frees_none_is_left_alone() {
        assert_eq!(chosen(0, &[candidate(1, 30, 9)]), None);
        assert_eq!(chosen(29, &[candidate(1, 30, 9)]), None);
        assert_eq!(chosen(30, &[candidate(1, 30, 9)]), Some(1));
        // Two together fill one, if they leave a block for their directory and are of the same realm.
        assert_eq!(chosen(0, &[candidate(1, 50, 9), candidate(2, 50, 0)]), None);
        assert_eq!(
            chosen(0, &[candidate(1, 50, 9), candidate(2, 49, 0)]),
            Some(1)
        );
        let other = Candidate {
            realm: RealmId(1),
            ..candidate(2, 49, 0)
        };
        assert_eq!(chosen(0, &[candidate(1, 50, 9), other]), None);
    }
}
