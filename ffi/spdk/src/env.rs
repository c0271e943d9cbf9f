//! The process's DPDK environment: memory, cores and PCI access. There is one for each process.
//!
//! Two ways to run:
//!
//! - with hugepages, as on a storage node: drives on PCI and RDMA are possible;
//! - without hugepages and without root, as on a laptop or in CI: files, memory and NVMe/TCP.
//!
//! What can be known beforehand is checked before DPDK is touched, because DPDK's own answer to a
//! wrong environment is a line of log and a number.

use std::ffi::{CString, c_int, c_void};
use std::fs;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use oriel_spdk_sys as sys;
use thiserror::Error;

use crate::limits::{FILES_ROOM, MEMORY_MIN_HUGE_MIB, MEMORY_MIN_NO_HUGE_MIB};
use crate::{CoreSet, PciAddress, address_space, log, open_files};

const NEVER_STARTED: u8 = 0;
const RUNNING: u8 = 1;
const ENDED: u8 = 2;

/// DPDK can be started once in a process; this remembers.
static STATE: AtomicU8 = AtomicU8::new(NEVER_STARTED);

pub(crate) fn is_running() -> bool {
    STATE.load(Ordering::Acquire) == RUNNING
}

/// Whether the memory of the environment comes from hugepages.
static HAS_HUGEPAGES: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_hugepages() -> bool {
    is_running() && HAS_HUGEPAGES.load(Ordering::Acquire)
}

/// Which PCI devices the environment may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pci {
    /// None at all: the bus is not even scanned.
    #[default]
    None,
    /// Those bound to a user-space driver.
    All,
    /// These only.
    Allow(Vec<PciAddress>),
}

/// How to start the environment.
#[derive(Clone, Debug)]
pub struct EnvOptions {
    /// The process's name in DPDK's messages.
    pub name: String,
    /// Cores to drive; the lowest becomes the calling thread's.
    pub cores: CoreSet,
    /// Memory for buffers and SPDK's own pools, in MiB.
    pub memory_mib: u32,
    /// Take the memory from hugepages.
    pub hugepages: bool,
    /// Where hugetlbfs is mounted, if not where DPDK looks by itself.
    pub hugepage_dir: Option<String>,
    /// PCI devices.
    pub pci: Pci,
}

impl Default for EnvOptions {
    /// An unprivileged environment on one core.
    fn default() -> Self {
        Self {
            name: "oriel".into(),
            cores: CoreSet::allowed().first(1),
            memory_mib: MEMORY_MIN_NO_HUGE_MIB,
            hugepages: false,
            hugepage_dir: None,
            pci: Pci::None,
        }
    }
}

