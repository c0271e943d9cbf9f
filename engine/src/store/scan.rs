//! Reading what a checkpoint counts on: itself, and its slabs' directories, several transfers at once.

use std::rc::Rc;

use super::checkpoint::{self, CHUNK_BLOCKS, Header, Row};
use super::directory::{self, Owner, RECORDS_PER_BLOCK, WrongBlock, directory_blocks};
use super::drive::{Drive, DriveError, ExtentName};
use super::error::OpenError;
use super::identity::{self, Identities, Wrong};
use super::join::in_order;
use super::record::Record;
use super::recovery::Extents;
use super::slab::{Slab, WrongRow};
use super::state::State;
use super::types::{BLOCK_BYTES, StoreId};

/// Blocks that are read at once.
pub(super) const SCAN_BLOCKS: u64 = 256;
/// Transfers under way at once.
const SCANS: usize = 8;

/// The slabs that a checkpoint names.
pub(super) async fn read_checkpoint<D: Drive>(
    drive: &D,
    extents: &Extents<D>,
    header: &Header,
) -> Result<Vec<Row>, OpenError> {
    let name = ExtentName::Checkpoint(header.epoch);
    let extent = &extents[&name];
    let mut body = Vec::with_capacity(header.bytes as usize);
    let chunks = (0..checkpoint::chunks(header.bytes)).map(async |index| {
        let block = 1 + index * CHUNK_BLOCKS;
        let blocks = checkpoint::chunk_blocks(header.bytes, index);
        let chunk = read(drive, extent, block, blocks).await?;
        Ok::<_, OpenError>((index, block, chunk))
    });
    in_order(SCANS, chunks, |(index, block, chunk)| {
        let part = checkpoint::decode_chunk(header, index, chunk.as_ref());
        let part =
            part.map_err(|wrong| OpenError::checksum(name, block, wrong.expected, wrong.found))?;
        body.extend_from_slice(part);
        Ok(())
    })
    .await?;
    Row::decode_all(&body).ok_or_else(|| OpenError::Damaged {
        extent: name,
        block: 1,
        detail: "it says something that this version does not know".into(),
    })
}

/// Who the realms are, as the checkpoint of that header says, whose first block this is. None if it was written by a program that knows
/// nothing of that.
pub(super) async fn read_realms<D: Drive>(
    drive: &D,
    extents: &Extents<D>,
    header: &Header,
    block: &[u8],
) -> Result<Identities, OpenError> {
    let name = ExtentName::Checkpoint(header.epoch);
    let extent = &extents[&name];
    let wrong = |wrong| match wrong {
        Wrong::Damaged { expected, found } => OpenError::checksum(name, 0, expected, found),
        Wrong::Unknown => OpenError::Damaged {
            extent: name,
            block: 0,
            detail: "it says something of realms that this version does not know".into(),
        },
    };
    let Some(bytes) = identity::len(block).map_err(wrong)? else {
        return Ok(Identities::new());
    };
    let at = checkpoint::checkpoint_blocks(header.bytes);
    let blocks = identity::blocks_behind(bytes);
    if drive.blocks(extent) < at + blocks {
        return Err(wrong(Wrong::Unknown));
    }
    let behind = match blocks {
        0 => None,
        blocks => Some(read(drive, extent, at, blocks).await?),
    };
    let behind = behind.as_ref().map_or(&[][..], AsRef::as_ref);
    identity::decode(bytes, block, behind).map_err(wrong)
}

/// A slab that a checkpoint names, and what is known of its directory by now.
struct Slot<'a, D: Drive> {
    row: &'a Row,
    owner: Owner,
    extent: &'a D::Extent,
    records: Vec<Record>,
    /// All that is needed stands in the checkpoint.
    by_table: bool,
}

/// Brings the slabs of a checkpoint into the state. Keys are brought into the index unless it has them.
pub(super) async fn restore_slabs<D: Drive>(
    drive: &D,
    extents: &Extents<D>,
    (store, slab_blocks): (StoreId, u64),
    rows: &[Row],
    is_adopted: bool,
    state: &mut State<D::Extent>,
) -> Result<(), OpenError> {
    let mut slots = Vec::with_capacity(rows.len());
    for row in rows {
        let name = ExtentName::Slab(row.number);
        let extent = extents.get(&name).ok_or_else(|| OpenError::Missing {
            extent: name,
            why: "the checkpoint names it".into(),
        })?;
        let realm = state.realms.get(&row.realm);
        let realm = realm.ok_or(OpenError::UnknownRealm {
            realm: row.realm,
            name: None,
        })?;
        if directory_blocks(row.in_directory.into()) > slab_blocks {
            return Err(wrong_slab(
                row.number,
                slab_blocks,
                "its directory is longer than the slab",
            ));
        }
        slots.push(Slot {
            row,
            owner: Owner {
                store,
                realm: row.realm,
                slab: row.number,
            },
            extent,
            records: Vec::new(),
            // A cache's policy wants to know every blob.
            by_table: is_adopted && row.table.is_some() && realm.eviction.is_none(),
        });
    }
    // Every slab has at least one part, so that they come in their order: what came first is evicted first.
    let mut parts = Vec::new();
    for (place, slot) in slots.iter().enumerate() {
        let blocks = match slot.by_table {
            true => 0,
            false => directory_blocks(slot.row.in_directory.into()),
        };
        let mut index = 0;
        loop {
            let count = (blocks - index).min(SCAN_BLOCKS);
            let is_last = index + count == blocks;
            parts.push((place, slot.extent, index, count, is_last));
            index += count;
            if is_last {
                break;
            }
        }
    }
    let reads = parts
        .into_iter()
        .map(async |(place, extent, index, count, is_last)| {
            let bytes = match count {
                0 => None,
                _ => Some(read(drive, extent, slab_blocks - index - count, count).await?),
            };
            Ok::<_, OpenError>((place, index, bytes, is_last))
        });
    in_order(SCANS, reads, |(place, index, bytes, is_last)| {
        let slot: &mut Slot<'_, D> = &mut slots[place];
        if let Some(bytes) = bytes {
            let wanted = slot.row.in_directory as usize;
            slot.records.reserve_exact(wanted - slot.records.len());
            take_records(
                &slot.owner,
                slab_blocks,
                index,
                bytes.as_ref(),
                wanted,
                &mut slot.records,
            )?;
        }
        match is_last {
            true => restore(slot, slab_blocks, is_adopted, state),
            false => Ok(()),
        }
    })
    .await
}

