//! Calls from reactor to reactor, on several threads without SPDK: ThreadSanitizer sees these, too.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use oriel_engine::reactor::*;

const FIRST: CoreId = CoreId(0);
const OTHER: CoreId = CoreId(1);

/// Naps when idle, for machines with fewer cores than reactors.
fn gentle() -> ReactorConfig {
    ReactorConfig {
        signals: false,
        held_limit: Duration::from_secs(5),
        backoff: Some(Backoff {
            idle_turns: 50,
            sleep_max: Duration::from_millis(1),
        }),
        ..ReactorConfig::default()
    }
}

/// Polls a future once, and drops it.
async fn begin_and_forget(future: impl Future) {
    let mut future = Box::pin(future);
    poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_call_runs_there_and_its_answer_comes_home() {
    let awake = ReactorConfig {
        backoff: None,
        ..gentle()
    };
    for config in [awake, gentle()] {
        let sum = start(OsThreads::unpinned(2), config, |_| async {
            let mut sum = 0;
            for number in 0..500u64 {
                let core = CoreId(number as u32 % 2);
                let squared = call(core, "square", move || async move {
                    assert_eq!(current_core(), core);
                    // Not Send: the future is made on its core and stays there.
                    let number = Rc::new(number);
                    yield_now().await;
                    *number * *number
                });
                sum += squared.await.unwrap();
                assert_eq!(current_core(), FIRST);
            }
            sum
        });
        assert_eq!(sum.unwrap().value, (0..500).map(|n| n * n).sum::<u64>());
    }
}

/// All inboxes are full nearly always, so boxes wait on their way out and on their way home.
#[test]
fn every_answer_finds_its_caller_although_the_inboxes_are_full() {
    const CALLERS: u64 = 40;
    const CALLS: u64 = 12;
    let config = ReactorConfig {
        inbox_slots: 2,
        ..gentle()
    };
    start(OsThreads::unpinned(3), config, |reactors| async move {
        let busy: Vec<_> = (0..3)
            .map(|core| {
                let mut work = move || async move {
                    let tasks: Vec<_> = (0..CALLERS)
                        .map(|caller| spawn_local("caller", calls(core, caller)).unwrap())
                        .collect();
                    for task in tasks {
                        task.await;
                    }
                };
                loop {
                    match reactors.spawn(CoreId(core), "callers", work) {
                        Ok(sent) => break sent,
                        Err(full) => work = full.into_work(),
                    }
                }
            })
            .collect();
        for busy in busy {
            busy.await.unwrap();
        }
    })
    .unwrap();

    async fn calls(core: u32, caller: u64) {
        for number in 0..CALLS {
            let to = CoreId((core + 1 + (number % 2) as u32) % 3);
            let asked = (core, caller, number);
            let answer = call(to, "echo", move || async move {
                yield_now().await;
                (current_core(), asked)
            });
            assert_eq!(answer.await, Ok((to, asked)));
        }
    }
}

#[test]
fn calls_that_nobody_waits_for_are_still_done_before_the_end() {
    for round in 0..30 {
        let done = Arc::new(AtomicUsize::new(0));
        let counted = done.clone();
        start(OsThreads::unpinned(3), gentle(), |_| async move {
            for number in 0..60 {
                let done = counted.clone();
                let first = call(CoreId(number % 3), "first hop", move || async move {
                    yield_now().await;
                    let next = CoreId((current_core().0 + 1) % 3);
                    let second = call(next, "second hop", move || async move {
                        yield_now().await;
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                    begin_and_forget(second).await;
                });
                begin_and_forget(first).await;
            }
        })
        .unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 60, "in round {round}");
    }
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped_on_the_core_that_asked() {
    struct Noted(Arc<Mutex<Vec<CoreId>>>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(current_core());
        }
    }
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let noted = dropped.clone();
    start(OsThreads::unpinned(2), gentle(), |_| async move {
        for _ in 0..20 {
            let noted = Noted(noted.clone());
            begin_and_forget(call(OTHER, "keep", move || async move { noted })).await;
        }
    })
    .unwrap();
    assert_eq!(*dropped.lock().unwrap(), [FIRST; 20]);
}

#[test]
fn a_call_that_cannot_be_taken_says_why() {
    let config = ReactorConfig {
        tasks_max: 4,
        ..gentle()
    };
    start(OsThreads::unpinned(2), config, |_| async {
        let nowhere = call(CoreId(9), "nowhere", || async {}).await.unwrap_err();
        assert_eq!(nowhere, RemoteError::NoSuchCore);
        call(OTHER, "fill", || async {
            let go_on = Rc::new(Cell::new(false));
            // With the task that fills, all four.
            let fill: Vec<_> = (0..3)
                .map(|_| {
                    let go_on = go_on.clone();
                    let wait = async move {
                        while !go_on.get() {
                            yield_now().await;
                        }
                    };
                    spawn_local("fill", wait).unwrap()
                })
                .collect();
            let refused = call(OTHER, "no slot", || async { 4 }).await;
            assert_eq!(refused, Err(RemoteError::NoTaskSlot));
            go_on.set(true);
            for task in fill {
                task.await;
            }
            let taken = call(OTHER, "a slot", || async { 5 }).await;
            assert_eq!(taken, Ok(5));
        })
        .await
        .unwrap();
    })
    .unwrap();
}

#[test]
fn a_call_without_an_end_is_named_at_the_deadline() {
    let config = ReactorConfig {
        shutdown_deadline: Duration::from_millis(200),
        ..gentle()
    };
    let result = start(OsThreads::unpinned(2), config, |_| async {
        for _ in 0..3 {
            begin_and_forget(call(OTHER, "journal flush", std::future::pending::<()>)).await;
        }
    });
    let text = result.unwrap_err().to_string();
    assert!(text.contains("core 1: 3 tasks 'journal flush'"), "{text}");
}

/// One that nobody holds a pass for any more is refused; one that was taken comes home.
#[test]
fn a_call_begun_on_the_way_out_has_an_end() {
    struct Late {
        polls_left: u32,
        ends: Arc<Mutex<Vec<Result<(), RemoteError>>>>,
    }
    impl Source for Late {
        fn name(&self) -> String {
            "late".into()
        }
        fn poll(&mut self) -> bool {
            if !handle().is_stopping() {
                return false;
            }
            self.polls_left = self.polls_left.wrapping_sub(1);
            if self.polls_left == 0 {
                let ends = self.ends.clone();
                let work = async move {
                    let end = call(FIRST, "late work", || async { yield_now().await }).await;
                    ends.lock().unwrap().push(end);
                };
                drop(spawn_local("late", work));
            }
            true
        }
        fn finish(&mut self) -> bool {
            true
        }
    }
    let ends = Arc::new(Mutex::new(Vec::new()));
    for polls_left in 1..=6 {
        let ends = ends.clone();
        start(OsThreads::unpinned(1), gentle(), move |_| async move {
            attach(Late { polls_left, ends });
            yield_now().await;
        })
        .unwrap();
    }
    let ends = ends.lock().unwrap();
    assert!(
        ends.contains(&Ok(())) && ends.contains(&Err(RemoteError::Stopped)),
        "{ends:?}"
    );
}
