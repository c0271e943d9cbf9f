//! The index in a file, beside the store on SPDK's device in a file: taken over after a stop, made anew after anything else.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod store_spdk_support;

use std::path::Path;

use oriel_engine::store::*;
use oriel_spdk::bdev::create::{self, Kind};
use store_spdk_support::*;

const BLOBS: u64 = 300;

fn length(number: u64) -> usize {
    1 + (number as usize * 37) % 9000
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Kept,
    /// The log comes to its end, and its index is not closed.
    Dropped,
}

/// Uses the store on a device with its index in a file; whether that was taken over.
async fn life(device: &str, index: &Path, end: End, work: impl AsyncFnOnce(&SpdkLog)) -> bool {
    let options = OpenOptions {
        keeps_index: true,
        ..options()
    };
    let drive = SpdkDrive::load(device).await.unwrap();
    let file = index_in_file(index, options.blobs_max).unwrap();
    let section = file.section().unwrap();
    let (log, recovery) = open(drive.clone(), section, &options).await.unwrap();
    let work = async {
        work(&log).await;
        log.close();
    };
    let ((), ran) = both(work, log.run()).await;
    ran.unwrap();
    if end == End::Kept {
        log.keep_index().unwrap();
        file.close().unwrap();
    } else {
        drop((log, file));
    }
    drive.close().await.unwrap();
    recovery.is_adopted
}

async fn all_there(log: &SpdkLog, blobs: u64) {
    for number in 0..blobs {
        let there = get(log, number).await.unwrap();
        assert_eq!(there, Some(content(number, length(number))), "{number}");
    }
    assert_eq!(get(log, blobs).await, Ok(None));
    assert_eq!(log.stat().blobs, blobs);
}

#[test]
fn an_index_in_a_file_is_taken_over_after_a_stop_alone() {
    let test = "an_index_in_a_file_is_taken_over_after_a_stop_alone";
    spdk(test, async |sub| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (path, index) = (
            directory.path().join("drive"),
            directory.path().join("index"),
        );
        file_of(&path, 128 * MIB);
        create::aio(&sub, "file", &path, 4096).await.unwrap();
        formatted("file").await.close().await.unwrap();
        let adopted = life("file", &index, End::Kept, async |log| {
            for number in 0..BLOBS {
                let bytes = content(number, length(number));
                assert_eq!(put(log, number, &bytes).await, Ok(Put::Created));
            }
        });
        assert!(!adopted.await, "the first time");
        let older = std::fs::read(&index).unwrap();
        let adopted = life("file", &index, End::Kept, async |log| {
            all_there(log, BLOBS).await;
            let bytes = content(BLOBS, length(BLOBS));
            assert_eq!(put(log, BLOBS, &bytes).await, Ok(Put::Created));
        });
        assert!(adopted.await, "after a stop");
        let newer = std::fs::read(&index).unwrap();
        // A copy of the file as it was at the stop before.
        std::fs::write(&index, older).unwrap();
        let adopted = life("file", &index, End::Dropped, async |log| {
            all_there(log, BLOBS + 1).await;
        });
        assert!(!adopted.await, "an older index");
        let adopted = life("file", &index, End::Kept, async |log| {
            all_there(log, BLOBS + 1).await;
        });
        assert!(!adopted.await, "one that was not closed");
        // What was right once, before the store went on without it.
        std::fs::write(&index, newer).unwrap();
        let adopted = life("file", &index, End::Kept, async |log| {
            all_there(log, BLOBS + 1).await;
        });
        assert!(!adopted.await, "the index of a stop that was not the last");
        std::fs::remove_file(&index).unwrap();
        let adopted = life("file", &index, End::Kept, async |log| {
            all_there(log, BLOBS + 1).await;
        });
        assert!(!adopted.await, "a file that was lost");
        create::delete(&sub, Kind::Aio, "file").await.unwrap();
        create::aio(&sub, "again", &path, 4096).await.unwrap();
        let adopted = life("again", &index, End::Kept, async |log| {
            all_there(log, BLOBS + 1).await;
            assert_eq!(delete(log, 5).await, Ok(true));
        });
        assert!(adopted.await, "on another device of the same file");
        create::delete(&sub, Kind::Aio, "again").await.unwrap();
    });
}
