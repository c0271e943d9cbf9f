//! Opening a store again after whatever happened.
//!
//! Opening reads the newest checkpoint that was written to its end and the directories of its slabs, applies the frames of
//! the journal that follows it, and those of the next one if that was begun, then writes a checkpoint of its own: from then
//! on nothing of the old journals counts.

use std::collections::BTreeMap;
use std::rc::Rc;

use oriel_dht::region::Section;

use super::checkpoint::{self, CHUNK_BLOCKS, Header, Row, checkpoint_blocks};
use super::directory::{self, Owner, RECORDS_PER_BLOCK, WrongBlock, directory_blocks};
use super::drive::{Drive, DriveError, ExtentName};
use super::error::{OpenError, check_sizes};
use super::frame::{self, Entry, FRAME_BLOCKS_MAX, Found};
use super::journal;
use super::keys::Keys;
use super::label::{Label, NoLabel, VERSION};
use super::log::{Layout, Log, RealmOptions, Tail};
use super::record::{RECORD_BYTES, Record};
use super::slab::{Slab, WrongRow};
use super::state::State;
use super::types::{BLOCK_BYTES, RealmId, StoreId};
use crate::clock::Clock;

/// Blocks that are read at once.
const SCAN_BLOCKS: u64 = 256;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The store that it has to be; any if `None`.
    pub store: Option<StoreId>,
    /// Blobs that it may hold. Room for two checkpoints of so many is kept free.
    pub blobs_max: u64,
    /// The realms. Those that have blobs on the drive have to be among them.
    pub realms: Vec<RealmOptions>,
    /// The time that deadlines are read on.
    pub clock: Clock,
}

impl Default for OpenOptions {
    /// Any store, a million blobs, one realm of number 0.
    fn default() -> Self {
        Self {
            store: None,
            blobs_max: 1 << 20,
            realms: vec![RealmOptions::new(RealmId(0))],
            clock: Clock::monotonic(),
        }
    }
}

/// What opening found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Blobs that the checkpoint knew.
    pub from_checkpoint: u64,
    /// Frames of the journals after it.
    pub frames: u64,
    /// Slabs without a blob, given back to the drive.
    pub slabs_dropped: u64,
}

/// Blocks that slabs leave free, for the checkpoint there is and the next one.
pub(super) fn reserve_blocks<E>(layout: &Layout<E>) -> u64 {
    // Of each blob a bit; of those that were committed since a directory was last written, their records; and rows of the
    // slabs. A journal's frames have no more records than these bytes.
    let records = layout.journal_blocks * BLOCK_BYTES as u64;
    let open = layout.blobs_max.min(1 << 10) * RECORD_BYTES as u64;
    2 * checkpoint_blocks(layout.blobs_max.div_ceil(8) + records + open)
}

/// Whether a store was ever opened there: opening writes a checkpoint. A label that is not whole is otherwise that of a
/// format that did not come to its end.
pub(super) fn was_opened<'a>(mut names: impl Iterator<Item = &'a ExtentName>) -> bool {
    names.any(|name| match name {
        ExtentName::Slab(_) => true,
        ExtentName::Checkpoint(epoch) => *epoch > 0,
        ExtentName::Label | ExtentName::Journal(_) | ExtentName::Roster(_) => false,
    })
}

/// The extents of a drive, by name.
pub(super) type Extents<D> = BTreeMap<ExtentName, <D as Drive>::Extent>;

/// What is on a store's drive.
pub(super) struct Loaded<D: Drive> {
    pub(super) layout: Layout<D::Extent>,
    pub(super) state: State<D::Extent>,
    /// Of the newest checkpoint.
    pub(super) header: Header,
    /// Where the journal ends.
    pub(super) tail: Tail,
    pub(super) extents: Extents<D>,
}

/// Reads what is on a store's drive, and writes nothing.
pub(super) async fn load<D: Drive>(
    drive: &D,
    index: Section,
    options: &OpenOptions,
) -> Result<Loaded<D>, OpenError> {
    let extents: Extents<D> = drive.extents().await?.into_iter().collect();
    let label = extents
        .get(&ExtentName::Label)
        .ok_or(OpenError::NotFormatted)?;
    let label = match read_label(drive, label).await {
        Err(OpenError::Damaged { .. }) if !was_opened(extents.keys()) => {
            return Err(OpenError::NotFormatted);
        }
        label => label?,
    };
    check_sizes(label.slab_blocks, label.journal_blocks)?;
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

    let header = newest_checkpoint(drive, &extents, label.store).await?;
    let keys = Keys::new(index, label.store, options.blobs_max)?;
    let mut state = State::new(keys, &options.realms, header.next_slab);
    let mut reader = Reader {
        drive,
        layout: &layout,
        extents: &extents,
    };
    reader.read_checkpoint(&header, &mut state).await?;
    state.stat.blobs = state.keys.len();
    let tail = reader.replay(&header, &mut state).await?;
    let blobs = state.keys.len();
    if blobs > options.blobs_max {
        let max = options.blobs_max;
        return Err(OpenError::TooManyBlobs { blobs, max });
    }
    Ok(Loaded {
        layout,
        state,
        header,
        tail,
        extents,
    })
}

