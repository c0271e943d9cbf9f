//! The header of a region: its first 4096 bytes.
//!
//! ```text
//!  word
//!    0  magic "ORIELREG"
//!    1  layout version (low 32 bits), header bytes (high 32)
//!    2  bytes of the whole region, header included
//!    3  sections in the table below
//!    4  a number drawn when the region was created
//!    5-7  zero
//!    8  section 0:  kind (low 32), version (high 32)
//!    9              offset in bytes, a multiple of 2 MiB
//!   10              bytes
//!   11              zero
//!   12  section 1 ...
//!  ...  32 places
//!  136  CRC-32C of words 0 to 135 (low 32), zero (high 32)
//!  137-255  zero
//!  256  state: "CLEAN..." or "IN-USE.."          ─┐ one line, the only one that
//!  257  generation: how often it was opened       │ changes after the creation
//!  258  CRC-32C of words 4, 256 and 257          ─┘
//!  259-511  zero
//! ```
//!
//! A state line that was caught half-written is neither and counts as in use. The header proper is written once.

use std::fmt;

use crate::limits::{REGION_BYTES_MAX, REGION_HEADER_BYTES, SECTION_ALIGN_BYTES, SECTIONS_MAX};

/// Words of the header.
pub(super) const HEADER_WORDS: usize = REGION_HEADER_BYTES / 8;
/// The layout described above.
pub const LAYOUT_VERSION: u32 = 1;

const MAGIC: u64 = u64::from_le_bytes(*b"ORIELREG");
const CLEAN: u64 = u64::from_le_bytes(*b"CLEAN...");
const IN_USE: u64 = u64::from_le_bytes(*b"IN-USE..");

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_BYTES: usize = 2;
const AT_SECTIONS: usize = 3;
const AT_IDENTITY: usize = 4;
const AT_TABLE: usize = 8;
const TABLE_STEP: usize = 4;
const AT_CHECKSUM: usize = AT_TABLE + SECTIONS_MAX * TABLE_STEP;
/// Where the state line begins.
pub(super) const AT_STATE: usize = 256;
/// Words of the state line that mean something.
pub(super) const STATE_WORDS: usize = 3;

const _: () = assert!(AT_CHECKSUM == 136);
const _: () = assert!(AT_CHECKSUM < AT_STATE);
const _: () = assert!(AT_STATE.is_multiple_of(crate::limits::LINE_WORDS));
const _: () = assert!(AT_STATE + STATE_WORDS <= HEADER_WORDS);
const _: () = assert!(STATE_WORDS <= crate::limits::LINE_WORDS);

/// What a section holds: four letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SectionKind(u32);

impl SectionKind {
    /// The index of the store.
    pub const INDEX: Self = Self::named(*b"INDX");
    /// The routing table.
    pub const RING: Self = Self::named(*b"RING");

    /// A kind of four ASCII letters.
    pub const fn named(name: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(name))
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_le_bytes().escape_ascii().fmt(f)
    }
}

/// A section to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionSpec {
    /// What it is to hold.
    pub kind: SectionKind,
    /// The version of the layout inside it.
    pub version: u32,
    /// Its size.
    pub bytes: u64,
}

/// A section and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) spec: SectionSpec,
    pub(super) offset: u64,
}

/// What the last user of a region left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Nothing: the region was created now.
    Fresh,
    /// It was closed as it should be, and its tables may be believed.
    Clean,
    /// It was not: the user was killed, or the machine stopped. Its tables are not to be believed.
    Unclean,
}

/// The header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) bytes: u64,
    pub(super) identity: u64,
    pub(super) sections: Vec<Placed>,
}

/// Why 4096 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Blank,
    Foreign { found: u64 },
    Version { found: u32 },
    Torn { expected: u32, found: u32 },
    Contradiction(&'static str),
}

fn checksum(words: &[u64]) -> u32 {
    words.iter().fold(0, |crc, word| {
        crc32c::crc32c_append(crc, &word.to_le_bytes())
    })
}

