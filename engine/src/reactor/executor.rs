//! The local executor: futures that stay on one thread.
//!
//! ```text
//!   wake on the reactor's own thread ──► ready (VecDeque) ──► run, a few a turn
//!   wake on any other thread ──► injected (mailbox) ──┘
//! ```
//!
//! Invariants:
//! - A future is polled and dropped on the thread that owns the executor.
//! - At most `tasks_max` tasks live, and each is queued at most once, so neither
//!   queue can overflow: `injected` has a slot for each task.
//! - A turn runs what was ready when it began, so that a task which wakes itself
//!   cannot keep the drives from being polled.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_task::Runnable;
use pin_project_lite::pin_project;
use slab::Slab;

use super::activity::{Activity, ActivityId};
use super::local;
use crate::limits;
use crate::mailbox::{self, Doorbell, Receiver, SendError, Sender};

/// What is known of a task without polling it.
#[derive(Debug)]
pub(crate) struct About {
    activity: ActivityId,
}

type Ready = Runnable<About>;

/// What wakers on other threads need.
#[derive(Debug)]
struct Injector {
    executor: u64,
    sender: Sender<Ready>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    /// Set right after the task is made; for dropping the future at the end.
    waker: Option<Waker>,
}

/// There is no slot for another task; the future comes back.
#[derive(thiserror::Error)]
#[error(
    "the reactor already runs {tasks_max} tasks, its limit: start the work when others have ended, or raise tasks_max"
)]
pub struct NoTaskSlot<F> {
    /// What was to be run.
    pub future: F,
    /// The limit that was reached.
    pub tasks_max: usize,
}

impl<F> std::fmt::Debug for NoTaskSlot<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoTaskSlot")
            .field("tasks_max", &self.tasks_max)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct Executor {
    id: u64,
    ready: RefCell<VecDeque<Ready>>,
    injected: RefCell<Receiver<Ready>>,
    injector: Arc<Injector>,
    tasks: Rc<RefCell<Slab<Entry>>>,
    tasks_max: usize,
    tasks_run: Cell<u64>,
}

/// Frees the task's slot when its future is gone, finished or not.
struct SlotGuard {
    tasks: Rc<RefCell<Slab<Entry>>>,
    slot: usize,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let entry = self.tasks.borrow_mut().remove(self.slot);
        // The waker goes after the borrow: it may be the task's last reference.
        drop(entry);
    }
}

pin_project! {
    /// A task's future, and its slot. Written out because an `async` block would
    /// have room for the future twice.
    struct InSlot<F> {
        #[pin]
        future: F,
        _slot: SlotGuard,
    }
}