/// Opens the store on a drive, with an index in that section, whatever is there.
pub async fn open<D: Drive>(
    drive: D,
    index: Section,
    options: &OpenOptions,
) -> Result<(Log<D>, Recovery), OpenError> {
    let Loaded {
        layout,
        mut state,
        header,
        tail,
        extents,
    } = load(&drive, index, options).await?;
    let mut recovery = Recovery {
        from_checkpoint: std::mem::take(&mut state.stat.blobs),
        frames: tail.sequence - header.sequence,
        slabs_dropped: 0,
    };
    // Slabs that hold nothing, were made and never came into the journal, or were not given back in time.
    state.retire();
    state.retired.clear();
    let mut leftovers = Vec::new();
    for (name, extent) in extents {
        match name {
            ExtentName::Slab(number) if !state.slabs.contains_key(&number) => {
                state.next_slab = state.next_slab.max(number + 1);
                recovery.slabs_dropped += 1;
                leftovers.push(extent);
            }
            // Not written to its end; the next one may have its name.
            ExtentName::Checkpoint(epoch) if epoch > header.epoch => drive.delete(extent).await?,
            // The newest may be in a drive's cache alone, so the one before stays until there is another.
            ExtentName::Checkpoint(_) => leftovers.push(extent),
            _ => {}
        }
    }
    let snapshot = journal::snapshot(&mut state, &layout, tail.epoch + 1, tail.sequence);
    let written = journal::write_checkpoint(&drive, &snapshot.header, &snapshot.body).await?;
    for extent in leftovers {
        drive.delete(extent).await?;
    }
    let tail = Tail {
        epoch: snapshot.header.epoch,
        block: 0,
        ..tail
    };
    let log = Log::new(drive, layout, options.clock.clone(), state, tail);
    log.checkpoint.replace(Some(written));
    Ok((log, recovery))
}

pub(super) async fn read_label<D: Drive>(
    drive: &D,
    extent: &D::Extent,
) -> Result<Label, OpenError> {
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
                && drive.blocks(extent) >= checkpoint_blocks(header.bytes)
        };
        if let Some(header) = header.filter(fits) {
            return Ok(header);
        }
    }
    // The oldest one was whole once: the one before is deleted only then.
    let mut names = extents.keys();
    let oldest = names.find(|name| matches!(name, ExtentName::Checkpoint(_)));
    Err(match oldest {
        Some(oldest) => OpenError::Damaged {
            extent: *oldest,
            block: 0,
            detail: "no checkpoint on the drive has a whole header".into(),
        },
        None => OpenError::Missing {
            extent: ExtentName::Checkpoint(0),
            why: "a store always has one".into(),
        },
    })
}

/// Reads what a store's drive says.
struct Reader<'a, D: Drive> {
    drive: &'a D,
    layout: &'a Layout<D::Extent>,
    extents: &'a Extents<D>,
}

