//! A blobstore on a file survives kill -9, two hundred times in a row.
//!
//! ```text
//!   parent                                   child, a new one each round
//!     ledger of what was acknowledged          load, report every blob (F), report the space (T)
//!        ▲                                     S
//!        └──────────── pipe ────────────────── create, grow, shrink, delete at full speed:
//!     kill -9 at a random moment                 announce (lower case), do, acknowledge (upper)
//! ```
//!
//! The parent holds each report against its ledger: what was acknowledged is there with its id,
//! size and content, what was acknowledged as deleted is not, what was only announced may be either
//! way, and no cluster is lost or given away twice. `ORIEL_SEED` repeats a run,
//! `ORIEL_CRASH_ROUNDS` makes it longer or shorter.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blob_support;
mod support;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use blob_support::{Numbers, TYPE, child, join, pattern, phase, read, write};
use oriel_spdk::bdev::create;
use oriel_spdk::blob::{Blob, BlobId, Blobstore, CreateError, InitOptions, NewBlob, ResizeError};
use support::with_spdk;

const NAME: &str = "a_blobstore_survives_being_killed_at_any_moment";
const DEVICE_BYTES: u64 = 96 << 20;
const CLUSTER: u32 = 64 << 10;
const UNIT: usize = 4096;
const WORKERS: u64 = 3;
const BLOBS: usize = 40;

/// A number below `limit`.
fn below(numbers: &mut Numbers, limit: u64) -> u64 {
    (numbers.next() >> 8) % limit
}

/// Says something to the parent, in one write.
fn say(line: std::fmt::Arguments<'_>) {
    let mut text = String::new();
    writeln!(text, "@{line}").unwrap();
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}

/// A blob's n-th cluster begins with this.
fn content(generation: u64, cluster: u64) -> Vec<u8> {
    pattern(generation * 1_000 + cluster, UNIT)
}

fn units_per_cluster() -> u64 {
    u64::from(CLUSTER) / UNIT as u64
}

async fn fill(blob: &Blob, generation: u64, from: u64, to: u64) {
    for cluster in from..to {
        let start = cluster * units_per_cluster();
        write(blob, UNIT, start, &content(generation, cluster)).await;
    }
}

struct Live {
    id: BlobId,
    generation: u64,
    clusters: u64,
}

/// Reports every blob and the space, removes what was not made to the end.
async fn report(store: &Blobstore) -> Vec<Live> {
    let mut live = Vec::new();
    let mut unfinished = Vec::new();
    let mut used = 0;
    for entry in store.blobs().await.unwrap() {
        let id = entry.id;
        let blob = store.open(id).await.unwrap();
        assert_eq!(blob.clusters(), entry.clusters);
        used += entry.clusters;
        let generation = blob.xattr("generation").unwrap();
        let generation = u64::from_le_bytes(generation.try_into().unwrap());
        let full = blob.xattr("full").is_some();
        let mut good = 0;
        for cluster in 0..entry.clusters {
            let found = read(&blob, UNIT, cluster * units_per_cluster(), 1).await;
            good += u64::from(found == content(generation, cluster));
        }
        if let Some(padding) = blob.xattr("padding") {
            assert_eq!(padding, pattern(generation, padding.len()));
        }
        let raw = id.to_raw();
        let clusters = entry.clusters;
        say(format_args!(
            "F {generation} {raw} {clusters} {good} {}",
            u8::from(full)
        ));
        if full {
            live.push(Live {
                id,
                generation,
                clusters,
            });
        } else {
            unfinished.push((generation, id));
        }
        blob.close().await.unwrap();
    }
    let (free, total) = (store.free_clusters(), store.total_clusters());
    say(format_args!("T {free} {used} {total}"));
    for (generation, id) in unfinished {
        say(format_args!("d {generation}"));
        store.delete(id).await.unwrap();
        say(format_args!("D {generation}"));
    }
    live
}

