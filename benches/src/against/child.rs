//! A measured process, and whether it had the cores it was measured on.
//!
//! Both sides poll, so a thread of theirs that waits for a core is work that
//! was not done. The kernel counts that time for each thread; where it is more
//! than a small part, the round says more about the neighbours than about
//! either side.

use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a process printed, and the share of its running time that its threads
/// waited for a core; None where the kernel does not count it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) output: Output,
    pub(crate) waited: Option<f64>,
}

const SAMPLE_PERIOD: Duration = Duration::from_millis(20);

pub(crate) fn run(command: &mut Command) -> io::Result<Watched> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut last = None;
            while !ended.load(Ordering::Relaxed) {
                last = sample(pid).or(last);
                std::thread::sleep(SAMPLE_PERIOD);
            }
            last
        });
        let output = child.wait_with_output();
        ended.store(true, Ordering::Relaxed);
        let times = watcher.join().ok().flatten();
        Ok(Watched {
            output: output?,
            waited: times.map(Times::waited_share),
        })
    })
}

/// Nanoseconds, summed over threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    ran: u64,
    waited: u64,
}

impl Times {
    fn waited_share(self) -> f64 {
        let all = self.ran + self.waited;
        if all == 0 {
            0.0
        } else {
            self.waited as f64 / all as f64
        }
    }

    /// `/proc/PID/task/TID/schedstat`: time run, time waited, time slices.
    fn parse(schedstat: &str) -> Option<Self> {
        let mut numbers = schedstat.split_whitespace().map(str::parse);
        match (numbers.next()?, numbers.next()?) {
            (Ok(ran), Ok(waited)) => Some(Self { ran, waited }),
            _ => None,
        }
    }
}

fn sample(pid: u32) -> Option<Times> {
    let mut sum = Times::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
            continue;
        };
        let times = Times::parse(&text)?;
        sum.ran += times.ran;
        sum.waited += times.waited;
    }
    (sum.ran > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_become_a_share() {
        let times = Times::parse("3000 1000 12\n").unwrap();
        assert_eq!(
            times,
            Times {
                ran: 3000,
                waited: 1000
            }
        );
        assert_eq!(times.waited_share(), 0.25);
        assert_eq!(Times::parse("nonsense"), None);
        assert_eq!(Times::default().waited_share(), 0.0);
    }

    #[test]
    fn a_process_is_run_to_its_end_with_all_it_prints() {
        let watched =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; sleep 0.1; exit 3"]))
                .unwrap();
        assert_eq!(watched.output.stdout, b"out\n");
        assert_eq!(watched.output.stderr, b"err\n");
        assert_eq!(watched.output.status.code(), Some(3));
    }
}
