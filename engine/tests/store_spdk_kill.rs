//! The store in a file survives kill -9, time after time.
//!
//! ```text
//!   parent                                        child, a new one each round
//!     ledger: what each key has to hold ────────►   open the store, read every key, say what is there (R)
//!        ▲                                          count the space (T), say that it begins (S)
//!        └───────────── pipe ───────────────────    put and delete at full speed, several at once:
//!     kill -9 at a random moment                      announce (p, d), do, acknowledge (P, D)
//! ```
//!
//! What was acknowledged is there byte for byte, or gone; what was only announced may be either way, but whole. Slabs
//! without a blob, and clusters of nobody, are leaks. `ORIEL_KILL_ROUNDS` says how often, `ORIEL_SEED` repeats a run.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod store_spdk_support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use oriel_engine::store::*;
use oriel_spdk::bdev::create;
use store_spdk_support::*;

const NAME: &str = "acknowledged_blobs_survive_kill_9_at_any_moment";
const PART: &str = "ORIEL_KILL_PART";
const FILE: &str = "ORIEL_KILL_FILE";
const LEDGER: &str = "ORIEL_KILL_LEDGER";
const SEED: &str = "ORIEL_KILL_SEED";

const DRIVE_BYTES: u64 = 96 * MIB;
const WRITERS: u64 = 6;
/// Each writer has keys of its own.
const KEYS_PER_WRITER: u64 = 14;
const LENGTH_MAX: u64 = 200 << 10;

/// A blob: its content follows from its seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blob {
    seed: u64,
    length: usize,
}

impl Blob {
    fn content(self) -> Vec<u8> {
        content(self.seed, self.length)
    }
}

/// What a key may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    blob: Option<Blob>,
    /// What was announced and not acknowledged.
    or: Option<Option<Blob>>,
}

impl Known {
    fn sure(blob: Option<Blob>) -> Self {
        Self { blob, or: None }
    }

    fn allows(self, found: Option<Blob>) -> bool {
        self.blob == found || self.or == Some(found)
    }
}

/// A blob as words of a line.
fn written(blob: Option<Blob>) -> String {
    blob.map_or_else(
        || "- -".into(),
        |blob| format!("{} {}", blob.seed, blob.length),
    )
}

fn number<T: FromStr>(word: &str) -> T {
    let Ok(number) = word.parse() else {
        panic!("'{word}' is no number");
    };
    number
}

fn parsed(words: &[&str]) -> Option<Blob> {
    let &[seed, length] = words else {
        panic!("a blob has two words: {words:?}");
    };
    (seed != "-").then(|| Blob {
        seed: number(seed),
        length: number(length),
    })
}

// ---- The child --------------------------------------------------------------------------------------------------------

/// Says something to the parent, in one write.
fn say(line: impl Display) {
    let mut text = String::new();
    writeln!(text, "@{line}").unwrap();
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// The ledger that the parent wrote: key, blob, and whether there is an alternative, and which.
fn read_ledger() -> BTreeMap<u64, Known> {
    let text = fs::read_to_string(env(LEDGER)).unwrap();
    let entry = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let or = (words[3] == "or").then(|| parsed(&words[4..6]));
        let blob = parsed(&words[1..3]);
        (number(words[0]), Known { blob, or })
    };
    text.lines().map(entry).collect()
}

