//! One reactor: the loop, one whole turn of it, and how it ends.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oriel_dht::region::prefetch_whole;

use super::activity::Activity;
use super::group::{Backoff, Group, Hanging, Phase};
use super::handle::{CoreId, Order};
use super::local::{Drain, Entered, Local};
use super::source::Attached;
use super::stats::{PerCore, add, add_time};
use crate::clock::Moment;
use crate::limits::{self, ORDERS_AT_ONCE};
use crate::mailbox::Receiver;

/// How far a reactor is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// Asked to stop: tasks end by themselves; others may still send work.
    Draining,
    /// All reactors ran dry at once: the inbox is closed, what is in it runs.
    Closing,
    /// Sources finish, one core after the other, the main core last.
    Leaving,
    Left,
}

/// How a reactor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    /// The deadline passed; what still ran is in `Group::hanging`.
    Abandoned,
}

pub(crate) struct Reactor {
    /// The place in `group.cores`; 0 is the main core.
    index: usize,
    local: Rc<Local>,
    group: Arc<Group>,
    inbox: Receiver<Box<dyn Order>>,
    sources: Vec<Attached>,
    mailboxes: Vec<Box<dyn Drain>>,
    mark: Activity,
    shown: Arc<PerCore>,
    stage: Stage,
    stop_seen: Option<Moment>,
    /// When the clock was last read; what came since is not accounted for yet.
    accounted: Moment,
    turns_since: u32,
}

impl Reactor {
    pub(crate) fn new(index: usize, local: Rc<Local>, inbox: Receiver<Box<dyn Order>>) -> Self {
        let group = local.handle.group.clone();
        let shown = group.cores[index].shown.clone();
        let accounted = local.clock.now();
        Self {
            index,
            local,
            group,
            inbox,
            sources: Vec::new(),
            mailboxes: Vec::new(),
            mark: Activity::new(shown.clone()),
            shown,
            stage: Stage::Running,
            stop_seen: None,
            accounted,
            turns_since: 0,
        }
    }

