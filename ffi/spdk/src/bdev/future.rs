//! Requests as futures.
//!
//! A request's box is taken from the channel's idle ones and goes back there, so a steady load
//! allocates nothing. Dropping the future does not stop the device: the request then finishes
//! alone, and its buffer is freed when the device is done with it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::io::{BlockRange, Channel, Complete, Io, IoError, Rejected, Rejection};
use crate::DmaBuf;
use crate::device::Lent;
use crate::limits::ASYNC_REQUESTS_KEPT_PER_CHANNEL;

/// What an asynchronous request transfers: memory of this program, or that of a request to a device of this program.
#[derive(Debug)]
pub enum Memory {
    /// Its own.
    Own(DmaBuf),
    /// A request's.
    Lent(Lent),
}

impl Memory {
    pub(super) fn as_raw(&self) -> *mut c_void {
        match self {
            Self::Own(own) => own.as_raw(),
            Self::Lent(lent) => lent.as_raw(),
        }
    }

    /// Bytes of it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Own(own) => own.len(),
            Self::Lent(lent) => lent.len(),
        }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Own(own) => own,
            Self::Lent(lent) => lent.as_ref(),
        }
    }
}

impl AsMut<[u8]> for Memory {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(own) => own,
            Self::Lent(lent) => lent.as_mut(),
        }
    }
}

mod sealed {
    pub trait Sealed: Sized {
        fn into_memory(self) -> super::Memory;
        /// None if it is of another kind, which what was sent as this is not.
        fn from_memory(memory: super::Memory) -> Option<Self>;
    }
}

/// What can be transferred by the asynchronous methods: a [`DmaBuf`], or any [`Memory`].
pub trait Transferable: sealed::Sealed {}

impl sealed::Sealed for Memory {
    fn into_memory(self) -> Memory {
        self
    }

    fn from_memory(memory: Memory) -> Option<Self> {
        Some(memory)
    }
}

impl Transferable for Memory {}

impl sealed::Sealed for DmaBuf {
    fn into_memory(self) -> Memory {
        Memory::Own(self)
    }

    fn from_memory(memory: Memory) -> Option<Self> {
        match memory {
            Memory::Own(own) => Some(own),
            Memory::Lent(_) => None,
        }
    }
}

impl Transferable for DmaBuf {}

pub(crate) type PooledIo = Io<Pending, Option<Memory>>;

type Finished = (Box<PooledIo>, Result<(), IoError>);

#[derive(Default)]
struct Slot {
    finished: Cell<Option<Finished>>,
    waker: RefCell<Option<Waker>>,
    abandoned: Cell<bool>,
}

/// The context of an asynchronous request.
pub(crate) struct Pending {
    slot: Rc<Slot>,
    /// What the request needs until its end, whoever waits for that.
    keeps: Option<Rc<dyn Any>>,
}

impl Complete<Option<Memory>> for Pending {
    fn complete(mut io: Box<PooledIo>, result: Result<(), IoError>) {
        io.ctx.keeps = None;
        if io.ctx.slot.abandoned.get() {
            // Nobody waits: this frees the buffer and the box.
            io.buf = None;
            return;
        }
        let slot = Rc::clone(&io.ctx.slot);
        slot.finished.set(Some((io, result)));
        let waker = slot.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Marks the slot when its future goes before the completion has come.
struct Waiting<'a>(&'a Slot);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.abandoned.set(true);
        // A result that came but was never looked at is freed here, not with the slot: the slot
        // and the request inside it hold each other.
        self.0.finished.set(None);
    }
}

/// Finished requests of the asynchronous methods, kept for the next ones.
#[derive(Default)]
#[expect(
    clippy::vec_box,
    reason = "the box itself travels through SPDK; unboxing would allocate it anew"
)]
pub(crate) struct IdleRequests(RefCell<Vec<Box<PooledIo>>>);

impl IdleRequests {
    fn take(&self) -> Box<PooledIo> {
        let idle = self.0.borrow_mut().pop();
        idle.unwrap_or_else(|| {
            Io::new(
                None,
                Pending {
                    slot: Rc::default(),
                    keeps: None,
                },
            )
        })
    }

    fn keep(&self, io: Box<PooledIo>) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < ASYNC_REQUESTS_KEPT_PER_CHANNEL {
            idle.push(io);
        }
    }
}

/// What asynchronous requests can be sent to.
pub(crate) trait Target {
    /// Its idle requests.
    fn idle(&self) -> &IdleRequests;
    /// Ready when it can take a request again, after a [`Rejection::NoRoom`].
    fn room(&self) -> impl Future<Output = ()>;
}

impl Target for Channel {
    fn idle(&self) -> &IdleRequests {
        &self.inner.idle
    }

