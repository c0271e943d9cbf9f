//! A node that is killed in the middle of work.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Node, bytes, key_of, tree};

const FILES: u64 = 120;

/// Small ones go in one command, large ones by a window.
fn length(number: u64) -> usize {
    match number % 4 {
        0 => 300_000,
        1 => 131_072,
        rest => 1000 * rest as usize + number as usize,
    }
}

#[test]
fn a_key_that_was_printed_is_there_although_the_node_was_killed() {
    let mut node = Node::start();
    let mut lines = String::new();
    for round in 0..3_u64 {
        let files = node.path(&format!("files-{round}"));
        fs::create_dir(&files).unwrap();
        for number in 0..FILES {
            let bytes = bytes(round * FILES + number, length(number));
            fs::write(files.join(number.to_string()), bytes).unwrap();
        }
        let mut put = node.oriel();
        put.args(["put", "-r", "--jobs", "16"])
            .arg(&files)
            .stdout(Stdio::piped());
        let mut put = put.spawn().unwrap();
        let mut said = BufReader::new(put.stdout.take().unwrap());
        for _ in 0..1 + round * FILES / 4 {
            assert!(said.read_line(&mut lines).unwrap() > 0, "it ended: {lines}");
        }
        node = node.end(Signal::KILL);
        let printed = lines.clone();
        node = node.again();
        // What it was told is there, whatever is put at the same time.
        check(&node, &printed);
        // And the rest of the files go to the node that has begun anew.
        said.read_to_string(&mut lines).unwrap();
        let status = put.wait().unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(lines.lines().count() as u64, (round + 1) * FILES);
    }
    node = node.end(Signal::KILL).again();
    check(&node, &lines);
    assert_eq!(
        node.said(0, &["ls"]).text().lines().count() as u64,
        3 * FILES
    );
    node.end(Signal::TERM);
}

/// Each blob of a list is there with its bytes, which its key says.
fn check(node: &Node, lines: &str) {
    let (list, copy) = (node.path("list"), node.path("copy"));
    fs::write(&list, lines).unwrap();
    let (list, into) = (list.to_str().unwrap(), copy.to_str().unwrap());
    node.said(0, &["get", "--list", list, "--into", into]);
    let mut expected: Vec<&str> = lines.lines().map(|line| &line[..64]).collect();
    let mut found: Vec<String> = tree(&copy).iter().map(|(_, bytes)| key_of(bytes)).collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    fs::remove_dir_all(copy).unwrap();
}
