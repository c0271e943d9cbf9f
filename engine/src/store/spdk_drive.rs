//! A drive of the store on SPDK's Blobstore: every extent is a blob.
//!
//! ```text
//!   extent ──► thick blob, at least as many clusters as the extent's blocks need
//!   name   ──► the blob's attribute "oriel.extent", which comes to be in one with the blob:
//!              byte  0      1          9          17
//!                    ├──────┼──────────┼──────────┤
//!                    │ kind │ number   │ blocks   │   little-endian
//!                    └──────┴──────────┴──────────┘
//!   data   ──► straight to the device, by a descriptor of our own: Blobstore says where a blob's clusters
//!              are, and thick blobs stay there. Transfers that lie in several places, or are longer
//!              than a cluster, go through Blobstore, which divides them.
//!   flush  ──► of the device as well: a blobstore has no flush
//! ```
//!
//! The size of a cluster is chosen when the drive is formatted (`cluster_bytes`). It is what an extent of one block
//! wastes, and after a crash SPDK reads one metadata page for each cluster of the drive, one after another.
//!
//! When the device is removed, everything is let go of at once, since SPDK waits for that; what is asked afterwards
//! fails with a sentence.

mod buffer;
mod error;
mod layout;
mod metadata;
mod node;
mod places;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use oriel_spdk::bdev::{Access, BdevDesc, BdevEvent, BlockRange, Channel, IoKind};
use oriel_spdk::blob::{
    self, Blob, BlobId, Blobstore, InitError, InitOptions, LoadError, NewBlob, StoreType,
};

use super::drive::{Drive, DriveError, ExtentName, Transferred};
use super::error::check_sizes;
use super::format::{FormatOptions, check_free};
use super::types::BLOCK_BYTES;
use buffer::IdleBuffers;
pub use buffer::{SpdkBuf, SpdkPayload};
pub use error::SpdkDriveError;
use layout::{cluster_bytes, decode_name, encode_name};
use metadata::MetadataMemory;
use places::Places;

/// Whose blobstores these are.
const STORE_TYPE: StoreType = StoreType::new("ORIEL_LOG");
/// The attribute that names an extent.
const XATTR: &str = "oriel.extent";
/// Extents are rounded up to clusters. So many may be on their way at once: a slab and two checkpoints.
const ROUNDED_UP_AT_ONCE: u64 = 3;

/// A drive of SPDK's. Clones are the same one; it belongs to the SPDK thread that opened it.
#[derive(Clone)]
pub struct SpdkDrive {
    inner: Rc<Inner>,
}

/// What is let go of when the device is removed.
struct Attached {
    store: Rc<Blobstore>,
    device: Rc<Device>,
}

/// The device itself, below the blobstore.
struct Device {
    channel: Channel,
    desc: BdevDesc,
    /// There is something to flush.
    flushes: bool,
}

struct Inner {
    device: String,
    /// The device's units in a block.
    units: u64,
    blocks_per_cluster: u64,
    attached: RefCell<Option<Attached>>,
    /// Extents that somebody holds.
    extents: RefCell<HashMap<BlobId, Weak<Open>>>,
    idle: Rc<IdleBuffers>,
    metadata: MetadataMemory,
    /// Who waits for the device to be removed.
    watcher: RefCell<Option<Waker>>,
}

/// A run of blocks of a drive. Clones are the same one.
#[derive(Clone)]
pub struct SpdkExtent(Rc<Open>);

struct Open {
    name: ExtentName,
    blocks: u64,
    id: BlobId,
    /// `None` once it is deleted, or the drive removed or closed. Whoever transfers something has it meanwhile.
    blob: RefCell<Option<Rc<Blob>>>,
    places: Arc<Places>,
}

/// Tells the drive of its removal, as soon as there is a drive to tell.
#[derive(Default)]
struct Watch {
    drive: OnceCell<Weak<Inner>>,
    is_removed: Cell<bool>,
}

impl Watch {
    fn handler(self: &Rc<Self>) -> impl FnMut(BdevEvent) + use<> {
        let watch = Rc::clone(self);
        move |event| {
            if matches!(event, BdevEvent::Removed) {
                watch.is_removed.set(true);
                if let Some(drive) = watch.drive.get().and_then(Weak::upgrade) {
                    drive.let_go();
                }
            }
        }
    }
}

fn failed(error: impl ToString) -> DriveError {
    DriveError::Failed {
        reason: error.to_string(),
    }
}

