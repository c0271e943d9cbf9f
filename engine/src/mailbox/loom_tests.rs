//! Every interleaving of small scenes, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p oriel-engine --release --lib loom_`.

use super::*;
use loom::thread;

/// Counts drops, so that a lost or doubled message shows.
struct Counted(usize, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn loom_one_sender_arrives_in_order_and_full_gives_back() {
    loom::model(|| {
        let (tx, mut rx) = mailbox::<usize>(2);
        let sender = thread::spawn(move || {
            for i in 0..3 {
                let mut message = i;
                loop {
                    match tx.send(message) {
                        Ok(()) => break,
                        Err(SendError::Full(back)) => {
                            assert_eq!(back, i);
                            message = back;
                            thread::yield_now();
                        }
                        Err(SendError::Closed(_)) => panic!("the receiver is alive"),
                    }
                }
            }
        });
        let mut expected = 0;
        while expected < 3 {
            match rx.receive() {
                Some(got) => {
                    assert_eq!(got, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert!(rx.receive().is_none());
    });
}

#[test]
fn loom_two_senders_lose_and_double_nothing() {
    loom::model(|| {
        let (tx, mut rx) = mailbox::<usize>(2);
        let other = tx.clone();
        let a = thread::spawn(move || tx.send(1).is_ok());
        let b = thread::spawn(move || other.send(2).is_ok());
        let early = rx.receive();
        assert!(
            a.join().unwrap() && b.join().unwrap(),
            "there is room for two"
        );
        let mut got: Vec<_> = early.into_iter().collect();
        while let Some(message) = rx.receive() {
            got.push(message);
        }
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn loom_lap_of_two_senders_reuses_slots() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (tx, mut rx) = mailbox::<usize>(2);
        let other = tx.clone();
        assert!(tx.send(0).is_ok());
        let a = thread::spawn(move || {
            let first = tx.send(1).is_ok();
            (first, tx.send(3).is_ok())
        });
        let b = thread::spawn(move || other.send(2).is_ok());
        let mut got = Vec::new();
        for _ in 0..2 {
            got.extend(rx.receive());
        }
        let (one, three) = a.join().unwrap();
        let two = b.join().unwrap();
        while let Some(message) = rx.receive() {
            got.push(message);
        }
        let mut sent = vec![0];
        for (number, ok) in [(1, one), (2, two), (3, three)] {
            if ok {
                sent.push(number);
            }
        }
        if one && three {
            let at = |n| got.iter().position(|&m| m == n).unwrap();
            assert!(at(1) < at(3), "one sender's messages keep their order");
        }
        got.sort_unstable();
        assert_eq!(got, sent);
    });
}

#[test]
fn loom_receiver_drop_leaves_no_message_behind() {
    loom::model(|| {
        let drops = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (tx, rx) = mailbox::<Counted>(2);
        let of_sender = drops.clone();
        let sender = thread::spawn(move || {
            match tx.send(Counted(7, of_sender)) {
                // Whoever took the message drops it, and not later than the
                // receiver's end: the sender outlives it here.
                Ok(()) => {}
                Err(SendError::Closed(back)) => assert_eq!(back.0, 7),
                Err(SendError::Full(_)) => panic!("the mailbox has room"),
            }
            tx
        });
        drop(rx);
        let tx = sender.join().unwrap();
        assert_eq!(drops.load(std::sync::atomic::Ordering::SeqCst), 1);
        drop(tx);
        assert_eq!(drops.load(std::sync::atomic::Ordering::SeqCst), 1);
    });
}

#[test]
fn loom_doorbell_wakes_a_sleeper_that_missed_the_message() {
    loom::model(|| {
        let doorbell = std::sync::Arc::new(Doorbell::default());
        doorbell.belongs_here();
        let (tx, mut rx) = with_doorbell::<usize>(2, Some(doorbell.clone()));
        // Not joined: an unpark that comes after the message was seen would end
        // loom's join early, and loom runs every thread to its end anyway.
        thread::spawn(move || assert!(tx.send(5).is_ok()));
        // As the reactor sleeps, without a time limit: a lost wake-up is a
        // deadlock, which loom reports.
        let got = loop {
            if let Some(message) = rx.receive() {
                break message;
            }
            doorbell.announce();
            if rx.is_empty() {
                thread::park();
            }
            doorbell.withdraw();
        };
        assert_eq!(got, 5);
    });
}
