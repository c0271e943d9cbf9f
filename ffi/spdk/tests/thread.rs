//! Environment, threads, messages, pollers.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod support;

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oriel_spdk::env::{EnvError, LaunchError};
use oriel_spdk::thread::{Poller, SendError, ThreadError};
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, isolate};

#[test]
fn the_environment_starts_once() {
    isolate::run("the_environment_starts_once", || {
        assert_eq!(SpdkThread::create("early").err(), Some(ThreadError::NoEnv));
        let env = EnvOptions::default().start().unwrap();
        assert_eq!(
            EnvOptions::default().start().unwrap_err(),
            EnvError::AlreadyStarted
        );
        drop(env);
        assert_eq!(
            EnvOptions::default().start().unwrap_err(),
            EnvError::AlreadyStarted
        );
    });
}

#[test]
fn messages_from_other_cores_arrive_in_order() {
    isolate::run("messages_from_other_cores_arrive_in_order", || {
        let cores = CoreSet::allowed().first(2);
        if cores.count() < 2 {
            eprintln!("one core only: nothing to send from");
            return;
        }
        let env = EnvOptions {
            cores,
            ..EnvOptions::default()
        }
        .start()
        .unwrap();
        let other = cores.iter().nth(1).unwrap();
        assert!(matches!(
            env.launch(99, || {}),
            Err(LaunchError::NotOurs { core: 99, .. })
        ));
        assert!(matches!(
            env.launch(env.main_core(), || {}),
            Err(LaunchError::MainCore { .. })
        ));
        let thread = SpdkThread::create("receiver").unwrap();
        let handle = thread.handle();
        let next = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&next);
        env.launch(other, move || {
            for number in 0..10_000 {
                let next = Arc::clone(&seen);
                let mut message = move || assert_eq!(next.fetch_add(1, Ordering::Relaxed), number);
                // A full pool gives the message back; then it is sent again.
                while let Err(SendError::NoRoom(back)) = handle.send(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        })
        .unwrap();
        while next.load(Ordering::Relaxed) < 10_000 {
            thread.poll();
        }
        env.join_all();
        let late = thread.handle();
        thread.exit();
        assert!(matches!(late.send(|| {}), Err(SendError::Exited(_))));
    });
}

#[test]
fn pollers_run_until_dropped_even_by_themselves() {
    isolate::run("pollers_run_until_dropped_even_by_themselves", || {
        let env = EnvOptions::default().start().unwrap();
        let thread = SpdkThread::create("pollers").unwrap();
        let turns = Rc::new(Cell::new(0));
        let count = Rc::clone(&turns);
        let busy = Poller::register("count", Duration::ZERO, move || {
            count.set(count.get() + 1);
            true
        });
        let own: Rc<Cell<Option<Poller>>> = Rc::default();
        let (itself, fired) = (Rc::clone(&own), Rc::new(Cell::new(None)));
        let (start, fired_at) = (Instant::now(), Rc::clone(&fired));
        own.set(Some(Poller::register(
            "once",
            Duration::from_millis(20),
            move || {
                fired_at.set(Some(start.elapsed()));
                itself.take();
                false
            },
        )));
        while fired.get().is_none() {
            thread.poll();
        }
        assert!(fired.take().unwrap() >= Duration::from_millis(19));
        for _ in 0..100 {
            thread.poll();
        }
        assert!(
            fired.get().is_none(),
            "it dropped itself, so it must not run again"
        );
        let so_far = turns.get();
        assert!(so_far > 100);
        drop(busy);
        thread.poll();
        assert_eq!(turns.get(), so_far);
        thread.exit();
        drop(env);
    });
}

#[test]
fn a_thread_does_not_exit_under_its_pollers() {
    isolate::expect_panic(
        "a_thread_does_not_exit_under_its_pollers",
        "still has objects that were made on it",
        || {
            let _env = EnvOptions::default().start().unwrap();
            let thread = SpdkThread::create("forgetful").unwrap();
            let poller = Poller::register("forgotten", Duration::ZERO, || false);
            thread.exit();
            drop(poller);
        },
    );
}

#[test]
fn nothing_of_a_run_is_left_behind() {
    const NAME: &str = "nothing_of_a_run_is_left_behind";
    let files = || {
        let output = Command::new("sh").args(["-c", "ls -a /var/run/dpdk /tmp/dpdk /dev/shm /var/tmp 2>/dev/null; ls /tmp | grep ^oriel-"]).output().unwrap();
        let mut lines: Vec<String> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(String::from)
            .collect();
        // Other tests run beside this one; theirs carry other process numbers and go on their own.
        let own = std::process::id().to_string();
        lines.retain(|line| line.contains(&own));
        lines
    };
    isolate::run(NAME, || {
        support::with_spdk(async |_sub| {});
        assert_eq!(files(), Vec::<String>::new());
    });
}
