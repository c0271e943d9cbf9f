//! The log of one drive, on one core.
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
use std::collections::BTreeMap;
use std::task::Waker;

use oriel_dht::index::Fingerprint;

use super::answer::{Answer, answer};
use super::compaction::{Early, Stuck};
use super::drive::{Drive, DriveError, Spare};
use super::error::StoreError;
use super::frame::Entry;
use super::identity;
use super::metrics::{Metrics, Operation, Outcome};
use super::options::{LogStat, RealmOptions, RealmStat};
use super::pace::Background;
use super::parts::slab_length_max;
use super::record::{Record, Role, seal_window, trailer_blocks, window_blocks};
use super::recovery::OpenOptions;
use super::scrub::Scrubbing;
use super::stamp::Stamp;
use super::state::{Purpose, Queued, Realm, State};
use super::suspects::Suspects;
use super::types::{BLOCK_BYTES, Key, KeyKind, Location, RealmId, StoreId};
use super::window::{Claim, Window};
use crate::clock::Clock;
use crate::limits::HASH_STEP;

/// How a put ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The blob is there and durable.
    Created,
    /// A blob of that key was there before; nothing was written.
    AlreadyThere,
}

impl Put {
    /// How it is counted, with the blob's length.
    pub(super) fn outcome(self, length: u64) -> (Outcome, u64) {
        match self {
            Self::Created => (Outcome::Done, length),
            Self::AlreadyThere => (Outcome::Nothing, 0),
        }
    }
}

/// The log's own part of what is on the drive.
pub(super) struct Layout<E> {
    pub(super) store: StoreId,
    pub(super) label: E,
    /// What the label says.
    pub(super) version: Cell<u32>,
    pub(super) slab_blocks: u64,
    pub(super) journals: [E; 2],
    pub(super) journal_blocks: u64,
    pub(super) blobs_max: u64,
    /// Blocks that the realms take behind a checkpoint's body.
    pub(super) realm_blocks: Cell<u64>,
}

impl<E> Layout<E> {
    /// Keeps room free for what checkpoints say of realms.
    pub(super) fn count_realms(&self, state: &State<E>) {
        let bytes = identity::encode(&state.identities()).len();
        self.realm_blocks.set(identity::blocks_behind(bytes));
    }
}

/// Where the next frame goes.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) block: u64,
}

/// What is written out of them is written whatever else takes the memory.
pub(super) struct Spares<B> {
    pub(super) journal: Spare<B>,
    /// For directories and checkpoints.
    pub(super) maintenance: Spare<B>,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Spares<B> {
    pub(super) fn new<D: Drive<Buf = B>>(drive: &D) -> Result<Self, DriveError> {
        Ok(Self {
            journal: Spare::new(drive)?,
            maintenance: Spare::new(drive)?,
        })
    }
}

/// A log that is open.
pub struct Log<D: Drive> {
    pub(super) drive: D,
    pub(super) spares: Spares<D::Buf>,
    pub(super) layout: Layout<D::Extent>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) background: Background,
    /// The index is left for the next run.
    pub(super) keeps_index: bool,
    /// What ties it to the last checkpoint, once that was begun.
    pub(super) last_stamp: Cell<Option<Stamp>>,
    /// The index was made now, or verified.
    pub(super) is_trusted: Cell<bool>,
    /// Who waits for that.
    pub(super) doubting: RefCell<Vec<Answer<()>>>,
    pub(super) state: RefCell<State<D::Extent>>,
    pub(super) tail: Cell<Tail>,
    pub(super) checkpoint: RefCell<Option<D::Extent>>,
    pub(super) stopped: RefCell<Option<StoreError>>,
    pub(super) closing: Cell<bool>,
    /// No more frames are written.
    pub(super) is_ending: Cell<bool>,
    /// The last checkpoint has been begun.
    pub(super) journal_ended: Cell<bool>,
    /// A checkpoint is wanted before the journal is full.
    pub(super) wants_checkpoint: Cell<bool>,
    /// One is wanted before the next frame, since there are realms that no checkpoint knows.
    pub(super) records_realms: Cell<bool>,
    /// A checkpoint is being written.
    pub(super) is_checkpointing: Cell<bool>,
    /// A slab is being given back to the drive.
    pub(super) is_deleting: Cell<bool>,
    pub(super) journal_bell: RefCell<Option<Waker>>,
    pub(super) maintenance_bell: RefCell<Option<Waker>>,
    pub(super) compaction_bell: RefCell<Option<Waker>>,
    pub(super) slab_bells: [RefCell<Option<Waker>>; 2],
    /// A slab is being emptied.
    pub(super) is_compacting: Cell<bool>,
    /// No other slab is emptied for now: somebody counts on blobs to stay where they are.
    pub(super) holds_compaction: Cell<bool>,
    /// Which.
    pub(super) emptying: Cell<Option<u64>>,
    /// Compaction ahead of time, and scrubs.
    pub(super) early: Early,
    pub(super) scrubbing: Scrubbing,
    pub(super) suspects: Suspects,
    pub(super) scrub_bell: RefCell<Option<Waker>>,
    pub(super) reclaim_bell: RefCell<Option<Waker>>,
    /// Changes in the frame that is being written.
    pub(super) in_frame: Cell<u64>,
    /// Slabs that could not be emptied.
    pub(super) stuck: RefCell<BTreeMap<u64, Stuck>>,
    /// Of a large blob something has gone, so the rest has to go.
    pub(super) has_evicted_parts: Cell<bool>,
    /// Who waits for room on the drive.
    pub(super) room: RefCell<Vec<Answer<()>>>,
}

