//! SPDK's log lines as `tracing` events of the target `spdk`.
//!
//! SPDK writes a line for each command that it refuses, and a host may send a hundred thousand of them a second. So a place
//! in SPDK's source writes so many lines in a second, and those that were left out are counted in its next one.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oriel_spdk_sys as sys;

use crate::limits::LOG_LINES_PER_SECOND;

/// SPDK's level numbers.
const ERROR: c_int = 0;
const WARN: c_int = 1;
const NOTICE: c_int = 2;
const INFO: c_int = 3;

/// What one place in SPDK's source has written.
#[derive(Clone, Copy)]
struct Place {
    /// When the second began that is counted.
    since: Instant,
    lines: u32,
    /// Lines that were not written, and that nobody was told of yet.
    left_out: u64,
}

/// The places, by the address of their file's name, which is a constant of the program, and the line.
static PLACES: Mutex<Option<HashMap<(usize, c_int), Place>>> = Mutex::new(None);

impl Place {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            left_out: 0,
        }
    }

    /// Whether a line of now is written, and then how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LOG_LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

fn admit(file: *const c_char, line: c_int) -> Option<u64> {
    let now = Instant::now();
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let places = places.get_or_insert_default();
    let place = places.entry((file.addr(), line));
    place.or_insert_with(|| Place::new(now)).admit(now)
}

extern "C" fn line(
    level: c_int,
    file: *const c_char,
    line: c_int,
    func: *const c_char,
    msg: *const c_char,
) {
    let Some(left_out) = admit(file, line) else {
        return;
    };
    if left_out > 0 {
        tracing::warn!(target: "spdk", left_out, "lines like the next one were left out");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_writes_so_many_lines_a_second_and_counts_the_others() {
        let begin = Instant::now();
        let mut place = Place::new(begin);
        for _ in 0..LOG_LINES_PER_SECOND {
            assert_eq!(place.admit(begin), Some(0));
        }
        let later = begin + Duration::from_millis(999);
        assert_eq!((place.admit(later), place.admit(later)), (None, None));
        let next = begin + Duration::from_secs(1);
        assert_eq!(place.admit(next), Some(2));
        assert_eq!(place.admit(next), Some(0));
        for _ in 2..LOG_LINES_PER_SECOND {
            assert_eq!(place.admit(next), Some(0));
        }
        assert_eq!(place.admit(next), None);
    }
}
