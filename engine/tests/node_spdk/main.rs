//! A store of several of SPDK's devices, on two cores: blobs go to all of them, one is pulled out under load, one fails,
//! one is added and one is emptied.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod pins;
mod visits;

use std::rc::Rc;
use std::time::Duration;

use oriel_engine::reactor::*;
use oriel_engine::store::*;
use oriel_spdk::bdev::IoKind;
use oriel_spdk::bdev::create::{self, Fault, Kind};
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, Subsystems, isolate};

const STORE: StoreId = StoreId([0x5e; 16]);
const REALM: RealmId = RealmId(3);
const MIB: u64 = 1 << 20;
const FORMAT: NodeFormat = NodeFormat {
    drive: FormatOptions {
        slab_blocks: 256,
        journal_blocks: 64,
    },
    slot_blocks: 1 << 20,
};
const BLOBS: u64 = 60;

type Store = NodeStore<SpdkDrive>;

fn options() -> NodeOptions {
    NodeOptions {
        drive: OpenOptions {
            store: Some(STORE),
            blobs_max: 4096,
            realms: vec![RealmOptions::new(REALM)],
            ..OpenOptions::default()
        },
        ..NodeOptions::default()
    }
}

/// Two reactors with SPDK, in a process of its own.
fn on_two_cores<F, Fut>(test: &str, root: F)
where
    F: FnOnce(ReactorHandle, Rc<Subsystems>) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    isolate::run(test, || {
        let env = EnvOptions {
            cores: CoreSet::allowed().first(2),
            ..EnvOptions::default()
        };
        let env = env.start().unwrap();
        let config = ReactorConfig {
            signals: false,
            // The tests share two cores with whatever else runs there.
            held_limit: Duration::from_secs(5),
            backoff: Some(Backoff::small_machine()),
            ..ReactorConfig::default()
        };
        start(&env, config, |reactors| async move {
            attach(SpdkThread::create("main").unwrap());
            for core in reactors.cores().into_iter().skip(1) {
                let there = reactors.spawn(core, "make a thread", || async {
                    attach(SpdkThread::create("other").unwrap());
                });
                there.unwrap().await.unwrap();
            }
            let subsystems = Rc::new(Subsystems::start().await.unwrap());
            root(reactors, subsystems.clone()).await;
            let subsystems = Rc::into_inner(subsystems).expect("the test let go of it");
            subsystems.stop().await;
        })
        .unwrap();
    });
}

/// Formats or loads a device on a core.
async fn seat(reactors: &ReactorHandle, core: usize, name: &'static str) -> Seat<SpdkDrive> {
    let cores = reactors.cores();
    let load = move || async move {
        // One that was formatted before is loaded.
        let drive = SpdkDrive::format(name, &FORMAT.drive).await.unwrap();
        Seat::new(drive, index_in_memory(4096).unwrap(), name)
    };
    let core = cores[core % cores.len()];
    reactors
        .spawn(core, "load a drive", load)
        .unwrap()
        .await
        .unwrap()
}

async fn opened(seats: Vec<Seat<SpdkDrive>>) -> (Store, JoinHandle<()>) {
    opened_with(seats, options()).await
}

async fn opened_with(seats: Vec<Seat<SpdkDrive>>, options: NodeOptions) -> (Store, JoinHandle<()>) {
    let (store, keeper, recovery) = open_node(seats, options).await.unwrap();
    assert_eq!(recovery.lost, []);
    let keeper = spawn_local("keeper", keeper.run()).unwrap();
    (store, keeper)
}

fn key(number: u64) -> Key {
    Key::of_content(&number.to_le_bytes())
}

fn content(number: u64) -> Vec<u8> {
    let length = 1000 + number as usize * 2377 % 90_000;
    (0..length)
        .map(|at| (at as u64 * 7 + number) as u8)
        .collect()
}

async fn put(store: &Store, number: u64) -> Result<Put, NodeError> {
    store
        .put(REALM, key(number), KeyKind::Name, &content(number))
        .await
}

