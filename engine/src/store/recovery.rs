//! Making a store, opening it again, and the checkpoints in between.
//!
//! ```text
//!  checkpoint 6   journal 0 (epoch 6)     the journal is full: the table goes to checkpoint 7, then its header
//!  checkpoint 7   journal 1 (epoch 7)     from here on only this counts; checkpoint 6 is deleted
//! ```
//!
//! Opening takes the checkpoint of the highest epoch that was written to its end, applies the frames of its journal up to
//! the first that is not there, and writes a checkpoint of its own before anything else happens. That a frame is not there
//! is the rule at the end of a journal. Where a later one is, something that was durable has been lost, and that is told.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::checkpoint::{
    CHUNK_BLOCKS, CHUNK_BYTES, CHUNK_RECORDS, Header, Label, NoLabel, VERSION, checkpoint_blocks,
    chunks, decode_chunk, encode_chunk,
};
use super::drive::{Drive, DriveError, ExtentName};
use super::error::{OpenError, check_sizes};
use super::frame::{self, FRAME_BLOCKS_MAX, Found};
use super::log::{Layout, Log, Slab, State, Tail};
use super::record::Record;
use super::types::{BLOCK_BYTES, StoreId};

/// Blocks that are read at once where a journal is searched.
const SCAN_BLOCKS: u64 = 256;

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

/// How a store is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// The store that it has to be; any if `None`.
    pub store: Option<StoreId>,
    /// Blobs that it may hold. Room for two checkpoints of so many is kept free.
    pub blobs_max: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            store: None,
            blobs_max: 1 << 20,
        }
    }
}

/// What opening found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Blobs in the checkpoint.
    pub from_checkpoint: u64,
    /// Frames of the journal after it.
    pub frames: u64,
    /// Slabs without a blob, given back to the drive.
    pub slabs_dropped: u64,
}

/// Blocks that slabs leave free, for the checkpoint there is and the next one.
pub(super) fn reserve_blocks(blobs_max: u64) -> u64 {
    2 * checkpoint_blocks(blobs_max)
}

/// Makes a store on a drive without extents.
pub async fn format<D: Drive>(
    drive: &D,
    store: StoreId,
    options: &FormatOptions,
) -> Result<(), OpenError> {
    check_sizes(options.slab_blocks, options.journal_blocks)?;
    for (name, extent) in drive.extents().await? {
        if name == ExtentName::Label {
            return Err(match read_label(drive, &extent).await {
                Ok(label) => OpenError::Formatted { store: label.store },
                Err(error) => error,
            });
        }
        // Left by a format that did not come to its end: the label is the last thing it makes.
        drive.delete(extent).await?;
    }
    let mut journals = Vec::new();
    for number in [0, 1] {
        let name = ExtentName::Journal(number);
        let journal = drive.create(name, options.journal_blocks).await?;
        // What is in a new extent is undefined: it may be another time's frames of the same store.
        write_zeroes(drive, &journal, options.journal_blocks).await?;
        journals.push(journal);
    }
    let header = Header {
        store,
        epoch: 0,
        next_slab: 1,
        records: 0,
        sequence: 0,
    };
    let checkpoint = drive
        .create(ExtentName::Checkpoint(0), checkpoint_blocks(0))
        .await?;
    write_block(drive, &checkpoint, |block| header.encode(block)).await?;
    drive.flush().await?;
    let label = Label {
        store,
        slab_blocks: options.slab_blocks,
        journal_blocks: options.journal_blocks,
    };
    let extent = drive.create(ExtentName::Label, 1).await?;
    write_block(drive, &extent, |block| label.encode(block)).await?;
    drive.flush().await?;
    Ok(())
}

/// Opens the store on a drive.
pub async fn open<D: Drive>(
    drive: D,
    options: &OpenOptions,
) -> Result<(Log<D>, Recovery), OpenError> {
    let extents: BTreeMap<ExtentName, D::Extent> = drive.extents().await?.into_iter().collect();
    let label = extents
        .get(&ExtentName::Label)
        .ok_or(OpenError::NotFormatted)?;
    let label = read_label(&drive, label).await?;
    if let Some(expected) = options.store.filter(|expected| *expected != label.store) {
        let found = label.store;
        return Err(OpenError::OtherStore { expected, found });
    }
    let journal = |number| {
        let extent = ExtentName::Journal(number);
        let why = || "every store has two".to_owned();
        let missing = || OpenError::Missing { extent, why: why() };
        extents.get(&extent).cloned().ok_or_else(missing)
    };
    let layout = Layout {
        store: label.store,
        slab_blocks: label.slab_blocks,
        journals: [journal(0)?, journal(1)?],
        journal_blocks: label.journal_blocks,
        blobs_max: options.blobs_max,
    };

    let header = newest_checkpoint(&drive, &extents, label.store).await?;
    let mut recovery = Recovery {
        from_checkpoint: header.records,
        ..Recovery::default()
    };
    let mut state = State::new(header.next_slab);
    for (name, extent) in &extents {
        if let ExtentName::Slab(number) = *name {
            state.next_slab = state.next_slab.max(number + 1);
            let slab = Slab {
                extent: Rc::new(extent.clone()),
                live: 0,
                pending: 0,
            };
            state.slabs.insert(number, slab);
        }
    }
    for record in read_records(&drive, &extents, &header).await? {
        state.apply(&frame::Entry::Put(record), label.slab_blocks);
    }
    let tail = replay(&drive, &layout, &header, &mut state).await?;
    recovery.frames = tail.sequence - header.sequence;
    check_windows(&state, label.slab_blocks)?;

    let log = Log::new(drive, layout, state, tail);
    for (name, extent) in extents {
        match name {
            // The next one takes its place.
            ExtentName::Checkpoint(epoch) if epoch == header.epoch => {
                log.checkpoint.replace(Some(extent));
            }
            // Not written to its end, or older and not deleted in time.
            ExtentName::Checkpoint(_) => log.drive.delete(extent).await?,
            _ => {}
        }
    }
    write_checkpoint(&log).await?;
    recovery.slabs_dropped = drop_empty_slabs(&log).await?;
    Ok((log, recovery))
}

