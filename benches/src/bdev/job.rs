//! One job on one bdev: as many tasks as its queue is deep, each an I/O and
//! its buffer, issued again from its own completion.
//!
//! ```text
//!            next()                  issue()              completion
//!   waiting ───────► a step is set ─────────► in flight ───────────► next()
//!      ▲                                │ no room                       │
//!      └── rate limit, drain, pass over └──► stalled (tried again)  ────┘
//! ```
//!
//! Invariants: a task is in exactly one of `waiting`, `stalled` and "in
//! flight"; while `straight` is set, a completion reads no clock (one in
//! `SAMPLE_EVERY` aside, or all with `-l`) and allocates nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use oriel_spdk::DmaBuf;
use oriel_spdk::bdev::{BlockRange, Channel, Complete, Io, IoError, Rejected, Rejection};
use oriel_spdk::ticks;

use super::load_error::LoadError;
use crate::load::course::{Course, Operation, Phase, Step};
use crate::load::histogram::Latencies;
use crate::load::rate::Limits;
use crate::load::workload::Workload;

/// One I/O in so many is timed where nobody asked for percentiles: reading the
/// clock twice for each would take a seventh of a null bdev's speed.
pub(super) const SAMPLE_EVERY: u64 = 32;

/// A task between two I/Os: it stays in its box, which SPDK knows by address.
type Parked = Vec<Box<Io<Task>>>;

/// One slot of the queue.
pub(crate) struct Task {
    job: Rc<Load>,
    step: Step,
    slot: u32,
    /// 0: this I/O is not timed.
    started_ticks: u64,
    is_reset: bool,
}

/// How a job behaves, beyond what its course says.
pub(crate) struct Behaviour {
    pub(crate) workload: Workload,
    pub(crate) unit_blocks: u64,
    pub(crate) io_bytes: u32,
    pub(crate) times_every_io: bool,
    pub(crate) keep_going: bool,
    /// 0: no timeout.
    pub(crate) timeout_ticks: u64,
    pub(crate) verified: bool,
}

/// The state that the tasks of one job share, on one core.
pub(crate) struct Load {
    channel: Channel,
    course: RefCell<Course>,
    limits: RefCell<Limits>,
    behaviour: Behaviour,
    limited: bool,
    /// Completions go on with the next I/O at once: nothing is checked, limited,
    /// watched or waiting.
    straight: Cell<bool>,
    in_flight: Cell<u32>,
    draining: Cell<bool>,
    measuring: Cell<bool>,
    issued: Cell<u64>,
    completed: Cell<u64>,
    failed: Cell<u64>,
    timed_out: Cell<u64>,
    last_ticks: Cell<u64>,
    latencies: RefCell<Latencies>,
    /// By slot, while a timeout is set: when its I/O was issued; 0 when it is
    /// not in flight or was counted as late.
    issued_ticks: RefCell<Vec<u64>>,
    waiting: RefCell<Parked>,
    stalled: RefCell<Parked>,
    spare_for_reset: RefCell<Option<Box<Io<Task>>>>,
    error: RefCell<Option<LoadError>>,
}

/// What the measured phase counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) timed_out: u64,
}

impl Complete for Task {
    #[inline]
    fn complete(io: Box<Io<Self>>, result: Result<(), IoError>) {
        let job = Rc::clone(&io.ctx.job);
        job.returned(io, result);
    }
}

