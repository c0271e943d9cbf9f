//! What MAP answers: a header of 32 bytes and a piece of the routing table, zeros up to the end of the transfer.
//!
//! ```text
//!  byte  0       8        16      20      24    32
//!        ├───────┼────────┼───────┼───────┼─────┤
//!        │ total │ offset │ bytes │ epoch │ 0   │
//!        └───────┴────────┴───────┴───────┴─────┘
//! ```
//!
//! The table's own bytes are those of the ring (`docs/routing.md`), which carry checksums. A table that changes while it is
//! fetched shows another epoch: the client begins again.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, Expected, read};
use crate::limits::{MAP_BYTES_MAX, TRANSFER_BYTES_MAX};
use crate::units::Epoch;

/// Bytes of the header.
pub const CHUNK_HEADER_BYTES: usize = 32;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    total: U64,
    offset: U64,
    bytes: U32,
    epoch: U32,
    zeros: [u8; 8],
}

const _: () = assert!(size_of::<Header>() == CHUNK_HEADER_BYTES);

/// A piece of the routing table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'a> {
    /// Bytes of the whole table; 0 where a node has none.
    pub total: u64,
    /// Where the piece begins.
    pub offset: u64,
    /// The table's version.
    pub epoch: Epoch,
    /// The piece: all that is left, or as much as fits.
    pub bytes: &'a [u8],
}

fn piece_bytes(total: u64, offset: u64, transfer_bytes: u64) -> u64 {
    let room = transfer_bytes.saturating_sub(CHUNK_HEADER_BYTES as u64);
    total.saturating_sub(offset).min(room)
}

impl<'a> Chunk<'a> {
    /// Writes the answer to a MAP from an offset on.
    ///
    /// # Panics
    /// When the transfer is shorter than the header.
    pub fn encode(table: &[u8], offset: u64, epoch: Epoch, transfer: &mut [u8]) {
        let total = table.len() as u64;
        let bytes = piece_bytes(total, offset, transfer.len() as u64) as usize;
        let (header, rest) = transfer.split_at_mut(CHUNK_HEADER_BYTES);
        let of_header: [u8; CHUNK_HEADER_BYTES] = zerocopy::transmute!(Header {
            total: total.into(),
            offset: offset.into(),
            bytes: (bytes as u32).into(),
            epoch: epoch.0.into(),
            zeros: [0; 8],
        });
        header.copy_from_slice(&of_header);
        let (piece, zeros) = rest.split_at_mut(bytes);
        if bytes > 0 {
            let from = offset as usize;
            piece.copy_from_slice(&table[from..from + bytes]);
        }
        zeros.fill(0);
    }

    /// Reads the answer to a MAP from an offset on.
    pub fn decode(offset: u64, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let least = CHUNK_HEADER_BYTES as u64 + 4;
        DecodeError::transfer(
            "MAP",
            bytes.len() as u64,
            least,
            u64::from(TRANSFER_BYTES_MAX),
        )?;
        let (header, rest) = bytes.split_at(CHUNK_HEADER_BYTES);
        let header: Header = read("the header of MAP", header)?;
        DecodeError::zeros(
            "bytes 24 to 31 of a piece of the routing table",
            &header.zeros,
        )?;
        let total = header.total.get();
        let expected = Expected::Between {
            least: 0,
            most: MAP_BYTES_MAX,
        };
        DecodeError::check(
            total <= MAP_BYTES_MAX,
            "the routing table's length",
            total,
            expected,
        )?;
        DecodeError::exactly(
            "the offset of a piece of the routing table",
            header.offset.get(),
            offset,
        )?;
        let length = piece_bytes(total, offset, bytes.len() as u64);
        let field = "the length of a piece of the routing table";
        DecodeError::exactly(field, u64::from(header.bytes.get()), length)?;
        let (piece, zeros) = rest.split_at(length as usize);
        DecodeError::zeros("the bytes behind a piece of the routing table", zeros)?;
        Ok(Self {
            total,
            offset,
            epoch: Epoch(header.epoch.get()),
            bytes: piece,
        })
    }
}
