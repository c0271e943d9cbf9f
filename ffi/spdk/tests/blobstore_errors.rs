//! The blobstore: every error that a user can make or meet.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blob_support;
mod support;

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use blob_support::{MIB, TYPE, blob_of, init, malloc, pattern, read, turn, write};
use oriel_spdk::bdev::create::{self, Fault, Kind};
use oriel_spdk::bdev::{self, Access, BdevDesc, BdevEvent, BlockRange, IoKind, RequestError};
use oriel_spdk::blob::{
    BlobId, Blobstore, CreateError, DeleteError, DestroyError, InitError, InitOptions, LoadError,
    NewBlob, OpenError, ResizeError, StoreType, SyncError, UnloadError, XattrError,
};
use oriel_spdk::{DmaBuf, SpdkThread, isolate};
use support::with_spdk;

type Xattrs<'a> = &'a [(&'a str, &'a [u8])];

#[test]
fn what_cannot_be_made_is_refused_with_a_sentence() {
    isolate::run("what_cannot_be_made_is_refused_with_a_sentence", || {
        with_spdk(async |sub| {
            let options = InitOptions::new(TYPE);
            let error = Blobstore::init("none", options, |_| {}).await.unwrap_err();
            assert!(matches!(
                error,
                InitError::Device(bdev::OpenError::NotFound { .. })
            ));
            malloc(&sub, "tiny", MIB, 4096).await;
            let error = Blobstore::init("tiny", options, |_| {}).await.unwrap_err();
            assert!(error.to_string().contains("use a larger device"), "{error}");
            malloc(&sub, "wide", MIB, 8192).await;
            let error = Blobstore::init("wide", options, |_| {}).await.unwrap_err();
            assert!(matches!(error, InitError::BadBlockSize { .. }), "{error}");
            create::delete(&sub, Kind::Malloc, "wide").await.unwrap();
            malloc(&sub, "ram", 64 * MIB, 4096).await;
            for cluster_bytes in [0, 4095, 10_000] {
                let odd = InitOptions {
                    cluster_bytes,
                    ..options
                };
                let error = Blobstore::init("ram", odd, |_| {}).await.unwrap_err();
                assert!(matches!(error, InitError::BadClusterSize { .. }), "{error}");
            }

            let store = init("ram").await;
            let error = Blobstore::load("ram", TYPE, |_| {}).await.unwrap_err();
            assert!(
                matches!(&error, LoadError::Device(bdev::OpenError::Claimed { .. })),
                "{error}"
            );
            let new = NewBlob {
                clusters: 64,
                ..NewBlob::default()
            };
            let error = store.create(new).await.unwrap_err();
            assert_eq!(
                error,
                CreateError::NoSpace {
                    asked: 64,
                    free: 63
                }
            );
            let free = store.free_clusters();
            let xattr = |xattrs| NewBlob {
                clusters: 1,
                xattrs,
            };
            let bad: [(Xattrs<'_>, &str); 4] = [
                (&[("", b"x")], "must not be empty"),
                (&[("a\0b", b"x")], "NUL byte"),
                (&[("a", b"")], "no value"),
                (&[("a", b"x"), ("a", b"y")], "twice"),
            ];
            for (xattrs, sentence) in bad {
                let error = store.create(xattr(xattrs)).await.unwrap_err();
                assert!(error.to_string().contains(sentence), "{error}");
            }
            assert_eq!(store.free_clusters(), free);

            let blob = blob_of(&store, 1).await;
            let id = blob.id();
            assert_eq!(
                store.open(id).await.unwrap_err(),
                OpenError::AlreadyOpen { id }
            );
            assert_eq!(
                store.delete(id).await.unwrap_err(),
                DeleteError::Open { id }
            );
            assert_eq!(
                blob.resize(70).await.unwrap_err(),
                ResizeError::NoSpace {
                    asked: 69,
                    free: 62
                }
            );
            assert!(matches!(
                blob.set_xattr("a", &[7; 4000]).unwrap_err(),
                XattrError::TooLong { bytes: 4001, .. }
            ));
            blob.set_xattr("a", &[7; 3999]).unwrap();
            blob.sync_metadata().await.unwrap();
            for wrong in [0, 77, id.to_raw() + 1, u64::MAX] {
                let id = BlobId::from_raw(wrong);
                let error = store.open(id).await.unwrap_err();
                assert!(matches!(error, OpenError::NotFound { .. }), "{error}");
                let error = store.delete(id).await.unwrap_err();
                assert!(matches!(error, DeleteError::NotFound { .. }), "{error}");
            }
            let UnloadError::InUse { store, open } = store.unload().await.unwrap_err() else {
                panic!("a store with an open blob was unloaded");
            };
            assert_eq!(open, [id]);
            let DestroyError::InUse { store, .. } = store.destroy().await.unwrap_err() else {
                panic!("a store with an open blob was destroyed");
            };
            // Dropping is closing.
            drop(blob);
            let blob = store.open(id).await.unwrap();
            assert_eq!(blob.xattr("a").unwrap(), [7; 3999]);
            drop(blob);
            store.unload().await.unwrap();
            let error = Blobstore::init("ram", options, |_| {}).await.unwrap_err();
            assert!(matches!(error, InitError::Exists { found, .. } if found == TYPE));
            let anew = InitOptions {
                overwrite: true,
                ..options
            };
            let store = Blobstore::init("ram", anew, |_| {}).await.unwrap();
            assert_eq!(store.blobs().await.unwrap(), []);
            // A store may just be dropped; the device is free again once it is unloaded.
            drop(store);
            while BdevDesc::open("ram", Access::ReadWrite, |_| {}).is_err() {
                turn().await;
            }
            Blobstore::load("ram", TYPE, |_| {})
                .await
                .unwrap()
                .unload()
                .await
                .unwrap();
        });
    });
}

#[test]
fn what_is_no_healthy_blobstore_is_not_loaded() {
    isolate::run("what_is_no_healthy_blobstore_is_not_loaded", || {
        with_spdk(async |sub| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            File::create(&path).unwrap().set_len(64 * MIB).unwrap();
            let load = async |block_size| {
                create::aio(&sub, "disk", &path, block_size).await.unwrap();
                let result = Blobstore::load("disk", TYPE, |_| {}).await;
                let error = match result {
                    Ok(store) => {
                        store.unload().await.unwrap();
                        None
                    }
                    Err(error) => Some(error),
                };
                create::delete(&sub, Kind::Aio, "disk").await.unwrap();
                error
            };
            assert!(matches!(
                load(4096).await,
                Some(LoadError::NotABlobstore { .. })
            ));
            create::aio(&sub, "disk", &path, 4096).await.unwrap();
            init("disk").await.unload().await.unwrap();
            let strange = StoreType::new("SOMEBODY_ELSE");
            let error = Blobstore::load("disk", strange, |_| {}).await.unwrap_err();
            assert!(matches!(error, LoadError::WrongType { found, .. } if found == TYPE));
            create::delete(&sub, Kind::Aio, "disk").await.unwrap();
            assert!(load(4096).await.is_none());
            assert!(matches!(
                load(512).await,
                Some(LoadError::BlockSizeChanged {
                    expected: 4096,
                    found: 512,
                    ..
                })
            ));

            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut whole = vec![0; 4096];
            file.read_exact_at(&mut whole, 0).unwrap();
            file.set_len(32 * MIB).unwrap();
            assert!(matches!(
                load(4096).await,
                Some(LoadError::DeviceTooSmall { .. })
            ));
            file.set_len(64 * MIB).unwrap();
            // Any flipped bit of the super block is noticed.
            for at in [0, 8, 16, 28, 56, 80, 2000, 4095] {
                let mut torn = whole.clone();
                torn[at] ^= 0x10;
                file.write_all_at(&torn, 0).unwrap();
                let error = load(4096).await.expect("a corrupt super block");
                let named = match at {
                    0 => matches!(error, LoadError::NotABlobstore { .. }),
                    _ => matches!(error, LoadError::CorruptSuperBlock { .. }),
                };
                assert!(named, "byte {at}: {error}");
            }
            file.write_all_at(&whole, 0).unwrap();
            assert!(load(4096).await.is_none());
        });
    });
}

