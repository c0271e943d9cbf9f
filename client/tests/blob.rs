//! The blob client against a node in this process, which knows nothing but the protocol's bytes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use oriel_client::blob::{BlobError, Blobs, Failure, Put, Transport};
use oriel_client::{Memory, block_on};
use oriel_protocol::{
    Blob, Checksum, Chunk, Command, Epoch, Key, KeyKind, Length, Listed, Located, Location, Opcode,
    Page, Position, Prefix, Stat, Status, StoreId, Vector, Window, decode_commit, decode_keys,
    decode_put, limits, trailer,
};

const BLOCK: usize = 4096;

#[derive(Clone, Copy)]
struct Entry {
    position: u64,
    length: Length,
}

/// What the node holds.
struct State {
    blocks: HashMap<u64, [u8; BLOCK]>,
    keys: BTreeMap<Key, Entry>,
    /// First block, blocks.
    reserved: HashMap<u64, u64>,
    next: u64,
    length_max: u64,
    seen: HashMap<Opcode, u32>,
    reads: u32,
    /// Move a blob's window at each of so many reads.
    moves: u32,
}

#[derive(Clone)]
struct Node(Arc<Mutex<State>>);

/// A status, as a transport would give it.
#[derive(Debug)]
struct Refusal {
    status: Status,
    result: u32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.status)
    }
}

impl std::error::Error for Refusal {}

impl Failure for Refusal {
    fn status(&self) -> Option<Status> {
        Some(self.status)
    }

    fn result(&self) -> u32 {
        self.result
    }
}

fn refuse<V>(status: Status) -> Result<V, Refusal> {
    Err(Refusal { status, result: 0 })
}

impl State {
    fn store(&mut self, blob: &Blob, position: u64) -> bool {
        if self.keys.contains_key(&blob.key) {
            return false;
        }
        let blocks = blob.length.blocks();
        let sums: Vec<u32> = (position..position + blocks)
            .map(|at| crc32c::crc32c(&self.blocks[&at]))
            .collect();
        let mut vector = vec![0; blob.length.vector_blocks() as usize * BLOCK];
        trailer::encode(&mut vector, Position(position), sums);
        for (at, block) in (position + blocks..).zip(vector.chunks_exact(BLOCK)) {
            self.blocks.insert(at, block.try_into().unwrap());
        }
        self.keys.insert(
            blob.key,
            Entry {
                position,
                length: blob.length,
            },
        );
        true
    }

    fn window(&mut self, length: Length) -> u64 {
        let position = self.next;
        self.next += length.blocks() + length.vector_blocks();
        position
    }

    fn bytes(&self, from: u64, blocks: u64) -> Vec<u8> {
        (from..from + blocks)
            .flat_map(|at| self.blocks[&at])
            .collect()
    }

    fn location(&self, entry: &Entry) -> Location {
        let Entry { position, length } = *entry;
        let behind = position + length.blocks();
        let vector_blocks = length.vector_blocks();
        let checksum = match vector_blocks {
            0 => Checksum::Blocks(crc32c::crc32c(&self.bytes(position, length.blocks()))),
            blocks => Checksum::Vector(Vector {
                position: Position(behind),
                blocks: blocks as u32,
                checksum: crc32c::crc32c(&self.bytes(behind, blocks)),
            }),
        };
        Location {
            position: Position(position),
            length,
            checksum,
        }
    }

    /// Copies every blob to a new place, and empties the old one.
    fn move_all(&mut self) {
        let keys: Vec<(Key, Entry)> = self
            .keys
            .iter()
            .map(|(key, entry)| (*key, *entry))
            .collect();
        for (key, Entry { position, length }) in keys {
            let to = self.window(length);
            for at in 0..length.blocks() {
                let block = self.blocks.remove(&(position + at)).unwrap();
                self.blocks.insert(to + at, block);
            }
            for at in 0..length.vector_blocks() {
                self.blocks.remove(&(position + length.blocks() + at));
            }
            self.keys.remove(&key);
            self.store(
                &Blob {
                    key,
                    kind: KeyKind::Name,
                    length,
                    checksum: None,
                },
                to,
            );
        }
    }

    fn check(&self, blob: &Blob, position: u64) -> Result<(), Refusal> {
        let blocks = blob.length.blocks();
        if (position..position + blocks).any(|at| !self.blocks.contains_key(&at)) {
            return refuse(Status::NotWritten);
        }
        let found = crc32c::crc32c(&self.bytes(position, blocks));
        match blob.checksum {
            Some(expected) if expected != found => refuse(Status::OtherChecksum),
            _ => Ok(()),
        }
    }

