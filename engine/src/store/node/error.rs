//! What can go wrong with a store of many drives. Every error of a drive names it.

use std::fmt;
use std::sync::Arc;

use super::super::drive::DriveError;
use super::super::error::{OpenError, StoreError};
use super::super::types::{Key, Position, RealmId, StoreId};
use super::place::DriveNumber;
use super::roster::Voters;

/// A drive, as a person knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveLabel {
    /// Its number in the store; none if it has none.
    pub number: Option<DriveNumber>,
    /// What it is called.
    pub name: Arc<str>,
}

impl fmt::Display for DriveLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            Some(number) => write!(f, "drive {number} ('{}')", self.name),
            None => write!(f, "the drive '{}'", self.name),
        }
    }
}

/// Why a drive is lost.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// It was not there at the start.
    #[error("it was not there when the store was opened")]
    Missing,
    /// What is on it could not be read.
    #[error("it could not be opened: {0}")]
    Unreadable(OpenError),
    /// It failed in use.
    #[error("it failed: {0}")]
    Failed(StoreError),
    /// The core that it was used on has stopped.
    #[error("its core has stopped")]
    CoreStopped,
}

/// Why an operation was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The blob may be on a drive that is lost.
    #[error(
        "the blob may be on {drive}, which is lost ({loss}): bring the drive back, or forget it if its blobs may go"
    )]
    Lost {
        /// Which drive.
        drive: DriveLabel,
        /// What happened to it.
        loss: Loss,
    },
    /// Too few drives to change anything.
    #[error(
        "{} of the store's {} drives are here, too few to change anything: bring more of them back, or say which are gone for good",
        .voters.here,
        .voters.all
    )]
    ReadOnly {
        /// Those that are here, and all.
        voters: Voters,
    },
    /// Every drive is lost or being emptied.
    #[error("no drive of the store takes blobs: add one")]
    NoDrive,
    /// The blob belongs on another drive by now.
    #[error(
        "{position} is not where the key's blob belongs any more, since drives came or went: reserve another window"
    )]
    Moved {
        /// The window.
        position: Position,
    },
    /// A window of no drive.
    #[error(
        "{position} is on no drive of the store: it was never handed out, or its drive was given up"
    )]
    NoSuchPosition {
        /// The window.
        position: Position,
    },
    /// Positions are used up.
    #[error(
        "{drive} has used up its positions, and the store has none left: copy the blobs into a new store"
    )]
    LogEnds {
        /// Which drive.
        drive: DriveLabel,
    },
    /// A drive refused or failed.
    #[error("{drive}: {source}")]
    Drive {
        /// Which drive.
        drive: DriveLabel,
        /// Its words.
        source: StoreError,
    },
    /// A blob longer than any can be.
    #[error(
        "a blob of {bytes} bytes is longer than the {max} that this store's parts can make up: put it as several blobs"
    )]
    TooLarge {
        /// Bytes that were given so far.
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
    /// A part did not stay until its blob was whole.
    #[error(
        "part {number} of blob {key} made room for others before the blob was whole: raise the cache's quota, or put it again"
    )]
    PartGone {
        /// The blob's key.
        key: Key,
        /// Which part.
        number: u32,
    },
    /// A part that is none of a blob of that length.
    #[error(
        "part {number} of blob {key} has {found} bytes, which has to be {expected}: put what is missing, or begin again"
    )]
    OtherPart {
        /// The blob's key.
        key: Key,
        /// Which part.
        number: u32,
        /// Its bytes as they have to be; 0 if there is no such part of the blob.
        expected: u64,
        /// Its bytes; 0 if it is not there.
        found: u64,
    },
    /// A blob of one part.
    #[error("a blob of {bytes} bytes fits one part of {part_bytes}: put it in one window")]
    OnePart {
        /// Its length.
        bytes: u64,
        /// Bytes of a part.
        part_bytes: u64,
    },
    /// Parts that were put as those of a name.
    #[error(
        "the parts of blob {key} were not all committed as content, so their hash is not known: begin again"
    )]
    NotHashed {
        /// The blob's key.
        key: Key,
    },
    /// A put in parts that is no more.
    #[error("the put has ended, or was given up: begin it again")]
    PutOver,
    /// A part of the put is being committed.
    #[error("a part is being committed: wait until that has ended")]
    PartUnderWay,
    /// A part of a blob cannot be read.
    #[error("blob {key}, part {number}: {source}")]
    Part {
        /// The blob's key.
        key: Key,
        /// Which part.
        number: u16,
        /// Why.
        source: Box<NodeError>,
    },
    /// No memory for a buffer.
    #[error(transparent)]
    Memory(DriveError),
    /// The store is closing.
    #[error("the store is closing")]
    Closing,
}

