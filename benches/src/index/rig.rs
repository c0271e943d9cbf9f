//! The tables, filled alike, and one side's turn.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use oriel_dht::index::{
    Entry, Fingerprint, Flags, Index, IndexSize, Length, Position, Touched, Writer,
};
use oriel_dht::region::{Existing, Latency, Place, Region, SectionKind, SectionSpec};

use super::IndexError;
use crate::against::ratio::{Comparison, Round, median};

/// Lookups of one turn: some milliseconds, so that on a busy machine many turns run undisturbed.
const TURN: usize = 16_384;
/// Turns of every side in a round, of which the median counts.
const TURNS: usize = 15;
/// Keys that are looked up cold: their lines are four times as many as a large cache holds.
const PROBES: usize = 1 << 21;
/// Keys that are looked up warm.
const WARM: usize = 512;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// One key, and the next when the answer is there.
    Single,
    /// One key after the other, none waiting for an answer: the processor overlaps some of them by itself.
    Streamed,
    /// 32 keys at a time.
    Batched,
    Hashbrown,
    HashbrownStreamed,
    Dashmap,
    Papaya,
}

impl Side {
    pub(super) const ALL: [Self; 7] = [
        Self::Single,
        Self::Streamed,
        Self::Batched,
        Self::Hashbrown,
        Self::HashbrownStreamed,
        Self::Dashmap,
        Self::Papaya,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Streamed => "streamed",
            Self::Batched => "batched",
            Self::Hashbrown => "hashbrown",
            Self::HashbrownStreamed => "hb-stream",
            Self::Dashmap => "dashmap",
            Self::Papaya => "papaya",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Hits,
    Misses,
}

impl Keys {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hits => "hit",
            Self::Misses => "miss",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Cold,
    Warm,
}

impl Turn {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn key(number: u64) -> Fingerprint {
    let both = u128::from(mix(number)) << 64 | u128::from(mix(!number));
    Fingerprint::from_bytes(both.to_le_bytes())
}

pub(super) fn entry(number: u64) -> Entry {
    Entry {
        position: Position::new(number & 0xffff_ffff_ffff).expect("below 2^50"),
        length: Length::new(number & 0xffff_ffff).expect("below 2^36"),
        flags: Flags::default(),
    }
}

/// The other tables; None where they are not wanted.
struct Peers {
    hashbrown: hashbrown::HashMap<Fingerprint, Entry>,
    dashmap: dashmap::DashMap<Fingerprint, Entry>,
    papaya: papaya::HashMap<Fingerprint, Entry>,
}

pub(super) struct Rig {
    pub(super) index: Index,
    pub(super) writers: Vec<Writer>,
    pub(super) entries: u64,
    latency: Latency,
    peers: Option<Peers>,
    hits: Vec<Fingerprint>,
    misses: Vec<Fingerprint>,
    /// Where the next cold turn begins.
    at: usize,
}

/// An index that is not going to grow.
pub(super) fn index_of(
    size: &IndexSize,
    path: Option<&Path>,
) -> Result<(Index, Vec<Writer>, Latency), IndexError> {
    let spec = SectionSpec {
        kind: SectionKind::INDEX,
        version: 1,
        bytes: size.section_bytes()?,
    };
    // Ordinary pages, since the other maps have them.
    let place = match path {
        Some(path) => Place::Path(path.into()),
        None => Place::Memory { large_pages: false },
    };
    let region = Region::create(&place, &[spec], Existing::Replace)?;
    region.populate();
    let latency = region.latency();
    let (index, writers) = Index::create(region.section(SectionKind::INDEX, 1)?, size)?;
    Ok((index, writers, latency))
}

impl Rig {
    pub(super) fn build(
        slots: u64,
        percent: u32,
        path: Option<&Path>,
        all_peers: bool,
    ) -> Result<Self, IndexError> {
        let most = slots * 85 / 100;
        let size = IndexSize {
            partitions: 1,
            entries: most,
            entries_max: most,
        };
        let (index, mut writers, latency) = index_of(&size, path)?;
        assert_eq!(
            writers[0].slots(),
            slots,
            "a power of two is as large as asked for"
        );
        let entries = slots * u64::from(percent) / 100;
        let capacity = most as usize;
        let mut peers = Peers {
            hashbrown: hashbrown::HashMap::with_capacity(capacity),
            dashmap: dashmap::DashMap::with_capacity(if all_peers { capacity } else { 0 }),
            papaya: papaya::HashMap::with_capacity(if all_peers { capacity } else { 0 }),
        };
        let pinned = peers.papaya.pin();
        for number in 0..entries {
            writers[0].prefetch(key(number + 8));
            writers[0].insert(key(number), entry(number))?;
            peers.hashbrown.insert(key(number), entry(number));
            if all_peers {
                peers.dashmap.insert(key(number), entry(number));
                pinned.insert(key(number), entry(number));
            }
        }
        drop(pinned);
        let probes = |first: u64| (0..PROBES as u64).map(move |at| first + mix(at) % entries);
        Ok(Self {
            index,
            writers,
            entries,
            latency,
            peers: Some(peers),
            hits: probes(0).map(key).collect(),
            misses: probes(1 << 48).map(key).collect(),
            at: 0,
        })
    }

