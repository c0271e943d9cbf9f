//! Poll groups: where a target's connections are served, one for each SPDK thread.
//!
//! ```text
//!   Target (main thread) ── PollGroups (Send) ──► reactor 1: join() ─► PollGroup
//!                                            └──► reactor 2: join() ─► PollGroup
//! ```
//!
//! SPDK deals new queue pairs out to the groups in turn, or to where a transport says it is best.
//! A group belongs to the target: it serves until [`Target::shut_down`](super::Target::shut_down)
//! ends it on its own thread, which must be polled until [`PollGroup::is_closed`]. It cannot leave
//! earlier, because SPDK v20.07 keeps a pointer to the group whose turn is next.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oriel_spdk_sys as sys;
use serde_json::Value;
use thiserror::Error;

use super::sockets::{Peer, Peers};
use crate::oneshot::{oneshot, reply_unit, yield_now};
use crate::thread::Home;

/// Why a thread got no poll group.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PollGroupError {
    /// The target has ended or is about to.
    #[error("the NVMe-oF target is shutting down and takes no more poll groups")]
    Closed,
    /// This thread has one.
    #[error(
        "this SPDK thread already has a poll group of the target: one for each thread is all there is"
    )]
    AlreadyHere,
    /// Out of memory.
    #[error(
        "no memory left for a poll group: start with more memory, or with fewer buffers per group"
    )]
    NoMemory,
}

/// What a poll group has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PollGroupStat {
    /// Admin queues that it ever served.
    pub admin_queues_total: u64,
    /// I/O queues that it ever served.
    pub io_queues_total: u64,
    /// Admin queues that it serves now. SPDK before v21.07 does not say.
    pub admin_queues: Option<u64>,
    /// I/O queues that it serves now. SPDK before v21.07 does not say.
    pub io_queues: Option<u64>,
    /// Requests that wait because a block device had no room.
    pub pending_bdev_io: u64,
}

pub(super) struct Entry {
    group: NonNull<sys::spdk_nvmf_poll_group>,
    thread: NonNull<sys::spdk_thread>,
    closed: AtomicBool,
}

// SAFETY: `group` is used on `thread` only (PollGroup is not Send, and destroying travels there as a
// message); `thread` is used for sending messages only, and it cannot exit while its group exists.
unsafe impl Send for Entry {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Entry {}

/// What the target and the threads that serve it share. The lock is held over every call that
/// changes SPDK's unprotected lists of groups, transports and subsystems.
pub(super) struct Shared {
    target: NonNull<sys::spdk_nvmf_tgt>,
    groups: Mutex<Groups>,
}

pub(super) struct Groups {
    open: bool,
    entries: Vec<Arc<Entry>>,
}

// SAFETY: `target` is used by join() while `open`, under the lock; the target closes before it goes.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(target: NonNull<sys::spdk_nvmf_tgt>) -> Arc<Self> {
        let groups = Mutex::new(Groups {
            open: true,
            entries: Vec::new(),
        });
        Arc::new(Self { target, groups })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn close(&self) {
        self.lock().open = false;
    }
}

/// A way for other threads to serve a target.
#[derive(Clone)]
pub struct PollGroups {
    pub(super) shared: Arc<Shared>,
}

impl PollGroups {
    /// Makes a poll group on the current SPDK thread.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub fn join(&self) -> Result<PollGroup, PollGroupError> {
        let thread = Home::current("a poll group").as_non_null();
        let mut groups = self.shared.lock();
        if !groups.open {
            return Err(PollGroupError::Closed);
        }
        // A second one would be the same channel again, and be destroyed twice.
        if groups.entries.iter().any(|entry| entry.thread == thread) {
            return Err(PollGroupError::AlreadyHere);
        }
        // SAFETY: the target exists while `open`, and an SPDK thread is current.
        let group = unsafe { sys::spdk_nvmf_poll_group_create(self.shared.target.as_ptr()) };
        let entry = Arc::new(Entry {
            group: NonNull::new(group).ok_or(PollGroupError::NoMemory)?,
            thread,
            closed: AtomicBool::new(false),
        });
        groups.entries.push(Arc::clone(&entry));
        Ok(PollGroup {
            entry,
            target: self.shared.target,
            missing: RefCell::default(),
            _on_one_thread: PhantomData,
        })
    }

    /// How many threads serve the target.
    pub fn count(&self) -> usize {
        self.shared.lock().entries.len()
    }
}

/// The poll group of one thread. Dropping this changes nothing; see the module's text.
pub struct PollGroup {
    entry: Arc<Entry>,
    target: NonNull<sys::spdk_nvmf_tgt>,
    /// Hosts of connections that were not connected at the last look.
    missing: RefCell<HashSet<Peer>>,
    _on_one_thread: PhantomData<*mut ()>,
}

extern "C" fn take_piece(ctx: *mut c_void, piece: *const c_char, len: usize) {
    // SAFETY: the shim passes `len` bytes that live during the call.
    let piece = unsafe { std::slice::from_raw_parts(piece.cast::<u8>(), len) };
    // SAFETY: `ctx` is the Vec that stat() lends for the call that calls this.
    unsafe { &mut *ctx.cast::<Vec<u8>>() }.extend_from_slice(piece);
}

/// What is known when a group looks for those that are gone.
struct Look<'a> {
    there: &'a Peers,
    missing_before: &'a HashSet<Peer>,
    missing: HashSet<Peer>,
}

