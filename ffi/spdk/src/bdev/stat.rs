//! A device's own counters.

use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::time::Duration;

use oriel_spdk_sys as sys;
use thiserror::Error;

use super::DescInner;
use crate::oneshot::{Reply, oneshot};
use crate::ticks;

/// What a device has done, over all its users and cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Unmaps completed.
    pub unmaps: u64,
    /// Bytes unmapped.
    pub bytes_unmapped: u64,
    /// Time that the reads took, summed.
    pub read_time: Duration,
    /// Time that the writes took, summed.
    pub write_time: Duration,
}

/// The counters could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the counters of the block device could not be read ({})", std::io::Error::from_raw_os_error(*errno))]
pub struct StatError {
    errno: i32,
}

struct Call {
    raw: sys::oriel_bdev_stat,
    reply: Reply<(c_int, sys::oriel_bdev_stat)>,
    /// The device must stay while SPDK walks its channels.
    _desc: Rc<DescInner>,
}

extern "C" fn ready(ctx: *mut c_void, rc: c_int) {
    // SAFETY: `ctx` is the box that read() leaked for this one callback.
    let call = unsafe { Box::from_raw(ctx.cast::<Call>()) };
    call.reply.send((rc, call.raw));
}

pub(super) async fn read(desc: &Rc<DescInner>) -> Result<Stat, StatError> {
    let (reply, answer) = oneshot();
    // SAFETY: plain integers, for which zero is a value.
    let raw = unsafe { std::mem::zeroed() };
    let call = Box::into_raw(Box::new(Call {
        raw,
        reply,
        _desc: Rc::clone(desc),
    }));
    let bdev = desc.bdev();
    // SAFETY: `call` is the box from above; a pointer to a field of it stays inside the allocation.
    let out = unsafe { &raw mut (*call).raw };
    // SAFETY: the device is open and `out` lives until the callback, which frees the box.
    let rc = unsafe { sys::oriel_bdev_stat(bdev.as_ptr(), out, Some(ready), call.cast()) };
    if rc != 0 {
        // SAFETY: a refused call never calls back, so the box is still ours.
        drop(unsafe { Box::from_raw(call) });
        return Err(StatError { errno: -rc });
    }
    match answer.await {
        (0, raw) => Ok(Stat {
            reads: raw.reads,
            bytes_read: raw.bytes_read,
            writes: raw.writes,
            bytes_written: raw.bytes_written,
            unmaps: raw.unmaps,
            bytes_unmapped: raw.bytes_unmapped,
            read_time: ticks::to_duration(raw.read_latency_ticks),
            write_time: ticks::to_duration(raw.write_latency_ticks),
        }),
        (rc, _) => Err(StatError { errno: rc.abs() }),
    }
}
