//! A target that serves a store's realms.

mod gone;
mod hosts;
mod realms;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::reactor::{self, CoreId, JoinHandle, NoTaskSlot};
use oriel_engine::store::{NodeStore, RealmId, RealmOptions, SpdkDrive, StoreId};
use oriel_spdk::Subsystems;
use oriel_spdk::device::Registered;
use oriel_spdk::nvmf::{
    Address, Connections, Nqn, PollGroup, PollGroupError, PollGroupStat, Running, Specific,
    Subsystem, SubsystemSpec, Target, TargetOptions, TcpOptions, TransportOptions,
};

use crate::error::{StartError, StopError};
use crate::hosts::Hosts;
use crate::limits::{HOST_PATIENCE, IO_BYTES_MAX, REFUSED_LOOK, REFUSED_REST, SEND_BUFFER_BYTES};
use crate::puts::{self, Puts};
pub use hosts::HostsError;
use hosts::Keys;
use realms::Of;

/// A realm that is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Realm {
    /// What it is called on the network: the end of its subsystem's name.
    pub name: String,
    /// What the store was opened with for it.
    pub options: RealmOptions,
    /// Who may connect.
    pub hosts: Hosts,
}

/// How a store is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    /// The node's name, in the names of its subsystems.
    pub node: String,
    /// Whose blobs these are.
    pub store: StoreId,
    /// The realms, which the store knows. Others can be [added](Node::add_realm) later.
    pub realms: Vec<Realm>,
    /// How hosts reach it. Sizes of transfers and buffers are set by [`Node::start`], and the limits of connections by TCP
    /// where they are left out.
    pub transports: Vec<TransportOptions>,
    /// Where it listens, for all realms.
    pub listeners: Vec<Address>,
    /// Connections of hosts that it takes; a queue is one. No limit, if there is none.
    pub connections_max: Option<u32>,
    /// How long a put by parts lasts without a command for it: [`crate::limits::PUT_TIME`], if nothing speaks against it.
    pub put_time: Duration,
}

impl NodeSpec {
    /// The name of a realm's subsystem.
    pub fn nqn(&self, realm: &str) -> Result<Nqn, StartError> {
        nqn(&self.node, realm)
    }

    fn check(&self) -> Result<(), StartError> {
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for realm in &self.realms {
            self.nqn(&realm.name)?;
            if !names.insert(&realm.name) || !ids.insert(realm.options.id) {
                let realm = realm.name.clone();
                return Err(StartError::Twice { realm });
            }
        }
        Ok(())
    }
}

/// The name of a realm's subsystem.
pub(crate) fn nqn(node: &str, realm: &str) -> Result<Nqn, StartError> {
    for word in [node, realm] {
        // A colon would make one name of two different pairs.
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if word.is_empty() || !word.bytes().all(is_good) {
            let word = word.into();
            return Err(StartError::Word { word });
        }
    }
    let name = format!("nqn.2026-11.io.oriel:{node}:{realm}");
    name.parse().map_err(|source| StartError::Name {
        node: node.into(),
        realm: realm.into(),
        source,
    })
}

