//! What a store does by itself, at its rates: compaction before anybody waits for room, and scrubs.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use oriel_engine::limits::{READERS_WAIT, SUSPECTS_MAX};
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_in, run_one};
use store_sim::world::World;

const SHAPE: Shape = Shape {
    drive_blocks: 8 * 1024,
    slab_blocks: 1024,
    journal_blocks: 16,
    blobs_max: 1000,
};
const REALM: RealmId = RealmId(1);
const BLOCK: u64 = BLOCK_BYTES as u64;
const HOUR: u64 = 3600 * 1_000_000_000;

const NOTHING: Background = Background {
    compaction_bytes_per_second: 0,
    scrub_bytes_per_second: 0,
    scrub_round: Duration::from_secs(3600),
};

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn bytes(seed: u8, blocks: u64) -> Vec<u8> {
    (0..blocks * BLOCK)
        .map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed)
        .collect()
}

fn formatted() -> SimDrive {
    formatted_as(SHAPE)
}

fn formatted_as(shape: Shape) -> SimDrive {
    let drive = SimDrive::new(Image::default(), shape.drive_blocks);
    run_one(shape.format(&drive)).unwrap().unwrap();
    drive
}

/// Opens the store on a drive in a world of its own, and lets it run beside `work`.
fn with_log(
    drive: &SimDrive,
    background: Background,
    work: impl AsyncFnOnce(&Log<SimDrive>, &World),
) {
    let world = World::new(1);
    let options = OpenOptions {
        store: Some(Shape::STORE),
        blobs_max: SHAPE.blobs_max,
        realms: vec![RealmOptions::new(REALM)],
        clock: world.clock(),
        background,
        ..OpenOptions::default()
    };
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let (log, _) = run_one(open(drive.clone(), index, &options))
        .unwrap()
        .unwrap();
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { log.run().await.unwrap() }),
        Box::pin(async {
            work(&log, &world).await;
            log.close();
        }),
    ];
    let ended = run_in(Some(&world), &mut both);
    assert_eq!(ended, [true, true], "somebody waits for ever");
}

async fn put(log: &Log<SimDrive>, name: u8, blocks: u64) {
    let blob = bytes(name, blocks);
    let put = log.put(REALM, key(name), KeyKind::Name, &blob);
    assert_eq!(put.await, Ok(Put::Created));
}

// ---- Scrubs -------------------------------------------------------------------------------------------------------------

/// A small blob, one of two checksummed MiB, and one beside them.
const BLOBS: [(u8, u64); 3] = [(1, 2), (2, 600), (3, 300)];

fn filled() -> (SimDrive, Vec<Location>) {
    let drive = formatted();
    let mut locations = Vec::new();
    with_log(&drive, NOTHING, async |log, _| {
        for (name, blocks) in BLOBS {
            put(log, name, blocks).await;
            locations.push(log.locate(REALM, &key(name)).unwrap());
        }
    });
    (drive, locations)
}

/// A byte of the log is not what it was.
fn rotten(drive: &SimDrive, block: u64) -> SimDrive {
    let mut image = drive.image();
    let slab = ExtentName::Slab(block / SHAPE.slab_blocks);
    let at = block % SHAPE.slab_blocks * BLOCK + 77;
    assert!(image.flip(slab, at, 0x10));
    SimDrive::new(image, SHAPE.drive_blocks)
}

