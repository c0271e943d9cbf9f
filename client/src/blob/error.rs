//! What can go wrong with blobs.

use oriel_protocol::{DecodeError, Key, Position, Status};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError<E: std::error::Error + 'static> {
    /// A blob of no bytes, or of more than the node takes.
    #[error("a blob of {bytes} bytes cannot be put: this node takes 1 to {max}")]
    Length {
        /// Its length.
        bytes: u64,
        /// The most.
        max: u64,
    },
    /// The node says why not.
    #[error("{what} of blob {key}: {status} ({source})")]
    Refused {
        /// What was to be done.
        what: &'static str,
        /// To which blob.
        key: Key,
        /// Why not.
        status: Status,
        /// Where it came from.
        source: E,
    },
    /// The transport failed.
    #[error(transparent)]
    Transport(E),
    /// An answer that cannot be.
    #[error("the node's answer cannot be read: {0}")]
    Answer(#[from] DecodeError),
    /// Bytes that are not those that were put.
    #[error(
        "blob {key} is damaged: its block {block}, at {position}, has the checksum {found:#010x}, not {expected:#010x}; read it from another node, or put it again after deleting it"
    )]
    Damaged {
        /// Whose they are.
        key: Key,
        /// The first of the blocks, in the blob.
        block: u64,
        /// That block in the log.
        position: Position,
        /// The checksum it should have.
        expected: u32,
        /// The one it has.
        found: u32,
    },
    /// A window smaller than what was reserved.
    #[error("the node reserved {blocks} blocks for {needed}: it is broken")]
    SmallWindow {
        /// Those reserved.
        blocks: u64,
        /// Those asked for.
        needed: u64,
    },
    /// Parts of another size than the node had at first.
    #[error(
        "the node cuts blobs into parts of {found} bytes by now, and no more of {expected}: connect anew and put the blob again"
    )]
    OtherParts {
        /// Those of now.
        found: u64,
        /// Those that it told when it was first asked.
        expected: u64,
    },
    /// A blob that is always elsewhere.
    #[error("blob {key} was moved {times} times while it was read: read it again")]
    Moved {
        /// Which.
        key: Key,
        /// How often.
        times: u32,
    },
    /// Memory that is not the CPU's cannot be checked or filled here.
    #[error(
        "the caller's memory cannot be reached by the CPU: read whole blocks into it without checks, or use memory of the host"
    )]
    NotHostMemory,
}

impl<E: std::error::Error> BlobError<E> {
    /// The window was on a drive that the node has lost: another window may be on another one.
    pub(super) fn is_of_lost_drive(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: Status::WriteFault | Status::DriveLost,
                ..
            }
        )
    }
}
