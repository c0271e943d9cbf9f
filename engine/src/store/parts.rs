//! Blobs that are longer than a slab: parts, each a window of its own, and a manifest.
//!
//! ```text
//!  key ──────────────────────► manifest ──► length, bytes of a part, generation
//!  key ^ mask(generation, 0) ► part 0
//!  key ^ mask(generation, 1) ► part 1        the last one is as long as what is left
//!  ...
//! ```
//!
//! A part lies under a key of its own, so it goes to the drive that this key gives, as any blob does, and what is done with
//! blobs is done with it: checks, moves, evictions. `mask` is BLAKE3's key derivation of generation and number, 8 and 2
//! bytes, little-endian, in the context `oriel 2026-11 parts of large blobs`. Whose part it is follows from its key and its
//! record, without reading anything else: the mask is its own inverse.
//!
//! A **generation** is a put's own number, so two puts under one key, or one after the other was deleted, have no part in
//! common. The manifest is committed last, and whoever commits the first under a key has stored the blob. It has 64 bytes:
//!
//! ```text
//!  byte  0      4      5         6  8            16       24           32      64
//!        ├──────┼──────┼─────────┼──┼────────────┼────────┼────────────┼───────┤
//!        │"OM01"│ kind │verified │0 │ generation │ length │ part bytes │ key   │
//!        └──────┴──────┴─────────┴──┴────────────┴────────┴────────────┴───────┘
//!  kind      0: a name; 1: the BLAKE3 of the blob
//!  verified  1: that was so when the blob was stored; a name has 0
//! ```
//!
//! All numbers are little-endian. The window's own checksum covers it.

use super::record::{LENGTH_MAX, Role, u64_at, window_blocks};
use super::types::{BLOCK_BYTES, Key, KeyKind};
use crate::limits::{PART_BLOCKS_MAX, PART_OF_SLAB};

/// Bytes of a manifest.
pub(crate) const MANIFEST_BYTES: usize = 64;

const MAGIC: [u8; 4] = *b"OM01";
const CONTEXT: &str = "oriel 2026-11 parts of large blobs";

/// The longest blob that fits a slab of so many blocks.
pub(crate) const fn slab_length_max(slab_blocks: u64) -> u64 {
    // One block is its record's, in the slab's directory.
    let blocks = slab_blocks.saturating_sub(1);
    let whole = blocks * BLOCK_BYTES as u64;
    let trailer = window_blocks(whole) - blocks;
    let length = (blocks - trailer) * BLOCK_BYTES as u64;
    if length < LENGTH_MAX {
        length
    } else {
        LENGTH_MAX
    }
}

/// Bytes of a part in a store with slabs of so many blocks, a power of two.
pub(crate) const fn part_bytes(slab_blocks: u64) -> u64 {
    let blocks = slab_blocks / PART_OF_SLAB;
    let blocks = if blocks < PART_BLOCKS_MAX {
        blocks
    } else {
        PART_BLOCKS_MAX
    };
    blocks * BLOCK_BYTES as u64
}

/// The longest blob that parts of so many bytes can make up.
pub(crate) const fn large_length_max(part_bytes: u64) -> u64 {
    let numbered = part_bytes.saturating_mul(1 << 16);
    if numbered < LENGTH_MAX {
        numbered
    } else {
        LENGTH_MAX
    }
}

/// The key of a part of that blob; and of a part's key, the blob's.
pub(crate) fn part_key(key: &Key, generation: u64, number: u16) -> Key {
    let mut material = [0; 10];
    material[..8].copy_from_slice(&generation.to_le_bytes());
    material[8..].copy_from_slice(&number.to_le_bytes());
    let mut bytes = blake3::derive_key(CONTEXT, &material);
    for (byte, of_key) in bytes.iter_mut().zip(key.bytes()) {
        *byte ^= of_key;
    }
    Key::new(bytes)
}

