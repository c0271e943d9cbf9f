//! Reads by position, each begun from the end of another: what a target does for the hosts of a realm, and what the raw
//! device's load does to the device.
//!
//! ```text
//!   begin ──► in flight ──► ended ──► begin        what cannot be begun so is read in a task
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use oriel_engine::reactor::{handle, spawn_local};
use oriel_engine::store::{NodeDrive, NodeStore, Position, ReadEnd, SpdkDrive, SpdkPayload};
use oriel_spdk::ticks;

use super::super::adapter::{REALM, SideError};
use super::super::load::{Course, Done};
use crate::load::histogram::Latencies;
use crate::load::rng::Rng;

/// How many positions are looked up at once.
const AHEAD: usize = 64;

struct Reads {
    store: NodeStore<SpdkDrive>,
    /// Of the windows.
    positions: Vec<Position>,
    bytes: u64,
    end_ticks: u64,
    rng: RefCell<Rng>,
    ahead: RefCell<Vec<Position>>,
    in_flight: Cell<u32>,
    blobs: Cell<u64>,
    last_ticks: Cell<u64>,
    latencies: RefCell<Latencies>,
    failed: RefCell<Option<SideError>>,
    /// Who waits for the last one.
    waiter: RefCell<Option<Waker>>,
}

struct Reading {
    reads: Rc<Reads>,
    position: Position,
    began_ticks: u64,
}

impl ReadEnd<SpdkPayload> for Reading {
    fn ended(self, payload: SpdkPayload, is_filled: bool) {
        if !is_filled {
            return self.in_a_task(payload);
        }
        let Self {
            reads, began_ticks, ..
        } = self;
        reads.next(payload, began_ticks);
    }
}

impl Reading {
    /// What has to wait, or has failed: a read that is waited for says why.
    #[cold]
    fn in_a_task(self, payload: SpdkPayload) {
        let Self {
            reads,
            position,
            began_ticks,
        } = self;
        let own = Rc::clone(&reads);
        let begun = spawn_local("window", async move {
            let (payload, read) = own.store.read_position(REALM, position, payload).await;
            match (payload, read) {
                (Some(payload), Ok(())) => own.next(payload, began_ticks),
                (_, Err(error)) => own.over(Some(error.into())),
                (None, Ok(())) => own.over(None),
            }
        });
        if begun.is_err() {
            reads.over(Some(SideError::NoTask));
        }
    }
}

impl Reads {
    /// Hosts know what they read next; to look one up after the other would be to wait for memory each time, and to measure that.
    fn any(&self) -> Position {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.is_empty() {
            let mut rng = self.rng.borrow_mut();
            let any = || self.positions[rng.below(self.positions.len() as u64) as usize];
            ahead.extend(std::iter::repeat_with(any).take(AHEAD));
        }
        ahead.pop().expect("there are some")
    }

    /// One has ended that began then.
    fn next(self: Rc<Self>, payload: SpdkPayload, began_ticks: u64) {
        let now_ticks = ticks::now();
        self.latencies.borrow_mut().record(now_ticks - began_ticks);
        self.blobs.set(self.blobs.get() + 1);
        self.last_ticks.set(now_ticks);
        if now_ticks >= self.end_ticks || handle().is_stopping() {
            return self.over(None);
        }
        self.begin(payload, now_ticks);
    }

    fn begin(self: Rc<Self>, payload: SpdkPayload, now_ticks: u64) {
        let position = self.any();
        let reading = Reading {
            reads: Rc::clone(&self),
            position,
            began_ticks: now_ticks,
        };
        let begun = self
            .store
            .begin_read_position(REALM, position, payload, reading);
        if let Err((payload, reading)) = begun {
            reading.in_a_task(payload);
        }
    }

    /// There is one less in flight.
    fn over(&self, error: Option<SideError>) {
        if let Some(error) = error {
            self.failed.borrow_mut().get_or_insert(error);
        }
        self.in_flight.set(self.in_flight.get() - 1);
        if self.in_flight.get() == 0
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }
}

/// Reads windows at random, as deep and as long as the course says.
pub(super) async fn read(
    store: NodeStore<SpdkDrive>,
    positions: Vec<Position>,
    bytes: u64,
    course: &Course,
) -> Result<Done, SideError> {
    if positions.is_empty() {
        // It was ended before there were any.
        return Ok(Done::nothing());
    }
    let start_ticks = ticks::now();
    let hz = ticks::per_second() as f64;
    let reads = Rc::new(Reads {
        store,
        positions,
        bytes,
        end_ticks: start_ticks + (course.time.as_secs_f64() * hz) as u64,
        rng: RefCell::new(Rng::new(course.seed)),
        ahead: RefCell::default(),
        in_flight: Cell::new(0),
        blobs: Cell::new(0),
        last_ticks: Cell::new(start_ticks),
        latencies: RefCell::new(Latencies::new()),
        failed: RefCell::default(),
        waiter: RefCell::default(),
    });
    let payloads: Result<Vec<_>, _> = (0..course.depth)
        .map(|_| SpdkDrive::payload(bytes as usize))
        .collect();
    for payload in payloads? {
        reads.in_flight.set(reads.in_flight.get() + 1);
        Rc::clone(&reads).begin(payload, ticks::now());
    }
    std::future::poll_fn(|cx| {
        if reads.in_flight.get() == 0 {
            return Poll::Ready(());
        }
        reads.waiter.replace(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
    if let Some(error) = reads.failed.take() {
        return Err(error);
    }
    let seconds = reads.last_ticks.get().saturating_sub(start_ticks) as f64 / hz;
    Ok(Done {
        blobs: reads.blobs.get(),
        bytes: reads.blobs.get() * reads.bytes,
        seconds,
        latencies: reads.latencies.replace(Latencies::new()),
    })
}
