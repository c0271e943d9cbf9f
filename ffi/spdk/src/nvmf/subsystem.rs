//! Subsystems and their states.
//!
//! ```text
//!              start                 pause
//!   Stopped ──────────► Running ◄──────────► Paused
//!      ▲                   │       resume      │
//!      └───────────────────┴───────────────────┘ stop
//! ```
//!
//! Stopping ends the connections; pausing keeps them and holds their commands back. A host that
//! connects to a stopped subsystem waits, and SPDK v20.07 forgets it: it must try again after the
//! start. Pause rather than stop where hosts are to stay. SPDK itself
//! pauses and resumes a running subsystem when a block device goes away, and answers a change that
//! comes meanwhile with a refusal (until v21), so a change is tried again until
//! [`SUBSYSTEM_CHANGE_LIMIT`].

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Instant;

use oriel_spdk_sys as sys;
use thiserror::Error;

use super::TargetInner;
use super::address::Address;
use super::namespace::{Namespace, Nsid};
use super::nqn::{DISCOVERY_NQN, Nqn};
use crate::SPDK_RELEASE;
use crate::limits::{MODEL_BYTES_MAX, SERIAL_BYTES_MAX, SUBSYSTEM_CHANGE_LIMIT};
use crate::oneshot::{Reply, oneshot, reply_rc, yield_now};
use crate::thread::Home;

/// What a subsystem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsystemSpec {
    /// Its name.
    pub nqn: Nqn,
    /// Its serial number: printable ASCII.
    pub serial: String,
    /// Its model: printable ASCII.
    pub model: String,
    /// The highest number of a namespace.
    pub namespaces_max: u32,
    /// Whether every host may connect, or only those that are added.
    pub allow_any_host: bool,
}

impl SubsystemSpec {
    /// A subsystem for up to 32 namespaces that allows no host yet.
    pub fn new(nqn: Nqn) -> Self {
        Self {
            nqn,
            serial: "0".into(),
            model: "Oriel".into(),
            namespaces_max: 32,
            allow_any_host: false,
        }
    }

    /// A discovery subsystem, by which hosts find the others. It allows every host.
    pub fn discovery() -> Self {
        Self {
            namespaces_max: 0,
            allow_any_host: true,
            ..Self::new(Nqn::discovery())
        }
    }
}

/// Why a subsystem was not made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CreateSubsystemError {
    /// The name is taken.
    #[error("the target already has a subsystem {nqn}: choose another name")]
    Taken {
        /// The name.
        nqn: Nqn,
    },
    /// A serial number that cannot be.
    #[error("'{serial}' is no serial number: 1 to {SERIAL_BYTES_MAX} printable ASCII characters")]
    BadSerial {
        /// What was given.
        serial: String,
    },
    /// A model that cannot be.
    #[error("'{model}' is no model: 1 to {MODEL_BYTES_MAX} printable ASCII characters")]
    BadModel {
        /// What was given.
        model: String,
    },
    /// No namespace at all.
    #[error("a subsystem needs room for at least one namespace, a discovery subsystem for none")]
    BadNamespacesMax,
    /// SPDK refused.
    #[error(
        "SPDK refused the subsystem {nqn}: the target may have as many as it was made for, or memory has run out"
    )]
    Refused {
        /// The name.
        nqn: Nqn,
    },
}

/// Why a subsystem did not change its state. It stays with the target, whose shutdown still ends it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the subsystem {nqn} did not {change} (SPDK's answer: {answer}): its log says more")]
pub struct StateError {
    nqn: Nqn,
    change: &'static str,
    answer: i32,
}

/// Nobody is connected.
#[derive(Debug)]
pub enum Stopped {}
/// Hosts are served.
#[derive(Debug)]
pub enum Running {}
/// Hosts are connected and wait.
#[derive(Debug)]
pub enum Paused {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Stopped {}
    impl Sealed for super::Paused {}
}

/// The states in which a subsystem may be changed: [`Stopped`] and [`Paused`].
pub trait Quiet: sealed::Sealed {}
impl Quiet for Stopped {}
impl Quiet for Paused {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Stopped,
    Running,
    Paused,
    Changing,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Start,
    Stop,
    /// Holds the commands to this namespace back, and all that are to none.
    Pause(Option<Nsid>),
    Resume,
}

