//! A request's memory, lent to those who fill it or take from it.
//!
//! ```text
//!   home thread                         any thread
//!   Request ── lend() ──► Lent ───────► a device below reads into it, or writes from it
//!   Request ◄── take_back() ── Lent ◄── with its completion
//! ```
//!
//! The request goes with its memory, so it cannot end, and its memory be used again, while a device still transfers. One
//! that is dropped on its way fails, on its own thread.

use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use oriel_spdk_sys as sys;

use super::{DROPPED, Request};
use crate::thread::Home;

/// A request of one buffer, as that buffer.
pub struct Lent {
    raw: NonNull<sys::spdk_bdev_io>,
    start: NonNull<u8>,
    len: usize,
    home: NonNull<sys::spdk_thread>,
}

// SAFETY: the memory is plain and the request's alone until it completes, which it does on its own thread only: take_back
// asserts that this is it, and drop sends a message there. That thread cannot exit while a request of its channel is open.
unsafe impl Send for Lent {}
// SAFETY: shared access only reads the memory.
unsafe impl Sync for Lent {}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({} bytes)", self.len)
    }
}

impl Request {
    /// Lends the request's memory. The request comes back if it has not just one buffer.
    ///
    /// # Panics
    /// When the thread that the request came on is not current.
    pub fn lend(self) -> Result<Lent, Self> {
        if self.io.iovcnt != 1 || self.io.iov.is_null() {
            return Err(self);
        }
        // SAFETY: SPDK's array has one entry, which is initialised and lives until the request completes.
        let iov = unsafe { &*self.io.iov };
        let (start, len) = (NonNull::new(iov.iov_base.cast::<u8>()), iov.iov_len);
        let Some(start) = start.filter(|_| len > 0) else {
            return Err(self);
        };
        let home = Home::current("lending a request's memory").as_non_null();
        let raw = ManuallyDrop::new(self).raw;
        Ok(Lent {
            raw,
            start,
            len,
            home,
        })
    }
}

impl Lent {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, which never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The request, to be completed.
    ///
    /// # Panics
    /// When the thread that the request came on is not current.
    pub fn take_back(self) -> Request {
        assert!(
            self.is_home(),
            "a request is completed on the SPDK thread that it came on"
        );
        let raw = ManuallyDrop::new(self).raw;
        Request::of(raw)
    }

    fn is_home(&self) -> bool {
        // SAFETY: reads a thread-local.
        unsafe { sys::spdk_get_thread() == self.home.as_ptr() }
    }

    pub(crate) fn as_raw(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the memory is the request's, which is open as long as this is there, and shared borrows do not write.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

extern "C" fn fail(ctx: *mut c_void) {
    if let Some(raw) = NonNull::new(ctx.cast::<sys::spdk_bdev_io>()) {
        drop(Request::of(raw));
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_home() {
            return fail(self.raw.as_ptr().cast());
        }
        tracing::warn!(
            status_code = DROPPED.status_code,
            "a request was dropped on another thread: it fails on its own"
        );
        // SAFETY: the thread is there as long as the request is (see Send), and `fail` takes the request once. Where SPDK has
        // no message left, its threads use some up meanwhile.
        while unsafe {
            sys::oriel_thread_send_msg(
                self.home.as_ptr(),
                Some(fail),
                self.raw.as_ptr().cast::<c_void>(),
            )
        } != 0
        {
            std::thread::yield_now();
        }
    }
}
