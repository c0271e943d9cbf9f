//! A block device written in Rust, behind the same interface as every other.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod support;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use oriel_spdk::bdev::{
    Access, BdevDesc, BdevEvent, BlockRange, IoError, IoKind, Memory, RequestError, create,
};
use oriel_spdk::device::{Device, DeviceSpec, Lent, RegisterError, Request, register};
use oriel_spdk::{DmaBuf, isolate};
use support::with_spdk;

const BLOCK: usize = 4096;

/// Keeps blocks in a map; the last block always fails, the one before it is forgotten.
struct Sparse {
    blocks: Mutex<HashMap<u64, Vec<u8>>>,
    count: u64,
    channels: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct SparseChannel {
    requests: Cell<u64>,
    open: Arc<AtomicUsize>,
}

impl Drop for SparseChannel {
    fn drop(&mut self) {
        assert!(self.requests.get() > 0);
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        assert_eq!(
            self.channels.load(Ordering::SeqCst),
            0,
            "channels go before their device"
        );
        self.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

const MEDIA_ERROR: IoError = IoError {
    status_type: 2,
    status_code: 0x81,
};

impl Device for Sparse {
    type Channel = SparseChannel;

    fn supports(&self, kind: IoKind) -> bool {
        matches!(kind, IoKind::Read | IoKind::Write | IoKind::Unmap)
    }

    fn channel(&self) -> Option<SparseChannel> {
        self.channels.fetch_add(1, Ordering::SeqCst);
        Some(SparseChannel {
            requests: Cell::new(0),
            open: Arc::clone(&self.channels),
        })
    }

    fn submit(&self, channel: &SparseChannel, mut request: Request) {
        channel.requests.set(channel.requests.get() + 1);
        let range = request.range();
        if range.start == self.count - 1 {
            return request.complete(Err(MEDIA_ERROR));
        }
        if range.start == self.count - 2 {
            return;
        }
        let mut blocks = self.blocks.lock().unwrap();
        let mut at = range.start;
        match request.kind() {
            Some(IoKind::Read) => {
                for buf in request.buffers().flat_map(|buf| buf.chunks_mut(BLOCK)) {
                    match blocks.get(&at) {
                        Some(block) => buf.copy_from_slice(block),
                        None => buf.fill(0),
                    }
                    at += 1;
                }
            }
            Some(IoKind::Write) => {
                for buf in request.buffers().flat_map(|buf| buf.chunks(BLOCK)) {
                    blocks.insert(at, buf.to_vec());
                    at += 1;
                }
            }
            _ => blocks.retain(|block, _| !(at..at + range.count).contains(block)),
        }
        drop(blocks);
        request.complete(Ok(()));
    }
}

#[test]
fn a_device_in_rust_reads_writes_fails_and_goes() {
    isolate::run("a_device_in_rust_reads_writes_fails_and_goes", || {
        with_spdk(async |_sub| {
            let dropped = Arc::default();
            let count = 1 << 50;
            // Each has its own count of channels; the number of dropped ones is common.
            let device = || Sparse {
                blocks: Mutex::default(),
                count,
                channels: Arc::default(),
                dropped: Arc::clone(&dropped),
            };
            let spec = DeviceSpec {
                name: "Sparse0".into(),
                product: "sparse test device".into(),
                block_size: BLOCK as u32,
                blocks: count,
                boundary_blocks: 0,
                write_cache: false,
                uuid: [7; 16],
            };
            let registered = register(&spec, device()).unwrap();
            assert!(matches!(
                register(&spec, device()),
                Err(RegisterError::NameTaken { .. })
            ));
            assert_eq!(
                dropped.load(Ordering::SeqCst),
                1,
                "a refused device is dropped"
            );
            let odd = DeviceSpec {
                block_size: 1000,
                name: "Odd".into(),
                ..spec.clone()
            };
            assert!(matches!(
                register(&odd, device()),
                Err(RegisterError::BadGeometry { .. })
            ));

            let desc: Rc<RefCell<Option<BdevDesc>>> = Rc::default();
            let kept = Rc::clone(&desc);
            let opened = BdevDesc::open("Sparse0", Access::ReadWrite, move |event| {
                assert_eq!(event, BdevEvent::Removed);
                kept.borrow_mut().take();
            });
            let opened = opened.unwrap();
            assert_eq!(
                (opened.product(), opened.uuid()),
                ("sparse test device".into(), [7; 16])
            );
            assert_eq!(opened.block_count(), count);
            assert!(!opened.supports(IoKind::NvmeIo) && opened.supports(IoKind::Unmap));
            let channel = opened.channel().unwrap();
            *desc.borrow_mut() = Some(opened);
            let far = count - 100;
            let mut buf = DmaBuf::zeroed(3 * BLOCK, BLOCK).unwrap();
            buf.iter_mut()
                .enumerate()
                .for_each(|(index, byte)| *byte = (index / 7) as u8);
            let written = buf.to_vec();
            let (mut buf, result) = channel.write_at(buf, BlockRange::new(far, 3)).await;
            result.unwrap();
            buf.fill(0xee);
            let (buf, result) = channel.read_at(buf, BlockRange::new(far, 3)).await;
            result.unwrap();
            assert_eq!(*buf, written[..]);
            channel.unmap_at(BlockRange::new(far, 2)).await.unwrap();
            let (buf, result) = channel.read_at(buf, BlockRange::new(far, 3)).await;
            result.unwrap();
            assert!(
                buf[..2 * BLOCK].iter().all(|&byte| byte == 0)
                    && buf[2 * BLOCK..] == written[2 * BLOCK..]
            );
            let (buf, result) = channel.read_at(buf, BlockRange::new(count - 1, 1)).await;
            assert_eq!(
                result,
                Err(RequestError::Device(MEDIA_ERROR)),
                "the device's own status arrives"
            );
            let (_buf, result) = channel.read_at(buf, BlockRange::new(count - 2, 1)).await;
            let forgotten = IoError {
                status_type: 0,
                status_code: 6,
            };
            assert_eq!(
                result,
                Err(RequestError::Device(forgotten)),
                "a forgotten request fails"
            );
            drop(channel);
            registered.unregister().await.unwrap();
            assert_eq!(dropped.load(Ordering::SeqCst), 3);
        });
    });
}

/// Hands its reads and writes on, as memory, to whoever empties the queue.
struct Lender(Arc<Mutex<Vec<Lent>>>);

impl Device for Lender {
    type Channel = ();

    fn supports(&self, kind: IoKind) -> bool {
        matches!(kind, IoKind::Read | IoKind::Write)
    }

    fn channel(&self) -> Option<()> {
        Some(())
    }

    fn submit(&self, (): &(), request: Request) {
        match request.lend() {
            Ok(lent) => self.0.lock().unwrap().push(lent),
            Err(request) => request.complete(Err(MEDIA_ERROR)),
        }
    }
}

/// Both futures, each polled at every turn.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    std::future::poll_fn(|cx| {
        if of_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            of_a = Some(value);
        }
        if of_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            of_b = Some(value);
        }
        match of_a.is_some() && of_b.is_some() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    (of_a.unwrap(), of_b.unwrap())
}

