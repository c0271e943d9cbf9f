//! Which drive a key's blob belongs on, and where else it may be.
//!
//! A key is in one of 2^14 partitions. For each partition the drives have an order, by weighted rendezvous: every drive
//! draws a number by hash, divided by its capacity, and the least comes first. A drive that comes or goes changes no order
//! among the others, and takes or gives just its share.
//!
//! ```text
//!   order of a partition     3        1        4        0      ...
//!                          lost    hungry   settled
//!                                    │         └── the walk ends: what is not found so far is nowhere else
//!                                    └── home: the first drive that takes blobs
//! ```
//!
//! A blob is put to its **home**, the first drive that is there and takes any. A drive that is new, or was away, is
//! **hungry**: blobs whose home it is now may still be on drives that come later. So a lookup walks on behind hungry and
//! draining drives and ends with the first that is neither. This rests on one invariant: **all drives that come before a
//! blob's own in the order of its partition are hungry, draining or lost.** Putting at home keeps it, and a drive stops
//! being hungry only when every drive of the store has been looked through.
//!
//! Lookups go from the last place of the walk to the first: a copy that lies deeper was put when the drives before it were
//! away, so it is the later one of two.
//!
//! All is integer arithmetic, since another result would be another place: this is a part of the format.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::super::types::{Key, RealmId, StoreId};

/// Partitions that keys are divided into.
pub(super) const PARTITIONS: usize = 1 << 14;

/// A drive of a store. Numbers are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DriveNumber(pub u16);

impl fmt::Display for DriveNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What placement has to know of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) number: DriveNumber,
    pub(super) capacity_blocks: u64,
    pub(super) is_present: bool,
    pub(super) is_draining: bool,
    pub(super) is_hungry: bool,
}

/// Where the blobs of a partition are. Drives are given by their place in the list that they came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Spread {
    /// Where to look, in this order.
    pub(super) present: Box<[u16]>,
    /// Where to put.
    pub(super) home: Option<u16>,
    /// Drives that are lost and may have blobs of it.
    pub(super) lost: Box<[u16]>,
    /// One of them comes after the home: what it has would stand before what is put now.
    pub(super) is_lost_behind_home: bool,
}

/// The hash that keys and drives are drawn by.
#[derive(Clone, Copy)]
pub(super) struct Draw(SipHasher13);

impl Draw {
    pub(super) fn new(store: StoreId) -> Self {
        let seed = blake3::derive_key("oriel 2026-11 places of keys on drives", &store.0);
        let seed: &[u8; 16] = seed.first_chunk().expect("a hash has 32 bytes");
        Self(SipHasher13::new_with_key(seed))
    }

    /// The partition that a key is in.
    pub(super) fn partition(&self, realm: RealmId, key: &Key) -> usize {
        let mut hasher = self.0;
        hasher.write(key.bytes());
        hasher.write(&realm.0.to_le_bytes());
        hasher.finish() as usize % PARTITIONS
    }

    /// The number that a drive draws in a partition.
    fn number(&self, partition: usize, drive: DriveNumber) -> u64 {
        let mut hasher = self.0;
        hasher.write(&(partition as u16).to_le_bytes());
        hasher.write(&drive.0.to_le_bytes());
        hasher.finish()
    }

    pub(super) fn spread(&self, partition: usize, drives: &[Placed]) -> Spread {
        let draw = |(at, drive): (usize, &Placed)| {
            let cost = minus_log2(self.number(partition, drive.number));
            (cost, drive.capacity_blocks.max(1), drive.number, at as u16)
        };
        let mut order: Vec<_> = drives.iter().enumerate().map(draw).collect();
        order.sort_unstable_by(|one, other| {
            let (left, right) = (
                u128::from(one.0) * u128::from(other.1),
                u128::from(other.0) * u128::from(one.1),
            );
            match left.cmp(&right) {
                Ordering::Equal => one.2.cmp(&other.2),
                unequal => unequal,
            }
        });
        let mut present = Vec::new();
        let mut lost = Vec::new();
        let mut home = None;
        let mut is_lost_behind_home = false;
        for (_, _, _, at) in order {
            let drive = &drives[usize::from(at)];
            if !drive.is_present {
                is_lost_behind_home |= home.is_some();
                lost.push(at);
                continue;
            }
            present.push(at);
            if drive.is_draining {
                continue;
            }
            home.get_or_insert(at);
            if !drive.is_hungry {
                break;
            }
        }
        present.reverse();
        Spread {
            present: present.into(),
            home,
            lost: lost.into(),
            is_lost_behind_home,
        }
    }
}

/// Bits behind the point.
const FRACTION: u32 = 32;

/// log2(1 + i/256), with 32 bits behind the point.
const LOG2: [u64; 257] = {
    let mut table = [0; 257];
    let mut at = 0;
    while at <= 256 {
        // Squaring a number doubles its logarithm: what comes to be 2 or more has the next bit set.
        let mut x = (256 + at as u128) << 54;
        let mut log = 0;
        if at == 256 {
            log = 1 << FRACTION;
        } else {
            let mut bit = FRACTION;
            while bit > 0 {
                bit -= 1;
                x = (x * x) >> 62;
                if x >> 63 != 0 {
                    x >>= 1;
                    log |= 1 << bit;
                }
            }
        }
        table[at] = log;
        at += 1;
    }
    table
};

