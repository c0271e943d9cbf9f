//! The bytes that a verified load writes, and how they are checked on read.
//!
//! Every block says which block it is and which write put it there, so that a
//! mismatch can be named: data of another block, an older write, zeroes, or
//! bytes that changed. One block, in little-endian 64-bit words:
//!
//! ```text
//! word 0        1                      2 .. end
//!      lba      generation | MAGIC     mix(seed, lba, generation, word index)
//! ```
//!
//! A generation counts the writes of one I/O unit, from 1; 0 is "never
//! written by this run", and what such a block holds is not checked.

use std::fmt;

use super::rng::mix;

const MAGIC: u64 = 0x4C45_4952;
const WORD: usize = size_of::<u64>();

/// What the blocks of one run are filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
    block_bytes: usize,
}

/// Where a read did not return what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) lba: u64,
    /// The first wrong byte, counted from the start of the block.
    pub(crate) byte: usize,
    pub(crate) expected: u64,
    pub(crate) found: u64,
    pub(crate) content: Content,
}

/// What a wrong block seems to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zeroes,
    /// A whole block of this run, but not the one that was asked for.
    OtherWrite {
        lba: u64,
        generation: u32,
    },
    Unknown,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {} differs from what was written to it at byte {} (expected {:#018x}, found {:#018x}): it holds ",
            self.lba, self.byte, self.expected, self.found
        )?;
        match self.content {
            Content::Zeroes => f.write_str("only zeroes"),
            Content::OtherWrite { lba, generation } if lba == self.lba => {
                write!(
                    f,
                    "its own write number {generation}, which is not the last one"
                )
            }
            Content::OtherWrite { lba, generation } => {
                write!(f, "what write number {generation} put into block {lba}")
            }
            Content::Unknown => f.write_str("bytes that this run never wrote"),
        }
    }
}

impl Pattern {
    /// `block_bytes` must be a multiple of 8 and at least 16, as every bdev's is.
    pub(crate) fn new(seed: u64, block_bytes: usize) -> Self {
        assert!(
            block_bytes >= 2 * WORD && block_bytes.is_multiple_of(WORD),
            "a block of {block_bytes} bytes holds no tag"
        );
        Self { seed, block_bytes }
    }

    pub(crate) fn fill(&self, data: &mut [u8], first_lba: u64, generation: u32) {
        for (lba, block) in (first_lba..).zip(data.chunks_exact_mut(self.block_bytes)) {
            for (word, expected) in block
                .chunks_exact_mut(WORD)
                .zip(self.words(lba, generation))
            {
                word.copy_from_slice(&expected.to_le_bytes());
            }
        }
    }

    pub(crate) fn check(
        &self,
        data: &[u8],
        first_lba: u64,
        generation: u32,
    ) -> Result<(), Mismatch> {
        for (lba, block) in (first_lba..).zip(data.chunks_exact(self.block_bytes)) {
            for (index, (found, expected)) in
                words_of(block).zip(self.words(lba, generation)).enumerate()
            {
                if found != expected {
                    let differing = (found ^ expected).trailing_zeros() as usize / 8;
                    let byte = index * WORD + differing;
                    let content = self.content(block);
                    return Err(Mismatch {
                        lba,
                        byte,
                        expected,
                        found,
                        content,
                    });
                }
            }
        }
        Ok(())
    }

    fn words(&self, lba: u64, generation: u32) -> impl Iterator<Item = u64> {
        let tag = u64::from(generation) << 32 | MAGIC;
        let base = mix(self.seed ^ mix(lba) ^ tag);
        (0u64..).map(move |index| match index {
            0 => lba,
            1 => tag,
            _ => mix(base.wrapping_add(index)),
        })
    }

    fn content(&self, block: &[u8]) -> Content {
        if block.iter().all(|byte| *byte == 0) {
            return Content::Zeroes;
        }
        let mut words = words_of(block);
        if let (Some(lba), Some(tag)) = (words.next(), words.next())
            && tag & u64::from(u32::MAX) == MAGIC
        {
            let generation = (tag >> 32) as u32;
            if words_of(block)
                .zip(self.words(lba, generation))
                .all(|(found, expected)| found == expected)
            {
                return Content::OtherWrite { lba, generation };
            }
        }
        Content::Unknown
    }
}

fn words_of(block: &[u8]) -> impl Iterator<Item = u64> {
    block
        .chunks_exact(WORD)
        .map(|word| u64::from_le_bytes(word.try_into().expect("chunks_exact yields whole words")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    fn written(first_lba: u64, generation: u32, blocks: usize) -> (Pattern, Vec<u8>) {
        let pattern = Pattern::new(9, BLOCK);
        let mut data = vec![0; blocks * BLOCK];
        pattern.fill(&mut data, first_lba, generation);
        (pattern, data)
    }

    #[test]
    fn what_was_filled_passes() {
        let (pattern, data) = written(100, 3, 8);
        assert_eq!(pattern.check(&data, 100, 3), Ok(()));
    }

    #[test]
    fn any_single_changed_byte_is_found_and_named() {
        let (pattern, data) = written(100, 3, 2);
        for at in 0..data.len() {
            let mut bad = data.clone();
            bad[at] ^= 0x40;
            let mismatch = pattern.check(&bad, 100, 3).unwrap_err();
            assert_eq!(
                (mismatch.lba, mismatch.byte),
                (100 + (at / BLOCK) as u64, at % BLOCK)
            );
            assert_eq!(mismatch.content, Content::Unknown);
        }
    }

    #[test]
    fn data_of_another_block_is_named() {
        let (pattern, data) = written(200, 1, 1);
        let mismatch = pattern.check(&data, 100, 1).unwrap_err();
        assert_eq!(
            mismatch.content,
            Content::OtherWrite {
                lba: 200,
                generation: 1
            }
        );
        assert!(
            mismatch.to_string().contains("into block 200"),
            "{mismatch}"
        );
    }

    #[test]
    fn a_lost_write_is_named_as_the_older_one() {
        let (pattern, data) = written(100, 1, 1);
        let mismatch = pattern.check(&data, 100, 2).unwrap_err();
        assert_eq!(
            mismatch.content,
            Content::OtherWrite {
                lba: 100,
                generation: 1
            }
        );
        assert!(
            mismatch.to_string().contains("not the last one"),
            "{mismatch}"
        );
    }

    #[test]
    fn zeroes_are_named() {
        let pattern = Pattern::new(9, BLOCK);
        let mismatch = pattern.check(&[0; BLOCK], 0, 1).unwrap_err();
        assert_eq!(mismatch.content, Content::Zeroes);
        assert_eq!(mismatch.lba, 0);
    }

    #[test]
    fn runs_with_different_seeds_do_not_take_each_others_data() {
        let (_, data) = written(100, 1, 1);
        assert!(Pattern::new(10, BLOCK).check(&data, 100, 1).is_err());
    }
}
