//! A node as a program: from a configuration to its end by a signal.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::reactor::{
    self, Backoff, JoinHandle, ReactorConfig, ReactorHandle, RunError, attach, spawn_local,
    stop_requested,
};
use oriel_engine::store::{
    IndexError, NodeFormat, NodeOpenError, NodeOptions, NodeStore, OpenOptions, Seat, SpdkDrive,
    SpdkDriveError, format_node, index_in_memory, open_node,
};
use oriel_spdk::bdev::create::{self, CreateError};
use oriel_spdk::env::EnvError;
use oriel_spdk::nvmf::{Address, TcpOptions, TransportOptions};
use oriel_spdk::subsystems::SubsystemsError;
use oriel_spdk::{EnvOptions, SpdkThread, Subsystems};

use crate::config::{Config, ConfigError};
use crate::{Node, NodeSpec, StartError, StopError};

/// Bytes of the file that a node for trying out keeps its blobs in. It takes as much of the disk as it holds.
const DEV_BYTES: u64 = 8 << 30;
const DEV_FILE: &str = "drive";
const DEV_CONFIG: &str = "orield.toml";
const BLOCK_BYTES: u32 = 4096;
/// Bytes at a device's beginning and end that are looked at before it is formatted.
const LOOKED_AT: u64 = 1 << 20;
/// How long one thing may hold a core before the log names it, on machines that nodes share with other programs.
const HELD_LIMIT: Duration = Duration::from_secs(1);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A directory or file for trying out.
    #[error("{} cannot be made ({source}): name a directory that this user may write to", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A device that is not there.
    #[error("the device {} cannot be used ({source}): check its path, and who may read and write it", path.display())]
    Device {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A device with something on it.
    #[error("the device {} is not empty: use another one, or format with --overwrite if what is on it may go", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The reactors.
    #[error(transparent)]
    Run(#[from] RunError),
    /// SPDK's subsystems.
    #[error(transparent)]
    Subsystems(#[from] SubsystemsError),
    /// A core has stopped.
    #[error("a core has stopped: restart the program")]
    Core,
    /// A device as SPDK has it.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A drive.
    #[error("{}: {source}", path.display())]
    Drive {
        /// Its device.
        path: PathBuf,
        /// Why not.
        source: SpdkDriveError,
    },
    /// No memory for the index.
    #[error("there is no index for {blobs} blobs ({source}): lower blobs_max")]
    Index {
        /// How many.
        blobs: u64,
        /// Why not.
        source: IndexError,
    },
    /// The store.
    #[error(transparent)]
    Open(#[from] NodeOpenError),
    /// The target.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its end.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// The configuration of a node for trying out, in a directory that is made if it is not there: one file as its drive, one
/// realm for all hosts of this machine. The second is whether the drive is new and to be formatted.
pub fn dev(directory: &Path, port: u16) -> Result<(Config, bool), DaemonError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| DaemonError::Directory { path, source }
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let file = directory.join(DEV_CONFIG);
    let drive = directory.join(DEV_FILE);
    if !file.exists() {
        let mut id = [0; 16];
        let random = Path::new("/dev/urandom");
        File::open(random)
            .and_then(|mut source| source.read_exact(&mut id))
            .map_err(failed(random))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "node = \"dev\"\nstore = \"{id}\"\n\n[format]\nslab_mib = 64\njournal_mib = 16\n\n[[device]]\npath = \"{DEV_FILE}\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{port}\"\n\n[[realm]]\nname = \"default\"\nid = 1\nhosts = \"any\"\n"
        );
        // Whole or not at all.
        let half = directory.join("orield.toml.new");
        File::create(&half)
            .and_then(|mut half| half.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&half, &file))
            .map_err(failed(&file))?;
    }
    let config = Config::read(&file)?;
    let is_new = !drive.exists();
    if is_new {
        File::create(&drive)
            .and_then(|drive| drive.set_len(DEV_BYTES))
            .map_err(failed(&drive))?;
    }
    Ok((config, is_new || is_empty(&drive)?))
}

fn is_empty(path: &Path) -> Result<bool, DaemonError> {
    let look = || {
        let mut device = File::open(path)?;
        let end = device.seek(SeekFrom::End(0))?;
        for from in [0, end.saturating_sub(LOOKED_AT)] {
            device.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            (&device).take(LOOKED_AT).read_to_end(&mut bytes)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    look().map_err(|source| DaemonError::Device {
        path: path.to_owned(),
        source,
    })
}

/// Makes the configured devices the drives of a new store.
pub fn format(config: &Config, may_overwrite: bool) -> Result<(), DaemonError> {
    for path in &config.devices {
        if !may_overwrite && !is_empty(path)? {
            return Err(DaemonError::NotEmpty { path: path.clone() });
        }
    }
    let config = config.clone();
    on_reactors(&config.clone(), |reactors, subsystems| async move {
        let made = Box::pin(open(&reactors, &subsystems, &config, true)).await;
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

/// Serves until SIGTERM or SIGINT, after making new drives a store's. `ready` is called when hosts can connect.
pub fn run(
    config: &Config,
    is_new: bool,
    ready: impl FnOnce() + 'static,
) -> Result<(), DaemonError> {
    let config = config.clone();
    on_reactors(&config.clone(), move |reactors, subsystems| async move {
        let served = Box::pin(serve(&reactors, &subsystems, &config, is_new, ready)).await;
        Ok((subsystems, served))
    })
}

fn node_format(config: &Config) -> NodeFormat {
    NodeFormat {
        drive: config.format,
        ..NodeFormat::default()
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

/// The drives, each on a core.
async fn seats(
    reactors: &ReactorHandle,
    subsystems: &Subsystems,
    config: &Config,
    is_new: bool,
) -> Result<Vec<Seat<SpdkDrive>>, DaemonError> {
    let cores = reactors.cores();
    let mut seats = Vec::new();
    for (at, path) in config.devices.iter().enumerate() {
        let name = format!("drive{at}");
        create::aio(subsystems, &name, path, BLOCK_BYTES).await?;
        let (path, format, blobs) = (path.clone(), config.format, config.blobs_max);
        let load = move || async move {
            let loaded = match is_new {
                true => SpdkDrive::format(&name, &format).await,
                false => SpdkDrive::load(&name).await,
            };
            let drive = loaded.map_err(|source| DaemonError::Drive {
                path: path.clone(),
                source,
            })?;
            let index = index_in_memory(blobs);
            let index = index.map_err(|source| DaemonError::Index { blobs, source })?;
            Ok(Seat::new(drive, index, &path.to_string_lossy()))
        };
        let seat = reactors.spawn(cores[at % cores.len()], "load a drive", load);
        let seat = seat.map_err(|_| DaemonError::Core)?.await;
        seats.push(seat.unwrap_or(Err(DaemonError::Core))?);
    }
    Ok(seats)
}

/// A store in use.
struct Opened {
    store: NodeStore<SpdkDrive>,
    keeper: JoinHandle<()>,
    clock: Clock,
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
    is_new: bool,
) -> Result<Opened, DaemonError> {
    let seats = seats(reactors, subsystems, config, is_new).await?;
    if is_new {
        format_node(&seats, config.store, &node_format(config)).await?;
    }
    let clock = Clock::monotonic();
    let options = NodeOptions {
        drive: OpenOptions {
            store: Some(config.store),
            blobs_max: config.blobs_max,
            realms: config.realms.iter().map(|realm| realm.options).collect(),
            clock: clock.clone(),
            ..OpenOptions::default()
        },
        ..NodeOptions::default()
    };
    let (store, keeper, recovery) = Box::pin(open_node(seats, options)).await?;
    for (drive, loss) in &recovery.lost {
        tracing::error!(%drive, %loss, "a drive is lost: its blobs cannot be read");
    }
    let keeper = spawn_local("the store's keeper", Box::pin(keeper.run()));
    let keeper = keeper.map_err(|_| DaemonError::Core)?;
    Ok(Opened {
        store,
        keeper,
        clock,
    })
}

async fn serve(
    reactors: &ReactorHandle,
    subsystems: &Subsystems,
    config: &Config,
    is_new: bool,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    let opened = Box::pin(open(reactors, subsystems, config, is_new)).await?;
    let spec = NodeSpec {
        node: config.node.clone(),
        store: config.store,
        realms: config.realms.clone(),
        transports: vec![TransportOptions {
            // 32 MiB, of the memory that every node has.
            shared_buffers: Some(256),
            buffer_cache: Some(16),
            ..TransportOptions::tcp(TcpOptions::default())
        }],
        listeners: config.listeners.iter().copied().map(Address::tcp).collect(),
    };
    let node = Node::start(subsystems, &opened.store, &opened.clock, &spec);
    let served = match Box::pin(node).await {
        Ok(node) => {
            ready();
            stop_requested().await;
            node.stop().await.map_err(DaemonError::from)
        }
        Err(error) => Err(error.into()),
    };
    opened.close().await;
    served
}
