//! What the programs that run in the lab's guest share.

use std::error::Error;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use oriel_spdk::env::Pci;
use oriel_spdk::{CoreSet, EnvOptions, SpdkThread, Subsystems, block_on};

/// Whatever went wrong; a test ends with its first failure.
pub type Failure = Box<dyn Error>;

/// Returns a failure with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+).into());
        }
    };
}

/// Runs a program's work. A failure and its causes are one line on standard error, and status 1.
pub fn main(name: &str, work: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut line = format!("{name}: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                line += &format!(": {error}");
                cause = error.source();
            }
            eprintln!("{line}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on a thread of SPDK's with hugepages and all subsystems, and takes everything down
/// after it.
pub fn with_spdk(
    memory_mib: u32,
    pci: Pci,
    work: impl AsyncFnOnce(&Subsystems) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let options = EnvOptions {
        name: "lab".into(),
        cores: CoreSet::allowed().first(1),
        memory_mib,
        hugepages: true,
        hugepage_dir: None,
        pci,
    };
    let env = options.start()?;
    let thread = SpdkThread::create("lab")?;
    let result = block_on(&thread, async {
        let subsystems = Subsystems::start().await?;
        let result = work(&subsystems).await;
        if let Err(failure) = &result {
            // The end of everything may wait for what the failure left behind; it is to be seen anyway.
            eprintln!("failed: {failure}");
        }
        subsystems.stop().await;
        result
    });
    thread.exit();
    drop(env);
    result
}

/// Waits until the condition holds; `what` says in the failure what did not happen.
pub async fn until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<(), Failure> {
    let start = Instant::now();
    std::future::poll_fn(|_| {
        if condition() {
            Poll::Ready(Ok(()))
        } else if start.elapsed() > limit {
            let late = format!("{what} did not happen within {} s", limit.as_secs());
            Poll::Ready(Err(late.into()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Runs both to their ends, in turns.
pub async fn both(
    one: impl Future<Output = Result<(), Failure>>,
    other: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|cx| {
        poll_once(one.as_mut(), &mut first, cx);
        poll_once(other.as_mut(), &mut second, cx);
        match (first.take(), second.take()) {
            (Some(one), Some(other)) => Poll::Ready(one.and(other)),
            (Some(Err(failure)), None) | (None, Some(Err(failure))) => Poll::Ready(Err(failure)),
            (one, other) => {
                (first, second) = (one, other);
                Poll::Pending
            }
        }
    })
    .await
}

fn poll_once<F: Future>(future: Pin<&mut F>, done: &mut Option<F::Output>, cx: &mut Context<'_>) {
    if done.is_none()
        && let Poll::Ready(value) = future.poll(cx)
    {
        *done = Some(value);
    }
}
