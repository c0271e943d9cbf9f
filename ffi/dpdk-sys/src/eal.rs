//! The EAL: DPDK's environment, once per process, and attaching devices to it.

use core::ffi::{c_char, c_int};
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::collections::BTreeSet;
use std::ffi::{CString, NulError};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{check, raw};

/// The DPDK that this program is built against, as `(20, 5)`.
pub fn dpdk_release() -> (u32, u32) {
    // SAFETY: takes nothing and returns a constant.
    let release = unsafe { raw::oriel_dpdk_release() };
    (release / 100, release % 100)
}

/// How to start the EAL. The default needs neither root nor hugepages and looks for no PCI device.
#[derive(Clone, Debug)]
pub struct EalOptions {
    /// What DPDK calls the program in its messages and thread names.
    pub program: String,
    /// Cores the EAL makes threads for; the first is the calling thread's, which the EAL pins to
    /// it. None: every core that the process may run on.
    pub cores: Option<Vec<u16>>,
    /// Memory that pools and rings are taken from, MiB.
    pub memory_mib: u32,
    /// Whether that memory is hugepages. Network cards need them; ring, memif, tap and
    /// `af_packet` ports do not.
    pub hugepages: bool,
    /// Whether to look for PCI devices.
    pub pci: bool,
    /// More arguments, as DPDK documents them.
    pub extra: Vec<String>,
}

impl Default for EalOptions {
    fn default() -> Self {
        Self {
            program: "oriel".into(),
            cores: None,
            memory_mib: 512,
            hugepages: false,
            pci: false,
            extra: Vec::new(),
        }
    }
}

impl EalOptions {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![self.program.clone(), "--no-telemetry".into()];
        if let Some(cores) = &self.cores {
            let cores: Vec<String> = cores.iter().map(u16::to_string).collect();
            arguments.extend(["-l".into(), cores.join(",")]);
        }
        arguments.extend(["-m".into(), self.memory_mib.to_string()]);
        if self.hugepages {
            // Anonymous hugepages: no files to share, none left behind.
            arguments.push("--in-memory".into());
        } else {
            arguments.extend(["--no-huge", "--no-shconf", "--iova-mode=va"].map(String::from));
        }
        if !self.pci {
            arguments.push("--no-pci".into());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

/// Why the EAL did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EalError {
    /// DPDK cannot be started a second time, not even after a failure.
    #[error(
        "DPDK starts once per process and has been started before: start it in one place, or in a new process"
    )]
    AlreadyStarted,
    /// An argument cannot be passed to C.
    #[error("an EAL argument contains a NUL byte: remove it")]
    Argument(#[from] NulError),
    /// DPDK refused.
    #[error(
        "DPDK's EAL did not start ({source}): its own message above says what it missed; with too little memory lower memory_mib, without hugepages set hugepages to false"
    )]
    Refused {
        /// What DPDK reported.
        source: io::Error,
    },
}

/// Why a device could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A name or argument cannot be passed to C.
    #[error("a device name or argument contains a NUL byte: remove it")]
    Argument(#[from] NulError),
    /// DPDK refused.
    #[error(
        "DPDK did not attach {name} with arguments \"{arguments}\" ({source}): check the driver's name and arguments in its message above, and that the driver is part of this build"
    )]
    Refused {
        /// The device.
        name: String,
        /// What was passed to its driver.
        arguments: String,
        /// What DPDK reported.
        source: io::Error,
    },
    /// The device is there but is not a network port.
    #[error("{name} was attached but is not a network port: name a network driver, as net_memif0")]
    NotAPort {
        /// The device.
        name: String,
    },
}

