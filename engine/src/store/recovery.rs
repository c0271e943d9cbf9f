//! Opening a store again after whatever happened.
//!
//! Opening reads the newest checkpoint that was written to its end and the directories of its slabs, applies the frames of
//! the journal that follows it, and those of the next one if that was begun, then writes a checkpoint of its own: from then
//! on nothing of the old journals counts.
//!
//! After a stop that came to its end, the index is taken over as it is, if it was kept and is tied to that checkpoint
//! (`stamp.rs`), and what is kept of slabs in memory comes out of the checkpoint. That an index says nothing else than the
//! slabs is then verified while the log is used (`trust.rs`).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use oriel_dht::region::Section;

use super::checkpoint::{Header, Row, checkpoint_blocks};
use super::drive::{Drive, ExtentName};
use super::error::{OpenError, check_sizes};
use super::identity::{self, Identities};
use super::keys::Keys;
use super::label::{Label, NoLabel, VERSION};
use super::log::{Layout, Log, Spares, Tail};
use super::metrics::Observe;
use super::options::RealmOptions;
use super::pace::Background;
use super::record::RECORD_BYTES;
use super::replay::Replay;
use super::scan::{read, read_checkpoint, read_realms, restore_slabs};
use super::snapshot::{self, Last};
use super::stamp::Stamp;
use super::state::State;
use super::types::{BLOCK_BYTES, RealmId, StoreId};
use crate::clock::{Clock, Moment};

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
    /// Whether the index's memory outlasts this program, as a file's does: closing then leaves what the next start needs to
    /// take the index over, which is 8 bytes for each blob in the last checkpoint.
    pub keeps_index: bool,
    /// What is counted and timed.
    pub observe: Observe,
    /// What it does by itself, and how fast.
    pub background: Background,
}

impl Default for OpenOptions {
    /// Any store, a million blobs, one realm of number 0.
    fn default() -> Self {
        Self {
            store: None,
            blobs_max: 1 << 20,
            realms: vec![RealmOptions::new(RealmId(0))],
            clock: Clock::monotonic(),
            keeps_index: false,
            observe: Observe::default(),
            background: Background::default(),
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
    /// The index was taken over from the last run.
    pub is_adopted: bool,
    /// Where the time went.
    pub phases: Phases,
}

/// What opening spent its time on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phases {
    /// The label and the newest checkpoint.
    pub checkpoint: Duration,
    /// The slabs: their tables or directories, and the index where it is made anew.
    pub slabs: Duration,
    /// The journals.
    pub journals: Duration,
    /// The checkpoint of its own, and what is given back.
    pub writing: Duration,
}

/// Blocks that slabs leave free, for the checkpoint there is and the next one.
pub(super) fn reserve_blocks<E>(layout: &Layout<E>) -> u64 {
    reserve_for(layout.journal_blocks, layout.blobs_max) + 2 * layout.realm_blocks.get()
}

/// The same, of a store with such journals that is opened for so many blobs.
pub(super) fn reserve_for(journal_blocks: u64, blobs_max: u64) -> u64 {
    // Of each blob a bit; of those that were committed since a directory was last written, their records; and rows of the
    // slabs. A journal's frames have no more records than these bytes.
    let records = journal_blocks * BLOCK_BYTES as u64;
    let open = blobs_max.min(1 << 10) * RECORD_BYTES as u64;
    2 * checkpoint_blocks(blobs_max.div_ceil(8) + records + open)
}

/// Whether a drive has the room without which a store could not take a single blob: that of one slab, of the one that
/// compaction needs to begin, and of what is kept free.
pub(super) fn check_room(found: u64, slab_blocks: u64, reserve: u64) -> Result<(), OpenError> {
    let needed = 2 * slab_blocks + reserve;
    match found >= needed {
        true => Ok(()),
        false => Err(OpenError::TooSmall {
            needed,
            found,
            slab_blocks,
        }),
    }
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
    pub(super) is_adopted: bool,
    pub(super) phases: Phases,
}

/// Whether an index that is there may be taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    IfRight,
    Never,
}

/// The time since something, which begins anew.
fn lap(clock: &Clock, since: &mut Moment) -> Duration {
    let now = clock.now();
    now - std::mem::replace(since, now)
}

/// The index that the last run left, if it is that of this checkpoint.
fn adopt(index: &Section, header: &Header, rows: &[Row], blobs_max: u64) -> Option<Keys> {
    let stamp = Stamp::take(index)?;
    let expected = Stamp {
        store: header.store,
        epoch: header.epoch,
        tag: header.tag,
        blobs_max,
    };
    if stamp != expected {
        tracing::info!(
            ?stamp,
            ?expected,
            "the index is of another state, and made anew"
        );
        return None;
    }
    let keys = match Keys::adopt(index.clone(), header.store) {
        Ok(keys) => keys,
        Err(reason) => {
            tracing::info!(%reason, "the index is made anew");
            return None;
        }
    };
    let blobs: u64 = rows.iter().map(Row::blobs).sum();
    (keys.len() == blobs).then_some(keys)
}