#[test]
fn rot_is_found_by_itself_and_not_served_any_more() {
    let (drive, locations) = filled();
    let scrubs = Background {
        scrub_bytes_per_second: 1 << 20,
        ..NOTHING
    };
    // The small one; the large one's first block, its last one, and the checksums behind it.
    let large = locations[1].position.0;
    let cases = [
        (1, locations[0].position.0),
        (2, large),
        (2, large + 599),
        (2, large + 600),
    ];
    for (name, block) in cases {
        let drive = rotten(&drive, block);
        with_log(&drive, scrubs, async |log, world| {
            world.sleep(HOUR / 2).await;
            let metrics = log.metrics();
            let scrub = metrics.scrub;
            assert_eq!((scrub.rounds, scrub.blobs, scrub.damaged_blobs), (1, 3, 1));
            assert_eq!((scrub.unreadable, metrics.quarantined_blobs), (0, 1));
            assert_eq!(metrics.slabs(SlabState::Quarantined), 1);
            assert_eq!((scrub.slabs_done, scrub.is_under_way), (scrub.slabs, false));
            let step = metrics.step(Step::Scrub);
            assert_eq!((step.done, step.failed), (2, 1));
            for (other, _) in BLOBS {
                let read = log.read(REALM, &key(other), 0, 1).await;
                match other == name {
                    true => assert!(matches!(read, Err(StoreError::Quarantined { .. }))),
                    false => assert_eq!(read.unwrap().unwrap().len(), 1),
                }
            }
            let all = log.metrics().all_realms();
            assert_eq!(all.errors(ErrorKind::Quarantined), 1);
            // Put anew, it is whole in the next round.
            assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
            put(log, name, 2).await;
            world.sleep(HOUR).await;
            let scrub = log.metrics().scrub;
            assert_eq!((scrub.rounds, scrub.blobs, scrub.damaged_blobs), (2, 6, 1));
            assert_eq!(log.metrics().quarantined_blobs, 0);
        });
    }
}

/// Nothing waits any more for another look.
async fn looked_at(world: &World) {
    world.sleep(HOUR).await;
}

#[test]
fn what_a_read_finds_damaged_is_not_served_any_more() {
    let (drive, locations) = filled();
    let large = locations[1].position.0;
    // The small one, blocks of the large one, and checksums behind it: where it is rotten, and where it is read.
    let cases = [
        (1, locations[0].position.0, 0),
        (2, large, 0),
        (2, large + 599, 599),
        (2, large + 600, 7),
    ];
    for (name, block, read_at) in cases {
        for by_position in [false, true] {
            with_log(&rotten(&drive, block), NOTHING, async |log, world| {
                let (key, offset) = (key(name), read_at * BLOCK);
                let location = log.locate(REALM, &key).unwrap();
                let position = Position(location.position.0 + read_at);
                let read = async || match by_position {
                    false => log.read(REALM, &key, offset, 1).await.map(drop),
                    true => {
                        let read = log.read_position(REALM, position, log_buffer());
                        read.await.1
                    }
                };
                // Two come upon it before it is looked at again; other blocks of it are good until then.
                if name == 2 && block != large + 600 {
                    let other = log.read(REALM, &key, 300 * BLOCK, 1).await;
                    assert_eq!(other.unwrap().unwrap().len(), 1);
                }
                for _ in 0..2 {
                    let found = read().await;
                    match by_position {
                        false => assert!(matches!(found, Err(StoreError::Damaged { .. }))),
                        true => assert!(matches!(found, Err(StoreError::DamagedWindow { .. }))),
                    }
                }
                assert_eq!(log.metrics().quarantined_blobs, 0);
                looked_at(world).await;
                let metrics = log.metrics();
                let scrub = metrics.scrub;
                assert_eq!((scrub.blobs, scrub.damaged_blobs, scrub.rounds), (1, 1, 0));
                assert_eq!((scrub.unreadable, metrics.quarantined_blobs), (0, 1));
                // All of it, and whoever asks.
                let again = log.read(REALM, &key, 300 * BLOCK, 1).await;
                let position = location.position;
                assert_eq!(again, Err(StoreError::Quarantined { key, position }));
                assert!(log.describe(REALM, &key).is_err());
                assert!(read().await.is_err());
                for (other, blocks) in BLOBS.into_iter().filter(|(other, _)| *other != name) {
                    let read = log.read(REALM, &self::key(other), 0, u64::MAX).await;
                    assert_eq!(read, Ok(Some(bytes(other, blocks))));
                }
                looked_at(world).await;
                assert_eq!(log.metrics().scrub, scrub, "it is looked at once");
            });
        }
    }
}

