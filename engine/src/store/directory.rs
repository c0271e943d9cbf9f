//! A slab's directory: the records of its blobs, at the slab's end.
//!
//! Blocks are written when they are full, from the slab's last block towards its front, in the order in which the blobs
//! were committed, each once:
//!
//! ```text
//!  byte  0      4      8               24     32      40      44     46     64
//!        ├──────┼──────┼───────────────┼──────┼───────┼───────┼──────┼──────┼──────────────────────────────
//!        │"OD01"│CRC32C│ store         │ slab │ index │ count │realm │ 0    │ records, 64 bytes each
//!        └──────┴──────┴───────────────┴──────┴───────┴───────┴──────┴──────┴──────────────────────────────
//! ```
//!
//! The checksum covers the block from byte 8 to its end. Which of a slab's records are in its directory, and which of them
//! are of blobs that were deleted since, is in the checkpoint.

use oriel_ec::Crc32c;

use super::record::{RECORD_BYTES, Record, u32_at, u64_at};
use super::types::{BLOCK_BYTES, RealmId, StoreId};

const MAGIC: [u8; 4] = *b"OD01";
const HEADER_BYTES: usize = 64;

/// Records of a block.
pub(crate) const RECORDS_PER_BLOCK: usize = (BLOCK_BYTES - HEADER_BYTES) / RECORD_BYTES;

/// Blocks of the directory of so many records.
pub(crate) const fn directory_blocks(records: u64) -> u64 {
    records.div_ceil(RECORDS_PER_BLOCK as u64)
}

/// Which block of a directory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) store: StoreId,
    pub(crate) realm: RealmId,
    pub(crate) slab: u64,
}

/// A block that is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WrongBlock {
    /// Not whole.
    Damaged { expected: u32, found: u32 },
    /// Whole, and of another place.
    Elsewhere,
    /// Whole, with something that this version does not know.
    Unknown,
}

/// Writes records into a block.
pub(crate) fn encode(owner: &Owner, index: u64, records: &[Record], block: &mut [u8]) {
    block.fill(0);
    block[..4].copy_from_slice(&MAGIC);
    block[8..24].copy_from_slice(&owner.store.0);
    block[24..32].copy_from_slice(&owner.slab.to_le_bytes());
    block[32..40].copy_from_slice(&index.to_le_bytes());
    block[40..44].copy_from_slice(&(records.len() as u32).to_le_bytes());
    block[44..46].copy_from_slice(&owner.realm.0.to_le_bytes());
    let places = block[HEADER_BYTES..].chunks_exact_mut(RECORD_BYTES);
    for (place, record) in places.zip(records) {
        place.copy_from_slice(&record.encode());
    }
    let checksum = Crc32c::of(&block[8..]).value();
    block[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The records of block `index`.
pub(crate) fn decode(owner: &Owner, index: u64, block: &[u8]) -> Result<Vec<Record>, WrongBlock> {
    let (expected, found) = (u32_at(block, 4), Crc32c::of(&block[8..]).value());
    if expected != found || block[..4] != MAGIC {
        return Err(WrongBlock::Damaged { expected, found });
    }
    let belongs = block[8..24] == owner.store.0
        && u64_at(block, 24) == owner.slab
        && u64_at(block, 32) == index
        && block[44..46] == owner.realm.0.to_le_bytes();
    if !belongs {
        return Err(WrongBlock::Elsewhere);
    }
    let count = u32_at(block, 40) as usize;
    let (records, rest) = block[HEADER_BYTES..].as_chunks::<RECORD_BYTES>();
    debug_assert!(rest.is_empty());
    let records = records.get(..count).ok_or(WrongBlock::Unknown)?;
    let records: Option<Vec<Record>> = records.iter().map(Record::decode).collect();
    records.ok_or(WrongBlock::Unknown)
}

#[cfg(test)]
mod tests {
    use super::super::record::Role;
    use super::super::types::{Key, KeyKind, Position};
    use super::*;

    const OWNER: Owner = Owner {
        store: StoreId([7; 16]),
        realm: RealmId(0x203),
        slab: 9,
    };

    fn records(count: u8) -> Vec<Record> {
        let record = |number: u8| Record {
            key: Key::new([number; 32]),
            kind: KeyKind::Content,
            position: Position(0x1200 + u64::from(number)),
            length: 5000,
            checksum: 0xaabb_ccdd,
            role: Role::Whole,
        };
        (0..count).map(record).collect()
    }

    #[test]
    fn a_block_says_what_was_written() {
        let mut block = vec![0xff; BLOCK_BYTES];
        for count in [0, 1, RECORDS_PER_BLOCK as u8] {
            encode(&OWNER, 4, &records(count), &mut block);
            assert_eq!(decode(&OWNER, 4, &block), Ok(records(count)));
        }
        assert_eq!(decode(&OWNER, 5, &block), Err(WrongBlock::Elsewhere));
        let other = Owner { slab: 8, ..OWNER };
        assert_eq!(decode(&other, 4, &block), Err(WrongBlock::Elsewhere));
        let realm = RealmId(1);
        let other = Owner { realm, ..OWNER };
        assert_eq!(decode(&other, 4, &block), Err(WrongBlock::Elsewhere));
    }

    /// The format on the drives: a change here needs another magic.
    #[test]
    fn the_bytes_of_a_block_are_these() {
        let mut block = vec![0xff; BLOCK_BYTES];
        encode(&OWNER, 4, &records(2)[1..], &mut block);
        let header = [
            &b"OD01"[..],
            &Crc32c::of(&block[8..]).value().to_le_bytes(),
            &[7; 16],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0],
            &[3, 2],
            &[0; 18],
        ];
        assert_eq!(block[..64], header.concat());
        let record = [
            &[1; 32][..],
            &[1, 0x12, 0, 0, 0, 0, 0, 0],
            &[0x88, 0x13, 0, 0, 0, 0, 0, 1],
            &[0xdd, 0xcc, 0xbb, 0xaa],
            &[0; 12],
        ];
        assert_eq!(block[64..128], record.concat());
        assert!(block[128..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let mut block = vec![0; BLOCK_BYTES];
        encode(&OWNER, 4, &records(3), &mut block);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let wrong = decode(&OWNER, 4, &flipped);
            assert!(
                matches!(wrong, Err(WrongBlock::Damaged { .. })),
                "bit {bit}"
            );
        }
    }
}
