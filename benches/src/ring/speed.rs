//! Nanoseconds for a lookup, all sides in turn, on the same keys.
//!
//! *Warm*: 256 partitions, so that their lines stay in the first cache; one
//! lookup does not wait for the one before. *Table*: all partitions of one
//! table. *Cold*: copies of the table far larger than any cache, and every key
//! depends on the answer before, so that nothing overlaps; beside it, one
//! dependent load from the same memory.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use oriel_dht::ring::{Key, Ring, RingView, Shard, SharedTable, Table, shared_words};
use serde::Serialize;

use super::cluster::ring;
use super::peers::{Points, Rendezvous, jump, mix};
use crate::against::ratio::median;

/// Enough that no cache of the machines in question holds a noticeable part.
const COLD_BYTES: usize = 1 << 29;

const LINE_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    /// A ring of this process.
    Ring,
    /// Bytes as they came from elsewhere, each line checked.
    View,
    /// Memory that others write to, each line checked.
    Shared,
    Jump,
    Rendezvous,
    Points,
}

impl Side {
    pub(super) const ALL: [Self; 6] = [
        Self::Ring,
        Self::View,
        Self::Shared,
        Self::Jump,
        Self::Rendezvous,
        Self::Points,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::View => "ring, bytes checked",
            Self::Shared => "ring, shared checked",
            Self::Jump => "jump hash",
            Self::Rendezvous => "rendezvous",
            Self::Points => "128 points a node",
        }
    }
}

/// Medians, in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Figures {
    pub(super) side: Side,
    pub(super) nodes: u32,
    pub(super) warm_ns: f64,
    pub(super) table_ns: f64,
    /// Where a side has memory of its own.
    pub(super) cold_ns: Option<f64>,
}

