//! The store on devices that fail, and that are pulled out: nothing that was acknowledged is lost.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod store_spdk_support;

use oriel_engine::store::*;
use oriel_spdk::bdev::IoKind;
use oriel_spdk::bdev::create::{self, Fault, Kind};
use oriel_spdk::{DmaBuf, Subsystems};
use store_spdk_support::*;

/// A store over an error-injecting device, on which the next requests of a kind fail: `break_it` meets the errors. Whether
/// the log took changes until it was closed. Afterwards blob 1 is there, and the store works on.
async fn after_errors(
    sub: &Subsystems,
    (broken, errors): (IoKind, u32),
    break_it: impl AsyncFnOnce(&SpdkLog),
) -> Result<(), StoreError> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("drive");
    file_of(&path, 64 * MIB);
    // Not over memory: the error device takes its base's word that it can write zeroes, and then cannot pass them on.
    let base = "file";
    create::aio(sub, base, &path, 4096).await.unwrap();
    let device = create::error(sub, base).await.unwrap();
    let drive = formatted(&device).await;
    let (_, closed) = with_log_on(&drive, async |log| {
        put(log, 1, &content(1, 100_000)).await.unwrap();
        put(log, 2, &content(2, 10)).await.unwrap();
        create::inject(sub, &device, broken, Fault::Fail, errors)
            .await
            .unwrap();
        break_it(log).await;
    })
    .await;
    drive.close().await.unwrap();
    create::delete(sub, Kind::Error, &device).await.unwrap();
    with_log(base, async |log| {
        assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
        let second = get(log, 2).await.unwrap();
        // Its deletion may have been asked for and not been answered.
        assert!(second.is_none() || second == Some(content(2, 10)));
        assert_eq!(put(log, 4, &content(4, 70_000)).await, Ok(Put::Created));
        assert_eq!(get(log, 4).await, Ok(Some(content(4, 70_000))));
    })
    .await;
    create::delete(sub, Kind::Aio, base).await.unwrap();
    closed
}

#[test]
fn a_write_that_fails_once_is_tried_again_and_nobody_notices() {
    spdk(
        "a_write_that_fails_once_is_tried_again_and_nobody_notices",
        async |sub| {
            let closed = after_errors(&sub, (IoKind::Write, 1), async |log| {
                assert_eq!(put(log, 3, &content(3, 5000)).await, Ok(Put::Created));
                assert_eq!(get(log, 3).await, Ok(Some(content(3, 5000))));
                assert_eq!(log.metrics().failed_writes, 1);
            })
            .await;
            assert_eq!(closed, Ok(()));
        },
    );
}

#[test]
fn a_drive_that_does_not_take_a_blob_twice_stops_changes_and_not_reads() {
    spdk(
        "a_drive_that_does_not_take_a_blob_twice_stops_changes_and_not_reads",
        async |sub| {
            let closed = after_errors(&sub, (IoKind::Write, 2), async |log| {
                let error = put(log, 3, &content(3, 5000)).await.unwrap_err();
                assert!(
                    matches!(
                        &error,
                        StoreError::Drive(DriveError::Io {
                            extent: ExtentName::Slab(_),
                            ..
                        })
                    ),
                    "{error}"
                );
                assert_eq!(get(log, 3).await, Ok(None));
                let next = put(log, 3, &content(3, 5000)).await;
                assert!(matches!(next, Err(StoreError::Stopped { .. })), "{next:?}");
                assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
                assert_eq!(log.metrics().failed_writes, 2);
            })
            .await;
            assert!(matches!(closed, Err(StoreError::Stopped { .. })));
        },
    );
}

#[test]
fn a_failed_write_of_the_journal_stops_changes_and_not_reads() {
    spdk(
        "a_failed_write_of_the_journal_stops_changes_and_not_reads",
        async |sub| {
            let closed = after_errors(&sub, (IoKind::Write, 2), async |log| {
                // A delete writes nothing but the journal.
                let error = delete(log, 2).await.unwrap_err();
                assert!(
                    matches!(
                        &error,
                        StoreError::Stopped {
                            reason: DriveError::Io {
                                extent: ExtentName::Journal(_),
                                ..
                            }
                        }
                    ),
                    "{error}"
                );
                let next = put(log, 3, b"3").await;
                assert!(matches!(next, Err(StoreError::Stopped { .. })), "{next:?}");
                assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
            })
            .await;
            assert!(matches!(closed, Err(StoreError::Stopped { .. })));
        },
    );
}