fn log_buffer() -> Vec<u8> {
    vec![0; BLOCK_BYTES]
}

#[test]
fn what_has_gone_since_a_read_found_it_damaged_leaves_no_quarantine_behind() {
    let (drive, locations) = filled();
    let drive = rotten(&drive, locations[0].position.0);
    with_log(&drive, NOTHING, async |log, world| {
        let position = locations[0].position;
        let read = log.read(REALM, &key(1), 0, 1).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })));
        assert_eq!(log.delete(REALM, key(1)).await, Ok(true));
        put(log, 1, 2).await;
        looked_at(world).await;
        // The window answers until its slab goes, and is nobody's blob any more.
        let (_, read) = log.read_position(REALM, position, log_buffer()).await;
        assert!(matches!(read, Err(StoreError::DamagedWindow { .. })));
        looked_at(world).await;
        let metrics = log.metrics();
        assert_eq!(
            (metrics.scrub.damaged_blobs, metrics.quarantined_blobs),
            (0, 0)
        );
        let read = log.read(REALM, &key(1), 0, u64::MAX).await;
        assert_eq!(read, Ok(Some(bytes(1, 2))));
    });
}

#[test]
fn without_the_memory_to_look_nothing_is_put_into_quarantine() {
    let (drive, locations) = filled();
    let drive = rotten(&drive, locations[1].position.0);
    with_log(&drive, NOTHING, async |log, world| {
        let read = async || log.read(REALM, &key(2), 0, 1).await;
        drive.limit_buffers(2 * BLOCK_BYTES);
        assert!(matches!(read().await, Err(StoreError::Damaged { .. })));
        looked_at(world).await;
        let metrics = log.metrics();
        assert_eq!(
            (metrics.scrub.unreadable, metrics.quarantined_blobs),
            (0, 0)
        );
        // The next read that finds it has it looked at again.
        drive.limit_buffers(usize::MAX);
        assert!(matches!(read().await, Err(StoreError::Damaged { .. })));
        looked_at(world).await;
        assert!(matches!(read().await, Err(StoreError::Quarantined { .. })));
    });
}

#[test]
fn more_damage_than_is_kept_in_mind_is_found_when_it_is_read_again() {
    let names = 0..SUSPECTS_MAX as u8 + 9;
    let mut drive = formatted();
    with_log(&drive, NOTHING, async |log, _| {
        for name in names.clone() {
            put(log, name, 1).await;
        }
    });
    let mut positions = Vec::new();
    with_log(&drive, NOTHING, async |log, _| {
        let place = |name| log.locate(REALM, &key(name)).unwrap().position.0;
        positions.extend(names.clone().map(place));
    });
    for position in positions {
        drive = rotten(&drive, position);
    }
    with_log(&drive, NOTHING, async |log, world| {
        for expected in [SUSPECTS_MAX as u64, names.len() as u64] {
            for name in names.clone() {
                let read = log.read(REALM, &key(name), 0, 1).await;
                assert!(read.is_err(), "{name}");
            }
            looked_at(world).await;
            assert_eq!(log.metrics().quarantined_blobs, expected);
            assert_eq!(log.metrics().scrub.damaged_blobs, expected);
        }
    });
}

#[test]
fn a_scrub_keeps_to_its_rate() {
    let (drive, _) = filled();
    let per_second = 64 << 10;
    let scrubs = Background {
        scrub_bytes_per_second: per_second,
        ..NOTHING
    };
    with_log(&drive, scrubs, async |log, world| {
        let mut seconds = 0;
        loop {
            world.sleep(1_000_000_000).await;
            seconds += 1;
            let metrics = log.metrics();
            let read = metrics.read_blocks(ReadFor::Scrub) * BLOCK;
            // A step is at once, of up to a MiB with a block of checksums.
            assert!(
                read <= seconds * per_second + (2 << 20),
                "{read} after {seconds} s"
            );
            if metrics.scrub.rounds > 0 {
                // All blobs have been read by then, and not a moment too soon.
                assert!(read >= 902 * BLOCK && seconds >= 902 * BLOCK / per_second - 32);
                break;
            }
            assert!(seconds < 600);
        }
    });
}

