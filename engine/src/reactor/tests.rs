//! The single-threaded parts, turned by hand on a manual clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::activity::{Activity, ActivityId};
use super::executor::Executor;
use super::stats::PerCore;
use super::timer::Timers;
use super::*;
use crate::clock::{Clock, Moment};

/// Runs `root` to its end on one reactor, with the time standing still unless
/// `root` moves it.
fn on_one_reactor<T: 'static>(clock: &Clock, root: impl AsyncFnOnce() -> T + 'static) -> T {
    let config = ReactorConfig {
        signals: false,
        clock: clock.clone(),
        tasks_max: 64,
        ..ReactorConfig::default()
    };
    let finished = start(
        OsThreads::unpinned(1),
        config,
        |_| async move { root().await },
    );
    finished.unwrap().value
}

#[test]
fn tasks_run_in_the_order_they_were_woken_and_yield_to_each_other() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let of_root = log.clone();
    on_one_reactor(&Clock::manual(), async move || {
        let tasks: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|name| {
                let log = of_root.clone();
                spawn_local(name, async move {
                    for step in 0..3 {
                        log.borrow_mut().push((step, name));
                        yield_now().await;
                    }
                    name
                })
                .unwrap()
            })
            .collect();
        let mut names = Vec::new();
        for task in tasks {
            names.push(task.await);
        }
        assert_eq!(names, ["a", "b", "c"]);
    });
    let expected: Vec<_> = (0..3)
        .flat_map(|step| ["a", "b", "c"].map(|name| (step, name)))
        .collect();
    assert_eq!(*log.borrow(), expected);
}

#[test]
fn a_task_that_always_wakes_itself_does_not_hold_the_turn() {
    struct Counts(Rc<Cell<u32>>);
    impl Source for Counts {
        fn name(&self) -> String {
            "counter".into()
        }
        fn poll(&mut self) -> bool {
            self.0.set(self.0.get() + 1);
            false
        }
        fn finish(&mut self) -> bool {
            true
        }
    }
    let polled = on_one_reactor(&Clock::manual(), async || {
        let polled = Rc::new(Cell::new(0));
        attach(Counts(polled.clone()));
        for _ in 0..100 {
            yield_now().await;
        }
        polled.get()
    });
    assert!(
        (99..=101).contains(&polled),
        "polled once a turn, not {polled}"
    );
}

#[test]
fn when_task_slots_run_out_the_future_comes_back_and_can_be_spawned_later() {
    on_one_reactor(&Clock::manual(), async || {
        let first: Vec<_> = (0..63)
            .map(|_| spawn_local("filler", std::future::pending::<()>()).unwrap())
            .collect();
        let refused = spawn_local("one too many", std::future::ready(7)).unwrap_err();
        assert_eq!(refused.tasks_max, 64);
        for task in first {
            assert_eq!(task.cancel().await, None);
        }
        let value = spawn_local("now there is room", refused.future)
            .unwrap()
            .await;
        assert_eq!(value, 7);
    });
}

#[test]
fn timers_fire_when_due_in_order_and_not_before() {
    let clock = Clock::manual();
    let turned = clock.clone();
    on_one_reactor(&clock, async move || {
        let log = Rc::new(RefCell::new(Vec::new()));
        for wait in [30, 10, 20, 10] {
            let log = log.clone();
            let wait = Duration::from_millis(wait);
            drop(spawn_local("sleeper", async move {
                sleep(wait).await;
                log.borrow_mut().push(wait.as_millis());
            }));
        }
        let settle = async || {
            for _ in 0..4 {
                yield_now().await;
            }
        };
        settle().await;
        turned.advance(Duration::from_micros(9_999));
        settle().await;
        assert!(log.borrow().is_empty());
        turned.advance(Duration::from_micros(1));
        settle().await;
        assert_eq!(*log.borrow(), [10, 10]);
        turned.advance(Duration::from_millis(50));
        settle().await;
        assert_eq!(*log.borrow(), [10, 10, 20, 30]);
    });
}

#[test]
fn timeout_gives_the_value_or_elapses_and_drops_the_future() {
    let clock = Clock::manual();
    let turned = clock.clone();
    on_one_reactor(&clock, async move || {
        let limit = Duration::from_secs(1);
        assert_eq!(timeout(limit, async { 5 }).await, Ok(5));

        let dropped = Rc::new(());
        let inside = dropped.clone();
        let waiting = spawn_local("waits", async move {
            timeout(limit, async move {
                let _inside = inside;
                std::future::pending::<()>().await;
            })
            .await
        })
        .unwrap();
        yield_now().await;
        assert_eq!(Rc::strong_count(&dropped), 2);
        turned.advance(limit);
        assert_eq!(waiting.await, Err(Elapsed { limit }));
        assert_eq!(Rc::strong_count(&dropped), 1);
    });
}

