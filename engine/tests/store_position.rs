//! Reads by position on a simulated drive: what lies in the windows of blobs, and nothing else.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use oriel_engine::clock::Clock;
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};

const SHAPE: Shape = Shape {
    drive_blocks: 8192,
    slab_blocks: 2048,
    journal_blocks: 16,
    blobs_max: 1000,
};
const CHECKED: RealmId = RealmId(1);
const UNCHECKED: RealmId = RealmId(2);
/// Blocks of the blobs below: some with a trailer, one with two blocks of it.
const SIZES: [usize; 7] = [1, 4, 5, 3, 30, 1100, 2];

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn bytes(name: u8) -> Vec<u8> {
    let length = SIZES[usize::from(name)] * BLOCK_BYTES - 7;
    let byte = |at: usize| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ (at >> 16) as u8 ^ name;
    (0..length).map(byte).collect()
}

fn options() -> OpenOptions {
    OpenOptions {
        store: Some(Shape::STORE),
        blobs_max: SHAPE.blobs_max,
        realms: vec![
            RealmOptions::new(CHECKED),
            RealmOptions {
                verify: false,
                ..RealmOptions::new(UNCHECKED)
            },
        ],
        clock: Clock::manual(),
        ..OpenOptions::default()
    }
}

fn with_log(drive: &SimDrive, work: impl AsyncFnOnce(&Log<SimDrive>)) {
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let opened = run_one(open(drive.clone(), index, &options()));
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

async fn read(
    log: &Log<SimDrive>,
    realm: RealmId,
    position: u64,
    blocks: u64,
) -> Result<Vec<u8>, StoreError> {
    let buf = vec![0xee; blocks as usize * BLOCK_BYTES];
    let (buf, read) = log.read_position(realm, Position(position), buf).await;
    read.map(|()| buf)
}

async fn place(log: &Log<SimDrive>, realm: RealmId, name: u8) -> u64 {
    let described = log.describe(realm, &key(name)).unwrap().unwrap();
    assert_eq!(Some(described.location), log.locate(realm, &key(name)));
    described.location.position.0
}

/// Every part of a blob's window, and what begins or ends outside of it.
async fn look(log: &Log<SimDrive>, realm: RealmId, name: u8, at: u64) {
    let length = bytes(name).len() as u64;
    let (data, whole) = (SIZES[usize::from(name)] as u64, window_blocks(length));
    let mut expected = bytes(name);
    expected.resize(data as usize * BLOCK_BYTES, 0);
    let window = read(log, realm, at, whole).await.unwrap();
    assert!(window[..expected.len()] == expected[..], "{name}");
    let step = (whole / 9).max(1) as usize;
    for first in (0..whole).step_by(step) {
        for count in (1..=whole - first).step_by(step) {
            let part = read(log, realm, at + first, count).await.unwrap();
            let from = first as usize * BLOCK_BYTES;
            assert!(
                part == window[from..from + part.len()],
                "{name} {first} {count}"
            );
        }
        let beyond = read(log, realm, at + first, whole - first + 1).await;
        assert!(
            matches!(beyond, Err(StoreError::BeyondWindow { .. })),
            "{name} {first}"
        );
    }
}

fn is_no_window(read: &Result<Vec<u8>, StoreError>) -> bool {
    matches!(read, Err(StoreError::NoWindow { .. }))
}

#[test]
fn a_window_answers_from_its_commit_until_its_slab_goes() {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    let mut places = Vec::new();
    let mut abandoned = 0;
    with_log(&drive, async |log| {
        for realm in [CHECKED, UNCHECKED] {
            for name in 0..SIZES.len() as u8 {
                // A gap before each of them, which nobody may read: it holds what was there before.
                let reserved = log.reserve(realm, 3 * BLOCK_BYTES as u64).await.unwrap();
                let gap = reserved.position.0;
                let buf = vec![0x5a; BLOCK_BYTES];
                log.write(realm, reserved.position, buf).await.1.unwrap();
                let put = log.put(realm, key(name), KeyKind::Name, &bytes(name)).await;
                assert_eq!(put, Ok(Put::Created));
                for blocks in 1..5 {
                    assert!(is_no_window(&read(log, realm, gap, blocks).await));
                }
                if name % 2 == 0 {
                    assert!(log.abandon(realm, reserved.position));
                }
                places.push((realm, name, place(log, realm, name).await));
                abandoned = gap;
            }
        }
        for &(realm, name, at) in &places {
            look(log, realm, name, at).await;
            let other = if realm == CHECKED { UNCHECKED } else { CHECKED };
            assert!(is_no_window(&read(log, other, at, 1).await));
        }
        assert_eq!(log.delete(CHECKED, key(4)).await, Ok(true));
        assert_eq!(log.describe(CHECKED, &key(4)), Ok(None));
        for &(realm, name, at) in &places {
            look(log, realm, name, at).await;
        }
        let realm = RealmId(9);
        let unknown = read(log, realm, places[0].2, 1).await;
        assert_eq!(unknown, Err(StoreError::UnknownRealm { realm }));
        for position in [abandoned, 1 << 40, u64::MAX] {
            assert!(is_no_window(&read(log, UNCHECKED, position, 1).await));
        }
        for bytes in [0, 1, BLOCK_BYTES + 1] {
            let odd = log
                .read_position(CHECKED, Position(places[0].2), vec![0; bytes])
                .await;
            assert!(
                matches!(odd.1, Err(StoreError::NotWholeBlocks { .. })),
                "{bytes}"
            );
        }
    });
    // The same positions, read from what the drive says.
    with_log(&drive, async |log| {
        for &(realm, name, at) in &places {
            look(log, realm, name, at).await;
        }
        assert!(is_no_window(&read(log, UNCHECKED, abandoned, 1).await));
    });
}

#[test]
fn a_flipped_bit_is_told_where_reads_are_checked() {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    let mut places = Vec::new();
    with_log(&drive, async |log| {
        for realm in [CHECKED, UNCHECKED] {
            for name in [1, 5] {
                let put = log.put(realm, key(name), KeyKind::Name, &bytes(name)).await;
                assert_eq!(put, Ok(Put::Created));
                places.push((realm, name, place(log, realm, name).await));
            }
        }
    });
    for (realm, name, at) in places {
        let whole = window_blocks(bytes(name).len() as u64);
        // The first and the last block of data, and the last of the window.
        for block in [0, SIZES[usize::from(name)] as u64 - 1, whole - 1] {
            let mut image = drive.image();
            let slab = ExtentName::Slab((at + block) / SHAPE.slab_blocks);
            let byte = (at + block) % SHAPE.slab_blocks * BLOCK_BYTES as u64 + 77;
            assert!(image.flip(slab, byte, 0x10));
            with_log(&SimDrive::new(image, SHAPE.drive_blocks), async |log| {
                let read = read(log, realm, at, whole).await;
                match realm {
                    CHECKED => assert!(
                        matches!(read, Err(StoreError::DamagedWindow { .. })),
                        "{name} {block}"
                    ),
                    _ => assert!(read.is_ok(), "{name} {block}"),
                }
            });
        }
    }
}
