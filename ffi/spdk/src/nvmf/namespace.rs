//! A subsystem's namespaces: block devices under numbers.
//!
//! SPDK notices by itself when the block device of a running subsystem goes away: it pauses the
//! subsystem, takes the namespace out and resumes. In a stopped subsystem it does not, and a
//! device that somebody still holds never finishes going. So each namespace has a descriptor of
//! ours beside SPDK's, opened first and therefore told first: it takes the namespace out where
//! SPDK would not, and passes the event on. Under a paused subsystem the poll groups let go of the
//! device when it resumes, so the device's end waits for that.

use std::cell::Cell;
use std::ffi::CString;
use std::fmt;
use std::num::NonZeroU32;
use std::rc::Rc;

use oriel_spdk_sys as sys;
use thiserror::Error;

use super::subsystem::{Inner, Quiet, State, Subsystem};
use crate::bdev::{Access, BdevDesc, BdevEvent, OpenError};

/// A namespace's number in its subsystem.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nsid(pub NonZeroU32);

impl Nsid {
    /// The number 1, which most subsystems have only.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The number, if it is not zero.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Nsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a block device presents itself as a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOptions {
    /// Its number; the lowest that is free if none is given.
    pub nsid: Option<Nsid>,
    /// Its UUID; the block device's if none is given.
    pub uuid: Option<[u8; 16]>,
    /// Its NGUID, if it is to have one.
    pub nguid: Option<[u8; 16]>,
    /// Its EUI-64, if it is to have one.
    pub eui64: Option<[u8; 8]>,
}

/// What happened to a namespace's block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NamespaceEvent {
    /// It goes away, and the namespace with it.
    Removed,
    /// It has another size; hosts are told.
    Resized,
}

/// Why a namespace was not added.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The block device cannot be had.
    #[error(transparent)]
    Device(#[from] OpenError),
    /// A discovery subsystem.
    #[error("a discovery subsystem has no namespaces: add them to an NVMe subsystem")]
    Discovery,
    /// A number beyond the subsystem's.
    #[error(
        "namespace {nsid} is beyond the {max} that the subsystem was made for: choose a lower number, or make it for more"
    )]
    BeyondMax {
        /// What was asked for.
        nsid: Nsid,
        /// The highest number.
        max: u32,
    },
    /// The number is taken.
    #[error("the subsystem already has a namespace {nsid}: choose another number, or none")]
    Taken {
        /// The number.
        nsid: Nsid,
    },
    /// Every number is taken.
    #[error("all {max} namespaces that the subsystem was made for are taken: make it for more")]
    Full {
        /// How many there are.
        max: u32,
    },
    /// SPDK refused.
    #[error(
        "SPDK refused '{bdev}' as a namespace: its log says why; a device with separate metadata cannot be one"
    )]
    Refused {
        /// The block device.
        bdev: String,
    },
}

/// Why a namespace was not removed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoveNamespaceError {
    /// There is none.
    #[error("the subsystem has no namespace {nsid}")]
    NotFound {
        /// The number.
        nsid: Nsid,
    },
    /// Hosts may be using it.
    #[error(
        "namespace {nsid} is one of several, and commands to it were not held back: pause the subsystem with pause_for({nsid})"
    )]
    NotHeld {
        /// The number.
        nsid: Nsid,
    },
    /// SPDK refused.
    #[error("SPDK refused to remove namespace {nsid}: its log says why")]
    Refused {
        /// The number.
        nsid: Nsid,
    },
}

/// A namespace as we know it.
pub(super) struct Namespace {
    pub(super) nsid: Nsid,
    bdev: String,
    /// Our own descriptor; None once the device is going.
    desc: Option<BdevDesc>,
}

impl<S> Subsystem<S> {
    /// The namespaces that there are, by number, and their block devices' names.
    pub fn namespaces(&self) -> Vec<(Nsid, String)> {
        let namespaces = self.inner().namespaces.borrow();
        let present = namespaces
            .iter()
            .filter(|namespace| namespace.desc.is_some());
        let mut list: Vec<_> = present
            .map(|namespace| (namespace.nsid, namespace.bdev.clone()))
            .collect();
        list.sort();
        list
    }
}

impl<S: Quiet> Subsystem<S> {
    /// Offers a block device as a namespace. `on_event` is called on this thread.
    pub fn add_namespace(
        &self,
        bdev: &str,
        options: &NamespaceOptions,
        on_event: impl FnMut(Nsid, NamespaceEvent) + 'static,
    ) -> Result<Nsid, NamespaceError> {
        let inner = self.inner();
        let nsid = inner.free_nsid(options.nsid)?;
        let desc = watch(inner, nsid, bdev, on_event)?;
        let name = CString::new(bdev).expect("a device of that name was just opened");
        let pointer = |bytes: Option<&[u8]>| bytes.map_or(std::ptr::null(), <[u8]>::as_ptr);
        let raw_options = sys::oriel_nvmf_namespace_opts {
            bdev: name.as_ptr(),
            nsid: nsid.get(),
            uuid: pointer(options.uuid.as_ref().map(|id| &id[..])),
            nguid: pointer(options.nguid.as_ref().map(|id| &id[..])),
            eui64: pointer(options.eui64.as_ref().map(|id| &id[..])),
        };
        // SAFETY: the subsystem exists and is quiet (S: Quiet), this is its thread, and SPDK copies
        // what the pointers lead to.
        let added = self.enter(|raw| unsafe { sys::oriel_nvmf_add_namespace(raw, &raw_options) });
        if added != nsid.get() {
            drop(desc);
            // SPDK says only "no"; a claim by somebody else is the usual reason.
            BdevDesc::open(bdev, Access::ReadWrite, |_| {})?;
            return Err(NamespaceError::Refused { bdev: bdev.into() });
        }
        inner.namespaces.borrow_mut().push(Namespace {
            nsid,
            bdev: bdev.into(),
            desc: Some(desc),
        });
        Ok(nsid)
    }

