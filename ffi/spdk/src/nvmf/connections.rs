//! How many connections of hosts a target takes.
//!
//! A connection is a queue pair: an admin queue, or an I/O queue, whichever transport it comes by. One that is too many is
//! hung up on before the host has said anything, so nothing of NVMe can tell it why; a host that wants more queues than there
//! are left keeps those that it has.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use oriel_spdk_sys as sys;

/// The connections of a target, as any thread may ask for them.
#[derive(Debug)]
pub struct Connections {
    most: Option<u32>,
    open: AtomicU32,
    refused: AtomicU64,
}

impl Connections {
    pub(super) fn new(most: Option<u32>) -> Self {
        Self {
            most,
            open: AtomicU32::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// The most that there may be.
    pub fn most(&self) -> Option<u32> {
        self.most
    }

    /// How many there are.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many were one too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether there may be another one, which there is from then on.
    fn enter(&self) -> bool {
        let most = self.most.unwrap_or(u32::MAX);
        let one_more = |open| (open < most).then(|| open + 1);
        let entered = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if entered.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered.is_ok()
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

extern "C" fn enter(ctx: *mut c_void) -> bool {
    // SAFETY: `ctx` is what a Gate holds, which goes after the target.
    unsafe { &*ctx.cast::<Connections>() }.enter()
}

extern "C" fn leave(ctx: *mut c_void) {
    // SAFETY: as above.
    unsafe { &*ctx.cast::<Connections>() }.leave();
}

/// What stands before a transport. It has to outlive the target: dropped before, it stays.
pub(super) struct Gate {
    raw: NonNull<sys::oriel_nvmf_gate>,
    /// The shim has its address.
    counts: Arc<Connections>,
}

impl Gate {
    /// `None` where there is no memory.
    pub(super) fn new(counts: &Arc<Connections>) -> Option<Self> {
        let counts = Arc::clone(counts);
        let ctx = Arc::as_ptr(&counts).cast_mut().cast();
        // SAFETY: both take `ctx` for what it is.
        let raw = unsafe { sys::oriel_nvmf_gate_new(Some(enter), Some(leave), ctx) };
        let raw = NonNull::new(raw)?;
        Some(Self { raw, counts })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::oriel_nvmf_gate {
        self.raw.as_ptr()
    }

    /// # Safety
    /// No transport has it any more.
    pub(super) unsafe fn free(self) {
        // SAFETY: the caller says so.
        unsafe { sys::oriel_nvmf_gate_free(self.raw.as_ptr()) };
        drop(self.counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_there_may_be_are_let_in_and_the_others_counted() {
        let connections = Connections::new(Some(2));
        assert_eq!(
            [0; 4].map(|_| connections.enter()),
            [true, true, false, false]
        );
        assert_eq!((connections.open(), connections.refused()), (2, 2));
        connections.leave();
        assert!(connections.enter() && !connections.enter());
        assert_eq!((connections.open(), connections.refused()), (2, 3));
        let endless = Connections::new(None);
        assert!((0..1000).all(|_| endless.enter()));
        assert_eq!((endless.open(), endless.refused()), (1000, 0));
    }
}
