//! Making a store on a drive.

use super::checkpoint::{Header, checkpoint_blocks};
use super::drive::{Drive, DriveError, ExtentName, Spare};
use super::error::{OpenError, check_sizes};
use super::label::{FIRST_VERSION, Label};
use super::recovery::{check_room, read_label, reserve_for, was_opened};
use super::snapshot;
use super::types::{BLOCK_BYTES, StoreId};

/// How a store is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatOptions {
    /// Blocks of a slab: a power of two.
    pub slab_blocks: u64,
    /// Blocks of each of the two journals.
    pub journal_blocks: u64,
}

impl Default for FormatOptions {
    /// Slabs of 1 GiB, journals of 64 MiB.
    fn default() -> Self {
        Self {
            slab_blocks: 1 << 18,
            journal_blocks: 1 << 14,
        }
    }
}

/// Makes a store on a drive without extents.
pub async fn format<D: Drive>(
    drive: &D,
    store: StoreId,
    options: &FormatOptions,
) -> Result<(), OpenError> {
    check_sizes(options.slab_blocks, options.journal_blocks)?;
    let extents = drive.extents().await?;
    let names = extents.iter().map(|(name, _)| name);
    let was_opened = was_opened(names);
    // Before anything is deleted: extents come in no order.
    let label = extents.iter().find(|(name, _)| *name == ExtentName::Label);
    if let Some((_, label)) = label {
        match read_label(drive, label).await {
            Ok(label) => return Err(OpenError::Formatted { store: label.store }),
            Err(OpenError::Damaged { .. }) if !was_opened => {}
            Err(error) => return Err(error),
        }
    }
    for (_, extent) in extents {
        // Left by a format that did not come to its end: the label is the last thing it writes.
        drive.delete(extent).await?;
    }
    check_free(drive.free_blocks(), options)?;
    for number in [0, 1] {
        let name = ExtentName::Journal(number);
        let journal = drive.create(name, options.journal_blocks).await?;
        // What is in a new extent is undefined: it may be another time's frames of the same store.
        write_zeroes(drive, &journal, options.journal_blocks).await?;
    }
    let header = Header {
        store,
        epoch: 0,
        next_slab: 1,
        bytes: 0,
        sequence: 0,
        tag: 0,
    };
    let spare = Spare::new(drive)?;
    snapshot::write_checkpoint(drive, &spare, &header, &[], &[]).await?;
    let label = Label {
        version: FIRST_VERSION,
        store,
        slab_blocks: options.slab_blocks,
        journal_blocks: options.journal_blocks,
    };
    let extent = drive.create(ExtentName::Label, 1).await?;
    let mut buf = drive.buffer(BLOCK_BYTES)?;
    label.encode(buf.as_mut());
    drive.write(&extent, 0, buf).await.1?;
    drive.flush().await?;
    Ok(())
}

/// Blobs that every store has room to know of.
const LEAST_BLOBS: u64 = 1 << 10;

/// Whether so many free blocks are enough for a store of that kind with hardly any blobs.
pub(super) fn check_free(free: u64, options: &FormatOptions) -> Result<(), OpenError> {
    // The label and the first checkpoint.
    let beside = 2 * options.journal_blocks + 1 + checkpoint_blocks(0);
    let reserve = reserve_for(options.journal_blocks, LEAST_BLOBS);
    check_room(free.saturating_sub(beside), options.slab_blocks, reserve)
}

async fn write_zeroes<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    blocks: u64,
) -> Result<(), DriveError> {
    let mut block = 0;
    while block < blocks {
        let count = (blocks - block).min(256);
        let buf = drive.buffer(count as usize * BLOCK_BYTES)?;
        drive.write(extent, block, buf).await.1?;
        block += count;
    }
    Ok(())
}
