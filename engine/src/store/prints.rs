//! Maps by fingerprint. A fingerprint is a keyed hash already: hashing it again would only take time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use oriel_dht::index::Fingerprint;

pub(super) type PrintMap<V> = HashMap<Fingerprint, V, BuildHasherDefault<AsItIs>>;
pub(super) type PrintSet = HashSet<Fingerprint, BuildHasherDefault<AsItIs>>;

/// Takes the words of a fingerprint for its hash.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 ^= word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
