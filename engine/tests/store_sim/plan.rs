//! What one seed makes of a simulation.

use std::cell::RefCell;
use std::time::Duration;

use oriel_engine::store::{BLOCK_BYTES, Background, Key, KeyKind, Policy, RealmId, RealmOptions};

use super::api::Shape;
use super::faults::Faults;
use super::oracle::Value;
use super::world::Rng;

/// What sets the numbers apart that say when drives are worn out.
pub(crate) const WEAR: u64 = 0x5745_4152 << 32;

/// And those that say whether memory is short.
const MEMORY: u64 = 0x4d45_4d4f << 32;

/// All that a seed decides before the first call.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    /// Each has every so-manieth key.
    pub(crate) realms: Vec<RealmOptions>,
    /// The index's memory outlasts a life.
    pub(crate) keeps_index: bool,
    /// In a thousand: pins, lists, scrubs and the like.
    pub(crate) others: u64,
    pub(crate) keys: usize,
    pub(crate) clients: usize,
    /// Times that the store is opened before the last time.
    pub(crate) lives: u64,
    /// Operations of each client in a life.
    pub(crate) operations: u64,
    /// The longest that a call of the drive takes as a rule.
    pub(crate) nanos_max: u64,
    /// Calls in a thousand that take a hundred times as long.
    pub(crate) slow: u64,
    pub(crate) faults: Faults,
    /// Lives in a thousand that end by a crash or by a kill.
    pub(crate) crashes: u64,
    /// Operations in a thousand that nobody waits for to their end.
    pub(crate) cancels: u64,
    /// The life in which the drive is pulled out.
    pub(crate) removal: Option<u64>,
    /// The life in which the drive takes no more writes, and the call from which on.
    pub(crate) wears_out: Option<(u64, u64)>,
    /// In a thousand: puts and deletes, the rest are reads.
    pub(crate) puts: u64,
    pub(crate) deletes: u64,
    /// What the store does by itself.
    pub(crate) background: Background,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let slab_blocks = rng.one_of(&[8, 16, 16, 32, 64]);
        let keys = rng.between(2, 24);
        let mut faults = Faults::default();
        let rate = rng.one_of(&[2, 5, 20]);
        // Half of all seeds have no fault but crashes; the others one or two.
        if rng.in_thousand(500) {
            for _ in 0..rng.between(1, 2) {
                match rng.below(7) {
                    0 => faults.read_errors = rate,
                    1 => faults.write_errors = rate,
                    2 => faults.flush_errors = rate,
                    3 => faults.rot = rate,
                    4 => faults.lost = rate,
                    5 => faults.no_room = rate,
                    _ => faults.misdirected = rate,
                }
            }
        }
        faults.burst_nanos = rng.one_of(&[0, 0, 10_000, 1_000_000]);
        let lives = rng.between(1, 5);
        let realms = realms(rng, slab_blocks);
        // From numbers of its own: so the other plans stay what they were.
        let mut wear = Rng::new(seed ^ WEAR);
        let wears_out = wear
            .in_thousand(100)
            .then(|| (wear.below(lives), wear.between(1, 200)));
        let mut memory = Rng::new(seed ^ MEMORY);
        if memory.in_thousand(300) {
            faults.no_memory = memory.one_of(&[1, 5, 20]);
        }
        let journal_blocks = rng.one_of(&[16, 17, 20, 33, 64]);
        Self {
            seed,
            shape: Shape {
                // From hardly any room to plenty of it.
                drive_blocks: 4 * journal_blocks + 120 + slab_blocks * rng.between(4, 24),
                slab_blocks,
                journal_blocks,
                blobs_max: match rng.below(4) {
                    0 => rng.between(2, keys),
                    _ => 1000,
                },
            },
            realms,
            keeps_index: rng.in_thousand(300),
            others: rng.one_of(&[0, 100, 250]),
            keys: keys as usize,
            clients: rng.between(1, 8) as usize,
            lives,
            operations: rng.between(4, 30),
            nanos_max: rng.one_of(&[1, 1000, 100_000]),
            slow: rng.one_of(&[0, 10, 200]),
            faults,
            crashes: rng.one_of(&[0, 500, 900]),
            cancels: rng.one_of(&[0, 0, 0, 30]),
            removal: rng.in_thousand(50).then(|| rng.below(lives)),
            wears_out,
            puts: rng.between(300, 700),
            deletes: rng.between(50, 250),
            background: Background {
                compaction_bytes_per_second: rng.one_of(&[0, 1 << 20, 1 << 30]),
                scrub_bytes_per_second: rng.one_of(&[0, 1 << 20, 1 << 30]),
                scrub_round: Duration::from_secs(rng.one_of(&[0, 10, 1000])),
            },
        }
    }
}

