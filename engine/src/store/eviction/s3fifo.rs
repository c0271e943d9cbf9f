//! Three queues: blobs come into a small one and leave the cache from there, unless they were used meanwhile; those that
//! were, go to the main one, which they leave when they come to its end unused. What left from the small queue is
//! remembered for a while, and goes to the main one if it comes again.

use std::collections::{HashSet, VecDeque};

use oriel_dht::index::Fingerprint;

use super::Eviction;
use super::queues::Queues;

const SMALL: usize = 0;
const MAIN: usize = 1;

/// The small queue's share of all blocks.
const SMALL_PERCENT: u64 = 10;

/// Uses are counted up to this.
pub(super) const USES_MAX: u8 = 3;

/// So many uses take a blob from the small queue to the main one.
const USES_TO_STAY: u8 = 2;

/// Blobs remembered after they left, at least.
const GHOSTS_MIN: usize = 1024;

#[derive(Default)]
pub(super) struct S3Fifo {
    queues: Queues<2>,
    blobs: usize,
    ghosts: VecDeque<u64>,
    is_ghost: HashSet<u64>,
}

/// A ghost is a hash: that of another blob does no harm.
fn ghost(blob: Fingerprint) -> u64 {
    let bytes = blob.to_bytes();
    let low = bytes.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(low)
}

impl S3Fifo {
    fn remember(&mut self, blob: Fingerprint) {
        if self.is_ghost.insert(ghost(blob)) {
            self.ghosts.push_back(ghost(blob));
        }
        while self.ghosts.len() > self.blobs.max(GHOSTS_MIN) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.is_ghost.remove(&oldest);
            }
        }
    }
}

impl Eviction for S3Fifo {
    fn inserted(&mut self, blob: Fingerprint, blocks: u64) {
        if !self.queues.remove(blob) {
            self.blobs += 1;
        }
        let queue = match self.is_ghost.contains(&ghost(blob)) {
            true => MAIN,
            false => SMALL,
        };
        self.queues.push(queue, blob, blocks);
    }

    fn accessed(&mut self, blob: Fingerprint) {
        if let Some(uses) = self.queues.uses(blob) {
            *uses = (*uses + 1).min(USES_MAX);
        }
    }

    fn removed(&mut self, blob: Fingerprint) {
        let queue = self.queues.queue_of(blob);
        if queue == Some(SMALL) {
            self.remember(blob);
        }
        if self.queues.remove(blob) {
            self.blobs -= 1;
        }
    }

    fn victim(&mut self) -> Option<(Fingerprint, u64)> {
        loop {
            let (small, main) = (self.queues.blocks(SMALL), self.queues.blocks(MAIN));
            let from_small = small * 100 > (small + main) * SMALL_PERCENT || main == 0;
            let queue = if from_small { SMALL } else { MAIN };
            let (blob, blocks) = self.queues.oldest(queue)?;
            let uses = self.queues.uses(blob)?;
            // Every turn takes a use away or leaves the small queue, so it ends.
            match (queue, *uses) {
                (SMALL, uses) if uses < USES_TO_STAY => return Some((blob, blocks)),
                (SMALL, _) => *uses = 0,
                (_, 0) => return Some((blob, blocks)),
                _ => *uses -= 1,
            }
            self.queues.bring_forward(MAIN, blob);
        }
    }

    fn spare(&mut self, blob: Fingerprint) {
        self.queues.bring_forward(MAIN, blob);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn blob(name: u32) -> Fingerprint {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&name.wrapping_mul(0x9e37_79b9).to_le_bytes());
        bytes[4..8].copy_from_slice(&name.to_le_bytes());
        Fingerprint::from_bytes(bytes)
    }

    /// A cache of so many blobs; how many of the accesses find theirs.
    fn hits(policy: Policy, room: usize, accesses: impl Iterator<Item = u32>) -> usize {
        let mut policy = policy.begin();
        let mut there = HashSet::new();
        let mut hits = 0;
        for name in accesses {
            if there.contains(&blob(name)) {
                policy.accessed(blob(name));
                hits += 1;
                continue;
            }
            if there.len() == room {
                let (victim, _) = policy.victim().unwrap();
                policy.removed(victim);
                assert!(there.remove(&victim));
            }
            policy.inserted(blob(name), 1);
            there.insert(blob(name));
        }
        hits
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_used() {
        // Fifty blobs again and again, and between every two rounds many that nobody asks for twice.
        let mut fresh = 1000..;
        let mut accesses = Vec::new();
        for _ in 0..50 {
            for _ in 0..2 {
                accesses.extend(0..50);
            }
            accesses.extend(fresh.by_ref().take(100));
        }
        let [s3, lru] =
            [Policy::S3Fifo, Policy::Lru].map(|policy| hits(policy, 100, accesses.iter().copied()));
        // Each round's second half is a hit anyway; its first half with S3-FIFO only.
        assert!(s3 > 4500, "{s3}");
        assert!(lru < 2600, "{lru}");
    }

    proptest! {
        #[test]
        fn it_knows_every_blob_once_and_lets_all_go(steps in prop::collection::vec((0..6, 0..40_u32), 0..400)) {
            let mut policy = Policy::S3Fifo.begin();
            let mut model: HashMap<Fingerprint, u64> = HashMap::new();
            for (step, name) in steps {
                match step {
                    0 | 1 => {
                        policy.inserted(blob(name), u64::from(name) + 1);
                        model.insert(blob(name), u64::from(name) + 1);
                    }
                    2 => policy.accessed(blob(name)),
                    3 => {
                        policy.removed(blob(name));
                        model.remove(&blob(name));
                    }
                    4 => policy.spare(blob(name)),
                    _ => {
                        let victim = policy.victim();
                        prop_assert_eq!(victim.is_some(), !model.is_empty());
                        if let Some((victim, blocks)) = victim {
                            prop_assert_eq!(model.get(&victim), Some(&blocks));
                        }
                    }
                }
            }
            while let Some((victim, blocks)) = policy.victim() {
                prop_assert_eq!(model.remove(&victim), Some(blocks));
                policy.removed(victim);
            }
            prop_assert!(model.is_empty());
        }
    }
}
