//! What can go wrong with a blobstore.

use std::io;

use thiserror::Error;

use super::{BlobId, Blobstore, StoreType};
use crate::bdev;
use crate::dma::NoDmaMemory;
use crate::limits::XATTR_BYTES_MAX;

/// Why a blobstore was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InitError {
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] bdev::OpenError),
    /// The device cannot be looked into.
    #[error(
        "the block device '{device}' could not be read before making a blobstore on it: {source}"
    )]
    Read {
        /// The device.
        device: String,
        /// The reason.
        source: ReadError,
    },
    /// There is one already.
    #[error(
        "the block device '{device}' holds a blobstore of type '{found}' already: load it, or say that it may be overwritten"
    )]
    Exists {
        /// The device.
        device: String,
        /// The type of what is there.
        found: StoreType,
    },
    /// A cluster size that cannot be.
    #[error(
        "clusters of {cluster_bytes} bytes cannot be had: use a multiple of 4096 that the block size {block_size} divides"
    )]
    BadClusterSize {
        /// What was asked for.
        cluster_bytes: u32,
        /// The device's block size.
        block_size: u32,
    },
    /// Blocks larger than a metadata page.
    #[error(
        "the block device '{device}' has blocks of {block_size} bytes, and a blobstore needs 512, 1024, 2048 or 4096"
    )]
    BadBlockSize {
        /// The device.
        device: String,
        /// Its block size.
        block_size: u32,
    },
    /// No room for metadata and one cluster.
    #[error(
        "the block device '{device}' holds {clusters} clusters of {cluster_bytes} bytes, too few for the metadata and a blob: use a larger device or smaller clusters"
    )]
    DeviceTooSmall {
        /// The device.
        device: String,
        /// Whole clusters on it.
        clusters: u64,
        /// Bytes in a cluster.
        cluster_bytes: u32,
    },
    /// SPDK of this release would lose data after a crash.
    #[error(
        "{clusters} clusters of {cluster_bytes} bytes need a layout that SPDK {} cannot recover after a crash: use larger clusters, or SPDK v21.10 or newer",
        oriel_spdk_sys::SPDK_RELEASE
    )]
    Unrecoverable {
        /// Clusters on the device.
        clusters: u64,
        /// Bytes in a cluster.
        cluster_bytes: u32,
    },
    /// SPDK refused for another reason.
    #[error("the blobstore on '{device}' could not be made ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The device.
        device: String,
        /// The positive errno.
        errno: i32,
    },
}

