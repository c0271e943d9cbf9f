//! The store on SPDK's devices: in memory, in a file, full, and not ours.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod store_spdk_support;

use std::path::Path;
use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::store::*;
use oriel_spdk::Subsystems;
use oriel_spdk::bdev::OpenError as DeviceError;
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::blob::{Blobstore, InitError, InitOptions, LoadError, NewBlob, StoreType};
use store_spdk_support::*;

async fn memory(sub: &Subsystems, name: &str, bytes: u64) {
    create::malloc(sub, name, bytes / 4096, 4096).await.unwrap();
}

/// Blobs of all kinds of length, stored, found again after a restart, and deleted for good.
async fn blobs_live_and_die(device: &str) {
    formatted(device).await.close().await.unwrap();
    let lengths = [1, 4095, 4096, 4097, 16_384, 16_385, 100_000, 1_000_000];
    let blobs: Vec<_> = (0..).zip(lengths).collect();
    with_log(device, async |log| {
        for &(number, length) in &blobs {
            let bytes = content(number, length);
            assert_eq!(put(log, number, &bytes).await, Ok(Put::Created));
            assert_eq!(put(log, number, b"other").await, Ok(Put::AlreadyThere));
            assert_eq!(get(log, number).await, Ok(Some(bytes)));
        }
    })
    .await;
    with_log(device, async |log| {
        for &(number, length) in &blobs {
            let bytes = content(number, length);
            assert_eq!(get(log, number).await, Ok(Some(bytes)));
        }
        assert_eq!(delete(log, 3).await, Ok(true));
        assert_eq!(delete(log, 3).await, Ok(false));
        assert_eq!(get(log, 3).await, Ok(None));
    })
    .await;
    with_log(device, async |log| {
        for &(number, length) in &blobs {
            let bytes = (number != 3).then(|| content(number, length));
            assert_eq!(get(log, number).await, Ok(bytes));
        }
        for &(number, _) in &blobs {
            assert_eq!(delete(log, number).await, Ok(number != 3));
        }
    })
    .await;
    // Nothing is left of them: label, two journals and one checkpoint are all there is.
    with_log(device, async |log| assert_eq!(log.stat().slabs, 0)).await;
    let drive = SpdkDrive::load(device).await.unwrap();
    let mut names: Vec<_> = drive.extents().await.unwrap();
    names.sort_by_key(|(name, _)| *name);
    let names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    assert!(
        matches!(
            names[..],
            [
                ExtentName::Label,
                ExtentName::Journal(0),
                ExtentName::Journal(1),
                ExtentName::Checkpoint(_)
            ]
        ),
        "{names:?}"
    );
    drive.close().await.unwrap();
}

#[test]
fn blobs_are_found_again_on_drives_of_either_block_size() {
    spdk(
        "blobs_are_found_again_on_drives_of_either_block_size",
        async |sub| {
            create::malloc(&sub, "fine", 64 * MIB / 512, 512)
                .await
                .unwrap();
            blobs_live_and_die("fine").await;
            memory(&sub, "coarse", 64 * MIB).await;
            blobs_live_and_die("coarse").await;
        },
    );
}

#[test]
fn blobs_are_found_again_in_a_file() {
    spdk("blobs_are_found_again_in_a_file", async |sub| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("drive");
        file_of(&path, 64 * MIB);
        create::aio(&sub, "file", &path, 4096).await.unwrap();
        blobs_live_and_die("file").await;
        create::delete(&sub, Kind::Aio, "file").await.unwrap();
        // Another device on the same file, as after a restart of the program.
        create::aio(&sub, "again", &path, 4096).await.unwrap();
        with_log("again", async |log| assert_eq!(log.stat().blobs, 0)).await;
        create::delete(&sub, Kind::Aio, "again").await.unwrap();
    });
}

/// A bit of the first block that has nothing but these bytes is another one from now on.
fn damage(path: &Path, byte: u8) {
    let mut content = std::fs::read(path).unwrap();
    let mut blocks = content.chunks_exact_mut(BLOCK_BYTES);
    let is_its = |block: &&mut [u8]| block.iter().all(|other| *other == byte);
    let block = blocks.find(is_its).expect("the blob is there");
    block[77] ^= 0x10;
    std::fs::write(path, content).unwrap();
}