impl SpdkDrive {
    /// Makes a block device a drive for extents, or loads one that was made so. What else was on the device is lost,
    /// other blobstores excepted: they are refused.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub async fn format(device: &str, options: &FormatOptions) -> Result<Self, SpdkDriveError> {
        let watch = Rc::<Watch>::default();
        let own = BdevDesc::open(device, Access::ReadWrite, watch.handler())?;
        let bytes = own.block_count() * u64::from(own.block_size());
        // Before anything that is on it is lost.
        check_sizes(options.slab_blocks, options.journal_blocks)?;
        check_free(bytes / BLOCK_BYTES as u64, options)?;
        let init = InitOptions {
            cluster_bytes: cluster_bytes(bytes, options.slab_blocks),
            ..InitOptions::new(STORE_TYPE)
        };
        match Blobstore::init(device, init, watch.handler()).await {
            Ok(store) => Self::attach(device, &watch, own, store),
            // Made before; whether there is a store on it is for the store to find out.
            Err(InitError::Exists { found, .. }) if found == STORE_TYPE => {
                drop(own);
                Self::load(device).await
            }
            Err(InitError::Exists { found, .. }) => Err(SpdkDriveError::Foreign {
                device: device.to_owned(),
                found,
            }),
            Err(error) => Err(SpdkDriveError::Init(error)),
        }
    }

    /// Loads a drive. Whatever stopped its last use, extents are as the calls that ended then left them.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub async fn load(device: &str) -> Result<Self, SpdkDriveError> {
        let watch = Rc::<Watch>::default();
        // Before the blobstore claims the device: afterwards nobody may open it for writing, which a flush counts as.
        let own = BdevDesc::open(device, Access::ReadWrite, watch.handler())?;
        let loaded = Blobstore::load(device, STORE_TYPE, watch.handler()).await;
        let store = loaded.map_err(|error| match error {
            LoadError::NotABlobstore { device } => SpdkDriveError::NotFormatted { device },
            LoadError::WrongType { device, found, .. } => SpdkDriveError::Foreign { device, found },
            error => SpdkDriveError::Load(error),
        })?;
        Self::attach(device, &watch, own, store)
    }

    fn attach(
        device: &str,
        watch: &Rc<Watch>,
        own: BdevDesc,
        store: Blobstore,
    ) -> Result<Self, SpdkDriveError> {
        let device = device.to_owned();
        let product = own.product();
        // SPDK's io_uring module says of itself, release by release, that there is a cache or that there is none.
        // Either way it writes to a file without ever asking the kernel to flush it.
        let has_cache = own.has_write_cache() || product.contains("URING");
        if has_cache && !own.supports(IoKind::Flush) {
            return Err(SpdkDriveError::NoFlush { device, product });
        }
        let own = Rc::new(Device {
            channel: own.channel()?,
            desc: own,
            flushes: has_cache,
        });
        let inner = Rc::new(Inner {
            units: BLOCK_BYTES as u64 / u64::from(store.io_unit_bytes()),
            blocks_per_cluster: store.cluster_bytes() / BLOCK_BYTES as u64,
            attached: RefCell::new(Some(Attached {
                store: Rc::new(store),
                device: own,
            })),
            extents: RefCell::default(),
            idle: Rc::default(),
            metadata: MetadataMemory::default(),
            watcher: RefCell::default(),
            device,
        });
        inner.metadata.keep();
        if watch.drive.set(Rc::downgrade(&inner)).is_err() {
            unreachable!("a watch is of one drive");
        }
        if watch.is_removed.get() {
            inner.let_go();
            let device = inner.device.clone();
            return Err(SpdkDriveError::Removed { device });
        }
        Ok(Self { inner })
    }

    /// Closes the drive in order, so that the next load is a short one. Extents that somebody still holds cannot be used
    /// any more.
    pub async fn close(self) -> Result<(), DriveError> {
        let open: Vec<_> = self.inner.extents.borrow_mut().drain().collect();
        for open in open.into_iter().filter_map(|(_, open)| open.upgrade()) {
            open.close().await?;
        }
        let Some(Attached { store, device }) = self.inner.attached.borrow_mut().take() else {
            return Ok(());
        };
        // Whoever still uses the store has it for one operation only.
        while Rc::strong_count(&store) > 1 {
            turn().await;
        }
        let store = Rc::into_inner(store).expect("it was the last one just now");
        store.unload().await.map_err(failed)?;
        device.flush().await
    }
}

