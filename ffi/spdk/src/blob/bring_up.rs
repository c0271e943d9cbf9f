//! Making and loading a blobstore.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Instant;

use oriel_spdk_sys as sys;

use super::error::{InitError, LoadError};
use super::geometry::{MetadataPages, PAGE_BYTES, metadata_pages, recovery_miscounts};
use super::metadata::Operations;
use super::store::{Blobstore, StoreInner, unloaded_by_drop};
use super::{StoreType, device, superblock};
use crate::bdev::BdevEvent;
use crate::bdev::future::IdleRequests;
use crate::limits::{BLOB_CHANNEL_OPS, BLOB_DEVICE_RELEASE_LIMIT, CLUSTER_BYTES_DEFAULT};
use crate::oneshot::{Reply, oneshot, yield_now};
use crate::thread::Home;

/// How to make a blobstore.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// Whose it is; [`Blobstore::load`] asks for the same.
    pub store_type: StoreType,
    /// Bytes in a cluster, a multiple of 4096.
    pub cluster_bytes: u32,
    /// Whether a blobstore that is already on the device may be lost.
    pub overwrite: bool,
}

impl InitOptions {
    /// Clusters of 1 MiB, and nothing is overwritten.
    pub fn new(store_type: StoreType) -> Self {
        Self {
            store_type,
            cluster_bytes: CLUSTER_BYTES_DEFAULT,
            overwrite: false,
        }
    }
}

type Ready = (c_int, Option<NonNull<sys::spdk_blob_store>>);

extern "C" fn ready(ctx: *mut c_void, bs: *mut sys::spdk_blob_store, rc: c_int) {
    // SAFETY: bring_up passes this reply's pointer, and SPDK calls back once.
    unsafe { Reply::<Ready>::from_raw(ctx) }.send((rc, NonNull::new(bs)));
}

#[derive(Clone, Copy)]
enum How {
    Init,
    Load,
}

/// Opens the device and has SPDK make or load the store; the error is an errno, or why the device
/// could not be opened.
async fn bring_up(
    name: &str,
    how: How,
    opts: sys::oriel_bs_opts,
    on_event: impl FnMut(BdevEvent) + 'static,
) -> Result<Blobstore, BringUpError> {
    let home = Home::current("a blobstore");
    let (dev, released) = device::open(name, on_event).map_err(BringUpError::Open)?;
    let (reply, answer) = oneshot::<Ready>();
    match how {
        // SAFETY: the device is open and SPDK's from here on; `ready` takes the reply back once.
        How::Init => unsafe {
            sys::oriel_bs_init(dev.as_ptr(), &opts, Some(ready), reply.into_raw())
        },
        // SAFETY: as above.
        How::Load => unsafe {
            sys::oriel_bs_load(dev.as_ptr(), &opts, Some(ready), reply.into_raw())
        },
    }
    let raw = match answer.await {
        (0, Some(raw)) => raw,
        (rc, _) => {
            // SPDK lets go of the device later than it answers, and after some failures never.
            let start = Instant::now();
            while !released.get() && start.elapsed() < BLOB_DEVICE_RELEASE_LIMIT {
                yield_now().await;
            }
            return Err(BringUpError::Errno(-rc));
        }
    };
    // SAFETY: the store is loaded, and its thread is current.
    let channel = home.enter(|| unsafe { sys::spdk_bs_alloc_io_channel(raw.as_ptr()) });
    let Some(channel) = NonNull::new(channel) else {
        home.enter(|| {
            // SAFETY: the store is loaded, and no blob is open.
            unsafe {
                sys::spdk_bs_unload(raw.as_ptr(), Some(unloaded_by_drop), std::ptr::null_mut())
            };
        });
        return Err(BringUpError::Errno(libc::ENOMEM));
    };
    // SAFETY: the store is loaded.
    let io_unit_bytes = unsafe { sys::spdk_bs_get_io_unit_size(raw.as_ptr()) };
    let inner = StoreInner {
        raw,
        dev,
        channel,
        home,
        operations: Operations::default(),
        slots: RefCell::default(),
        in_flight: Cell::new(0),
        waiting_for_room: RefCell::default(),
        idle: IdleRequests::default(),
        io_unit_bytes: u32::try_from(io_unit_bytes).expect("an I/O unit is at most a page"),
        gone: Cell::new(false),
    };
    Ok(Blobstore {
        inner: Rc::new(inner),
    })
}