impl Change {
    fn result(self) -> State {
        match self {
            Self::Start | Self::Resume => State::Running,
            Self::Stop => State::Stopped,
            Self::Pause(_) => State::Paused,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Pause(_) => "pause",
            Self::Resume => "resume",
        }
    }
}

/// What the handles of a subsystem, its target and its namespaces' events share.
pub(crate) struct Inner {
    pub(super) raw: NonNull<sys::spdk_nvmf_subsystem>,
    pub(super) home: Home,
    nqn: Nqn,
    pub(super) namespaces_max: u32,
    pub(super) state: Cell<State>,
    /// While paused: the namespace whose commands wait.
    held: Cell<Option<Nsid>>,
    pub(super) namespaces: RefCell<Vec<Namespace>>,
    pub(super) listeners: RefCell<Vec<Address>>,
}

/// A change on its way through SPDK.
struct Changing {
    inner: Rc<Inner>,
    before: State,
    change: Change,
    reply: Reply<c_int>,
}

extern "C" fn changed(_raw: *mut sys::spdk_nvmf_subsystem, ctx: *mut c_void, rc: c_int) {
    // SAFETY: `ctx` is the box that change() leaked, and SPDK calls back once.
    let changing = unsafe { Box::from_raw(ctx.cast::<Changing>()) };
    let inner = changing.inner;
    // The state is set here and not where the future goes on, since that may have been dropped.
    let state = if rc == 0 {
        changing.change.result()
    } else {
        changing.before
    };
    inner.state.set(state);
    if matches!(state, State::Stopped | State::Paused) {
        inner.take_out_orphans();
    }
    changing.reply.send(rc);
}

/// # Safety
/// The subsystem exists and this is its thread; `ctx` is a leaked box of [`Changing`], which belongs to
/// [`changed`] if the result is 0.
unsafe fn begin(change: Change, raw: *mut sys::spdk_nvmf_subsystem, ctx: *mut c_void) -> c_int {
    match change {
        // SAFETY: as the caller promises.
        Change::Start => unsafe { sys::spdk_nvmf_subsystem_start(raw, Some(changed), ctx) },
        // SAFETY: as the caller promises.
        Change::Stop => unsafe { sys::spdk_nvmf_subsystem_stop(raw, Some(changed), ctx) },
        // SAFETY: as the caller promises.
        Change::Resume => unsafe { sys::spdk_nvmf_subsystem_resume(raw, Some(changed), ctx) },
        Change::Pause(held) => {
            let held = held.map_or(0, Nsid::get);
            // SAFETY: as the caller promises.
            unsafe { sys::oriel_nvmf_subsystem_pause(raw, held, Some(changed), ctx) }
        }
    }
}

impl Inner {
    pub(super) fn is_discovery(&self) -> bool {
        self.nqn.as_str() == DISCOVERY_NQN
    }

    /// Whether no host can be in the middle of a command to the namespace.
    pub(super) fn is_quiet(&self, nsid: Nsid) -> bool {
        self.state.get() != State::Paused
            || SPDK_RELEASE == "20.07"
            || self.held.get() == Some(nsid)
    }

    async fn change(self: &Rc<Self>, change: Change) -> Result<(), StateError> {
        let error = |answer| StateError {
            nqn: self.nqn.clone(),
            change: change.verb(),
            answer,
        };
        let before = self.state.replace(State::Changing);
        let deadline = Instant::now() + SUBSYSTEM_CHANGE_LIMIT;
        loop {
            let (reply, done) = oneshot::<c_int>();
            let inner = Rc::clone(self);
            let changing = Changing {
                inner,
                before,
                change,
                reply,
            };
            let ctx = Box::into_raw(Box::new(changing));
            let raw = self.raw.as_ptr();
            let rc = self.home.enter(|| {
                // SAFETY: the subsystem exists, this is its thread, and changed() fits the box.
                unsafe { begin(change, raw, ctx.cast()) }
            });
            if rc == 0 {
                return match done.await {
                    0 => Ok(()),
                    rc => Err(error(rc)),
                };
            }
            // SAFETY: SPDK does not call back for a change that it refused.
            drop(unsafe { Box::from_raw(ctx) });
            if Instant::now() > deadline {
                self.state.set(before);
                return Err(error(rc));
            }
            yield_now().await;
        }
    }

