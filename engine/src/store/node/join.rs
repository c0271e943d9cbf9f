//! Futures of one task, together: a fixed number, or as many as come.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, Waker};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs all to their ends.
pub(super) async fn all<'a, F>(futures: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + 'a,
{
    let mut futures: Vec<Boxed<'a, F::Output>> =
        futures.map(|future| Box::pin(future) as _).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_done = true;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_some() {
                continue;
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(value) => *output = Some(value),
                Poll::Pending => is_done = false,
            }
        }
        match is_done {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Futures that run until they end; others may come meanwhile.
#[derive(Default)]
pub(super) struct Crowd {
    futures: RefCell<Vec<Boxed<'static, ()>>>,
    bell: RefCell<Option<Waker>>,
    is_last_call: Cell<bool>,
}

impl Crowd {
    pub(super) fn add(&self, future: impl Future<Output = ()> + 'static) {
        self.futures.borrow_mut().push(Box::pin(future));
        self.ring();
    }

    /// [`run`](Self::run) ends when nobody is left.
    pub(super) fn last_call(&self) {
        self.is_last_call.set(true);
        self.ring();
    }

    fn ring(&self) {
        if let Some(waker) = self.bell.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) async fn run(&self) {
        poll_fn(|cx| {
            self.bell.replace(Some(cx.waker().clone()));
            let mut futures = self.futures.take();
            futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
            let mut place = self.futures.borrow_mut();
            futures.append(&mut place);
            *place = futures;
            match place.is_empty() && self.is_last_call.get() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

/// The end of the first of two; the other is dropped.
pub(super) async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    poll_fn(
        |cx| match one.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        },
    )
    .await;
}

/// Something that others ring, and one waits for.
#[derive(Default)]
pub(super) struct Bell {
    has_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.has_rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) async fn heard(&self) {
        poll_fn(|cx| {
            if self.has_rung.replace(false) {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
