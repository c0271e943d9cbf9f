//! What a node keeps of its index over a stop, in a folder of files.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

#[allow(dead_code, reason = "tests of hosts and drives use more of it")]
mod program;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use program::{Program, is_skipped};
use rustix::process::Signal;

const STORE: &str = "00112233445566778899aabbccddeeff";
const KEPT: &str = "its index was kept: it is taken over";
const MADE: &str = "or is none of its last stop: it is made anew";
/// Of a drive that is no larger than it has to be.
const DRIVE_BYTES: u64 = 1 << 30;

fn text(port: u16, devices: &str) -> String {
    let text = Program::text(port, "\"any\"", "\"any\"");
    // Small enough to be written in no time.
    let text = text.replacen(
        "memory_mib",
        "index = \"index\"\nblobs_max = 5000\nmemory_mib",
        1,
    );
    text.replacen("[[device]]\npath = \"drive\"\n", devices, 1)
}

fn device(name: &str) -> String {
    format!("[[device]]\npath = \"{name}\"\n")
}

/// With drives whose numbers are 0, 1 and so on.
fn with_drives(names: &[&str]) -> Program {
    Program::start_from(|folder, port| {
        for name in names {
            let file = File::create(folder.join(name)).unwrap();
            file.set_len(DRIVE_BYTES).unwrap();
        }
        let devices: String = names.iter().map(|name| device(name)).collect();
        text(port, &devices)
    })
}

fn index(folder: &Path, drive: u16) -> PathBuf {
    folder.join(format!("index/{STORE}-{drive}.index"))
}

/// What the last start said of its drives' indexes: how many were kept, and how many not.
fn said(node: &Program, starts: usize) -> (usize, usize) {
    let log = node.log();
    let all = (log.matches(KEPT).count(), log.matches(MADE).count());
    assert!(all.0 + all.1 >= starts, "{log}");
    all
}

fn all_are_there(node: &Program, blobs: std::ops::Range<u8>) {
    let client = node.connect("models", "reader").unwrap();
    for name in blobs {
        assert!(client.reads(name) && client.has(name), "{name}");
    }
    assert!(!client.has(255));
}

fn put(node: &Program, name: u8) {
    node.connect("models", "writer").unwrap().put(name);
}

/// It is taken over after a stop in order, once, and made anew after anything else.
#[test]
fn an_index_is_kept_over_a_stop_and_made_anew_after_a_crash() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a", "b"]);
    assert_eq!(said(&node, 2), (0, 2));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = index(node.folder(), 0);
    assert_eq!((mode(file.parent().unwrap()), mode(&file)), (0o700, 0o600));
    (0..20).for_each(|name| put(&node, name));

    let node = node.again(Signal::TERM, |_| ());
    assert_eq!(said(&node, 4), (2, 2));
    assert_eq!(node.log().matches("is kept for the next start").count(), 2);
    all_are_there(&node, 0..20);
    put(&node, 20);

    let node = node.again(Signal::KILL, |_| ());
    assert_eq!(said(&node, 6), (2, 4));
    all_are_there(&node, 0..21);

    // Also where it was taken over before, and nothing was put since.
    let node = node.again(Signal::TERM, |_| ());
    let node = node.again(Signal::TERM, |_| ());
    assert_eq!(said(&node, 10), (6, 4));
    all_are_there(&node, 0..21);
    node.end();
}

/// Whatever happens to the files, it costs time alone.
#[test]
fn an_index_that_is_missing_damaged_or_another_one_is_made_anew() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a", "b"]);
    (0..20).for_each(|name| put(&node, name));
    let old = node.folder().join("old");
    let node = node.again(Signal::TERM, |folder| {
        std::fs::copy(index(folder, 0), &old).unwrap();
    });
    assert_eq!(said(&node, 4), (2, 2));
    (20..40).for_each(|name| put(&node, name));

    // One is that of an earlier stop, and the other is gone.
    let node = node.again(Signal::TERM, |folder| {
        std::fs::copy(&old, index(folder, 0)).unwrap();
        std::fs::remove_file(index(folder, 1)).unwrap();
    });
    assert_eq!(said(&node, 6), (2, 4));
    all_are_there(&node, 0..40);

    // One is something else, and one has the other's.
    let node = node.again(Signal::TERM, |folder| {
        std::fs::rename(index(folder, 0), index(folder, 1)).unwrap();
        std::fs::write(index(folder, 0), [7; 8192]).unwrap();
    });
    assert_eq!(said(&node, 8), (2, 6));
    assert!(node.log().contains("the file of an index is written over"));
    all_are_there(&node, 0..40);
    node.end();
}

