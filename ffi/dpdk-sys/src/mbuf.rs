//! Pools of packet buffers, and the buffers.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::slice;
use std::ffi::{CString, NulError};
use std::io;

use crate::eal::Eal;
use crate::raw;

/// The size and shape of a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Number of buffers; a power of two less one uses memory best.
    pub buffers: u32,
    /// Buffers set aside for each EAL thread, so that they seldom meet at the pool.
    pub cache: u32,
    /// Bytes of a frame that one buffer holds, besides the headroom.
    pub frame_bytes_max: u16,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            buffers: 8191,
            cache: 256,
            frame_bytes_max: 2048,
        }
    }
}

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The name cannot be passed to C.
    #[error("a pool's name contains a NUL byte: remove it")]
    Name(#[from] NulError),
    /// Headroom and frame together do not fit 16 bits.
    #[error(
        "frame_bytes_max is {asked} and can be at most {most}: lower it, and let longer frames span buffers"
    )]
    FrameTooLong {
        /// What was asked for, bytes.
        asked: u16,
        /// What a buffer can hold, bytes.
        most: u16,
    },
    /// DPDK refused.
    #[error(
        "DPDK made no pool {name} of {buffers} buffers ({source}): use fewer buffers or a larger memory_mib, and a name that is not taken"
    )]
    Refused {
        /// The pool.
        name: String,
        /// How many buffers it was to have.
        buffers: u32,
        /// What DPDK reported.
        source: io::Error,
    },
}

/// The pool has fewer free buffers than were asked for: send or drop some, then try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool has no {asked} free buffers left: send or drop some, or make the pool larger")]
pub struct NoBuffers {
    /// How many were asked for.
    pub asked: usize,
}

/// The frame cannot grow by so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{asked} bytes do not fit the buffer, which has room for {room}: use a pool with a larger frame_bytes_max"
)]
pub struct NoRoom {
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes that would fit.
    pub room: usize,
}

/// A read past the end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bytes {offset} and the {len} after it are not all in a frame of {frame} bytes")]
pub struct OutOfRange {
    /// First byte asked for.
    pub offset: usize,
    /// Number of bytes asked for.
    pub len: usize,
    /// Bytes that the frame has.
    pub frame: usize,
}

/// Bytes DPDK keeps free before the data of a new buffer.
pub fn headroom() -> u16 {
    // SAFETY: takes nothing and returns a constant.
    unsafe { raw::oriel_dpdk_headroom() }
}

/// A pool of packet buffers: a handle, as cheap to copy as a reference. The pool itself is freed
/// with the [`Eal`].
#[derive(Clone, Copy)]
pub struct PktPool<'eal> {
    pool: NonNull<raw::rte_mempool>,
    _eal: PhantomData<&'eal Eal>,
}

// SAFETY: the pools made here have DPDK's multi-producer, multi-consumer ring, and the per-core
// caches are chosen by the calling thread's own number, so a pool may be used from any thread.
unsafe impl Send for PktPool<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for PktPool<'_> {}

impl<'eal> PktPool<'eal> {
    /// Makes a pool. Names are unique in the process and at most 25 characters long.
    pub fn new(eal: &'eal Eal, name: &str, options: &PoolOptions) -> Result<Self, PoolError> {
        let c_name = CString::new(name)?;
        let most = u16::MAX - headroom();
        let data_room =
            options
                .frame_bytes_max
                .checked_add(headroom())
                .ok_or(PoolError::FrameTooLong {
                    asked: options.frame_bytes_max,
                    most,
                })?;
        let mut error = 0;
        // SAFETY: `c_name` is a string that DPDK copies, `error` is ours to write to, and the
        // borrow of `eal` says that the EAL runs.
        let pool = unsafe {
            raw::oriel_dpdk_pool_create(
                c_name.as_ptr(),
                options.buffers,
                options.cache,
                data_room,
                raw::ORIEL_DPDK_SOCKET_ANY,
                &raw mut error,
            )
        };
        let pool = NonNull::new(pool).ok_or_else(|| PoolError::Refused {
            name: name.to_owned(),
            buffers: options.buffers,
            source: io::Error::from_raw_os_error(-error),
        })?;
        eal.keep_pool(pool);
        Ok(Self {
            pool,
            _eal: PhantomData,
        })
    }

    pub(crate) fn as_ptr(self) -> *mut raw::rte_mempool {
        self.pool.as_ptr()
    }

    /// Number of buffers in all.
    pub fn size(self) -> u32 {
        // SAFETY: the pool lives as long as the EAL, which `'eal` outlives.
        unsafe { raw::oriel_dpdk_pool_size(self.as_ptr()) }
    }

    /// Number of free buffers. Exact while nobody uses the pool.
    pub fn available(self) -> u32 {
        // SAFETY: as in `size`.
        unsafe { raw::oriel_dpdk_pool_available(self.as_ptr()) }
    }

    /// One empty buffer.
    pub fn alloc(self) -> Result<Mbuf<'eal>, NoBuffers> {
        // SAFETY: as in `size`.
        let buf = unsafe { raw::oriel_dpdk_mbuf_alloc(self.as_ptr()) };
        let buf = NonNull::new(buf).ok_or(NoBuffers { asked: 1 })?;
        Ok(Mbuf {
            buf,
            _eal: PhantomData,
        })
    }

    /// Appends `count` empty buffers to `to`, or none of them.
    pub fn alloc_bulk(self, to: &mut Vec<Mbuf<'eal>>, count: usize) -> Result<(), NoBuffers> {
        let wanted = u32::try_from(count).map_err(|_| NoBuffers { asked: count })?;
        to.reserve(count);
        let free = to
            .spare_capacity_mut()
            .as_mut_ptr()
            .cast::<*mut raw::rte_mbuf>();
        // SAFETY: `reserve` made room for `count` of `Mbuf`, each of which is one such pointer
        // (`repr(transparent)`); the pool lives as in `size`.
        let rc = unsafe { raw::oriel_dpdk_mbuf_alloc_bulk(self.as_ptr(), free, wanted) };
        if rc != 0 {
            return Err(NoBuffers { asked: count });
        }
        // SAFETY: DPDK has filled `count` elements with buffers that nobody else refers to.
        unsafe { to.set_len(to.len() + count) };
        Ok(())
    }
}

