//! What the store knows of a blob, in 64 bytes.
//!
//! ```text
//!  byte  0                               32        40        47     48         52     60    62  64
//!        ├───────────────────────────────┼─────────┼─────────┼──────┼──────────┼──────┼─────┼───┤
//!        │ key                           │position │ length  │ kind │ checksum │ of   │ no. │ 0 │
//!        └───────────────────────────────┴─────────┴─────────┴──────┴──────────┴──────┴─────┴───┘
//!  kind  0, 1   a blob under a name, or under the hash of its content; bytes 52 to 63 are 0
//!        2      a part of a large blob: of which put, and its number there (see `parts.rs`)
//!        4, 5   the manifest of a large blob under a name, or under the hash of its content: the blob's length; no number
//! ```
//!
//! The realm is that of the slab that the position lies in. The checksum of a blob of up to four blocks is the CRC32C of
//! those blocks, padding included. A larger one has a trailer right behind its data (see `trailer.rs`), and its record has
//! the CRC32C of that. All numbers are little-endian.

use oriel_ec::Crc32c;

use super::trailer::{self, TRAILER_CHECKSUMS};
use super::types::{BLOCK_BYTES, Form, Key, KeyKind, Location, Position, blocks_for};

/// Bytes of an encoded record.
pub(crate) const RECORD_BYTES: usize = 64;

/// Blobs of up to so many blocks have no trailer: they are read whole to be checked.
pub(crate) const SMALL_BLOCKS: u64 = 4;

/// The longest blob that a record and the index can speak of.
pub(crate) const LENGTH_MAX: u64 = (1 << oriel_dht::limits::LENGTH_BITS) - 1;

const CONTENT: u8 = 1;
const PART: u8 = 2;
const MANIFEST: u8 = 4;

const KIND_AT: usize = 47;
const CHECKSUM_AT: usize = 48;
const OF_AT: usize = 52;
const NUMBER_AT: usize = 60;
const ZERO_AT: usize = 62;

/// What a record's window is to its blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// All of it.
    Whole,
    /// A part of a large one.
    Part {
        /// The put that it is of.
        generation: u64,
        /// Which part, from 0.
        number: u16,
    },
    /// The manifest of a large one.
    Manifest {
        /// The blob's length.
        length: u64,
    },
}

impl Role {
    /// The same, without what is known of that one.
    pub const fn form(&self) -> Form {
        match self {
            Self::Whole => Form::Whole,
            Self::Part { .. } => Form::Part,
            Self::Manifest { .. } => Form::Manifest,
        }
    }
}

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
    /// What its window holds.
    pub role: Role,
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
            form: self.role.form(),
        }
    }

    /// The length of the blob that a client knows under this key.
    pub(crate) fn blob_bytes(&self) -> u64 {
        match self.role {
            Role::Manifest { length } => length,
            Role::Whole | Role::Part { .. } => self.length,
        }
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(self.key.bytes());
        bytes[32..40].copy_from_slice(&self.position.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.length.to_le_bytes());
        let kind = match self.kind {
            KeyKind::Name => 0,
            KeyKind::Content => CONTENT,
        };
        let (form, of, part) = match self.role {
            Role::Whole => (0, 0, 0),
            Role::Part { generation, number } => (PART, generation, number),
            Role::Manifest { length } => (MANIFEST, length, 0),
        };
        bytes[KIND_AT] = kind | form;
        bytes[CHECKSUM_AT..OF_AT].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[OF_AT..NUMBER_AT].copy_from_slice(&of.to_le_bytes());
        bytes[NUMBER_AT..ZERO_AT].copy_from_slice(&part.to_le_bytes());
        bytes
    }

    /// `None` for what this version does not know.
    pub(crate) fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        let kind = match bytes[KIND_AT] & CONTENT {
            0 => KeyKind::Name,
            _ => KeyKind::Content,
        };
        let of = u64_at(bytes, OF_AT);
        let number = u16::from_le_bytes([bytes[NUMBER_AT], bytes[NUMBER_AT + 1]]);
        let role = match (bytes[KIND_AT] & !CONTENT, of, number, kind) {
            (0, 0, 0, _) => Role::Whole,
            (PART, generation, number, KeyKind::Name) => Role::Part { generation, number },
            (MANIFEST, 1..=LENGTH_MAX, 0, _) => Role::Manifest { length: of },
            _ => return None,
        };
        let length = u64_at(bytes, 40) & ((1 << 56) - 1);
        let is_known = (1..=LENGTH_MAX).contains(&length) && bytes[ZERO_AT..] == [0; 2];
        is_known.then_some(Self {
            key: Key::new(key),
            kind,
            position: Position(u64_at(bytes, 32)),
            length,
            checksum: u32_at(bytes, CHECKSUM_AT),
            role,
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

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: Record = Record {
        key: Key::new([3; 32]),
        kind: KeyKind::Content,
        position: Position(0x0102_0304),
        length: 0x0506,
        checksum: 0xaabb_ccdd,
        role: Role::Whole,
    };

    /// The format on the drives: a change here needs another version.
    #[test]
    fn the_bytes_of_a_record_are_these() {
        let with = |kind: u8, rest: [u8; 12]| {
            let mut bytes = [3; RECORD_BYTES];
            bytes[32..40].copy_from_slice(&[4, 3, 2, 1, 0, 0, 0, 0]);
            bytes[40..48].copy_from_slice(&[6, 5, 0, 0, 0, 0, 0, kind]);
            bytes[48..52].copy_from_slice(&[0xdd, 0xcc, 0xbb, 0xaa]);
            bytes[52..].copy_from_slice(&rest);
            bytes
        };
        let part = Record {
            kind: KeyKind::Name,
            role: Role::Part {
                generation: 0x1122_3344_5566_7788,
                number: 0x99aa,
            },
            ..BLOB
        };
        let length = 0x0000_000f_5566_7788;
        let role = Role::Manifest { length };
        let manifest = Record { role, ..BLOB };
        let named = Record {
            kind: KeyKind::Name,
            ..manifest
        };
        let of_part = [
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xaa, 0x99, 0, 0,
        ];
        let of_manifest = [0x88, 0x77, 0x66, 0x55, 0x0f, 0, 0, 0, 0, 0, 0, 0];
        for (record, bytes) in [
            (BLOB, with(1, [0; 12])),
            (part, with(2, of_part)),
            (named, with(4, of_manifest)),
            (manifest, with(5, of_manifest)),
        ] {
            assert_eq!(record.encode(), bytes);
            assert_eq!(Record::decode(&bytes), Some(record));
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let with = |at: usize, byte: u8, role: Role, kind: KeyKind| {
            let mut bytes = Record { role, kind, ..BLOB }.encode();
            bytes[at] = byte;
            Record::decode(&bytes)
        };
        let part = Role::Part {
            generation: 1,
            number: 1,
        };
        let manifest = Role::Manifest { length: 1 };
        for kind in [3, 6, 7, 8, 9, 0x80] {
            assert_eq!(with(47, kind, Role::Whole, KeyKind::Name), None, "{kind}");
        }
        for at in 52..64 {
            assert_eq!(with(at, 1, Role::Whole, KeyKind::Name), None, "{at}");
        }
        for at in [62, 63] {
            assert_eq!(with(at, 1, part, KeyKind::Name), None, "{at}");
        }
        for at in 57..64 {
            assert_eq!(with(at, 1, manifest, KeyKind::Name), None, "{at}");
        }
        // A part has no content of its own, and no large blob is empty.
        assert_eq!(with(47, 3, part, KeyKind::Name), None);
        assert_eq!(with(52, 0, manifest, KeyKind::Name), None);
    }
}
