//! Checkpoints: all that a store knows beyond its slabs' directories, so that its journal may begin anew.
//!
//! A checkpoint is an extent of its own. Block 0 is its header and is written last, when all else is durable:
//!
//! ```text
//!  byte  0      4      8               24         32          40         48       56        64
//!        ├──────┼──────┼───────────────┼──────────┼───────────┼──────────┼────────┼─────────┤
//!        │"OC01"│CRC32C│ store         │ epoch    │ next slab │body bytes│sequence│ tag     │
//!        └──────┴──────┴───────────────┴──────────┴───────────┴──────────┴────────┴─────────┘
//! ```
//!
//! `sequence` is the number of the first frame of the journal that follows. `tag` is 0, or a number drawn at a stop after
//! which nothing follows: an index that has it, too, is of this very checkpoint (see `stamp.rs`). The body is cut into
//! chunks of 16 blocks, the last one as short as it may be:
//!
//! ```text
//!  byte  0      4      8               24      32      40      44     64
//!        ├──────┼──────┼───────────────┼───────┼───────┼───────┼──────┼──────────────────────────────
//!        │"OK01"│CRC32C│ store         │ epoch │ index │ bytes │ 0    │ a part of the body
//!        └──────┴──────┴───────────────┴───────┴───────┴───────┴──────┴──────────────────────────────
//! ```
//!
//! It lists the slabs, by number, each a multiple of 8 bytes:
//!
//! ```text
//!  byte  0        8       10     12        16             20     24
//!        ├────────┼───────┼──────┼─────────┼──────────────┼──────┼──────────────────┬──────────────────────┬───────┐
//!        │ number │ realm │ with │ records │ in directory │ live │ the other records│ bits of the dead ones│ table │
//!        └────────┴───────┴──────┴─────────┴──────────────┴──────┴──────────────────┴──────────────────────┴───────┘
//! ```
//!
//! Of a slab's `records`, so many are in its directory, and the rest stand here, 64 bytes each, in the order in which they
//! were committed. If bit 0 of `with` is 1, then bits follow, one for each record in the order of their positions, padded
//! to 8 bytes: 1 for a blob that was deleted or moved away. If bit 1 is, then `live` are the blocks of the other blobs, 0
//! otherwise, and the table has eight bytes of each record in the same order: the block in the slab where its window
//! begins, and the checksum. It saves reading the directory. Checksums cover what follows them, to the end of the header or
//! of the chunk's part.

use oriel_ec::Crc32c;

use super::record::{RECORD_BYTES, Record, u32_at, u64_at};
use super::types::{BLOCK_BYTES, RealmId, StoreId, blocks_for};

const HEADER_MAGIC: [u8; 4] = *b"OC01";
const CHUNK_MAGIC: [u8; 4] = *b"OK01";
const HEADER_BYTES: usize = 64;
const ROW_BYTES: usize = 24;

/// Blocks of a whole chunk.
pub(crate) const CHUNK_BLOCKS: u64 = 16;
/// Bytes of the body in a whole chunk.
const CHUNK_BODY: usize = CHUNK_BLOCKS as usize * BLOCK_BYTES - HEADER_BYTES;

/// Chunks of a body of so many bytes.
pub(crate) const fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BODY as u64)
}

/// Blocks of chunk `index` of a body of so many bytes.
pub(crate) fn chunk_blocks(bytes: u64, index: u64) -> u64 {
    let rest = (bytes - index * CHUNK_BODY as u64).min(CHUNK_BODY as u64);
    blocks_for(rest + HEADER_BYTES as u64)
}

/// Blocks of a checkpoint with a body of so many bytes.
pub(crate) fn checkpoint_blocks(bytes: u64) -> u64 {
    match chunks(bytes) {
        0 => 1,
        chunks => 1 + (chunks - 1) * CHUNK_BLOCKS + chunk_blocks(bytes, chunks - 1),
    }
}

/// What a checkpoint says besides its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) store: StoreId,
    /// Its number, which the journal that follows carries.
    pub(crate) epoch: u64,
    /// No slab of this number or a higher one was ever used.
    pub(crate) next_slab: u64,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// The first frame of the journal that follows.
    pub(crate) sequence: u64,
    /// What an index of this checkpoint has as well; 0 where there is none.
    pub(crate) tag: u64,
}