const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Header {
    /// Lays the sections out one after the other, each from a large page's start.
    pub(super) fn lay_out(specs: &[SectionSpec], identity: u64) -> Result<Self, &'static str> {
        let align = SECTION_ALIGN_BYTES as u64;
        let mut end = REGION_HEADER_BYTES as u64;
        let mut sections = Vec::with_capacity(specs.len());
        for spec in specs {
            if spec.bytes == 0 || spec.bytes > REGION_BYTES_MAX {
                return Err("a section has no bytes, or more than any machine");
            }
            let offset = end.next_multiple_of(align);
            end = offset + spec.bytes;
            sections.push(Placed {
                spec: *spec,
                offset,
            });
        }
        let header = Self {
            bytes: end.next_multiple_of(align),
            identity,
            sections,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), &'static str> {
        let align = SECTION_ALIGN_BYTES as u64;
        if self.sections.is_empty() || self.sections.len() > SECTIONS_MAX {
            return Err("there are no sections, or more than 32");
        }
        if self.bytes > REGION_BYTES_MAX || !self.bytes.is_multiple_of(align) {
            return Err("the region is too large, or no multiple of 2 MiB");
        }
        let mut end = REGION_HEADER_BYTES as u64;
        for (at, placed) in self.sections.iter().enumerate() {
            if !placed.offset.is_multiple_of(align) || placed.offset < end {
                return Err("a section overlaps what is before it, or begins inside a large page");
            }
            if placed.spec.bytes == 0
                || placed.spec.bytes > self.bytes - placed.offset.min(self.bytes)
            {
                return Err("a section is empty, or reaches beyond the region");
            }
            end = placed.offset + placed.spec.bytes;
            let same = |other: &&Placed| other.spec.kind == placed.spec.kind;
            if self.sections[..at].iter().find(same).is_some() {
                return Err("two sections are of one kind");
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> [u64; HEADER_WORDS] {
        let mut words = [0; HEADER_WORDS];
        words[AT_MAGIC] = MAGIC;
        words[AT_VERSION] = pair(LAYOUT_VERSION, REGION_HEADER_BYTES as u32);
        words[AT_BYTES] = self.bytes;
        words[AT_SECTIONS] = self.sections.len() as u64;
        words[AT_IDENTITY] = self.identity;
        for (placed, place) in self
            .sections
            .iter()
            .zip(words[AT_TABLE..AT_CHECKSUM].chunks_exact_mut(TABLE_STEP))
        {
            place[0] = pair(placed.spec.kind.0, placed.spec.version);
            place[1] = placed.offset;
            place[2] = placed.spec.bytes;
        }
        words[AT_CHECKSUM] = u64::from(checksum(&words[..AT_CHECKSUM]));
        words
    }

    pub(super) fn decode(words: &[u64; HEADER_WORDS]) -> Result<Self, Fault> {
        if words.iter().all(|word| *word == 0) {
            return Err(Fault::Blank);
        }
        if words[AT_MAGIC] != MAGIC {
            return Err(Fault::Foreign {
                found: words[AT_MAGIC],
            });
        }
        // The version comes before the checksum, whose place another version may have changed.
        let version = low(words[AT_VERSION]);
        if version != LAYOUT_VERSION {
            return Err(Fault::Version { found: version });
        }
        let (expected, found) = (checksum(&words[..AT_CHECKSUM]), words[AT_CHECKSUM]);
        if u64::from(expected) != found {
            return Err(Fault::Torn {
                expected,
                found: low(found),
            });
        }
        if high(words[AT_VERSION]) as usize != REGION_HEADER_BYTES {
            return Err(Fault::Contradiction("the header has another length"));
        }
        let count = words[AT_SECTIONS];
        if count > SECTIONS_MAX as u64 {
            return Err(Fault::Contradiction("there are more than 32 sections"));
        }
        let table = words[AT_TABLE..AT_CHECKSUM].chunks_exact(TABLE_STEP);
        let sections = table
            .take(count as usize)
            .map(|place| Placed {
                spec: SectionSpec {
                    kind: SectionKind(low(place[0])),
                    version: high(place[0]),
                    bytes: place[2],
                },
                offset: place[1],
            })
            .collect();
        let header = Self {
            bytes: words[AT_BYTES],
            identity: words[AT_IDENTITY],
            sections,
        };
        header.check().map_err(Fault::Contradiction)?;
        Ok(header)
    }

    /// The state line's words.
    pub(super) fn state(&self, clean: bool, generation: u64) -> [u64; STATE_WORDS] {
        let word = if clean { CLEAN } else { IN_USE };
        let crc = checksum(&[self.identity, word, generation]);
        [word, generation, u64::from(crc)]
    }

    /// What the state line says, and the generation, zero where the line cannot be believed.
    pub(super) fn history(&self, words: &[u64; HEADER_WORDS]) -> (History, u64) {
        let line = &words[AT_STATE..AT_STATE + STATE_WORDS];
        let generation = line[1];
        if line == self.state(true, generation) {
            (History::Clean, generation)
        } else if line == self.state(false, generation) {
            (History::Unclean, generation)
        } else {
            (History::Unclean, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let spec = |kind, version, bytes| SectionSpec {
            kind,
            version,
            bytes,
        };
        let specs = [
            spec(SectionKind::RING, 3, 4 << 20),
            spec(SectionKind::INDEX, 7, 100),
        ];
        Header::lay_out(&specs, 0x1122_3344_5566_7788).expect("two sections fit")
    }

    #[test]
    fn golden_bytes() {
        let words = header().encode();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(&bytes[..8], b"ORIELREG");
        assert_eq!(&bytes[8..16], [1, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(
            words[2],
            8 << 20,
            "header, 4 MiB and 100 bytes, in large pages"
        );
        assert_eq!(words[3], 2);
        assert_eq!(&bytes[64..72], b"RING\x03\0\0\0");
        assert_eq!(words[9..11], [2 << 20, 4 << 20]);
        assert_eq!(&bytes[96..104], b"INDX\x07\0\0\0");
        assert_eq!(words[13..15], [6 << 20, 100]);
        assert_eq!(words[136], 0x62b6_4d3b);
        assert_eq!(Header::decode(&words), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_found() {
        let good = header().encode();
        for bit in 0..(AT_CHECKSUM + 1) * 64 {
            let mut words = good;
            words[bit / 64] ^= 1 << (bit % 64);
            let fault = Header::decode(&words).expect_err("a flipped bit was believed");
            match bit / 64 {
                0 => assert!(matches!(fault, Fault::Foreign { .. })),
                1 if bit < 96 => assert!(matches!(fault, Fault::Version { .. })),
                _ => assert!(matches!(fault, Fault::Torn { .. }), "bit {bit}: {fault:?}"),
            }
        }
    }

    #[test]
    fn a_clean_mark_is_believed_whole_or_not_at_all() {
        let header = header();
        let mut words = header.encode();
        assert_eq!(header.history(&words), (History::Unclean, 0));
        words[AT_STATE..AT_STATE + STATE_WORDS].copy_from_slice(&header.state(true, 9));
        assert_eq!(header.history(&words), (History::Clean, 9));
        for bit in 0..STATE_WORDS * 64 {
            let mut torn = words;
            torn[AT_STATE + bit / 64] ^= 1 << (bit % 64);
            assert_eq!(header.history(&torn), (History::Unclean, 0), "bit {bit}");
        }
        words[AT_STATE..AT_STATE + STATE_WORDS].copy_from_slice(&header.state(false, 10));
        assert_eq!(header.history(&words), (History::Unclean, 10));
        // Half of one line and half of another, as a crash may leave it.
        words[AT_STATE] = CLEAN;
        assert_eq!(header.history(&words), (History::Unclean, 0));
    }

    #[test]
    fn sections_that_contradict_each_other_are_refused() {
        let spec = |kind, bytes| SectionSpec {
            kind,
            version: 1,
            bytes,
        };
        assert!(Header::lay_out(&[], 1).is_err());
        assert!(Header::lay_out(&[spec(SectionKind::RING, 0)], 1).is_err());
        assert!(Header::lay_out(&[spec(SectionKind::RING, 1 << 50)], 1).is_err());
        let twice = [spec(SectionKind::RING, 64), spec(SectionKind::RING, 64)];
        assert!(Header::lay_out(&twice, 1).is_err());
        let mut overlapping = header();
        overlapping.sections[1].offset = 4 << 20;
        let fault = Header::decode(&overlapping.encode());
        assert!(matches!(fault, Err(Fault::Contradiction(_))), "{fault:?}");
        let mut outside = header();
        outside.sections[1].spec.bytes = 3 << 20;
        let fault = Header::decode(&outside.encode());
        assert!(matches!(fault, Err(Fault::Contradiction(_))), "{fault:?}");
    }
}
