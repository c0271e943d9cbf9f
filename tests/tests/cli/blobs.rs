//! What is put is there, and comes back.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{HOST, Node, bytes, key_of, oriel, said, told, tree};

/// Around the ends of blocks, of what goes in one command, of small blobs, and of the pieces that are read at a time.
const LENGTHS: &[usize] = &[
    1,
    4095,
    4096,
    4097,
    16384,
    16385,
    131_008,
    131_009,
    131_072,
    200_000,
    4 << 20,
    (4 << 20) + 1,
    9_000_001,
];

#[test]
fn files_go_there_and_back() {
    let node = Node::start();
    let files = node.path("files");
    let mut keys = BTreeSet::new();
    for (number, length) in (0..).zip(LENGTHS) {
        let folder = files.join(format!("{}/{}", number % 3, number % 2));
        fs::create_dir_all(&folder).unwrap();
        let bytes = bytes(number, *length);
        keys.insert(key_of(&bytes));
        fs::write(folder.join(format!("of {length} bytes")), bytes).unwrap();
    }
    let (path, copy) = (files.to_str().unwrap(), node.path("copy"));
    let list = node.path("list");
    let put = node.said(0, &["put", "-r", path]);
    assert!(put.errors.is_empty(), "{}", put.errors);
    fs::write(&list, &put.bytes).unwrap();
    let (list, into) = (list.to_str().unwrap(), copy.to_str().unwrap());
    let lines = put.text().lines();
    let printed: BTreeSet<String> = lines.map(|line| line[..64].to_owned()).collect();
    assert_eq!(printed, keys);

    // They come back by the list, below the folder.
    node.said(0, &["get", "--list", list, "--into", into, "--jobs", "3"]);
    let inside = copy.join(path.trim_start_matches('/'));
    assert!(
        tree(&inside) == tree(&files),
        "what came back is other bytes"
    );
    let again = node.said(0, &["get", "--list", list, "--into", into, "--json"]);
    assert_eq!(again.objects().len(), LENGTHS.len());

    // All commands agree on what is there.
    let listed = node.said(0, &["ls"]);
    let listed: BTreeSet<String> = listed.text().lines().map(str::to_owned).collect();
    assert_eq!(listed, keys);
    let first = keys.first().unwrap();
    let chosen = node.said(0, &["ls", "--long", "--prefix", &first[..8]]);
    assert!(chosen.text().contains(first.as_str()) && chosen.text().lines().count() == 1);
    let of_list = node.said(0, &["ls", "--json"]).objects();
    let total: u64 = of_list
        .iter()
        .map(|blob| blob["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(
        total,
        LENGTHS.iter().map(|length| *length as u64).sum::<u64>()
    );
    let stat = node.said(0, &["stat", "--json"]).objects().remove(0);
    assert_eq!(stat["realm_blobs"], json!(LENGTHS.len()));
    assert!(stat["used_bytes"].as_u64().unwrap() > total, "{stat}");
    assert!(
        node.said(0, &["stat"])
            .text()
            .contains("realm      default")
    );
    let probed = node.said(0, &["probe", "--list", list, "--json"]).objects();
    assert!(probed.iter().all(|probe| probe["there"] == json!(true)));
    let located = node
        .said(0, &["locate", "--list", list, "--json"])
        .objects();
    for (line, place) in put.text().lines().zip(&located) {
        assert_eq!(
            place["key"],
            json!(line[..64]),
            "in the order of the questions"
        );
        assert!(place["position"].as_u64().unwrap() >= 256);
    }

    // Putting it again stores nothing.
    let twice = node.said(0, &["put", "--json", "-r", path]).objects();
    assert_eq!(twice.len(), LENGTHS.len());
    assert!(twice.iter().all(|put| put["created"] == json!(false)));

    // And it is all there after the node has ended and begun.
    let node = node.end(Signal::TERM).again();
    node.said(0, &["probe", "--list", list]);
    node.said(0, &["rm", "--list", list]);
    assert!(node.said(0, &["ls"]).bytes.is_empty());
    node.said(3, &["probe", "--list", list]);
    node.said(3, &["rm", "--list", list]);
    node.said(0, &["rm", "--force", "--list", list]);
    node.end(Signal::TERM);
}

#[test]
fn pipes_and_names_go_there_and_back() {
    let node = Node::start();
    let (small, large) = (bytes(1, 3000), bytes(2, 5_000_000));
    for (name, bytes) in [("some/small one", &small), ("large", &large)] {
        let put = told(node.oriel().args(["put", "--name", name, "-"]), bytes, 0);
        assert!(put.text().ends_with("  -\n"), "{}", put.text());
        let got = node.said(0, &["get", "--name", name]);
        assert!(got.bytes == *bytes, "{name} came back as other bytes");
        // The first one stays.
        let other = told(node.oriel().args(["put", "--name", name, "-"]), b"other", 0);
        assert!(
            other.errors.contains("it stays as it was"),
            "{}",
            other.errors
        );
        assert!(node.said(0, &["get", "--name", name]).bytes == *bytes);
    }
    let key = "ab".repeat(32);
    told(node.oriel().args(["put", "--key", &key, "-"]), b"own", 0);
    assert_eq!(node.said(0, &["get", &key.to_uppercase()]).text(), "own");
    let output = node.path("output");
    let path = output.to_str().unwrap();
    node.said(0, &["get", "--name", "large", "-o", path]);
    assert!(fs::read(&output).unwrap() == large);
    // What is asked for together goes below a folder, by name or key.
    let into = node.path("into");
    let names = ["--name", "large", "--name", "some/small one"];
    let mut command = node.oriel();
    said(
        command.args(["get", &key, "--into"]).arg(&into).args(names),
        0,
    );
    let expected = [
        (key.clone().into(), b"own".to_vec()),
        ("large".into(), large.clone()),
        ("some/small one".into(), small),
    ];
    assert!(tree(&into) == expected);
    // A list comes by a pipe as well, and so do objects.
    let objects = node.said(0, &["ls", "--json"]);
    let probed = told(
        node.oriel().args(["probe", "--list", "-"]),
        &objects.bytes,
        0,
    );
    assert_eq!(probed.text().lines().count(), 3);
    // A listener that has gone is no reason to say anything.
    for what in [
        &["get", "--name", "large"][..],
        &["ls"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = node
            .oriel()
            .args(what)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output();
        let ended = ended.unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(
            (ended.status.code(), errors.as_str()),
            (Some(141), ""),
            "{what:?}"
        );
    }
    let removed = node.said(0, &["rm", "--name", "large", "--json"]).objects();
    assert_eq!(removed[0]["removed"], json!(true));
    node.said(3, &["get", "--name", "large", "-o", path]);
    assert!(
        fs::read(&output).unwrap() == large,
        "what was there before stays"
    );
    node.end(Signal::TERM);
}

#[test]
fn a_node_is_looked_at() {
    let node = Node::start();
    told(node.oriel().args(["put", "--name", "a", "-"]), b"a", 0);
    let answers = node.said(0, &["ping", "--json", "--count", "3", "--interval", "0"]);
    let answers = answers.objects();
    assert_eq!(answers.len(), 4);
    assert!(
        answers[..3]
            .iter()
            .all(|answer| answer["microseconds"].as_f64() > Some(0.0))
    );
    assert_eq!(answers[3]["answers"], json!(3));
    let text = node.said(0, &["ping", "-c", "1"]);
    assert!(text.text().contains("1 answers: least"), "{}", text.text());
    let picture = node.said(0, &["top", "--once"]);
    assert!(picture.text().contains("blobs"), "{}", picture.text());
    let object = node
        .said(0, &["top", "--once", "--json"])
        .objects()
        .remove(0);
    assert_eq!(object["realm_blobs"], json!(1));
    let error = node.said(2, &["top"]).errors;
    assert!(error.contains("--once"), "{error}");
    let error = node.said(3, &["map"]).errors;
    assert!(error.contains("no routing table"), "{error}");
    assert_eq!(
        node.said(3, &["map", "--json"]).objects()[0]["bytes"],
        json!(0)
    );

    // A realm that lets only some hosts in is not to be seen by others.
    let closed = node.url("closed");
    let refused = said(oriel(&closed).arg("stat"), 5);
    assert!(
        refused.errors.contains("no realm 'closed'"),
        "{}",
        refused.errors
    );
    said(oriel(&closed).args(["stat", "--host", HOST]), 0);
    let nqn = node.url("nqn.2026-11.io.oriel:n1:closed");
    let refused = said(oriel(&nqn).arg("stat"), 5);
    assert!(
        refused.errors.contains("refuses the host"),
        "{}",
        refused.errors
    );
    let open = node.url("nqn.2026-11.io.oriel:n1:default");
    assert!(
        said(oriel(&open).arg("stat"), 0)
            .text()
            .contains("realm      default")
    );
    node.end(Signal::TERM);
}
