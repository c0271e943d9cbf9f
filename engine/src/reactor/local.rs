//! The reactor that the calling thread is: what its tasks use.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::activity::{ActivityId, TaskNames};
use super::call::{Calls, Homebound};
use super::executor::{Executor, JoinHandle, NoTaskSlot};
use super::group::Pass;
use super::handle::{CoreId, ReactorHandle};
use super::source::{Attached, Source};
use super::timer::{TimerKey, Timers};
use crate::clock::{Clock, Moment};
use crate::mailbox::{self, Doorbell, Receiver, Sender};

thread_local! {
    static HERE: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// A typed mailbox that the reactor drains, its type forgotten.
pub(crate) trait Drain {
    /// Handles at most `most` messages; says how many.
    fn drain(&mut self, most: usize) -> usize;
    fn is_empty(&self) -> bool;
    fn activity(&self) -> ActivityId;
}

struct Handled<T: Send, H> {
    receiver: Receiver<T>,
    handler: H,
    activity: ActivityId,
}

impl<T: Send, H: FnMut(T)> Drain for Handled<T, H> {
    fn drain(&mut self, most: usize) -> usize {
        for done in 0..most {
            match self.receiver.receive() {
                Some(message) => (self.handler)(message),
                None => return done,
            }
        }
        most
    }

    fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    fn activity(&self) -> ActivityId {
        self.activity
    }
}

/// What the tasks of one reactor share with its loop.
pub(crate) struct Local {
    pub(crate) executor: Executor,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) clock: Clock,
    pub(crate) handle: ReactorHandle,
    pub(crate) core: CoreId,
    /// The place in `group.cores`.
    pub(super) index: usize,
    /// Keeps all reactors running; given up while this one is asked to stop and has
    /// nothing to do.
    pub(super) pass: RefCell<Option<Pass>>,
    pub(super) calls: Rc<Calls>,
    pub(super) homebound: Homebound,
    /// Attached by tasks, taken over by the loop at its next turn.
    pub(crate) new_sources: RefCell<Vec<Attached>>,
    pub(crate) new_mailboxes: RefCell<Vec<Box<dyn Drain>>>,
    pub(crate) arrivals: Cell<bool>,
    pub(crate) doorbell: Option<Arc<Doorbell>>,
    /// Woken once, when the reactor sees the request to stop.
    stop_waiters: RefCell<Slab<Waker>>,
    names: RefCell<TaskNames>,
}

impl Local {
    pub(crate) fn new(
        handle: ReactorHandle,
        index: usize,
        clock: Clock,
        tasks_max: usize,
        doorbell: Option<Arc<Doorbell>>,
    ) -> Rc<Self> {
        let core = handle.group.cores[index].core;
        Rc::new(Self {
            executor: Executor::new(tasks_max, doorbell.clone()),
            timers: RefCell::new(Timers::new()),
            clock,
            handle,
            core,
            index,
            pass: RefCell::default(),
            calls: Rc::default(),
            homebound: Homebound::default(),
            new_sources: RefCell::default(),
            new_mailboxes: RefCell::default(),
            arrivals: Cell::new(false),
            doorbell,
            stop_waiters: RefCell::default(),
            names: RefCell::default(),
        })
    }

    /// As [`Executor::spawn`].
    pub(super) fn spawn<W, F>(
        &self,
        name: &'static str,
        work: W,
    ) -> Result<JoinHandle<F::Output>, W>
    where
        W: FnOnce() -> F + 'static,
        F: Future + 'static,
        F::Output: 'static,
    {
        let activity = self.activity_of(name);
        self.executor.spawn(name, activity, work)
    }

    /// Whether this reactor has a pass from now on: it takes one if it can.
    pub(super) fn has_pass(&self) -> bool {
        let mut pass = self.pass.borrow_mut();
        if pass.is_none() {
            *pass = Pass::take(&self.handle.group);
        }
        pass.is_some()
    }

    pub(crate) fn activity_of(&self, task: &'static str) -> ActivityId {
        self.names.borrow_mut().id(task)
    }

    pub(crate) fn wake_stop_waiters(&self) {
        // Taken in one go, so that a woken future may already leave its place.
        let waiters: Vec<_> = {
            let mut waiters = self.stop_waiters.borrow_mut();
            let each = waiters.iter_mut();
            each.map(|(_, waker)| std::mem::replace(waker, Waker::noop().clone()))
                .collect()
        };
        waiters.into_iter().for_each(Waker::wake);
    }
}

/// Makes a reactor the calling thread's while it lives.
pub(crate) struct Entered {
    before: Option<Rc<Local>>,
}

impl Entered {
    pub(crate) fn new(local: &Rc<Local>) -> Self {
        let before = HERE.with(|here| here.replace(Some(local.clone())));
        Self { before }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        let _ = HERE.try_with(|here| here.replace(before));
    }
}

