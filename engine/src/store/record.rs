//! What the store knows of a blob, in 64 bytes.
//!
//! ```text
//!  byte  0                               32        40        47     48         52           64
//!        ├───────────────────────────────┼─────────┼─────────┼──────┼──────────┼────────────┤
//!        │ key                           │position │ length  │ kind │ checksum │ 0          │
//!        └───────────────────────────────┴─────────┴─────────┴──────┴──────────┴────────────┘
//! ```
//!
//! The realm is that of the slab that the position lies in. The checksum of a blob of up to four blocks is the CRC32C of
//! those blocks, padding included. A larger one has a trailer right behind its data (see `trailer.rs`), and its record has
//! the CRC32C of that. All numbers are little-endian.

use oriel_ec::Crc32c;

use super::trailer::{self, TRAILER_CHECKSUMS};
use super::types::{BLOCK_BYTES, Key, KeyKind, Location, Position, blocks_for};

/// Bytes of an encoded record.
pub(crate) const RECORD_BYTES: usize = 64;

/// Blobs of up to so many blocks have no trailer: they are read whole to be checked.
pub(crate) const SMALL_BLOCKS: u64 = 4;

/// The longest blob that a record and the index can speak of.
pub(crate) const LENGTH_MAX: u64 = (1 << oriel_dht::limits::LENGTH_BITS) - 1;

const KIND_AT: usize = 47;
const CHECKSUM_AT: usize = 48;
const ZERO_AT: usize = 52;

/// Where a blob is, how long it is, and how to tell that it is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its key.
    pub key: Key,
    /// What kind of key that is.
    pub kind: KeyKind,
    /// The first block of its window.
    pub position: Position,
    /// Its length in bytes.
    pub length: u64,
    /// The checksum of its blocks, or of its trailer.
    pub checksum: u32,
}

/// Blocks of data of a blob of so many bytes.
pub(crate) const fn data_blocks(length: u64) -> u64 {
    blocks_for(length)
}

/// Blocks of the trailer of a blob of so many bytes.
pub(crate) const fn trailer_blocks(length: u64) -> u64 {
    let data = data_blocks(length);
    if data <= SMALL_BLOCKS {
        0
    } else {
        data.div_ceil(TRAILER_CHECKSUMS)
    }
}

/// Blocks of the window of a blob of so many bytes.
pub const fn window_blocks(length: u64) -> u64 {
    data_blocks(length) + trailer_blocks(length)
}

/// Fills a window's bytes behind the data (padding and trailer), and gives the record's checksum. `window` starts with
/// `length` bytes of the blob.
pub(crate) fn seal_window(window: &mut [u8], length: u64, position: Position) -> u32 {
    let data_bytes = data_blocks(length) as usize * BLOCK_BYTES;
    let (data, trailer) = window.split_at_mut(data_bytes);
    data[length as usize..].fill(0);
    if trailer.is_empty() {
        return Crc32c::of(data).value();
    }
    let of_blocks = data
        .chunks_exact(BLOCK_BYTES)
        .map(|block| Crc32c::of(block).value());
    trailer::encode(trailer, position, of_blocks)
}

impl Record {
    /// Blocks of its window.
    pub fn blocks(&self) -> u64 {
        window_blocks(self.length)
    }

    /// Where the blob is.
    pub fn location(&self) -> Location {
        Location {
            position: self.position,
            length: self.length,
        }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(self.key.bytes());
        bytes[32..40].copy_from_slice(&self.position.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        bytes[KIND_AT] = match self.kind {
            KeyKind::Name => 0,
            KeyKind::Content => 1,
        };
        bytes[CHECKSUM_AT..ZERO_AT].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// `None` for what this version does not know.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        let kind = match bytes[KIND_AT] {
            0 => KeyKind::Name,
            1 => KeyKind::Content,
            _ => return None,
        };
        let length = u64_at(bytes, 40) & ((1 << 56) - 1);
        let is_known = (1..=LENGTH_MAX).contains(&length) && bytes[ZERO_AT..] == [0; 12];
        is_known.then_some(Self {
            key: Key::new(key),
            kind,
            position: Position(u64_at(bytes, 32)),
            length,
            checksum: u32_at(bytes, CHECKSUM_AT),
        })
    }
}

/// The number at a byte.
///
/// # Panics
/// When the bytes end before it does.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The number at a byte.
///
/// # Panics
/// When the bytes end before it does.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}
