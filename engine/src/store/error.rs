//! What can go wrong, each with what to do.

use std::path::PathBuf;
use std::sync::Arc;

use super::drive::{DriveError, ExtentName};
use super::types::{BLOCK_BYTES, Key, Position, RealmId, StoreId};

/// Why an operation was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A blob of no bytes.
    #[error("a blob has at least one byte: leave empty ones out")]
    Empty,
    /// A blob longer than a slab holds.
    #[error(
        "a blob of {bytes} bytes is longer than the {max} that a slab of this store holds: put it in parts, through the store of all drives"
    )]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// A realm that is not configured.
    #[error("{realm} is not one of this store's: configure it, or use another")]
    UnknownRealm {
        /// What was asked for.
        realm: RealmId,
    },
    /// A realm has all that it may have.
    #[error(
        "{realm} may hold {quota} blocks, which have no room for this blob: delete blobs of it, or raise its quota"
    )]
    OverQuota {
        /// Which.
        realm: RealmId,
        /// What it may have.
        quota: u64,
    },
    /// A cache has all that it may have, and nothing of it can go.
    #[error(
        "{realm} holds its {quota} blocks, and all of it is pinned or still being put: unpin some, wait until a put or a pin ends, or raise its quota"
    )]
    CacheHeld {
        /// Which.
        realm: RealmId,
        /// What it may have.
        quota: u64,
    },
    /// More pinned than a realm may keep.
    #[error(
        "{realm} keeps {most} blocks of pinned blobs at most: unpin some, or wait for their time to end"
    )]
    TooManyPins {
        /// Which.
        realm: RealmId,
        /// The most of it.
        most: u64,
    },
    /// A buffer that is not a blob's window.
    #[error(
        "the buffer has {found} bytes, and the blob's window {expected}: give it a buffer of so many"
    )]
    BufferSize {
        /// Bytes of the window.
        expected: u64,
        /// Bytes of the buffer.
        found: u64,
    },
    /// A transfer of parts of blocks.
    #[error(
        "{bytes} bytes from byte {offset} on are not whole blocks of {BLOCK_BYTES} bytes: begin and end at one"
    )]
    NotWholeBlocks {
        /// The first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// A window that nobody may write or commit.
    #[error(
        "{position} is in no window that is reserved in this realm: its deadline has passed, or it was committed; reserve another"
    )]
    NotReserved {
        /// What was asked for.
        position: Position,
    },
    /// Blocks of no blob.
    #[error(
        "{position} is in no window of a blob of this realm: the blob has moved or is gone; locate the key again"
    )]
    NoWindow {
        /// What was asked for.
        position: Position,
    },
    /// A read of more than one window.
    #[error(
        "{blocks} blocks from {position} on go beyond the window there, which has {window}: read one window at a time"
    )]
    BeyondWindow {
        /// The first of them.
        position: Position,
        /// How many.
        blocks: u64,
        /// Blocks of that window.
        window: u64,
    },
    /// What lies in a window is not what was written.
    #[error(
        "{position} is damaged: it has the checksum {found:08x}, not {expected:08x}; delete the blob and put it again"
    )]
    DamagedWindow {
        /// The first block that the checksum is of.
        position: Position,
        /// The checksum it should have.
        expected: u32,
        /// The one it has.
        found: u32,
    },
    /// Blocks that are being written.
    #[error("{position} is being written: wait for that write to end")]
    BeingWritten {
        /// Where.
        position: Position,
    },
    /// A commit before all was written.
    #[error("{position} was not written: write the whole blob before the commit")]
    NotWritten {
        /// The first such block.
        position: Position,
    },
    /// A commit of more than was reserved.
    #[error(
        "a blob of {bytes} bytes does not fit the window, which was reserved for {reserved}: reserve a larger one"
    )]
    LongerThanReserved {
        /// Its length.
        bytes: u64,
        /// What was reserved.
        reserved: u64,
    },
    /// What arrived is not what was sent.
    #[error(
        "what was written has the checksum {found:08x}, not {expected:08x}: write the blob again"
    )]
    OtherChecksum {
        /// The caller's.
        expected: u32,
        /// That of what arrived.
        found: u32,
    },
    /// A slab's list of its blobs cannot be read.
    #[error(
        "the directory of slab {slab} is damaged ({detail}): its blobs can be read and not be moved"
    )]
    Directory {
        /// Which.
        slab: u64,
        /// What was found.
        detail: String,
    },
    /// No position is left.
    #[error("the log has reached its last block: copy the blobs into a new store")]
    LogEnds,
    /// Bytes that are not those of the key.
    #[error("the bytes are those of {found}, not of {key}: send the blob again, or under a name")]
    OtherContent {
        /// What was asked for.
        key: Key,
        /// The key of the bytes.
        found: Key,
    },
    /// No room left.
    #[error("the store is full: delete blobs, or add a drive")]
    Full,
    /// As many blobs as the store was made for.
    #[error(
        "the store holds {blobs} blobs, as many as it was opened for: delete some, or open it with a higher limit"
    )]
    TooManyBlobs {
        /// How many there are.
        blobs: u64,
    },
    /// A blob's bytes are not what was written.
    #[error(
        "blob {key} is damaged: its {blocks} blocks from block {block} on, at {position}, have the checksum {found:08x}, not {expected:08x}; delete it and put it again"
    )]
    Damaged {
        /// Its key.
        key: Key,
        /// The first of the blocks, in the blob.
        block: u64,
        /// Blocks that the checksum is of.
        blocks: u64,
        /// That block in the log.
        position: Position,
        /// The checksum it should have.
        expected: u32,
        /// The one it has.
        found: u32,
    },
    /// A blob that was found damaged before.
    #[error(
        "blob {key} at {position} was found damaged and is not served: store it again after deleting it, or repair it"
    )]
    Quarantined {
        /// Its key.
        key: Key,
        /// Where it is.
        position: Position,
    },
    /// A blob of which a drive has the manifest only.
    #[error("blob {key} lies in parts: use it through the store of all drives")]
    InParts {
        /// Its key.
        key: Key,
    },
    /// A manifest that says what cannot be.
    #[error(
        "the manifest of blob {key} says what this version does not know: use a newer one, or delete the blob"
    )]
    WrongManifest {
        /// The blob's key.
        key: Key,
    },
    /// The drive could not be written: nothing more is taken.
    #[error(
        "the drive takes no more changes since it could not be written ({}): replace it, or restart the node if it works again",
        .reason.happened()
    )]
    Stopped {
        /// What happened to the drive.
        reason: DriveError,
    },
    /// The index that was taken over from the last run is wrong.
    #[error(
        "the index that was kept from the last run is damaged, so the store takes no more changes: restart the node, which makes the index anew"
    )]
    IndexDamaged,
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
    /// The drive.
    #[error(transparent)]
    Drive(#[from] DriveError),
}