#[test]
fn nothing_is_read_where_nothing_is_to_be() {
    let (drive, _) = filled();
    with_log(&drive, NOTHING, async |log, world| {
        world.sleep(100 * HOUR).await;
        assert_eq!(log.metrics().scrub, ScrubMetrics::default());
        assert_eq!(log.metrics().read_blocks(ReadFor::Scrub), 0);
    });
}

// ---- Compaction ---------------------------------------------------------------------------------------------------------

/// Slabs that are mostly dead, on a drive that has little left.
async fn scatter(log: &Log<SimDrive>, blocks: u64) {
    for name in 0..16 {
        put(log, name, blocks).await;
    }
    for name in 0..16 {
        if name % 4 != 0 {
            assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
        }
    }
    // Seals the last of them.
    put(log, 100, 2 * blocks).await;
}

#[test]
fn room_is_made_before_anybody_waits_for_it_and_at_a_rate() {
    let per_second = 32 << 10;
    let compacts = Background {
        compaction_bytes_per_second: per_second,
        ..NOTHING
    };
    for (background, moves) in [(NOTHING, false), (compacts, true)] {
        with_log(&formatted(), background, async |log, world| {
            scatter(log, 300).await;
            let before = log.metrics().early_moved_blocks * BLOCK;
            for seconds in 1..=400u64 {
                world.sleep(1_000_000_000).await;
                let moved = log.metrics().early_moved_blocks * BLOCK - before;
                assert!(moved <= seconds * per_second + 302 * BLOCK, "{moved}");
            }
            let metrics = log.metrics();
            let moved = metrics.stat.blobs_moved;
            assert_eq!(moved > 0, moves, "{metrics:?}");
            assert_eq!(metrics.stat.blocks_moved, metrics.early_moved_blocks);
            assert_eq!(metrics.step(Step::Move).done, moved);
            let written = metrics.written_blocks(WrittenFor::Move);
            assert_eq!(written, metrics.stat.blocks_moved);
            for name in (0..16).step_by(4) {
                let read = log.read(REALM, &key(name), 0, u64::MAX).await;
                assert_eq!(read, Ok(Some(bytes(name, 300))));
            }
        });
    }
}

#[test]
fn whoever_waits_for_room_does_not_wait_for_a_rate() {
    let compacts = Background {
        compaction_bytes_per_second: 1,
        ..NOTHING
    };
    with_log(&formatted(), compacts, async |log, _| {
        scatter(log, 300).await;
        let mut stored = 0;
        // A block a second would be an hour for each slab.
        for name in 120..140 {
            let blob = bytes(name, 300);
            let more = log.put(REALM, key(name), KeyKind::Name, &blob);
            match more.await {
                Ok(_) => stored += 1,
                Err(error) => {
                    assert_eq!(error, StoreError::Full);
                    break;
                }
            }
        }
        let metrics = log.metrics();
        assert!(stored > 4 && metrics.stat.blobs_moved > 0, "{metrics:?}");
        assert!(metrics.open_for < Duration::from_secs(5), "{metrics:?}");
    });
}

#[test]
fn blobs_are_moved_with_memory_for_a_mib_of_them() {
    let compacts = Background {
        compaction_bytes_per_second: 1 << 20,
        ..NOTHING
    };
    // In one piece; a MiB; one that is not full; several.
    for (blocks, slab_blocks) in [
        (255, 1024),
        (256, 1024),
        (300, 1024),
        (512, 2048),
        (600, 2048),
    ] {
        let shape = Shape {
            drive_blocks: 8 * slab_blocks,
            slab_blocks,
            ..SHAPE
        };
        let drive = formatted_as(shape);
        with_log(&drive, compacts, async |log, world| {
            scatter(log, blocks).await;
            let before = log.metrics().stat.blobs_moved;
            drive.limit_buffers(1 << 20);
            world.sleep(60_000_000_000).await;
            let moved = log.metrics().stat.blobs_moved - before;
            assert!(moved >= 2, "{blocks}: {:?}", log.metrics());
            drive.limit_buffers(usize::MAX);
            for name in (0..16).step_by(4) {
                let read = log.read(REALM, &key(name), 0, u64::MAX).await;
                assert_eq!(read, Ok(Some(bytes(name, blocks))));
            }
        });
    }
}

