//! Why a drive cannot be used.

use oriel_spdk::bdev;
use oriel_spdk::blob::{InitError, LoadError, StoreType};

use super::STORE_TYPE;
use crate::store::error::OpenError;

/// Why a drive was not formatted or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpdkDriveError {
    /// No blobstore on it.
    #[error("the drive '{device}' holds no store: format it first, if it is the right one")]
    NotFormatted {
        /// The device.
        device: String,
    },
    /// Somebody else's blobstore.
    #[error(
        "the drive '{device}' holds a blobstore of type '{found}', and a store's is '{STORE_TYPE}': use the right drive, or zero its first block if what it holds may go"
    )]
    Foreign {
        /// The device.
        device: String,
        /// What is there.
        found: StoreType,
    },
    /// Writes could be lost.
    #[error(
        "what was written to the drive '{device}' ({product}) may wait in a volatile cache, and SPDK cannot flush it: use another kind of device (aio for files)"
    )]
    NoFlush {
        /// The device.
        device: String,
        /// What kind of device it is.
        product: String,
    },
    /// Removed in the middle.
    #[error("the drive '{device}' was removed")]
    Removed {
        /// The device.
        device: String,
    },
    /// No store of that kind fits it.
    #[error(transparent)]
    Sizes(#[from] OpenError),
    /// The device cannot be opened.
    #[error(transparent)]
    Open(#[from] bdev::OpenError),
    /// No way to send it requests.
    #[error(transparent)]
    Channel(#[from] bdev::ChannelError),
    /// The blobstore was not made.
    #[error(transparent)]
    Init(InitError),
    /// The blobstore was not loaded.
    #[error(transparent)]
    Load(LoadError),
}