    /// Goes on after a change to [`State::Running`]: v20.07 gives up on devices that went away
    /// during the change.
    async fn run(self: &Rc<Self>, change: Change) -> Result<(), StateError> {
        self.change(change).await?;
        while self.has_orphans() {
            self.change(Change::Pause(None)).await?;
            self.change(Change::Resume).await?;
        }
        Ok(())
    }

    async fn stop(self: &Rc<Self>) -> Result<(), StateError> {
        // v20.07 stops running subsystems only.
        if self.state.get() == State::Paused {
            self.change(Change::Resume).await?;
        }
        self.change(Change::Stop).await
    }

    /// Stops the subsystem from whatever state and takes its listeners away.
    pub(super) async fn come_to_rest(
        self: &Rc<Self>,
        target: &TargetInner,
    ) -> Result<(), StateError> {
        let deadline = Instant::now() + SUBSYSTEM_CHANGE_LIMIT;
        // A change whose future was dropped ends by itself.
        while self.state.get() == State::Changing && Instant::now() < deadline {
            yield_now().await;
        }
        if self.state.get() != State::Stopped {
            self.stop().await?;
        }
        self.unlisten_all(target).await;
        Ok(())
    }

    /// Destroys the subsystem, which is stopped.
    pub(super) async fn destroy(&self, target: &TargetInner) {
        // v20.07 frees controllers that are still ending, and again when they have ended.
        target.settle().await;
        self.state.set(State::Gone);
        let (reply, gone) = oneshot::<c_int>();
        let guard = target.shared.lock();
        // SAFETY: the subsystem is stopped and destroyed once; reply_rc takes the reply back once.
        self.home.enter(|| unsafe {
            sys::oriel_nvmf_subsystem_destroy(self.raw.as_ptr(), Some(reply_rc), reply.into_raw())
        });
        drop(guard);
        let rc = gone.await;
        if rc != 0 {
            tracing::warn!(nqn = %self.nqn, rc, "a subsystem of an NVMe-oF target stays until the target goes");
        }
        // SPDK's descriptors are closed; now ours.
        let namespaces = std::mem::take(&mut *self.namespaces.borrow_mut());
        drop(namespaces);
    }
}

/// A subsystem in the state `S`. The target keeps it too: dropping this leaves it as it is.
///
/// # Panics
/// Every method panics once the target was shut down.
pub struct Subsystem<S> {
    inner: Rc<Inner>,
    target: Rc<TargetInner>,
    _state: PhantomData<S>,
}

