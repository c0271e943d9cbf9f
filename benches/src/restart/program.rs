//! One life of the store that is measured.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use oriel_engine::reactor::{handle, sleep, spawn_local};
use oriel_engine::store::{
    BLOCK_BYTES, FormatOptions, KeyKind, Log, OpenOptions, Put, RealmId, SpdkDrive, StoreError,
    StoreId, format, index_in_file, open,
};
use oriel_spdk::CoreSet;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::RestartError;
use crate::bdev::session::{Ground, with_session};
use crate::config::{Create, FileDrive};
use crate::out::say;
use crate::store::{SideError, key};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Makes the store, fills it and stops.
    Fill,
    /// Starts and stops.
    Stop,
    /// Starts and writes until it is killed.
    Write,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Stop => "stop",
            Self::Write => "write",
        }
    }
}

/// What it says, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Filled { seconds: f64 },
    Serves(Served),
    Wrote { blobs: u64 },
    Holds(Held),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) is_adopted: bool,
    /// The drive loaded, the index mapped, the checkpoint, the slabs, the journals, the checkpoint of its own, the first
    /// read, the first put.
    pub(super) seconds: [f64; 8],
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) blobs: u64,
    pub(super) index_bytes: u64,
    pub(super) slab_bytes: u64,
    pub(super) resident_bytes: u64,
}

const FILE: &str = "File";
const REALM: RealmId = RealmId(0);
const STORE: StoreId = StoreId(*b"oriel-perf store");
const MEMORY_MIB: u32 = 512;
const AT_ONCE: u64 = 512;
/// Blobs that are put before the program is killed.
const WRITTEN: u64 = 100_000;
const LOOK: Duration = Duration::from_millis(50);

fn slab_bytes(blobs: u64) -> u64 {
    (blobs * BLOCK_BYTES as u64 / 64)
        .next_power_of_two()
        .clamp(4 << 20, 1 << 30)
}

/// Blobs that the store is opened for: there is room for those that come while it is measured.
fn blobs_max(blobs: u64) -> u64 {
    blobs + 2 * WRITTEN
}

/// The blobs, their directories, the journals, and what a store keeps free.
pub(super) fn drive_bytes(blobs: u64) -> u64 {
    let blocks = blobs_max(blobs) * BLOCK_BYTES as u64;
    let bytes = blocks / 60 * 61 + (512 << 20) + blobs * 10 + 6 * slab_bytes(blobs);
    bytes.next_multiple_of(1 << 20)
}

fn resident_bytes() -> Result<u64, RestartError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| RestartError::Nonsense(status))
}

fn tell(told: &Told) {
    say!("{}", serde_json::to_string(told).expect("it is plain data"));
}

pub(super) fn run(
    mode: Mode,
    drive: &Path,
    index: &Path,
    blobs: u64,
) -> Result<Option<i32>, RestartError> {
    // Whatever becomes of the measurement.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let file = FileDrive {
        name: FILE.into(),
        filename: drive.to_owned(),
        block_size: 4096,
    };
    let ground = Ground {
        cores: CoreSet::allowed().iter().take(1).collect(),
        memory_mib: MEMORY_MIB,
        pages: None,
        creates: vec![Create::Aio(file)],
    };
    let index = index.to_owned();
    let (done, signal) = with_session(ground, async move |_| Ok(life(mode, &index, blobs).await))?;
    done?;
    Ok(signal)
}

/// The seconds since something, which begins anew.
fn lap(since: &mut Instant) -> f64 {
    let now = Instant::now();
    (now - std::mem::replace(since, now)).as_secs_f64()
}

