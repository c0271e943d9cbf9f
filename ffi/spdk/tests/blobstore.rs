//! The blobstore: every operation, in both forms.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blob_support;
mod support;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use blob_support::{MIB, TYPE, blob_of, filled, init, malloc, pattern, read, turn, write};
use oriel_spdk::bdev::create::{self, Delays, Kind};
use oriel_spdk::bdev::{
    Access, BdevDesc, BlockRange, Complete, Io, IoError, Rejection, RequestError, Scatter,
};
use oriel_spdk::blob::{Blob, BlobEntry, Blobstore, LoadError, NewBlob, OpenError, ResizeError};
use oriel_spdk::{DmaBuf, isolate};
use support::with_spdk;

/// Looks for each cluster of a blob of ten, of which others lie in between, on the device itself.
async fn check_places(device: &str, blob: &Blob, unit: usize) {
    let per_mib = MIB / unit as u64;
    for cluster in 0..10 {
        let number = 100 + cluster;
        write(blob, unit, cluster * per_mib, &pattern(number, unit)).await;
    }
    let places = blob.places().unwrap();
    assert!(places.len() > 1, "{places:?}");
    let desc = BdevDesc::open(device, Access::ReadOnly, |_| {}).unwrap();
    let channel = desc.channel().unwrap();
    let mut next = 0;
    for place in places {
        assert_eq!(place.first, next);
        for cluster in 0..place.on_device.count / per_mib {
            let start = place.on_device.start + cluster * per_mib;
            let buf = filled(&vec![0; unit]);
            let (buf, read) = channel.read_at(buf, BlockRange::new(start, 1)).await;
            read.unwrap();
            let number = 100 + next / per_mib + cluster;
            assert!(buf[..] == pattern(number, unit), "cluster {number}");
        }
        next += place.on_device.count;
    }
    assert_eq!(next, blob.io_units());
}