async fn get(store: &Store, number: u64) -> Result<Option<Vec<u8>>, NodeError> {
    store.read(REALM, &key(number), 0, u64::MAX).await
}

async fn memory(sub: &Subsystems, name: &str) {
    create::malloc(sub, name, 32 * MIB / 4096, 4096)
        .await
        .unwrap();
}

#[test]
fn blobs_are_on_all_drives_and_reached_from_all_cores() {
    on_two_cores(
        "blobs_are_on_all_drives_and_reached_from_all_cores",
        |reactors, sub| async move {
            memory(&sub, "a").await;
            memory(&sub, "b").await;
            let seats = vec![seat(&reactors, 0, "a").await, seat(&reactors, 1, "b").await];
            format_node(&seats, STORE, &FORMAT).await.unwrap();
            let (store, keeper) = opened(seats).await;
            for number in 0..BLOBS {
                assert_eq!(put(&store, number).await, Ok(Put::Created));
                assert_eq!(put(&store, number).await, Ok(Put::AlreadyThere));
            }
            // Windows that were reserved before the key was known are on any drive.
            for number in BLOBS..2 * BLOBS {
                let (name, bytes) = (key(number), content(number));
                let length = bytes.len() as u64;
                let reserved = store.reserve_anywhere(REALM, length).await.unwrap();
                let commit = Commit {
                    key: name,
                    kind: KeyKind::Name,
                    position: reserved.position,
                    length,
                    checksum: None,
                };
                let early = store.commit_anywhere(REALM, &commit).await;
                assert!(
                    matches!(
                        &early,
                        Err(NodeError::Drive {
                            source: StoreError::NotWritten { .. },
                            ..
                        })
                    ),
                    "{early:?}"
                );
                let blocks = reserved.blocks as usize * BLOCK_BYTES;
                let mut payload = SpdkDrive::payload(blocks).unwrap();
                payload.as_mut()[..bytes.len()].copy_from_slice(&bytes);
                let written = store.write(REALM, reserved.position, payload).await;
                written.1.unwrap();
                let put = store.commit_anywhere(REALM, &commit).await;
                assert_eq!(put, Ok(Put::Created));
                assert_eq!(get(&store, number).await, Ok(Some(bytes)));
                assert_eq!(store.realm_stat(REALM).await.unwrap().reservations, 0);
                assert_eq!(store.delete(REALM, name).await, Ok(true));
            }
            let stat = store.stat().await;
            assert!(
                stat.drives.iter().all(|drive| drive.log.blobs > 10),
                "{stat:?}"
            );
            assert_eq!(stat.blobs, BLOBS);
            // From the other core, where a drive that was another core's is this one's.
            let there = *reactors.cores().last().unwrap();
            let elsewhere = store.clone();
            let read = reactors.spawn(there, "reads", move || async move {
                for number in 0..BLOBS {
                    assert_eq!(get(&elsewhere, number).await, Ok(Some(content(number))));
                }
                assert_eq!(put(&elsewhere, BLOBS).await, Ok(Put::Created));
            });
            read.unwrap().await.unwrap();
            store.close();
            keeper.await;

            // Once more, and one of the drives is emptied on to a new one.
            memory(&sub, "c").await;
            let seats = vec![seat(&reactors, 1, "a").await, seat(&reactors, 0, "b").await];
            let again = format_node(&seats, STORE, &FORMAT).await;
            assert!(
                matches!(
                    &again,
                    Err(NodeOpenError::Drive {
                        source: OpenError::Formatted { .. },
                        ..
                    })
                ),
                "what is there stays: {again:?}"
            );
            let (store, keeper) = opened(seats).await;
            let format = FORMAT.drive;
            let added = store.add(seat(&reactors, 1, "c").await, &format).await;
            assert_eq!(added, Ok(DriveNumber(2)));
            store.drain(DriveNumber(0)).await.unwrap();
            loop {
                let stat = store.stat().await;
                if stat.drives.len() == 2 && !stat.drives.iter().any(|drive| drive.is_filling) {
                    assert_eq!(stat.blobs, BLOBS + 1);
                    break;
                }
                assert_eq!(get(&store, 7).await, Ok(Some(content(7))));
                sleep(Duration::from_millis(1)).await;
            }
            let departed = store.departed().await;
            assert_eq!(departed.drive.to_string(), "drive 0 ('a')");
            assert!(departed.is_emptied);
            // Nobody has it any more, so it can be taken out.
            create::delete(&sub, Kind::Malloc, "a").await.unwrap();
            memory(&sub, "a").await;
            for number in 0..=BLOBS {
                assert_eq!(get(&store, number).await, Ok(Some(content(number))));
            }
            store.close();
            keeper.await;
            // It is nobody's any more.
            let seats = vec![seat(&reactors, 0, "a").await];
            let error = open_node(seats, options()).await.err().unwrap();
            assert_eq!(error, NodeOpenError::NoDrives);
            for name in ["a", "b", "c"] {
                create::delete(&sub, Kind::Malloc, name).await.unwrap();
            }
        },
    );
}