/// Ports that have an owner. DPDK's control functions are not safe on one port from two threads,
/// so whoever holds this lock is the only one that calls them.
static CONTROL: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Takes the control lock. A panic of another holder leaves the set as true as it was.
pub(crate) fn control() -> MutexGuard<'static, BTreeSet<u16>> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the EAL has been started; DPDK allows it once, failed attempts included.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The EAL's arguments. DPDK keeps pointers into them, and permutes the array.
static ARGUMENTS: Mutex<Arguments> = Mutex::new(Arguments(Vec::new()));

struct Arguments(Vec<*mut c_char>);

// SAFETY: the strings belong to DPDK once it has started; here they are only kept.
unsafe impl Send for Arguments {}

/// The running EAL. Ports, pools and buffers borrow it.
#[derive(Debug)]
pub struct Eal {
    /// Whether this value started the EAL and therefore ends it.
    owned: bool,
    pools: Mutex<Vec<PoolPtr>>,
    /// DPDK ends where it began: not `Send`.
    _thread: PhantomData<*const ()>,
}

/// A pool to be freed with the EAL.
#[derive(Debug)]
struct PoolPtr(NonNull<raw::rte_mempool>);

// SAFETY: all that is done with the pointer is freeing the pool, which DPDK allows on any thread.
unsafe impl Send for PoolPtr {}

// SAFETY: through `&Eal`, pools are added under a mutex, and ports are found and attached under
// the control lock. Everything else is reading constants.
unsafe impl Sync for Eal {}

impl Eal {
    /// Starts DPDK on this thread, which becomes its main core and is pinned to it.
    ///
    /// Threads made afterwards inherit that pinning, as always on Linux.
    pub fn start(options: &EalOptions) -> Result<Self, EalError> {
        let arguments: Vec<CString> = options
            .arguments()
            .into_iter()
            .map(CString::new)
            .collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        let argc = c_int::try_from(arguments.len()).expect("a few arguments, not 2^31");
        let mut kept = ARGUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 = arguments.into_iter().map(CString::into_raw).collect();
        kept.0.push(core::ptr::null_mut());
        // SAFETY: the array holds argc strings and a null. It and they live as long as the
        // process: they are in `ARGUMENTS`, which only this call changes, and `STARTED` makes
        // this the only call.
        let rc = unsafe { raw::oriel_dpdk_eal_init(argc, kept.0.as_mut_ptr()) };
        drop(kept);
        check(rc).map_err(|source| EalError::Refused { source })?;
        Ok(Self::new(true))
    }

    /// Uses an EAL that someone else started, such as SPDK's environment.
    ///
    /// Dropping the value frees the pools made through it, and leaves the EAL running.
    ///
    /// # Safety
    ///
    /// The EAL has been started, keeps running until the value is dropped, and nobody else
    /// drives the ports that are found or attached through the value.
    pub unsafe fn adopt() -> Self {
        STARTED.store(true, Ordering::SeqCst);
        Self::new(false)
    }

    fn new(owned: bool) -> Self {
        Self {
            owned,
            pools: Mutex::new(Vec::new()),
            _thread: PhantomData,
        }
    }

    /// Makes the pool live until the EAL ends.
    pub(crate) fn keep_pool(&self, pool: NonNull<raw::rte_mempool>) {
        self.pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(PoolPtr(pool));
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        // Only a forgotten port can still have an owner here; its device may still use the pools.
        if !control().is_empty() {
            return;
        }
        let pools = self.pools.get_mut().unwrap_or_else(PoisonError::into_inner);
        for pool in pools.drain(..) {
            // SAFETY: `keep_pool` got it from the pool's creation and it is freed only here. No
            // port and no `Mbuf` is left: they borrow the value being dropped, and a forgotten
            // port was ruled out above.
            unsafe { raw::oriel_dpdk_pool_free(pool.0.as_ptr()) };
        }
        if self.owned {
            // SAFETY: this value started the EAL, on this thread (it is not `Send`), and nothing
            // that borrowed it is left. The result says nothing that could still be acted on.
            unsafe { raw::oriel_dpdk_eal_cleanup() };
        }
    }
}
