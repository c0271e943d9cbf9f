//! What a running node says of itself over HTTP.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Options, block_on};
use oriel_protocol::{Key, KeyKind};
use serde_json::Value;

struct Running {
    child: Child,
    status: SocketAddr,
    /// What it prints has to go somewhere.
    _lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(directory: &Path, port: u16) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orield"))
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
        let (_, address) = all.split_once("status at http://").unwrap();
        let (address, _) = address.split_once('/').unwrap();
        Self {
            child,
            status: address.parse().unwrap(),
            _lines: lines,
        }
    }

    /// The head and body of an answer; as often as it is told to come later, it does. That may be cut short, since a
    /// connection too many is closed with its request unread.
    fn get(&self, path: &str) -> (String, String) {
        loop {
            let mut stream = TcpStream::connect(self.status).unwrap();
            let mut text = String::new();
            let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
            let heard = asked.and_then(|()| stream.read_to_string(&mut text));
            match (heard, text.split_once("\r\n\r\n")) {
                (Ok(_), Some((head, body))) if !head.starts_with("HTTP/1.1 503 ") => {
                    return (head.to_owned(), body.to_owned());
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn status(&self) -> Value {
        let (head, body) = self.get("/status");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    /// Puts of the realm that were done, from the figures.
    fn puts(&self) -> u64 {
        self.done(&["put", "commit"])
    }

    /// How many of these operations were done, from the figures.
    fn done(&self, operations: &[&str]) -> u64 {
        let (head, body) = self.get("/metrics");
        assert!(
            head.contains("Content-Type: application/openmetrics-text"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"), "{body}");
        assert!(body.contains("\noriel_target_queues_total{core="), "{body}");
        let refused = "\noriel_target_refused_connections_total 0\n";
        assert!(body.contains(refused), "{body}");
        assert!(
            body.contains("\noriel_reactor_busy_seconds_total{core="),
            "{body}"
        );
        let lines = body.lines().filter(|line| {
            line.starts_with("oriel_store_operations_total{")
                && operations
                    .iter()
                    .any(|name| line.contains(&format!("operation=\"{name}\"")))
                && line.contains("outcome=\"done\"")
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_node_says_what_it_holds_and_bears_with_whoever_asks() {
    if std::env::var_os("TSAN_OPTIONS").is_some() {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let node = Running::start(&directory.path().join("node"), port);
    let status = node.status();
    assert_eq!(
        (&status["node"], &status["realms"][0]["name"]),
        (&"dev".into(), &"default".into())
    );
    assert_eq!(status["realms"][0]["blobs"], 0);
    assert_eq!(status["drives"][0]["state"], "serving");
    assert!(status["drives"][0]["capacity_bytes"].as_u64().unwrap() > 7 << 30);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["spdk"].is_string(), "{status}");
    assert_eq!(node.puts(), 0);

    // Whoever means harm, or is slow, while hosts work.
    let mut held = Vec::new();
    for bytes in [&b"GET /met"[..], b"\0\xff\r\n\r\n", &[b'x'; 20_000], b""] {
        for _ in 0..8 {
            let mut stream = TcpStream::connect(node.status).unwrap();
            // It may have been sent away already.
            let _ = stream.write_all(bytes);
            held.push(stream);
        }
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let options = Options {
        connect_timeout: Duration::from_secs(60),
        command_timeout: Duration::from_secs(120),
        ..Options::new(address, "nqn.2026-11.io.oriel:dev:default")
    };
    let controller = Controller::connect(options).unwrap().wait().unwrap();
    let namespace = block_on(controller.namespace(1)).unwrap();
    let blobs = block_on(Blobs::open(namespace)).unwrap();
    for name in 0..3 {
        let put = block_on(blobs.put(Key::new([name; 32]), KeyKind::Name, vec![name; 100_000]));
        assert_eq!(put.unwrap(), Put::Created);
    }
    drop(held);
    // What is said may be a moment old.
    while node.status()["realms"][0]["blobs"] != 3 {}
    while node.puts() < 3 {}
    let got = block_on(blobs.get(&Key::new([2; 32]))).unwrap();
    assert_eq!(got, Some(vec![2; 100_000]));
    // By plain reads of its window, which are counted as well.
    while node.done(&["read"]) < 1 || node.done(&["locate"]) < 1 {}
    let status = node.status();
    assert!(
        status["realms"][0]["used_bytes"].as_u64().unwrap() >= 300_000,
        "{status}"
    );
    assert!(
        status["drives"][0]["used_bytes"].as_u64().unwrap() >= 300_000,
        "{status}"
    );
    assert!(
        status["connections"]["io_queues_total"].as_u64().unwrap() > 0,
        "{status}"
    );
    let connections = &status["connections"];
    assert!(connections["open"].as_u64().unwrap() >= 2, "{status}");
    assert_eq!(connections["refused_total"], 0, "{status}");
    drop(blobs);
    controller.close();
}