/// Every operation once, on a device of 64 MiB.
async fn exercise(device: &str, unit: usize) {
    let store = init(device).await;
    assert_eq!(store.cluster_bytes(), MIB);
    assert_eq!(store.io_unit_bytes() as usize, unit);
    let total = store.total_clusters();
    assert_eq!(total, 63, "one cluster of 64 is for metadata");
    assert_eq!(store.free_clusters(), total);
    assert_eq!(store.blobs().await.unwrap(), []);
    assert_eq!(store.super_blob().await.unwrap(), None);

    let new = NewBlob {
        clusters: 3,
        xattrs: &[("name", b"first"), ("kind", &[0, 1, 2])],
    };
    let first = store.create(new).await.unwrap();
    let blob = store.open(first).await.unwrap();
    assert_eq!(blob.id(), first);
    assert_eq!(blob.clusters(), 3);
    assert_eq!(blob.io_units(), 3 * MIB / unit as u64);
    assert_eq!(store.free_clusters(), total - 3);
    let other = blob_of(&store, 2).await;

    // A range over two cluster boundaries, written in one piece and from three buffers.
    let per_mib = MIB / unit as u64;
    let data = pattern(1, (2 * MIB) as usize);
    write(&blob, unit, per_mib / 2, &data).await;
    write(&other, unit, 0, &pattern(2, (2 * MIB) as usize)).await;
    assert!(read(&blob, unit, per_mib / 2, 2 * per_mib).await == data);
    let zeroes = BlockRange::new(per_mib, 2);
    blob.write_zeroes_at(zeroes).await.unwrap();
    assert!(read(&blob, unit, per_mib, 2).await.iter().all(|&b| b == 0));
    assert!(
        read(&blob, unit, per_mib + 2, 1).await == data[(MIB / 2) as usize + 2 * unit..][..unit]
    );
    blob.unmap_at(BlockRange::new(0, per_mib)).await.unwrap();
    assert!(read(&other, unit, 0, 2 * per_mib).await == pattern(2, (2 * MIB) as usize));

    // Attributes.
    assert_eq!(blob.xattr("name").unwrap(), b"first");
    assert_eq!(blob.xattr("kind").unwrap(), [0, 1, 2]);
    assert_eq!(blob.xattr("none"), None);
    blob.set_xattr("name", b"renamed").unwrap();
    blob.set_xattr("long", &pattern(3, 3900)).unwrap();
    assert!(blob.remove_xattr("kind").unwrap());
    assert!(!blob.remove_xattr("kind").unwrap());
    assert_eq!(blob.xattr_names(), ["long", "name"]);
    blob.sync_metadata().await.unwrap();

    // Both ways of resizing; what stays keeps its content.
    blob.resize(10).await.unwrap();
    assert_eq!(store.free_clusters(), total - 12);
    write(&blob, unit, 10 * per_mib - 1, &pattern(4, unit)).await;
    blob.sync_metadata().await.unwrap();
    other.resize(1).await.unwrap();
    other.sync_metadata().await.unwrap();
    assert_eq!(store.free_clusters(), total - 11);
    let beyond = other.read_at(filled(&vec![0; unit]), BlockRange::new(per_mib, 1));
    assert!(matches!(
        beyond.await.1,
        Err(RequestError::Rejected(Rejection::Invalid { .. }))
    ));

    store.set_super_blob(Some(first)).await.unwrap();
    let second = other.id();
    other.close().await.unwrap();
    blob.close().await.unwrap();
    store.unload().await.unwrap();

    // All of it is there again.
    let store = Blobstore::load(device, TYPE, |_| {}).await.unwrap();
    assert_eq!(store.super_blob().await.unwrap(), Some(first));
    let entry = |id, clusters| BlobEntry { id, clusters };
    let mut expected = [entry(first, 10), entry(second, 1)];
    expected.sort_by_key(|entry| entry.id);
    assert_eq!(store.blobs().await.unwrap(), expected);
    assert_eq!(store.total_clusters(), total);
    assert_eq!(store.free_clusters(), total - 11);
    let blob = store.open(first).await.unwrap();
    assert_eq!(blob.xattr("long").unwrap(), pattern(3, 3900));
    assert_eq!(blob.xattr("name").unwrap(), b"renamed");
    assert!(read(&blob, unit, 10 * per_mib - 1, 1).await == pattern(4, unit));
    assert!(read(&blob, unit, 2 * per_mib, per_mib / 2).await == data[(3 * MIB / 2) as usize..]);
    check_places(device, &blob, unit).await;
    blob.close().await.unwrap();
    store.set_super_blob(None).await.unwrap();
    assert_eq!(store.super_blob().await.unwrap(), None);
    store.delete(first).await.unwrap();
    store.delete(second).await.unwrap();
    assert_eq!(store.free_clusters(), total);
    assert_eq!(store.blobs().await.unwrap(), []);
    store.destroy().await.unwrap();
    assert!(matches!(
        Blobstore::load(device, TYPE, |_| {}).await.unwrap_err(),
        LoadError::NotABlobstore { .. }
    ));
    // Nothing holds the device any more.
    BdevDesc::open(device, Access::ReadWrite, |_| {}).unwrap();
}

