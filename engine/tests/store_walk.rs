//! Going through all blobs of a store on a simulated drive: lists, scrubs, and the check of one that is stopped.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};

const SHAPE: Shape = Shape {
    drive_blocks: 2048,
    slab_blocks: 128,
    journal_blocks: 16,
    blobs_max: 1000,
};
const REALM: RealmId = RealmId(1);
const OTHER: RealmId = RealmId(2);
const SCRUBS: Background = Background {
    compaction_bytes_per_second: 0,
    scrub_bytes_per_second: u64::MAX,
    scrub_round: Duration::from_secs(3600),
};

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn bytes(seed: u8) -> Vec<u8> {
    let length = 100 + usize::from(seed) * 700;
    (0..length)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

fn formatted() -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    drive
}

fn options() -> OpenOptions {
    OpenOptions {
        store: Some(Shape::STORE),
        blobs_max: SHAPE.blobs_max,
        realms: vec![RealmOptions::new(REALM), RealmOptions::new(OTHER)],
        clock: Clock::manual(),
        ..OpenOptions::default()
    }
}

fn with_log(drive: &SimDrive, work: impl AsyncFnOnce(&Log<SimDrive>)) {
    with_options(drive, &options(), work);
}

/// The same, of one that scrubs as fast as it can, given the clock.
fn with_scrubs(drive: &SimDrive, work: impl AsyncFnOnce(&Log<SimDrive>, &Clock)) {
    let options = OpenOptions {
        background: SCRUBS,
        ..options()
    };
    with_options(drive, &options, async |log| work(log, &options.clock).await);
}

fn with_options(drive: &SimDrive, options: &OpenOptions, work: impl AsyncFnOnce(&Log<SimDrive>)) {
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let opened = run_one(open(drive.clone(), index, options));
    let (log, _) = opened.unwrap().unwrap();
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { log.run().await.unwrap() }),
        Box::pin(async {
            work(&log).await;
            log.close();
        }),
    ];
    assert_eq!(run_all(&mut both), [true, true], "somebody waits for ever");
}

/// Blobs 0 to 199 of one realm and 0 to 9 of another, less every third.
async fn fill(log: &Log<SimDrive>) {
    for name in 0..200 {
        let blob = bytes(name % 40);
        let put = log.put(REALM, key(name), KeyKind::Name, &blob).await;
        assert_eq!(put, Ok(Put::Created));
        if name < 10 {
            let put = log.put(OTHER, key(name), KeyKind::Name, &blob).await;
            assert_eq!(put, Ok(Put::Created));
        }
        if name % 3 == 0 {
            assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
        }
    }
}

async fn list(log: &Log<SimDrive>, realm: RealmId, most: usize) -> Vec<Listed> {
    let mut all = Vec::new();
    let mut from = Some(Position(0));
    while let Some(position) = from {
        let page = log.list(realm, position, most).await.unwrap();
        assert!(page.blobs.len() <= most);
        all.extend(page.blobs);
        from = page.next;
    }
    all
}

#[test]
fn a_list_has_every_blob_of_the_realm_once() {
    let drive = formatted();
    let mut before = Vec::new();
    with_log(&drive, async |log| {
        fill(log).await;
        before = list(log, REALM, 1000).await;
        assert_eq!(list(log, OTHER, 3).await.len(), 10);
        let unknown = log.list(RealmId(3), Position(0), 1).await;
        let realm = RealmId(3);
        assert_eq!(unknown, Err(StoreError::UnknownRealm { realm }));
    });
    with_log(&drive, async |log| {
        for most in [1, 7, 1000] {
            assert_eq!(list(log, REALM, most).await, before);
        }
        let by_key: BTreeMap<Key, Location> = before
            .iter()
            .map(|listed| (listed.key, listed.location))
            .collect();
        assert_eq!(by_key.len(), before.len());
        for name in 0..200 {
            let there = by_key.get(&key(name)).copied();
            assert_eq!(there, log.locate(REALM, &key(name)), "{name}");
            assert_eq!(there.is_some(), name % 3 != 0);
        }
    });
}

/// The byte of the drive's image where a blob's byte is.
fn flip(drive: &SimDrive, position: Position, byte: usize) -> SimDrive {
    let mut image = drive.image();
    let slab = ExtentName::Slab(position.0 / SHAPE.slab_blocks);
    let at = (position.0 % SHAPE.slab_blocks) as usize * BLOCK_BYTES + byte;
    assert!(image.flip(slab, at as u64, 0x10));
    SimDrive::new(image, SHAPE.drive_blocks)
}

