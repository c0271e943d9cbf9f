//! Reading blobs, and checking what was read.

use std::rc::Rc;

use oriel_dht::index::Fingerprint;
use oriel_ec::Crc32c;

use super::drive::Drive;
use super::error::StoreError;
use super::join::both;
use super::log::Log;
use super::metrics::{Operation, Outcome, ReadFor};
use super::record::{Record, SMALL_BLOCKS, data_blocks, trailer_blocks};
use super::trailer::{self, TRAILER_CHECKSUMS};
use super::types::{BLOCK_BYTES, Form, Key, Location, Position, RealmId};

/// A blob that was found, and its slab, which stays as long as somebody holds it.
struct Found<E> {
    location: Location,
    extent: Rc<E>,
    /// The first block of its window in the slab.
    start: u64,
    /// Reads of its realm are checked.
    verify: bool,
}

/// What a read is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The bytes of a blob.
    Blob,
    /// What is in the key's window.
    Window,
}

/// How a read ended.
enum Filled {
    /// As it should.
    Good,
    /// The blob was gone, or elsewhere, before it was checked: it is to be looked up again.
    Moved,
}

/// Blocks of a blob.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) first: u64,
    pub(super) count: u64,
}

impl<D: Drive> Log<D> {
    async fn find(
        &self,
        realm: RealmId,
        key: &Key,
        wanted: Wanted,
    ) -> Result<Option<Found<D::Extent>>, StoreError> {
        let fingerprint = self.print(realm, key).await;
        self.find_print(realm, key, wanted, fingerprint)
    }

