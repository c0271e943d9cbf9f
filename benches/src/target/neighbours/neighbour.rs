//! The program of one neighbour.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Namespace, Options, Poller, Turn};
use oriel_protocol::{Command, Key, KeyKind, Length, WINDOW_BYTES, Window};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::task::LocalSet;

use super::super::TargetError;
use super::super::plan::{Numbers, key};
use super::BEGUN;
use super::plan::{Act, CONNECTIONS_MAX, Neighbour, Told};
use crate::out::say;

/// Between one connection and the next: those who work on the same core are not to be slowed by this one's own work.
const PAUSE: Duration = Duration::from_millis(5);
/// Connections of the host that is measured.
const HOST_CONNECTIONS: u32 = 2;
/// The time by which it has them.
const HOST_CONNECTS: Duration = Duration::from_millis(600);
/// Turns until what is asked for at the start is on its way.
const TURNS: usize = 16;

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError::Side(error.to_string())
}

/// What all tasks of it know.
struct Work {
    neighbour: Neighbour,
    has_ended: Arc<AtomicBool>,
    told: RefCell<Told>,
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.has_ended.load(Ordering::Acquire)
    }

    fn count(&self, result: Result<(), impl std::fmt::Display>) {
        let mut told = self.told.borrow_mut();
        match result {
            Ok(()) => told.done += 1,
            Err(error) => {
                told.refused += 1;
                told.told.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn options(&self) -> Options {
        let Neighbour { at, queues, .. } = &self.neighbour;
        Options {
            keep_alive: None,
            reconnect: None,
            queues: *queues,
            command_timeout: Duration::from_secs(3600),
            ..Options::new(at.address, at.nqn.clone())
        }
    }
}

/// Is a neighbour as the first line of standard input says, until that ends. Prints a line when it has begun, and then what
/// it was told.
pub(in super::super) fn run(core: u32) -> Result<(), TargetError> {
    let mut cpus = CpuSet::new();
    cpus.set(core as usize);
    sched_setaffinity(None, &cpus).map_err(failed)?;
    let mut input = BufReader::new(std::io::stdin());
    let mut text = String::new();
    input.read_line(&mut text).map_err(TargetError::Program)?;
    let neighbour = serde_json::from_str(&text).map_err(|_| TargetError::Nonsense(text))?;
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&has_ended);
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // However it ends, it has.
        let _ = input.read_to_end(&mut rest);
        ends.store(true, Ordering::Release);
    });
    let work = Rc::new(Work {
        neighbour,
        has_ended,
        told: RefCell::default(),
    });
    match work.neighbour.act {
        Act::Read | Act::Put => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(failed)?;
            LocalSet::new().block_on(&runtime, io(&work))?;
        }
        Act::Connect => connect(&work),
        Act::Vanish => vanish(&work)?,
        Act::Crowd => crowd(&work)?,
    }
    let text = serde_json::to_string(&*work.told.borrow()).expect("it is plain data");
    say!("{text}");
    Ok(())
}

async fn io(work: &Rc<Work>) -> Result<(), TargetError> {
    let (connecting, poller) = Controller::connect_polled(work.options()).map_err(failed)?;
    tokio::task::spawn_local(poll(poller));
    let controller = connecting.await.map_err(failed)?;
    let namespace = controller.namespace(1).await.map_err(failed)?;
    let mut workers = Vec::new();
    for worker in 0..work.neighbour.depth {
        let (work, namespace) = (work.clone(), namespace.clone());
        workers.push(tokio::task::spawn_local(async move {
            match work.neighbour.act {
                Act::Put => put(&work, worker, namespace).await,
                _ => read(&work, worker, &namespace).await,
            }
        }));
    }
    // Each has asked for something by then, and all of it is on its way.
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    begun();
    for worker in workers {
        worker.await.map_err(failed)??;
    }
    controller.close();
    Ok(())
}

fn begun() {
    say!("{BEGUN}");
}

/// Polls without a pause, as the host does that is measured: both have the same part of their core.
async fn poll(mut poller: Poller) {
    while poller.poll() != Turn::Over {
        tokio::task::yield_now().await;
    }
}

