//! Going through all blobs by their places: listing them, and looking whether one is still whole.
//!
//! Blobs are shown in the order of their positions. Positions are never used twice and moves go to later ones, so a walk in
//! steps misses no blob that is there all the time; one that is moved meanwhile may be shown twice.

use oriel_ec::Crc32c;

use super::directory::Owner;
use super::drive::Drive;
use super::error::{OpenError, StoreError};
use super::log::Log;
use super::reading::{Blocks, check_large, check_trailer, check_window};
use super::record::{Record, data_blocks, trailer_blocks};
use super::scan::read_directory;
use super::trailer::TRAILER_CHECKSUMS;
use super::types::{BLOCK_BYTES, Form, Key, Location, Position, RealmId};
use crate::limits::CHECK_STEP_BLOCKS;

/// A blob in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Where it is; with the blob's whole length, also where a manifest is there and the blob's bytes are elsewhere.
    pub location: Location,
}

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Blobs, by position.
    pub blobs: Vec<Listed>,
    /// Where to go on; `None` at the end.
    pub next: Option<Position>,
}

impl<D: Drive> Log<D> {
    /// Blobs of a realm from a position on, up to `most` of them.
    pub async fn list(
        &self,
        realm: RealmId,
        from: Position,
        most: usize,
    ) -> Result<Page, StoreError> {
        self.check_realm(realm)?;
        self.trusted().await?;
        let mut blobs = Vec::new();
        let mut number = from.0 / self.layout.slab_blocks;
        while let Some(at) = self.next_slab(number, realm) {
            for record in self.live_records(at, from).await? {
                if record.role.form() == Form::Part {
                    continue;
                }
                if blobs.len() == most {
                    let next = Some(record.position);
                    return Ok(Page { blobs, next });
                }
                blobs.push(Listed {
                    key: record.key,
                    location: Location {
                        length: record.blob_bytes(),
                        ..record.location()
                    },
                });
            }
            number = at + 1;
        }
        Ok(Page { blobs, next: None })
    }

    /// The first slab of a realm of that number or a later one.
    fn next_slab(&self, from: u64, realm: RealmId) -> Option<u64> {
        let state = self.state.borrow();
        let mut slabs = state.slabs.range(from..);
        slabs.find_map(|(number, slab)| (slab.realm == realm).then_some(*number))
    }

    /// The blobs that are in a slab now, from a position on, in order.
    pub(super) async fn live_records(
        &self,
        number: u64,
        from: Position,
    ) -> Result<Vec<Record>, StoreError> {
        let Some((realm, mut records)) = self.all_records(number).await? else {
            return Ok(Vec::new());
        };
        let state = self.state.borrow();
        records.retain(|record| {
            let fingerprint = state.keys.fingerprint(realm, &record.key);
            let there = state.locate_quietly(fingerprint);
            record.position >= from && there == Some(record.location())
        });
        records.sort_unstable_by_key(|record| record.position);
        Ok(records)
    }

    /// The blobs that are or were in a slab, and whose they are.
    pub(super) async fn all_records(
        &self,
        number: u64,
    ) -> Result<Option<(RealmId, Vec<Record>)>, StoreError> {
        let (owner, extent, in_directory, tail) = {
            let state = self.state.borrow();
            let Some(slab) = state.slabs.get(&number) else {
                return Ok(None);
            };
            let owner = Owner {
                store: self.layout.store,
                realm: slab.realm,
                slab: number,
            };
            let (in_directory, tail) = slab.known_records();
            (owner, slab.extent.clone(), in_directory, tail.to_vec())
        };
        let slab_blocks = self.layout.slab_blocks;
        let records = read_directory(&self.drive, &owner, &extent, slab_blocks, in_directory);
        let mut records = records.await.map_err(|error| match error {
            OpenError::Drive(error) => StoreError::Drive(error),
            error => StoreError::Directory {
                slab: number,
                detail: error.to_string(),
            },
        })?;
        records.extend(tail);
        Ok(Some((owner.realm, records)))
    }
}

/// Reads a blob's window and checks it, a MiB at a time.
pub(super) async fn check_record<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    slab_blocks: u64,
    record: &Record,
) -> Result<(), StoreError> {
    let start = record.position.0 % slab_blocks;
    let read = async |block, count: u64| {
        let buf = drive.buffer(count as usize * BLOCK_BYTES)?;
        let (buf, read) = drive.read(extent, start + block, buf).await;
        read.map(|()| buf)
    };
    check_by_steps(record, read).await
}

/// Checks a blob's window, of which `read` brings blocks, a MiB at a time.
pub(super) async fn check_by_steps<B: AsRef<[u8]>, E>(
    record: &Record,
    read: impl AsyncFn(u64, u64) -> Result<B, E>,
) -> Result<(), StoreError>
where
    StoreError: From<E>,
{
    if record.blocks() <= CHECK_STEP_BLOCKS {
        return check_window(record, read(0, record.blocks()).await?.as_ref());
    }
    let (data, trailer) = (data_blocks(record.length), trailer_blocks(record.length));
    let location = record.location();
    let mut sum = Crc32c::EMPTY;
    for Blocks { first, count } in steps(trailer) {
        sum = sum.and(read(data + first, count).await?.as_ref());
    }
    check_trailer(record, sum)?;
    for blocks in steps(data) {
        let Blocks { first, count } = blocks;
        let bytes = read(first, count).await?;
        let of_first = first / TRAILER_CHECKSUMS;
        let of_last = (first + count - 1) / TRAILER_CHECKSUMS;
        let sums = read(data + of_first, of_last - of_first + 1).await?;
        check_large(&record.key, location, blocks, bytes.as_ref(), sums.as_ref())?;
    }
    Ok(())
}

/// So many blocks, a MiB at a time.
pub(super) fn steps(all: u64) -> impl Iterator<Item = Blocks> {
    let firsts = (0..all).step_by(CHECK_STEP_BLOCKS as usize);
    firsts.map(move |first| Blocks {
        first,
        count: CHECK_STEP_BLOCKS.min(all - first),
    })
}
