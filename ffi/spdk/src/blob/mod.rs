//! Blobstore: a device cut into clusters, which named runs of clusters (blobs) are made of.
//!
//! ```text
//!   device │ super block │ masks │ metadata pages │ cluster │ cluster │ cluster │ ...
//!                                      one or more       ▲─────────▲──── a blob's clusters, which
//!                                      for each blob              lie in no particular order
//! ```
//!
//! [`Blobstore::init`] makes one on a block device, [`Blobstore::load`] finds it again, also after
//! its process was killed. Blobs are thick: their clusters are theirs from creation on.
//!
//! - Metadata belongs to the SPDK thread that loaded the store. Nothing here is `Send`, and each
//!   call asserts that this thread is current. Metadata operations run one after another, in the
//!   order of the calls: SPDK's releases differ in what they bear at once (v20.07 may load a blob
//!   twice, and write a stale super block when the super blob is set during a first change).
//! - A [`Blob`] is the one handle of an open blob and keeps the store loaded. Dropping it closes
//!   the blob once its requests are done; [`Blobstore::unload`] refuses while one is open.
//! - What a metadata operation changed is on the device when its future is ready, with two
//!   exceptions: [`Blob::resize`] and the attributes change memory until [`Blob::sync_metadata`].
//! - Data goes to the device at once, in units of [`Blobstore::io_unit_bytes`]. The store has no
//!   flush of its own: on a device with a volatile cache, flush the device.
//! - The id of a deleted blob is used again for new ones. Who keeps ids over a crash tells blobs
//!   apart by an attribute.
//! - New clusters hold whatever they held before.
//! - A kill never loses what was acknowledged. It can cost space: SPDK deletes a blob that has more
//!   than one metadata page (large attributes) in several writes, and if it is stopped between them
//!   the blob cannot be opened, while its clusters stay taken.
//!
//! Data requests have the two forms of [`bdev`](crate::bdev): [`Io`](crate::bdev::Io) boxes, and
//! `async` methods.

mod bring_up;
mod device;
mod error;
mod geometry;
mod handle;
mod io;
mod metadata;
mod store;
mod superblock;

use std::fmt;

pub use bring_up::InitOptions;
pub use error::{
    CloseError, CreateError, DeleteError, DestroyError, InitError, LoadError, OpenError,
    ResizeError, StoreError, SyncError, UnloadError, XattrError,
};
pub use handle::{Blob, Place};
pub(crate) use io::InBlob;
pub use store::{BlobEntry, Blobstore, NewBlob};

/// Names a blob within its store, for as long as the blob exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(u64);

impl BlobId {
    /// The id that [`Self::to_raw`] gave.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// A number to keep.
    pub fn to_raw(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

/// Says whose store it is, so that nobody loads another's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreType([u8; TYPE_BYTES]);

const TYPE_BYTES: usize = oriel_spdk_sys::ORIEL_BLOB_TYPE_BYTES as usize;

impl StoreType {
    /// A type of 1 to 16 printable ASCII characters.
    ///
    /// # Panics
    /// When `name` is something else; in a constant the compiler says so.
    pub const fn new(name: &str) -> Self {
        let name = name.as_bytes();
        assert!(
            !name.is_empty() && name.len() <= TYPE_BYTES,
            "a store's type has 1 to 16 characters"
        );
        let mut bytes = [0; TYPE_BYTES];
        let mut at = 0;
        while at < name.len() {
            assert!(
                name[at].is_ascii_graphic(),
                "a store's type has printable ASCII characters only"
            );
            bytes[at] = name[at];
            at += 1;
        }
        Self(bytes)
    }

    fn from_bytes(bytes: [u8; TYPE_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for StoreType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0);
        let name = &self.0[..end.unwrap_or(TYPE_BYTES)];
        write!(f, "{}", name.escape_ascii())
    }
}

impl fmt::Debug for StoreType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreType({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_shown_as_it_was_given() {
        assert_eq!(StoreType::new("ORIEL").to_string(), "ORIEL");
        assert_eq!(
            StoreType::new("ABCDEFGHIJKLMNOP").to_string(),
            "ABCDEFGHIJKLMNOP"
        );
        assert_eq!(StoreType::from_bytes([0xff; 16]).to_string().len(), 64);
    }

    #[test]
    #[should_panic(expected = "1 to 16 characters")]
    fn an_empty_type_would_load_any_store() {
        StoreType::new("");
    }
}
