//! SPDK threads: the lightweight threads that SPDK's objects live on, each polled by one OS thread.
//!
//! ```text
//!   OS thread (pinned)            other OS threads
//!     loop { thread.poll() } ◄──── ThreadHandle::send(closure)
//!       ├─ messages
//!       ├─ pollers (Poller)
//!       └─ completions of I/O channels
//! ```
//!
//! A [`SpdkThread`] is current on its OS thread from its creation on, so that code between two
//! polls may call SPDK. It does not load-balance and does not move.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_void};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use oriel_spdk_sys as sys;
use thiserror::Error;

use crate::limits::THREAD_EXIT_LIMIT;

/// Why an SPDK thread was not made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThreadError {
    /// There is no environment.
    #[error("an SPDK thread needs a started Env: start one first")]
    NoEnv,
    /// Out of memory.
    #[error("no memory left for the SPDK thread '{name}': start with more memory")]
    NoMemory {
        /// The thread's name.
        name: String,
    },
    /// A name that C cannot carry.
    #[error("the thread's name contains a NUL byte")]
    BadName,
}

/// A message could not be sent; it comes back.
#[derive(Error)]
#[non_exhaustive]
pub enum SendError<F> {
    /// The thread has exited.
    #[error("the SPDK thread has exited and takes no more messages")]
    Exited(F),
    /// SPDK's pool of messages is empty.
    #[error("SPDK's message pool is empty: too many messages are on their way at once")]
    NoRoom(F),
}

impl<F> std::fmt::Debug for SendError<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exited(_) => "Exited(..)",
            Self::NoRoom(_) => "NoRoom(..)",
        })
    }
}

struct RawThread(NonNull<sys::spdk_thread>);

// SAFETY: the pointer is used from other threads for spdk_thread_send_msg only, which SPDK
// documents as callable from any thread while the thread exists; the lock around it says when.
unsafe impl Send for RawThread {}
// SAFETY: as above.
unsafe impl Sync for RawThread {}

/// A way to send closures to an SPDK thread from any OS thread.
#[derive(Clone)]
pub struct ThreadHandle {
    /// None once the thread exits. Sending holds the read lock, so the thread cannot go meanwhile.
    target: Arc<RwLock<Option<RawThread>>>,
}

extern "C" fn run_message<F: FnOnce()>(ctx: *mut c_void) {
    // SAFETY: `ctx` is the box that send() leaked, and SPDK delivers each message once.
    let message = unsafe { Box::from_raw(ctx.cast::<F>()) };
    message();
}

impl ThreadHandle {
    /// Runs `message` on the thread, at one of its next polls.
    pub fn send<F: FnOnce() + Send + 'static>(&self, message: F) -> Result<(), SendError<F>> {
        let target = self.target.read().unwrap_or_else(PoisonError::into_inner);
        let Some(RawThread(thread)) = &*target else {
            return Err(SendError::Exited(message));
        };
        let ctx = Box::into_raw(Box::new(message));
        // SAFETY: the thread exists while the read lock is held, and run_message::<F> fits the box.
        let rc = unsafe {
            sys::oriel_thread_send_msg(thread.as_ptr(), Some(run_message::<F>), ctx.cast())
        };
        if rc != 0 {
            // SAFETY: a refused message is never delivered, so the box is still ours.
            return Err(SendError::NoRoom(*unsafe { Box::from_raw(ctx) }));
        }
        Ok(())
    }
}

enum Life {
    Running,
    /// Takes no more messages; told to exit once the last one, which sets this, has run, and
    /// nothing made on it is left. Since when.
    Draining(Rc<Cell<bool>>, Instant),
    /// Told to exit, since then.
    Exiting(Instant),
}

/// SPDK threads in this process.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Whether there is an SPDK thread, on whatever core.
pub(crate) fn any_left() -> bool {
    THREADS.load(Ordering::Acquire) > 0
}

type PolledThread = (NonNull<sys::spdk_thread>, Rc<Cell<usize>>);

thread_local! {
    /// The SPDK threads that this OS thread polls, and how many objects live on each.
    static POLLED_HERE: RefCell<Vec<PolledThread>> = const { RefCell::new(Vec::new()) };
}

/// An SPDK thread that the calling OS thread polls.
pub struct SpdkThread {
    raw: NonNull<sys::spdk_thread>,
    name: String,
    target: Arc<RwLock<Option<RawThread>>>,
    life: Life,
    /// Objects that were made on it and are still there.
    objects: Rc<Cell<usize>>,
    _on_one_thread: PhantomData<*mut ()>,
}