impl<D: Drive> Log<D> {
    pub(super) fn new(
        drive: D,
        spares: Spares<D::Buf>,
        layout: Layout<D::Extent>,
        options: &OpenOptions,
        state: State<D::Extent>,
        tail: Tail,
    ) -> Self {
        Self {
            drive,
            spares,
            layout,
            clock: options.clock.clone(),
            metrics: Metrics::new(
                options.clock.clone(),
                options.observe,
                state.realms.keys().copied(),
            ),
            background: options.background,
            keeps_index: options.keeps_index,
            last_stamp: Cell::new(None),
            is_trusted: Cell::new(state.keys.is_verified()),
            doubting: RefCell::default(),
            state: RefCell::new(state),
            tail: Cell::new(tail),
            checkpoint: RefCell::new(None),
            stopped: RefCell::new(None),
            closing: Cell::new(false),
            is_ending: Cell::new(false),
            journal_ended: Cell::new(false),
            wants_checkpoint: Cell::new(false),
            records_realms: Cell::new(false),
            is_checkpointing: Cell::new(false),
            is_deleting: Cell::new(false),
            journal_bell: RefCell::new(None),
            maintenance_bell: RefCell::new(None),
            compaction_bell: RefCell::new(None),
            slab_bells: Default::default(),
            is_compacting: Cell::new(false),
            holds_compaction: Cell::new(false),
            emptying: Cell::new(None),
            early: Early::default(),
            scrubbing: Scrubbing::default(),
            suspects: Suspects::default(),
            scrub_bell: RefCell::new(None),
            reclaim_bell: RefCell::new(None),
            in_frame: Cell::new(0),
            stuck: RefCell::new(BTreeMap::new()),
            has_evicted_parts: Cell::new(false),
            room: RefCell::new(Vec::new()),
        }
    }

    /// Whose log it is.
    pub fn store(&self) -> StoreId {
        self.layout.store
    }

    /// The longest blob that fits.
    pub fn length_max(&self) -> u64 {
        slab_length_max(self.layout.slab_blocks)
    }

    /// What it holds and has done.
    pub fn stat(&self) -> LogStat {
        let state = self.state.borrow();
        LogStat {
            blobs: state.keys.len() - state.dying.len() as u64,
            slabs: state.slabs.len() as u64,
            live_blocks: state.slabs.values().map(|slab| slab.live).sum(),
            reservations: state.reservations.len() as u64,
            ..state.stat
        }
    }

    /// What a realm holds.
    pub fn realm_stat(&self, realm: RealmId) -> Option<RealmStat> {
        let state = self.state.borrow();
        let reserved = state.reservations.values();
        let reserved = reserved.filter(|reservation| reservation.realm == realm);
        let reservations = reserved.count() as u64;
        let realm = state.realms.get(&realm)?;
        Some(RealmStat {
            reservations,
            blobs: realm.blobs,
            used_blocks: realm.used_blocks,
            quota_blocks: realm.options.quota_blocks,
        })
    }

    /// Where a blob is. Right after the index was taken over from the last run, one that is there may be missed; a read
    /// finds it.
    pub fn locate(&self, realm: RealmId, key: &Key) -> Option<Location> {
        let observed = self.metrics.begin(Operation::Locate, realm);
        let location = self.look_up(realm, key);
        observed.end(Outcome::there(location.is_some()), 0);
        location
    }