impl<F: Future> Future for InSlot<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl Executor {
    pub(crate) fn new(tasks_max: usize, doorbell: Option<Arc<Doorbell>>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let slots = tasks_max.next_power_of_two().max(2);
        let (sender, injected) = mailbox::with_doorbell(slots, doorbell);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            ready: RefCell::new(VecDeque::with_capacity(limits::TASKS_PER_TURN)),
            injected: RefCell::new(injected),
            injector: Arc::new(Injector {
                executor: id,
                sender,
            }),
            tasks: Rc::default(),
            tasks_max,
            tasks_run: Cell::new(0),
        }
    }

    /// Makes a task of the future that `work` makes in its place, or gives `work` back where there is no slot.
    pub(crate) fn spawn<W, F>(
        &self,
        name: &'static str,
        activity: ActivityId,
        work: W,
    ) -> Result<JoinHandle<F::Output>, W>
    where
        W: FnOnce() -> F + 'static,
        F: Future + 'static,
        F::Output: 'static,
    {
        let slot = {
            let mut tasks = self.tasks.borrow_mut();
            if tasks.len() >= self.tasks_max {
                return Err(work);
            }
            tasks.insert(Entry { name, waker: None })
        };
        let guard = SlotGuard {
            tasks: self.tasks.clone(),
            slot,
        };
        let injector = self.injector.clone();
        let (runnable, task) = async_task::Builder::new()
            .metadata(About { activity })
            .spawn_local(
                move |_| InSlot {
                    future: work(),
                    _slot: guard,
                },
                move |ready| schedule(&injector, ready),
            );
        self.tasks.borrow_mut()[slot].waker = Some(runnable.waker());
        runnable.schedule();
        Ok(JoinHandle { task: Some(task) })
    }

    /// Runs tasks that were ready when it began; says how many.
    pub(crate) fn run_ready(&self, mark: &Activity) -> usize {
        {
            let mut injected = self.injected.borrow_mut();
            if !injected.is_empty() {
                let mut ready = self.ready.borrow_mut();
                for _ in 0..limits::TASKS_PER_TURN {
                    let Some(task) = injected.receive() else {
                        break;
                    };
                    ready.push_back(task);
                }
            }
        }
        let count = self.ready.borrow().len().min(limits::TASKS_PER_TURN);
        for _ in 0..count {
            let Some(task) = self.ready.borrow_mut().pop_front() else {
                break;
            };
            mark.begin(task.metadata().activity);
            task.run();
        }
        self.tasks_run.set(self.tasks_run.get() + count as u64);
        count
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.injected.borrow().is_empty()
    }

    pub(crate) fn tasks_max(&self) -> usize {
        self.tasks_max
    }

    pub(crate) fn live(&self) -> usize {
        self.tasks.borrow().len()
    }

    pub(crate) fn tasks_run(&self) -> u64 {
        self.tasks_run.get()
    }

    /// The names of the tasks that live now.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.tasks.borrow().iter().map(|(_, e)| e.name).collect()
    }
}

/// Queues a task that was woken, from whichever thread.
fn schedule(injector: &Injector, ready: Ready) {
    let elsewhere = local::with_executor(|here| match here {
        Some(here) if here.id == injector.executor => {
            here.ready.borrow_mut().push_back(ready);
            None
        }
        _ => Some(ready),
    });
    if let Some(ready) = elsewhere {
        match injector.sender.send(ready) {
            Ok(()) => {}
            Err(SendError::Full(_)) => {
                unreachable!("a slot for each task, and a task is queued once at most")
            }
            // The executor ends only when no future is left (see its drop), so
            // this runnable has none; and if it had, leaking it is right, for the
            // future must not be dropped on this thread.
            Err(SendError::Closed(ready)) => std::mem::forget(ready),
        }
    }
}

impl Executor {
    /// Drops every future here, on its own thread. A task that another thread is
    /// just waking comes through `injected` in a moment, so this waits for it.
    pub(crate) fn cancel_all(&self) {
        loop {
            let wakers: Vec<_> = {
                let mut tasks = self.tasks.borrow_mut();
                let entries = tasks.iter_mut();
                entries
                    .filter_map(|(_, entry)| entry.waker.take())
                    .collect()
            };
            for waker in wakers {
                waker.wake();
            }
            loop {
                // Each borrow ends before the future is dropped: its drop may wake.
                let task = self.ready.borrow_mut().pop_front();
                let task = task.or_else(|| self.injected.borrow_mut().receive());
                if task.is_none() {
                    break;
                }
            }
            if self.tasks.borrow().is_empty() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.cancel_all();
    }
}

/// A task's result, as a future. Dropping it lets the task run on.
#[derive(Debug)]
#[must_use = "await it for the result, or drop it on purpose to let the task run on"]
pub struct JoinHandle<T> {
    task: Option<async_task::Task<T, About>>,
}

impl<T> JoinHandle<T> {
    /// Ends the task where it is suspended and waits until its future is
    /// dropped. The result, if it had finished before.
    pub async fn cancel(mut self) -> Option<T> {
        match self.task.take() {
            Some(task) => task.cancel().await,
            None => None,
        }
    }

    /// Whether the result is there.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_some_and(|task| task.is_finished())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let task = self.task.as_mut().expect("only cancel takes it, by value");
        Pin::new(task).poll(cx)
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}
