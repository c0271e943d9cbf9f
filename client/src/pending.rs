//! What a caller has of a request that is under way: a future for any executor, and a wait for plain threads.

use std::any::Any;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::error::CommandError;
use crate::memory::Memory;
use crate::nvme::Completion;

/// A command's memory and how it ended.
pub(crate) struct Outcome<E = CommandError> {
    pub(crate) memory: Box<dyn Memory>,
    pub(crate) result: Result<Completion, E>,
}

enum State<T> {
    Waiting(Option<Waker>),
    Done(T),
    /// Nobody will say anything any more.
    Lost,
}

struct Cell<T>(Mutex<State<T>>);

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, state: State<T>) {
        let before = std::mem::replace(&mut *self.lock(), state);
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

/// The side that says how something ended.
pub(crate) struct Promise<T>(Option<Arc<Cell<T>>>);

impl<T> Promise<T> {
    pub(crate) fn keep(mut self, value: T) {
        if let Some(cell) = self.0.take() {
            cell.settle(State::Done(value));
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.settle(State::Lost);
        }
    }
}

/// The side that waits for it.
pub(crate) struct Answer<T>(Arc<Cell<T>>);

pub(crate) fn promise<T>() -> (Promise<T>, Answer<T>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Promise(Some(Arc::clone(&cell))), Answer(cell))
}

impl<T> Answer<T> {
    pub(crate) fn ready(value: T) -> Self {
        Self(Arc::new(Cell(Mutex::new(State::Done(value)))))
    }

    /// `Ready(None)` if it was lost.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Lost) {
            State::Done(value) => Poll::Ready(Some(value)),
            State::Lost => Poll::Ready(None),
            State::Waiting(_) => {
                *state = State::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// A request under way. Its memory belongs to it until it ends: dropping this lets the request go on and frees the memory
/// when it is done.
#[must_use = "the memory and the result come out of it"]
pub struct Pending<M, E = CommandError> {
    answer: Answer<Outcome<E>>,
    of: std::marker::PhantomData<fn() -> M>,
}

impl<M: Memory, E> Pending<M, E> {
    pub(crate) fn new(answer: Answer<Outcome<E>>) -> Self {
        Self {
            answer,
            of: std::marker::PhantomData,
        }
    }

    pub(crate) fn failed(memory: M, error: E) -> Self {
        let memory = Box::new(memory);
        Self::new(Answer::ready(Outcome {
            memory,
            result: Err(error),
        }))
    }

    /// Waits on this thread.
    ///
    /// # Panics
    /// When the thread that does the I/O has panicked.
    pub fn wait(self) -> (M, Result<Completion, E>) {
        block_on(self)
    }
}

impl<M: Memory, E> Future for Pending<M, E> {
    type Output = (M, Result<Completion, E>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.poll(cx).map(|outcome| {
            let outcome = outcome.expect("the I/O thread runs as long as requests are under way");
            let memory: Box<dyn Any> = outcome.memory;
            let memory = memory.downcast::<M>();
            let memory = memory.unwrap_or_else(|_| unreachable!("memory comes back as it went"));
            (*memory, outcome.result)
        })
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, which sleeps where it waits.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
