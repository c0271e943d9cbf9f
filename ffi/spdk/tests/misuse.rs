//! Things done in the wrong order, or in the wrong place: a sentence each, and no memory that is gone.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::bdev::{
    self, Access, BdevDesc, BdevEvent, BlockRange, Complete, Io, IoError, IoKind,
};
use oriel_spdk::device::{self, Device, DeviceSpec, Request};
use oriel_spdk::thread::Poller;
use oriel_spdk::{DmaBuf, EnvOptions, SpdkThread, Subsystems, block_on, isolate};
use support::with_spdk;

fn sentence(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(sentence) => *sentence,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[test]
fn a_thread_stays_as_long_as_a_descriptor_of_it() {
    isolate::run("a_thread_stays_as_long_as_a_descriptor_of_it", || {
        let env = EnvOptions::default().start().unwrap();
        let main = SpdkThread::create("main").unwrap();
        let sub = block_on(&main, Subsystems::start()).unwrap();
        block_on(&main, create::malloc(&sub, "Mem", 1024, 4096)).unwrap();
        let mut second = SpdkThread::create("second").unwrap();
        let removed = Rc::new(Cell::new(false));
        let told = removed.clone();
        let desc = BdevDesc::open("Mem", Access::ReadWrite, move |event| {
            told.set(event == BdevEvent::Removed);
        });
        let desc = RefCell::new(Some(desc.unwrap()));
        for _ in 0..1000 {
            assert!(!second.poll_exit(), "exited under its descriptor");
        }
        // The descriptor is told on its thread, which is still there to be told.
        block_on(&main, async {
            let deleted = create::delete(&sub, Kind::Malloc, "Mem");
            let mut deleted = std::pin::pin!(deleted);
            poll_fn(|cx| {
                second.poll_exit();
                if removed.get() {
                    desc.borrow_mut().take();
                }
                deleted.as_mut().poll(cx)
            })
            .await
        })
        .unwrap();
        while !second.poll_exit() {}
        drop(second);
        block_on(&main, sub.stop());
        main.exit();
        drop(env);
    });
}

#[test]
fn the_environment_does_not_end_under_a_thread() {
    isolate::run("the_environment_does_not_end_under_a_thread", || {
        let env = EnvOptions::default().start().unwrap();
        let thread = SpdkThread::create("left").unwrap();
        let ended = catch_unwind(AssertUnwindSafe(|| drop(env)));
        let said = sentence(ended.unwrap_err());
        assert!(
            said.contains("drop every SpdkThread before the Env"),
            "{said}"
        );
        // It is still there to be used, and to be exited.
        thread.poll();
        thread.exit();
    });
}

#[test]
fn devices_are_listed_where_they_come_and_go() {
    isolate::run("devices_are_listed_where_they_come_and_go", || {
        with_spdk(async |sub| {
            create::null(&sub, "Null", 1024, 4096).await.unwrap();
            assert_eq!(bdev::names(), ["Null"]);
            let elsewhere = std::thread::spawn(|| {
                let thread = SpdkThread::create("elsewhere").unwrap();
                let listed = catch_unwind(bdev::names).unwrap_err();
                let missing = BdevDesc::open("Missing", Access::ReadOnly, |_| {}).err();
                thread.exit();
                (sentence(listed), missing.unwrap().to_string())
            });
            let wait = Duration::from_millis(1);
            while !elsewhere.is_finished() {
                std::thread::sleep(wait);
            }
            let (listed, missing) = elsewhere.join().unwrap();
            assert!(listed.contains("that started the subsystems"), "{listed}");
            assert!(missing.contains("Missing"), "{missing}");
            create::delete(&sub, Kind::Null, "Null").await.unwrap();
        });
    });
}

struct Swallows;

impl Device for Swallows {
    type Channel = ();

    fn supports(&self, kind: IoKind) -> bool {
        matches!(kind, IoKind::Read | IoKind::Write | IoKind::Flush)
    }

    fn channel(&self) -> Option<()> {
        Some(())
    }

    fn submit(&self, (): &(), request: Request) {
        request.complete(Ok(()));
    }
}

fn spec() -> DeviceSpec {
    DeviceSpec {
        name: "Swallows".into(),
        product: "test".into(),
        block_size: 4096,
        blocks: 100,
        boundary_blocks: 0,
        write_cache: false,
        uuid: [0; 16],
    }
}

struct Never;

impl Complete for Never {
    fn complete(_io: Box<Io<Self>>, _result: Result<(), IoError>) {
        panic!("a request of no blocks was carried out");
    }
}

#[test]
fn requests_of_no_blocks_are_refused() {
    isolate::run("requests_of_no_blocks_are_refused", || {
        with_spdk(async |_sub| {
            let device = device::register(&spec(), Swallows).unwrap();
            let desc = BdevDesc::open("Swallows", Access::ReadWrite, |_| {}).unwrap();
            let channel = desc.channel().unwrap();
            let io = || Io::new(DmaBuf::zeroed(4096, 4096).unwrap(), Never);
            let nothing = BlockRange::new(7, 0);
            assert!(channel.read(io(), nothing).is_err());
            assert!(channel.write(io(), nothing).is_err());
            assert!(channel.write_zeroes(io(), nothing).is_err());
            assert!(channel.flush(io(), nothing).is_err());
            drop((channel, desc));
            device.unregister().await.unwrap();
        });
    });
}

#[test]
fn a_device_that_went_with_the_subsystems_is_not_unregistered_again() {
    isolate::run(
        "a_device_that_went_with_the_subsystems_is_not_unregistered_again",
        || {
            let env = EnvOptions::default().start().unwrap();
            let main = SpdkThread::create("main").unwrap();
            let sub = block_on(&main, Subsystems::start()).unwrap();
            let device = device::register(&spec(), Swallows).unwrap();
            block_on(&main, sub.stop());
            assert_eq!(block_on(&main, device.unregister()), Ok(()));
            main.exit();
            drop(env);
        },
    );
}

#[test]
fn subsystems_that_cannot_stop_name_what_is_open() {
    isolate::run("subsystems_that_cannot_stop_name_what_is_open", || {
        let env = EnvOptions::default().start().unwrap();
        let main = SpdkThread::create("main").unwrap();
        let sub = block_on(&main, Subsystems::start()).unwrap();
        block_on(&main, create::malloc(&sub, "Mem", 1024, 4096)).unwrap();
        let desc = BdevDesc::open("Mem", Access::ReadWrite, |_| {}).unwrap();
        let begun = Instant::now();
        let stopped = catch_unwind(AssertUnwindSafe(|| block_on(&main, sub.stop())));
        let said = sentence(stopped.unwrap_err());
        assert!(said.contains("every BdevDesc and Channel of Mem"), "{said}");
        assert!(begun.elapsed() >= oriel_spdk::limits::SUBSYSTEMS_STOP_LIMIT);
        // Once it is closed the subsystems go on to their end.
        drop(desc);
        for _ in 0..10_000 {
            main.poll();
        }
        main.exit();
        drop(env);
    });
}

#[test]
fn a_thread_that_exits_within_another_leaves_that_one_current() {
    isolate::run(
        "a_thread_that_exits_within_another_leaves_that_one_current",
        || {
            with_spdk(async |_sub| {
                let inner = SpdkThread::create("inner").unwrap();
                let inner = Rc::new(RefCell::new(Some(inner)));
                let listed = Rc::new(RefCell::new(None));
                let outer = listed.clone();
                // block_on makes the outer thread current before each of its turns.
                let mut turns = 0;
                poll_fn(|_| {
                    turns += 1;
                    if turns > 1 {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
                let poller = Poller::register("exits another", Duration::ZERO, move || {
                    if let Some(thread) = inner.borrow_mut().take() {
                        thread.exit();
                        *outer.borrow_mut() = Some(bdev::names());
                    }
                    true
                });
                poll_fn(|_| match listed.borrow().is_some() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                drop(poller);
                assert_eq!(*listed.borrow(), Some(vec![]));
            });
        },
    );
}
