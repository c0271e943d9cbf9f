//! Realms that are caches, on a simulated drive: what goes, what stays, and that it stays gone.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::limits::PIN_TIME_MAX;
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};

const SHAPE: Shape = Shape {
    drive_blocks: 512,
    slab_blocks: 16,
    journal_blocks: 16,
    blobs_max: 2000,
};
const CACHE: RealmId = RealmId(1);
const DURABLE: RealmId = RealmId(2);
const LENGTH: usize = 2 * BLOCK_BYTES;

fn key(name: u16) -> Key {
    Key::of_content(&name.to_le_bytes())
}

fn bytes(name: u16) -> Vec<u8> {
    let seed = name.to_le_bytes();
    (0..LENGTH).map(|i| (i as u8) ^ seed[i % 2]).collect()
}

fn formatted() -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    drive
}

fn cache(policy: Policy, quota_blocks: Option<u64>) -> RealmOptions {
    RealmOptions {
        cache: Some(policy),
        quota_blocks,
        ..RealmOptions::new(CACHE)
    }
}

fn with_log(
    drive: &SimDrive,
    clock: &Clock,
    cache: RealmOptions,
    work: impl AsyncFnOnce(&Log<SimDrive>),
) {
    let options = OpenOptions {
        store: Some(Shape::STORE),
        blobs_max: SHAPE.blobs_max,
        realms: vec![cache, RealmOptions::new(DURABLE)],
        clock: clock.clone(),
        ..OpenOptions::default()
    };
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let opened = run_one(open(drive.clone(), index, &options));
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

async fn put(log: &Log<SimDrive>, realm: RealmId, name: u16) -> Result<Put, StoreError> {
    log.put(realm, key(name), KeyKind::Name, &bytes(name)).await
}

async fn is_there(log: &Log<SimDrive>, name: u16) -> bool {
    match log.read(CACHE, &key(name), 0, u64::MAX).await.unwrap() {
        Some(there) => there == bytes(name),
        None => false,
    }
}

fn there(log: &Log<SimDrive>, names: std::ops::Range<u16>) -> Vec<u16> {
    let is_there = |name: &u16| log.probe(CACHE, &[key(*name)]) == 1;
    names.filter(is_there).collect()
}

#[test]
fn what_was_not_used_for_longest_goes_and_stays_gone() {
    let (drive, clock) = (formatted(), Clock::manual());
    let lru = cache(Policy::Lru, Some(20));
    with_log(&drive, &clock, lru.clone(), async |log| {
        for name in 0..10 {
            assert_eq!(put(log, CACHE, name).await, Ok(Put::Created));
        }
        assert_eq!(log.stat().blobs_evicted, 0);
        // A read and a location are uses; a probe is none.
        assert!(is_there(log, 0).await);
        assert!(log.locate(CACHE, &key(2)).is_some());
        assert_eq!(log.probe(CACHE, &[key(1), key(3)]), 0b11);
        for name in 10..13 {
            assert_eq!(put(log, CACHE, name).await, Ok(Put::Created));
        }
        assert_eq!(there(log, 0..13), [0, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
        let stat = log.realm_stat(CACHE).unwrap();
        assert_eq!((stat.blobs, stat.used_blocks), (10, 20));
        // What can never fit is no reason to throw everything away.
        let large = vec![1; 21 * BLOCK_BYTES];
        let refused = log.reserve(CACHE, large.len() as u64).await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(log.realm_stat(CACHE).unwrap().blobs, 10);
    });
    // After a restart the order is that of coming, and what went is gone.
    with_log(&drive, &clock, lru, async |log| {
        assert_eq!(there(log, 0..13), [0, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(put(log, CACHE, 13).await, Ok(Put::Created));
        assert_eq!(there(log, 0..14), [2, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    });
}

#[test]
fn a_lowered_quota_is_worked_off_as_blobs_come() {
    let (drive, clock) = (formatted(), Clock::manual());
    with_log(&drive, &clock, cache(Policy::Lru, Some(40)), async |log| {
        for name in 0..20 {
            put(log, CACHE, name).await.unwrap();
        }
    });
    with_log(&drive, &clock, cache(Policy::Lru, Some(20)), async |log| {
        // No put waits for all that is too much: two blobs go for each that comes.
        for name in 20..28 {
            assert_eq!(put(log, CACHE, name).await, Ok(Put::Created));
            let stat = log.realm_stat(CACHE).unwrap();
            assert_eq!(stat.used_blocks, 40 - 2 * u64::from(name - 19));
        }
        for name in 28..35 {
            assert_eq!(put(log, CACHE, name).await, Ok(Put::Created));
            assert_eq!(log.realm_stat(CACHE).unwrap().used_blocks, 20);
        }
        assert_eq!(there(log, 0..35), (25..35).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_pinned_stays_up_to_its_share_and_until_its_time() {
    let (drive, clock) = (formatted(), Clock::manual());
    let lru = cache(Policy::Lru, Some(20));
    with_log(&drive, &clock, lru, async |log| {
        for name in 0..10 {
            put(log, CACHE, name).await.unwrap();
        }
        let minute = Duration::from_secs(60);
        for name in 0..5 {
            let until = log.pin(CACHE, &key(name), minute);
            assert_eq!(until, Ok(Some(clock.now() + minute)));
        }
        let most = 10;
        let refused = log.pin(CACHE, &key(5), minute);
        let realm = CACHE;
        assert_eq!(refused, Err(StoreError::TooManyPins { realm, most }));
        assert_eq!(log.pin(CACHE, &key(99), minute), Ok(None));
        // Once more is no second one; and not for ever.
        let until = log.pin(CACHE, &key(0), Duration::MAX);
        assert_eq!(until, Ok(Some(clock.now() + PIN_TIME_MAX)));
        for name in 10..30 {
            put(log, CACHE, name).await.unwrap();
        }
        assert_eq!(there(log, 0..5), [0, 1, 2, 3, 4]);
        assert!(log.unpin(CACHE, &key(1)));
        assert!(!log.unpin(CACHE, &key(1)));
        clock.advance(minute);
        for name in 30..40 {
            put(log, CACHE, name).await.unwrap();
        }
        assert_eq!(there(log, 0..5), [0]);
        // Deleting goes before pinning.
        assert_eq!(log.delete(CACHE, key(0)).await, Ok(true));
        assert!(!log.unpin(CACHE, &key(0)));
    });
}

#[test]
fn a_cache_that_can_let_nothing_go_says_what_holds_it() {
    let (drive, clock) = (formatted(), Clock::manual());
    let lru = cache(Policy::Lru, Some(20));
    with_log(&drive, &clock, lru, async |log| {
        for name in 0..5 {
            put(log, CACHE, name).await.unwrap();
            log.pin(CACHE, &key(name), PIN_TIME_MAX).unwrap();
        }
        let mut reserved = Vec::new();
        for _ in 0..5 {
            reserved.push(log.reserve(CACHE, LENGTH as u64).await.unwrap());
        }
        let refused = put(log, CACHE, 5).await.unwrap_err();
        let (realm, quota) = (CACHE, 20);
        assert_eq!(refused, StoreError::CacheHeld { realm, quota });
        let words = refused.to_string();
        assert!(
            words.contains("pinned") && words.contains("unpin"),
            "{words}"
        );
        // What it says helps.
        assert!(log.abandon(CACHE, reserved[0].position));
        assert_eq!(put(log, CACHE, 5).await, Ok(Put::Created));
        assert!(log.unpin(CACHE, &key(0)));
        assert_eq!(put(log, CACHE, 6).await, Ok(Put::Created));
        assert_eq!(there(log, 0..5), [1, 2, 3, 4]);
    });
    // What never fits is no matter of pins.
    with_log(
        &formatted(),
        &clock,
        cache(Policy::Lru, Some(1)),
        async |log| {
            let refused = put(log, CACHE, 1).await;
            let (realm, quota) = (CACHE, 1);
            assert_eq!(refused, Err(StoreError::OverQuota { realm, quota }));
        },
    );
}

#[test]
fn one_that_is_pinned_does_not_keep_others_that_are_used_more() {
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let (drive, clock) = (formatted(), Clock::manual());
        with_log(&drive, &clock, cache(policy, Some(40)), async |log| {
            for name in 0..20 {
                put(log, CACHE, name).await.unwrap();
            }
            // The oldest one is pinned and never read, all others are read again and again.
            let until = log.pin(CACHE, &key(0), PIN_TIME_MAX).unwrap();
            assert!(until.is_some());
            for name in (1..20).cycle().take(19 * 4) {
                assert!(is_there(log, name).await);
            }
            for name in 20..60 {
                assert_eq!(put(log, CACHE, name).await, Ok(Put::Created), "{policy:?}");
                assert_eq!(there(log, 0..1), [0]);
            }
        });
    }
}

#[test]
fn a_full_drive_takes_from_the_cache_and_never_from_what_is_durable() {
    for policy in [Policy::Lru, Policy::S3Fifo] {
        let (drive, clock) = (formatted(), Clock::manual());
        with_log(&drive, &clock, cache(policy, None), async |log| {
            for name in 0..20 {
                assert_eq!(put(log, DURABLE, name).await, Ok(Put::Created));
            }
            for name in 0..600 {
                let put = put(log, CACHE, name).await;
                assert_eq!(put, Ok(Put::Created), "{policy:?} {name}");
                assert!(is_there(log, name).await);
            }
            let evicted = log.stat().blobs_evicted;
            assert!((400..600).contains(&evicted), "{policy:?} {evicted}");
            // Durable blobs push the cache aside until it is empty, and then it is full.
            let mut name = 20;
            let full = loop {
                match put(log, DURABLE, name).await {
                    Ok(Put::Created) => name += 1,
                    other => break other,
                }
                assert!(name < 1000);
            };
            assert_eq!(full, Err(StoreError::Full));
            assert!(name > 100, "{name}");
            for name in 0..name {
                let read = log.read(DURABLE, &key(name), 0, u64::MAX).await;
                assert_eq!(read, Ok(Some(bytes(name))));
            }
        });
    }
}