/// What a namespace is known by wherever it is attached: the same for the same realm of the same store, whatever serves it.
fn namespace_id(store: StoreId, realm: RealmId) -> [u8; 16] {
    let mut of = [0; 18];
    of[..16].copy_from_slice(&store.0);
    of[16..].copy_from_slice(&realm.0.to_le_bytes());
    let hash = blake3::derive_key("oriel 2026-11 namespace of a realm", &of);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    // As a version 8 UUID, whose content is its maker's (RFC 9562).
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// A store that is served.
pub struct Node {
    target: Target,
    devices: Vec<Registered>,
    // It stays what it is until the target ends.
    _discovery: Subsystem<Running>,
    realms: Vec<Served>,
    keys: Keys,
    store: NodeStore<SpdkDrive>,
    clock: Clock,
    spec: NodeSpec,
    puts: Arc<Puts>,
    /// Give up what nothing is heard of, puts by parts and connections; tell of connections that were refused.
    watches: Vec<JoinHandle<()>>,
}

/// A realm that hosts can connect to.
struct Served {
    name: String,
    /// Who may.
    hosts: Hosts,
    /// Gone where a change did not come to its end: it can serve all the same, and the target ends it.
    subsystem: Option<Subsystem<Running>>,
}

/// What was started, to be ended in order.
struct Parts {
    target: Target,
    devices: Vec<Registered>,
}

impl Parts {
    async fn end(self) -> Result<(), StopError> {
        self.target.shut_down().await?;
        for device in self.devices {
            device.unregister().await?;
        }
        Ok(())
    }
}

impl Node {
    /// Serves a store on every core that has a reactor; each needs an SPDK thread of its own, attached and current, and so
    /// does the core that calls this. The store is not closed by [`stop`](Self::stop).
    ///
    /// # Panics
    /// Outside a reactor, or where no SPDK thread is current.
    pub async fn start(
        subsystems: &Subsystems,
        store: &NodeStore<SpdkDrive>,
        clock: &Clock,
        spec: &NodeSpec,
    ) -> Result<Self, StartError> {
        spec.check()?;
        for realm in &spec.realms {
            realms::check(store, realm.options.id).await?;
        }
        let options = TargetOptions {
            name: spec.node.clone(),
            connections_max: spec.connections_max,
            ..TargetOptions::default()
        };
        let mut parts = Parts {
            target: Target::new(subsystems, &options)?,
            devices: Vec::new(),
        };
        let puts = Arc::new(Puts::new(spec.put_time));
        let mut keys = Keys::default();
        let hosts = spec.realms.iter().map(|realm| &realm.hosts);
        let built = match keys.add(subsystems, hosts).await {
            Ok(()) => build(&mut parts, store, clock, spec, &keys, &puts).await,
            Err(error) => Err(error.into()),
        };
        match built {
            Ok((discovery, realms, watches)) => Ok(Self {
                target: parts.target,
                devices: parts.devices,
                _discovery: discovery,
                realms,
                keys,
                store: store.clone(),
                clock: clock.clone(),
                spec: spec.clone(),
                puts,
                watches,
            }),
            Err(error) => {
                if let Err(also) = parts.end().await {
                    tracing::error!(%also, "what was started of the target did not end in order");
                }
                Err(error)
            }
        }
    }

    /// How many hosts' queues are connected, and how many were refused.
    pub fn connections(&self) -> Arc<Connections> {
        self.target.connections()
    }

    /// Ends it: hosts lose their connections, what they have begun is done first.
    pub async fn stop(self) -> Result<(), StopError> {
        let Self {
            target,
            devices,
            watches,
            ..
        } = self;
        for watch in watches {
            watch.cancel().await;
        }
        Parts { target, devices }.end().await
    }
}

type Built = (Subsystem<Running>, Vec<Served>, Vec<JoinHandle<()>>);

async fn build(
    parts: &mut Parts,
    store: &NodeStore<SpdkDrive>,
    clock: &Clock,
    spec: &NodeSpec,
    keys: &Keys,
    puts: &Arc<Puts>,
) -> Result<Built, StartError> {
    let mut patience = HOST_PATIENCE;
    for transport in &spec.transports {
        if let Specific::Tcp(tcp) = &transport.specific {
            patience = tcp.host_patience.unwrap_or(HOST_PATIENCE);
        }
        let sized = TransportOptions {
            io_bytes_max: Some(IO_BYTES_MAX),
            // One buffer for each command: see the limit.
            io_unit_bytes: Some(IO_BYTES_MAX),
            specific: match &transport.specific {
                Specific::Tcp(tcp) => Specific::Tcp(TcpOptions {
                    host_patience: Some(patience),
                    send_buffer_bytes: tcp.send_buffer_bytes.or(Some(SEND_BUFFER_BYTES)),
                    ..tcp.clone()
                }),
                Specific::Rdma(rdma) => Specific::Rdma(rdma.clone()),
            },
            ..transport.clone()
        };
        parts.target.add_transport(&sized).await?;
    }
    for core in reactor::handle().cores() {
        join(&parts.target, core).await?;
    }
    let mut running = Vec::new();
    for realm in &spec.realms {
        let Parts { target, devices } = parts;
        let of = Of {
            target,
            store,
            clock,
            spec,
            keys,
            puts,
        };
        running.push(of.serve(devices, realm).await?);
    }
    let discovery = parts.target.add_subsystem(&SubsystemSpec::discovery())?;
    for listener in &spec.listeners {
        discovery.add_listener(*listener).await?;
    }
    let puts = puts::watch(puts, clock).map_err(|_| StartError::Tasks)?;
    let refused = tell_of_refused(parts.target.connections());
    let refused = refused.map_err(|_| StartError::Tasks)?;
    let gone = gone::watch(patience)?;
    let watches = [puts, refused].into_iter().chain(gone).collect();
    Ok((discovery.start().await?, running, watches))
}

/// Has the log say now and then that connections were refused, if any were.
fn tell_of_refused(
    connections: Arc<Connections>,
) -> Result<JoinHandle<()>, NoTaskSlot<impl Future<Output = ()> + use<>>> {
    reactor::spawn_local("tell of refused connections", async move {
        let mut told = 0;
        loop {
            reactor::sleep(REFUSED_LOOK).await;
            let refused = connections.refused();
            if refused == told {
                continue;
            }
            tracing::warn!(
                refused = refused - told,
                connections_max = connections.most(),
                "connections of hosts were refused, since there are as many as there may be: raise connections_max, or have hosts ask for fewer queues"
            );
            told = refused;
            reactor::sleep(REFUSED_REST).await;
        }
    })
}

thread_local! {
    /// What serves the target on this core, for its numbers. Where a target has ended they are all zero.
    static SERVES: RefCell<Option<PollGroup>> = const { RefCell::new(None) };
}

/// How many queues of hosts this core has served, and serves.
pub(crate) fn served_here() -> Option<PollGroupStat> {
    SERVES.with_borrow(|group| Some(group.as_ref()?.stat()))
}

/// Has a core serve the target.
async fn join(target: &Target, core: CoreId) -> Result<(), StartError> {
    let groups = target.poll_groups();
    // The target ends the poll group.
    let join = move || async move {
        let group = groups.join()?;
        SERVES.replace(Some(group));
        Ok(())
    };
    let stopped = StartError::Core { core };
    let Ok(joined) = reactor::handle().spawn(core, "serve the target", join) else {
        return Err(stopped);
    };
    match joined.await {
        Ok(joined) => {
            joined.map_err(|source: PollGroupError| StartError::PollGroup { core, source })
        }
        Err(_) => Err(stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_store_and_realm() {
        let id = |store, realm| namespace_id(StoreId([store; 16]), RealmId(realm));
        // Hosts remember it: a change here makes every namespace another one.
        let expected = *b"\0";
        assert_ne!(id(1, 1)[..1], expected);
        assert_eq!(id(1, 1), id(1, 1));
        assert_ne!(id(1, 1), id(1, 2));
        assert_ne!(id(1, 1), id(2, 1));
        assert_eq!((id(1, 1)[6] >> 4, id(1, 1)[8] >> 6), (8, 2));
    }
}
