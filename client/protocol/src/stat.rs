//! What STAT answers, in 128 bytes.
//!
//! ```text
//!  byte  0      8         12      16      32         36     38        40       48         56       64
//!        ├──────┼─────────┼───────┼───────┼──────────┼──────┼─────────┼────────┼──────────┼────────┤
//!        │magic │ version │ block │ store │ transfer │ keys │ records │ length │ capacity │ used   │
//!        │      │         │ bytes │       │ bytes    │      │         │        │ blocks   │ blocks │
//!        ├──────┼─────────┼───────┼───────┼──────────┼──────┴─────────┼────────┴──────────┴────────┘
//!       64     72        80      88      96         100              104      112     128
//!        │quota │ realm's │ realm's│reser-│ epoch    │ flags          │ part's │ 0     │
//!        │      │ blocks  │ blobs  │vation│          │                │ bytes  │       │
//!        └──────┴─────────┴────────┴──────┴──────────┴────────────────┴────────┴───────┘
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PROTOCOL_VERSION;
use crate::error::{DecodeError, Expected, read};
use crate::limits::{
    BLOCK_BYTES, COMMIT_RECORDS_MAX, NAMESPACE_BLOCKS, PROBE_KEYS_MAX, TRANSFER_BYTES_MAX,
};
use crate::parts::{check_part_bytes, longest_in_parts};
use crate::units::{Epoch, Length, StoreId};

/// Bytes of the answer.
pub const STAT_BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"ORIELBLB";
const NO_QUOTA: u64 = u64::MAX;
const IS_CACHE: u32 = 1;
/// No client has to know less than this fits.
const TRANSFER_BYTES_MIN: u32 = 4096;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    magic: [u8; 8],
    version: U32,
    block_bytes: U32,
    store: [u8; 16],
    transfer_bytes_max: U32,
    probe_keys_max: U16,
    commit_records_max: U16,
    length_max: U64,
    capacity_blocks: U64,
    used_blocks: U64,
    quota_blocks: U64,
    realm_used_blocks: U64,
    realm_blobs: U64,
    reservations: U64,
    epoch: U32,
    flags: U32,
    part_bytes: U64,
    zeros: [u8; 16],
}

const _: () = assert!(size_of::<Wire>() == STAT_BYTES);

/// A node's limits and figures, as one realm sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Whose blobs these are.
    pub store: StoreId,
    /// The data of one vendor command at most, in bytes.
    pub transfer_bytes_max: u32,
    /// Keys in one PROBE.
    pub probe_keys_max: u16,
    /// Records in one COMMIT.
    pub commit_records_max: u16,
    /// The longest blob that one window takes. A longer one is put by parts.
    pub length_max: Length,
    /// Bytes of each part of a blob but the last one.
    pub part_bytes: u64,
    /// Blocks that the node's drives have for blobs.
    pub capacity_blocks: u64,
    /// Blocks of windows, of all realms, with blobs and reserved.
    pub used_blocks: u64,
    /// Blocks that the realm may have; no limit if `None`.
    pub quota_blocks: Option<u64>,
    /// Blocks that it has.
    pub realm_used_blocks: u64,
    /// Blobs that it has.
    pub realm_blobs: u64,
    /// Windows that are reserved in it and not committed.
    pub reservations: u64,
    /// The version of the node's routing table.
    pub epoch: Epoch,
    /// Whether its blobs make room for others.
    pub is_cache: bool,
}

impl Stat {
    /// The longest blob there can be, in parts.
    pub const fn longest(&self) -> u64 {
        longest_in_parts(self.part_bytes)
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; STAT_BYTES] {
        zerocopy::transmute!(Wire {
            magic: MAGIC,
            version: PROTOCOL_VERSION.into(),
            block_bytes: (BLOCK_BYTES as u32).into(),
            store: self.store.0,
            transfer_bytes_max: self.transfer_bytes_max.into(),
            probe_keys_max: self.probe_keys_max.into(),
            commit_records_max: self.commit_records_max.into(),
            length_max: self.length_max.get().into(),
            capacity_blocks: self.capacity_blocks.into(),
            used_blocks: self.used_blocks.into(),
            quota_blocks: self.quota_blocks.unwrap_or(NO_QUOTA).into(),
            realm_used_blocks: self.realm_used_blocks.into(),
            realm_blobs: self.realm_blobs.into(),
            reservations: self.reservations.into(),
            epoch: self.epoch.0.into(),
            flags: if self.is_cache { IS_CACHE } else { 0 }.into(),
            part_bytes: self.part_bytes.into(),
            zeros: [0; 16],
        })
    }

    /// Reads an answer. Of one of another version nothing but that is read.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire = read("STAT", bytes)?;
        let (magic, expected) = (u64::from_le_bytes(wire.magic), u64::from_le_bytes(MAGIC));
        DecodeError::exactly("the magic number of STAT", magic, expected)?;
        let version = u64::from(wire.version.get());
        DecodeError::exactly(
            "the protocol's version",
            version,
            u64::from(PROTOCOL_VERSION),
        )?;
        DecodeError::exactly(
            "the block's bytes",
            u64::from(wire.block_bytes.get()),
            BLOCK_BYTES,
        )?;
        DecodeError::zeros("bytes 112 to 127 of STAT", &wire.zeros)?;
        DecodeError::bits(
            "the flags of STAT",
            u64::from(wire.flags.get()),
            u64::from(IS_CACHE),
        )?;
        let transfer_bytes_max = wire.transfer_bytes_max.get();
        let (least, most) = (u64::from(TRANSFER_BYTES_MIN), u64::from(TRANSFER_BYTES_MAX));
        within(
            "the largest transfer",
            u64::from(transfer_bytes_max),
            least,
            most,
        )?;
        let keys = wire.probe_keys_max.get();
        within(
            "the keys in one PROBE",
            u64::from(keys),
            1,
            PROBE_KEYS_MAX as u64,
        )?;
        let records = wire.commit_records_max.get();
        within(
            "the records in one COMMIT",
            u64::from(records),
            1,
            COMMIT_RECORDS_MAX as u64,
        )?;
        let part_bytes = wire.part_bytes.get();
        check_part_bytes("the bytes of a part", part_bytes)?;
        let blocks = |field, blocks| within(field, blocks, 0, NAMESPACE_BLOCKS).map(|()| blocks);
        let quota = wire.quota_blocks.get();
        Ok(Self {
            store: StoreId(wire.store),
            transfer_bytes_max,
            probe_keys_max: keys,
            commit_records_max: records,
            part_bytes,
            length_max: Length::decode(wire.length_max.get(), "the longest blob's length")?,
            capacity_blocks: blocks("the node's capacity", wire.capacity_blocks.get())?,
            used_blocks: blocks("the node's used blocks", wire.used_blocks.get())?,
            quota_blocks: match quota {
                NO_QUOTA => None,
                quota => Some(blocks("the realm's quota", quota)?),
            },
            realm_used_blocks: blocks("the realm's used blocks", wire.realm_used_blocks.get())?,
            realm_blobs: blocks("the realm's blobs", wire.realm_blobs.get())?,
            reservations: blocks("the realm's reservations", wire.reservations.get())?,
            epoch: Epoch(wire.epoch.get()),
            is_cache: wire.flags.get() & IS_CACHE != 0,
        })
    }
}

fn within(field: &'static str, found: u64, least: u64, most: u64) -> Result<(), DecodeError> {
    let expected = Expected::Between { least, most };
    DecodeError::check((least..=most).contains(&found), field, found, expected)
}
