//! The blob client against a node in this process.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod large;
mod node;

use std::time::Duration;

use oriel_client::blob::{BlobError, Blobs, Put, Transport};
use oriel_client::{Memory, block_on};
use oriel_protocol::{Checksum, Command, Key, KeyKind, Opcode, Place, Position, Prefix, Status};

use node::{BLOCK, Node, PART, Refusal, content, key, node, open};

/// Lengths around every border: of blocks, of a PUT, of what has one checksum, of a block of checksums.
const LENGTHS: [usize; 12] = [
    1,
    4095,
    4096,
    4097,
    8128,
    8129,
    16_384,
    16_385,
    40_000,
    1020 << 12,
    (1020 << 12) + 1,
    5 << 20,
];

#[test]
fn what_is_put_is_got_in_whole_and_in_parts() {
    let node = node();
    let blobs = open(&node);
    for (number, bytes) in (1_u8..).zip(LENGTHS) {
        let whole = content(number, bytes);
        let put = |bytes| block_on(blobs.put(key(number), KeyKind::Name, bytes)).unwrap();
        assert_eq!(put(whole.clone()), Put::Created, "{bytes}");
        assert_eq!(put(vec![1; bytes]), Put::AlreadyThere, "{bytes}");
        assert!(
            block_on(blobs.get(&key(number))).unwrap().unwrap() == whole,
            "{bytes}"
        );
        let offsets = [
            0,
            1,
            4095,
            4096,
            bytes / 2,
            bytes.saturating_sub(1),
            bytes,
            bytes + 9,
        ];
        for offset in offsets {
            for count in [0, 1, 4096, 8192, 12_289, bytes, 2 * bytes] {
                let expected = whole.get(offset..).unwrap_or(&[]);
                let expected = &expected[..expected.len().min(count)];
                let part = block_on(blobs.get_range(&key(number), offset as u64, count as u64));
                assert!(
                    part.unwrap().unwrap() == expected,
                    "{bytes} {offset} {count}"
                );
                let (memory, filled) =
                    block_on(blobs.get_into(&key(number), offset as u64, vec![0xee; count]));
                let filled = filled.unwrap().unwrap() as usize;
                assert_eq!(filled, expected.len(), "{bytes} {offset} {count}");
                assert!(memory[..filled] == *expected, "{bytes} {offset} {count}");
            }
        }
    }
    let stat = block_on(blobs.stat()).unwrap();
    assert_eq!(
        (stat.realm_blobs, stat.reservations),
        (LENGTHS.len() as u64, 0)
    );
    let seen = &node.0.lock().unwrap().seen;
    // One for each blob: windows are remembered.
    assert_eq!(seen[&Opcode::Locate], LENGTHS.len() as u32);
    assert_eq!((seen[&Opcode::Put], seen[&Opcode::Commit]), (10, 7));
}

#[test]
fn keys_are_probed_deleted_and_listed() {
    let node = node();
    let blobs = open(&node);
    for number in [2, 4, 6, 8, 10, 12, 14] {
        block_on(blobs.put(key(number), KeyKind::Name, content(number, 5000))).unwrap();
    }
    let keys: Vec<Key> = (0..17).map(key).collect();
    let there = block_on(blobs.probe(&keys)).unwrap();
    let expected: Vec<bool> = (0..17)
        .map(|number| number > 0 && number < 15 && number % 2 == 0)
        .collect();
    assert_eq!(there, expected);
    assert_eq!(
        node.0.lock().unwrap().seen[&Opcode::Probe],
        4,
        "five keys at once"
    );
    assert!(block_on(blobs.probe(&[])).unwrap().is_empty());

    let pinned = block_on(blobs.pin(&keys, Duration::from_micros(1500))).unwrap();
    assert_eq!(pinned, expected);
    assert_eq!(
        block_on(blobs.unpin(&[key(2), key(3)])).unwrap(),
        [true, false]
    );
    // Less than a millisecond is no end.
    assert_eq!(
        block_on(blobs.pin(&[key(2)], Duration::ZERO)).unwrap(),
        [true]
    );
    {
        let state = node.0.lock().unwrap();
        assert_eq!(state.seen[&Opcode::Pin], 4 + 2);
        assert!(state.pinned.len() == 7 && state.pinned.values().all(|time_ms| *time_ms == 1));
    }

    assert!(block_on(blobs.get(&key(4))).unwrap().is_some());
    assert!(block_on(blobs.delete(&key(4))).unwrap());
    assert!(!block_on(blobs.delete(&key(4))).unwrap());
    assert!(!block_on(blobs.exists(&key(4))).unwrap());
    assert!(block_on(blobs.get(&key(4))).unwrap().is_none());
    assert!(
        block_on(blobs.get_into(&key(4), 0, vec![0; 4096]))
            .1
            .unwrap()
            .is_none()
    );

    let list = |prefix: Prefix| {
        let mut lister = blobs.list(prefix);
        let mut found = Vec::new();
        while let Some(page) = block_on(lister.page()).unwrap() {
            found.extend(page.into_iter().map(|blob| blob.key.bytes()[0]));
        }
        found
    };
    assert_eq!(list(Prefix::ANY), [2, 6, 8, 10, 12, 14]);
    assert_eq!(list(Prefix::new(&[12, 12]).unwrap()), [12]);
    assert_eq!(list(Prefix::new(&[12, 13]).unwrap()), [0; 0]);
}

