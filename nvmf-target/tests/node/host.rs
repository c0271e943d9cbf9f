//! What the tests do as a host.

use std::collections::BTreeMap;

use oriel_client::blob::Blobs;
use oriel_client::{CommandError, Namespace};
use oriel_protocol::{
    Blob, Command, Key, KeyKind, Length, Location, Place, Position, Prefix, Status, WINDOW_BYTES,
    Window, encode_commit,
};

use crate::support::{BLOCK, status};

/// The window of a blob that lies in one.
pub(crate) fn window_of(place: Option<Place>) -> Location {
    match place {
        Some(Place::Window(location)) => location,
        other => panic!("it lies in no window: {other:?}"),
    }
}

pub(crate) fn content(seed: usize, bytes: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = bytes.div_ceil(8);
    let mut all: Vec<u8> = (0..words).flat_map(|_| step().to_le_bytes()).collect();
    all.truncate(bytes);
    all
}

pub(crate) fn key(name: u8) -> Key {
    let mut key = [name; 32];
    key[0] = name % 3;
    Key::new(key)
}

pub(crate) async fn list(blobs: &Blobs<Namespace>, prefix: &[u8]) -> BTreeMap<Key, u64> {
    let mut all = BTreeMap::new();
    let mut list = blobs.list(Prefix::new(prefix).unwrap());
    let mut last = 0;
    while let Some(page) = list.page().await.unwrap() {
        for blob in page {
            assert!(blob.position.0 > last && blob.position.0 >= 256);
            last = blob.position.0;
            assert_eq!(all.insert(blob.key, blob.length.get()), None);
        }
    }
    all
}

/// Sends a command whose data come from the host.
pub(crate) fn send(raw: &Namespace, command: &Command, data: Vec<u8>) -> Result<u32, CommandError> {
    let (_, result) = raw.vendor(command, data).wait();
    result.map(|completion| completion.dword())
}

pub(crate) fn reserve(raw: &Namespace, bytes: u64) -> Result<Window, CommandError> {
    let length = Length::new(bytes).unwrap();
    let command = Command::Reserve { length, part: None };
    let (answer, result) = raw.vendor(&command, vec![0xee; WINDOW_BYTES]).wait();
    result.map(|_| Window::decode(&answer).unwrap())
}

pub(crate) fn commit(raw: &Namespace, records: &[(Blob, Position)]) -> Result<u32, CommandError> {
    let records = encode_commit(records).unwrap();
    let command = Command::Commit {
        records: (records.len() / 64) as u8,
    };
    send(raw, &command, records)
}

/// The status of a COMMIT that failed, and the record that it is about.
pub(crate) fn failed_at(result: Result<u32, CommandError>) -> (Status, u32) {
    let at = match &result {
        Err(CommandError::Status { result, .. }) => *result,
        other => panic!("no status: {other:?}"),
    };
    (status(result), at)
}

pub(crate) fn blob(name: u8, bytes: usize, checksum: Option<u32>) -> Blob {
    Blob {
        key: key(name),
        kind: KeyKind::Name,
        length: Length::new(bytes as u64).unwrap(),
        checksum,
    }
}

pub(crate) fn read(raw: &Namespace, block: u64, blocks: usize) -> Result<Vec<u8>, CommandError> {
    let (memory, result) = raw.read(block, vec![0xee; blocks * BLOCK]).wait();
    result.map(|_| memory)
}

pub(crate) fn write(raw: &Namespace, block: u64, bytes: Vec<u8>) -> Result<(), CommandError> {
    raw.write(block, bytes).wait().1.map(drop)
}
