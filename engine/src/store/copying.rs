//! Copying a blob's window into another one of its realm, checked, for compaction.

use std::rc::Rc;

use oriel_ec::Crc32c;

use super::drive::{Drive, DriveError};
use super::error::StoreError;
use super::log::Log;
use super::metrics::{ReadFor, WrittenFor};
use super::reading::{Blocks, check_large, check_trailer, check_window};
use super::record::{Record, data_blocks, trailer_blocks};
use super::state::Purpose;
use super::trailer::{self, TRAILER_CHECKSUMS};
use super::types::{BLOCK_BYTES, Position, RealmId};
use super::walk::{check_by_steps, steps};
use super::window::Window;
use crate::limits::CHECK_STEP_BLOCKS;

/// A blob's new window, and the checksum for its record.
type Copied<'a, D> = (Window<'a, D>, u32);

impl<D: Drive> Log<D> {
    /// Copies a blob to another window; `None` if it is not there.
    pub(super) async fn copy(
        &self,
        realm: RealmId,
        record: &Record,
    ) -> Result<Option<Copied<'_, D>>, StoreError> {
        match record.blocks() <= CHECK_STEP_BLOCKS {
            true => self.copy_at_once(realm, record).await,
            false => self.copy_by_steps(realm, record).await,
        }
    }

    /// The slab to copy a blob from, if it is still there. It is held for this blob only, and not while anything else is waited
    /// for, so that it can go when its blobs are deleted meanwhile.
    fn source(&self, realm: RealmId, record: &Record) -> Result<Option<Rc<D::Extent>>, StoreError> {
        let state = self.state.borrow();
        let fingerprint = state.keys.fingerprint(realm, &record.key);
        if state.locate_quietly(fingerprint) != Some(record.location()) {
            return Ok(None);
        }
        let number = record.position.0 / self.layout.slab_blocks;
        let slab = state.slabs.get(&number);
        let slab = slab.ok_or_else(|| self.not_in_slab())?;
        Ok(Some(slab.extent.clone()))
    }

    /// In one piece.
    async fn copy_at_once(
        &self,
        realm: RealmId,
        record: &Record,
    ) -> Result<Option<Copied<'_, D>>, StoreError> {
        let Some(extent) = self.source(realm, record)? else {
            return Ok(None);
        };
        let blocks = record.blocks();
        let buf = self.drive.buffer(blocks as usize * BLOCK_BYTES)?;
        let mut buf = self.read_to_move(record, &extent, 0, buf).await?;
        drop(extent);
        check_window(record, buf.as_ref())?;
        let taken = self.take_window(realm, blocks, Purpose::Compaction).await?;
        let window = Window::new(self, taken);
        let checksum = move_window(record, buf.as_mut(), window.taken.position);
        self.write_moved(&window, 0, buf).await?;
        Ok(Some((window, checksum)))
    }

    /// With memory for a MiB of it, which is read and checked once more after it was found to be whole: windows are for blobs
    /// that can be read.
    async fn copy_by_steps(
        &self,
        realm: RealmId,
        record: &Record,
    ) -> Result<Option<Copied<'_, D>>, StoreError> {
        let Some(extent) = self.source(realm, record)? else {
            return Ok(None);
        };
        let buffer = |blocks: u64| self.drive.buffer(blocks as usize * BLOCK_BYTES);
        let read = async |first, count| {
            let buf = buffer(count)?;
            self.read_to_move(record, &extent, first, buf).await
        };
        check_by_steps(record, read).await?;
        drop(extent);
        let (data, trailer) = (data_blocks(record.length), trailer_blocks(record.length));
        // Nothing may be missing once there is a window.
        let trailer = buffer(trailer)?;
        let of_size = |blocks: u64| (blocks > 0).then(|| buffer(blocks)).transpose();
        let mut whole = of_size((data / CHECK_STEP_BLOCKS).min(1) * CHECK_STEP_BLOCKS)?;
        let mut rest = of_size(data % CHECK_STEP_BLOCKS)?;
        let blocks = record.blocks();
        let taken = self.take_window(realm, blocks, Purpose::Compaction).await?;
        let window = Window::new(self, taken);
        let Some(extent) = self.source(realm, record)? else {
            return Ok(None);
        };
        let mut trailer = self.read_to_move(record, &extent, data, trailer).await?;
        check_trailer(record, Crc32c::of(trailer.as_ref()))?;
        for step in steps(data) {
            let Blocks { first, count } = step;
            let of_size = match count == CHECK_STEP_BLOCKS {
                true => &mut whole,
                false => &mut rest,
            };
            let buf = of_size.take().expect("there is one of each size");
            let buf = self.read_to_move(record, &extent, first, buf).await?;
            let of_first = first / TRAILER_CHECKSUMS;
            let of_last = (first + count - 1) / TRAILER_CHECKSUMS;
            let sums = of_first as usize * BLOCK_BYTES..(of_last + 1) as usize * BLOCK_BYTES;
            let sums = &trailer.as_ref()[sums];
            check_large(&record.key, record.location(), step, buf.as_ref(), sums)?;
            *of_size = Some(self.write_moved(&window, first, buf).await?);
        }
        let checksum = trailer::move_to(trailer.as_mut(), window.taken.position);
        self.write_moved(&window, data, trailer).await?;
        Ok(Some((window, checksum)))
    }

    async fn read_to_move(
        &self,
        record: &Record,
        extent: &D::Extent,
        block: u64,
        buf: D::Buf,
    ) -> Result<D::Buf, DriveError> {
        let at = record.position.0 % self.layout.slab_blocks + block;
        let (buf, read) = self.read_for(ReadFor::Move, extent, at, buf).await;
        read.map(|()| buf)
    }

    async fn write_moved(
        &self,
        window: &Window<'_, D>,
        block: u64,
        buf: D::Buf,
    ) -> Result<D::Buf, DriveError> {
        let Window { taken, .. } = window;
        let at = taken.position.0 % self.layout.slab_blocks + block;
        let (buf, written) = self
            .write_for(WrittenFor::Move, &taken.extent, at, buf)
            .await;
        written.map(|()| buf)
    }
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
