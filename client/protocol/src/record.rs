//! A blob as COMMIT and PUT speak of it, in 64 bytes.
//!
//! ```text
//!  byte  0                               32         40       48         52     53      54       64
//!        ├───────────────────────────────┼──────────┼────────┼──────────┼──────┼───────┼────────┤
//!        │ key                           │ position │ length │ checksum │ kind │ flags │ 0      │
//!        └───────────────────────────────┴──────────┴────────┴──────────┴──────┴───────┴────────┘
//! ```
//!
//! The data of a COMMIT is one record after the other. That of a PUT is one record whose position is 0, the blob's bytes,
//! and zeros up to a multiple of four.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, Expected, read};
use crate::limits::{COMMIT_RECORDS_MAX, TRANSFER_BYTES_MAX, TRANSFER_UNIT};
use crate::units::{Key, KeyKind, Length, Position};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    key: [u8; 32],
    position: U64,
    length: U64,
    checksum: U32,
    kind: u8,
    flags: u8,
    zeros: [u8; 10],
}

const _: () = assert!(size_of::<Wire>() == RECORD_BYTES);

const NAME: u8 = 0;
const CONTENT: u8 = 1;
const HAS_CHECKSUM: u8 = 1;

/// A blob that is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blob {
    /// Its key.
    pub key: Key,
    /// What kind of key that is.
    pub kind: KeyKind,
    /// Its length.
    pub length: Length,
    /// The CRC32C over all blocks of its data, zeros behind its end included, if the client knows it: what the client
    /// believes to have written has to be what arrived.
    pub checksum: Option<u32>,
}

impl Blob {
    fn encode(&self, position: u64) -> [u8; RECORD_BYTES] {
        zerocopy::transmute!(Wire {
            key: *self.key.bytes(),
            position: position.into(),
            length: self.length.get().into(),
            checksum: self.checksum.unwrap_or(0).into(),
            kind: match self.kind {
                KeyKind::Name => NAME,
                KeyKind::Content => CONTENT,
            },
            flags: if self.checksum.is_some() {
                HAS_CHECKSUM
            } else {
                0
            },
            zeros: [0; 10],
        })
    }

    fn decode(wire: &Wire) -> Result<Self, DecodeError> {
        DecodeError::zeros("bytes 54 to 63 of the record", &wire.zeros)?;
        let kind = u64::from(wire.kind);
        let expected = Expected::Between {
            least: u64::from(NAME),
            most: u64::from(CONTENT),
        };
        DecodeError::check(
            wire.kind <= CONTENT,
            "the record's key kind",
            kind,
            expected,
        )?;
        DecodeError::bits(
            "the record's flags",
            u64::from(wire.flags),
            u64::from(HAS_CHECKSUM),
        )?;
        let checksum = wire.checksum.get();
        let has_checksum = wire.flags & HAS_CHECKSUM != 0;
        if !has_checksum {
            DecodeError::exactly(
                "the checksum of a record without one",
                u64::from(checksum),
                0,
            )?;
        }
        Ok(Self {
            key: Key::new(wire.key),
            kind: if wire.kind == CONTENT {
                KeyKind::Content
            } else {
                KeyKind::Name
            },
            length: Length::decode(wire.length.get(), "the record's length")?,
            checksum: has_checksum.then_some(checksum),
        })
    }
}

/// The data of a COMMIT; `None` for no records or more than there may be.
pub fn encode_commit(records: &[(Blob, Position)]) -> Option<Vec<u8>> {
    let fits = (1..=COMMIT_RECORDS_MAX).contains(&records.len());
    let encode = |(blob, position): &(Blob, Position)| blob.encode(position.0);
    fits.then(|| records.iter().flat_map(encode).collect())
}

/// One of the records of a COMMIT, of which there are as many as the command said.
pub fn decode_commit(records: u8, data: &[u8], index: u8) -> Result<(Blob, Position), DecodeError> {
    DecodeError::length(
        "COMMIT",
        data.len(),
        u64::from(records) * RECORD_BYTES as u64,
    )?;
    let most = u64::from(records).saturating_sub(1);
    let field = "the index of a record";
    let expected = Expected::Between { least: 0, most };
    DecodeError::check(index < records, field, u64::from(index), expected)?;
    let at = usize::from(index) * RECORD_BYTES;
    let wire: Wire = read("a record", &data[at..at + RECORD_BYTES])?;
    let blob = Blob::decode(&wire)?;
    let blocks = blob.length.blocks();
    let position = Position::window(wire.position.get(), blocks, "the record's position")?;
    Ok((blob, position))
}

/// Bytes of the transfer of a PUT of so many bytes; `None` if one command does not take as many.
pub fn put_bytes(length: Length) -> Option<u32> {
    let bytes = (RECORD_BYTES as u64 + length.get()).next_multiple_of(u64::from(TRANSFER_UNIT));
    let bytes = u32::try_from(bytes).ok()?;
    (bytes <= TRANSFER_BYTES_MAX).then_some(bytes)
}

/// The data of a PUT; `None` if one command does not take as many bytes, or they are not as many as the record says.
pub fn encode_put(blob: &Blob, bytes: &[u8]) -> Option<Vec<u8>> {
    let whole = put_bytes(blob.length)? as usize;
    if bytes.len() as u64 != blob.length.get() {
        return None;
    }
    let mut data = Vec::with_capacity(whole);
    data.extend_from_slice(&blob.encode(0));
    data.extend_from_slice(bytes);
    data.resize(whole, 0);
    Some(data)
}

/// What a PUT brings: its record and the blob's bytes.
pub fn decode_put(data: &[u8]) -> Result<(Blob, &[u8]), DecodeError> {
    let least = RECORD_BYTES as u64 + u64::from(TRANSFER_UNIT);
    DecodeError::transfer(
        "PUT",
        data.len() as u64,
        least,
        u64::from(TRANSFER_BYTES_MAX),
    )?;
    let (record, bytes) = data.split_at(RECORD_BYTES);
    let wire: Wire = read("a record", record)?;
    DecodeError::exactly("the position of a record in a PUT", wire.position.get(), 0)?;
    let blob = Blob::decode(&wire)?;
    let length = blob.length.get();
    // The last dword has at least one of the blob's bytes.
    let most = bytes.len() as u64;
    let least = most - u64::from(TRANSFER_UNIT) + 1;
    let expected = Expected::Between { least, most };
    DecodeError::check(
        (least..=most).contains(&length),
        "the length of a blob in a PUT",
        length,
        expected,
    )?;
    let (bytes, padding) = bytes.split_at(length as usize);
    DecodeError::zeros("the bytes behind a blob in a PUT", padding)?;
    Ok((blob, bytes))
}
