//! What LIST answers: a header of 16 bytes, records of 48, zeros up to the end of the transfer.
//!
//! ```text
//!  byte  0          8       12    16    record  0        32         40       48
//!        ├──────────┼───────┼─────┤             ├────────┼──────────┼────────┤
//!        │ next     │ count │ 0   │             │ key    │ position │ length │
//!        └──────────┴───────┴─────┘             └────────┴──────────┴────────┘
//! ```

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::ListRequest;
use crate::error::{DecodeError, Expected, read};
use crate::limits::{NAMESPACE_BLOCKS, TRANSFER_BYTES_MAX};
use crate::units::{Key, Length, Position};

/// Bytes of the header.
pub const LIST_HEADER_BYTES: usize = 16;

pub(crate) const LISTED_BYTES: usize = 48;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    next: U64,
    count: U32,
    zeros: [u8; 4],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Record {
    key: [u8; 32],
    position: U64,
    length: U64,
}

const _: () =
    assert!(size_of::<Header>() == LIST_HEADER_BYTES && size_of::<Record>() == LISTED_BYTES);

/// A blob in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// The first block of its data; of one in parts, the place where the node has written down what they are.
    pub position: Position,
    /// Its length.
    pub length: Length,
}

impl Listed {
    fn encode(&self) -> [u8; LISTED_BYTES] {
        zerocopy::transmute!(Record {
            key: *self.key.bytes(),
            position: self.position.0.into(),
            length: self.length.get().into(),
        })
    }
}

/// A part of a list, by position.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    records: &'a [[u8; LISTED_BYTES]],
    next: Option<Position>,
}

/// The blobs of a page.
#[derive(Clone, Debug)]
pub struct PageRecords<'a>(std::slice::Iter<'a, [u8; LISTED_BYTES]>);

impl Iterator for PageRecords<'_> {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        // The page was checked as a whole.
        self.0.next().and_then(|record| listed(record).ok())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

fn listed(bytes: &[u8]) -> Result<Listed, DecodeError> {
    let record: Record = read("a record of LIST", bytes)?;
    let length = Length::decode(record.length.get(), "the length of a listed blob")?;
    let field = "the position of a listed blob";
    // One in parts has a block of its own there, and its bytes elsewhere.
    let position = Position::window(record.position.get(), 1, field)?;
    Ok(Listed {
        key: Key::new(record.key),
        position,
        length,
    })
}

impl<'a> Page<'a> {
    /// Records that an answer of so many bytes has room for.
    pub const fn capacity(transfer_bytes: usize) -> usize {
        transfer_bytes.saturating_sub(LIST_HEADER_BYTES) / LISTED_BYTES
    }

    /// Its blobs.
    pub fn blobs(&self) -> PageRecords<'a> {
        PageRecords(self.records.iter())
    }

    /// Where to go on; `None` at the end.
    pub fn next(&self) -> Option<Position> {
        self.next
    }

    /// Writes an answer; `None` if the blobs do not fit.
    pub fn encode(blobs: &[Listed], next: Option<Position>, transfer: &mut [u8]) -> Option<()> {
        if blobs.len() > Self::capacity(transfer.len()) {
            return None;
        }
        let (header, rest) = transfer.split_at_mut(LIST_HEADER_BYTES);
        let bytes: [u8; LIST_HEADER_BYTES] = zerocopy::transmute!(Header {
            next: next.map_or(0, |position| position.0).into(),
            count: (blobs.len() as u32).into(),
            zeros: [0; 4],
        });
        header.copy_from_slice(&bytes);
        let (records, zeros) = rest.split_at_mut(blobs.len() * LISTED_BYTES);
        for (place, blob) in records.chunks_exact_mut(LISTED_BYTES).zip(blobs) {
            place.copy_from_slice(&blob.encode());
        }
        zeros.fill(0);
        Some(())
    }

    /// Reads the answer to a request.
    pub fn decode(request: &ListRequest, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let least = (LIST_HEADER_BYTES + LISTED_BYTES) as u64;
        DecodeError::transfer(
            "LIST",
            bytes.len() as u64,
            least,
            u64::from(TRANSFER_BYTES_MAX),
        )?;
        let (header, rest) = bytes.split_at(LIST_HEADER_BYTES);
        let header: Header = read("the header of LIST", header)?;
        DecodeError::zeros("bytes 12 to 15 of a list", &header.zeros)?;
        let most = Self::capacity(bytes.len()) as u64;
        let count = u64::from(header.count.get());
        let expected = Expected::Between { least: 0, most };
        DecodeError::check(count <= most, "the number of listed blobs", count, expected)?;
        let (records, zeros) = rest.split_at(count as usize * LISTED_BYTES);
        DecodeError::zeros("the bytes behind the last listed blob", zeros)?;
        let (records, _) = records.as_chunks::<LISTED_BYTES>();
        let mut least = request.cursor.0;
        for record in records {
            let blob = listed(record)?;
            // In order, each behind the one before: a list that goes in circles would never end.
            let expected = Expected::Between {
                least,
                most: NAMESPACE_BLOCKS,
            };
            let found = blob.position.0;
            DecodeError::check(
                found >= least,
                "the position of a listed blob",
                found,
                expected,
            )?;
            let is_asked_for = request.prefix.is_of(&blob.key);
            let field = "whether a listed key begins with the prefix";
            DecodeError::exactly(field, u64::from(is_asked_for), 1)?;
            least = found + 1;
        }
        let next = header.next.get();
        if next != 0 {
            // Also a page without blobs goes on behind its cursor.
            let least = if records.is_empty() {
                least.saturating_add(1)
            } else {
                least
            };
            let expected = Expected::Between {
                least,
                most: NAMESPACE_BLOCKS,
            };
            let holds = (least..=NAMESPACE_BLOCKS).contains(&next);
            DecodeError::check(holds, "where the list goes on", next, expected)?;
        }
        let next = (next != 0).then_some(Position(next));
        Ok(Self { records, next })
    }
}
