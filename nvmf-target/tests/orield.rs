//! The program, as its users start it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Options, block_on};
use oriel_protocol::{Key, KeyKind};
use rustix::process::{Pid, Signal, kill_process};

fn orield() -> Command {
    Command::new(env!("CARGO_BIN_EXE_orield"))
}

fn said(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = [stdout, stderr].concat();
    (
        status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

struct Running {
    child: Child,
    /// What it prints has to go somewhere.
    _lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(directory: &Path, port: u16) -> Self {
        Self::of(&mut orield(), directory, port)
    }

    fn of(orield: &mut Command, directory: &Path, port: u16) -> Self {
        let mut child = orield
            .arg("--dev")
            .arg(directory)
            .args(["run", "--port", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut all = String::new();
        while !all.contains("ready") {
            let bytes = lines.read_line(&mut all).unwrap();
            assert!(bytes > 0, "it ended: {all}");
        }
        let nqn = format!("default at tcp 127.0.0.1:{port}: nqn.2026-11.io.oriel:dev:default\n");
        assert!(all.contains(&nqn), "{all}");
        Self {
            child,
            _lines: lines,
        }
    }

    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Best effort: after a failed test it may still be there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(name: u8) -> Key {
    Key::new([name; 32])
}

#[test]
fn a_node_for_trying_out_keeps_what_it_is_given() {
    if std::env::var_os("TSAN_OPTIONS").is_some() {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let directory = directory.path().join("node");
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let blob = |name: u8| vec![name; 200_000 + usize::from(name)];
    for (name, signal) in [(0, Signal::TERM), (1, Signal::KILL), (2, Signal::TERM)] {
        let node = Running::start(&directory, port);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let options = Options {
            connect_timeout: Duration::from_secs(60),
            command_timeout: Duration::from_secs(120),
            ..Options::new(address, "nqn.2026-11.io.oriel:dev:default")
        };
        let controller = Controller::connect(options).unwrap().wait().unwrap();
        let namespace = block_on(controller.namespace(1)).unwrap();
        let blobs = block_on(Blobs::open(namespace)).unwrap();
        let put = block_on(blobs.put(key(name), KeyKind::Name, blob(name)));
        assert_eq!(put.unwrap(), Put::Created);
        for before in 0..=name {
            let read = block_on(blobs.get(&key(before))).unwrap();
            assert!(read == Some(blob(before)), "{before} of {name}");
        }
        if name == 0 {
            let (is_good, text) = said(orield().arg("--dev").arg(&directory));
            assert!(
                !is_good && text.contains("in use by another process"),
                "{text}"
            );
        }
        drop(blobs);
        controller.close();
        node.end(signal);
        // What a kill leaves is no fault.
        let (is_good, text) = said(orield().arg("--dev").arg(&directory).arg("check"));
        let all = format!("drive: {} blobs in", name + 1);
        assert!(
            is_good && text.contains(&all) && text.contains("nothing is wrong"),
            "{text}"
        );
        assert_eq!(text.contains("was not closed"), signal == Signal::KILL);
    }
    damage(&directory.join("drive"), &blob(1)[..4096]);
    let (is_good, text) = said(orield().arg("--dev").arg(&directory).arg("check"));
    let key = key(1).to_string();
    assert!(
        !is_good && text.contains(&key) && text.contains("1 problems were found"),
        "{text}"
    );
    let (is_good, text) = said(orield().arg("--dev").arg(&directory).arg("format"));
    assert!(!is_good && text.contains("is not empty"), "{text}");
    let (is_good, text) = said(
        orield()
            .arg("--dev")
            .arg(&directory)
            .args(["format", "--overwrite"]),
    );
    assert!(!is_good && text.contains("holds the store"), "{text}");
}

/// Flips a bit of the first block of these bytes in a file.
fn damage(file: &Path, block: &[u8]) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut found = vec![0; block.len()];
    let blocks = file.metadata().unwrap().len() / block.len() as u64;
    let at = (0..blocks)
        .map(|number| number * block.len() as u64)
        .find(|&at| {
            file.read_exact_at(&mut found, at).unwrap();
            found == block
        });
    found[100] ^= 1;
    file.write_all_at(&found, at.unwrap()).unwrap();
}

#[test]
fn whoever_started_it_is_told_that_it_serves_lives_and_ends() {
    if std::env::var_os("TSAN_OPTIONS").is_some() {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The name of a socket may not be long.
    let short = tempfile::tempdir().unwrap();
    let path = short.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let long = Duration::from_secs(300);
    socket.set_read_timeout(Some(long)).unwrap();
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let mut command = orield();
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let node = Running::of(&mut command, &directory.path().join("node"), port);
    let heard = || {
        let mut bytes = [0; 64];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    for _ in 0..3 {
        assert_eq!(heard(), "WATCHDOG=1");
    }
    node.end(Signal::TERM);
    while heard() != "STOPPING=1" {}
}

#[test]
fn a_configuration_is_checked_before_anything_is_touched() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("node.toml");
    let text = r#"node = "n1"
store = "00112233445566778899aabbccddeeff"
[[device]]
path = "drive"
[[listener]]
address = "127.0.0.1:4420"
[[realm]]
name = "models"
id = 1
hosts = "any"
"#;
    std::fs::write(&file, text).unwrap();
    let (is_good, printed) = said(orield().arg("--config").arg(&file).arg("config"));
    assert!(is_good && printed.contains("blobs_max = "), "{printed}");
    std::fs::write(&file, text.replace("\"any\"", "\"all\"")).unwrap();
    for what in ["config", "format", "run"] {
        let (is_good, printed) = said(orield().arg("--config").arg(&file).arg(what));
        assert!(
            !is_good && printed.contains("node.toml, line 10: hosts are"),
            "{printed}"
        );
    }
    let (is_good, printed) = said(orield().arg("config"));
    assert!(!is_good && printed.contains("--config"), "{printed}");
    std::fs::write(&file, text).unwrap();
    let (is_good, printed) = said(orield().arg("--config").arg(&file).arg("format"));
    assert!(
        !is_good && printed.contains("drive cannot be opened"),
        "{printed}"
    );
}