impl Header {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..4].copy_from_slice(&HEADER_MAGIC);
        block[8..24].copy_from_slice(&self.store.0);
        let numbers = [
            self.epoch,
            self.next_slab,
            self.bytes,
            self.sequence,
            self.tag,
        ];
        for (place, number) in block[24..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = Crc32c::of(&block[8..HEADER_BYTES]).value();
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// `None` for a checkpoint that was not written to its end.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let whole = block[..4] == HEADER_MAGIC
            && Crc32c::of(&block[8..HEADER_BYTES]).value() == u32_at(block, 4);
        let mut store = StoreId([0; 16]);
        store.0.copy_from_slice(&block[8..24]);
        whole.then(|| Self {
            store,
            epoch: u64_at(block, 24),
            next_slab: u64_at(block, 32),
            bytes: u64_at(block, 40),
            sequence: u64_at(block, 48),
            tag: u64_at(block, 56),
        })
    }
}

/// Writes a part of the body into its chunk.
pub(crate) fn encode_chunk(header: &Header, index: u64, body: &[u8], chunk: &mut [u8]) {
    let from = index as usize * CHUNK_BODY;
    let part = &body[from..body.len().min(from + CHUNK_BODY)];
    chunk.fill(0);
    chunk[..4].copy_from_slice(&CHUNK_MAGIC);
    chunk[8..24].copy_from_slice(&header.store.0);
    chunk[24..32].copy_from_slice(&header.epoch.to_le_bytes());
    chunk[32..40].copy_from_slice(&index.to_le_bytes());
    chunk[40..44].copy_from_slice(&(part.len() as u32).to_le_bytes());
    chunk[HEADER_BYTES..HEADER_BYTES + part.len()].copy_from_slice(part);
    let checksum = Crc32c::of(&chunk[8..HEADER_BYTES + part.len()]).value();
    chunk[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Why a chunk is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WrongChunk {
    pub(crate) expected: u32,
    pub(crate) found: u32,
}

/// The part of the body that a chunk holds.
pub(crate) fn decode_chunk<'a>(
    header: &Header,
    index: u64,
    chunk: &'a [u8],
) -> Result<&'a [u8], WrongChunk> {
    let bytes = (header.bytes - index * CHUNK_BODY as u64).min(CHUNK_BODY as u64);
    let used = HEADER_BYTES + bytes as usize;
    let (expected, found) = (u32_at(chunk, 4), Crc32c::of(&chunk[8..used]).value());
    let its_place = chunk[..4] == CHUNK_MAGIC
        && chunk[8..24] == header.store.0
        && u64_at(chunk, 24) == header.epoch
        && u64_at(chunk, 32) == index
        && u64::from(u32_at(chunk, 40)) == bytes;
    if expected == found && its_place {
        Ok(&chunk[HEADER_BYTES..used])
    } else {
        Err(WrongChunk { expected, found })
    }
}

/// What a checkpoint says of a slab.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    pub(crate) realm: RealmId,
    /// Records of its blobs.
    pub(crate) records: u32,
    /// So many of them are in its directory.
    pub(crate) in_directory: u32,
    /// The others.
    pub(crate) tail: Vec<Record>,
    /// Of each record, in the order of positions, whether it is dead. None if all live.
    pub(crate) dead: Option<Vec<u8>>,
    /// What the store keeps in memory of the slab, to spare reading its directory.
    pub(crate) table: Option<Table>,
}

/// Of each record of a slab, in the order of positions, what the store keeps in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Blocks of windows that hold blobs.
    pub(crate) live: u32,
    /// The block in the slab where the window begins, and the record's checksum.
    pub(crate) known: Vec<(u32, u32)>,
}

/// Bytes of a record in a table.
pub(crate) const TABLE_BYTES: usize = 8;
const WITH_DEAD: u16 = 1;
const WITH_TABLE: u16 = 2;