fn printable(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

impl<S> Subsystem<S> {
    fn becomes<T>(self) -> Subsystem<T> {
        Subsystem {
            inner: self.inner,
            target: self.target,
            _state: PhantomData,
        }
    }

    pub(super) fn inner(&self) -> &Rc<Inner> {
        self.target.assert_open();
        &self.inner
    }

    pub(super) fn target(&self) -> &TargetInner {
        &self.target
    }

    /// Runs `f` on the subsystem with its thread current.
    pub(super) fn enter<R>(&self, f: impl FnOnce(*mut sys::spdk_nvmf_subsystem) -> R) -> R {
        let inner = self.inner();
        inner.home.enter(|| f(inner.raw.as_ptr()))
    }

    /// Its name.
    pub fn nqn(&self) -> &Nqn {
        &self.inner.nqn
    }

    /// Where it listens.
    pub fn listeners(&self) -> Vec<Address> {
        self.inner.listeners.borrow().clone()
    }
}

impl Subsystem<Stopped> {
    pub(super) fn create(
        target: &Rc<TargetInner>,
        spec: &SubsystemSpec,
    ) -> Result<Self, CreateSubsystemError> {
        target.assert_open();
        let nqn = spec.nqn.clone();
        let text = |text: &str, max| CString::new(text).ok().filter(|_| printable(text, max));
        let serial = text(&spec.serial, SERIAL_BYTES_MAX).ok_or_else(|| {
            CreateSubsystemError::BadSerial {
                serial: spec.serial.clone(),
            }
        })?;
        let model =
            text(&spec.model, MODEL_BYTES_MAX).ok_or_else(|| CreateSubsystemError::BadModel {
                model: spec.model.clone(),
            })?;
        let discovery = nqn.as_str() == DISCOVERY_NQN;
        if discovery != (spec.namespaces_max == 0) {
            return Err(CreateSubsystemError::BadNamespacesMax);
        }
        let name = nqn.to_c();
        let kind = if discovery {
            sys::ORIEL_NVMF_DISCOVERY
        } else {
            sys::ORIEL_NVMF_NVME
        };
        let raw_spec = sys::oriel_nvmf_subsystem_spec {
            nqn: name.as_ptr(),
            serial: serial.as_ptr(),
            model: model.as_ptr(),
            max_namespaces: spec.namespaces_max,
            kind: kind as c_int,
            allow_any_host: spec.allow_any_host,
        };
        let guard = target.shared.lock();
        let tgt = target.raw.as_ptr();
        let known = target.home.enter(|| {
            // SAFETY: the target exists, and this is its thread (TargetInner is not Send).
            unsafe { sys::spdk_nvmf_tgt_find_subsystem(tgt, name.as_ptr()) }
        });
        if !known.is_null() {
            return Err(CreateSubsystemError::Taken { nqn });
        }
        let raw = target.home.enter(|| {
            // SAFETY: as above; SPDK copies what the pointers lead to.
            unsafe { sys::oriel_nvmf_subsystem_create(tgt, &raw_spec) }
        });
        drop(guard);
        let inner = Rc::new(Inner {
            raw: NonNull::new(raw)
                .ok_or_else(|| CreateSubsystemError::Refused { nqn: nqn.clone() })?,
            home: target.home.clone(),
            nqn,
            namespaces_max: spec.namespaces_max,
            state: Cell::new(State::Stopped),
            held: Cell::new(None),
            namespaces: RefCell::default(),
            listeners: RefCell::default(),
        });
        target.subsystems.borrow_mut().push(Rc::clone(&inner));
        let target = Rc::clone(target);
        Ok(Self {
            inner,
            target,
            _state: PhantomData,
        })
    }

    /// Lets hosts connect.
    pub async fn start(self) -> Result<Subsystem<Running>, StateError> {
        self.inner().run(Change::Start).await?;
        Ok(self.becomes())
    }

    /// Takes the subsystem out of its target.
    pub async fn destroy(self) {
        let inner = self.inner();
        inner.unlisten_all(&self.target).await;
        self.target
            .subsystems
            .borrow_mut()
            .retain(|known| !Rc::ptr_eq(known, &self.inner));
        self.inner.destroy(&self.target).await;
    }
}

impl Subsystem<Running> {
    /// Holds back what hosts ask of the subsystem itself, connects among it, and the commands to its
    /// namespace if it has just one, once those in flight have ended.
    ///
    /// Of several namespaces SPDK can hold one at a time (v20.07 holds them all): see
    /// [`pause_for`](Self::pause_for). Listeners and hosts are changed, and namespaces added, without.
    pub async fn pause(self) -> Result<Subsystem<Paused>, StateError> {
        let only = match self.namespaces()[..] {
            [(nsid, _)] => Some(nsid),
            _ => None,
        };
        self.pause_with(only).await
    }

    /// Holds back connects and what else hosts ask of the subsystem itself. Commands to its namespaces go on, except with
    /// v20.07, which holds them as well.
    pub async fn pause_for_hosts(self) -> Result<Subsystem<Paused>, StateError> {
        self.pause_with(None).await
    }

    /// Pauses the subsystem and holds back the commands to this namespace, so that it can be removed.
    pub async fn pause_for(self, nsid: Nsid) -> Result<Subsystem<Paused>, StateError> {
        self.pause_with(Some(nsid)).await
    }

    async fn pause_with(self, held: Option<Nsid>) -> Result<Subsystem<Paused>, StateError> {
        self.inner().change(Change::Pause(held)).await?;
        self.inner().held.set(held);
        Ok(self.becomes())
    }

    /// Ends the connections.
    pub async fn stop(self) -> Result<Subsystem<Stopped>, StateError> {
        self.inner().stop().await?;
        Ok(self.becomes())
    }
}

impl Subsystem<Paused> {
    /// Lets the hosts go on.
    pub async fn resume(self) -> Result<Subsystem<Running>, StateError> {
        self.inner().run(Change::Resume).await?;
        Ok(self.becomes())
    }

    /// Ends the connections.
    pub async fn stop(self) -> Result<Subsystem<Stopped>, StateError> {
        self.inner().stop().await?;
        Ok(self.becomes())
    }
}
