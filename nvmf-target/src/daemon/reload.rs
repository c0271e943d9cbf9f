//! SIGHUP: the configuration is read again, and what can change while the node runs is changed.
//!
//! ```text
//!   SIGHUP ──► thread: reads, checks, compares ──► the main core: Desk ──► Changing: drives, realms, hosts
//!              (no core of the node's waits for a file)                       │
//!              log, systemd, Record ◄─────────────────────────────────────────┘
//! ```
//!
//! - A file that is wrong, or that asks for what takes a restart, changes nothing.
//! - Signals that come during a reload cause one more after it; one that comes before the node serves is answered then.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::SystemTime;

use oriel_engine::reactor::ReactorHandle;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::{Handle, Signals};

use super::change::{ChangeError, Outcome};
use super::notify::Listener;
use crate::config::{Changes, Config, ConfigError, Fixed};
use crate::observe::{Record, Reloaded};

/// Of a status, before it is cut.
const STATUS_BYTES_MAX: usize = 2047;

/// Why a configuration was not taken over. What is served is what it was.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: {}", file.display(), one_line(fixed))]
    Fixed { file: PathBuf, fixed: Vec<Fixed> },
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error("the node is about to stop")]
    Stopping,
}

fn one_line(fixed: &[Fixed]) -> String {
    let all: Vec<String> = fixed.iter().map(Fixed::to_string).collect();
    all.join("; ")
}

/// What a node that serves is asked for.
pub(super) struct Request {
    /// What it is to be.
    pub(super) config: Config,
    /// What of its realms is otherwise.
    pub(super) changes: Changes,
    /// One of its places is free.
    pub(super) reply: SyncSender<Result<Outcome, ChangeError>>,
}

/// Where requests lie until the node has time for them.
#[derive(Default)]
struct Lying {
    request: Option<Request>,
    waker: Option<Waker>,
}

thread_local! {
    /// On the main core, while its node serves.
    static LYING: RefCell<Option<Lying>> = const { RefCell::new(None) };
}

/// The main core's. While there is none, requests are told that the node is about to stop.
pub(super) struct Desk(());

impl Desk {
    /// On the main core.
    pub(super) fn open() -> Self {
        LYING.replace(Some(Lying::default()));
        Self(())
    }