    fn room(&self) -> impl Future<Output = ()> {
        Self::room(self)
    }
}

const BROUGHT_BACK: &str = "a request brings its buffer back";

type Submit<T> = fn(&T, Box<PooledIo>, BlockRange) -> Result<(), Rejected<Pending, Option<Memory>>>;

/// What came of an asynchronous request.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The device took it and failed.
    #[error(transparent)]
    Device(#[from] IoError),
    /// It was never taken.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Sends a request, waiting for room, and waits for its end.
pub(crate) async fn request<T: Target>(
    target: &T,
    buf: Option<Memory>,
    range: BlockRange,
    submit: Submit<T>,
) -> (Option<Memory>, Result<(), RequestError>) {
    request_keeping(target, None, buf, range, submit).await
}

/// The same, and something is not dropped before the device is done.
async fn request_keeping<T: Target>(
    target: &T,
    keeps: Option<Rc<dyn Any>>,
    buf: Option<Memory>,
    range: BlockRange,
    submit: Submit<T>,
) -> (Option<Memory>, Result<(), RequestError>) {
    let mut io = target.idle().take();
    io.buf = buf;
    io.ctx.keeps = keeps;
    let slot = Rc::clone(&io.ctx.slot);
    while let Err(rejected) = submit(target, io, range) {
        io = rejected.io;
        if rejected.why != Rejection::NoRoom {
            let buf = io.buf.take();
            io.ctx.keeps = None;
            target.idle().keep(io);
            return (buf, Err(rejected.why.into()));
        }
        target.room().await;
    }
    let waiting = Waiting(&slot);
    let (mut io, result) = poll_fn(|cx| match slot.finished.take() {
        Some(finished) => Poll::Ready(finished),
        None => {
            *slot.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        }
    })
    .await;
    std::mem::forget(waiting);
    let buf = io.buf.take();
    target.idle().keep(io);
    (buf, result.map_err(RequestError::from))
}

/// As [`request`], for requests that carry data.
pub(crate) async fn transfer<T: Target, B: Transferable>(
    target: &T,
    buf: B,
    range: BlockRange,
    submit: Submit<T>,
) -> (B, Result<(), RequestError>) {
    let (memory, result) = request(target, Some(buf.into_memory()), range, submit).await;
    let buf = memory.and_then(B::from_memory);
    (buf.expect(BROUGHT_BACK), result)
}

impl Channel {
    /// Reads blocks into the buffer and gives it back.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn read_at<B: Transferable>(
        &self,
        buf: B,
        range: BlockRange,
    ) -> (B, Result<(), RequestError>) {
        transfer(self, buf, range, Self::read).await
    }

    /// As [`read_at`](Self::read_at); `keeps` is not dropped before the device is done, also when the future is.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn read_keeping(
        &self,
        keeps: Rc<dyn Any>,
        buf: Memory,
        range: BlockRange,
    ) -> (Memory, Result<(), RequestError>) {
        let (keeps, buf) = (Some(keeps), Some(buf));
        let (buf, result) = request_keeping(self, keeps, buf, range, Self::read).await;
        (buf.expect(BROUGHT_BACK), result)
    }

    /// As [`write_at`](Self::write_at); `keeps` is not dropped before the device is done, also when the future is.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn write_keeping(
        &self,
        keeps: Rc<dyn Any>,
        buf: Memory,
        range: BlockRange,
    ) -> (Memory, Result<(), RequestError>) {
        let (keeps, buf) = (Some(keeps), Some(buf));
        let (buf, result) = request_keeping(self, keeps, buf, range, Self::write).await;
        (buf.expect(BROUGHT_BACK), result)
    }

    /// Writes blocks from the buffer and gives it back.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn write_at<B: Transferable>(
        &self,
        buf: B,
        range: BlockRange,
    ) -> (B, Result<(), RequestError>) {
        transfer(self, buf, range, Self::write).await
    }

    /// Tells the device that the blocks' content is no longer needed.
    pub async fn unmap_at(&self, range: BlockRange) -> Result<(), RequestError> {
        request(self, None, range, Self::unmap).await.1
    }

    /// Makes the blocks zero.
    pub async fn write_zeroes_at(&self, range: BlockRange) -> Result<(), RequestError> {
        request(self, None, range, Self::write_zeroes).await.1
    }

    /// Makes completed writes to the blocks durable.
    pub async fn flush_at(&self, range: BlockRange) -> Result<(), RequestError> {
        request(self, None, range, Self::flush).await.1
    }

    /// Resets the device: what is in flight, on every channel, completes with errors first.
    pub async fn reset_device(&self) -> Result<(), RequestError> {
        request(self, None, BlockRange::new(0, 0), |channel, io, _| {
            channel.reset(io)
        })
        .await
        .1
    }
}
