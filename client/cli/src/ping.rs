//! How soon a node answers.

use std::time::{Duration, Instant};

use oriel_client::block_on;
use oriel_protocol::Key;
use serde::Serialize;

use crate::connect::Node;
use crate::error::{CliError, Exit};
use crate::out::Out;

#[derive(Serialize)]
struct Answer {
    sequence: u32,
    microseconds: f64,
}

#[derive(Serialize)]
struct Summary {
    answers: u32,
    min_microseconds: f64,
    median_microseconds: f64,
    max_microseconds: f64,
}

fn microseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// Each question is a PROBE of a key that is hardly there: what the network and the index take, and no drive.
pub(crate) fn run(
    node: &Node,
    out: &Out,
    count: u32,
    interval: Duration,
) -> Result<Exit, CliError> {
    let mut times = Vec::new();
    for sequence in 1..=count {
        if sequence > 1 {
            std::thread::sleep(interval);
        }
        let begin = Instant::now();
        block_on(node.blobs.exists(&Key::new([0; 32])))?;
        let time = begin.elapsed();
        times.push(time);
        let microseconds = microseconds(time);
        let object = Answer {
            sequence,
            microseconds,
        };
        let text = format_args!("answer {sequence} from {}: {microseconds} us", node.address);
        out.line(text, &object)?;
    }
    times.sort_unstable();
    let at = |part: usize| microseconds(times[part]);
    let summary = Summary {
        answers: count,
        min_microseconds: at(0),
        median_microseconds: at(times.len() / 2),
        max_microseconds: at(times.len() - 1),
    };
    let text = format_args!(
        "{count} answers: least {} us, median {} us, most {} us",
        summary.min_microseconds, summary.median_microseconds, summary.max_microseconds
    );
    out.line(text, &summary)?;
    Ok(Exit::Done)
}