    /// The same, uncounted.
    fn look_up(&self, realm: RealmId, key: &Key) -> Option<Location> {
        let mut state = self.state.borrow_mut();
        let fingerprint = state.keys.fingerprint(realm, key);
        let location = state.locate(fingerprint);
        if location.is_some() {
            state.used(realm, fingerprint);
        }
        location
    }

    /// The same, counted if it is there, for those who otherwise go on to ask elsewhere, or again.
    pub(super) fn locate_if_there(&self, realm: RealmId, key: &Key) -> Option<Location> {
        let location = self.look_up(realm, key)?;
        let observed = self.metrics.begin(Operation::Locate, realm);
        observed.end(Outcome::Done, 0);
        Some(location)
    }

    /// Which of up to 64 keys are there, a bit for each. Does not count as a use of them. As for
    /// [`locate`](Self::locate), one may be missed right after the start.
    ///
    /// # Panics
    /// When there are more.
    pub fn probe(&self, realm: RealmId, keys: &[Key]) -> u64 {
        assert!(keys.len() <= 64, "a probe is for up to 64 keys");
        let observed = self.metrics.begin(Operation::Probe, realm);
        let state = self.state.borrow();
        let mut prints = [Fingerprint::from_bytes([0; 16]); 64];
        for (print, key) in prints.iter_mut().zip(keys) {
            *print = state.keys.fingerprint(realm, key);
        }
        let prints = &prints[..keys.len()];
        let mut there = [false; 64];
        state.keys.probe(prints, &mut there[..prints.len()]);
        let bits = prints.iter().zip(there).enumerate();
        let bits = bits.fold(0, |bits, (place, (print, there))| {
            let dying = !state.dying.is_empty() && state.dying.contains(print);
            bits | u64::from(there && !dying) << place
        });
        observed.probed(keys.len() as u64, u64::from(u64::count_ones(bits)));
        bits
    }

    /// Stores a blob. The first to finish under a key wins; the bytes of the others are not looked at.
    pub async fn put(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
        bytes: &[u8],
    ) -> Result<Put, StoreError> {
        let length = bytes.len() as u64;
        let buf = self.check_put(realm, length).and_then(|()| {
            let window_bytes = window_blocks(length) as usize * BLOCK_BYTES;
            self.drive.buffer(window_bytes).map_err(StoreError::from)
        });
        let mut buf = match buf {
            Ok(buf) => buf,
            Err(error) => {
                self.metrics.begin(Operation::Put, realm).fail(&error);
                return Err(error);
            }
        };
        buf.as_mut()[..bytes.len()].copy_from_slice(bytes);
        self.put_buf(realm, key, kind, buf, length).await.1
    }

    /// Stores the blob of `length` bytes that a buffer begins with, without a copy. The buffer has the bytes of the
    /// whole window, [`window_blocks`](super::window_blocks) of them, whose rest is overwritten.
    pub async fn put_buf(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
        buf: D::Buf,
        length: u64,
    ) -> (D::Buf, Result<Put, StoreError>) {
        let role = Role::Whole;
        self.put_as(realm, (key, kind, role), buf, length).await
    }

    /// The same, for what is a part of a large blob or its manifest.
    pub(super) async fn put_as(
        &self,
        realm: RealmId,
        what: (Key, KeyKind, Role),
        buf: D::Buf,
        length: u64,
    ) -> (D::Buf, Result<Put, StoreError>) {
        let observed = self.metrics.begin(Operation::Put, realm);
        let mut slot = Some(buf);
        let result = self.put_slot(realm, what, &mut slot, length).await;
        observed.heard(&result, |put| put.outcome(length));
        let buf = slot.expect("the buffer comes back");
        (buf, result)
    }

