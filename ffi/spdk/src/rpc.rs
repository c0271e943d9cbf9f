//! SPDK's JSON-RPC methods, called from inside the process.
//!
//! Devices are made and unmade through these methods and not through C functions, because the
//! methods are the interface that SPDK keeps stable and documents, while the C functions of its
//! bdev modules change from release to release and are not installed. The server listens on a
//! socket in a private directory for the moment it takes to connect to it; then the name is gone
//! and nobody else can.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_void};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use oriel_spdk_sys as sys;
use serde_json::{Value, json};
use thiserror::Error;

use crate::limits::{RPC_REPLY_BYTES_MAX, SOCKET_NAME_BYTES_MAX};
use crate::oneshot::yield_now;
use crate::thread::Home;

/// Why a JSON-RPC call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RpcError {
    /// SPDK answered with an error.
    #[error("SPDK refused {method}: {message} (code {code})")]
    Refused {
        /// The method called.
        method: String,
        /// SPDK's code: a negative errno or a JSON-RPC code.
        code: i64,
        /// SPDK's words.
        message: String,
    },
    /// The conversation broke.
    #[error("the conversation with SPDK's JSON-RPC server broke during {method}")]
    Io {
        /// The method called.
        method: String,
        /// What happened.
        source: io::Error,
    },
    /// An answer that is no JSON-RPC reply.
    #[error("SPDK answered {method} with something that is no JSON-RPC reply")]
    BadReply {
        /// The method called.
        method: String,
    },
}

/// The server could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RpcStartError {
    /// No place for the socket.
    #[error("the folder {} for SPDK's JSON-RPC socket cannot be made ({source}): set TMPDIR to a folder that this user may write to", dir.display())]
    Directory {
        /// The folder.
        dir: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel's limit for the names of sockets.
    #[error("{} is too long a name for a socket ({SOCKET_NAME_BYTES_MAX} bytes at most): set TMPDIR to a folder with a shorter name", path.display())]
    NameTooLong {
        /// The socket's name.
        path: PathBuf,
    },
    /// The socket could not be made or connected to.
    #[error("SPDK's JSON-RPC server could not be reached in {}: {source}", dir.display())]
    Unreachable {
        /// The folder of the socket.
        dir: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// The connection to this process's own SPDK.
pub struct Rpc {
    server: NonNull<c_void>,
    stream: RefCell<UnixStream>,
    /// One call at a time: replies carry no order otherwise.
    busy: Cell<bool>,
    next_id: Cell<u64>,
    home: Home,
}

struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Rpc {
    /// Starts SPDK's server and connects to it. Call once the subsystems run.
    pub(crate) fn start() -> Result<Self, RpcStartError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("oriel-{}-{serial}", std::process::id()));
        let path = dir.join("rpc");
        if path.as_os_str().len() > SOCKET_NAME_BYTES_MAX {
            return Err(RpcStartError::NameTooLong { path });
        }
        if let Err(source) = fs::DirBuilder::new().mode(0o700).create(&dir) {
            return Err(RpcStartError::Directory { dir, source });
        }
        let started = Self::listen_and_connect(&path);
        // Name by name, since listing the folder would take a descriptor, and there may be none left. SPDK has removed
        // what it could; nothing else is ever in this private folder.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(dir.join("rpc.lock"));
        let _ = fs::remove_dir(&dir);
        started.map_err(|source| RpcStartError::Unreachable { dir, source })
    }

    fn listen_and_connect(path: &Path) -> io::Result<Self> {
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: the path is a NUL-terminated string that SPDK copies.
        let server = NonNull::new(unsafe { sys::oriel_rpc_listen(c_path.as_ptr()) })
            .ok_or_else(|| why_not(path))?;
        let stream = UnixStream::connect(path).and_then(|stream| {
            stream.set_nonblocking(true)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                // SAFETY: the server lives; this accepts our connection before the name goes.
                unsafe { sys::oriel_rpc_poll(server.as_ptr()) };
                Ok(Self {
                    server,
                    stream: RefCell::new(stream),
                    busy: Cell::new(false),
                    next_id: Cell::new(1),
                    home: Home::current("SPDK's JSON-RPC server"),
                })
            }
            Err(error) => {
                // SAFETY: the server lives and is closed once.
                unsafe { sys::oriel_rpc_close(server.as_ptr()) };
                Err(error)
            }
        }
    }

    /// Calls a method with parameters (an object, or null for none) and returns its result.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        while self.busy.replace(true) {
            yield_now().await;
        }
        let _turn = Turn(&self.busy);
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let mut request = json!({ "jsonrpc": "2.0", "id": id, "method": method });
        if !params.is_null() {
            request["params"] = params;
        }
        let reply = self
            .exchange(
                method,
                id,
                &serde_json::to_vec(&request).unwrap_or_default(),
            )
            .await?;
        if let Some(error) = reply.get("error") {
            return Err(RpcError::Refused {
                method: method.into(),
                code: error["code"].as_i64().unwrap_or_default(),
                message: error["message"]
                    .as_str()
                    .unwrap_or("no reason given")
                    .into(),
            });
        }
        Ok(reply["result"].clone())
    }

    async fn exchange(&self, method: &str, id: u64, request: &[u8]) -> Result<Value, RpcError> {
        let io_error = |source| RpcError::Io {
            method: method.into(),
            source,
        };
        let mut unsent = request;
        let mut reply = Vec::new();
        loop {
            if !unsent.is_empty() {
                let sent = self.stream.borrow_mut().write(unsent);
                unsent = &unsent[none_if_would_block(sent).map_err(io_error)?.unwrap_or(0)..];
            }
            // SAFETY: the server lives as long as self; the handlers run on the thread that started it.
            self.home
                .enter(|| unsafe { sys::oriel_rpc_poll(self.server.as_ptr()) });
            let mut chunk = [0; 4096];
            let got = self.stream.borrow_mut().read(&mut chunk);
            match none_if_would_block(got).map_err(io_error)? {
                Some(0) => return Err(io_error(ErrorKind::UnexpectedEof.into())),
                Some(len) => reply.extend_from_slice(&chunk[..len]),
                None => {
                    yield_now().await;
                    continue;
                }
            }
            match serde_json::from_slice::<Value>(&reply) {
                // A reply to a call that was given up (its future dropped) may still arrive.
                Ok(value) if value["id"].as_u64() != Some(id) => reply.clear(),
                Ok(value) => return Ok(value),
                Err(error) if error.is_eof() && reply.len() < RPC_REPLY_BYTES_MAX => {}
                Err(_) => {
                    return Err(RpcError::BadReply {
                        method: method.into(),
                    });
                }
            }
        }
    }
}

/// Why no socket can be made, which SPDK only tells its log: making one here fails the same way.
fn why_not(path: &Path) -> io::Error {
    UnixListener::bind(path)
        .err()
        .unwrap_or_else(|| ErrorKind::AddrNotAvailable.into())
}

fn none_if_would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        // SAFETY: the server lives and is closed once.
        unsafe { sys::oriel_rpc_close(self.server.as_ptr()) };
    }
}
