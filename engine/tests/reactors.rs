//! Reactors on several threads, without SPDK: this is what ThreadSanitizer sees.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oriel_engine::reactor::*;

fn config() -> ReactorConfig {
    ReactorConfig {
        signals: false,
        // The tests share two cores with whatever else runs there.
        held_limit: Duration::from_secs(5),
        ..ReactorConfig::default()
    }
}

/// Yields instead of spinning, for machines with fewer cores than reactors.
fn gentle() -> ReactorConfig {
    ReactorConfig {
        backoff: Some(Backoff {
            idle_turns: 50,
            sleep_max: Duration::from_millis(1),
        }),
        ..config()
    }
}

const FIRST: CoreId = CoreId(0);
const OTHER: CoreId = CoreId(1);

#[test]
fn work_runs_on_the_core_it_was_sent_to_and_the_result_comes_back() {
    for config in [config(), gentle()] {
        let finished = start(OsThreads::unpinned(2), config, |reactors| async move {
            assert_eq!(current_core(), FIRST);
            assert_eq!(reactors.cores(), [FIRST, OTHER]);
            let mut sum = 0;
            for number in 0..500u64 {
                let there = reactors.spawn(OTHER, "square", move || async move {
                    assert_eq!(current_core(), OTHER);
                    // Not Send: the future is made on its core and stays there.
                    let number = Rc::new(number);
                    yield_now().await;
                    *number * *number
                });
                sum += there.unwrap().await.unwrap();
            }
            let stats = reactors.stats(OTHER).unwrap();
            (sum, stats.messages, stats.tasks_run)
        });
        let (sum, messages, tasks_run) = finished.unwrap().value;
        assert_eq!(sum, (0..500).map(|n| n * n).sum::<u64>());
        assert!(
            messages >= 499 && tasks_run >= 2 * 499,
            "{messages} {tasks_run}"
        );
    }
}