#[test]
fn everything_works_on_memory_and_on_a_file() {
    isolate::run("everything_works_on_memory_and_on_a_file", || {
        with_spdk(async |sub| {
            for block_size in [512, 4096] {
                let name = format!("ram{block_size}");
                malloc(&sub, &name, 64 * MIB, block_size).await;
                exercise(&name, block_size as usize).await;
                create::delete(&sub, Kind::Malloc, &name).await.unwrap();
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            File::create(&path).unwrap().set_len(64 * MIB).unwrap();
            create::aio(&sub, "file", &path, 4096).await.unwrap();
            exercise("file", 4096).await;
        });
    });
}

/// A request that circulates: each completion sends it again, to the next place.
struct Circle {
    shared: Rc<Shared>,
    at: u64,
}

impl Complete for Circle {
    fn complete(mut io: Box<Io<Self>>, result: Result<(), IoError>) {
        let shared = Rc::clone(&io.ctx.shared);
        shared
            .errors
            .set(shared.errors.get() + u64::from(result.is_err()));
        let left = shared.left.get();
        if left == 0 {
            shared.in_flight.set(shared.in_flight.get() - 1);
            return;
        }
        shared.left.set(left - 1);
        io.ctx.at = (io.ctx.at + 7) % 200;
        let range = BlockRange::new(io.ctx.at, 1);
        // On this device unmap completes before the call is back; it must not recurse.
        match left % 3 {
            0 => shared.blob.read(io, range).unwrap(),
            1 => shared.blob.write(io, range).unwrap(),
            _ => shared.blob.unmap(io, range).unwrap(),
        }
    }
}

struct Shared {
    blob: Blob,
    left: Cell<u64>,
    in_flight: Cell<u64>,
    errors: Cell<u64>,
}

#[test]
fn requests_circulate_and_come_back_when_there_is_no_room() {
    isolate::run(
        "requests_circulate_and_come_back_when_there_is_no_room",
        || {
            with_spdk(async |sub| {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("disk");
                File::create(&path).unwrap().set_len(64 * MIB).unwrap();
                create::aio(&sub, "disk", &path, 4096).await.unwrap();
                let store = init("disk").await;
                let shared = Rc::new(Shared {
                    blob: blob_of(&store, 1).await,
                    left: Cell::new(20_000),
                    in_flight: Cell::new(0),
                    errors: Cell::new(0),
                });
                for at in 0..16 {
                    let shared = Rc::clone(&shared);
                    let blob = Rc::clone(&shared);
                    shared.in_flight.set(shared.in_flight.get() + 1);
                    let buf = DmaBuf::zeroed(4096, 4096).unwrap();
                    let io = Io::new(buf, Circle { shared, at });
                    blob.blob.read(io, BlockRange::new(at, 1)).unwrap();
                }
                while shared.in_flight.get() > 0 {
                    turn().await;
                }
                assert_eq!((shared.left.get(), shared.errors.get()), (0, 0));

                // More than fit: the last ones come back whole, and room() says when to try again.
                let mut refused = 0;
                for at in 0..600 {
                    let ctx = Circle {
                        shared: Rc::clone(&shared),
                        at,
                    };
                    let mut buf = DmaBuf::zeroed(4096, 4096).unwrap();
                    buf.fill(at as u8);
                    match shared
                        .blob
                        .write(Io::new(buf, ctx), BlockRange::new(at % 256, 1))
                    {
                        Ok(()) => shared.in_flight.set(shared.in_flight.get() + 1),
                        Err(rejected) => {
                            assert_eq!(rejected.why, Rejection::NoRoom);
                            assert_eq!(rejected.io.ctx.at, at);
                            assert!(rejected.io.buf.iter().all(|&byte| byte == at as u8));
                            refused += 1;
                        }
                    }
                }
                assert_eq!(refused, 600 - 448);
                shared.blob.room().await;
                assert!(shared.in_flight.get() < 448);
                // Metadata finds room whatever data does, and shrinking waits for it.
                let requests = shared.in_flight.get();
                assert!(requests > 0);
                let other = blob_of(&store, 1).await;
                let error = shared.blob.resize(0).await;
                if shared.in_flight.get() > 0 {
                    assert!(
                        matches!(error, Err(ResizeError::InFlight { .. })),
                        "{error:?}"
                    );
                }
                other.close().await.unwrap();
                while shared.in_flight.get() > 0 {
                    turn().await;
                }
                let wrong = [(0, 0), (0, 257), (256, 1), (u64::MAX, 2), (0, 1 << 33)];
                for (start, count) in wrong {
                    let result = shared.blob.unmap_at(BlockRange::new(start, count)).await;
                    let invalid = matches!(
                        result,
                        Err(RequestError::Rejected(Rejection::Invalid { .. }))
                    );
                    assert!(invalid, "{start}+{count}: {result:?}");
                }
                let blob = Rc::into_inner(shared).unwrap().blob;
                blob.close().await.unwrap();
                store.unload().await.unwrap();
            });
        },
    );
}

struct Taken(Rc<RefCell<Option<Scatter>>>);

impl Complete<Scatter> for Taken {
    fn complete(io: Box<Io<Self, Scatter>>, result: Result<(), IoError>) {
        result.unwrap();
        *io.ctx.0.borrow_mut() = Some(io.buf);
    }
}

#[test]
fn scattered_buffers_cross_clusters() {
    isolate::run("scattered_buffers_cross_clusters", || {
        with_spdk(async |sub| {
            malloc(&sub, "ram", 64 * MIB, 512).await;
            let store = init("ram").await;
            // Two blobs grow in turn, so that their clusters alternate.
            let (blob, other) = (blob_of(&store, 1).await, blob_of(&store, 1).await);
            for clusters in 2..=3 {
                blob.resize(clusters).await.unwrap();
                other.resize(clusters).await.unwrap();
            }
            let data = pattern(9, 1536 * 1024);
            let scatter = || {
                let bufs = [512, 700 * 1024, 1536 * 1024 - 701 * 1024, 512];
                let mut bufs = Scatter::new(
                    bufs.map(|len| DmaBuf::zeroed(len, 512).unwrap())
                        .into_iter()
                        .collect(),
                );
                let mut rest = &data[..];
                for bytes in bufs.bytes_mut() {
                    let (head, tail) = rest.split_at(bytes.len());
                    bytes.copy_from_slice(head);
                    rest = tail;
                }
                assert!(rest.is_empty());
                bufs
            };
            let taken = Rc::new(RefCell::new(None));
            let range = BlockRange::new(1024, 1536 * 2);
            let io = Io::new(scatter(), Taken(Rc::clone(&taken)));
            blob.write(io, range).unwrap();
            while taken.borrow().is_none() {
                turn().await;
            }
            let mut bufs = taken.borrow_mut().take().unwrap();
            bufs.bytes_mut().for_each(|bytes| bytes.fill(0));
            blob.read(Io::new(bufs, Taken(Rc::clone(&taken))), range)
                .unwrap();
            while taken.borrow().is_none() {
                turn().await;
            }
            let bufs = taken.borrow_mut().take().unwrap().into_bufs();
            assert!(bufs.iter().flat_map(|buf| buf.iter()).eq(data.iter()));
            assert!(read(&blob, 512, 1024, 1536 * 2).await == data);
            drop((blob, other));
            store.unload().await.unwrap();
        });
    });
}

#[test]
fn dropped_futures_leave_nothing_open_or_half_done() {
    isolate::run("dropped_futures_leave_nothing_open_or_half_done", || {
        with_spdk(async |sub| {
            malloc(&sub, "ram", 64 * MIB, 4096).await;
            let ms = Duration::from_millis(2);
            let delays = Delays {
                read: ms,
                read_p99: ms,
                write: ms,
                write_p99: ms,
            };
            create::delay(&sub, "slow", "ram", delays).await.unwrap();
            let store = init("slow").await;
            let id = {
                let blob = blob_of(&store, 1).await;
                // The write goes on without its future, and the blob stays open for it.
                let mut write =
                    Box::pin(blob.write_at(filled(&pattern(5, 4096)), BlockRange::new(0, 1)));
                std::future::poll_fn(|cx| {
                    assert!(write.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                })
                .await;
                drop(write);
                let id = blob.id();
                let closing = blob.close();
                closing.await.unwrap();
                id
            };
            // An open whose answer nobody takes closes again; a create happens all the same.
            let mut opening = Box::pin(store.open(id));
            let mut creating = Box::pin(store.create(NewBlob {
                clusters: 5,
                ..NewBlob::default()
            }));
            std::future::poll_fn(|cx| {
                assert!(opening.as_mut().poll(cx).is_pending());
                assert!(creating.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            drop(opening);
            drop(creating);
            let blob = store.open(id).await;
            let blob = match blob {
                // The open is answered in the same turn of the thread in which it is dropped.
                Err(OpenError::AlreadyOpen { .. }) => store.open(id).await.unwrap(),
                blob => blob.unwrap(),
            };
            assert!(read(&blob, 4096, 0, 1).await == pattern(5, 4096));
            drop(blob);
            assert_eq!(store.blobs().await.unwrap().len(), 2);
            store.unload().await.unwrap();
            create::delete(&sub, Kind::Delay, "slow").await.unwrap();
        });
    });
}
