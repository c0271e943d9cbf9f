//! The checksums of a large blob, in blocks right behind its data.
//!
//! ```text
//!  byte  0                                    4080       4088    4092     4096
//!        ├────────────────────────────────────┼──────────┼───────┼────────┤
//!        │ CRC32C of 1020 blocks, zeros after │ position │ index │ CRC32C │
//!        └────────────────────────────────────┴──────────┴───────┴────────┘
//! ```
//!
//! `position` is the first block of the blob's window and `index` counts the trailer's blocks, so that each of them tells
//! by itself whether it is the one that belongs there; the last number is the CRC32C of all before it. A part of a blob is
//! checked with one block of the trailer for each 4 MiB.

use oriel_ec::Crc32c;

use super::record::{u32_at, u64_at};
use super::types::{BLOCK_BYTES, Position};

/// Checksums in a block of a trailer.
pub(crate) const TRAILER_CHECKSUMS: u64 = 1020;

const POSITION_AT: usize = 4080;
const INDEX_AT: usize = 4088;
const CRC_AT: usize = 4092;

const _: () = assert!(TRAILER_CHECKSUMS as usize * 4 == POSITION_AT);
const _: () = assert!(CRC_AT + 4 == BLOCK_BYTES);

/// Writes the trailer, and gives its checksum for the record.
pub(crate) fn encode(
    trailer: &mut [u8],
    position: Position,
    mut of_blocks: impl Iterator<Item = u32>,
) -> u32 {
    for (index, block) in (0_u32..).zip(trailer.chunks_exact_mut(BLOCK_BYTES)) {
        block.fill(0);
        for (place, checksum) in block[..POSITION_AT].chunks_exact_mut(4).zip(&mut of_blocks) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        block[POSITION_AT..INDEX_AT].copy_from_slice(&position.0.to_le_bytes());
        block[INDEX_AT..CRC_AT].copy_from_slice(&index.to_le_bytes());
        let own = Crc32c::of(&block[..CRC_AT]).value();
        block[CRC_AT..].copy_from_slice(&own.to_le_bytes());
    }
    Crc32c::of(trailer).value()
}

/// Makes a trailer that was checked that of a window at another position, and gives its checksum for the record.
pub(crate) fn move_to(trailer: &mut [u8], position: Position) -> u32 {
    for block in trailer.chunks_exact_mut(BLOCK_BYTES) {
        block[POSITION_AT..INDEX_AT].copy_from_slice(&position.0.to_le_bytes());
        let own = Crc32c::of(&block[..CRC_AT]).value();
        block[CRC_AT..].copy_from_slice(&own.to_le_bytes());
    }
    Crc32c::of(trailer).value()
}

/// A block of a trailer that is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WrongTrailer {
    pub(crate) expected: u32,
    pub(crate) found: u32,
}

/// Whether this is block `index` of the trailer of the window at `position`.
pub(crate) fn check(block: &[u8], position: Position, index: u32) -> Result<(), WrongTrailer> {
    let (expected, found) = (u32_at(block, CRC_AT), Crc32c::of(&block[..CRC_AT]).value());
    let belongs = u64_at(block, POSITION_AT) == position.0 && u32_at(block, INDEX_AT) == index;
    // One that is whole and belongs elsewhere shows two checksums that are the same.
    if expected == found && belongs {
        Ok(())
    } else {
        Err(WrongTrailer { expected, found })
    }
}

/// The checksum at a place of a checked block.
pub(crate) fn checksum(block: &[u8], place: u64) -> u32 {
    u32_at(block, place as usize * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_says_what_was_written_and_where_it_belongs() {
        let mut trailer = vec![0xff; 2 * BLOCK_BYTES];
        let position = Position(0x77);
        let whole = encode(&mut trailer, position, 1..=1500);
        assert_eq!(whole, Crc32c::of(&trailer).value());
        let (first, second) = trailer.split_at(BLOCK_BYTES);
        assert_eq!(check(first, position, 0), Ok(()));
        assert_eq!(check(second, position, 1), Ok(()));
        assert_eq!((checksum(first, 0), checksum(first, 1019)), (1, 1020));
        assert_eq!((checksum(second, 0), checksum(second, 479)), (1021, 1500));
        assert_eq!(checksum(second, 480), 0);
        assert!(check(second, position, 0).is_err());
        assert!(check(first, Position(0x78), 0).is_err());
        let mut moved = trailer.clone();
        let whole = move_to(&mut moved, Position(0x78));
        let mut expected = vec![0; 2 * BLOCK_BYTES];
        assert_eq!(whole, encode(&mut expected, Position(0x78), 1..=1500));
        assert_eq!(moved, expected);
        // The format on the drives.
        assert_eq!(second[4080..4092], [0x77, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut flipped = first.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&flipped, position, 0).is_err(), "bit {bit}");
        }
    }
}
