//! SPDK's log lines as `tracing` events of the target `spdk`.

use std::ffi::{CStr, c_char, c_int};

use oriel_spdk_sys as sys;

/// SPDK's level numbers.
const ERROR: c_int = 0;
const WARN: c_int = 1;
const NOTICE: c_int = 2;
const INFO: c_int = 3;

extern "C" fn line(
    level: c_int,
    file: *const c_char,
    line: c_int,
    func: *const c_char,
    msg: *const c_char,
) {
    // SAFETY: the shim passes NUL-terminated strings that live during the call.
    let file = unsafe { CStr::from_ptr(file) }.to_string_lossy();
    // SAFETY: as above.
    let func = unsafe { CStr::from_ptr(func) }.to_string_lossy();
    // SAFETY: as above.
    let msg = unsafe { CStr::from_ptr(msg) }.to_string_lossy();
    match level {
        ERROR => tracing::error!(target: "spdk", %func, %file, line, "{msg}"),
        WARN => tracing::warn!(target: "spdk", %func, %file, line, "{msg}"),
        NOTICE => tracing::info!(target: "spdk", %func, %file, line, "{msg}"),
        INFO => tracing::debug!(target: "spdk", %func, %file, line, "{msg}"),
        _ => tracing::trace!(target: "spdk", %func, %file, line, "{msg}"),
    }
}

/// Sends SPDK's lines of level notice and above to `tracing` from now on.
pub(crate) fn open() {
    // SAFETY: `line` is a function for the whole life of the process and never unwinds (extern "C").
    unsafe { sys::oriel_log_open(Some(line), NOTICE) };
}
