//! The pins of a cache: which of its blobs are not evicted before a time, and what they take.
//!
//! Pinning and asking take the time of a look-up, however many pins there are; those whose time has passed go some at a time.

use std::collections::BTreeSet;

use oriel_dht::index::Fingerprint;

use super::prints::PrintMap;
use crate::clock::Moment;

/// Pins that are taken out in one go.
const ENDED_AT_ONCE: usize = 1024;

#[derive(Clone, Copy)]
struct Pin {
    until: Moment,
    blocks: u64,
}

#[derive(Default)]
pub(super) struct Pins {
    of: PrintMap<Pin>,
    /// The same, by their ends.
    ends: BTreeSet<(Moment, Fingerprint)>,
    blocks: u64,
}

impl Pins {
    /// Takes out those whose time has passed, or many of them.
    pub(super) fn end(&mut self, now: Moment) {
        for _ in 0..ENDED_AT_ONCE {
            match self.ends.first().copied() {
                Some((until, blob)) if until <= now => self.remove(blob),
                _ => return,
            };
        }
    }

    /// Pins a blob, or pins it anew.
    pub(super) fn insert(&mut self, blob: Fingerprint, until: Moment, blocks: u64) {
        self.remove(blob);
        self.of.insert(blob, Pin { until, blocks });
        self.ends.insert((until, blob));
        self.blocks += blocks;
    }

    /// Whether the blob was pinned, which it is not any more.
    pub(super) fn remove(&mut self, blob: Fingerprint) -> bool {
        let Some(pin) = self.of.remove(&blob) else {
            return false;
        };
        self.ends.remove(&(pin.until, blob));
        self.blocks -= pin.blocks;
        true
    }

    pub(super) fn holds(&self, blob: Fingerprint, now: Moment) -> bool {
        self.of.get(&blob).is_some_and(|pin| pin.until > now)
    }

    /// Blobs that are pinned, or were until not long ago.
    pub(super) fn len(&self) -> u64 {
        self.of.len() as u64
    }

    /// Blocks of their windows.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks of the windows of all but one.
    pub(super) fn blocks_beside(&self, blob: Fingerprint) -> u64 {
        self.blocks - self.of.get(&blob).map_or(0, |pin| pin.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_pinned_is_counted_until_it_ends() {
        let blob = |name: u8| Fingerprint::from_bytes([name; 16]);
        let at = |seconds| Moment::START + Duration::from_secs(seconds);
        let mut pins = Pins::default();
        pins.insert(blob(1), at(10), 3);
        pins.insert(blob(2), at(20), 5);
        assert_eq!((pins.len(), pins.blocks()), (2, 8));
        assert_eq!(
            (pins.blocks_beside(blob(1)), pins.blocks_beside(blob(9))),
            (5, 8)
        );
        // Pinned anew it is pinned once, until the new time.
        pins.insert(blob(1), at(30), 3);
        assert_eq!((pins.len(), pins.blocks()), (2, 8));
        pins.end(at(20));
        assert_eq!((pins.len(), pins.blocks()), (1, 3));
        assert!(pins.holds(blob(1), at(29)) && !pins.holds(blob(1), at(30)));
        assert!(!pins.holds(blob(2), at(1)) && !pins.remove(blob(2)));
        assert!(pins.remove(blob(1)) && !pins.remove(blob(1)));
        assert_eq!((pins.len(), pins.blocks()), (0, 0));
        pins.end(at(100));
    }
}