    fn answer(&mut self, command: &Command, data: &mut [u8]) -> Result<u32, Refusal> {
        *self.seen.entry(command.opcode()).or_default() += 1;
        match command {
            Command::Stat => {
                let used: u64 = self.keys.values().map(|entry| entry.length.blocks()).sum();
                let stat = Stat {
                    store: StoreId([7; 16]),
                    transfer_bytes_max: 8192,
                    probe_keys_max: 5,
                    commit_records_max: 32,
                    length_max: Length::new(self.length_max).unwrap(),
                    capacity_blocks: 1 << 30,
                    used_blocks: used,
                    quota_blocks: None,
                    realm_used_blocks: used,
                    realm_blobs: self.keys.len() as u64,
                    reservations: self.reserved.len() as u64,
                    epoch: Epoch(1),
                    is_cache: false,
                };
                data.copy_from_slice(&stat.encode());
                Ok(0)
            }
            Command::Locate { key } => {
                let blob = self.keys.get(key).map(|entry| self.location(entry));
                data.copy_from_slice(
                    &Located {
                        blob,
                        epoch: Epoch(1),
                    }
                    .encode(),
                );
                Ok(0)
            }
            Command::Probe { keys } => {
                let keys = decode_keys(*keys, data).unwrap();
                let bits = keys
                    .enumerate()
                    .map(|(at, key)| u32::from(self.keys.contains_key(&key)) << at);
                Ok(bits.sum())
            }
            Command::Reserve { length } => {
                let position = self.window(*length);
                self.reserved.insert(position, length.blocks());
                let window = Window {
                    position: Position(position),
                    blocks: length.blocks(),
                    time_left_ms: 60_000,
                };
                data.copy_from_slice(&window.encode());
                Ok(0)
            }
            Command::Commit { records } => {
                let mut bits = 0;
                for at in 0..*records {
                    let (blob, position) = decode_commit(*records, data, at).unwrap();
                    let failed = |status| Refusal {
                        status,
                        result: u32::from(at),
                    };
                    if !self.reserved.contains_key(&position.0) {
                        return Err(failed(Status::NotReserved));
                    }
                    self.check(&blob, position.0)
                        .map_err(|refusal| failed(refusal.status))?;
                    self.reserved.remove(&position.0);
                    bits |= u32::from(self.store(&blob, position.0)) << at;
                }
                Ok(bits)
            }
            Command::Put => {
                let (blob, bytes) = decode_put(data).unwrap();
                if self.keys.contains_key(&blob.key) {
                    return Ok(0);
                }
                let position = self.window(blob.length);
                for (at, part) in (position..).zip(bytes.chunks(BLOCK)) {
                    let mut block = [0; BLOCK];
                    block[..part.len()].copy_from_slice(part);
                    self.blocks.insert(at, block);
                }
                self.check(&blob, position)?;
                Ok(u32::from(self.store(&blob, position)))
            }
            Command::Delete { key } => Ok(u32::from(self.keys.remove(key).is_some())),
            Command::List(request) => {
                let mut all: Vec<Listed> = self
                    .keys
                    .iter()
                    .map(|(key, entry)| Listed {
                        key: *key,
                        position: Position(entry.position),
                        length: entry.length,
                    })
                    .filter(|blob| {
                        blob.position >= request.cursor && request.prefix.is_of(&blob.key)
                    })
                    .collect();
                all.sort_by_key(|blob| blob.position);
                let count = all.len().min(3);
                let next = all.get(count).map(|blob| blob.position);
                Page::encode(&all[..count], next, data).unwrap();
                Ok(0)
            }
            Command::Map { offset } => {
                Chunk::encode(&[], *offset, Epoch(0), data);
                Ok(0)
            }
        }
    }
}

impl Transport for Node {
    type Failure = Refusal;

    async fn read<M: Memory>(&self, from: Position, mut memory: M) -> (M, Result<(), Refusal>) {
        let state = &mut *self.0.lock().unwrap();
        state.reads += 1;
        if state.moves > 0 {
            state.moves -= 1;
            state.move_all();
        }
        let place = memory.host_mut().unwrap();
        assert!(!place.is_empty() && place.len().is_multiple_of(BLOCK));
        for (at, place) in (from.0..).zip(place.chunks_exact_mut(BLOCK)) {
            match state.blocks.get(&at) {
                Some(block) => place.copy_from_slice(block),
                None => return (memory, refuse(Status::Unwritten)),
            }
        }
        (memory, Ok(()))
    }

    async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), Refusal>) {
        let state = &mut *self.0.lock().unwrap();
        let bytes = memory.host().unwrap();
        assert!(!bytes.is_empty() && bytes.len().is_multiple_of(BLOCK));
        let count = (bytes.len() / BLOCK) as u64;
        if state
            .reserved
            .get(&to.0)
            .is_none_or(|blocks| *blocks < count)
        {
            return (memory, refuse(Status::AccessDenied));
        }
        for (at, block) in (to.0..).zip(bytes.chunks_exact(BLOCK)) {
            state.blocks.insert(at, block.try_into().unwrap());
        }
        (memory, Ok(()))
    }

    async fn command<M: Memory>(
        &self,
        command: &Command,
        mut memory: M,
    ) -> (M, Result<u32, Refusal>) {
        // As it comes over the wire.
        let mut sqe = [0; 64];
        command.arguments().write_to(&mut sqe);
        let arguments = oriel_protocol::Arguments::from_command(&sqe);
        let bytes = memory.region().bytes as u64;
        let command = Command::decode(command.opcode().number(), &arguments, bytes).unwrap();
        let answer = self
            .0
            .lock()
            .unwrap()
            .answer(&command, memory.host_mut().unwrap());
        (memory, answer)
    }
}

fn node() -> Node {
    Node(Arc::new(Mutex::new(State {
        blocks: HashMap::new(),
        keys: BTreeMap::new(),
        reserved: HashMap::new(),
        next: limits::QUIET_BLOCKS,
        length_max: 64 << 20,
        seen: HashMap::new(),
        reads: 0,
        moves: 0,
    })))
}

fn open(node: &Node) -> Blobs<Node> {
    block_on(Blobs::open(node.clone())).unwrap()
}

fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed)
        .collect()
}

fn key(number: u8) -> Key {
    Key::new([number; 32])
}

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
    let of = |key: &Key| block_on(blobs.locate(key)).unwrap().unwrap();
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
    node.0.lock().unwrap().length_max = 100_000;
    let blobs = open(&node);
    for bytes in [0, 100_001] {
        let error = block_on(blobs.put(key(1), KeyKind::Name, vec![0; bytes])).unwrap_err();
        assert!(
            matches!(error, BlobError::Length { max: 100_000, .. }),
            "{error}"
        );
    }
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
