//! What LOCATE answers, in 64 bytes.
//!
//! ```text
//!  byte  0       1      2          3   4          8          16       24         32       36      40      64
//!        ├───────┼──────┼──────────┼───┼──────────┼──────────┼────────┼──────────┼────────┼───────┼───────┤
//!        │ state │ 0    │ checksum │ 0 │ checksum │ position │ length │ position │ blocks │ epoch │ 0     │
//!        │       │      │ kind     │   │          │          │        │ of the vector     │       │       │
//!        └───────┴──────┴──────────┴───┴──────────┴──────────┴────────┴──────────┴────────┴───────┴───────┘
//!
//!  state 2, in parts     0 in bytes 1 to 7     put      length    bytes of a part, 0    epoch
//! ```

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, Expected, read};
use crate::limits::{NAMESPACE_BLOCKS, QUIET_BLOCKS};
use crate::parts::{InParts, PutId};
use crate::units::{Epoch, Length, Position};

/// Bytes of the answer.
pub const LOCATION_BYTES: usize = 64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    state: u8,
    zero_1: u8,
    checksum_kind: u8,
    zero_3: u8,
    checksum: U32,
    position: U64,
    length: U64,
    vector_position: U64,
    vector_blocks: U32,
    epoch: U32,
    zeros: [u8; 24],
}

const _: () = assert!(size_of::<Wire>() == LOCATION_BYTES);

const ABSENT: u8 = 0;
const THERE: u8 = 1;
const IN_PARTS: u8 = 2;
const OF_BLOCKS: u8 = 1;
const OF_VECTOR: u8 = 2;

/// Where the checksums of a longer blob's blocks are; see [`crate::trailer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vector {
    /// Its first block.
    pub position: Position,
    /// How many blocks.
    pub blocks: u32,
    /// The CRC32C of all of them.
    pub checksum: u32,
}

/// How to tell that a blob's bytes are those that were put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The CRC32C of all blocks of its data, padding included: of a blob of up to four blocks.
    Blocks(u32),
    /// A vector of checksums, one for each block of its data.
    Vector(Vector),
}

/// Where a blob is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// The first block of its data.
    pub position: Position,
    /// Its length.
    pub length: Length,
    /// How to check it.
    pub checksum: Checksum,
}

/// Where the bytes of a blob are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In one window.
    Window(Location),
    /// In parts, each under a key of its own.
    Parts(InParts),
}

impl Place {
    /// The blob's length.
    pub const fn length(&self) -> Length {
        match self {
            Self::Window(location) => location.length,
            Self::Parts(parts) => parts.length,
        }
    }
}

/// What a node knows of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Located {
    /// Where the blob is, if there is one.
    pub blob: Option<Place>,
    /// The version of the node's routing table: a client that has an older one fetches it.
    pub epoch: Epoch,
}

impl Located {
    /// Its bytes.
    pub fn encode(&self) -> [u8; LOCATION_BYTES] {
        let mut wire = Wire {
            state: ABSENT,
            zero_1: 0,
            checksum_kind: 0,
            zero_3: 0,
            checksum: U32::ZERO,
            position: U64::ZERO,
            length: U64::ZERO,
            vector_position: U64::ZERO,
            vector_blocks: U32::ZERO,
            epoch: self.epoch.0.into(),
            zeros: [0; 24],
        };
        if let Some(Place::Parts(parts)) = self.blob {
            wire.state = IN_PARTS;
            wire.position = parts.put.0.into();
            wire.length = parts.length.get().into();
            wire.vector_position = parts.part_bytes.into();
        }
        if let Some(Place::Window(Location {
            position,
            length,
            checksum,
        })) = self.blob
        {
            wire.state = THERE;
            wire.position = position.0.into();
            wire.length = length.get().into();
            match checksum {
                Checksum::Blocks(checksum) => {
                    wire.checksum_kind = OF_BLOCKS;
                    wire.checksum = checksum.into();
                }
                Checksum::Vector(vector) => {
                    wire.checksum_kind = OF_VECTOR;
                    wire.checksum = vector.checksum.into();
                    wire.vector_position = vector.position.0.into();
                    wire.vector_blocks = vector.blocks.into();
                }
            }
        }
        zerocopy::transmute!(wire)
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire = read("LOCATE", bytes)?;
        let one = u64::from;
        DecodeError::exactly("byte 1 of the location", one(wire.zero_1), 0)?;
        DecodeError::exactly("byte 3 of the location", one(wire.zero_3), 0)?;
        DecodeError::zeros("bytes 40 to 63 of the location", &wire.zeros)?;
        let expected = Expected::Between {
            least: one(ABSENT),
            most: one(IN_PARTS),
        };
        DecodeError::check(
            wire.state <= IN_PARTS,
            "the location's state",
            one(wire.state),
            expected,
        )?;
        let epoch = Epoch(wire.epoch.get());
        if wire.state == ABSENT {
            DecodeError::zeros("bytes 2 to 35 of the location of no blob", &bytes[2..36])?;
            return Ok(Self { blob: None, epoch });
        }
        let place = match wire.state {
            IN_PARTS => {
                DecodeError::zeros("bytes 2 to 7 of the location of parts", &bytes[2..8])?;
                DecodeError::zeros("bytes 32 to 35 of the location of parts", &bytes[32..36])?;
                let put = PutId(wire.position.get());
                let part_bytes = wire.vector_position.get();
                Place::Parts(InParts::decode(put, wire.length.get(), part_bytes)?)
            }
            _ => Place::Window(location(&wire)?),
        };
        Ok(Self {
            blob: Some(place),
            epoch,
        })
    }
}

fn location(wire: &Wire) -> Result<Location, DecodeError> {
    let length = Length::decode(wire.length.get(), "the location's length")?;
    let blocks = length.blocks();
    let position = Position::window(wire.position.get(), blocks, "the location's position")?;
    let vector_blocks = length.vector_blocks();
    let kind = if vector_blocks == 0 {
        OF_BLOCKS
    } else {
        OF_VECTOR
    };
    DecodeError::exactly(
        "the location's checksum kind",
        u64::from(wire.checksum_kind),
        u64::from(kind),
    )?;
    let (at, found) = (
        wire.vector_position.get(),
        u64::from(wire.vector_blocks.get()),
    );
    DecodeError::exactly("the blocks of the location's vector", found, vector_blocks)?;
    let checksum = wire.checksum.get();
    if vector_blocks == 0 {
        DecodeError::exactly("the position of the location's vector", at, 0)?;
        return Ok(Location {
            position,
            length,
            checksum: Checksum::Blocks(checksum),
        });
    }
    let field = "the position of the location's vector";
    let vector = Position::window(at, vector_blocks, field)?;
    let is_apart = at >= position.0 + blocks || at + vector_blocks <= position.0;
    let expected = Expected::Between {
        least: (position.0 + blocks).max(QUIET_BLOCKS),
        most: NAMESPACE_BLOCKS - QUIET_BLOCKS - vector_blocks,
    };
    DecodeError::check(is_apart, field, at, expected)?;
    let checksum = Checksum::Vector(Vector {
        position: vector,
        blocks: wire.vector_blocks.get(),
        checksum,
    });
    Ok(Location {
        position,
        length,
        checksum,
    })
}
