//! Frames of the journal: what one group commit writes.
//!
//! ```text
//!  byte  0      4      8               24      32        40      48      52        56        64
//!        ├──────┼──────┼───────────────┼───────┼─────────┼───────┼───────┼─────────┼─────────┼────────
//!        │"OJ01"│CRC32C│ store         │ epoch │sequence │ block │ bytes │ entries │ 0       │ entries
//!        └──────┴──────┴───────────────┴───────┴─────────┴───────┴───────┴─────────┴─────────┴────────
//! ```
//!
//! The checksum covers all `bytes` from byte 8 on; a frame is padded with zeros to whole blocks. `block` is where in the
//! journal it belongs and `sequence` counts the store's frames, so that a frame that was written somewhere else, or is left
//! from another time, is not taken for the one that is missing. Entries, each a multiple of 8 bytes:
//!
//! ```text
//!  put     1, 7 zeros, record (64 bytes)              the key is at the record's window from now on
//!  delete  2, 7 zeros, key (32), position (8)         the key is gone, if that is where it was
//!  slab    3, 0, realm (2), 4 zeros, number (8)       windows of this slab may follow
//!  move    4, 7 zeros, record (64), position (8)      the blob that was at that position is at the record's window
//!  evict   5, 7 zeros, fingerprint (16), position (8) as delete; what the fingerprint is, is in `keys.rs`
//! ```

use oriel_dht::index::Fingerprint;
use oriel_ec::Crc32c;

use super::record::{RECORD_BYTES, Record, u32_at, u64_at};
use super::types::{BLOCK_BYTES, Key, Position, RealmId, SlabNumber, StoreId};

const MAGIC: [u8; 4] = *b"OJ01";
const HEADER_BYTES: usize = 64;

/// Blocks of the longest frame.
pub(crate) const FRAME_BLOCKS_MAX: u64 = 16;

/// Entries of any kind that fit into the longest frame.
pub(crate) const FRAME_ENTRIES_MAX: usize =
    (FRAME_BLOCKS_MAX as usize * BLOCK_BYTES - HEADER_BYTES) / MOVE_BYTES;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const SLAB: u8 = 3;
const MOVE: u8 = 4;
const EVICT: u8 = 5;
const PUT_BYTES: usize = 8 + RECORD_BYTES;
const DELETE_BYTES: usize = 8 + 32 + 8;
const SLAB_BYTES: usize = 8 + 8;
const MOVE_BYTES: usize = PUT_BYTES + 8;
const EVICT_BYTES: usize = 8 + 16 + 8;

/// One change of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// The key is at the record's window.
    Put(Record),
    /// The key is not at that position any more.
    Delete {
        /// The key.
        key: Key,
        /// Where it was.
        position: Position,
    },
    /// The blob is not at that position any more, to make room.
    Evict {
        /// Which.
        blob: Fingerprint,
        /// Where it was.
        position: Position,
    },
    /// A slab of a realm is in use; numbers up to this one are never used again.
    Slab(SlabNumber, RealmId),
    /// The blob that was at a position is at the record's window, if it was still there.
    Move {
        /// Where it is now.
        record: Record,
        /// Where it was.
        from: Position,
    },
}

/// Where a frame belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The store.
    pub(crate) store: StoreId,
    /// The checkpoint that the frame's journal follows.
    pub(crate) epoch: u64,
    /// Its number among the store's frames.
    pub(crate) sequence: u64,
    /// Its first block in the journal.
    pub(crate) block: u64,
}

/// What stands where a frame is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The frame that belongs there.
    Frame {
        /// What it says.
        entries: Vec<Entry>,
        /// Its blocks.
        blocks: u64,
    },
    /// A whole frame of this store and epoch that belongs somewhere else.
    Elsewhere(Place),
    /// Nothing that was written whole.
    Nothing,
    /// A whole frame with something that this version does not know.
    Unknown,
}

