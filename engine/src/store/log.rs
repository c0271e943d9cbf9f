//! The log of one realm on one drive, on one core.
//!
//! ```text
//!  put ──► claim the key ──► take a window ──► write it ──┐
//!                                                         ├──► queue ──► run(): flush the data, write one frame for all
//!  delete ───────────────────────────────────────────────┘              that waits, flush the frame, apply, answer
//! ```
//!
//! An operation is answered when a power cut one instant later would lose nothing of it. Until then nobody sees it, apart
//! from a delete, whose key disappears at once. [`Log::run`] is the one writer of the journal, to be run as a task for as
//! long as the log is used.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures_channel::oneshot;

use super::drive::{Drive, DriveError, ExtentName};
use super::error::StoreError;
use super::frame::{self, Entry, FRAME_BLOCKS_MAX, FRAME_ENTRIES_MAX};
use super::record::{LENGTH_MAX, Record, data_blocks, seal_window, trailer_blocks, window_blocks};
use super::recovery;
use super::types::{BLOCK_BYTES, Key, KeyKind, Position, SlabNumber, StoreId};

/// How a put ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The blob is there and durable.
    Created,
    /// A blob of that key was there before; nothing was written.
    AlreadyThere,
}

/// What a store holds and does, counted since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStat {
    /// Blobs that can be read.
    pub blobs: u64,
    /// Slabs on the drive.
    pub slabs: u64,
    /// Blocks of windows that hold blobs.
    pub live_blocks: u64,
    /// Frames written.
    pub frames: u64,
    /// Entries in them.
    pub entries: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Slabs given back to the drive.
    pub slabs_retired: u64,
}

pub(super) struct Slab<E> {
    pub(super) extent: Rc<E>,
    /// Blocks of windows that hold blobs.
    pub(super) live: u64,
    /// Windows handed out and not yet in the table, nor given up.
    pub(super) pending: u64,
}

/// The slab that windows are taken from.
#[derive(Clone, Copy)]
struct Open {
    number: u64,
    next_block: u64,
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

pub(super) struct State<E> {
    pub(super) table: HashMap<Key, Record>,
    pub(super) slabs: BTreeMap<u64, Slab<E>>,
    pub(super) next_slab: u64,
    /// Keys that a put is about to create, and who waits to hear of it.
    claims: HashMap<Key, Vec<oneshot::Sender<()>>>,
    /// Keys that are being deleted, and where they were.
    dying: HashMap<Key, Position>,
    open: Option<Open>,
    /// Somebody makes a slab; the others wait for it.
    opening: Vec<oneshot::Sender<()>>,
    is_opening: bool,
    queue: Vec<(Entry, Option<Answer>)>,
    stat: LogStat,
}

impl<E> State<E> {
    pub(super) fn new(next_slab: u64) -> Self {
        Self {
            table: HashMap::new(),
            slabs: BTreeMap::new(),
            next_slab,
            claims: HashMap::new(),
            dying: HashMap::new(),
            open: None,
            opening: Vec::new(),
            is_opening: false,
            queue: Vec::new(),
            stat: LogStat::default(),
        }
    }

    pub(super) fn apply(&mut self, entry: &Entry, slab_blocks: u64) {
        match entry {
            Entry::Put(record) => {
                let before = self.table.insert(record.key, *record);
                if before == Some(*record) {
                    return;
                }
                self.count_live(record, slab_blocks, u64::wrapping_add);
                if let Some(before) = before {
                    self.count_live(&before, slab_blocks, u64::wrapping_sub);
                }
            }
            Entry::Delete { key, position } => {
                let there = self.table.get(key).copied();
                if let Some(record) = there.filter(|record| record.position == *position) {
                    self.table.remove(key);
                    self.count_live(&record, slab_blocks, u64::wrapping_sub);
                }
                if self.dying.get(key) == Some(position) {
                    self.dying.remove(key);
                }
            }
            Entry::Slab(number) => self.next_slab = self.next_slab.max(number.0 + 1),
        }
    }

