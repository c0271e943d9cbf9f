//! Requests to a blob.
//!
//! They are the boxes of [`bdev`](crate::bdev), with one difference below: a blobstore says through
//! the callback that it did not take a request, and it may do so, or complete the request, before
//! the call returns. Such an answer is put into the box and dealt with when the call is back: a
//! refusal is returned with the box, a completion is delivered by a message, so that a handler that
//! sends its box again does not recurse.

use std::ffi::{c_int, c_void};
use std::rc::Rc;

use oriel_spdk_sys as sys;

use super::handle::{Blob, BlobInner};
use super::store::StoreInner;
use crate::bdev::future::{IdleRequests, Target, Transferable, request, transfer};
use crate::bdev::io::{Holds, Layout, assert_fits};
use crate::bdev::{BlockRange, Buffers, Complete, Io, IoError, Rejected, Rejection, RequestError};
use crate::limits::BLOB_REQUESTS_IN_FLIGHT_MAX;
use crate::oneshot::oneshot;

/// A request's way through a blob, while it is in flight.
pub(crate) struct InBlob {
    blob: Rc<BlobInner>,
    answer: Answer,
}

/// What SPDK has said before the call was back.
enum Answer {
    /// The call is not back, and nothing was said.
    NotYet,
    /// The request's end.
    Early(c_int),
    /// The call is back: the end comes as a callback.
    Later,
}

/// What a blobstore makes of every error of its device: NVMe's generic "internal error".
const DEVICE_FAILED: IoError = IoError {
    status_type: 0,
    status_code: 0x06,
};

extern "C" fn completed<C: Complete<B>, B: 'static>(ctx: *mut c_void, rc: c_int) {
    let io = ctx.cast::<Io<C, B>>();
    // SAFETY: the box that send() leaked; nobody else has a reference to it while SPDK has it.
    let holds = unsafe { &mut (*io).holds };
    if let Holds::Blob(InBlob { answer, .. }) = holds
        && matches!(answer, Answer::NotYet)
    {
        *answer = Answer::Early(rc);
        return;
    }
    // SAFETY: send() is back, and SPDK completes each request once.
    finish(unsafe { Box::from_raw(io) }, rc);
}

extern "C" fn deliver<C: Complete<B>, B: 'static>(ctx: *mut c_void) {
    // SAFETY: send() passed the box to this one message.
    finish(unsafe { Box::from_raw(ctx.cast::<Io<C, B>>()) }, 0);
}

fn finish<C: Complete<B>, B: 'static>(mut io: Box<Io<C, B>>, rc: c_int) {
    let holds = take_back(&mut io);
    let result = if rc == 0 { Ok(()) } else { Err(DEVICE_FAILED) };
    C::complete(io, result);
    // Kept until the handler has run: it may drop the blob while SPDK still unwinds through it.
    drop(holds);
}

/// Ends a request's time in flight.
fn take_back<C, B>(io: &mut Io<C, B>) -> Holds {
    let holds = std::mem::replace(&mut io.holds, Holds::Nothing);
    if let Holds::Blob(InBlob { blob, .. }) = &holds {
        blob.in_flight.set(blob.in_flight.get() - 1);
        blob.store.in_flight.set(blob.store.in_flight.get() - 1);
        blob.store.tell_of_room();
    }
    holds
}

impl StoreInner {
    #[inline]
    fn tell_of_room(&self) {
        if self.waiting_for_room.borrow().is_empty() {
            return;
        }
        // All are told, because one of them may have given up.
        let waiting = std::mem::take(&mut *self.waiting_for_room.borrow_mut());
        for reply in waiting {
            reply.send(());
        }
    }
}

