//! One answer from one task to another on the same thread: a channel without locks.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    value: Cell<Option<T>>,
    waker: Cell<Option<Waker>>,
    is_over: Cell<bool>,
}

/// Who answers. Dropped without a word, it says that there will be none.
pub(super) struct Answer<T>(Rc<Slot<T>>);

/// Who waits: `None` if there will be no answer.
pub(super) struct Heard<T>(Rc<Slot<T>>);

pub(super) fn answer<T>() -> (Answer<T>, Heard<T>) {
    let slot = Rc::new(Slot {
        value: Cell::new(None),
        waker: Cell::new(None),
        is_over: Cell::new(false),
    });
    (Answer(Rc::clone(&slot)), Heard(slot))
}

impl<T> Answer<T> {
    pub(super) fn send(self, value: T) {
        self.0.value.set(Some(value));
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Heard<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.0.is_over.get() {
            return Poll::Ready(self.0.value.take());
        }
        self.0.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    #[test]
    fn an_answer_comes_once_and_silence_is_told() {
        let mut cx = Context::from_waker(Waker::noop());
        let (answer_it, heard) = answer();
        let mut heard = pin!(heard);
        assert_eq!(heard.as_mut().poll(&mut cx), Poll::Pending);
        answer_it.send(7);
        assert_eq!(heard.as_mut().poll(&mut cx), Poll::Ready(Some(7)));
        let (silent, heard) = answer::<u8>();
        drop(silent);
        assert_eq!(pin!(heard).as_mut().poll(&mut cx), Poll::Ready(None));
    }
}