    fn count_live(&mut self, record: &Record, slab_blocks: u64, change: fn(u64, u64) -> u64) {
        // During a replay the slabs of blobs that are deleted later may be gone already.
        if let Some(slab) = self.slabs.get_mut(&(record.position.0 / slab_blocks)) {
            slab.live = change(slab.live, record.blocks());
        }
    }
}

/// The log's own part of what is on the drive.
pub(super) struct Layout<E> {
    pub(super) store: StoreId,
    pub(super) slab_blocks: u64,
    pub(super) journals: [E; 2],
    pub(super) journal_blocks: u64,
    pub(super) blobs_max: u64,
}

/// Where the next frame goes.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) block: u64,
}

/// A log that is open.
pub struct Log<D: Drive> {
    pub(super) drive: D,
    pub(super) layout: Layout<D::Extent>,
    pub(super) state: RefCell<State<D::Extent>>,
    pub(super) tail: Cell<Tail>,
    pub(super) checkpoint: RefCell<Option<D::Extent>>,
    stopped: RefCell<Option<StoreError>>,
    closing: Cell<bool>,
    bell: RefCell<Option<Waker>>,
}

impl<D: Drive> Log<D> {
    pub(super) fn new(
        drive: D,
        layout: Layout<D::Extent>,
        state: State<D::Extent>,
        tail: Tail,
    ) -> Self {
        Self {
            drive,
            layout,
            state: RefCell::new(state),
            tail: Cell::new(tail),
            checkpoint: RefCell::new(None),
            stopped: RefCell::new(None),
            closing: Cell::new(false),
            bell: RefCell::new(None),
        }
    }

    /// Whose log it is.
    pub fn store(&self) -> StoreId {
        self.layout.store
    }

    /// The longest blob that fits.
    pub fn length_max(&self) -> u64 {
        let bytes = self.layout.slab_blocks * BLOCK_BYTES as u64;
        // The trailer takes its share of the slab.
        let trailer = trailer_blocks(bytes.min(LENGTH_MAX)) * BLOCK_BYTES as u64;
        bytes - trailer
    }

    /// What it holds and has done.
    pub fn stat(&self) -> LogStat {
        let state = self.state.borrow();
        LogStat {
            blobs: (state.table.len() - state.dying.len()) as u64,
            slabs: state.slabs.len() as u64,
            live_blocks: state.slabs.values().map(|slab| slab.live).sum(),
            ..state.stat
        }
    }

    /// Where a blob is.
    pub fn locate(&self, key: &Key) -> Option<Record> {
        let state = self.state.borrow();
        let record = state.table.get(key)?;
        let dying = state.dying.get(key) == Some(&record.position);
        (!dying).then_some(*record)
    }

    /// Stores a blob. The first to finish under a key wins; the bytes of the others are not looked at.
    pub async fn put(&self, key: Key, kind: KeyKind, bytes: &[u8]) -> Result<Put, StoreError> {
        let length = bytes.len() as u64;
        if length == 0 {
            return Err(StoreError::Empty);
        }
        if length > self.length_max() {
            let max = self.length_max();
            return Err(StoreError::TooLarge { bytes: length, max });
        }
        if kind == KeyKind::Content {
            let found = Key::of_content(bytes);
            if found != key {
                return Err(StoreError::OtherContent { key, found });
            }
        }
        let Some(claim) = self.claim(key).await? else {
            return Ok(Put::AlreadyThere);
        };
        let blocks = window_blocks(length);
        let mut buf = self.drive.buffer(blocks as usize * BLOCK_BYTES)?;
        buf.as_mut()[..bytes.len()].copy_from_slice(bytes);
        let checksums = seal_window(buf.as_mut(), length);
        let window = self.take_window(blocks).await?;
        let record = Record {
            key,
            kind,
            position: window.position,
            length,
            checksums,
        };
        let block = window.position.0 % self.layout.slab_blocks;
        let (_, written) = self.drive.write(&window.extent, block, buf).await;
        written?;
        // From here on the journal's writer has them, even if nobody waits for it any more.
        claim.hand_over();
        window.hand_over();
        self.commit(Entry::Put(record)).await?;
        Ok(Put::Created)
    }

    /// Takes a blob away; whether it was there.
    pub async fn delete(&self, key: Key) -> Result<bool, StoreError> {
        self.check_open()?;
        let Some(record) = self.locate(&key) else {
            return Ok(false);
        };
        let position = record.position;
        self.state.borrow_mut().dying.insert(key, position);
        let deleted = self.commit(Entry::Delete { key, position }).await;
        if deleted.is_err() {
            self.state.borrow_mut().dying.remove(&key);
        }
        deleted.map(|()| true)
    }

