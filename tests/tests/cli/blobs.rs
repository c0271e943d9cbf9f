//! What is put is there, and comes back.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

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

/// Of the node's slabs of 64 MiB.
const PART: usize = 16 << 20;

#[test]
fn what_is_longer_than_a_slab_goes_there_and_back() {
    let node = Node::start();
    let whole = bytes(7, (64 << 20) + PART + 70_001);
    let pipe = &whole[..3 * PART + 1];
    let file = node.path("long");
    fs::write(&file, &whole).unwrap();
    let path = file.to_str().unwrap();
    // A file by its content, and pipes by a name and by content, whose length nobody knows before their end.
    let put = node.said(0, &["put", "--json", path]).objects().remove(0);
    let key = key_of(&whole);
    assert_eq!(put["key"], json!(key));
    assert_eq!(
        (&put["bytes"], &put["created"]),
        (&json!(whole.len()), &json!(true))
    );
    told(node.oriel().args(["put", "--name", "pipe", "-"]), pipe, 0);
    let hashed = told(node.oriel().args(["put", "-"]), pipe, 0);
    assert_eq!(hashed.text(), format!("{}  -\n", key_of(pipe)));
    let twice = node.said(0, &["put", "--json", path]).objects().remove(0);
    assert_eq!(twice["created"], json!(false));
    let other = told(node.oriel().args(["put", "--name", "pipe", "-"]), &whole, 0);
    assert!(
        other.errors.contains("it stays as it was"),
        "{}",
        other.errors
    );

    // To a file and to a pipe.
    let copy = node.path("copy");
    node.said(0, &["get", &key, "-o", copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == whole);
    assert!(node.said(0, &["get", "--name", "pipe"]).bytes == pipe);
    assert!(node.said(0, &["get", &key_of(pipe)]).bytes == pipe);

    // All commands tell the same of it.
    let listed = node.said(0, &["ls", "--json"]).objects();
    let mut lengths: Vec<u64> = listed
        .iter()
        .map(|blob| blob["bytes"].as_u64().unwrap())
        .collect();
    lengths.sort_unstable();
    assert_eq!(
        lengths,
        [pipe.len(), pipe.len(), whole.len()].map(|length| length as u64)
    );
    node.said(0, &["probe", &key]);
    let parts = node.said(0, &["locate", &key, "--json"]).objects();
    assert_eq!(parts.len(), 6);
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(part["part"], json!(number));
        let length = PART.min(whole.len() - number * PART);
        assert_eq!(part["bytes"], json!(length));
    }
    assert!(
        node.said(0, &["locate", &key])
            .text()
            .starts_with("part 0: block ")
    );
    let stat = node.said(0, &["stat", "--json"]).objects().remove(0);
    assert_eq!(stat["part_bytes"], json!(PART));
    assert!(
        stat["blob_bytes_max"].as_u64() > stat["window_bytes_max"].as_u64(),
        "{stat}"
    );
    assert_eq!(stat["realm_blobs"], json!((6 + 1) + 2 * (4 + 1)));

    // It outlasts the node, and goes as a whole.
    let node = node.end(Signal::KILL).again();
    assert!(node.said(0, &["get", &key]).bytes == whole);
    node.said(0, &["rm", &key, &key_of(pipe), "--name", "pipe"]);
    node.said(3, &["probe", &key]);
    let stat = node.said(0, &["stat", "--json"]).objects().remove(0);
    assert_eq!(
        (&stat["realm_blobs"], &stat["realm_used_bytes"]),
        (&json!(0), &json!(0))
    );
    node.end(Signal::TERM);
}

