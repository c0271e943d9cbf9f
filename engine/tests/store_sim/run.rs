//! Runs futures until all of them wait for something that does not come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::world::World;

/// More polls than any simulation takes: what goes on longer than that goes round in circles.
const POLLS_MAX: u64 = 1_000_000;

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Runs the futures until none of them is woken any more: in rounds and in the order given, or, in a world, in an order of
/// its choice, and on with its next event when nobody has anything to do. Says which have ended.
pub(crate) fn run_in(world: Option<&World>, futures: &mut [Task<'_>]) -> Vec<bool> {
    let woken: Vec<Arc<Woken>> = futures
        .iter()
        .map(|_| Arc::new(Woken(AtomicBool::new(true))))
        .collect();
    let mut ended = vec![false; futures.len()];
    let mut polls = 0;
    loop {
        let mut ready: Vec<usize> = (0..futures.len())
            .filter(|index| !ended[*index] && woken[*index].0.swap(false, Ordering::Relaxed))
            .collect();
        if ready.is_empty() {
            let goes_on = ended.contains(&false) && world.is_some_and(World::step);
            if !goes_on {
                return ended;
            }
            continue;
        }
        if let Some(world) = world {
            for last in (1..ready.len()).rev() {
                ready.swap(
                    last,
                    world.random(|rng| rng.below(last as u64 + 1)) as usize,
                );
            }
        }
        for index in ready {
            let waker = Waker::from(woken[index].clone());
            let polled = futures[index]
                .as_mut()
                .poll(&mut Context::from_waker(&waker));
            ended[index] = polled == Poll::Ready(());
            polls += 1;
            assert!(polls < POLLS_MAX, "the futures wake each other for ever");
        }
    }
}

pub(crate) fn run_all(futures: &mut [Task<'_>]) -> Vec<bool> {
    run_in(None, futures)
}

/// Runs one future to its end; `None` if it never comes.
pub(crate) fn run_one_in<F: Future>(world: Option<&World>, future: F) -> Option<F::Output> {
    let mut output = None;
    let mut all: [Task<'_>; 1] = [Box::pin(async {
        output = Some(future.await);
    })];
    run_in(world, &mut all);
    drop(all);
    output
}

pub(crate) fn run_one<F: Future>(future: F) -> Option<F::Output> {
    run_one_in(None, future)
}