impl NodeError {
    /// The blob lies in parts, and was asked for as one that does not.
    pub(super) fn is_in_parts(&self) -> bool {
        matches!(
            self,
            Self::Drive {
                source: StoreError::InParts { .. },
                ..
            }
        )
    }

    /// What is damaged is a manifest, if one was asked for.
    pub(super) fn is_of_manifest(&self) -> bool {
        matches!(
            self,
            Self::Drive {
                source: StoreError::Damaged { .. }
                    | StoreError::Quarantined { .. }
                    | StoreError::WrongManifest { .. },
                ..
            }
        )
    }
}

/// Why a store was not made or opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeOpenError {
    /// No drive was given, or none of them can be read.
    #[error("none of the store's drives can be used: give at least one")]
    NoDrives,
    /// More drives than a store has.
    #[error("{drives} drives are more than the {max} that a store has")]
    TooManyDrives {
        /// How many.
        drives: usize,
        /// The most there can be.
        max: usize,
    },
    /// A drive that cannot be a part of this store.
    #[error("{drive}: {source}")]
    Drive {
        /// Which drive.
        drive: DriveLabel,
        /// Why.
        source: OpenError,
    },
    /// The same drive, or a copy of it.
    #[error(
        "'{first}' and '{second}' are the same drive, {number}, or one is a copy of the other: leave one out"
    )]
    Twice {
        /// Its number.
        number: DriveNumber,
        /// One of the names.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
    /// Drives of several stores.
    #[error(
        "'{name}' belongs to the store {found}, and the others to {expected}: use the right drives"
    )]
    OtherStore {
        /// The drive.
        name: Arc<str>,
        /// The store that is opened.
        expected: StoreId,
        /// Its own.
        found: StoreId,
    },
    /// A drive that was taken out of the store.
    #[error("{drive} was taken out of the store: wipe it to use it again")]
    Forgotten {
        /// Which drive.
        drive: DriveLabel,
    },
    /// A drive that is said to be gone for good.
    #[error(
        "{drive} is said to be gone for good, and is here: leave its device out, or do not say that it is gone"
    )]
    NotGone {
        /// Which drive.
        drive: DriveLabel,
    },
    /// A drive whose formatting did not come to its end, or the only drive of a store that has no roster.
    #[error(
        "{drive} belongs to the store, which does not know it: leave it out, and add it when the store is open"
    )]
    Unknown {
        /// Which drive.
        drive: DriveLabel,
    },
    /// Slabs that do not fit the slots.
    #[error(
        "slots of {slot_blocks} blocks do not hold whole slabs of {slab_blocks}: use powers of two, the slot the larger"
    )]
    BadSlot {
        /// Blocks of a slot.
        slot_blocks: u64,
        /// Blocks of a slab.
        slab_blocks: u64,
    },
}

/// Why the drives of a store were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Too few drives to change anything.
    #[error(transparent)]
    Refused(#[from] NodeError),
    /// The new drive.
    #[error(transparent)]
    Open(#[from] NodeOpenError),
    /// No such drive.
    #[error("the store has no drive {number}")]
    NoSuchDrive {
        /// What was asked for.
        number: DriveNumber,
    },
    /// The drive is in use.
    #[error("{drive} is part of the store already")]
    InUse {
        /// Which drive.
        drive: DriveLabel,
    },
    /// It cannot be emptied.
    #[error(
        "{drive} is lost, so nothing can be moved off it: bring it back, or forget it if its blobs may go"
    )]
    CannotDrain {
        /// Which drive.
        drive: DriveLabel,
    },
    /// The last drive that takes blobs.
    #[error("{drive} is the only drive that takes blobs: add another one first")]
    LastDrive {
        /// Which drive.
        drive: DriveLabel,
    },
    /// A realm that was left out.
    #[error("{realm} was left out: realms stay, name all of them")]
    RealmLeftOut {
        /// Which realm.
        realm: RealmId,
    },
    /// A realm cannot begin, or cease, to be a cache in use.
    #[error("how {realm} makes room cannot change while it is used: open the store anew")]
    CacheOfRealm {
        /// Which realm.
        realm: RealmId,
    },
    /// A realm is called what it was called when the store was opened.
    #[error("what {realm} is called cannot change while it is used: open the store anew")]
    NameOfRealm {
        /// Which realm.
        realm: RealmId,
    },
    /// A drive that works.
    #[error("{drive} works: drain it, so that its blobs are kept")]
    NotLost {
        /// Which drive.
        drive: DriveLabel,
    },
}
