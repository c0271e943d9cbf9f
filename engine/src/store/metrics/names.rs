//! What is told apart in the numbers, and what each is called.

use super::super::drive::DriveError;
use super::super::error::StoreError;

/// Makes an enum whose members have names and places in an array.
macro_rules! named {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $member:ident => $word:literal,)+ }) => {
        $(#[$of])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$doc])* $member,)+
        }

        impl $name {
            /// All of them, in the order of their places.
            pub const ALL: &[Self] = &[$(Self::$member),+];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$member => $word,)+
                }
            }
        }
    };
}

named! {
    /// What is asked of a store.
    Operation {
        /// Reading a blob, or a part of one.
        Get => "get",
        /// Storing a blob at once.
        Put => "put",
        /// Taking a blob away.
        Delete => "delete",
        /// Asking for a window.
        Reserve => "reserve",
        /// Writing into a window.
        Write => "write",
        /// Making a window a blob.
        Commit => "commit",
        /// Asking which of many keys are there.
        Probe => "probe",
        /// Asking where a blob is.
        Locate => "locate",
        /// Reading blocks of a window, by their position.
        Read => "read",
    }
}

impl Operation {
    /// Takes so short a time, or comes so often, that not each is timed.
    pub(super) const fn is_sampled(self) -> bool {
        match self {
            Self::Get | Self::Put | Self::Write | Self::Probe | Self::Locate | Self::Read => true,
            Self::Delete | Self::Reserve | Self::Commit => false,
        }
    }
}

named! {
    /// How an operation ended.
    Outcome {
        /// It was done: the blob was there, is there now, or is gone.
        Done => "done",
        /// There was nothing to do: no such blob, or one already.
        Nothing => "nothing",
        /// It ended with an error.
        Failed => "failed",
        /// Nobody waited for its end.
        GivenUp => "given up",
    }
}

impl Outcome {
    /// Of what asks for a blob.
    pub(in super::super) const fn there(is_there: bool) -> Self {
        match is_there {
            true => Self::Done,
            false => Self::Nothing,
        }
    }
}

named! {
    /// What a log does for its operations, or by itself.
    Step {
        /// A frame of the journal, with the flushes before and after it: a group commit.
        Frame => "frame",
        /// A flush of the drive.
        Flush => "flush",
        /// Writing the bytes of a blob.
        DataWrite => "data write",
        /// Copying a blob out of a slab that is emptied.
        Move => "move",
        /// Reading a blob to see whether it is whole.
        Scrub => "scrub",
        /// Writing a checkpoint.
        Checkpoint => "checkpoint",
    }
}

named! {
    /// What is written to a drive for.
    WrittenFor {
        /// Blobs.
        Data => "data",
        /// Their checksums.
        Trailer => "trailer",
        /// The lists of slabs.
        Directory => "directory",
        /// Frames.
        Journal => "journal",
        /// Checkpoints.
        Checkpoint => "checkpoint",
        /// Blobs that go to another slab.
        Move => "move",
    }
}

named! {
    /// What is read from a drive for.
    ReadFor {
        /// Gets, with the checksums that they need.
        Get => "get",
        /// Reads of blocks by their position, with the checksums that they need.
        Window => "window",
        /// Commits under a key of content, which has to be that of what was written.
        Commit => "commit",
        /// Blobs that go to another slab.
        Move => "move",
        /// Scrubs.
        Scrub => "scrub",
    }
}

named! {
    /// Errors of a kind.
    ErrorKind {
        /// The caller's: what was asked for cannot be, or not in this order.
        Request => "request",
        /// The bytes are not those of the key, or not those that were sent.
        Content => "content",
        /// No room on the drive.
        Full => "full",
        /// No room in the realm.
        Quota => "quota",
        /// As many blobs as the store was opened for.
        TooManyBlobs => "too many blobs",
        /// A blob's bytes are not what was written.
        Damaged => "damaged",
        /// A blob that was found damaged before.
        Quarantined => "quarantined",
        /// A slab's list, or the index, is not what was written.
        Bookkeeping => "bookkeeping",
        /// A transfer failed.
        Drive => "drive",
        /// No memory for a buffer.
        Memory => "memory",
        /// The store takes no changes any more, or not yet.
        Stopped => "stopped",
    }
}

impl ErrorKind {
    /// Of what kind an error is.
    pub fn of(error: &StoreError) -> Self {
        match error {
            StoreError::OtherContent { .. } | StoreError::OtherChecksum { .. } => Self::Content,
            StoreError::Full | StoreError::LogEnds => Self::Full,
            StoreError::OverQuota { .. }
            | StoreError::CacheHeld { .. }
            | StoreError::TooManyPins { .. } => Self::Quota,
            StoreError::TooManyBlobs { .. } => Self::TooManyBlobs,
            StoreError::Damaged { .. } => Self::Damaged,
            StoreError::Quarantined { .. } => Self::Quarantined,
            StoreError::Directory { .. } | StoreError::IndexDamaged => Self::Bookkeeping,
            StoreError::Drive(DriveError::NoMemory { .. }) => Self::Memory,
            StoreError::Drive(DriveError::NoRoom { .. }) => Self::Full,
            StoreError::Drive(_) => Self::Drive,
            StoreError::Stopped { .. } | StoreError::Closing => Self::Stopped,
            _ => Self::Request,
        }
    }
}

named! {
    /// What a slab is.
    SlabState {
        /// Windows are taken from it.
        Open => "open",
        /// It gets no more blobs.
        Sealed => "sealed",
        /// Its blobs are being moved out of it.
        Emptying => "emptying",
        /// It holds something that is damaged.
        Quarantined => "quarantined",
        /// It holds nothing, and is given back when no checkpoint names it and nobody reads from it.
        Retired => "retired",
        /// So many more fit the drive.
        Free => "free",
    }
}

named! {
    /// What operations wait for.
    Queue {
        /// Changes that the next frames of the journal will say.
        Journal => "journal",
        /// Windows, for which a slab is being made.
        Window => "window",
        /// Room on the drive.
        Room => "room",
        /// Reads of the drive under way.
        Reads => "drive reads",
        /// Writes to the drive under way.
        Writes => "drive writes",
    }
}
