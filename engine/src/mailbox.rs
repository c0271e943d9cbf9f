//! A bounded mailbox between cores: many senders, one receiver.
//!
//! ```text
//!   senders: claim a slot by moving `tail`       receiver: owns `head`
//!        │                                            │
//!        ▼                                            ▼
//!   ┌────────┬────────┬────────┬────────┬────────┬────────┐
//!   │ seq 8  │ seq 9  │ seq 4+1│ seq 5+1│ seq 6  │ seq 7  │   positions 4..=9,
//!   │ (free) │ (free) │ message│ message│ claimed│ (free) │   a ring of slots
//!   └────────┴────────┴────────┴────────┴────────┴────────┘
//! ```
//!
//! Position `p` uses slot `p % slots`. A slot's `seq` says whose turn it is:
//! `p` = free for the sender of position `p`; `p + 1` = holds the message of
//! position `p`; `p + slots` = taken, free for the next lap.
//!
//! Invariants:
//! - Only the sender that moved `tail` from `p` to `p + 1` writes slot `p`, and
//!   only while its `seq` is `p`; only the receiver reads it, and only while its
//!   `seq` is `p + 1`. `seq` is stored with release and loaded with acquire, so
//!   the message's bytes travel with it.
//! - Messages of one sender arrive in the order sent.
//! - "Full" and "closed" give the message back. Nothing blocks or allocates.
//! - The lowest bit of `tail` closes the mailbox. A sender claims its slot by a
//!   compare-and-swap of the whole word, so no position is claimed after the bit
//!   is set, and the receiver's drop can take exactly what was claimed before.
//!
//! What it does not do: it is not wait-free. A sender that loses its core between
//! claiming a slot and filling it delays the messages behind it. Reactors are
//! pinned one to a core, so this is rare and short.
//!
//! An empty `receive` is one acquire load of a line that the receiver's core
//! already holds: that is why this is not crossbeam's `ArrayQueue`, whose empty
//! pop needs a full fence for its second consumer, on every turn of every core.
//! `oriel-perf reactor` prints both.

use std::mem::MaybeUninit;
use std::ops::Deref;

#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
use std::thread;

#[cfg(loom)]
use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    thread,
};

/// Keeps its content on cache lines of its own (`limits::CACHE_PAD_BYTES`).
#[repr(align(128))]
#[derive(Debug, Default)]
pub(crate) struct OwnLine<T>(pub(crate) T);

const _: () = assert!(align_of::<OwnLine<u8>>() == crate::limits::CACHE_PAD_BYTES);

impl<T> Deref for OwnLine<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Set in `tail` once the receiver is gone; positions are counted above it.
const CLOSED: usize = 1;
const ONE_POSITION: usize = 2;

/// A message that was not taken, and why.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SendError<T> {
    /// No room now: the receiver has not kept up.
    #[error("the mailbox is full: the receiver has not kept up; try again later or send less")]
    Full(T),
    /// The receiver is gone and takes nothing any more.
    #[error("the mailbox is closed: its receiver has stopped")]
    Closed(T),
}

impl<T> SendError<T> {
    /// The message that was not sent.
    pub fn into_message(self) -> T {
        match self {
            Self::Full(message) | Self::Closed(message) => message,
        }
    }

    /// Whether it may be taken later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

impl<T> std::fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

/// Wakes a receiver that sleeps because it had nothing to do.
///
/// Sleeper: `announce`, look at every mailbox once more, park, `withdraw`.
/// Sender: put the message, `ring`. Between each side's store and load stands a
/// sequentially consistent fence, so at least one of them sees the other.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    asleep: OwnLine<AtomicBool>,
    sleeper: std::sync::OnceLock<thread::Thread>,
}

impl Doorbell {
    /// Says that the calling thread is the one to wake. Once, before it sleeps.
    pub(crate) fn belongs_here(&self) {
        let _ = self.sleeper.set(thread::current());
    }

    pub(crate) fn announce(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn withdraw(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.unpark();
        }
    }
}

/// One message's place. Fields are private to `slot` so that the unsafe code of
/// this crate is the four blocks there.
#[allow(unsafe_code)]
mod slot {
    use super::{AtomicUsize, MaybeUninit, Ordering};
    #[cfg(loom)]
    use loom::cell::UnsafeCell;

    #[cfg(not(loom))]
    #[derive(Debug)]
    struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    #[derive(Debug)]
    pub(super) struct Slot<T> {
        seq: AtomicUsize,
        message: UnsafeCell<MaybeUninit<T>>,
    }

    // SAFETY: a slot shared between threads hands each message from exactly one
    // sender to the one receiver (`fill` and `take` below), which needs `T: Send`
    // and never makes a `&T` visible to two threads.
    unsafe impl<T: Send> Sync for Slot<T> {}

    impl<T> Slot<T> {
        pub(super) fn free_for(position: usize) -> Self {
            Self {
                seq: AtomicUsize::new(position),
                message: UnsafeCell::new(MaybeUninit::uninit()),
            }
        }

        /// Whose turn it is; see the module's picture.
        pub(super) fn seq(&self) -> usize {
            self.seq.load(Ordering::Acquire)
        }

        /// # Safety
        /// The caller has claimed `position`: it moved `tail` past it, after it
        /// saw `seq() == position`.
        pub(super) unsafe fn fill(&self, position: usize, message: T) {
            self.message.with_mut(|place| {
                // SAFETY: `place` comes from a live `UnsafeCell`, so it is valid
                // and aligned; nobody else touches it, because the claim is
                // exclusive (caller) and the receiver waits for `position + 1`.
                unsafe { place.write(MaybeUninit::new(message)) };
            });
            self.seq.store(position.wrapping_add(1), Ordering::Release);
        }

