//! How much address space this process may map, and how much of it an environment takes.
//!
//! DPDK 20.05 looks for room again and again where there is none, and never ends; so it is asked for before.

use std::fs;

use crate::CoreSet;
use crate::limits::{ADDRESS_SPACE_CORE_MIB, ADDRESS_SPACE_ROOM_MIB};

/// The limit that `ulimit -v` sets; None where there is none.
pub(crate) fn limit_mib() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is a valid rlimit for the whole call, which only writes to it.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    (rc == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur >> 20)
}

/// What the process will have mapped with an environment of `asked_mib` on these cores.
pub(crate) fn needed_mib(asked_mib: u32, cores: CoreSet) -> u64 {
    mapped_mib() + taken_mib(asked_mib, cores)
}

/// What the process has mapped; nothing if that is not known, which only makes the estimate smaller.
fn mapped_mib() -> u64 {
    // The first number is in pages of 4 KiB.
    let mapped_pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0);
    mapped_pages / 256
}

/// What an environment takes.
fn taken_mib(asked_mib: u32, cores: CoreSet) -> u64 {
    let further_cores = cores.iter().count().saturating_sub(1) as u64;
    let asked = u64::from(asked_mib);
    // DPDK keeps tables of every page: about three parts in a hundred.
    let tables = asked / 32;
    asked + tables + ADDRESS_SPACE_ROOM_MIB + further_cores * ADDRESS_SPACE_CORE_MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_and_more_cores_need_more() {
        let one = CoreSet::single(0);
        let two: CoreSet = "[0,1]".parse().unwrap();
        let least = taken_mib(512, one);
        assert!(least > 512 + ADDRESS_SPACE_ROOM_MIB, "{least}");
        assert!(taken_mib(1024, one) >= least + 512);
        assert!(taken_mib(512, two) >= least + ADDRESS_SPACE_CORE_MIB);
    }

    #[test]
    fn what_is_mapped_already_is_counted() {
        // The test program alone is some MiB; other tests map and unmap at the same time.
        assert!(mapped_mib() > 0);
        assert!(needed_mib(512, CoreSet::single(0)) > taken_mib(512, CoreSet::single(0)));
    }
}