/// Has the log do a round of scrubs after those that it has done: blobs that it reads, and those of them that are damaged.
async fn scrub(log: &Log<SimDrive>, clock: &Clock) -> (u64, u64) {
    let until = async |is_so: &dyn Fn(ScrubMetrics) -> bool| {
        for _ in 0..1_000_000 {
            let scrub = log.metrics().scrub;
            if is_so(scrub) {
                return scrub;
            }
            yield_now().await;
        }
        panic!("no round comes to its end");
    };
    let before = until(&|scrub| scrub.rounds > 0 && !scrub.is_under_way).await;
    clock.advance(SCRUBS.scrub_round);
    let after = until(&|scrub| scrub.rounds > before.rounds).await;
    assert_eq!(after.unreadable, 0);
    (
        after.blobs - before.blobs,
        after.damaged_blobs - before.damaged_blobs,
    )
}

async fn yield_now() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn run_check(drive: &SimDrive) -> Report {
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    run_one(check(drive, index, &options())).unwrap().unwrap()
}

#[test]
fn a_scrub_and_a_check_find_every_kind_of_damage_and_nothing_else() {
    let drive = formatted();
    let (mut small, mut large) = (None, None);
    with_scrubs(&drive, async |log, clock| {
        fill(log).await;
        small = log.locate(REALM, &key(1));
        large = log.locate(REALM, &key(38));
        assert_eq!(scrub(log, clock).await, (143, 0));
    });
    let report = run_check(&drive);
    assert_eq!((report.blobs, report.leftovers, report.frames), (143, 0, 0));
    assert_eq!(report.problems, []);
    let image = drive.image().digest();

    let (small, large) = (small.unwrap(), large.unwrap());
    let blocks = large.length.div_ceil(BLOCK_BYTES as u64) as usize;
    // A byte, padding, a block of a large one, the checksum of a block in its trailer, and the trailer's end, which nobody
    // reads but to check it.
    let cases = [
        (1, small.position, 0),
        (1, small.position, small.length as usize),
        (38, large.position, 3 * BLOCK_BYTES),
        (38, large.position, blocks * BLOCK_BYTES + 4),
        (38, large.position, (blocks + 1) * BLOCK_BYTES - 20),
    ];
    for (name, position, byte) in cases {
        let damaged = flip(&drive, position, byte);
        let report = run_check(&damaged);
        assert_eq!(report.blobs, 143);
        assert_eq!(report.problems.len(), 1, "{byte}");
        let Problem::Blob { key: found, .. } = &report.problems[0] else {
            panic!("{}", report.problems[0]);
        };
        assert_eq!(*found, key(name));
        with_scrubs(&damaged, async |log, clock| {
            assert_eq!(scrub(log, clock).await, (143, 1));
            let read = log.read(REALM, &key(name), 0, 1).await;
            let key = key(name);
            assert_eq!(read, Err(StoreError::Quarantined { key, position }));
            // It can be stored again.
            assert_eq!(log.delete(REALM, key).await, Ok(true));
            let put = log.put(REALM, key, KeyKind::Name, b"again").await;
            assert_eq!(put, Ok(Put::Created));
            assert_eq!(scrub(log, clock).await, (143, 0));
        });
    }
    // Looking has changed nothing.
    assert_eq!(drive.image().digest(), image);
}

#[test]
fn a_check_takes_no_more_memory_than_a_mebibyte_however_long_the_blob() {
    let shape = Shape {
        drive_blocks: 32768,
        slab_blocks: 8192,
        ..SHAPE
    };
    let drive = SimDrive::new(Image::default(), shape.drive_blocks);
    run_one(shape.format(&drive)).unwrap().unwrap();
    // 5000 blocks and five of their checksums.
    let blob: Vec<u8> = (0..5000 * BLOCK_BYTES - 9)
        .map(|i| (i >> 7) as u8)
        .collect();
    let mut place = None;
    with_log(&drive, async |log| {
        let put = log.put(REALM, key(1), KeyKind::Name, &blob).await;
        assert_eq!(put, Ok(Put::Created));
        place = log.locate(REALM, &key(1));
    });
    let position = place.unwrap().position;
    assert_eq!(position.0 / shape.slab_blocks, 1);
    let problems = |image: Image| {
        let drive = SimDrive::new(image, shape.drive_blocks);
        drive.limit_buffers(1 << 20);
        let report = run_check(&drive);
        assert_eq!(report.blobs, 1);
        report.problems
    };
    assert_eq!(problems(drive.image()), []);
    // Data, the last of them, a checksum, and the end of the trailer.
    for (block, byte) in [
        (0, 0),
        (3000, 5),
        (4999, BLOCK_BYTES - 1),
        (5002, 8),
        (5004, 3000),
    ] {
        let mut image = drive.image();
        let at = (position.0 % shape.slab_blocks + block) as usize * BLOCK_BYTES + byte;
        assert!(image.flip(ExtentName::Slab(1), at as u64, 0x10));
        let found = problems(image);
        let [Problem::Blob { error, .. }] = &found[..] else {
            panic!("{block}: {found:?}");
        };
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{block}: {error}"
        );
    }
}