/// Why a store was not made or opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing there.
    #[error("the drive holds no store: format it first")]
    NotFormatted,
    /// Something there already.
    #[error(
        "the drive holds the store {store} already: open it, or wipe the drive if its blobs may go"
    )]
    Formatted {
        /// Whose it is.
        store: StoreId,
    },
    /// Another store's.
    #[error("the drive belongs to the store {found}, not to {expected}: use the right drive")]
    OtherStore {
        /// What was asked for.
        expected: StoreId,
        /// Whose it is.
        found: StoreId,
    },
    /// From a newer version.
    #[error(
        "the drive was written in format {version}, and this version knows {known}: use a newer one"
    )]
    Newer {
        /// Its format.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// A size that cannot be.
    #[error("{what} cannot be {blocks} blocks: {rule}")]
    BadSize {
        /// What it is the size of.
        what: &'static str,
        /// What was asked for.
        blocks: u64,
        /// What can be.
        rule: String,
    },
    /// A drive without the room that a store needs at least.
    #[error(
        "the drive has room for {found} blocks of {BLOCK_BYTES} bytes, and a store with slabs of {slab_blocks} blocks needs {needed} beside its journals: use a larger drive, format it with smaller slabs or journals, or open it for fewer blobs"
    )]
    TooSmall {
        /// Blocks of two slabs and of what is kept free for checkpoints.
        needed: u64,
        /// Blocks that the drive has for them.
        found: u64,
        /// Blocks of a slab.
        slab_blocks: u64,
    },
    /// What is on the drive is not what was written.
    #[error(
        "{extent}, block {block}, is damaged ({detail}), so the drive cannot be opened: bring a copy of it, or give it up and put its blobs again"
    )]
    Damaged {
        /// Where.
        extent: ExtentName,
        /// Its first block there.
        block: u64,
        /// What was expected, and what was found.
        detail: String,
    },
    /// A slab of a realm that is not configured.
    #[error(
        "the drive holds blobs of {realm}{}, which is not configured: configure it again",
        called(name)
    )]
    UnknownRealm {
        /// Which.
        realm: RealmId,
        /// What it was called, if anything.
        name: Option<Arc<str>>,
    },
    /// A realm with blobs, by another name.
    #[error(
        "the drive holds blobs of {realm} that are '{found}'s, and {realm} is configured as '{configured}': give each realm the number that it had, or delete the blobs first, or say was = \"{found}\" at '{configured}' if that is the same realm by another name"
    )]
    OtherRealm {
        /// Which.
        realm: RealmId,
        /// What it was called when it was last opened.
        found: Arc<str>,
        /// What it is to be called.
        configured: Arc<str>,
    },
    /// A realm with blobs that were to stay, as a cache.
    #[error(
        "the drive holds blobs of {realm}{} that were stored as durable, and {realm} is configured as a cache, which evicts them: take its cache out again, or delete the blobs first, or say was_durable = true at it if they may go",
        called(name)
    )]
    DurableRealm {
        /// Which.
        realm: RealmId,
        /// What it was called, if anything.
        name: Option<Arc<str>>,
    },
    /// More blobs than the store is opened for.
    #[error(
        "the drive holds {blobs} blobs, and the store was to be opened for {max}: raise the limit"
    )]
    TooManyBlobs {
        /// How many there are.
        blobs: u64,
        /// What was asked for.
        max: u64,
    },
    /// No index.
    #[error(transparent)]
    Index(#[from] oriel_dht::index::CreateError),
    /// No file for an index that is to outlast the program.
    #[error("the index cannot be kept in {}: {reason}", path.display())]
    IndexFile {
        /// Which.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Something that belongs to the store is not there.
    #[error(
        "{extent} is missing from the drive, and {why}: bring the right drive or a copy of it, or give it up and put its blobs again"
    )]
    Missing {
        /// What is missing.
        extent: ExtentName,
        /// Who says that it should be there.
        why: String,
    },
    /// The drive.
    #[error(transparent)]
    Drive(#[from] DriveError),
}

