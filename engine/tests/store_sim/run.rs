//! Runs futures until all of them wait for something that does not come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the futures, in rounds and in the order given, until none of them is woken any more. Says which have ended.
pub(crate) fn run_all(futures: &mut [Pin<Box<dyn Future<Output = ()> + '_>>]) -> Vec<bool> {
    let woken: Vec<Arc<Woken>> = futures
        .iter()
        .map(|_| Arc::new(Woken(AtomicBool::new(true))))
        .collect();
    let mut ended = vec![false; futures.len()];
    loop {
        let mut any = false;
        for (index, future) in futures.iter_mut().enumerate() {
            if ended[index] || !woken[index].0.swap(false, Ordering::Relaxed) {
                continue;
            }
            any = true;
            let waker = Waker::from(woken[index].clone());
            ended[index] =
                future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        }
        if !any {
            return ended;
        }
    }
}

/// Runs one future to its end; `None` if it never comes.
pub(crate) fn run_one<F: Future>(future: F) -> Option<F::Output> {
    let mut output = None;
    let mut all: [Pin<Box<dyn Future<Output = ()> + '_>>; 1] = [Box::pin(async {
        output = Some(future.await);
    })];
    run_all(&mut all);
    drop(all);
    output
}
