//! What stands for a key in the index and the journal: SipHash-1-3 with 128 bits, for messages of one length.
//!
//! Written out, since every lookup begins with it: for 34 bytes, a hasher that takes any number of them in any pieces spends
//! more time on pieces than on rounds.

use oriel_dht::index::Fingerprint;

use super::types::{Key, RealmId};

/// A key's 32 bytes and its realm's two.
const MESSAGE_BYTES: u64 = 34;

/// Makes fingerprints.
#[derive(Clone, Copy)]
pub(super) struct Printer {
    start: [u64; 4],
}

impl Printer {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        let seed = u128::from_le_bytes(*seed);
        let (low, high) = (seed as u64, (seed >> 64) as u64);
        Self {
            start: [
                low ^ 0x736f_6d65_7073_6575,
                // What tells 128 bits from 64.
                high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                low ^ 0x6c79_6765_6e65_7261,
                high ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    #[inline]
    pub(super) fn of(self, realm: RealmId, key: &Key) -> Fingerprint {
        let mut state = self.start;
        let (words, _) = key.bytes().as_chunks::<8>();
        for word in words {
            add(&mut state, u64::from_le_bytes(*word));
        }
        add(&mut state, u64::from(realm.0) | MESSAGE_BYTES << 56);
        state[2] ^= 0xee;
        let low = mixed(&mut state);
        state[1] ^= 0xdd;
        let high = mixed(&mut state);
        Fingerprint::from_bytes((u128::from(low) | u128::from(high) << 64).to_le_bytes())
    }
}

#[inline(always)]
fn add(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    state[0] ^= word;
}

#[inline(always)]
fn mixed(state: &mut [u64; 4]) -> u64 {
    for _ in 0..3 {
        round(state);
    }
    state.iter().fold(0, |sum, word| sum ^ word)
}

#[inline(always)]
fn round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use proptest::prelude::*;
    use siphasher::sip128::{Hasher128, SipHasher13};

    use super::*;

    proptest! {
        #[test]
        fn a_fingerprint_is_the_hash_that_the_format_names(seed: [u8; 16], key: [u8; 32], realm: u16) {
            let mut hasher = SipHasher13::new_with_key(&seed);
            hasher.write(&key);
            hasher.write(&realm.to_le_bytes());
            let want = Fingerprint::from_bytes(hasher.finish128().as_bytes());
            let found = Printer::new(&seed).of(RealmId(realm), &Key::new(key));
            prop_assert_eq!(found, want);
        }
    }
}
