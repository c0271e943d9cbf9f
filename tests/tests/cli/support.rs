//! A node in a folder of its own, and the command line.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes on a machine that does much else.
pub(crate) const PATIENCE: &str = "300";

/// The one host that the realm `closed` lets in.
pub(crate) const HOST: &str =
    "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";

/// A node for trying out, with realms that it would not have by itself.
pub(crate) struct Node {
    folder: TempDir,
    address: String,
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// What it prints has to go somewhere.
    _lines: BufReader<ChildStdout>,
}

impl Node {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // A loopback address that no other process has: neither a listener nor a connection of anybody's can be at its port.
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let pid = std::process::id();
        let host = Ipv4Addr::from(0x7f40_0000 | (pid & 0x3f_ffff));
        let port = 4420 + NUMBER.fetch_add(1, Ordering::Relaxed);
        let node = Self {
            folder,
            address: format!("{host}:{port}"),
            running: None,
        };
        let config = format!(
            r#"node = "n1"
store = "00112233445566778899aabbccddeeff"
format = {{ slab_mib = 64, journal_mib = 16 }}
[[device]]
path = "drive"
[[listener]]
address = "{}"
[[realm]]
name = "default"
id = 1
hosts = "any"
[[realm]]
name = "small"
id = 2
hosts = "any"
quota_mib = 1
[[realm]]
name = "cache"
id = 4
hosts = "any"
cache = "lru"
quota_mib = 128
[[realm]]
name = "closed"
id = 3
hosts = ["{HOST}"]
"#,
            node.address
        );
        fs::create_dir(node.home()).unwrap();
        fs::write(node.home().join("orield.toml"), config).unwrap();
        node.again()
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    /// A folder for a test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it on what it had.
    pub(crate) fn again(mut self) -> Self {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_system-orield"))
            .arg("--dev")
            .arg(self.home())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut all = String::new();
        while !all.contains("ready") {
            if lines.read_line(&mut all).unwrap() == 0 {
                let _ = child.wait();
                panic!("the node ended: {all}{}", self.log());
            }
        }
        self.running = Some(Running {
            child,
            _lines: lines,
        });
        self
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn end(mut self, signal: Signal) -> Self {
        let mut running = self.running.take().unwrap();
        kill_process(Pid::from_child(&running.child), signal).unwrap();
        let status = running.child.wait().unwrap();
        let is_good = status.success() == (signal == Signal::TERM);
        assert!(is_good, "{status}: {}", self.log());
        self
    }

    pub(crate) fn url(&self, realm: &str) -> String {
        format!("nvme+tcp://{}/{realm}", self.address)
    }

    /// The command line on its realm `default`.
    pub(crate) fn oriel(&self) -> Command {
        oriel(&self.url("default"))
    }

    /// Runs it with arguments, and expects a status.
    pub(crate) fn said<I: AsRef<OsStr>>(&self, status: i32, arguments: &[I]) -> Said {
        said(self.oriel().args(arguments), status)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // Best effort: after a failed test it may still be there.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the node's log:\n{}", self.log());
        }
    }
}

pub(crate) fn oriel(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_system-oriel"));
    command.env_remove("ORIEL_HOST").env("ORIEL_TO", url);
    command.args(["--timeout", PATIENCE]).stdin(Stdio::null());
    command
}

/// What a program printed.
pub(crate) struct Said {
    pub(crate) bytes: Vec<u8>,
    pub(crate) errors: String,
}

impl Said {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// Every line is an object.
    pub(crate) fn objects(&self) -> Vec<Value> {
        objects(self.text())
    }
}

pub(crate) fn objects(text: &str) -> Vec<Value> {
    let objects = text.lines().map(serde_json::from_str);
    let objects: Vec<Value> = objects.map(|object| object.expect(text)).collect();
    assert!(objects.iter().all(Value::is_object), "{text}");
    objects
}

pub(crate) fn said(command: &mut Command, status: i32) -> Said {
    checked(command.output().unwrap(), status, &format!("{command:?}"))
}

/// The same, with something on standard input.
pub(crate) fn told(command: &mut Command, input: &[u8], status: i32) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    checked(output, status, &format!("{command:?}"))
}

fn checked(output: Output, status: i32, command: &str) -> Said {
    let errors = String::from_utf8(output.stderr).unwrap();
    let found = output.status;
    let text = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(4000)]);
    assert_eq!(
        found.code(),
        Some(status),
        "{command}: {found}\n{text}{errors}"
    );
    assert!(!errors.contains("panicked"), "{command}: {errors}");
    Said {
        bytes: output.stdout,
        errors,
    }
}

/// Bytes that are the same for the same number, and no others'.
pub(crate) fn bytes(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&number.to_le_bytes())
        .finalize_xof()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

pub(crate) fn key_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Files of a folder, by their paths in it.
pub(crate) fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_owned();
                    found.push((name, fs::read(&path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found
}
