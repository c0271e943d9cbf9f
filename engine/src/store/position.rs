//! Reads by position: what a reader does who knows where a blob is and not whose it is.
//!
//! A window answers from its commit on until its slab is given back, also when its blob is deleted or has moved: positions
//! are never used twice, so what is read there is what was committed there. All else is an error.

use std::ops::Range;
use std::rc::Rc;

use oriel_ec::Crc32c;

use super::drive::Drive;
use super::error::StoreError;
use super::join::both;
use super::log::Log;
use super::metrics::{Detached, Operation, Outcome, ReadFor};
use super::reading::{Blocks, check_large};
use super::record::SMALL_BLOCKS;
use super::trailer::{self, TRAILER_CHECKSUMS};
use super::types::{BLOCK_BYTES, Form, Key, Location, Position, RealmId};

/// Where a blob is, and how to tell that it is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Described {
    /// Where it is.
    pub location: Location,
    /// The CRC32C of its blocks, if there are up to four; of the blocks of its trailer, right behind its data, if there are
    /// more.
    pub checksum: u32,
}

/// A window that blocks were found in.
struct Held<E> {
    extent: Rc<E>,
    window: Range<u32>,
    verify: bool,
    /// The checksum in its record.
    checksum: u32,
}

/// A read that is given to the drive and not waited for. The slab is not given back as long as this is there.
pub(super) struct Direct<D: Drive> {
    pub(super) extent: Rc<D::Extent>,
    pub(super) block: u64,
    blocks: u64,
    observed: Detached,
}

/// Blocks of data of a window of so many blocks.
fn data_of(window: u64) -> u64 {
    match window {
        0..=SMALL_BLOCKS => window,
        _ => window - window.div_ceil(TRAILER_CHECKSUMS + 1),
    }
}

impl<D: Drive> Log<D> {
    /// Where a blob is, or a part of one, and its checksum. Counts as a use of it. One that lies in parts is at no one place.
    pub fn describe(&self, realm: RealmId, key: &Key) -> Result<Option<Described>, StoreError> {
        let location = self.locate(realm, key);
        let described = location.map(|location| self.describe_location(key, location));
        described.transpose()
    }

    /// The same, if it is there and no more is to be said of it.
    pub(super) fn describe_if_there(&self, realm: RealmId, key: &Key) -> Option<Described> {
        let location = self.locate_if_there(realm, key)?;
        self.describe_location(key, location).ok()
    }

    fn describe_location(&self, key: &Key, location: Location) -> Result<Described, StoreError> {
        if location.form == Form::Manifest {
            return Err(StoreError::InParts { key: *key });
        }
        let state = self.state.borrow();
        let position = location.position;
        if state.quarantine.contains(&position) {
            return Err(StoreError::Quarantined {
                key: *key,
                position,
            });
        }
        let slab_blocks = self.layout.slab_blocks;
        let slab = state.slabs.get(&(position.0 / slab_blocks));
        let checksum = slab.and_then(|slab| slab.checksum((position.0 % slab_blocks) as u32));
        let checksum = checksum.ok_or_else(|| self.not_in_slab())?;
        Ok(Described { location, checksum })
    }

