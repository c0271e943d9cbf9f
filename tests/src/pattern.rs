//! Data that tells where it belongs: each 8-byte word follows from a seed and its position, so that
//! a lost, torn or misplaced block is found out, and named.

use std::fmt;

/// A word that is not what was written there.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its position in bytes.
    pub at: u64,
    /// What was written.
    pub expected: u64,
    /// What is there.
    pub found: u64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at byte {}: expected {:#018x}, found {:#018x}",
            self.at, self.expected, self.found
        )
    }
}

impl std::error::Error for Mismatch {}

const WORD: usize = size_of::<u64>();

/// The SplitMix64 generator's output function: neighbouring positions give unrelated words.
fn word(seed: u64, index: u64) -> u64 {
    let mut x = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Fills whole words with what belongs at byte `at` and after.
pub fn fill(bytes: &mut [u8], seed: u64, at: u64) {
    let first = at / WORD as u64;
    for (index, chunk) in (first..).zip(bytes.chunks_exact_mut(WORD)) {
        chunk.copy_from_slice(&word(seed, index).to_le_bytes());
    }
}

/// Compares with what [`fill`] writes and names the first difference.
pub fn check(bytes: &[u8], seed: u64, at: u64) -> Result<(), Mismatch> {
    let first = at / WORD as u64;
    for (index, chunk) in (first..).zip(bytes.as_chunks::<WORD>().0) {
        let (expected, found) = (word(seed, index), u64::from_le_bytes(*chunk));
        if expected != found {
            return Err(Mismatch {
                at: index * WORD as u64,
                expected,
                found,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_and_a_misplaced_block_are_found() {
        let mut bytes = vec![0; 1024];
        fill(&mut bytes, 7, 4096);
        assert_eq!(check(&bytes, 7, 4096), Ok(()));
        assert_eq!(check(&bytes[512..], 7, 4608), Ok(()));
        assert!(check(&bytes, 7, 4104).is_err());
        assert!(check(&bytes, 8, 4096).is_err());
        bytes[1000] ^= 1;
        assert_eq!(check(&bytes, 7, 4096).map_err(|m| m.at), Err(5096));
    }
}
