//! The one place where the simulations call the store.

use std::cell::RefCell;

use oriel_dht::region::{History, Section};
use oriel_engine::clock::Clock;
use oriel_engine::store::{
    Background, Commit, FormatOptions, Key, KeyKind, Log, LogMetrics, LogStat, Observe, OpenError,
    OpenOptions, Position, Put, RealmId, RealmOptions, Recovery, Reserved, StoreError, StoreId,
    index_in_memory,
};

use super::drive::SimDrive;

/// The realm of everything here.
const REALM: RealmId = RealmId(7);

thread_local! {
    /// Memory for indexes: making it anew for each of a million stores would take longer than all else.
    static INDEXES: RefCell<Vec<(u64, Section)>> = const { RefCell::new(Vec::new()) };
}

/// An index's memory, which goes back when the store is gone.
pub(crate) struct Lease(u64, Section);

impl Lease {
    pub(crate) fn new(blobs_max: u64) -> Self {
        let idle = INDEXES.with_borrow_mut(|idle| {
            let at = idle.iter().position(|(of, _)| *of == blobs_max)?;
            // Whatever it says of its past is over.
            Some(idle.swap_remove(at).1.handed_on(History::Unclean))
        });
        Self(
            blobs_max,
            idle.unwrap_or_else(|| index_in_memory(blobs_max).unwrap()),
        )
    }
}

impl Lease {
    /// The memory as the next run finds it that knows how the last one ended.
    fn handed_on(mut self, history: History) -> Self {
        self.1 = self.1.clone().handed_on(history);
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        INDEXES.with_borrow_mut(|idle| idle.push((self.0, self.1.clone().used_before())));
    }
}

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
        self.open_as(drive, Self::STORE, Clock::manual()).await
    }

    pub(crate) async fn open_as(
        &self,
        drive: SimDrive,
        store: StoreId,
        clock: Clock,
    ) -> Result<(Store, Recovery), OpenError> {
        let options = OpenOptions {
            store: Some(store),
            blobs_max: self.blobs_max,
            realms: vec![RealmOptions::new(REALM)],
            clock,
            ..OpenOptions::default()
        };
        Self::open_on(drive, Lease::new(self.blobs_max), &options).await
    }

    async fn open_on(
        drive: SimDrive,
        lease: Lease,
        options: &OpenOptions,
    ) -> Result<(Store, Recovery), OpenError> {
        let index = lease.1.clone();
        let (log, recovery) = oriel_engine::store::open(drive, index, options).await?;
        Ok((Store { log, lease }, recovery))
    }

    /// Opens the store of a simulation, with memory of its own for the index or that of the life before.
    pub(crate) async fn open_with(
        &self,
        drive: SimDrive,
        clock: Clock,
        realms: &[RealmOptions],
        background: Background,
        index: Option<(Lease, History)>,
    ) -> Result<(Store, Recovery), OpenError> {
        let options = OpenOptions {
            store: Some(Self::STORE),
            blobs_max: self.blobs_max,
            realms: realms.to_vec(),
            clock,
            keeps_index: index.is_some(),
            observe: Observe::OneIn(2),
            background,
        };
        let lease = match index {
            Some((lease, history)) => lease.handed_on(history),
            None => Lease::new(self.blobs_max),
        };
        Self::open_on(drive, lease, &options).await
    }
}

/// A store that is open.
pub(crate) struct Store {
    pub(crate) log: Log<SimDrive>,
    lease: Lease,
}

impl Store {
    pub(crate) async fn put(
        &self,
        key: Key,
        kind: KeyKind,
        bytes: &[u8],
    ) -> Result<Put, StoreError> {
        self.log.put(REALM, key, kind, bytes).await
    }

    pub(crate) async fn read(
        &self,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.read(REALM, key, offset, bytes).await
    }

    pub(crate) async fn delete(&self, key: Key) -> Result<bool, StoreError> {
        self.log.delete(REALM, key).await
    }

    pub(crate) async fn reserve(&self, length: u64) -> Result<Reserved, StoreError> {
        self.log.reserve(REALM, length).await
    }

    /// Ends it, with the index left for the next run; the index's memory.
    pub(crate) fn keep_index(self) -> Result<Lease, String> {
        let kept = self.log.keep_index();
        kept.map(|()| self.lease).map_err(|error| error.to_string())
    }

    /// Ends it as it is; the index's memory.
    pub(crate) fn into_lease(self) -> Lease {
        self.lease
    }

    /// Every key of a realm, page by page.
    pub(crate) async fn list_of(
        &self,
        realm: RealmId,
        most: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        let mut from = Some(Position(0));
        while let Some(at) = from {
            let page = self.log.list(realm, at, most).await?;
            keys.extend(page.blobs.iter().map(|blob| blob.key));
            from = page.next;
        }
        Ok(keys)
    }

    /// Writes whole blocks.
    pub(crate) async fn write(&self, at: Position, blocks: Vec<u8>) -> Result<(), StoreError> {
        self.log.write(REALM, at, blocks).await.1
    }

    pub(crate) async fn commit(&self, commit: &Commit) -> Result<Put, StoreError> {
        self.log.commit(REALM, commit).await
    }

    pub(crate) fn abandon(&self, at: Position) -> bool {
        self.log.abandon(REALM, at)
    }

    /// Every key, page by page.
    pub(crate) async fn list(&self, most: usize) -> Result<Vec<Key>, StoreError> {
        let mut keys = Vec::new();
        let mut from = Some(Position(0));
        while let Some(at) = from {
            let page = self.log.list(REALM, at, most).await?;
            keys.extend(page.blobs.iter().map(|blob| blob.key));
            from = page.next;
        }
        Ok(keys)
    }

    pub(crate) fn probe(&self, keys: &[Key]) -> u64 {
        self.log.probe(REALM, keys)
    }

    pub(crate) fn is_there(&self, key: &Key) -> bool {
        self.log.locate(REALM, key).is_some()
    }

    pub(crate) fn length_max(&self) -> u64 {
        self.log.length_max()
    }

    pub(crate) fn metrics(&self) -> LogMetrics {
        self.log.metrics()
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
