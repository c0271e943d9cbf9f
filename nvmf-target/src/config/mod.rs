//! What a node is to be, from a TOML file, checked as a whole before anything is touched.
//!
//! ```toml
//! node = "n1"                                  # in the names of its subsystems
//! store = "00112233445566778899aabbccddeeff"   # whose blobs its drives hold
//! index = "index"                              # folder of what makes a start after a stop in order quick
//! gone = [3]                                   # drives that are lost for good, by number: their blobs are given up
//!
//! [background]                                 # what the store does by itself, of each drive
//! scrub_mib_per_second = 32
//!
//! [[device]]
//! path = "drives/0"                            # a file or a block device; from where this file is
//!
//! [[device]]
//! pci = "0000:3b:00.0"                         # or an NVMe drive that vfio-pci holds
//! drain = true                                 # its blobs move to the others, and then it is given back
//!
//! [[listener]]
//! address = "127.0.0.1:4420"
//! transport = "rdma"                           # or "tcp", which is what it is if left out
//!
//! [status]                                     # if left out, the node says nothing of itself over HTTP
//! address = "127.0.0.1:9420"
//!
//! [[realm]]
//! name = "models"
//! id = 1
//! hosts = "any"                                # or ["nqn....", { nqn = "nqn....", key = "keys/gpu7" }, ...]
//! ```

mod change;
mod hosts;
mod print;
mod secret;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oriel_engine::store::{Background, DriveNumber, FormatOptions, StoreId};
use oriel_spdk::nvmf::{Address, has_dh_chap};
use oriel_spdk::{CoreSet, PciAddress, SPDK_RELEASE};

use crate::Realm;
pub use change::{Changes, Fixed};
use text::{Text, Wrong, effective};

/// Blocks in a MiB.
const MIB_BLOCKS: u64 = (1 << 20) / oriel_protocol::limits::BLOCK_BYTES;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{} cannot be read ({source}): name a file that this user may read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}, line {line}: {what}", file.display())]
    Wrong {
        /// Which.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong, and what to do.
        what: String,
    },
}

/// What a drive is on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Device {
    /// A file or a block device, through the kernel.
    Path(PathBuf),
    /// The namespaces of an NVMe drive, which no driver of the kernel has.
    Pci(PciAddress),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Pci(address) => write!(f, "NVMe drive {address}"),
        }
    }
}

/// A node's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Whose blobs its drives hold.
    pub store: StoreId,
    /// The cores that it runs on.
    pub cores: CoreSet,
    /// Its memory.
    pub memory_mib: u32,
    /// Whether that comes from hugepages.
    pub hugepages: bool,
    /// The most blobs of a drive.
    pub blobs_max: u64,
    /// The folder of the files that its drives' indexes lie in; in memory, if there is none.
    pub index: Option<PathBuf>,
    /// The most connections of hosts, if there is a limit.
    pub connections_max: Option<u32>,
    /// How drives are made.
    pub format: FormatOptions,
    /// What the store does by itself, and how fast.
    pub background: Background,
    /// What its drives are on.
    pub devices: Vec<Device>,
    /// Those of them that are to be emptied and given back.
    pub drains: BTreeSet<Device>,
    /// Drives that are lost for good, with all that was on them.
    pub gone: BTreeSet<DriveNumber>,
    /// Where it listens.
    pub listeners: Vec<Address>,
    /// Where it says how it is, over HTTP.
    pub status: Option<SocketAddr>,
    /// The realms.
    pub realms: Vec<Realm>,
}

impl Config {
    /// Reads a file, and looks at the secrets that it names.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        let check_secret =
            |path: &Path| secret::check_file(path).map_err(|error| error.to_string());
        Self::parse_with(file, &text, &Around::linked(file, &check_secret))
    }

    /// Reads the text of a file. Nothing else is looked at.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        Self::parse_with(file, text, &Around::linked(file, &|_| Ok(())))
    }

    fn parse_with(file: &Path, text: &str, around: &Around<'_>) -> Result<Self, ConfigError> {
        let parsed: Result<Text, _> = toml::from_str(text);
        let parsed = parsed.map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            Wrong(span, error.message().trim().replace('\n', "; "))
        });
        let checked = parsed.and_then(|parsed| effective(around, &parsed));
        checked.map_err(|Wrong(at, what)| ConfigError::Wrong {
            file: file.to_owned(),
            line: line(text, at.start),
            what,
        })
    }
}

/// The line that a byte of a text is in, from 1. What is behind its end is in its last line.
fn line(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// What a text is checked against.
struct Around<'a> {
    /// Where paths begin.
    directory: &'a Path,
    /// The linked SPDK.
    release: &'a str,
    has_dh_chap: bool,
    /// What is wrong with a file that should hold a secret.
    check_secret: &'a dyn Fn(&Path) -> Result<(), String>,
}

impl<'a> Around<'a> {
    fn linked(file: &'a Path, check_secret: &'a dyn Fn(&Path) -> Result<(), String>) -> Self {
        Self {
            directory: file.parent().unwrap_or(Path::new(".")),
            release: SPDK_RELEASE,
            has_dh_chap: has_dh_chap(),
            check_secret,
        }
    }
}
