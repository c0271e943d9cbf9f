//! What a drive keeps of its realms' names and kinds: a configuration that contradicts it is refused, one that does not is not.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use oriel_engine::store::*;
use store_sim::api::Shape;
use store_sim::drive::SimDrive;
use store_sim::faults::{Faults, Temper};
use store_sim::image::{Block, Image};
use store_sim::run::{Task, run_all, run_in, run_one, run_one_in};
use store_sim::world::World;

const SHAPE: Shape = Shape {
    drive_blocks: 2048,
    slab_blocks: 64,
    journal_blocks: 16,
    blobs_max: 1000,
};
const ONE: RealmId = RealmId(1);
const TWO: RealmId = RealmId(2);

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

fn formatted() -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    run_one(SHAPE.format(&drive)).unwrap().unwrap();
    drive
}

fn named(id: RealmId, name: &str) -> RealmOptions {
    RealmOptions {
        name: Some(name.into()),
        ..RealmOptions::new(id)
    }
}

fn cached(policy: Policy, options: RealmOptions) -> RealmOptions {
    RealmOptions {
        cache: Some(policy),
        quota_blocks: Some(100),
        ..options
    }
}

fn options(realms: &[RealmOptions]) -> OpenOptions {
    OpenOptions {
        blobs_max: SHAPE.blobs_max,
        realms: realms.to_vec(),
        ..OpenOptions::default()
    }
}

fn try_open(drive: &SimDrive, realms: &[RealmOptions]) -> Result<Log<SimDrive>, OpenError> {
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let opened = run_one(open(drive.clone(), index, &options(realms))).unwrap();
    opened.map(|(log, _)| log)
}

/// Opens the store, lets `work` use it and closes it.
fn live(drive: &SimDrive, realms: &[RealmOptions], work: impl AsyncFnOnce(&Log<SimDrive>)) {
    let log = try_open(drive, realms).unwrap();
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { log.run().await.unwrap() }),
        Box::pin(async {
            work(&log).await;
            log.close();
        }),
    ];
    assert_eq!(run_all(&mut both), [true, true], "somebody waits for ever");
}

async fn put(log: &Log<SimDrive>, realm: RealmId, name: u8) {
    let blob = [name; 9000];
    let put = log.put(realm, key(name), KeyKind::Name, &blob);
    assert_eq!(put.await, Ok(Put::Created));
}

/// It is refused, by the store and by its check, and nothing on the drive is otherwise than before.
fn refuses(drive: &SimDrive, realms: &[RealmOptions]) -> String {
    let before = drive.image().digest();
    let error = try_open(drive, realms).err().unwrap();
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let checked = run_one(check(drive, index, &options(realms))).unwrap();
    assert_eq!(checked.err(), Some(error.clone()));
    assert_eq!(drive.image().digest(), before);
    error.to_string()
}

/// A store with a blob in each of its realms, "models" and the cache "kv".
fn stored() -> SimDrive {
    let drive = formatted();
    live(&drive, &configured(), async |log| {
        put(log, ONE, 1).await;
        put(log, TWO, 2).await;
    });
    drive
}

fn configured() -> [RealmOptions; 2] {
    [named(ONE, "models"), cached(Policy::Lru, named(TWO, "kv"))]
}

fn all_are_there(drive: &SimDrive, realms: &[RealmOptions]) {
    live(drive, realms, async |log| {
        for (realm, name) in [(ONE, 1), (TWO, 2)] {
            let read = log.read(realm, &key(name), 0, u64::MAX).await;
            assert_eq!(read, Ok(Some(vec![name; 9000])));
        }
    });
}

