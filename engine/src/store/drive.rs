//! The one seam under the store: a drive that keeps extents. SPDK's Blobstore in a node, a simulation in tests.

use std::cell::Cell;
use std::fmt;

use super::types::BLOCK_BYTES;

/// What an extent is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ExtentName {
    /// Says whose drive it is.
    Label,
    /// One of the two journals.
    Journal(u8),
    /// The checkpoint of an epoch.
    Checkpoint(u64),
    /// A slab of the log.
    Slab(u64),
    /// One of the two copies of what a store of many drives knows of its drives.
    Roster(u8),
}

impl fmt::Display for ExtentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label => f.write_str("the label"),
            Self::Journal(number) => write!(f, "journal {number}"),
            Self::Checkpoint(epoch) => write!(f, "checkpoint {epoch}"),
            Self::Slab(number) => write!(f, "slab {number}"),
            Self::Roster(number) => write!(f, "copy {number} of the roster"),
        }
    }
}

/// A drive did not do what it was asked to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// No room for another extent.
    #[error("the drive has no room for {blocks} more blocks: delete blobs, or use a larger drive")]
    NoRoom {
        /// What was asked for.
        blocks: u64,
    },
    /// No memory for a buffer.
    #[error("no memory left for a buffer of {bytes} bytes: start with more memory")]
    NoMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A transfer failed.
    #[error(
        "{}: try again, and replace the drive if it goes on", self.happened()
    )]
    Io {
        /// Where.
        extent: ExtentName,
        /// Its first block there.
        block: u64,
        /// The drive's words.
        reason: String,
    },
    /// The drive as a whole failed: a flush, or its own bookkeeping.
    #[error(
        "{}: see whether it is connected, and replace it or restart the node", self.happened()
    )]
    Failed {
        /// The drive's words.
        reason: String,
    },
}

impl DriveError {
    /// What happened, for sentences that say themselves what to do.
    pub(super) fn happened(&self) -> String {
        match self {
            Self::NoRoom { blocks } => format!("no room for {blocks} more blocks"),
            Self::NoMemory { bytes } => format!("no memory left for a buffer of {bytes} bytes"),
            Self::Io {
                extent,
                block,
                reason,
            } => format!("{extent}, block {block}: {reason}"),
            Self::Failed { reason } => format!("the drive failed: {reason}"),
        }
    }

    /// Whether the same transfer may go well another time: one error may be of one command, which was aborted, say; two are of
    /// the drive.
    pub(super) fn is_worth_a_second_try(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// What a transfer gives back: the buffer, and how it went.
pub type Transferred<B> = (B, Result<(), DriveError>);

/// A drive, used by one thread.
///
/// What has been written is durable once a flush that began later has ended. Extents are there, or gone, for good when
/// the call that made or deleted them has ended; a crash before that leaves them there or not. A block is written whole
/// or not at all. A transfer that was begun goes on to its end although nobody waits for it any more, and a delete waits
/// for the transfers of its extent.
#[expect(async_fn_in_trait, reason = "everything stays on one thread")]
pub trait Drive {
    /// A run of blocks. Clones are the same one.
    type Extent: Clone;
    /// Bytes that the drive transfers.
    type Buf: AsRef<[u8]> + AsMut<[u8]>;

    /// A buffer of so many bytes, all zero.
    fn buffer(&self, bytes: usize) -> Result<Self::Buf, DriveError>;

    /// Blocks that new extents may still take.
    fn free_blocks(&self) -> u64;

    /// The extents there are.
    async fn extents(&self) -> Result<Vec<(ExtentName, Self::Extent)>, DriveError>;

    /// Makes an extent. What is in it is undefined. Nothing has been made when there was no room or no memory.
    async fn create(&self, name: ExtentName, blocks: u64) -> Result<Self::Extent, DriveError>;

    /// Deletes an extent.
    async fn delete(&self, extent: Self::Extent) -> Result<(), DriveError>;

    /// Blocks of an extent.
    fn blocks(&self, extent: &Self::Extent) -> u64;

    /// Fills the buffer from `block` on.
    async fn read(
        &self,
        extent: &Self::Extent,
        block: u64,
        buf: Self::Buf,
    ) -> Transferred<Self::Buf>;

    /// Writes the buffer from `block` on.
    async fn write(
        &self,
        extent: &Self::Extent,
        block: u64,
        buf: Self::Buf,
    ) -> Transferred<Self::Buf>;

    /// Makes durable what was written before.
    async fn flush(&self) -> Result<(), DriveError>;
}

/// Writes the buffer; once more, where that fails and [is worth it](DriveError::is_worth_a_second_try). The same bytes in the
/// same place do no harm twice, however much of them came there the first time.
pub(super) async fn write_twice<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    block: u64,
    buf: D::Buf,
) -> Transferred<D::Buf> {
    match drive.write(extent, block, buf).await {
        (buf, Err(error)) if error.is_worth_a_second_try() => drive.write(extent, block, buf).await,
        written => written,
    }
}

/// A buffer of one block that is kept for what has to be written whatever else takes the memory: changes that are answered
/// only then, and what makes room for them. The drive is not to blame for a lack of memory, and is not given up for it.
///
/// One writer uses it at a time.
pub(super) struct Spare<B>(Cell<Option<B>>);

impl<B: AsRef<[u8]> + AsMut<[u8]>> Spare<B> {
    pub(super) fn new<D: Drive<Buf = B>>(drive: &D) -> Result<Self, DriveError> {
        Ok(Self(Cell::new(Some(drive.buffer(BLOCK_BYTES)?))))
    }

    /// Has whole blocks written from `block` on: all at once, or, where there is no memory for that, one after the other.
    pub(super) async fn write<D: Drive<Buf = B>>(
        &self,
        drive: &D,
        block: u64,
        bytes: &[u8],
        write: impl AsyncFn(u64, B) -> Transferred<B>,
    ) -> Result<(), DriveError> {
        match drive.buffer(bytes.len()) {
            Ok(mut buf) => {
                buf.as_mut().copy_from_slice(bytes);
                write(block, buf).await.1
            }
            Err(DriveError::NoMemory { .. }) => {
                for (at, bytes) in (block..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
                    // Gone is only what nobody waited for.
                    let kept = self.0.take();
                    let mut buf = kept.map_or_else(|| drive.buffer(BLOCK_BYTES), Ok)?;
                    buf.as_mut().copy_from_slice(bytes);
                    let (buf, written) = write(at, buf).await;
                    self.0.set(Some(buf));
                    written?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::StoreError;
    use super::*;

    #[test]
    fn every_error_of_a_drive_says_what_to_do_and_once() {
        let extent = ExtentName::Slab(3);
        let reason = || "timed out".to_owned();
        let errors = [
            DriveError::NoRoom { blocks: 7 },
            DriveError::NoMemory { bytes: 7 },
            DriveError::Io {
                extent,
                block: 7,
                reason: reason(),
            },
            DriveError::Failed { reason: reason() },
        ];
        for error in errors {
            let (words, happened) = (error.to_string(), error.happened());
            let advice = words.rsplit_once(": ").unwrap().1.to_owned();
            assert!(advice.len() > 10 && !happened.contains(&advice), "{words}");
            let stopped = StoreError::Stopped { reason: error }.to_string();
            assert!(stopped.contains(&happened), "{stopped}");
            assert!(!stopped.contains(&advice), "{stopped}");
        }
    }
}