#[test]
fn a_failed_write_of_metadata_is_not_forgotten() {
    isolate::run("a_failed_write_of_metadata_is_not_forgotten", || {
        with_spdk(async |sub| {
            malloc(&sub, "ram", 64 * MIB, 4096).await;
            let name = create::error(&sub, "ram").await.unwrap();
            let store = init(&name).await;
            let blob = blob_of(&store, 1).await;
            let id = blob.id();
            blob.set_xattr("state", b"old").unwrap();
            blob.sync_metadata().await.unwrap();
            write(&blob, 4096, 0, &pattern(1, 4096)).await;
            create::inject(&sub, &name, IoKind::Read, Fault::Fail, 1)
                .await
                .unwrap();
            let buf = DmaBuf::zeroed(4096, 4096).unwrap();
            let (_, result) = blob.read_at(buf, BlockRange::new(0, 1)).await;
            assert!(matches!(result, Err(RequestError::Device(_))));
            assert!(read(&blob, 4096, 0, 1).await == pattern(1, 4096));

            blob.set_xattr("state", b"new").unwrap();
            create::inject(&sub, &name, IoKind::Write, Fault::Fail, 1)
                .await
                .unwrap();
            let error = blob.sync_metadata().await.unwrap_err();
            assert!(matches!(error, SyncError::Failed { .. }), "{error}");
            let error = blob.sync_metadata().await.unwrap_err();
            assert_eq!(error, SyncError::FailedBefore);
            drop(blob);
            store.unload().await.unwrap();
            let store = Blobstore::load(&name, TYPE, |_| {}).await.unwrap();
            let blob = store.open(id).await.unwrap();
            let state = blob.xattr("state").unwrap();
            assert!(state == b"old" || state == b"new", "{state:?}");
            drop(blob);
            store.unload().await.unwrap();
            // A device that fails to be read is said so, and is free again.
            create::inject(&sub, &name, IoKind::Read, Fault::Fail, 1)
                .await
                .unwrap();
            let error = Blobstore::load(&name, TYPE, |_| {}).await.unwrap_err();
            assert!(matches!(error, LoadError::Read { .. }), "{error}");
            let store = Blobstore::load(&name, TYPE, |_| {}).await.unwrap();
            store.unload().await.unwrap();
            create::delete(&sub, Kind::Error, &name).await.unwrap();
        });
    });
}

