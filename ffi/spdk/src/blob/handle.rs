//! An open blob: its handle, size and attributes.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use oriel_spdk_sys as sys;

use super::BlobId;
use super::error::{CloseError, OpenError, ResizeError, SyncError, XattrError};
use super::metadata::{Call, Turn, done};
use super::store::{Slot, StoreInner};
use crate::bdev::BlockRange;
use crate::limits::XATTR_BYTES_MAX;
use crate::oneshot::{Reply, oneshot};

/// What a blob's handle, its requests and its operations share.
pub(crate) struct BlobInner {
    raw: NonNull<sys::spdk_blob>,
    id: BlobId,
    pub(super) store: Rc<StoreInner>,
    /// Data requests in flight.
    pub(super) in_flight: Cell<usize>,
    /// A write of its metadata has failed.
    sync_failed: Cell<bool>,
    /// Who wants to know how closing went.
    closer: Cell<Option<Reply<c_int>>>,
}

impl BlobInner {
    pub(super) fn as_ptr(&self) -> *mut sys::spdk_blob {
        self.raw.as_ptr()
    }
}

struct Closing {
    id: BlobId,
    closer: Option<Reply<c_int>>,
    turn: Turn,
}

extern "C" fn closed(ctx: *mut c_void, rc: c_int) {
    // SAFETY: BlobInner::drop leaked the box for this one callback.
    let Closing { id, closer, turn } = *unsafe { Box::from_raw(ctx.cast::<Closing>()) };
    let mut slots = turn.store().slots.borrow_mut();
    if rc == 0 {
        slots.remove(&id);
    } else {
        slots.insert(id, Slot::Stuck);
    }
    drop(slots);
    match closer {
        Some(closer) => closer.send(rc),
        None if rc != 0 => {
            let error = std::io::Error::from_raw_os_error(-rc);
            tracing::error!(
                "the dropped blob {id} was not closed: its metadata could not be written ({error})"
            );
        }
        None => {}
    }
}

impl Drop for BlobInner {
    fn drop(&mut self) {
        let (raw, id, closer) = (self.raw, self.id, self.closer.take());
        self.store.slots.borrow_mut().insert(id, Slot::Closing);
        self.store.in_turn(move |turn| {
            let ctx = Box::into_raw(Box::new(Closing { id, closer, turn })).cast();
            // SAFETY: the blob is open, this is its thread, no request or operation of it is left
            // (each holds the BlobInner), and it is closed once; `closed` takes the box back.
            unsafe { sys::spdk_blob_close(raw.as_ptr(), Some(closed), ctx) };
        });
    }
}

/// Where a part of a blob is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first unit in the blob.
    pub first: u64,
    /// The blocks of the device that it is in, as many as it has units.
    pub on_device: BlockRange,
}

/// An open blob. Dropping it closes the blob, and writes what was not synced.
pub struct Blob {
    pub(super) inner: Rc<BlobInner>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", self.inner.id)
    }
}

struct Opening {
    id: BlobId,
    call: Call<Result<Blob, OpenError>>,
}

extern "C" fn opened(ctx: *mut c_void, raw: *mut sys::spdk_blob, rc: c_int) {
    // SAFETY: Blob::open leaked the box for this one callback.
    let Opening { id, call } = *unsafe { Box::from_raw(ctx.cast::<Opening>()) };
    let Some(raw) = NonNull::new(raw).filter(|_| rc == 0) else {
        call.end(Err(match -rc {
            libc::ENOENT => OpenError::NotFound { id },
            errno => OpenError::Failed { id, errno },
        }));
        return;
    };
    let store = Rc::clone(call.store());
    store.slots.borrow_mut().insert(id, Slot::Open);
    let inner = BlobInner {
        raw,
        id,
        store,
        in_flight: Cell::new(0),
        sync_failed: Cell::new(false),
        closer: Cell::new(None),
    };
    // If nobody waits any more, the handle is dropped with the answer, which closes the blob.
    call.end(Ok(Blob {
        inner: Rc::new(inner),
    }));
}

/// Checks an attribute and gives its name as C wants it.
pub(super) fn check_xattr(name: &str, value: &[u8]) -> Result<CString, XattrError> {
    let c_name = xattr_name(name)?;
    if value.is_empty() {
        return Err(XattrError::Empty { name: name.into() });
    }
    let bytes = name.len() + value.len();
    if bytes > XATTR_BYTES_MAX {
        return Err(XattrError::TooLong {
            name: name.into(),
            bytes,
        });
    }
    Ok(c_name)
}

fn xattr_name(name: &str) -> Result<CString, XattrError> {
    CString::new(name)
        .ok()
        .filter(|name| !name.is_empty())
        .ok_or(XattrError::BadName)
}

