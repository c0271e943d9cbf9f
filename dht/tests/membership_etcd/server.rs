//! A real etcd on loopback, ended with the test however that ends.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Ends etcd when the test's end of the pipe closes, which it does even if the test is killed.
const GUARD: &str =
    r#""$@" </dev/null & child=$!; cat >/dev/null; kill -9 "$child"; wait "$child" 2>/dev/null"#;

/// The program, from ORIEL_ETCD, PATH, or where scripts/bootstrap puts it.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ORIEL_ETCD") {
        return Some(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    std::env::split_paths(&path)
        .map(|folder| folder.join("etcd"))
        .chain(cache.map(|cache| cache.join("oriel/etcd/usr/bin/etcd")))
        .find(|path| path.is_file())
}

/// Whether the test can run. Where it cannot, the reason is written past the harness, which would keep it to itself.
#[expect(
    clippy::explicit_write,
    reason = "the harness catches what eprintln! writes"
)]
pub(crate) fn is_here() -> bool {
    if program().is_some() {
        return true;
    }
    let reason = "there is no etcd: run scripts/bootstrap, or set ORIEL_ETCD to its program";
    assert!(
        std::env::var_os("ORIEL_ETCD_REQUIRED").is_none(),
        "{reason}"
    );
    writeln!(std::io::stderr(), "skipped: {reason}").unwrap();
    false
}

struct Server {
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// A cluster of etcd servers and their data.
pub(crate) struct Servers {
    servers: Vec<Server>,
    folder: tempfile::TempDir,
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    listeners.iter().map(port).collect()
}

impl Servers {
    /// Starts so many and waits until they have a leader.
    pub(crate) async fn start(count: usize) -> Self {
        // Somebody else may take a port in between; that is no reason to fail.
        for _ in 0..5 {
            let ports = free_ports(2 * count);
            let server = |ports: &[u16]| Server {
                client_port: ports[0],
                peer_port: ports[1],
                child: None,
            };
            let mut servers = Self {
                servers: ports.chunks(2).map(server).collect(),
                folder: tempfile::tempdir().unwrap(),
            };
            for at in 0..count {
                servers.run(at);
            }
            if servers.are_ready().await {
                return servers;
            }
        }
        panic!("etcd did not start in five tries");
    }

    fn run(&mut self, at: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.servers.iter().enumerate();
        let all: Vec<String> = all
            .map(|(at, server)| format!("m{at}={}", url(server.peer_port)))
            .collect();
        let server = &self.servers[at];
        let (client, peer) = (url(server.client_port), url(server.peer_port));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("m{at}.log")))
            .unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(program().unwrap());
        command.args(["--name", &format!("m{at}"), "--data-dir"]);
        command.arg(self.folder.path().join(format!("m{at}")));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args([
            "--initial-cluster",
            &all.join(","),
            "--initial-cluster-token",
            "test",
        ]);
        // Leases cannot be shorter than one and a half elections.
        command.args(["--heartbeat-interval", "50", "--election-timeout", "600"]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        let errors = log.try_clone().unwrap();
        command.stdin(Stdio::piped()).stdout(log).stderr(errors);
        self.servers[at].child = Some(command.spawn().unwrap());
    }

    async fn are_ready(&mut self) -> bool {
        for _ in 0..150 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Ok(mut client) = etcd_client::Client::connect(self.endpoints(), None).await {
                let put =
                    tokio::time::timeout(Duration::from_secs(1), client.put("ready", "", None));
                if matches!(put.await, Ok(Ok(_))) {
                    return true;
                }
            }
            let has_ended = |server: &mut Server| {
                let child = server.child.as_mut();
                child.is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
            };
            if self.servers.iter_mut().any(has_ended) {
                return false;
            }
        }
        false
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let url = |server: &Server| format!("http://127.0.0.1:{}", server.client_port);
        self.servers.iter().map(url).collect()
    }

    pub(crate) fn client_port(&self, at: usize) -> u16 {
        self.servers[at].client_port
    }

    /// Ends one as a crash would.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.servers[at].child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Starts one again on its data.
    pub(crate) fn restart(&mut self, at: usize) {
        self.run(at);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for at in 0..self.servers.len() {
            self.kill(at);
        }
    }
}
