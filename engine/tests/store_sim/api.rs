//! The one place where the simulations call the store.

use oriel_engine::store::{
    FormatOptions, Key, KeyKind, Log, LogStat, OpenError, OpenOptions, Put, Recovery, StoreError,
    StoreId,
};

use super::drive::SimDrive;

/// How the store is made and opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) drive_blocks: u64,
    pub(crate) slab_blocks: u64,
    pub(crate) journal_blocks: u64,
    pub(crate) blobs_max: u64,
}

impl Shape {
    pub(crate) const STORE: StoreId = StoreId([0x5e; 16]);

    pub(crate) async fn format(&self, drive: &SimDrive) -> Result<(), OpenError> {
        let options = FormatOptions {
            slab_blocks: self.slab_blocks,
            journal_blocks: self.journal_blocks,
        };
        oriel_engine::store::format(drive, Self::STORE, &options).await
    }

    pub(crate) async fn open(&self, drive: SimDrive) -> Result<(Store, Recovery), OpenError> {
        self.open_as(drive, Self::STORE).await
    }

    pub(crate) async fn open_as(
        &self,
        drive: SimDrive,
        store: StoreId,
    ) -> Result<(Store, Recovery), OpenError> {
        let options = OpenOptions {
            store: Some(store),
            blobs_max: self.blobs_max,
        };
        let (log, recovery) = oriel_engine::store::open(drive, &options).await?;
        Ok((Store { log }, recovery))
    }
}

/// A store that is open.
pub(crate) struct Store {
    log: Log<SimDrive>,
}

impl Store {
    pub(crate) async fn put(
        &self,
        key: Key,
        kind: KeyKind,
        bytes: &[u8],
    ) -> Result<Put, StoreError> {
        self.log.put(key, kind, bytes).await
    }

    pub(crate) async fn read(
        &self,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.read(key, offset, bytes).await
    }

    pub(crate) async fn delete(&self, key: Key) -> Result<bool, StoreError> {
        self.log.delete(key).await
    }

    pub(crate) fn is_there(&self, key: &Key) -> bool {
        self.log.locate(key).is_some()
    }

    pub(crate) fn length_max(&self) -> u64 {
        self.log.length_max()
    }

    pub(crate) fn stat(&self) -> LogStat {
        self.log.stat()
    }

    pub(crate) async fn run(&self) -> Result<(), StoreError> {
        self.log.run().await
    }

    pub(crate) fn close(&self) {
        self.log.close();
    }
}
