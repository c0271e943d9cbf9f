//! Requests to a block device, and the channel they go through.
//!
//! ```text
//!   caller                     channel                       SPDK
//!   Box<Io<C>> ── read() ────► leaked, pointer to ─────────► in flight
//!        ▲                                                      │
//!        └────── C::complete(Box<Io<C>>, result) ◄──────────────┘
//! ```
//!
//! The box is the request: it holds the buffer, the caller's context and, while in flight, the
//! channel. It comes back whole, also when it was refused, and can be sent again at once.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use libc::iovec;
use oriel_spdk_sys as sys;
use thiserror::Error;

use super::DescInner;
use super::future::{IdleRequests, Memory};
use crate::DmaBuf;
use crate::blob::InBlob;
use crate::oneshot::{oneshot, reply_unit};
use crate::thread::Home;

/// A run of blocks of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRange {
    /// The first block.
    pub start: u64,
    /// How many blocks.
    pub count: u64,
}

impl BlockRange {
    /// `count` blocks from `start` on.
    pub fn new(start: u64, count: u64) -> Self {
        Self { start, count }
    }
}

/// What went wrong with a request that the device took.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the device answered with NVMe status type {status_type:#x}, code {status_code:#04x}")]
pub struct IoError {
    /// NVMe status code type: 0 generic, 1 command specific, 2 media, 3 path, 7 vendor.
    pub status_type: u8,
    /// NVMe status code within the type.
    pub status_code: u8,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// Too many requests are in flight; see [`Channel::room`].
    #[error("too many requests are in flight")]
    NoRoom,
    /// The range does not lie on the device, or the descriptor is read-only, or the device does
    /// not take such requests.
    #[error("the device does not take this request ({}): check range, access mode and kind", std::io::Error::from_raw_os_error(*errno))]
    Invalid {
        /// The positive errno.
        errno: i32,
    },
}

/// A request that was not taken, and why. Nothing of it is lost.
pub struct Rejected<C, B = DmaBuf> {
    /// The request.
    pub io: Box<Io<C, B>>,
    /// The reason.
    pub why: Rejection,
}

impl<C, B> fmt::Debug for Rejected<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejected({:?})", self.why)
    }
}

/// Receives a request back.
pub trait Complete<B = DmaBuf>: Sized + 'static {
    /// Called on the channel's SPDK thread once the device is done. May send the same box again.
    fn complete(io: Box<Io<Self, B>>, result: Result<(), IoError>);
}

/// A request: its buffers, and the caller's context.
pub struct Io<C, B = DmaBuf> {
    /// Whatever the caller needs to know when it comes back.
    pub ctx: C,
    /// Where the data comes from or goes to.
    pub buf: B,
    /// What stays open while it is in flight.
    pub(crate) holds: Holds,
}