/// Reads what is on a store's drive, and writes nothing.
pub(super) async fn load<D: Drive>(
    drive: &D,
    index: Section,
    options: &OpenOptions,
    may: Use,
) -> Result<Loaded<D>, OpenError> {
    let mut began = options.clock.now();
    let extents: Extents<D> = drive.extents().await?.into_iter().collect();
    let label_extent = extents
        .get(&ExtentName::Label)
        .ok_or(OpenError::NotFormatted)?;
    let label = match read_label(drive, label_extent).await {
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
        label: label_extent.clone(),
        version: Cell::new(label.version),
        slab_blocks: label.slab_blocks,
        journals: [journal(0)?, journal(1)?],
        journal_blocks: label.journal_blocks,
        blobs_max: options.blobs_max,
        realm_blocks: Cell::new(0),
    };

    let (header, known) = newest_checkpoint(drive, &extents, label.store).await?;
    let named = |error| match error {
        OpenError::UnknownRealm { realm, .. } => {
            let name = known.get(&realm).and_then(|known| known.name.clone());
            OpenError::UnknownRealm { realm, name }
        }
        error => error,
    };
    let rows = read_checkpoint(drive, &extents, &header).await?;
    let mut phases = Phases {
        checkpoint: lap(&options.clock, &mut began),
        ..Phases::default()
    };
    let blobs_max = options.blobs_max;
    let adopted = match may {
        Use::IfRight => adopt(&index, &header, &rows, blobs_max),
        Use::Never => None,
    };
    let is_adopted = adopted.is_some();
    let keys = match adopted {
        Some(keys) => keys,
        None => Keys::new(index, label.store, blobs_max)?,
    };
    let mut state = State::new(keys, &options.realms, header.next_slab);
    restore_slabs(
        drive,
        &extents,
        (label.store, label.slab_blocks),
        &rows,
        is_adopted,
        &mut state,
    )
    .await
    .map_err(named)?;
    drop(rows);
    phases.slabs = lap(&options.clock, &mut began);
    state.stat.blobs = state.keys.len();
    let replay = Replay {
        drive,
        layout: &layout,
        extents: &extents,
    };
    // An index is taken over where nothing follows the checkpoint: then there is nothing to look for.
    let tail = match is_adopted {
        true => header.tail(),
        false => replay.replay(&header, &mut state).await.map_err(named)?,
    };
    phases.journals = lap(&options.clock, &mut began);
    let blobs = state.keys.len();
    if blobs > blobs_max {
        let max = blobs_max;
        return Err(OpenError::TooManyBlobs { blobs, max });
    }
    let has_blobs = |id| state.realms.get(&id).is_some_and(|realm| realm.blobs > 0);
    identity::compare(&known, &options.realms, has_blobs)?;
    for (id, realm) in &mut state.realms {
        // Who opens it without names leaves those that there are.
        let known = known.get(id).and_then(|known| known.name.as_ref());
        let name = &mut realm.options.name;
        *name = name.take().or_else(|| known.cloned());
    }
    layout.count_realms(&state);
    Ok(Loaded {
        layout,
        state,
        header,
        tail,
        extents,
        is_adopted,
        phases,
    })
}

/// Opens the store on a drive, with an index in that section: the one that is there, if it was kept when this store was
/// last closed and nothing has happened since, or else one that is made anew, whatever is there.
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
        is_adopted,
        phases,
    } = load(&drive, index, options, Use::IfRight).await?;
    let mut began = options.clock.now();
    let mut recovery = Recovery {
        from_checkpoint: std::mem::take(&mut state.stat.blobs),
        frames: tail.sequence - header.sequence,
        slabs_dropped: 0,
        is_adopted,
        phases,
    };
    // Slabs that hold nothing, were made and never came into the journal, or were not given back in time.
    state.changed.extend(state.slabs.keys());
    state.retire();
    state.retired.clear();
    state.leaving.clear();
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
    if state.slabs.is_empty() && recovery.slabs_dropped == 0 {
        // What holds blobs is opened in any case, to be read. Checkpoints of the past, which may be large ones, are about to go.
        let freed = leftovers.iter().map(|extent| drive.blocks(extent));
        let found = drive.free_blocks() + freed.sum::<u64>();
        check_room(found, layout.slab_blocks, reserve_blocks(&layout))?;
    }
    let (epoch, sequence) = (tail.epoch + 1, tail.sequence);
    let snapshot = snapshot::snapshot(&mut state, &layout, epoch, sequence, Last::No);
    let spares = Spares::new(&drive)?;
    let (header, body) = (&snapshot.header, &snapshot.body);
    let realms = identity::encode(&snapshot.realms);
    let spare = &spares.maintenance;
    let written = snapshot::write_checkpoint(&drive, spare, header, body, &realms).await?;
    state.have_recorded(&snapshot.realms);
    for extent in leftovers {
        drive.delete(extent).await?;
    }
    let tail = Tail {
        epoch: snapshot.header.epoch,
        block: 0,
        ..tail
    };
    recovery.phases.writing = lap(&options.clock, &mut began);
    let log = Log::new(drive, spares, layout, options, state, tail);
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

/// The newest checkpoint that was written to its end, and the realms that it knows.
async fn newest_checkpoint<D: Drive>(
    drive: &D,
    extents: &Extents<D>,
    store: StoreId,
) -> Result<(Header, Identities), OpenError> {
    let mut torn = None;
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
        let Some(header) = header.filter(fits) else {
            continue;
        };
        match read_realms(drive, extents, &header, block.as_ref()).await {
            Ok(realms) => return Ok((header, realms)),
            // A block may be written in part: then the one before it is still there.
            Err(error @ OpenError::Damaged { .. }) => torn = torn.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = torn {
        return Err(error);
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
