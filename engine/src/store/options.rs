//! What a log is told of its realms, and what it says of itself.

use std::sync::Arc;

use super::eviction::Policy;
use super::types::RealmId;

/// What a realm may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RealmOptions {
    /// Its number, which is on the drive.
    pub id: RealmId,
    /// Blocks that its windows may take; no limit if `None`.
    pub quota_blocks: Option<u64>,
    /// Whether reads check what they read.
    pub verify: bool,
    /// How its blobs make room for others, if it is a cache; a realm that is none says that it is full.
    pub cache: Option<Policy>,
    /// What it is called. Drives with blobs of it keep that, cut to 255 bytes, and are not opened with another name; without one,
    /// what it was called is not asked.
    pub name: Option<Arc<str>>,
    /// What it was called before, if it is the same realm by another name.
    pub was: Option<Arc<str>>,
    /// A cache whose blobs may go although some were stored when it was none; otherwise drives that have such are not
    /// opened.
    pub was_durable: bool,
}

impl RealmOptions {
    /// A realm without a quota, whose reads are checked.
    pub const fn new(id: RealmId) -> Self {
        Self {
            id,
            quota_blocks: None,
            verify: true,
            cache: None,
            name: None,
            was: None,
            was_durable: false,
        }
    }
}

/// What a store holds and does, counted since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStat {
    /// Blobs that can be read.
    pub blobs: u64,
    /// Slabs on the drive.
    pub slabs: u64,
    /// Blocks of windows that hold blobs.
    pub live_blocks: u64,
    /// Windows that are reserved and not committed.
    pub reservations: u64,
    /// Frames written.
    pub frames: u64,
    /// Entries in them.
    pub entries: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Blocks of directories written.
    pub directory_blocks: u64,
    /// Blobs that made room for others.
    pub blobs_evicted: u64,
    /// Slabs given back to the drive.
    pub slabs_retired: u64,
    /// Blobs moved out of slabs that held little else.
    pub blobs_moved: u64,
    /// Blocks of their windows.
    pub blocks_moved: u64,
}

/// What a realm holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RealmStat {
    /// Blobs that can be read, and those being deleted.
    pub blobs: u64,
    /// Blocks of its windows, with blobs and reserved.
    pub used_blocks: u64,
    /// Windows that are reserved in it and not committed.
    pub reservations: u64,
    /// The most of them.
    pub quota_blocks: Option<u64>,
}
