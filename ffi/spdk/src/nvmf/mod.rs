//! An NVMe-oF target: block devices offered to hosts over TCP and RDMA.
//!
//! ```text
//!   Target                       one thread makes and changes everything      mod.rs
//!    ├─ transports               TCP, RDMA, with their options                transport.rs
//!    ├─ Subsystem<State>         a name with namespaces, hosts, addresses     subsystem.rs
//!    │   ├─ namespaces           block devices                                namespace.rs
//!    │   ├─ hosts                who may connect                              host.rs
//!    │   └─ listeners            where                                        listener.rs, address.rs, sockets.rs
//!    └─ PollGroups ─► PollGroup  one on each thread that serves connections   poll_group.rs
//! ```
//!
//! A subsystem is changed only while nothing runs in it, and its type says when that is:
//! [`Subsystem<Stopped>`](Subsystem) and `Subsystem<Paused>` have the methods that change it,
//! `Subsystem<Running>` has not:
//!
//! ```compile_fail,E0599
//! use oriel_spdk::nvmf::{NamespaceOptions, Running, Subsystem};
//!
//! fn change(running: &Subsystem<Running>) {
//!     let _ = running.add_namespace("Mem0", &NamespaceOptions::default(), |_, _| {});
//! }
//! ```
//!
//! [`Target::shut_down`] ends everything in the order that SPDK needs, whether hosts are connected
//! or not: subsystems stop (which ends their connections), listeners close, poll groups end on
//! their threads, then transports and the target go. Every thread with a poll group must be polled
//! meanwhile.

mod address;
mod connections;
mod host;
mod listener;
mod namespace;
mod nqn;
mod poll_group;
mod sockets;
mod subsystem;
mod transport;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use oriel_spdk_sys as sys;
use thiserror::Error;

pub use address::{Address, ListenError, UnlistenError};
pub use connections::Connections;
pub use host::{DhChap, HostError, has_dh_chap, has_disconnect};
pub use namespace::{NamespaceError, NamespaceEvent, NamespaceOptions, Nsid, RemoveNamespaceError};
pub use nqn::{DISCOVERY_NQN, Nqn, NqnError};
pub use poll_group::{PollGroup, PollGroupError, PollGroupStat, PollGroups};
pub use sockets::{Peers, keeps_gone};
pub use subsystem::{
    CreateSubsystemError, Paused, Quiet, Running, StateError, Stopped, Subsystem, SubsystemSpec,
};
pub use transport::{
    RdmaOptions, Specific, TcpOptions, TransportError, TransportKind, TransportOptions,
};

use crate::Subsystems;
use crate::oneshot::{oneshot, reply_rc};
use crate::thread::{Home, Poller};
use connections::Gate;
use poll_group::Shared;
use subsystem::Inner;

/// How often v20.07 looks for new connections; newer releases do so themselves.
const ACCEPT_PERIOD: Duration = Duration::from_millis(10);

/// How to make a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetOptions {
    /// Its name among the targets of this process.
    pub name: String,
    /// Subsystems that it may have.
    pub subsystems_max: u32,
    /// Connections of hosts that it takes, over all transports: a queue is one. What comes beyond them is hung up on.
    pub connections_max: Option<u32>,
}

impl Default for TargetOptions {
    fn default() -> Self {
        Self {
            name: "oriel".into(),
            subsystems_max: 32,
            connections_max: None,
        }
    }
}

/// Why a target was not made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetError {
    /// A name that SPDK cannot carry.
    #[error("'{name}' is no name for an NVMe-oF target: it must have 1 to 255 bytes and no NUL")]
    BadName {
        /// What was given.
        name: String,
    },
    /// No subsystem at all.
    #[error("a target needs room for at least one subsystem")]
    NoSubsystems,
    /// SPDK refused.
    #[error(
        "the NVMe-oF target '{name}' could not be made: is there another of that name, and enough memory?"
    )]
    Refused {
        /// The name.
        name: String,
    },
}