#[test]
fn a_drive_that_is_pulled_out_or_fails_takes_its_own_blobs_only() {
    on_two_cores(
        "a_drive_that_is_pulled_out_or_fails_takes_its_own_blobs_only",
        |reactors, sub| async move {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = directory.path().join("drive");
            std::fs::File::create(&path)
                .unwrap()
                .set_len(64 * MIB)
                .unwrap();
            create::aio(&sub, "file", &path, 4096).await.unwrap();
            assert_eq!(create::error(&sub, "file").await.unwrap(), "EE_file");
            memory(&sub, "a").await;
            memory(&sub, "b").await;
            let seats = vec![
                seat(&reactors, 0, "a").await,
                seat(&reactors, 1, "b").await,
                seat(&reactors, 1, "EE_file").await,
            ];
            format_node(&seats, STORE, &FORMAT).await.unwrap();
            let (store, keeper) = opened(seats).await;
            let mut of_b = Vec::new();
            for number in 0..BLOBS {
                put(&store, number).await.unwrap();
                let place = store.locate(REALM, &key(number)).await.unwrap().unwrap();
                if store.drive_of(place.position) == Some(DriveNumber(1)) {
                    of_b.push(number);
                }
            }
            assert!(of_b.len() > 5);
            // Under load from this core, which goes on.
            let load = store.clone();
            let load = spawn_local("load", async move {
                let mut created = Vec::new();
                for number in 1000..1200 {
                    let put = put(&load, number).await;
                    if put == Ok(Put::Created) {
                        created.push(number);
                    }
                }
                created
            });
            create::delete(&sub, Kind::Malloc, "b").await.unwrap();
            let created = load.unwrap().await;
            assert!(created.len() > 100, "{}", created.len());
            while store.stat().await.drives[1].loss.is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            for number in 0..BLOBS {
                match (of_b.contains(&number), get(&store, number).await) {
                    (false, read) => assert_eq!(read, Ok(Some(content(number)))),
                    (true, Err(error @ NodeError::Lost { .. })) => {
                        assert!(error.to_string().contains("drive 1 ('b')"), "{error}");
                    }
                    (true, read) => panic!("{:?}", read.map(|read| read.map(|bytes| bytes.len()))),
                }
            }
            // What is put again goes elsewhere.
            assert_eq!(put(&store, of_b[0]).await, Ok(Put::Created));
            assert_eq!(get(&store, of_b[0]).await, Ok(Some(content(of_b[0]))));

            create::inject(&sub, "EE_file", IoKind::Flush, Fault::Fail, 1)
                .await
                .unwrap();
            for number in 2000..2050 {
                assert_eq!(put(&store, number).await, Ok(Put::Created), "{number}");
            }
            let stat = store.stat().await;
            assert!(stat.drives[2].loss.is_some(), "{stat:?}");
            for number in 2000..2050 {
                assert_eq!(get(&store, number).await, Ok(Some(content(number))));
            }
            store.close();
            keeper.await;
            create::delete(&sub, Kind::Malloc, "a").await.unwrap();
            create::delete(&sub, Kind::Error, "EE_file").await.unwrap();
            create::delete(&sub, Kind::Aio, "file").await.unwrap();
        },
    );
}