impl<D: Drive> Reader<'_, D> {
    async fn read_checkpoint(
        &mut self,
        header: &Header,
        state: &mut State<D::Extent>,
    ) -> Result<(), OpenError> {
        let name = ExtentName::Checkpoint(header.epoch);
        let extent = &self.extents[&name];
        let mut body = Vec::new();
        for index in 0..checkpoint::chunks(header.bytes) {
            let block = 1 + index * CHUNK_BLOCKS;
            let blocks = checkpoint::chunk_blocks(header.bytes, index);
            let chunk = read(self.drive, extent, block, blocks).await?;
            let part = checkpoint::decode_chunk(header, index, chunk.as_ref());
            let part = part
                .map_err(|wrong| OpenError::checksum(name, block, wrong.expected, wrong.found))?;
            body.extend_from_slice(part);
        }
        let rows = Row::decode_all(&body).ok_or_else(|| OpenError::Damaged {
            extent: name,
            block: 1,
            detail: "it says something that this version does not know".into(),
        })?;
        for row in rows {
            self.read_slab(&row, state).await?;
        }
        Ok(())
    }

    async fn read_slab(
        &mut self,
        row: &Row,
        state: &mut State<D::Extent>,
    ) -> Result<(), OpenError> {
        let name = ExtentName::Slab(row.number);
        let extent = self.extents.get(&name).ok_or_else(|| OpenError::Missing {
            extent: name,
            why: "the checkpoint names it".into(),
        })?;
        let slab_blocks = self.layout.slab_blocks;
        let damaged = |detail: &str| OpenError::Damaged {
            extent: name,
            block: slab_blocks - 1,
            detail: detail.into(),
        };
        if directory_blocks(u64::from(row.in_directory)) > slab_blocks {
            return Err(damaged("its directory is longer than the slab"));
        }
        let owner = Owner {
            store: self.layout.store,
            realm: row.realm,
            slab: row.number,
        };
        let count = row.in_directory;
        let mut records = read_directory(self.drive, &owner, extent, slab_blocks, count).await?;
        records.extend_from_slice(&row.tail);
        let realm = state.realms.get_mut(&row.realm);
        let realm = realm.ok_or(OpenError::UnknownRealm { realm: row.realm })?;
        let (keys, blobs) = (&mut state.keys, &mut realm.blobs);
        let eviction = &mut realm.eviction;
        let slab = Slab::from_row(
            Rc::new(extent.clone()),
            row,
            records,
            slab_blocks,
            |record| {
                let fingerprint = keys.fingerprint(row.realm, &record.key);
                *blobs += 1;
                if let Some(eviction) = eviction {
                    eviction.inserted(fingerprint, record.blocks());
                }
                keys.insert(fingerprint, record.location())
                    .map_err(|_| WrongRow("two blobs have the same key"))
            },
        );
        let mut slab = slab.map_err(|WrongRow(detail)| damaged(detail))?;
        realm.used_blocks += slab.live;
        slab.seal();
        state.slabs.insert(row.number, slab);
        state.next_slab = state.next_slab.max(row.number + 1);
        Ok(())
    }

    /// Applies the frames that follow the checkpoint, and gives the place of the next one.
    async fn replay(
        &mut self,
        header: &Header,
        state: &mut State<D::Extent>,
    ) -> Result<Tail, OpenError> {
        let start = Tail {
            epoch: header.epoch,
            sequence: header.sequence,
            block: 0,
        };
        let end = self.replay_journal(start, state).await?;
        // The next checkpoint was begun before the power went, or not: its journal tells.
        let next = Tail {
            epoch: end.epoch + 1,
            block: 0,
            ..end
        };
        let last = self.replay_journal(next, state).await?;
        match last.block {
            0 => Ok(end),
            _ => Ok(last),
        }
    }

    async fn replay_journal(
        &mut self,
        mut tail: Tail,
        state: &mut State<D::Extent>,
    ) -> Result<Tail, OpenError> {
        let which = tail.epoch & 1;
        let name = ExtentName::Journal(which as u8);
        let journal = &self.layout.journals[which as usize];
        loop {
            let place = frame::Place {
                store: self.layout.store,
                epoch: tail.epoch,
                sequence: tail.sequence,
                block: tail.block,
            };
            let left = self.layout.journal_blocks - tail.block;
            if left == 0 {
                return Ok(tail);
            }
            let blocks = left.min(FRAME_BLOCKS_MAX);
            let bytes = read(self.drive, journal, tail.block, blocks).await?;
            match frame::decode(bytes.as_ref(), &place) {
                Found::Frame { entries, blocks } => {
                    self.apply(state, &entries, name, tail.block)?;
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
                    check_end(self.drive, journal, name, &place, left).await?;
                    return Ok(tail);
                }
            }
        }
    }

    fn apply(
        &mut self,
        state: &mut State<D::Extent>,
        entries: &[Entry],
        journal: ExtentName,
        block: u64,
    ) -> Result<(), OpenError> {
        for entry in entries {
            if let Entry::Slab(number, realm) = entry {
                let name = ExtentName::Slab(number.0);
                let missing = || OpenError::Missing {
                    extent: name,
                    why: format!("{journal}, block {block}, names it"),
                };
                let extent = self.extents.get(&name).ok_or_else(missing)?;
                if !state.realms.contains_key(realm) {
                    return Err(OpenError::UnknownRealm { realm: *realm });
                }
                let mut slab = Slab::new(Rc::new(extent.clone()), *realm);
                slab.seal();
                // One that was made before the checkpoint is in it already.
                state.slabs.entry(number.0).or_insert(slab);
            }
            let applied = state.apply(entry, self.layout.slab_blocks);
            applied.map_err(|contradiction| OpenError::Damaged {
                extent: journal,
                block,
                detail: contradiction.0.into(),
            })?;
        }
        Ok(())
    }
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
        for block in bytes.as_ref().chunks_exact(BLOCK_BYTES).rev() {
            let needed = (wanted - records.len()).min(RECORDS_PER_BLOCK);
            let of_block = directory::decode(owner, index, block);
            let of_block = match of_block {
                Ok(of_block) if of_block.len() < needed => Err(WrongBlock::Unknown),
                decoded => decoded,
            };
            let at = slab_blocks - 1 - index;
            let of_block = of_block.map_err(|wrong| wrong_directory(owner, at, wrong))?;
            records.extend_from_slice(&of_block[..needed]);
            index += 1;
        }
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
            // A frame is written once, so one of the same number is the one that is missing, gone astray.
            Found::Elsewhere(found) => found.sequence >= end.sequence,
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
