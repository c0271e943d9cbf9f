//! Several futures at once, on one task.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// Runs both to their ends.
pub(super) async fn both<A: Future, B: Future>(one: A, other: B) -> (A::Output, B::Output) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(output) = one.as_mut().poll(cx)
        {
            first = Some(output);
        }
        if second.is_none()
            && let Poll::Ready(output) = other.as_mut().poll(cx)
        {
            second = Some(output);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            (either, or) => {
                (first, second) = (either, or);
                Poll::Pending
            }
        }
    })
    .await
}

enum Slot<F: Future> {
    Running(Pin<Box<F>>),
    Ended(Option<F::Output>),
}

/// Runs up to `most` of the futures at once, and shows what they give in the order in which they were begun. Ends at the
/// first error, its own or that of `show`; what is under way then is given up.
pub(super) async fn in_order<F, T, E>(
    most: usize,
    futures: impl IntoIterator<Item = F>,
    mut show: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut coming = futures.into_iter();
    let mut slots: VecDeque<Slot<F>> = VecDeque::with_capacity(most);
    loop {
        let wanted = most - slots.len();
        slots.extend(
            coming
                .by_ref()
                .take(wanted)
                .map(|one| Slot::Running(Box::pin(one))),
        );
        if slots.is_empty() {
            return Ok(());
        }
        let first = poll_fn(|cx| {
            for slot in &mut slots {
                if let Slot::Running(future) = slot
                    && let Poll::Ready(output) = future.as_mut().poll(cx)
                {
                    *slot = Slot::Ended(Some(output));
                }
            }
            match slots.front_mut() {
                Some(Slot::Ended(output)) => Poll::Ready(output.take()),
                _ => Poll::Pending,
            }
        });
        let first = first.await;
        slots.pop_front();
        show(first.expect("an output is taken once, with its slot")?)?;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Waker};

    use super::*;

    /// Ends after so many polls.
    async fn after(polls: u32, begun: &Cell<u32>, number: u32) -> Result<u32, u32> {
        begun.set(begun.get() + 1);
        let mut left = polls;
        poll_fn(|_| match left {
            0 => Poll::Ready(()),
            _ => {
                left -= 1;
                Poll::Pending
            }
        })
        .await;
        if number == 7 { Err(number) } else { Ok(number) }
    }

    fn run<F: Future>(future: F) -> F::Output {
        let mut future = pin!(future);
        for _ in 0..1000 {
            if let Poll::Ready(output) = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                return output;
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn outputs_come_in_order_and_no_more_run_than_may() {
        let begun = Cell::new(0);
        let mut seen = Vec::new();
        let futures = (0..7).map(|number| after((number * 5) % 7, &begun, number));
        let shown = in_order(3, futures, |number| {
            assert!(begun.get() <= number + 3, "{number}: {}", begun.get());
            seen.push(number);
            Ok(())
        });
        assert_eq!(run(shown), Ok(()));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let begun = Cell::new(0);
        let mut seen = 0;
        let futures = (0..100).map(|number| after(1, &begun, number));
        let shown = in_order(4, futures, |_| {
            seen += 1;
            Ok(())
        });
        assert_eq!(run(shown), Err(7));
        assert_eq!(seen, 7);
        let futures = (0..7).map(|number| after(0, &begun, number));
        let refused = in_order(
            4,
            futures,
            |number| if number == 2 { Err(9) } else { Ok(()) },
        );
        assert_eq!(run(refused), Err(9));
    }
}