async fn life(mode: Mode, index: &Path, blobs: u64) -> Result<(), RestartError> {
    let resident = resident_bytes()?;
    let mut began = Instant::now();
    let sizes = FormatOptions {
        slab_blocks: slab_bytes(blobs) / BLOCK_BYTES as u64,
        ..FormatOptions::default()
    };
    let drive = match mode {
        Mode::Fill => SpdkDrive::format(FILE, &sizes).await,
        Mode::Stop | Mode::Write => SpdkDrive::load(FILE).await,
    };
    let drive = drive.map_err(SideError::from)?;
    if mode == Mode::Fill {
        format(&drive, STORE, &sizes)
            .await
            .map_err(SideError::from)?;
    }
    let loaded = lap(&mut began);
    let blobs_max = blobs_max(blobs);
    let file = index_in_file(index, blobs_max).map_err(SideError::from)?;
    let section = file.section().map_err(SideError::from)?;
    let index_bytes = section.bytes();
    let mapped = lap(&mut began);
    let options = OpenOptions {
        store: Some(STORE),
        blobs_max,
        keeps_index: true,
        ..OpenOptions::default()
    };
    let opened = open(drive.clone(), section, &options).await;
    let (log, recovery) = opened.map_err(SideError::from)?;
    let log = Rc::new(log);
    let running = Rc::clone(&log);
    let writer = spawn_local("journal", async move { running.run().await });
    let writer = writer.map_err(|_| SideError::NoTask)?;
    if mode == Mode::Fill {
        put_all(&log, 0..blobs).await?;
        let seconds = began.elapsed().as_secs_f64();
        if !handle().is_stopping() {
            tell(&Told::Filled { seconds });
        }
    } else {
        let there = log.stat().blobs;
        began = Instant::now();
        let read = log.read(REALM, &key(blobs / 3), 0, u64::MAX).await;
        let bytes = read
            .map_err(SideError::from)?
            .map_or(0, |bytes| bytes.len() as u64);
        if bytes != BLOCK_BYTES as u64 || there < blobs {
            let number = blobs / 3;
            return Err(SideError::Lost { number, bytes }.into());
        }
        let first_read = lap(&mut began);
        // New keys in every life.
        let next = (blobs << 8) + (u64::from(std::process::id()) << 40);
        put_all(&log, next..next + 1).await?;
        let first_put = lap(&mut began);
        let phases = recovery.phases;
        let [checkpoint, slabs, journals, writing] = [
            phases.checkpoint,
            phases.slabs,
            phases.journals,
            phases.writing,
        ]
        .map(|of| of.as_secs_f64());
        tell(&Told::Serves(Served {
            is_adopted: recovery.is_adopted,
            seconds: [
                loaded, mapped, checkpoint, slabs, journals, writing, first_read, first_put,
            ],
        }));
        if mode == Mode::Write {
            put_all(&log, next + 1..next + WRITTEN).await?;
            if !handle().is_stopping() {
                tell(&Told::Wrote { blobs: WRITTEN });
            }
            // Until somebody puts an end to it.
            put_all(&log, next + WRITTEN..next + 2 * WRITTEN).await?;
            while !handle().is_stopping() {
                sleep(LOOK).await;
            }
        }
        let stat = log.stat();
        tell(&Told::Holds(Held {
            blobs: stat.blobs,
            index_bytes,
            slab_bytes: 8 * stat.blobs,
            resident_bytes: resident_bytes()?.saturating_sub(resident),
        }));
    }
    log.close();
    writer.await.map_err(SideError::from)?;
    let log = Rc::into_inner(log).expect("nobody else uses it any more");
    log.keep_index().map_err(SideError::from)?;
    file.close().map_err(SideError::from)?;
    drive.close().await.map_err(SideError::from)?;
    Ok(())
}

/// Puts blobs of one block under the keys of these numbers, many at once; not all of them where the program is told to end.
async fn put_all(log: &Rc<Log<SpdkDrive>>, numbers: std::ops::Range<u64>) -> Result<(), SideError> {
    let next = Rc::new(Cell::new(numbers.start));
    let count = AT_ONCE.min(numbers.end - numbers.start);
    let mut tasks = Vec::new();
    for _ in 0..count {
        let (log, next, end) = (Rc::clone(log), Rc::clone(&next), numbers.end);
        let task = spawn_local("puts", async move {
            let mut block = [0; BLOCK_BYTES];
            loop {
                let number = next.get();
                if number >= end || handle().is_stopping() {
                    return Ok::<_, StoreError>(());
                }
                next.set(number + 1);
                block[..8].copy_from_slice(&number.to_le_bytes());
                let put = log.put(REALM, key(number), KeyKind::Name, &block).await?;
                assert_eq!(put, Put::Created, "blob {number} was there");
            }
        });
        tasks.push(task.map_err(|_| SideError::NoTask)?);
    }
    for task in tasks {
        task.await?;
    }
    Ok(())
}
