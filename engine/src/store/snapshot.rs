//! All that is known between two frames, and writing it as a checkpoint.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::checkpoint::{self, Header, checkpoint_blocks};
use super::drive::{Drive, DriveError, ExtentName, write_twice};
use super::state::{Snapshot, State};
use super::types::BLOCK_BYTES;

/// Whether anything follows a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Last {
    No,
    /// Nothing does, so that an index can be tied to it.
    Yes,
    /// And it has what is kept of slabs in memory.
    WithTables,
}

/// All that is known, as it is between two frames.
pub(super) fn snapshot<E>(
    state: &mut State<E>,
    layout: &super::log::Layout<E>,
    epoch: u64,
    sequence: u64,
    last: Last,
) -> Snapshot<E> {
    state.retire();
    let mut body = Vec::new();
    for (number, slab) in &state.slabs {
        let with_table = last == Last::WithTables;
        slab.row(*number, with_table).encode(&mut body);
    }
    let tag = match last {
        Last::No => 0,
        Last::Yes | Last::WithTables => RandomState::new().build_hasher().finish() | 1,
    };
    Snapshot {
        header: Header {
            store: layout.store,
            epoch,
            next_slab: state.next_slab,
            bytes: body.len() as u64,
            sequence,
            tag,
        },
        body,
        retired: std::mem::take(&mut state.retired),
    }
}

/// Writes a checkpoint; it is there when this has ended.
pub(super) async fn write_checkpoint<D: Drive>(
    drive: &D,
    header: &Header,
    body: &[u8],
) -> Result<D::Extent, DriveError> {
    let name = ExtentName::Checkpoint(header.epoch);
    let extent = drive.create(name, checkpoint_blocks(header.bytes)).await?;
    for index in 0..checkpoint::chunks(header.bytes) {
        let blocks = checkpoint::chunk_blocks(header.bytes, index);
        let mut buf = drive.buffer(blocks as usize * BLOCK_BYTES)?;
        checkpoint::encode_chunk(header, index, body, buf.as_mut());
        let at = 1 + index * checkpoint::CHUNK_BLOCKS;
        write_twice(drive, &extent, at, buf).await.1?;
    }
    // The directories that it counts on come before it, too.
    drive.flush().await?;
    let mut buf = drive.buffer(BLOCK_BYTES)?;
    header.encode(buf.as_mut());
    write_twice(drive, &extent, 0, buf).await.1?;
    drive.flush().await?;
    Ok(extent)
}