async fn next(queue: &Mutex<Vec<Lent>>) -> Lent {
    std::future::poll_fn(|_| match queue.lock().unwrap().pop() {
        Some(lent) => Poll::Ready(lent),
        None => Poll::Pending,
    })
    .await
}

#[test]
fn a_requests_memory_is_filled_by_the_device_below() {
    isolate::run("a_requests_memory_is_filled_by_the_device_below", || {
        with_spdk(async |sub| {
            create::malloc(&sub, "Below", 64, 4096).await.unwrap();
            let queue = Arc::<Mutex<Vec<Lent>>>::default();
            let spec = DeviceSpec {
                name: "Lender".into(),
                product: "lends its memory".into(),
                block_size: BLOCK as u32,
                blocks: 64,
                boundary_blocks: 0,
                write_cache: false,
                uuid: [9; 16],
            };
            let registered = register(&spec, Lender(Arc::clone(&queue))).unwrap();
            let above = BdevDesc::open("Lender", Access::ReadWrite, |_| {}).unwrap();
            let below = BdevDesc::open("Below", Access::ReadWrite, |_| {}).unwrap();
            let (upper, lower) = (above.channel().unwrap(), below.channel().unwrap());
            let range = BlockRange::new(5, 3);
            let mut written = DmaBuf::zeroed(3 * BLOCK, BLOCK).unwrap();
            written
                .iter_mut()
                .enumerate()
                .for_each(|(index, byte)| *byte = (index / 11) as u8);
            let bytes = written.to_vec();
            let start = written.as_ptr();
            let forward = async {
                let lent = next(&queue).await;
                assert_eq!((lent.len(), lent.as_ref()), (bytes.len(), &bytes[..]));
                assert_eq!(lent.as_ref().as_ptr(), start, "no copy");
                let (memory, result) = lower.write_at(Memory::Lent(lent), range).await;
                result.unwrap();
                let Memory::Lent(lent) = memory else {
                    panic!("what was sent comes back");
                };
                lent.take_back().complete(Ok(()));
            };
            let ((mut buf, result), ()) = both(upper.write_at(written, range), forward).await;
            result.unwrap();
            buf.fill(0xee);
            let forward = async {
                let memory = Memory::Lent(next(&queue).await);
                let (memory, result) = lower.read_at(memory, range).await;
                result.unwrap();
                let Memory::Lent(lent) = memory else {
                    panic!("what was sent comes back");
                };
                lent.take_back().complete(Ok(()));
            };
            let ((buf, result), ()) = both(upper.read_at(buf, range), forward).await;
            result.unwrap();
            assert_eq!(*buf, bytes[..]);

            // Dropped, here and elsewhere, it fails its request, which comes back on its own thread.
            let forgotten = Err(RequestError::Device(IoError {
                status_type: 0,
                status_code: 6,
            }));
            for elsewhere in [false, true] {
                let forget = async {
                    let lent = next(&queue).await;
                    match elsewhere {
                        false => drop(lent),
                        true => std::thread::spawn(move || drop(lent)).join().unwrap(),
                    }
                };
                let buf = DmaBuf::zeroed(BLOCK, BLOCK).unwrap();
                let read = upper.read_at(buf, BlockRange::new(0, 1));
                let ((_, result), ()) = both(read, forget).await;
                assert_eq!(result, forgotten, "{elsewhere}");
            }
            drop((upper, lower, above, below));
            registered.unregister().await.unwrap();
            create::delete(&sub, create::Kind::Malloc, "Below")
                .await
                .unwrap();
        });
    });
}
