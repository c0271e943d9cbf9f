//! Who may connect to the realms of a node that serves, changed without its connections noticing.
//!
//! ```text
//!   key files ──► each realm: pause ─► list ─► resume ──► those who may not stay are cut off
//!   (all or       (a failure undoes this realm and           (where SPDK can; a note says what stays)
//!    none)         those before it)
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oriel_spdk::keyring::{self, KeyringError};
use oriel_spdk::nvmf::{DhChap, HostError, Quiet, Running, StateError, Subsystem, has_disconnect};
use oriel_spdk::{SPDK_RELEASE, Subsystems};

use super::{Node, Served};
use crate::hosts::{Host, Hosts};

/// Why the hosts of a node's realms were not changed. Those of all realms are what they were, unless the log says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// No such realm.
    #[error(
        "the node does not serve a realm '{realm}': restart it with a configuration that has it"
    )]
    NoRealm {
        /// The realm.
        realm: String,
    },
    /// A secret.
    #[error(transparent)]
    Key(#[from] KeyringError),
    /// A list.
    #[error("realm '{realm}': {source}")]
    Host {
        /// The realm.
        realm: String,
        /// Why not.
        source: HostError,
    },
    /// A subsystem that does not pause.
    #[error("realm '{realm}': {source}; restart the node")]
    State {
        /// The realm.
        realm: String,
        /// Why not.
        source: StateError,
    },
    /// One that did not at an earlier time.
    #[error(
        "the realm '{realm}' cannot be changed since an earlier change failed: restart the node"
    )]
    Stuck {
        /// The realm.
        realm: String,
    },
}

/// The secrets that SPDK knows: their files, and what it calls them.
#[derive(Default)]
pub(super) struct Keys {
    names: BTreeMap<PathBuf, String>,
    next: u64,
}

impl Keys {
    /// Has SPDK know the secrets of these hosts: all, or no more than before.
    pub(super) async fn add(
        &mut self,
        subsystems: &Subsystems,
        hosts: impl Iterator<Item = &Hosts>,
    ) -> Result<(), KeyringError> {
        let mut added: Vec<PathBuf> = Vec::new();
        for path in hosts.flat_map(Hosts::key_files) {
            if self.names.contains_key(path) {
                continue;
            }
            let name = format!("oriel-{}", self.next);
            if let Err(error) = keyring::add_file(subsystems, &name, path).await {
                for path in added {
                    self.remove(subsystems, &path).await;
                }
                return Err(error);
            }
            self.next += 1;
            self.names.insert(path.clone(), name);
            added.push(path.clone());
        }
        Ok(())
    }

    async fn remove(&mut self, subsystems: &Subsystems, path: &Path) {
        if let Some(name) = self.names.remove(path)
            && let Err(error) = keyring::remove_file(subsystems, &name).await
        {
            tracing::warn!(%error, path = %path.display(), "a key that nobody uses stays known");
        }
    }

    /// Has SPDK forget those that none of these hosts has.
    pub(super) async fn keep(&mut self, subsystems: &Subsystems, hosts: &[&Hosts]) {
        let is_used = |path: &PathBuf| hosts.iter().any(|of| of.key_files().any(|key| key == path));
        let unused: Vec<PathBuf> = self
            .names
            .keys()
            .filter(|path| !is_used(path))
            .cloned()
            .collect();
        for path in unused {
            self.remove(subsystems, &path).await;
        }
    }

    fn of(&self, host: &Host) -> Option<DhChap> {
        let name = |path: &PathBuf| self.names.get(path).cloned().unwrap_or_default();
        host.keys.as_ref().map(|keys| DhChap {
            host_key: name(&keys.host),
            controller_key: keys.controller.as_ref().map(name),
        })
    }
}

/// One step of a list from what it was to what it is to be.
#[derive(Clone, Copy)]
enum Step<'a> {
    Add(&'a Host),
    Remove(&'a Host),
    AllowAny(bool),
}

impl Step<'_> {
    fn undone(self) -> Self {
        match self {
            Self::Add(host) => Self::Remove(host),
            Self::Remove(host) => Self::Add(host),
            Self::AllowAny(allow) => Self::AllowAny(!allow),
        }
    }

    fn take<S: Quiet>(self, subsystem: &Subsystem<S>, keys: &Keys) -> Result<(), HostError> {
        match self {
            Self::Add(host) => match keys.of(host) {
                Some(chap) => subsystem.add_host_with_keys(&host.nqn, &chap),
                None => subsystem.add_host(&host.nqn),
            },
            Self::Remove(host) => subsystem.remove_host(&host.nqn),
            Self::AllowAny(allow) => subsystem.allow_any_host(allow),
        }
    }
}

/// The steps from one to the other. A host whose keys are others goes first and comes again.
fn steps<'a>(from: &'a Hosts, to: &'a Hosts) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let gone = from.list().iter().filter(|host| !to.list().contains(host));
    steps.extend(gone.map(Step::Remove));
    let new = to.list().iter().filter(|host| !from.list().contains(host));
    steps.extend(new.map(Step::Add));
    let (was, is) = (*from == Hosts::Any, *to == Hosts::Any);
    if was != is {
        steps.push(Step::AllowAny(is));
    }
    steps
}