    fn find_print(
        &self,
        realm: RealmId,
        key: &Key,
        wanted: Wanted,
        fingerprint: Fingerprint,
    ) -> Result<Option<Found<D::Extent>>, StoreError> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let location = state.locate(fingerprint);
        let of_realm = state.realms.get_mut(&realm);
        let of_realm = of_realm.ok_or(StoreError::UnknownRealm { realm })?;
        let Some(location) = location else {
            return Ok(None);
        };
        if location.form == Form::Manifest && wanted == Wanted::Blob {
            return Err(StoreError::InParts { key: *key });
        }
        of_realm.used(fingerprint);
        // What is written again elsewhere gets new checksums, which must not be those of damaged bytes.
        let verify = of_realm.options.verify || wanted == Wanted::Window;
        if !state.quarantine.is_empty() && state.quarantine.contains(&location.position) {
            let (key, position) = (*key, location.position);
            return Err(StoreError::Quarantined { key, position });
        }
        let slab_blocks = self.layout.slab_blocks;
        let slab = state.slabs.get(&(location.position.0 / slab_blocks));
        let slab = slab.ok_or_else(|| self.not_in_slab())?;
        let start = location.position.0 % slab_blocks;
        if verify && data_blocks(location.length) <= SMALL_BLOCKS {
            // It comes while the blob is read.
            slab.prefetch_checksum(start as u32);
        }
        Ok(Some(Found {
            location,
            extent: slab.extent.clone(),
            start,
            verify,
        }))
    }

    /// The same, and none only if there is none: an index that was taken over is verified before it is believed to have none.
    async fn find_surely(
        &self,
        realm: RealmId,
        key: &Key,
        wanted: Wanted,
    ) -> Result<Option<Found<D::Extent>>, StoreError> {
        match self.find(realm, key, wanted).await? {
            None if !self.is_trusted.get() => {
                self.trusted().await?;
                self.find(realm, key, wanted).await
            }
            found => Ok(found),
        }
    }

    /// Some bytes of a blob, checked; `None` if there is no such blob. What lies behind its end is left out.
    pub async fn read(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let observed = self.metrics.begin(Operation::Get, realm);
        let read = self.read_bytes(realm, key, offset, bytes).await;
        observed.heard(&read, |read| {
            let bytes = read.as_ref().map_or(0, |read| read.len() as u64);
            (Outcome::there(read.is_some()), bytes)
        });
        read
    }

    async fn read_bytes(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let Some(found) = self.find_surely(realm, key, Wanted::Blob).await? else {
                return Ok(None);
            };
            let end = offset.saturating_add(bytes).min(found.location.length);
            if offset >= end {
                return Ok(Some(Vec::new()));
            }
            let first = offset / BLOCK_BYTES as u64;
            let count = (end - 1) / BLOCK_BYTES as u64 - first + 1;
            let buf = self.drive.buffer(count as usize * BLOCK_BYTES)?;
            let (buf, read) = self.fill(&found, key, Blocks { first, count }, buf).await;
            if matches!(read?, Filled::Good) {
                let from = (offset - first * BLOCK_BYTES as u64) as usize;
                let part = from..from + (end - offset) as usize;
                return Ok(Some(buf.as_ref()[part].to_vec()));
            }
        }
    }

    /// Fills a buffer of whole blocks with a blob's bytes from `offset` on, a multiple of a block's, checked; how many of
    /// them are the blob's, or `None` if there is no such blob. Without a copy, if the buffer is not longer than the rest
    /// of the blob and, for one of up to four blocks, takes all of it.
    pub async fn read_into(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        buf: D::Buf,
    ) -> (D::Buf, Result<Option<u64>, StoreError>) {
        let observed = self.metrics.begin(Operation::Get, realm);
        let (buf, read) = self
            .read_window(realm, key, offset, Wanted::Blob, buf)
            .await;
        observed.heard(&read, |read| {
            (Outcome::there(read.is_some()), read.unwrap_or(0))
        });
        (buf, read)
    }

    /// The same of what the key's window holds, which may be a manifest; for the store itself, and not counted.
    pub(super) async fn read_window(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        wanted: Wanted,
        mut buf: D::Buf,
    ) -> (D::Buf, Result<Option<u64>, StoreError>) {
        let whole = buf.as_ref().len() as u64;
        let block = BLOCK_BYTES as u64;
        if whole == 0 || !whole.is_multiple_of(block) || !offset.is_multiple_of(block) {
            let error = StoreError::NotWholeBlocks {
                offset,
                bytes: whole,
            };
            return (buf, Err(error));
        }
        let first = offset / block;
        loop {
            let found = match self.find_surely(realm, key, wanted).await {
                Ok(Some(found)) => found,
                Ok(None) => return (buf, Ok(None)),
                Err(error) => return (buf, Err(error)),
            };
            let left = data_blocks(found.location.length).saturating_sub(first);
            let count = left.min(whole / block);
            if count == 0 {
                return (buf, Ok(Some(0)));
            }
            let blocks = Blocks { first, count };
            let bytes = (found.location.length - offset).min(whole);
            let read = if count * block == whole {
                let read;
                (buf, read) = self.fill(&found, key, blocks, buf).await;
                read
            } else {
                let own = match self.drive.buffer((count * block) as usize) {
                    Ok(own) => own,
                    Err(error) => return (buf, Err(error.into())),
                };
                let (own, read) = self.fill(&found, key, blocks, own).await;
                buf.as_mut()[..own.as_ref().len()].copy_from_slice(own.as_ref());
                read
            };
            match read {
                Ok(Filled::Good) => return (buf, Ok(Some(bytes))),
                Ok(Filled::Moved) => {}
                Err(error) => return (buf, Err(error)),
            }
        }
    }

    /// Fills a buffer with as many blocks as it is long.
    async fn fill(
        &self,
        found: &Found<D::Extent>,
        key: &Key,
        blocks: Blocks,
        mut buf: D::Buf,
    ) -> (D::Buf, Result<Filled, StoreError>) {
        let at = found.start + blocks.first;
        let all = data_blocks(found.location.length);
        if !found.verify {
            let (buf, read) = self.read_for(ReadFor::Get, &found.extent, at, buf).await;
            return (buf, read.map(|()| Filled::Good).map_err(StoreError::from));
        }
        if all > SMALL_BLOCKS {
            let (buf, read) = self.fill_large(found, key, blocks, buf).await;
            return (buf, read.map(|()| Filled::Good));
        }
        if blocks.count == all {
            let (buf, read) = self.read_for(ReadFor::Get, &found.extent, at, buf).await;
            let checked = read.map_err(StoreError::from);
            let checked = checked.and_then(|()| self.check_read(key, found, buf.as_ref()));
            return (buf, checked);
        }
        let read = async {
            let whole = self.drive.buffer(all as usize * BLOCK_BYTES)?;
            let (whole, read) = self
                .read_for(ReadFor::Get, &found.extent, found.start, whole)
                .await;
            read?;
            let filled = self.check_read(key, found, whole.as_ref())?;
            Ok((whole, filled))
        };
        let read = read.await.map(|(whole, filled): (D::Buf, Filled)| {
            let from = blocks.first as usize * BLOCK_BYTES;
            let part = &whole.as_ref()[from..from + buf.as_ref().len()];
            buf.as_mut().copy_from_slice(part);
            filled
        });
        (buf, read)
    }

    /// Checks a small blob.
    fn check_read(
        &self,
        key: &Key,
        found: &Found<D::Extent>,
        bytes: &[u8],
    ) -> Result<Filled, StoreError> {
        let checksum = {
            let state = self.state.borrow();
            let number = found.location.position.0 / self.layout.slab_blocks;
            let Some(slab) = state.slabs.get(&number) else {
                return Ok(Filled::Moved);
            };
            let checksum = slab.checksum(found.start as u32);
            checksum.ok_or_else(|| self.not_in_slab())?
        };
        check_small(key, found.location, checksum, bytes)
            .inspect_err(|_| self.suspect(found.location.position))?;
        Ok(Filled::Good)
    }

    /// As `fill`, for a blob with a trailer.
    async fn fill_large(
        &self,
        found: &Found<D::Extent>,
        key: &Key,
        blocks: Blocks,
        buf: D::Buf,
    ) -> (D::Buf, Result<(), StoreError>) {
        let Blocks { first, count } = blocks;
        let (of_first, of_last) = (
            first / TRAILER_CHECKSUMS,
            (first + count - 1) / TRAILER_CHECKSUMS,
        );
        let trailer_bytes = (of_last - of_first + 1) as usize * BLOCK_BYTES;
        let trailer = match self.drive.buffer(trailer_bytes) {
            Ok(trailer) => trailer,
            Err(error) => return (buf, Err(error.into())),
        };
        let trailer_at = data_blocks(found.location.length) + of_first;
        let extent = &found.extent;
        let ((buf, read), (trailer, read_trailer)) = both(
            self.read_for(ReadFor::Get, extent, found.start + first, buf),
            self.read_for(ReadFor::Get, extent, found.start + trailer_at, trailer),
        )
        .await;
        if let Err(error) = read.and(read_trailer) {
            return (buf, Err(error.into()));
        }
        let checked = check_large(key, found.location, blocks, buf.as_ref(), trailer.as_ref());
        let checked = checked.inspect_err(|_| self.suspect(found.location.position));
        (buf, checked)
    }
}

