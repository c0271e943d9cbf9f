//! A ring as bytes: it comes back the same, and no damage is believed.

use std::sync::OnceLock;

use crate::cluster::{node, racks, spec};
use oriel_dht::ring::{
    Epoch, Key, Line, LineError, Member, PagesError, Ring, RingView, Shard, Spread, State, Table,
    build,
};
use proptest::prelude::*;

const SPREAD: Spread = Spread {
    node: 1,
    rack: 2,
    zone: 6,
};

/// In transition, with an empty slot and members in every state.
fn ring() -> &'static Ring {
    static RING: OnceLock<Ring> = OnceLock::new();
    RING.get_or_init(make)
}

fn make() -> Ring {
    let mut all: Vec<Member> = racks(24, 2);
    let first = build(spec(1024, 6, SPREAD), &all, None).unwrap().ring;
    all.remove(3);
    all[5].state = State::Draining;
    all[6].state = State::Down;
    let gone = build(first.spec(), &all, Some(&first)).unwrap().ring;
    let gone = crate::cluster::settled(&gone);
    let mut joining = node(77, 3, 1, 70);
    joining.state = State::Joining;
    joining
        .addresses
        .push("rdma://[fe80::7]:4421".parse().unwrap());
    let gap = build(first.spec(), &all, Some(&gone)).unwrap().ring;
    all.push(joining);
    all.push(node(78, 4, 1, 70));
    all.remove(0);
    build(first.spec(), &all, Some(&gap)).unwrap().ring
}

fn key(number: u64) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

#[test]
fn a_ring_comes_back_from_its_bytes_as_it_was() {
    let ring = ring();
    assert!(ring.moves().count() > 0 && ring.epoch() > Epoch(2));
    let bytes = ring.to_bytes();
    assert_eq!(RingView::total_bytes(&bytes[..64]), Ok(bytes.len()));
    assert_eq!(Ring::from_bytes(&bytes).as_ref(), Ok(ring));
}

#[test]
fn a_client_routes_by_the_bytes_as_a_node_does_by_its_ring() {
    let ring = ring();
    let bytes = ring.to_bytes();
    let view = RingView::open(&bytes).unwrap();
    for number in 0..5000 {
        let line = view.lookup(&key(number)).unwrap();
        assert_eq!(Ok(line), ring.lookup(&key(number)));
        let owner = line.owner(Shard(0)).unwrap();
        assert_eq!(view.members().get(owner), ring.members().get(owner));
    }
    let none = view.line(oriel_dht::ring::PartitionId(1024));
    assert!(matches!(
        none,
        Err(LineError::NoPartition {
            partitions: 1024,
            ..
        })
    ));
}

#[test]
fn the_header_is_laid_out_like_this() {
    let all = racks(2, 1);
    let built = build(
        spec(
            1024,
            2,
            Spread {
                node: 1,
                rack: 2,
                zone: 2,
            },
        ),
        &all,
        None,
    )
    .unwrap();
    let bytes = built.ring.to_bytes();
    assert_eq!(bytes[..12], *b"ORIELMAP\x01\x00\x0a\x02");
    assert_eq!(bytes[12..16], [2, 2, 1, 0]);
    assert_eq!(bytes[16..28], [1, 0, 0, 0, 2, 0, 0, 0, 62, 0, 0, 0]);
    assert_eq!(
        bytes[64..95],
        *b"\x02\x64\0\0\0\x06n00000\x02r0\x02z0\x01\x01\x01\x00\x0810.0.0.1"
    );
    assert_eq!(bytes.len(), 64 + 64 + 1024 * 64);
}

#[test]
fn wrong_bytes_are_refused_with_the_reason() {
    let bytes = ring().to_bytes();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let sum = crc32c::crc32c(&bytes[..60.min(bytes.len())]);
        if bytes.len() >= 64 {
            bytes[60..64].copy_from_slice(&sum.to_le_bytes());
        }
        RingView::open(&bytes).unwrap_err()
    };
    assert_eq!(
        refused(&|bytes| bytes.truncate(63)),
        PagesError::Short { found: 63 }
    );
    assert_eq!(refused(&|bytes| bytes[0] = b'o'), PagesError::Magic);
    assert_eq!(
        refused(&|bytes| bytes[8] = 2),
        PagesError::Version { found: 2 }
    );
    assert_eq!(
        refused(&|bytes| bytes[10] = 9),
        PagesError::HeaderNumber { at: 10 }
    );
    assert_eq!(
        refused(&|bytes| bytes[10] = 200),
        PagesError::HeaderNumber { at: 10 }
    );
    assert_eq!(
        refused(&|bytes| bytes[11] = 25),
        PagesError::HeaderNumber { at: 11 }
    );
    assert_eq!(
        refused(&|bytes| bytes[40] = 1),
        PagesError::HeaderNumber { at: 32 }
    );
    assert_eq!(
        refused(&|bytes| bytes[20] = 3),
        PagesError::Member { slot: 3 }
    );
    assert_eq!(
        refused(&|bytes| bytes[20] += 1),
        PagesError::Member {
            slot: bytes[20].into()
        }
    );
    let length = bytes.len();
    let short = refused(&|bytes| bytes.truncate(length - 64));
    assert_eq!(
        short,
        PagesError::Length {
            found: length - 64,
            expected: length
        }
    );
    assert!(matches!(
        refused(&|bytes| bytes[70] ^= 1),
        PagesError::MembersChecksum { .. }
    ));
    assert!(matches!(
        refused(&|bytes| bytes[11] = 5),
        PagesError::Owners { .. }
    ));
}

#[test]
fn pieces_fetched_while_the_ring_changed_are_refused() {
    let before = crate::cluster::settled(ring());
    let mut members: Vec<Member> = before
        .members()
        .iter()
        .map(|(_, member)| member.clone())
        .collect();
    members.retain(|member| member.state == State::Up);
    members[2].weight += 1;
    let after = build(before.spec(), &members[1..], Some(&before))
        .unwrap()
        .ring;
    let (old, new) = (before.to_bytes(), after.to_bytes());
    let lines = 1024 * 64;
    let half = lines / 2;
    let mut mixed = old[..old.len() - half].to_vec();
    mixed.extend_from_slice(&new[new.len() - half..]);
    let error = RingView::open(&mixed).unwrap_err();
    assert!(
        matches!(error, PagesError::Later { header, .. } if header == before.epoch()),
        "{error}"
    );
}

#[test]
fn every_flipped_bit_of_header_members_and_some_lines_is_found() {
    let mut bytes = ring().to_bytes();
    let lines_at = bytes.len() - 1024 * 64;
    for bit in (0..8 * (lines_at + 192)).chain(8 * (bytes.len() - 64)..8 * bytes.len()) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(RingView::open(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(RingView::open(&bytes).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_is_believed(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let ring = ring();
        let good = ring.to_bytes();
        let mut bytes = good.clone();
        for (at, flip) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(good.len()));
        }
        if bytes != good {
            prop_assert!(Ring::from_bytes(&bytes).is_err());
        }
    }

    /// Whatever the bytes, nothing panics, and what is believed is what would be written.
    #[test]
    fn any_words_are_a_line_or_refused(words in prop::array::uniform8(any::<u64>())) {
        let partition = oriel_dht::ring::PartitionId(5);
        if let Ok(line) = Line::check(partition, words) {
            prop_assert_eq!(*line.words(), words);
        }
    }
}
