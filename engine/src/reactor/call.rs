//! Calls: work for another core, whose answer comes home in the box in which the work left.
//!
//! ```text
//!   core A: call(B, f) ──► inbox of B ──► B runs f() and its future as a task
//!   core A: slot, waker ◄── inbox of A ◄── the same box, with the answer
//! ```
//!
//! It is the way of the data path, from one reactor to another: memory is taken and given back on the core that asks, its
//! task is woken there, and there is no count that several cores write. `ReactorHandle::spawn` is for other threads, and costs
//! several times as much (`oriel-perf reactor` prints both).
//!
//! Invariants:
//! - A call has a slot on the core that asks from before its box leaves until it is home, whether anybody still waits for it
//!   or not. A reactor with such slots is not dry, so it keeps its pass, and the reactors do not stop before. One that has none,
//!   and gets none any more, calls for nothing.
//! - A box that has arrived goes home, with the answer or the reason why there is none: its task's end sends it, finished or
//!   dropped. What does not fit the inbox there is tried again at each turn.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use slab::Slab;

use super::handle::{CoreId, Order, RemoteError};
use super::local::{self, Local};
use super::yield_now;
use crate::mailbox::SendError;

enum Waiting {
    /// The box is here: not sent yet, or its answer taken.
    Here,
    Away(Option<Waker>),
    Home(Box<dyn Order>),
    /// It is away, and nobody waits for it.
    Forgotten,
}

/// A reactor's calls to other cores.
#[derive(Default)]
pub(super) struct Calls(RefCell<Slab<Waiting>>);

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn has_come_home(&self, slot: usize, order: Box<dyn Order>) {
        let mut calls = self.0.borrow_mut();
        let waker = match std::mem::replace(&mut calls[slot], Waiting::Home(order)) {
            Waiting::Away(waker) => waker,
            _ => {
                let forgotten = calls.remove(slot);
                // An answer may do something when it is dropped.
                drop(calls);
                drop(forgotten);
                return;
            }
        };
        drop(calls);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A call's place among those of its core.
struct Place {
    calls: Rc<Calls>,
    slot: usize,
}

impl Place {
    fn take(calls: &Rc<Calls>) -> Self {
        let slot = calls.0.borrow_mut().insert(Waiting::Here);
        let calls = calls.clone();
        Self { calls, slot }
    }

    fn has_left(&self) {
        self.calls.0.borrow_mut()[self.slot] = Waiting::Away(None);
    }

    async fn home(&self) -> Box<dyn Order> {
        poll_fn(|cx| {
            let mut calls = self.calls.0.borrow_mut();
            let waiting = &mut calls[self.slot];
            match std::mem::replace(waiting, Waiting::Here) {
                Waiting::Home(order) => Poll::Ready(order),
                _ => {
                    *waiting = Waiting::Away(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut calls = self.calls.0.borrow_mut();
        match &mut calls[self.slot] {
            away @ Waiting::Away(_) => *away = Waiting::Forgotten,
            _ => {
                let gone = calls.remove(self.slot);
                drop(calls);
                drop(gone);
            }
        }
    }
}

enum Stage<F, T> {
    Out(F),
    Back(Result<T, RemoteError>),
}

/// What travels: the work, and on the way home what came of it.
struct Trip<F, T> {
    name: &'static str,
    /// Where it comes from: the place among the group's cores, and the slot there.
    home: usize,
    slot: usize,
    stage: Stage<F, T>,
}

impl<F, Fut, T> Order for Trip<F, T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(mut self: Box<Self>, local: &Rc<Local>) {
        if let Stage::Back(_) = self.stage {
            return local.calls.has_come_home(self.slot, self);
        }
        // What is said if there is no room for the task.
        let unless_begun = Stage::Back(Err(RemoteError::NoTaskSlot));
        if let Stage::Out(work) = std::mem::replace(&mut self.stage, unless_begun) {
            let (name, way) = (self.name, WayHome(Some(self)));
            // Where there is no room, the future is dropped, and the way home with it.
            let _ = local.spawn(name, move || async move {
                let mut way = way;
                way.has(Err(RemoteError::Stopped));
                let answer = work().await;
                way.has(Ok(answer));
            });
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Sends the box home when it is dropped.
struct WayHome<F, Fut, T>(Option<Box<Trip<F, T>>>)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static;

impl<F, Fut, T> WayHome<F, Fut, T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    fn has(&mut self, answer: Result<T, RemoteError>) {
        if let Some(trip) = &mut self.0 {
            trip.stage = Stage::Back(answer);
        }
    }
}

impl<F, Fut, T> Drop for WayHome<F, Fut, T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(trip) = self.0.take() {
            // A thread whose reactor is gone is past all calls: the others have ended, or were told to leave all as it is.
            local::with_here(|here| {
                if let Some(here) = here {
                    here.homebound.send(here, trip.home, trip);
                }
            });
        }
    }
}

/// Boxes on their way home for which there was no room in the inbox there.
#[derive(Default)]
pub(super) struct Homebound(RefCell<VecDeque<(usize, Box<dyn Order>)>>);

impl Homebound {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn send(&self, here: &Local, home: usize, order: Box<dyn Order>) {
        match here.handle.group.cores[home].inbox.send(order) {
            Ok(()) => {}
            Err(SendError::Full(order)) => self.0.borrow_mut().push_back((home, order)),
            // That reactor has none of its calls away any more, or it was told to leave all as it is.
            Err(SendError::Closed(order)) => drop(order),
        }
    }

    /// Tries those once more that wait.
    pub(super) fn send_again(&self, here: &Local) {
        let waiting = std::mem::take(&mut *self.0.borrow_mut());
        for (home, order) in waiting {
            self.send(here, home, order);
        }
    }
}

/// Has `work` done on another core's reactor: the closure is called there, its future becomes a task of that name, and what
/// it ends with comes back. Once it has left it runs on if the call is dropped. While that core takes no more, the caller waits.
///
/// # Panics
/// Outside a reactor.
pub async fn call<F, Fut, T>(core: CoreId, name: &'static str, work: F) -> Result<T, RemoteError>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (to, place, trip) = {
        let here = local::here();
        let cores = &here.handle.group.cores;
        let to = cores.iter().position(|member| member.core == core);
        let to = to.ok_or(RemoteError::NoSuchCore)?;
        if !here.has_pass() {
            return Err(RemoteError::Stopped);
        }
        let place = Place::take(&here.calls);
        let (home, slot) = (here.index, place.slot);
        let stage = Stage::Out(work);
        let trip = Trip {
            name,
            home,
            slot,
            stage,
        };
        (to, place, trip)
    };
    let mut order: Box<dyn Order> = Box::new(trip);
    loop {
        let sent = local::here().handle.group.cores[to].inbox.send(order);
        match sent {
            Ok(()) => break,
            Err(SendError::Full(back)) => order = back,
            Err(SendError::Closed(_)) => return Err(RemoteError::Stopped),
        }
        yield_now().await;
    }
    place.has_left();
    let home = place.home().await.into_any();
    let trip = home.downcast::<Trip<F, T>>();
    match trip.expect("what comes home is what has left").stage {
        Stage::Back(answer) => answer,
        Stage::Out(_) => unreachable!("its work was taken out before it was sent back"),
    }
}