    /// Takes a namespace away; the block device stays.
    pub fn remove_namespace(&self, nsid: Nsid) -> Result<(), RemoveNamespaceError> {
        let inner = self.inner();
        if !inner
            .namespaces
            .borrow()
            .iter()
            .any(|namespace| namespace.nsid == nsid)
        {
            return Err(RemoveNamespaceError::NotFound { nsid });
        }
        if !inner.is_quiet(nsid) {
            return Err(RemoveNamespaceError::NotHeld { nsid });
        }
        // SAFETY: as in add_namespace.
        if self.enter(|raw| unsafe { sys::spdk_nvmf_subsystem_remove_ns(raw, nsid.get()) }) != 0 {
            return Err(RemoveNamespaceError::Refused { nsid });
        }
        inner.forget(nsid);
        Ok(())
    }
}

/// Opens our own descriptor, whose events end or announce the namespace.
fn watch(
    inner: &Rc<Inner>,
    nsid: Nsid,
    bdev: &str,
    mut on_event: impl FnMut(Nsid, NamespaceEvent) + 'static,
) -> Result<BdevDesc, OpenError> {
    let weak = Rc::downgrade(inner);
    let told = Cell::new(false);
    BdevDesc::open(bdev, Access::ReadOnly, move |event| match event {
        BdevEvent::Removed if !told.replace(true) => {
            weak.upgrade()
                .iter()
                .for_each(|inner| inner.device_goes(nsid));
            on_event(nsid, NamespaceEvent::Removed);
        }
        BdevEvent::Resized => on_event(nsid, NamespaceEvent::Resized),
        _ => {}
    })
}

impl Inner {
    fn free_nsid(&self, asked: Option<Nsid>) -> Result<Nsid, NamespaceError> {
        if self.is_discovery() {
            return Err(NamespaceError::Discovery);
        }
        let max = self.namespaces_max;
        let namespaces = self.namespaces.borrow();
        let taken = |nsid: Nsid| namespaces.iter().any(|namespace| namespace.nsid == nsid);
        match asked {
            Some(nsid) if nsid.get() > max => Err(NamespaceError::BeyondMax { nsid, max }),
            Some(nsid) if taken(nsid) => Err(NamespaceError::Taken { nsid }),
            Some(nsid) => Ok(nsid),
            None => {
                let mut numbers = (1..=max).filter_map(Nsid::new);
                let free = numbers.find(|&nsid| !taken(nsid));
                free.ok_or(NamespaceError::Full { max })
            }
        }
    }

    /// Forgets a namespace and closes our descriptor of its device.
    fn forget(&self, nsid: Nsid) {
        let mut namespaces = self.namespaces.borrow_mut();
        let place = namespaces
            .iter()
            .position(|namespace| namespace.nsid == nsid);
        let namespace = place.map(|place| namespaces.remove(place));
        drop(namespaces);
        drop(namespace);
    }

    /// The block device of a namespace is going away.
    fn device_goes(&self, nsid: Nsid) {
        match self.state.get() {
            State::Stopped | State::Paused => {
                self.take_out(nsid);
                self.forget(nsid);
            }
            // SPDK does it.
            State::Running | State::Gone => self.forget(nsid),
            // Only the end of the change shows whether SPDK does it.
            State::Changing => {
                let mut namespaces = self.namespaces.borrow_mut();
                let going = namespaces
                    .iter_mut()
                    .find(|namespace| namespace.nsid == nsid);
                let desc = going.and_then(|namespace| namespace.desc.take());
                drop(namespaces);
                drop(desc);
            }
        }
    }

    /// Whether a device went away while the subsystem changed its state.
    pub(super) fn has_orphans(&self) -> bool {
        self.namespaces
            .borrow()
            .iter()
            .any(|namespace| namespace.desc.is_none())
    }

    /// Takes out the namespaces whose devices went away meanwhile. The subsystem is quiet.
    pub(super) fn take_out_orphans(&self) {
        let orphans: Vec<_> = {
            let namespaces = self.namespaces.borrow();
            let gone = namespaces
                .iter()
                .filter(|namespace| namespace.desc.is_none());
            gone.map(|namespace| namespace.nsid).collect()
        };
        for nsid in orphans {
            self.take_out(nsid);
            self.forget(nsid);
        }
    }

    fn take_out(&self, nsid: Nsid) {
        let raw = self.raw.as_ptr();
        self.home.enter(|| {
            // SAFETY: the subsystem exists, and this is its thread: Inner is not Send.
            if unsafe { sys::oriel_nvmf_has_namespace(raw, nsid.get()) } {
                // SAFETY: as above, and the subsystem is quiet (the callers' states).
                unsafe { sys::spdk_nvmf_subsystem_remove_ns(raw, nsid.get()) };
            }
        });
    }
}