        /// # Safety
        /// The caller is the only receiver and saw `seq() == position + 1`.
        pub(super) unsafe fn take(&self, position: usize, slots: usize) -> T {
            let message = self.message.with(|place| {
                // SAFETY: `place` comes from a live `UnsafeCell`, so it is valid
                // and aligned; no sender writes before `position + slots`.
                unsafe { place.read() }
            });
            self.seq
                .store(position.wrapping_add(slots), Ordering::Release);
            // SAFETY: `seq == position + 1` (caller) says that `fill` wrote the
            // message; it is read once, since `seq` has moved on.
            unsafe { message.assume_init() }
        }
    }
}

use slot::Slot;

#[derive(Debug)]
struct Ring<T> {
    /// Next position to claim, times two, plus `CLOSED`. Written by senders.
    tail: OwnLine<AtomicUsize>,
    /// Next position to take. Written by the receiver; senders only count with it.
    head: OwnLine<AtomicUsize>,
    slots: Box<[Slot<T>]>,
    /// A power of two less one.
    mask: usize,
    /// Rung after each message where the receiver may sleep.
    doorbell: Option<std::sync::Arc<Doorbell>>,
}

impl<T> Ring<T> {
    fn depth(&self) -> usize {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed) / ONE_POSITION;
        tail.saturating_sub(head).min(self.slots.len())
    }
}

/// Makes a mailbox of `slots` messages (a power of two, at least two).
pub fn mailbox<T: Send>(slots: usize) -> (Sender<T>, Receiver<T>) {
    with_doorbell(slots, None)
}

pub(crate) fn with_doorbell<T: Send>(
    slots: usize,
    doorbell: Option<std::sync::Arc<Doorbell>>,
) -> (Sender<T>, Receiver<T>) {
    assert!(
        slots.is_power_of_two() && slots >= 2,
        "a mailbox has a power of two of slots, at least two, not {slots}"
    );
    let ring = Arc::new(Ring {
        tail: OwnLine(AtomicUsize::new(0)),
        head: OwnLine(AtomicUsize::new(0)),
        slots: (0..slots).map(Slot::free_for).collect(),
        mask: slots - 1,
        doorbell,
    });
    (Sender { ring: ring.clone() }, Receiver { ring, head: 0 })
}

/// The sending side; one clone for each core that sends.
#[derive(Debug)]
pub struct Sender<T> {
    ring: Arc<Ring<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            ring: self.ring.clone(),
        }
    }
}

impl<T: Send> Sender<T> {
    /// Puts `message` into the mailbox, or gives it back.
    #[allow(unsafe_code)]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let ring = &*self.ring;
        let mut tail = ring.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 {
                return Err(SendError::Closed(message));
            }
            let position = tail / ONE_POSITION;
            let slot = &ring.slots[position & ring.mask];
            let seq = slot.seq();
            if seq == position {
                match ring.tail.compare_exchange_weak(
                    tail,
                    tail.wrapping_add(ONE_POSITION),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        // SAFETY: this thread moved `tail` past `position`, after
                        // it saw that the slot's `seq` is `position`.
                        unsafe { slot.fill(position, message) };
                        if let Some(doorbell) = &ring.doorbell {
                            doorbell.ring();
                        }
                        return Ok(());
                    }
                    Err(now) => tail = now,
                }
            } else if seq < position {
                // The slot still holds the message of the lap before.
                return Err(SendError::Full(message));
            } else {
                // Another sender claimed the position since `tail` was read.
                tail = ring.tail.load(Ordering::Relaxed);
            }
        }
    }

    /// Messages that wait now; from another core, a moment old.
    pub fn depth(&self) -> usize {
        self.ring.depth()
    }
}

/// The receiving side; it moves between threads but exists once.
#[derive(Debug)]
pub struct Receiver<T: Send> {
    ring: Arc<Ring<T>>,
    /// The position to take next; `ring.head` is its copy for others to read.
    head: usize,
}

impl<T: Send> Receiver<T> {
    /// The next message, if one is there.
    #[inline]
    #[allow(unsafe_code)]
    pub fn receive(&mut self) -> Option<T> {
        let ring = &*self.ring;
        let slot = &ring.slots[self.head & ring.mask];
        if slot.seq() != self.head.wrapping_add(1) {
            return None;
        }
        // SAFETY: `&mut self` of a receiver that exists once makes this the only
        // taker, and `seq` was `head + 1`, read with acquire just above.
        let message = unsafe { slot.take(self.head, ring.slots.len()) };
        self.head = self.head.wrapping_add(1);
        ring.head.store(self.head, Ordering::Relaxed);
        Some(message)
    }

    /// Whether a message can be received now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let slot = &self.ring.slots[self.head & self.ring.mask];
        slot.seq() != self.head.wrapping_add(1)
    }

    /// Messages that wait now, those still being written included.
    pub fn depth(&self) -> usize {
        self.ring.depth()
    }

    /// Another sender for this mailbox.
    pub fn sender(&self) -> Sender<T> {
        Sender {
            ring: self.ring.clone(),
        }
    }

    /// Takes no more: later sends come back as `Closed`. What was sent before
    /// can still be received.
    pub fn close(&mut self) {
        self.ring.tail.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether the mailbox is closed and everything sent to it was received.
    pub fn is_finished(&self) -> bool {
        let tail = self.ring.tail.load(Ordering::Acquire);
        tail & CLOSED != 0 && tail / ONE_POSITION == self.head
    }
}

impl<T: Send> Drop for Receiver<T> {
    /// Closes, then drops here, on the receiver's thread, all that was sent.
    fn drop(&mut self) {
        self.close();
        while !self.is_finished() {
            if self.receive().is_none() {
                // A sender has claimed the next slot and is about to fill it.
                thread::yield_now();
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
