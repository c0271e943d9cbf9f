//! A loaded blobstore.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use oriel_spdk_sys as sys;

use super::BlobId;
use super::error::{CreateError, DeleteError, DestroyError, OpenError, StoreError, UnloadError};
use super::handle::{Blob, check_xattr};
use super::metadata::{Call, Operations, Turn, done};
use crate::bdev::future::IdleRequests;
use crate::oneshot::Reply;
use crate::thread::Home;

/// SPDK's id for no blob; the shim asserts the value.
const NO_BLOB: u64 = u64::MAX;

/// A blob to be made.
#[derive(Clone, Copy, Default, Debug)]
pub struct NewBlob<'a> {
    /// Its size.
    pub clusters: u64,
    /// Its attributes: they and the blob come to be in one.
    pub xattrs: &'a [(&'a str, &'a [u8])],
}

/// A blob in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobEntry {
    /// Its name.
    pub id: BlobId,
    /// Its size.
    pub clusters: u64,
}

/// How far a blob's closing is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It has a handle or a request.
    Open,
    /// Its closing waits for its turn or is under way.
    Closing,
    /// Closing failed, and SPDK keeps it open.
    Stuck,
}

/// What the store, its blobs, their requests and its operations share.
pub(super) struct StoreInner {
    pub(super) raw: NonNull<sys::spdk_blob_store>,
    /// What it is on; SPDK's as long as the store is loaded.
    pub(super) dev: NonNull<sys::spdk_bs_dev>,
    /// The thread's own channel, for data.
    pub(super) channel: NonNull<sys::spdk_io_channel>,
    pub(super) home: Home,
    pub(super) operations: Operations,
    pub(super) slots: RefCell<HashMap<BlobId, Slot>>,
    /// Data requests in flight, of all blobs.
    pub(super) in_flight: Cell<usize>,
    /// Who waits for one of them to end.
    pub(super) waiting_for_room: RefCell<Vec<Reply<()>>>,
    pub(super) idle: IdleRequests,
    pub(super) io_unit_bytes: u32,
    /// SPDK has been told to let go of it.
    pub(super) gone: Cell<bool>,
}

impl StoreInner {
    pub(super) fn as_ptr(&self) -> *mut sys::spdk_blob_store {
        self.raw.as_ptr()
    }

    pub(super) fn channel(&self) -> *mut sys::spdk_io_channel {
        self.channel.as_ptr()
    }

    /// # Panics
    /// When another SPDK thread is current.
    #[inline]
    pub(super) fn assert_home(&self) {
        assert!(
            self.home.is_current(),
            "a blobstore belongs to the SPDK thread that loaded it: make that thread current before calling"
        );
    }

    pub(super) fn free_clusters(&self) -> u64 {
        // SAFETY: the store is loaded and this is its thread.
        unsafe { sys::spdk_bs_free_cluster_count(self.as_ptr()) }
    }

    /// Gives up the channel. Afterwards only SPDK's unload or destroy may be called.
    fn let_go(&self) {
        self.gone.set(true);
        // SAFETY: allocated with the store, freed once; no request is in flight, since each holds a
        // blob and no blob is open.
        unsafe { sys::spdk_bs_free_io_channel(self.channel.as_ptr()) };
    }
}

pub(super) extern "C" fn unloaded_by_drop(_ctx: *mut c_void, rc: c_int) {
    if rc != 0 {
        let error = std::io::Error::from_raw_os_error(-rc);
        tracing::error!(
            "a dropped blobstore was not unloaded in order ({error}): the next load recovers it"
        );
    }
}

impl Drop for StoreInner {
    fn drop(&mut self) {
        if self.gone.get() {
            return;
        }
        self.home.enter(|| {
            self.let_go();
            // SAFETY: the store is loaded, no blob is open (each holds the store), and nobody can
            // name it any more.
            unsafe {
                sys::spdk_bs_unload(self.as_ptr(), Some(unloaded_by_drop), std::ptr::null_mut())
            };
        });
    }
}

/// A loaded blobstore. [`Blobstore::unload`] ends it in order; dropping it starts the same without
/// saying how it went.
pub struct Blobstore {
    pub(super) inner: Rc<StoreInner>,
}

impl fmt::Debug for Blobstore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blobstore({:p})", self.inner.raw)
    }
}

impl Blobstore {
    /// Writes what is not written yet and lets go of the device.
    pub async fn unload(self) -> Result<(), UnloadError> {
        match self.leave(sys::spdk_bs_unload).await {
            Ok(0) => Ok(()),
            Ok(rc) => Err(UnloadError::Failed { errno: -rc }),
            Err(open) => Err(UnloadError::InUse { store: self, open }),
        }
    }