/// What a request in flight goes through, and keeps open by that.
pub(crate) enum Holds {
    /// Nothing: it is not in flight.
    Nothing,
    /// A channel to a block device.
    Channel(#[expect(dead_code, reason = "it is there to be dropped")] Rc<ChannelInner>),
    /// A blob.
    Blob(InBlob),
}

impl<C, B> Io<C, B> {
    /// A request that can be sent.
    pub fn new(buf: B, ctx: C) -> Box<Self> {
        Box::new(Self {
            ctx,
            buf,
            holds: Holds::Nothing,
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What a request can carry: one buffer, several, or none.
///
/// # Safety
/// The pointer and the lengths describe memory that the value owns and that nothing else touches
/// while the value is lent to a device; moving the value must not move that memory.
pub unsafe trait Buffers: sealed::Sealed + 'static {
    /// How the memory is described to SPDK.
    #[doc(hidden)]
    fn layout(&mut self) -> Layout;
    /// Bytes that it can take.
    fn capacity(&self) -> usize;
}

/// Memory in SPDK's terms.
#[doc(hidden)]
pub enum Layout {
    One(*mut c_void),
    Many(*mut iovec, c_int),
}

impl sealed::Sealed for DmaBuf {}
// SAFETY: a DmaBuf owns its memory, whose address does not depend on where the value lies.
unsafe impl Buffers for DmaBuf {
    fn layout(&mut self) -> Layout {
        Layout::One(self.as_raw())
    }

    fn capacity(&self) -> usize {
        self.len()
    }
}

impl sealed::Sealed for Option<Memory> {}
// SAFETY: as for DmaBuf, and a Lent has its request's memory to itself, wherever the value lies; None has no capacity, so no
// transfer is ever started with it.
unsafe impl Buffers for Option<Memory> {
    fn layout(&mut self) -> Layout {
        Layout::One(self.as_ref().map_or(std::ptr::null_mut(), Memory::as_raw))
    }

    fn capacity(&self) -> usize {
        self.as_ref().map_or(0, Memory::bytes)
    }
}

/// Several buffers that one request reads into or writes from, in order.
pub struct Scatter {
    bufs: Vec<DmaBuf>,
    iovecs: Vec<iovec>,
}

impl Scatter {
    /// Lines the buffers up.
    ///
    /// # Panics
    /// When there is none, or more than SPDK can count.
    pub fn new(bufs: Vec<DmaBuf>) -> Self {
        assert!(
            !bufs.is_empty(),
            "a scattered request needs at least one buffer"
        );
        assert!(
            c_int::try_from(bufs.len()).is_ok(),
            "{} buffers are too many for one request",
            bufs.len()
        );
        let iovecs = bufs
            .iter()
            .map(|buf| iovec {
                iov_base: buf.as_raw(),
                iov_len: buf.len(),
            })
            .collect();
        Self { bufs, iovecs }
    }

    /// The buffers, in order.
    pub fn bufs(&self) -> &[DmaBuf] {
        &self.bufs
    }

    /// The buffers' bytes, for filling.
    pub fn bytes_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.bufs.iter_mut().map(|buf| &mut **buf)
    }

    /// Gives the buffers back.
    pub fn into_bufs(self) -> Vec<DmaBuf> {
        self.bufs
    }
}

impl sealed::Sealed for Scatter {}
// SAFETY: the iovecs describe the owned buffers, lie on the heap, and are rebuilt never: the
// buffers cannot be exchanged from outside.
unsafe impl Buffers for Scatter {
    fn layout(&mut self) -> Layout {
        Layout::Many(self.iovecs.as_mut_ptr(), self.iovecs.len() as c_int)
    }

    fn capacity(&self) -> usize {
        self.bufs.iter().map(DmaBuf::len).sum()
    }
}

pub(crate) struct ChannelInner {
    raw: NonNull<sys::spdk_io_channel>,
    desc: Rc<DescInner>,
    home: Home,
    /// Idle requests of the asynchronous methods.
    pub(super) idle: IdleRequests,
}

impl Drop for ChannelInner {
    fn drop(&mut self) {
        self.home.enter(|| {
            // SAFETY: got on `home`, put once; no request is in flight, since each holds this Rc.
            unsafe { sys::spdk_put_io_channel(self.raw.as_ptr()) }
        });
    }
}

/// A way to send requests to one device from one SPDK thread.
#[derive(Clone)]
pub struct Channel {
    pub(super) inner: Rc<ChannelInner>,
}

/// SPDK's completion: takes the request back and hands it to its owner.
extern "C" fn completed<C: Complete<B>, B: 'static>(
    bdev_io: *mut sys::spdk_bdev_io,
    success: bool,
    ctx: *mut c_void,
) {
    // SAFETY: `ctx` is the box that send() leaked, and SPDK completes each request once.
    let mut io = unsafe { Box::from_raw(ctx.cast::<Io<C, B>>()) };
    let result = if success {
        Ok(())
    } else {
        Err(status_of(bdev_io))
    };
    // SAFETY: the completion callback owns the bdev_io and frees it once.
    unsafe { sys::spdk_bdev_free_io(bdev_io) };
    // Kept until the handler has run: it may drop the last channel while SPDK still unwinds through it.
    let channel = std::mem::replace(&mut io.holds, Holds::Nothing);
    C::complete(io, result);
    drop(channel);
}

#[cold]
fn status_of(bdev_io: *mut sys::spdk_bdev_io) -> IoError {
    let (mut dword0, mut status_type, mut status_code) = (0, 0, 0);
    // SAFETY: the bdev_io is live until it is freed, which the caller does after this.
    unsafe {
        sys::oriel_bdev_io_nvme_status(bdev_io, &mut dword0, &mut status_type, &mut status_code)
    };
    IoError {
        status_type: status_type as u8,
        status_code: status_code as u8,
    }
}

/// # Panics
/// When the buffer is too small for the range.
#[inline]
pub(crate) fn assert_fits(block_size: u32, capacity: usize, range: BlockRange) {
    let needed = range.count.checked_mul(u64::from(block_size));
    assert!(
        needed.is_some_and(|needed| needed <= capacity as u64),
        "{} blocks of {block_size} bytes do not fit a buffer of {capacity} bytes",
        range.count
    );
}

type Callback = sys::oriel_bdev_io_cb;

impl Channel {
    pub(super) fn new(raw: NonNull<sys::spdk_io_channel>, desc: Rc<DescInner>, home: Home) -> Self {
        Self {
            inner: Rc::new(ChannelInner {
                raw,
                desc,
                home,
                idle: IdleRequests::default(),
            }),
        }
    }

    /// Bytes in a block of the device.
    pub fn block_size(&self) -> u32 {
        self.inner.desc.block_size
    }

