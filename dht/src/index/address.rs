//! Which lines a key may be in.
//!
//! A partition of `lines` lines is addressed by linear hashing: `level` bits of the hash, and one bit more for the
//! lines before `split`, which have been split already. Growing is splitting line `split` into itself and a new last
//! line, one line at a time, so that the table is never moved as a whole.
//!
//! Every key has a **home** and one **other** line. The other line depends on the home and on eight bits of the key, its
//! **turn**: so those of a home's keys that are elsewhere can be found, in at most 256 places. The upper three bits of
//! the turn are the key's **class** at its home, for which the home has a hint: how many of the class are elsewhere.

use crate::limits::{OTHERS_OF_HOME, PARTITION_LINES_MAX, PARTITIONS_MAX};

use super::entry::Fingerprint;

/// Bits of the hash that choose among 256 other lines.
const TURN_BITS: u32 = 8;
/// Classes of keys that a home tells apart.
pub(super) const CLASSES: usize = 8;
/// Turns of one class.
pub(super) const TURNS_OF_CLASS: u64 = (1 << TURN_BITS) / CLASSES as u64;
const TURN_SHIFT: u32 = 64 - TURN_BITS;
const PARTITION_SHIFT: u32 = 48;

const _: () = assert!(OTHERS_OF_HOME == 1 << TURN_BITS);
// The hash's bits: those of the home, then the partition's, then the turn's, none used twice.
const _: () = assert!(PARTITION_LINES_MAX.ilog2() < PARTITION_SHIFT);
const _: () = assert!(PARTITION_SHIFT + PARTITIONS_MAX.ilog2() <= TURN_SHIFT);

/// Multiplies to 128 bits and folds the halves together.
#[inline(always)]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// What makes an index hash differently from every other, so that nobody can make up keys that crowd its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seeds(pub(super) [u64; 3]);

impl Seeds {
    #[inline(always)]
    pub(super) fn hash(self, fingerprint: Fingerprint) -> Hash {
        let half = fold(fingerprint.low ^ self.0[0], 0x9e37_79b9_7f4a_7c15);
        Hash(fold(
            fingerprint.high ^ self.0[1] ^ half,
            0xd6e8_feb8_6659_fd93,
        ))
    }

    #[inline(always)]
    fn of_other(self, home: u64, turn: u64) -> u64 {
        fold(
            (home << TURN_BITS | turn) ^ self.0[2],
            0xa076_1d64_78bd_642f,
        )
    }
}

/// A key's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash(pub(super) u64);

impl Hash {
    /// `partitions` is a power of two.
    #[inline(always)]
    pub(super) fn partition(self, partitions: usize) -> usize {
        (self.0 >> PARTITION_SHIFT) as usize & (partitions - 1)
    }

    #[inline(always)]
    pub(super) fn turn(self) -> u64 {
        self.0 >> TURN_SHIFT
    }

    #[inline(always)]
    pub(super) fn class(self) -> usize {
        (self.turn() / TURNS_OF_CLASS) as usize
    }
}

/// How many lines there are, in one word, so that readers get all of it at once.
///
/// ```text
/// 63          62       61-56    55-0
/// splitting │ zero   │ level  │ split
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(pub(super) u64);

const SPLITTING: u64 = 1 << 63;
const LEVEL_SHIFT: u32 = 56;
const LEVEL_MASK: u64 = 63;
const SPLIT_MASK: u64 = (1 << LEVEL_SHIFT) - 1;

impl Shape {
    /// `lines` is at least two.
    pub(super) fn of(lines: u64) -> Self {
        let level = lines.ilog2();
        Self(u64::from(level) << LEVEL_SHIFT | (lines - (1 << level)))
    }

    /// A word from an earlier run. None unless it is one that `of` makes for at most `lines_max` lines.
    pub(super) fn believe(word: u64, lines_max: u64) -> Option<Self> {
        let shape = Self(word);
        let level = shape.level();
        let sane = (1..=PARTITION_LINES_MAX.ilog2()).contains(&level)
            && shape.split() <= lines_max
            && (2..=lines_max).contains(&shape.lines());
        (sane && Self::of(shape.lines()) == shape).then_some(shape)
    }

    #[inline(always)]
    fn level(self) -> u32 {
        (self.0 >> LEVEL_SHIFT & LEVEL_MASK) as u32
    }

    /// The line that is split next, or now.
    #[inline(always)]
    pub(super) fn split(self) -> u64 {
        self.0 & SPLIT_MASK
    }

    #[inline(always)]
    pub(super) fn is_splitting(self) -> bool {
        self.0 & SPLITTING != 0
    }

    pub(super) fn while_splitting(self) -> Self {
        Self(self.0 | SPLITTING)
    }

    pub(super) fn lines(self) -> u64 {
        (1 << self.level()) + self.split()
    }

    /// With one line more.
    pub(super) fn next(self) -> Self {
        Self::of(self.lines() + 1)
    }

    #[inline(always)]
    fn line(self, hash: u64) -> u64 {
        let coarse = hash & ((1 << self.level()) - 1);
        let fine = hash & ((2 << self.level()) - 1);
        if coarse < self.split() { fine } else { coarse }
    }

    #[inline(always)]
    pub(super) fn home(self, hash: Hash) -> u64 {
        self.line(hash.0)
    }

    /// Never the home itself: where the hash says so, it is the line that the home was once split from.
    #[inline(always)]
    pub(super) fn other(self, seeds: Seeds, home: u64, turn: u64) -> u64 {
        let line = self.line(seeds.of_other(home, turn));
        if line != home {
            line
        } else if home == 0 {
            1
        } else {
            home ^ 1 << home.ilog2()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEEDS: Seeds = Seeds([1, 2, 3]);

    proptest! {
        #[test]
        fn a_split_moves_keys_of_one_line_to_the_new_one_only(lines in 2..100_000_u64, hash: u64) {
            let (before, after) = (Shape::of(lines), Shape::of(lines).next());
            let (from, to) = (before.home(Hash(hash)), after.home(Hash(hash)));
            prop_assert!(from < lines && to <= lines);
            prop_assert!(to == from || (from == before.split() && to == lines));
            prop_assert_eq!(after.lines(), lines + 1);
            prop_assert_eq!(Shape::believe(before.0, lines), Some(before));
            prop_assert_eq!(Shape::believe(after.0, lines), None);
            prop_assert_eq!(Shape::believe(before.while_splitting().0, lines), None);
        }

        /// A guest of a line that is not split stays where it is, whatever happens elsewhere.
        #[test]
        fn a_split_changes_the_other_line_of_its_own_keys_and_guests_only(
            lines in 2..5000_u64, hash: u64, turn in 0..256_u64,
        ) {
            let (before, after) = (Shape::of(lines), Shape::of(lines).next());
            let home = before.home(Hash(hash));
            prop_assume!(home != before.split());
            let (from, to) = (before.other(SEEDS, home, turn), after.other(SEEDS, home, turn));
            prop_assert!(from != home && to != home);
            prop_assert!(from < lines);
            prop_assert!(to == from || (from == before.split() && to == lines));
        }
    }

    #[test]
    fn words_that_are_no_shape_are_not_believed() {
        for word in [
            0,
            1,
            u64::MAX,
            62 << 56,
            10 << 56 | 1 << 10,
            10 << 56 | 1 << 55,
        ] {
            assert_eq!(Shape::believe(word, PARTITION_LINES_MAX), None, "{word:#x}");
        }
    }
}