#[test]
fn work_sent_right_before_the_end_is_still_done() {
    for round in 0..30 {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        let result = start(OsThreads::unpinned(3), gentle(), |reactors| async move {
            for number in 0..60 {
                let (done, again) = (counted.clone(), reactors.clone());
                let core = CoreId(number % 3);
                let sent = reactors.spawn(core, "first hop", move || async move {
                    yield_now().await;
                    let next = CoreId((current_core().0 + 1) % 3);
                    let second = again.spawn(next, "second hop", move || async move {
                        yield_now().await;
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                    // Nobody waits for it.
                    drop(second.unwrap());
                });
                drop(sent.unwrap());
            }
        });
        result.unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 60, "in round {round}");
    }
}

#[test]
fn work_that_cannot_be_taken_comes_back() {
    let config = ReactorConfig {
        inbox_slots: 2,
        tasks_max: 4,
        ..gentle()
    };
    let kept = Mutex::new(None);
    start(OsThreads::unpinned(1), config, |reactors| {
        *kept.lock().unwrap() = Some(reactors.clone());
        async move {
            let work = |n: u32| move || async move { n };
            let none = reactors.spawn(CoreId(9), "nowhere", work(1)).unwrap_err();
            assert!(none.to_string().contains("core 9 has no reactor"), "{none}");
            let a = reactors.spawn(FIRST, "a", work(1)).unwrap();
            let b = reactors.spawn(FIRST, "b", work(2)).unwrap();
            let full = reactors.spawn(FIRST, "c", work(3)).unwrap_err();
            assert!(matches!(full, SpawnError::Full { core: FIRST, .. }));
            assert_eq!((a.await, b.await), (Ok(1), Ok(2)));
            assert_eq!(full.into_work()().await, 3);

            let fill: Vec<_> = (0..3)
                .map(|_| spawn_local("fill", stop_requested()).unwrap())
                .collect();
            let refused = reactors.spawn(FIRST, "no slot", work(4)).unwrap().await;
            assert_eq!(refused, Err(RemoteError::NoTaskSlot));
            drop(fill);
        }
    })
    .unwrap();
    let reactors = kept.into_inner().unwrap().unwrap();
    let late = reactors.spawn(FIRST, "late", || async { 5 }).unwrap_err();
    assert!(matches!(late, SpawnError::Stopped { .. }), "{late}");
}

#[test]
fn a_plain_thread_sends_work_and_waits() {
    let result = start(OsThreads::unpinned(2), gentle(), |reactors| {
        let (send, receive) = std::sync::mpsc::channel();
        let outside = std::thread::spawn(move || {
            let mut sum = 0;
            for number in 0..200u64 {
                let there = reactors.spawn(OTHER, "echo", move || async move { number });
                sum += there.unwrap().wait().unwrap();
            }
            reactors.shut_down();
            send.send(sum).unwrap();
        });
        async move {
            stop_requested().await;
            outside.join().unwrap();
            receive.recv().unwrap()
        }
    });
    assert_eq!(result.unwrap().value, 199 * 200 / 2);
}

#[test]
fn typed_mailboxes_carry_messages_between_two_cores_and_back() {
    const MESSAGES: u64 = 2_000;
    let result = start(OsThreads::unpinned(2), gentle(), |reactors| async move {
        let sum = Rc::new(Cell::new(0u64));
        let got = Rc::new(Cell::new(0u64));
        let (of_sum, of_got) = (sum.clone(), got.clone());
        let answers = attach_mailbox::<Box<u64>>(64, move |n| {
            of_sum.set(of_sum.get() + *n);
            of_got.set(of_got.get() + 1);
        });
        let there = reactors.spawn(OTHER, "attach", move || async move {
            attach_mailbox::<Box<u64>>(64, move |n| {
                let mut answer = n;
                *answer += 1;
                // At most 64 are on their way, so there is room.
                answers.send(answer).unwrap();
            })
        });
        let requests = there.unwrap().await.unwrap();
        for number in 0..MESSAGES {
            while number - got.get() >= 64 {
                yield_now().await;
            }
            requests.send(Box::new(number)).unwrap();
        }
        while got.get() < MESSAGES {
            yield_now().await;
        }
        sum.get()
    });
    assert_eq!(result.unwrap().value, (1..=MESSAGES).sum::<u64>());
}

#[test]
fn one_way_messages_sent_before_the_end_reach_their_handler() {
    for _ in 0..20 {
        let handled = Arc::new(AtomicU64::new(0));
        let counted = handled.clone();
        start(OsThreads::unpinned(2), gentle(), |reactors| async move {
            let there = reactors.spawn(OTHER, "attach", move || async move {
                attach_mailbox::<u64>(128, move |n| {
                    counted.fetch_add(n, Ordering::Relaxed);
                })
            });
            let sender = there.unwrap().await.unwrap();
            (0..100).for_each(|_| sender.send(1).unwrap());
        })
        .unwrap();
        assert_eq!(handled.load(Ordering::Relaxed), 100);
    }
}

#[test]
fn the_watchdog_names_what_holds_a_reactor_and_nothing_else() {
    let reports = Arc::new(Mutex::new(Vec::<Held>::new()));
    let collected = reports.clone();
    let config = ReactorConfig {
        held_limit: Duration::from_millis(300),
        on_held: Some(Arc::new(move |held| {
            collected.lock().unwrap().push(held.clone());
        })),
        ..gentle()
    };
    start(OsThreads::unpinned(2), config, |reactors| async move {
        let there = reactors.spawn(OTHER, "slow checksum", || async {
            std::thread::sleep(Duration::from_millis(800));
        });
        // Meanwhile this reactor is idle and mostly asleep, which is no fault.
        there.unwrap().await.unwrap();
        let slow_message = attach_mailbox::<Duration>(2, std::thread::sleep);
        slow_message.send(Duration::from_millis(500)).unwrap();
        sleep(Duration::from_millis(900)).await;
    })
    .unwrap();
    let reports = reports.lock().unwrap();
    let seen: Vec<_> = reports.iter().map(|h| (h.core, &*h.by)).collect();
    assert_eq!(
        seen,
        [
            (OTHER, "task 'slow checksum'"),
            (OTHER, "task 'slow checksum'"),
            (FIRST, "message core::time::Duration"),
        ],
        "at the limit and at its double, then the message"
    );
    assert!(reports[0].at_least >= Duration::from_millis(300));
    assert!(reports[1].at_least >= Duration::from_millis(600));
}

#[test]
fn a_reactor_with_backoff_sleeps_and_a_message_wakes_it() {
    let config = ReactorConfig {
        backoff: Some(Backoff {
            idle_turns: 10,
            sleep_max: Duration::from_secs(3600),
        }),
        ..config()
    };
    let begun = Instant::now();
    let asleep = start(OsThreads::unpinned(2), config, |reactors| async move {
        for _ in 0..20 {
            sleep(Duration::from_millis(15)).await;
            // Naps double from 20 us, so that core sleeps for long by now.
            let there = reactors.spawn(OTHER, "wake", || async {});
            there.unwrap().await.unwrap();
        }
        reactors.stats(OTHER).unwrap().asleep
    });
    let took = begun.elapsed();
    let asleep = asleep.unwrap().value;
    assert!(
        took < Duration::from_secs(60),
        "no wake-up was lost: {took:?}"
    );
    assert!(asleep > took / 2, "{asleep:?} of {took:?} asleep");
}

#[test]
fn time_is_booked_as_busy_or_idle() {
    let stats = start(OsThreads::unpinned(1), config(), |reactors| async move {
        sleep(Duration::from_millis(50)).await;
        std::thread::sleep(Duration::from_millis(100));
        yield_now().await;
        yield_now().await;
        reactors.stats(FIRST).unwrap()
    });
    let stats = stats.unwrap().value;
    assert!(stats.busy >= Duration::from_millis(100), "{stats:?}");
    assert!(stats.idle >= Duration::from_millis(45), "{stats:?}");
    assert!(stats.turns > 1000 && stats.timers_fired == 1, "{stats:?}");
}

#[test]
fn a_shutdown_that_hangs_ends_at_the_deadline_and_names_the_tasks() {
    let config = ReactorConfig {
        shutdown_deadline: Duration::from_millis(200),
        ..gentle()
    };
    let begun = Instant::now();
    let result = start(OsThreads::unpinned(2), config, |reactors| async move {
        for _ in 0..3 {
            let stuck = reactors.spawn(OTHER, "journal flush", std::future::pending::<()>);
            drop(stuck.unwrap());
        }
        drop(spawn_local("accept", std::future::pending::<()>()));
    });
    let error = result.unwrap_err();
    assert_eq!(error.exit_status(), ExitStatus::DeadlinePassed);
    let text = error.to_string();
    assert!(text.contains("core 0: task 'accept'"), "{text}");
    assert!(text.contains("core 1: 3 tasks 'journal flush'"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_reactor_that_does_not_turn_is_named_by_what_holds_it() {
    let config = ReactorConfig {
        shutdown_deadline: Duration::from_millis(100),
        ..gentle()
    };
    let result = start(OsThreads::unpinned(2), config, |reactors| async move {
        let stuck = reactors.spawn(OTHER, "endless loop", || async {
            std::thread::sleep(Duration::from_secs(5));
        });
        drop(stuck.unwrap());
        sleep(Duration::from_millis(50)).await;
    });
    let text = result.unwrap_err().to_string();
    assert!(
        text.contains("core 1: held by task 'endless loop'"),
        "{text}"
    );
}

#[test]
fn sources_finish_last_attached_first_and_the_main_core_after_the_others() {
    struct Noted {
        name: &'static str,
        turns_to_finish: u32,
        log: Arc<Mutex<Vec<&'static str>>>,
    }
    impl Source for Noted {
        fn name(&self) -> String {
            self.name.into()
        }
        fn poll(&mut self) -> bool {
            false
        }
        fn finish(&mut self) -> bool {
            self.turns_to_finish -= 1;
            if self.turns_to_finish == 0 {
                self.log.lock().unwrap().push(self.name);
            }
            self.turns_to_finish == 0
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let of_root = log.clone();
    start(OsThreads::unpinned(3), gentle(), |reactors| async move {
        let noted = move |name| Noted {
            name,
            turns_to_finish: 3,
            log: of_root.clone(),
        };
        attach(noted("main first"));
        attach(noted("main second"));
        for (core, name) in [(1, "one"), (2, "two")] {
            let source = noted(name);
            let there = reactors.spawn(CoreId(core), "attach", move || async { attach(source) });
            there.unwrap().await.unwrap();
        }
    })
    .unwrap();
    let log = log.lock().unwrap();
    assert_eq!(*log, ["two", "one", "main second", "main first"]);
}

#[test]
fn a_core_that_does_not_exist_is_an_error_and_the_others_stop() {
    let cores = [CoreId(0), CoreId(1023)];
    let error = start(OsThreads::pinned(cores), config(), |_| async {}).unwrap_err();
    assert!(error.to_string().contains("core 1023"), "{error}");
    assert_eq!(error.exit_status(), ExitStatus::Failed);
}

#[test]
#[should_panic(expected = "a bug on another core")]
fn a_panic_on_a_worker_ends_the_program_with_that_panic() {
    let _ = start(OsThreads::unpinned(2), gentle(), |reactors| async move {
        let there = reactors.spawn(OTHER, "buggy", || async { panic!("a bug on another core") });
        let _: Result<(), _> = there.unwrap().await;
        stop_requested().await;
    });
}