#[test]
fn mailbox_messages_reach_their_handler_on_the_reactor() {
    on_one_reactor(&Clock::manual(), async || {
        let got = Rc::new(RefCell::new(Vec::new()));
        let of_handler = got.clone();
        let sender = attach_mailbox::<u32>(8, move |n| of_handler.borrow_mut().push(n));
        let other = sender.clone();
        std::thread::spawn(move || (0..8).for_each(|n| other.send(n).unwrap()))
            .join()
            .unwrap();
        assert_eq!(sender.send(8).unwrap_err().into_message(), 8, "it is full");
        yield_now().await;
        yield_now().await;
        assert_eq!(*got.borrow(), [0, 1, 2, 3, 4, 5, 6, 7]);
    });
}

#[test]
fn executor_that_goes_away_drops_futures_on_its_own_thread() {
    struct OnThread(std::thread::ThreadId, Arc<AtomicUsize>);
    impl Drop for OnThread {
        fn drop(&mut self) {
            assert_eq!(std::thread::current().id(), self.0);
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    for _ in 0..50 {
        let dropped = Arc::new(AtomicUsize::new(0));
        let executor = Executor::new(8, None);
        let mark = Activity::new(Arc::new(PerCore::default()));
        let wakers = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..4 {
            let held = OnThread(std::thread::current().id(), dropped.clone());
            let wakers = wakers.clone();
            let future = std::future::poll_fn(move |cx| {
                let _ = &held;
                wakers.borrow_mut().push(cx.waker().clone());
                Poll::<()>::Pending
            });
            drop(executor.spawn("pending", ActivityId::of("test"), move || future));
        }
        executor.run_ready(&mark);
        let wakers = wakers.take();
        assert_eq!(wakers.len(), 4);
        // The wakers outlive the executor, and wake while it ends.
        let waking = std::thread::spawn(move || wakers.into_iter().for_each(Waker::wake));
        drop(executor);
        assert_eq!(dropped.load(Ordering::Relaxed), 4);
        waking.join().unwrap();
    }
}

#[derive(Debug, Clone)]
enum TimerStep {
    Insert(u64),
    Remove(usize),
    Advance(u64),
}

fn timer_step() -> impl Strategy<Value = TimerStep> {
    prop_oneof![
        5 => (0u64..1000).prop_map(TimerStep::Insert),
        2 => any::<usize>().prop_map(TimerStep::Remove),
        2 => (0u64..200).prop_map(TimerStep::Advance),
    ]
}

/// Says which timer it belongs to when it is woken.
struct Tells(usize, Arc<std::sync::Mutex<Vec<usize>>>);

impl Wake for Tells {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

proptest! {
    #[test]
    fn timers_behave_like_a_sorted_map(steps in prop::collection::vec(timer_step(), 0..300)) {
        let mut timers = Timers::new();
        let mut model = BTreeMap::new();
        let mut keys = BTreeMap::new();
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut now = Moment::START;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                TimerStep::Insert(wait) => {
                    let deadline = now + Duration::from_nanos(wait);
                    let waker = Waker::from(Arc::new(Tells(number, told.clone())));
                    keys.insert(number, timers.insert(deadline, waker));
                    model.insert((deadline, number), ());
                }
                TimerStep::Remove(which) => {
                    if keys.is_empty() { continue; }
                    let number = *keys.keys().nth(which % keys.len()).unwrap();
                    timers.remove(keys.remove(&number).unwrap());
                    model.retain(|(_, n), ()| *n != number);
                }
                TimerStep::Advance(by) => {
                    now = now + Duration::from_nanos(by);
                    while let Some(waker) = timers.fire_one(now) {
                        waker.wake();
                    }
                    let due: Vec<_> = model.keys().filter(|(d, _)| *d <= now).copied().collect();
                    let expected: Vec<_> = due.iter().map(|(_, n)| *n).collect();
                    prop_assert_eq!(std::mem::take(&mut *told.lock().unwrap()), expected);
                    for key in due {
                        model.remove(&key);
                        let fired = timers.poll(&keys[&key.1], Waker::noop());
                        prop_assert!(fired);
                    }
                }
            }
            prop_assert_eq!(timers.next_deadline(), model.keys().next().map(|(d, _)| *d));
            prop_assert_eq!(timers.len(), (model.len(), keys.len()));
        }
    }
}

#[test]
fn a_dropped_sleep_frees_its_timer() {
    on_one_reactor(&Clock::manual(), async || {
        for _ in 0..3 {
            let mut sleeps: Vec<_> = (1..100)
                .map(|n| Box::pin(sleep(Duration::from_secs(n))))
                .collect();
            let mut cx = Context::from_waker(Waker::noop());
            for sleep in &mut sleeps {
                assert!(sleep.as_mut().poll(&mut cx).is_pending());
            }
            assert_eq!(local::with_timers(|timers| timers.len()), (99, 99));
            drop(sleeps);
            assert_eq!(local::with_timers(|timers| timers.len()), (0, 0));
        }
    });
}
