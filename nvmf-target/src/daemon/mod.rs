//! A node as a program: from a configuration to its end by a signal.

mod change;
mod check;
mod dev;
mod devices;
mod drives;
mod error;
mod indexes;
mod notify;
mod reload;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oriel_engine::clock::Clock;
use oriel_engine::reactor::{
    self, Backoff, JoinHandle, ReactorConfig, ReactorHandle, attach, sleep, spawn_local,
};
use oriel_engine::store::{
    NodeFormat, NodeOptions, NodeStore, OpenOptions, SpdkDrive, format_node, open_node,
};
use oriel_spdk::env::Pci;
use oriel_spdk::nvmf::{RdmaOptions, TcpOptions, TransportKind, TransportOptions};
use oriel_spdk::{EnvOptions, SpdkThread, Subsystems};

use crate::config::{Config, Device};
use crate::limits::PUT_TIME;
use crate::observe::{Endpoint, Identity, Record, Serving};
use crate::{Node, NodeSpec};
use change::Changing;
pub use check::check_drives;
pub use dev::dev;
use devices::{Devices, Tools};
pub use error::DaemonError;
use indexes::Indexes;
use notify::{Listener, watchdog_period};
use reload::{Desk, Reloads};

/// Bytes at a device's beginning and end that are looked at before it is formatted.
const LOOKED_AT: u64 = 1 << 20;
/// How long one thing may hold a core before the log names it, on machines that nodes share with other programs.
const HELD_LIMIT: Duration = Duration::from_secs(1);

/// What is done with devices that are made drives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum New {
    /// They are drives already.
    No,
    /// They have to be empty.
    IfEmpty,
    /// What is on them may be lost.
    Overwrite,
}

/// Makes the configured devices the drives of a new store.
pub fn format(config: &Config, may_overwrite: bool) -> Result<(), DaemonError> {
    let config = config.clone();
    let new = match may_overwrite {
        true => New::Overwrite,
        false => New::IfEmpty,
    };
    on_reactors(&config.clone(), move |reactors, subsystems| async move {
        let made = Box::pin(open(&reactors, &subsystems, &config, new)).await;
        // Drives are let go of in order by those who close a store.
        let closed = match made {
            Ok(opened) => {
                opened.close().await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        Ok((subsystems, closed))
    })
}

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is to be.
    pub config: Config,
    /// The file that says so, which is read again on SIGHUP.
    pub file: PathBuf,
    /// Whether its drives are new, and made a store's.
    pub is_new: bool,
}

/// Serves until SIGTERM or SIGINT, after making new drives a store's. `ready` is called when hosts can connect,
/// with where the node says how it is.
pub fn run(
    source: Source,
    ready: impl FnOnce(Option<SocketAddr>) + 'static,
) -> Result<(), DaemonError> {
    let Source {
        config,
        file,
        is_new,
    } = source;
    let new = match is_new {
        true => New::IfEmpty,
        false => New::No,
    };
    // Before there are reactors, so that its threads are not held to a core of theirs.
    let record = Arc::new(Record::default());
    record.serves(config.realms.clone());
    let endpoint = endpoint(&config, &record)?;
    let reloads = Reloads::start(&file, &config, Arc::clone(&record));
    let reloads = reloads.map_err(DaemonError::Signal)?;
    on_reactors(&config.clone(), move |reactors, subsystems| async move {
        let how = How {
            new,
            endpoint: endpoint.as_ref(),
            reloads: &reloads,
            record: &record,
        };
        let served = Box::pin(serve(&reactors, &subsystems, &config, how, ready)).await;
        Ok((subsystems, served))
    })
}

fn endpoint(config: &Config, record: &Arc<Record>) -> Result<Option<Endpoint>, DaemonError> {
    let Some(address) = config.status else {
        return Ok(None);
    };
    let identity = Identity {
        node: config.node.clone(),
        store: config.store,
        started: Instant::now(),
        record: Arc::clone(record),
    };
    let started = Endpoint::start(address, identity);
    let started = started.map_err(|source| DaemonError::Status { address, source })?;
    Ok(Some(started))
}

/// How a node is served.
struct How<'a> {
    new: New,
    endpoint: Option<&'a Endpoint>,
    reloads: &'a Reloads,
    record: &'a Record,
}