/// Bytes of a bit for each of so many records.
pub(crate) const fn dead_bytes(records: u32) -> usize {
    (records as usize).div_ceil(64) * 8
}

impl Row {
    /// Blobs that are in the slab.
    pub(crate) fn blobs(&self) -> u64 {
        let bits = self.dead.iter().flatten();
        let dead: u32 = bits.map(|byte| byte.count_ones()).sum();
        u64::from(self.records.saturating_sub(dead))
    }

    /// Whether the record of that rank is of a blob that is gone.
    pub(crate) fn is_dead(&self, rank: usize) -> bool {
        let is_dead = |bits: &Vec<u8>| bits[rank / 8] >> (rank % 8) & 1 == 1;
        self.dead.as_ref().is_some_and(is_dead)
    }

    pub(crate) fn encode(&self, body: &mut Vec<u8>) {
        body.extend(self.number.to_le_bytes());
        body.extend(self.realm.0.to_le_bytes());
        let mut with = 0;
        with |= if self.dead.is_some() { WITH_DEAD } else { 0 };
        with |= if self.table.is_some() { WITH_TABLE } else { 0 };
        body.extend(with.to_le_bytes());
        body.extend(self.records.to_le_bytes());
        body.extend(self.in_directory.to_le_bytes());
        let live = self.table.as_ref().map_or(0, |table| table.live);
        body.extend(live.to_le_bytes());
        for record in &self.tail {
            body.extend(record.encode());
        }
        body.extend(self.dead.iter().flatten());
        for (start, checksum) in self.table.iter().flat_map(|table| &table.known) {
            body.extend(start.to_le_bytes());
            body.extend(checksum.to_le_bytes());
        }
    }

