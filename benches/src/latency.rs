//! `oriel-perf reactor`: what talking between cores and waking a task costs.
//!
//! Method: one thread pinned to each of two cores, nothing else of ours running.
//! Everything that takes part in a round trip is timed on its own with the
//! system's monotonic clock, whose cost is part of each sample and printed beside
//! them; medians and 99th percentiles are over all samples of all rounds, and
//! rounds of ours and of the peer alternate. What is too short for the clock (an
//! empty poll, a turn) is timed in one piece of many and divided. Tasks ask for
//! no memory in the timed part, except where work is spawned, which is what
//! spawning costs.

use std::cell::{Cell, RefCell};
use std::hint::{black_box, spin_loop};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam::queue::ArrayQueue;
use hdrhistogram::Histogram;
use oriel_engine::mailbox::mailbox;
use oriel_engine::reactor::{
    CoreId, OsThreads, ReactorConfig, RemoteError, RunError, attach, attach_mailbox, call, handle,
    pin_to, sleep, spawn_local, start, yield_now,
};
use oriel_spdk::env::EnvError;
use oriel_spdk::thread::ThreadError;
use oriel_spdk::{CoreSet, Env, EnvOptions, SpdkThread};

use crate::against::ratio::median;
use crate::out::say;

/// Messages that are timed before the first sample counts.
const WARM_UP: usize = 2_000;
/// A mailbox of the size that reactors use among each other.
const SLOTS: usize = 256;
/// Repetitions of what is too short for the clock.
const SHORT_REPEATS: u32 = 2_000_000;

/// Measures mailboxes, wake-ups and idle turns of the reactors
#[derive(Debug, Clone, Args)]
pub(crate) struct ReactorArgs {
    /// The two cores, as a mask or a list [default: the first two there are]
    #[arg(short = 'm', long)]
    cores: Option<CoreSet>,
    /// Samples of each measurement in each round
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..))]
    samples: u32,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

