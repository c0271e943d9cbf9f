//! Taking over the index that the last run left: only when it is the right one, and else making it anew.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::cell::Cell;
use std::sync::atomic::Ordering;

use oriel_dht::region::{History, Section};
use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::run::{Task, run_all, run_one};

const SHAPE: Shape = Shape {
    drive_blocks: 4096,
    slab_blocks: 256,
    journal_blocks: 16,
    blobs_max: 5000,
};
const REALM: RealmId = RealmId(7);

fn key(name: u32) -> Key {
    Key::of_content(&name.to_le_bytes())
}

fn bytes(name: u32) -> Vec<u8> {
    (0..100 + name % 5000).map(|i| (i ^ name) as u8).collect()
}

fn formatted(store: StoreId) -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    let options = FormatOptions {
        slab_blocks: SHAPE.slab_blocks,
        journal_blocks: SHAPE.journal_blocks,
    };
    let made = run_one(oriel_engine::store::format(&drive, store, &options));
    made.unwrap().unwrap();
    drive
}

fn options() -> OpenOptions {
    OpenOptions {
        blobs_max: SHAPE.blobs_max,
        realms: vec![RealmOptions::new(REALM)],
        keeps_index: true,
        ..OpenOptions::default()
    }
}

fn memory() -> Section {
    index_in_memory(SHAPE.blobs_max).unwrap()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it should be.
    Kept,
    /// Killed: neither the log nor the index was closed.
    Killed,
}

/// Opens the store, uses it and ends that; whether the index was taken over.
fn life(
    drive: &SimDrive,
    index: &Section,
    options: &OpenOptions,
    end: End,
    work: impl AsyncFnOnce(&Log<SimDrive>),
) -> bool {
    let opened = run_one(open(drive.clone(), index.clone(), options));
    let (log, recovery) = opened.unwrap().unwrap();
    let done = Cell::new(false);
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { log.run().await.unwrap() }),
        Box::pin(async {
            work(&log).await;
            done.set(true);
            if end == End::Kept {
                log.close();
            }
        }),
    ];
    let ended = run_all(&mut both);
    drop(both);
    assert!(done.get(), "somebody waits for ever");
    if end == End::Kept {
        assert_eq!(ended, [true, true]);
        log.keep_index().unwrap();
    }
    recovery.is_adopted
}

async fn fill(log: &Log<SimDrive>, names: std::ops::Range<u32>) {
    for name in names {
        let bytes = bytes(name);
        let put = log.put(REALM, key(name), KeyKind::Name, &bytes);
        assert_eq!(put.await, Ok(Put::Created), "{name}");
    }
}

async fn expect(log: &Log<SimDrive>, there: std::ops::Range<u32>, all: u32) {
    for name in 0..all {
        let wanted = there.contains(&name).then(|| bytes(name));
        let read = log.read(REALM, &key(name), 0, u64::MAX).await;
        assert_eq!(read, Ok(wanted), "{name}");
    }
    assert_eq!(log.stat().blobs, there.len() as u64);
}

fn clean(index: &Section) -> Section {
    index.clone().handed_on(History::Clean)
}

fn unclean(index: &Section) -> Section {
    index.clone().handed_on(History::Unclean)
}

/// A store of 300 blobs, of which 20 are deleted, stopped as it should be.
fn stopped() -> (SimDrive, Section) {
    let (drive, index) = (formatted(Shape::STORE), memory());
    let adopted = life(&drive, &index, &options(), End::Kept, async |log| {
        fill(log, 0..300).await;
        for name in 0..20 {
            assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
        }
    });
    assert!(!adopted);
    (drive, index)
}

