//! The configuration of a running node, read again.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

#[allow(dead_code, reason = "tests of drives use more of it")]
mod program;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use oriel_spdk::nvmf::has_disconnect;
use program::{Program, is_skipped, only};
use rustix::process::Signal;

/// Tells a thread, when it is dropped, that it may end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Hosts come and go by the list, and those that stay read on over the connection that they have.
#[test]
fn hosts_change_while_others_read() {
    if is_skipped() {
        return;
    }
    let node = Program::start("\"any\"", &only(&["a"]));
    let reader = node.connect("models", "reader").unwrap();
    reader.put(1);
    let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // Also where this thread panics.
        let over = Over(&is_over);
        let reading = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                assert!(reader.reads(1), "the connection of the reader was lost");
                reads.fetch_add(1, Ordering::AcqRel);
            }
        });
        // Reads that have begun since this was asked for have ended as well.
        let goes_on = || {
            let seen = reads.load(Ordering::Acquire);
            while reads.load(Ordering::Acquire) < seen + 2 {
                assert!(!reading.is_finished(), "the reader does not read any more");
                thread::yield_now();
            }
        };
        let a = node.connect("cache", "a").unwrap();
        a.put(2);
        assert!(node.connect("cache", "b").is_none());
        goes_on();

        let said = node.allow("\"any\"", &only(&["a", "b"]));
        assert!(said.ends_with(": other hosts for cache"), "{said}");
        goes_on();
        assert!(node.connect("cache", "b").unwrap().reads(2));
        assert!(a.reads(2));

        let said = node.allow("\"any\"", &only(&["b"]));
        goes_on();
        assert!(node.connect("cache", "a").is_none());
        let b = node.connect("cache", "b").unwrap();
        assert!(b.reads(2));
        if has_disconnect() {
            // Its end was at least begun.
            while a.reads(2) {}
            assert!(!said.contains("stay"), "{said}");
        } else {
            assert!(said.contains("stay until they end, since SPDK v"), "{said}");
            assert!(a.reads(2));
        }

        // The same once more, and both realms at once: all and nobody.
        let said = node.reload();
        assert!(
            said.contains("the hosts of all realms are the same"),
            "{said}"
        );
        drop(over);
        // Its last read must not meet what comes now.
        reading.join().unwrap();
        node.allow("[]", "\"any\"");
        assert!(node.connect("models", "reader").is_none());
        assert!(node.connect("cache", "stranger").unwrap().reads(2));
        assert!(b.reads(2));
    });
    if has_disconnect() {
        while reader.reads(1) {}
    } else {
        assert!(reader.reads(1));
    }
    let reloads = node.reloads();
    assert_eq!(reloads["done_total"], 4, "{reloads}");
    assert_eq!(reloads["refused_total"], 0, "{reloads}");
    drop(reader);
    node.end();
}

/// What is wrong, and what takes a restart, is said; all is served as before.
#[test]
fn a_configuration_that_cannot_be_taken_over_changes_nothing() {
    if is_skipped() {
        return;
    }
    let node = Program::start(&only(&["a"]), "\"any\"");
    assert!(node.reloads()["last"].is_null());
    let a = node.connect("models", "a").unwrap();
    a.put(1);
    // In each of them the first realm would be open to all.
    let open = Program::text(node.port(), "\"any\"", "\"any\"");
    std::fs::write(node.folder().join("full"), [7; 1 << 20]).unwrap();
    let other_port = format!(":{}\"", node.port());
    for (old, new, words) in [
        ("id = 2", "id = 70000", &["orield.toml, line 25: "][..]),
        ("hosts = ", "host = ", &["orield.toml, line 21: "]),
        ("[[realm]]", "[[realm]", &["orield.toml, line "]),
        (
            "memory_mib = 512",
            "memory_mib = 513",
            &["orield.toml: restart orield to change memory_mib"],
        ),
        (
            "[[device]]",
            "[[device]]\npath = \"full\"\n[[device]]",
            &["full is not empty: use another one; if what is on it may go, wipe it"],
        ),
        (
            "path = \"drive\"",
            "path = \"other\"",
            &["drive is left out, and has blobs: put it back with drain = true"],
        ),
        (
            "[format]",
            "gone = [0]\n[format]",
            &["drive 0 works, and is said to be gone"],
        ),
        (
            &other_port,
            ":1\"",
            &["restart orield to change [[listener]]"],
        ),
        (
            "id = 2\n",
            "id = 2\nquota_mib = 7\ncache = \"lru\"\n",
            &["restart orield to change cache of the realm 'cache'"],
        ),
        (
            "id = 2",
            "id = 3",
            &["the realm 'cache' is missing, whose blobs are on the drives"],
        ),
    ] {
        let text = open.replacen(old, new, 1);
        assert_ne!(text, open, "{old}");
        let said = node.change(&text);
        assert!(
            said.starts_with("reload refused, nothing changed: "),
            "{said}"
        );
        for word in words {
            assert!(said.contains(word), "{new}: {said}");
        }
        assert!(a.reads(1));
        assert!(node.connect("models", "b").is_none());
        let last = node.reloads()["last"].clone();
        assert_eq!(last["result"], "refused");
        let message = last["message"].as_str().unwrap();
        assert!(message.contains(words[0]), "{message}");
        assert!(last["unix_seconds"].as_u64().unwrap() > 1_700_000_000);
    }
    std::fs::remove_file(node.file()).unwrap();
    let said = node.reload();
    assert!(said.contains("cannot be read"), "{said}");
    assert!(
        node.get("/metrics")
            .contains("\noriel_node_last_reload_successful 0\n")
    );
    // And then one that can be.
    node.allow("\"any\"", "\"any\"");
    assert!(node.connect("models", "b").unwrap().reads(1));
    assert!(a.reads(1));
    let figures = node.get("/metrics");
    for line in [
        "\noriel_node_reloads_total{result=\"done\"} 1\n",
        "\noriel_node_reloads_total{result=\"refused\"} 11\n",
        "\noriel_node_last_reload_successful 1\n",
        "\noriel_node_last_reload_timestamp_seconds ",
    ] {
        assert!(figures.contains(line), "{line}: {figures}");
    }
    drop(a);
    node.end();
}

