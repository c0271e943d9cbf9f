//! The program of one initiator.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Namespace, Options, Poller, Turn};
use oriel_engine::reactor::spawn_local;
use oriel_protocol::{Command, Key, KeyKind, LOCATION_BYTES};
use oriel_spdk::DmaBuf;
use oriel_spdk::bdev::{Access, BdevDesc, BlockRange};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::task::LocalSet;

use super::TargetError;
use super::plan::{Initiator, Kind, Numbers, Plan, Speed, key};
use crate::bdev::session::{Ground, Session, with_session};
use crate::out::say;

/// Before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// At most, before it is looked again what is due.
const NAP: Duration = Duration::from_micros(50);
const MEMORY_MIB: u32 = 512;
const BLOCK: u64 = oriel_protocol::limits::BLOCK_BYTES;
/// An hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError::Side(error.to_string())
}

/// Does what the plan on standard input says, and prints what that showed.
pub(super) fn run(core: u32) -> Result<(), TargetError> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(TargetError::Program)?;
    let plan: Plan = serde_json::from_str(&text).map_err(|_| TargetError::Nonsense(text))?;
    let speed = match plan.initiator {
        Initiator::Rust | Initiator::Threaded => without_spdk(core, plan),
        Initiator::Spdk => with_spdk(core, plan),
        Initiator::Python | Initiator::Sockets => {
            Err(failed("Python's client and plain sockets attach nothing"))
        }
    };
    let text = serde_json::to_string(&speed?).expect("a speed is plain data");
    say!("{text}");
    Ok(())
}

/// What all who work together count.
pub(super) struct Counts {
    start: Instant,
    end: Instant,
    bytes: u64,
    /// From when, and how long from one to the next.
    pace: Option<(Instant, Duration)>,
    latencies: RefCell<Histogram<u64>>,
    core: CoreTime,
}

/// What this program has of its core between two looks.
#[derive(Default)]
struct CoreTime {
    first: Cell<Option<Look>>,
    last: Cell<Option<Look>>,
}

/// A time, and how long the program had its core by then.
type Look = (Instant, Duration);

impl CoreTime {
    fn look(at: &Cell<Option<Look>>) {
        if at.get().is_none() {
            let had = clock_gettime(ClockId::ProcessCPUTime);
            let had = Duration::new(had.tv_sec as u64, had.tv_nsec as u32);
            at.set(Some((Instant::now(), had)));
        }
    }

    fn part(&self) -> Option<f64> {
        let ((first, had_first), (last, had_last)) = (self.first.get()?, self.last.get()?);
        let part = (had_last - had_first).div_duration_f64(last - first);
        (part > 0.0).then_some(part.min(1.0))
    }
}

impl Counts {
    fn new(plan: &Plan) -> Result<Rc<Self>, TargetError> {
        let now = Instant::now();
        let pace = plan
            .pace
            .map(|pace| (now, Duration::from_secs_f64(pace.recip())));
        let counts = Self::lasting(plan.seconds, plan.bytes)?;
        Ok(Rc::new(Self { pace, ..counts }))
    }

    /// For operations of so many bytes, without a pace.
    pub(super) fn lasting(seconds: u32, bytes: u64) -> Result<Self, TargetError> {
        let start = Instant::now() + WARM_UP;
        Ok(Self {
            start,
            pace: None,
            end: start + Duration::from_secs(seconds.into()),
            bytes,
            latencies: RefCell::new(Histogram::new_with_max(LONGEST_NS, 3).map_err(failed)?),
            core: CoreTime::default(),
        })
    }

    /// Waits until the next one may be asked for by one of `depth` who work together.
    async fn due(&self, number: u32, (worker, depth): (u32, u32)) {
        let Some((from, each)) = self.pace else {
            return;
        };
        let due = from + each * (number * depth + worker);
        while Instant::now() < due.min(self.end) {
            tokio::task::yield_now().await;
        }
    }

    /// Counts one that began at `from` and has ended; false when time is up.
    pub(super) fn count(&self, from: Instant) -> bool {
        let now = Instant::now();
        if now >= self.end {
            CoreTime::look(&self.core.last);
            return false;
        }
        if now >= self.start {
            CoreTime::look(&self.core.first);
            let ns = u64::try_from((now - from).as_nanos()).unwrap_or(LONGEST_NS);
            self.latencies.borrow_mut().saturating_record(ns);
        }
        true
    }