impl SpdkThread {
    /// Makes an SPDK thread and makes it current on the calling OS thread.
    ///
    /// From v23.01 on, the first one in a process is the "app thread", on which subsystems are
    /// started and stopped.
    pub fn create(name: &str) -> Result<Self, ThreadError> {
        if !crate::env::is_running() {
            return Err(ThreadError::NoEnv);
        }
        let c_name = CString::new(name).map_err(|_| ThreadError::BadName)?;
        // SAFETY: the thread library runs, and SPDK copies the name.
        let raw = unsafe { sys::oriel_thread_create(c_name.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| ThreadError::NoMemory { name: name.into() })?;
        let target = Arc::new(RwLock::new(Some(RawThread(raw))));
        let objects = Rc::new(Cell::new(0));
        POLLED_HERE.with_borrow_mut(|here| here.push((raw, objects.clone())));
        THREADS.fetch_add(1, Ordering::AcqRel);
        let thread = Self {
            raw,
            name: name.into(),
            target,
            life: Life::Running,
            objects,
            _on_one_thread: PhantomData,
        };
        thread.make_current();
        Ok(thread)
    }

    /// Whether one of this OS thread's is current, as devices need it to be opened.
    pub fn is_one_current() -> bool {
        // SAFETY: reads a thread-local.
        let current = unsafe { sys::spdk_get_thread() };
        POLLED_HERE.with_borrow(|here| here.iter().any(|(raw, _)| raw.as_ptr() == current))
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes this the thread that SPDK calls run on. Only needed where one OS thread polls several.
    pub fn make_current(&self) {
        // SAFETY: the thread lives as long as self.
        unsafe { sys::spdk_set_thread(self.raw.as_ptr()) };
    }

    /// One turn: messages, pollers, completions. True if there was work.
    #[inline]
    pub fn poll(&self) -> bool {
        // SAFETY: the thread lives as long as self and is polled on its own OS thread only (not Send).
        unsafe { sys::spdk_thread_poll(self.raw.as_ptr(), 0, 0) > 0 }
    }

    /// A handle for other OS threads.
    pub fn handle(&self) -> ThreadHandle {
        ThreadHandle {
            target: Arc::clone(&self.target),
        }
    }

    /// Polls until every message sent so far has run, then ends the thread.
    ///
    /// # Panics
    /// When channels, descriptors or pollers made on it are still there after
    /// [`THREAD_EXIT_LIMIT`]: drop them first.
    pub fn exit(self) {
        drop(self);
    }

    /// One turn of a thread that is to exit; whether it has. From the first call on it takes no
    /// more messages from [`ThreadHandle`]s; it runs those that it has, and ends once all that was
    /// made on it is dropped. One that keeps a channel or a poller for longer than
    /// [`THREAD_EXIT_LIMIT`] never ends.
    pub fn poll_exit(&mut self) -> bool {
        match &self.life {
            Life::Running => self.begin_exit(),
            Life::Draining(drained, _) if drained.get() && self.objects.get() == 0 => {
                self.tell_to_exit();
                self.life = Life::Exiting(Instant::now());
            }
            Life::Draining(..) | Life::Exiting(_) => {}
        }
        if self.may_still_exit() {
            self.poll();
        }
        // SAFETY: the thread is alive.
        unsafe { sys::spdk_thread_is_exited(self.raw.as_ptr()) }
    }

    fn tell_to_exit(&self) {
        // SAFETY: reads a thread-local.
        let before = unsafe { sys::spdk_get_thread() };
        self.make_current();
        // SAFETY: the thread is alive and current.
        unsafe { sys::spdk_thread_exit(self.raw.as_ptr()) };
        // SAFETY: it was current a moment ago.
        unsafe { sys::spdk_set_thread(before) };
    }

    fn begin_exit(&mut self) {
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = None;
        let drained = Rc::new(Cell::new(false));
        let ctx = Rc::into_raw(drained.clone());
        // SAFETY: the thread is alive, and set_drained takes the count that ctx holds.
        let rc = unsafe {
            sys::oriel_thread_send_msg(self.raw.as_ptr(), Some(set_drained), ctx.cast_mut().cast())
        };
        if rc != 0 {
            // No room for one more: the next turn tries again, once there is.
            // SAFETY: a refused message is never delivered, so the count is still ours.
            unsafe { Rc::decrement_strong_count(ctx) };
            return;
        }
        self.life = Life::Draining(drained, Instant::now());
    }

    /// SPDK gives up waiting after the limit and lets the thread go with its channels, whose
    /// completions then run on freed memory. It looks at its watch when polled only.
    fn may_still_exit(&self) -> bool {
        match self.life {
            Life::Exiting(since) => since.elapsed() < THREAD_EXIT_LIMIT.mul_f32(0.9),
            Life::Draining(_, since) => since.elapsed() < THREAD_EXIT_LIMIT,
            Life::Running => true,
        }
    }
}

extern "C" fn set_drained(ctx: *mut c_void) {
    // SAFETY: `ctx` is the count that begin_exit() leaked, and SPDK delivers each message once.
    let drained = unsafe { Rc::from_raw(ctx.cast::<Cell<bool>>().cast_const()) };
    drained.set(true);
}

impl Drop for SpdkThread {
    fn drop(&mut self) {
        // During a panic the objects on the thread may be anywhere; the process is ending anyway.
        if std::thread::panicking() {
            return;
        }
        while !self.poll_exit() {
            assert!(
                self.may_still_exit(),
                "the SPDK thread '{}' still has objects that were made on it: drop every Poller, Channel, BdevDesc, Blobstore, Target and the like before it exits",
                self.name
            );
        }
        // SAFETY: reads a thread-local.
        if unsafe { sys::spdk_get_thread() } == self.raw.as_ptr() {
            // SAFETY: nothing is current from here on, rather than a thread that is gone.
            unsafe { sys::spdk_set_thread(std::ptr::null_mut()) };
        }
        POLLED_HERE.with_borrow_mut(|here| here.retain(|(raw, _)| *raw != self.raw));
        // SAFETY: the thread has exited and is destroyed once; the handles' pointer is gone.
        unsafe { sys::spdk_thread_destroy(self.raw.as_ptr()) };
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The SPDK thread that is current on this OS thread, for objects that must go back to it. It does
/// not exit as long as there is one of these.
pub(crate) struct Home {
    raw: NonNull<sys::spdk_thread>,
    objects: Rc<Cell<usize>>,
}

impl Clone for Home {
    fn clone(&self) -> Self {
        self.objects.set(self.objects.get() + 1);
        Self {
            raw: self.raw,
            objects: self.objects.clone(),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.objects.set(self.objects.get() - 1);
    }
}

impl Home {
    /// # Panics
    /// When no SPDK thread is current: the object cannot be made here.
    pub(crate) fn current(what: &str) -> Self {
        // SAFETY: reads a thread-local.
        let current = unsafe { sys::spdk_get_thread() };
        let polled_here = POLLED_HERE.with_borrow(|here| {
            let mut here = here.iter().filter(|(raw, _)| raw.as_ptr() == current);
            here.next().map(|(raw, objects)| (*raw, objects.clone()))
        });
        let (raw, objects) = polled_here.unwrap_or_else(|| {
            panic!("{what} needs an SPDK thread: call SpdkThread::create on this OS thread first, and make_current where it has several")
        });
        objects.set(objects.get() + 1);
        Self { raw, objects }
    }

    /// The thread, for sending it messages.
    pub(crate) fn as_non_null(&self) -> NonNull<sys::spdk_thread> {
        self.raw
    }

    /// Whether this thread is current.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        // SAFETY: reads a thread-local.
        unsafe { sys::spdk_get_thread() == self.raw.as_ptr() }
    }

    /// Runs `f` with this thread current. The caller is on the right OS thread because whoever
    /// holds a `Home` is not `Send`.
    pub(crate) fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: reads a thread-local.
        let before = unsafe { sys::spdk_get_thread() };
        if before == self.raw.as_ptr() {
            return f();
        }
        // SAFETY: the thread outlives its objects: it does not exit while one of them is left.
        unsafe { sys::spdk_set_thread(self.raw.as_ptr()) };
        let result = f();
        // SAFETY: it was current a moment ago.
        unsafe { sys::spdk_set_thread(before) };
        result
    }
}

struct PollerState {
    work: RefCell<Box<dyn FnMut() -> bool>>,
}

extern "C" fn run_poller(ctx: *mut c_void) -> c_int {
    let state = ctx.cast::<PollerState>().cast_const();
    // SAFETY: the Poller holds one count while it is registered; this one keeps the closure alive
    // even if the closure drops its own Poller.
    unsafe { Rc::increment_strong_count(state) };
    // SAFETY: balances the increment above.
    let state = unsafe { Rc::from_raw(state) };
    let busy = (state.work.borrow_mut())();
    c_int::from(busy)
}

/// A closure that an SPDK thread calls again and again. Dropping it ends that.
pub struct Poller {
    raw: *mut sys::spdk_poller,
    state: *const PollerState,
    home: Home,
}

impl Poller {
    /// Calls `work` on the current SPDK thread: at every turn if `period` is zero, else at that
    /// interval. `work` says whether it found something to do.
    ///
    /// # Panics
    /// When no SPDK thread is current, or there is no memory for a poller.
    pub fn register(name: &str, period: Duration, work: impl FnMut() -> bool + 'static) -> Self {
        let home = Home::current("a poller");
        let name = CString::new(name.replace('\0', " ")).expect("the NUL bytes were just replaced");
        let state = Rc::into_raw(Rc::new(PollerState {
            work: RefCell::new(Box::new(work)),
        }));
        let period_us = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        // SAFETY: an SPDK thread is current; the state outlives the registration (see drop).
        let raw = unsafe {
            sys::spdk_poller_register_named(
                Some(run_poller),
                state.cast_mut().cast(),
                period_us,
                name.as_ptr(),
            )
        };
        assert!(!raw.is_null(), "no memory left for a poller");
        Self { raw, state, home }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        let raw = &mut self.raw;
        self.home.enter(|| {
            // SAFETY: registered on `home`, which is current here; unregistered once.
            unsafe { sys::spdk_poller_unregister(raw) }
        });
        // SAFETY: gives up the count that register() leaked; SPDK does not call the poller again.
        unsafe { Rc::decrement_strong_count(self.state) };
    }
}

/// Polls `thread` until `future` is ready. For start-up code and small programs; a reactor has its
/// own executor.
pub fn block_on<F: Future>(thread: &SpdkThread, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        thread.make_current();
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread.poll();
    }
}
