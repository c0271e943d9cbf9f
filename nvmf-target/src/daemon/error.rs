//! Why a node does not run.

use std::net::SocketAddr;
use std::path::PathBuf;

use oriel_engine::reactor::RunError;
use oriel_engine::store::{DriveError, IndexError, NodeOpenError, OpenError, SpdkDriveError};
use oriel_spdk::bdev::create::CreateError;
use oriel_spdk::env::EnvError;
use oriel_spdk::subsystems::SubsystemsError;

use crate::config::{ConfigError, Device};
use crate::{StartError, StopError};

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
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A device with something on it.
    #[error(
        "the device {device} is not empty: use another one; if what is on it may go, wipe it (wipefs -a, blkdiscard), or format a new store with --overwrite"
    )]
    NotEmpty {
        /// Which.
        device: Device,
    },
    /// No drive of a store.
    #[error(
        "the device {device} is blank, and so are all others: orield format makes them a store's"
    )]
    NotFormatted {
        /// The first of them.
        device: Device,
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
    /// An NVMe drive that has nothing to keep blobs on.
    #[error("the {device} has no namespace: make one (nvme create-ns), or leave the drive out")]
    NoNamespace {
        /// Which.
        device: Device,
    },
    /// What is on a device cannot be looked at.
    #[error("the device {device} cannot be read ({reason}): check its health, or replace it")]
    Unreadable {
        /// Which.
        device: Device,
        /// Why not.
        reason: String,
    },
    /// A drive.
    #[error("{device}: {source}")]
    Drive {
        /// Its device.
        device: Device,
        /// Why not.
        source: SpdkDriveError,
    },
    /// A drive's store.
    #[error("{device}: {source}")]
    Store {
        /// Its device.
        device: Device,
        /// Why not.
        source: OpenError,
    },
    /// A store that is not whole.
    #[error("{problems} problems were found: what was printed names them")]
    Problems {
        /// How many.
        problems: usize,
    },
    /// A drive does not let go.
    #[error("{device}: {source}")]
    Close {
        /// Its device.
        device: Device,
        /// Why not.
        source: DriveError,
    },
    /// No memory for the index.
    #[error("there is no index for {blobs} blobs ({source}): lower blobs_max")]
    Index {
        /// How many.
        blobs: u64,
        /// Why not.
        source: IndexError,
    },
    /// No folder for indexes.
    #[error(
        "the folder {} for the indexes cannot be made ({source}): name another one as index, or leave that out to have them in memory", path.display()
    )]
    IndexFolder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Open(#[from] NodeOpenError),
    /// The target.
    #[error(transparent)]
    Start(#[from] StartError),
    /// SIGHUP.
    #[error("SIGHUP cannot be waited for ({0}): are there enough files and threads?")]
    Signal(#[source] std::io::Error),
    /// Its status.
    #[error(
        "the status cannot be served at {address} ({source}): give [status] an address of this machine and a port that is free"
    )]
    Status {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Its end.
    #[error(transparent)]
    Stop(#[from] StopError),
}

impl DaemonError {
    /// Whether a device is not there, or does not answer, rather than being another one than it should be.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Create(CreateError::Open { source, .. }) => {
                source.kind() != std::io::ErrorKind::PermissionDenied
            }
            Self::Create(CreateError::NoPciDevice { .. } | CreateError::NvmeFailed { .. }) => true,
            _ => false,
        }
    }
}
