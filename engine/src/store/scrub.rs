//! Reading every blob now and then to see whether it is still what was written, without being asked.
//!
//! ```text
//!  round:  slab s, s + 1, ... to the last one, then from the first one to s ──► as often as it is time for one
//!  step:   wait for the pace ──► is the blob still there? ──► read up to a MiB of it, and check
//! ```
//!
//! What is damaged goes into quarantine, and comes out of it when it is found whole. While transfers are under way that
//! others wait for, the pace is a quarter of what it may be. Nothing of a slab is held while it waits, so space comes back
//! as if nobody looked.
//!
//! Where it was is not kept over a restart. It begins at another slab each time, so that a store that is restarted often is
//! read as a whole, too.

use std::cell::Cell;
use std::future::poll_fn;
use std::hash::Hasher;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::drive::{Drive, DriveError};
use super::error::StoreError;
use super::journal::{remember, ring_bell};
use super::log::Log;
use super::metrics::{ReadFor, ScrubMetrics, Step};
use super::pace::{Background, Pace};
use super::record::Record;
use super::types::{BLOCK_BYTES, Position, RealmId};
use super::walk::check_by_steps;
use crate::clock::Moment;
use crate::limits::{CHECK_STEP_BLOCKS, SCRUB_BUSY_PART, SUSPECT_BYTES_PER_SECOND};

/// How far it is.
#[derive(Default)]
pub(super) struct Scrubbing {
    pub(super) pace: Pace,
    is_under_way: Cell<bool>,
    rounds: Cell<u64>,
    slabs: Cell<u64>,
    slabs_done: Cell<u64>,
    blobs: Cell<u64>,
    damaged: Cell<u64>,
    unreadable: Cell<u64>,
    last: Cell<Option<(Moment, Duration)>>,
    /// Whether other cores were reading when they were last looked at, and blocks that were scrubbed since.
    is_read_elsewhere: Cell<bool>,
    unlooked: Cell<u64>,
    /// Blobs that are being read, whose slabs are not given back meanwhile.
    reading: Cell<u64>,
}

impl Scrubbing {
    /// Whether a slab may be kept by it that is to be given back.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.get() > 0
    }
}