/// A realm is added, and what it may take changes, while another one is read over the connection that there is.
#[test]
fn realms_come_and_change_while_others_are_read() {
    if is_skipped() {
        return;
    }
    let node = Program::start("\"any\"", &only(&["a"]));
    let port = node.port();
    let with = |quota: &str| {
        let text = Program::text(port, "\"any\"", &only(&["a"]));
        format!("{text}\n[[realm]]\nname = \"new\"\nid = 9\nhosts = \"any\"\n{quota}")
    };
    let reader = node.connect("models", "reader").unwrap();
    reader.put(1);
    let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let new = thread::scope(|scope| {
        let over = Over(&is_over);
        let reading = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                assert!(reader.reads(1), "the connection of the reader was lost");
                reads.fetch_add(1, Ordering::AcqRel);
            }
        });
        let goes_on = || {
            let seen = reads.load(Ordering::Acquire);
            while reads.load(Ordering::Acquire) < seen + 2 {
                assert!(!reading.is_finished(), "the reader does not read any more");
                thread::yield_now();
            }
        };
        assert!(node.connect("new", "a").is_none());
        let said = node.change(&with("quota_mib = 1\n"));
        assert!(said.ends_with("; the realm 'new' is added"), "{said}");
        goes_on();
        let new = node.connect("new", "a").unwrap();
        // What is in the other realm is not in this one.
        assert!(!new.has(1));
        // Each of them takes 6 blocks of 256.
        let put = (1..=255).find(|name| !new.try_put(*name)).unwrap();
        assert_eq!(put, 43);
        let realm = &node.status()["realms"][2];
        assert_eq!(
            (&realm["name"], &realm["quota_bytes"]),
            (&"new".into(), &(1 << 20).into())
        );
        let said = node.change(&with("quota_mib = 2\nverify = true\n"));
        assert!(
            said.ends_with("; other quota_mib of the realm 'new'; other verify of the realm 'new'"),
            "{said}"
        );
        assert!(new.try_put(43) && new.try_put(44));
        node.change(&with("quota_mib = 1\n"));
        assert!(!new.try_put(45));
        let said = node.change(&with(""));
        assert!(
            said.ends_with("; other quota_mib of the realm 'new'"),
            "{said}"
        );
        assert!(new.try_put(45));
        let used = "oriel_store_blobs{drive=\"";
        let figures = node.get("/metrics");
        let is_counted = |line: &str| line.starts_with(used) && line.contains("realm=\"9\"");
        assert!(figures.lines().any(is_counted), "{figures}");
        goes_on();
        drop(over);
        new
    });
    drop((reader, new));
    let node = node.again(Signal::KILL, |_| ());
    let new = node.connect("new", "a").unwrap();
    assert!((1..=45).all(|name| new.reads(name)));
    assert!(node.connect("models", "reader").unwrap().reads(1));
    drop(new);
    node.end();
}

/// Rates take a restart, and then a round of scrubs takes as long as its rate says.
#[test]
fn scrubs_go_at_the_rate_of_the_configuration() {
    if is_skipped() {
        return;
    }
    let node = Program::start("\"any\"", "\"any\"");
    let client = node.connect("models", "writer").unwrap();
    (0..60).for_each(|name| client.put(name));
    drop(client);
    let port = node.port();
    let node = node.again(Signal::TERM, |folder| {
        let text = Program::text(port, "\"any\"", "\"any\"");
        let rate = "[background]\nscrub_mib_per_second = 1\n\n[format]";
        std::fs::write(
            folder.join("orield.toml"),
            text.replacen("[format]", rate, 1),
        )
        .unwrap();
    });
    let figure = |name: &str| {
        let figures = node.get("/metrics");
        let line = figures.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.map_or(0.0, |value| value.parse::<f64>().unwrap())
    };
    while figure("oriel_store_scrub_rounds_total{") < 1.0 {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(figure("oriel_store_scrubbed_blobs_total{"), 60.0);
    // Of more than a MiB, whose last part has to have begun alone.
    let took = figure("oriel_store_scrub_round_seconds{");
    assert!(took > 1.0, "{took} seconds");
    node.end();
}