fn wrong_slab(number: u64, slab_blocks: u64, detail: &str) -> OpenError {
    OpenError::Damaged {
        extent: ExtentName::Slab(number),
        block: slab_blocks - 1,
        detail: detail.into(),
    }
}

/// Brings a slab into the state.
fn restore<D: Drive>(
    slot: &mut Slot<'_, D>,
    slab_blocks: u64,
    is_adopted: bool,
    state: &mut State<D::Extent>,
) -> Result<(), OpenError> {
    let row = slot.row;
    let extent = Rc::new(slot.extent.clone());
    let realm = state
        .realms
        .get_mut(&row.realm)
        .expect("it was looked for before");
    let keys = &mut state.keys;
    let table = row.table.as_ref().filter(|_| slot.by_table);
    let slab = match table {
        Some(table) => Slab::from_table(extent, row, table, slab_blocks),
        None => {
            let mut records = std::mem::take(&mut slot.records);
            records.extend_from_slice(&row.tail);
            let mut blobs = Vec::with_capacity(records.len());
            let eviction = &mut realm.eviction;
            let slab = Slab::from_row(extent, row, records, slab_blocks, |record| {
                let fingerprint = keys.fingerprint(row.realm, &record.key);
                if let Some(eviction) = eviction {
                    eviction.inserted(fingerprint, record.blocks());
                }
                blobs.push((fingerprint, record.location()));
            });
            match is_adopted || keys.insert_all(&blobs) {
                true => slab,
                false => slab.and(Err(WrongRow("two blobs have the same key"))),
            }
        }
    };
    let slab = slab.map_err(|WrongRow(detail)| wrong_slab(row.number, slab_blocks, detail));
    let mut slab = slab?;
    realm.used_blocks += slab.live;
    realm.blobs += slab.blobs();
    slab.seal();
    state.slabs.insert(row.number, slab);
    state.next_slab = state.next_slab.max(row.number + 1);
    Ok(())
}

/// Appends the records of blocks of a directory, from block `index` on, up to `wanted` in all. The first block is the last
/// on the drive.
fn take_records(
    owner: &Owner,
    slab_blocks: u64,
    index: u64,
    bytes: &[u8],
    wanted: usize,
    records: &mut Vec<Record>,
) -> Result<(), OpenError> {
    for (index, block) in (index..).zip(bytes.chunks_exact(BLOCK_BYTES).rev()) {
        let needed = (wanted - records.len()).min(RECORDS_PER_BLOCK);
        let of_block = directory::decode(owner, index, block);
        let of_block = match of_block {
            Ok(of_block) if of_block.len() < needed => Err(WrongBlock::Unknown),
            decoded => decoded,
        };
        let at = slab_blocks - 1 - index;
        let of_block = of_block.map_err(|wrong| wrong_directory(owner, at, wrong))?;
        records.extend_from_slice(&of_block[..needed]);
    }
    Ok(())
}

/// The first `wanted` records of a slab's directory.
pub(super) async fn read_directory<D: Drive>(
    drive: &D,
    owner: &Owner,
    extent: &D::Extent,
    slab_blocks: u64,
    wanted: u32,
) -> Result<Vec<Record>, OpenError> {
    let wanted = wanted as usize;
    let mut records = Vec::with_capacity(wanted);
    let blocks = directory_blocks(wanted as u64);
    let mut index = 0;
    while index < blocks {
        let count = (blocks - index).min(SCAN_BLOCKS);
        let bytes = read(drive, extent, slab_blocks - index - count, count).await?;
        take_records(
            owner,
            slab_blocks,
            index,
            bytes.as_ref(),
            wanted,
            &mut records,
        )?;
        index += count;
    }
    Ok(records)
}

fn wrong_directory(owner: &Owner, block: u64, wrong: WrongBlock) -> OpenError {
    let extent = ExtentName::Slab(owner.slab);
    let detail = match wrong {
        WrongBlock::Damaged { expected, found } => {
            return OpenError::checksum(extent, block, expected, found);
        }
        WrongBlock::Elsewhere => "it is of another directory",
        WrongBlock::Unknown => "it says something that this version does not know",
    };
    OpenError::Damaged {
        extent,
        block,
        detail: detail.into(),
    }
}

pub(super) async fn read<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    block: u64,
    blocks: u64,
) -> Result<D::Buf, DriveError> {
    let buf = drive.buffer(blocks as usize * BLOCK_BYTES)?;
    let (buf, read) = drive.read(extent, block, buf).await;
    read.map(|()| buf)
}