/// Why the environment did not start.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvError {
    /// A second start.
    #[error(
        "the SPDK environment was already started in this process, and DPDK allows one start only: use another process"
    )]
    AlreadyStarted,
    /// A core that the machine or the container does not give us.
    #[error("core {core} is not available: this process may use cores {allowed}")]
    NoSuchCore {
        /// The missing core.
        core: u32,
        /// What may be used.
        allowed: CoreSet,
    },
    /// Less memory asked for than SPDK's pools need.
    #[error("{asked} MiB of memory is too little: SPDK needs at least {least} MiB")]
    MemoryTooSmall {
        /// What was asked for.
        asked: u32,
        /// The least that works.
        least: u32,
    },
    /// The machine has not enough memory.
    #[error(
        "{asked} MiB of memory was asked for and the machine has {available} MiB available: ask for less or free some"
    )]
    NotEnoughMemory {
        /// What was asked for.
        asked: u32,
        /// What is there.
        available: u64,
    },
    /// The process may not map enough.
    #[error(
        "this process may have an address space of {limit} MiB and needs {needed} MiB for {asked} MiB of memory: \
         raise the limit (ulimit -v unlimited)"
    )]
    NotEnoughAddressSpace {
        /// What was asked for, in MiB.
        asked: u32,
        /// The limit, in MiB.
        limit: u64,
        /// What is needed, in MiB.
        needed: u64,
    },
    /// A limit on open files (`ulimit -n`) that DPDK ends the process at.
    #[error(
        "{needed} more files have to be open and the limit is {limit}, of which {open} are: raise it (ulimit -n 1024, LimitNOFILE= under systemd)"
    )]
    NotEnoughFiles {
        /// What the environment may open.
        needed: u64,
        /// The limit.
        limit: u64,
        /// Files that are open.
        open: u64,
    },
    /// Not enough free hugepages.
    #[error(
        "{asked} MiB of hugepages are needed and {free} MiB are free: reserve them (as root: \
         sysctl vm.nr_hugepages=N), stop who holds them, or run without hugepages"
    )]
    NotEnoughHugepages {
        /// What was asked for.
        asked: u32,
        /// What is free.
        free: u64,
    },
    /// hugetlbfs is not mounted.
    #[error(
        "no hugetlbfs is mounted: mount one (as root: mount -t hugetlbfs none /dev/hugepages), or run without hugepages"
    )]
    NoHugetlbfs,
    /// PCI devices need hugepages.
    #[error(
        "PCI drives need memory with known physical addresses: run with hugepages, or without PCI devices"
    )]
    PciNeedsHugepages,
    /// A name that C cannot carry.
    #[error("the environment's name contains a NUL byte")]
    BadName,
    /// DPDK or SPDK refused.
    #[error("DPDK did not start ({}): its own lines on standard error say why", std::io::Error::from_raw_os_error(*errno))]
    Dpdk {
        /// The positive errno.
        errno: i32,
    },
    /// SPDK's thread library refused.
    #[error("SPDK's thread library did not start ({}): is there enough memory?", std::io::Error::from_raw_os_error(*errno))]
    ThreadLibrary {
        /// The positive errno.
        errno: i32,
    },
}

/// Why a core did not start to work.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LaunchError {
    /// Not one of the environment's cores.
    #[error("core {core} is not one of this environment's cores {cores}")]
    NotOurs {
        /// The core that was asked for.
        core: u32,
        /// The cores there are.
        cores: CoreSet,
    },
    /// The main core runs the thread that started the environment.
    #[error(
        "core {core} is the main core: run its work on the thread that started the environment"
    )]
    MainCore {
        /// The core that was asked for.
        core: u32,
    },
    /// It is still at work.
    #[error("core {core} still runs what was launched before: join it first")]
    Busy {
        /// The core that was asked for.
        core: u32,
    },
}

/// The started environment. Dropping it waits for launched cores and tears everything down.
///
/// Everything made of SPDK must be dropped before it. It cannot leave the thread that made it.
#[derive(Debug)]
pub struct Env {
    cores: CoreSet,
    hugepages: bool,
    _on_one_thread: PhantomData<*mut ()>,
}

impl EnvOptions {
    /// Starts the environment and pins the calling thread to the lowest core.
    pub fn start(self) -> Result<Env, EnvError> {
        self.check()?;
        let name = CString::new(self.name.clone()).map_err(|_| EnvError::BadName)?;
        let first =
            STATE.compare_exchange(NEVER_STARTED, RUNNING, Ordering::AcqRel, Ordering::Acquire);
        if first.is_err() {
            return Err(EnvError::AlreadyStarted);
        }
        log::open();
        sweep_dead_runtime_dirs();
        let started = self.start_dpdk(&name).and_then(|()| {
            // SAFETY: the environment has started, and this happens once in a process.
            match unsafe { sys::oriel_thread_lib_init() } {
                0 => Ok(()),
                rc => Err(EnvError::ThreadLibrary { errno: -rc }),
            }
        });
        if let Err(error) = started {
            // A failed start leaves DPDK half initialised, and a second one would be refused.
            STATE.store(ENDED, Ordering::Release);
            remove_runtime_dir(std::process::id());
            return Err(error);
        }
        Ok(Env {
            cores: self.cores,
            hugepages: self.hugepages,
            _on_one_thread: PhantomData,
        })
    }