fn node_format(config: &Config) -> NodeFormat {
    NodeFormat {
        drive: config.format,
        ..NodeFormat::default()
    }
}

/// The drives that are not the kernel's.
fn pci(config: &Config) -> Pci {
    let of_device = |device: &Device| match device {
        Device::Path(_) => None,
        Device::Pci(address) => Some(*address),
    };
    let addresses: Vec<_> = config.devices.iter().filter_map(of_device).collect();
    match addresses.is_empty() {
        true => Pci::None,
        false => Pci::Allow(addresses),
    }
}

/// Runs work on reactors, with SPDK; its subsystems are stopped after it.
fn on_reactors<F, Fut>(config: &Config, work: F) -> Result<(), DaemonError>
where
    F: FnOnce(ReactorHandle, Subsystems) -> Fut + 'static,
    Fut: Future<Output = Result<(Subsystems, Result<(), DaemonError>), DaemonError>> + 'static,
{
    let env = EnvOptions {
        name: format!("orield-{}", std::process::id()),
        cores: config.cores,
        memory_mib: config.memory_mib,
        hugepages: config.hugepages,
        pci: pci(config),
        ..EnvOptions::default()
    };
    let env = env.start()?;
    let reactors = ReactorConfig {
        held_limit: HELD_LIMIT,
        backoff: Some(Backoff::small_machine()),
        ..ReactorConfig::default()
    };
    let finished = reactor::start(&env, reactors, |reactors| async move {
        attach(SpdkThread::create("main").map_err(|_| DaemonError::Core)?);
        for core in reactors.cores().into_iter().skip(1) {
            let thread = || async { SpdkThread::create("core").map(attach).is_ok() };
            let made = reactors.spawn(core, "make a thread", thread);
            let made = made.map_err(|_| DaemonError::Core)?.await;
            made.ok().filter(|made| *made).ok_or(DaemonError::Core)?;
        }
        let subsystems = Subsystems::start().await?;
        let (subsystems, worked) = Box::pin(work(reactors, subsystems)).await?;
        subsystems.stop().await;
        worked
    })?;
    finished.value
}

/// A store in use.
struct Opened {
    store: NodeStore<SpdkDrive>,
    keeper: JoinHandle<()>,
    clock: Clock,
    devices: Devices,
}

impl Opened {
    async fn close(self) {
        self.store.close();
        self.keeper.await;
    }
}

async fn open(
    reactors: &ReactorHandle,
    subsystems: &Subsystems,
    config: &Config,
    new: New,
) -> Result<Opened, DaemonError> {
    Indexes::of(config).make_folder()?;
    let (mut devices, parts) = Devices::make(subsystems, config, new == New::No).await?;
    if new == New::IfEmpty {
        for part in &parts {
            drives::check_empty(part).await?;
        }
    }
    let mut idle = Vec::new();
    let mut seats = Vec::new();
    if new == New::No {
        for (part, seat) in devices.load(reactors, &parts).await? {
            match seat {
                Some(seat) => seats.push((part, seat)),
                None => idle.push((part, None)),
            }
        }
        if let (true, Some((part, _))) = (seats.is_empty(), idle.first()) {
            let device = part.device.clone();
            return Err(DaemonError::NotFormatted { device });
        }
    } else {
        let made = devices.format(reactors, &parts).await?;
        format_node(&made, config.store, &node_format(config)).await?;
        seats = parts.into_iter().zip(made).collect();
    }
    let clock = Clock::monotonic();
    let options = NodeOptions {
        drive: OpenOptions {
            store: Some(config.store),
            blobs_max: config.blobs_max,
            realms: config
                .realms
                .iter()
                .map(|realm| realm.options.clone())
                .collect(),
            clock: clock.clone(),
            background: config.background,
            ..OpenOptions::default()
        },
        gone: config.gone.iter().copied().collect(),
        ..NodeOptions::default()
    };
    let given = seats.iter().map(|(_, seat)| seat.clone()).collect();
    let (store, keeper, recovery) = Box::pin(open_node(given, options)).await?;
    for (drive, loss) in &recovery.lost {
        tracing::error!(%drive, %loss, "a drive is lost: its blobs cannot be read");
    }
    devices.indexes.tell(&recovery);
    let keeper = spawn_local("the store's keeper", Box::pin(keeper.run()));
    let keeper = keeper.map_err(|_| DaemonError::Core)?;
    for (part, seat) in seats {
        if (recovery.blank.iter()).any(|blank| blank.name == part.name) {
            idle.push((part, Some(seat)));
        }
    }
    let tools = Tools {
        reactors,
        subsystems,
        store: &store,
    };
    devices.settle(tools, config, idle).await;
    devices.indexes.tidy(&store).await;
    Ok(Opened {
        store,
        keeper,
        clock,
        devices,
    })
}

