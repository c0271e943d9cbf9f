//! The discovery log: what else there is, and where.

use std::fmt;

use super::command::{Command, Flow, admin};
use crate::bytes::{text, u16_at, u64_at};

/// Bytes of the log's header, and of each entry.
pub(crate) const ENTRY_BYTES: usize = 1024;

const DISCOVERY_LOG: u32 = 0x70;

/// A part of the discovery log, in whole dwords.
pub(crate) fn get_log(offset: u64, bytes: u32) -> Command {
    // "NUMD" is 0's based and split in two.
    let dwords = bytes / 4 - 1;
    Command::new(admin::GET_LOG_PAGE, 0, Flow::In)
        .dword(10, DISCOVERY_LOG | dwords << 16)
        .dword(11, dwords >> 16)
        .wide(12, offset)
}

/// The log's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogHeader {
    /// Changes with the log.
    pub(crate) generation: u64,
    /// Entries.
    pub(crate) entries: u64,
    /// The layout of the entries; 0 is known.
    pub(crate) format: u16,
}

impl LogHeader {
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            generation: u64_at(bytes, 0),
            entries: u64_at(bytes, 8),
            format: u16_at(bytes, 16),
        }
    }
}

/// The kind of a transport.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transport {
    /// RDMA.
    Rdma,
    /// Fibre Channel.
    FibreChannel,
    /// TCP.
    Tcp,
    /// Another one.
    Other(u8),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rdma => f.write_str("rdma"),
            Self::FibreChannel => f.write_str("fc"),
            Self::Tcp => f.write_str("tcp"),
            Self::Other(number) => write!(f, "transport {number}"),
        }
    }
}

/// A subsystem that can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DiscoveryEntry {
    /// How.
    pub transport: Transport,
    /// Whether it is a discovery service itself.
    pub is_discovery: bool,
    /// Its name.
    pub subsystem: String,
    /// Its address.
    pub address: String,
    /// Its port or service.
    pub service: String,
    /// The number of the port in the subsystem.
    pub port: u16,
    /// Whether it wants a secure channel.
    pub wants_secure_channel: bool,
}

impl DiscoveryEntry {
    pub(crate) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            transport: match bytes[0] {
                1 => Transport::Rdma,
                2 => Transport::FibreChannel,
                3 => Transport::Tcp,
                other => Transport::Other(other),
            },
            // 1: another discovery service; 3: this one.
            is_discovery: matches!(bytes[2], 1 | 3),
            subsystem: text(&bytes[256..512]),
            address: text(&bytes[512..768]),
            service: text(&bytes[32..64]),
            port: u16_at(bytes, 4),
            wants_secure_channel: bytes[3] & 3 == 1,
        }
    }
}