#[test]
fn a_durable_realm_does_not_become_a_cache_by_mistake() {
    let drive = stored();
    let [models, kv] = configured();
    let cache = cached(Policy::S3Fifo, models.clone());
    let said = refuses(&drive, &[cache.clone(), kv.clone()]);
    for word in [
        "realm 1 ('models')",
        "durable",
        "a cache",
        "was_durable = true",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    all_are_there(&drive, &configured());
    // Whoever means it says so, once.
    let meant = RealmOptions {
        was_durable: true,
        ..cache.clone()
    };
    all_are_there(&drive, &[meant, kv.clone()]);
    all_are_there(&drive, &[cache.clone(), kv.clone()]);
    // Nothing is lost by the other way round.
    all_are_there(&drive, &[models, kv.clone()]);
    // And who has no blobs may be anything.
    live(&drive, &configured(), async |log| {
        assert_eq!(log.delete(ONE, key(1)).await, Ok(true));
    });
    live(&drive, &[cache, kv], async |log| put(log, ONE, 3).await);
}

#[test]
fn realms_that_change_their_numbers_are_not_given_each_others_blobs() {
    let drive = stored();
    let [models, kv] = configured();
    let swapped = [
        RealmOptions {
            id: TWO,
            ..models.clone()
        },
        RealmOptions {
            id: ONE,
            ..kv.clone()
        },
    ];
    let said = refuses(&drive, &swapped);
    for word in [
        "realm",
        "'models'",
        "'kv'",
        "the number that it had",
        "was = ",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // One that left, whose number another one gets.
    let said = refuses(&drive, &[named(ONE, "other"), kv.clone()]);
    for word in ["'models'", "'other'", "delete the blobs first"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = refuses(&drive, std::slice::from_ref(&models));
    assert!(
        said.contains("realm 2 ('kv'), which is not configured"),
        "{said}"
    );
    all_are_there(&drive, &configured());
    // The same realm, which is called otherwise.
    let renamed = RealmOptions {
        was: Some("models".into()),
        ..named(ONE, "weights")
    };
    all_are_there(&drive, &[renamed, kv.clone()]);
    all_are_there(&drive, &[named(ONE, "weights"), kv.clone()]);
    let said = refuses(&drive, &[models, kv.clone()]);
    assert!(said.contains("'weights'"), "{said}");
    // Who asks for no name changes none.
    all_are_there(&drive, &[RealmOptions::new(ONE), kv.clone()]);
    refuses(&drive, &[named(ONE, "models"), kv.clone()]);
    // A number whose realm has nothing left.
    live(&drive, &[RealmOptions::new(ONE), kv.clone()], async |log| {
        assert_eq!(log.delete(ONE, key(1)).await, Ok(true));
    });
    live(&drive, &[named(ONE, "other"), kv], async |log| {
        put(log, ONE, 1).await
    });
}

#[test]
fn what_does_no_harm_is_accepted() {
    let drive = stored();
    let [models, kv] = configured();
    for kv in [
        cached(Policy::S3Fifo, kv.clone()),
        RealmOptions {
            quota_blocks: Some(7),
            ..kv.clone()
        },
        RealmOptions {
            verify: false,
            ..kv.clone()
        },
        RealmOptions { cache: None, ..kv },
    ] {
        all_are_there(&drive, &[kv, models.clone(), named(RealmId(3), "more")]);
    }
}

/// A drive of a program that knew nothing of this has zeros in the place.
#[test]
fn a_store_of_an_earlier_program_is_taken_as_it_is_configured() {
    let drive = stored();
    let mut image = drive.image();
    let checkpoints: Vec<ExtentName> = (image.extents())
        .map(|(name, _)| name)
        .filter(|name| matches!(name, ExtentName::Checkpoint(_)))
        .collect();
    for checkpoint in checkpoints {
        let mut block = image.read(checkpoint, 0, 1).unwrap()[0].bytes().to_vec();
        assert_eq!(&block[64..68], b"OR01");
        block[64..].fill(0);
        image.write(checkpoint, 0, &[Block::new(&block)]);
    }
    let drive = SimDrive::new(image, SHAPE.drive_blocks);
    let [models, kv] = configured();
    let other = [
        RealmOptions {
            name: Some("other".into()),
            ..models
        },
        kv,
    ];
    all_are_there(&drive, &other);
    let said = refuses(&drive, &configured());
    assert!(said.contains("'other'"), "{said}");
}

/// More than the block of a checkpoint's header holds.
#[test]
fn many_realms_with_long_names_are_kept() {
    let drive = formatted();
    let name = |id: u16| format!("{id}-{}", "n".repeat(200));
    let mut realms: Vec<RealmOptions> = (1..200).map(|id| named(RealmId(id), &name(id))).collect();
    live(&drive, &realms, async |log| put(log, RealmId(199), 9).await);
    live(&drive, &realms, async |log| {
        let read = log.read(RealmId(199), &key(9), 0, u64::MAX).await;
        assert_eq!(read, Ok(Some(vec![9; 9000])));
    });
    realms[198].name = Some("other".into());
    let said = refuses(&drive, &realms);
    assert!(said.contains(&name(199)), "{said}");
}

/// The power goes while the block of a checkpoint's header is written, of which the drive writes a part.
#[test]
fn a_header_that_is_torn_leaves_the_checkpoint_before_it() {
    let drive = formatted();
    let name = |id: u16| format!("{id}-{}", "n".repeat(20));
    let realms: Vec<RealmOptions> = (1..60).map(|id| named(RealmId(id), &name(id))).collect();
    live(&drive, &realms, async |log| put(log, RealmId(59), 9).await);
    let before = drive.image();
    drop(try_open(&drive, &realms).unwrap());
    let after = drive.image();
    let (newest, blocks) = after
        .extents()
        .filter(|(name, _)| matches!(name, ExtentName::Checkpoint(_)))
        .max()
        .unwrap();
    let mut torn = before.clone();
    assert!(torn.extents().all(|(name, _)| name != newest));
    torn.create(newest, blocks);
    torn.write(newest, 0, after.read(newest, 0, blocks).unwrap());
    let mut header = after.read(newest, 0, 1).unwrap()[0].bytes().to_vec();
    header[512..].fill(0);
    torn.write(newest, 0, &[Block::new(&header)]);
    let drive = SimDrive::new(torn, SHAPE.drive_blocks);
    live(&drive, &realms, async |log| {
        let read = log.read(RealmId(59), &key(9), 0, u64::MAX).await;
        assert_eq!(read, Ok(Some(vec![9; 9000])));
    });
    // With no other one, it says what is wrong.
    let mut image = drive.image();
    let (newest, _) = image
        .extents()
        .filter(|(name, _)| matches!(name, ExtentName::Checkpoint(_)))
        .max()
        .unwrap();
    assert!(image.flip(newest, 700, 1));
    let drive = SimDrive::new(image, SHAPE.drive_blocks);
    let said = refuses(&drive, &realms);
    assert!(said.contains("checkpoint"), "{said}");
}

/// A realm that comes while the store is used: wherever the power goes, there is no blob of it on a drive that does not say
/// whose it is.
#[test]
fn no_blob_is_there_before_its_realm() {
    let (mut refused, mut without) = (0, 0);
    for seed in 0..60 {
        for image in states_while_a_realm_comes(seed) {
            let drive = SimDrive::new(image, SHAPE.drive_blocks);
            match try_open(&drive, &[named(ONE, "models"), named(TWO, "other")]) {
                Ok(log) => {
                    let blobs = log.realm_stat(TWO).unwrap().blobs;
                    assert_eq!(blobs, 0, "seed {seed}");
                    without += 1;
                }
                Err(OpenError::OtherRealm { realm: TWO, .. }) => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }
    println!("{refused} states with the blob, {without} without");
    assert!(refused > 60 && without > 600, "{refused} {without}");
}

/// All that may be on the drive, from when the realm is made known until a blob of it is acknowledged, if the power goes then.
fn states_while_a_realm_comes(seed: u64) -> impl Iterator<Item = Image> {
    let drive = formatted_node();
    let world = World::new(seed);
    let drive = drive.with_temper(Rc::new(Temper {
        world: world.clone(),
        faults: Faults::default(),
        nanos_max: 100_000,
        slow: 100,
        short_until: Cell::new(0),
    }));
    let (one, two) = (named(ONE, "models"), named(TWO, "kv"));
    let node = NodeOptions {
        drive: OpenOptions {
            clock: world.clock(),
            ..options(std::slice::from_ref(&one))
        },
        quiet_blocks: 0,
        sleep: Rc::new(|_| Box::pin(std::future::pending())),
        ..NodeOptions::default()
    };
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let seat = Seat::new(drive.clone(), index, "d");
    let opened = run_one_in(Some(&world), open_node(vec![seat], node));
    let (store, keeper, _) = opened.unwrap().unwrap();
    let images: Rc<RefCell<BTreeMap<u128, Image>>> = Rc::default();
    let working = Cell::new(2);
    let done = || {
        working.set(working.get() - 1);
        if working.get() == 0 {
            store.close();
        }
    };
    let mut tasks: [Task<'_>; 3] = [
        Box::pin(keeper.run()),
        // Somebody else has the journal written meanwhile.
        Box::pin(async {
            for name in 0..10 {
                let put = store.put(ONE, key(name), KeyKind::Name, b"a blob");
                assert_eq!(put.await, Ok(Put::Created));
            }
            done();
        }),
        Box::pin(async {
            let seen = images.clone();
            drive.observe(Box::new(move |_, now| {
                let mut seen = seen.borrow_mut();
                seen.extend(now.into_iter().map(|image| (image.digest(), image)));
            }));
            store.set_realms(&[one.clone(), two.clone()]).await.unwrap();
            let put = store.put(TWO, key(1), KeyKind::Name, b"a blob");
            assert_eq!(put.await, Ok(Put::Created));
            drive.stop_observing();
            done();
        }),
    ];
    let ended = run_in(Some(&world), &mut tasks);
    assert_eq!(ended, [true; 3], "somebody waits for ever");
    drop(tasks);
    images.take().into_values()
}

fn formatted_node() -> SimDrive {
    let drive = SimDrive::new(Image::default(), SHAPE.drive_blocks);
    let index = index_in_memory(SHAPE.blobs_max).unwrap();
    let seat = Seat::new(drive.clone(), index, "d");
    let format = NodeFormat {
        drive: FormatOptions {
            slab_blocks: SHAPE.slab_blocks,
            journal_blocks: SHAPE.journal_blocks,
        },
        ..NodeFormat::default()
    };
    let seats = [seat];
    run_one(format_node(&seats, Shape::STORE, &format))
        .unwrap()
        .unwrap();
    let [seat] = seats;
    seat.release();
    drive
}
