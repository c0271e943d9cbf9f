//! What the blobstore's tests share: content that names its place, and child processes.

#![allow(dead_code, reason = "each of the tests uses its part")]

use std::pin::Pin;
use std::process::{Command, Stdio};
use std::task::Poll;

use oriel_spdk::bdev::{BlockRange, create};
use oriel_spdk::blob::{Blob, Blobstore, InitOptions, NewBlob, StoreType};
use oriel_spdk::{DmaBuf, Subsystems};

pub(crate) const TYPE: StoreType = StoreType::new("ORIEL_TEST");

/// A small generator of reproducible numbers (xorshift).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Bytes that no other seed gives.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let words = (0..len.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes());
    words.take(len).collect()
}

pub(crate) fn filled(bytes: &[u8]) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(bytes.len(), 4096).unwrap();
    buf.copy_from_slice(bytes);
    buf
}

/// Writes bytes, a multiple of the I/O unit of `unit` bytes.
pub(crate) async fn write(blob: &Blob, unit: usize, start: u64, bytes: &[u8]) {
    let range = BlockRange::new(start, (bytes.len() / unit) as u64);
    let (_, result) = blob.write_at(filled(bytes), range).await;
    result.unwrap();
}

pub(crate) async fn read(blob: &Blob, unit: usize, start: u64, units: u64) -> Vec<u8> {
    let buf = DmaBuf::zeroed(units as usize * unit, 4096).unwrap();
    let (buf, result) = blob.read_at(buf, BlockRange::new(start, units)).await;
    result.unwrap();
    buf.to_vec()
}

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) async fn malloc(sub: &Subsystems, name: &str, bytes: u64, block_size: u32) {
    let blocks = bytes / u64::from(block_size);
    create::malloc(sub, name, blocks, block_size).await.unwrap();
}

pub(crate) async fn init(device: &str) -> Blobstore {
    let store = Blobstore::init(device, InitOptions::new(TYPE), |_| {}).await;
    store.unwrap()
}

pub(crate) async fn blob_of(store: &Blobstore, clusters: u64) -> Blob {
    let new = NewBlob {
        clusters,
        ..NewBlob::default()
    };
    store.open(store.create(new).await.unwrap()).await.unwrap()
}

pub(crate) async fn turn() {
    let mut first = true;
    std::future::poll_fn(|_| {
        if std::mem::take(&mut first) {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
}

/// Runs futures together until all are done.
pub(crate) async fn join(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

const PHASE: &str = "ORIEL_TEST_PHASE";

/// Which part of the test this process is to run, if it is a child of the test.
pub(crate) fn phase() -> Option<String> {
    std::env::var(PHASE).ok()
}

/// This test binary again, running the test `name` only, in its part `phase`.
pub(crate) fn child(name: &str, phase: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PHASE, phase)
        .stdin(Stdio::null());
    command
}