    async fn put_slot(
        &self,
        realm: RealmId,
        (key, kind, role): (Key, KeyKind, Role),
        slot: &mut Option<D::Buf>,
        length: u64,
    ) -> Result<Put, StoreError> {
        self.check_put(realm, length)?;
        let blocks = window_blocks(length);
        let buf = slot.as_mut().expect("the caller's buffer");
        let (expected, found) = (blocks * BLOCK_BYTES as u64, buf.as_ref().len() as u64);
        if found != expected {
            return Err(StoreError::BufferSize { expected, found });
        }
        // A manifest's bytes are not the blob's, whose hash was looked at while its parts came by.
        if kind == KeyKind::Content && role == Role::Whole {
            check_content(key, &buf.as_ref()[..length as usize]).await?;
        }
        let fingerprint = self.print(realm, &key).await;
        let Some(claim) = self.claim(fingerprint).await? else {
            return Ok(Put::AlreadyThere);
        };
        let window = Window::new(
            self,
            self.take_window(realm, blocks, Purpose::Clients).await?,
        );
        let position = window.taken.position;
        let checksum = seal_window(buf.as_mut(), length, position);
        let block = position.0 % self.layout.slab_blocks;
        let given = slot.take().expect("the caller's buffer");
        let extent = &window.taken.extent;
        let trailer = trailer_blocks(length);
        let (buf, written) = self.write_data(extent, block, given, trailer).await;
        *slot = Some(buf);
        written?;
        let record = Record {
            key,
            kind,
            position,
            length,
            checksum,
            role,
        };
        self.create(record, claim, window).await
    }

    /// A key's fingerprint. Others have a turn while the line of its index entry comes from memory, so that the lines of
    /// all who ask at once are on their way together.
    pub(super) async fn print(&self, realm: RealmId, key: &Key) -> Fingerprint {
        let fingerprint = {
            let keys = &self.state.borrow().keys;
            let fingerprint = keys.fingerprint(realm, key);
            keys.prefetch(fingerprint);
            fingerprint
        };
        yield_now().await;
        fingerprint
    }

    fn check_put(&self, realm: RealmId, length: u64) -> Result<(), StoreError> {
        self.check_realm(realm)?;
        let max = self.length_max();
        match length {
            0 => Err(StoreError::Empty),
            bytes if bytes > max => Err(StoreError::TooLarge { bytes, max }),
            _ => Ok(()),
        }
    }

    /// Has realms checked from now on as they are given, and takes in those that there were not. How a realm makes room, what
    /// it is called and what it may take stay what they are.
    pub(super) fn set_realms(&self, realms: &[RealmOptions]) {
        let mut state = self.state.borrow_mut();
        for options in realms {
            self.metrics.add_realm(options.id);
            let realm = state.realms.entry(options.id);
            let realm = realm.or_insert_with(|| Realm::new(options.clone()));
            realm.options.verify = options.verify;
            if !realm.is_recorded {
                self.records_realms.set(true);
            }
        }
        self.layout.count_realms(&state);
        drop(state);
        self.ring();
    }

    pub(super) fn check_realm(&self, realm: RealmId) -> Result<(), StoreError> {
        match self.state.borrow().realms.contains_key(&realm) {
            true => Ok(()),
            false => Err(StoreError::UnknownRealm { realm }),
        }
    }

    /// Makes a blob whose window is written visible, once that is durable.
    pub(super) async fn create(
        &self,
        record: Record,
        claim: Claim<'_, D>,
        window: Window<'_, D>,
    ) -> Result<Put, StoreError> {
        if record.role != Role::Whole {
            self.raise_version().await?;
        }
        let (send, heard) = answer();
        let queued = Queued {
            entry: Entry::Put(record),
            answer: Some(send),
            window: Some((window.taken.position, window.taken.counted)),
            blob: Some(claim.fingerprint()),
        };
        self.check_running()?;
        // From here on the journal's writer has them, even if nobody waits for it any more.
        claim.hand_over();
        window.hand_over();
        self.enqueue(queued);
        heard.await.unwrap_or(Err(StoreError::Closing))?;
        Ok(Put::Created)
    }

    pub(super) fn enqueue(&self, queued: Queued) {
        self.state.borrow_mut().queue.push_back(queued);
        self.ring();
    }

    pub(super) fn check_running(&self) -> Result<(), StoreError> {
        match &*self.stopped.borrow() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Lets [`run`](Self::run) end once all that was begun is done. Windows that are reserved and not committed go.
    pub fn close(&self) {
        self.closing.set(true);
        self.ring();
        self.ring_maintenance();
        self.ring_compaction();
        self.ring_scrub();
    }
}

/// Whether these are the bytes of that key.
pub(super) async fn check_content(key: Key, bytes: &[u8]) -> Result<(), StoreError> {
    let mut hasher = blake3::Hasher::new();
    for (step, part) in bytes.chunks(HASH_STEP).enumerate() {
        if step > 0 {
            yield_now().await;
        }
        hasher.update(part);
    }
    let found = Key::new(*hasher.finalize().as_bytes());
    match found == key {
        true => Ok(()),
        false => Err(StoreError::OtherContent { key, found }),
    }
}

/// Lets other tasks have a turn.
pub(super) async fn yield_now() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