/// -log2(number / 2^64), with 32 bits behind the point: what an exponential race is run with.
fn minus_log2(number: u64) -> u64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    let mantissa = number << zeros;
    let at = (mantissa >> 55) as usize & 255;
    let rest = (mantissa >> 23) & u64::from(u32::MAX);
    let log = LOG2[at] + (((LOG2[at + 1] - LOG2[at]) * rest) >> FRACTION);
    (u64::from(zeros + 1) << FRACTION) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([9; 16]);

    fn drive(number: u16, capacity_blocks: u64) -> Placed {
        Placed {
            number: DriveNumber(number),
            capacity_blocks,
            is_present: true,
            is_draining: false,
            is_hungry: false,
        }
    }

    fn homes(drives: &[Placed]) -> Vec<u16> {
        let draw = Draw::new(STORE);
        let spreads = (0..PARTITIONS).map(|partition| draw.spread(partition, drives));
        let home = |spread: Spread| drives[usize::from(spread.home.unwrap())].number.0;
        spreads.map(home).collect()
    }

    #[test]
    fn the_logarithm_is_one() {
        for number in [1u64, 2, 3, 1 << 40, 0x1234_5678_9abc_def0, u64::MAX] {
            let expected = 64.0 - (number as f64).log2();
            let found = minus_log2(number) as f64 / f64::from(1u32 << 31) / 2.0;
            assert!(
                (expected - found).abs() < 1e-5,
                "{number}: {expected} {found}"
            );
        }
    }

    #[test]
    fn drives_get_keys_by_their_capacity() {
        let drives = [drive(0, 1000), drive(1, 1000), drive(7, 3000)];
        let homes = homes(&drives);
        for placed in drives {
            let share = homes
                .iter()
                .filter(|home| **home == placed.number.0)
                .count();
            let expected = PARTITIONS as u64 * placed.capacity_blocks / 5000;
            assert!(
                (share as u64).abs_diff(expected) * 20 < expected,
                "{share} and not {expected}"
            );
        }
    }

    #[test]
    fn a_drive_that_comes_takes_its_share_and_moves_nothing_else() {
        let few = [drive(0, 5), drive(1, 5), drive(2, 5)];
        let more = [few[0], few[1], few[2], drive(3, 5)];
        let (before, after) = (homes(&few), homes(&more));
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after);
        let moved: Vec<_> = moved.collect();
        assert!(moved.iter().all(|(_, after)| **after == 3));
        assert!((moved.len() as u64).abs_diff(PARTITIONS as u64 / 4) < 200);
    }

    #[test]
    fn a_walk_goes_on_behind_the_hungry_the_draining_and_the_lost() {
        let all: Vec<Placed> = (0..5).map(|number| drive(number, 7)).collect();
        let draw = Draw::new(STORE);
        // The order of partition 0, found by taking away what comes first.
        let mut left = all.clone();
        let mut order = Vec::new();
        while !left.is_empty() {
            let home = draw.spread(0, &left).home.unwrap();
            order.push(usize::from(left.remove(usize::from(home)).number.0));
        }
        let spread = |change: &dyn Fn(&mut Vec<Placed>)| {
            let mut drives = all.clone();
            change(&mut drives);
            let found = draw.spread(0, &drives);
            let place = |at: u16| {
                order
                    .iter()
                    .position(|number| *number == usize::from(at))
                    .unwrap()
            };
            let places = |all: &[u16]| all.iter().map(|at| place(*at)).collect::<Vec<_>>();
            (
                places(&found.present),
                found.home.map(place),
                places(&found.lost),
                found.is_lost_behind_home,
            )
        };
        assert_eq!(spread(&|_| {}), (vec![0], Some(0), vec![], false));
        let hungry = |drives: &mut Vec<Placed>| drives[order[0]].is_hungry = true;
        assert_eq!(spread(&hungry), (vec![1, 0], Some(0), vec![], false));
        let lost = |drives: &mut Vec<Placed>| drives[order[0]].is_present = false;
        assert_eq!(spread(&lost), (vec![1], Some(1), vec![0], false));
        let draining = |drives: &mut Vec<Placed>| drives[order[0]].is_draining = true;
        assert_eq!(spread(&draining), (vec![1, 0], Some(1), vec![], false));
        let behind = |drives: &mut Vec<Placed>| {
            drives[order[0]].is_hungry = true;
            drives[order[1]].is_present = false;
        };
        assert_eq!(spread(&behind), (vec![2, 0], Some(0), vec![1], true));
        let none =
            |drives: &mut Vec<Placed>| drives.iter_mut().for_each(|drive| drive.is_present = false);
        assert_eq!(spread(&none), (vec![], None, vec![0, 1, 2, 3, 4], false));
    }

    /// Another result would be another place: a change here needs another version of the format.
    #[test]
    fn the_places_are_these() {
        let drives: Vec<Placed> = (0..6)
            .map(|number| drive(number, 100 + u64::from(number)))
            .collect();
        let homes = homes(&drives);
        let digest = blake3::hash(&homes.iter().map(|home| *home as u8).collect::<Vec<_>>());
        assert_eq!(&homes[..8], &GOLDEN_HOMES);
        assert_eq!(digest.as_bytes()[..8], GOLDEN_DIGEST);
        let key = Key::of_content(b"a key");
        assert_eq!(
            Draw::new(STORE).partition(RealmId(3), &key),
            GOLDEN_PARTITION
        );
    }

    const GOLDEN_HOMES: [u16; 8] = [2, 5, 4, 2, 2, 3, 0, 3];
    const GOLDEN_DIGEST: [u8; 8] = [99, 151, 123, 102, 123, 159, 20, 173];
    const GOLDEN_PARTITION: usize = 10603;
}
