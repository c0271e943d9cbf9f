//! A subsystem's listeners: the addresses at which its hosts connect.
//!
//! SPDK keeps two things apart that belong together here: a transport listens at an address, and
//! subsystems accept hosts that come in by it. The transport counts its users, so several
//! subsystems of a target may share an address.

use std::ffi::c_int;

use oriel_spdk_sys as sys;

use super::TargetInner;
use super::address::{Address, ListenError, UnlistenError};
use super::sockets;
use super::subsystem::{Inner, Quiet, Subsystem};
use super::transport::TransportKind;
use crate::oneshot::{oneshot, reply_rc};

impl Inner {
    async fn listen(&self, target: &TargetInner, address: Address) -> Result<(), ListenError> {
        if !target.transports.borrow().contains(&address.transport) {
            return Err(ListenError::NoTransport { address });
        }
        if self.listeners.borrow().contains(&address) {
            return Err(ListenError::Already { address });
        }
        if !target.listeners.borrow().contains_key(&address) {
            address.check()?;
        }
        let text = address.to_c();
        let raw = text.raw();
        let rc = self.home.enter(|| {
            // SAFETY: the target exists, this is its thread, and SPDK copies the address.
            unsafe { sys::oriel_nvmf_listen(target.raw.as_ptr(), &raw) }
        });
        if rc != 0 {
            return Err(address.refused(rc));
        }
        let is_first = {
            let mut listeners = target.listeners.borrow_mut();
            let count = listeners.entry(address).or_default();
            *count += 1;
            *count == 1
        };
        if is_first
            && address.transport == TransportKind::Tcp
            && let Err(error) = sockets::limit(address.socket, target.sockets.get())
        {
            tracing::warn!(%address, %error, "connections have no limits that keep their hosts from slowing others");
        }
        let (reply, added) = oneshot::<c_int>();
        // SAFETY: as above; the subsystem is quiet (the caller's type), and reply_rc takes the reply
        // back once.
        self.home.enter(|| unsafe {
            sys::oriel_nvmf_add_listener(self.raw.as_ptr(), &raw, Some(reply_rc), reply.into_raw())
        });
        self.listeners.borrow_mut().push(address);
        match added.await {
            0 => Ok(()),
            rc => {
                // Best effort: it was never offered to hosts.
                let _ = self.unlisten(target, address).await;
                Err(address.refused(rc))
            }
        }
    }

    async fn unlisten(&self, target: &TargetInner, address: Address) -> Result<(), UnlistenError> {
        let place = self
            .listeners
            .borrow()
            .iter()
            .position(|known| *known == address);
        let place = place.ok_or(UnlistenError::NotListening { address })?;
        self.listeners.borrow_mut().remove(place);
        let text = address.to_c();
        let raw = text.raw();
        let removed = self.home.enter(|| {
            // SAFETY: the subsystem exists and is quiet (the callers), and SPDK copies the address.
            unsafe { sys::oriel_nvmf_remove_listener(self.raw.as_ptr(), &raw) }
        });
        let (reply, ended) = oneshot::<c_int>();
        // SAFETY: as above; SPDK looks at the subsystem's address only, and reply_rc takes the reply
        // back once.
        self.home.enter(|| unsafe {
            sys::oriel_nvmf_stop_listen(
                target.raw.as_ptr(),
                &raw,
                self.raw.as_ptr(),
                Some(reply_rc),
                reply.into_raw(),
            )
        });
        let ended = ended.await;
        let mut listeners = target.listeners.borrow_mut();
        if let Some(count) = listeners.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                listeners.remove(&address);
            }
        }
        match if removed != 0 { removed } else { ended } {
            0 => Ok(()),
            rc => Err(UnlistenError::Failed {
                address,
                errno: rc.abs(),
            }),
        }
    }

    pub(super) async fn unlisten_all(&self, target: &TargetInner) {
        let listeners = self.listeners.borrow().clone();
        for address in listeners {
            if let Err(error) = self.unlisten(target, address).await {
                tracing::warn!(%error, "a listener stays until its transport goes");
            }
        }
    }
}

impl<S: Quiet> Subsystem<S> {
    /// Listens for hosts of this subsystem. Several subsystems of a target may share an address.
    pub async fn add_listener(&self, address: Address) -> Result<(), ListenError> {
        self.inner().listen(self.target(), address).await
    }

    /// Ends listening. Connections that came in by the address end too, except with SPDK before
    /// v22.01, where they stay until they end or the subsystem stops.
    pub async fn remove_listener(&self, address: Address) -> Result<(), UnlistenError> {
        self.inner().unlisten(self.target(), address).await
    }
}
