//! What shows on a terminal.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Node, bytes, told};

/// What the program sees, and what its user sees.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let name = name.to_str().unwrap();
    // It is no controlling terminal of anybody: a test runner may have none, and would get it.
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .open(name)
        .unwrap();
    (theirs, ours.into())
}

/// Reads on until something shows, or the program has ended.
fn see(screen: &mut File, seen: &mut Vec<u8>, until: Option<&str>) {
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(seen);
        if until.is_some_and(|until| text.contains(until)) {
            return;
        }
        match screen.read(&mut piece) {
            // Linux says so when nobody has the terminal open any more.
            Err(error) if error.raw_os_error() == Some(5) && until.is_none() => return,
            Ok(read) if read > 0 => seen.extend_from_slice(&piece[..read]),
            other => panic!("{other:?} after {text}"),
        }
    }
}

fn on(terminal: &File, command: &mut Command, stdout: bool) -> Child {
    let stdout = match stdout {
        true => Stdio::from(terminal.try_clone().unwrap()),
        false => Stdio::null(),
    };
    let stderr = terminal.try_clone().unwrap();
    let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    // What the command has of the terminal goes with it, or its end would never show.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    child
}

#[test]
fn pictures_come_and_go() {
    let node = Node::start();
    let (theirs, mut screen) = terminal();
    let mut seen = Vec::new();
    let mut top = on(
        &theirs,
        node.oriel().args(["top", "--interval", "0.01"]),
        true,
    );
    drop(theirs);
    // Rates show with the second picture.
    see(&mut screen, &mut seen, Some("+0.0"));
    kill_process(Pid::from_child(&top), Signal::INT).unwrap();
    see(&mut screen, &mut seen, None);
    assert!(top.wait().unwrap().success());
    let text = String::from_utf8(seen).unwrap();
    assert!(text.starts_with("\x1b[?1049h\x1b[?25l"), "{text:?}");
    assert!(
        text.ends_with("\x1b[?25h\x1b[?1049l"),
        "the terminal is not as it was: {text:?}"
    );

    // A bar, which is gone at the end; and no blob on a terminal unless that is meant.
    let file = node.path("file");
    std::fs::write(&file, bytes(1, 3_000_000)).unwrap();
    let (theirs, mut screen) = terminal();
    let mut seen = Vec::new();
    let mut put = on(&theirs, node.oriel().arg("put").arg(&file), false);
    drop(theirs);
    see(&mut screen, &mut seen, None);
    assert!(put.wait().unwrap().success());
    let text = String::from_utf8(seen).unwrap();
    assert!(
        text.contains("2.86 MiB") && text.ends_with("\x1b[2K"),
        "{text:?}"
    );

    told(node.oriel().args(["put", "--name", "a", "-"]), b"a", 0);
    let (theirs, mut screen) = terminal();
    let mut seen = Vec::new();
    let mut get = on(&theirs, node.oriel().args(["get", "--name", "a"]), true);
    drop(theirs);
    see(&mut screen, &mut seen, None);
    assert_eq!(get.wait().unwrap().code(), Some(2));
    let text = String::from_utf8(seen).unwrap();
    assert!(text.contains("name a file by -o FILE"), "{text:?}");
    node.end(Signal::TERM);
}
