//! The demo's own programs: one that stores and deletes until it is killed, one that looks at what is there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use oriel_engine::reactor::{handle, spawn_local};
use oriel_spdk::CoreSet;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::DemoError;
use super::ledger::{self, Blob, State};
use crate::against::Pages;
use crate::bdev::session::{Ground, with_session};
use crate::config::{Create, FileDrive};
use crate::load::rng::{Rng, mix};
use crate::out::say;
use crate::store::{Content, SideError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    Write,
    Check,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Check => "check",
        }
    }
}

const FILE: &str = "File";
const MEMORY_MIB: u32 = 512;
const AT_ONCE: usize = 16;
const LENGTH_MAX: u64 = 256 << 10;
/// Blobs on the drive take about so much, half of it.
const LIVE_BYTES_MAX: u64 = 96 << 20;
const SLAB_BYTES: u64 = 4 << 20;

/// What a blob holds: its number, and what follows from it.
fn content(number: u64, bytes: u64) -> Vec<u8> {
    let mut rng = Rng::new(number);
    let words = (0..bytes.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes());
    words.take(bytes as usize).collect()
}

/// Most are small.
fn length(number: u64) -> u64 {
    let random = mix(number);
    1 + (random >> 8) % (LENGTH_MAX >> (random % 4 * 2))
}

pub(super) fn run(part: Part, drive: &Path, time: Duration) -> Result<Option<i32>, DemoError> {
    // Whatever becomes of the demo.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let mut told = String::new();
    std::io::stdin().read_to_string(&mut told)?;
    let file = FileDrive {
        name: FILE.into(),
        filename: drive.to_owned(),
        block_size: 4096,
    };
    let ground = Ground {
        cores: CoreSet::allowed().iter().take(1).collect::<BTreeSet<_>>(),
        memory_mib: MEMORY_MIB,
        pages: Some(Pages::Normal),
        creates: vec![Create::Aio(file)],
    };
    let (done, signal) = with_session(ground, async move |_| {
        Ok(match part {
            Part::Write => write().await.map_err(DemoError::from),
            Part::Check => check(&told, time).await,
        })
    })?;
    done?;
    Ok(signal)
}

// ---- Writing ------------------------------------------------------------------------------------------------------------

struct Writing {
    store: Content,
    next: Cell<u64>,
    live: RefCell<VecDeque<(u64, u64)>>,
    live_bytes: Cell<u64>,
}

async fn write() -> Result<(), SideError> {
    let store = Content::format(FILE, SLAB_BYTES).await?;
    let writing = Rc::new(Writing {
        store,
        next: Cell::new(0),
        live: RefCell::default(),
        live_bytes: Cell::new(0),
    });
    say!("ready");
    let writers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let writer = spawn_local("writes", keep_writing(Rc::clone(&writing)));
            writer.map_err(|_| SideError::NoTask)
        })
        .collect();
    let mut result = Ok(());
    for writer in writers {
        result = result.and(writer?.await);
    }
    let writing = Rc::into_inner(writing).expect("the writers have ended");
    writing.store.close().await?;
    result
}

async fn keep_writing(writing: Rc<Writing>) -> Result<(), SideError> {
    while !handle().is_stopping() {
        let number = writing.next.get();
        writing.next.set(number + 1);
        let bytes = length(number);
        say!("put {number} {bytes}");
        writing.store.put(&content(number, bytes)).await?;
        say!("stored {number}");
        writing.live.borrow_mut().push_back((number, bytes));
        writing.live_bytes.set(writing.live_bytes.get() + bytes);
        while writing.live_bytes.get() > LIVE_BYTES_MAX {
            let Some((number, bytes)) = writing.live.borrow_mut().pop_front() else {
                break;
            };
            writing.live_bytes.set(writing.live_bytes.get() - bytes);
            say!("delete {number}");
            writing.store.delete(&content(number, bytes)).await?;
            say!("deleted {number}");
        }
    }
    Ok(())
}

// ---- Looking ------------------------------------------------------------------------------------------------------------

async fn check(told: &str, time: Duration) -> Result<(), DemoError> {
    let blobs =
        ledger::read(told).ok_or_else(|| DemoError::Nonsense("the list of blobs".into()))?;
    let start = Instant::now();
    let store = Content::open(FILE).await?;
    say!("opened {}", start.elapsed().as_millis());
    let (mut there, mut gone, mut made_it) = (0, 0, 0);
    let mut readable = Vec::new();
    for blob in blobs {
        let Blob {
            number,
            bytes,
            state,
        } = blob;
        let is_there = store.holds(&content(number, bytes)).await?;
        match (state, is_there) {
            (State::There, true) => there += 1,
            (State::Gone, false) => gone += 1,
            (State::Either, is_there) => made_it += u64::from(is_there),
            (State::There, false) => {
                say!("lost blob {number} of {bytes} bytes, which was acknowledged");
                return Ok(());
            }
            (State::Gone, true) => {
                say!("lost the deletion of blob {number}, which was acknowledged");
                return Ok(());
            }
        }
        if is_there {
            readable.push(store.key_of(&content(number, bytes)));
        }
    }
    say!("checked {there} {gone} {made_it}");
    let readable = Rc::new(readable);
    let store = Rc::new(store);
    let read = Rc::new(Cell::new((0, 0)));
    let end = Instant::now() + time;
    let readers: Vec<_> = (0..AT_ONCE as u64)
        .map(|seed| {
            let (store, read) = (Rc::clone(&store), Rc::clone(&read));
            let readable = Rc::clone(&readable);
            let reader = spawn_local("reads", async move {
                let mut rng = Rng::new(seed);
                let mut last = Instant::now();
                while last < end && !readable.is_empty() && !handle().is_stopping() {
                    let key = readable[rng.below(readable.len() as u64) as usize];
                    let bytes = store.read(key).await?;
                    let (blobs, all_bytes) = read.get();
                    read.set((blobs + 1, all_bytes + bytes));
                    // One of them tells, now and then.
                    if seed == 0 && last.elapsed() > Duration::from_millis(1) {
                        say!("read {} {}", blobs + 1, all_bytes + bytes);
                    }
                    last = Instant::now();
                }
                Ok::<(), SideError>(())
            });
            reader.map_err(|_| SideError::NoTask)
        })
        .collect();
    let mut result = Ok(());
    for reader in readers {
        result = result.and(reader?.await);
    }
    let (blobs, bytes) = read.get();
    say!("read {blobs} {bytes}");
    let store = Rc::into_inner(store).expect("the readers have ended");
    store.close().await?;
    Ok(result?)
}
