//! A byte flipped anywhere on the drive of a closed store: what is read is right, or an error says what is not.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::collections::BTreeMap;

use oriel_engine::store::*;
use store_sim::api::{Shape, Store};
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};
use store_sim::world::Rng;

const SHAPE: Shape = Shape {
    drive_blocks: 2048,
    slab_blocks: 64,
    journal_blocks: 32,
    blobs_max: 1000,
};

const FLIPS: u64 = 10_000;

fn key(name: usize) -> Key {
    Key::new(*blake3::hash(&name.to_le_bytes()).as_bytes())
}

/// From one byte to as much as a slab takes, around every boundary in between.
fn lengths(max: u64) -> Vec<usize> {
    let block = BLOCK_BYTES as u64;
    let around =
        (1..12).flat_map(|blocks| [blocks * block - 1, blocks * block, blocks * block + 1]);
    let small = [1, 2, 100, 1000, max, max - 1, max / 2];
    let all = small.into_iter().chain(around);
    all.map(|length| length as usize).collect()
}

fn blob(name: usize, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(name as u64);
    let words = length.div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| rng.word().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// A store that was used and closed: blobs of all sizes, some deleted, and slabs that are full, emptied, and open.
fn closed(blobs: &[Vec<u8>]) -> Image {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    let (store, _) = run_one(SHAPE.open(drive.clone())).unwrap().unwrap();
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { store.run().await.unwrap() }),
        Box::pin(async {
            for (name, bytes) in blobs.iter().enumerate() {
                let put = store.put(key(name), KeyKind::Name, bytes).await;
                assert_eq!(put, Ok(Put::Created));
            }
            for name in (3..blobs.len()).step_by(7) {
                assert_eq!(store.delete(key(name)).await, Ok(true));
            }
            store.close();
        }),
    ];
    assert_eq!(run_all(&mut both), [true, true]);
    drop(both);
    drive.durable_image()
}

/// How a flip was found, or that it did no harm.
fn what_a_read_gives(
    store: &Store,
    blobs: &[Vec<u8>],
    (extent, block): (ExtentName, u64),
) -> &'static str {
    let mut found = "no harm";
    for (name, bytes) in blobs.iter().enumerate() {
        let is_there = name < 3 || !(name - 3).is_multiple_of(7);
        match run_one(store.read(&key(name), 0, u64::MAX)).unwrap() {
            Ok(None) => assert!(!is_there, "blob {name} is gone without a word"),
            Ok(Some(read)) => assert!(is_there && read == *bytes, "blob {name} is another one"),
            Err(StoreError::Damaged {
                key: named,
                position,
                ..
            }) => {
                assert_eq!(named, key(name));
                let slab = ExtentName::Slab(position.0 / SHAPE.slab_blocks);
                assert_eq!(slab, extent, "{position}, not block {block}");
                found = "a read names the blob";
            }
            Err(error) => panic!("{error}"),
        }
    }
    found
}

#[test]
fn a_flipped_byte_is_never_believed() {
    let probe = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&probe)).unwrap().unwrap();
    let max = run_one(SHAPE.open(probe)).unwrap().unwrap().0.length_max();
    let lengths = lengths(max);
    let blobs: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(name, length)| blob(name, *length))
        .collect();
    let image = closed(&blobs);
    let extents: Vec<(ExtentName, u64)> = image.extents().collect();
    let all_blocks: u64 = extents.iter().map(|(_, blocks)| blocks).sum();
    let mut rng = Rng::new(0xf11b);
    let mut found: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for flip in 0..FLIPS {
        // Half of them anywhere; the others in the first bytes of a block, where the bookkeeping has its numbers.
        let mut block = rng.below(all_blocks);
        let (extent, _) = *extents
            .iter()
            .find(|(_, blocks)| {
                let is_here = block < *blocks;
                block -= if is_here { 0 } else { *blocks };
                is_here
            })
            .unwrap();
        let byte = match rng.below(2) {
            0 => rng.below(BLOCK_BYTES as u64),
            _ => rng.below(128),
        };
        let mut flipped = image.clone();
        assert!(flipped.flip(
            extent,
            block * BLOCK_BYTES as u64 + byte,
            rng.between(1, 255) as u8
        ));
        let drive = SimDrive::new(flipped, SHAPE.drive_blocks);
        let how = match run_one(SHAPE.open(drive)).unwrap() {
            Ok((store, _)) => what_a_read_gives(&store, &blobs, (extent, block)),
            Err(OpenError::Damaged { extent: named, .. }) => {
                assert_eq!(
                    named, extent,
                    "flip {flip} at {extent}, block {block}, byte {byte}"
                );
                "opening names the extent"
            }
            Err(error @ (OpenError::Missing { .. } | OpenError::Newer { .. })) => {
                let is_its = matches!(
                    (&error, extent),
                    (OpenError::Missing { .. }, ExtentName::Checkpoint(_))
                        | (OpenError::Newer { .. }, ExtentName::Label)
                );
                assert!(
                    is_its,
                    "flip {flip} at {extent}, block {block}, byte {byte}: {error}"
                );
                "opening says what is missing"
            }
            Err(error) => panic!("flip {flip} at {extent}, block {block}, byte {byte}: {error}"),
        };
        let kind = match extent {
            ExtentName::Label => "label",
            ExtentName::Journal(_) => "journal",
            ExtentName::Checkpoint(_) => "checkpoint",
            ExtentName::Slab(_) => "slab",
            ExtentName::Roster(_) => "roster",
        };
        *found.entry((kind, how)).or_default() += 1;
    }
    for ((kind, how), times) in &found {
        println!("{times:6} in a {kind}: {how}");
    }
    // Otherwise the store was empty, or the bytes were.
    assert!(found[&("slab", "a read names the blob")] > FLIPS / 4);
}