/// The bytes of a frame, in whole blocks.
pub(crate) fn encode(place: &Place, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    for entry in entries {
        let tag = |tag: u8| u64::from(tag).to_le_bytes();
        match entry {
            Entry::Put(record) => {
                bytes.extend(tag(PUT));
                bytes.extend(record.encode());
            }
            Entry::Delete { key, position } => {
                bytes.extend(tag(DELETE));
                bytes.extend(key.bytes());
                bytes.extend(position.0.to_le_bytes());
            }
            Entry::Evict { blob, position } => {
                bytes.extend(tag(EVICT));
                bytes.extend(blob.to_bytes());
                bytes.extend(position.0.to_le_bytes());
            }
            Entry::Slab(number, realm) => {
                bytes.extend((u64::from(SLAB) | u64::from(realm.0) << 16).to_le_bytes());
                bytes.extend(number.0.to_le_bytes());
            }
            Entry::Move { record, from } => {
                bytes.extend(tag(MOVE));
                bytes.extend(record.encode());
                bytes.extend(from.0.to_le_bytes());
            }
        }
    }
    let used = bytes.len();
    bytes.resize(used.next_multiple_of(BLOCK_BYTES), 0);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[8..24].copy_from_slice(&place.store.0);
    bytes[24..32].copy_from_slice(&place.epoch.to_le_bytes());
    bytes[32..40].copy_from_slice(&place.sequence.to_le_bytes());
    bytes[40..48].copy_from_slice(&place.block.to_le_bytes());
    bytes[48..52].copy_from_slice(&(used as u32).to_le_bytes());
    bytes[52..56].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    let checksum = Crc32c::of(&bytes[8..used]).value();
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Looks at bytes that start where the frame of `place` belongs.
pub(crate) fn decode(bytes: &[u8], place: &Place) -> Found {
    if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
        return Found::Nothing;
    }
    let used = u32_at(bytes, 48) as usize;
    let longest = bytes.len().min(FRAME_BLOCKS_MAX as usize * BLOCK_BYTES);
    if used < HEADER_BYTES || used > longest {
        return Found::Nothing;
    }
    if Crc32c::of(&bytes[8..used]).value() != u32_at(bytes, 4) {
        return Found::Nothing;
    }
    let mut store = StoreId([0; 16]);
    store.0.copy_from_slice(&bytes[8..24]);
    let found = Place {
        store,
        epoch: u64_at(bytes, 24),
        sequence: u64_at(bytes, 32),
        block: u64_at(bytes, 40),
    };
    if (found.store, found.epoch) != (place.store, place.epoch) {
        return Found::Nothing;
    }
    if found != *place {
        return Found::Elsewhere(found);
    }
    match decode_entries(&bytes[HEADER_BYTES..used], u32_at(bytes, 52)) {
        Some(entries) => Found::Frame {
            entries,
            blocks: used.div_ceil(BLOCK_BYTES) as u64,
        },
        None => Found::Unknown,
    }
}