impl Device {
    async fn flush(&self) -> Result<(), DriveError> {
        if !self.flushes {
            return Ok(());
        }
        let all = BlockRange::new(0, self.desc.block_count());
        self.channel.flush_at(all).await.map_err(failed)
    }
}

impl Inner {
    fn let_go(&self) {
        let extents = std::mem::take(&mut *self.extents.borrow_mut());
        for open in extents.values().filter_map(Weak::upgrade) {
            open.blob.take();
        }
        let attached = self.attached.borrow_mut().take();
        drop(attached);
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn gone(&self) -> DriveError {
        failed(format_args!("'{}' was removed, or closed", self.device))
    }

    fn store(&self) -> Result<Rc<Blobstore>, DriveError> {
        let attached = self.attached.borrow();
        let store = attached.as_ref().map(|attached| Rc::clone(&attached.store));
        store.ok_or_else(|| self.gone())
    }

    async fn flush(&self) -> Result<(), DriveError> {
        let device = match &*self.attached.borrow() {
            Some(attached) => attached.device.clone(),
            None => return Err(self.gone()),
        };
        device.flush().await
    }

    /// Does something with extents, when there is memory for it.
    async fn with_memory<T>(&self, operation: impl Future<Output = T>) -> Result<T, DriveError> {
        self.metadata.with(&self.idle, operation).await
    }

    /// How to transfer those units of an extent without the blobstore, if they are in one place.
    fn short_way(&self, open: &Open, units: BlockRange) -> Option<(Channel, BlockRange)> {
        let on_device = open.places.on_device(units)?;
        let attached = self.attached.borrow();
        let channel = &attached.as_ref()?.device.channel;
        Some((channel.clone(), on_device))
    }

    /// Takes a blob for the extent that its attribute says it is; `None` if it has no such attribute.
    fn adopt(&self, blob: Blob) -> Result<Result<SpdkExtent, Blob>, DriveError> {
        let Some(value) = blob.xattr(XATTR) else {
            return Ok(Err(blob));
        };
        let id = blob.id();
        let Some((name, blocks)) = decode_name(&value) else {
            return Err(failed(format_args!(
                "the blob {id} on '{}' is of a kind that this version does not know: use the newer one that made it",
                self.device
            )));
        };
        let room = blob.clusters() * self.blocks_per_cluster;
        if blocks > room {
            return Err(failed(format_args!(
                "{name} on '{}' says that it has {blocks} blocks, and its blob has {room}",
                self.device
            )));
        }
        let open = Rc::new(Open {
            name,
            blocks,
            id,
            places: Arc::new(Places {
                list: blob.places().unwrap_or_default(),
                units: self.units,
                blocks,
                blocks_per_cluster: self.blocks_per_cluster,
            }),
            blob: RefCell::new(Some(Rc::new(blob))),
        });
        let mut extents = self.extents.borrow_mut();
        extents.retain(|_, open| open.strong_count() > 0);
        extents.insert(id, Rc::downgrade(&open));
        Ok(Ok(SpdkExtent(open)))
    }
}

impl Open {
    /// Closes its blob once the last transfer is done.
    async fn close(&self) -> Result<(), DriveError> {
        let Some(blob) = self.blob.take() else {
            return Ok(());
        };
        while Rc::strong_count(&blob) > 1 {
            turn().await;
        }
        let blob = Rc::into_inner(blob).expect("it was the last one just now");
        blob.close().await.map_err(failed)
    }

    fn range(&self, block: u64, bytes: usize) -> Result<BlockRange, DriveError> {
        self.places.units(block, bytes).ok_or_else(|| {
            let blocks = self.blocks;
            let reason = format_args!("{bytes} bytes do not fit there, it has {blocks} blocks");
            self.error(block, reason)
        })
    }

    fn error(&self, block: u64, reason: impl ToString) -> DriveError {
        DriveError::Io {
            extent: self.name,
            block,
            reason: reason.to_string(),
        }
    }
}

/// Lets the executor's other tasks, and SPDK, have a turn.
async fn turn() {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        if std::mem::take(&mut is_first) {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    })
    .await;
}

impl Drive for SpdkDrive {
    type Extent = SpdkExtent;
    type Buf = SpdkBuf;

    fn buffer(&self, bytes: usize) -> Result<SpdkBuf, DriveError> {
        self.inner.idle.take(bytes)
    }

    fn free_blocks(&self) -> u64 {
        let attached = self.inner.attached.borrow();
        let clusters = attached.as_ref().map_or(0, |it| it.store.free_clusters());
        clusters.saturating_sub(ROUNDED_UP_AT_ONCE) * self.inner.blocks_per_cluster
    }

