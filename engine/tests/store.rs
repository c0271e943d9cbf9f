//! The store on a simulated drive whose power goes at every possible moment.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use oriel_engine::store::*;
use store_sim::drive::{Image, SimDrive};
use store_sim::run::{run_all, run_one};

const STORE: StoreId = StoreId([0x5e; 16]);
const SLAB_BLOCKS: u64 = 16;
const DRIVE_BLOCKS: u64 = 512;
const SIZES: FormatOptions = FormatOptions {
    slab_blocks: SLAB_BLOCKS,
    journal_blocks: 16,
};
const OPEN: OpenOptions = OpenOptions {
    store: Some(STORE),
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
    let drive = SimDrive::new(Image::default(), DRIVE_BLOCKS, None);
    run_one(format(&drive, STORE, &SIZES)).unwrap().unwrap();
    drive.image()
}

/// Opens the store on a drive, lets `work` use it while its journal is written, and closes it.
fn with_log<T>(drive: &SimDrive, work: impl AsyncFnOnce(&Log<SimDrive>) -> T) -> Option<T> {
    let (log, _) = run_one(open(drive.clone(), &OPEN))?.unwrap();
    let mut output = None;
    let mut closed = None;
    let mut both: [Pin<Box<dyn Future<Output = ()> + '_>>; 2] = [
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

// ---- What it does -----------------------------------------------------------------------------------------------------

#[test]
fn blobs_of_every_size_are_found_again_after_a_restart() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS, None);
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
    let drive = SimDrive::new(drive.image(), DRIVE_BLOCKS, None);
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
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS, None);
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
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS, None);
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
        assert_eq!(log.stat().slabs_retired, u64::from(full.0));
        assert_eq!((log.stat().blobs, log.stat().live_blocks), (1, 13));
    });
}