#[test]
fn a_blob_that_moves_is_found_again_and_one_that_is_gone_is_not() {
    let node = node();
    let blobs = open(&node);
    for bytes in [100, 16_385, 5 << 20] {
        let key = key((bytes % 251) as u8);
        let whole = content(9, bytes);
        block_on(blobs.put(key, KeyKind::Name, whole.clone())).unwrap();
        assert!(block_on(blobs.get(&key)).unwrap().unwrap() == whole);
        node.0.lock().unwrap().move_all();
        assert!(block_on(blobs.get(&key)).unwrap().unwrap() == whole);
        // While it is being read, and between its data and its checksums.
        node.0.lock().unwrap().moves = 3;
        assert!(block_on(blobs.get(&key)).unwrap().unwrap() == whole);
        node.0.lock().unwrap().moves = 2;
        let room = vec![0; 4096];
        let (part, filled) = block_on(blobs.get_into(&key, 0, room));
        let filled = filled.unwrap().unwrap() as usize;
        assert!(filled == bytes.min(4096) && part[..filled] == whole[..filled]);
        node.0.lock().unwrap().moves = u32::MAX;
        let error = block_on(blobs.get(&key)).unwrap_err();
        assert!(matches!(error, BlobError::Moved { .. }), "{error}");
        let state = &mut *node.0.lock().unwrap();
        state.moves = 0;
        // Gone behind the client's back, window and all.
        state.keys.remove(&key);
        state.blocks.clear();
    }
    assert!(block_on(blobs.get(&key(100))).unwrap().is_none());
}

/// Each bit of a small blob, and one of each block of a large one and of its checksums.
#[test]
fn damage_is_never_given_out() {
    let node = node();
    let blobs = open(&node);
    let (small, large) = (key(1), key(2));
    block_on(blobs.put(small, KeyKind::Name, content(1, 5000))).unwrap();
    block_on(blobs.put(large, KeyKind::Name, content(2, 5 << 20))).unwrap();
    let flip = |at: u64, bit: usize| {
        let state = &mut *node.0.lock().unwrap();
        state.blocks.get_mut(&at).unwrap()[bit / 8] ^= 1 << (bit % 8);
    };
    let of = |key: &Key| match block_on(blobs.locate(key)).unwrap() {
        Some(Place::Window(location)) => location,
        other => panic!("it lies in no window: {other:?}"),
    };
    let (at_small, at_large) = (of(&small), of(&large));
    for bit in (0..2 * BLOCK * 8).step_by(7) {
        let at = at_small.position.0 + (bit / BLOCK / 8) as u64;
        flip(at, bit % (BLOCK * 8));
        let error = block_on(blobs.get(&small)).unwrap_err();
        assert!(
            matches!(error, BlobError::Damaged { block: 0, .. }),
            "{error}"
        );
        let part = block_on(blobs.get_range(&small, 4990, 5));
        assert!(part.is_err(), "a part is checked with the whole");
        flip(at, bit % (BLOCK * 8));
    }
    let Checksum::Vector(vector) = at_large.checksum else {
        panic!("it is large");
    };
    for block in (0..1280).step_by(41) {
        flip(at_large.position.0 + block, block as usize);
        let error = block_on(blobs.get(&large)).unwrap_err();
        assert!(
            matches!(error, BlobError::Damaged { block: found, .. } if found == block),
            "{error}"
        );
        let error = block_on(blobs.get_into(&large, block * 4096, vec![0; 4096]))
            .1
            .unwrap_err();
        assert!(error.to_string().contains("put it again"), "{error}");
        // What does not touch it is given out.
        let other = if block == 0 { 1 } else { block - 1 };
        block_on(blobs.get_into(&large, other * 4096, vec![0; 4096]))
            .1
            .unwrap();
        flip(at_large.position.0 + block, block as usize);
    }
    for (block, bit) in [(0, 5), (1, 77), (0, 4080 * 8), (1, 4092 * 8)] {
        flip(vector.position.0 + block, bit);
        let error = block_on(blobs.get(&large)).unwrap_err();
        assert!(matches!(error, BlobError::Answer(_)), "{error}");
        flip(vector.position.0 + block, bit);
    }
    assert!(block_on(blobs.get(&large)).unwrap().unwrap() == content(2, 5 << 20));
    flip(at_large.position.0, 0);
    let unchecked = open(&node).unchecked();
    assert_eq!(
        block_on(unchecked.get(&large)).unwrap().unwrap()[0],
        content(2, 1)[0] ^ 1
    );
}

#[test]
fn what_a_node_refuses_says_why() {
    let node = node();
    let blobs = open(&node);
    let error = block_on(blobs.put(key(1), KeyKind::Name, vec![])).unwrap_err();
    let longest = (PART as u64) << 16;
    assert!(
        matches!(error, BlobError::Length { max, .. } if max == longest),
        "{error}"
    );
    // A node that loses the reservation between write and commit.
    struct Forgetful(Node);
    impl Transport for Forgetful {
        type Failure = Refusal;
        async fn read<M: Memory>(&self, from: Position, memory: M) -> (M, Result<(), Refusal>) {
            self.0.read(from, memory).await
        }
        async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), Refusal>) {
            let written = self.0.write(to, memory).await;
            self.0.0.lock().unwrap().reserved.clear();
            written
        }
        async fn command<M: Memory>(
            &self,
            command: &Command,
            memory: M,
        ) -> (M, Result<u32, Refusal>) {
            self.0.command(command, memory).await
        }
    }
    let blobs = block_on(Blobs::open(Forgetful(node))).unwrap();
    let error = block_on(blobs.put(key(1), KeyKind::Name, vec![3; 50_000])).unwrap_err();
    assert!(
        matches!(
            error,
            BlobError::Refused {
                status: Status::NotReserved,
                ..
            }
        ),
        "{error}"
    );
    let said = error.to_string();
    assert!(
        said.starts_with("a commit of blob 0101") && said.contains("reserve another"),
        "{said}"
    );
}
