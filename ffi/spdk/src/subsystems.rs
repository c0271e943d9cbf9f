//! SPDK's subsystems: the bdev layer and what it stands on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Instant;

use oriel_spdk_sys as sys;
use thiserror::Error;

use crate::limits::SUBSYSTEMS_STOP_LIMIT;
use crate::oneshot::{oneshot, reply_rc, reply_unit};
use crate::rpc::{Rpc, RpcStartError};
use crate::thread::Home;

/// Why the subsystems did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SubsystemsError {
    /// One of them failed.
    #[error("SPDK's subsystems did not start ({}): more memory may help; SPDK's log names the one that failed", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
    /// Their JSON-RPC server did not start.
    #[error(transparent)]
    Rpc(#[from] RpcStartError),
}

/// The thread that runs them; null while they do not run.
static THREAD: AtomicPtr<sys::spdk_thread> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the current SPDK thread is the one on which devices come and go.
pub(crate) fn run_here() -> bool {
    let thread = THREAD.load(Ordering::Acquire);
    // SAFETY: reads a thread-local.
    !thread.is_null() && unsafe { sys::spdk_get_thread() } == thread
}

/// The running subsystems. [`Subsystems::stop`] ends them in order; every device, descriptor and
/// channel must be gone by then.
pub struct Subsystems {
    rpc: Option<Rpc>,
    /// Locks on the files and block devices behind drives, by drive name: no second process may
    /// open the same one.
    pub(crate) locks: RefCell<HashMap<String, File>>,
    home: Home,
    _on_one_thread: PhantomData<*mut ()>,
}

impl Subsystems {
    /// Starts them on the current SPDK thread, which must be the first that the process made.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub async fn start() -> Result<Self, SubsystemsError> {
        let home = Home::current("starting the subsystems");
        let (reply, started) = oneshot::<c_int>();
        // SAFETY: reply_rc takes the reply back once; an SPDK thread is current.
        unsafe { sys::oriel_subsystems_init(Some(reply_rc), reply.into_raw()) };
        match started.await {
            0 => {}
            rc => return Err(SubsystemsError::Failed { errno: rc.abs() }),
        }
        THREAD.store(home.as_non_null().as_ptr(), Ordering::Release);
        let locks = RefCell::default();
        Ok(Self {
            rpc: Some(Rpc::start()?),
            locks,
            home,
            _on_one_thread: PhantomData,
        })
    }

    /// SPDK's JSON-RPC methods.
    pub fn rpc(&self) -> &Rpc {
        self.rpc
            .as_ref()
            .expect("the connection goes only when stop() consumes self")
    }

    /// Stops them: devices that are left are deleted, pools are freed.
    ///
    /// # Panics
    /// When block devices are still open after [`SUBSYSTEMS_STOP_LIMIT`].
    pub async fn stop(mut self) {
        self.rpc = None;
        THREAD.store(std::ptr::null_mut(), Ordering::Release);
        let (reply, stopped) = oneshot::<()>();
        // SAFETY: reply_unit takes the reply back once; `home` is current inside.
        self.home
            .enter(|| unsafe { sys::oriel_subsystems_fini(Some(reply_unit), reply.into_raw()) });
        let begun = Instant::now();
        let mut stopped = pin!(stopped);
        poll_fn(|cx| {
            let done = stopped.as_mut().poll(cx);
            if done.is_pending() && begun.elapsed() > SUBSYSTEMS_STOP_LIMIT {
                let open = crate::bdev::open_names();
                assert!(
                    open.is_empty(),
                    "SPDK's subsystems do not stop while block devices are open: drop every BdevDesc and Channel of {}",
                    open.join(", ")
                );
            }
            done
        })
        .await;
        self.locks.borrow_mut().clear();
    }
}

impl Drop for Subsystems {
    fn drop(&mut self) {
        // None only once stop() was called.
        if self.rpc.is_some() && !std::thread::panicking() {
            tracing::error!(
                "SPDK's subsystems were dropped without being stopped: what they hold stays to the end of the process"
            );
        }
    }
}
