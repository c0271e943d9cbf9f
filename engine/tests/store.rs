//! What the store does, on a simulated drive. What crashes and faults do to it: `store_crash.rs` and `store_random.rs`.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use oriel_ec::Crc32c;
use oriel_engine::clock::Clock;
use oriel_engine::store::*;
use store_sim::api::{Shape, Store};
use store_sim::drive::SimDrive;
use store_sim::image::{Block, Image};
use store_sim::run::{Task, run_all, run_one};

const DRIVE_BLOCKS: u64 = 512;
const SHAPE: Shape = Shape {
    drive_blocks: DRIVE_BLOCKS,
    slab_blocks: 16,
    journal_blocks: 16,
    blobs_max: 1000,
};

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

fn formatted() -> Image {
    let drive = SimDrive::new(Image::default(), DRIVE_BLOCKS);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    drive.image()
}

/// Opens the store on a drive, lets `work` use it while its journal is written, and closes it.
fn with_log<T>(drive: &SimDrive, work: impl AsyncFnOnce(&Store) -> T) -> Option<T> {
    let (log, _) = run_one(SHAPE.open(drive.clone()))?.unwrap();
    let mut output = None;
    let mut closed = None;
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { closed = Some(log.run().await) }),
        Box::pin(async {
            output = Some(work(&log).await);
            log.close();
        }),
    ];
    run_all(&mut both);
    drop(both);
    if let Some(closed) = closed {
        closed.unwrap();
    }
    output
}

#[test]
fn blobs_of_every_size_are_found_again_after_a_restart() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS);
    let lengths = [1, 4095, 4096, 4097, 16384, 16385, 30_000];
    with_log(&drive, async |log| {
        for (name, length) in (0..).zip(lengths) {
            let blob = bytes(name, length);
            let put = log.put(key(name), KeyKind::Name, &blob).await;
            assert_eq!(put, Ok(Put::Created));
            let again = log.put(key(name), KeyKind::Name, b"other").await;
            assert_eq!(again, Ok(Put::AlreadyThere));
        }
    });
    let drive = SimDrive::new(drive.image(), DRIVE_BLOCKS);
    with_log(&drive, async |log| {
        for (name, length) in (0..).zip(lengths) {
            let blob = bytes(name, length);
            assert_eq!(
                log.read(&key(name), 0, u64::MAX).await,
                Ok(Some(blob.clone()))
            );
            let middle = (length / 3, length / 2);
            let (offset, count) = (middle.0 as u64, (middle.1 - middle.0) as u64);
            let part = log.read(&key(name), offset, count).await;
            assert_eq!(part.unwrap().unwrap(), blob[middle.0..middle.1]);
            assert_eq!(
                log.read(&key(name), length as u64, 5).await,
                Ok(Some(vec![]))
            );
        }
        assert_eq!(log.read(&key(99), 0, 1).await, Ok(None));
    });
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS);
    with_log(&drive, async |log| {
        let empty = log.put(key(1), KeyKind::Name, b"").await;
        assert_eq!(empty, Err(StoreError::Empty));
        let max = log.length_max();
        let fits = bytes(1, max as usize);
        assert_eq!(
            log.put(key(1), KeyKind::Name, &fits).await,
            Ok(Put::Created)
        );
        let larger = bytes(1, max as usize + 1);
        let refused = log.put(key(2), KeyKind::Name, &larger).await;
        let bytes = max + 1;
        assert_eq!(refused, Err(StoreError::TooLarge { bytes, max }));
        let found = Key::of_content(b"content");
        let other = log.put(key(3), KeyKind::Content, b"content").await;
        assert_eq!(other, Err(StoreError::OtherContent { key: key(3), found }));
        let right = log.put(found, KeyKind::Content, b"content").await;
        assert_eq!(right, Ok(Put::Created));
        assert_eq!(log.delete(key(4)).await, Ok(false));
    });
}

#[test]
fn a_full_store_says_so_and_takes_blobs_again_after_deletes() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS);
    with_log(&drive, async |log| {
        let blob = bytes(7, 12 * BLOCK_BYTES);
        let mut stored = 0..;
        let full = loop {
            let name = stored.next().unwrap();
            match log.put(key(name), KeyKind::Name, &blob).await {
                Ok(Put::Created) => {}
                other => break (name, other),
            }
        };
        assert_eq!(full.1, Err(StoreError::Full));
        assert!(full.0 > 5, "{}", full.0);
        for name in 0..full.0 {
            assert_eq!(log.delete(key(name)).await, Ok(true));
        }
        assert_eq!(
            log.put(key(200), KeyKind::Name, &blob).await,
            Ok(Put::Created)
        );
        // The last one may wait for the next checkpoint.
        assert!(log.stat().slabs_retired >= u64::from(full.0) - 1);
        assert_eq!((log.stat().blobs, log.stat().live_blocks), (1, 13));
    });
}

#[test]
fn puts_of_one_key_at_the_same_time_make_one_blob() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS);
    let (log, _) = run_one(SHAPE.open(drive)).unwrap().unwrap();
    let results = std::cell::RefCell::new(Vec::new());
    {
        let put = |seed: u8| {
            let (log, results) = (&log, &results);
            async move {
                let result = log.put(key(1), KeyKind::Name, &bytes(seed, 5000)).await;
                results.borrow_mut().push((seed, result.unwrap()));
            }
        };
        let mut all: Vec<Task<'_>> = vec![Box::pin(async {
            log.run().await.unwrap();
        })];
        for seed in 0..4 {
            all.push(Box::pin(put(seed)));
        }
        run_all(&mut all);
    }
    let results = results.into_inner();
    let created: Vec<u8> = results
        .iter()
        .filter_map(|(seed, put)| (*put == Put::Created).then_some(*seed))
        .collect();
    assert_eq!((results.len(), created.len()), (4, 1));
    let there = run_one(log.read(&key(1), 0, u64::MAX)).unwrap();
    assert_eq!(there, Ok(Some(bytes(created[0], 5000))));
    assert_eq!(log.stat().entries, 2, "one slab and one blob");
}

#[test]
fn other_drives_are_not_taken_for_the_store() {
    let empty = SimDrive::new(Image::default(), DRIVE_BLOCKS);
    let error = run_one(SHAPE.open(empty)).unwrap().err().unwrap();
    assert_eq!(error, OpenError::NotFormatted);
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS);
    let again = run_one(SHAPE.format(&drive)).unwrap();
    assert_eq!(
        again,
        Err(OpenError::Formatted {
            store: Shape::STORE
        })
    );
    let expected = StoreId([1; 16]);
    let error = run_one(SHAPE.open_as(drive, expected, Clock::manual()))
        .unwrap()
        .err()
        .unwrap();
    let found = Shape::STORE;
    assert_eq!(error, OpenError::OtherStore { expected, found });
    let mut newer = formatted();
    let mut label = newer.read(ExtentName::Label, 0, 1).unwrap()[0]
        .bytes()
        .to_vec();
    label[8] = 3;
    let checksum = Crc32c::of(&label[8..12]).and(&label[16..]).value();
    label[12..16].copy_from_slice(&checksum.to_le_bytes());
    newer.write(ExtentName::Label, 0, &[Block::new(&label)]);
    let drive = SimDrive::new(newer, DRIVE_BLOCKS);
    let error = run_one(SHAPE.open(drive)).unwrap().err().unwrap();
    let (version, known) = (3, 2);
    assert_eq!(error, OpenError::Newer { version, known });
}