/// A blob that no slab holds lies on both drives, in parts of 256 KiB.
#[test]
fn a_blob_of_several_slabs_is_on_all_drives() {
    on_two_cores(
        "a_blob_of_several_slabs_is_on_all_drives",
        |reactors, sub| async move {
            memory(&sub, "a").await;
            memory(&sub, "b").await;
            let seats = vec![seat(&reactors, 0, "a").await, seat(&reactors, 1, "b").await];
            format_node(&seats, STORE, &FORMAT).await.unwrap();
            let (store, keeper) = opened(seats).await;
            let bytes: Vec<u8> = (0..5 * MIB + 4321)
                .map(|at| (at / 3 + at * 7) as u8)
                .collect();
            let (length, large) = (bytes.len() as u64, Key::of_content(&bytes));
            let kind = KeyKind::Content;

            let other = store.put_large(REALM, key(1), kind).unwrap();
            other.abandon().await;
            let mut other = store.put_large(REALM, key(1), kind).unwrap();
            other.write(&bytes[..3 * MIB as usize]).await.unwrap();
            let refused = other.commit().await;
            assert!(
                matches!(&refused, Err(NodeError::OtherContent { key: of, .. }) if *of == key(1)),
                "{refused:?}"
            );
            assert_eq!(store.stat().await.blobs, 0, "its parts went with it");

            let mut stream = store.put_large(REALM, large, kind).unwrap();
            for piece in bytes.chunks(300_000) {
                stream.write(piece).await.unwrap();
            }
            assert_eq!(get_of(&store, &large).await, Ok(None), "not committed yet");
            assert_eq!(stream.commit().await, Ok(Put::Created));
            let again = store.put(REALM, large, kind, &bytes).await;
            assert_eq!(again, Ok(Put::AlreadyThere));
            assert_eq!(store.stat().await.blobs, 22, "21 parts and the manifest");
            store.close();
            keeper.await;

            let seats = vec![seat(&reactors, 1, "a").await, seat(&reactors, 0, "b").await];
            let (store, keeper) = opened(seats).await;
            let manifest = store.manifest(REALM, &large).await.unwrap().unwrap();
            assert_eq!((manifest.length, manifest.parts()), (length, 21));
            let mut on = [0; 2];
            for part in manifest.part_keys() {
                let place = store.locate(REALM, &part).await.unwrap().unwrap();
                assert_eq!(place.form, Form::Part);
                on[usize::from(store.drive_of(place.position).unwrap().0)] += 1;
                assert_eq!(store.delete(REALM, part).await, Ok(false), "no blob");
            }
            assert!(on.iter().all(|parts| *parts > 2), "{on:?}");
            let page = store.list(REALM, Position(0), 100).await.unwrap();
            let listed = page
                .blobs
                .iter()
                .map(|blob| (blob.key, blob.location.length));
            assert_eq!(listed.collect::<Vec<_>>(), [(large, length)]);

            assert_eq!(get_of(&store, &large).await, Ok(Some(bytes.clone())));
            // Within a part, over the ends of some, and behind the end.
            for (offset, count) in [
                (4096, 1),
                (200_704, 3),
                (MIB, 64),
                (5 * MIB, 2),
                (6 * MIB, 2),
            ] {
                let payload = SpdkDrive::payload(count * 65_536).unwrap();
                let (payload, read) = store.read_into(REALM, &large, offset, payload).await;
                let end = (offset + count as u64 * 65_536).min(length);
                let wanted = bytes.get(offset as usize..end as usize).unwrap_or_default();
                assert_eq!(read, Ok(Some(wanted.len() as u64)));
                assert_eq!(&payload.unwrap().as_ref()[..wanted.len()], wanted);
            }
            assert_eq!(store.delete(REALM, large).await, Ok(true));
            assert_eq!(store.delete(REALM, large).await, Ok(false));
            assert_eq!(store.stat().await.blobs, 0);
            store.close();
            keeper.await;
            for name in ["a", "b"] {
                create::delete(&sub, Kind::Malloc, name).await.unwrap();
            }
        },
    );
}