/// Bytes at the start of a cache line, in a buffer that is a little larger.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// The same bytes again and again, each time at the start of a cache line.
    fn repeated(bytes: &[u8], times: usize) -> Self {
        let length = bytes.len() * times;
        let mut buffer = vec![0; length + LINE_BYTES];
        let start = buffer.as_ptr().align_offset(LINE_BYTES).min(LINE_BYTES);
        for at in 0..times {
            buffer[start + at * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
        }
        Self {
            bytes: buffer,
            start,
            length,
        }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

/// A shared table's memory, which begins at a cache line too.
struct SharedWords {
    words: Vec<AtomicU64>,
    start: usize,
    length: usize,
}

impl SharedWords {
    fn of(ring: &Ring) -> Self {
        let length = shared_words(ring.partitions());
        let words: Vec<AtomicU64> = (0..length + 8).map(|_| AtomicU64::new(0)).collect();
        let start = words.as_ptr().align_offset(LINE_BYTES).min(8);
        Self {
            words,
            start,
            length,
        }
    }

    fn table(&self, ring: &Ring) -> SharedTable<'_> {
        let words = &self.words[self.start..self.start + self.length];
        SharedTable::new(words, ring.partitions()).expect("as many words as it takes")
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) rounds: u32,
    pub(super) lookups: u64,
}

/// A stretch of lookups: short, so that on a busy machine most are not interrupted, and each with other keys.
#[derive(Debug, Clone, Copy)]
struct Turn {
    first: u64,
    lookups: u64,
}

impl Turn {
    /// One of so many lookups instead of the usual ones.
    fn of(self, lookups: u64) -> Self {
        Self {
            first: self.first,
            lookups: lookups.max(100),
        }
    }
}

/// The turns of a round, of which the median counts.
const TURNS: u64 = 41;

/// Keys whose first bits go through 256 partitions.
fn warm_key(number: u64) -> u64 {
    mix(number) >> 16 | (number & 0xFF) << 48
}

fn key(number: u64) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

/// Lookups that do not wait for each other.
fn free(turn: Turn, keys: impl Fn(u64) -> u64, mut node: impl FnMut(u64) -> u64) -> f64 {
    let Turn { first, lookups } = turn;
    let start = Instant::now();
    let mut sum = 0u64;
    for number in first..first + lookups {
        sum = sum.wrapping_add(node(black_box(keys(number))));
    }
    black_box(sum);
    start.elapsed().as_nanos() as f64 / lookups as f64
}

/// Lookups of which each needs the answer before.
fn chained(turn: Turn, mut node: impl FnMut(u64) -> u64) -> f64 {
    let Turn { first, lookups } = turn;
    let start = Instant::now();
    let mut last = 1u64;
    for number in first..first + lookups {
        last = node(mix(last ^ number << 32));
    }
    black_box(last);
    start.elapsed().as_nanos() as f64 / lookups as f64
}

#[inline]
fn answer(table: &impl Table, number: u64) -> u64 {
    let line = table
        .lookup(&key(number))
        .expect("a table that nobody damages");
    line.owner(Shard(0)).map_or(0, |node| node.0.into())
}

/// All sides at one number of nodes.
pub(super) fn measure(nodes: u32, sides: &[Side], effort: Effort) -> (Vec<Figures>, f64) {
    let ring = ring(nodes);
    let bytes = Aligned::repeated(&ring.to_bytes(), 1);
    let view = RingView::open(bytes.get()).expect("the ring's own bytes");
    let words = SharedWords::of(&ring);
    let shared = words.table(&ring);
    shared.publish(&ring).expect("a new table");
    let (rendezvous, points) = (Rendezvous::new(nodes), Points::new(nodes));
    let once = |side: Side, turn: Turn, keys: fn(u64) -> u64| match side {
        Side::Ring => free(turn, keys, |key| answer(&ring, key)),
        Side::View => free(turn, keys, |key| answer(&view, key)),
        Side::Shared => free(turn, keys, |key| answer(&shared, key)),
        Side::Jump => free(turn, keys, |key| jump(key, nodes).into()),
        // It takes microseconds, and need not be asked as often.
        Side::Rendezvous => {
            let turn = turn.of(turn.lookups / u64::from(nodes));
            free(turn, keys, |key| rendezvous.node(key).into())
        }
        Side::Points => free(turn, keys, |key| points.node(key).into()),
    };
    let turns = |lookups: u64| {
        let lookups = (lookups / TURNS).max(100);
        let count = u64::from(effort.rounds) * TURNS;
        (0..count).map(move |turn| Turn {
            first: turn * lookups,
            lookups,
        })
    };
    let mut rounds = Vec::new();
    for turn in turns(effort.lookups) {
        let of = |side: &Side| (once(*side, turn, warm_key), once(*side, turn, mix));
        rounds.push(sides.iter().map(of).collect::<Vec<_>>());
    }
    let cold = Cold::new(&ring, &rendezvous, &points);
    let views = cold.views();
    let (mut cold_rounds, mut loads) = (Vec::new(), Vec::new());
    for turn in turns(effort.lookups / 50) {
        loads.push(cold.load(turn));
        let of = |side: &Side| cold.lookup(&views, *side, turn);
        cold_rounds.push(sides.iter().map(of).collect::<Vec<_>>());
    }
    let figures = sides.iter().enumerate().map(|(at, side)| {
        let of = |pick: fn(&(f64, f64)) -> f64| {
            median(rounds.iter().map(|round| pick(&round[at])).collect())
        };
        let cold: Option<Vec<f64>> = cold_rounds.iter().map(|round| round[at]).collect();
        Figures {
            side: *side,
            nodes,
            warm_ns: of(|pair| pair.0),
            table_ns: of(|pair| pair.1),
            cold_ns: cold.map(median),
        }
    });
    (figures.collect(), median(loads))
}

/// Copies of what the sides look things up in.
struct Cold {
    bytes: Aligned,
    one: usize,
    rendezvous: Vec<Rendezvous>,
    points: Vec<Points>,
}

impl Cold {
    fn new(ring: &Ring, rendezvous: &Rendezvous, points: &Points) -> Self {
        let one = ring.to_bytes();
        let copies = COLD_BYTES / one.len();
        // Its peers read more than one line for an answer, so that less memory is cold enough.
        let many = |bytes: usize| (COLD_BYTES / 8 / bytes.max(1)).min(1 << 20);
        Self {
            bytes: Aligned::repeated(&one, copies),
            one: one.len(),
            rendezvous: vec![rendezvous.clone(); many(rendezvous.bytes())],
            points: vec![points.clone(); many(points.bytes())],
        }
    }

    /// One dependent load from a line of any copy.
    fn load(&self, turn: Turn) -> f64 {
        let (lines, _) = self.bytes.get().as_chunks::<LINE_BYTES>();
        let count = lines.len() as u64;
        chained(turn, |number| {
            let line = &lines[((u128::from(number) * u128::from(count)) >> 64) as usize];
            line[20].into()
        })
    }

    fn views(&self) -> Vec<RingView<'_>> {
        let copies = self.bytes.get().chunks_exact(self.one);
        let views: Result<_, _> = copies.map(RingView::open).collect();
        views.expect("the ring's own bytes")
    }

    fn lookup(&self, views: &[RingView<'_>], side: Side, turn: Turn) -> Option<f64> {
        let pick = |number: u64, count: usize| (mix(number) >> 32) as usize % count;
        match side {
            Side::View => Some(chained(turn, |number| {
                answer(&views[pick(number, views.len())], number)
            })),
            Side::Rendezvous => Some(chained(turn.of(turn.lookups / 20), |number| {
                let at = pick(number, self.rendezvous.len());
                self.rendezvous[at].node(number).into()
            })),
            Side::Points => Some(chained(turn, |number| {
                let at = pick(number, self.points.len());
                self.points[at].node(number).into()
            })),
            // One has no memory; the others' lines are those of the bytes.
            Side::Jump | Side::Ring | Side::Shared => None,
        }
    }
}
