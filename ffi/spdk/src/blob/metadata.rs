//! Metadata operations, one after another.
//!
//! ```text
//!   store.in_turn(op) ─► waiting ─► op(Turn) ─► SPDK ─► callback drops the Turn ─► next op
//! ```
//!
//! An operation owns the [`Turn`] and everything that it needs, so it runs to its end also when the
//! future that waits for it is dropped. The next one starts from a message, never inside SPDK's
//! callback of the one before: SPDK still touches its own state after calling back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

use oriel_spdk_sys as sys;

use super::handle::BlobInner;
use super::store::StoreInner;
use crate::oneshot::{Reply, oneshot};

type Operation = Box<dyn FnOnce(Turn)>;

/// The operations of one store.
#[derive(Default)]
pub(super) struct Operations {
    running: Cell<bool>,
    waiting: RefCell<VecDeque<Operation>>,
}

/// The right to do one metadata operation.
pub(super) struct Turn {
    store: Rc<StoreInner>,
}

impl Turn {
    pub(super) fn store(&self) -> &Rc<StoreInner> {
        &self.store
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let operations = &self.store.operations;
        operations.running.set(false);
        if operations.waiting.borrow().is_empty() {
            return;
        }
        let thread = self.store.home.as_non_null();
        let ctx = Rc::into_raw(Rc::clone(&self.store)).cast_mut().cast();
        // SAFETY: the thread lives as long as what belongs to it; start_next takes the count back.
        let rc = unsafe { sys::oriel_thread_send_msg(thread.as_ptr(), Some(start_next), ctx) };
        if rc != 0 {
            start_next(ctx);
        }
    }
}

extern "C" fn start_next(ctx: *mut c_void) {
    // SAFETY: takes back the count that Turn::drop leaked for this one call.
    let store = unsafe { Rc::from_raw(ctx.cast::<StoreInner>().cast_const()) };
    store.start();
}

impl StoreInner {
    /// Does `operation` when all before it are done.
    pub(super) fn in_turn(self: &Rc<Self>, operation: impl FnOnce(Turn) + 'static) {
        let operation = Box::new(operation);
        self.operations.waiting.borrow_mut().push_back(operation);
        self.start();
    }

    fn start(self: &Rc<Self>) {
        if self.operations.running.get() {
            return;
        }
        let next = self.operations.waiting.borrow_mut().pop_front();
        if let Some(operation) = next {
            self.operations.running.set(true);
            let turn = Turn {
                store: Rc::clone(self),
            };
            self.home.enter(|| operation(turn));
        }
    }

    /// Does an operation in its turn and waits for its answer.
    ///
    /// # Panics
    /// When another SPDK thread is current.
    pub(super) async fn metadata<T: 'static>(
        self: &Rc<Self>,
        operation: impl FnOnce(Turn, Reply<T>) + 'static,
    ) -> T {
        self.assert_home();
        let (reply, answer) = oneshot();
        self.in_turn(move |turn| operation(turn, reply));
        answer.await
    }
}

/// What travels through SPDK with an operation. The fields are dropped in this order.
pub(super) struct Call<T> {
    reply: Reply<T>,
    /// Stays open meanwhile.
    blob: Option<Rc<BlobInner>>,
    turn: Turn,
}

impl<T> Call<T> {
    pub(super) fn new(turn: Turn, reply: Reply<T>) -> Self {
        Self::with_blob(turn, reply, None)
    }

    pub(super) fn on_blob(turn: Turn, reply: Reply<T>, blob: Rc<BlobInner>) -> Self {
        Self::with_blob(turn, reply, Some(blob))
    }

    fn with_blob(turn: Turn, reply: Reply<T>, blob: Option<Rc<BlobInner>>) -> Self {
        Self { reply, blob, turn }
    }

    pub(super) fn into_raw(self) -> *mut c_void {
        Box::into_raw(Box::new(self)).cast()
    }

    /// # Safety
    /// `ctx` came from `into_raw` of a call of the same type and is taken back once.
    pub(super) unsafe fn from_raw(ctx: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        *unsafe { Box::from_raw(ctx.cast::<Self>()) }
    }

    pub(super) fn store(&self) -> &Rc<StoreInner> {
        self.turn.store()
    }

    /// Answers, and ends the turn.
    pub(super) fn end(self, value: T) {
        let Self { reply, blob, turn } = self;
        reply.send(value);
        drop(blob);
        drop(turn);
    }
}

/// The end of an operation that answers with an errno only.
pub(super) extern "C" fn done(ctx: *mut c_void, rc: c_int) {
    // SAFETY: every caller passes a Call<c_int>'s pointer to SPDK, which calls back once.
    unsafe { Call::<c_int>::from_raw(ctx) }.end(rc);
}
