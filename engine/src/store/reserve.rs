//! Windows that are written from outside: reserve, write, commit.
//!
//! ```text
//!  reserve ──► a window and a deadline ──► write, write, ... ──► commit: key, length ──► as a put
//!                            │
//!                            └──► the deadline passes: the window is given up
//! ```
//!
//! The checksums are computed while the data pass by; nothing is read again, but for a key that has to be the hash of the
//! bytes. What is not committed is nowhere but in memory, so a crash leaves nothing of it.

use std::future::poll_fn;
use std::task::Poll;

use oriel_ec::Crc32c;

use super::drive::Drive;
use super::error::StoreError;
use super::journal::{remember, ring_bell};
use super::log::{Log, Put};
use super::metrics::{Operation, Outcome, ReadFor, WrittenFor};
use super::record::{Record, Role, data_blocks, trailer_blocks, window_blocks};
use super::state::{Purpose, State};
use super::trailer;
use super::types::{BLOCK_BYTES, Key, KeyKind, Position, RealmId, blocks_for};
use super::window::{Taken, Window};
use crate::clock::Moment;
use crate::limits::{CHECK_STEP_BLOCKS, RECLAIMS_APART, RESERVATION_TIME};

/// A window to write a blob into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// Its first block.
    pub position: Position,
    /// Blocks for data, from the first one on.
    pub blocks: u64,
    /// When it is given up if it is not committed by then.
    pub deadline: Moment,
}

/// What a commit makes of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The blob's key.
    pub key: Key,
    /// What kind of key that is.
    pub kind: KeyKind,
    /// The window that was reserved.
    pub position: Position,
    /// The blob's length in bytes; no more than was reserved.
    pub length: u64,
    /// The CRC32C over all blocks of the data, padding included, if the caller knows it: what the caller believes to have
    /// written has to be what arrived.
    pub checksum: Option<u32>,
}

/// What is known of a block that a caller is to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Missing,
    BeingWritten,
    Written { checksum: u32 },
}

pub(super) struct Reservation<E> {
    pub(super) realm: RealmId,
    taken: Taken<E>,
    length: u64,
    deadline: Moment,
    blocks: Vec<Block>,
    /// Writes under way.
    writes: u32,
}

impl<D: Drive> Log<D> {
    /// Hands out a window for a blob of up to so many bytes.
    pub async fn reserve(&self, realm: RealmId, length: u64) -> Result<Reserved, StoreError> {
        let observed = self.metrics.begin(Operation::Reserve, realm);
        let reserved = self.reserve_it(realm, length).await;
        observed.heard(&reserved, |_| (Outcome::Done, 0));
        reserved
    }

    async fn reserve_it(&self, realm: RealmId, length: u64) -> Result<Reserved, StoreError> {
        self.check_open()?;
        self.check_realm(realm)?;
        let max = self.length_max();
        if length == 0 {
            return Err(StoreError::Empty);
        }
        if length > max {
            return Err(StoreError::TooLarge { bytes: length, max });
        }
        self.expire();
        let taken = self
            .take_window(realm, window_blocks(length), Purpose::Clients)
            .await?;
        // It may have taken a while.
        if let Err(error) = self.check_open() {
            self.release_window(taken.position, taken.counted);
            return Err(error);
        }
        let blocks = data_blocks(length);
        let position = taken.position;
        let deadline = self.clock.now() + RESERVATION_TIME;
        let reservation = Reservation {
            realm,
            taken,
            length,
            deadline,
            blocks: vec![Block::Missing; blocks as usize],
            writes: 0,
        };
        let reservations = &mut self.state.borrow_mut().reservations;
        if reservations.is_empty() {
            ring_bell(&self.reclaim_bell);
        }
        reservations.insert(position.0, reservation);
        Ok(Reserved {
            position,
            blocks,
            deadline,
        })
    }

    /// Writes whole blocks into a window that is reserved in the realm. What was written there before is overwritten.
    pub async fn write(
        &self,
        realm: RealmId,
        position: Position,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let observed = self.metrics.begin(Operation::Write, realm);
        let bytes = buf.as_ref().len() as u64;
        let (buf, written) = self.write_it(realm, position, buf).await;
        observed.heard(&written, |()| (Outcome::Done, bytes));
        (buf, written)
    }