impl Load {
    /// A load whose tasks wait to be started; `buffers` has one for each slot.
    pub(crate) fn new(
        channel: Channel,
        course: Course,
        limits: Limits,
        behaviour: Behaviour,
        buffers: Vec<DmaBuf>,
    ) -> Rc<Self> {
        let slots = buffers.len();
        let load = Rc::new(Self {
            channel,
            course: RefCell::new(course),
            limited: limits.any(),
            limits: RefCell::new(limits),
            straight: Cell::new(false),
            behaviour,
            in_flight: Cell::new(0),
            draining: Cell::new(false),
            measuring: Cell::new(false),
            issued: Cell::new(0),
            completed: Cell::new(0),
            failed: Cell::new(0),
            timed_out: Cell::new(0),
            last_ticks: Cell::new(0),
            latencies: RefCell::new(Latencies::new()),
            issued_ticks: RefCell::new(vec![0; slots]),
            waiting: RefCell::new(Vec::with_capacity(slots)),
            stalled: RefCell::new(Vec::with_capacity(slots)),
            spare_for_reset: RefCell::new(None),
            error: RefCell::new(None),
        });
        let step = Step {
            operation: Operation::Flush,
            unit: 0,
            generation: 0,
        };
        for (slot, buffer) in (0..).zip(buffers) {
            let task = Task {
                job: Rc::clone(&load),
                step,
                slot,
                started_ticks: 0,
                is_reset: false,
            };
            load.waiting.borrow_mut().push(Io::new(buffer, task));
        }
        load
    }

    /// Keeps a task of its own for resets.
    pub(crate) fn add_reset_task(self: &Rc<Self>, buffer: DmaBuf) {
        let step = Step {
            operation: Operation::Flush,
            unit: 0,
            generation: 0,
        };
        let task = Task {
            job: Rc::clone(self),
            step,
            slot: 0,
            started_ticks: 0,
            is_reset: true,
        };
        *self.spare_for_reset.borrow_mut() = Some(Io::new(buffer, task));
    }

    /// Starts the course's current phase with every task.
    pub(crate) fn start_phase(&self, now_ticks: u64) {
        self.draining.set(false);
        self.measuring
            .set(self.course.borrow().phase() == Phase::Measure);
        self.last_ticks.set(now_ticks);
        self.limits.borrow_mut().refill(now_ticks);
        self.resume();
        self.straighten();
    }

    /// Issues no more; what is in flight completes.
    pub(crate) fn drain(&self) {
        if !self.draining.replace(true) {
            // The end, unless completions are still to come.
            self.last_ticks.set(ticks::now());
        }
        self.straight.set(false);
    }

    /// The next phase, once `is_quiet`. None: the course is through.
    pub(crate) fn advance(&self) -> Option<Phase> {
        self.measuring.set(false);
        self.straight.set(false);
        self.course.borrow_mut().advance()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.course.borrow().phase()
    }

    /// Nothing is in flight, and nothing will be by itself.
    pub(crate) fn is_quiet(&self) -> bool {
        let reset_is_back =
            self.behaviour.workload != Workload::Reset || self.spare_for_reset.borrow().is_some();
        self.in_flight.get() == 0 && self.stalled.borrow().is_empty() && reset_is_back
    }

    /// What has to be done between completions: limits, retries, late I/O.
    pub(crate) fn tick(&self, now_ticks: u64) {
        if self.limited {
            self.limits.borrow_mut().refill(now_ticks);
        }
        self.retry_stalled();
        self.resume();
        self.straighten();
        if self.behaviour.timeout_ticks > 0 {
            self.count_late(now_ticks);
        }
    }

    /// Resets the drive, unless the last reset is still under way.
    pub(crate) fn reset_drive(&self) {
        if let Some(io) = self.spare_for_reset.take()
            && let Err(rejected) = self.channel.reset(io)
        {
            *self.spare_for_reset.borrow_mut() = Some(rejected.io);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            completed: self.completed.get(),
            failed: self.failed.get(),
            timed_out: self.timed_out.get(),
        }
    }

    pub(crate) fn last_ticks(&self) -> u64 {
        self.last_ticks.get()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.error.borrow().is_some()
    }

    pub(crate) fn fail(&self, error: LoadError) {
        self.error.borrow_mut().get_or_insert(error);
        self.drain();
    }

    /// Frees the tasks, which hold the load, and gives what was recorded.
    pub(crate) fn finish(&self) -> (Latencies, Option<LoadError>) {
        debug_assert!(self.is_quiet(), "tasks in flight hold their load");
        self.waiting.borrow_mut().clear();
        self.spare_for_reset.borrow_mut().take();
        (self.latencies.replace(Latencies::new()), self.error.take())
    }