impl Blob {
    /// The operation of opening.
    pub(super) fn open(id: BlobId, turn: Turn, reply: Reply<Result<Self, OpenError>>) {
        let store = Rc::clone(turn.store());
        let slot = store.slots.borrow().get(&id).copied();
        match slot {
            None => {
                let call = Call::new(turn, reply);
                let ctx = Box::into_raw(Box::new(Opening { id, call })).cast();
                // SAFETY: the store is loaded and this is its thread; `opened` takes the box back.
                unsafe { sys::spdk_bs_open_blob(store.as_ptr(), id.0, Some(opened), ctx) };
            }
            // Its closing waits behind this operation.
            Some(Slot::Closing) => store.in_turn(move |turn| Self::open(id, turn, reply)),
            Some(Slot::Open) => Call::new(turn, reply).end(Err(OpenError::AlreadyOpen { id })),
            Some(Slot::Stuck) => {
                let errno = libc::EBUSY;
                Call::new(turn, reply).end(Err(OpenError::Failed { id, errno }));
            }
        }
    }

    /// Its name in the store.
    pub fn id(&self) -> BlobId {
        self.inner.id
    }

    /// Its size in clusters, including a resize that is not synced yet.
    pub fn clusters(&self) -> u64 {
        self.inner.store.assert_home();
        // SAFETY: the blob is open and this is its thread.
        unsafe { sys::spdk_blob_get_num_clusters(self.inner.as_ptr()) }
    }

    /// Its size in I/O units, the unit of data requests.
    pub fn io_units(&self) -> u64 {
        self.inner.store.assert_home();
        // SAFETY: the blob is open and this is its thread.
        unsafe { sys::spdk_blob_get_num_io_units(self.inner.as_ptr()) }
    }

    /// Where its units are on the device, in the order of the blob and merged as far as they follow each other; `None` if
    /// the store does not say so now. Until the blob is resized or deleted nothing of it moves, so whoever has the device
    /// open may read and write there as well.
    pub fn places(&self) -> Option<Vec<Place>> {
        let store = &self.inner.store;
        store.assert_home();
        // SAFETY: the store is loaded.
        let cluster_bytes = unsafe { sys::spdk_bs_get_cluster_size(store.as_ptr()) };
        let units = cluster_bytes / u64::from(store.io_unit_bytes);
        let mut places: Vec<Place> = Vec::new();
        for first in (0..self.io_units()).step_by(usize::try_from(units).ok()?) {
            let mut start = 0;
            // SAFETY: the blob is open, so the store is loaded and its device there; this is their thread, and a store is
            // used by no other.
            let is_known = unsafe {
                sys::oriel_blob_place(
                    store.dev.as_ptr(),
                    self.inner.as_ptr(),
                    store.channel(),
                    first,
                    &mut start,
                )
            };
            if !is_known {
                return None;
            }
            match places.last_mut() {
                Some(last) if last.on_device.start + last.on_device.count == start => {
                    last.on_device.count += units;
                }
                _ => places.push(Place {
                    first,
                    on_device: BlockRange::new(start, units),
                }),
            }
        }
        Some(places)
    }

    /// Closes the blob, waiting for its requests in flight, and says how it went.
    pub async fn close(self) -> Result<(), CloseError> {
        self.inner.store.assert_home();
        let (reply, answer) = oneshot();
        self.inner.closer.set(Some(reply));
        drop(self);
        match answer.await {
            0 => Ok(()),
            rc => Err(CloseError { errno: -rc }),
        }
    }

    /// Gives the blob another size. Clusters that it gains can be used at once; on the device the
    /// size changes with [`Self::sync_metadata`].
    pub async fn resize(&self, clusters: u64) -> Result<(), ResizeError> {
        let blob = Rc::clone(&self.inner);
        let start = move |turn: Turn, reply: Reply<Result<c_int, ResizeError>>| {
            // SAFETY: the blob is open and this is its thread.
            let now = unsafe { sys::spdk_blob_get_num_clusters(blob.as_ptr()) };
            let asked = clusters.saturating_sub(now);
            let free = turn.store().free_clusters();
            let requests = blob.in_flight.get();
            if asked > free {
                Call::new(turn, reply).end(Err(ResizeError::NoSpace { asked, free }));
            } else if clusters < now && requests > 0 {
                Call::new(turn, reply).end(Err(ResizeError::InFlight { requests }));
            } else {
                let raw = blob.as_ptr();
                let ctx = Call::on_blob(turn, reply, blob).into_raw();
                // SAFETY: the blob is open (the call holds it) and this is its thread; `resized`
                // takes the call back once.
                unsafe { sys::spdk_blob_resize(raw, clusters, Some(resized), ctx) };
            }
        };
        match self.inner.store.metadata(start).await? {
            0 => Ok(()),
            rc => Err(ResizeError::Failed { errno: -rc }),
        }
    }