async fn read(work: &Work, worker: u32, namespace: &Namespace) -> Result<(), TargetError> {
    let Neighbour { bytes, places, .. } = &work.neighbour;
    let mut numbers = Numbers(u64::from(worker));
    let mut memory = vec![0; *bytes as usize];
    while work.goes_on() {
        let place = places[numbers.below(places.len() as u64) as usize];
        let result;
        (memory, result) = namespace.read(place, memory).await;
        work.count(result.map(drop));
    }
    Ok(())
}

async fn put(work: &Work, worker: u32, namespace: Namespace) -> Result<(), TargetError> {
    let bytes = work.neighbour.bytes;
    let blobs = Blobs::open(namespace).await.map_err(failed)?;
    let drawn = Instant::now();
    for number in 0.. {
        if !work.goes_on() {
            break;
        }
        let mut key = key(drawn.elapsed().as_nanos() as u64, number);
        key[16..20].copy_from_slice(&std::process::id().to_le_bytes());
        key[20..24].copy_from_slice(&worker.to_le_bytes());
        let key = Key::new(key);
        let put = blobs.put(key, KeyKind::Name, vec![worker as u8; bytes as usize]);
        let put = put.await;
        let is_there = matches!(put, Ok(Put::Created));
        work.count(put.map(drop));
        if is_there {
            blobs.delete(&key).await.map_err(failed)?;
        }
    }
    Ok(())
}

/// Connects again and again.
fn connect(work: &Work) {
    begun();
    while work.goes_on() {
        let connected =
            Controller::connect(work.options()).and_then(|connecting| connecting.wait());
        work.count(connected.map(Controller::close));
        std::thread::sleep(PAUSE);
    }
}

/// Takes the connections that are left by the host that is measured, and once that is connected tries to have more.
fn crowd(work: &Work) -> Result<(), TargetError> {
    let address = work.neighbour.at.address;
    let mut held = Vec::new();
    let another = || TcpStream::connect(address).map_err(failed);
    for _ in 0..CONNECTIONS_MAX - HOST_CONNECTIONS {
        held.push(another()?);
    }
    begun();
    std::thread::sleep(HOST_CONNECTS);
    while work.goes_on() {
        let stream = another()?;
        stream.set_read_timeout(Some(PAUSE * 10)).map_err(failed)?;
        match (&stream).read(&mut [0]) {
            // It stays: nobody speaks before this side has.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                held.push(stream);
                work.count(Ok::<_, TargetError>(()));
            }
            _ => work.count(Err("the node hangs up")),
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Reserves once, and then hangs up again and again while it writes.
fn vanish(work: &Work) -> Result<(), TargetError> {
    let Neighbour { bytes, depth, .. } = work.neighbour;
    let mut position = None;
    begun();
    while work.goes_on() {
        let (connecting, mut poller) =
            Controller::connect_polled(work.options()).map_err(failed)?;
        let work_of_it = async {
            let controller = connecting.await.map_err(failed)?;
            let namespace = controller.namespace(1).await.map_err(failed)?;
            if position.is_none() {
                let length =
                    Length::new(bytes).ok_or_else(|| failed("nothing is to be written"))?;
                let command = Command::Reserve { length, part: None };
                let (answer, reserved) = namespace.vendor(&command, vec![0; WINDOW_BYTES]).await;
                reserved.map_err(failed)?;
                position = Some(Window::decode(&answer).map_err(failed)?.position.0);
            }
            Ok::<_, TargetError>((controller, namespace))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(failed)?;
        let polled = std::cell::RefCell::new(&mut poller);
        let polling = async {
            loop {
                let turn = polled.borrow_mut().poll();
                if turn == Turn::Idle {
                    polled.borrow_mut().park(PAUSE);
                }
                tokio::task::yield_now().await;
            }
        };
        let ready = runtime.block_on(async {
            tokio::select! {
                ready = work_of_it => ready,
                () = polling => unreachable!("it polls for ever"),
            }
        });
        let (controller, namespace) = ready?;
        let place = position.unwrap_or_default();
        let writes: Vec<_> = (0..depth)
            .map(|_| namespace.write(place, vec![7; bytes as usize]))
            .collect();
        // The commands are out, the node has asked for their data, and has had a part.
        for _ in 0..4 {
            poller.poll();
        }
        drop(poller);
        drop((writes, namespace, controller));
        work.count(Ok::<_, TargetError>(()));
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
