//! What the tests of the index share.
#![allow(dead_code, unreachable_pub)] // Each test uses some of it.

use oriel_dht::index::{Entry, Fingerprint, Flags, Index, IndexSize, Length, Position, Writer};
use oriel_dht::region::{Existing, Place, Region, SectionKind, SectionSpec};

/// A key for a number, its bits as mixed as a hash's.
pub fn key(number: u64) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(number).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(!number).to_le_bytes());
    Fingerprint::from_bytes(bytes)
}

pub fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An entry all of whose parts follow from its position, so that a torn one shows.
pub fn entry(position: u64) -> Entry {
    let position = position & ((1 << 50) - 1);
    Entry {
        position: Position::new(position).expect("masked"),
        length: Length::new(mix(position) >> 28).expect("36 bits"),
        flags: Flags(mix(!position) as u8),
    }
}

pub fn spec(size: &IndexSize) -> SectionSpec {
    SectionSpec {
        kind: SectionKind::INDEX,
        version: 1,
        bytes: size.section_bytes().expect("a size that can be"),
    }
}

pub fn in_memory(size: IndexSize) -> (Index, Vec<Writer>) {
    let place = Place::Memory { large_pages: false };
    let region = Region::create(&place, &[spec(&size)], Existing::Keep).expect("memory for it");
    let section = region
        .section(SectionKind::INDEX, 1)
        .expect("it was created");
    Index::create(section, &size).expect("the section has its size")
}