#[test]
fn what_compaction_finds_damaged_is_not_served_any_more() {
    let drive = formatted();
    let mut damaged = None;
    with_log(&drive, NOTHING, async |log, _| {
        scatter(log, 300).await;
        damaged = log.locate(REALM, &key(4));
    });
    let compacts = Background {
        compaction_bytes_per_second: 1 << 20,
        ..NOTHING
    };
    let drive = rotten(&drive, damaged.unwrap().position.0 + 7);
    with_log(&drive, compacts, async |log, world| {
        world.sleep(HOUR).await;
        let metrics = log.metrics();
        assert_eq!(metrics.quarantined_blobs, 1, "{metrics:?}");
        assert!(metrics.stat.blobs_moved > 0);
        assert_eq!(log.locate(REALM, &key(4)), damaged);
        let read = log.read(REALM, &key(4), 0, 1).await;
        assert!(matches!(read, Err(StoreError::Quarantined { .. })));
    });
}

#[test]
fn a_drive_that_answers_wrongly_once_costs_no_blob_that_is_moved() {
    let compacts = Background {
        compaction_bytes_per_second: 1 << 20,
        ..NOTHING
    };
    let mut moved = 0;
    for reads in 0.. {
        let drive = formatted();
        with_log(&drive, compacts, async |log, world| {
            scatter(log, 300).await;
            drive.misread_after(reads);
            world.sleep(60_000_000_000).await;
            moved = log.metrics().stat.blobs_moved;
            if drive.will_misread() {
                return;
            }
            for name in (0..16).step_by(4) {
                let read = log.read(REALM, &key(name), 0, u64::MAX).await;
                assert_eq!(read, Ok(Some(bytes(name, 300))), "read {reads}");
            }
        });
        if drive.will_misread() {
            assert!(reads > 8 && moved >= 2, "{reads} {moved}");
            break;
        }
    }
}

#[test]
fn slabs_that_cannot_be_emptied_for_a_moment_are_tried_again() {
    let drive = formatted();
    with_log(&drive, NOTHING, async |log, world| {
        scatter(log, 300).await;
        let window = 300 * BLOCK;
        let fill = async || {
            let mut windows = Vec::new();
            loop {
                match log.reserve(REALM, window).await {
                    Ok(reserved) => windows.push(reserved),
                    Err(error) => return (windows, error),
                }
            }
        };
        // Blobs cannot be copied: whoever waits is told at last.
        drive.limit_buffers(BLOCK_BYTES);
        let (first, error) = fill().await;
        assert_eq!(error, StoreError::Full);
        assert_eq!(log.metrics().stat.blobs_moved, 0);
        drive.limit_buffers(usize::MAX);
        assert_eq!(log.reserve(REALM, window).await, Err(StoreError::Full));
        world.sleep(2_000_000_000).await;
        let (second, error) = fill().await;
        assert_eq!(error, StoreError::Full);
        let moved = log.metrics().stat.blobs_moved;
        assert!(moved > 0 && second.len() > 2, "{moved} {}", second.len());
        assert!(!first.is_empty());
    });
}

