//! What cannot be done is refused in one sentence that says what to do, with a status that scripts can tell apart.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};

use rustix::process::Signal;

use crate::support::{Node, bytes, objects, oriel, said, told, tree};

#[test]
fn nobody_is_there() {
    // Nobody else gets the port while this holds it, and nobody listens there.
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let url = format!("nvme+tcp://127.83.71.12:{port}/default");
    let errors = said(oriel(&url).arg("ls"), 5).errors;
    assert!(errors.contains("look whether the target runs"), "{errors}");
    assert_eq!(errors.lines().count(), 1);
    let errors = said(oriel(&url).args(["ls", "--json"]), 5).errors;
    let error = objects(&errors).remove(0);
    assert_eq!(error["exit"], serde_json::json!(5));
}

#[test]
fn wrong_usage_says_what_is_right() {
    let url = "nvme+tcp://127.0.0.1:1/default";
    for (arguments, says) in [
        (&["get", "abc"][..], "64 hexadecimal digits"),
        (&["get", "-o", "f"], "say which blobs"),
        (&["put", "/"], "say -r"),
        (&["put", "--name", "a", "-", "b"], "2 files"),
        (&["put"], "<FILE>"),
        (&["ls", "--prefix", "abc"], "an even number"),
        (&["get", "--name", "a", "--json"], "-o FILE"),
        (&["get", "--name", "..", "--into", "d"], "below the folder"),
        (&["put", "a", "--jobs", "0"], "1..=256"),
        (&["ping", "--interval", "x"], "0 to 86400"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["--host", "me", "ls"], "'me' is no NQN"),
        (&["--to", "tcp://h/r", "ls"], "nvme+tcp://HOST:PORT/REALM"),
        (&["--to", "nvme+tcp://h", "ls"], "names no realm"),
    ] {
        let errors = said(oriel(url).args(arguments), 2).errors;
        assert!(errors.contains(says), "{arguments:?}: {errors}");
    }
    let errors = said(oriel(url).env_remove("ORIEL_TO").arg("ls"), 2).errors;
    assert!(errors.contains("set ORIEL_TO"), "{errors}");
    let errors = told(oriel(url).args(["rm", "--list", "-"]), b"\nabc\n", 2).errors;
    assert!(errors.contains("-, line 2: 'abc' is no key"), "{errors}");
    for arguments in [
        &["--help"][..],
        &["put", "--help"],
        &["--version"],
        &["completions", "zsh"],
    ] {
        let text = said(oriel(url).args(arguments), 0);
        assert!(text.text().contains("oriel"), "{arguments:?}");
    }
}

#[test]
fn a_device_that_is_no_realm_is_told_from_one_that_is_not_there() {
    let errors = said(oriel("/dev/nvme98n76").arg("ls"), 5).errors;
    assert!(
        errors.contains("attach the realm (nvme connect)"),
        "{errors}"
    );
    let errors = said(oriel("/dev/null").args(["ls", "--json"]), 2).errors;
    let error = objects(&errors).remove(0);
    assert_eq!(error["exit"], serde_json::json!(2));
    assert!(
        error["error"]
            .to_string()
            .contains("/dev/null is no NVMe namespace"),
        "{error}"
    );
}

#[test]
fn what_a_node_does_not_take_or_have_is_told_apart() {
    let node = Node::start();
    let folder = node.path("files");
    fs::create_dir(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("good"), "good").unwrap();
    // Longer than any blob; no room is taken by it.
    File::create(path("long"))
        .unwrap()
        .set_len(64 << 30)
        .unwrap();

    let other = node.url("other");
    let errors = said(oriel(&other).arg("ls"), 5).errors;
    assert!(
        errors.contains("no realm 'other'") && errors.contains("default, small"),
        "{errors}"
    );
    let key = "00".repeat(32);
    for what in [
        &["get", &key, "--into", "d"][..],
        &["locate", &key],
        &["rm", &key],
    ] {
        let errors = node.said(3, what).errors;
        assert!(
            errors.contains("there is no such blob"),
            "{what:?}: {errors}"
        );
    }
    let errors = node.said(1, &["put", &path("missing")]).errors;
    assert!(errors.contains("missing: it cannot be read"), "{errors}");
    let errors = node.said(4, &["put", &path("empty")]).errors;
    assert!(errors.contains("at least one byte"), "{errors}");
    let errors = node.said(4, &["put", &path("long")]).errors;
    assert!(errors.contains("split -b "), "{errors}");
    fs::remove_file(path("long")).unwrap();
    // One that cannot be put keeps no other from being put; failures of two kinds are a failure.
    let all = ["put", &path("empty"), &path("missing"), &path("good")];
    let put = node.said(1, &all);
    assert!(put.text().ends_with("good\n") && put.text().lines().count() == 1);
    assert_eq!(put.errors.lines().count(), 2, "{}", put.errors);

    let small = node.url("small");
    let errors = told(oriel(&small).args(["put", "-"]), &bytes(1, 2 << 20), 4).errors;
    assert!(errors.contains("raise its quota"), "{errors}");
    told(oriel(&small).args(["put", "-"]), &bytes(1, 1 << 18), 0);
    let errors = told(
        oriel(&small).args(["put", "-", "--json"]),
        &bytes(2, 900 << 10),
        4,
    )
    .errors;
    assert_eq!(objects(&errors)[0]["exit"], serde_json::json!(4));

    // A file that cannot be written leaves nothing behind.
    let good = put.text()[..64].to_owned();
    let before = tree(&folder);
    let errors = node
        .said(1, &["get", &good, "-o", &path("no/where")])
        .errors;
    assert!(errors.contains("no/where cannot be written"), "{errors}");
    let errors = node
        .said(1, &["get", &good, "-o", folder.to_str().unwrap()])
        .errors;
    assert!(errors.contains("cannot be written"), "{errors}");
    assert!(tree(&folder) == before);
    node.end(Signal::TERM);
}