struct Churn<'a> {
    store: &'a Blobstore,
    live: RefCell<Vec<Live>>,
    next_generation: Cell<u64>,
}

impl Churn<'_> {
    async fn create(&self, numbers: &mut Numbers) {
        let generation = self.next_generation.get();
        self.next_generation.set(generation + 1);
        let clusters = 1 + below(numbers, 8);
        say(format_args!("c {generation} {clusters}"));
        let bytes = generation.to_le_bytes();
        let mut xattrs: Vec<(&str, &[u8])> = vec![("generation", &bytes)];
        // One in four needs a second metadata page.
        let padding = pattern(generation, 3900);
        if below(numbers, 4) == 0 {
            xattrs.push(("padding", &padding));
        }
        let new = NewBlob {
            clusters,
            xattrs: &xattrs,
        };
        let id = match self.store.create(new).await {
            Ok(id) => id,
            Err(CreateError::NoSpace { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        let blob = self.store.open(id).await.unwrap();
        fill(&blob, generation, 0, clusters).await;
        blob.set_xattr("full", &[1]).unwrap();
        blob.sync_metadata().await.unwrap();
        say(format_args!("C {generation} {} {clusters}", id.to_raw()));
        blob.close().await.unwrap();
        self.live.borrow_mut().push(Live {
            id,
            generation,
            clusters,
        });
    }

    async fn resize(&self, mut entry: Live, numbers: &mut Numbers) {
        let clusters = 1 + below(numbers, 12);
        say(format_args!("r {} {clusters}", entry.generation));
        let blob = self.store.open(entry.id).await.unwrap();
        match blob.resize(clusters).await {
            Ok(()) => {
                fill(&blob, entry.generation, entry.clusters, clusters).await;
                blob.sync_metadata().await.unwrap();
                entry.clusters = clusters;
            }
            Err(ResizeError::NoSpace { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        say(format_args!("R {} {}", entry.generation, entry.clusters));
        blob.close().await.unwrap();
        self.live.borrow_mut().push(entry);
    }

    async fn delete(&self, entry: Live) {
        say(format_args!("d {}", entry.generation));
        self.store.delete(entry.id).await.unwrap();
        say(format_args!("D {}", entry.generation));
    }

    async fn work(&self, seed: u64) {
        let mut numbers = Numbers::new(seed);
        loop {
            let known = self.live.borrow().len();
            let choice = below(&mut numbers, 10);
            if known == 0 || (known < BLOBS && choice < 4) {
                self.create(&mut numbers).await;
                continue;
            }
            let at = below(&mut numbers, known as u64) as usize;
            let entry = self.live.borrow_mut().swap_remove(at);
            if choice < 7 {
                self.resize(entry, &mut numbers).await;
            } else {
                self.delete(entry).await;
            }
        }
    }
}

/// The child's part: `init`, `churn` or `unload`, on the file that the environment names.
fn run_child(phase: &str) {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let path = std::env::var("ORIEL_CRASH_FILE").unwrap();
    with_spdk(async |sub| {
        create::aio(&sub, "disk", Path::new(&path), UNIT as u32)
            .await
            .unwrap();
        if phase == "init" {
            let options = InitOptions {
                cluster_bytes: CLUSTER,
                ..InitOptions::new(TYPE)
            };
            let store = Blobstore::init("disk", options, |_| {}).await.unwrap();
            store.unload().await.unwrap();
            return;
        }
        say(format_args!("L"));
        let store = Blobstore::load("disk", TYPE, |_| {}).await.unwrap();
        let live = report(&store).await;
        say(format_args!("S"));
        if phase == "churn" {
            let churn = Churn {
                store: &store,
                live: RefCell::new(live),
                next_generation: Cell::new(number("ORIEL_CRASH_ROUND") * 1_000_000),
            };
            let seed = number("ORIEL_CRASH_SEED");
            let worker = |at| Box::pin(churn.work(seed + at)) as Pin<Box<dyn Future<Output = ()>>>;
            join((1..=WORKERS).map(worker).collect()).await;
        }
        store.unload().await.unwrap();
    });
}

/// What the parent knows of a blob.
#[derive(Clone, Debug)]
struct Known {
    id: u64,
    /// Every size that it may have.
    clusters: Vec<u64>,
    may_be_gone: bool,
}

#[derive(Default)]
struct Ledger {
    live: BTreeMap<u64, Known>,
    announced: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    operations: u64,
}

impl Ledger {
    /// Holds what a child found against what was acknowledged, and continues from what is there.
    fn verify(&mut self, found: &[Vec<u64>]) {
        let mut seen = BTreeSet::new();
        for blob in found {
            let &[generation, id, clusters, good, full] = &blob[..] else {
                panic!("a report of a blob has five numbers: {blob:?}");
            };
            assert!(seen.insert(generation), "blob {generation} is there twice");
            assert!(
                !self.gone.contains(&generation),
                "blob {generation} was deleted, and is there again"
            );
            match self.live.get_mut(&generation) {
                Some(known) => {
                    assert_eq!(id, known.id, "blob {generation} has another id");
                    assert_eq!(full, 1, "blob {generation} lost an attribute");
                    assert!(
                        known.clusters.contains(&clusters),
                        "blob {generation} has {clusters} clusters: {known:?}"
                    );
                    assert_eq!(
                        good, clusters,
                        "blob {generation} lost content: {known:?}, {good} clusters are good"
                    );
                    known.clusters = vec![clusters];
                    known.may_be_gone = false;
                }
                None => {
                    assert!(
                        self.announced.contains(&generation),
                        "nobody announced the blob {generation}"
                    );
                    if full == 1 {
                        assert_eq!(good, clusters, "the new blob {generation} lost content");
                        let known = Known {
                            id,
                            clusters: vec![clusters],
                            may_be_gone: false,
                        };
                        self.live.insert(generation, known);
                    }
                }
            }
        }
        let missing: Vec<_> = self
            .live
            .iter()
            .filter(|(generation, _)| !seen.contains(generation))
            .map(|(generation, known)| (*generation, known.clone()))
            .collect();
        for (generation, known) in missing {
            assert!(known.may_be_gone, "blob {generation} is lost: {known:?}");
            self.live.remove(&generation);
            self.gone.insert(generation);
        }
        self.announced.clear();
        self.announced.extend(seen);
    }

    /// Takes down what a child said while it worked.
    fn note(&mut self, kind: &str, numbers: &[u64]) {
        let generation = numbers[0];
        match (kind, self.live.get_mut(&generation)) {
            ("c", _) => {
                self.announced.insert(generation);
            }
            ("C", _) => {
                let known = Known {
                    id: numbers[1],
                    clusters: vec![numbers[2]],
                    may_be_gone: false,
                };
                self.live.insert(generation, known);
            }
            ("r", Some(known)) => known.clusters.push(numbers[1]),
            ("R", Some(known)) => known.clusters = vec![numbers[1]],
            ("d", Some(known)) => known.may_be_gone = true,
            // What was not made to the end is not in the ledger.
            ("d", None) => {}
            ("D", _) => {
                self.live.remove(&generation);
                self.gone.insert(generation);
            }
            (kind, known) => panic!("{kind} {numbers:?} makes no sense: {known:?}"),
        }
        self.operations += u64::from(kind.chars().all(char::is_uppercase));
    }

    /// Goes through everything that a child said. False if it was killed before it had reported.
    fn take(&mut self, lines: &[String]) -> bool {
        let mut found = Vec::new();
        let mut reported = false;
        for line in lines {
            let mut words = line.split(' ');
            let kind = words.next().unwrap();
            let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
            match kind {
                "L" | "S" => {}
                "F" => found.push(numbers),
                "T" => {
                    let &[free, used, total] = &numbers[..] else {
                        panic!("a report of the space has three numbers: {numbers:?}");
                    };
                    assert_eq!(
                        free + used,
                        total,
                        "{free} clusters are free, {used} used, of {total}"
                    );
                    self.verify(&found);
                    reported = true;
                }
                kind => self.note(kind, &numbers),
            }
        }
        reported
    }
}

/// Starts a child and gives everything that it said, up to its kill `after` it said `mark`.
fn one_round(
    path: &Path,
    phase: &str,
    round: u64,
    seed: u64,
    kill: Option<(&str, Duration)>,
) -> Vec<String> {
    let mut process = child(NAME, phase)
        .env("ORIEL_CRASH_FILE", path)
        .env("ORIEL_CRASH_ROUND", round.to_string())
        .env("ORIEL_CRASH_SEED", (seed + round * 1_000).to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(process.stdout.take().unwrap());
    let mut stderr = process.stderr.take().unwrap();
    let (send, received) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // A line that the kill cut off has no newline, or is no text.
        for line in stdout.split(b'\n').map_while(Result::ok) {
            if let Some(line) = String::from_utf8(line).ok().as_deref() {
                // The runner's own first line ends without a newline.
                if let Some((_, line)) = line.split_once('@') {
                    send.send(line.to_owned()).unwrap();
                }
            }
        }
    });
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let mut lines = Vec::new();
    if let Some((mark, after)) = kill {
        let deadline = Instant::now() + Duration::from_secs(60);
        while lines.last().is_none_or(|line| line != mark) {
            let wait = deadline.saturating_duration_since(Instant::now());
            match received.recv_timeout(wait) {
                Ok(line) => lines.push(line),
                Err(_) => break,
            }
        }
        std::thread::sleep(after);
        process.kill().unwrap();
    }
    let status = process.wait().unwrap();
    reader.join().unwrap();
    let errors = errors.join().unwrap();
    lines.extend(received.try_iter());
    let killed = status.code().is_none() && kill.is_some();
    assert!(
        killed || (kill.is_none() && status.success()),
        "round {round}, {phase}: {status}\n{lines:#?}\n{errors}"
    );
    lines
}

#[test]
fn a_blobstore_survives_being_killed_at_any_moment() {
    if let Some(phase) = phase() {
        run_child(&phase);
        return;
    }
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed: u64 = setting("ORIEL_SEED").unwrap_or(now.as_millis() as u64 % 1_000_000_000);
    let rounds: u64 = setting("ORIEL_CRASH_ROUNDS").unwrap_or(200);
    println!("ORIEL_SEED={seed} ORIEL_CRASH_ROUNDS={rounds}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    File::create(&path).unwrap().set_len(DEVICE_BYTES).unwrap();
    one_round(&path, "init", 0, seed, None);

    let mut numbers = Numbers::new(seed);
    let mut ledger = Ledger::default();
    let mut killed_while_loading = 0;
    for round in 1..=rounds {
        // Most are killed at work; some while they recover from the kill before.
        let kill = if below(&mut numbers, 8) == 0 {
            ("L", Duration::from_micros(below(&mut numbers, 60_000)))
        } else {
            ("S", Duration::from_micros(below(&mut numbers, 100_000)))
        };
        let lines = one_round(&path, "churn", round, seed, Some(kill));
        let reported = ledger.take(&lines);
        assert!(
            reported || kill.0 == "L",
            "round {round}: the child said nothing of what it found: {lines:#?}"
        );
        killed_while_loading += u64::from(!reported);
    }
    for last in [rounds + 1, rounds + 2] {
        assert!(ledger.take(&one_round(&path, "unload", last, seed, None)));
    }
    println!(
        "{} operations acknowledged, {killed_while_loading} kills while loading, {} blobs left",
        ledger.operations,
        ledger.live.len()
    );
    assert!(
        ledger.operations > 5 * rounds,
        "only {} operations between {rounds} kills",
        ledger.operations
    );
}
