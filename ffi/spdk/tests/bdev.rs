//! Block devices as their user: every request, every error that a user can make.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod support;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oriel_spdk::bdev::create::{self, CreateError, Delays, Fault, Kind};
use oriel_spdk::bdev::{
    Access, BdevDesc, BdevEvent, BlockRange, Channel, Complete, Io, IoError, IoKind, OpenError,
    Rejection, RequestError, Scatter,
};
use oriel_spdk::{DmaBuf, Subsystems, isolate};
use support::with_spdk;

const BLOCK: usize = 4096;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state as u8
    };
    (0..len).map(|_| step(&mut state)).collect()
}

fn filled(bytes: &[u8]) -> DmaBuf {
    let mut buf = DmaBuf::zeroed(bytes.len(), BLOCK).unwrap();
    buf.copy_from_slice(bytes);
    buf
}

fn open(name: &str) -> (BdevDesc, Channel) {
    let desc = BdevDesc::open(name, Access::ReadWrite, |_| {}).unwrap();
    let channel = desc.channel().unwrap();
    (desc, channel)
}

async fn read(channel: &Channel, start: u64, blocks: u64) -> Result<Vec<u8>, RequestError> {
    let buf = DmaBuf::zeroed(blocks as usize * BLOCK, BLOCK).unwrap();
    let (buf, result) = channel.read_at(buf, BlockRange::new(start, blocks)).await;
    result.map(|()| buf.to_vec())
}

/// Writes, reads back, overwrites a part, zeroes a part, unmaps a part, flushes.
async fn exercise(name: &str) {
    let (desc, channel) = open(name);
    assert_eq!(desc.block_size() as usize, BLOCK);
    let data = pattern(desc.block_count(), 16 * BLOCK);
    channel
        .write_at(filled(&data), BlockRange::new(3, 16))
        .await
        .1
        .unwrap();
    assert_eq!(read(&channel, 3, 16).await.expect(name), data);
    let patch = pattern(7, 2 * BLOCK);
    channel
        .write_at(filled(&patch), BlockRange::new(5, 2))
        .await
        .1
        .unwrap();
    let mut expected = data;
    expected[2 * BLOCK..4 * BLOCK].copy_from_slice(&patch);
    channel
        .write_zeroes_at(BlockRange::new(10, 1))
        .await
        .unwrap();
    expected[7 * BLOCK..8 * BLOCK].fill(0);
    assert_eq!(read(&channel, 3, 16).await.unwrap(), expected);
    if desc.supports(IoKind::Unmap) {
        channel.unmap_at(BlockRange::new(18, 1)).await.unwrap();
    }
    if desc.supports(IoKind::Flush) {
        channel
            .flush_at(BlockRange::new(0, desc.block_count()))
            .await
            .unwrap();
    }
    if desc.supports(IoKind::Reset) {
        channel.reset_device().await.unwrap();
    }
    assert_eq!(read(&channel, 3, 15).await.unwrap(), expected[..15 * BLOCK]);
    let last = desc.block_count() - 1;
    channel
        .write_at(filled(&patch[..BLOCK]), BlockRange::new(last, 1))
        .await
        .1
        .unwrap();
    assert_eq!(read(&channel, last, 1).await.unwrap(), patch[..BLOCK]);
    let stat = desc.stat().await.unwrap();
    assert!(
        stat.bytes_written >= 19 * BLOCK as u64 && stat.reads >= 4,
        "{stat:?}"
    );
}

#[test]
fn memory_and_files_keep_what_is_written() {
    isolate::run("memory_and_files_keep_what_is_written", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        File::create(&path).unwrap().set_len(16 << 20).unwrap();
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 4096, 4096).await.unwrap();
            exercise("Malloc0").await;
            create::delete(&sub, Kind::Malloc, "Malloc0").await.unwrap();
            create::aio(&sub, "Aio0", &path, 4096).await.unwrap();
            exercise("Aio0").await;
            create::delete(&sub, Kind::Aio, "Aio0").await.unwrap();
            match create::uring(&sub, "Uring0", &path, 4096).await {
                Ok(()) => {
                    exercise("Uring0").await;
                    create::delete(&sub, Kind::Uring, "Uring0").await.unwrap();
                }
                Err(CreateError::UringBroken { release }) => {
                    assert_eq!((release, oriel_spdk_sys::SPDK_MENDED), ("20.07", false));
                }
                // Containers often forbid io_uring; then there is nothing to test.
                Err(error) => eprintln!("io_uring is not to be had here: {error}"),
            }
            assert!(oriel_spdk::bdev::names().is_empty());
        });
    });
}

