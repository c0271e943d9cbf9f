//! What can go wrong, each with what to do.

use super::drive::{DriveError, ExtentName};
use super::types::{BLOCK_BYTES, Key, Position, StoreId};

/// Why an operation was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A blob of no bytes.
    #[error("a blob has at least one byte")]
    Empty,
    /// A blob longer than a slab holds.
    #[error("a blob of {bytes} bytes is longer than the {max} that a slab of this store holds")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
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
        "blob {key} is damaged: its block {block} at {position} has the checksum {found:08x}, not {expected:08x}"
    )]
    Damaged {
        /// Its key.
        key: Key,
        /// The block in the blob.
        block: u64,
        /// That block in the log.
        position: Position,
        /// The checksum it should have.
        expected: u32,
        /// The one it has.
        found: u32,
    },
    /// The journal could not be written: nothing more is taken.
    #[error(
        "the store takes no more changes since its journal could not be written ({reason}): replace the drive or restart the node"
    )]
    Stopped {
        /// What happened to the journal.
        reason: DriveError,
    },
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
    /// What is on the drive is not what was written.
    #[error(
        "{extent}, block {block}, is damaged ({detail}): the store's other copies have to repair it"
    )]
    Damaged {
        /// Where.
        extent: ExtentName,
        /// Its first block there.
        block: u64,
        /// What was expected, and what was found.
        detail: String,
    },
    /// Something that belongs to the store is not there.
    #[error("{extent} is missing from the drive: {why}")]
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
    let slab = 8..=1 << 24;
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