    /// Wipes the super block, so that the store is lost, and lets go of the device.
    pub async fn destroy(self) -> Result<(), DestroyError> {
        match self.leave(sys::spdk_bs_destroy).await {
            Ok(0) => Ok(()),
            Ok(rc) => Err(DestroyError::Failed { errno: -rc }),
            Err(open) => Err(DestroyError::InUse { store: self, open }),
        }
    }

    async fn leave(
        &self,
        call: unsafe extern "C" fn(*mut sys::spdk_blob_store, sys::oriel_done, *mut c_void),
    ) -> Result<c_int, Vec<BlobId>> {
        let start = move |turn: Turn, reply: Reply<Result<c_int, Vec<BlobId>>>| {
            let store = Rc::clone(turn.store());
            let mut open: Vec<_> = store.slots.borrow().keys().copied().collect();
            if !open.is_empty() {
                open.sort_unstable();
                Call::new(turn, reply).end(Err(open));
                return;
            }
            store.let_go();
            let ctx = Call::new(turn, reply).into_raw();
            // SAFETY: the store is loaded, no blob is open, the channel is freed; `left` takes the
            // call back once.
            unsafe { call(store.as_ptr(), Some(left), ctx) };
        };
        self.inner.metadata(start).await
    }

    /// Makes a blob. It and its attributes are on the device when this is ready.
    pub async fn create(&self, blob: NewBlob<'_>) -> Result<BlobId, CreateError> {
        let clusters = blob.clusters;
        let mut xattrs = Vec::with_capacity(blob.xattrs.len());
        for (at, (name, value)) in blob.xattrs.iter().enumerate() {
            let c_name = check_xattr(name, value)?;
            if blob.xattrs[..at].iter().any(|(other, _)| other == name) {
                let name = (*name).to_owned();
                return Err(super::XattrError::Twice { name }.into());
            }
            xattrs.push((c_name, value.to_vec()));
        }
        let start = move |turn: Turn, reply| {
            let store = Rc::clone(turn.store());
            let free = store.free_clusters();
            if clusters > free {
                let error = CreateError::NoSpace {
                    asked: clusters,
                    free,
                };
                Call::new(turn, reply).end(Err(error));
                return;
            }
            create_in(&store, clusters, &xattrs, Call::new(turn, reply).into_raw());
        };
        self.inner.metadata(start).await
    }

    /// Opens a blob. There is one handle at a time.
    pub async fn open(&self, id: BlobId) -> Result<Blob, OpenError> {
        self.inner
            .metadata(move |turn, reply| Blob::open(id, turn, reply))
            .await
    }

    /// Deletes a blob; its clusters are free and its id may come back.
    pub async fn delete(&self, id: BlobId) -> Result<(), DeleteError> {
        let start = move |turn: Turn, reply: Reply<c_int>| {
            let store = Rc::clone(turn.store());
            let call = Call::new(turn, reply);
            if store.slots.borrow().contains_key(&id) {
                call.end(-libc::EBUSY);
                return;
            }
            // SAFETY: the store is loaded, this is its thread, and the blob is not open; `done`
            // takes the call back once.
            unsafe {
                sys::spdk_bs_delete_blob(store.as_ptr(), id.0, Some(done), call.into_raw());
            }
        };
        match -self.inner.metadata(start).await {
            0 => Ok(()),
            libc::ENOENT => Err(DeleteError::NotFound { id }),
            libc::EBUSY => Err(DeleteError::Open { id }),
            errno => Err(DeleteError::Failed { id, errno }),
        }
    }

    /// The blobs that can be opened, by ascending id. Each is opened for that, so it takes a while.
    pub async fn blobs(&self) -> Result<Vec<BlobEntry>, StoreError> {
        let start = |turn: Turn, reply| {
            let store = Rc::clone(turn.store());
            let list = Box::new(List {
                found: Vec::new(),
                call: Call::new(turn, reply),
            });
            let ctx = Box::into_raw(list).cast();
            // SAFETY: the store is loaded and this is its thread; list_done takes the list back.
            unsafe { sys::oriel_bs_list(store.as_ptr(), Some(list_found), Some(list_done), ctx) };
        };
        let (rc, mut found) = self.inner.metadata(start).await;
        if rc != 0 {
            return Err(StoreError { errno: -rc });
        }
        found.sort_unstable_by_key(|entry| entry.id);
        Ok(found)
    }