#[test]
fn scattered_buffers_are_one_transfer() {
    type Back = Rc<Cell<Option<Box<Io<Ctx, Scatter>>>>>;
    struct Ctx(Back);
    impl Complete<Scatter> for Ctx {
        fn complete(io: Box<Io<Self, Scatter>>, result: Result<(), IoError>) {
            result.unwrap();
            let back = Rc::clone(&io.ctx.0);
            back.set(Some(io));
        }
    }
    async fn wait(back: &Cell<Option<Box<Io<Ctx, Scatter>>>>) -> Box<Io<Ctx, Scatter>> {
        std::future::poll_fn(|_| {
            back.take()
                .map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
    isolate::run("scattered_buffers_are_one_transfer", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
            let (_desc, channel) = open("Malloc0");
            let data = pattern(1, 8 * BLOCK);
            let parts = [3 * BLOCK, BLOCK, 4 * BLOCK];
            let mut at = 0;
            let bufs = parts.map(|len| {
                at += len;
                filled(&data[at - len..at])
            });
            let back = Rc::default();
            channel
                .write(
                    Io::new(Scatter::new(bufs.into()), Ctx(Rc::clone(&back))),
                    BlockRange::new(9, 8),
                )
                .unwrap();
            wait(&back).await;
            assert_eq!(read(&channel, 9, 8).await.unwrap(), data);
            let empty = [4 * BLOCK, 4 * BLOCK].map(|len| DmaBuf::zeroed(len, BLOCK).unwrap());
            channel
                .read(
                    Io::new(Scatter::new(empty.into()), Ctx(Rc::clone(&back))),
                    BlockRange::new(9, 8),
                )
                .unwrap();
            let got: Vec<u8> = wait(&back)
                .await
                .buf
                .into_bufs()
                .iter()
                .flat_map(|buf| buf.to_vec())
                .collect();
            assert_eq!(got, data);
        });
    });
}

#[test]
fn wrong_requests_come_back_with_their_buffer() {
    isolate::run("wrong_requests_come_back_with_their_buffer", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
            let (_desc, channel) = open("Malloc0");
            let data = pattern(5, BLOCK);
            let (buf, result) = channel
                .write_at(filled(&data), BlockRange::new(1024, 1))
                .await;
            assert!(
                matches!(
                    result,
                    Err(RequestError::Rejected(Rejection::Invalid { .. }))
                ),
                "{result:?}"
            );
            assert_eq!(*buf, data[..]);
            let (_, result) = channel.read_at(buf, BlockRange::new(u64::MAX, 1)).await;
            assert!(
                matches!(
                    result,
                    Err(RequestError::Rejected(Rejection::Invalid { .. }))
                ),
                "{result:?}"
            );
            let read_only = BdevDesc::open("Malloc0", Access::ReadOnly, |_| {}).unwrap();
            let (_, result) = read_only
                .channel()
                .unwrap()
                .write_at(filled(&data), BlockRange::new(0, 1))
                .await;
            assert!(
                matches!(
                    result,
                    Err(RequestError::Rejected(Rejection::Invalid { .. }))
                ),
                "{result:?}"
            );
        });
    });
}

#[test]
fn a_buffer_too_small_for_the_range_is_a_programming_error() {
    isolate::expect_panic(
        "a_buffer_too_small_for_the_range_is_a_programming_error",
        "do not fit a buffer",
        || {
            with_spdk(async |sub| {
                create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
                let (_desc, channel) = open("Malloc0");
                let _ = channel
                    .read_at(DmaBuf::zeroed(BLOCK, BLOCK).unwrap(), BlockRange::new(0, 2))
                    .await;
            });
        },
    );
}

#[test]
fn injected_errors_and_delays_reach_the_caller() {
    isolate::run("injected_errors_and_delays_reach_the_caller", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
            create::malloc(&sub, "Malloc1", 1024, 4096).await.unwrap();
            let broken = create::error(&sub, "Malloc0").await.unwrap();
            create::inject(&sub, &broken, IoKind::Read, Fault::Fail, 2)
                .await
                .unwrap();
            {
                let (_desc, channel) = open(&broken);
                for _ in 0..2 {
                    assert!(matches!(
                        read(&channel, 0, 1).await,
                        Err(RequestError::Device(_))
                    ));
                }
                read(&channel, 0, 1).await.unwrap();
            }
            let ms = Duration::from_millis;
            let delays = Delays {
                read: ms(30),
                read_p99: ms(30),
                write: ms(1),
                write_p99: ms(1),
            };
            create::delay(&sub, "Slow", "Malloc1", delays)
                .await
                .unwrap();
            {
                let (_desc, channel) = open("Slow");
                let start = Instant::now();
                read(&channel, 0, 1).await.unwrap();
                assert!(start.elapsed() >= ms(29), "{:?}", start.elapsed());
            }
            create::delete(&sub, Kind::Delay, "Slow").await.unwrap();
            create::delete(&sub, Kind::Error, &broken).await.unwrap();
        });
    });
}