    async fn write_it(
        &self,
        realm: RealmId,
        position: Position,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let bytes = buf.as_ref().len() as u64;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return (buf, Err(StoreError::NotWholeBlocks { offset: 0, bytes }));
        }
        let count = blocks_for(bytes);
        let begun = self.begin_write(realm, position, count);
        let (window, extent) = match begun {
            Ok(begun) => begun,
            Err(error) => return (buf, Err(error)),
        };
        let sums = buf.as_ref().chunks_exact(BLOCK_BYTES);
        let sums: Vec<u32> = sums.map(|block| Crc32c::of(block).value()).collect();
        let guard = Writing {
            log: self,
            window,
            first: (position.0 - window) as usize,
            count: count as usize,
        };
        let block = position.0 % self.layout.slab_blocks;
        let (buf, written) = self.write_data(&extent, block, buf, 0).await;
        let sums = written.is_ok().then_some(&sums[..]);
        guard.end(sums);
        (buf, written.map_err(StoreError::from))
    }

    /// The window that so many blocks from a position on lie in.
    fn begin_write(
        &self,
        realm: RealmId,
        position: Position,
        count: u64,
    ) -> Result<(u64, std::rc::Rc<D::Extent>), StoreError> {
        self.check_open()?;
        self.expire();
        let mut state = self.state.borrow_mut();
        let not_reserved = StoreError::NotReserved { position };
        let window = state.reservations.range_mut(..=position.0).next_back();
        let (&window, reservation) = window.ok_or(not_reserved.clone())?;
        let first = (position.0 - window) as usize;
        let blocks = reservation.blocks.get_mut(first..);
        let blocks = blocks.filter(|_| reservation.realm == realm);
        let blocks = blocks.and_then(|blocks| blocks.get_mut(..count as usize));
        let blocks = blocks.ok_or(not_reserved)?;
        if blocks.contains(&Block::BeingWritten) {
            return Err(StoreError::BeingWritten { position });
        }
        blocks.fill(Block::BeingWritten);
        reservation.writes += 1;
        Ok((window, reservation.taken.extent.clone()))
    }

    /// Makes what was written into a reserved window a blob. Whatever is wrong with the key, length or data, and where memory
    /// is short for a moment, the window is still reserved, unless the blob is there already.
    pub async fn commit(&self, realm: RealmId, commit: &Commit) -> Result<Put, StoreError> {
        self.commit_as(realm, commit, Role::Whole).await
    }

    /// The same, for what is a part of a large blob or its manifest.
    pub(super) async fn commit_as(
        &self,
        realm: RealmId,
        commit: &Commit,
        role: Role,
    ) -> Result<Put, StoreError> {
        let observed = self.metrics.begin(Operation::Commit, realm);
        let put = self.commit_it(realm, commit, role).await;
        observed.heard(&put, |put| put.outcome(commit.length));
        put
    }

    async fn commit_it(
        &self,
        realm: RealmId,
        commit: &Commit,
        role: Role,
    ) -> Result<Put, StoreError> {
        self.check_open()?;
        self.expire();
        let Commit {
            key,
            kind,
            position,
            length,
            ..
        } = *commit;
        let extent = self.check_commit(realm, commit)?;
        if kind == KeyKind::Content && role == Role::Whole {
            self.check_written(key, &extent, position, length).await?;
        }
        // The window stays reserved as long as anything can fail that may go well the next time.
        if role != Role::Whole {
            self.raise_version().await?;
        }
        let fingerprint = self.state.borrow().keys.fingerprint(realm, &key);
        let claim = self.claim(fingerprint).await?;
        // Others had their turns meanwhile.
        self.check_commit(realm, commit)?;
        let trailer = match (&claim, trailer_blocks(length)) {
            (None, _) | (_, 0) => None,
            (Some(_), blocks) => Some(self.drive.buffer(blocks as usize * BLOCK_BYTES)?),
        };
        let reservation = self.state.borrow_mut().reservations.remove(&position.0);
        let reservation = reservation.ok_or(StoreError::NotReserved { position })?;
        let window = Window::new(self, reservation.taken);
        let Some(claim) = claim else {
            return Ok(Put::AlreadyThere);
        };
        let sums = checksums(&reservation.blocks, length);
        let checksum = match trailer {
            None => whole_checksum(&sums),
            Some(mut buf) => {
                let checksum = trailer::encode(buf.as_mut(), position, sums.into_iter());
                let at = position.0 % self.layout.slab_blocks + data_blocks(length);
                let extent = &window.taken.extent;
                let (_, written) = self.write_for(WrittenFor::Trailer, extent, at, buf).await;
                written?;
                checksum
            }
        };
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

    /// Reads blocks of a reserved window that were written, for the drive that they belong on, and checks them.
    pub(super) async fn read_reserved(
        &self,
        realm: RealmId,
        position: Position,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let count = buf.as_ref().len() / BLOCK_BYTES;
        let found = {
            let state = self.state.borrow();
            let window = state.reservations.range(..=position.0).next_back();
            let window = window.filter(|(_, reservation)| reservation.realm == realm);
            window.and_then(|(&window, reservation)| {
                let first = (position.0 - window) as usize;
                let blocks = reservation.blocks.get(first..)?.get(..count)?.to_vec();
                Some((reservation.taken.extent.clone(), blocks))
            })
        };
        let Some((extent, blocks)) = found else {
            return (buf, Err(StoreError::NotReserved { position }));
        };
        let start = position.0 % self.layout.slab_blocks;
        let (buf, read) = self.drive.read(&extent, start, buf).await;
        if let Err(error) = read {
            return (buf, Err(error.into()));
        }
        let data = buf.as_ref().chunks_exact(BLOCK_BYTES);
        for (at, (bytes, block)) in (position.0..).zip(data.zip(blocks)) {
            let position = Position(at);
            let found = Crc32c::of(bytes).value();
            let wrong = match block {
                Block::Written { checksum } if checksum == found => continue,
                Block::Written { checksum: expected } => StoreError::DamagedWindow {
                    position,
                    expected,
                    found,
                },
                Block::BeingWritten => StoreError::BeingWritten { position },
                Block::Missing => StoreError::NotWritten { position },
            };
            return (buf, Err(wrong));
        }
        (buf, Ok(()))
    }

    /// Whether the window may become a blob of that length.
    pub(super) fn check_commit(
        &self,
        realm: RealmId,
        commit: &Commit,
    ) -> Result<std::rc::Rc<D::Extent>, StoreError> {
        let &Commit {
            position, length, ..
        } = commit;
        let state = self.state.borrow();
        let reservation = state.reservations.get(&position.0);
        let reservation = reservation
            .filter(|reservation| reservation.realm == realm)
            .ok_or(StoreError::NotReserved { position })?;
        if length == 0 {
            return Err(StoreError::Empty);
        }
        if length > reservation.length {
            return Err(StoreError::LongerThanReserved {
                bytes: length,
                reserved: reservation.length,
            });
        }
        if reservation.writes > 0 {
            return Err(StoreError::BeingWritten { position });
        }
        let blocks = &reservation.blocks[..data_blocks(length) as usize];
        let is_written = |block: &Block| matches!(block, Block::Written { .. });
        if let Some(missing) = blocks.iter().position(|block| !is_written(block)) {
            let position = Position(position.0 + missing as u64);
            return Err(StoreError::NotWritten { position });
        }
        if let Some(expected) = commit.checksum {
            let found = whole_checksum(&checksums(&reservation.blocks, length));
            if found != expected {
                return Err(StoreError::OtherChecksum { expected, found });
            }
        }
        Ok(reservation.taken.extent.clone())
    }

    /// Whether the bytes in a window are those of the key.
    async fn check_written(
        &self,
        key: Key,
        extent: &D::Extent,
        position: Position,
        length: u64,
    ) -> Result<(), StoreError> {
        let start = position.0 % self.layout.slab_blocks;
        let mut hasher = blake3::Hasher::new();
        let mut block = 0;
        while block < data_blocks(length) {
            let count = (data_blocks(length) - block).min(CHECK_STEP_BLOCKS);
            let buf = self.drive.buffer(count as usize * BLOCK_BYTES)?;
            let (buf, read) = self
                .read_for(ReadFor::Commit, extent, start + block, buf)
                .await;
            read?;
            let left = length - block * BLOCK_BYTES as u64;
            let bytes = left.min(buf.as_ref().len() as u64) as usize;
            hasher.update(&buf.as_ref()[..bytes]);
            block += count;
        }
        let found = Key::new(*hasher.finalize().as_bytes());
        match found == key {
            true => Ok(()),
            false => Err(StoreError::OtherContent { key, found }),
        }
    }

    /// Gives a reserved window up; whether it was reserved.
    pub fn abandon(&self, realm: RealmId, position: Position) -> bool {
        let mut state = self.state.borrow_mut();
        let is_it = |reservation: &Reservation<D::Extent>| {
            reservation.realm == realm && reservation.writes == 0
        };
        if !state.reservations.get(&position.0).is_some_and(is_it) {
            return false;
        }
        give_up(&mut state, position.0, self.layout.slab_blocks);
        drop(state);
        self.ring_maintenance();
        true
    }

    /// Gives up windows as their deadlines pass, whatever else happens, for as long as the journal is written.
    pub(super) async fn reclaim(&self) {
        let is_over = || self.is_ending.get() || self.check_running().is_err();
        while !is_over() {
            let earliest = poll_fn(|cx| {
                let earliest = self.earliest_deadline();
                if is_over() || earliest.is_some() {
                    return Poll::Ready(earliest);
                }
                remember(&mut self.reclaim_bell.borrow_mut(), cx.waker());
                Poll::Pending
            });
            let Some(earliest) = earliest.await else {
                return;
            };
            // A window that is still written to is looked at again.
            let at = earliest.max(self.clock.now() + RECLAIMS_APART);
            self.wait_until(at, &self.reclaim_bell, is_over).await;
            self.expire();
        }
    }

    fn earliest_deadline(&self) -> Option<Moment> {
        let state = self.state.borrow();
        let reservations = state.reservations.values();
        reservations.map(|reservation| reservation.deadline).min()
    }

    /// Gives up the windows whose deadline has passed. Every reservation, write and commit does so first, since `reclaim`
    /// may be late.
    fn expire(&self) {
        let now = self.clock.now();
        self.give_up_all(|reservation| reservation.deadline <= now && reservation.writes == 0);
    }

    pub(super) fn abandon_all(&self) {
        self.give_up_all(|_| true);
    }

    fn give_up_all(&self, is_wanted: impl Fn(&Reservation<D::Extent>) -> bool) {
        let mut state = self.state.borrow_mut();
        if state.reservations.is_empty() {
            return;
        }
        let reservations = state.reservations.iter();
        let wanted: Vec<u64> = reservations
            .filter_map(|(position, reservation)| is_wanted(reservation).then_some(*position))
            .collect();
        for position in wanted {
            give_up(&mut state, position, self.layout.slab_blocks);
        }
        drop(state);
        self.ring_maintenance();
    }
}

