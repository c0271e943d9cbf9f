//! A connection to a realm.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use oriel_client::blob::Blobs;
use oriel_client::nvme::discovery::{DiscoveryEntry, Transport};
use oriel_client::{
    ConnectError, Controller, KernelNamespace, KernelOptions, Options, Reconnect, block_on,
    discover,
};
use oriel_protocol::Stat;

use crate::address::{Address, To, Wanted, realm_of};
use crate::args::Common;
use crate::error::{CliError, There, UsageError};
use crate::link::Link;

/// A command that has reached a node may take as long on a slow drive.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// The realm's namespace, by its number.
const NAMESPACE: u32 = 1;

/// A realm of a node.
pub(crate) struct Node {
    pub(crate) link: Link,
    pub(crate) blobs: Blobs<Link>,
    pub(crate) stat: Stat,
    /// Of the node, or the device's path.
    pub(crate) address: String,
    pub(crate) subsystem: String,
}

impl Node {
    pub(crate) fn connect(common: &Common) -> Result<Self, CliError> {
        let timeout = Duration::from_secs(common.timeout.into());
        match common.to.as_ref().ok_or(UsageError::NoAddress)? {
            To::Tcp(to) => Self::by_tcp(common, to, timeout),
            To::Device(path) => Self::by_kernel(path, timeout),
        }
    }

    fn by_kernel(path: &Path, timeout: Duration) -> Result<Self, CliError> {
        let options = KernelOptions {
            command_timeout: timeout.max(COMMAND_TIME),
            give_up_after: timeout,
            ..KernelOptions::default()
        };
        let namespace = KernelNamespace::open(path, options)?.wait()?;
        let subsystem = namespace.controller().subsystem.clone();
        Self::over(
            Link::Kernel(namespace),
            path.display().to_string(),
            subsystem,
        )
    }

    fn by_tcp(common: &Common, to: &Address, timeout: Duration) -> Result<Self, CliError> {
        let mut last = None;
        for address in resolve(to)? {
            let mut options = Options::new(address, "");
            if let Some(host) = &common.host {
                options.host.clone_from(host);
            }
            options.connect_timeout = timeout;
            options.command_timeout = timeout.max(COMMAND_TIME);
            options.reconnect = Some(Reconnect {
                give_up_after: timeout,
                ..Reconnect::default()
            });
            match Self::at(to, options) {
                // A name may have several addresses, of which only one is this node's.
                Err(CliError::Connect(
                    error @ (ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. }),
                )) => last = Some(error),
                connected => return connected,
            }
        }
        let host = to.host.clone();
        Err(last.map_or(CliError::NoAddresses { host }, CliError::Connect))
    }

    fn at(to: &Address, mut options: Options) -> Result<Self, CliError> {
        options.subsystem = match &to.wanted {
            Wanted::Subsystem(name) => name.clone(),
            Wanted::Realm(realm) => choose(&discover(&options)?, to, realm)?,
        };
        let (address, subsystem) = (options.address, options.subsystem.clone());
        let controller = Controller::connect(options)?.wait()?;
        let namespace = block_on(controller.namespace(NAMESPACE))?;
        Self::over(Link::Tcp(namespace), address.to_string(), subsystem)
    }

    fn over(link: Link, address: String, subsystem: String) -> Result<Self, CliError> {
        let blobs = block_on(Blobs::open(link.clone()))?;
        let stat = block_on(blobs.stat())?;
        Ok(Self {
            link,
            blobs,
            stat,
            address,
            subsystem,
        })
    }

    /// What the realm is called, or all of the subsystem's name.
    pub(crate) fn realm(&self) -> &str {
        realm_of(&self.subsystem).unwrap_or(&self.subsystem)
    }

    /// Ends the connection in order.
    pub(crate) fn close(self) {
        drop(self.blobs);
        self.link.close();
    }
}

fn resolve(to: &Address) -> Result<Vec<SocketAddr>, CliError> {
    let found = (to.host.as_str(), to.port).to_socket_addrs();
    let found = found.map_err(|source| CliError::Unknown {
        host: to.host.clone(),
        source,
    })?;
    Ok(found.collect())
}

/// The subsystem that is the realm.
fn choose(entries: &[DiscoveryEntry], to: &Address, realm: &str) -> Result<String, CliError> {
    let ours = entries
        .iter()
        .filter(|entry| entry.transport == Transport::Tcp && !entry.is_discovery)
        .filter_map(|entry| Some((entry.subsystem.as_str(), realm_of(&entry.subsystem)?)));
    let mut ours: Vec<(&str, &str)> = ours.collect();
    // One that is reached at several addresses is there several times.
    ours.sort_unstable();
    ours.dedup();
    let names = ours.iter().filter(|(_, name)| *name == realm);
    let names: Vec<&str> = names.map(|(subsystem, _)| *subsystem).collect();
    let address = to.to_string();
    match names[..] {
        [name] => Ok(name.into()),
        [] => {
            let mut others: Vec<String> = ours.iter().map(|(_, name)| (*name).into()).collect();
            others.dedup();
            Err(CliError::NoRealm {
                address,
                realm: realm.into(),
                there: There(others),
            })
        }
        _ => Err(UsageError::Several {
            address,
            realm: realm.into(),
            names: names.join(", "),
        }
        .into()),
    }
}
