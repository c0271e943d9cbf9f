//! Blobs that are longer than one window takes: parts, each in a window of its own.
//!
//! ```text
//!  BEGIN key ──► put, bytes of a part
//!      RESERVE for part n ──► window ──► WRITE ... ──► PART n        several parts at once, in any order
//!      HOLD ──► the put goes on, or is given up
//!  FINISH length ──► the blob is there                              before, nobody sees anything of it
//!
//!  LOCATE key ──► put, length, bytes of a part ──► the key of each part ──► LOCATE ──► its window ──► READ
//! ```
//!
//! A put has a number that no other put of the store has, and a part lies under a key that follows from the blob's key, that
//! number and its own. So what was read of one put is never mixed with what another one has put under the same key.

use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::Arguments;
use crate::error::{DecodeError, Expected, read};
use crate::limits::{BLOCK_BYTES, LENGTH_MAX, PART_BYTES_MAX, PARTS_MAX};
use crate::units::{Key, KeyKind, Length, Position};

/// Bytes of the answer to BEGIN.
pub const BEGUN_BYTES: usize = 32;

/// What the keys of parts are derived in.
const CONTEXT: &str = "oriel 2026-11 parts of large blobs";

const HAS_CHECKSUM: u32 = 1 << 16;
const IS_CONTENT: u32 = 1 << 17;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    put: U64,
    part_bytes: U64,
    time_left_ms: U32,
    zeros: [u8; 12],
}

const _: () = assert!(size_of::<Wire>() == BEGUN_BYTES);

/// The number of a put by parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PutId(pub u64);

/// A part of a put.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PartOf {
    /// The put.
    pub put: PutId,
    /// Which part, from 0.
    pub number: u16,
}

/// What BEGIN answers, in 32 bytes: the put's number, the bytes of a part (64 bits each), the milliseconds after which it is
/// given up if nothing comes (32 bits), and zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    /// The put.
    pub put: PutId,
    /// Bytes of each part but the last one, which has what is left.
    pub part_bytes: u64,
    /// Milliseconds until it is given up if no command for it comes.
    pub time_left_ms: u32,
}

impl Begun {
    /// How long it lasts without a command.
    pub const fn time_left(&self) -> Duration {
        Duration::from_millis(self.time_left_ms as u64)
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; BEGUN_BYTES] {
        zerocopy::transmute!(Wire {
            put: self.put.0.into(),
            part_bytes: self.part_bytes.into(),
            time_left_ms: self.time_left_ms.into(),
            zeros: [0; 12],
        })
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire = read("BEGIN", bytes)?;
        DecodeError::zeros("bytes 20 to 31 of what BEGIN answers", &wire.zeros)?;
        let part_bytes = wire.part_bytes.get();
        check_part_bytes("the bytes of a part", part_bytes)?;
        Ok(Self {
            put: PutId(wire.put.get()),
            part_bytes,
            time_left_ms: wire.time_left_ms.get(),
        })
    }
}

/// What PART says: a window that was reserved for the part and written is the part. All of it stands in the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which part, and of what.
    pub of: PartOf,
    /// The window's first block.
    pub position: Position,
    /// Its bytes: as many as BEGIN said, and in the last part what is left.
    pub length: u32,
    /// The CRC32C over all blocks of its data, zeros behind its end included, if the client knows it.
    pub checksum: Option<u32>,
    /// The kind of the blob's key. The bytes of content are read again, so that FINISH can compare their hash.
    pub kind: KeyKind,
}

impl Part {
    pub(crate) fn arguments(&self) -> Arguments {
        let mut arguments = Arguments::default();
        arguments.set_wide(0, self.of.put.0);
        arguments.set_wide(2, self.position.0);
        arguments.0[4] = self.checksum.unwrap_or(0);
        arguments.0[5] = self.length;
        let has_checksum = self.checksum.map_or(0, |_| HAS_CHECKSUM);
        let is_content = match self.kind {
            KeyKind::Name => 0,
            KeyKind::Content => IS_CONTENT,
        };
        arguments.0[6] = u32::from(self.of.number) | has_checksum | is_content;
        arguments
    }

    pub(crate) fn decode(arguments: &Arguments) -> Result<Self, DecodeError> {
        arguments.nothing_but(&[0, 1, 2, 3, 4, 5, 6])?;
        let (checksum, length, flags) = (arguments.0[4], arguments.0[5], arguments.0[6]);
        let known = u64::from(HAS_CHECKSUM | IS_CONTENT) | u64::from(u16::MAX);
        DecodeError::bits("dword 14, number and flags", u64::from(flags), known)?;
        let has_checksum = flags & HAS_CHECKSUM != 0;
        if !has_checksum {
            let field = "dword 12, the checksum of a part without one";
            DecodeError::exactly(field, u64::from(checksum), 0)?;
        }
        let expected = Expected::Between {
            least: 1,
            most: PART_BYTES_MAX,
        };
        let holds = (1..=PART_BYTES_MAX).contains(&u64::from(length));
        DecodeError::check(holds, "dword 13, the length", u64::from(length), expected)?;
        let blocks = u64::from(length).div_ceil(BLOCK_BYTES);
        let field = "dwords 10 and 11, the position";
        Ok(Self {
            of: PartOf {
                put: PutId(arguments.wide(0)),
                number: flags as u16,
            },
            position: Position::window(arguments.wide(2), blocks, field)?,
            length,
            checksum: has_checksum.then_some(checksum),
            kind: if flags & IS_CONTENT != 0 {
                KeyKind::Content
            } else {
                KeyKind::Name
            },
        })
    }
}

