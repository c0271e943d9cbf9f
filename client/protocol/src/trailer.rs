//! The vector of checksums of a blob of more than four blocks, in blocks of its own.
//!
//! ```text
//!  byte  0                                    4080       4088    4092     4096
//!        ├────────────────────────────────────┼──────────┼───────┼────────┤
//!        │ CRC32C of 1020 blocks, zeros after │ position │ index │ CRC32C │
//!        └────────────────────────────────────┴──────────┴───────┴────────┘
//! ```
//!
//! `position` is the first block of the blob's data and `index` counts the vector's blocks, so that each of them tells by
//! itself whether it is the one that belongs there; the last number is the CRC32C of all before it. A part of a blob is
//! checked with one block of the vector for each 4 MiB.

use crate::error::{DecodeError, Expected};
use crate::limits::BLOCK_BYTES;
use crate::units::{Length, Position};

/// Checksums in one block.
pub const CHECKSUMS: usize = 1020;

const BYTES: usize = BLOCK_BYTES as usize;
const POSITION_AT: usize = 4080;
const INDEX_AT: usize = 4088;
const CRC_AT: usize = 4092;

const _: () = assert!(CHECKSUMS * 4 == POSITION_AT && CRC_AT + 4 == BYTES);

/// The block of the vector, and the place in it, that a block of data has its checksum at.
pub const fn place_of(block: u64) -> (u64, usize) {
    (
        block / CHECKSUMS as u64,
        (block % CHECKSUMS as u64) as usize,
    )
}

/// Writes a vector into as many blocks as it takes, and gives the CRC32C of all of them.
pub fn encode(
    vector: &mut [u8],
    position: Position,
    checksums: impl IntoIterator<Item = u32>,
) -> u32 {
    let mut checksums = checksums.into_iter();
    for (index, block) in (0_u32..).zip(vector.chunks_exact_mut(BYTES)) {
        block.fill(0);
        for (place, checksum) in block[..POSITION_AT].chunks_exact_mut(4).zip(&mut checksums) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        block[POSITION_AT..INDEX_AT].copy_from_slice(&position.0.to_le_bytes());
        block[INDEX_AT..CRC_AT].copy_from_slice(&index.to_le_bytes());
        let own = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&own.to_le_bytes());
    }
    crc32c::crc32c(vector)
}

/// A block of a vector that was checked.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    checksums: &'a [[u8; 4]],
}

impl<'a> Block<'a> {
    /// Reads block `index` of the vector of the blob of this length at `position`.
    pub fn decode(
        bytes: &'a [u8],
        position: Position,
        length: Length,
        index: u32,
    ) -> Result<Self, DecodeError> {
        DecodeError::length("a block of checksums", bytes.len(), BLOCK_BYTES)?;
        let (checksums, tail) = bytes.split_at(POSITION_AT);
        let number = |range: std::ops::Range<usize>| {
            tail[range]
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let (found, expected) = (crc32c::crc32c(&bytes[..CRC_AT]), number(12..16) as u32);
        if found != expected {
            return Err(DecodeError::Checksum {
                what: "a block of checksums",
                found,
                expected,
            });
        }
        DecodeError::exactly(
            "the position in a block of checksums",
            number(0..8),
            position.0,
        )?;
        DecodeError::exactly(
            "the index of a block of checksums",
            number(8..12),
            u64::from(index),
        )?;
        let before = u64::from(index) * CHECKSUMS as u64;
        let blocks = length.blocks();
        let expected = Expected::Between {
            least: 0,
            most: length.vector_blocks().saturating_sub(1),
        };
        let field = "the index of a block of checksums";
        DecodeError::check(before < blocks, field, u64::from(index), expected)?;
        let used = (blocks - before).min(CHECKSUMS as u64) as usize;
        let (checksums, zeros) = checksums.split_at(used * 4);
        DecodeError::zeros("the bytes behind the last checksum", zeros)?;
        let (checksums, _) = checksums.as_chunks::<4>();
        Ok(Self { checksums })
    }

    /// The checksum at a place; `None` behind the last one.
    pub fn checksum(&self, place: usize) -> Option<u32> {
        self.checksums
            .get(place)
            .map(|bytes| u32::from_le_bytes(*bytes))
    }
}