#[test]
fn what_a_read_finds_damaged_is_looked_at_and_put_into_quarantine() {
    let name = "what_a_read_finds_damaged_is_looked_at_and_put_into_quarantine";
    spdk(name, async |sub| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("drive");
        file_of(&path, 64 * MIB);
        create::aio(&sub, "file", &path, 4096).await.unwrap();
        formatted("file").await.close().await.unwrap();
        // A small one, and one with checksums behind it.
        let blobs = [(1, 2), (2, 30), (3, 2)];
        let content = |number: u64, blocks: usize| vec![0xa0 + number as u8; blocks * BLOCK_BYTES];
        with_log("file", async |log| {
            for (number, blocks) in blobs {
                let bytes = content(number, blocks);
                assert_eq!(put(log, number, &bytes).await, Ok(Put::Created));
            }
        })
        .await;
        create::delete(&sub, Kind::Aio, "file").await.unwrap();
        for number in [1, 2] {
            damage(&path, 0xa0 + number);
        }
        create::aio(&sub, "again", &path, 4096).await.unwrap();
        let clock = Clock::manual();
        let options = OpenOptions {
            clock: clock.clone(),
            background: Background {
                scrub_bytes_per_second: 0,
                ..Background::default()
            },
            ..options()
        };
        let drive = SpdkDrive::load("again").await.unwrap();
        let (log, _) = open_on(&drive, &options).await.unwrap();
        let work = async {
            for number in [1, 2] {
                let mut reads = 0;
                // The first of them says it, and the others until it was looked at.
                while let Err(StoreError::Damaged { .. }) = get(&log, number).await {
                    reads += 1;
                    clock.advance(Duration::from_secs(1));
                }
                let last = get(&log, number).await;
                let is_kept = matches!(last, Err(StoreError::Quarantined { .. }));
                assert!(is_kept && reads > 0, "{reads} {last:?}");
            }
            let metrics = log.metrics();
            let scrub = metrics.scrub;
            assert_eq!((scrub.damaged_blobs, scrub.unreadable), (2, 0));
            assert_eq!(metrics.quarantined_blobs, 2);
            assert_eq!(get(&log, 3).await, Ok(Some(content(3, 2))));
            log.close();
        };
        both(work, log.run()).await.1.unwrap();
        drop(log);
        drive.close().await.unwrap();
        create::delete(&sub, Kind::Aio, "again").await.unwrap();
    });
}

#[test]
fn what_cannot_be_flushed_is_not_used() {
    spdk("what_cannot_be_flushed_is_not_used", async |sub| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().join("drive");
        file_of(&path, 64 * MIB);
        if let Err(error) = create::uring(&sub, "ring", &path, 4096).await {
            eprintln!("skipped: no io_uring device here ({error})");
            return;
        }
        let error = SpdkDrive::format("ring", &SIZES).await.err().unwrap();
        assert!(matches!(error, SpdkDriveError::NoFlush { .. }), "{error}");
        assert!(error.to_string().contains("use another kind"), "{error}");
        create::delete(&sub, Kind::Uring, "ring").await.unwrap();
    });
}