/// Calls `f` with the executor of this thread, without a count taken: this is the
/// path of every wake-up.
pub(super) fn with_executor<R>(f: impl FnOnce(Option<&Executor>) -> R) -> R {
    let mut f = Some(f);
    // A thread that is ending has no reactor any more; `f` is called all the same.
    let seen = HERE.try_with(|here| {
        let here = here.borrow();
        f.take()
            .map(|f| f(here.as_ref().map(|local| &local.executor)))
    });
    match (seen, f) {
        (Ok(Some(value)), _) => value,
        (_, Some(f)) => f(None),
        (_, None) => unreachable!("f was taken only where it was called"),
    }
}

/// The same with all that is known here.
pub(super) fn with_here(f: impl FnOnce(Option<&Local>)) {
    let _ = HERE.try_with(|here| f(here.borrow().as_deref()));
}

pub(super) fn here() -> Rc<Local> {
    let here = HERE.with(|here| here.borrow().clone());
    here.expect("this needs a reactor: call it in a task that Reactors::start or spawn runs")
}

pub(super) fn now() -> Moment {
    here().clock.now()
}

pub(super) fn with_timers<R>(f: impl FnOnce(&mut Timers) -> R) -> R {
    f(&mut here().timers.borrow_mut())
}

pub(super) fn remove_timer(key: TimerKey) {
    // Without a reactor its timers are gone, and the slot with them.
    let _ = HERE.try_with(|here| {
        if let Some(local) = &*here.borrow() {
            local.timers.borrow_mut().remove(key);
        }
    });
}

/// Runs `future` as a task of this reactor. `name` is what the watchdog and a
/// shutdown that hangs call it.
///
/// # Panics
/// Outside a reactor.
pub fn spawn_local<F>(name: &'static str, future: F) -> Result<JoinHandle<F::Output>, NoTaskSlot<F>>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let here = here();
    let spawned = here.spawn(name, move || future);
    spawned.map_err(|work| NoTaskSlot {
        future: work(),
        tasks_max: here.executor.tasks_max(),
    })
}

/// The core whose reactor runs the caller.
///
/// # Panics
/// Outside a reactor.
pub fn current_core() -> CoreId {
    here().core
}

/// The core whose reactor runs the caller, if one does.
pub(crate) fn core_here() -> Option<CoreId> {
    HERE.with(|here| here.borrow().as_ref().map(|local| local.core))
}

/// A handle to all reactors of the program.
///
/// # Panics
/// Outside a reactor.
pub fn handle() -> ReactorHandle {
    here().handle.clone()
}

/// Has the reactor poll `source` from its next turn on, until the program stops.
/// The source is finished then, last attached first.
///
/// # Panics
/// Outside a reactor.
pub fn attach(source: impl Source + 'static) {
    let local = here();
    let source = Attached::new(Box::new(source));
    local.new_sources.borrow_mut().push(source);
    local.arrivals.set(true);
}

/// A mailbox of `slots` messages that this reactor drains into `handler`. No
/// allocation for a message: the way for cores to talk on a data path.
///
/// # Panics
/// Outside a reactor, or when `slots` is not a power of two.
pub fn attach_mailbox<T: Send + 'static>(
    slots: usize,
    handler: impl FnMut(T) + 'static,
) -> Sender<T> {
    let local = here();
    let (sender, receiver) = mailbox::with_doorbell(slots, local.doorbell.clone());
    let activity = ActivityId::of(&format!("message {}", std::any::type_name::<T>()));
    let drained = Box::new(Handled {
        receiver,
        handler,
        activity,
    });
    local.new_mailboxes.borrow_mut().push(drained);
    local.arrivals.set(true);
    sender
}

/// Lets every other ready task run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Ready once the program is asked to stop, by a signal or by
/// [`ReactorHandle::shut_down`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct StopRequested {
    place: Option<usize>,
    _on_one_thread: PhantomData<*mut ()>,
}

/// Waits until the program is asked to stop. A task that runs for ever awaits
/// this beside its work, and ends.
pub fn stop_requested() -> StopRequested {
    StopRequested {
        place: None,
        _on_one_thread: PhantomData,
    }
}

impl Future for StopRequested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let local = here();
        if local.handle.is_stopping() {
            return Poll::Ready(());
        }
        let mut waiters = local.stop_waiters.borrow_mut();
        match self.place {
            Some(place) => waiters[place].clone_from(cx.waker()),
            None => self.place = Some(waiters.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for StopRequested {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let _ = HERE.try_with(|here| {
            if let Some(local) = &*here.borrow() {
                local.stop_waiters.borrow_mut().remove(place);
            }
        });
    }
}
