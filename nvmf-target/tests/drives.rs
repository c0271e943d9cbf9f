//! Drives that come to a node that serves, and leave it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

#[allow(dead_code, reason = "tests of hosts use more of it")]
mod program;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use oriel_protocol::Key;
use program::{Client, Program, is_skipped};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::Value;

/// Of a drive that is no larger than it has to be.
const DRIVE_BYTES: u64 = 1 << 30;
/// Blobs that are there all the time.
const BLOBS: std::ops::Range<u8> = 1..60;

fn blank(directory: &Path, name: &str) {
    let file = File::create(directory.join(name)).unwrap();
    file.set_len(DRIVE_BYTES).unwrap();
}

/// A configuration with these devices, of which those behind a hyphen are drained.
fn text(port: u16, devices: &[&str]) -> String {
    let device = |name: &&str| match name.strip_prefix('-') {
        Some(name) => format!("[[device]]\npath = \"{name}\"\ndrain = true\n"),
        None => format!("[[device]]\npath = \"{name}\"\n"),
    };
    let devices: String = devices.iter().map(device).collect();
    let text = Program::text(port, "\"any\"", "\"any\"");
    text.replace("[[device]]\npath = \"drive\"\n", &devices)
}

/// With drives whose numbers are 0, 1 and so on.
fn with_drives(names: &[&str]) -> Program {
    Program::start_from(|directory, port| {
        // Which has --dev make all of them a store's.
        names.iter().for_each(|name| blank(directory, name));
        text(port, names)
    })
}

fn drives(node: &Program) -> Vec<Value> {
    node.status()["drives"].as_array().unwrap().clone()
}

/// Waits until that is so of the drives; what is said of them may be a moment old.
fn until(node: &Program, is_so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    loop {
        let drives = drives(node);
        if is_so(&drives) {
            return drives;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_settled(drives: &[Value]) -> bool {
    drives.iter().all(|drive| drive["state"] == "serving")
}

fn put_all(client: &Client) {
    BLOBS.for_each(|name| client.put(name));
}

fn all_are_there(client: &Client) {
    for name in BLOBS {
        assert!(client.reads(name), "{name}");
    }
}

/// Tells threads, when it is dropped, that they may end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The node goes from one drive to another, while one host reads and another writes, over the connections that they have.
#[test]
fn a_drive_comes_and_another_goes_while_hosts_work() {
    if is_skipped() {
        return;
    }
    let node = Program::start("\"any\"", "\"any\"");
    let (port, folder) = (node.port(), node.folder().to_owned());
    let reader = node.connect("models", "reader").unwrap();
    let writer = node.connect("models", "writer").unwrap();
    put_all(&writer);
    let (is_over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let over = Over(&is_over);
        let reading = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                all_are_there(&reader);
                rounds.fetch_add(1, Ordering::AcqRel);
            }
        });
        let writing = scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                for name in 200..220 {
                    writer.put(name);
                    assert!(writer.reads(name), "{name}");
                }
                (200..220).for_each(|name| writer.delete(name));
            }
        });
        // All blobs were read once more since this was asked for.
        let goes_on = || {
            let seen = rounds.load(Ordering::Acquire);
            while rounds.load(Ordering::Acquire) < seen + 2 {
                assert!(!reading.is_finished() && !writing.is_finished());
                thread::yield_now();
            }
        };

        blank(&folder, "new");
        let said = node.change(&text(port, &["drive", "new"]));
        assert!(said.contains("new is added as drive 1"), "{said}");
        goes_on();
        let all = until(&node, |drives| drives.len() == 2 && is_settled(drives));
        assert!(all[1]["blobs"].as_u64().unwrap() > 0, "{all:?}");
        let figures = node.get("/metrics");
        for state in ["draining", "filling", "lost"] {
            let line = format!("\noriel_store_drive_{state}{{drive=\"");
            assert!(figures.contains(&line), "{figures}");
        }

        let said = node.change(&text(port, &["-drive", "new"]));
        assert!(
            said.contains("drive 0 (") && said.contains("is being emptied"),
            "{said}"
        );
        let heard = node.heard();
        assert!(
            heard.starts_with("STATUS=drive 0 (") && heard.contains("is empty and given back"),
            "{heard}"
        );
        goes_on();
        let all = until(&node, |drives| drives.len() == 1);
        assert_eq!(all[0]["number"], 1);
        let back = node.status()["given_back"][0].clone();
        assert!(back.as_str().unwrap().starts_with("drive 0 ("), "{back}");
        drop(over);
    });
    // Nobody has it any more.
    let file = File::open(folder.join("drive")).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(file);
    let said = node.reload();
    assert!(
        said.contains("drive is to be emptied, and is no drive of the store"),
        "{said}"
    );
    let said = node.change(&text(port, &["new"]));
    assert!(!said.contains("no drive of the store"), "{said}");
    drop((reader, writer));

    // What was given back is blank, and may be added again, at a start as well.
    let node = node.again(Signal::KILL, |folder| {
        std::fs::write(folder.join("orield.toml"), text(port, &["new", "drive"])).unwrap();
    });
    let all = until(&node, |drives| drives.len() == 2 && is_settled(drives));
    assert_eq!(all[1]["number"], 2, "{all:?}");
    let client = node.connect("models", "reader").unwrap();
    all_are_there(&client);
    drop(client);
    node.end();
}

