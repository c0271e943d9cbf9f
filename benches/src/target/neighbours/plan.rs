//! What the programs of a measurement of neighbours tell each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::super::plan::{Initiator, Kind, Place, Plan};

/// What is read and put by well-behaved hosts: blobs of these lengths.
pub(super) const SIZES: [u64; 2] = [4 << 10, 128 << 10];

/// Connections that the node takes.
pub(super) const CONNECTIONS_MAX: u32 = 32;

/// Blobs of each length in a realm.
pub(super) const BLOBS_OF_SIZE: u64 = 256;

/// A realm, and where its blobs begin, by their lengths.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Site {
    pub(super) nqn: String,
    pub(super) windows: BTreeMap<u64, Vec<u64>>,
}

/// What a node with neighbours serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Neighbourhood {
    pub(super) address: SocketAddr,
    /// The realm of the host that is measured. Its windows are those on the first drive.
    pub(super) own: Site,
    /// Another host's. Its windows are those on the last drive, which may fail.
    pub(super) other: Site,
    /// Another host's, which is full.
    pub(super) full: Site,
    /// One that nobody may connect to.
    pub(super) closed: Site,
}

/// What a neighbour does, again and again until it is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Act {
    /// Reads blobs.
    Read,
    /// Puts blobs, and deletes those that were taken.
    Put,
    /// Connects, and hangs up where it was let in.
    Connect,
    /// Hangs up in the middle of writing.
    Vanish,
    /// Takes all connections that there are, and tries to have more.
    Crowd,
}

/// A neighbour.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Neighbour {
    pub(super) act: Act,
    pub(super) at: Place,
    pub(super) bytes: u64,
    pub(super) depth: u32,
    pub(super) queues: u16,
    /// The blocks at which reads begin.
    pub(super) places: Vec<u64>,
}

/// What a neighbour says when it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// What was done as asked.
    pub(super) done: u64,
    /// What was refused, or failed.
    pub(super) refused: u64,
    /// What it was told first.
    pub(super) told: Option<String>,
}

/// What the host that is measured does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) depth: u32,
}

pub(super) const LOADS: [Load; 3] = [
    Load {
        name: "read 4k QD 32",
        kind: Kind::Read,
        bytes: SIZES[0],
        depth: 32,
    },
    Load {
        name: "read 128k QD 8",
        kind: Kind::Read,
        bytes: SIZES[1],
        depth: 8,
    },
    Load {
        name: "put 4k QD 8",
        kind: Kind::Put,
        bytes: SIZES[0],
        depth: 8,
    },
];

/// Under way at most from a host with a pace, as many as a queue takes: it asks at its pace, not when it has been answered.
pub(super) const PACED_DEPTH: u32 = 127;

impl Neighbourhood {
    fn place(&self, site: &Site) -> Place {
        Place {
            address: self.address,
            nqn: site.nqn.clone(),
        }
    }

    /// What the host does that is measured.
    pub(super) fn plan(&self, load: Load, pace: Option<f64>, seconds: u32, seed: u64) -> Plan {
        Plan {
            initiator: Initiator::Rust,
            kind: load.kind,
            at: self.place(&self.own),
            bytes: load.bytes,
            depth: match pace {
                Some(_) => PACED_DEPTH,
                None => load.depth,
            },
            seconds,
            seed,
            places: places(&self.own, load.bytes),
            pace,
        }
    }

    /// A neighbour with one queue.
    pub(super) fn neighbour(&self, site: &Site, act: Act, bytes: u64, depth: u32) -> Neighbour {
        Neighbour {
            act,
            at: self.place(site),
            bytes,
            depth,
            queues: 1,
            places: places(site, bytes),
        }
    }
}

fn places(site: &Site, bytes: u64) -> Vec<u64> {
    site.windows.get(&bytes).cloned().unwrap_or_default()
}