    fn check(&self) -> Result<(), EnvError> {
        if STATE.load(Ordering::Acquire) != NEVER_STARTED {
            return Err(EnvError::AlreadyStarted);
        }
        let allowed = CoreSet::allowed();
        if let Some(core) = self.cores.iter().find(|&core| !allowed.contains(core)) {
            return Err(EnvError::NoSuchCore { core, allowed });
        }
        if self.pci != Pci::None && !self.hugepages {
            return Err(EnvError::PciNeedsHugepages);
        }
        let asked = self.memory_mib;
        let least = if self.hugepages {
            MEMORY_MIN_HUGE_MIB
        } else {
            MEMORY_MIN_NO_HUGE_MIB
        };
        if asked < least {
            return Err(EnvError::MemoryTooSmall { asked, least });
        }
        if let Some(limit) = open_files::limit() {
            let open = open_files::open().unwrap_or(limit);
            let needed = FILES_ROOM;
            if limit.saturating_sub(open) < needed {
                return Err(EnvError::NotEnoughFiles {
                    needed,
                    limit,
                    open,
                });
            }
        }
        let needed = address_space::needed_mib(asked, self.cores);
        if let Some(limit) = address_space::limit_mib().filter(|&limit| limit < needed) {
            return Err(EnvError::NotEnoughAddressSpace {
                asked,
                limit,
                needed,
            });
        }
        if self.hugepages {
            if self.hugepage_dir.is_none() && !hugetlbfs_is_mounted() {
                return Err(EnvError::NoHugetlbfs);
            }
            let free = hugepages_free_mib();
            if free < u64::from(asked) {
                return Err(EnvError::NotEnoughHugepages { asked, free });
            }
        } else if let Some(available) = memory_available_mib().filter(|&mib| mib < u64::from(asked))
        {
            return Err(EnvError::NotEnoughMemory { asked, available });
        }
        Ok(())
    }

