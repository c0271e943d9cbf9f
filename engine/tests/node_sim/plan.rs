//! What one seed makes of a simulation.

use std::time::Duration;

use oriel_engine::store::{
    BLOCK_BYTES, Background, FormatOptions, Key, KeyKind, NodeFormat, Policy,
};

use super::oracle::Value;
use crate::store_sim::faults::Faults;
use crate::store_sim::plan::WEAR;
use crate::store_sim::world::Rng;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) format: NodeFormat,
    pub(crate) drive_blocks: Vec<u64>,
    /// Drives that the store is made of; the others may be added.
    pub(crate) drives: usize,
    pub(crate) clients: usize,
    pub(crate) keys_each: usize,
    pub(crate) lives: u64,
    pub(crate) operations: u64,
    pub(crate) nanos_max: u64,
    pub(crate) slow: u64,
    /// Lives in a thousand that end by a crash.
    pub(crate) crashes: u64,
    /// Things that happen to drives, in a life.
    pub(crate) events: u64,
    /// Starts in a thousand at which a drive is missing.
    pub(crate) missing: u64,
    pub(crate) faults: Faults,
    /// The drive that has them.
    pub(crate) faulty: usize,
    /// The life in which a drive takes no more writes, which one, and the call from which on.
    pub(crate) wears_out: Option<(u64, usize, u64)>,
    pub(crate) move_bytes_per_second: u64,
    /// Values in a thousand that are longer than a slab of 16 blocks.
    pub(crate) large: u64,
    /// Blobs make room for others.
    pub(crate) cache: Option<Policy>,
    /// What each drive does by itself.
    pub(crate) background: Background,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let slab_blocks = rng.one_of(&[16, 16, 32]);
        let drives = rng.between(1, 4) as usize;
        let spares = rng.between(0, 2) as usize;
        let mut faults = Faults::default();
        match rng.below(8) {
            0 => faults.flush_errors = 5,
            1 => faults.write_errors = 5,
            _ => {}
        }
        // From numbers of its own: so the other plans stay what they were.
        let mut wear = Rng::new(seed ^ WEAR);
        let wears_out = wear.in_thousand(200).then(|| {
            let drive = wear.below(drives as u64) as usize;
            (wear.below(3), drive, wear.between(1, 400))
        });
        Self {
            seed,
            wears_out,
            format: NodeFormat {
                drive: FormatOptions {
                    slab_blocks,
                    journal_blocks: rng.one_of(&[16, 20, 33]),
                },
                slot_blocks: slab_blocks * rng.one_of(&[4, 8, 64]),
            },
            drive_blocks: (0..drives + spares)
                .map(|_| 300 + slab_blocks * rng.between(12, 24))
                .collect(),
            drives,
            clients: rng.between(1, 4) as usize,
            keys_each: rng.between(1, 6) as usize,
            lives: rng.between(1, 5),
            operations: rng.between(4, 16),
            nanos_max: rng.one_of(&[1, 1000, 100_000]),
            slow: rng.one_of(&[0, 10, 200]),
            crashes: rng.one_of(&[0, 500, 900]),
            events: rng.between(0, 3),
            missing: rng.one_of(&[0, 0, 300, 600]),
            faults,
            faulty: rng.below((drives + spares) as u64) as usize,
            move_bytes_per_second: rng.one_of(&[1 << 20, 1 << 30, 1 << 40]),
            large: rng.one_of(&[0, 0, 300, 800]),
            cache: rng.one_of(&[None, None, None, Some(Policy::Lru), Some(Policy::S3Fifo)]),
            background: Background {
                compaction_bytes_per_second: rng.one_of(&[0, 1 << 30]),
                scrub_bytes_per_second: rng.one_of(&[0, 1 << 30]),
                scrub_round: Duration::from_secs(rng.one_of(&[1, 1000])),
            },
        }
    }

    pub(crate) fn keys(&self) -> usize {
        self.clients * self.keys_each
    }

    /// The one value of a key of content.
    pub(crate) fn content_value(&self, number: usize) -> Value {
        let is_large = self.large > 0 && number % 8 == 7;
        Value(number as u32 | if is_large { LARGE } else { 0 })
    }

    /// A quarter of all keys are of content; they have one value only.
    pub(crate) fn key(&self, number: usize) -> (Key, KeyKind) {
        match number % 4 {
            3 => (
                Key::of_content(&bytes(self.content_value(number))),
                KeyKind::Content,
            ),
            _ => (
                Key::of_content(&(number as u64).to_le_bytes()),
                KeyKind::Name,
            ),
        }
    }
}

/// What a value's number has if it is a large one.
pub(crate) const LARGE: u32 = 1 << 31;

pub(crate) fn bytes(value: Value) -> Vec<u8> {
    let mut rng = Rng::new(u64::from(value.0) << 20);
    let block = BLOCK_BYTES as u64;
    let length = match rng.below(6) {
        _ if value.0 & LARGE != 0 => rng.between(14 * block + 1, 48 * block),
        0 => rng.between(5 * block - 1, 9 * block),
        1 | 2 => rng.between(1, 4) * block + rng.below(3) - 1,
        _ => rng.between(1, 2 * block),
    };
    let words = (0..length.div_ceil(8)).flat_map(|_| rng.word().to_le_bytes());
    words.take(length as usize).collect()
}