/// Whatever was moved when the node was killed, all is there, and the drive is emptied to its end.
#[test]
fn a_node_that_is_killed_while_it_empties_a_drive_goes_on_with_it() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a", "b"]);
    let port = node.port();
    let client = node.connect("models", "writer").unwrap();
    put_all(&client);
    let there = drives(&node);
    let wanted = text(port, &["a", "-b"]);
    let said = node.change(&wanted);
    assert!(
        said.contains("drive 1 (") && said.contains("is being emptied"),
        "{said}"
    );
    drop(client);
    let node = node.again(Signal::KILL, |_| ());
    let client = node.connect("models", "reader").unwrap();
    all_are_there(&client);
    let all = until(&node, |drives| drives.len() == 1);
    assert_eq!(all[0]["number"], 0, "{there:?}, and then {all:?}");
    all_are_there(&client);
    client.put(100);

    // It does not stop, nor is the last one emptied.
    let said = node.change(&text(port, &["-a", "-b"]));
    assert!(said.contains("no device would take blobs"), "{said}");
    drop(client);
    // Started with what is empty by now, it serves without it.
    let node = node.again(Signal::TERM, |folder| {
        std::fs::write(folder.join("orield.toml"), wanted).unwrap();
    });
    assert_eq!(drives(&node).len(), 1);
    let client = node.connect("models", "reader").unwrap();
    all_are_there(&client);
    assert!(client.reads(100));
    drop(client);
    node.end();
}