    /// Waits for a request.
    pub(super) async fn next(&self) -> Request {
        poll_fn(|cx| {
            LYING.with_borrow_mut(|lying| {
                let lying = lying.as_mut().expect("it is there as long as the desk");
                match lying.request.take() {
                    Some(request) => Poll::Ready(request),
                    None => {
                        lying.waker = Some(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        LYING.replace(None);
    }
}

/// Lays a request down, on the main core. Where there is no desk it is dropped, and so is who waits for its reply told.
fn lay_down(request: Request) {
    let waker = LYING.with_borrow_mut(|lying| {
        let lying = lying.as_mut()?;
        lying.request = Some(request);
        lying.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Whether there is a node to change.
enum Node {
    NotYet,
    Serves(ReactorHandle),
    Ended,
}

struct Shared {
    node: Mutex<Node>,
    changed: Condvar,
    record: Arc<Record>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Node> {
        // What is in it is replaced as a whole.
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn becomes(&self, node: Node) {
        *self.lock() = node;
        self.changed.notify_all();
    }

    /// Waits until there is a node.
    fn reactors(&self) -> Result<ReactorHandle, ReloadError> {
        let mut node = self.lock();
        loop {
            node = match &*node {
                Node::Serves(reactors) => return Ok(reactors.clone()),
                Node::Ended => return Err(ReloadError::Stopping),
                Node::NotYet => self
                    .changed
                    .wait(node)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Answers SIGHUP until it is dropped.
pub(super) struct Reloads {
    shared: Arc<Shared>,
    signals: Handle,
}

impl Reloads {
    /// From now on SIGHUP does not end the program. Call it before there are reactors: the thread runs on any core, then.
    pub(super) fn start(file: &Path, config: &Config, record: Arc<Record>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGHUP])?;
        let shared = Arc::new(Shared {
            node: Mutex::new(Node::NotYet),
            changed: Condvar::new(),
            record,
        });
        let handle = signals.handle();
        let (own, file) = (Arc::clone(&shared), file.to_owned());
        let mut current = config.clone();
        // Nobody waits for its end: the file may be on a file system that has gone.
        let thread = thread::Builder::new().name("reload".into());
        thread.spawn(move || {
            for _ in signals.forever() {
                own.reload(&file, &mut current);
            }
        })?;
        Ok(Self {
            shared,
            signals: handle,
        })
    }

    /// The node serves, with a desk on the main core, until what is returned is dropped.
    pub(super) fn serve(&self, reactors: ReactorHandle) -> Served<'_> {
        self.shared.becomes(Node::Serves(reactors));
        Served(&self.shared)
    }
}

impl Drop for Reloads {
    fn drop(&mut self) {
        self.shared.becomes(Node::Ended);
        self.signals.close();
    }
}

/// A node that takes changes.
pub(super) struct Served<'a>(&'a Shared);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.becomes(Node::Ended);
    }
}

impl Shared {
    fn reload(&self, file: &Path, current: &mut Config) {
        let Ok(reactors) = self.reactors() else {
            return;
        };
        let listener = Listener::of_env();
        let tell = |what: String| {
            if let Some(listener) = &listener {
                listener.tell(&what);
            }
        };
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        tell(format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        let (is_done, what, said) = match reload(&reactors, file, current) {
            Ok(done) => {
                let said = done.to_string();
                let notes = &done.outcome.notes;
                notes.iter().for_each(|note| tracing::warn!("{note}"));
                (true, "configuration reloaded", said)
            }
            Err(error @ ReloadError::Change(ChangeError::Partly { .. })) => {
                (false, "reload stopped half-way", error.to_string())
            }
            Err(error) => (false, "reload refused, nothing changed", error.to_string()),
        };
        let file = file.display();
        match is_done {
            true => tracing::info!("{file}: {what}: {said}"),
            false => tracing::error!("{file}: {what}: {said}"),
        }
        let status = format!(
            "READY=1\nSTATUS={}",
            status_line(&format!("{what}: {said}"))
        );
        self.record.add(Reloaded {
            at: SystemTime::now(),
            is_done,
            said,
        });
        // Who hears of it finds it recorded.
        tell(status);
    }
}

/// What systemd takes for a status: a line. It does not read messages of more than 4096 bytes at all, and the unit would
/// be reloading for ever.
fn status_line(said: &str) -> String {
    let line = said.replace('\n', " ");
    match line.len() <= STATUS_BYTES_MAX {
        true => line,
        false => {
            let mut end = STATUS_BYTES_MAX;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            format!("{} ... (the log has all of it)", &line[..end])
        }
    }
}

/// What a reload has changed.
struct Done {
    realms: Vec<String>,
    outcome: Outcome,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { done, notes } = &self.outcome;
        match self.realms.is_empty() {
            true => write!(f, "the hosts of all realms are the same")?,
            false => write!(f, "other hosts for {}", self.realms.join(", "))?,
        }
        let mut rest = done.iter().chain(notes);
        rest.try_for_each(|said| write!(f, "; {said}"))
    }
}

fn reload(
    reactors: &ReactorHandle,
    file: &Path,
    current: &mut Config,
) -> Result<Done, ReloadError> {
    let new = Config::read(file)?;
    let fixed = |fixed| ReloadError::Fixed {
        file: file.to_owned(),
        fixed,
    };
    let changes = current.changes_to(&new).map_err(fixed)?;
    let realms = changes.hosts.iter().map(|(realm, _)| realm.clone());
    let realms: Vec<String> = realms.collect();
    let (reply, answer) = sync_channel(1);
    let main = reactors.cores()[0];
    let request = Request {
        config: new.clone(),
        changes,
        reply,
    };
    let laid = reactors.spawn(main, "lay a reload down", move || async {
        lay_down(request);
    });
    drop(laid.map_err(|_| ReloadError::Stopping)?);
    let outcome = answer.recv().map_err(|_| ReloadError::Stopping)??;
    *current = new;
    Ok(Done { realms, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_line_that_systemd_reads() {
        assert_eq!(status_line("one\ntwo"), "one two");
        let long = status_line(&"ü".repeat(3000));
        assert!(
            long.len() < 4096 - "READY=1\nSTATUS=".len(),
            "{}",
            long.len()
        );
        assert!(long.starts_with("üü") && long.ends_with("has all of it)"));
    }
}