    fn start_dpdk(&self, name: &CString) -> Result<(), EnvError> {
        let text = |text: String| CString::new(text).map_err(|_| EnvError::BadName);
        let mask = text(self.cores.mask())?;
        let hugedir = self.hugepage_dir.clone().map(text).transpose()?;
        let allowed = match &self.pci {
            Pci::Allow(list) => list
                .iter()
                .map(|address| text(address.to_string()))
                .collect::<Result<Vec<_>, _>>()?,
            Pci::None | Pci::All => Vec::new(),
        };
        let allowed_pointers: Vec<_> = allowed.iter().map(|address| address.as_ptr()).collect();
        let options = sys::oriel_env_opts {
            name: name.as_ptr(),
            core_mask: mask.as_ptr(),
            hugedir: hugedir
                .as_ref()
                .map_or(std::ptr::null(), |dir| dir.as_ptr()),
            pci_allowed: allowed_pointers.as_ptr(),
            pci_allowed_count: allowed_pointers.len(),
            main_core: self.cores.lowest() as c_int,
            memory_mib: self.memory_mib as c_int,
            no_pci: self.pci == Pci::None,
            no_huge: !self.hugepages,
        };
        // SAFETY: every pointer in `options` outlives the call, and what DPDK keeps the shim copies.
        match unsafe { sys::oriel_env_init(&options) } {
            0 => {
                HAS_HUGEPAGES.store(self.hugepages, Ordering::Release);
                Ok(())
            }
            rc => Err(EnvError::Dpdk { errno: -rc }),
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

extern "C" fn run_work(arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the Box<Work> that launch() leaked, and each is run once.
    let work = unsafe { Box::from_raw(arg.cast::<Work>()) };
    work();
    0
}

impl Env {
    /// The cores of this environment.
    pub fn cores(&self) -> CoreSet {
        self.cores
    }

    /// The core that the thread which started the environment is pinned to.
    pub fn main_core(&self) -> u32 {
        self.cores.lowest()
    }

    /// Whether memory comes from hugepages, so that PCI drives and RDMA can reach it.
    pub fn has_hugepages(&self) -> bool {
        self.hugepages
    }

    /// Runs `work` on the pinned worker thread of another core.
    pub fn launch(
        &self,
        core: u32,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), LaunchError> {
        if !self.cores.contains(core) {
            return Err(LaunchError::NotOurs {
                core,
                cores: self.cores,
            });
        }
        if core == self.main_core() {
            return Err(LaunchError::MainCore { core });
        }
        let work: Box<Work> = Box::new(Box::new(work));
        let arg = Box::into_raw(work);
        // SAFETY: run_work takes the box back exactly once, on the worker.
        let rc = unsafe { sys::spdk_env_thread_launch_pinned(core, Some(run_work), arg.cast()) };
        if rc != 0 {
            // SAFETY: a refused launch never calls run_work, so the box is still ours.
            drop(unsafe { Box::from_raw(arg) });
            return Err(LaunchError::Busy { core });
        }
        Ok(())
    }

    /// Waits until everything launched has returned.
    pub fn join_all(&self) {
        // SAFETY: called on the main core's thread, which Env cannot leave.
        unsafe { sys::spdk_env_thread_wait_all() };
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        self.join_all();
        if crate::thread::any_left() {
            // What is left would run on memory that is gone. The process is ending in either case.
            assert!(
                std::thread::panicking(),
                "the SPDK environment ends with SPDK threads left: drop every SpdkThread before the Env"
            );
            return;
        }
        // SAFETY: every worker has returned and every SpdkThread was destroyed.
        unsafe { sys::spdk_thread_lib_fini() };
        STATE.store(ENDED, Ordering::Release);
        // SAFETY: nothing uses the environment any more.
        unsafe { sys::oriel_env_fini() };
        remove_runtime_dir(std::process::id());
    }
}

fn meminfo_kib(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(':')?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

fn memory_available_mib() -> Option<u64> {
    meminfo_kib("MemAvailable").map(|kib| kib / 1024)
}

/// Free hugepages of every size, in MiB.
pub fn hugepages_free_mib() -> u64 {
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten();
    let free = sizes.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let pages: u64 = fs::read_to_string(entry.path().join("free_hugepages"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some(kib * pages / 1024)
    });
    free.sum()
}

/// Whether a hugetlbfs is mounted anywhere.
pub fn hugetlbfs_is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
}

/// Where DPDK keeps a process's runtime files: root's and other users' differ.
fn runtime_base() -> String {
    // SAFETY: geteuid has no precondition.
    if unsafe { libc::geteuid() } == 0 {
        return "/var/run/dpdk".into();
    }
    std::env::var("XDG_RUNTIME_DIR")
        .map_or_else(|_| "/tmp/dpdk".into(), |dir| format!("{dir}/dpdk"))
}

fn remove_runtime_dir(pid: u32) {
    // Best effort: DPDK may never have made it, and what stays is a few KiB.
    let _ = fs::remove_dir_all(format!("{}/spdk_pid{pid}", runtime_base()));
}

/// Removes what processes that were killed left behind.
fn sweep_dead_runtime_dirs() {
    for entry in fs::read_dir(runtime_base()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix("spdk_pid")?.parse::<u32>().ok());
        if let Some(pid) = pid.filter(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove_runtime_dir(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_are_refused_before_dpdk_is_touched() {
        let small = EnvOptions {
            memory_mib: 64,
            ..EnvOptions::default()
        };
        assert_eq!(
            small.start().unwrap_err(),
            EnvError::MemoryTooSmall {
                asked: 64,
                least: 512
            }
        );
        let huge = EnvOptions {
            memory_mib: u32::MAX,
            ..EnvOptions::default()
        };
        assert!(matches!(
            huge.start().unwrap_err(),
            EnvError::NotEnoughMemory {
                asked: u32::MAX,
                ..
            }
        ));
        let pci = EnvOptions {
            pci: Pci::All,
            ..EnvOptions::default()
        };
        assert_eq!(pci.start().unwrap_err(), EnvError::PciNeedsHugepages);
        let core = EnvOptions {
            cores: CoreSet::single(127),
            ..EnvOptions::default()
        };
        assert!(matches!(
            core.start().unwrap_err(),
            EnvError::NoSuchCore { core: 127, .. }
        ));
    }
}