#[test]
fn a_removed_device_is_told_to_the_store() {
    isolate::run("a_removed_device_is_told_to_the_store", || {
        with_spdk(async |sub| {
            malloc(&sub, "ram", 64 * MIB, 4096).await;
            let removed = Rc::new(Cell::new(false));
            let told = Rc::clone(&removed);
            let options = InitOptions::new(TYPE);
            let store = Blobstore::init("ram", options, move |event| {
                told.set(told.get() || event == BdevEvent::Removed);
            });
            let store = store.await.unwrap();
            let blob = blob_of(&store, 1).await;
            let mut deleting = Box::pin(create::delete(&sub, Kind::Malloc, "ram"));
            let mut done = false;
            while !removed.get() {
                std::future::poll_fn(|cx| {
                    done |= deleting.as_mut().poll(cx).is_ready();
                    std::task::Poll::Ready(())
                })
                .await;
                turn().await;
            }
            assert!(!done, "the device went while a store was on it");
            drop(blob);
            // The device takes no writes any more, so the store may not end in order.
            let _ = store.unload().await;
            deleting.await.unwrap();
        });
    });
}

#[test]
fn another_thread_may_not_call() {
    isolate::run("another_thread_may_not_call", || {
        with_spdk(async |sub| {
            malloc(&sub, "ram", 64 * MIB, 4096).await;
            let store = init("ram").await;
            let here = SpdkThread::create("other").unwrap();
            let call = std::panic::AssertUnwindSafe(|| store.free_clusters());
            let panic = std::panic::catch_unwind(call).unwrap_err();
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied());
            assert!(message.unwrap().contains("make that thread current"));
            here.exit();
            turn().await;
            store.unload().await.unwrap();
        });
    });
}
