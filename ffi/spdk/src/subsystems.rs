//! SPDK's subsystems: the bdev layer and what it stands on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::File;
use std::marker::PhantomData;

use oriel_spdk_sys as sys;
use thiserror::Error;

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
    pub async fn stop(mut self) {
        self.rpc = None;
        let (reply, stopped) = oneshot::<()>();
        // SAFETY: reply_unit takes the reply back once; `home` is current inside.
        self.home
            .enter(|| unsafe { sys::oriel_subsystems_fini(Some(reply_unit), reply.into_raw()) });
        stopped.await;
        self.locks.borrow_mut().clear();
    }
}