async fn get_of(store: &Store, key: &Key) -> Result<Option<Vec<u8>>, NodeError> {
    store.read(REALM, key, 0, u64::MAX).await
}

/// What is under way in the realms that there are does not notice.
#[test]
fn realms_come_and_change_while_the_store_is_used() {
    on_two_cores(
        "realms_come_and_change_while_the_store_is_used",
        |reactors, sub| async move {
            for name in ["a", "b", "c"] {
                memory(&sub, name).await;
            }
            let seats = vec![seat(&reactors, 0, "a").await, seat(&reactors, 1, "b").await];
            format_node(&seats, STORE, &FORMAT).await.unwrap();
            let (store, keeper) = opened(seats).await;
            let load = store.clone();
            let load = spawn_local("load", async move {
                for number in 0..BLOBS {
                    assert_eq!(put(&load, number).await, Ok(Put::Created));
                }
            });
            let new = RealmId(9);
            let (of_new, bytes) = (key(7), content(7));
            let kind = KeyKind::Name;
            let early = store.put(new, of_new, kind, &bytes).await;
            assert!(
                matches!(
                    &early,
                    Err(NodeError::Drive {
                        source: StoreError::UnknownRealm { .. },
                        ..
                    })
                ),
                "{early:?}"
            );
            let known = RealmOptions::new(REALM);
            let wanted = RealmOptions {
                quota_blocks: Some(2),
                ..RealmOptions::new(new)
            };
            let cache = RealmOptions {
                cache: Some(Policy::Lru),
                ..known.clone()
            };
            assert_eq!(
                store.set_realms(&[cache, wanted.clone()]).await,
                Err(ChangeError::CacheOfRealm { realm: REALM })
            );
            let named = RealmOptions {
                name: Some("other".into()),
                ..known.clone()
            };
            assert_eq!(
                store.set_realms(&[named, wanted.clone()]).await,
                Err(ChangeError::NameOfRealm { realm: REALM })
            );
            assert_eq!(
                store.set_realms(std::slice::from_ref(&wanted)).await,
                Err(ChangeError::RealmLeftOut { realm: REALM })
            );
            assert_eq!(store.realm_stat(new).await, None, "nothing was changed");
            let both = [known.clone(), wanted.clone()];
            store.set_realms(&both).await.unwrap();
            assert_eq!(*store.realms(), both);
            let refused = store.put(new, of_new, kind, &bytes).await;
            assert!(
                matches!(
                    &refused,
                    Err(NodeError::Drive {
                        source: StoreError::OverQuota { .. },
                        ..
                    })
                ),
                "{refused:?}"
            );
            let wanted = RealmOptions {
                quota_blocks: None,
                ..wanted
            };
            store.set_realms(&[known, wanted]).await.unwrap();
            for number in 0..BLOBS {
                let put = store.put(new, key(number), kind, &content(number)).await;
                assert_eq!(put, Ok(Put::Created), "{number}");
            }
            load.unwrap().await;
            let metrics = store.metrics().await;
            let ids: Vec<_> = metrics.realms().iter().map(|realm| realm.id).collect();
            assert_eq!(ids, [Some(REALM), Some(new), None]);
            assert_eq!(metrics.realms()[1].blobs, BLOBS);

            // A drive that comes later knows it as well.
            let format = FORMAT.drive;
            let added = store.add(seat(&reactors, 1, "c").await, &format).await;
            assert_eq!(added, Ok(DriveNumber(2)));
            store.drain(DriveNumber(0)).await.unwrap();
            assert!(store.departed().await.is_emptied);
            for number in 0..BLOBS {
                for realm in [REALM, new] {
                    let read = store.read(realm, &key(number), 0, u64::MAX).await;
                    assert_eq!(read, Ok(Some(content(number))));
                }
            }
            store.close();
            keeper.await;
            for name in ["a", "b", "c"] {
                create::delete(&sub, Kind::Malloc, name).await.unwrap();
            }
        },
    );
}
