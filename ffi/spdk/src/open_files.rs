//! How many files this process may open, and how many it has.
//!
//! DPDK ends the process without a word where its interrupt thread cannot open one; so it is asked for before.

use std::fs;

/// The limit that `ulimit -n` sets; None where there is none.
pub(crate) fn limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is a valid rlimit for the whole call, which only writes to it.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (rc == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Files that are open; None where that cannot be known, as when one more cannot be opened.
pub(crate) fn open() -> Option<u64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?;
    // One of them is the folder's own.
    Some((entries.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        // Other tests open and close some meanwhile, but the standard ones stay.
        assert!(open().unwrap() >= 3);
        assert!(limit().is_none_or(|limit| limit > 3));
    }
}