    /// The path that a measurement of overhead sees: one I/O done, the next one
    /// out, nothing in flight more or less.
    #[inline]
    fn returned(&self, mut io: Box<Io<Task>>, result: Result<(), IoError>) {
        if !self.straight.get() || result.is_err() {
            return self.returned_with_care(io, result);
        }
        let completed = self.completed.get() + 1;
        self.completed.set(completed);
        if io.ctx.started_ticks != 0 {
            self.record(&io);
        }
        let mut course = self.course.borrow_mut();
        let step = course.next_unverified();
        let block = course.block_of(step.unit);
        drop(course);
        let timed = self.behaviour.times_every_io || completed.is_multiple_of(SAMPLE_EVERY);
        io.ctx.started_ticks = if timed { ticks::now() } else { 0 };
        io.ctx.step = step;
        if let Err(rejected) = self.send(io, step.operation, block) {
            self.in_flight.set(self.in_flight.get() - 1);
            self.rejected(rejected);
        }
    }

    /// Whether completions may take the straight path from now on.
    fn straighten(&self) {
        let plain = !self.behaviour.verified && !self.limited && self.behaviour.timeout_ticks == 0;
        let running = self.measuring.get() && !self.draining.get();
        self.straight
            .set(plain && running && self.stalled.borrow().is_empty());
    }

    #[inline(never)]
    fn returned_with_care(&self, mut io: Box<Io<Task>>, result: Result<(), IoError>) {
        if io.ctx.is_reset {
            return self.reset_returned(io, result);
        }
        self.in_flight.set(self.in_flight.get() - 1);
        if io.ctx.started_ticks != 0 {
            self.record(&io);
        }
        if self.check(&mut io, &result) {
            return self.issue(io);
        }
        match result {
            Ok(()) => self
                .completed
                .set(self.completed.get() + u64::from(self.measuring.get())),
            Err(error) => self.io_failed(&io.ctx.step, error),
        }
        self.next(io);
        if !self.stalled.borrow().is_empty() {
            self.retry_stalled();
        }
    }

    fn record(&self, io: &Io<Task>) {
        let now = ticks::now();
        if self.measuring.get() {
            self.latencies
                .borrow_mut()
                .record(now.saturating_sub(io.ctx.started_ticks));
        }
        if self.behaviour.timeout_ticks > 0 {
            self.issued_ticks.borrow_mut()[io.ctx.slot as usize] = 0;
        }
    }

    /// The longer way of a completion; true if the task goes on with a step
    /// that was set here.
    fn check(&self, io: &mut Io<Task>, result: &Result<(), IoError>) -> bool {
        if !self.behaviour.verified {
            return false;
        }
        let step = io.ctx.step;
        let mut course = self.course.borrow_mut();
        match (step.operation, result) {
            (Operation::Write, result) => {
                if let Some(read) = course.written(&step, result.is_ok()) {
                    course.prepare(&read, &mut io.buf);
                    io.ctx.step = read;
                    return true;
                }
            }
            (Operation::Read, Ok(())) => {
                if let Err(mismatch) = course.was_read(&step, &io.buf) {
                    drop(course);
                    self.fail(LoadError::Mismatch(mismatch));
                }
            }
            _ => course.failed(&step),
        }
        false
    }

    #[cold]
    fn io_failed(&self, step: &Step, source: IoError) {
        self.failed
            .set(self.failed.get() + u64::from(self.measuring.get()));
        if !self.behaviour.keep_going && self.behaviour.workload != Workload::Reset {
            self.fail(LoadError::Io {
                operation: step.operation,
                block: self.block_of(step),
                source,
            });
        }
    }

    #[cold]
    fn reset_returned(&self, io: Box<Io<Task>>, result: Result<(), IoError>) {
        *self.spare_for_reset.borrow_mut() = Some(io);
        if let Err(error) = result {
            self.fail(LoadError::Reset(error));
        }
    }

