//! What the store knows of a blob, in 64 bytes.
//!
//! ```text
//!  byte  0                               32        40        48               64
//!        ├───────────────────────────────┼─────────┼─────────┼────────────────┤
//!        │ key                           │position │ length  │ checksums, 4   │
//!        └───────────────────────────────┴─────────┴─────────┴────────────────┘
//!                                                   56 bits, then 8 for the kind of key
//! ```
//!
//! A blob of up to four blocks has the CRC32C of each in its record. A larger one has, right behind its data, blocks with
//! the CRC32C of each of its blocks, four bytes apiece and zeros to the end of the last one: its **trailer**. The first
//! checksum of the record is then the CRC32C of the trailer's blocks. All numbers are little-endian.

use oriel_ec::Crc32c;

use super::types::{BLOCK_BYTES, Key, KeyKind, Position, blocks_for};

/// Bytes of an encoded record.
pub(crate) const RECORD_BYTES: usize = 64;

/// Blocks whose checksums fit into a record.
pub(crate) const INLINE_BLOCKS: u64 = 4;

/// Checksums that fit into a block of a trailer.
const CHECKSUMS_PER_BLOCK: u64 = BLOCK_BYTES as u64 / 4;

/// The longest blob that a record can speak of.
pub(crate) const LENGTH_MAX: u64 = (1 << 56) - 1;

const KIND_SHIFT: u32 = 56;

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
    /// The checksums of its blocks, or of its trailer.
    pub checksums: [u32; INLINE_BLOCKS as usize],
}

/// Blocks of data of a blob of so many bytes.
pub(crate) const fn data_blocks(length: u64) -> u64 {
    blocks_for(length)
}

/// Blocks of the trailer of a blob of so many bytes.
pub(crate) const fn trailer_blocks(length: u64) -> u64 {
    let data = data_blocks(length);
    if data <= INLINE_BLOCKS {
        0
    } else {
        data.div_ceil(CHECKSUMS_PER_BLOCK)
    }
}

/// Blocks of the window of a blob of so many bytes.
pub(crate) const fn window_blocks(length: u64) -> u64 {
    data_blocks(length) + trailer_blocks(length)
}

/// Fills a window's bytes behind the data (padding and trailer), and gives the record's checksums. `window` starts with
/// `length` bytes of the blob.
pub(crate) fn seal_window(window: &mut [u8], length: u64) -> [u32; INLINE_BLOCKS as usize] {
    let data_bytes = data_blocks(length) as usize * BLOCK_BYTES;
    let (data, trailer) = window.split_at_mut(data_bytes);
    data[length as usize..].fill(0);
    let mut checksums = [0; INLINE_BLOCKS as usize];
    let of_blocks = data
        .chunks_exact(BLOCK_BYTES)
        .map(|block| Crc32c::of(block).value());
    if trailer.is_empty() {
        for (place, checksum) in checksums.iter_mut().zip(of_blocks) {
            *place = checksum;
        }
    } else {
        trailer.fill(0);
        for (place, checksum) in trailer.chunks_exact_mut(4).zip(of_blocks) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        checksums[0] = Crc32c::of(trailer).value();
    }
    checksums
}

/// A block that is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WrongBlock {
    /// The block in the window.
    pub(crate) block: u64,
    /// The checksum that it should have.
    pub(crate) expected: u32,
    /// The one that it has.
    pub(crate) found: u32,
}

impl Record {
    /// Blocks of its window.
    pub fn blocks(&self) -> u64 {
        window_blocks(self.length)
    }

    /// Checks blocks `first..` of the data, given the trailer if the blob has one.
    pub(crate) fn check(&self, first: u64, data: &[u8], trailer: &[u8]) -> Result<(), WrongBlock> {
        if !trailer.is_empty() {
            let found = Crc32c::of(trailer).value();
            if found != self.checksums[0] {
                let block = data_blocks(self.length);
                let expected = self.checksums[0];
                return Err(WrongBlock {
                    block,
                    expected,
                    found,
                });
            }
        }
        for (block, bytes) in (first..).zip(data.chunks_exact(BLOCK_BYTES)) {
            let expected = match trailer.is_empty() {
                true => self.checksums[block as usize],
                false => u32_at(trailer, block as usize * 4),
            };
            let found = Crc32c::of(bytes).value();
            if found != expected {
                return Err(WrongBlock {
                    block,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(self.key.bytes());
        bytes[32..40].copy_from_slice(&self.position.0.to_le_bytes());
        let kind = match self.kind {
            KeyKind::Name => 0,
            KeyKind::Content => 1,
        };
        bytes[40..48].copy_from_slice(&(self.length | kind << KIND_SHIFT).to_le_bytes());
        for (place, checksum) in bytes[48..].chunks_exact_mut(4).zip(self.checksums) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    /// `None` for a kind of key that this version does not know.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        let length = u64_at(bytes, 40);
        let kind = match length >> KIND_SHIFT {
            0 => KeyKind::Name,
            1 => KeyKind::Content,
            _ => return None,
        };
        let mut checksums = [0; INLINE_BLOCKS as usize];
        for (checksum, place) in checksums.iter_mut().zip((48..).step_by(4)) {
            *checksum = u32_at(bytes, place);
        }
        Some(Self {
            key: Key::new(key),
            kind,
            position: Position(u64_at(bytes, 32)),
            length: length & LENGTH_MAX,
            checksums,
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