async fn read_label<D: Drive>(drive: &D, extent: &D::Extent) -> Result<Label, OpenError> {
    let block = read(drive, extent, 0, 1).await?;
    Label::decode(block.as_ref()).map_err(|wrong| match wrong {
        NoLabel::Foreign => OpenError::Damaged {
            extent: ExtentName::Label,
            block: 0,
            detail: "it does not start with ORIELLOG".into(),
        },
        NoLabel::Newer { version } => OpenError::Newer {
            version,
            known: VERSION,
        },
        NoLabel::Damaged { expected, found } => {
            OpenError::checksum(ExtentName::Label, 0, expected, found)
        }
    })
}

async fn newest_checkpoint<D: Drive>(
    drive: &D,
    extents: &BTreeMap<ExtentName, D::Extent>,
    store: StoreId,
) -> Result<Header, OpenError> {
    for (name, extent) in extents.iter().rev() {
        let ExtentName::Checkpoint(epoch) = *name else {
            continue;
        };
        let block = read(drive, extent, 0, 1).await?;
        let header = Header::decode(block.as_ref());
        let fits = |header: &Header| {
            (header.store, header.epoch) == (store, epoch)
                && drive.blocks(extent) >= checkpoint_blocks(header.records)
        };
        if let Some(header) = header.filter(fits) {
            return Ok(header);
        }
    }
    Err(OpenError::Missing {
        extent: ExtentName::Checkpoint(0),
        why: "no checkpoint on the drive was written to its end".into(),
    })
}

async fn read_records<D: Drive>(
    drive: &D,
    extents: &BTreeMap<ExtentName, D::Extent>,
    header: &Header,
) -> Result<Vec<Record>, OpenError> {
    let name = ExtentName::Checkpoint(header.epoch);
    let extent = &extents[&name];
    let mut records = Vec::new();
    for index in 0..chunks(header.records) {
        let block = 1 + index * CHUNK_BLOCKS;
        let chunk = read(drive, extent, block, CHUNK_BLOCKS).await?;
        let chunk = decode_chunk(header, index, chunk.as_ref())
            .map_err(|wrong| OpenError::checksum(name, block, wrong.expected, wrong.found))?;
        records.extend(chunk);
    }
    Ok(records)
}

/// Applies the frames that follow the checkpoint, and gives the place of the next one.
async fn replay<D: Drive>(
    drive: &D,
    layout: &Layout<D::Extent>,
    header: &Header,
    state: &mut State<D::Extent>,
) -> Result<Tail, OpenError> {
    let name = ExtentName::Journal((header.epoch & 1) as u8);
    let journal = &layout.journals[(header.epoch & 1) as usize];
    let mut tail = Tail {
        epoch: header.epoch,
        sequence: header.sequence,
        block: 0,
    };
    loop {
        let place = frame::Place {
            store: layout.store,
            epoch: tail.epoch,
            sequence: tail.sequence,
            block: tail.block,
        };
        let left = layout.journal_blocks - tail.block;
        if left == 0 {
            return Ok(tail);
        }
        let bytes = read(drive, journal, tail.block, left.min(FRAME_BLOCKS_MAX)).await?;
        match frame::decode(bytes.as_ref(), &place) {
            Found::Frame { entries, blocks } => {
                for entry in &entries {
                    state.apply(entry, layout.slab_blocks);
                }
                tail.sequence += 1;
                tail.block += blocks;
            }
            Found::Unknown => {
                return Err(OpenError::Damaged {
                    extent: name,
                    block: tail.block,
                    detail: "a frame says something that this version does not know".into(),
                });
            }
            Found::Nothing | Found::Elsewhere(_) => {
                check_end(drive, journal, name, &place, left).await?;
                return Ok(tail);
            }
        }
    }
}