/// A drive that does not come back is given up, by a reload or a start, and another takes its place; one that comes back
/// is taken back.
#[test]
fn a_drive_that_is_lost_is_given_up() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a", "b", "c"]);
    let port = node.port();
    let client = node.connect("models", "writer").unwrap();
    put_all(&client);
    drop(client);
    let states = |node: &Program| -> Vec<Value> {
        let drives = drives(node);
        drives.iter().map(|drive| drive["state"].clone()).collect()
    };
    let hide = |folder: &Path| std::fs::rename(folder.join("b"), folder.join("hidden")).unwrap();

    // It is missing, and comes back.
    let node = node.again(Signal::TERM, hide);
    assert_eq!(states(&node)[1], "lost");
    // Blobs of the others can be pinned beside its own, which say why not when they are asked for alone.
    let client = node.connect("models", "reader").unwrap();
    let pinned = client.pins(&BLOBS.collect::<Vec<_>>()).unwrap();
    assert!(pinned.contains(&true) && pinned.contains(&false));
    for (name, is_pinned) in BLOBS.zip(pinned) {
        assert_eq!(client.pins(&[name, name]).is_ok(), is_pinned, "{name}");
        assert_eq!(client.reads(name), is_pinned, "{name}");
    }
    drop(client);
    let said = node.reload();
    assert!(said.contains("b is missing still: "), "{said}");
    std::fs::rename(node.folder().join("hidden"), node.folder().join("b")).unwrap();
    let said = node.reload();
    assert!(said.contains("b is added as drive 1"), "{said}");
    until(&node, is_settled);
    let client = node.connect("models", "reader").unwrap();
    all_are_there(&client);
    drop(client);

    // Another one is in its place, which has another number, and the same path.
    let node = node.again(Signal::TERM, |folder| {
        hide(folder);
        blank(folder, "b");
    });
    let all = drives(&node);
    assert_eq!(
        (&all[1]["state"], &all[3]["number"]),
        (&"lost".into(), &3.into())
    );
    let lost = |figures: &str| {
        let lines = figures.lines();
        let lines = lines.filter(|line| line.starts_with("oriel_store_drive_lost{"));
        let names: BTreeSet<_> = lines.map(|line| line.split(' ').next()).collect();
        names.len()
    };
    assert_eq!(lost(&node.get("/metrics")), 4);
    let with = |gone: &str, devices: &[&str]| {
        let text = text(port, devices);
        text.replacen("[format]", &format!("gone = {gone}\n[format]"), 1)
    };
    let said = node.change(&with("[0, 1]", &["a", "b", "c"]));
    assert!(
        said.contains("drive 0 works, and is said to be gone"),
        "{said}"
    );
    let said = node.change(&with("[1]", &["a", "b", "c"]));
    assert!(said.ends_with("; drive 1 is given up"), "{said}");
    until(&node, |drives| drives.len() == 3 && is_settled(drives));
    let client = node.connect("models", "writer").unwrap();
    // What was on the drive can be put again.
    for name in BLOBS {
        if !client.has(name) {
            client.put(name);
        }
    }
    all_are_there(&client);
    drop(client);

    // By a start, of more than half of them at once.
    let node = node.again(Signal::KILL, |folder| {
        std::fs::remove_file(folder.join("b")).unwrap();
        std::fs::remove_file(folder.join("c")).unwrap();
        std::fs::write(folder.join("orield.toml"), with("[1, 2, 3]", &["a"])).unwrap();
    });
    assert_eq!(states(&node), ["serving"]);
    let client = node.connect("models", "writer").unwrap();
    let name = BLOBS.clone().find(|name| !client.has(*name)).unwrap();
    client.put(name);
    assert!(client.reads(name));
    drop(client);
    node.end();
}

/// The first block of the first blob in a file that is one of those, with a bit of it flipped: the blob's name.
fn damage(path: &Path) -> u8 {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; 1 << 20];
    for at in (0..DRIVE_BYTES).step_by(bytes.len()) {
        file.read_exact_at(&mut bytes, at).unwrap();
        let blocks = bytes.chunks(4096);
        let is_one =
            |block: &[u8]| BLOBS.contains(&block[0]) && block.iter().all(|byte| *byte == block[0]);
        if let Some(block) = blocks.clone().position(is_one) {
            let name = bytes[block * 4096];
            let place = at + block as u64 * 4096;
            file.write_all_at(&[name ^ 0x80], place).unwrap();
            return name;
        }
    }
    panic!("no blob is there");
}

/// It names the blob, moves all others, and goes on when the blob is deleted. Nothing damaged is moved as if it were whole.
#[test]
fn a_damaged_blob_that_keeps_a_drive_from_being_emptied_is_named() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a", "b"]);
    let port = node.port();
    let client = node.connect("models", "writer").unwrap();
    put_all(&client);
    drop(client);
    let mut name = 0;
    let node = node.again(Signal::TERM, |folder| {
        name = damage(&folder.join("a"));
        std::fs::write(folder.join("orield.toml"), text(port, &["-a", "b"])).unwrap();
    });
    until(&node, |drives| drives[0]["blobs"] == 1);
    let word = "a blob cannot be moved, and stays where it is until that is mended";
    let key = Key::new([name; 32]).to_string();
    let lines = || -> Vec<String> {
        let log = node.log();
        let lines = log.lines().filter(|line| line.contains(word));
        lines.map(str::to_owned).collect()
    };
    while lines().is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    // Of several rounds; a scrub may have come before them.
    thread::sleep(Duration::from_secs(2));
    let said = lines();
    let is_damage = said[0].contains("is damaged") || said[0].contains("was found damaged");
    let is_whole = said.len() == 1 && said[0].contains(&key) && is_damage;
    assert!(is_whole, "{said:?}");
    let client = node.connect("models", "writer").unwrap();
    client.delete(name);
    let all = until(&node, |drives| drives.len() == 1);
    assert_eq!(all[0]["number"], 1);
    BLOBS.filter(|other| *other != name).for_each(|other| {
        assert!(client.reads(other), "{other}");
    });
    drop(client);
    node.end();
}