    /// The blob that was marked as the one to start from.
    pub async fn super_blob(&self) -> Result<Option<BlobId>, StoreError> {
        let start = |turn: Turn, reply| {
            let store = Rc::clone(turn.store());
            let ctx = Call::<(c_int, u64)>::new(turn, reply).into_raw();
            // SAFETY: the store is loaded and this is its thread; got_super takes the call back once.
            unsafe { sys::spdk_bs_get_super(store.as_ptr(), Some(got_super), ctx) };
        };
        match self.inner.metadata(start).await {
            (0, id) => Ok(Some(BlobId(id))),
            (rc, _) if -rc == libc::ENOENT => Ok(None),
            (rc, _) => Err(StoreError { errno: -rc }),
        }
    }

    /// Marks the blob to start from, or none. It is on the device when this is ready.
    pub async fn set_super_blob(&self, id: Option<BlobId>) -> Result<(), StoreError> {
        let raw = id.map_or(NO_BLOB, BlobId::to_raw);
        let start = move |turn: Turn, reply| {
            let store = Rc::clone(turn.store());
            let ctx = Call::new(turn, reply).into_raw();
            // SAFETY: the store is loaded and this is its thread; `done` takes the call back once.
            unsafe { sys::spdk_bs_set_super(store.as_ptr(), raw, Some(done), ctx) };
        };
        match self.inner.metadata(start).await {
            0 => Ok(()),
            rc => Err(StoreError { errno: -rc }),
        }
    }

    /// Clusters that no blob has.
    pub fn free_clusters(&self) -> u64 {
        self.inner.assert_home();
        self.inner.free_clusters()
    }

    /// Clusters for blobs, free or not.
    pub fn total_clusters(&self) -> u64 {
        self.inner.assert_home();
        // SAFETY: the store is loaded and this is its thread.
        unsafe { sys::spdk_bs_total_data_cluster_count(self.inner.as_ptr()) }
    }

    /// Bytes in a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        // SAFETY: the store is loaded.
        unsafe { sys::spdk_bs_get_cluster_size(self.inner.as_ptr()) }
    }

    /// Bytes in the unit that data requests count in: a block of the device.
    pub fn io_unit_bytes(&self) -> u32 {
        self.inner.io_unit_bytes
    }
}

extern "C" fn left(ctx: *mut c_void, rc: c_int) {
    // SAFETY: leave() passes this call's pointer, and SPDK calls back once.
    unsafe { Call::<Result<c_int, Vec<BlobId>>>::from_raw(ctx) }.end(Ok(rc));
}

fn create_in(store: &StoreInner, clusters: u64, xattrs: &[(CString, Vec<u8>)], ctx: *mut c_void) {
    let raw: Vec<_> = xattrs
        .iter()
        .map(|(name, value)| sys::oriel_xattr {
            name: name.as_ptr(),
            value: value.as_ptr().cast(),
            value_len: value.len(),
        })
        .collect();
    // SAFETY: the store is loaded and this is its thread; SPDK copies the attributes before this
    // returns; `created` takes the call back once.
    unsafe {
        sys::oriel_blob_create(
            store.as_ptr(),
            clusters,
            raw.as_ptr(),
            raw.len(),
            Some(created),
            ctx,
        );
    }
}

extern "C" fn created(ctx: *mut c_void, id: u64, rc: c_int) {
    // SAFETY: create() passes this call's pointer, and SPDK calls back once.
    let call = unsafe { Call::<Result<BlobId, CreateError>>::from_raw(ctx) };
    let result = match -rc {
        0 => Ok(BlobId(id)),
        // There are clusters and memory enough, so what is missing is a page for the metadata.
        libc::ENOMEM | libc::ENOSPC => Err(CreateError::NoMetadataPage),
        errno => Err(CreateError::Failed { errno }),
    };
    call.end(result);
}

struct List {
    found: Vec<BlobEntry>,
    call: Call<(c_int, Vec<BlobEntry>)>,
}

extern "C" fn list_found(ctx: *mut c_void, id: u64, clusters: u64) {
    // SAFETY: the list lives until list_done, and nobody else looks at it meanwhile.
    let list = unsafe { &mut *ctx.cast::<List>() };
    list.found.push(BlobEntry {
        id: BlobId(id),
        clusters,
    });
}

extern "C" fn list_done(ctx: *mut c_void, rc: c_int) {
    // SAFETY: blobs() leaked the list for this one callback.
    let list = unsafe { Box::from_raw(ctx.cast::<List>()) };
    list.call.end((rc, list.found));
}

extern "C" fn got_super(ctx: *mut c_void, id: u64, rc: c_int) {
    // SAFETY: super_blob() passes this call's pointer, and SPDK calls back once.
    unsafe { Call::<(c_int, u64)>::from_raw(ctx) }.end((rc, id));
}