impl fmt::Debug for PktPool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PktPool")
            .field("size", &self.size())
            .field("available", &self.available())
            .finish()
    }
}

/// A frame: one packet buffer, and those chained to it. Dropping it gives it back to its pool.
///
/// A long received frame may span several buffers ("segments"); frames made here have one.
#[repr(transparent)]
pub struct Mbuf<'eal> {
    buf: NonNull<raw::rte_mbuf>,
    _eal: PhantomData<&'eal Eal>,
}

// Bursts pass slices of `Mbuf` to C as arrays of pointers.
const _: () = assert!(size_of::<Mbuf<'_>>() == size_of::<*mut raw::rte_mbuf>());

// SAFETY: an `Mbuf` is the only reference to its buffer, and pools take buffers back on any thread.
unsafe impl Send for Mbuf<'_> {}
// SAFETY: through `&Mbuf` the buffer is only read.
unsafe impl Sync for Mbuf<'_> {}

impl Mbuf<'_> {
    /// Bytes of the whole frame.
    pub fn len(&self) -> usize {
        // SAFETY: `self` owns the buffer, and the borrow of the EAL keeps its pool.
        let len = unsafe { raw::oriel_dpdk_mbuf_len(self.buf.as_ptr()) };
        len as usize
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of buffers that the frame spans.
    pub fn segments(&self) -> u16 {
        // SAFETY: as in `len`.
        unsafe { raw::oriel_dpdk_mbuf_segments(self.buf.as_ptr()) }
    }

    fn first(&self) -> (*mut u8, usize) {
        // SAFETY: as in `len`.
        let data = unsafe { raw::oriel_dpdk_mbuf_data(self.buf.as_ptr()) };
        // SAFETY: as in `len`.
        let len = unsafe { raw::oriel_dpdk_mbuf_segment_len(self.buf.as_ptr()) };
        (data, usize::from(len))
    }

    /// The bytes of the first segment: the whole frame where [`segments`](Self::segments) is 1.
    pub fn data(&self) -> &[u8] {
        let (data, len) = self.first();
        // SAFETY: DPDK says that `len` bytes at `data` are the segment's; the memory came zeroed
        // from the system, so it is initialised; `&self` keeps anyone from writing to it.
        unsafe { slice::from_raw_parts(data, len) }
    }

    /// The same, to be written to.
    pub fn data_mut(&mut self) -> &mut [u8] {
        let (data, len) = self.first();
        // SAFETY: as in `data`; `&mut self` is the only access to a buffer with one owner.
        unsafe { slice::from_raw_parts_mut(data, len) }
    }

    /// Bytes by which the frame could still grow.
    pub fn room(&self) -> usize {
        // SAFETY: as in `len`.
        let room = unsafe { raw::oriel_dpdk_mbuf_tailroom(self.buf.as_ptr()) };
        usize::from(room)
    }

    /// Makes the frame longer by `len` bytes and lends them. They hold what the buffer last held,
    /// so write them all before sending.
    pub fn append(&mut self, len: usize) -> Result<&mut [u8], NoRoom> {
        let full = NoRoom {
            asked: len,
            room: self.room(),
        };
        let more = u16::try_from(len).map_err(|_| full)?;
        // SAFETY: as in `len`; DPDK itself checks that `more` fits.
        let start = unsafe { raw::oriel_dpdk_mbuf_append(self.buf.as_ptr(), more) };
        if start.is_null() {
            return Err(full);
        }
        // SAFETY: DPDK says that `len` bytes at `start` are now the frame's; otherwise as in
        // `data_mut`.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    /// Takes `len` bytes off the end of the last segment.
    pub fn trim(&mut self, len: usize) -> Result<(), OutOfRange> {
        let outside = OutOfRange {
            offset: 0,
            len,
            frame: self.len(),
        };
        let less = u16::try_from(len).map_err(|_| outside)?;
        // SAFETY: as in `len`; DPDK itself checks that there are so many bytes.
        let rc = unsafe { raw::oriel_dpdk_mbuf_trim(self.buf.as_ptr(), less) };
        if rc == 0 { Ok(()) } else { Err(outside) }
    }

    /// Copies bytes out of the frame, across segments.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), OutOfRange> {
        let outside = OutOfRange {
            offset,
            len: out.len(),
            frame: self.len(),
        };
        let from = u32::try_from(offset).map_err(|_| outside)?;
        let len = u32::try_from(out.len()).map_err(|_| outside)?;
        // SAFETY: as in `len`; `out` has room for `len` bytes, and DPDK itself checks the range.
        let rc = unsafe {
            raw::oriel_dpdk_mbuf_read(self.buf.as_ptr(), from, len, out.as_mut_ptr().cast())
        };
        if rc == 0 { Ok(()) } else { Err(outside) }
    }
}

impl Drop for Mbuf<'_> {
    fn drop(&mut self) {
        // SAFETY: `self` owns the buffer and is gone after this; its pool lives as in `len`.
        unsafe { raw::oriel_dpdk_mbuf_free(self.buf.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("len", &self.len())
            .field("segments", &self.segments())
            .finish()
    }
}