fn decode_entries(mut bytes: &[u8], count: u32) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let (tag, rest) = bytes.split_at_checked(8)?;
        let (entry, length) = match *tag.first()? {
            PUT => {
                let record = Record::decode(rest.first_chunk()?)?;
                (Entry::Put(record), PUT_BYTES)
            }
            DELETE => {
                let key = Key::new(*rest.first_chunk()?);
                let position = Position(u64_at(rest.get(32..40)?, 0));
                (Entry::Delete { key, position }, DELETE_BYTES)
            }
            SLAB => {
                let realm = RealmId(u16::from_le_bytes([tag[2], tag[3]]));
                let number = SlabNumber(u64_at(rest.get(..8)?, 0));
                (Entry::Slab(number, realm), SLAB_BYTES)
            }
            EVICT => {
                let blob = Fingerprint::from_bytes(*rest.first_chunk()?);
                let position = Position(u64_at(rest.get(16..24)?, 0));
                (Entry::Evict { blob, position }, EVICT_BYTES)
            }
            MOVE => {
                let record = Record::decode(rest.first_chunk()?)?;
                let from = Position(u64_at(rest.get(RECORD_BYTES..RECORD_BYTES + 8)?, 0));
                (Entry::Move { record, from }, MOVE_BYTES)
            }
            _ => return None,
        };
        entries.push(entry);
        bytes = bytes.get(length..)?;
    }
    bytes.is_empty().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::super::record::Role;
    use super::super::types::KeyKind;
    use super::*;

    fn place() -> Place {
        Place {
            store: StoreId([7; 16]),
            epoch: 3,
            sequence: 9,
            block: 5,
        }
    }

    fn entries() -> Vec<Entry> {
        let key = Key::new([0xab; 32]);
        let record = Record {
            key,
            kind: KeyKind::Content,
            position: Position(0x1234),
            length: 5000,
            checksum: 0x0201,
            role: Role::Whole,
        };
        let position = Position(0x99);
        vec![
            Entry::Slab(SlabNumber(4), RealmId(0x506)),
            Entry::Put(record),
            Entry::Delete { key, position },
            Entry::Move {
                record,
                from: Position(0x98),
            },
            Entry::Evict {
                blob: Fingerprint::from_bytes([0xcd; 16]),
                position: Position(0x97),
            },
        ]
    }

    #[test]
    fn a_frame_says_what_was_written() {
        let bytes = encode(&place(), &entries());
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let found = decode(&bytes, &place());
        let entries = entries();
        assert_eq!(found, Found::Frame { entries, blocks: 1 });
    }

    /// The format on the drives: a change here needs another magic.
    #[test]
    fn the_bytes_of_a_frame_are_these() {
        let bytes = encode(&place(), &entries());
        let header = [
            &b"OJ01"[..],
            &Crc32c::of(&bytes[8..312]).value().to_le_bytes(),
            &[7; 16],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[9, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[56, 1, 0, 0],
            &[5, 0, 0, 0],
            &[0; 8],
        ];
        assert_eq!(bytes[..64], header.concat());
        let slab = [[3, 0, 6, 5, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!(bytes[64..80], slab.concat());
        let put = [
            &[1, 0, 0, 0, 0, 0, 0, 0][..],
            &[0xab; 32],
            &[0x34, 0x12, 0, 0, 0, 0, 0, 0],
            &[0x88, 0x13, 0, 0, 0, 0, 0, 1],
            &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[80..152], put.concat());
        let delete = [
            &[2, 0, 0, 0, 0, 0, 0, 0][..],
            &[0xab; 32],
            &[0x99, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[152..200], delete.concat());
        let moved = [
            &[4, 0, 0, 0, 0, 0, 0, 0][..],
            &put[1..].concat(),
            &[0x98, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[200..280], moved.concat());
        let evict = [
            &[5, 0, 0, 0, 0, 0, 0, 0][..],
            &[0xcd; 16],
            &[0x97, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[280..312], evict.concat());
        assert!(bytes[312..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let bytes = encode(&place(), &entries());
        for bit in 0..312 * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, &place()), Found::Nothing, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_place_is_not_taken_for_the_one_that_is_missing() {
        let bytes = encode(&place(), &entries());
        let later = Place {
            sequence: 10,
            ..place()
        };
        assert_eq!(decode(&bytes, &later), Found::Elsewhere(place()));
        let other_epoch = Place {
            epoch: 4,
            ..place()
        };
        assert_eq!(decode(&bytes, &other_epoch), Found::Nothing);
        let other_store = Place {
            store: StoreId([8; 16]),
            ..place()
        };
        assert_eq!(decode(&bytes, &other_store), Found::Nothing);
    }

    #[test]
    fn the_longest_frame_holds_as_many_entries_as_it_says() {
        let longest = entries()[3];
        let bytes = encode(&place(), &vec![longest; FRAME_ENTRIES_MAX]);
        assert!(bytes.len() <= FRAME_BLOCKS_MAX as usize * BLOCK_BYTES);
        assert!(matches!(decode(&bytes, &place()), Found::Frame { .. }));
    }
}
