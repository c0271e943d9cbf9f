//! The mailbox against a `VecDeque`, and between real threads. The latter is
//! what ThreadSanitizer looks at; every interleaving of small scenes is loom's
//! part (`src/mailbox/loom_tests.rs`).
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use oriel_engine::mailbox::{SendError, mailbox};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Send(u32),
    Receive,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => any::<u32>().prop_map(Step::Send),
        50 => Just(Step::Receive),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_bounded_deque(
        slots in (1u32..6).prop_map(|bits| 1usize << bits),
        steps in prop::collection::vec(step(), 0..400),
    ) {
        // The messages own memory, so that a doubled or lost drop is seen by the
        // sanitizers.
        let (tx, mut rx) = mailbox::<Box<u32>>(slots);
        let mut model = VecDeque::new();
        let mut closed = false;
        for step in steps {
            match step {
                Step::Send(number) => match tx.send(Box::new(number)) {
                    Ok(()) => {
                        prop_assert!(!closed && model.len() < slots);
                        model.push_back(number);
                    }
                    Err(SendError::Full(back)) => {
                        prop_assert!(!closed && model.len() == slots);
                        prop_assert_eq!(*back, number);
                    }
                    Err(SendError::Closed(back)) => {
                        prop_assert!(closed);
                        prop_assert_eq!(*back, number);
                    }
                    Err(other) => prop_assert!(false, "{other:?}"),
                },
                Step::Receive => {
                    prop_assert_eq!(rx.is_empty(), model.is_empty());
                    prop_assert_eq!(rx.receive().map(|m| *m), model.pop_front());
                }
                Step::Close => {
                    rx.close();
                    closed = true;
                }
            }
            prop_assert_eq!(rx.depth(), model.len());
            prop_assert_eq!(tx.depth(), model.len());
            prop_assert_eq!(rx.is_finished(), closed && model.is_empty());
        }
    }
}

#[test]
fn threads_lose_double_and_reorder_nothing() {
    const SENDERS: usize = 3;
    const EACH: usize = 20_000;
    let (tx, mut rx) = mailbox::<Box<(usize, usize)>>(16);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let tx = tx.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    let mut message = Box::new((sender, number));
                    while let Err(back) = tx.send(message) {
                        assert!(back.is_full());
                        message = back.into_message();
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0; SENDERS];
    for _ in 0..SENDERS * EACH {
        let message = loop {
            match rx.receive() {
                Some(message) => break message,
                None => thread::yield_now(),
            }
        };
        let (sender, number) = *message;
        assert_eq!(number, next[sender], "sender {sender}'s messages in order");
        next[sender] += 1;
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert!(rx.receive().is_none());
}

#[test]
fn receiver_that_goes_away_under_load_drops_each_message_once() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    for _ in 0..200 {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (tx, mut rx) = mailbox::<Counted>(8);
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (tx, dropped) = (tx.clone(), dropped.clone());
                thread::spawn(move || {
                    let mut made = 0;
                    loop {
                        made += 1;
                        match tx.send(Counted(dropped.clone())) {
                            Err(SendError::Closed(_)) => return (made, tx),
                            Err(_) => thread::yield_now(),
                            Ok(()) => {}
                        }
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            if rx.receive().is_none() {
                thread::yield_now();
            }
        }
        drop(rx);
        let ends: Vec<_> = senders.into_iter().map(|s| s.join().unwrap()).collect();
        let made: usize = ends.iter().map(|(made, _)| made).sum();
        assert_eq!(
            dropped.load(Ordering::Relaxed),
            made,
            "with senders still alive"
        );
    }
}