async fn serve(
    reactors: &ReactorHandle,
    subsystems: &Subsystems,
    config: &Config,
    how: How<'_>,
    ready: impl FnOnce(Option<SocketAddr>),
) -> Result<(), DaemonError> {
    let mut opened = Box::pin(open(reactors, subsystems, config, how.new)).await?;
    let spec = NodeSpec {
        node: config.node.clone(),
        store: config.store,
        realms: config.realms.clone(),
        transports: transports(config),
        listeners: config.listeners.clone(),
        connections_max: config.connections_max,
        put_time: PUT_TIME,
    };
    let node = Node::start(subsystems, &opened.store, &opened.clock, &spec);
    let served = match Box::pin(node).await {
        Ok(mut node) => {
            let listener = Listener::of_env();
            if let Some(listener) = &listener {
                listener.tell("READY=1");
            }
            let endpoint = how.endpoint;
            let _told = endpoint.map(|endpoint| {
                let serving = Serving {
                    store: opened.store.clone(),
                    connections: node.connections(),
                };
                endpoint.serve(reactors.clone(), serving)
            });
            let desk = Desk::open();
            let _takes_changes = how.reloads.serve(reactors.clone());
            ready(endpoint.map(Endpoint::address));
            let mut changing = Changing {
                tools: Tools {
                    reactors,
                    subsystems,
                    store: &opened.store,
                },
                node: &mut node,
                devices: &mut opened.devices,
                record: how.record,
            };
            beside(say_alive(reactors.clone()), changing.until_stop(&desk)).await;
            if let Some(listener) = &listener {
                listener.tell("STOPPING=1");
            }
            node.stop().await.map_err(DaemonError::from)
        }
        Err(error) => Err(error.into()),
    };
    opened.close().await;
    served
}

/// Does one thing until the other is done.
async fn beside(meanwhile: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    let (mut meanwhile, mut work) = (pin!(meanwhile), pin!(work));
    let mut is_over = false;
    poll_fn(|cx| {
        is_over = is_over || meanwhile.as_mut().poll(cx).is_ready();
        work.as_mut().poll(cx)
    })
    .await;
}

/// The transports that the listeners need.
fn transports(config: &Config) -> Vec<TransportOptions> {
    let mut kinds: Vec<TransportKind> = Vec::new();
    for listener in &config.listeners {
        if !kinds.contains(&listener.transport) {
            kinds.push(listener.transport);
        }
    }
    let options = |kind| match kind {
        TransportKind::Tcp => TransportOptions::tcp(TcpOptions::default()),
        TransportKind::Rdma => TransportOptions::rdma(RdmaOptions::default()),
    };
    let sized = |kind| TransportOptions {
        // 32 MiB, of the memory that every node has.
        shared_buffers: Some(256),
        buffer_cache: Some(16),
        ..options(kind)
    };
    kinds.into_iter().map(sized).collect()
}

/// Tells whoever watches over the program that all of its cores turn.
async fn say_alive(reactors: ReactorHandle) {
    let (Some(period), Some(listener)) = (watchdog_period(), Listener::of_env()) else {
        return;
    };
    loop {
        for core in reactors.cores() {
            let Ok(turned) = reactors.spawn(core, "say that it is alive", || async {}) else {
                return;
            };
            if turned.await.is_err() {
                return;
            }
        }
        listener.tell("WATCHDOG=1");
        sleep(period).await;
    }
}