/// A device could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No channel.
    #[error(transparent)]
    Channel(#[from] bdev::ChannelError),
    /// No buffer.
    #[error(transparent)]
    Memory(#[from] NoDmaMemory),
    /// The device failed.
    #[error(transparent)]
    Request(#[from] bdev::RequestError),
}

/// Why a blobstore was not loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The device cannot be opened.
    #[error(transparent)]
    Device(#[from] bdev::OpenError),
    /// The super block cannot be read.
    #[error("the super block on '{device}' could not be read: {source}")]
    Read {
        /// The device.
        device: String,
        /// The reason.
        source: ReadError,
    },
    /// Something else is on the device.
    #[error(
        "there is no blobstore on the block device '{device}': is it the right device? Blobstore::init makes one"
    )]
    NotABlobstore {
        /// The device.
        device: String,
    },
    /// The super block's checksum is wrong.
    #[error(
        "the blobstore's super block on '{device}' is corrupted (checksum {found:#010x}, expected {expected:#010x}): restore the device from a copy"
    )]
    CorruptSuperBlock {
        /// The device.
        device: String,
        /// The checksum that it carries.
        found: u32,
        /// The checksum of its content.
        expected: u32,
    },
    /// The super block is whole and contradicts itself.
    #[error(
        "the blobstore's super block on '{device}' makes no sense: restore the device from a copy"
    )]
    BadSuperBlock {
        /// The device.
        device: String,
    },
    /// Somebody else's blobstore.
    #[error(
        "the blobstore on '{device}' is of type '{found}', and '{expected}' was expected: is it the right device?"
    )]
    WrongType {
        /// The device.
        device: String,
        /// What the super block says.
        found: StoreType,
        /// What was asked for.
        expected: StoreType,
    },
    /// The device has shrunk.
    #[error(
        "the blobstore on '{device}' was made on {needed} bytes, and the device has {found}: give it its size back"
    )]
    DeviceTooSmall {
        /// The device.
        device: String,
        /// Bytes that the store covers.
        needed: u64,
        /// Bytes of the device.
        found: u64,
    },
    /// The device has other blocks than when the store was made.
    #[error(
        "the blobstore on '{device}' was made with blocks of {expected} bytes, and the device has blocks of {found}: make the device with {expected}"
    )]
    BlockSizeChanged {
        /// The device.
        device: String,
        /// The store's.
        expected: u32,
        /// The device's.
        found: u32,
    },
    /// SPDK before v21.10 would give metadata pages away as free space.
    #[error(
        "the blobstore on '{device}' was not unloaded, and recovering it with SPDK {} would overwrite its metadata: load it once with SPDK v21.10 or newer, and unload it there",
        oriel_spdk_sys::SPDK_RELEASE
    )]
    UnsafeRecovery {
        /// The device.
        device: String,
    },
    /// Pages behind the super block are damaged, or of a format that this SPDK does not know.
    #[error(
        "the metadata of the blobstore on '{device}' (format version {version}) is damaged, or newer than SPDK {}: restore the device from a copy, or use the SPDK that wrote it",
        oriel_spdk_sys::SPDK_RELEASE
    )]
    BadMetadata {
        /// The device.
        device: String,
        /// The super block's version.
        version: u32,
    },
    /// SPDK refused for another reason.
    #[error("the blobstore on '{device}' could not be loaded ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The device.
        device: String,
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blobstore was not unloaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnloadError {
    /// Blobs are open; the store comes back.
    #[error("{} blobs of the store are open ({open:?}): drop or close them first", open.len())]
    InUse {
        /// The store.
        store: Blobstore,
        /// What is open.
        open: Vec<BlobId>,
    },
    /// The last writes failed. Nothing that was synced is lost: the next load recovers.
    #[error("the blobstore was not unloaded in order ({}): the next load recovers it", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blobstore was not destroyed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DestroyError {
    /// Blobs are open; the store comes back.
    #[error("{} blobs of the store are open ({open:?}): drop or close them first", open.len())]
    InUse {
        /// The store.
        store: Blobstore,
        /// What is open.
        open: Vec<BlobId>,
    },
    /// The super block could not be wiped.
    #[error("the blobstore could not be destroyed ({}): it may still be on the device", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blob was not made. Nothing of it is left then.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateError {
    /// Not enough free clusters.
    #[error("a blob of {asked} clusters does not fit the {free} free ones: delete blobs first")]
    NoSpace {
        /// Clusters asked for.
        asked: u64,
        /// Clusters free.
        free: u64,
    },
    /// No metadata page is left.
    #[error("the store's metadata pages are used up: delete blobs or attributes first")]
    NoMetadataPage,
    /// An attribute that cannot be.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// The device failed.
    #[error("the blob could not be made ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blob was not opened.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// No such blob.
    #[error("there is no blob {id} in the store")]
    NotFound {
        /// What was asked for.
        id: BlobId,
    },
    /// Its handle exists already.
    #[error("the blob {id} is open already: use the handle that there is")]
    AlreadyOpen {
        /// The blob.
        id: BlobId,
    },
    /// Its metadata cannot be read or makes no sense.
    #[error("the metadata of blob {id} could not be read ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The blob.
        id: BlobId,
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blob was not deleted.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeleteError {
    /// No such blob.
    #[error("there is no blob {id} in the store")]
    NotFound {
        /// What was asked for.
        id: BlobId,
    },
    /// It is in use.
    #[error("the blob {id} is open: close it first")]
    Open {
        /// The blob.
        id: BlobId,
    },
    /// The device failed. The blob may or may not be there after the next load.
    #[error("the blob {id} could not be deleted ({}): unload the store and load it to see what is left", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The blob.
        id: BlobId,
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blob was not resized. It has its old size then.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResizeError {
    /// Not enough free clusters.
    #[error("{asked} more clusters do not fit the {free} free ones: delete blobs first")]
    NoSpace {
        /// Clusters asked for beyond the present size.
        asked: u64,
        /// Clusters free.
        free: u64,
    },
    /// A cluster may not go while a request goes to it.
    #[error(
        "{requests} requests to the blob are in flight: wait for them before making it smaller"
    )]
    InFlight {
        /// How many.
        requests: usize,
    },
    /// SPDK refused for another reason.
    #[error("the blob could not be resized ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

/// Why a blob's metadata did not reach the device.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncError {
    /// No metadata page is left.
    #[error("the store's metadata pages are used up: delete blobs or attributes first")]
    NoMetadataPage,
    /// The device failed.
    #[error("the blob's metadata could not be written ({}): what was synced before is still there", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
    /// SPDK believes after a failed write that memory and device agree, and would not write again.
    #[error(
        "an earlier write of the blob's metadata failed: unload the store and load it, then repeat the change"
    )]
    FailedBefore,
}

/// Why a blob was not closed. The store cannot be unloaded then; the next load recovers it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the blob could not be closed, because its metadata could not be written ({})", io::Error::from_raw_os_error(*errno))]
pub struct CloseError {
    /// The positive errno.
    pub errno: i32,
}

/// Why an attribute was not set.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum XattrError {
    /// A name that C cannot carry.
    #[error("an attribute's name must not be empty or contain a NUL byte")]
    BadName,
    /// The same name twice.
    #[error("the attribute '{name}' is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// SPDK cannot tell an empty value from none.
    #[error("the attribute '{name}' has no value: give it at least one byte, or remove it")]
    Empty {
        /// The name.
        name: String,
    },
    /// It must fit a metadata page.
    #[error(
        "the attribute '{name}' has {bytes} bytes with its name, and at most {XATTR_BYTES_MAX} fit"
    )]
    TooLong {
        /// The name.
        name: String,
        /// Bytes of name and value.
        bytes: usize,
    },
    /// SPDK refused for another reason.
    #[error("the attribute '{name}' could not be changed ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The name.
        name: String,
        /// The positive errno.
        errno: i32,
    },
}

/// Why the store's own metadata could not be read or written.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the store's metadata could not be read or written ({})", io::Error::from_raw_os_error(*errno))]
pub struct StoreError {
    /// The positive errno.
    pub errno: i32,
}
