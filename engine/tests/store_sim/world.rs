//! Time and chance: everything that a simulation does not decide by itself comes from one seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use oriel_engine::clock::{Clock, Moment};

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below the limit, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub(crate) fn in_thousand(&mut self, chances: u64) -> bool {
        self.below(1000) < chances
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// More of them than anybody needs who has something to do.
const WOKEN_IN_VAIN_MAX: u32 = 200;

struct State {
    now_nanos: u64,
    clock: Clock,
    rng: Rng,
    /// By time, then by the order in which they were asked for.
    events: BTreeMap<(u64, u64), Box<dyn FnOnce()>>,
    asked: u64,
    /// Times in a row that a sleeper of the clock was woken, with nothing else to happen.
    woken_in_vain: u32,
}

/// A clock that goes as fast as there is nothing to do, and what is to happen by it. Clones are the same one.
#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<State>>);

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            now_nanos: 0,
            clock: Clock::manual(),
            rng: Rng::new(seed),
            events: BTreeMap::new(),
            asked: 0,
            woken_in_vain: 0,
        })))
    }

    /// The clock that a store would be given.
    pub(crate) fn clock(&self) -> Clock {
        self.0.borrow().clock.clone()
    }

    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.0.borrow_mut().rng)
    }

    /// Lets something happen later.
    pub(crate) fn after(&self, nanos: u64, event: impl FnOnce() + 'static) {
        let mut state = self.0.borrow_mut();
        let at = (state.now_nanos + nanos, state.asked);
        state.asked += 1;
        state.events.insert(at, Box::new(event));
    }

    pub(crate) async fn sleep(&self, nanos: u64) {
        let done = Rc::new(RefCell::new((false, None)));
        let mut asked = false;
        poll_fn(|cx| {
            if done.borrow().0 {
                return Poll::Ready(());
            }
            done.borrow_mut().1 = Some(cx.waker().clone());
            if !asked {
                asked = true;
                let done = done.clone();
                self.after(nanos, move || {
                    let mut done = done.borrow_mut();
                    done.0 = true;
                    if let Some(waker) = done.1.take() {
                        waker.wake();
                    }
                });
            }
            Poll::Pending
        })
        .await;
    }

    /// Turns the clock to the next event, or to the time until which somebody sleeps by it, and lets that happen; `false`
    /// if there is neither.
    pub(crate) fn step(&self) -> bool {
        let sleeper = self.clock().earliest_sleeper();
        let event = self.0.borrow().events.keys().next().map(|(at, _)| *at);
        // Whoever does nothing but wake up and sleep again waits for something that does not come.
        if event.is_some() {
            self.0.borrow_mut().woken_in_vain = 0;
        } else if self.0.borrow().woken_in_vain >= WOKEN_IN_VAIN_MAX {
            return false;
        }
        if let Some(sleeper) = sleeper
            && let at = sleeper.since(Moment::START).as_nanos() as u64
            && event.is_none_or(|event| at < event)
        {
            let clock = {
                let mut state = self.0.borrow_mut();
                let by = Duration::from_nanos(at - state.now_nanos);
                state.now_nanos = at;
                state.woken_in_vain += 1;
                (state.clock.clone(), by)
            };
            clock.0.advance(clock.1);
            return true;
        }
        let event = {
            let mut state = self.0.borrow_mut();
            let Some(((at, _), event)) = state.events.pop_first() else {
                return false;
            };
            state
                .clock
                .advance(Duration::from_nanos(at - state.now_nanos));
            state.now_nanos = at;
            event
        };
        event();
        true
    }

    /// Forgets all that was to happen: nobody is there any more to see it.
    pub(crate) fn clear(&self) {
        let events = std::mem::take(&mut self.0.borrow_mut().events);
        drop(events);
    }
}