    /// The slabs of a body; `None` for one that says what this version does not know.
    pub(crate) fn decode_all(mut body: &[u8]) -> Option<Vec<Self>> {
        let mut rows = Vec::new();
        while !body.is_empty() {
            let (row, rest) = body.split_at_checked(ROW_BYTES)?;
            let with = u16::from_le_bytes([row[10], row[11]]);
            if with & !(WITH_DEAD | WITH_TABLE) != 0 {
                return None;
            }
            let (has_dead, has_table) = (with & WITH_DEAD != 0, with & WITH_TABLE != 0);
            let (records, in_directory) = (u32_at(row, 12), u32_at(row, 16));
            let others = records.checked_sub(in_directory)? as usize;
            let (tail, rest) = rest.split_at_checked(others.checked_mul(RECORD_BYTES)?)?;
            let (tail, _) = tail.as_chunks::<RECORD_BYTES>();
            let dead = if has_dead { dead_bytes(records) } else { 0 };
            let (dead, rest) = rest.split_at_checked(dead)?;
            let table = if has_table { records as usize } else { 0 };
            let (table, rest) = rest.split_at_checked(table.checked_mul(TABLE_BYTES)?)?;
            let (table, _) = table.as_chunks::<TABLE_BYTES>();
            let known = table.iter().map(|of| (u32_at(of, 0), u32_at(of, 4)));
            body = rest;
            rows.push(Self {
                number: u64_at(row, 0),
                realm: RealmId(u16::from_le_bytes([row[8], row[9]])),
                records,
                in_directory,
                tail: tail.iter().map(Record::decode).collect::<Option<_>>()?,
                dead: has_dead.then(|| dead.to_vec()),
                table: has_table.then(|| Table {
                    live: u32_at(row, 20),
                    known: known.collect(),
                }),
            });
        }
        Some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Role;
    use super::super::types::{Key, KeyKind, Position};
    use super::*;

    fn header(bytes: u64) -> Header {
        Header {
            store: StoreId([7; 16]),
            epoch: 3,
            next_slab: 5,
            bytes,
            sequence: 9,
            tag: 0x0a0b,
        }
    }

    fn row() -> Row {
        let record = Record {
            key: Key::new([0xab; 32]),
            kind: KeyKind::Name,
            position: Position(0x1234),
            length: 5000,
            checksum: 0x0807_0605,
            role: Role::Whole,
        };
        Row {
            number: 4,
            realm: RealmId(0x102),
            records: 65,
            in_directory: 63,
            tail: vec![record; 2],
            dead: Some(vec![1; 16]),
            table: None,
        }
    }

    fn with_table() -> Row {
        let known = (0..65).map(|record| (record * 4, !record)).collect();
        Row {
            table: Some(Table { live: 77, known }),
            ..row()
        }
    }

    #[test]
    fn rows_say_what_was_written() {
        let plain = Row {
            number: 5,
            records: 63,
            tail: Vec::new(),
            dead: None,
            ..row()
        };
        let rows = vec![row(), with_table(), plain];
        let mut body = Vec::new();
        rows.iter().for_each(|row| row.encode(&mut body));
        assert_eq!(Row::decode_all(&body), Some(rows));
        let first = ROW_BYTES + 2 * RECORD_BYTES + 16;
        for cut in 1..body.len() {
            let whole = [first, 2 * first + 65 * TABLE_BYTES].contains(&cut);
            assert_eq!(Row::decode_all(&body[..cut]).is_some(), whole, "{cut}");
        }
    }

    /// The format on the drives: a change here needs another magic.
    #[test]
    fn the_bytes_of_a_checkpoint_are_these() {
        let mut body = Vec::new();
        row().encode(&mut body);
        let start = [
            &[4, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 1, 1, 0],
            &[65, 0, 0, 0, 63, 0, 0, 0, 0, 0, 0, 0],
            &[0xab; 32],
        ];
        assert_eq!(body[..56], start.concat());
        assert_eq!(body.len(), 24 + 128 + 16);
        assert_eq!(body[152..], [1; 16]);
        let mut other = Vec::new();
        with_table().encode(&mut other);
        assert_eq!(
            other[8..24],
            [2, 1, 3, 0, 65, 0, 0, 0, 63, 0, 0, 0, 77, 0, 0, 0]
        );
        assert_eq!(other[24..168], body[24..168]);
        assert_eq!(
            other[168..184],
            [
                0, 0, 0, 0, 255, 255, 255, 255, 4, 0, 0, 0, 254, 255, 255, 255
            ]
        );
        assert_eq!(other.len(), 168 + 65 * 8);

        let header = header(168);
        let mut block = vec![0xff; BLOCK_BYTES];
        header.encode(&mut block);
        let bytes = [
            &b"OC01"[..],
            &Crc32c::of(&block[8..64]).value().to_le_bytes(),
            &[7; 16],
            &[3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[168, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[0x0b, 0x0a, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(block[..64], bytes.concat());
        assert_eq!(Header::decode(&block), Some(header));

        let mut chunk = vec![0xff; BLOCK_BYTES];
        encode_chunk(&header, 0, &body, &mut chunk);
        let bytes = [
            &b"OK01"[..],
            &Crc32c::of(&chunk[8..232]).value().to_le_bytes(),
            &[7; 16],
            &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[168, 0, 0, 0],
            &[0; 20],
        ];
        assert_eq!(chunk[..64], bytes.concat());
        assert_eq!(decode_chunk(&header, 0, &chunk), Ok(&body[..]));
        for bit in 0..232 * 8 {
            let mut flipped = chunk.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_chunk(&header, 0, &flipped).is_err(), "bit {bit}");
        }
        let later = Header { epoch: 4, ..header };
        assert!(decode_chunk(&later, 0, &chunk).is_err());
    }

    #[test]
    fn bodies_of_several_chunks_come_back() {
        let whole = CHUNK_BODY as u64;
        for bytes in [0, 1, 4032, 4033, whole, whole + 1, 3 * whole - 1] {
            let body: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
            let header = header(bytes);
            let mut found = Vec::new();
            let mut blocks = 1;
            for index in 0..chunks(bytes) {
                let of_chunk = chunk_blocks(bytes, index);
                let mut chunk = vec![0; of_chunk as usize * BLOCK_BYTES];
                encode_chunk(&header, index, &body, &mut chunk);
                found.extend_from_slice(decode_chunk(&header, index, &chunk).unwrap());
                blocks += of_chunk;
            }
            assert_eq!((found, blocks), (body, checkpoint_blocks(bytes)));
        }
    }
}
