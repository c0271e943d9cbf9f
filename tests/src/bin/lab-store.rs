//! The store on an NVMe drive of a machine that is killed in the middle of writing, again and again: what was
//! acknowledged is there byte for byte, or gone, and no slab is left without a blob.
//!
//! usage: lab-store DRIVE
//! The environment says what this program has printed on earlier boots (LAB_OUTPUT, a file), and whether the machine
//! will be killed on this one (LAB_KILL).
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, Instant};

use oriel_engine::store::{Drive, format, open};
use oriel_engine::store::{
    ExtentName, FormatOptions, Key, KeyKind, Log, OpenOptions, Put, RealmId, SpdkDrive,
    SpdkDriveError, StoreId, index_in_memory,
};
use oriel_spdk::Subsystems;
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::env::Pci;
use oriel_tests::ensure;
use oriel_tests::lab::{self, Failure};

const MEMORY_MIB: u32 = 256;
const REALM: RealmId = RealmId(0);
const STORE: StoreId = StoreId(*b"oriel lab, store");
/// Slabs of 4 MiB, journals of 1 MiB.
const SIZES: FormatOptions = FormatOptions {
    slab_blocks: 1024,
    journal_blocks: 256,
};
const WRITERS: u64 = 6;
/// Each writer has keys of its own.
const KEYS_PER_WRITER: u64 = 12;
const LENGTH_MAX: u64 = 200 << 10;
/// The machine is killed long before.
const LIMIT: Duration = Duration::from_secs(60);

type SpdkLog = Log<SpdkDrive>;
type Worker<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// A blob: its content follows from its seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blob {
    seed: u64,
    length: u64,
}

/// Numbers that a seed gives (xorshift).
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 8) % limit
    }
}

impl Blob {
    fn content(self) -> Vec<u8> {
        let mut numbers = Numbers::new(self.seed);
        let words = (0..self.length.div_ceil(8)).flat_map(|_| numbers.next().to_le_bytes());
        words.take(self.length as usize).collect()
    }
}

/// What a key may hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Known {
    blob: Option<Blob>,
    /// What was announced and not acknowledged.
    or: Option<Option<Blob>>,
}

/// What was said on earlier boots, in lines of "@ WORD NUMBER... ."; others, and those that the kill has cut off, say
/// nothing.
fn read_ledger(text: &str) -> Result<BTreeMap<u64, Known>, Failure> {
    let mut ledger: BTreeMap<u64, Known> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let ["@", word, numbers @ .., "."] = &words[..] else {
            continue;
        };
        let numbers: Result<Vec<u64>, _> = numbers.iter().map(|word| word.parse()).collect();
        let numbers = numbers?;
        let known = ledger.entry(numbers[0]).or_default();
        match (*word, &numbers[1..]) {
            ("put", &[seed, length]) => known.or = Some(Some(Blob { seed, length })),
            ("delete", []) => known.or = Some(None),
            ("done", []) => {
                let done = known.or.ok_or("acknowledged what was never announced")?;
                *known = Known {
                    blob: done,
                    or: None,
                };
            }
            ("holds", &[seed, length]) => {
                *known = Known {
                    blob: Some(Blob { seed, length }),
                    or: None,
                };
            }
            ("empty", []) => *known = Known::default(),
            other => return Err(format!("a line of no sense: {other:?}").into()),
        }
    }
    Ok(ledger)
}

/// In one write, which is back when the host has it.
fn say(line: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(format!("{line}\n").as_bytes())?)
}

fn key(number: u64) -> Key {
    Key::of_content(&number.to_le_bytes())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lab::main("lab-store", || {
        let [drive] = &arguments[..] else {
            return Err("usage: lab-store DRIVE".into());
        };
        let drive = drive.parse()?;
        let before = match std::env::var_os("LAB_OUTPUT") {
            Some(path) => std::fs::read_to_string(path)?,
            None => String::new(),
        };
        let ledger = read_ledger(&before)?;
        let is_killed = std::env::var_os("LAB_KILL").is_some();
        lab::with_spdk(MEMORY_MIB, Pci::All, async |sub| {
            create::nvme(sub, "Nvme", drive).await?;
            let result = store(sub, &ledger, is_killed).await;
            create::delete(sub, Kind::Nvme, "Nvme").await?;
            result
        })
    })
}

