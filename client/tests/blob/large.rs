//! Blobs that are longer than a window, in parts.

use std::sync::atomic::{AtomicU32, Ordering};

use oriel_client::blob::{BlobError, Blobs, Failure, Put, Transport};
use oriel_client::{Memory, block_on};
use oriel_protocol::{Command, InParts, Key, KeyKind, Opcode, Place, Position, Status};

use crate::node::{BLOCK, Node, PART, Refusal, content, key, node, open};

/// A node whose windows take little more than a part.
fn small() -> Node {
    let node = node();
    node.0.lock().unwrap().length_max = 2 * PART as u64 + 1000;
    node
}

fn parts_of<T: Transport>(blobs: &Blobs<T>, key: &Key) -> InParts {
    match block_on(blobs.locate(key)).unwrap() {
        Some(Place::Parts(parts)) => parts,
        other => panic!("it lies in no parts: {other:?}"),
    }
}

/// Of a put in pieces of so many bytes.
fn put_by<T: Transport + Sync>(
    blobs: &Blobs<T>,
    key: Key,
    bytes: &[u8],
    piece: usize,
) -> Result<Put, BlobError<T::Failure>> {
    let mut put = blobs.put_stream(key, KeyKind::Name);
    for bytes in bytes.chunks(piece) {
        block_on(put.write(bytes))?;
    }
    assert_eq!(put.length(), bytes.len() as u64);
    block_on(put.finish())
}

#[test]
fn what_comes_in_pieces_is_got_in_whole_and_in_parts() {
    let node = small();
    let blobs = open(&node);
    let lengths = [
        1,
        BLOCK,
        PART - 1,
        PART,
        PART + 1,
        2 * PART,
        5 * PART + 4097,
    ];
    for (number, bytes) in (1_u8..).zip(lengths) {
        let whole = content(number, bytes);
        for piece in [777, PART, 3 * PART] {
            let (name, expected) = (key(number), &whole);
            block_on(blobs.delete(&name)).unwrap();
            assert_eq!(put_by(&blobs, name, expected, piece).unwrap(), Put::Created);
            let found = block_on(blobs.get(&name)).unwrap();
            assert!(found.as_ref() == Some(expected), "{bytes} by {piece}");
        }
        for offset in [
            0,
            1,
            4095,
            4096,
            PART - 1,
            PART,
            bytes - 1,
            bytes,
            bytes + 9,
        ] {
            for count in [0, 1, 4096, 8192, PART, PART + 1, 3 * PART, 2 * bytes] {
                let expected = whole.get(offset..).unwrap_or(&[]);
                let expected = &expected[..expected.len().min(count)];
                let range = block_on(blobs.get_range(&key(number), offset as u64, count as u64));
                assert!(
                    range.unwrap().unwrap() == expected,
                    "{bytes} {offset} {count}"
                );
                let memory = vec![0xee; count];
                let (memory, filled) =
                    block_on(blobs.get_into(&key(number), offset as u64, memory));
                assert_eq!(filled.unwrap(), Some(expected.len() as u64));
                assert!(
                    memory[..expected.len()] == *expected,
                    "{bytes} {offset} {count}"
                );
            }
        }
    }
    let state = node.0.lock().unwrap();
    assert!(state.puts.is_empty() && state.reserved.is_empty());
    assert_eq!(state.in_parts.len(), 3, "those of more than one part");
}

/// As a slice, where a window would not take it.
#[test]
fn a_blob_in_memory_goes_by_parts_where_it_is_too_long_for_a_window() {
    let node = small();
    let blobs = open(&node);
    let (fits, longer) = (2 * PART + 1000, 2 * PART + 1001);
    for (name, bytes) in [(key(1), fits), (key(2), longer)] {
        for expected in [Put::Created, Put::AlreadyThere] {
            let put = block_on(blobs.put(name, KeyKind::Name, content(3, bytes)));
            assert_eq!(put.unwrap(), expected);
        }
        assert!(block_on(blobs.get(&name)).unwrap() == Some(content(3, bytes)));
    }
    let kept: Vec<Key> = node.0.lock().unwrap().in_parts.keys().copied().collect();
    assert_eq!(kept, [key(2)]);
    // Of one that is there nothing is sent.
    let mut put = blobs.put_stream(key(2), KeyKind::Name);
    block_on(put.write(&vec![0; 9 * PART])).unwrap();
    assert!(put.is_there());
    assert_eq!(block_on(put.finish()).unwrap(), Put::AlreadyThere);
    assert_eq!(node.0.lock().unwrap().seen[&Opcode::Begin], 1);
}