    /// Some bytes of a blob, checked; `None` if there is no such blob. What lies behind its end is left out.
    pub async fn read(
        &self,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(record) = self.locate(key) else {
            return Ok(None);
        };
        let end = offset.saturating_add(bytes).min(record.length);
        if offset >= end {
            return Ok(Some(Vec::new()));
        }
        let slab_blocks = self.layout.slab_blocks;
        // The slab stays as long as somebody holds it.
        let extent = {
            let state = self.state.borrow();
            let slab = state.slabs.get(&(record.position.0 / slab_blocks));
            slab.expect("a record's slab is in the table")
                .extent
                .clone()
        };
        let start = record.position.0 % slab_blocks;
        let (first, last) = (offset / BLOCK_BYTES as u64, (end - 1) / BLOCK_BYTES as u64);
        let data = self
            .transfer(&extent, start + first, last - first + 1)
            .await?;
        let trailer = match trailer_blocks(record.length) {
            0 => None,
            blocks => {
                let at = start + data_blocks(record.length);
                Some(self.transfer(&extent, at, blocks).await?)
            }
        };
        let trailer = trailer.as_ref().map_or(&[][..], |buf| buf.as_ref());
        record
            .check(first, data.as_ref(), trailer)
            .map_err(|wrong| StoreError::Damaged {
                key: *key,
                block: wrong.block,
                position: Position(record.position.0 + wrong.block),
                expected: wrong.expected,
                found: wrong.found,
            })?;
        let from = (offset - first * BLOCK_BYTES as u64) as usize;
        Ok(Some(
            data.as_ref()[from..from + (end - offset) as usize].to_vec(),
        ))
    }

    async fn transfer(
        &self,
        extent: &D::Extent,
        block: u64,
        blocks: u64,
    ) -> Result<D::Buf, StoreError> {
        let buf = self.drive.buffer(blocks as usize * BLOCK_BYTES)?;
        let (buf, read) = self.drive.read(extent, block, buf).await;
        read?;
        Ok(buf)
    }

    // ---- Claims and windows ---------------------------------------------------------------------

    fn check_open(&self) -> Result<(), StoreError> {
        match &*self.stopped.borrow() {
            Some(reason) => Err(reason.clone()),
            None if self.closing.get() => Err(StoreError::Closing),
            None => Ok(()),
        }
    }