/// All of the steps, or none.
pub(super) fn change<S: Quiet>(
    subsystem: &Subsystem<S>,
    keys: &Keys,
    from: &Hosts,
    to: &Hosts,
) -> Result<(), HostError> {
    let steps = steps(from, to);
    for (at, step) in steps.iter().enumerate() {
        if let Err(error) = step.take(subsystem, keys) {
            for step in steps[..at].iter().rev() {
                if let Err(also) = step.undone().take(subsystem, keys) {
                    tracing::error!(error = %also, "the hosts that may connect are not what they were: restart the node");
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

impl Served {
    async fn set(&mut self, keys: &Keys, to: &Hosts) -> Result<(), HostsError> {
        let realm = || self.name.clone();
        let running = self.subsystem.take();
        let running = running.ok_or_else(|| HostsError::Stuck { realm: realm() })?;
        let state = |source| HostsError::State {
            realm: realm(),
            source,
        };
        let paused = running.pause_for_hosts().await.map_err(state)?;
        let changed = change(&paused, keys, &self.hosts, to);
        let running = paused.resume().await.map_err(state)?;
        let changed = changed.map_err(|source| HostsError::Host {
            realm: realm(),
            source,
        });
        self.subsystem = Some(running);
        changed?;
        self.hosts = to.clone();
        Ok(())
    }

    /// Ends the connections of those who may not have them any more, and says where that could not be.
    async fn cut_off(&self, subsystems: &Subsystems, before: &Hosts) -> Option<String> {
        let running = self.subsystem.as_ref()?;
        if !before.withdrawn_by(&self.hosts) {
            return None;
        }
        let name = &self.name;
        if !has_disconnect() {
            return Some(format!(
                "realm '{name}': connections of hosts that may not connect any more stay until they end, since SPDK v{SPDK_RELEASE} cannot end them; restart orield to end them now"
            ));
        }
        match self.end_connections(running, subsystems, before).await {
            Ok(()) => None,
            Err(error) => Some(format!(
                "realm '{name}': hosts that may not connect any more may still be connected ({error}); restart orield to end that"
            )),
        }
    }

    async fn end_connections(
        &self,
        running: &Subsystem<Running>,
        subsystems: &Subsystems,
        before: &Hosts,
    ) -> Result<(), HostError> {
        let mut ended = Ok(());
        for name in running.connected_hosts(subsystems).await? {
            // Whose keys are others has to prove that it knows them.
            let same = |host: &&Host| host.nqn.as_str() == name;
            let is_new = |now: Option<&Host>| {
                let keys = now.and_then(|host| host.keys.as_ref());
                let old = before.list().iter().find(same);
                keys.is_some() && keys != old.and_then(|host| host.keys.as_ref())
            };
            let now = self.hosts.list().iter().find(same);
            if !self.hosts.allow(&name) || is_new(now) {
                tracing::info!(realm = self.name, host = name, "is cut off");
                // One that does not go is no reason to let others stay.
                ended = ended.and(running.disconnect(&name).await);
            }
        }
        ended
    }
}

impl Node {
    /// Changes who may connect to realms, without a connection noticing of those who may go on. All is changed or nothing;
    /// hosts that may not connect any more are cut off, and what is returned says where SPDK cannot do that.
    pub async fn change_hosts(
        &mut self,
        subsystems: &Subsystems,
        wanted: &[(String, Hosts)],
    ) -> Result<Vec<String>, HostsError> {
        let mut places = Vec::new();
        for (realm, hosts) in wanted {
            let place = self.realms.iter().position(|served| served.name == *realm);
            let realm = realm.clone();
            let place = place.ok_or(HostsError::NoRealm { realm })?;
            places.push((place, hosts, self.realms[place].hosts.clone()));
        }
        let hosts = wanted.iter().map(|(_, hosts)| hosts);
        self.keys.add(subsystems, hosts).await?;
        let mut changed = Ok(());
        for (at, (place, hosts, _)) in places.iter().enumerate() {
            changed = self.realms[*place].set(&self.keys, hosts).await;
            if changed.is_err() {
                for (place, _, before) in places[..at].iter().rev() {
                    if let Err(error) = self.realms[*place].set(&self.keys, before).await {
                        tracing::error!(%error, "a change could not be undone: restart the node");
                    }
                }
                break;
            }
        }
        let mut notes = Vec::new();
        if changed.is_ok() {
            for (place, _, before) in &places {
                notes.extend(self.realms[*place].cut_off(subsystems, before).await);
            }
        }
        let used: Vec<&Hosts> = self.realms.iter().map(|served| &served.hosts).collect();
        self.keys.keep(subsystems, &used).await;
        changed.map(|()| notes)
    }
}
