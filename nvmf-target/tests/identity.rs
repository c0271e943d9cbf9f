//! A configuration that contradicts what the drives know of their realms, between two starts.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

#[allow(dead_code, reason = "tests of hosts and drives use more of it")]
mod program;

use std::path::Path;
use std::process::Command;

use program::{Program, is_skipped};
use rustix::process::Signal;

/// The realms of a node, with a line of its own for each.
fn text(port: u16, realms: &[(&str, u16, &str)]) -> String {
    let text = Program::text(port, "[]", "[]");
    let (head, _) = text.split_once("[[realm]]").unwrap();
    let realm = |(name, id, rest): &(&str, u16, &str)| {
        format!("[[realm]]\nname = \"{name}\"\nid = {id}\nhosts = \"any\"\n{rest}\n")
    };
    head.to_owned() + &realms.iter().map(realm).collect::<String>()
}

const LRU: &str = "quota_mib = 64\ncache = \"lru\"";
const S3_FIFO: &str = "quota_mib = 65\ncache = \"s3-fifo\"";

/// Neither starts a node with that configuration nor is its drive looked at, and both name what is wrong.
fn refuses(folder: &Path, text: &str, words: &[&str]) {
    let file = folder.join("other.toml");
    std::fs::write(&file, text).unwrap();
    for what in [None, Some("check")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orield"));
        let output = command.arg("--config").arg(&file).args(what).output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{text}");
        let said = String::from_utf8_lossy(&output.stderr);
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

fn reads(node: &Program, blobs: &[(&str, u8)]) {
    for (realm, name) in blobs {
        let client = node.connect(realm, "reader").unwrap();
        assert!(client.reads(*name) && !client.has(99), "{realm}");
    }
}

#[test]
fn realms_stay_who_they_are_unless_somebody_says_so() {
    if is_skipped() {
        return;
    }
    let first = [("models", 1, ""), ("kv", 2, LRU)];
    let node = Program::start_from(|_, port| text(port, &first));
    let port = node.port();
    let use_next = |folder: &Path, realms: &[(&str, u16, &str)]| {
        std::fs::write(folder.join("orield.toml"), text(port, realms)).unwrap();
    };
    node.connect("models", "writer").unwrap().put(1);
    node.connect("kv", "writer").unwrap().put(2);

    let harmless = [
        ("models", 1, "quota_mib = 7"),
        ("kv", 2, S3_FIFO),
        ("more", 3, ""),
    ];
    let node = node.again(Signal::TERM, |folder| {
        let refuses = |realms: &[_], words: &[&str]| refuses(folder, &text(port, realms), words);
        refuses(
            &[("models", 1, LRU), ("kv", 2, LRU)],
            &[
                "realm 1 ('models')",
                "stored as durable",
                "was_durable = true",
            ],
        );
        refuses(
            &[("models", 2, ""), ("kv", 1, LRU)],
            &["'models'", "'kv'", "the number that it had"],
        );
        refuses(
            &[("other", 1, ""), ("kv", 2, LRU)],
            &["realm 1", "'models'", "'other'", "was = \"models\""],
        );
        refuses(
            &[("models", 1, "")],
            &["realm 2 ('kv'), which is not configured"],
        );
        use_next(folder, &harmless);
    });
    reads(&node, &[("models", 1), ("kv", 2)]);

    // One that comes while the node runs is known as well, whatever ends it.
    let late = [harmless[0], harmless[1], harmless[2], ("late", 4, "")];
    let said = node.change(&text(port, &late));
    assert!(said.contains("the realm 'late' is added"), "{said}");
    node.connect("late", "writer").unwrap().put(4);
    let meant = [
        (
            "weights",
            1,
            "was = \"models\"\nquota_mib = 7\ncache = \"lru\"\nwas_durable = true",
        ),
        ("kv", 2, ""),
        ("late", 4, ""),
    ];
    let node = node.again(Signal::KILL, |folder| {
        let other = [harmless[0], harmless[1], ("other", 4, "")];
        refuses(
            folder,
            &text(port, &other),
            &["realm 4", "'late'", "'other'"],
        );
        use_next(folder, &meant);
    });
    reads(&node, &[("weights", 1), ("kv", 2), ("late", 4)]);

    // What was meant need not be said again, and who has no blobs may become anything.
    node.connect("late", "writer").unwrap().delete(4);
    let node = node.again(Signal::TERM, |folder| {
        use_next(
            folder,
            &[("weights", 1, LRU), ("kv", 2, ""), ("fresh", 4, LRU)],
        );
    });
    reads(&node, &[("weights", 1), ("kv", 2)]);
    node.connect("fresh", "writer").unwrap().put(4);
    node.end();
}
