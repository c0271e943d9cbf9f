//! A node's measurement beside its peers.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Bench;

/// All sides of a node's measurement serve and are read; a program that is killed takes its targets along.
#[test]
fn a_node_and_its_peers_are_measured_by_both_initiators() {
    let bench = Bench::new();
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("skipped: targets and initiators need a core each");
        return;
    }
    let output = bench.run("target --json --rounds 1 -t 1 -o 4k -q 4");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = Vec::new();
    for row in rows.as_array().unwrap() {
        for line in row["lines"].as_array().unwrap() {
            assert!(line["per_second"].as_f64().unwrap() > 0.0, "{line}");
            let word = |value: &Value| value.as_str().unwrap().to_owned();
            seen.push([&row["kind"], &line["initiator"], &line["side"]].map(word));
        }
    }
    let is_seen = |words: [&str; 3]| seen.contains(&words.map(String::from));
    for words in [
        ["read", "spdk", "raw"],
        ["read", "spdk", "oriel"],
        ["read", "rust", "raw"],
        ["read", "rust", "oriel"],
        ["locate", "rust", "oriel"],
        ["put", "rust", "oriel"],
        ["get", "rust", "oriel"],
        ["get", "sockets", "loopback"],
    ] {
        assert!(is_seen(words), "{words:?} of {seen:?}");
    }

    let mut child = bench.start("target --rounds 9 -t 60 -o 4k -q 4");
    let mut head = [0; 1];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut head)
        .unwrap();
    let parent = child.id();
    let sides = children(parent);
    assert!(sides.len() >= 2, "{sides:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    while !sides.iter().all(|side| has_ended(*side)) {
        assert!(start.elapsed() < Duration::from_secs(300), "{sides:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Nobody may have asked how it ended yet.
fn has_ended(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_none_or(|state| state.starts_with('Z'))
}

/// The processes that one has started.
fn children(parent: u32) -> Vec<u32> {
    let tasks = format!("/proc/{parent}/task/{parent}/children");
    let list = fs::read_to_string(tasks).unwrap();
    list.split_whitespace()
        .map(|child| child.parse().unwrap())
        .collect()
}
