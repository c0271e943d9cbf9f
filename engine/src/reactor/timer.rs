//! Timers: an indexed binary heap, so that a dropped timer frees its place at
//! once, and the next deadline is known for a reactor that wants to sleep.
//!
//! `heap[i]` names a slot, `slots[s].at` names its place in the heap or says that
//! it fired. A slot belongs to the one future that took it, until that drops it.
//! Storage timeouts are mostly cancelled and mostly the latest deadline of all,
//! which this heap inserts and removes at its bottom.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::local;
use crate::clock::Moment;
use crate::limits;

#[derive(Debug)]
enum At {
    Heap(usize),
    Fired,
}

#[derive(Debug)]
struct Slot {
    at: At,
    waker: Waker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    deadline: Moment,
    /// Timers of one deadline fire in the order in which they were set.
    order: u64,
    slot: usize,
}

/// A timer's place, given back by `remove`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(usize);

#[derive(Debug)]
pub(crate) struct Timers {
    heap: Vec<Due>,
    slots: Slab<Slot>,
    next_order: u64,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self {
            heap: Vec::with_capacity(limits::TIMERS_PREALLOCATED),
            slots: Slab::with_capacity(limits::TIMERS_PREALLOCATED),
            next_order: 0,
        }
    }

    pub(crate) fn insert(&mut self, deadline: Moment, waker: Waker) -> TimerKey {
        let slot = self.slots.insert(Slot {
            at: At::Heap(self.heap.len()),
            waker,
        });
        self.heap.push(Due {
            deadline,
            order: self.next_order,
            slot,
        });
        self.next_order += 1;
        self.sift_up(self.heap.len() - 1);
        TimerKey(slot)
    }

    /// Whether the timer fired; if not, `waker` is the one to wake.
    pub(crate) fn poll(&mut self, key: &TimerKey, waker: &Waker) -> bool {
        let slot = &mut self.slots[key.0];
        if matches!(slot.at, At::Fired) {
            return true;
        }
        slot.waker.clone_from(waker);
        false
    }

    pub(crate) fn remove(&mut self, key: TimerKey) {
        if let At::Heap(place) = self.slots.remove(key.0).at {
            self.take(place);
        }
    }

    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.heap.first().map(|due| due.deadline)
    }

    /// Fires one timer that is due; its waker is the caller's to wake.
    pub(crate) fn fire_one(&mut self, now: Moment) -> Option<Waker> {
        self.next_deadline().filter(|&deadline| deadline <= now)?;
        let due = self.take(0);
        let slot = &mut self.slots[due.slot];
        slot.at = At::Fired;
        Some(std::mem::replace(&mut slot.waker, Waker::noop().clone()))
    }

    fn take(&mut self, place: usize) -> Due {
        let due = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.sift_up(place);
            self.sift_down(place);
        }
        due
    }

    /// Writes down where the timer at `place` stands.
    fn settle(&mut self, place: usize) {
        self.slots[self.heap[place].slot].at = At::Heap(place);
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent] <= self.heap[place] {
                break;
            }
            self.heap.swap(parent, place);
            self.settle(place);
            place = parent;
        }
        self.settle(place);
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let Some(mut least) = self.heap.get(left).map(|_| left) else {
                break;
            };
            if self
                .heap
                .get(left + 1)
                .is_some_and(|right| *right < self.heap[left])
            {
                least = left + 1;
            }
            if self.heap[place] <= self.heap[least] {
                break;
            }
            self.heap.swap(place, least);
            self.settle(place);
            place = least;
        }
        self.settle(place);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.heap.len(), self.slots.len())
    }
}

/// Ready at its deadline. It holds a timer slot from its first poll to its drop.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    deadline: Moment,
    key: Option<TimerKey>,
    /// The key is a place in this thread's reactor, so the future stays here.
    _on_one_thread: PhantomData<*mut ()>,
}

/// Ready after `wait`, on the reactor that polls it.
///
/// # Panics
/// Outside a reactor.
pub fn sleep(wait: Duration) -> Sleep {
    sleep_until(local::now() + wait)
}

/// Ready at `deadline` of the reactors' clock.
pub fn sleep_until(deadline: Moment) -> Sleep {
    Sleep {
        deadline,
        key: None,
        _on_one_thread: PhantomData,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        local::with_timers(|timers| match &self.key {
            Some(key) if timers.poll(key, cx.waker()) => Poll::Ready(()),
            Some(_) => Poll::Pending,
            None => {
                self.key = Some(timers.insert(deadline, cx.waker().clone()));
                Poll::Pending
            }
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            local::remove_timer(key);
        }
    }
}

/// The time was up before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not done within {limit:?}")]
pub struct Elapsed {
    /// The time it was given.
    pub limit: Duration,
}

/// Awaits `future` for at most `limit`, then drops it.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(limit));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed { limit }))
    })
    .await
}