    pub(super) fn describe(&self) -> String {
        format!("{} entries; the memory: {}", self.entries, self.latency)
    }

    /// Lines of entries for each lookup, as the index counts them.
    pub(super) fn lines(&self, keys: Keys) -> f64 {
        let probes = self.probes(keys);
        let mut touched = Touched::default();
        for key in probes {
            black_box(self.index.get_counted(*key, &mut touched));
        }
        touched.entry_lines as f64 / probes.len() as f64
    }

    pub(super) fn probes(&self, keys: Keys) -> &[Fingerprint] {
        match keys {
            Keys::Hits => &self.hits,
            Keys::Misses => &self.misses,
        }
    }

    /// Seconds of one turn of one side.
    fn turn(&self, side: Side, probes: &[Fingerprint], times: usize) -> f64 {
        let peers = self.peers.as_ref();
        let start = Instant::now();
        for _ in 0..times {
            match (side, peers) {
                (Side::Single, _) => wait(probes, |key| self.index.get(*key)),
                (Side::Streamed, _) => look(probes, |key| self.index.get(*key)),
                (Side::Batched, _) => {
                    let mut found = [None; 32];
                    for keys in probes.chunks(32) {
                        self.index.get_batch(keys, &mut found);
                        black_box(&found);
                    }
                }
                (Side::Hashbrown, Some(peers)) => {
                    wait(probes, |key| peers.hashbrown.get(key).copied());
                }
                (Side::HashbrownStreamed, Some(peers)) => {
                    look(probes, |key| peers.hashbrown.get(key).copied());
                }
                (Side::Dashmap, Some(peers)) => {
                    wait(probes, |key| peers.dashmap.get(key).map(|entry| *entry));
                }
                (Side::Papaya, Some(peers)) => {
                    let pinned = peers.papaya.pin();
                    wait(probes, |key| pinned.get(key).copied());
                }
                (_, None) => {}
            }
        }
        start.elapsed().as_secs_f64()
    }

    /// The sides in turn; each turn has keys that no turn before it had for long.
    pub(super) fn rounds(&mut self, sides: &[Side], keys: Keys, turn: Turn, rounds: u32) -> Times {
        let mut times = Times {
            sides: sides.to_vec(),
            rounds: Vec::new(),
        };
        for _ in 0..rounds {
            let mut turns = vec![Vec::with_capacity(TURNS); sides.len()];
            for _ in 0..TURNS {
                for (side, turns) in sides.iter().zip(&mut turns) {
                    let probes = self.probes(keys);
                    let seconds = match turn {
                        Turn::Cold => {
                            let at = self.at % (PROBES - TURN);
                            self.turn(*side, &probes[at..at + TURN], 1)
                        }
                        Turn::Warm => self.turn(*side, &probes[..WARM], TURN / WARM),
                    };
                    self.at += TURN;
                    turns.push(seconds / TURN as f64);
                }
            }
            times.rounds.push(turns.into_iter().map(median).collect());
        }
        times
    }
}

/// Which key comes next is known only when the answer is there: what one lookup costs whoever needs it to go on.
#[inline(always)]
fn wait(probes: &[Fingerprint], get: impl Fn(&Fingerprint) -> Option<Entry>) {
    let nothing = black_box(0);
    let mut last = 0;
    for at in 0..probes.len() {
        let answer = get(&probes[at + (last & nothing) as usize]);
        // A miss is an answer too, and the next key waits for it.
        last = black_box(answer).map_or(1, |entry| entry.position.block());
    }
    black_box(last);
}

/// Nothing of one lookup waits for the one before, but a branch on each answer, as its user has one.
#[inline(always)]
fn look(probes: &[Fingerprint], get: impl Fn(&Fingerprint) -> Option<Entry>) {
    let mut sum = 0_u64;
    for key in probes {
        if let Some(entry) = get(key) {
            sum = sum.wrapping_add(entry.position.block());
        }
    }
    black_box(sum);
}

/// Seconds a lookup, of every side in every round.
pub(super) struct Times {
    sides: Vec<Side>,
    rounds: Vec<Vec<f64>>,
}

impl Times {
    fn of(&self, side: Side) -> impl Iterator<Item = f64> {
        let at = self.sides.iter().position(|known| *known == side);
        let at = at.expect("the side was measured");
        self.rounds.iter().map(move |round| round[at])
    }

    pub(super) fn ns(&self, side: Side) -> f64 {
        median(self.of(side).collect()) * 1e9
    }

    /// In lookups a second, so that more is better.
    pub(super) fn compare(&self, ours: Side, theirs: Side) -> Option<Comparison> {
        let rounds = self.of(ours).zip(self.of(theirs));
        let rounds = rounds.map(|(ours, theirs)| Round {
            ours: 1.0 / ours,
            theirs: 1.0 / theirs,
        });
        Comparison::of(&rounds.collect::<Vec<_>>())
    }
}
