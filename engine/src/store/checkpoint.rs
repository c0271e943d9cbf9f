//! Checkpoints: all that a store knows, so that its journal may begin anew; and the label that says whose drive it is.
//!
//! A checkpoint is an extent of its own. Block 0 is its header and is written last, when all else is durable:
//!
//! ```text
//!  byte  0      4      8               24         32          40        48       56        64
//!        ├──────┼──────┼───────────────┼──────────┼───────────┼─────────┼────────┼─────────┤
//!        │"OC01"│CRC32C│ store         │ epoch    │ next slab │ records │sequence│ 0       │
//!        └──────┴──────┴───────────────┴──────────┴───────────┴─────────┴────────┴─────────┘
//! ```
//!
//! `sequence` is the number of the first frame of the journal that follows. The records come in chunks of 16 blocks:
//!
//! ```text
//!  byte  0      4      8               24      32      40      44     64
//!        ├──────┼──────┼───────────────┼───────┼───────┼───────┼──────┼──────────────────────────────
//!        │"OK01"│CRC32C│ store         │ epoch │ index │ count │ 0    │ records, 64 bytes each
//!        └──────┴──────┴───────────────┴───────┴───────┴───────┴──────┴──────────────────────────────
//! ```
//!
//! The label is one block, written when the store is made:
//!
//! ```text
//!  byte  0          8         12     16              32           40             48        4096
//!        ├──────────┼─────────┼──────┼───────────────┼────────────┼──────────────┼─────────┤
//!        │"ORIELLOG"│ version │CRC32C│ store         │slab blocks │journal blocks│ 0       │
//!        └──────────┴─────────┴──────┴───────────────┴────────────┴──────────────┴─────────┘
//! ```
//!
//! Each checksum covers what follows it, to the end of the header, of the chunk's records, of the label's block.

use oriel_ec::Crc32c;

use super::record::{RECORD_BYTES, Record, u32_at, u64_at};
use super::types::{BLOCK_BYTES, StoreId};

const HEADER_MAGIC: [u8; 4] = *b"OC01";
const CHUNK_MAGIC: [u8; 4] = *b"OK01";
const LABEL_MAGIC: [u8; 8] = *b"ORIELLOG";
const HEADER_BYTES: usize = 64;

/// The version of all formats together.
pub(crate) const VERSION: u32 = 1;

/// Blocks of a chunk.
pub(crate) const CHUNK_BLOCKS: u64 = 16;
/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: usize = CHUNK_BLOCKS as usize * BLOCK_BYTES;
/// Records of a chunk.
pub(crate) const CHUNK_RECORDS: usize = (CHUNK_BYTES - HEADER_BYTES) / RECORD_BYTES;

/// Blocks of a checkpoint of so many records.
pub(crate) const fn checkpoint_blocks(records: u64) -> u64 {
    1 + chunks(records) * CHUNK_BLOCKS
}

/// Chunks of a checkpoint of so many records.
pub(crate) const fn chunks(records: u64) -> u64 {
    records.div_ceil(CHUNK_RECORDS as u64)
}

/// What a checkpoint says besides its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) store: StoreId,
    /// Its number, which the journal that follows carries.
    pub(crate) epoch: u64,
    /// No slab of this number or a higher one was ever used.
    pub(crate) next_slab: u64,
    /// Records in its chunks.
    pub(crate) records: u64,
    /// The first frame of the journal that follows.
    pub(crate) sequence: u64,
}

impl Header {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..4].copy_from_slice(&HEADER_MAGIC);
        block[8..24].copy_from_slice(&self.store.0);
        let numbers = [self.epoch, self.next_slab, self.records, self.sequence];
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
            records: u64_at(block, 40),
            sequence: u64_at(block, 48),
        })
    }
}

/// Writes a chunk of records into its bytes.
pub(crate) fn encode_chunk(header: &Header, index: u64, records: &[Record], chunk: &mut [u8]) {
    chunk.fill(0);
    chunk[..4].copy_from_slice(&CHUNK_MAGIC);
    chunk[8..24].copy_from_slice(&header.store.0);
    chunk[24..32].copy_from_slice(&header.epoch.to_le_bytes());
    chunk[32..40].copy_from_slice(&index.to_le_bytes());
    chunk[40..44].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let places = chunk[HEADER_BYTES..].chunks_exact_mut(RECORD_BYTES);
    for (place, record) in places.zip(records) {
        place.copy_from_slice(&record.encode());
    }
    let used = HEADER_BYTES + records.len() * RECORD_BYTES;
    let checksum = Crc32c::of(&chunk[8..used]).value();
    chunk[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Why a chunk is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WrongChunk {
    pub(crate) expected: u32,
    pub(crate) found: u32,
}

/// The records of a chunk.
pub(crate) fn decode_chunk(
    header: &Header,
    index: u64,
    chunk: &[u8],
) -> Result<Vec<Record>, WrongChunk> {
    let records = (header.records - index * CHUNK_RECORDS as u64).min(CHUNK_RECORDS as u64);
    let used = HEADER_BYTES + records as usize * RECORD_BYTES;
    let (expected, found) = (u32_at(chunk, 4), Crc32c::of(&chunk[8..used]).value());
    let wrong = WrongChunk { expected, found };
    let its_place = chunk[..4] == CHUNK_MAGIC
        && chunk[8..24] == header.store.0
        && u64_at(chunk, 24) == header.epoch
        && u64_at(chunk, 32) == index
        && u64::from(u32_at(chunk, 40)) == records;
    if expected != found || !its_place {
        return Err(wrong);
    }
    let places = chunk[HEADER_BYTES..used].chunks_exact(RECORD_BYTES);
    places
        .map(|place| place.first_chunk().and_then(Record::decode).ok_or(wrong))
        .collect()
}

/// How a store's drive is cut up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    pub(crate) store: StoreId,
    pub(crate) slab_blocks: u64,
    pub(crate) journal_blocks: u64,
}

/// What a label's block holds instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoLabel {
    Foreign,
    Newer { version: u32 },
    Damaged { expected: u32, found: u32 },
}

impl Label {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(&LABEL_MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.store.0);
        block[32..40].copy_from_slice(&self.slab_blocks.to_le_bytes());
        block[40..48].copy_from_slice(&self.journal_blocks.to_le_bytes());
        let checksum = Crc32c::of(&block[16..]).value();
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, NoLabel> {
        if block[..8] != LABEL_MAGIC {
            return Err(NoLabel::Foreign);
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Err(NoLabel::Newer { version });
        }
        let (expected, found) = (u32_at(block, 12), Crc32c::of(&block[16..]).value());
        if expected != found {
            return Err(NoLabel::Damaged { expected, found });
        }
        let mut store = StoreId([0; 16]);
        store.0.copy_from_slice(&block[16..32]);
        Ok(Self {
            store,
            slab_blocks: u64_at(block, 32),
            journal_blocks: u64_at(block, 40),
        })
    }
}
