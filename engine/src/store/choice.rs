//! When slabs are worth emptying, and which one comes first: pure decisions, for `compaction.rs` to carry out.

use std::collections::HashMap;

use super::directory::directory_blocks;
use super::types::RealmId;
use crate::limits::{EARLY_FULL_EIGHTHS, EARLY_PART, EARLY_SLABS, FULL_EIGHTHS};

/// How much is to be gained by emptying slabs now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    /// Somebody waits for the room.
    Now,
    /// Somebody will.
    Early,
}

impl Urgency {
    pub(super) fn full_eighths(self) -> u64 {
        match self {
            Self::Now => FULL_EIGHTHS,
            Self::Early => EARLY_FULL_EIGHTHS,
        }
    }
}

/// What a drive has for slabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    /// Blocks that slabs may still take.
    pub(super) free: u64,
    /// Blocks of the slabs there are.
    pub(super) used: u64,
    pub(super) slab_blocks: u64,
}

/// Whether it is time to make room, and how much.
pub(super) fn urgency(room: Room, is_waited_for: bool) -> Option<Urgency> {
    let Room {
        free,
        used,
        slab_blocks,
    } = room;
    let little = ((free + used) / EARLY_PART).max(EARLY_SLABS * slab_blocks);
    match (is_waited_for, free < little) {
        (true, _) => Some(Urgency::Now),
        (false, true) => Some(Urgency::Early),
        (false, false) => None,
    }
}

/// A slab that may be emptied.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Candidate {
    pub(super) number: u64,
    pub(super) realm: RealmId,
    /// Blocks of its windows that hold blobs.
    pub(super) live: u64,
    /// Those blobs.
    pub(super) blobs: u64,
    /// Slabs that were made since.
    pub(super) age: u64,
}

impl Candidate {
    /// What a slab needs to take its blobs, beside so many blocks of so many others.
    fn needs_beside(&self, live: u64, blobs: u64) -> u64 {
        self.live + live + directory_blocks(self.blobs + blobs)
    }
}

/// The slab whose room is worth most beside what it costs, among those of which at least one slab comes free: its blobs
/// fit what is left of the slab that is being filled (the `room` there is for them), or a new one together with those of
/// another.
pub(super) fn choose(
    candidates: &[Candidate],
    slab_blocks: u64,
    room: impl Fn(&Candidate) -> u64,
) -> Option<Candidate> {
    let worth = |candidate: &Candidate| {
        let full = candidate.live as f64 / slab_blocks as f64;
        (1.0 - full) * (candidate.age + 1) as f64 / (1.0 + full)
    };
    // Of each realm, the two that hold least.
    let mut least: HashMap<RealmId, [Option<&Candidate>; 2]> = HashMap::new();
    for candidate in candidates {
        let [first, second] = least.entry(candidate.realm).or_default();
        if first.is_none_or(|least| candidate.live < least.live) {
            *second = first.replace(candidate);
        } else if second.is_none_or(|least| candidate.live < least.live) {
            *second = Some(candidate);
        }
    }
    let helps = |candidate: &&Candidate| {
        let least = least.get(&candidate.realm).into_iter().flatten().flatten();
        let least = least
            .copied()
            .find(|other| other.number != candidate.number);
        candidate.live <= room(candidate)
            || least
                .is_some_and(|other| candidate.needs_beside(other.live, other.blobs) <= slab_blocks)
    };
    let best = candidates.iter().filter(helps);
    best.max_by(|one, other| worth(one).total_cmp(&worth(other)))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u64, live: u64, age: u64) -> Candidate {
        Candidate {
            number,
            realm: RealmId(0),
            live,
            blobs: 1,
            age,
        }
    }

    fn chosen(room: u64, all: &[Candidate]) -> Option<u64> {
        choose(all, 100, |_| room).map(|one| one.number)
    }

    #[test]
    fn the_slab_with_most_to_gain_is_emptied_first() {
        assert_eq!(chosen(100, &[]), None);
        assert_eq!(
            chosen(100, &[candidate(1, 50, 3), candidate(2, 10, 3)]),
            Some(2)
        );
        // What is a little fuller and much older is worth more.
        assert_eq!(
            chosen(100, &[candidate(1, 30, 9), candidate(2, 20, 2)]),
            Some(1)
        );
    }

    #[test]
    fn room_is_made_before_it_is_needed() {
        let room = |free, used| Room {
            free,
            used,
            slab_blocks: 100,
        };
        assert_eq!(urgency(room(1000, 1000), false), None);
        assert_eq!(urgency(room(1000, 1000), true), Some(Urgency::Now));
        // On a small drive some slabs are little, on a large one a share of it.
        assert_eq!(urgency(room(400, 0), false), None);
        assert_eq!(urgency(room(399, 0), false), Some(Urgency::Early));
        assert_eq!(urgency(room(10_000, 150_000), false), None);
        assert_eq!(urgency(room(9_999, 150_001), false), Some(Urgency::Early));
        assert_eq!(urgency(room(0, 150_001), true), Some(Urgency::Now));
    }

    #[test]
    fn a_slab_whose_emptying_frees_none_is_left_alone() {
        assert_eq!(chosen(0, &[candidate(1, 30, 9)]), None);
        assert_eq!(chosen(29, &[candidate(1, 30, 9)]), None);
        assert_eq!(chosen(30, &[candidate(1, 30, 9)]), Some(1));
        // Two together fill one, if they leave a block for their directory and are of the same realm.
        assert_eq!(chosen(0, &[candidate(1, 50, 9), candidate(2, 50, 0)]), None);
        assert_eq!(
            chosen(0, &[candidate(1, 50, 9), candidate(2, 49, 0)]),
            Some(1)
        );
        let other = Candidate {
            realm: RealmId(1),
            ..candidate(2, 49, 0)
        };
        assert_eq!(chosen(0, &[candidate(1, 50, 9), other]), None);
    }
}
