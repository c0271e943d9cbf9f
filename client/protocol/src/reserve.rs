//! What RESERVE answers, in 32 bytes.
//!
//! ```text
//!  byte  0          8        16          20      32
//!        ├──────────┼────────┼───────────┼───────┤
//!        │ position │ blocks │ time left │ 0     │
//!        └──────────┴────────┴───────────┴───────┘
//! ```

use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DecodeError, Expected, read};
use crate::limits::{LENGTH_MAX, data_blocks};
use crate::units::Position;

/// Bytes of the answer.
pub const WINDOW_BYTES: usize = 32;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Wire {
    position: U64,
    blocks: U64,
    time_left_ms: U32,
    zeros: [u8; 12],
}

const _: () = assert!(size_of::<Wire>() == WINDOW_BYTES);

/// A window to write a blob into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its first block.
    pub position: Position,
    /// Blocks for data, from the first one on.
    pub blocks: u64,
    /// Milliseconds until it is given up if it is not committed by then, counted from the answer: clocks differ.
    pub time_left_ms: u32,
}

impl Window {
    /// How long it stays reserved.
    pub const fn time_left(&self) -> Duration {
        Duration::from_millis(self.time_left_ms as u64)
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; WINDOW_BYTES] {
        zerocopy::transmute!(Wire {
            position: self.position.0.into(),
            blocks: self.blocks.into(),
            time_left_ms: self.time_left_ms.into(),
            zeros: [0; 12],
        })
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let wire: Wire = read("RESERVE", bytes)?;
        DecodeError::zeros("bytes 20 to 31 of the window", &wire.zeros)?;
        let blocks = wire.blocks.get();
        let most = data_blocks(LENGTH_MAX);
        let expected = Expected::Between { least: 1, most };
        DecodeError::check(
            (1..=most).contains(&blocks),
            "the window's blocks",
            blocks,
            expected,
        )?;
        let position = Position::window(wire.position.get(), blocks, "the window's position")?;
        Ok(Self {
            position,
            blocks,
            time_left_ms: wire.time_left_ms.get(),
        })
    }
}
