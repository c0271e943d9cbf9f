//! Who may connect to a subsystem.

use std::collections::BTreeSet;
use std::ffi::{CString, c_int};
use std::io;
use std::ptr;

use oriel_spdk_sys as sys;
use serde_json::{Value, json};
use thiserror::Error;

use super::nqn::Nqn;
use super::subsystem::{Quiet, Running, Subsystem};
use crate::oneshot::{oneshot, reply_rc};
use crate::{SPDK_RELEASE, Subsystems};

/// Whether the linked SPDK has DH-HMAC-CHAP: from v24.05.
pub fn has_dh_chap() -> bool {
    // Two digits each, so the order of the text is that of the releases.
    SPDK_RELEASE >= "24.05"
}

/// Whether connections of one host can be ended: from v21.04, where SPDK also says who is connected.
pub fn has_disconnect() -> bool {
    SPDK_RELEASE >= "21.04"
}

/// DH-HMAC-CHAP keys, by their names in SPDK's keyring. From v24.05.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhChap {
    /// The key by which the host proves who it is.
    pub host_key: String,
    /// The key by which the subsystem proves who it is, if the host asks.
    pub controller_key: Option<String>,
}

/// Why the list of hosts was not changed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostError {
    /// Too old a release.
    #[error(
        "the linked SPDK v{release} has no DH-HMAC-CHAP: allow the host without keys, or link v24.05 or newer"
    )]
    NoDhChap {
        /// The release.
        release: &'static str,
    },
    /// No such key.
    #[error(
        "SPDK's keyring lacks one of the keys that {host} is to use: add them to the keyring first"
    )]
    NoKey {
        /// The host.
        host: Nqn,
    },
    /// In the list already.
    #[error(
        "{host} is among the hosts that the subsystem allows already: to change its keys, remove it first"
    )]
    Already {
        /// The host.
        host: Nqn,
    },
    /// Not in the list.
    #[error("{host} is not among the hosts that the subsystem allows")]
    NotAllowed {
        /// The host.
        host: Nqn,
    },
    /// Too old a release.
    #[error(
        "the linked SPDK v{release} cannot end the connections of one host: link v21.04 or newer, or restart the target"
    )]
    NoDisconnect {
        /// The release.
        release: &'static str,
    },
    /// SPDK does not say who is connected.
    #[error("SPDK does not say which hosts are connected to {subsystem}: {reason}")]
    Unknown {
        /// To what.
        subsystem: Nqn,
        /// SPDK's words.
        reason: String,
    },
    /// SPDK refused.
    #[error("the hosts of the subsystem could not be changed ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The positive errno.
        errno: i32,
    },
}

fn checked(rc: c_int) -> Result<(), HostError> {
    match rc {
        0 => Ok(()),
        rc => Err(HostError::Failed { errno: rc.abs() }),
    }
}

impl<S: Quiet> Subsystem<S> {
    /// Allows every host, or only those of the list.
    pub fn allow_any_host(&self, allow: bool) -> Result<(), HostError> {
        checked(self.enter(|raw| {
            // SAFETY: the subsystem exists and is quiet (S: Quiet); this is its thread (not Send).
            unsafe { sys::spdk_nvmf_subsystem_set_allow_any_host(raw, allow) }
        }))
    }

    /// Adds a host to the list.
    pub fn add_host(&self, host: &Nqn) -> Result<(), HostError> {
        self.add(host, None)
    }

    /// Adds a host that must authenticate.
    pub fn add_host_with_keys(&self, host: &Nqn, keys: &DhChap) -> Result<(), HostError> {
        self.add(host, Some(keys))
    }

    fn add(&self, host: &Nqn, keys: Option<&DhChap>) -> Result<(), HostError> {
        let no_key = || HostError::NoKey { host: host.clone() };
        let text = |name: &String| CString::new(name.as_str()).map_err(|_| no_key());
        let host_key = keys.map(|keys| text(&keys.host_key)).transpose()?;
        let controller_key = keys.and_then(|keys| keys.controller_key.as_ref());
        let controller_key = controller_key.map(text).transpose()?;
        let pointer = |key: &Option<CString>| key.as_ref().map_or(ptr::null(), |key| key.as_ptr());
        let nqn = host.to_c();
        let rc = self.enter(|raw| {
            // SAFETY: as in allow_any_host; SPDK copies the name and takes references to the keys.
            unsafe {
                sys::oriel_nvmf_add_host(
                    raw,
                    nqn.as_ptr(),
                    pointer(&host_key),
                    pointer(&controller_key),
                )
            }
        });
        match -rc {
            libc::ENOTSUP => Err(HostError::NoDhChap {
                release: SPDK_RELEASE,
            }),
            libc::ENOKEY => Err(no_key()),
            libc::EEXIST => Err(HostError::Already { host: host.clone() }),
            _ => checked(rc),
        }
    }

    /// Takes a host out of the list. Connections that it has stay until they end, or until
    /// [`disconnect`](Subsystem::disconnect) ends them.
    pub fn remove_host(&self, host: &Nqn) -> Result<(), HostError> {
        let nqn = host.to_c();
        let rc = self.enter(|raw| {
            // SAFETY: as in allow_any_host; the name outlives the call.
            unsafe { sys::spdk_nvmf_subsystem_remove_host(raw, nqn.as_ptr()) }
        });
        match -rc {
            libc::ENOENT => Err(HostError::NotAllowed { host: host.clone() }),
            _ => checked(rc),
        }
    }
}

impl Subsystem<Running> {
    /// What the hosts that are connected call themselves, which need be no good name. SPDK pauses the subsystem for a moment to find out, as
    /// [`pause_for_hosts`](Self::pause_for_hosts) does.
    pub async fn connected_hosts(
        &self,
        subsystems: &Subsystems,
    ) -> Result<BTreeSet<String>, HostError> {
        if !has_disconnect() {
            return Err(HostError::NoDisconnect {
                release: SPDK_RELEASE,
            });
        }
        let unknown = |reason: String| HostError::Unknown {
            subsystem: self.nqn().clone(),
            reason,
        };
        let params = json!({ "nqn": self.nqn().as_str(), "tgt_name": self.target().name });
        let method = "nvmf_subsystem_get_controllers";
        let answer = subsystems.rpc().call(method, params).await;
        let answer = answer.map_err(|error| unknown(error.to_string()))?;
        let Value::Array(controllers) = answer else {
            return Err(unknown("its answer is no list".into()));
        };
        let names = controllers.iter().filter_map(|of| of["hostnqn"].as_str());
        let hosts: BTreeSet<String> = names.map(str::to_owned).collect();
        Ok(hosts)
    }

    /// Ends the connections of a host. It may connect again as long as it is allowed to.
    pub async fn disconnect(&self, host: &str) -> Result<(), HostError> {
        if !has_disconnect() {
            return Err(HostError::NoDisconnect {
                release: SPDK_RELEASE,
            });
        }
        let Ok(nqn) = CString::new(host) else {
            // Names on the network end at their first NUL.
            return Ok(());
        };
        let (reply, ended) = oneshot::<c_int>();
        let ctx = reply.into_raw();
        // SAFETY: the subsystem exists, this is its thread (not Send), SPDK copies the name, and reply_rc takes the reply
        // back once.
        self.enter(|raw| unsafe {
            sys::oriel_nvmf_disconnect_host(raw, nqn.as_ptr(), Some(reply_rc), ctx)
        });
        checked(ended.await)
    }
}
