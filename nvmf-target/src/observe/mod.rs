//! What a node says of itself over HTTP: `/metrics` for Prometheus, `/status` for people and scripts.
//!
//! ```text
//!   accepting thread ──► a thread for each of at most 16 ──► the main core: look::take
//!   (before reactors start, so it has no core of theirs)    │                  │
//!                                                           └─ text ◄── Look ──┘
//! ```
//!
//! - Reactors gather numbers, one request at a time and no more often than every [`LOOK_LASTS`]; all else happens on threads
//!   of its own, which are none of the node's cores'.
//! - A connection is one request of bounded size and time. Nothing that a client does reaches the node itself.
//! - The threads hold no part of the store: what they ask for is looked up on the main core, and gone when the node stops.

mod figures;
mod http;
mod look;
mod record;
mod state;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oriel_engine::reactor::ReactorHandle;

use http::{Answer, Asked, Request};
pub(crate) use look::{Identity, Serving};
use look::{Look, take};
pub(crate) use record::{Record, Reloaded};

/// What clients may take of the program.
#[derive(Clone, Copy)]
struct Bounds {
    /// Connections at a time; others are told to come later.
    connections: usize,
    /// How long one may take, from its first byte to its last.
    time: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: 16,
    time: Duration::from_secs(5),
};
/// How long the cores may take to say what they have counted.
const LOOK_TIME: Duration = Duration::from_secs(3);
/// How long numbers are as good as new ones.
const LOOK_LASTS: Duration = Duration::from_millis(100);
/// How long to wait after a connection could not be accepted, for want of files as a rule.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Bytes that are thrown away at the end of a connection, so that what was answered arrives.
const LEFT_MAX: usize = 1 << 16;

/// What the threads share.
struct Shared {
    bounds: Bounds,
    identity: Identity,
    is_ending: AtomicBool,
    connections: AtomicUsize,
    /// The node's cores, while it serves.
    reactors: Mutex<Option<ReactorHandle>>,
    /// The last look, and when it was taken. Held while one is taken.
    looked: Mutex<Option<(Instant, Arc<Look>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it is replaced as a whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers until it is dropped.
pub(crate) struct Endpoint {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens at an address. Until the node serves, requests are told so.
    pub(crate) fn start(address: SocketAddr, identity: Identity) -> io::Result<Self> {
        Self::start_with(address, identity, BOUNDS)
    }

    fn start_with(address: SocketAddr, identity: Identity, bounds: Bounds) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            bounds,
            identity,
            is_ending: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            reactors: Mutex::new(None),
            looked: Mutex::new(None),
        });
        let own = Arc::clone(&shared);
        let accepting = thread::Builder::new().name("status".into());
        let accepting = accepting.spawn(move || accept(&listener, &own))?;
        Ok(Self {
            shared,
            address,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node serves, with these cores, until that is dropped.
    pub(crate) fn serve(&self, reactors: ReactorHandle, serving: Serving) -> Served {
        look::set(Some(serving));
        lock(&self.shared.reactors).replace(reactors);
        Served(Arc::clone(&self.shared))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::Release);
        // Wakes the thread that accepts; where that does not work it ends with the program.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(accepting) = self.accepting.take().filter(|_| woken.is_ok()) {
            // It has no more to say.
            let _ = accepting.join();
        }
    }
}

/// A node that serves. Dropped on the main core, requests are told that it does not any more.
pub(crate) struct Served(Arc<Shared>);

impl Drop for Served {
    fn drop(&mut self) {
        lock(&self.0.reactors).take();
        look::set(None);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_ending.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else {
            thread::sleep(ACCEPT_RETRY);
            continue;
        };
        let place = Place::take(shared);
        let Some(place) = place else {
            // Into the socket's buffer, or nowhere.
            let _ = stream.set_nonblocking(true);
            let _ = (&stream).write(&Answer::busy("too many connections").bytes());
            continue;
        };
        let thread = thread::Builder::new().name("status connection".into());
        // Where there is no thread left the connection ends, and its place with it.
        let _ = thread.spawn(move || connection(&stream, &place.0));
    }
}

/// One of the connections that there may be.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        // Only the accepting thread adds to it.
        if shared.connections.load(Ordering::Acquire) >= shared.bounds.connections {
            return None;
        }
        shared.connections.fetch_add(1, Ordering::AcqRel);
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn connection(stream: &TcpStream, shared: &Shared) {
    let deadline = Instant::now() + shared.bounds.time;
    let answer = match hear(stream, deadline) {
        Ok(request) => answer(shared, request),
        Err(_) => return,
    };
    if say(stream, &answer.bytes(), deadline).is_ok() {
        // A socket that is closed with bytes unread takes back what it sent.
        let _ = stream.shutdown(Shutdown::Write);
        let mut left = LEFT_MAX;
        let mut bytes = [0; 1024];
        while left > 0 {
            match read(stream, &mut bytes, deadline) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => break,
            }
        }
    }
}

fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left),
    }
}

fn read(mut stream: &TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(time_left(deadline)?))?;
    stream.read(bytes)
}

fn hear(stream: &TcpStream, deadline: Instant) -> io::Result<Request> {
    let mut asked = Asked::default();
    loop {
        if let Some(request) = asked.request() {
            return Ok(request);
        }
        match read(stream, asked.room(), deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => asked.add(count),
        }
    }
}

fn say(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(time_left(deadline)?))?;
        match stream.write(bytes)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

fn answer(shared: &Shared, request: Request) -> Answer {
    let text = match request {
        Request::Wrong(answer) => return answer,
        Request::Metrics => figures::text,
        Request::Status => state::text,
    };
    match look(shared) {
        Ok(look) => match text(&shared.identity, &look) {
            (kind, Some(text)) => Answer::good(kind, text),
            (_, None) => Answer::busy("the numbers could not be written down"),
        },
        Err(why) => Answer::busy(why),
    }
}

/// What the node has counted, as of a moment ago.
fn look(shared: &Shared) -> Result<Arc<Look>, &'static str> {
    let mut looked = lock(&shared.looked);
    if let Some((taken, look)) = &*looked
        && taken.elapsed() < LOOK_LASTS
    {
        return Ok(Arc::clone(look));
    }
    let reactors = lock(&shared.reactors).clone();
    let reactors = reactors.ok_or("the node does not serve yet, or no more")?;
    let (send, heard) = sync_channel(1);
    let cores = reactors.clone();
    let main = reactors.cores()[0];
    let asked = reactors.spawn(main, "look at what was counted", move || async move {
        if let Some(look) = take(&cores).await {
            // Nobody may wait for it any more.
            let _ = send.try_send(look);
        }
    });
    if asked.is_err() {
        return Err("the node is busy, or about to stop");
    }
    let look = heard.recv_timeout(LOOK_TIME);
    let look = Arc::new(look.map_err(|_| "the node does not answer, or is about to stop")?);
    looked.replace((Instant::now(), Arc::clone(&look)));
    Ok(look)
}

#[cfg(test)]
mod tests;