/// What is known of a blob that lies in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The blob's key.
    pub key: Key,
    /// What kind of key that is. The hash of content was verified before the manifest was written.
    pub kind: KeyKind,
    /// The put that stored it.
    pub generation: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes of each part but the last one; whole blocks.
    pub part_bytes: u64,
}

/// A run of bytes of one part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) number: u16,
    /// Where it begins in the part.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Manifest {
    /// How many parts there are.
    pub const fn parts(&self) -> u32 {
        self.length.div_ceil(self.part_bytes) as u32
    }

    /// The key that a part lies under.
    pub fn part_key(&self, number: u16) -> Key {
        part_key(&self.key, self.generation, number)
    }

    /// The keys of all parts.
    pub fn part_keys(&self) -> impl Iterator<Item = Key> {
        (0..self.parts()).map(|number| self.part_key(number as u16))
    }

    pub(crate) fn role(&self) -> Role {
        Role::Manifest {
            length: self.length,
        }
    }

    /// Whether a part is one of this blob's.
    pub(crate) fn has(&self, generation: u64, number: u16) -> bool {
        self.generation == generation && u32::from(number) < self.parts()
    }

    /// What some bytes of the blob are of its parts, in order. What lies behind its end is left out.
    pub(crate) fn pieces(&self, offset: u64, bytes: u64) -> impl Iterator<Item = Piece> {
        let end = offset.saturating_add(bytes).min(self.length);
        let size = self.part_bytes;
        let first = offset / size;
        let last = if offset < end {
            end.div_ceil(size)
        } else {
            first
        };
        (first..last).map(move |number| {
            let start = number * size;
            let from = offset.max(start);
            Piece {
                number: number as u16,
                offset: from - start,
                bytes: end.min(start + size) - from,
            }
        })
    }

    pub(crate) fn encode(&self) -> [u8; MANIFEST_BYTES] {
        let mut bytes = [0; MANIFEST_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        let is_content = u8::from(self.kind == KeyKind::Content);
        bytes[4] = is_content;
        bytes[5] = is_content;
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.part_bytes.to_le_bytes());
        bytes[32..].copy_from_slice(self.key.bytes());
        bytes
    }

    /// What the manifest under that key says; `None` if it is none, or of a later version.
    pub(crate) fn decode(bytes: &[u8], of: &Key) -> Option<Self> {
        let bytes: &[u8; MANIFEST_BYTES] = bytes.try_into().ok()?;
        let kind = match bytes[4..8] {
            [0, 0, 0, 0] => KeyKind::Name,
            [1, 1, 0, 0] => KeyKind::Content,
            _ => return None,
        };
        let (length, part_bytes) = (u64_at(bytes, 16), u64_at(bytes, 24));
        let is_sound = bytes[..4] == MAGIC
            && bytes[32..] == *of.bytes()
            && part_bytes > 0
            && part_bytes <= LENGTH_MAX
            && part_bytes.is_multiple_of(BLOCK_BYTES as u64)
            && length > 0
            && length <= large_length_max(part_bytes);
        is_sound.then_some(Self {
            key: *of,
            kind,
            generation: u64_at(bytes, 8),
            length,
            part_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;
    const MANIFEST: Manifest = Manifest {
        key: Key::new([0xab; 32]),
        kind: KeyKind::Content,
        generation: 0x0102_0304_0506_0708,
        length: 0x0009_0a0b,
        part_bytes: 0x4000,
    };

    /// The format on the drives: a change here needs another magic.
    #[test]
    fn the_bytes_of_a_manifest_are_these() {
        let bytes = [
            &b"OM01"[..],
            &[1, 1, 0, 0],
            &[8, 7, 6, 5, 4, 3, 2, 1],
            &[0x0b, 0x0a, 0x09, 0, 0, 0, 0, 0],
            &[0, 0x40, 0, 0, 0, 0, 0, 0],
            &[0xab; 32],
        ];
        assert_eq!(MANIFEST.encode()[..], bytes.concat());
        assert_eq!(
            Manifest::decode(&MANIFEST.encode(), &MANIFEST.key),
            Some(MANIFEST)
        );
        assert_eq!(MANIFEST.parts(), 0x25);
    }

    /// So are the keys of parts: what was stored under them is not found under others.
    #[test]
    fn the_keys_of_parts_are_these() {
        let key = part_key(&Key::new([0; 32]), 0x0102_0304_0506_0708, 0x1112);
        let mut material = blake3::Hasher::new_derive_key("oriel 2026-11 parts of large blobs");
        material.update(&[8, 7, 6, 5, 4, 3, 2, 1, 0x12, 0x11]);
        assert_eq!(key.bytes(), material.finalize().as_bytes());
        assert_eq!(
            part_key(&MANIFEST.key, 7, 3).to_string(),
            GOLDEN_KEY,
            "the mask over the blob's own key"
        );
        assert_eq!(part_key(&part_key(&MANIFEST.key, 7, 3), 7, 3), MANIFEST.key);
        let others = [(7, 3), (7, 4), (8, 3)].map(|(of, no)| part_key(&MANIFEST.key, of, no));
        assert!(others[0] != others[1] && others[0] != others[2] && others[1] != others[2]);
    }

    const GOLDEN_KEY: &str = "de4a60681fac00ef54e0a023200e1eb0695e889a66e8984bf5222a1c2568fa98";

    #[test]
    fn what_is_no_manifest_is_refused() {
        let key = &MANIFEST.key;
        let decode = |bytes: &[u8]| Manifest::decode(bytes, key);
        let whole = MANIFEST.encode();
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&whole[..63]), None);
        assert_eq!(decode(&[&whole[..], &[0]].concat()), None);
        for at in (0..8).chain(32..64) {
            let mut other = whole;
            other[at] ^= 0x10;
            assert_eq!(decode(&other), None, "byte {at}");
        }
        for (length, part_bytes) in [
            (0, BLOCK),
            (1, 0),
            (1, BLOCK + 1),
            (BLOCK << 17, BLOCK),
            (LENGTH_MAX + 1, 1 << 30),
            (u64::MAX, BLOCK),
            (1, u64::MAX / BLOCK * BLOCK),
        ] {
            let other = Manifest {
                length,
                part_bytes,
                ..MANIFEST
            };
            assert_eq!(decode(&other.encode()), None, "{other:?}");
        }
    }

    #[test]
    fn slabs_hold_several_parts() {
        for shift in 3..24 {
            let slab = 1 << shift;
            let blocks = window_blocks(part_bytes(slab).max(1));
            assert!(blocks * (PART_OF_SLAB - 1) < slab, "{slab}");
            assert!(slab_length_max(slab) > part_bytes(slab));
        }
        assert_eq!(part_bytes(1 << 18), 16 << 20);
        assert_eq!(large_length_max(16 << 20), (1 << 36) - 1);
        assert_eq!(large_length_max(BLOCK), BLOCK << 16);
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes_that_were_asked_for(
            length in 1u64..100_000,
            blocks in 1u64..4,
            offset in 0u64..110_000,
            bytes in prop_oneof![0u64..110_000, Just(u64::MAX)],
        ) {
            let manifest = Manifest { length, part_bytes: blocks * BLOCK, ..MANIFEST };
            let end = offset.saturating_add(bytes).min(length);
            let mut at = offset;
            for piece in manifest.pieces(offset, bytes) {
                prop_assert_eq!(u64::from(piece.number) * blocks * BLOCK + piece.offset, at);
                prop_assert!(piece.bytes > 0 && piece.offset + piece.bytes <= blocks * BLOCK);
                at += piece.bytes;
            }
            prop_assert_eq!(at, end.max(offset));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Manifest::decode(&bytes, &MANIFEST.key);
        }
    }
}