/// A realm's name behind its number.
fn called(name: &Option<Arc<str>>) -> String {
    let name = name.as_ref();
    name.map_or_else(String::new, |name| format!(" ('{name}')"))
}

impl OpenError {
    pub(crate) fn checksum(extent: ExtentName, block: u64, expected: u32, found: u32) -> Self {
        Self::Damaged {
            extent,
            block,
            detail: format!("its checksum is {found:08x}, not {expected:08x}"),
        }
    }
}

/// Checks the sizes that a store is made with.
pub(crate) fn check_sizes(slab_blocks: u64, journal_blocks: u64) -> Result<(), OpenError> {
    let slab = 8..=crate::limits::SLAB_BLOCKS_MAX;
    if !slab.contains(&slab_blocks) || !slab_blocks.is_power_of_two() {
        return Err(OpenError::BadSize {
            what: "a slab",
            blocks: slab_blocks,
            rule: format!(
                "it is a power of two from {} to {} (blocks of {BLOCK_BYTES} bytes)",
                slab.start(),
                slab.end()
            ),
        });
    }
    let least = super::frame::FRAME_BLOCKS_MAX;
    if journal_blocks < least {
        return Err(OpenError::BadSize {
            what: "the journal",
            blocks: journal_blocks,
            rule: format!("it holds at least its longest frame, {least} blocks"),
        });
    }
    Ok(())
}