    /// Fills a buffer of whole blocks from a position on, all of them in one window. They are checked if the realm's reads
    /// are.
    pub async fn read_position(
        &self,
        realm: RealmId,
        position: Position,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let bytes = buf.as_ref().len() as u64;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return (buf, Err(StoreError::NotWholeBlocks { offset: 0, bytes }));
        }
        let observed = self.metrics.begin(Operation::Read, realm);
        let (buf, read) = self.read_held(realm, position, buf).await;
        observed.heard(&read, |()| (Outcome::Done, bytes));
        (buf, read)
    }

    async fn read_held(
        &self,
        realm: RealmId,
        position: Position,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let count = (buf.as_ref().len() / BLOCK_BYTES) as u64;
        let held = match self.hold(realm, position, count).await {
            Ok(held) => held,
            Err(error) => return (buf, Err(error)),
        };
        let start = position.0 % self.layout.slab_blocks;
        if held.verify {
            let first = start - u64::from(held.window.start);
            return Box::pin(self.fill_checked(&held, position, first, buf)).await;
        }
        let window = ReadFor::Window;
        let (buf, read) = self.read_for(window, &held.extent, start, buf).await;
        (buf, read.map_err(StoreError::from))
    }

    /// What [`read_position`](Self::read_position) would read from, if that is known at once and nothing has to be checked.
    pub(super) fn hold_at_once(
        &self,
        realm: RealmId,
        position: Position,
        blocks: u64,
    ) -> Option<Direct<D>> {
        let held = self.try_hold(realm, position, blocks).ok().flatten()?;
        if held.verify {
            return None;
        }
        self.metrics.read_begins();
        Some(Direct {
            extent: held.extent,
            block: position.0 % self.layout.slab_blocks,
            blocks,
            observed: self.metrics.begin_detached(Operation::Read, realm),
        })
    }

    /// One of these has ended, or was not begun after all.
    pub(super) fn direct_ended(&self, direct: &Direct<D>, is_done: bool) {
        let metrics = &self.metrics;
        metrics.read_ends();
        let observed = metrics.attach(&direct.observed);
        if is_done {
            metrics.read(ReadFor::Window, direct.blocks);
            observed.end(Outcome::Done, direct.blocks * BLOCK_BYTES as u64);
        }
    }

    /// Keeps the slab from being given back as long as what this gives is there.
    async fn hold(
        &self,
        realm: RealmId,
        position: Position,
        count: u64,
    ) -> Result<Held<D::Extent>, StoreError> {
        loop {
            match self.try_hold(realm, position, count)? {
                Some(held) => return Ok(held),
                None => Box::pin(self.learn_ends(position.0 / self.layout.slab_blocks)).await?,
            }
        }
    }

    /// `None` where the slab's directory has to be asked first.
    fn try_hold(
        &self,
        realm: RealmId,
        position: Position,
        count: u64,
    ) -> Result<Option<Held<D::Extent>>, StoreError> {
        let slab_blocks = self.layout.slab_blocks;
        let (number, block) = (position.0 / slab_blocks, position.0 % slab_blocks);
        let state = self.state.borrow();
        let verify = state.realms.get(&realm).map(|realm| realm.options.verify);
        let verify = verify.ok_or(StoreError::UnknownRealm { realm })?;
        let slab = state.slabs.get(&number).filter(|slab| slab.realm == realm);
        let slab = slab.ok_or(StoreError::NoWindow { position })?;
        let Ok(window) = slab.window(block as u32) else {
            return Ok(None);
        };
        let window = window.ok_or(StoreError::NoWindow { position })?;
        if block + count > u64::from(window.end) {
            return Err(StoreError::BeyondWindow {
                position,
                blocks: count,
                window: window.len() as u64,
            });
        }
        let start = window.start;
        let checksum = || slab.checksum(start).unwrap_or(0);
        let first = Position(number * slab_blocks + u64::from(start));
        if state.quarantine.contains(&first) {
            return Err(StoreError::DamagedWindow {
                position: first,
                expected: checksum(),
                found: 0,
            });
        }
        Ok(Some(Held {
            extent: slab.extent.clone(),
            window,
            verify,
            // Nobody else asks for it.
            checksum: if verify { checksum() } else { 0 },
        }))
    }

    /// Finds out from a slab's directory where its windows end.
    async fn learn_ends(&self, number: u64) -> Result<(), StoreError> {
        let records = self.all_records(number).await?;
        let mut state = self.state.borrow_mut();
        if let (Some(slab), Some((_, mut records))) = (state.slabs.get_mut(&number), records) {
            // Where a blob has come meanwhile, they are read again.
            slab.learn_ends(&mut records, self.layout.slab_blocks);
        }
        Ok(())
    }

    /// Fills a buffer from block `first` of a window on, and checks what it gets.
    async fn fill_checked(
        &self,
        held: &Held<D::Extent>,
        position: Position,
        first: u64,
        mut buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let whole = u64::from(held.window.end - held.window.start);
        let (at, start) = (u64::from(held.window.start), Position(position.0 - first));
        let count = (buf.as_ref().len() / BLOCK_BYTES) as u64;
        let data = data_of(whole);
        if data <= SMALL_BLOCKS {
            let check = |bytes: &[u8]| match Crc32c::of(bytes).value() {
                found if found == held.checksum => Ok(()),
                found => {
                    self.suspect(start);
                    Err(StoreError::DamagedWindow {
                        position: start,
                        expected: held.checksum,
                        found,
                    })
                }
            };
            if count == whole {
                let window = ReadFor::Window;
                let (buf, read) = self.read_for(window, &held.extent, at, buf).await;
                let checked = read.map_err(StoreError::from);
                let checked = checked.and_then(|()| check(buf.as_ref()));
                return (buf, checked);
            }
            let read = async {
                let own = self.drive.buffer(whole as usize * BLOCK_BYTES)?;
                let window = ReadFor::Window;
                let (own, read) = self.read_for(window, &held.extent, at, own).await;
                read?;
                check(own.as_ref()).map(|()| own)
            };
            let read = read.await.map(|own: D::Buf| {
                let from = first as usize * BLOCK_BYTES;
                let part = from..from + buf.as_ref().len();
                buf.as_mut().copy_from_slice(&own.as_ref()[part]);
            });
            return (buf, read);
        }
        // Blocks of the trailer speak for themselves; those of data are spoken for by the trailer's.
        let of_data = data.saturating_sub(first).min(count);
        let indexes = match of_data {
            0 => 0..0,
            _ => first / TRAILER_CHECKSUMS..(first + of_data - 1) / TRAILER_CHECKSUMS + 1,
        };
        let trailer_bytes = (indexes.end - indexes.start).max(1) as usize * BLOCK_BYTES;
        let trailer = match self.drive.buffer(trailer_bytes) {
            Ok(trailer) => trailer,
            Err(error) => return (buf, Err(error.into())),
        };
        let ((buf, read), (trailer, read_trailer)) = both(
            self.read_for(ReadFor::Window, &held.extent, at + first, buf),
            self.read_for(
                ReadFor::Window,
                &held.extent,
                at + data + indexes.start,
                trailer,
            ),
        )
        .await;
        if let Err(error) = read.and(read_trailer) {
            return (buf, Err(error.into()));
        }
        let (of_blob, of_trailer) = buf.as_ref().split_at(of_data as usize * BLOCK_BYTES);
        let location = Location {
            position: start,
            length: data * BLOCK_BYTES as u64,
            form: Form::Whole,
        };
        let blocks = Blocks {
            first,
            count: of_data,
        };
        let mut checked = Ok(());
        if of_data > 0 {
            // The error's key is left out below: who reads by position knows none.
            let key = Key::new([0; 32]);
            checked = check_large(&key, location, blocks, of_blob, trailer.as_ref());
        }
        let checked = checked.map_err(without_key).and_then(|()| {
            let index = (first + of_data).saturating_sub(data) as u32;
            check_trailer(of_trailer, start, data, index)
        });
        let checked = checked.inspect_err(|_| self.suspect(start));
        (buf, checked)
    }
}

fn without_key(error: StoreError) -> StoreError {
    match error {
        StoreError::Damaged {
            position,
            expected,
            found,
            ..
        } => StoreError::DamagedWindow {
            position,
            expected,
            found,
        },
        error => error,
    }
}

/// Checks blocks of a trailer, from that index on.
fn check_trailer(blocks: &[u8], start: Position, data: u64, first: u32) -> Result<(), StoreError> {
    for (index, block) in (first..).zip(blocks.chunks_exact(BLOCK_BYTES)) {
        trailer::check(block, start, index).map_err(|wrong| StoreError::DamagedWindow {
            position: Position(start.0 + data + u64::from(index)),
            expected: wrong.expected,
            found: wrong.found,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::{data_blocks, window_blocks};
    use super::*;

    #[test]
    fn a_windows_blocks_say_how_many_of_them_are_data() {
        for blocks in (1..5000).chain([1 << 20, (1 << 24) - 1]) {
            let length = blocks * BLOCK_BYTES as u64;
            assert_eq!(data_of(window_blocks(length)), data_blocks(length));
        }
    }
}
