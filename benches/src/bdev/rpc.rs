//! `-z`: bdevperf's way of being told when to start. A JSON-RPC socket that
//! knows `perform_tests`, which runs the jobs and answers with their results,
//! and `spdk_kill_instance`, which ends the program.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oriel_engine::reactor::{handle, sleep};
use serde_json::{Value, json};

/// A request is a few dozen bytes; whoever sends more means something else.
const REQUEST_BYTES_MAX: usize = 64 << 10;
const POLL_PERIOD: Duration = Duration::from_millis(10);
/// Clients are served one after another, so one that says nothing, or does not
/// read its answer, may not keep the others waiting for longer than this.
const CLIENT_TIME_MAX: Duration = Duration::from_secs(5);

/// What a client asked for.
#[derive(Debug, PartialEq)]
pub(crate) enum Call {
    PerformTests,
    Kill,
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ListenError {
    #[error("{} exists and is no socket: choose another path with -r", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot use the socket {}: {source}", path.display())]
    Socket {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The listening socket; its name goes with it.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// A client that waits for an answer.
pub(crate) struct Client {
    stream: UnixStream,
    id: Value,
}

impl Server {
    pub(crate) fn listen(path: &Path) -> Result<Self, ListenError> {
        let unusable = |source| ListenError::Socket {
            path: path.to_owned(),
            source,
        };
        // Whatever else has this name is somebody's, and not to be removed.
        if path
            .symlink_metadata()
            .is_ok_and(|found| !found.file_type().is_socket())
        {
            return Err(ListenError::NotASocket {
                path: path.to_owned(),
            });
        }
        // A socket that nobody answers to is left over from a killed program.
        if UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path).map_err(unusable)?;
        }
        let listener = UnixListener::bind(path).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// The next call that makes sense; others are answered here. None once the
    /// program is asked to stop.
    pub(crate) async fn next_call(&self) -> Option<(Call, Client)> {
        while !handle().is_stopping() {
            if let Ok((stream, _)) = self.listener.accept()
                && stream.set_nonblocking(true).is_ok()
                && let Some(found) = serve(stream).await
            {
                return Some(found);
            }
            sleep(POLL_PERIOD).await;
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: the next start removes a name that nobody answers to.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Talks to one client until it asks for something that takes time, or leaves,
/// or has had its time.
async fn serve(mut stream: UnixStream) -> Option<(Call, Client)> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    let deadline = Instant::now() + CLIENT_TIME_MAX;
    while Instant::now() < deadline && !handle().is_stopping() && received.len() < REQUEST_BYTES_MAX
    {
        match stream.read(&mut piece) {
            Ok(0) => return None,
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(POLL_PERIOD).await,
            Err(_) => return None,
        }
        let Ok(request) = serde_json::from_slice::<Value>(&received) else {
            continue;
        };
        received.clear();
        let client = Client {
            stream: stream.try_clone().ok()?,
            id: request["id"].clone(),
        };
        match understand(&request) {
            Ok(call) => return Some((call, client)),
            Err(error) => client.send(json!({ "error": error })),
        }
    }
    None
}

/// The call, or JSON-RPC's error for what is none.
fn understand(request: &Value) -> Result<Call, Value> {
    match request["method"].as_str() {
        Some("perform_tests") => Ok(Call::PerformTests),
        Some("spdk_kill_instance") => Ok(Call::Kill),
        Some(_) => Err(
            json!({ "code": -32601, "message": "Method not found: only perform_tests and spdk_kill_instance are known here" }),
        ),
        None => Err(json!({ "code": -32600, "message": "Invalid request: it names no method" })),
    }
}

impl Client {
    pub(crate) fn succeed(self, result: Value) {
        self.send(json!({ "result": result }));
    }

    pub(crate) fn fail(self, message: &str) {
        self.send(json!({ "error": { "code": -32603, "message": message } }));
    }

    /// A client that has gone does not need its answer.
    fn send(&self, mut reply: Value) {
        reply["jsonrpc"] = json!("2.0");
        reply["id"] = self.id.clone();
        let sent = self
            .stream
            .set_nonblocking(false)
            .and_then(|()| self.stream.set_write_timeout(Some(CLIENT_TIME_MAX)))
            .and_then(|()| (&self.stream).write_all(reply.to_string().as_bytes()));
        drop(sent);
        let restored = self.stream.set_nonblocking(true);
        drop(restored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_from_nonsense() {
        assert_eq!(
            understand(&json!({"method": "perform_tests", "id": 1})),
            Ok(Call::PerformTests)
        );
        assert_eq!(
            understand(&json!({"method": "spdk_kill_instance"})),
            Ok(Call::Kill)
        );
        assert_eq!(
            understand(&json!({"method": "bdev_get_bdevs"})).unwrap_err()["code"],
            -32601
        );
        assert_eq!(understand(&json!([1, 2])).unwrap_err()["code"], -32600);
    }

    #[test]
    fn a_left_over_name_is_taken_over_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rpc.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let server = Server::listen(&path).unwrap();
        assert!(Server::listen(&path).is_err());
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let error = Server::listen(path).err().unwrap().to_string();
            assert!(error.contains("is no socket"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "data");
    }
}
