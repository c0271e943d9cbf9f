//! Two ports joined by the ring driver, in one process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::thread;

use oriel_dpdk_sys::{Eal, EalOptions, PktPool, PoolOptions, PortOptions, Started, ring};
use support::{Processes, exchange, frames, part, verify_frame, write_frame};

#[test]
fn a_million_frames_cross_each_way_and_every_buffer_comes_home() {
    if part().is_none() {
        let test = "a_million_frames_cross_each_way_and_every_buffer_comes_home";
        return Processes::new(test).run("both");
    }
    let eal = Eal::start(&EalOptions::default()).unwrap();
    let options = PoolOptions {
        buffers: 4095,
        ..PoolOptions::default()
    };
    let pool_a = PktPool::new(&eal, "a", &options).unwrap();
    let pool_b = PktPool::new(&eal, "b", &options).unwrap();
    let start = (pool_a.available(), pool_b.available());
    assert_eq!(start, (4095, 4095));

    let (a, b) = ring::pair(&eal, "pair", 1024).unwrap();
    assert_eq!(eal.port_ids(), [a.id(), b.id()]);
    let a = a.start(&PortOptions::default(), pool_a).unwrap();
    let b = b.start(&PortOptions::default(), pool_b).unwrap();
    assert!(a.port.link().unwrap().up);
    assert_eq!(a.port.info().unwrap().name, "net_ring_pair_a");

    thread::scope(|scope| {
        for (me, side, pool) in [(0, a, pool_a), (1, b, pool_b)] {
            scope.spawn(move || {
                let Started {
                    port,
                    mut rx,
                    mut tx,
                } = side;
                exchange(me, &mut rx[0], &mut tx[0], pool, frames());
                let stats = port.stats().unwrap();
                assert_eq!((stats.tx_packets, stats.rx_packets), (frames(), frames()));
            });
        }
    });
    // The threads dropped ports and queues; the devices are gone and no buffer is missing.
    assert_eq!(eal.port_ids(), []);
    assert_eq!((pool_a.available(), pool_b.available()), start);
}

#[test]
fn what_a_full_queue_refuses_stays_with_the_sender_and_what_it_holds_is_freed() {
    if part().is_none() {
        let test = "what_a_full_queue_refuses_stays_with_the_sender_and_what_it_holds_is_freed";
        return Processes::new(test).run("both");
    }
    let eal = Eal::start(&EalOptions::default()).unwrap();
    let pool = PktPool::new(
        &eal,
        "p",
        &PoolOptions {
            buffers: 511,
            ..Default::default()
        },
    )
    .unwrap();
    for round in 0..3 {
        let (a, b) = ring::pair(&eal, "small", 64).unwrap();
        let mut a = a.start(&PortOptions::default(), pool).unwrap();
        let mut b = b.start(&PortOptions::default(), pool).unwrap();
        let mut frames = Vec::new();
        pool.alloc_bulk(&mut frames, 100).unwrap();
        for (seq, frame) in (0..).zip(&mut frames) {
            write_frame(frame, 0, seq);
        }
        assert_eq!(a.tx[0].send(&mut frames), 63);
        assert_eq!(frames.len(), 37);
        for (seq, frame) in (63..).zip(&frames) {
            verify_frame(frame, 0, seq);
        }
        // A second sending finds no room at all, and takes nothing.
        assert_eq!(a.tx[0].send(&mut frames), 0);
        assert_eq!(frames.len(), 37);
        // A receiver takes no more than it has room for.
        let mut few = Vec::with_capacity(8);
        let room = few.capacity();
        assert_eq!(b.rx[0].receive(&mut few), room);
        for (seq, frame) in (0..).zip(&few) {
            verify_frame(frame, 0, seq);
        }
        assert_eq!(b.rx[0].receive(&mut few), 0);
        drop((frames, few));
        assert_eq!(
            pool.size() - pool.available(),
            u32::try_from(63 - room).unwrap(),
            "{round}"
        );
        drop((a, b));
        assert_eq!(
            pool.available(),
            pool.size(),
            "round {round} left frames behind"
        );
    }
}

#[test]
fn a_frame_grows_and_shrinks_within_its_buffer() {
    if part().is_none() {
        return Processes::new("a_frame_grows_and_shrinks_within_its_buffer").run("one");
    }
    let eal = Eal::start(&EalOptions::default()).unwrap();
    let options = PoolOptions {
        buffers: 3,
        cache: 0,
        frame_bytes_max: 100,
    };
    let pool = PktPool::new(&eal, "p", &options).unwrap();
    let mut frame = pool.alloc().unwrap();
    assert!(frame.is_empty());
    frame.append(60).unwrap().fill(1);
    frame.append(40).unwrap().fill(2);
    let full = frame.append(1).unwrap_err();
    assert_eq!((full.asked, full.room), (1, 0));
    assert!(frame.append(70_000).is_err());
    frame.trim(30).unwrap();
    frame.data_mut()[0] = 9;
    assert!(frame.trim(71).is_err());
    let mut bytes = [0; 20];
    frame.read(50, &mut bytes).unwrap();
    assert_eq!(bytes, [[1; 10], [2; 10]].concat()[..]);
    assert!(frame.read(51, &mut bytes).is_err());
    assert!(frame.read(usize::MAX, &mut bytes).is_err());
    assert_eq!((frame.len(), frame.data()[0], frame.room()), (70, 9, 30));

    let mut rest = Vec::new();
    let none = pool.alloc_bulk(&mut rest, 3).unwrap_err();
    assert_eq!((none.asked, rest.len()), (3, 0));
    pool.alloc_bulk(&mut rest, 2).unwrap();
    assert!(pool.alloc().is_err());
    drop((frame, rest));
    assert_eq!(pool.available(), 3);
}