/// A journal ends at a frame that is not there. One that was written later shows that it was there once.
async fn check_end<D: Drive>(
    drive: &D,
    journal: &D::Extent,
    name: ExtentName,
    end: &frame::Place,
    left: u64,
) -> Result<(), OpenError> {
    let whole = end.block + left;
    let mut block = end.block;
    let mut bytes = read(drive, journal, block, left.min(SCAN_BLOCKS)).await?;
    let mut start = block;
    while block < whole {
        // The longest frame that may begin here is to be seen whole.
        let needed = (block + FRAME_BLOCKS_MAX).min(whole);
        if needed > start + (bytes.as_ref().len() / BLOCK_BYTES) as u64 {
            bytes = read(drive, journal, block, (whole - block).min(SCAN_BLOCKS)).await?;
            start = block;
        }
        let at = (block - start) as usize * BLOCK_BYTES;
        let place = frame::Place { block, ..*end };
        let later = match frame::decode(&bytes.as_ref()[at..], &place) {
            Found::Elsewhere(found) => found.sequence > end.sequence,
            Found::Frame { .. } | Found::Unknown => block != end.block,
            Found::Nothing => false,
        };
        if later {
            return Err(OpenError::Damaged {
                extent: name,
                block: end.block,
                detail: format!(
                    "frame {} of epoch {} is not there, but a later one is, at block {block}",
                    end.sequence, end.epoch
                ),
            });
        }
        block += 1;
    }
    Ok(())
}

/// Every record's window lies in a slab that is there.
fn check_windows<E>(state: &State<E>, slab_blocks: u64) -> Result<(), OpenError> {
    for record in state.table.values() {
        let (number, start) = (
            record.position.0 / slab_blocks,
            record.position.0 % slab_blocks,
        );
        let extent = ExtentName::Slab(number);
        let key = record.key;
        if !state.slabs.contains_key(&number) {
            let why = format!("the blob {key} lies in it");
            return Err(OpenError::Missing { extent, why });
        }
        if start + record.blocks() > slab_blocks {
            return Err(OpenError::Damaged {
                extent,
                block: start,
                detail: format!("the blob {key} would reach beyond the slab's end"),
            });
        }
    }
    Ok(())
}

async fn drop_empty_slabs<D: Drive>(log: &Log<D>) -> Result<u64, OpenError> {
    let empty: Vec<Rc<D::Extent>> = {
        let mut state = log.state.borrow_mut();
        let numbers: Vec<u64> = state
            .slabs
            .iter()
            .filter_map(|(number, slab)| (slab.live == 0).then_some(*number))
            .collect();
        let slabs = &mut state.slabs;
        numbers
            .iter()
            .filter_map(|number| slabs.remove(number))
            .map(|slab| slab.extent)
            .collect()
    };
    for extent in &empty {
        log.drive.delete((**extent).clone()).await?;
    }
    Ok(empty.len() as u64)
}

/// Writes all that the log knows, and begins the other journal. The caller sees to it that nothing changes meanwhile.
pub(super) async fn write_checkpoint<D: Drive>(log: &Log<D>) -> Result<(), DriveError> {
    let tail = log.tail.get();
    let (records, next_slab) = {
        let state = log.state.borrow();
        let mut records: Vec<Record> = state.table.values().copied().collect();
        records.sort_unstable_by_key(|record| record.position);
        (records, state.next_slab)
    };
    let header = Header {
        store: log.layout.store,
        epoch: tail.epoch + 1,
        next_slab,
        records: records.len() as u64,
        sequence: tail.sequence,
    };
    let drive = &log.drive;
    let name = ExtentName::Checkpoint(header.epoch);
    let extent = drive
        .create(name, checkpoint_blocks(header.records))
        .await?;
    for (index, chunk) in (0..).zip(records.chunks(CHUNK_RECORDS)) {
        let mut buf = drive.buffer(CHUNK_BYTES)?;
        encode_chunk(&header, index, chunk, buf.as_mut());
        let (_, written) = drive.write(&extent, 1 + index * CHUNK_BLOCKS, buf).await;
        written?;
    }
    drive.flush().await?;
    write_block(drive, &extent, |block| header.encode(block)).await?;
    drive.flush().await?;
    log.tail.set(Tail {
        epoch: header.epoch,
        sequence: header.sequence,
        block: 0,
    });
    let before = log.checkpoint.replace(Some(extent));
    if let Some(before) = before {
        drive.delete(before).await?;
    }
    Ok(())
}

async fn read<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    block: u64,
    blocks: u64,
) -> Result<D::Buf, DriveError> {
    let buf = drive.buffer(blocks as usize * BLOCK_BYTES)?;
    let (buf, read) = drive.read(extent, block, buf).await;
    read.map(|()| buf)
}

async fn write_block<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    fill: impl FnOnce(&mut [u8]),
) -> Result<(), DriveError> {
    let mut buf = drive.buffer(BLOCK_BYTES)?;
    fill(buf.as_mut());
    drive.write(extent, 0, buf).await.1
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