/// What a slab's last checkpoint does not say is read from its directory: where windows end that have a gap behind them, also
/// those of blobs that were deleted. Blobs may come and go meanwhile.
#[test]
fn windows_are_read_by_their_positions_after_the_index_was_taken_over() {
    let (drive, index) = (formatted(Shape::STORE), memory());
    let mut windows = Vec::new();
    let mut gaps = Vec::new();
    life(&drive, &index, &options(), End::Kept, async |log| {
        for name in 0..300 {
            fill(log, name..name + 1).await;
            windows.push((name, log.locate(REALM, &key(name)).unwrap().position));
            if name % 3 == 0 {
                let gap = log.reserve(REALM, 100).await.unwrap().position;
                assert!(log.abandon(REALM, gap));
                gaps.push(gap);
            }
        }
        assert_eq!(log.delete(REALM, key(7)).await, Ok(true));
    });
    let index = clean(&index);
    let adopted = life(&drive, &index, &options(), End::Kept, async |log| {
        let look = async {
            for (name, at) in &windows {
                let wanted = bytes(*name);
                let blocks = wanted.len().div_ceil(BLOCK_BYTES);
                let buf = vec![0; blocks * BLOCK_BYTES];
                let (buf, read) = log.read_position(REALM, *at, buf).await;
                assert_eq!(read, Ok(()), "{name}");
                assert!(buf[..wanted.len()] == wanted[..], "{name}");
            }
            for gap in &gaps {
                let (_, read) = log.read_position(REALM, *gap, vec![0; BLOCK_BYTES]).await;
                assert!(matches!(read, Err(StoreError::NoWindow { .. })), "{gap}");
            }
        };
        let mut both: Vec<Task<'_>> = vec![
            Box::pin(look),
            Box::pin(async {
                fill(log, 300..400).await;
                for name in 20..60 {
                    assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
                }
            }),
        ];
        std::future::poll_fn(|cx| {
            both.retain_mut(|task| task.as_mut().poll(cx).is_pending());
            match both.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    });
    assert!(adopted);
}

#[test]
fn after_a_stop_the_index_is_taken_over_and_goes_on_being_right() {
    let (drive, mut index) = stopped();
    for round in 0..3 {
        index = clean(&index);
        let (first, last) = (20 + round * 10, 300 + round * 50);
        let adopted = life(&drive, &index, &options(), End::Kept, async |log| {
            expect(log, first..last, last).await;
            fill(log, last..last + 50).await;
            for name in first..first + 10 {
                assert_eq!(log.delete(REALM, key(name)).await, Ok(true));
            }
            expect(log, first + 10..last + 50, last + 50).await;
            let page = log.list(REALM, Position(0), 10_000).await.unwrap();
            assert_eq!(page.blobs.len() as u32, last + 50 - first - 10);
        });
        assert!(adopted, "{round}");
    }
    let report = run_one(check(&drive, memory(), &options())).unwrap();
    let report = report.unwrap();
    assert_eq!((report.blobs, report.problems), (400, Vec::new()));
}

#[test]
fn after_a_crash_it_is_made_anew() {
    let (drive, index) = stopped();
    // Killed right after it was taken over, and after changes.
    let index = clean(&index);
    assert!(life(&drive, &index, &options(), End::Killed, async |_| {}));
    let index = unclean(&index);
    let adopted = life(&drive, &index, &options(), End::Killed, async |log| {
        expect(log, 20..300, 300).await;
        fill(log, 300..310).await;
    });
    assert!(!adopted);
    // Whoever keeps the memory may not know of the crash: the store does.
    let index = clean(&index);
    let adopted = life(&drive, &index, &options(), End::Kept, async |log| {
        expect(log, 20..310, 310).await;
    });
    assert!(!adopted);
    assert!(life(
        &drive,
        &clean(&index),
        &options(),
        End::Kept,
        async |log| {
            expect(log, 20..310, 310).await;
        }
    ));
}

#[test]
fn an_index_of_another_store_or_an_older_one_is_made_anew() {
    let (drive, index) = stopped();
    let saved: Vec<u64> = {
        let words = index.words().iter();
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    };
    // The same blobs, the same epochs, and another tag.
    let (twin, twins) = stopped();
    let adopted = life(&drive, &clean(&twins), &options(), End::Kept, async |log| {
        expect(log, 20..300, 300).await;
    });
    assert!(!adopted, "the index of a twin");
    let other = formatted(StoreId([9; 16]));
    let adopted = life(&other, &clean(&index), &options(), End::Kept, async |log| {
        expect(log, 0..0, 300).await;
    });
    assert!(!adopted, "the index of another store");
    // That of an earlier stop, as out of a copy.
    let index = memory();
    let adopted = life(&twin, &index, &options(), End::Kept, async |log| {
        fill(log, 300..301).await;
    });
    assert!(!adopted);
    for (word, saved) in index.words().iter().zip(saved) {
        word.store(saved, Ordering::Relaxed);
    }
    let adopted = life(&twin, &clean(&index), &options(), End::Kept, async |log| {
        expect(log, 20..301, 301).await;
    });
    assert!(!adopted, "an older index");
    // Nothing at all.
    let adopted = life(&twin, &memory(), &options(), End::Kept, async |log| {
        expect(log, 20..301, 301).await;
    });
    assert!(!adopted, "no index");
}

#[test]
fn an_index_that_was_not_kept_is_made_anew() {
    let (drive, index) = (formatted(Shape::STORE), memory());
    let forgetful = OpenOptions {
        keeps_index: false,
        ..options()
    };
    let opened = run_one(open(drive.clone(), index.clone(), &forgetful));
    let (log, _) = opened.unwrap().unwrap();
    let mut tasks: [Task<'_>; 2] = [
        Box::pin(async { log.run().await.unwrap() }),
        Box::pin(async {
            fill(&log, 0..10).await;
            log.close();
        }),
    ];
    assert_eq!(run_all(&mut tasks), [true, true]);
    drop(tasks);
    assert!(matches!(log.keep_index(), Err(KeepError::NotEnded)));
    let adopted = life(&drive, &clean(&index), &options(), End::Kept, async |log| {
        expect(log, 0..10, 10).await;
    });
    assert!(!adopted);
}

/// Whatever word of it is wrong: either the index is not taken over, or nothing wrong is ever said because of it.
#[test]
fn a_torn_index_leads_to_no_wrong_answer() {
    let (drive, index) = stopped();
    let image = drive.image();
    let words: Vec<u64> = {
        let words = index.words().iter();
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    };
    let used: Vec<usize> = (0..words.len()).filter(|at| words[*at] != 0).collect();
    let (mut remade, mut noticed, mut harmless) = (0, 0, 0);
    for (turn, &at) in used.iter().enumerate() {
        let drive = SimDrive::new(image.clone(), SHAPE.drive_blocks);
        for (word, saved) in index.words().iter().zip(&words) {
            word.store(*saved, Ordering::Relaxed);
        }
        // A bit, a word, or the line, as if it had never been written.
        let line = at / 8 * 8;
        match turn % 3 {
            0 => drop(index.words()[at].fetch_xor(1 << (turn % 64), Ordering::Relaxed)),
            1 => index.words()[at].store(0, Ordering::Relaxed),
            _ => (line..line + 8).for_each(|at| index.words()[at].store(0, Ordering::Relaxed)),
        }
        let opened = run_one(open(drive.clone(), clean(&index), &options()));
        let (log, recovery) = opened.unwrap().unwrap();
        let wrong = Cell::new(0);
        let mut tasks: [Task<'_>; 2] = [
            Box::pin(async { drop(log.run().await) }),
            Box::pin(async {
                for name in 0..300 {
                    let wanted = (name >= 20).then(|| bytes(name));
                    match log.read(REALM, &key(name), 0, u64::MAX).await {
                        Ok(read) => assert_eq!(read, wanted, "word {at}: {name}"),
                        Err(StoreError::IndexDamaged) => wrong.set(wrong.get() + 1),
                        Err(error) => panic!("word {at}: {name}: {error}"),
                    }
                }
                let put = log.put(REALM, key(150), KeyKind::Name, b"another").await;
                match put {
                    Ok(Put::AlreadyThere) => {}
                    Err(StoreError::IndexDamaged) => wrong.set(wrong.get() + 1),
                    other => panic!("word {at}: {other:?}"),
                }
                log.close();
            }),
        ];
        run_all(&mut tasks);
        drop(tasks);
        match (recovery.is_adopted, wrong.get()) {
            (false, 0) => remade += 1,
            (true, 0) => harmless += 1,
            (true, _) => {
                noticed += 1;
                assert!(
                    log.keep_index().is_err(),
                    "word {at}: a damaged index was kept"
                );
                // The next start is as if nothing had been.
                let adopted = life(
                    &drive,
                    &unclean(&index),
                    &options(),
                    End::Kept,
                    async |log| {
                        expect(log, 20..300, 300).await;
                    },
                );
                assert!(!adopted);
            }
            (false, errors) => panic!("word {at}: {errors} errors without an index of the past"),
        }
    }
    println!("{remade} made anew, {noticed} noticed, {harmless} harmless");
    assert!(remade > 5 && noticed > 100, "{remade} {noticed} {harmless}");
}

#[test]
fn other_realms_and_other_limits_are_met_by_the_same_index_or_a_new_one() {
    let (drive, index) = stopped();
    // A realm more is nothing to the index; one that becomes a cache is read from its directories.
    let more = OpenOptions {
        realms: vec![RealmOptions::new(REALM), RealmOptions::new(RealmId(8))],
        ..options()
    };
    let index = clean(&index);
    assert!(life(&drive, &index, &more, End::Kept, async |log| {
        expect(log, 20..300, 300).await;
        assert_eq!(log.read(RealmId(8), &key(30), 0, 1).await, Ok(None));
    }));
    let cache = OpenOptions {
        realms: vec![RealmOptions {
            cache: Some(Policy::Lru),
            quota_blocks: Some(350),
            was_durable: true,
            ..RealmOptions::new(REALM)
        }],
        ..options()
    };
    let index = clean(&index);
    assert!(life(&drive, &index, &cache, End::Kept, async |log| {
        expect(log, 20..300, 300).await;
        let before = log.realm_stat(REALM).unwrap().used_blocks;
        assert!(before <= 350, "{before}");
        fill(log, 300..400).await;
        assert!(log.realm_stat(REALM).unwrap().used_blocks <= 350);
        // The oldest went first.
        assert_eq!(log.probe(REALM, &[key(20), key(399)]), 0b10);
    }));
    let index = clean(&index);
    let none = OpenOptions {
        realms: Vec::new(),
        ..options()
    };
    let refused = run_one(open(drive.clone(), index.clone(), &none)).unwrap();
    assert!(matches!(
        refused.err(),
        Some(OpenError::UnknownRealm { realm: REALM, .. })
    ));
    // For fewer blobs than the index was made for, it is made anew.
    let fewer = OpenOptions {
        blobs_max: 4000,
        ..options()
    };
    assert!(!life(
        &drive,
        &clean(&index),
        &fewer,
        End::Kept,
        async |log| {
            assert_eq!(log.probe(REALM, &[key(399)]), 1);
        }
    ));
}

/// A drive without room for the tables of slabs: the directories are read, the index is taken over all the same.
#[test]
fn a_full_drive_keeps_its_index() {
    let (drive, index) = (formatted(Shape::STORE), memory());
    let mut stored = 0;
    life(&drive, &index, &options(), End::Kept, async |log| {
        loop {
            let bytes = bytes(stored);
            let put = log.put(REALM, key(stored), KeyKind::Name, &bytes);
            match put.await {
                Ok(Put::Created) => stored += 1,
                other => return assert_eq!(other, Err(StoreError::Full)),
            }
        }
    });
    assert!(stored > 500, "{stored}");
    assert!(life(
        &drive,
        &clean(&index),
        &options(),
        End::Kept,
        async |log| {
            expect(log, 0..stored, stored + 10).await;
        }
    ));
}