/// Half of all stores have one realm without a quota, as simple as can be; the others up to three of all kinds.
fn realms(rng: &mut Rng, slab_blocks: u64) -> Vec<RealmOptions> {
    let simple = RealmOptions::new(RealmId(7));
    if rng.in_thousand(500) {
        return vec![simple];
    }
    let realm = |rng: &mut Rng, id| RealmOptions {
        id: RealmId(id),
        quota_blocks: rng
            .in_thousand(500)
            .then(|| rng.between(slab_blocks, 6 * slab_blocks)),
        cache: rng.one_of(&[None, Some(Policy::Lru), Some(Policy::S3Fifo)]),
        name: Some(format!("realm {id}").into()),
        ..simple.clone()
    };
    let count = rng.between(1, 3) as u16;
    (7..7 + count).map(|id| realm(rng, id)).collect()
}

struct Blob {
    key: usize,
    length: u64,
    seed: u64,
}

/// The keys and the blobs of a simulation.
pub(crate) struct Blobs {
    keys: Vec<(Key, KeyKind)>,
    realms: Vec<RealmOptions>,
    all: RefCell<Vec<Blob>>,
}

impl Blobs {
    pub(crate) fn new(plan: &Plan, length_max: u64, rng: &mut Rng) -> Self {
        let mut blobs = Self {
            keys: Vec::new(),
            realms: plan.realms.clone(),
            all: RefCell::default(),
        };
        for number in 0..plan.keys {
            let is_content = rng.in_thousand(250);
            let key = match is_content {
                // The first blob of a content key is the only one.
                true => {
                    let value = blobs.add(number, length_max, rng);
                    (Key::of_content(&blobs.bytes(value)), KeyKind::Content)
                }
                false => {
                    // Realms have keys in common.
                    let name = (number / plan.realms.len()) as u64;
                    let name = blake3::hash(&name.to_le_bytes());
                    (Key::new(*name.as_bytes()), KeyKind::Name)
                }
            };
            blobs.keys.push(key);
        }
        blobs
    }

    pub(crate) fn key(&self, number: usize) -> (Key, KeyKind) {
        self.keys[number]
    }

    pub(crate) fn realm(&self, number: usize) -> RealmOptions {
        self.realms[number % self.realms.len()].clone()
    }

    /// Something to put under a key.
    pub(crate) fn next(&self, number: usize, length_max: u64, rng: &mut Rng) -> Value {
        match self.keys[number].1 {
            KeyKind::Name => self.add(number, length_max, rng),
            KeyKind::Content => self.of_key(number)[0],
        }
    }

    fn add(&self, key: usize, length_max: u64, rng: &mut Rng) -> Value {
        let block = BLOCK_BYTES as u64;
        let length = match rng.below(8) {
            0 => length_max - rng.below(3),
            1 => rng.between(1, length_max),
            2 | 3 => (rng.between(1, 6) * block + rng.below(3) - 1).min(length_max),
            _ => rng.between(1, 2 * block),
        };
        let mut all = self.all.borrow_mut();
        all.push(Blob {
            key,
            length,
            seed: rng.word(),
        });
        Value(all.len() as u32 - 1)
    }

    /// All that was ever put under a key.
    pub(crate) fn of_key(&self, key: usize) -> Vec<Value> {
        let all = self.all.borrow();
        let its = |(number, blob): (usize, &Blob)| (blob.key == key).then_some(number);
        let numbers = all.iter().enumerate().filter_map(its);
        numbers.map(|number| Value(number as u32)).collect()
    }

    pub(crate) fn bytes(&self, value: Value) -> Vec<u8> {
        let all = self.all.borrow();
        let Blob { length, seed, .. } = all[value.0 as usize];
        let mut rng = Rng::new(seed);
        let words = length.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| rng.word().to_le_bytes()).collect();
        bytes.truncate(length as usize);
        bytes
    }

    /// What a read of a blob gives.
    pub(crate) fn part(&self, value: Value, offset: u64, count: u64) -> Vec<u8> {
        let bytes = self.bytes(value);
        let start = (offset as usize).min(bytes.len());
        let end = offset.saturating_add(count).min(bytes.len() as u64) as usize;
        bytes[start..end.max(start)].to_vec()
    }

    pub(crate) fn length(&self, value: Value) -> u64 {
        self.all.borrow()[value.0 as usize].length
    }
}
