//! All that is known between two frames, and writing it as a checkpoint.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::checkpoint::{self, Header, checkpoint_blocks};
use super::drive::{Drive, DriveError, ExtentName, Spare, write_twice};
use super::identity;
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
        realms: state.identities(),
        retired: std::mem::take(&mut state.retired),
    }
}

/// Writes a checkpoint; it is there when this has ended.
pub(super) async fn write_checkpoint<D: Drive>(
    drive: &D,
    spare: &Spare<D::Buf>,
    header: &Header,
    body: &[u8],
    realms: &[u8],
) -> Result<D::Extent, DriveError> {
    let name = ExtentName::Checkpoint(header.epoch);
    let mut block = [0; BLOCK_BYTES];
    header.encode(&mut block);
    let behind = identity::put(realms, &mut block);
    let behind_at = checkpoint_blocks(header.bytes);
    let blocks = behind_at + identity::blocks_behind(realms.len());
    let extent = drive.create(name, blocks).await?;
    let write = async |at, buf| write_twice(drive, &extent, at, buf).await;
    let mut bytes = Vec::new();
    for index in 0..checkpoint::chunks(header.bytes) {
        let blocks = checkpoint::chunk_blocks(header.bytes, index);
        bytes.resize(blocks as usize * BLOCK_BYTES, 0);
        checkpoint::encode_chunk(header, index, body, &mut bytes);
        let at = 1 + index * checkpoint::CHUNK_BLOCKS;
        spare.write(drive, at, &bytes, write).await?;
    }
    if !behind.is_empty() {
        bytes.clear();
        bytes.extend_from_slice(behind);
        bytes.resize((blocks - behind_at) as usize * BLOCK_BYTES, 0);
        spare.write(drive, behind_at, &bytes, write).await?;
    }
    // The directories that it counts on come before it, too.
    drive.flush().await?;
    spare.write(drive, 0, &block, write).await?;
    drive.flush().await?;
    Ok(extent)
}