/// A full store, of which a slab was emptied that somebody reads from: how a put ends when the reader does so after that
/// time, and how long it took.
fn put_beside_a_reader(reads_for: Duration) -> (Result<Put, StoreError>, Duration) {
    let mut ended = None;
    with_log(&formatted(), NOTHING, async |log, world| {
        let mut names = Vec::new();
        let full = loop {
            let name = names.len() as u8;
            let blob = bytes(name, 300);
            let put = log.put(REALM, key(name), KeyKind::Name, &blob);
            match put.await {
                Ok(_) => names.push(name),
                Err(error) => break error,
            }
        };
        assert_eq!(full, StoreError::Full);
        let place = |name| log.locate(REALM, &key(name)).unwrap().position.0;
        let slab = |name| place(name) / SHAPE.slab_blocks;
        let first = slab(0);
        names.retain(|name| slab(*name) == first);
        let zero = key(0);
        let mut reads = Box::pin(log.read(REALM, &zero, 0, u64::MAX));
        // The first time it is looked up, the second time it is begun.
        for _ in 0..2 {
            let is_pending = poll_fn(|cx| Poll::Ready(reads.as_mut().poll(cx).is_pending()));
            assert!(is_pending.await);
        }
        for name in names {
            assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
        }
        let began = log.metrics().open_for;
        let blob = bytes(200, 300);
        let mut put = pin!(log.put(REALM, key(200), KeyKind::Name, &blob));
        let mut reader_ends = pin!(world.sleep(reads_for.as_nanos() as u64));
        let mut reads = Some(reads);
        let put = poll_fn(|cx| {
            if reads.is_some() && reader_ends.as_mut().poll(cx).is_ready() {
                reads = None;
            }
            put.as_mut().poll(cx)
        });
        let put = put.await;
        ended = Some((put, log.metrics().open_for - began));
    });
    ended.unwrap()
}

#[test]
fn a_full_store_waits_a_moment_for_the_last_reader_of_a_slab() {
    let (put, took) = put_beside_a_reader(READERS_WAIT / 3);
    assert_eq!(put, Ok(Put::Created));
    assert!((READERS_WAIT / 3..READERS_WAIT).contains(&took), "{took:?}");
    let (put, took) = put_beside_a_reader(READERS_WAIT * 10);
    assert_eq!(put, Err(StoreError::Full));
    assert!((READERS_WAIT..READERS_WAIT * 2).contains(&took), "{took:?}");
}

// ---- Sizes --------------------------------------------------------------------------------------------------------------

#[test]
fn a_drive_that_is_too_small_for_a_slab_is_refused() {
    let format_on = |blocks, slab_blocks| {
        let drive = SimDrive::new(Image::default(), blocks);
        let shape = Shape {
            slab_blocks,
            ..SHAPE
        };
        let formatted = run_one(shape.format(&drive)).unwrap();
        (drive, shape, formatted)
    };
    // A slab larger than the drive, and one that fits but once.
    for slab_blocks in [4096, 1024] {
        let (drive, _, refused) = format_on(1500, slab_blocks);
        let Err(OpenError::TooSmall { needed, found, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(found < needed && found < 1500 && needed > 2 * slab_blocks);
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("use a larger drive"), "{words}");
        assert_eq!(drive.image().extents().count(), 0);
    }
    let least = (400..1500)
        .find(|blocks| format_on(*blocks, 256).2.is_ok())
        .unwrap();
    // That much is enough for a blob, and not for what is to be known of very many.
    let (drive, shape, _) = format_on(least, 256);
    let opens = |blobs_max| {
        let shape = Shape { blobs_max, ..shape };
        run_one(shape.open(drive.clone())).unwrap()
    };
    let refused = opens(1 << 21).map(|_| ());
    assert!(
        matches!(refused, Err(OpenError::TooSmall { .. })),
        "{refused:?}"
    );
    let (store, _) = opens(100).unwrap();
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { store.run().await.unwrap() }),
        Box::pin(async {
            let put = store.put(key(1), KeyKind::Name, &bytes(1, 200)).await;
            assert_eq!(put, Ok(Put::Created));
            assert_eq!(store.delete(key(1)).await, Ok(true));
            store.close();
        }),
    ];
    assert_eq!(run_in(None, &mut both), [true, true]);
}