/// Reads every key; what is there is what the ledger allows, and the space is that of it.
async fn check(log: &SpdkLog, drive: &SpdkDrive) -> BTreeMap<u64, Option<Blob>> {
    let mut found = BTreeMap::new();
    let mut slabs = BTreeSet::new();
    for (name, known) in read_ledger() {
        let bytes = get(log, name).await.unwrap();
        let mut candidates = [known.blob, known.or.flatten()].into_iter().flatten();
        let blob = match &bytes {
            None => None,
            Some(bytes) => {
                let blob = candidates.find(|blob| blob.content() == *bytes);
                let length = bytes.len();
                assert!(
                    blob.is_some(),
                    "key {name} holds {length} bytes that nobody wrote: {known:?}"
                );
                blob
            }
        };
        assert!(
            known.allows(blob),
            "key {name} holds {blob:?}, and not what was acknowledged: {known:?}"
        );
        say(format_args!("R {name} {}", written(blob)));
        slabs.extend(position(log, name).map(|at| at.0 / SIZES.slab_blocks));
        found.insert(name, blob);
    }
    let blobs = found.values().flatten().count() as u64;
    assert_eq!(
        log.stat().blobs,
        blobs,
        "there are blobs that nobody asked for"
    );
    let mut on_drive = BTreeSet::new();
    let mut used = 0;
    for (name, extent) in drive.extents().await.unwrap() {
        if let ExtentName::Slab(number) = name {
            on_drive.insert(number);
        }
        // Clusters of 64 KiB on a drive of this size.
        used += drive.blocks(&extent).next_multiple_of(16);
    }
    assert_eq!(
        on_drive, slabs,
        "slabs without a blob, or blobs without one"
    );
    say(format_args!("T {}", used + drive.free_blocks()));
    found
}

struct Churn<'a> {
    log: &'a SpdkLog,
    found: RefCell<BTreeMap<u64, Option<Blob>>>,
    seed: u64,
}

impl Churn<'_> {
    async fn work(&self, writer: u64) {
        let mut numbers = Numbers::new(self.seed * 1000 + writer);
        let mut serial = 0;
        loop {
            let name = writer * KEYS_PER_WRITER + numbers.below(KEYS_PER_WRITER);
            let there = self.found.borrow().get(&name).copied().flatten();
            let now = match there {
                None => {
                    serial += 1;
                    // Most are small, as in life.
                    let most = LENGTH_MAX >> (4 * numbers.below(4));
                    let blob = Blob {
                        seed: (self.seed * 10 + writer) * 1_000_000 + serial,
                        length: 1 + numbers.below(most) as usize,
                    };
                    say(format_args!("p {name} {}", written(Some(blob))));
                    let stored = put(self.log, name, &blob.content()).await;
                    assert_eq!(stored, Ok(Put::Created));
                    say(format_args!("P {name}"));
                    Some(blob)
                }
                Some(blob) if numbers.below(3) == 0 => {
                    let bytes = get(self.log, name).await.unwrap();
                    assert_eq!(bytes, Some(blob.content()), "key {name}: {blob:?}");
                    continue;
                }
                Some(_) => {
                    say(format_args!("d {name}"));
                    assert_eq!(delete(self.log, name).await, Ok(true));
                    say(format_args!("D {name}"));
                    None
                }
            };
            self.found.borrow_mut().insert(name, now);
        }
    }
}

/// The child's part: `format`, `churn` or `check`.
fn run_child(part: &str) {
    with_spdk(async |sub| {
        create::aio(&sub, "disk", Path::new(&env(FILE)), 4096)
            .await
            .unwrap();
        if part == "format" {
            formatted("disk").await.close().await.unwrap();
            return;
        }
        say("L");
        let drive = SpdkDrive::load("disk").await.unwrap();
        let (_, closed) = with_log_on(&drive, async |log| {
            let found = RefCell::new(check(log, &drive).await);
            say("S");
            if part == "churn" {
                let seed = number(&env(SEED));
                let churn = Churn { log, found, seed };
                let work =
                    |writer| Box::pin(churn.work(writer)) as Pin<Box<dyn Future<Output = ()>>>;
                all((0..WRITERS).map(work).collect()).await;
            }
        })
        .await;
        closed.unwrap();
        drive.close().await.unwrap();
    });
}

// ---- The parent -------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Ledger {
    known: BTreeMap<u64, Known>,
    space: Option<u64>,
    acknowledged: u64,
}

impl Ledger {
    fn text(&self) -> String {
        let mut text = String::new();
        for (name, Known { blob, or }) in &self.known {
            let or = match or {
                Some(or) => format!("or {}", written(*or)),
                None => "sure".into(),
            };
            writeln!(text, "{name} {} {or}", written(*blob)).unwrap();
        }
        text
    }