    /// Writes size and attributes to the device, all or nothing.
    pub async fn sync_metadata(&self) -> Result<(), SyncError> {
        if self.inner.sync_failed.get() {
            return Err(SyncError::FailedBefore);
        }
        let blob = Rc::clone(&self.inner);
        let start = move |turn: Turn, reply: Reply<c_int>| {
            let raw = blob.as_ptr();
            let ctx = Call::on_blob(turn, reply, blob).into_raw();
            // SAFETY: the blob is open (the call holds it) and this is its thread; `done` takes the
            // call back once.
            unsafe { sys::spdk_blob_sync_md(raw, Some(done), ctx) };
        };
        match -self.inner.store.metadata(start).await {
            0 => Ok(()),
            // Nothing was written, and the blob is still marked as changed.
            libc::ENOMEM => Err(SyncError::NoMetadataPage),
            errno => {
                self.inner.sync_failed.set(true);
                Err(SyncError::Failed { errno })
            }
        }
    }

    /// Sets an attribute, in memory until [`Self::sync_metadata`].
    pub fn set_xattr(&self, name: &str, value: &[u8]) -> Result<(), XattrError> {
        self.inner.store.assert_home();
        let c_name = check_xattr(name, value)?;
        let len = u16::try_from(value.len()).expect("the limit of an attribute fits 16 bits");
        // SAFETY: the blob is open and this is its thread; SPDK copies name and value.
        let rc = unsafe {
            sys::spdk_blob_set_xattr(
                self.inner.as_ptr(),
                c_name.as_ptr(),
                value.as_ptr().cast(),
                len,
            )
        };
        match rc {
            0 => Ok(()),
            rc => Err(XattrError::Failed {
                name: name.into(),
                errno: -rc,
            }),
        }
    }

    /// An attribute's value.
    pub fn xattr(&self, name: &str) -> Option<Vec<u8>> {
        self.inner.store.assert_home();
        let c_name = xattr_name(name).ok()?;
        let (mut value, mut len) = (std::ptr::null(), 0);
        // SAFETY: the blob is open and this is its thread.
        let rc = unsafe {
            sys::spdk_blob_get_xattr_value(
                self.inner.as_ptr(),
                c_name.as_ptr(),
                &mut value,
                &mut len,
            )
        };
        if rc != 0 || value.is_null() {
            return None;
        }
        // SAFETY: SPDK's copy of the value, which lives until the attribute changes.
        Some(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) }.to_vec())
    }

    /// The attributes' names.
    pub fn xattr_names(&self) -> Vec<String> {
        self.inner.store.assert_home();
        let mut raw = std::ptr::null_mut();
        // SAFETY: the blob is open and this is its thread.
        let rc = unsafe { sys::spdk_blob_get_xattr_names(self.inner.as_ptr(), &mut raw) };
        if rc != 0 {
            return Vec::new();
        }
        // SAFETY: a list that SPDK just made.
        let count = unsafe { sys::spdk_xattr_names_get_count(raw) };
        let names = (0..count).map(|at| {
            // SAFETY: `at` is below the count.
            let name = unsafe { sys::spdk_xattr_names_get_name(raw, at) };
            // SAFETY: SPDK's names are NUL-terminated and live as long as the list.
            let name = unsafe { CStr::from_ptr(name) };
            name.to_string_lossy().into_owned()
        });
        let mut names: Vec<_> = names.collect();
        // SAFETY: the list is freed once; the names were copied.
        unsafe { sys::spdk_xattr_names_free(raw) };
        names.sort_unstable();
        names
    }

    /// Removes an attribute, in memory until [`Self::sync_metadata`]. False if there was none.
    pub fn remove_xattr(&self, name: &str) -> Result<bool, XattrError> {
        self.inner.store.assert_home();
        let c_name = xattr_name(name)?;
        // SAFETY: the blob is open and this is its thread.
        match -unsafe { sys::spdk_blob_remove_xattr(self.inner.as_ptr(), c_name.as_ptr()) } {
            0 => Ok(true),
            libc::ENOENT => Ok(false),
            errno => Err(XattrError::Failed {
                name: name.into(),
                errno,
            }),
        }
    }
}

extern "C" fn resized(ctx: *mut c_void, rc: c_int) {
    // SAFETY: resize() passes this call's pointer, and SPDK calls back once.
    unsafe { Call::<Result<c_int, ResizeError>>::from_raw(ctx) }.end(Ok(rc));
}