/// Where what was kept is not whole although its last line is, the node says so, and the next start is right.
#[test]
fn an_index_that_rots_is_found_out_and_not_believed() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a"]);
    (0..20).for_each(|name| put(&node, name));
    let node = node.again(Signal::TERM, |folder| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(index(folder, 0));
        let file = file.unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        // Behind what is said of the whole, before the line that ties it to the drive.
        let place = |mark: &[u8; 8]| bytes.chunks(8).position(|word| word == mark).unwrap();
        let [begin, end] = [b"CLOSED..", b"ORIELTIE"].map(|mark| 8 * place(mark));
        for byte in &mut bytes[begin + 64..end] {
            *byte ^= u8::from(*byte != 0);
        }
        file.write_all_at(&bytes, 0).unwrap();
    });
    assert_eq!(said(&node, 2), (1, 1));
    while !(node.log()).contains("the index that was taken over is damaged") {
        thread::sleep(Duration::from_millis(20));
    }
    let node = node.again(Signal::TERM, |_| ());
    assert_eq!(said(&node, 3), (1, 2));
    all_are_there(&node, 0..20);
    node.end();
}

/// A drive that comes has a file, and one that goes leaves none behind.
#[test]
fn indexes_come_and_go_with_drives() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a"]);
    (0..20).for_each(|name| put(&node, name));
    let (folder, port) = (node.folder().to_owned(), node.port());
    let file = File::create(folder.join("b")).unwrap();
    file.set_len(DRIVE_BYTES).unwrap();

    // Something stands where its index would be.
    std::fs::create_dir(index(&folder, 1)).unwrap();
    let both = text(port, &(device("a") + &device("b")));
    let refused = node.change(&both);
    let words = ["nothing changed", "the index cannot be kept in", "-1.index"];
    for word in words {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    assert_eq!(node.status()["drives"].as_array().unwrap().len(), 1);
    std::fs::remove_dir(index(&folder, 1)).unwrap();
    let added = node.change(&both);
    assert!(added.contains("b is added as drive 1"), "{added}");
    assert!(index(&folder, 1).exists());

    let drained = device("a").replace('\n', "\ndrain = true\n");
    let drained = drained.replacen("[[device]]\ndrain = true", "[[device]]", 1);
    let said_of_it = node.change(&text(port, &(drained + &device("b"))));
    assert!(said_of_it.contains("is being emptied"), "{said_of_it}");
    let heard = node.heard();
    assert!(heard.contains("is empty and given back"), "{heard}");
    assert!(!index(&folder, 0).exists() && index(&folder, 1).exists());
    let node = node.again(Signal::TERM, |folder| {
        std::fs::write(folder.join("orield.toml"), text(port, &device("b"))).unwrap();
        // That of a drive that left while the node could not remove it.
        std::fs::write(index(folder, 0), "").unwrap();
    });
    assert!(!index(&folder, 0).exists() && index(&folder, 1).exists());
    assert_eq!(said(&node, 2).0, 1);
    all_are_there(&node, 0..20);
    node.end();
}

/// Files that somebody else uses, and a folder that cannot be, end the start with a word on it.
#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    if is_skipped() {
        return;
    }
    let node = with_drives(&["a"]);
    put(&node, 1);
    let (folder, port) = (node.folder().to_owned(), node.port());
    let start = |text: String| {
        let other = folder.join("other.toml");
        std::fs::write(&other, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_orield"));
        let output = command.arg("--config").arg(other).arg("format").output();
        let output = output.unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let file = File::create(folder.join("b")).unwrap();
    file.set_len(DRIVE_BYTES).unwrap();
    // Another node that was given the same store.
    let other = text(port, &device("b"));
    let said = start(other.clone());
    for word in [
        "the index cannot be kept in",
        "-0.index",
        "in use by another process",
        "name another",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = start(other.replace("\"index\"", "\"a/index\""));
    for word in ["a/index for the indexes cannot be made", "name another one"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    all_are_there(&node, 1..2);
    node.end();
}
