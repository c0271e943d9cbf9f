//! A node as a program of its own, with what it tells systemd, and hosts of it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Namespace, Options, block_on};
use oriel_protocol::{Key, KeyKind};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than any machine needs.
const LONG: Duration = Duration::from_secs(300);
/// What it says, in its folder.
const LOG: &str = "log";
/// Of a blob that tests read.
const BLOB_BYTES: usize = 20_000;

pub(crate) fn is_skipped() -> bool {
    let is_skipped = std::env::var_os("TSAN_OPTIONS").is_some();
    if is_skipped {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
    }
    is_skipped
}

pub(crate) fn nqn(host: &str) -> String {
    format!("nqn.2016-06.io.oriel:{host}")
}

/// A list of hosts, as a configuration has it.
pub(crate) fn only(hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|host| format!("{:?}", nqn(host)))
        .collect();
    format!("[{}]", hosts.join(", "))
}

/// A node with the realms "models" and "cache".
pub(crate) struct Program {
    child: Child,
    port: u16,
    status: SocketAddr,
    /// Until another one takes it over.
    directory: Option<TempDir>,
    socket: UnixDatagram,
    /// What it prints has to go somewhere.
    _lines: BufReader<ChildStdout>,
    /// The name of a socket may not be long.
    _short: TempDir,
}

impl Program {
    /// The text of a configuration in which these may connect to the realms.
    pub(crate) fn text(port: u16, models: &str, cache: &str) -> String {
        format!(
            "node = \"dev\"\nstore = \"00112233445566778899aabbccddeeff\"\nmemory_mib = 512\n\n[format]\nslab_mib = 64\njournal_mib = 16\n\n\
             [[device]]\npath = \"drive\"\n\n[[listener]]\naddress = \"127.0.0.1:{port}\"\n\n[status]\naddress = \"127.0.0.1:0\"\n\n\
             [[realm]]\nname = \"models\"\nid = 1\nhosts = {models}\n\n[[realm]]\nname = \"cache\"\nid = 2\nhosts = {cache}\n"
        )
    }

    pub(crate) fn start(models: &str, cache: &str) -> Self {
        Self::start_with(|_| (models.to_owned(), cache.to_owned()))
    }

    /// Starts a node in whose folder something is laid down first.
    pub(crate) fn start_with(lay: impl FnOnce(&Path) -> (String, String)) -> Self {
        Self::start_from(|directory, port| {
            let (models, cache) = lay(directory);
            Self::text(port, &models, &cache)
        })
    }