#[test]
fn what_is_remembered_of_a_blob_is_never_taken_for_another() {
    let node = small();
    let (blobs, other) = (open(&node), open(&node));
    let (first, second) = (content(1, 3 * PART), content(2, 4 * PART));
    put_by(&blobs, key(1), &first, PART).unwrap();
    let of_first = parts_of(&blobs, &key(1));
    assert!(block_on(blobs.get(&key(1))).unwrap().as_ref() == Some(&first));
    // Somebody else puts another one under the key; the parts of the first are gone, their windows too.
    assert!(block_on(other.delete(&key(1))).unwrap());
    node.0.lock().unwrap().blocks.clear();
    put_by(&other, key(1), &second, PART).unwrap();
    node.0.lock().unwrap().moves = 1;
    let found = block_on(blobs.get_range(&key(1), PART as u64, PART as u64));
    assert!(found.unwrap().unwrap() == second[PART..2 * PART]);
    assert_ne!(parts_of(&blobs, &key(1)), of_first);
    // A part that is not there any more is the end of the blob.
    let parts = parts_of(&blobs, &key(1));
    let part = parts.part_key(&key(1), 2);
    node.0.lock().unwrap().keys.remove(&part);
    let blobs = open(&node);
    assert_eq!(block_on(blobs.get(&key(1))).unwrap(), None);
    let (_, into) = block_on(blobs.get_into(&key(1), 0, vec![0; 4 * PART]));
    assert_eq!(into.unwrap(), None);
    assert!(
        block_on(blobs.get_range(&key(1), 0, PART as u64))
            .unwrap()
            .is_some()
    );
}

#[test]
fn damage_in_a_part_is_found() {
    let node = small();
    let blobs = open(&node);
    put_by(&blobs, key(1), &content(1, 3 * PART), PART).unwrap();
    let part = parts_of(&blobs, &key(1)).part_key(&key(1), 1);
    let at = node.0.lock().unwrap().keys[&part].position;
    node.0.lock().unwrap().blocks.get_mut(&(at + 2)).unwrap()[9] ^= 4;
    let error = block_on(blobs.get(&key(1))).unwrap_err();
    assert!(
        matches!(error, BlobError::Damaged { block: 2, .. }),
        "{error}"
    );
    let (_, read) = block_on(blobs.get_into(&key(1), PART as u64, vec![0; 2 * PART]));
    assert!(matches!(read, Err(BlobError::Damaged { .. })));
    let other = block_on(blobs.get_range(&key(1), 2 * PART as u64, PART as u64));
    assert!(other.unwrap().unwrap() == content(1, 3 * PART)[2 * PART..]);
}

/// How a command of [`Shaky`] ends.
#[derive(Debug)]
enum Ended {
    Refused(Refusal),
    Lost,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Ended {}

impl Failure for Ended {
    fn status(&self) -> Option<Status> {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::Lost => None,
        }
    }

    fn result(&self) -> u32 {
        0
    }
}

/// A connection that is lost at every so many commands of a kind, when the node has done them.
struct Shaky {
    node: Node,
    what: Opcode,
    every: u32,
    seen: AtomicU32,
}

impl Transport for Shaky {
    type Failure = Ended;

    async fn read<M: Memory>(&self, from: Position, memory: M) -> (M, Result<(), Ended>) {
        let (memory, read) = self.node.read(from, memory).await;
        (memory, read.map_err(Ended::Refused))
    }

    async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), Ended>) {
        let (memory, written) = self.node.write(to, memory).await;
        (memory, written.map_err(Ended::Refused))
    }

    async fn command<M: Memory>(&self, command: &Command, memory: M) -> (M, Result<u32, Ended>) {
        let (memory, answer) = self.node.command(command, memory).await;
        let is_lost = command.opcode() == self.what
            && self.seen.fetch_add(1, Ordering::Relaxed) % self.every == self.every - 1;
        match is_lost {
            true => (memory, Err(Ended::Lost)),
            false => (memory, answer.map_err(Ended::Refused)),
        }
    }
}

#[test]
fn a_lost_connection_costs_a_part_and_not_the_blob() {
    let bytes = content(5, 7 * PART + 1);
    for (what, every, is_done) in [
        (Opcode::Part, 2, true),
        (Opcode::Reserve, 3, true),
        (Opcode::Finish, 1, true),
        (Opcode::Part, 1, false),
        (Opcode::Begin, 1, false),
    ] {
        let node = small();
        let shaky = Shaky {
            node: node.clone(),
            what,
            every,
            seen: AtomicU32::new(0),
        };
        let blobs = block_on(Blobs::open(shaky)).unwrap();
        let put = put_by(&blobs, key(1), &bytes, 2 * PART);
        match is_done {
            true => assert_eq!(put.unwrap(), Put::Created, "{what}"),
            false => assert!(matches!(put, Err(BlobError::Transport(_))), "{what}"),
        }
        let found = block_on(open(&node).get(&key(1))).unwrap();
        assert!(found == is_done.then(|| bytes.clone()), "{what}");
    }
}

#[test]
fn what_is_given_up_is_told_to_the_node() {
    let node = small();
    let blobs = open(&node);
    let mut put = blobs.put_stream(key(1), KeyKind::Name);
    assert_eq!(put.time_left(), None);
    block_on(put.write(&vec![1; 2 * PART])).unwrap();
    assert!(put.time_left().is_some());
    block_on(put.keep()).unwrap();
    assert_eq!(node.0.lock().unwrap().puts.len(), 1);
    block_on(put.give_up());
    assert_eq!(node.0.lock().unwrap().puts.len(), 0);
    let mut put = blobs.put_stream(key(1), KeyKind::Name);
    block_on(put.write(&vec![1; 2 * PART])).unwrap();
    node.0.lock().unwrap().puts.clear();
    let error = block_on(put.finish()).unwrap_err();
    let status = matches!(
        error,
        BlobError::Refused {
            status: Status::NoSuchPut,
            ..
        }
    );
    assert!(
        status && error.to_string().contains("begin it again"),
        "{error}"
    );
    assert_eq!(block_on(blobs.locate(&key(1))).unwrap(), None);
}