    pub(super) fn speed(&self) -> Speed {
        let latencies = self.latencies.borrow();
        let seconds = (self.end - self.start).as_secs_f64();
        let per_second = latencies.len() as f64 / seconds;
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Speed {
            per_second,
            mib_per_second: per_second * self.bytes as f64 / f64::from(1 << 20),
            p50_us: us(0.5),
            p99_us: us(0.99),
            // One with a pace rests.
            core: self.core.part().filter(|_| self.pace.is_none()),
        }
    }
}

/// The numbers that one of those who work together draws.
fn numbers(plan: &Plan, worker: u32) -> Numbers {
    Numbers(plan.seed << 32 | u64::from(worker))
}

// ---- Ours ---------------------------------------------------------------------------------------

/// All of it shares the core, as SPDK's one thread has it to itself.
fn without_spdk(core: u32, plan: Plan) -> Result<Speed, TargetError> {
    let mut cpus = CpuSet::new();
    cpus.set(core as usize);
    sched_setaffinity(None, &cpus).map_err(failed)?;
    let options = Options {
        keep_alive: None,
        reconnect: None,
        ..Options::new(plan.at.address, plan.at.nqn.clone())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(failed)?;
    let work = async {
        let connecting = match plan.initiator {
            Initiator::Threaded => Controller::connect(options).map_err(failed)?,
            _ => {
                let (connecting, poller) = Controller::connect_polled(options).map_err(failed)?;
                tokio::task::spawn_local(poll(poller, plan.pace.is_some()));
                connecting
            }
        };
        let controller = connecting.await.map_err(failed)?;
        let namespace = controller.namespace(1).await.map_err(failed)?;
        let counts = Counts::new(&plan)?;
        let plan = Rc::new(plan);
        let mut workers = Vec::new();
        for worker in 0..plan.depth {
            let (plan, counts, namespace) = (plan.clone(), counts.clone(), namespace.clone());
            workers.push(tokio::task::spawn_local(async move {
                match plan.kind {
                    Kind::Read => read(&plan, &counts, worker, &namespace).await,
                    Kind::Locate => locate(&plan, &counts, worker, &namespace).await,
                    Kind::Put => put(&plan, &counts, worker, &namespace).await,
                    Kind::Get => get(&plan, &counts, worker, &namespace).await,
                }
            }));
        }
        for worker in workers {
            worker.await.map_err(failed)??;
        }
        controller.close();
        Ok(counts.speed())
    };
    LocalSet::new().block_on(&runtime, work)
}

/// Polls without a pause, as SPDK does, or leaves the core to others while there is nothing to do.
async fn poll(mut poller: Poller, sleeps: bool) {
    loop {
        match poller.poll() {
            Turn::Over => return,
            Turn::Idle if sleeps => poller.park(NAP),
            _ => {}
        }
        tokio::task::yield_now().await;
    }
}

/// Does one thing with the same memory again and again, until time is up.
async fn again(
    counts: &Counts,
    who: (u32, u32),
    mut memory: Vec<u8>,
    mut one: impl AsyncFnMut(Vec<u8>) -> Result<Vec<u8>, TargetError>,
) -> Result<(), TargetError> {
    for number in 0.. {
        counts.due(number, who).await;
        let from = Instant::now();
        memory = one(memory).await?;
        if !counts.count(from) {
            break;
        }
    }
    Ok(())
}

async fn read(
    plan: &Plan,
    counts: &Counts,
    worker: u32,
    namespace: &Namespace,
) -> Result<(), TargetError> {
    let mut numbers = numbers(plan, worker);
    let memory = vec![0; plan.bytes as usize];
    again(counts, (worker, plan.depth), memory, async |memory| {
        let place = plan.places[numbers.below(plan.places.len() as u64) as usize];
        let (memory, result) = namespace.read(place, memory).await;
        result.map_err(failed)?;
        Ok(memory)
    })
    .await
}

async fn locate(
    plan: &Plan,
    counts: &Counts,
    worker: u32,
    namespace: &Namespace,
) -> Result<(), TargetError> {
    let mut numbers = numbers(plan, worker);
    again(
        counts,
        (worker, plan.depth),
        vec![0; LOCATION_BYTES],
        async |memory| {
            let number = numbers.below(plan.places.len() as u64);
            let command = Command::Locate {
                key: Key::new(key(plan.bytes, number)),
            };
            let (memory, result) = namespace.vendor(&command, memory).await;
            result.map_err(failed)?;
            is_there(number, memory[0] == 1)?;
            Ok(memory)
        },
    )
    .await
}

async fn get(
    plan: &Plan,
    counts: &Counts,
    worker: u32,
    namespace: &Namespace,
) -> Result<(), TargetError> {
    let blobs = Blobs::open(namespace.clone()).await.map_err(failed)?;
    let mut numbers = numbers(plan, worker);
    let memory = vec![0; plan.bytes as usize];
    again(counts, (worker, plan.depth), memory, async |memory| {
        let number = numbers.below(plan.places.len() as u64);
        let key = Key::new(key(plan.bytes, number));
        let (memory, result) = blobs.get_into(&key, 0, memory).await;
        is_there(number, result.map_err(failed)? == Some(plan.bytes))?;
        Ok(memory)
    })
    .await
}

fn is_there(number: u64, is_there: bool) -> Result<(), TargetError> {
    let missing = || TargetError::Side(format!("blob {number} is not there"));
    is_there.then_some(()).ok_or_else(missing)
}

async fn put(
    plan: &Plan,
    counts: &Counts,
    worker: u32,
    namespace: &Namespace,
) -> Result<(), TargetError> {
    let blobs = Blobs::open(namespace.clone()).await.map_err(failed)?;
    // Nobody else draws the same ones.
    let drawn = Instant::now();
    let first = std::process::id();
    for number in 0.. {
        counts.due(number, (worker, plan.depth)).await;
        let mut key = key(drawn.elapsed().as_nanos() as u64, number.into());
        key[16..20].copy_from_slice(&first.to_le_bytes());
        key[20..24].copy_from_slice(&worker.to_le_bytes());
        let key = Key::new(key);
        let from = Instant::now();
        let put = blobs.put(key, KeyKind::Name, vec![worker as u8; plan.bytes as usize]);
        match put.await {
            Ok(Put::Created) => {}
            Ok(Put::AlreadyThere) => return Err(TargetError::Side(format!("{key} was there"))),
            Err(error) => return Err(failed(error)),
        }
        let goes_on = counts.count(from);
        // A drive in memory is soon full.
        blobs.delete(&key).await.map_err(failed)?;
        if !goes_on {
            break;
        }
    }
    Ok(())
}

// ---- SPDK's -------------------------------------------------------------------------------------

fn with_spdk(core: u32, plan: Plan) -> Result<Speed, TargetError> {
    if plan.kind != Kind::Read {
        let what = "SPDK's initiator is measured by reads alone";
        return Err(TargetError::Side(what.into()));
    }
    let ground = Ground {
        cores: [core].into(),
        memory_mib: MEMORY_MIB,
        pages: None,
        creates: Vec::new(),
    };
    let (speed, _) = with_session(ground, async move |session| {
        Ok(Box::pin(attached(session, plan)).await)
    })?;
    speed
}

async fn attached(session: &Session, plan: Plan) -> Result<Speed, TargetError> {
    let rpc = session.subsystems().rpc();
    let params = json!({
        "name": "Host",
        "trtype": "TCP",
        "adrfam": "IPv4",
        "traddr": plan.at.address.ip().to_string(),
        "trsvcid": plan.at.address.port().to_string(),
        "subnqn": plan.at.nqn,
    });
    rpc.call("bdev_nvme_attach_controller", params)
        .await
        .map_err(failed)?;
    let speed = by_device("Hostn1", plan).await;
    let detached = rpc.call("bdev_nvme_detach_controller", json!({ "name": "Host" }));
    detached.await.map_err(failed)?;
    speed
}

async fn by_device(name: &str, plan: Plan) -> Result<Speed, TargetError> {
    let desc = BdevDesc::open(name, Access::ReadOnly, |_| {}).map_err(failed)?;
    let channel = desc.channel().map_err(failed)?;
    let counts = Counts::new(&plan)?;
    let plan = Rc::new(plan);
    let mut workers = Vec::new();
    for worker in 0..plan.depth {
        let (plan, counts, channel) = (plan.clone(), counts.clone(), channel.clone());
        let work = async move {
            let mut numbers = numbers(&plan, worker);
            let mut buf = DmaBuf::zeroed(plan.bytes as usize, BLOCK as usize).map_err(failed)?;
            loop {
                let place = plan.places[numbers.below(plan.places.len() as u64) as usize];
                let range = BlockRange::new(place, plan.bytes / BLOCK);
                let from = Instant::now();
                let result;
                (buf, result) = channel.read_at(buf, range).await;
                result.map_err(failed)?;
                if !counts.count(from) {
                    return Ok::<_, TargetError>(());
                }
            }
        };
        workers.push(spawn_local("a reader", work).map_err(failed)?);
    }
    for worker in workers {
        worker.await?;
    }
    Ok(counts.speed())
}
