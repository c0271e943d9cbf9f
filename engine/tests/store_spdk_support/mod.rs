//! What the tests of the store on SPDK share: SPDK, a log that runs, and blobs whose content their number gives.

#![allow(dead_code, reason = "each of the tests uses its part")]

use std::fs::File;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use oriel_engine::store::*;
use oriel_spdk::{EnvOptions, SpdkThread, Subsystems, block_on};

pub(crate) type SpdkLog = Log<SpdkDrive>;

pub(crate) const STORE: StoreId = StoreId([0x5e; 16]);
/// Slabs of 1 MiB, journals of 256 KiB.
pub(crate) const SIZES: FormatOptions = FormatOptions {
    slab_blocks: 256,
    journal_blocks: 64,
};
pub(crate) const REALM: RealmId = RealmId(3);

pub(crate) fn options() -> OpenOptions {
    OpenOptions {
        store: Some(STORE),
        blobs_max: 4096,
        realms: vec![RealmOptions::new(REALM)],
        ..OpenOptions::default()
    }
}

/// Opens the store on a drive, with an index of its own.
pub(crate) async fn open_on(
    drive: &SpdkDrive,
    options: &OpenOptions,
) -> Result<(SpdkLog, Recovery), OpenError> {
    let index = index_in_memory(options.blobs_max).unwrap();
    open(drive.clone(), index, options).await
}

pub(crate) const MIB: u64 = 1 << 20;

/// SPDK in a process of its own.
pub(crate) fn spdk<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Rc<Subsystems>) -> F) {
    oriel_spdk::isolate::run(test, || with_spdk(body));
}

pub(crate) fn file_of(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

pub(crate) fn with_spdk<F: Future<Output = ()>>(body: impl FnOnce(Rc<Subsystems>) -> F) {
    let env = EnvOptions {
        name: "store-test".into(),
        ..EnvOptions::default()
    };
    let env = env.start().unwrap();
    let thread = SpdkThread::create("test").unwrap();
    block_on(&thread, async {
        let sub = Rc::new(Subsystems::start().await.unwrap());
        body(Rc::clone(&sub)).await;
        let sub = Rc::into_inner(sub).expect("the test let go of the subsystems");
        sub.stop().await;
    });
    thread.exit();
    drop(env);
}

/// Two futures at once, to the end of both.
pub(crate) async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|cx| {
        if of_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            of_a = Some(value);
        }
        if of_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            of_b = Some(value);
        }
        match of_a.is_some() && of_b.is_some() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    (of_a.unwrap(), of_b.unwrap())
}

/// Futures at once, to the end of all.
pub(crate) async fn all(mut futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        match futures.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

pub(crate) async fn formatted(device: &str) -> SpdkDrive {
    let drive = SpdkDrive::format(device, &SIZES).await.unwrap();
    format(&drive, STORE, &SIZES).await.unwrap();
    drive
}

/// Opens the store, lets `work` use it while its journal is written, and closes the store, not the drive. How writing
/// the journal ended comes beside.
pub(crate) async fn with_log_on<T>(
    drive: &SpdkDrive,
    work: impl AsyncFnOnce(&SpdkLog) -> T,
) -> (T, Result<(), StoreError>) {
    let (log, _) = open_on(drive, &options()).await.unwrap();
    let work = async {
        let output = work(&log).await;
        log.close();
        output
    };
    both(work, log.run()).await
}

/// As [`with_log_on`], on a device, in good order.
pub(crate) async fn with_log<T>(device: &str, work: impl AsyncFnOnce(&SpdkLog) -> T) -> T {
    let drive = SpdkDrive::load(device).await.unwrap();
    let (output, closed) = with_log_on(&drive, work).await;
    closed.unwrap();
    drive.close().await.unwrap();
    output
}

// ---- The log's calls, in this one place ---------------------------------------------------------------------------------

pub(crate) fn key(number: u64) -> Key {
    Key::of_content(&number.to_le_bytes())
}

pub(crate) async fn put(log: &SpdkLog, number: u64, bytes: &[u8]) -> Result<Put, StoreError> {
    log.put(REALM, key(number), KeyKind::Name, bytes).await
}

pub(crate) async fn get(log: &SpdkLog, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    log.read(REALM, &key(number), 0, u64::MAX).await
}

pub(crate) async fn delete(log: &SpdkLog, number: u64) -> Result<bool, StoreError> {
    log.delete(REALM, key(number)).await
}

/// Where a blob is.
pub(crate) fn position(log: &SpdkLog, number: u64) -> Option<Position> {
    log.locate(REALM, &key(number)).map(|place| place.position)
}

// ---- Blobs ------------------------------------------------------------------------------------------------------------

/// Numbers that a seed gives (xorshift).
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

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 8) % limit
    }
}

/// Bytes that no other seed gives.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let words = (0..length.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes());
    words.take(length).collect()
}