impl ReactorArgs {
    /// As many samples as a glance needs.
    pub(crate) fn brief() -> Self {
        Self {
            cores: None,
            samples: 20_000,
            rounds: 3,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LatencyError {
    #[error("two cores are needed and {cores} were named or are there: name two with --cores")]
    NotTwoCores { cores: CoreSet },
    #[error("cannot pin a thread to core {core}: is it there, and may this process use it?")]
    Pin {
        core: CoreId,
        source: std::io::Error,
    },
    #[error(transparent)]
    Reactors(#[from] RunError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    SpdkThread(#[from] ThreadError),
}

type Samples = Histogram<u64>;

fn samples() -> Samples {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constant and in order")
}

fn record(into: &mut Samples, time: Duration) {
    into.saturating_record(time.as_nanos() as u64);
}

/// Runs all measurements and prints them.
pub(crate) fn run(args: &ReactorArgs) -> Result<(), LatencyError> {
    let cores = args.cores.unwrap_or_else(|| CoreSet::allowed().first(2));
    let [main, other] = cores.iter().map(CoreId).collect::<Vec<_>>()[..] else {
        return Err(LatencyError::NotTwoCores { cores });
    };
    pin_to(main).map_err(|source| LatencyError::Pin { core: main, source })?;
    say!(
        "cores {main} and {other}, {} rounds of {} samples",
        args.rounds,
        args.samples
    );
    say!("{:<58}{:>10}{:>10}", "ns", "median", "p99");
    print_samples("clock read, part of every sample below", &clock_cost(args));

    let (mut ours, mut peer) = (samples(), samples());
    for _ in 0..args.rounds {
        mailbox_round_trips(other, args.samples, &mut ours)?;
        queue_round_trips(other, args.samples, &mut peer)?;
    }
    print_samples("mailbox round trip between two cores", &ours);
    print_samples("  the same with crossbeam's ArrayQueue", &peer);

    let (mut hop, mut woken) = (samples(), samples());
    let (mut spawned, mut called) = (samples(), samples());
    for _ in 0..args.rounds {
        woken
            .add(wake_ups(main, args.samples)?)
            .expect("equal bounds");
        let [hops, spawns, calls] = reactor_round_trips(main, other, args.samples)?;
        hop.add(hops).expect("equal bounds");
        spawned.add(spawns).expect("equal bounds");
        called.add(calls).expect("equal bounds");
    }
    print_samples("task wake-up on its own reactor, wake to poll", &woken);
    print_samples("message to another reactor and back, task woken", &hop);
    print_samples(
        "task called for on another reactor, answer awaited",
        &called,
    );
    print_samples("  the same, spawned as by any thread", &spawned);
    let (mut calls, mut spawns) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        calls.push(crossings(main, other, args.samples, Way::Call)?);
        spawns.push(crossings(main, other, args.samples, Way::Spawn)?);
    }
    print_each(
        "two reactors call each other, 64 at once each",
        median(calls),
    );
    print_each("  the same, spawned as by any thread", median(spawns));

    let (empty, empty_peer) = empty_polls();
    print_each("poll of an empty mailbox", empty);
    print_each("  the same with crossbeam's ArrayQueue", empty_peer);
    let (pair, pair_peer) = pairs();
    print_each("send and receive on one core", pair);
    print_each("  the same with crossbeam's ArrayQueue", pair_peer);
    print_each("idle turn of a reactor", idle_turn(main)?);
    print_each("idle turn with an SPDK thread", idle_turn_with_spdk(main)?);
    Ok(())
}

fn print_samples(what: &str, samples: &Samples) {
    let median = samples.value_at_quantile(0.5);
    let p99 = samples.value_at_quantile(0.99);
    say!("{what:<58}{median:>10}{p99:>10}");
}

fn print_each(what: &str, nanos: f64) {
    say!("{what:<58}{nanos:>10.1}");
}

fn clock_cost(args: &ReactorArgs) -> Samples {
    let mut cost = samples();
    for _ in 0..args.samples {
        let begun = Instant::now();
        record(&mut cost, black_box(begun).elapsed());
    }
    cost
}

/// Runs `echo` on another core until the returned closure is called.
fn echo_on(
    core: CoreId,
    mut echo: impl FnMut() + Send + 'static,
) -> Result<impl FnOnce(), LatencyError> {
    let done = Arc::new(AtomicBool::new(false));
    let ending = done.clone();
    let (report, pinned) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // Nobody listens only where the other side has given up.
        let _ = report.send(pin_to(core));
        while !done.load(Ordering::Relaxed) {
            echo();
        }
    });
    let result = pinned.recv().expect("the thread reports before it echoes");
    result.map_err(|source| LatencyError::Pin { core, source })?;
    Ok(move || {
        ending.store(true, Ordering::Relaxed);
        // A panic there was printed there.
        let _ = thread.join();
    })
}

fn time_round_trips(
    samples: u32,
    into: &mut Samples,
    mut send: impl FnMut(u64),
    mut receive: impl FnMut() -> Option<u64>,
) {
    for number in 0..WARM_UP as u64 + u64::from(samples) {
        let begun = Instant::now();
        send(number);
        while receive() != Some(number) {
            spin_loop();
        }
        if number >= WARM_UP as u64 {
            record(into, begun.elapsed());
        }
    }
}

fn mailbox_round_trips(
    other: CoreId,
    samples: u32,
    into: &mut Samples,
) -> Result<(), LatencyError> {
    let (there, mut arrives) = mailbox::<u64>(SLOTS);
    let (back, mut returns) = mailbox::<u64>(SLOTS);
    let end = echo_on(other, move || {
        if let Some(message) = arrives.receive() {
            back.send(message).expect("one message at a time fits");
        }
    })?;
    let send = |message| there.send(message).expect("one message at a time fits");
    time_round_trips(samples, into, send, || returns.receive());
    end();
    Ok(())
}

fn queue_round_trips(other: CoreId, samples: u32, into: &mut Samples) -> Result<(), LatencyError> {
    let there = Arc::new(ArrayQueue::<u64>::new(SLOTS));
    let back = Arc::new(ArrayQueue::<u64>::new(SLOTS));
    let (arrives, returns) = (there.clone(), back.clone());
    let end = echo_on(other, move || {
        if let Some(message) = arrives.pop() {
            back.push(message).expect("one message at a time fits");
        }
    })?;
    let send = |message| there.push(message).expect("one message at a time fits");
    time_round_trips(samples, into, send, || returns.pop());
    end();
    Ok(())
}

fn each_of(repeats: u32, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    for _ in 0..repeats {
        work();
    }
    begun.elapsed().as_nanos() as f64 / f64::from(repeats)
}

fn empty_polls() -> (f64, f64) {
    let (_sender, mut mailbox) = mailbox::<u64>(SLOTS);
    let queue = ArrayQueue::<u64>::new(SLOTS);
    let ours = each_of(SHORT_REPEATS, || {
        black_box(mailbox.receive());
    });
    let peer = each_of(SHORT_REPEATS, || {
        black_box(queue.pop());
    });
    (ours, peer)
}

fn pairs() -> (f64, f64) {
    let (sender, mut mailbox) = mailbox::<u64>(SLOTS);
    let queue = ArrayQueue::<u64>::new(SLOTS);
    let ours = each_of(SHORT_REPEATS, || {
        sender.send(black_box(1)).expect("it is empty");
        black_box(mailbox.receive());
    });
    let peer = each_of(SHORT_REPEATS, || {
        queue.push(black_box(1)).expect("it is empty");
        black_box(queue.pop());
    });
    (ours, peer)
}

/// One place for one waiting task, on one reactor.
#[derive(Default)]
struct Signal {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    fn raise(&self) {
        self.set.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    async fn raised(&self) {
        std::future::poll_fn(|cx| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.waiter.borrow_mut();
            match &mut *waiter {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waiter = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

/// From the wake to the first instruction of the woken task, on one reactor.
fn wake_ups(main: CoreId, count: u32) -> Result<Samples, LatencyError> {
    let threads = OsThreads::pinned([main]);
    let finished = start(threads, ReactorConfig::default(), move |_| async move {
        let signal = Rc::new(Signal::default());
        let begun = Rc::new(Cell::new(Instant::now()));
        let into = Rc::new(RefCell::new(samples()));
        let (wakes, at, record_into) = (signal.clone(), begun.clone(), into.clone());
        let sleeper = spawn_local("woken", async move {
            for number in 0..WARM_UP + count as usize {
                wakes.raised().await;
                let took = at.get().elapsed();
                if number >= WARM_UP {
                    record(&mut record_into.borrow_mut(), took);
                }
            }
        })
        .expect("two tasks fit");
        while !sleeper.is_finished() {
            yield_now().await;
            begun.set(Instant::now());
            signal.raise();
        }
        into.replace(samples())
    });
    Ok(finished?.value)
}

/// A message to the other reactor, answered by its handler, which wakes the task
/// here; and a task there whose result is awaited here, spawned and called for.
fn reactor_round_trips(
    main: CoreId,
    other: CoreId,
    count: u32,
) -> Result<[Samples; 3], LatencyError> {
    let threads = OsThreads::pinned([main, other]);
    let finished = start(
        threads,
        ReactorConfig::default(),
        move |reactors| async move {
            let signal = Rc::new(Signal::default());
            let raised = signal.clone();
            let answers = attach_mailbox::<u64>(SLOTS, move |_| raised.raise());
            let requests = reactors
                .spawn(other, "attach", move || async move {
                    attach_mailbox::<u64>(SLOTS, move |message| {
                        answers.send(message).expect("one message at a time fits");
                    })
                })
                .expect("the inbox is empty")
                .await?;
            let [mut hops, mut spawns, mut calls] = [samples(), samples(), samples()];
            for number in 0..WARM_UP + count as usize {
                let begun = Instant::now();
                requests.send(1).expect("one message at a time fits");
                signal.raised().await;
                if number >= WARM_UP {
                    record(&mut hops, begun.elapsed());
                }
            }
            for number in 0..WARM_UP + count as usize {
                let begun = Instant::now();
                let there = reactors.spawn(other, "answer", || async { 1u64 });
                there.expect("one at a time fits").await?;
                if number >= WARM_UP {
                    record(&mut spawns, begun.elapsed());
                }
            }
            for number in 0..WARM_UP + count as usize {
                let begun = Instant::now();
                call(other, "answer", || async { 1u64 }).await?;
                if number >= WARM_UP {
                    record(&mut calls, begun.elapsed());
                }
            }
            Ok([hops, spawns, calls])
        },
    );
    finished?.value
}

#[derive(Clone, Copy)]
enum Way {
    Call,
    Spawn,
}

/// Bytes that each of them carries there, as a put does.
const CARRIED: usize = 128;
const AT_ONCE: u32 = 64;

/// Both reactors have work done on the other one; the time that each piece of it takes, of both together.
fn crossings(main: CoreId, other: CoreId, count: u32, way: Way) -> Result<f64, LatencyError> {
    async fn one(to: CoreId, way: Way) -> Result<(), RemoteError> {
        let carried = [1u8; CARRIED];
        let work = move || async move { black_box(carried).len() };
        match way {
            Way::Call => call(to, "answer", work).await?,
            // There are fewer at once than an inbox has room for.
            Way::Spawn => {
                let there = handle().spawn(to, "answer", work);
                there.map_err(|_| RemoteError::Stopped)?.await?
            }
        };
        Ok(())
    }
    async fn side(to: CoreId, each: u32, way: Way) -> Result<(), RemoteError> {
        let tasks: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let calls = async move {
                    for _ in 0..each {
                        one(to, way).await?;
                    }
                    Ok::<_, RemoteError>(())
                };
                spawn_local("caller", calls).expect("there is room for so few tasks")
            })
            .collect();
        for task in tasks {
            task.await?;
        }
        Ok(())
    }
    let each = count.div_ceil(AT_ONCE);
    let threads = OsThreads::pinned([main, other]);
    let finished = start(threads, ReactorConfig::default(), move |_| async move {
        let begun = Instant::now();
        let there = spawn_local(
            "other side",
            call(other, "callers", move || side(main, each, way)),
        );
        side(other, each, way).await?;
        there.expect("there is room for it").await??;
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(2 * each * AT_ONCE))
    });
    finished?.value
}

const IDLE_FOR: Duration = Duration::from_millis(300);

/// The time from turn to turn while the reactor has nothing but one timer.
async fn turn_nanos(reactors: oriel_engine::reactor::ReactorHandle, core: CoreId) -> f64 {
    let turns = || reactors.stats(core).map_or(0, |stats| stats.turns);
    // Stands on a turn's own reading of the clock, as the later one does.
    sleep(Duration::from_millis(10)).await;
    let (before, begun) = (turns(), Instant::now());
    sleep(IDLE_FOR).await;
    begun.elapsed().as_nanos() as f64 / (turns() - before).max(1) as f64
}

fn idle_turn(main: CoreId) -> Result<f64, LatencyError> {
    let threads = OsThreads::pinned([main]);
    let finished = start(threads, ReactorConfig::default(), move |reactors| {
        turn_nanos(reactors, main)
    });
    Ok(finished?.value)
}

fn idle_turn_with_spdk(main: CoreId) -> Result<f64, LatencyError> {
    let env: Env = EnvOptions {
        name: "oriel-perf".into(),
        cores: CoreSet::single(main.0),
        ..EnvOptions::default()
    }
    .start()?;
    let finished = start(&env, ReactorConfig::default(), move |reactors| async move {
        attach(SpdkThread::create("idle")?);
        Ok(turn_nanos(reactors, main).await)
    });
    finished?.value
}