extern "C" fn is_gone(ctx: *mut c_void, host: *const c_char, port: *const c_char) -> bool {
    // SAFETY: `ctx` is the Look that end_gone() lends for the call that calls this.
    let look = unsafe { &mut *ctx.cast::<Look<'_>>() };
    // SAFETY: the shim passes a string that lives during the call.
    let host = unsafe { CStr::from_ptr(host) };
    // SAFETY: as above.
    let port = unsafe { CStr::from_ptr(port) };
    let peer = (|| {
        Some((
            host.to_str().ok()?.parse().ok()?,
            port.to_str().ok()?.parse().ok()?,
        ))
    })();
    // What is no address is nobody's connection.
    let Some(peer) = peer else { return false };
    if look.there.contains(&peer) {
        return false;
    }
    look.missing.insert(peer);
    look.missing_before.contains(&peer)
}

impl PollGroup {
    /// Ends connections by TCP whose hosts were gone already at the look before this one: one may have come since `there` was
    /// looked up. Nothing happens where [`keeps_gone`](super::keeps_gone) says that SPDK does so.
    pub fn end_gone(&self, there: &Peers) {
        if self.is_closed() {
            return;
        }
        let missing_before = self.missing.take();
        let mut look = Look {
            there,
            missing_before: &missing_before,
            missing: HashSet::new(),
        };
        // SAFETY: the group lives while it is not closed, and this is its thread (not Send); is_gone fits the Look.
        unsafe {
            sys::oriel_nvmf_end_gone(
                self.entry.group.as_ptr(),
                Some(is_gone),
                (&raw mut look).cast(),
            )
        };
        self.missing.replace(look.missing);
    }

    /// Whether the target has ended the group, so that its thread need not be polled for it.
    pub fn is_closed(&self) -> bool {
        self.entry.closed.load(Ordering::Acquire)
    }

    /// What the group has done. All zero once it is closed.
    pub fn stat(&self) -> PollGroupStat {
        if self.is_closed() {
            return PollGroupStat::default();
        }
        let mut raw = sys::oriel_nvmf_stat {
            admin_qpairs: 0,
            io_qpairs: 0,
            pending_bdev_io: 0,
        };
        let mut text = Vec::<u8>::new();
        // SAFETY: target and group live while the group is not closed, and this is the group's
        // thread (not Send); take_piece fits the Vec.
        let filled = unsafe {
            sys::oriel_nvmf_poll_group_stat(
                self.target.as_ptr(),
                self.entry.group.as_ptr(),
                &mut raw,
                Some(take_piece),
                (&raw mut text).cast(),
            )
        };
        if filled {
            return PollGroupStat {
                admin_queues_total: raw.admin_qpairs.into(),
                io_queues_total: raw.io_qpairs.into(),
                admin_queues: None,
                io_queues: None,
                pending_bdev_io: raw.pending_bdev_io,
            };
        }
        let json = serde_json::from_slice::<Value>(&text).unwrap_or_default();
        PollGroupStat {
            admin_queues_total: json["admin_qpairs"].as_u64().unwrap_or_default(),
            io_queues_total: json["io_qpairs"].as_u64().unwrap_or_default(),
            admin_queues: json["current_admin_qpairs"].as_u64(),
            io_queues: json["current_io_qpairs"].as_u64(),
            pending_bdev_io: json["pending_bdev_io"].as_u64().unwrap_or_default(),
        }
    }
}

/// A poll group's end, on its way to the group's thread and back.
struct Ending {
    entry: Arc<Entry>,
    /// The target's thread, which waits.
    main: NonNull<sys::spdk_thread>,
    reply: *mut c_void,
}

extern "C" fn end_group(ctx: *mut c_void) {
    // SAFETY: `ctx` is the Box<Ending> that end_all() leaked; group_ended takes it back, later.
    let ending = unsafe { &*ctx.cast::<Ending>() };
    // SAFETY: this message runs on the group's thread, and each group is destroyed once.
    unsafe {
        sys::spdk_nvmf_poll_group_destroy(ending.entry.group.as_ptr(), Some(group_ended), ctx)
    };
}

extern "C" fn group_ended(ctx: *mut c_void, _rc: c_int) {
    // SAFETY: see end_group; SPDK calls back once.
    let ending = unsafe { Box::from_raw(ctx.cast::<Ending>()) };
    ending.entry.closed.store(true, Ordering::Release);
    let (main, reply) = (ending.main.as_ptr(), ending.reply);
    // SAFETY: the main thread waits in end_all(), so it exists; reply_unit takes the reply back there.
    let rc = unsafe { sys::oriel_thread_send_msg(main, Some(reply_unit), reply) };
    assert!(
        rc == 0,
        "SPDK's message pool is empty: too many messages are on their way at once"
    );
}

/// Ends every group on its thread and waits for all. Called on the target's thread.
pub(super) async fn end_all(shared: &Shared, home: &Home) {
    let main = home.as_non_null();
    let entries = std::mem::take(&mut shared.lock().entries);
    let mut pending = Vec::with_capacity(entries.len());
    for entry in entries {
        let (reply, ended) = oneshot::<()>();
        let thread = entry.thread;
        let reply = reply.into_raw();
        let ctx = Box::into_raw(Box::new(Ending { entry, main, reply }));
        // SAFETY: the thread cannot exit while it has the group's channel; end_group fits the box.
        while unsafe { sys::oriel_thread_send_msg(thread.as_ptr(), Some(end_group), ctx.cast()) }
            != 0
        {
            yield_now().await;
        }
        pending.push(ended);
    }
    for ended in pending {
        ended.await;
    }
}