#[test]
fn a_failed_flush_acknowledges_nothing() {
    spdk("a_failed_flush_acknowledges_nothing", async |sub| {
        let closed = after_errors(&sub, (IoKind::Flush, 1), async |log| {
            let error = put(log, 3, &content(3, 5000)).await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    StoreError::Stopped {
                        reason: DriveError::Failed { .. }
                    }
                ),
                "{error}"
            );
            assert_eq!(get(log, 3).await, Ok(None));
            assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
        })
        .await;
        assert!(matches!(closed, Err(StoreError::Stopped { .. })));
    });
}

#[test]
fn a_failed_read_is_an_error_and_no_blob() {
    spdk("a_failed_read_is_an_error_and_no_blob", async |sub| {
        let closed = after_errors(&sub, (IoKind::Read, 1), async |log| {
            let error = get(log, 1).await.unwrap_err();
            assert!(
                matches!(
                    &error,
                    StoreError::Drive(DriveError::Io {
                        extent: ExtentName::Slab(_),
                        ..
                    })
                ),
                "{error}"
            );
            assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
        })
        .await;
        assert_eq!(closed, Ok(()));
    });
}

#[test]
fn a_drive_that_is_pulled_out_says_so_and_lets_go() {
    spdk(
        "a_drive_that_is_pulled_out_says_so_and_lets_go",
        async |sub| {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = directory.path().join("drive");
            file_of(&path, 64 * MIB);
            create::aio(&sub, "file", &path, 4096).await.unwrap();
            let drive = formatted("file").await;
            let (_, closed) = with_log_on(&drive, async |log| {
                put(log, 1, &content(1, 100_000)).await.unwrap();
                // It comes back once everybody has let go of the device.
                create::delete(&sub, Kind::Aio, "file").await.unwrap();
                for error in [
                    get(log, 1).await.map(drop).unwrap_err(),
                    put(log, 2, b"2").await.map(drop).unwrap_err(),
                ] {
                    let sentence = error.to_string();
                    assert!(sentence.contains("'file' was removed"), "{sentence}");
                }
            })
            .await;
            assert!(closed.is_err());
            assert_eq!(drive.free_blocks(), 0);
            drive.close().await.unwrap();
            create::aio(&sub, "file", &path, 4096).await.unwrap();
            with_log("file", async |log| {
                assert_eq!(get(log, 1).await, Ok(Some(content(1, 100_000))));
            })
            .await;
            create::delete(&sub, Kind::Aio, "file").await.unwrap();
        },
    );
}

/// All memory that SPDK may have is somebody's.
fn all_memory() -> Vec<DmaBuf> {
    let mut taken = Vec::new();
    for bytes in [32 << 20, 1 << 20, 64 << 10, 4096, 64] {
        while let Ok(some) = DmaBuf::zeroed(bytes, 64) {
            taken.push(some);
        }
    }
    taken
}

#[test]
fn memory_that_is_used_up_for_a_moment_costs_no_drive() {
    spdk(
        "memory_that_is_used_up_for_a_moment_costs_no_drive",
        async |sub| {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let path = directory.path().join("drive");
            file_of(&path, 64 * MIB);
            create::aio(&sub, "file", &path, 4096).await.unwrap();
            let drive = formatted("file").await;
            let free = drive.free_blocks();
            let taken = all_memory();
            for number in 1000..1004 {
                let made = drive.create(ExtentName::Slab(number), 256).await;
                drive.delete(made.unwrap()).await.unwrap();
            }
            assert_eq!(drive.free_blocks(), free);
            drop(taken);
            drive.close().await.unwrap();
            create::delete(&sub, Kind::Aio, "file").await.unwrap();
        },
    );
}