pub(super) fn damaged(
    key: &Key,
    location: Location,
    at: Blocks,
    expected: u32,
    found: u32,
) -> StoreError {
    let Blocks {
        first: block,
        count: blocks,
    } = at;
    StoreError::Damaged {
        key: *key,
        block,
        blocks,
        position: Position(location.position.0 + block),
        expected,
        found,
    }
}

/// Checks a whole window.
pub(super) fn check_window(record: &Record, window: &[u8]) -> Result<(), StoreError> {
    let location = record.location();
    let count = data_blocks(record.length);
    let (data, trailer) = window.split_at(count as usize * BLOCK_BYTES);
    if trailer.is_empty() {
        return check_small(&record.key, location, record.checksum, data);
    }
    check_trailer(record, Crc32c::of(trailer))?;
    let blocks = Blocks { first: 0, count };
    check_large(&record.key, location, blocks, data, trailer)
}

/// Checks that the trailer of a blob's window, whose checksum is `found`, is the one its record speaks of.
pub(super) fn check_trailer(record: &Record, found: Crc32c) -> Result<(), StoreError> {
    let (expected, found) = (record.checksum, found.value());
    if found == expected {
        return Ok(());
    }
    let trailer = Blocks {
        first: data_blocks(record.length),
        count: trailer_blocks(record.length),
    };
    let location = record.location();
    Err(damaged(&record.key, location, trailer, expected, found))
}

/// Checks a blob without a trailer.
pub(super) fn check_small(
    key: &Key,
    location: Location,
    expected: u32,
    data: &[u8],
) -> Result<(), StoreError> {
    match Crc32c::of(data).value() {
        found if found == expected => Ok(()),
        found => {
            let first = 0;
            let count = (data.len() / BLOCK_BYTES) as u64;
            Err(damaged(
                key,
                location,
                Blocks { first, count },
                expected,
                found,
            ))
        }
    }
}

/// Checks blocks of a blob with a trailer, given the blocks of the trailer that speak of them.
pub(super) fn check_large(
    key: &Key,
    location: Location,
    blocks: Blocks,
    data: &[u8],
    trailer: &[u8],
) -> Result<(), StoreError> {
    let all = data_blocks(location.length);
    let first_index = blocks.first / TRAILER_CHECKSUMS;
    let (trailer, _) = trailer.as_chunks::<BLOCK_BYTES>();
    for (index, block) in (first_index..).zip(trailer) {
        let checked = trailer::check(block, location.position, index as u32);
        checked.map_err(|wrong| {
            let (first, count) = (all + index, 1);
            damaged(
                key,
                location,
                Blocks { first, count },
                wrong.expected,
                wrong.found,
            )
        })?;
    }
    let (data, _) = data.as_chunks::<BLOCK_BYTES>();
    for (block, bytes) in (blocks.first..).zip(data) {
        let place = (block / TRAILER_CHECKSUMS - first_index) as usize;
        let expected = trailer::checksum(&trailer[place], block % TRAILER_CHECKSUMS);
        let found = Crc32c::of(bytes).value();
        if found != expected {
            let (first, count) = (block, 1);
            return Err(damaged(
                key,
                location,
                Blocks { first, count },
                expected,
                found,
            ));
        }
    }
    Ok(())
}