async fn store(
    _sub: &Subsystems,
    ledger: &BTreeMap<u64, Known>,
    is_killed: bool,
) -> Result<(), Failure> {
    let device = "Nvmen1";
    // After the cut-off line there may be.
    say("")?;
    let drive = match SpdkDrive::load(device).await {
        Err(SpdkDriveError::NotFormatted { .. }) if ledger.is_empty() => {
            let drive = SpdkDrive::format(device, &SIZES).await?;
            format(&drive, STORE, &SIZES).await?;
            drive
        }
        loaded => loaded?,
    };
    let options = OpenOptions {
        store: Some(STORE),
        blobs_max: 4096,
        ..OpenOptions::default()
    };
    let index = index_in_memory(options.blobs_max)?;
    let start = Instant::now();
    let (log, recovery) = open(drive.clone(), index, &options).await?;
    let ms = start.elapsed().as_millis();
    say(&format!("opened in {ms} ms: {recovery:?}"))?;
    let work = async {
        let result = async {
            let found = check(&log, &drive, ledger).await?;
            match is_killed {
                true => churn(&log, found, ledger.len() as u64).await,
                false => Ok(()),
            }
        };
        let result = result.await;
        log.close();
        result
    };
    lab::both(async { Ok(log.run().await?) }, work).await?;
    drop(log);
    drive.close().await?;
    Ok(())
}

/// Every key holds what it may, and the drive has no slabs besides.
async fn check(
    log: &SpdkLog,
    drive: &SpdkDrive,
    ledger: &BTreeMap<u64, Known>,
) -> Result<BTreeMap<u64, Option<Blob>>, Failure> {
    let mut found = BTreeMap::new();
    let mut slabs = BTreeSet::new();
    for (&name, known) in ledger {
        let bytes = log.read(REALM, &key(name), 0, u64::MAX).await?;
        let may = [Some(known.blob), known.or].into_iter().flatten();
        let holds = may
            .into_iter()
            .find(|blob| blob.map(Blob::content) == bytes);
        let Some(blob) = holds else {
            let length = bytes.map(|bytes| bytes.len());
            return Err(format!("key {name} holds {length:?} bytes, and may: {known:?}").into());
        };
        match blob {
            Some(Blob { seed, length }) => say(&format!("@ holds {name} {seed} {length} ."))?,
            None => say(&format!("@ empty {name} ."))?,
        }
        let place = log.locate(REALM, &key(name));
        slabs.extend(place.map(|place| place.position.0 / SIZES.slab_blocks));
        found.insert(name, blob);
    }
    let blobs = found.values().flatten().count() as u64;
    let there = log.stat().blobs;
    ensure!(there == blobs, "{there} blobs are there instead of {blobs}");
    let on_drive = drive.extents().await?.into_iter();
    let on_drive: BTreeSet<u64> = on_drive
        .filter_map(|(name, _)| match name {
            ExtentName::Slab(number) => Some(number),
            _ => None,
        })
        .collect();
    ensure!(
        on_drive == slabs,
        "slabs {on_drive:?} on the drive, and blobs in {slabs:?}"
    );
    let keys = ledger.len();
    say(&format!("checked {keys} keys, {blobs} blobs"))?;
    Ok(found)
}

/// Puts and deletes until the machine is killed.
async fn churn(
    log: &SpdkLog,
    found: BTreeMap<u64, Option<Blob>>,
    before: u64,
) -> Result<(), Failure> {
    // What other boots wrote has other seeds.
    let seed = found.values().flatten().map(|blob| blob.seed).max();
    let next = RefCell::new(seed.unwrap_or(before) + 1);
    let found = RefCell::new(found);
    say("lab: kill me")?;
    let end = Instant::now() + LIMIT;
    let worker = async |writer: u64| -> Result<(), Failure> {
        let mut numbers = Numbers::new(*next.borrow() * WRITERS + writer);
        while Instant::now() < end {
            let name = writer * KEYS_PER_WRITER + numbers.below(KEYS_PER_WRITER);
            let there = found.borrow().get(&name).copied().flatten();
            let now = match there {
                None => {
                    let most = LENGTH_MAX >> (4 * numbers.below(4));
                    let seed = next.replace_with(|seed| *seed + 1);
                    let length = 1 + numbers.below(most);
                    let blob = Blob { seed, length };
                    say(&format!("@ put {name} {seed} {length} ."))?;
                    let bytes = blob.content();
                    let put = log.put(REALM, key(name), KeyKind::Name, &bytes).await?;
                    ensure!(put == Put::Created, "key {name} was there: {put:?}");
                    Some(blob)
                }
                Some(_) => {
                    say(&format!("@ delete {name} ."))?;
                    let deleted = log.delete(REALM, key(name)).await?;
                    ensure!(deleted, "key {name} was gone");
                    None
                }
            };
            say(&format!("@ done {name} ."))?;
            found.borrow_mut().insert(name, now);
        }
        Err("the machine was not killed".into())
    };
    let mut workers: Vec<Worker<'_>> = Vec::new();
    for writer in 0..WRITERS {
        workers.push(Box::pin(worker(writer)));
    }
    std::future::poll_fn(|cx| {
        for worker in &mut workers {
            if let Poll::Ready(result) = worker.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}
