//! What controllers and namespaces say of themselves.

use super::command::{Command, Flow, admin};
use crate::bytes::{text, u16_at, u32_at, u64_at};

/// Bytes of every Identify data structure.
pub(crate) const IDENTIFY_BYTES: usize = 4096;

/// Identify of the controller.
pub(crate) fn controller() -> Command {
    Command::new(admin::IDENTIFY, 0, Flow::In).dword(10, 1)
}

/// Identify of a namespace.
pub(crate) fn namespace(nsid: u32) -> Command {
    Command::new(admin::IDENTIFY, nsid, Flow::In)
}

/// The active namespaces behind one.
pub(crate) fn namespaces(after: u32) -> Command {
    Command::new(admin::IDENTIFY, after, Flow::In).dword(10, 2)
}

/// A controller.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ControllerData {
    /// Its serial number.
    pub serial: String,
    /// Its model.
    pub model: String,
    /// Its firmware.
    pub firmware: String,
    /// Its number in the subsystem.
    pub id: u16,
    /// The subsystem's name, as it says it.
    pub subsystem: String,
    /// The version of NVMe: major, minor, tertiary.
    pub version: (u16, u8, u8),
    /// Bytes of one command's data at most; `None` for no limit.
    pub transfer_bytes_max: Option<u64>,
    /// Data that a command of an I/O queue may carry in its capsule.
    pub in_capsule_bytes: u32,
    /// Commands that an I/O queue may have under way; 0 if it does not say.
    pub commands_max: u16,
    /// The step of the keep-alive time, in 100 ms; 0 without keep-alive.
    pub keep_alive_granularity: u16,
    /// "ONCS": the optional commands that it knows.
    pub optional_commands: u16,
    /// Whether it has a volatile write cache.
    pub has_write_cache: bool,
    /// Namespaces at most.
    pub namespaces_max: u32,
}

impl ControllerData {
    /// Reads it. The unit of the largest transfer comes from the controller's capabilities.
    pub(crate) fn decode(bytes: &[u8; IDENTIFY_BYTES], page_bits: u32) -> Self {
        let (mdts, version) = (u32::from(bytes[77]), u32_at(bytes, 80));
        // A command's 64 bytes are counted in the capsule. Data that are not to begin right behind them (ICDOFF) go by
        // R2T instead.
        let capsule = u32_at(bytes, 1792).saturating_mul(16);
        let begins_at_once = u16_at(bytes, 1800) == 0;
        Self {
            serial: text(&bytes[4..24]),
            model: text(&bytes[24..64]),
            firmware: text(&bytes[64..72]),
            id: u16_at(bytes, 78),
            subsystem: text(&bytes[768..1024]),
            version: ((version >> 16) as u16, (version >> 8) as u8, version as u8),
            transfer_bytes_max: (mdts != 0)
                .then(|| 1_u64.checked_shl(mdts + page_bits))
                .flatten(),
            in_capsule_bytes: if begins_at_once {
                capsule.saturating_sub(64)
            } else {
                0
            },
            commands_max: u16_at(bytes, 514),
            keep_alive_granularity: u16_at(bytes, 320),
            optional_commands: u16_at(bytes, 520),
            has_write_cache: bytes[525] & 1 != 0,
            namespaces_max: u32_at(bytes, 516),
        }
    }
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NamespaceData {
    /// Its number in the controller.
    pub nsid: u32,
    /// Blocks that it has.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Its name that no other namespace has, all zeros without one.
    pub nguid: [u8; 16],
    /// The same in eight bytes.
    pub eui64: [u8; 8],
    /// Whether reads of what was never written can be made to fail (DULBE).
    pub can_refuse_unwritten: bool,
}

/// Why a namespace cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceDataError {
    /// There is none of that number.
    #[error("there is no active namespace {nsid}: list those that there are")]
    Inactive {
        /// What was asked for.
        nsid: u32,
    },
    /// Blocks with metadata.
    #[error(
        "namespace {nsid} has {bytes} bytes of metadata with each block, which this client cannot transfer: format it without"
    )]
    Metadata {
        /// Which.
        nsid: u32,
        /// Bytes with each block.
        bytes: u16,
    },
    /// Blocks of a size that cannot be.
    #[error("namespace {nsid} says that its blocks have 2^{bits} bytes: 2^9 to 2^20 can be used")]
    BlockSize {
        /// Which.
        nsid: u32,
        /// What it says.
        bits: u8,
    },
}

impl NamespaceData {
    pub(crate) fn decode(
        nsid: u32,
        bytes: &[u8; IDENTIFY_BYTES],
    ) -> Result<Self, NamespaceDataError> {
        let blocks = u64_at(bytes, 0);
        if blocks == 0 {
            return Err(NamespaceDataError::Inactive { nsid });
        }
        let in_use = bytes[26];
        let format = usize::from(in_use & 0xf | in_use >> 1 & 0x30);
        let format = u32_at(bytes, 128 + format * 4);
        let (metadata, bits) = (format as u16, (format >> 16) as u8);
        if metadata != 0 {
            return Err(NamespaceDataError::Metadata {
                nsid,
                bytes: metadata,
            });
        }
        if !(9..=20).contains(&bits) {
            return Err(NamespaceDataError::BlockSize { nsid, bits });
        }
        let mut data = Self {
            nsid,
            blocks,
            block_bytes: 1 << bits,
            nguid: [0; 16],
            eui64: [0; 8],
            can_refuse_unwritten: bytes[24] & 1 << 2 != 0,
        };
        data.nguid.copy_from_slice(&bytes[104..120]);
        data.eui64.copy_from_slice(&bytes[120..128]);
        Ok(data)
    }
}

/// The numbers in a list of namespaces, which ends with zeros.
pub(crate) fn namespace_list(bytes: &[u8; IDENTIFY_BYTES]) -> Vec<u32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers = numbers.iter().map(|number| u32::from_le_bytes(*number));
    numbers.take_while(|number| *number != 0).collect()
}
