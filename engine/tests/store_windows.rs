//! Windows of the log on a simulated drive: reserved, written from outside and committed; shared by realms; emptied when
//! the drive is full.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::limits::RESERVATION_TIME;
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};

const SHAPE: Shape = Shape {
    drive_blocks: 512,
    slab_blocks: 16,
    journal_blocks: 16,
    blobs_max: 1000,
};
const ONE: RealmId = RealmId(1);
const TWO: RealmId = RealmId(2);

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

fn formatted() -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    drive
}

fn options(clock: &Clock) -> OpenOptions {
    let quota = RealmOptions {
        quota_blocks: Some(20),
        ..RealmOptions::new(TWO)
    };
    OpenOptions {
        store: Some(Shape::STORE),
        blobs_max: SHAPE.blobs_max,
        realms: vec![RealmOptions::new(ONE), quota],
        clock: clock.clone(),
        ..OpenOptions::default()
    }
}

type SimLog = Log<SimDrive>;

/// Opens the store, lets `work` use it while its journal is written, and closes it.
fn with_log(drive: &SimDrive, clock: &Clock, work: impl AsyncFnOnce(&SimLog)) {
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let opened = run_one(open(drive.clone(), index, &options(clock)));
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

fn commit(name: u8, at: &Reserved, length: u64) -> Commit {
    Commit {
        key: key(name),
        kind: KeyKind::Name,
        position: at.position,
        length,
        checksum: None,
    }
}

fn blocks(of: &[u8]) -> Vec<u8> {
    let mut blocks = of.to_vec();
    blocks.resize(of.len().next_multiple_of(BLOCK_BYTES), 0);
    blocks
}

fn block_at(position: Position, block: u64) -> Position {
    Position(position.0 + block)
}

#[test]
fn what_is_written_into_a_window_is_a_blob_after_the_commit() {
    let (drive, clock) = (formatted(), Clock::manual());
    // With and without a trailer, and shorter than was reserved.
    let cases = [(1, 5000, 5000), (2, 30_000, 30_000), (3, 40_000, 20_000)];
    with_log(&drive, &clock, async |log| {
        for (name, reserved, length) in cases {
            let blob = bytes(name, length);
            let window = log.reserve(ONE, reserved).await.unwrap();
            assert_eq!(window.blocks, reserved.div_ceil(BLOCK_BYTES as u64));
            // In pieces, the last one first, and one of them twice.
            let pieces: Vec<_> = blocks(&blob)
                .chunks(2 * BLOCK_BYTES)
                .map(<[u8]>::to_vec)
                .collect();
            let other = vec![0xee; pieces[0].len()];
            log.write(ONE, window.position, other).await.1.unwrap();
            for (place, piece) in pieces.into_iter().enumerate().rev() {
                let at = block_at(window.position, 2 * place as u64);
                log.write(ONE, at, piece).await.1.unwrap();
            }
            assert_eq!(log.locate(ONE, &key(name)), None);
            let committed = log.commit(ONE, &commit(name, &window, length as u64)).await;
            assert_eq!(committed, Ok(Put::Created));
            let again = log.commit(ONE, &commit(name, &window, length as u64)).await;
            let position = window.position;
            assert_eq!(again, Err(StoreError::NotReserved { position }));
            let late = log.write(ONE, position, vec![0; BLOCK_BYTES]).await.1;
            assert_eq!(late, Err(StoreError::NotReserved { position }));
        }
    });
    with_log(&drive, &clock, async |log| {
        for (name, _, length) in cases {
            let blob = bytes(name, length);
            let read = log.read(ONE, &key(name), 0, u64::MAX).await;
            assert_eq!(read, Ok(Some(blob.clone())));
            // Without a copy: whole blocks from the second on.
            let rest = blocks(&blob)[BLOCK_BYTES..].to_vec();
            let buf = vec![0xdd; rest.len()];
            let (buf, read) = log.read_into(ONE, &key(name), 4096, buf).await;
            assert_eq!(read, Ok(Some(length as u64 - 4096)));
            assert_eq!(buf, rest);
        }
        assert_eq!(log.stat().blobs, 3);
        assert_eq!(log.probe(ONE, &[key(1), key(9), key(3)]), 0b101);
        assert_eq!(log.probe(TWO, &[key(1)]), 0);
    });
}

#[test]
fn a_window_is_its_realms_until_its_deadline() {
    let (drive, clock) = (formatted(), Clock::manual());
    with_log(&drive, &clock, async |log| {
        let window = log.reserve(ONE, 9000).await.unwrap();
        let position = window.position;
        let not_reserved = Err(StoreError::NotReserved { position });
        let block = || vec![1; BLOCK_BYTES];
        assert_eq!(log.write(TWO, position, block()).await.1, not_reserved);
        let of_two = log.commit(TWO, &commit(1, &window, 9000)).await;
        assert_eq!(of_two, not_reserved.clone().map(|()| Put::Created));
        // Beyond its end, across its end, half a block, nothing.
        let beyond = block_at(position, 3);
        let error = log.write(ONE, beyond, block()).await.1;
        assert_eq!(error, Err(StoreError::NotReserved { position: beyond }));
        let long = vec![1; 4 * BLOCK_BYTES];
        assert_eq!(log.write(ONE, position, long).await.1, not_reserved);
        for bytes in [0, 100] {
            let error = log.write(ONE, position, vec![1; bytes]).await.1;
            let bytes = bytes as u64;
            assert_eq!(error, Err(StoreError::NotWholeBlocks { offset: 0, bytes }));
        }
        log.write(ONE, position, vec![1; 2 * BLOCK_BYTES])
            .await
            .1
            .unwrap();
        let error = log.commit(ONE, &commit(1, &window, 9000)).await;
        let missing = block_at(position, 2);
        assert_eq!(error, Err(StoreError::NotWritten { position: missing }));
        let error = log.commit(ONE, &commit(1, &window, 9001)).await;
        let (bytes, reserved) = (9001, 9000);
        assert_eq!(
            error,
            Err(StoreError::LongerThanReserved { bytes, reserved })
        );
        let error = log.commit(ONE, &commit(1, &window, 0)).await;
        assert_eq!(error, Err(StoreError::Empty));
        let wrong = Commit {
            checksum: Some(7),
            ..commit(1, &window, 8000)
        };
        let error = log.commit(ONE, &wrong).await;
        assert!(matches!(
            error,
            Err(StoreError::OtherChecksum { expected: 7, .. })
        ));
        let content = Commit {
            kind: KeyKind::Content,
            ..commit(1, &window, 8000)
        };
        let error = log.commit(ONE, &content).await;
        let found = Key::of_content(&[1; 8000]);
        assert_eq!(error, Err(StoreError::OtherContent { key: key(1), found }));
        let right = Commit {
            key: found,
            ..content
        };

        // One instant before its deadline it is still there, and then not any more.
        clock.advance(RESERVATION_TIME - Duration::from_nanos(1));
        assert_eq!(log.stat().reservations, 1);
        let other = log.reserve(ONE, 1).await.unwrap();
        clock.advance(Duration::from_nanos(1));
        let error = log.commit(ONE, &right).await;
        assert_eq!(error, not_reserved.map(|()| Put::Created));
        assert_eq!(log.stat().reservations, 1);
        assert!(!log.abandon(TWO, other.position));
        assert!(log.abandon(ONE, other.position));
        assert!(!log.abandon(ONE, other.position));
        let unknown = RealmId(9);
        let error = log.reserve(unknown, 1).await;
        assert_eq!(error, Err(StoreError::UnknownRealm { realm: unknown }));
    });
}

#[test]
fn windows_whose_time_has_passed_come_back_by_themselves() {
    let (drive, clock) = (formatted(), Clock::manual());
    with_log(&drive, &clock, async |log| {
        // Twice: the log looks again after it had nothing to look at.
        for round in [1, 2] {
            let quota = while_ok(async || log.reserve(TWO, 4 * BLOCK_BYTES as u64).await).await;
            assert!(matches!(quota, StoreError::OverQuota { realm: TWO, .. }));
            let blob = bytes(round, 4 * BLOCK_BYTES);
            let put = async || log.put(TWO, key(round), KeyKind::Name, &blob).await;
            assert_eq!(put().await, Err(quota));
            clock.advance(RESERVATION_TIME);
            // Nobody asks for a window meanwhile.
            for _ in 0..100 {
                yield_once().await;
            }
            assert_eq!(log.stat().reservations, 0);
            assert_eq!(put().await, Ok(Put::Created));
            assert_eq!(log.delete(TWO, key(round)).await, Ok(true));
        }
    });
}

/// Does it again and again; the first error.
async fn while_ok<T, E>(step: impl AsyncFn() -> Result<T, E>) -> E {
    loop {
        if let Err(error) = step().await {
            return error;
        }
    }
}

async fn yield_once() {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::take(&mut is_first) {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
}

#[test]
fn the_first_to_commit_a_key_wins_and_the_others_give_their_windows_back() {
    let (drive, clock) = (formatted(), Clock::manual());
    with_log(&drive, &clock, async |log| {
        let mut windows = Vec::new();
        for seed in [1, 2] {
            let window = log.reserve(TWO, 20_000).await.unwrap();
            let data = blocks(&bytes(seed, 20_000));
            log.write(TWO, window.position, data).await.1.unwrap();
            windows.push(window);
        }
        let both = [0, 1].map(|one| commit(5, &windows[one], 20_000));
        assert_eq!(log.commit(TWO, &both[1]).await, Ok(Put::Created));
        assert_eq!(log.commit(TWO, &both[0]).await, Ok(Put::AlreadyThere));
        let there = log.read(TWO, &key(5), 0, u64::MAX).await;
        assert_eq!(there, Ok(Some(bytes(2, 20_000))));
        let stat = log.realm_stat(TWO).unwrap();
        assert_eq!((stat.blobs, stat.used_blocks), (1, 6));
    });
}

#[test]
fn a_realm_gets_no_more_than_its_quota_and_sees_its_own_blobs_only() {
    let (drive, clock) = (formatted(), Clock::manual());
    with_log(&drive, &clock, async |log| {
        let blob = bytes(3, 30_000);
        for name in [1, 2] {
            let put = log.put(TWO, key(name), KeyKind::Name, &blob).await;
            assert_eq!(put, Ok(Put::Created));
        }
        let quota = StoreError::OverQuota {
            realm: TWO,
            quota: 20,
        };
        let over = log.put(TWO, key(3), KeyKind::Name, &blob).await;
        assert_eq!(over, Err(quota.clone()));
        assert_eq!(log.reserve(TWO, 30_000).await, Err(quota));
        assert_eq!(
            log.reserve(TWO, 8192).await.map(|window| window.blocks),
            Ok(2)
        );
        let of_one = log.put(ONE, key(1), KeyKind::Name, b"of one").await;
        assert_eq!(of_one, Ok(Put::Created));
        assert_eq!(log.delete(TWO, key(1)).await, Ok(true));
        assert_eq!(
            log.put(TWO, key(3), KeyKind::Name, &blob).await,
            Ok(Put::Created)
        );
        let there = log.read(ONE, &key(1), 0, u64::MAX).await;
        assert_eq!(there, Ok(Some(b"of one".to_vec())));
        assert_eq!(log.read(TWO, &key(1), 0, u64::MAX).await, Ok(None));
    });
    // A realm that has blobs and is not configured any more.
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let mut without = options(&clock);
    without.realms.truncate(1);
    let refused = run_one(open(drive, index, &without)).unwrap();
    assert_eq!(
        refused.err(),
        Some(OpenError::UnknownRealm {
            realm: TWO,
            name: None,
        })
    );
}

/// Fills the drive with small blobs and deletes all but every `keep`-th.
async fn fill_and_thin_out(log: &SimLog, keep: u8) -> Vec<u8> {
    let mut names = Vec::new();
    let full = loop {
        let name = names.len() as u8;
        let put = log
            .put(ONE, key(name), KeyKind::Name, &bytes(name, 8192))
            .await;
        match put {
            Ok(_) => names.push(name),
            Err(error) => break error,
        }
        assert!(names.len() < 250);
    };
    assert_eq!(full, StoreError::Full);
    for name in names.iter().filter(|name| *name % keep != 0) {
        assert_eq!(log.delete(ONE, key(*name)).await, Ok(true));
    }
    names.retain(|name| name % keep == 0);
    names
}

#[test]
fn a_full_drive_of_little_but_deleted_blobs_takes_new_ones() {
    let (drive, clock) = (formatted(), Clock::manual());
    let mut kept = Vec::new();
    with_log(&drive, &clock, async |log| {
        kept = fill_and_thin_out(log, 4).await;
        let before: Vec<_> = kept
            .iter()
            .map(|name| log.locate(ONE, &key(*name)))
            .collect();
        let live = log.stat().live_blocks;
        // As much as was deleted fits again, twice over.
        for round in 0..2 {
            for name in 0..2 * kept.len() as u8 {
                let name = 250 - name;
                let put = log
                    .put(ONE, key(name), KeyKind::Name, &bytes(name, 8192))
                    .await;
                assert_eq!(put, Ok(Put::Created), "{name} of round {round}");
            }
            for name in 0..2 * kept.len() as u8 {
                assert_eq!(log.delete(ONE, key(250 - name)).await, Ok(true));
            }
        }
        let stat = log.stat();
        assert!(stat.blobs_moved > 0);
        assert_eq!(stat.blocks_moved, 2 * stat.blobs_moved);
        assert_eq!(stat.live_blocks, live);
        let after: Vec<_> = kept
            .iter()
            .map(|name| log.locate(ONE, &key(*name)))
            .collect();
        assert_ne!(before, after);
        for name in &kept {
            let there = log.read(ONE, &key(*name), 0, u64::MAX).await;
            assert_eq!(there, Ok(Some(bytes(*name, 8192))));
        }
    });
    with_log(&drive, &clock, async |log| {
        assert_eq!(log.stat().blobs, kept.len() as u64);
        for name in &kept {
            let there = log.read(ONE, &key(*name), 0, u64::MAX).await;
            assert_eq!(there, Ok(Some(bytes(*name, 8192))));
        }
    });
}

#[test]
fn a_blob_with_a_trailer_can_be_moved() {
    let (drive, clock) = (formatted(), Clock::manual());
    let large = bytes(77, 5 * BLOCK_BYTES + 100);
    let mut name = 0;
    with_log(&drive, &clock, async |log| {
        // A large one and a small one to a slab; the small ones go.
        let mut places = Vec::new();
        loop {
            let put = log.put(ONE, key(name), KeyKind::Name, &large).await;
            if put == Err(StoreError::Full) {
                break;
            }
            places.push(log.locate(ONE, &key(name)).unwrap().position);
            let small = bytes(name, 8 * BLOCK_BYTES - 8192);
            let small = log.put(ONE, key(name + 128), KeyKind::Name, &small).await;
            if small.is_err() {
                name += 1;
                break;
            }
            name += 1;
        }
        assert!(name > 5);
        for one in 0..name {
            log.delete(ONE, key(one + 128)).await.unwrap();
        }
        for one in 0..name / 3 {
            let put = log.put(ONE, key(200 + one), KeyKind::Name, &large).await;
            assert_eq!(put, Ok(Put::Created), "{one}");
        }
        assert!(log.stat().blobs_moved > 0);
        for one in 0..name {
            let there = log.read(ONE, &key(one), 0, u64::MAX).await;
            assert_eq!(there, Ok(Some(large.clone())));
            let part = log.read(ONE, &key(one), 5 * BLOCK_BYTES as u64, 50).await;
            assert_eq!(part.unwrap().unwrap(), large[5 * BLOCK_BYTES..][..50]);
        }
    });
}
