//! The label: one block that says whose drive it is and how it is cut up, written when the store is made.
//!
//! ```text
//!  byte  0          8         12     16              32           40             48        4096
//!        ├──────────┼─────────┼──────┼───────────────┼────────────┼──────────────┼─────────┤
//!        │"ORIELLOG"│ version │CRC32C│ store         │slab blocks │journal blocks│ 0       │
//!        └──────────┴─────────┴──────┴───────────────┴────────────┴──────────────┴─────────┘
//! ```
//!
//! The checksum covers the version and what follows the checksum, to the end of the block. The version is that of all formats
//! together; these sixteen bytes stay as they are in all versions, so that a newer one is told from a damaged one.

use oriel_ec::Crc32c;

use super::record::{u32_at, u64_at};
use super::types::StoreId;

const LABEL_MAGIC: [u8; 8] = *b"ORIELLOG";

/// The latest version of all formats together. The first one knows no large blobs.
pub(crate) const VERSION: u32 = 2;

/// The version that a store is made in, and stays in until it gets a large blob: older programs can use it as long.
pub(crate) const FIRST_VERSION: u32 = 1;

/// How a store's drive is cut up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    pub(crate) version: u32,
    pub(crate) store: StoreId,
    pub(crate) slab_blocks: u64,
    pub(crate) journal_blocks: u64,
}

/// What a label's block holds instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoLabel {
    Foreign,
    Newer { version: u32 },
    Damaged { expected: u32, found: u32 },
}

impl Label {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        block[..8].copy_from_slice(&LABEL_MAGIC);
        block[8..12].copy_from_slice(&self.version.to_le_bytes());
        block[16..32].copy_from_slice(&self.store.0);
        block[32..40].copy_from_slice(&self.slab_blocks.to_le_bytes());
        block[40..48].copy_from_slice(&self.journal_blocks.to_le_bytes());
        let checksum = checksum(block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, NoLabel> {
        if block[..8] != LABEL_MAGIC {
            return Err(NoLabel::Foreign);
        }
        let (expected, found) = (u32_at(block, 12), checksum(block));
        if expected != found {
            return Err(NoLabel::Damaged { expected, found });
        }
        let version = u32_at(block, 8);
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(NoLabel::Newer { version });
        }
        let mut store = StoreId([0; 16]);
        store.0.copy_from_slice(&block[16..32]);
        Ok(Self {
            version,
            store,
            slab_blocks: u64_at(block, 32),
            journal_blocks: u64_at(block, 40),
        })
    }
}

fn checksum(block: &[u8]) -> u32 {
    Crc32c::of(&block[8..12]).and(&block[16..]).value()
}

#[cfg(test)]
mod tests {
    use super::super::types::BLOCK_BYTES;
    use super::*;

    const LABEL: Label = Label {
        version: FIRST_VERSION,
        store: StoreId([7; 16]),
        slab_blocks: 0x102,
        journal_blocks: 0x304,
    };

    /// The format on the drives: a change here needs another version.
    #[test]
    fn the_bytes_of_a_label_are_these() {
        let mut block = vec![0xff; BLOCK_BYTES];
        LABEL.encode(&mut block);
        let checksum = Crc32c::of(&block[8..12]).and(&block[16..]).value();
        let bytes = [
            &b"ORIELLOG"[..],
            &[1, 0, 0, 0],
            &checksum.to_le_bytes(),
            &[7; 16],
            &[2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(block[..48], bytes.concat());
        assert!(block[48..].iter().all(|&byte| byte == 0));
        assert_eq!(Label::decode(&block), Ok(LABEL));
        let version = VERSION;
        let raised = Label { version, ..LABEL };
        raised.encode(&mut block);
        assert_eq!(block[8..12], [2, 0, 0, 0]);
        assert_eq!(Label::decode(&block), Ok(raised));
    }

    #[test]
    fn a_newer_label_is_told_from_a_damaged_one() {
        let mut block = vec![0; BLOCK_BYTES];
        LABEL.encode(&mut block);
        for bit in 64..BLOCK_BYTES * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = Label::decode(&flipped);
            assert!(matches!(decoded, Err(NoLabel::Damaged { .. })), "bit {bit}");
        }
        for version in [0, 3] {
            block[8] = version;
            let whole = checksum(&block);
            block[12..16].copy_from_slice(&whole.to_le_bytes());
            let version = version.into();
            assert_eq!(Label::decode(&block), Err(NoLabel::Newer { version }));
        }
    }
}