/// What is known of a blob that lies in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InParts {
    /// The put that stored it.
    pub put: PutId,
    /// The blob's length.
    pub length: Length,
    /// Bytes of each part but the last one.
    pub part_bytes: u64,
}

/// A run of bytes of one part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The part.
    pub number: u16,
    /// Where it begins in the part.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl InParts {
    pub(crate) fn decode(put: PutId, length: u64, part_bytes: u64) -> Result<Self, DecodeError> {
        check_part_bytes("the bytes of the location's parts", part_bytes)?;
        let longest = longest_in_parts(part_bytes);
        let expected = Expected::Between {
            least: 1,
            most: longest,
        };
        let field = "the length of a blob in parts";
        DecodeError::check(length <= longest, field, length, expected)?;
        Ok(Self {
            put,
            length: Length::decode(length, field)?,
            part_bytes,
        })
    }

    /// How many parts there are.
    pub const fn parts(&self) -> u32 {
        self.length.get().div_ceil(self.part_bytes) as u32
    }

    /// The key that a part of a blob lies under: the blob's, changed by the BLAKE3 key derivation of put and number (8 and 2
    /// bytes, little-endian).
    pub fn part_key(&self, key: &Key, number: u16) -> Key {
        let mut material = [0; 10];
        material[..8].copy_from_slice(&self.put.0.to_le_bytes());
        material[8..].copy_from_slice(&number.to_le_bytes());
        let mut bytes = blake3::derive_key(CONTEXT, &material);
        for (byte, of_key) in bytes.iter_mut().zip(key.bytes()) {
            *byte ^= of_key;
        }
        Key::new(bytes)
    }

    /// What some bytes of the blob are of its parts, in order. What lies behind its end is left out.
    pub fn pieces(&self, offset: u64, bytes: u64) -> impl Iterator<Item = Piece> + use<> {
        let (size, length) = (self.part_bytes, self.length.get());
        let start = offset.min(length);
        let end = start.saturating_add(bytes).min(length);
        let first = (start / size) as u32;
        let last = if start < end {
            end.div_ceil(size) as u32
        } else {
            first
        };
        (first..last).map(move |number| {
            let begins = u64::from(number) * size;
            let from = start.max(begins);
            Piece {
                number: number as u16,
                offset: from - begins,
                bytes: end.min(begins + size) - from,
            }
        })
    }
}

/// The longest blob that parts of so many bytes make up.
pub const fn longest_in_parts(part_bytes: u64) -> u64 {
    let all = part_bytes.saturating_mul(PARTS_MAX as u64);
    if all < LENGTH_MAX { all } else { LENGTH_MAX }
}

pub(crate) fn check_part_bytes(field: &'static str, found: u64) -> Result<(), DecodeError> {
    let expected = Expected::MultipleOf {
        unit: BLOCK_BYTES,
        most: PART_BYTES_MAX,
    };
    let holds = found > 0 && found <= PART_BYTES_MAX && found.is_multiple_of(BLOCK_BYTES);
    DecodeError::check(holds, field, found, expected)
}

pub(crate) fn number_of_part(found: u32, field: &'static str) -> Result<u16, DecodeError> {
    let expected = Expected::Between {
        least: 0,
        most: u64::from(PARTS_MAX) - 1,
    };
    DecodeError::check(found < PARTS_MAX, field, u64::from(found), expected)?;
    Ok(found as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_the_bytes_that_were_asked_for(
            length in 1_u64..100_000,
            blocks in 1_u64..4,
            offset in 0_u64..110_000,
            bytes in prop_oneof![0_u64..110_000, Just(u64::MAX)],
        ) {
            let part_bytes = blocks * BLOCK_BYTES;
            let length = Length::new(length).unwrap();
            let parts = InParts { put: PutId(7), length, part_bytes };
            let mut at = offset.min(length.get());
            for piece in parts.pieces(offset, bytes) {
                prop_assert_eq!(u64::from(piece.number) * part_bytes + piece.offset, at);
                prop_assert!(piece.bytes > 0 && piece.offset + piece.bytes <= part_bytes);
                prop_assert!(u32::from(piece.number) < parts.parts());
                at += piece.bytes;
            }
            prop_assert_eq!(at, offset.saturating_add(bytes).min(length.get()).max(offset.min(length.get())));
        }
    }
}