/// What is pinned stays while a cache throws other blobs away for newer ones, whether it lies in one window or in parts.
#[test]
fn pins_keep_blobs_of_a_cache() {
    let node = Node::start();
    let oriel = || oriel(&node.url("cache"));
    let put = |name: &str, number, length| {
        let bytes = bytes(number, length);
        told(oriel().args(["put", "--name", name, "-"]), &bytes, 0);
        bytes
    };
    let fill = |from: u64| {
        for number in from..from + 8 {
            put(&format!("more {number}"), number, PART - 8192);
        }
    };
    let long = put("long", 1, 2 * PART + 5);
    put("other", 2, 2 * PART + 5);
    let short = put("short", 3, 5000);
    put("free", 4, 5000);
    let names = ["long", "short", "none"].map(|name| ["--name", name]);
    let pin = ["pin", "--for", "600", "--json"];
    let pinned = said(oriel().args(pin).args(names.as_flattened()), 3).objects();
    let told_of = |name: &str| pinned.iter().map(|of| of[name].clone()).collect::<Vec<_>>();
    assert_eq!(told_of("pinned"), [true, true, false].map(|is| json!(is)));
    assert_eq!(told_of("there"), [true, true, false].map(|is| json!(is)));
    // Half of the cache may be pinned: of a blob whose parts have no room for that, none is.
    let refused = said(oriel().args(["pin", "--name", "other"]), 4);
    assert!(refused.text().starts_with("no room"), "{}", refused.text());

    fill(10);
    let gone = ["--name", "other", "--name", "free"];
    let probed = said(oriel().arg("probe").args(gone), 3);
    assert!(probed.text().lines().all(|line| line.starts_with("absent")));
    assert!(said(oriel().args(["get", "--name", "long"]), 0).bytes == long);
    assert!(said(oriel().args(["get", "--name", "short"]), 0).bytes == short);

    let ended = said(oriel().args(["pin", "--for", "0", "--name", "long"]), 0);
    assert!(ended.text().starts_with("let go"), "{}", ended.text());
    said(oriel().args(["pin", "--for", "0", "--name", "long"]), 0);
    // A key that comes twice has the same answer.
    for (time, word) in [("0", "let go"), ("600", "pinned")] {
        let twice = ["--name", "short", "--name", "short"];
        let told = said(oriel().args(["pin", "--for", time]).args(twice), 0);
        let text = told.text();
        assert_eq!(
            text.lines().filter(|line| line.starts_with(word)).count(),
            2,
            "{text}"
        );
    }
    fill(20);
    said(oriel().args(["probe", "--name", "long"]), 3);
    said(oriel().args(["probe", "--name", "short"]), 0);
    node.end(Signal::TERM);
}

/// Whoever dies in the middle of a put, and however: nobody sees anything of it, and nothing of it stays.
#[test]
fn a_long_put_that_is_cut_off_leaves_nothing() {
    let node = Node::start();
    let mut child = node
        .oriel()
        .args(["put", "--name", "cut", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&bytes(1, 3 * PART)).unwrap();
    let stat = |node: &Node| node.said(0, &["stat", "--json"]).objects().remove(0);
    // Its first parts are there, and it waits for more.
    while stat(&node)["realm_blobs"].as_u64() < Some(2) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(node.said(0, &["ls"]).bytes.is_empty());
    node.said(3, &["probe", "--name", "cut"]);
    // The host goes first, and then the node.
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    let node = node.end(Signal::KILL).again();
    while stat(&node)["realm_used_bytes"].as_u64() > Some(0) {
        std::thread::sleep(Duration::from_millis(20));
    }
    node.said(
        3,
        &[
            "get",
            "--name",
            "cut",
            "-o",
            node.path("copy").to_str().unwrap(),
        ],
    );

    // One that ends by itself cleans up behind itself: too long for the quota of its realm.
    let small = node.url("small");
    let mut put = oriel(&small);
    let refused = told(
        put.args(["put", "--name", "cut", "-"]),
        &bytes(2, 2 * PART),
        4,
    );
    assert!(
        refused.errors.contains("raise its quota"),
        "{}",
        refused.errors
    );
    let of_small = said(oriel(&small).args(["stat", "--json"]), 0)
        .objects()
        .remove(0);
    assert_eq!(of_small["realm_used_bytes"], json!(0));
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