enum BringUpError {
    Open(crate::bdev::OpenError),
    Errno(i32),
}

fn raw_options(store_type: StoreType, cluster_bytes: u32, md_pages: u32) -> sys::oriel_bs_opts {
    sys::oriel_bs_opts {
        type_: store_type.0,
        cluster_bytes,
        md_pages,
        max_channel_ops: BLOB_CHANNEL_OPS,
    }
}

impl Blobstore {
    /// Makes a blobstore on a block device and loads it. `on_event` is told what happens to the
    /// device; when it is removed, close the blobs and unload the store.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub async fn init(
        device: &str,
        options: InitOptions,
        on_event: impl FnMut(BdevEvent) + 'static,
    ) -> Result<Self, InitError> {
        device::examined().await;
        let InitOptions {
            store_type,
            cluster_bytes,
            overwrite,
        } = options;
        let (size, page) = superblock::read(device).await?;
        let name = || device.to_owned();
        if !PAGE_BYTES.is_multiple_of(size.block_size) {
            return Err(InitError::BadBlockSize {
                device: name(),
                block_size: size.block_size,
            });
        }
        let page = page.map_err(|source| InitError::Read {
            device: name(),
            source,
        })?;
        if let Some(found) = page.store_type().filter(|_| !overwrite) {
            return Err(InitError::Exists {
                device: name(),
                found,
            });
        }
        if cluster_bytes == 0 || !cluster_bytes.is_multiple_of(PAGE_BYTES) {
            return Err(InitError::BadClusterSize {
                cluster_bytes,
                block_size: size.block_size,
            });
        }
        let clusters = size.bytes() / u64::from(cluster_bytes);
        let md_pages = match metadata_pages(clusters, cluster_bytes) {
            MetadataPages::Fill(pages) => pages,
            MetadataPages::FillMiscounted(_) if recovery_miscounts() => {
                return Err(InitError::Unrecoverable {
                    clusters,
                    cluster_bytes,
                });
            }
            MetadataPages::FillMiscounted(pages) => pages,
            MetadataPages::NoRoom => {
                return Err(InitError::DeviceTooSmall {
                    device: name(),
                    clusters,
                    cluster_bytes,
                });
            }
        };
        let opts = raw_options(store_type, cluster_bytes, md_pages);
        bring_up(device, How::Init, opts, on_event)
            .await
            .map_err(|error| match error {
                BringUpError::Open(error) => error.into(),
                BringUpError::Errno(errno) => InitError::Failed {
                    device: name(),
                    errno,
                },
            })
    }

    /// Loads the blobstore on a block device. If it was not unloaded, its space is counted anew from
    /// its blobs. `on_event` is as for [`Self::init`].
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub async fn load(
        device: &str,
        store_type: StoreType,
        on_event: impl FnMut(BdevEvent) + 'static,
    ) -> Result<Self, LoadError> {
        device::examined().await;
        let (size, page) = superblock::read(device).await?;
        let name = || device.to_owned();
        let page = page.map_err(|source| LoadError::Read {
            device: name(),
            source,
        })?;
        let found = page.check(device, size, store_type)?;
        let opts = raw_options(store_type, found.cluster_bytes, 0);
        bring_up(device, How::Load, opts, on_event)
            .await
            .map_err(|error| match error {
                BringUpError::Open(error) => error.into(),
                BringUpError::Errno(libc::EILSEQ | libc::EINVAL) => LoadError::BadMetadata {
                    device: name(),
                    version: found.version,
                },
                BringUpError::Errno(errno) => LoadError::Failed {
                    device: name(),
                    errno,
                },
            })
    }
}