    /// The right to create a key; `None` if it is there.
    async fn claim(&self, key: Key) -> Result<Option<Claim<'_, D>>, StoreError> {
        loop {
            self.check_open()?;
            if self.locate(&key).is_some() {
                return Ok(None);
            }
            let other = {
                let mut state = self.state.borrow_mut();
                let blobs = (state.table.len() + state.claims.len()) as u64;
                match state.claims.get_mut(&key) {
                    Some(waiting) => {
                        let (send, heard) = oneshot::channel();
                        waiting.push(send);
                        heard
                    }
                    None if blobs >= self.layout.blobs_max => {
                        return Err(StoreError::TooManyBlobs { blobs });
                    }
                    None => {
                        state.claims.insert(key, Vec::new());
                        return Ok(Some(Claim { log: self, key }));
                    }
                }
            };
            // Whoever holds the claim drops it in the end, with or without a word.
            let _ = other.await;
        }
    }

    fn release_claim(&self, key: &Key) {
        let waiting = self.state.borrow_mut().claims.remove(key);
        for heard in waiting.into_iter().flatten() {
            // Whoever does not wait any more does not have to know.
            let _ = heard.send(());
        }
    }

    fn release_window(&self, position: Position) {
        let number = position.0 / self.layout.slab_blocks;
        if let Some(slab) = self.state.borrow_mut().slabs.get_mut(&number) {
            slab.pending -= 1;
        }
    }

    async fn take_window(&self, blocks: u64) -> Result<Window<'_, D>, StoreError> {
        loop {
            let other = {
                let mut state = self.state.borrow_mut();
                let slab_blocks = self.layout.slab_blocks;
                match state.open {
                    Some(open) if open.next_block + blocks <= slab_blocks => {
                        let Open { number, next_block } = open;
                        state.open = Some(Open {
                            number,
                            next_block: next_block + blocks,
                        });
                        let slab = state
                            .slabs
                            .get_mut(&number)
                            .expect("the open slab is there");
                        slab.pending += 1;
                        return Ok(Window {
                            log: self,
                            extent: slab.extent.clone(),
                            position: Position(number * slab_blocks + next_block),
                            is_handed_over: false,
                        });
                    }
                    _ if state.is_opening => {
                        let (send, heard) = oneshot::channel();
                        state.opening.push(send);
                        Some(heard)
                    }
                    _ => {
                        state.is_opening = true;
                        None
                    }
                }
            };
            match other {
                Some(other) => {
                    let _ = other.await;
                }
                None => self.open_slab().await?,
            }
        }
    }

    /// Makes another slab the open one.
    async fn open_slab(&self) -> Result<(), StoreError> {
        let _done = Opening(self);
        let slab_blocks = self.layout.slab_blocks;
        let reserve = recovery::reserve_blocks(self.layout.blobs_max);
        if self.drive.free_blocks() < slab_blocks + reserve {
            return Err(StoreError::Full);
        }
        let number = {
            let mut state = self.state.borrow_mut();
            let number = state.next_slab;
            state.next_slab += 1;
            number
        };
        let made = self
            .drive
            .create(ExtentName::Slab(number), slab_blocks)
            .await;
        let extent = match made {
            Err(DriveError::NoRoom { .. }) => return Err(StoreError::Full),
            made => Rc::new(made?),
        };
        let mut state = self.state.borrow_mut();
        let slab = Slab {
            extent,
            live: 0,
            pending: 0,
        };
        state.slabs.insert(number, slab);
        // In the journal before any window of it, since the queue keeps its order.
        state.queue.push((Entry::Slab(SlabNumber(number)), None));
        state.open = Some(Open {
            number,
            next_block: 0,
        });
        Ok(())
    }

    // ---- The journal ----------------------------------------------------------------------------

    /// Waits until the entry is durable and applied.
    async fn commit(&self, entry: Entry) -> Result<(), StoreError> {
        if let Some(reason) = self.stopped.borrow().clone() {
            return Err(reason);
        }
        let (send, heard) = oneshot::channel();
        self.state.borrow_mut().queue.push((entry, Some(send)));
        self.ring();
        heard.await.unwrap_or(Err(StoreError::Closing))
    }

    fn ring(&self) {
        if let Some(waker) = self.bell.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lets [`run`](Self::run) end once all that was begun is done.
    pub fn close(&self) {
        self.closing.set(true);
        self.ring();
    }

    /// Writes the journal until [`close`](Self::close) is called, then a last checkpoint.
    pub async fn run(&self) -> Result<(), StoreError> {
        loop {
            let batch = self.next_batch().await;
            if batch.is_empty() {
                break;
            }
            if let Err(reason) = self.write_frame(&batch).await {
                return Err(self.stop(batch, reason));
            }
            for (entry, answer) in batch {
                self.state
                    .borrow_mut()
                    .apply(&entry, self.layout.slab_blocks);
                if let Entry::Put(record) = entry {
                    self.release_claim(&record.key);
                    self.release_window(record.position);
                }
                if let Some(answer) = answer {
                    // Whoever does not wait any more does not have to know.
                    let _ = answer.send(Ok(()));
                }
            }
            if let Err(reason) = self.retire().await {
                return Err(self.stop(Vec::new(), reason));
            }
        }
        if let Err(reason) = self.write_checkpoint().await {
            return Err(self.stop(Vec::new(), reason));
        }
        *self.stopped.borrow_mut() = Some(StoreError::Closing);
        Ok(())
    }

    /// Waits for entries. None come once the log is closing and nothing is under way.
    async fn next_batch(&self) -> Vec<(Entry, Option<Answer>)> {
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            let waiting = state.queue.iter().any(|(_, answer)| answer.is_some());
            if waiting {
                let count = state.queue.len().min(FRAME_ENTRIES_MAX);
                return Poll::Ready(state.queue.drain(..count).collect());
            }
            if self.closing.get() && state.claims.is_empty() {
                return Poll::Ready(Vec::new());
            }
            *self.bell.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    async fn write_frame(&self, batch: &[(Entry, Option<Answer>)]) -> Result<(), DriveError> {
        if self.tail.get().block + FRAME_BLOCKS_MAX > self.layout.journal_blocks {
            self.write_checkpoint().await?;
        }
        let tail = self.tail.get();
        let entries: Vec<Entry> = batch.iter().map(|(entry, _)| *entry).collect();
        let bytes = frame::encode(&self.place(tail), &entries);
        let blocks = (bytes.len() / BLOCK_BYTES) as u64;
        let mut buf = self.drive.buffer(bytes.len())?;
        buf.as_mut().copy_from_slice(&bytes);
        // The blobs that the frame speaks of come first.
        self.drive.flush().await?;
        let journal = &self.layout.journals[(tail.epoch & 1) as usize];
        let (_, written) = self.drive.write(journal, tail.block, buf).await;
        written?;
        self.drive.flush().await?;
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

    pub(super) fn place(&self, tail: Tail) -> frame::Place {
        frame::Place {
            store: self.layout.store,
            epoch: tail.epoch,
            sequence: tail.sequence,
            block: tail.block,
        }
    }

    async fn write_checkpoint(&self) -> Result<(), DriveError> {
        recovery::write_checkpoint(self).await?;
        self.state.borrow_mut().stat.checkpoints += 1;
        Ok(())
    }

    /// Takes no more changes: whether the last frame is on the drive is not known, so nothing may follow it.
    fn stop(&self, batch: Vec<(Entry, Option<Answer>)>, reason: DriveError) -> StoreError {
        let reason = StoreError::Stopped { reason };
        *self.stopped.borrow_mut() = Some(reason.clone());
        let (queued, claims) = {
            let mut state = self.state.borrow_mut();
            (
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.claims),
            )
        };
        // Whoever waits for a claim finds that the log has stopped.
        drop(claims);
        for (_, answer) in batch.into_iter().chain(queued) {
            if let Some(answer) = answer {
                let _ = answer.send(Err(reason.clone()));
            }
        }
        reason
    }

    /// Gives slabs back that hold no blob, and that nobody reads or writes any more.
    async fn retire(&self) -> Result<(), DriveError> {
        loop {
            let extent = {
                let mut state = self.state.borrow_mut();
                let open = state.open.map(|open| open.number);
                let empty = |(number, slab): (&u64, &Slab<_>)| {
                    let unused = slab.live == 0 && slab.pending == 0;
                    let held = Rc::strong_count(&slab.extent) > 1;
                    (unused && !held && Some(*number) != open).then_some(*number)
                };
                let Some(number) = state.slabs.iter().find_map(empty) else {
                    return Ok(());
                };
                state.stat.slabs_retired += 1;
                state.slabs.remove(&number).map(|slab| slab.extent)
            };
            if let Some(extent) = extent.and_then(Rc::into_inner) {
                self.drive.delete(extent).await?;
            }
        }
    }
}

/// The right to create a key, until it is dropped or handed over to the journal's writer.
struct Claim<'a, D: Drive> {
    log: &'a Log<D>,
    key: Key,
}

impl<D: Drive> Claim<'_, D> {
    fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl<D: Drive> Drop for Claim<'_, D> {
    fn drop(&mut self) {
        self.log.release_claim(&self.key);
        if self.log.closing.get() {
            self.log.ring();
        }
    }
}

/// A window that is being written, until it is dropped or handed over to the journal's writer.
struct Window<'a, D: Drive> {
    log: &'a Log<D>,
    extent: Rc<D::Extent>,
    position: Position,
    is_handed_over: bool,
}

impl<D: Drive> Window<'_, D> {
    fn hand_over(mut self) {
        self.is_handed_over = true;
    }
}

impl<D: Drive> Drop for Window<'_, D> {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.log.release_window(self.position);
        }
    }
}

/// Somebody opens a slab, until it is dropped.
struct Opening<'a, D: Drive>(&'a Log<D>);

impl<D: Drive> Drop for Opening<'_, D> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.borrow_mut();
            state.is_opening = false;
            std::mem::take(&mut state.opening)
        };
        for heard in waiting {
            let _ = heard.send(());
        }
    }
}
