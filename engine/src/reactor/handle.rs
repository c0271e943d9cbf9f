//! A handle to all reactors: work for another core, numbers, the request to stop.
//!
//! ```text
//!   core A: spawn(B, f) ──► inbox of B ──► B runs f() and its future as a task
//!   core A: its waker is queued ◄── injected wake-ups of A ◄── result
//! ```

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};

use futures_channel::oneshot;

use super::group::{Group, Pass};
use super::local::Local;
use super::stats::ReactorStats;
use crate::mailbox::SendError;

/// A CPU core, by the number that the operating system gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u32);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Work was not taken by another core; it comes back.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError<F> {
    /// That core's inbox is full.
    #[error("the inbox of core {core} is full: its reactor has not kept up; try again later")]
    Full {
        /// The core.
        core: CoreId,
        /// What was to be run.
        work: F,
    },
    /// The reactors have stopped or are past taking work.
    #[error("the reactors have stopped and take no more work")]
    Stopped {
        /// What was to be run.
        work: F,
    },
    /// There is no reactor there.
    #[error(
        "core {core} has no reactor: it is not among the cores that the program was started on"
    )]
    NoSuchCore {
        /// The core.
        core: CoreId,
        /// What was to be run.
        work: F,
    },
}

impl<F> fmt::Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<F> SpawnError<F> {
    /// What was to be run.
    pub fn into_work(self) -> F {
        match self {
            Self::Full { work, .. } | Self::Stopped { work } | Self::NoSuchCore { work, .. } => {
                work
            }
        }
    }
}

/// Work that another core took did not yield a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// That core runs as many tasks as it may.
    #[error("the other core runs as many tasks as it may (tasks_max): send less at once")]
    NoTaskSlot,
    /// It stopped before the work was done.
    #[error("the reactors stopped before the work was done")]
    Stopped,
    /// There is no reactor there.
    #[error("that core has no reactor: it is not among the cores that the program was started on")]
    NoSuchCore,
}

/// What travels in an inbox, and what is done where it arrives.
pub(crate) trait Order: Send {
    fn name(&self) -> &'static str;
    fn run(self: Box<Self>, local: &Rc<Local>);
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

struct Job<F, T> {
    name: &'static str,
    work: F,
    reply: oneshot::Sender<Result<T, RemoteError>>,
    /// Keeps the reactors from stopping until the task has ended.
    pass: Pass,
}

impl<F, Fut, T> Order for Job<F, T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(self: Box<Self>, local: &Rc<Local>) {
        let Self {
            name,
            work,
            reply,
            pass,
        } = *self;
        // The reply is shared with the refused case, which has no future to ask.
        let reply = Rc::new(std::cell::Cell::new(Some(reply)));
        let of_task = reply.clone();
        let spawned = local.spawn(name, move || async move {
            let _pass = pass;
            let value = work().await;
            if let Some(reply) = of_task.take() {
                // Whoever asked may have lost interest.
                let _ = reply.send(Ok(value));
            }
        });
        if spawned.is_err()
            && let Some(reply) = reply.take()
        {
            let _ = reply.send(Err(RemoteError::NoTaskSlot));
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A handle to all reactors of the program, for any thread.
#[derive(Debug, Clone)]
pub struct ReactorHandle {
    pub(crate) group: Arc<Group>,
}

impl ReactorHandle {
    /// The cores that have a reactor, the main one first.
    pub fn cores(&self) -> Vec<CoreId> {
        self.group.cores.iter().map(|member| member.core).collect()
    }

    /// Runs `work` on a core's reactor: the closure is called there, and its
    /// future becomes a task of that name. It runs on if the result is dropped.
    pub fn spawn<F, Fut, T>(
        &self,
        core: CoreId,
        name: &'static str,
        work: F,
    ) -> Result<RemoteHandle<T>, SpawnError<F>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let Some(member) = self.group.member(core) else {
            return Err(SpawnError::NoSuchCore { core, work });
        };
        let Some(pass) = Pass::take(&self.group) else {
            return Err(SpawnError::Stopped { work });
        };
        let (reply, result) = oneshot::channel();
        let job: Box<dyn Order> = Box::new(Job {
            name,
            work,
            reply,
            pass,
        });
        let work_of = |order: Box<dyn Order>| {
            let job = order.into_any().downcast::<Job<F, T>>();
            job.expect("the mailbox gives back what was sent").work
        };
        match member.inbox.send(job) {
            Ok(()) => Ok(RemoteHandle { result }),
            Err(SendError::Full(order)) => Err(SpawnError::Full {
                core,
                work: work_of(order),
            }),
            Err(SendError::Closed(order)) => Err(SpawnError::Stopped {
                work: work_of(order),
            }),
        }
    }

    /// What a core's reactor has done so far; `None` where there is none.
    pub fn stats(&self, core: CoreId) -> Option<ReactorStats> {
        let member = self.group.member(core)?;
        Some(member.shown.snapshot(member.inbox.depth()))
    }

    /// Asks the program to stop, as SIGTERM does. Returns at once.
    pub fn shut_down(&self) {
        self.group.request_stop();
    }

    /// Whether the program was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.group.stop.load(Ordering::Acquire)
    }
}

/// The result of work on another core.
#[derive(Debug)]
#[must_use = "await it for the result, or drop it on purpose to let the work run on"]
pub struct RemoteHandle<T> {
    result: oneshot::Receiver<Result<T, RemoteError>>,
}

impl<T> Future for RemoteHandle<T> {
    type Output = Result<T, RemoteError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.result).poll(cx);
        result.map(|reply| reply.unwrap_or(Err(RemoteError::Stopped)))
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<T> RemoteHandle<T> {
    /// Blocks the calling thread until the result is there. For threads that are
    /// not reactors: on a reactor this would keep its own work from running.
    pub fn wait(mut self) -> Result<T, RemoteError> {
        assert!(
            !super::local::with_executor(|here| here.is_some()),
            "a reactor must not block: await the handle instead"
        );
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut cx) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}