    /// Gives the task its next step, or has it wait.
    #[inline]
    fn next(&self, mut io: Box<Io<Task>>) {
        if self.draining.get() {
            self.last_ticks.set(ticks::now());
            return self.waiting.borrow_mut().push(io);
        }
        if self.limited
            && self.measuring.get()
            && !self.limits.borrow_mut().admit(self.behaviour.io_bytes)
        {
            return self.waiting.borrow_mut().push(io);
        }
        let mut course = self.course.borrow_mut();
        let Some(step) = course.next() else {
            return self.waiting.borrow_mut().push(io);
        };
        course.prepare(&step, &mut io.buf);
        drop(course);
        io.ctx.step = step;
        self.issue(io);
    }

    #[inline]
    fn issue(&self, mut io: Box<Io<Task>>) {
        let issued = self.issued.get();
        let timed = self.behaviour.times_every_io
            || self.behaviour.timeout_ticks > 0
            || issued.is_multiple_of(SAMPLE_EVERY);
        io.ctx.started_ticks = if timed { ticks::now() } else { 0 };
        if self.behaviour.timeout_ticks > 0 {
            self.issued_ticks.borrow_mut()[io.ctx.slot as usize] = io.ctx.started_ticks;
        }
        let step = io.ctx.step;
        match self.send(io, step.operation, self.block_of(&step)) {
            Ok(()) => {
                self.issued.set(issued + 1);
                self.in_flight.set(self.in_flight.get() + 1);
            }
            Err(rejected) => self.rejected(rejected),
        }
    }

    #[inline]
    fn send(
        &self,
        io: Box<Io<Task>>,
        operation: Operation,
        block: u64,
    ) -> Result<(), Rejected<Task>> {
        let range = BlockRange::new(block, self.behaviour.unit_blocks);
        match operation {
            Operation::Read => self.channel.read(io, range),
            Operation::Write => self.channel.write(io, range),
            Operation::Unmap => self.channel.unmap(io, range),
            Operation::Flush => self.channel.flush(io, range),
            Operation::WriteZeroes => self.channel.write_zeroes(io, range),
        }
    }

    #[cold]
    fn rejected(&self, Rejected { io, why }: Rejected<Task>) {
        self.straight.set(false);
        if self.behaviour.timeout_ticks > 0 {
            self.issued_ticks.borrow_mut()[io.ctx.slot as usize] = 0;
        }
        if why == Rejection::NoRoom {
            return self.stalled.borrow_mut().push(io);
        }
        let step = io.ctx.step;
        self.course.borrow_mut().failed(&step);
        self.fail(LoadError::Refused {
            operation: step.operation,
            block: self.block_of(&step),
            source: why,
        });
        self.waiting.borrow_mut().push(io);
    }

    /// Tries what the bdev layer had no room for, until it says so again.
    #[cold]
    fn retry_stalled(&self) {
        let stalled = self.stalled.borrow().len();
        for _ in 0..stalled {
            let Some(io) = self.stalled.borrow_mut().pop() else {
                return;
            };
            if self.draining.get() {
                self.course.borrow_mut().failed(&io.ctx.step);
                self.waiting.borrow_mut().push(io);
                continue;
            }
            let before = self.stalled.borrow().len();
            self.issue(io);
            if self.stalled.borrow().len() > before {
                return;
            }
        }
    }

    /// Sets waiting tasks going, as far as the limits allow.
    fn resume(&self) {
        if self.draining.get() {
            return;
        }
        let waiting = self.waiting.borrow().len();
        for _ in 0..waiting {
            let Some(io) = self.waiting.borrow_mut().pop() else {
                return;
            };
            let before = self.waiting.borrow().len();
            self.next(io);
            if self.waiting.borrow().len() > before {
                return;
            }
        }
    }

    fn count_late(&self, now_ticks: u64) {
        for issued in self.issued_ticks.borrow_mut().iter_mut() {
            if *issued != 0 && now_ticks.saturating_sub(*issued) > self.behaviour.timeout_ticks {
                *issued = 0;
                self.timed_out.set(self.timed_out.get() + 1);
            }
        }
    }

    #[inline]
    fn block_of(&self, step: &Step) -> u64 {
        self.course.borrow().block_of(step.unit)
    }
}