    async fn extents(&self) -> Result<Vec<(ExtentName, SpdkExtent)>, DriveError> {
        let store = self.inner.store()?;
        let mut extents = Vec::new();
        let mut names = HashSet::new();
        for blob in store.blobs().await.map_err(failed)? {
            let held = self.inner.extents.borrow().get(&blob.id).cloned();
            let held = held.and_then(|open| open.upgrade());
            let extent = match held {
                Some(open) => SpdkExtent(open),
                None => {
                    let opened = self.inner.with_memory(store.open(blob.id)).await?;
                    let opened = opened.map_err(failed)?;
                    match self.inner.adopt(opened)? {
                        Ok(extent) => extent,
                        // Nobody will ever ask for what has no name.
                        Err(nameless) => {
                            nameless.close().await.map_err(failed)?;
                            let deleted = self.inner.with_memory(store.delete(blob.id)).await?;
                            deleted.map_err(failed)?;
                            continue;
                        }
                    }
                }
            };
            let name = extent.0.name;
            if !names.insert(name) {
                return Err(failed(format_args!(
                    "there is more than one of {name} on '{}'",
                    self.inner.device
                )));
            }
            extents.push((name, extent));
        }
        Ok(extents)
    }

    async fn create(&self, name: ExtentName, blocks: u64) -> Result<SpdkExtent, DriveError> {
        let store = self.inner.store()?;
        let value = encode_name(name, blocks);
        let blob = NewBlob {
            clusters: blocks.div_ceil(self.inner.blocks_per_cluster).max(1),
            xattrs: &[(XATTR, &value)],
        };
        let made = self.inner.with_memory(store.create(blob)).await?;
        let id = made.map_err(|error| match error {
            blob::CreateError::NoSpace { .. } | blob::CreateError::NoMetadataPage => {
                DriveError::NoRoom { blocks }
            }
            error => failed(error),
        })?;
        self.inner.flush().await?;
        let opened = self.inner.with_memory(store.open(id)).await;
        let blob = opened.map_err(failed)?.map_err(failed)?;
        // It has the attribute that it was made with.
        self.inner
            .adopt(blob)?
            .map_err(|_| failed(format_args!("{name} was made and has no name")))
    }

    async fn delete(&self, extent: SpdkExtent) -> Result<(), DriveError> {
        let store = self.inner.store()?;
        extent.0.close().await?;
        self.inner.extents.borrow_mut().remove(&extent.0.id);
        let deleted = self.inner.with_memory(store.delete(extent.0.id)).await;
        deleted.map_err(failed)?.map_err(failed)?;
        self.inner.flush().await
    }

    fn blocks(&self, extent: &SpdkExtent) -> u64 {
        extent.0.blocks
    }

    async fn read(&self, extent: &SpdkExtent, block: u64, buf: SpdkBuf) -> Transferred<SpdkBuf> {
        let range = match extent.0.range(block, buf.bytes) {
            Ok(range) => range,
            Err(error) => return (buf, Err(error)),
        };
        let Some(blob) = extent.0.blob.borrow().clone() else {
            return (buf, Err(self.inner.gone()));
        };
        let (buf, read) = match self.inner.short_way(&extent.0, range) {
            Some((device, range)) => {
                buf.through(|dma| async move { device.read_keeping(blob, dma, range).await })
                    .await
            }
            None => buf.through(|dma| blob.read_at(dma, range)).await,
        };
        (buf, read.map_err(|error| extent.0.error(block, error)))
    }

    async fn write(&self, extent: &SpdkExtent, block: u64, buf: SpdkBuf) -> Transferred<SpdkBuf> {
        let range = match extent.0.range(block, buf.bytes) {
            Ok(range) => range,
            Err(error) => return (buf, Err(error)),
        };
        let Some(blob) = extent.0.blob.borrow().clone() else {
            return (buf, Err(self.inner.gone()));
        };
        let (buf, written) = match self.inner.short_way(&extent.0, range) {
            Some((device, range)) => {
                buf.through(|dma| async move { device.write_keeping(blob, dma, range).await })
                    .await
            }
            None => buf.through(|dma| blob.write_at(dma, range)).await,
        };
        (buf, written.map_err(|error| extent.0.error(block, error)))
    }

    async fn flush(&self) -> Result<(), DriveError> {
        self.inner.flush().await
    }
}