#[test]
fn a_dropped_future_leaves_its_buffer_to_the_device() {
    isolate::run("a_dropped_future_leaves_its_buffer_to_the_device", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
            let ms = Duration::from_millis;
            let delays = Delays {
                read: ms(20),
                read_p99: ms(20),
                write: ms(20),
                write_p99: ms(20),
            };
            create::delay(&sub, "Slow", "Malloc0", delays)
                .await
                .unwrap();
            {
                let (desc, channel) = open("Slow");
                for round in 0..50u64 {
                    let mut request = Box::pin(channel.read_at(
                        DmaBuf::zeroed(BLOCK, BLOCK).unwrap(),
                        BlockRange::new(round, 1),
                    ));
                    let polled = std::future::poll_fn(|cx| {
                        std::task::Poll::Ready(request.as_mut().poll(cx).is_pending())
                    })
                    .await;
                    assert!(polled, "a delayed read is not done at once");
                    drop(request);
                }
                // Descriptor and channel go too: the requests in flight keep what they need.
                drop((desc, channel));
            }
            let (_desc, channel) = open("Slow");
            read(&channel, 0, 1).await.unwrap();
        });
    });
}

#[test]
fn removal_tells_the_user_and_waits_for_him() {
    isolate::run("removal_tells_the_user_and_waits_for_him", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Malloc0", 1024, 4096).await.unwrap();
            let desc: Rc<RefCell<Option<BdevDesc>>> = Rc::default();
            let events: Rc<RefCell<Vec<BdevEvent>>> = Rc::default();
            let (kept, seen) = (Rc::clone(&desc), Rc::clone(&events));
            let opened = BdevDesc::open("Malloc0", Access::ReadWrite, move |event| {
                seen.borrow_mut().push(event);
                // Closing inside the event is the usual thing to do.
                kept.borrow_mut().take();
            });
            *desc.borrow_mut() = Some(opened.unwrap());
            create::delete(&sub, Kind::Malloc, "Malloc0").await.unwrap();
            assert_eq!(*events.borrow(), [BdevEvent::Removed]);
            assert!(matches!(
                BdevDesc::open("Malloc0", Access::ReadOnly, |_| {}),
                Err(OpenError::NotFound { .. })
            ));
        });
    });
}

async fn refusal(result: impl Future<Output = Result<impl Sized, CreateError>>) -> CreateError {
    match result.await {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error,
    }
}

#[test]
fn bad_devices_are_refused_with_a_sentence() {
    isolate::run("bad_devices_are_refused_with_a_sentence", || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let short = dir.path().join("short");
        File::create(&short).unwrap().set_len(100).unwrap();
        with_spdk(async |sub: Rc<Subsystems>| {
            let sub = &*sub;
            let missing = dir.path().join("missing");
            assert!(matches!(
                refusal(create::aio(sub, "A", &missing, 4096)).await,
                CreateError::Open { .. }
            ));
            assert!(matches!(
                refusal(create::aio(sub, "A", dir.path(), 4096)).await,
                CreateError::NotADrive { .. }
            ));
            assert!(matches!(
                refusal(create::aio(sub, "A", &short, 4096)).await,
                CreateError::TooSmall { bytes: 100, .. }
            ));
            assert!(matches!(
                refusal(create::aio(sub, "A", &path, 1000)).await,
                CreateError::BadBlockSize { .. }
            ));
            create::aio(sub, "A", &path, 4096).await.unwrap();
            assert!(matches!(
                refusal(create::malloc(sub, "A", 8, 4096)).await,
                CreateError::NameTaken { .. }
            ));
            // The same file again, as another process would open it.
            assert!(matches!(
                refusal(create::aio(sub, "B", &path, 4096)).await,
                CreateError::InUse { .. }
            ));
            create::delete(sub, Kind::Aio, "A").await.unwrap();
            create::aio(sub, "B", &path, 4096).await.unwrap();
            assert!(matches!(
                refusal(create::malloc(sub, "M", 0, 4096)).await,
                CreateError::Empty { .. }
            ));
            assert!(matches!(
                refusal(create::malloc(sub, "M", 1 << 40, 4096)).await,
                CreateError::Failed { .. }
            ));
            assert!(matches!(
                refusal(create::error(sub, "None")).await,
                CreateError::NoBase { .. }
            ));
            let nowhere = "fffe:ff:1f.7".parse().unwrap();
            let error = refusal(create::nvme(sub, "N", nowhere)).await;
            assert!(matches!(error, CreateError::NoPciDevice { .. }));
            assert!(error.to_string().contains("lspci"), "{error}");
            assert!(create::delete(sub, Kind::Malloc, "Nothing").await.is_err());
            let Err(error) = BdevDesc::open("Nope", Access::ReadOnly, |_| {}) else {
                panic!("there is no such device")
            };
            assert_eq!(
                error.to_string(),
                "there is no block device 'Nope'; there are: B"
            );
        });
    });
}