impl Blob {
    /// Leaks the box to SPDK, or gives it back.
    #[inline]
    fn send<C: Complete<B>, B: 'static>(
        &self,
        mut io: Box<Io<C, B>>,
        range: BlockRange,
        submit: impl FnOnce(
            *mut sys::spdk_blob,
            *mut sys::spdk_io_channel,
            sys::oriel_done,
            *mut c_void,
        ),
    ) -> Result<(), Rejected<C, B>> {
        let blob = &self.inner;
        let store = &blob.store;
        store.assert_home();
        // The end of the blob is for SPDK to check; it does not check for overflow, and counts some
        // lengths in 32 bits.
        let sane = (1..=u64::from(u32::MAX)).contains(&range.count)
            && range.start.checked_add(range.count).is_some();
        if !sane {
            let errno = libc::EINVAL;
            return Err(Rejected {
                io,
                why: Rejection::Invalid { errno },
            });
        }
        if store.in_flight.get() >= BLOB_REQUESTS_IN_FLIGHT_MAX {
            return Err(Rejected {
                io,
                why: Rejection::NoRoom,
            });
        }
        blob.in_flight.set(blob.in_flight.get() + 1);
        store.in_flight.set(store.in_flight.get() + 1);
        io.holds = Holds::Blob(InBlob {
            blob: Rc::clone(blob),
            answer: Answer::NotYet,
        });
        let raw = Box::into_raw(io);
        submit(
            blob.as_ptr(),
            store.channel(),
            Some(completed::<C, B>),
            raw.cast(),
        );
        // SAFETY: the box is there, since `completed` leaves it alone while the answer is NotYet,
        // and nobody else has a reference to it.
        let holds = unsafe { &mut (*raw).holds };
        let Holds::Blob(InBlob { answer, .. }) = holds else {
            unreachable!("the request went to a blob");
        };
        match std::mem::replace(answer, Answer::Later) {
            Answer::Early(0) => {
                let thread = store.home.as_non_null();
                // SAFETY: the thread lives as long as what belongs to it; `deliver` takes the box.
                let rc = unsafe {
                    sys::oriel_thread_send_msg(thread.as_ptr(), Some(deliver::<C, B>), raw.cast())
                };
                if rc == 0 {
                    return Ok(());
                }
                // Only unmap ends so early, and that may be done twice.
                Err(refused(raw, -libc::ENOMEM))
            }
            Answer::Early(rc) => Err(refused(raw, rc)),
            Answer::NotYet | Answer::Later => Ok(()),
        }
    }

    /// Reads I/O units into the request's buffer.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    #[inline]
    pub fn read<C: Complete<B>, B: Buffers>(
        &self,
        mut io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        assert_fits(self.inner.store.io_unit_bytes, io.buf.capacity(), range);
        let layout = io.buf.layout();
        let BlockRange { start, count } = range;
        self.send(io, range, |blob, ch, cb, ctx| match layout {
            // SAFETY: blob and channel are open and of this thread; the buffer, large enough
            // (asserted), belongs to the request until it completes.
            Layout::One(buf) => unsafe {
                sys::spdk_blob_io_read(blob, ch, buf, start, count, cb, ctx);
            },
            // SAFETY: as above, and the iovec array is the request's as well.
            Layout::Many(iov, len) => unsafe {
                sys::spdk_blob_io_readv(blob, ch, iov, len, start, count, cb, ctx);
            },
        })
    }

    /// Writes I/O units from the request's buffer.
    ///
    /// # Panics
    /// When the buffer is too small for the range.
    #[inline]
    pub fn write<C: Complete<B>, B: Buffers>(
        &self,
        mut io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        assert_fits(self.inner.store.io_unit_bytes, io.buf.capacity(), range);
        let layout = io.buf.layout();
        let BlockRange { start, count } = range;
        self.send(io, range, |blob, ch, cb, ctx| match layout {
            // SAFETY: as in read().
            Layout::One(buf) => unsafe {
                sys::spdk_blob_io_write(blob, ch, buf, start, count, cb, ctx);
            },
            // SAFETY: as in read().
            Layout::Many(iov, len) => unsafe {
                sys::spdk_blob_io_writev(blob, ch, iov, len, start, count, cb, ctx);
            },
        })
    }

    /// Tells the device that the units' content is no longer needed. What they hold then is
    /// unspecified; on a device that cannot unmap nothing happens.
    pub fn unmap<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: blob and channel are open and of this thread.
        self.send(io, range, |blob, ch, cb, ctx| unsafe {
            sys::spdk_blob_io_unmap(blob, ch, range.start, range.count, cb, ctx);
        })
    }

    /// Makes the units zero.
    pub fn write_zeroes<C: Complete<B>, B: 'static>(
        &self,
        io: Box<Io<C, B>>,
        range: BlockRange,
    ) -> Result<(), Rejected<C, B>> {
        // SAFETY: as in unmap().
        self.send(io, range, |blob, ch, cb, ctx| unsafe {
            sys::spdk_blob_io_write_zeroes(blob, ch, range.start, range.count, cb, ctx);
        })
    }

    /// Ready when the store can take a request again, after a [`Rejection::NoRoom`].
    pub async fn room(&self) {
        let store = &self.inner.store;
        if store.in_flight.get() == 0 {
            // Nothing will end and tell; try again at the next turn of the executor.
            crate::oneshot::yield_now().await;
            return;
        }
        let (reply, room) = oneshot();
        store.waiting_for_room.borrow_mut().push(reply);
        room.await;
    }

    /// Reads I/O units into the buffer and gives it back.
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

    /// Writes I/O units from the buffer and gives it back.
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

    /// As [`Self::unmap`].
    pub async fn unmap_at(&self, range: BlockRange) -> Result<(), RequestError> {
        request(self, None, range, Self::unmap).await.1
    }

    /// Makes the units zero.
    pub async fn write_zeroes_at(&self, range: BlockRange) -> Result<(), RequestError> {
        request(self, None, range, Self::write_zeroes).await.1
    }
}

#[cold]
fn refused<C, B>(raw: *mut Io<C, B>, rc: c_int) -> Rejected<C, B> {
    // SAFETY: send() calls this with the box that it leaked and SPDK has answered.
    let mut io = unsafe { Box::from_raw(raw) };
    drop(take_back(&mut io));
    let why = if -rc == libc::ENOMEM {
        Rejection::NoRoom
    } else {
        Rejection::Invalid { errno: -rc }
    };
    Rejected { io, why }
}

impl Target for Blob {
    fn idle(&self) -> &IdleRequests {
        &self.inner.store.idle
    }

    fn room(&self) -> impl Future<Output = ()> {
        Self::room(self)
    }
}