    /// Takes down what a child said.
    fn note(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        if words[0] == "T" {
            let space = number(words[1]);
            let before = *self.space.get_or_insert(space);
            assert_eq!(space, before, "blocks have been lost, or given away twice");
            return;
        }
        let name: u64 = number(words[1]);
        let known = self.known.entry(name).or_insert(Known::sure(None));
        match words[0] {
            "R" => {
                let found = parsed(&words[2..4]);
                assert!(known.allows(found), "key {name}: {found:?}, {known:?}");
                *known = Known::sure(found);
            }
            "p" => known.or = Some(parsed(&words[2..4])),
            "d" => known.or = Some(None),
            "P" | "D" => {
                let done = known.or.expect("acknowledged what was announced");
                *known = Known::sure(done);
                self.acknowledged += 1;
            }
            other => panic!("a child said '{other}'"),
        }
    }
}

/// Runs a child, which is killed when `kill_after` has passed since it said `since`, and notes what it said.
fn round(directory: &Path, ledger: &mut Ledger, part: &str, kill: Option<(&str, Duration, u64)>) {
    let list = directory.join("ledger");
    fs::write(&list, ledger.text()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env(FILE, directory.join("drive"))
        .env(LEDGER, &list)
        .env(SEED, kill.map_or(0, |kill| kill.2).to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let lines = BufReader::new(child.stdout.take().unwrap());
    let (send, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // A line is one write of less than a page, so that no kill cuts it off.
        for line in lines.split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let mut killed_at = None;
    let mut is_killed = false;
    loop {
        let wait = killed_at.map_or(Duration::from_secs(60), |at: Instant| {
            at.saturating_duration_since(Instant::now())
        });
        match said.recv_timeout(wait) {
            Ok((at, line)) => {
                // The test runner's own words may stand before the first line.
                let Some((_, line)) = line.split_once('@') else {
                    continue;
                };
                match kill {
                    Some((since, after, _)) if since == line => killed_at = Some(at + after),
                    _ => {}
                }
                if line != "L" && line != "S" {
                    ledger.note(line);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) if killed_at.is_some() && !is_killed => {
                child.kill().unwrap();
                is_killed = true;
                killed_at = None;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                panic!("the child said nothing for a minute");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().unwrap();
    reader.join().unwrap();
    let errors = errors.join().unwrap();
    // One that failed a moment before it would have been killed has failed.
    let is_fine = match is_killed {
        true => status.signal() == Some(9),
        false => status.success(),
    };
    assert!(is_fine, "{part}: {status}\n{errors}");
    assert!(
        kill.is_none() || is_killed,
        "the child ended before it was killed: {status}\n{errors}"
    );
}

#[test]
fn acknowledged_blobs_survive_kill_9_at_any_moment() {
    if let Ok(part) = std::env::var(PART) {
        return run_child(&part);
    }
    let option = |name| std::env::var(name).ok().map(|value| number::<u64>(&value));
    let rounds = option("ORIEL_KILL_ROUNDS").unwrap_or(30);
    let seed = option("ORIEL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("{rounds} rounds, ORIEL_SEED={seed}");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = fs::File::create(directory.path().join("drive")).unwrap();
    file.set_len(DRIVE_BYTES).unwrap();
    let mut ledger = Ledger::default();
    round(directory.path(), &mut ledger, "format", None);
    let mut numbers = Numbers::new(seed);
    for at in 0..rounds {
        // One in six is killed while it recovers.
        let (since, most) = match numbers.below(6) {
            0 => ("L", 30_000),
            _ => ("S", 300_000),
        };
        let after = Duration::from_micros(numbers.below(most));
        let kill = (since, after, seed % 1_000_000 * 1000 + at);
        round(directory.path(), &mut ledger, "churn", Some(kill));
    }
    round(directory.path(), &mut ledger, "check", None);
    let blobs = ledger.known.values().filter(|known| known.blob.is_some());
    println!(
        "{} operations acknowledged, {} blobs at the end, nothing lost",
        ledger.acknowledged,
        blobs.count()
    );
    assert!(
        ledger.acknowledged > 2 * rounds,
        "the children did next to nothing"
    );
}