    /// Makes the program's root task, whose end asks all reactors to stop.
    pub(crate) fn start_root<F>(&self, root: impl FnOnce() -> F, value: Rc<Cell<Option<F::Output>>>)
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let _here = Entered::new(&self.local);
        let root = root();
        let group = self.group.clone();
        let root = async move {
            value.set(Some(root.await));
            group.request_stop();
        };
        let spawned = self.local.spawn("root", move || root);
        assert!(spawned.is_ok(), "tasks_max is at least one");
    }

    /// One whole turn. Whether there was anything to do.
    pub(crate) fn turn(&mut self) -> bool {
        let _here = Entered::new(&self.local);
        if self.local.arrivals.get() {
            self.admit_arrivals();
        }

        let mut busy = false;
        for attached in &mut self.sources {
            self.mark.begin(attached.activity);
            busy |= attached.source.poll();
        }
        if !self.local.homebound.is_empty() {
            self.local.homebound.send_again(&self.local);
            busy = true;
        }
        if !self.inbox.is_empty() {
            self.take_orders();
            busy = true;
        }
        for mailbox in &mut self.mailboxes {
            if !mailbox.is_empty() {
                self.mark.begin(mailbox.activity());
                let done = mailbox.drain(limits::MESSAGES_PER_TURN);
                add(&self.shown.counters.messages, done as u64);
                busy = true;
            }
        }
        if self.local.executor.has_ready() {
            busy |= self.local.executor.run_ready(&self.mark) > 0;
        }

        self.turns_since += 1;
        if busy || self.turns_since >= limits::IDLE_TURNS_PER_CLOCK_READ {
            busy |= self.account_and_fire(busy);
        }
        if self.group.stop.load(Ordering::Relaxed) {
            self.wind_down();
        }
        self.mark.end();
        busy
    }

    fn admit_arrivals(&mut self) {
        self.local.arrivals.set(false);
        self.sources
            .append(&mut self.local.new_sources.borrow_mut());
        let mut mailboxes = self.local.new_mailboxes.borrow_mut();
        self.mailboxes.append(&mut mailboxes);
    }

    fn take_orders(&mut self) {
        // An order has a pass of its own, or its caller's reactor has one, so there
        // is another, which outlives what the order starts.
        self.local.has_pass();
        for _ in 0..limits::MESSAGES_PER_TURN / ORDERS_AT_ONCE {
            // All of them are on their way before the first is looked into.
            let orders: [_; ORDERS_AT_ONCE] = std::array::from_fn(|_| {
                let order = self.inbox.receive();
                order.inspect(|order| prefetch_whole(&**order))
            });
            for order in orders.into_iter().flatten() {
                self.mark.begin(self.local.activity_of(order.name()));
                order.run(&self.local);
                add(&self.shown.counters.messages, 1);
            }
            if self.inbox.is_empty() {
                break;
            }
        }
    }

    /// Reads the clock, books the time since the last reading as busy or idle,
    /// and fires what is due. Idle turns share a reading, so up to seven of them
    /// are booked with the busy turn that ends their row.
    fn account_and_fire(&mut self, busy: bool) -> bool {
        let now = self.local.clock.now();
        let counters = &*self.shown.counters;
        let spent = if busy {
            &counters.busy_ns
        } else {
            &counters.idle_ns
        };
        add_time(spent, now - self.accounted);
        self.accounted = now;
        add(&counters.turns, u64::from(self.turns_since));
        self.turns_since = 0;
        if busy {
            let executor = &self.local.executor;
            counters
                .tasks_run
                .store(executor.tasks_run(), Ordering::Relaxed);
            let live = executor.live() as u64;
            counters.tasks_live.store(live, Ordering::Relaxed);
        }

        let mut fired = 0;
        while fired < limits::TIMERS_PER_TURN as u64 {
            let waker = self.local.timers.borrow_mut().fire_one(now);
            let Some(waker) = waker else {
                break;
            };
            waker.wake();
            fired += 1;
        }
        if fired > 0 {
            add(&counters.timers_fired, fired);
        }
        fired > 0
    }

    /// Turns until the program has stopped.
    pub(crate) fn run(mut self) -> End {
        if let Some(doorbell) = &self.local.doorbell {
            doorbell.belongs_here();
        }
        let mut idle_turns = 0;
        let mut nap = limits::BACKOFF_SLEEP_MIN;
        while self.stage != Stage::Left {
            let busy = self.turn();
            if self.group.phase() == Phase::Abandoned {
                return self.abandon();
            }
            let Some(backoff) = self.group.backoff else {
                continue;
            };
            if busy {
                idle_turns = 0;
                nap = limits::BACKOFF_SLEEP_MIN.min(backoff.sleep_max);
            } else if idle_turns < backoff.idle_turns {
                idle_turns += 1;
            } else {
                self.doze(nap);
                // Stopping goes on step by step with the others, which do not ring.
                let stopping = self.group.stop.load(Ordering::Relaxed);
                nap = if stopping { nap } else { nap * 2 }.min(backoff.sleep_max);
            }
        }
        let _here = Entered::new(&self.local);
        // What a late message has started ends here, where its future lives.
        self.local.executor.cancel_all();
        drop(std::mem::take(&mut self.mailboxes));
        End::Clean
    }

    /// Sleeps for `nap`, or less if a timer is due or somebody rings.
    fn doze(&mut self, nap: Duration) {
        let Some(doorbell) = &self.local.doorbell else {
            return;
        };
        let before = self.local.clock.now();
        let next = self.local.timers.borrow().next_deadline();
        let nap = next.map_or(nap, |deadline| nap.min(deadline - before));
        doorbell.announce();
        let nothing = self.inbox.is_empty()
            && !self.local.executor.has_ready()
            && self.local.homebound.is_empty()
            && !self.local.arrivals.get()
            && self.mailboxes.iter().all(|mailbox| mailbox.is_empty());
        if nothing && !nap.is_zero() {
            std::thread::park_timeout(nap);
        }
        doorbell.withdraw();
        let slept = self.local.clock.now() - before;
        add_time(&self.shown.counters.asleep_ns, slept);
        self.account_and_fire(false);
    }

    /// One step on the way out; called each turn once the program is asked to stop.
    fn wind_down(&mut self) {
        self.enforce_deadline();
        match self.stage {
            Stage::Running => {
                self.local.wake_stop_waiters();
                self.stage = Stage::Draining;
            }
            Stage::Draining if self.group.phase() == Phase::Stopping => {
                self.inbox.close();
                self.stage = Stage::Closing;
            }
            Stage::Draining if self.is_dry() => drop(self.local.pass.take()),
            Stage::Draining => {
                self.local.has_pass();
            }
            Stage::Closing if self.is_dry() && self.inbox.is_finished() => {
                self.group.not_dry.fetch_sub(1, Ordering::AcqRel);
                self.stage = Stage::Leaving;
            }
            Stage::Leaving if self.may_leave() => {
                self.finish_sources();
                if self.sources.is_empty() {
                    self.group.leaves_next.fetch_sub(1, Ordering::AcqRel);
                    self.stage = Stage::Left;
                }
            }
            Stage::Closing | Stage::Leaving | Stage::Left => {}
        }
    }

    fn is_dry(&self) -> bool {
        self.local.executor.live() == 0
            && self.local.calls.is_empty()
            && self.local.homebound.is_empty()
            && self.inbox.is_empty()
            && self.mailboxes.iter().all(|mailbox| mailbox.is_empty())
    }

    fn may_leave(&self) -> bool {
        self.group.not_dry.load(Ordering::Acquire) == 0
            && self.group.leaves_next.load(Ordering::Acquire) == self.index + 1
    }

    fn finish_sources(&mut self) {
        self.admit_arrivals();
        while let Some(last) = self.sources.last_mut() {
            self.mark.begin(last.activity);
            if !last.source.finish() {
                return;
            }
            drop(self.sources.pop());
        }
    }

    /// The main reactor watches the deadline, as long as it turns itself.
    fn enforce_deadline(&mut self) {
        if self.index != 0 {
            return;
        }
        let now = self.local.clock.now();
        let since = *self.stop_seen.get_or_insert(now);
        if now - since > self.group.shutdown_deadline {
            self.group.abandon();
        }
    }

    /// Says what still runs and leaves all of it where it is: a device may still
    /// write to a buffer, and the process is about to end.
    fn abandon(self) -> End {
        let mut what: Vec<String> = Vec::new();
        let mut names = self.local.executor.names();
        names.sort_unstable();
        for same in names.chunk_by(|a, b| a == b) {
            what.push(match same.len() {
                1 => format!("task '{}'", same[0]),
                n => format!("{n} tasks '{}'", same[0]),
            });
        }
        if self.stage == Stage::Leaving && self.may_leave() {
            let last = self.sources.last();
            what.extend(last.map(|a| format!("{} has not exited", a.source.name())));
        }
        self.group.report_hanging(Hanging {
            core: self.core(),
            what,
        });
        self.mark.end();
        std::mem::forget(self);
        End::Abandoned
    }

    fn core(&self) -> CoreId {
        self.local.core
    }
}

impl Backoff {
    /// The values that suit a small machine: awake for a moment after each piece
    /// of work, then ever longer naps up to a millisecond.
    pub fn small_machine() -> Self {
        Self {
            idle_turns: limits::BACKOFF_IDLE_TURNS,
            sleep_max: limits::BACKOFF_SLEEP_MAX,
        }
    }
}