    /// Leaks the box to SPDK, or gives it back. A request of no blocks is refused here: on the wire
    /// a count of zero means 65536.
    #[inline]
    fn send<C: Complete<B>, B: 'static>(
        &self,
        mut io: Box<Io<C, B>>,
        blocks: u64,
        submit: impl FnOnce(
            *mut sys::spdk_bdev_desc,
            *mut sys::spdk_io_channel,
            Callback,
            *mut c_void,
        ) -> c_int,
    ) -> Result<(), Rejected<C, B>> {
        io.holds = Holds::Channel(Rc::clone(&self.inner));
        let ctx = Box::into_raw(io);
        let rc = match blocks {
            0 => -libc::EINVAL,
            _ => submit(
                self.inner.desc.as_ptr(),
                self.inner.raw.as_ptr(),
                Some(completed::<C, B>),
                ctx.cast(),
            ),
        };
        if rc == 0 {
            return Ok(());
        }
        // SAFETY: SPDK does not complete a request that it refused, so the box is still ours.
        let mut io = unsafe { Box::from_raw(ctx) };
        io.holds = Holds::Nothing;
        let why = if -rc == libc::ENOMEM {
            Rejection::NoRoom
        } else {
            Rejection::Invalid { errno: -rc }
        };
        Err(Rejected { io, why })
    }

    /// Reads blocks into the request's buffer.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    #[inline]
    pub fn read<C: Complete<B>, B: Buffers>(
        &self,
        mut io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        assert_fits(self.block_size(), io.buf.capacity(), range);
        let layout = io.buf.layout();
        let BlockRange { start, count } = range;
        self.send(io, count, |desc, ch, cb, ctx| match layout {
            // SAFETY: descriptor and channel are open and of this thread; the buffer, large enough
            // (asserted), belongs to the request until it completes.
            Layout::One(buf) => unsafe {
                sys::spdk_bdev_read_blocks(desc, ch, buf, start, count, cb, ctx)
            },
            // SAFETY: as above, and the iovec array is the request's as well.
            Layout::Many(iov, len) => unsafe {
                sys::spdk_bdev_readv_blocks(desc, ch, iov, len, start, count, cb, ctx)
            },
        })
    }

    /// Writes blocks from the request's buffer.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    #[inline]
    pub fn write<C: Complete<B>, B: Buffers>(
        &self,
        mut io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        assert_fits(self.block_size(), io.buf.capacity(), range);
        let layout = io.buf.layout();
        let BlockRange { start, count } = range;
        self.send(io, count, |desc, ch, cb, ctx| match layout {
            // SAFETY: as in read().
            Layout::One(buf) => unsafe {
                sys::spdk_bdev_write_blocks(desc, ch, buf, start, count, cb, ctx)
            },
            // SAFETY: as in read().
            Layout::Many(iov, len) => unsafe {
                sys::spdk_bdev_writev_blocks(desc, ch, iov, len, start, count, cb, ctx)
            },
        })
    }

    /// Tells the device that the blocks' content is no longer needed.
    pub fn unmap<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: descriptor and channel are open and of this thread.
        self.send(io, range.count, |desc, ch, cb, ctx| unsafe {
            sys::spdk_bdev_unmap_blocks(desc, ch, range.start, range.count, cb, ctx)
        })
    }

    /// Makes the blocks zero.
    pub fn write_zeroes<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: as in unmap().
        self.send(io, range.count, |desc, ch, cb, ctx| unsafe {
            sys::spdk_bdev_write_zeroes_blocks(desc, ch, range.start, range.count, cb, ctx)
        })
    }

    /// Makes completed writes to the blocks durable.
    pub fn flush<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: as in unmap().
        self.send(io, range.count, |desc, ch, cb, ctx| unsafe {
            sys::spdk_bdev_flush_blocks(desc, ch, range.start, range.count, cb, ctx)
        })
    }

    /// Resets the device: what is in flight, on every channel, completes with errors first.
    pub fn reset<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: as in unmap().
        self.send(io, 1, |desc, ch, cb, ctx| unsafe {
            sys::spdk_bdev_reset(desc, ch, cb, ctx)
        })
    }

    /// Ready when the channel can take a request again, after a [`Rejection::NoRoom`].
    pub async fn room(&self) {
        let (reply, room) = oneshot::<()>();
        let bdev = self.inner.desc.bdev();
        let ctx = reply.into_raw();
        // SAFETY: device and channel are open; reply_unit takes the reply back once.
        let rc = unsafe {
            sys::oriel_bdev_wait(
                bdev.as_ptr(),
                self.inner.raw.as_ptr(),
                Some(reply_unit),
                ctx,
            )
        };
        if rc != 0 {
            // There is room already (SPDK refuses to wait then), so the reply is sent by us.
            // SAFETY: a refused wait never calls back, so the reply is still ours.
            unsafe { reply_unit(ctx) };
        }
        room.await;
    }
}
