//! What the programs of a measurement tell each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use oriel_protocol::limits::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

/// Sizes of blobs.
pub(super) const SIZES: [u64; 3] = [4 << 10, 128 << 10, 1 << 20];

/// Bytes of blobs of each size, and of what is read of other drives.
pub(super) const BYTES_OF_SIZE: u64 = 64 << 20;

/// What is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// A drive in memory, behind SPDK's target.
    Raw,
    /// A thick logical volume on such a drive, behind SPDK's target.
    Lvol,
    /// A drive that does nothing, behind SPDK's target.
    Null,
    /// A realm of a store on such a drive.
    Oriel,
    /// Mooncake's store, in memory.
    Mooncake,
    /// Nothing: as many bytes by plain sockets, from where they lie in memory.
    Loopback,
    /// The same, from a copy that is made first, as a drive in memory is read.
    Copied,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lvol => "lvol",
            Self::Null => "null",
            Self::Oriel => "oriel",
            Self::Mooncake => "mooncake",
            Self::Loopback => "loopback",
            Self::Copied => "copied",
        }
    }
}

/// Who attaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Initiator {
    /// SPDK's, by its module for NVMe drives.
    Spdk,
    /// Ours, without SPDK, polled as SPDK's is.
    Rust,
    /// Ours with a thread of its own, which sleeps when there is nothing to do.
    Threaded,
    /// The client of the Python package.
    Python,
    /// Nobody: plain sockets.
    Sockets,
}

impl Initiator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Spdk => "SPDK",
            Self::Rust => "ours",
            Self::Threaded => "thread",
            Self::Python => "Python",
            Self::Sockets => "sockets",
        }
    }
}

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A plain read.
    Read,
    /// A key's window is asked for.
    Locate,
    /// A new blob, answered when it is durable.
    Put,
    /// A blob by its key, checked, into memory of the caller's.
    Get,
}

/// Where a side is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) nqn: String,
}

/// What the targets' program serves.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) sides: BTreeMap<Side, Place>,
    /// The first blocks of the blobs of each size.
    pub(super) windows: BTreeMap<u64, Vec<u64>>,
}

/// A measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) initiator: Initiator,
    pub(super) kind: Kind,
    pub(super) at: Place,
    pub(super) bytes: u64,
    pub(super) depth: u32,
    pub(super) seconds: u32,
    pub(super) seed: u64,
    /// The blocks at which reads begin.
    pub(super) places: Vec<u64>,
    /// How many a second are asked for, at most; as many as there can be, if none.
    pub(super) pace: Option<f64>,
}

/// What a measurement showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Speed {
    pub(super) per_second: f64,
    pub(super) mib_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// What of its core the initiator had, if it never left it by itself.
    pub(super) core: Option<f64>,
}

impl Speed {
    /// How many there were for each second of its core that the initiator had.
    pub(super) fn per_second_of_core(&self) -> f64 {
        self.per_second / self.core.unwrap_or(1.0)
    }
}

/// The key of a blob that the targets' program has put.
pub(super) fn key(bytes: u64, number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&bytes.to_le_bytes());
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key
}

impl Served {
    pub(super) fn has(&self, side: Side) -> bool {
        self.sides.contains_key(&side)
    }

    /// # Panics
    /// Where the side is not served.
    pub(super) fn plan(
        &self,
        side: Side,
        initiator: Initiator,
        (kind, bytes, depth): (Kind, u64, u32),
    ) -> Plan {
        let windows = self.windows.get(&bytes).map_or(&[][..], Vec::as_slice);
        let places = match side {
            Side::Oriel => windows.to_vec(),
            // As many, as long.
            _ => (0..windows.len() as u64)
                .map(|number| number * bytes / BLOCK_BYTES)
                .collect(),
        };
        Plan {
            initiator,
            kind,
            at: self.sides[&side].clone(),
            bytes,
            depth,
            seconds: 1,
            seed: 0,
            places,
            pace: None,
        }
    }
}

impl Plan {
    pub(super) fn timed(self, seconds: u32, seed: u64) -> Self {
        Self {
            seconds,
            seed,
            ..self
        }
    }
}

/// Numbers that a seed gives (SplitMix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}
