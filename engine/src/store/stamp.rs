//! What ties an index to one checkpoint of one store, in the last line of the index's section:
//!
//! ```text
//!  word  0            1 2      3        4      5            6    7
//!        ├────────────┼────────┼────────┼──────┼────────────┼────┼────────┤
//!        │ "ORIELTIE" │ store  │ epoch  │ tag  │ blobs most │ 0  │ CRC32C │
//!        └────────────┴────────┴────────┴──────┴────────────┴────┴────────┘
//! ```
//!
//! The tag is drawn when a store stops and stands in its last checkpoint as well. An index is taken over only if all of it
//! is what that checkpoint says: not one of another store, nor of an earlier stop of this one, nor of another life of the
//! same epoch, as after a drive was put back to an older state. The stamp is wiped when the index is taken over, so that it
//! is taken over once.

use std::sync::atomic::Ordering;

use oriel_dht::limits::{LINE_BYTES, LINE_WORDS};
use oriel_dht::region::Section;
use oriel_ec::Crc32c;

use super::types::StoreId;

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: u64 = LINE_BYTES as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"ORIELTIE");

/// Which checkpoint an index is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) store: StoreId,
    pub(super) epoch: u64,
    /// Never 0.
    pub(super) tag: u64,
    /// What the index was made for.
    pub(super) blobs_max: u64,
}

fn checksum(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Crc32c::of(&bytes).value().into()
}

fn store(section: &Section, line: [u64; LINE_WORDS]) {
    let words = section.words();
    let first = words.len() - LINE_WORDS;
    for (word, value) in words[first..].iter().zip(line) {
        word.store(value, Ordering::Release);
    }
    section.persist(first..words.len());
}

impl Stamp {
    pub(super) fn write(&self, section: &Section) {
        let half = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.store.0[from..from + 8]);
            u64::from_le_bytes(bytes)
        };
        let mut line = [
            MAGIC,
            half(0),
            half(8),
            self.epoch,
            self.tag,
            self.blobs_max,
            0,
            0,
        ];
        line[7] = checksum(&line[..7]);
        store(section, line);
    }

    /// The stamp of a section, which is wiped.
    pub(super) fn take(section: &Section) -> Option<Self> {
        let words = section.words();
        if words.len() < LINE_WORDS {
            return None;
        }
        let mut line = [0; LINE_WORDS];
        for (value, word) in line.iter_mut().zip(&words[words.len() - LINE_WORDS..]) {
            *value = word.load(Ordering::Acquire);
        }
        store(section, [0; LINE_WORDS]);
        let [magic, low, high, epoch, tag, blobs_max, ..] = line;
        let is_one = magic == MAGIC && line[7] == checksum(&line[..7]) && tag != 0;
        let mut of = StoreId([0; 16]);
        of.0[..8].copy_from_slice(&low.to_le_bytes());
        of.0[8..].copy_from_slice(&high.to_le_bytes());
        is_one.then_some(Self {
            store: of,
            epoch,
            tag,
            blobs_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::index_file::index_in_memory;
    use super::*;

    #[test]
    fn a_stamp_is_believed_once_and_whole() {
        let section = index_in_memory(100).unwrap();
        let stamp = Stamp {
            store: StoreId(*b"0123456789abcdef"),
            epoch: 5,
            tag: 77,
            blobs_max: 100,
        };
        assert_eq!(Stamp::take(&section), None);
        stamp.write(&section);
        assert_eq!(Stamp::take(&section), Some(stamp));
        assert_eq!(Stamp::take(&section), None);
        let first = section.words().len() - LINE_WORDS;
        for bit in 0..LINE_WORDS * 64 {
            stamp.write(&section);
            section.words()[first + bit / 64].fetch_xor(1 << (bit % 64), Ordering::AcqRel);
            assert_eq!(Stamp::take(&section), None, "bit {bit}");
        }
    }
}