fn add_one(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// How a blob was found.
pub(super) enum Found {
    Whole,
    Damaged(StoreError),
    Unreadable(StoreError),
    /// It was moved or deleted before that was known.
    Gone,
}

impl<D: Drive> Log<D> {
    pub(super) fn scrub_metrics(&self) -> ScrubMetrics {
        let of = &self.scrubbing;
        let last = of.last.get();
        ScrubMetrics {
            rounds: of.rounds.get(),
            is_under_way: of.is_under_way.get(),
            slabs_done: of.slabs_done.get(),
            slabs: of.slabs.get(),
            blobs: of.blobs.get(),
            damaged_blobs: of.damaged.get(),
            unreadable: of.unreadable.get(),
            last_round_ago: last.map(|(ended, _)| self.clock.now() - ended),
            last_round_took: last.map(|(_, took)| took),
        }
    }

    /// Round after round, for as long as the journal is written.
    pub(super) async fn scrub_rounds(&self) {
        let Background {
            scrub_bytes_per_second,
            scrub_round,
            ..
        } = self.background;
        if scrub_bytes_per_second == 0 || self.trusted().await.is_err() {
            return;
        }
        loop {
            // Without slabs there is nothing to do, and no time at which there is.
            poll_fn(|cx| {
                if self.rests() || !self.state.borrow().slabs.is_empty() {
                    return Poll::Ready(());
                }
                remember(&mut self.scrub_bell.borrow_mut(), cx.waker());
                Poll::Pending
            })
            .await;
            let began = self.clock.now();
            self.scrubbing.is_under_way.set(true);
            self.scrub_round().await;
            self.scrubbing.is_under_way.set(false);
            if self.rests() {
                return;
            }
            let ended = self.clock.now();
            self.scrubbing.last.set(Some((ended, ended - began)));
            add_one(&self.scrubbing.rounds);
            // However short a round is to be, an hour has no more of them than it has of these.
            let next = (began + scrub_round).max(ended + ROUNDS_APART);
            self.wait_until(next, &self.scrub_bell, || self.rests())
                .await;
            if self.rests() {
                return;
            }
        }
    }

    /// Another slab after each start.
    fn first_slab(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(&self.layout.store.0);
        hasher.write_u64(self.tail.get().epoch);
        let state = self.state.borrow();
        let count = state.slabs.len().max(1) as u64;
        let mut numbers = state.slabs.keys();
        let chosen = numbers.nth((hasher.finish() % count) as usize);
        chosen.copied().unwrap_or(0)
    }

    async fn scrub_round(&self) {
        let first = match self.scrubbing.rounds.get() {
            0 => self.first_slab(),
            _ => 0,
        };
        // Those that are made while it goes on have just been written.
        let numbers: Vec<u64> = {
            let state = self.state.borrow();
            let slabs = state.slabs.range(first..).chain(state.slabs.range(..first));
            slabs.map(|(number, _)| *number).collect()
        };
        self.scrubbing.slabs.set(numbers.len() as u64);
        self.scrubbing.slabs_done.set(0);
        for number in numbers {
            self.scrub_slab(number).await;
            if self.rests() {
                return;
            }
            add_one(&self.scrubbing.slabs_done);
        }
    }

    async fn scrub_slab(&self, number: u64) {
        let Some((realm, records)) = self.records_to_scrub(number, Position(0)).await else {
            return;
        };
        for record in records {
            let began = self.clock.now();
            let found = self.scrub_blob(realm, &record).await;
            if self.rests() {
                return;
            }
            self.note(realm, &record, found, began);
        }
    }

    /// The blobs of a slab from a position on, if their list can be read.
    pub(super) async fn records_to_scrub(
        &self,
        number: u64,
        from: Position,
    ) -> Option<(RealmId, Vec<Record>)> {
        // The list is read for it, too.
        self.keep_scrub_pace(CHECK_STEP_BLOCKS).await;
        if self.rests() {
            return None;
        }
        add_one(&self.scrubbing.reading);
        let records = self.live_records(number, from).await;
        self.stop_reading();
        match records {
            Ok(records) => {
                let state = self.state.borrow();
                let slab = state.slabs.get(&number);
                slab.map(|slab| (slab.realm, records))
            }
            Err(StoreError::Drive(DriveError::NoMemory { bytes })) => {
                tracing::warn!(slab = number, bytes, "no memory to look at a slab");
                None
            }
            Err(error) => {
                add_one(&self.scrubbing.unreadable);
                tracing::error!(slab = number, %error, "a slab cannot be looked at");
                None
            }
        }
    }

    pub(super) fn note(&self, realm: RealmId, record: &Record, found: Found, began: Moment) {
        let position = record.position;
        let key = record.key;
        let is_whole = matches!(found, Found::Whole);
        match found {
            Found::Gone => return,
            Found::Whole => {
                self.state.borrow_mut().quarantine.remove(&position);
            }
            Found::Damaged(error) => {
                tracing::error!(%realm, %key, %error, "a blob is damaged");
                let slab_blocks = self.layout.slab_blocks;
                let mut state = self.state.borrow_mut();
                state.put_in_quarantine(position, slab_blocks);
                add_one(&self.scrubbing.damaged);
            }
            Found::Unreadable(error) => {
                tracing::error!(%realm, %key, %error, "a blob cannot be read");
                add_one(&self.scrubbing.unreadable);
            }
        }
        add_one(&self.scrubbing.blobs);
        self.metrics.stepped(Step::Scrub, began, is_whole);
    }

    async fn keep_scrub_pace(&self, blocks: u64) {
        let Scrubbing {
            unlooked,
            is_read_elsewhere,
            ..
        } = &self.scrubbing;
        unlooked.set(unlooked.get() + blocks);
        // All slabs are looked at for that.
        if unlooked.get() >= CHECK_STEP_BLOCKS {
            unlooked.set(0);
            is_read_elsewhere.set(self.state.borrow().is_read_elsewhere());
        }
        let (reads, writes) = self.metrics.transfers();
        let part = match reads + writes {
            0 if !is_read_elsewhere.get() => 1,
            _ => SCRUB_BUSY_PART,
        };
        let bytes = blocks * BLOCK_BYTES as u64 * part;
        let rate = match self.background.scrub_bytes_per_second {
            // Only what a read has asked for is looked at then.
            0 => SUSPECT_BYTES_PER_SECOND,
            rate => rate,
        };
        let begin = self.scrubbing.pace.plan(self.clock.now(), bytes, rate);
        self.wait_until(begin, &self.scrub_bell, || self.rests())
            .await;
    }

    /// The extent of a blob that is where it was.
    fn extent_of(&self, realm: RealmId, record: &Record) -> Option<Rc<D::Extent>> {
        let state = self.state.borrow();
        let fingerprint = state.keys.fingerprint(realm, &record.key);
        if state.locate_quietly(fingerprint) != Some(record.location()) {
            return None;
        }
        let slab = state
            .slabs
            .get(&(record.position.0 / self.layout.slab_blocks));
        slab.map(|slab| slab.extent.clone())
    }

    /// Looks at a blob, a MiB at a time. Its slab is held for each of these, so that it can go when the blob does.
    pub(super) async fn scrub_blob(&self, realm: RealmId, record: &Record) -> Found {
        let start = record.position.0 % self.layout.slab_blocks;
        let read = async |block, blocks| {
            self.keep_scrub_pace(blocks).await;
            if self.rests() {
                return Err(StoreError::Closing);
            }
            let Some(extent) = self.extent_of(realm, record) else {
                return Err(StoreError::NoWindow {
                    position: record.position,
                });
            };
            add_one(&self.scrubbing.reading);
            let read = self.read_part(&extent, start + block, blocks).await;
            drop(extent);
            self.stop_reading();
            read
        };
        match check_by_steps(record, read).await {
            Ok(()) => Found::Whole,
            // What is wrong with a blob that has gone meanwhile does not matter.
            Err(_) if self.rests() || self.extent_of(realm, record).is_none() => Found::Gone,
            Err(StoreError::Drive(DriveError::NoMemory { bytes })) => {
                tracing::warn!(bytes, "no memory to look at a blob");
                Found::Gone
            }
            Err(error @ StoreError::Damaged { .. }) => Found::Damaged(error),
            Err(error) => Found::Unreadable(error),
        }
    }

    /// A slab that was to be given back waits for its readers.
    fn stop_reading(&self) {
        let reading = &self.scrubbing.reading;
        reading.set(reading.get() - 1);
        if !self.state.borrow().forgotten.is_empty() {
            self.ring_maintenance();
            self.tell_of_room();
        }
    }

    async fn read_part(
        &self,
        extent: &D::Extent,
        at: u64,
        blocks: u64,
    ) -> Result<D::Buf, StoreError> {
        let buf = self.drive.buffer(blocks as usize * BLOCK_BYTES)?;
        let (buf, read) = self.read_for(ReadFor::Scrub, extent, at, buf).await;
        read?;
        Ok(buf)
    }

    pub(super) fn ring_scrub(&self) {
        ring_bell(&self.scrub_bell);
    }
}

/// The least time between two rounds.
const ROUNDS_APART: Duration = Duration::from_secs(1);
