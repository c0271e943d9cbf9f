//! The one writer of the journal, and what goes on beside it: checkpoints, directories, slabs given back.
//!
//! The two journals take turns. When one is full, all that is known is copied as it is between two frames, the next frames
//! go to the other journal at once, and the checkpoint is written meanwhile. Until it is whole, the one before it and both
//! journals together say everything; and a journal is begun anew only when the checkpoint before it is whole.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::checkpoint::{TABLE_BYTES, checkpoint_blocks};
use super::compaction::Stuck;
use super::directory::{self, Owner, RECORDS_PER_BLOCK, directory_blocks};
use super::drive::{Drive, DriveError};
use super::error::StoreError;
use super::frame::{self, Entry, FRAME_BLOCKS_MAX, FRAME_ENTRIES_MAX};
use super::identity;
use super::join::both;
use super::log::{Log, Tail};
use super::metrics::{Step, WrittenFor};
use super::prints::PrintMap;
use super::record::Record;
use super::recovery;
use super::snapshot::{Last, snapshot, write_checkpoint};
use super::stamp::Stamp;
use super::state::{Purpose, Queued, Snapshot, State};
use super::types::{BLOCK_BYTES, RealmId};
use crate::limits::RETIRED_MAX;

/// What the journal's writer does next.
enum Next {
    Write(Vec<Queued>),
    Checkpoint,
    End,
}

/// What is done beside the journal next.
enum Chore<E> {
    Checkpoint(Snapshot<E>),
    Directory {
        number: u64,
        realm: RealmId,
        extent: Rc<E>,
        index: u64,
        records: Vec<Record>,
    },
    Delete(E),
    End,
}

impl<D: Drive> Log<D> {
    pub(super) fn ring(&self) {
        ring_bell(&self.journal_bell);
    }

    pub(super) fn ring_maintenance(&self) {
        ring_bell(&self.maintenance_bell);
    }

    /// Writes the journal until [`close`](Self::close) is called, then a last checkpoint.
    pub async fn run(&self) -> Result<(), StoreError> {
        let slabs = both(
            self.make_slabs(Purpose::Clients),
            self.make_slabs(Purpose::Compaction),
        );
        let scrubs = both(self.scrub_rounds(), self.look_at_suspects());
        let own = both(self.compact(), both(scrubs, self.reclaim()));
        let beside = both(both(self.maintain(), own), slabs);
        let journal = both(self.write_journal(), self.verify_index());
        let ((journal, verified), ((maintenance, (compaction, _)), _)) =
            both(journal, beside).await;
        journal.and(verified).and(maintenance).and(compaction)?;
        *self.stopped.borrow_mut() = Some(StoreError::Closing);
        Ok(())
    }

    // ---- The journal ----------------------------------------------------------------------------

    async fn write_journal(&self) -> Result<(), StoreError> {
        loop {
            match self.next_batch().await? {
                Next::Write(batch) => {
                    let began = self.metrics.now();
                    self.in_frame.set(batch.len() as u64);
                    let written = self.write_frame(&batch).await;
                    self.in_frame.set(0);
                    self.metrics.stepped(Step::Frame, began, written.is_ok());
                    if let Err(reason) = written {
                        return Err(self.stop(batch, reason));
                    }
                    self.apply(batch);
                }
                Next::Checkpoint => self.begin_checkpoint(Last::No).await?,
                Next::End => {
                    // Nothing may be begun any more that waits for this writer.
                    self.is_ending.set(true);
                    self.ring_compaction();
                    self.ring_scrub();
                    ring_bell(&self.reclaim_bell);
                    self.slab_bells.iter().for_each(ring_bell);
                    self.tell_of_room();
                    self.abandon_all();
                    self.begin_checkpoint(Last::Yes).await?;
                    self.journal_ended.set(true);
                    self.ring_maintenance();
                    return Ok(());
                }
            }
        }
    }