#[test]
fn what_is_not_ours_is_refused_with_a_sentence() {
    spdk("what_is_not_ours_is_refused_with_a_sentence", async |sub| {
        let refused = async |device| SpdkDrive::load(device).await.err().unwrap();
        let error = refused("none").await;
        assert!(
            matches!(error, SpdkDriveError::Open(DeviceError::NotFound { .. })),
            "{error}"
        );
        memory(&sub, "blank", 16 * MIB).await;
        let error = refused("blank").await;
        assert!(
            matches!(error, SpdkDriveError::NotFormatted { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("format it first"), "{error}");

        memory(&sub, "foreign", 16 * MIB).await;
        let options = InitOptions::new(StoreType::new("LVOLSTORE"));
        let foreign = Blobstore::init("foreign", options, |_| {}).await.unwrap();
        let new = NewBlob {
            clusters: 1,
            ..NewBlob::default()
        };
        foreign.create(new).await.unwrap();
        foreign.unload().await.unwrap();
        let error = SpdkDrive::format("foreign", &SIZES).await.err().unwrap();
        for error in [error, refused("foreign").await] {
            assert!(matches!(error, SpdkDriveError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("'LVOLSTORE'"), "{error}");
        }
        // It is as it was.
        let foreign = Blobstore::load("foreign", options.store_type, |_| {}).await;
        let foreign = foreign.unwrap();
        assert_eq!(foreign.blobs().await.unwrap().len(), 1);
        foreign.unload().await.unwrap();

        // Those without the room for two slabs stay as they are.
        for (name, bytes) in [("tiny", 64 << 10), ("small", 2 * MIB)] {
            memory(&sub, name, bytes).await;
            let error = SpdkDrive::format(name, &SIZES).await.err().unwrap();
            assert!(
                matches!(error, SpdkDriveError::Sizes(OpenError::TooSmall { .. })),
                "{error}"
            );
            let error = refused(name).await;
            assert!(
                matches!(error, SpdkDriveError::NotFormatted { .. }),
                "{name} is as it was: {error}"
            );
        }
        create::malloc(&sub, "wide", 1024, 8192).await.unwrap();
        let error = SpdkDrive::format("wide", &SIZES).await.err().unwrap();
        assert!(
            matches!(error, SpdkDriveError::Init(InitError::BadBlockSize { .. })),
            "{error}"
        );
    });
}

#[test]
fn a_drive_of_another_store_or_in_use_is_refused() {
    spdk(
        "a_drive_of_another_store_or_in_use_is_refused",
        async |sub| {
            memory(&sub, "ram", 64 * MIB).await;
            let drive = formatted("ram").await;
            let error = SpdkDrive::load("ram").await.err().unwrap();
            assert!(
                matches!(
                    &error,
                    SpdkDriveError::Open(DeviceError::Claimed { .. })
                        | SpdkDriveError::Load(LoadError::Device(DeviceError::Claimed { .. }))
                ),
                "{error}"
            );
            drive.close().await.unwrap();

            let again = SpdkDrive::format("ram", &SIZES).await.unwrap();
            let error = format(&again, StoreId([1; 16]), &SIZES).await.unwrap_err();
            assert_eq!(error, OpenError::Formatted { store: STORE });
            let other = StoreId([1; 16]);
            let other_options = OpenOptions {
                store: Some(other),
                ..options()
            };
            let error = open_on(&again, &other_options).await.err().unwrap();
            let expected = OpenError::OtherStore {
                expected: other,
                found: STORE,
            };
            assert_eq!(error, expected);
            again.close().await.unwrap();

            // A program that stopped between the two steps of formatting can do both again.
            memory(&sub, "half", 64 * MIB).await;
            let half = SpdkDrive::format("half", &SIZES).await.unwrap();
            half.create(ExtentName::Journal(0), 64).await.unwrap();
            half.close().await.unwrap();
            let drive = SpdkDrive::load("half").await.unwrap();
            let error = open_on(&drive, &options()).await.err().unwrap();
            assert_eq!(error, OpenError::NotFormatted);
            drive.close().await.unwrap();
            blobs_live_and_die("half").await;
        },
    );
}

#[test]
fn a_blob_without_a_name_is_given_back() {
    spdk("a_blob_without_a_name_is_given_back", async |sub| {
        memory(&sub, "ram", 64 * MIB).await;
        let drive = formatted("ram").await;
        let free = drive.free_blocks();
        drive.close().await.unwrap();
        let ours = StoreType::new("ORIEL_LOG");
        let store = Blobstore::load("ram", ours, |_| {}).await.unwrap();
        let new = NewBlob {
            clusters: 10,
            xattrs: &[("other", b"attribute")],
        };
        store.create(new).await.unwrap();
        store.unload().await.unwrap();
        let drive = SpdkDrive::load("ram").await.unwrap();
        assert!(drive.free_blocks() < free);
        assert_eq!(drive.extents().await.unwrap().len(), 4);
        assert_eq!(drive.free_blocks(), free);
        drive.close().await.unwrap();

        // One that a newer version named is not ours to delete.
        let store = Blobstore::load("ram", ours, |_| {}).await.unwrap();
        let new = NewBlob {
            clusters: 1,
            xattrs: &[("oriel.extent", &[9; 17])],
        };
        store.create(new).await.unwrap();
        store.unload().await.unwrap();
        let drive = SpdkDrive::load("ram").await.unwrap();
        let error = drive.extents().await.err().unwrap().to_string();
        assert!(error.contains("use the newer one"), "{error}");
        drive.close().await.unwrap();
    });
}

#[test]
fn a_full_drive_says_so_and_takes_blobs_again_after_deletes() {
    spdk(
        "a_full_drive_says_so_and_takes_blobs_again_after_deletes",
        async |sub| {
            memory(&sub, "ram", 16 * MIB).await;
            formatted("ram").await.close().await.unwrap();
            let stored = with_log("ram", async |log| {
                let mut stored = 0;
                let error = loop {
                    match put(log, stored, &content(stored, 500_000)).await {
                        Ok(_) => stored += 1,
                        Err(error) => break error,
                    }
                };
                assert_eq!(error, StoreError::Full);
                stored
            })
            .await;
            assert!(stored >= 16, "{stored} blobs of half a slab in 16 MiB");
            with_log("ram", async |log| {
                assert_eq!(
                    put(log, 1000, &content(1, 500_000)).await,
                    Err(StoreError::Full)
                );
                for number in 0..stored {
                    assert_eq!(get(log, number).await, Ok(Some(content(number, 500_000))));
                }
                for number in 0..stored - 1 {
                    assert_eq!(delete(log, number).await, Ok(true));
                }
                for number in 2000..2000 + stored - 4 {
                    let bytes = content(number, 500_000);
                    assert_eq!(put(log, number, &bytes).await, Ok(Put::Created), "{number}");
                }
                assert_eq!(
                    get(log, stored - 1).await,
                    Ok(Some(content(stored - 1, 500_000)))
                );
            })
            .await;

            let drive = SpdkDrive::load("ram").await.unwrap();
            let error = drive.create(ExtentName::Slab(9), 4096).await.err().unwrap();
            assert_eq!(error, DriveError::NoRoom { blocks: 4096 });
            drive.close().await.unwrap();
        },
    );
}

#[test]
fn extents_keep_their_place_and_their_size() {
    spdk("extents_keep_their_place_and_their_size", async |sub| {
        memory(&sub, "ram", 64 * MIB).await;
        let drive = SpdkDrive::format("ram", &SIZES).await.unwrap();
        let free = drive.free_blocks();
        let slab = drive.create(ExtentName::Slab(1), 30).await.unwrap();
        assert_eq!(drive.blocks(&slab), 30);
        for (block, bytes) in [(30, 4096), (29, 8192), (u64::MAX, 4096), (0, 100)] {
            let buf = drive.buffer(bytes).unwrap();
            let (_, written) = drive.write(&slab, block, buf).await;
            let error = written.unwrap_err();
            assert!(matches!(error, DriveError::Io { .. }), "{error}");
        }
        let mut buf = drive.buffer(30 * 4096).unwrap();
        assert!(buf.as_ref().iter().all(|&byte| byte == 0));
        buf.as_mut().copy_from_slice(&content(1, 30 * 4096));
        drive.write(&slab, 0, buf).await.1.unwrap();
        // A buffer that was used before is as good as a new one.
        let buf = drive.buffer(30 * 4096).unwrap();
        assert_eq!(buf.as_ref(), vec![0; 30 * 4096]);
        let (buf, read) = drive.read(&slab, 0, buf).await;
        read.unwrap();
        assert_eq!(buf.as_ref(), content(1, 30 * 4096));
        drop(buf);
        drive.close().await.unwrap();

        let drive = SpdkDrive::load("ram").await.unwrap();
        let extents = drive.extents().await.unwrap();
        let [(ExtentName::Slab(1), again)] = &extents[..] else {
            panic!("{} extents", extents.len());
        };
        assert_eq!(drive.blocks(again), 30);
        let (buf, read) = drive.read(again, 29, drive.buffer(4096).unwrap()).await;
        read.unwrap();
        assert_eq!(buf.as_ref(), &content(1, 30 * 4096)[29 * 4096..]);
        // Who holds a deleted extent, or one of a closed drive, is told.
        drive.delete(again.clone()).await.unwrap();
        assert_eq!(drive.free_blocks(), free);
        let (_, read) = drive.read(again, 0, buf).await;
        assert!(matches!(read, Err(DriveError::Failed { .. })));
        assert_eq!(drive.extents().await.unwrap().len(), 0);
        drop(extents);
        drive.close().await.unwrap();
    });
}
