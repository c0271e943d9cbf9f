//! Requests as futures.
//!
//! A request's box is taken from the channel's idle ones and goes back there, so a steady load
//! allocates nothing. Dropping the future does not stop the device: the request then finishes
//! alone, and its buffer is freed when the device is done with it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::io::{BlockRange, Channel, Complete, Io, IoError, Rejected, Rejection};
use crate::DmaBuf;
use crate::limits::ASYNC_REQUESTS_KEPT_PER_CHANNEL;

pub(crate) type PooledIo = Io<Pending, Option<DmaBuf>>;

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
}

impl Complete<Option<DmaBuf>> for Pending {
    fn complete(mut io: Box<PooledIo>, result: Result<(), IoError>) {
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

type Submit =
    fn(&Channel, Box<PooledIo>, BlockRange) -> Result<(), Rejected<Pending, Option<DmaBuf>>>;

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

impl Channel {
    fn idle_request(&self) -> Box<PooledIo> {
        let idle = self.inner.idle.borrow_mut().pop();
        idle.unwrap_or_else(|| {
            Io::new(
                None,
                Pending {
                    slot: Rc::default(),
                },
            )
        })
    }

    fn keep(&self, io: Box<PooledIo>) {
        let mut idle = self.inner.idle.borrow_mut();
        if idle.len() < ASYNC_REQUESTS_KEPT_PER_CHANNEL {
            idle.push(io);
        }
    }

    async fn request(
        &self,
        buf: Option<DmaBuf>,
        range: BlockRange,
        submit: Submit,
    ) -> (Option<DmaBuf>, Result<(), RequestError>) {
        let mut io = self.idle_request();
        io.buf = buf;
        let slot = Rc::clone(&io.ctx.slot);
        while let Err(rejected) = submit(self, io, range) {
            io = rejected.io;
            if rejected.why != Rejection::NoRoom {
                let buf = io.buf.take();
                self.keep(io);
                return (buf, Err(rejected.why.into()));
            }
            self.room().await;
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
        self.keep(io);
        (buf, result.map_err(RequestError::from))
    }

    async fn transfer(
        &self,
        buf: DmaBuf,
        range: BlockRange,
        submit: Submit,
    ) -> (DmaBuf, Result<(), RequestError>) {
        let (buf, result) = self.request(Some(buf), range, submit).await;
        (buf.expect("a request brings its buffer back"), result)
    }

    /// Reads blocks into the buffer and gives it back.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn read_at(
        &self,
        buf: DmaBuf,
        range: BlockRange,
    ) -> (DmaBuf, Result<(), RequestError>) {
        self.transfer(buf, range, Self::read).await
    }

    /// Writes blocks from the buffer and gives it back.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    pub async fn write_at(
        &self,
        buf: DmaBuf,
        range: BlockRange,
    ) -> (DmaBuf, Result<(), RequestError>) {
        self.transfer(buf, range, Self::write).await
    }

    /// Tells the device that the blocks' content is no longer needed.
    pub async fn unmap_at(&self, range: BlockRange) -> Result<(), RequestError> {
        self.request(None, range, Self::unmap).await.1
    }

    /// Makes the blocks zero.
    pub async fn write_zeroes_at(&self, range: BlockRange) -> Result<(), RequestError> {
        self.request(None, range, Self::write_zeroes).await.1
    }

    /// Makes completed writes to the blocks durable.
    pub async fn flush_at(&self, range: BlockRange) -> Result<(), RequestError> {
        self.request(None, range, Self::flush).await.1
    }

    /// Resets the device: what is in flight, on every channel, completes with errors first.
    pub async fn reset_device(&self) -> Result<(), RequestError> {
        self.request(None, BlockRange::new(0, 0), |channel, io, _| {
            channel.reset(io)
        })
        .await
        .1
    }
}