    /// Waits for something to write.
    async fn next_batch(&self) -> Result<Next, StoreError> {
        std::future::poll_fn(|cx| {
            self.check_running()?;
            if self.records_realms.replace(false) {
                return Poll::Ready(Ok(Next::Checkpoint));
            }
            let mut state = self.state.borrow_mut();
            if state.queue.iter().any(|queued| queued.answer.is_some()) {
                // Before it is settled what the frame says: a checkpoint makes slabs go that it might speak of.
                if self.tail.get().block + FRAME_BLOCKS_MAX > self.layout.journal_blocks {
                    return Poll::Ready(Ok(Next::Checkpoint));
                }
                let batch = self.settled_batch(&mut state);
                if !batch.is_empty() {
                    return Poll::Ready(Ok(Next::Write(batch)));
                }
            }
            if self.closing.get() && state.claims.is_empty() && !self.is_compacting.get() {
                return Poll::Ready(Ok(Next::End));
            }
            if self.wants_checkpoint.replace(false) {
                return Poll::Ready(Ok(Next::Checkpoint));
            }
            remember(&mut self.journal_bell.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await
    }

    /// What the next frame says. Moves of blobs that are gone are none, and answered.
    fn settled_batch(&self, state: &mut State<D::Extent>) -> Vec<Queued> {
        let mut ahead = PrintMap::default();
        let mut batch = Vec::new();
        while batch.len() < FRAME_ENTRIES_MAX {
            let Some(mut queued) = state.queue.pop_front() else {
                break;
            };
            if state.settle(&mut queued, &mut ahead) {
                batch.push(queued);
                continue;
            }
            if let Some((position, blocks)) = queued.window {
                state.release_window(position, blocks, self.layout.slab_blocks);
            }
            if let Some(answer) = queued.answer {
                answer.send(Ok(()));
            }
        }
        batch
    }

    async fn write_frame(&self, batch: &[Queued]) -> Result<(), DriveError> {
        let tail = self.tail.get();
        let entries: Vec<Entry> = batch.iter().map(|queued| queued.entry).collect();
        let bytes = frame::encode(&self.place(tail), &entries);
        let blocks = (bytes.len() / BLOCK_BYTES) as u64;
        // The blobs that the frame speaks of come first.
        self.flush().await?;
        let journal = &self.layout.journals[(tail.epoch & 1) as usize];
        let write = async |at, buf| self.write_for(WrittenFor::Journal, journal, at, buf).await;
        let spare = &self.spares.journal;
        spare.write(&self.drive, tail.block, &bytes, write).await?;
        self.flush().await?;
        self.tail.set(Tail {
            epoch: tail.epoch,
            sequence: tail.sequence + 1,
            block: tail.block + blocks,
        });
        let mut state = self.state.borrow_mut();
        state.stat.frames += 1;
        state.stat.entries += entries.len() as u64;
        Ok(())
    }

    async fn flush(&self) -> Result<(), DriveError> {
        let began = self.metrics.now();
        let flushed = self.drive.flush().await;
        self.metrics.stepped(Step::Flush, began, flushed.is_ok());
        flushed
    }

    fn place(&self, tail: Tail) -> frame::Place {
        frame::Place {
            store: self.layout.store,
            epoch: tail.epoch,
            sequence: tail.sequence,
            block: tail.block,
        }
    }

    /// Makes durable changes visible, and answers those who wait for them.
    fn apply(&self, batch: Vec<Queued>) {
        let slab_blocks = self.layout.slab_blocks;
        {
            // They were looked at when they were asked for, and much has passed through the caches since.
            let keys = &self.state.borrow().keys;
            let blobs = batch.iter().filter_map(|queued| queued.blob);
            blobs.for_each(|blob| keys.prefetch(blob));
        }
        for queued in batch {
            let mut state = self.state.borrow_mut();
            if let Some((position, blocks)) = queued.window {
                state.release_window(position, blocks, slab_blocks);
            }
            let applied = state.apply(&queued.entry, slab_blocks);
            applied.expect("what was checked before it came into the journal");
            drop(state);
            if let (Entry::Put(_), Some(blob)) = (&queued.entry, queued.blob) {
                self.release_claim(blob);
            }
            if let Some(answer) = queued.answer {
                answer.send(Ok(()));
            }
        }
        self.ring_maintenance();
    }

    /// Copies what is known, and turns to the other journal.
    async fn begin_checkpoint(&self, last: Last) -> Result<(), StoreError> {
        // The journal that comes next is that of the checkpoint before the one that is being written.
        std::future::poll_fn(|cx| {
            self.check_running()?;
            if self.state.borrow().snapshot.is_none() && !self.is_checkpointing.get() {
                return Poll::Ready(Ok::<(), StoreError>(()));
            }
            remember(&mut self.journal_bell.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await?;
        let tail = self.tail.get();
        let mut state = self.state.borrow_mut();
        let (epoch, sequence) = (tail.epoch + 1, tail.sequence);
        let last = match last {
            Last::Yes if self.keeps_index => self.last(&state),
            _ => Last::No,
        };
        let snapshot = snapshot(&mut state, &self.layout, epoch, sequence, last);
        if snapshot.header.tag != 0 {
            self.last_stamp.set(Some(Stamp {
                store: self.layout.store,
                epoch,
                tag: snapshot.header.tag,
                blobs_max: self.layout.blobs_max,
            }));
        }
        self.tail.set(Tail {
            epoch: snapshot.header.epoch,
            sequence: tail.sequence,
            block: 0,
        });
        state.snapshot = Some(snapshot);
        drop(state);
        self.ring_maintenance();
        Ok(())
    }

    /// The last checkpoint has the tables of slabs where the drive has room for them beside a slab that may be being made.
    fn last(&self, state: &State<D::Extent>) -> Last {
        let records = state.slabs.values().map(|slab| u64::from(slab.records()));
        let bytes = records.sum::<u64>() * TABLE_BYTES as u64;
        let needed = checkpoint_blocks(bytes) + recovery::reserve_blocks(&self.layout) / 2;
        let free = self.drive.free_blocks();
        match free >= needed + self.layout.slab_blocks {
            true => Last::WithTables,
            false => Last::Yes,
        }
    }

    /// Takes no more changes: whether the last frame is on the drive is not known, so nothing may follow it.
    pub(super) fn stop(&self, batch: Vec<Queued>, reason: DriveError) -> StoreError {
        self.stop_because(batch, StoreError::Stopped { reason })
    }

    pub(super) fn stop_because(&self, batch: Vec<Queued>, reason: StoreError) -> StoreError {
        *self.stopped.borrow_mut() = Some(reason.clone());
        let (queued, claims) = {
            let mut state = self.state.borrow_mut();
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.claims),
            )
        };
        // Whoever waits for a claim or for room finds that the log has stopped.
        drop((claims, self.room.take(), self.doubting.take()));
        refuse(batch, &reason);
        refuse(queued, &reason);
        self.ring();
        self.ring_maintenance();
        self.ring_compaction();
        self.ring_scrub();
        ring_bell(&self.reclaim_bell);
        self.slab_bells.iter().for_each(ring_bell);
        reason
    }

    // ---- Beside the journal ---------------------------------------------------------------------

    async fn maintain(&self) -> Result<(), StoreError> {
        loop {
            let done = match self.next_chore().await? {
                Chore::Checkpoint(snapshot) => self.write_snapshot(snapshot).await,
                Chore::Directory {
                    number,
                    realm,
                    extent,
                    index,
                    records,
                } => {
                    let owner = Owner {
                        store: self.layout.store,
                        realm,
                        slab: number,
                    };
                    self.write_directory(&owner, &extent, index, &records).await
                }
                Chore::Delete(extent) => {
                    let deleted = self.drive.delete(extent).await;
                    self.is_deleting.set(false);
                    self.state.borrow_mut().stat.slabs_retired += 1;
                    // There is room again.
                    self.stuck
                        .borrow_mut()
                        .retain(|_, why| matches!(why, Stuck::Damaged | Stuck::Until(_)));
                    self.look_for_early_work();
                    deleted
                }
                Chore::End => return Ok(()),
            };
            if let Err(reason) = done {
                return Err(self.stop(Vec::new(), reason));
            }
            self.tell_of_room();
        }
    }

    /// There may be more room than before.
    pub(super) fn tell_of_room(&self) {
        for heard in self.room.take() {
            heard.send(());
        }
    }

    async fn next_chore(&self) -> Result<Chore<D::Extent>, StoreError> {
        std::future::poll_fn(|cx| {
            self.check_running()?;
            let mut state = self.state.borrow_mut();
            if let Some(chore) = self.chore(&mut state) {
                return Poll::Ready(Ok(chore));
            }
            remember(&mut self.maintenance_bell.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await
    }

    fn chore(&self, state: &mut State<D::Extent>) -> Option<Chore<D::Extent>> {
        if let Some(snapshot) = state.snapshot.take() {
            self.is_checkpointing.set(true);
            return Some(Chore::Checkpoint(snapshot));
        }
        state.let_leave();
        let is_read = |extent: &Rc<D::Extent>| Rc::strong_count(extent) > 1;
        if let Some(at) = state.forgotten.iter().position(|extent| !is_read(extent)) {
            let extent = state.forgotten.swap_remove(at);
            self.is_deleting.set(true);
            return Rc::into_inner(extent).map(Chore::Delete);
        }
        let comes_back = self.scrubbing.is_reading() && !state.forgotten.is_empty();
        if self.journal_ended.get() && !comes_back {
            return Some(Chore::End);
        }
        state.retire();
        if state.retired.len() > RETIRED_MAX && !self.wants_checkpoint.replace(true) {
            self.ring();
        }
        while let Some(number) = state.changed.first().copied() {
            let slab = state.slabs.get(&number);
            let next = slab.and_then(|slab| Some((slab, slab.next_directory_write()?)));
            if let Some((slab, (index, records))) = next {
                return Some(Chore::Directory {
                    number,
                    realm: slab.realm,
                    extent: slab.extent.clone(),
                    index,
                    records: records.to_vec(),
                });
            }
            state.changed.remove(&number);
        }
        None
    }

    async fn write_directory(
        &self,
        owner: &Owner,
        extent: &D::Extent,
        index: u64,
        records: &[Record],
    ) -> Result<(), DriveError> {
        let count = directory_blocks(records.len() as u64);
        let mut bytes = vec![0; count as usize * BLOCK_BYTES];
        // The first block is the last on the drive.
        let blocks = bytes.chunks_exact_mut(BLOCK_BYTES).rev();
        let parts = records.chunks(RECORDS_PER_BLOCK);
        for ((index, part), block) in (index..).zip(parts).zip(blocks) {
            directory::encode(owner, index, part, block);
        }
        let at = self.layout.slab_blocks - index - count;
        let write = async |at, buf| self.write_for(WrittenFor::Directory, extent, at, buf).await;
        let spare = &self.spares.maintenance;
        spare.write(&self.drive, at, &bytes, write).await?;
        let mut state = self.state.borrow_mut();
        state.stat.directory_blocks += count;
        if let Some(slab) = state.slabs.get_mut(&owner.slab) {
            slab.wrote_directory(records.len());
        }
        Ok(())
    }

    async fn write_snapshot(&self, snapshot: Snapshot<D::Extent>) -> Result<(), DriveError> {
        let began = self.metrics.now();
        let (header, body) = (&snapshot.header, &snapshot.body);
        let realms = identity::encode(&snapshot.realms);
        let spare = &self.spares.maintenance;
        let written = write_checkpoint(&self.drive, spare, header, body, &realms).await;
        let blocks = checkpoint_blocks(header.bytes) + identity::blocks_behind(realms.len());
        self.metrics
            .stepped(Step::Checkpoint, began, written.is_ok());
        let extent = written?;
        self.metrics.wrote(WrittenFor::Checkpoint, blocks);
        let before = self.checkpoint.replace(Some(extent));
        if let Some(before) = before {
            self.drive.delete(before).await?;
        }
        let mut state = self.state.borrow_mut();
        state.forgotten.extend(snapshot.retired);
        state.have_recorded(&snapshot.realms);
        state.stat.checkpoints += 1;
        drop(state);
        self.is_checkpointing.set(false);
        self.ring();
        Ok(())
    }
}

fn refuse(queue: impl IntoIterator<Item = Queued>, reason: &StoreError) {
    for queued in queue {
        if let Some(answer) = queued.answer {
            answer.send(Err(reason.clone()));
        }
    }
}

/// Wakes whoever waits for it.
pub(super) fn ring_bell(bell: &RefCell<Option<Waker>>) {
    if let Some(waker) = bell.borrow_mut().take() {
        waker.wake();
    }
}

pub(super) fn remember(bell: &mut Option<Waker>, waker: &Waker) {
    match bell {
        Some(bell) => bell.clone_from(waker),
        None => *bell = Some(waker.clone()),
    }
}
