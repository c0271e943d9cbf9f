//! A node in this process, which knows nothing but the protocol's bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use oriel_client::blob::{Blobs, Failure, Transport};
use oriel_client::{Memory, block_on};
use oriel_protocol::{
    Begun, Blob, Checksum, Chunk, Command, Epoch, InParts, Key, KeyKind, Length, Listed, Located,
    Location, Opcode, Page, Place, Position, PutId, Stat, Status, StoreId, Vector, Window,
    decode_commit, decode_keys, decode_put, limits, trailer,
};

pub(crate) const BLOCK: usize = 4096;
/// Bytes of a part.
pub(crate) const PART: usize = 16 * BLOCK;

#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) length: Length,
}

/// What the node holds.
pub(crate) struct State {
    pub(crate) blocks: HashMap<u64, [u8; BLOCK]>,
    pub(crate) keys: BTreeMap<Key, Entry>,
    /// First block, blocks.
    pub(crate) reserved: HashMap<u64, u64>,
    /// Puts by parts that are under way: the blob's key, and the lengths of the parts that are there.
    pub(crate) puts: HashMap<PutId, (Key, BTreeMap<u16, u64>)>,
    /// Blobs in parts.
    pub(crate) in_parts: BTreeMap<Key, InParts>,
    /// For so many milliseconds.
    pub(crate) pinned: BTreeMap<Key, u32>,
    pub(crate) next: u64,
    pub(crate) length_max: u64,
    pub(crate) seen: HashMap<Opcode, u32>,
    pub(crate) reads: u32,
    /// Move a blob's window at each of so many reads.
    pub(crate) moves: u32,
}

#[derive(Clone)]
pub(crate) struct Node(pub(crate) Arc<Mutex<State>>);

/// A status, as a transport would give it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) result: u32,
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

const NO_PUT: Refusal = Refusal {
    status: Status::NoSuchPut,
    result: 0,
};

fn refuse<V>(status: Status) -> Result<V, Refusal> {
    Err(Refusal { status, result: 0 })
}

impl State {
    fn has(&self, key: &Key) -> bool {
        self.keys.contains_key(key) || self.in_parts.contains_key(key)
    }

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
    pub(crate) fn move_all(&mut self) {
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
                    part_bytes: PART as u64,
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
                let window = self.keys.get(key).map(|entry| self.location(entry));
                let parts = self.in_parts.get(key).copied().map(Place::Parts);
                let blob = parts.or(window.map(Place::Window));
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
                    .map(|(at, key)| u32::from(self.has(&key)) << at);
                Ok(bits.sum())
            }
            Command::Pin { keys, time_ms } => {
                let keys = decode_keys(*keys, data).unwrap();
                let mut bits = 0;
                for (at, key) in keys.enumerate() {
                    let is_done = match time_ms {
                        0 => self.pinned.remove(&key).is_some(),
                        _ if self.has(&key) => {
                            self.pinned.insert(key, *time_ms);
                            true
                        }
                        _ => false,
                    };
                    bits |= u32::from(is_done) << at;
                }
                Ok(bits)
            }
            Command::Begin { key } => {
                let put = PutId(self.next);
                self.next += 1;
                self.puts.insert(put, (*key, BTreeMap::new()));
                let begun = Begun {
                    put,
                    part_bytes: PART as u64,
                    time_left_ms: 60_000,
                };
                data.copy_from_slice(&begun.encode());
                Ok(0)
            }
            Command::Part(part) => {
                let put = self.puts.get_mut(&part.of.put);
                let (key, parts) = put.ok_or(NO_PUT)?;
                let of = InParts {
                    put: part.of.put,
                    length: Length::new(1).unwrap(),
                    part_bytes: PART as u64,
                };
                let length = Length::new(part.length.into()).unwrap();
                let blob = Blob {
                    key: of.part_key(key, part.of.number),
                    kind: KeyKind::Name,
                    length,
                    checksum: part.checksum,
                };
                parts.insert(part.of.number, length.get());
                if self.reserved.remove(&part.position.0).is_none() {
                    return refuse(Status::NotReserved);
                }
                self.check(&blob, part.position.0)?;
                Ok(u32::from(self.store(&blob, part.position.0)))
            }
            Command::Finish { put, length, .. } => {
                let (key, parts) = self.puts.get(put).ok_or(NO_PUT)?;
                let (key, of) = (
                    *key,
                    InParts {
                        put: *put,
                        length: *length,
                        part_bytes: PART as u64,
                    },
                );
                let expected = of
                    .pieces(0, u64::MAX)
                    .map(|piece| (piece.number, piece.bytes));
                if !expected.eq(parts.iter().map(|(number, bytes)| (*number, *bytes))) {
                    return refuse(Status::OtherParts);
                }
                self.puts.remove(put);
                if self.has(&key) {
                    return Ok(0);
                }
                self.in_parts.insert(key, of);
                Ok(1)
            }
            Command::Hold { put, is_over } => {
                self.puts.get(put).ok_or(NO_PUT)?;
                if *is_over {
                    self.puts.remove(put);
                }
                Ok(0)
            }
            Command::Reserve { length, .. } => {
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
            Command::Delete { key } => {
                let parts = self.in_parts.remove(key);
                for number in 0..parts.map_or(0, |parts| parts.parts()) {
                    let part = parts.unwrap().part_key(key, number as u16);
                    self.keys.remove(&part);
                }
                let window = self.keys.remove(key);
                Ok(u32::from(parts.is_some() || window.is_some()))
            }
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
        // Every other read says what has come, in pieces of any length.
        let bytes = memory.region().bytes;
        let pieces = (0..bytes)
            .step_by(5000)
            .filter(|_| state.reads.is_multiple_of(2));
        pieces.for_each(|from| memory.arrived(from..bytes.min(from + 5000)));
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

pub(crate) fn node() -> Node {
    Node(Arc::new(Mutex::new(State {
        blocks: HashMap::new(),
        keys: BTreeMap::new(),
        reserved: HashMap::new(),
        puts: HashMap::new(),
        in_parts: BTreeMap::new(),
        pinned: BTreeMap::new(),
        next: limits::QUIET_BLOCKS,
        length_max: 64 << 20,
        seen: HashMap::new(),
        reads: 0,
        moves: 0,
    })))
}

pub(crate) fn open(node: &Node) -> Blobs<Node> {
    block_on(Blobs::open(node.clone())).unwrap()
}

pub(crate) fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed)
        .collect()
}

pub(crate) fn key(number: u8) -> Key {
    Key::new([number; 32])
}