/// Why a target did not end.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShutDownError {
    /// A subsystem did not stop.
    #[error(transparent)]
    Subsystem(#[from] StateError),
    /// SPDK refused the last step.
    #[error("the NVMe-oF target did not end cleanly ({})", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

pub(crate) struct TargetInner {
    raw: NonNull<sys::spdk_nvmf_tgt>,
    home: Home,
    name: String,
    shared: Arc<Shared>,
    transports: RefCell<Vec<TransportKind>>,
    connections: Arc<Connections>,
    /// One for each transport, also for those that were not added in the end.
    gates: RefCell<Vec<ManuallyDrop<Gate>>>,
    /// Of NVMe/TCP.
    sockets: Cell<sockets::Limits>,
    subsystems: RefCell<Vec<Rc<Inner>>>,
    /// How many subsystems listen at an address: SPDK counts the same way.
    listeners: RefCell<HashMap<Address, usize>>,
    open: Cell<bool>,
}

impl TargetInner {
    /// # Panics
    /// When the target has ended.
    fn assert_open(&self) {
        assert!(
            self.open.get(),
            "the NVMe-oF target '{}' was shut down: drop its subsystems with it",
            self.name
        );
    }

    /// Waits until the messages that connections' ends have caused have run everywhere.
    async fn settle(&self) -> c_int {
        let (reply, settled) = oneshot::<c_int>();
        // SAFETY: the target exists; reply_rc takes the reply back once.
        self.home.enter(|| unsafe {
            sys::oriel_nvmf_barrier(self.raw.as_ptr(), Some(reply_rc), reply.into_raw())
        });
        settled.await
    }
}

/// An NVMe-oF target. Everything about it happens on the SPDK thread that made it, except for the
/// serving of connections.
///
/// End it with [`Target::shut_down`]: dropping it leaves it running, because its end takes the help
/// of other threads.
pub struct Target {
    inner: Rc<TargetInner>,
    acceptor: Option<Poller>,
}

impl Target {
    /// Makes a target without transports, subsystems and poll groups, on the current SPDK thread.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub fn new(_started: &Subsystems, options: &TargetOptions) -> Result<Self, TargetError> {
        let home = Home::current("an NVMe-oF target");
        let name = options.name.clone();
        let c_name = CString::new(&*name)
            .ok()
            .filter(|name| (1..=255).contains(&name.count_bytes()))
            .ok_or_else(|| TargetError::BadName { name: name.clone() })?;
        if options.subsystems_max == 0 {
            return Err(TargetError::NoSubsystems);
        }
        // SAFETY: an SPDK thread is current, and SPDK copies the name.
        let raw = unsafe { sys::oriel_nvmf_target_create(c_name.as_ptr(), options.subsystems_max) };
        let raw = NonNull::new(raw).ok_or_else(|| TargetError::Refused { name: name.clone() })?;
        let shared = Shared::new(raw);
        // SAFETY: answers for the release at hand; it has no precondition.
        let acceptor = unsafe { sys::oriel_nvmf_needs_acceptor() }.then(|| {
            let shared = Arc::clone(&shared);
            Poller::register("nvmf acceptor", ACCEPT_PERIOD, move || {
                let _groups = shared.lock();
                // SAFETY: the poller runs on the target's thread and goes before the target.
                unsafe { sys::oriel_nvmf_accept(raw.as_ptr()) }
            })
        });
        let inner = Rc::new(TargetInner {
            raw,
            home,
            name,
            shared,
            transports: RefCell::default(),
            connections: Arc::new(Connections::new(options.connections_max)),
            gates: RefCell::default(),
            sockets: Cell::default(),
            subsystems: RefCell::default(),
            listeners: RefCell::default(),
            open: Cell::new(true),
        });
        Ok(Self { inner, acceptor })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Adds a transport.
    pub async fn add_transport(&self, options: &TransportOptions) -> Result<(), TransportError> {
        transport::add(&self.inner, options).await
    }

    /// How many hosts are connected to it.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.inner.connections)
    }

    /// The transports it has.
    pub fn transports(&self) -> Vec<TransportKind> {
        self.inner.transports.borrow().clone()
    }

    /// A way for the threads that are to serve connections to make their poll groups. At least one
    /// must: without any, every connection is refused.
    pub fn poll_groups(&self) -> PollGroups {
        PollGroups {
            shared: Arc::clone(&self.inner.shared),
        }
    }

    /// Makes a subsystem. It is stopped: give it namespaces, hosts and listeners, then start it.
    pub fn add_subsystem(
        &self,
        spec: &SubsystemSpec,
    ) -> Result<Subsystem<Stopped>, CreateSubsystemError> {
        Subsystem::create(&self.inner, spec)
    }

    /// Ends the target and all that belongs to it. Hosts that are connected see their connections
    /// end. Threads with poll groups must be polled until this returns.
    pub async fn shut_down(mut self) -> Result<(), ShutDownError> {
        let inner = Rc::clone(&self.inner);
        inner.shared.close();
        inner.open.set(false);
        let subsystems = std::mem::take(&mut *inner.subsystems.borrow_mut());
        for subsystem in &subsystems {
            subsystem.come_to_rest(&inner).await?;
        }
        for subsystem in &subsystems {
            subsystem.destroy(&inner).await;
        }
        poll_group::end_all(&inner.shared, &inner.home).await;
        inner.settle().await;
        // v20.07 handles the ends of RDMA connections in the acceptor, so it goes after them.
        self.acceptor = None;
        let (reply, gone) = oneshot::<c_int>();
        // SAFETY: the target is destroyed once (self is consumed), with neither groups nor
        // subsystems left; reply_rc takes the reply back once.
        inner.home.enter(|| unsafe {
            sys::spdk_nvmf_tgt_destroy(inner.raw.as_ptr(), Some(reply_rc), reply.into_raw())
        });
        match gone.await {
            0 => {
                for gate in inner.gates.take() {
                    // SAFETY: the transports have gone with the target.
                    unsafe { ManuallyDrop::into_inner(gate).free() };
                }
                Ok(())
            }
            rc => Err(ShutDownError::Failed { errno: rc.abs() }),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.inner.open.get() && !std::thread::panicking() {
            tracing::error!(
                target = self.inner.name,
                "an NVMe-oF target was dropped and not shut down: it stays until the process ends"
            );
        }
        if self.inner.open.get() {
            // It still serves, so somebody must go on accepting; the poller goes with the thread.
            std::mem::forget(self.acceptor.take());
        }
    }
}