    /// Starts a node from the text of a configuration for a port.
    pub(crate) fn start_from(lay: impl FnOnce(&Path, u16) -> String) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let text = lay(directory.path(), port);
        std::fs::write(directory.path().join("orield.toml"), text).unwrap();
        Self::launch(directory, port)
    }

    fn launch(directory: TempDir, port: u16) -> Self {
        let short = tempfile::tempdir().unwrap();
        let path = short.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        // As journald keeps it, from one start to the next.
        let log = directory.path().join(LOG);
        let log = File::options().append(true).create(true).open(log);
        let log = log.unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_orield"))
            .env("NOTIFY_SOCKET", &path)
            .arg("--dev")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut all = String::new();
        while !all.contains("ready") {
            let bytes = lines.read_line(&mut all).unwrap();
            assert!(bytes > 0, "it ended: {all}");
        }
        let (_, address) = all.split_once("status at http://").unwrap();
        let (address, _) = address.split_once('/').unwrap();
        let node = Self {
            child,
            port,
            status: address.parse().unwrap(),
            directory: Some(directory),
            socket,
            _lines: lines,
            _short: short,
        };
        assert_eq!(node.heard(), "READY=1");
        node
    }

    /// Ends it by a signal, and starts it again with what is then in its folder.
    pub(crate) fn again(mut self, signal: Signal, change: impl FnOnce(&Path)) -> Self {
        self.send(signal);
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
        let directory = self.directory.take().unwrap();
        change(directory.path());
        Self::launch(directory, self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder().join("orield.toml")
    }

    /// All that it has logged, in this life and in those before.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join(LOG)).unwrap()
    }

    /// The next word to systemd.
    pub(crate) fn heard(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// The next word to systemd that is not about a drive that has left.
    fn heard_beside_drives(&self) -> String {
        loop {
            let heard = self.heard();
            if !heard.starts_with("STATUS=") {
                return heard;
            }
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Has it read its configuration again, and gives what it says of that.
    pub(crate) fn reload(&self) -> String {
        self.send(Signal::HUP);
        let begun = self.heard_beside_drives();
        let micros = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0, "{begun}");
        let done = self.heard();
        done.strip_prefix("READY=1\nSTATUS=").unwrap().to_owned()
    }

    /// Reloads another configuration.
    pub(crate) fn change(&self, text: &str) -> String {
        std::fs::write(self.file(), text).unwrap();
        self.reload()
    }

    /// Has these connect to the realms from now on.
    pub(crate) fn allow(&self, models: &str, cache: &str) -> String {
        let said = self.change(&Self::text(self.port, models, cache));
        assert!(said.starts_with("configuration reloaded: "), "{said}");
        said
    }

    /// What it says of itself at a path; as often as it is told to come later, it does.
    pub(crate) fn get(&self, path: &str) -> String {
        loop {
            let mut stream = TcpStream::connect(self.status).unwrap();
            let mut text = String::new();
            let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
            let heard = asked.and_then(|()| stream.read_to_string(&mut text));
            match (heard, text.split_once("\r\n\r\n")) {
                (Ok(_), Some((head, body))) if !head.starts_with("HTTP/1.1 503 ") => {
                    return body.to_owned();
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status")).unwrap()
    }

    pub(crate) fn reloads(&self) -> Value {
        self.status()["reloads"].clone()
    }

    /// Connects as a host, once: neither is a refusal tried again, nor a connection that was lost.
    pub(crate) fn connect(&self, realm: &str, host: &str) -> Option<Client> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let options = Options {
            host: nqn(host),
            connect_timeout: LONG,
            command_timeout: LONG,
            keep_alive: None,
            reconnect: None,
            ..Options::new(address, format!("nqn.2026-11.io.oriel:dev:{realm}"))
        };
        let controller = Controller::connect(options).unwrap().wait().ok()?;
        let namespace = block_on(controller.namespace(1)).unwrap();
        let blobs = block_on(Blobs::open(namespace)).unwrap();
        Some(Client { blobs, controller })
    }

    pub(crate) fn end(mut self) {
        self.send(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(self.heard_beside_drives(), "STOPPING=1");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Best effort: after a failed test it may still be there.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() && self.directory.is_some() {
            eprintln!("what the node said:\n{}", self.log());
        }
    }
}

/// One connection of a host.
pub(crate) struct Client {
    blobs: Blobs<Namespace>,
    controller: Controller,
}

impl Client {
    pub(crate) fn put(&self, name: u8) {
        let bytes = vec![name; BLOB_BYTES];
        let put = block_on(self.blobs.put(Key::new([name; 32]), KeyKind::Name, bytes));
        assert_eq!(put.unwrap(), Put::Created);
    }

    /// Whether there is room for it.
    pub(crate) fn try_put(&self, name: u8) -> bool {
        let bytes = vec![name; BLOB_BYTES];
        let put = block_on(self.blobs.put(Key::new([name; 32]), KeyKind::Name, bytes));
        put.is_ok()
    }

    pub(crate) fn delete(&self, name: u8) {
        let deleted = block_on(self.blobs.delete(&Key::new([name; 32])));
        assert!(deleted.unwrap(), "{name} was there");
    }

    pub(crate) fn has(&self, name: u8) -> bool {
        block_on(self.blobs.exists(&Key::new([name; 32]))).unwrap()
    }

    /// Which of them are pinned now.
    pub(crate) fn pins(&self, names: &[u8]) -> Result<Vec<bool>, String> {
        let keys: Vec<Key> = names.iter().map(|name| Key::new([*name; 32])).collect();
        let pinned = block_on(self.blobs.pin(&keys, Duration::from_secs(1)));
        pinned.map_err(|error| error.to_string())
    }

    /// Whether the blob comes back; false where the connection has gone.
    pub(crate) fn reads(&self, name: u8) -> bool {
        match block_on(self.blobs.get(&Key::new([name; 32]))) {
            Ok(blob) => {
                assert!(blob == Some(vec![name; BLOB_BYTES]), "another blob");
                true
            }
            Err(_) => false,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.controller.clone().close();
    }
}