#[test]
fn puts_of_one_key_at_the_same_time_make_one_blob() {
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS, None);
    let (log, _) = run_one(open(drive, &OPEN)).unwrap().unwrap();
    let results = std::cell::RefCell::new(Vec::new());
    {
        let put = |seed: u8| {
            let (log, results) = (&log, &results);
            async move {
                let result = log.put(key(1), KeyKind::Name, &bytes(seed, 5000)).await;
                results.borrow_mut().push((seed, result.unwrap()));
            }
        };
        let mut all: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = vec![Box::pin(async {
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
    let empty = SimDrive::new(Image::default(), DRIVE_BLOCKS, None);
    let error = run_one(open(empty, &OPEN)).unwrap().err().unwrap();
    assert_eq!(error, OpenError::NotFormatted);
    let drive = SimDrive::new(formatted(), DRIVE_BLOCKS, None);
    let again = run_one(format(&drive, STORE, &SIZES)).unwrap();
    assert_eq!(again, Err(OpenError::Formatted { store: STORE }));
    let expected = StoreId([1; 16]);
    let options = OpenOptions {
        store: Some(expected),
        ..OPEN
    };
    let error = run_one(open(drive, &options)).unwrap().err().unwrap();
    let found = STORE;
    assert_eq!(error, OpenError::OtherStore { expected, found });
    let mut newer = formatted();
    SimDrive::flip(&mut newer, ExtentName::Label, 8, 2);
    let drive = SimDrive::new(newer, DRIVE_BLOCKS, None);
    let error = run_one(open(drive, &OPEN)).unwrap().err().unwrap();
    let (version, known) = (3, 1);
    assert_eq!(error, OpenError::Newer { version, known });
}

// ---- Crashes ----------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Put(u8, u8),
    Delete(u8),
    Restart,
}

/// What may be asked for: two keys, one of them with a large blob or another's bytes, deletes, a restart.
const OPS: [Op; 6] = [
    Op::Put(1, 1),
    Op::Put(1, 2),
    Op::Put(2, 3),
    Op::Delete(1),
    Op::Delete(2),
    Op::Restart,
];

fn blob(seed: u8) -> Vec<u8> {
    bytes(seed, [1, 3000, 4097, 24_000][seed as usize])
}

type Model = BTreeMap<u8, u8>;

fn apply(model: &mut Model, op: Op) {
    match op {
        Op::Put(name, seed) => {
            model.entry(name).or_insert(seed);
        }
        Op::Delete(name) => {
            model.remove(&name);
        }
        Op::Restart => {}
    }
}

/// Carries the operations out one after the other until the power goes. Gives the model of all that was answered, and of
/// the one that was under way.
fn play(drive: &SimDrive, ops: &[Op]) -> (Model, Option<Op>) {
    let mut answered = Model::new();
    let mut rest = ops;
    loop {
        let until = rest.iter().position(|op| *op == Op::Restart);
        let (now, later) = rest.split_at(until.unwrap_or(rest.len()));
        let done = std::cell::Cell::new(0);
        with_log(drive, async |log| {
            for op in now {
                match *op {
                    Op::Put(name, seed) => {
                        log.put(key(name), KeyKind::Name, &blob(seed))
                            .await
                            .unwrap();
                    }
                    Op::Delete(name) => {
                        log.delete(key(name)).await.unwrap();
                    }
                    Op::Restart => unreachable!("the operations are cut at restarts"),
                }
                done.set(done.get() + 1);
            }
        });
        let done = done.get();
        now[..done].iter().for_each(|op| apply(&mut answered, *op));
        if done < now.len() {
            return (answered, Some(now[done]));
        }
        match later.split_first() {
            Some((_, later)) if !drive.has_crashed() => rest = later,
            _ => return (answered, None),
        }
    }
}

/// What the store on an image holds, read back whole, and the images that other crashes during its opening may leave.
fn contents(image: Image) -> Result<Model, String> {
    let drive = SimDrive::new(image, DRIVE_BLOCKS, None);
    let (log, _) = run_one(open(drive, &OPEN))
        .ok_or("opening does not end")?
        .map_err(|error| error.to_string())?;
    let mut model = Model::new();
    for name in [1, 2] {
        let read = run_one(log.read(&key(name), 0, u64::MAX)).ok_or("reading does not end")?;
        if let Some(found) = read.map_err(|error| error.to_string())? {
            let seed = (1..4).find(|seed| blob(*seed) == found);
            model.insert(name, seed.ok_or("a blob's bytes are nobody's")?);
        }
    }
    if log.stat().blobs != model.len() as u64 {
        return Err("the store holds what nobody put".into());
    }
    Ok(model)
}

struct Explored {
    sequences: u64,
    crashes: u64,
    images: u64,
}

/// Every sequence of up to `longest` operations, the power gone at every call of the drive, every image that may be left.
fn explore(longest: u32, lies: bool) -> Result<Explored, String> {
    let formatted = formatted();
    let mut explored = Explored {
        sequences: 0,
        crashes: 0,
        images: 0,
    };
    let mut seen = HashSet::new();
    for length in 1..=longest {
        for number in 0..OPS.len().pow(length) {
            let ops: Vec<Op> = (0..length)
                .map(|place| OPS[number / OPS.len().pow(place) % OPS.len()])
                .collect();
            explored.sequences += 1;
            for crash_at in 1.. {
                let drive = SimDrive::new(formatted.clone(), DRIVE_BLOCKS, Some(crash_at));
                if lies {
                    drive.lie_about_flushes();
                }
                let (answered, under_way) = play(&drive, &ops);
                if !drive.has_crashed() {
                    break;
                }
                explored.crashes += 1;
                let mut allowed = vec![answered.clone()];
                if let Some(op) = under_way {
                    let mut after = answered;
                    apply(&mut after, op);
                    allowed.push(after);
                }
                for image in drive.images() {
                    explored.images += 1;
                    // The same bytes hold the same; what is allowed is a part of the question.
                    if !seen.insert((digest(&image), allowed.clone())) {
                        continue;
                    }
                    let found = contents(image);
                    if !found.as_ref().is_ok_and(|found| allowed.contains(found)) {
                        return Err(format!(
                            "after {ops:?} with the power gone at call {crash_at}: {found:?}, not one of {allowed:?}"
                        ));
                    }
                }
            }
        }
    }
    Ok(explored)
}

fn digest(image: &Image) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in &image.0 {
        hasher.update(format!("{name}{}", bytes.len()).as_bytes());
        hasher.update(bytes);
    }
    *hasher.finalize().as_bytes()
}

#[test]
fn no_crash_loses_what_was_answered() {
    let explored = explore(3, false).unwrap();
    println!(
        "{} sequences, {} crashes, {} images",
        explored.sequences, explored.crashes, explored.images
    );
}

#[test]
fn a_drive_that_lies_about_flushes_is_found_out() {
    let found = explore(2, true).err();
    assert!(
        found.is_some(),
        "no crash lost anything on a drive that never flushes"
    );
}
