//! Memory that devices may read and write.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use oriel_spdk_sys as sys;
use thiserror::Error;

/// A zeroed buffer in the environment's memory, which drives and network cards can reach.
///
/// While it is part of a request in flight it belongs to the request: the safe interface takes it
/// by value and gives it back with the completion.
pub struct DmaBuf {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is plain memory with one owner; nothing ties it to the thread that made it,
// and spdk_free may be called from any thread.
unsafe impl Send for DmaBuf {}
// SAFETY: shared access only reads (Deref), and reading from several threads is fine.
unsafe impl Sync for DmaBuf {}

/// The environment's memory is used up.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "no {len} bytes of DMA memory left: start with more memory (orield: memory; oriel-perf: --memory), or use fewer or smaller buffers"
)]
pub struct NoDmaMemory {
    /// What was asked for.
    pub len: usize,
}

impl DmaBuf {
    /// A buffer of `len` zero bytes whose address is a multiple of `align`.
    ///
    /// # Panics
    /// When `len` is zero or `align` is no power of two: both are mistakes of the caller.
    pub fn zeroed(len: usize, align: usize) -> Result<Self, NoDmaMemory> {
        assert!(len > 0, "a DMA buffer of no bytes cannot be had");
        assert!(
            align.is_power_of_two(),
            "the alignment {align} is no power of two"
        );
        assert!(
            crate::env::is_running(),
            "DMA memory comes from a started Env; start one first"
        );
        // SAFETY: the environment runs (asserted above); size and alignment are sane.
        let start = unsafe { sys::oriel_dma_alloc(len, align) };
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or(NoDmaMemory { len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a buffer has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn as_raw(&self) -> *mut core::ffi::c_void {
        self.start.as_ptr().cast()
    }
}

impl Deref for DmaBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes (spdk_zmalloc) for as long as self lives, and a
        // device writes to them only while a request owns the buffer, when nobody can call this.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and the exclusive borrow excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        if crate::env::is_running() {
            // SAFETY: the memory came from oriel_dma_alloc and nobody else can free it. After the
            // environment's end all its memory is unmapped, and there is nothing left to free.
            unsafe { sys::oriel_dma_free(self.as_raw()) };
        }
    }
}

impl fmt::Debug for DmaBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuf({} bytes)", self.len)
    }
}
