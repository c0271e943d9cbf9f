//! A C callback that comes once, as a future.
//!
//! The state is shared by two owners: the future, and the raw pointer that C holds. Dropping the
//! future leaves the other owner alone, so the callback always finds live memory.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct State<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

/// The future half: ready once the callback has come.
pub(crate) struct Oneshot<T> {
    state: Rc<State<T>>,
}

/// The half that travels through C as its `ctx` pointer.
pub(crate) struct Reply<T> {
    state: Rc<State<T>>,
}

pub(crate) fn oneshot<T>() -> (Reply<T>, Oneshot<T>) {
    let state = Rc::new(State {
        value: Cell::new(None),
        waker: RefCell::new(None),
    });
    (
        Reply {
            state: Rc::clone(&state),
        },
        Oneshot { state },
    )
}

impl<T> Reply<T> {
    /// Gives this half to C.
    pub(crate) fn into_raw(self) -> *mut c_void {
        Rc::into_raw(self.state).cast_mut().cast()
    }

    /// Takes back what [`Self::into_raw`] gave.
    ///
    /// # Safety
    /// `ctx` came from `into_raw` of a reply of the same type, on this thread, and was not taken back before.
    pub(crate) unsafe fn from_raw(ctx: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        let state = unsafe { Rc::from_raw(ctx.cast::<State<T>>()) };
        Self { state }
    }

    /// Resolves the future.
    pub(crate) fn send(self, value: T) {
        self.state.value.set(Some(value));
        let waker = self.state.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Oneshot<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.state.value.take() {
            return Poll::Ready(value);
        }
        *self.state.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Completes a `Oneshot<c_int>` from a C callback of the shape `(ctx, rc)`.
///
/// # Safety
/// `ctx` is `Reply::<c_int>::into_raw`'s, and this is the one callback for it.
pub(crate) unsafe extern "C" fn reply_rc(ctx: *mut c_void, rc: c_int) {
    // SAFETY: the caller's promise.
    unsafe { Reply::<c_int>::from_raw(ctx) }.send(rc);
}

/// Completes a `Oneshot<()>` from a C callback of the shape `(ctx)`.
///
/// # Safety
/// `ctx` is `Reply::<()>::into_raw`'s, and this is the one callback for it.
pub(crate) unsafe extern "C" fn reply_unit(ctx: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { Reply::<()>::from_raw(ctx) }.send(());
}

/// Lets everything else on the executor run once.
pub(crate) fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