fn give_up<E>(state: &mut State<E>, position: u64, slab_blocks: u64) {
    if let Some(reservation) = state.reservations.remove(&position) {
        let Taken {
            position, counted, ..
        } = reservation.taken;
        state.release_window(position, counted, slab_blocks);
    }
}

/// The checksums of the blocks of a blob, all of which are written.
fn checksums(blocks: &[Block], length: u64) -> Vec<u32> {
    let blocks = &blocks[..data_blocks(length) as usize];
    let checksum = |block: &Block| match block {
        Block::Written { checksum } => *checksum,
        Block::Missing | Block::BeingWritten => 0,
    };
    blocks.iter().map(checksum).collect()
}

/// The checksum of all blocks together.
fn whole_checksum(of_blocks: &[u32]) -> u32 {
    let all = of_blocks.iter().map(|value| Crc32c::from_value(*value));
    all.reduce(|before, block| before.followed_by(block, BLOCK_BYTES))
        .unwrap_or(Crc32c::EMPTY)
        .value()
}

/// Blocks that are being written, until it is dropped.
struct Writing<'a, D: Drive> {
    log: &'a Log<D>,
    window: u64,
    first: usize,
    count: usize,
}

impl<D: Drive> Writing<'_, D> {
    /// With the checksums of what is there now, if that is known.
    fn end(self, sums: Option<&[u32]>) {
        let mut state = self.log.state.borrow_mut();
        if let Some(reservation) = state.reservations.get_mut(&self.window) {
            let blocks = &mut reservation.blocks[self.first..self.first + self.count];
            for (place, block) in blocks.iter_mut().enumerate() {
                *block = sums.map_or(Block::Missing, |sums| Block::Written {
                    checksum: sums[place],
                });
            }
        }
    }
}

impl<D: Drive> Drop for Writing<'_, D> {
    fn drop(&mut self) {
        let mut state = self.log.state.borrow_mut();
        if let Some(reservation) = state.reservations.get_mut(&self.window) {
            // Blocks of a write whose end nobody waited for stay as they are: it may still come, and must not come over what
            // another one writes.
            reservation.writes -= 1;
        }
    }
}
