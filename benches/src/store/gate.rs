//! What the store is held to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oriel_engine::store::Observe;

use super::adapter::{Shape, Store, Target, key};
use super::load::Sizes;
use super::rig::{Job, Kind, Rig, Side};
use super::table::Row;
use super::{Drive, StorePerfError, ground};
use crate::bdev::args::FileApi;
use crate::bdev::session::{Session, with_session};
use crate::out::say;

/// One promise: how the store compares with a side.
struct Check {
    name: &'static str,
    kind: Kind,
    bytes: u64,
    depth: u32,
    /// Whether the store checks what it reads.
    verify: bool,
    /// The bound is none where the figure is only shown.
    beside: &'static [(Side, Option<f64>)],
}

const fn check(
    name: &'static str,
    kind: Kind,
    bytes: u64,
    depth: u32,
    beside: &'static [(Side, Option<f64>)],
) -> Check {
    Check {
        name,
        kind,
        bytes,
        depth,
        verify: true,
        beside,
    }
}

/// The same for reads that the store does not check.
const fn unchecked(check: Check) -> Check {
    Check {
        verify: false,
        ..check
    }
}

const KIB: u64 = 1 << 10;

/// On a drive in memory: nothing but what the store adds. A read is of a window, by its position, as hosts read; a get finds its
/// key as well, is a task's, and is shown beside it. What goes over the data once more, as the checksums of gets and of puts of
/// 1 MiB do, takes a large part of the time in which such a drive copies them, which no bound could tell from what the store
/// adds: puts of 1 MiB have theirs on the disk.
const IN_MEMORY: [Check; 8] = [
    check(
        "read 4 KiB QD 32",
        Kind::Read,
        4 * KIB,
        32,
        &[(Side::Raw, Some(0.80))],
    ),
    check(
        "read 128 KiB QD 32",
        Kind::Read,
        128 * KIB,
        32,
        &[(Side::Raw, Some(0.98))],
    ),
    unchecked(check(
        "get 4 KiB QD 32, unchecked",
        Kind::Get,
        4 * KIB,
        32,
        &[(Side::Raw, None)],
    )),
    check(
        "get 4 KiB QD 32",
        Kind::Get,
        4 * KIB,
        32,
        &[(Side::Raw, None)],
    ),
    unchecked(check(
        "get 128 KiB QD 32, unchecked",
        Kind::Get,
        128 * KIB,
        32,
        &[(Side::Raw, None)],
    )),
    check(
        "get 128 KiB QD 32",
        Kind::Get,
        128 * KIB,
        32,
        &[(Side::Raw, None)],
    ),
    check(
        "put 1 MiB QD 8",
        Kind::Put,
        1024 * KIB,
        8,
        &[(Side::Raw, None)],
    ),
    check(
        "put 4 KiB QD 128",
        Kind::Randput,
        4 * KIB,
        128,
        &[(Side::Raw, Some(0.50))],
    ),
];

/// On a disk, with what people would use instead. The raw device's writes are in order, and nobody asks whether they are durable:
/// what it takes is the most that there is to be had, also where that is less than three times what the others get.
const PEERS: [(Side, Option<f64>); 2] = [(Side::Files, Some(3.0)), (Side::Foyer, Some(3.0))];
const SMALLER: &[(Side, Option<f64>)] = &[(Side::Raw, None), PEERS[0], PEERS[1]];
const OF_1_MIB: &[(Side, Option<f64>)] = &[(Side::Raw, Some(0.90)), PEERS[0], PEERS[1]];
const ON_DISK: [Check; 3] = [
    check("durable put 64 KiB QD 32", Kind::Put, 64 * KIB, 32, SMALLER),
    check(
        "durable put 256 KiB QD 32",
        Kind::Put,
        256 * KIB,
        32,
        SMALLER,
    ),
    check(
        "durable put 1 MiB QD 32",
        Kind::Put,
        1024 * KIB,
        32,
        OF_1_MIB,
    ),
];

const PROBE_US: f64 = 2.0;
const PROBES: u64 = 20_000;
const PROBED_BLOBS: u64 = 10_000;
const DRIVE_BYTES: u64 = 1 << 30;

/// Measures, prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(
    rounds: u32,
    seconds: u32,
    cores: &BTreeSet<u32>,
    directory: Option<PathBuf>,
) -> Result<bool, StorePerfError> {
    let directory = directory.unwrap_or_else(std::env::temp_dir);
    let memory = Drive::memory(DRIVE_BYTES);
    let file = Drive::in_folder(&directory, DRIVE_BYTES, FileApi::Aio)?;
    let core = cores.first().copied().unwrap_or(0);
    let ground = ground(BTreeSet::from([core]), &[&memory, &file]);
    say!(
        "{rounds} rounds of {seconds} s a side, blobs/s, medians of the rounds' ratios; the disk is below {}",
        directory.display()
    );
    say!(
        "{:<28} {:<6} {:>11} {:>11} {:>7} {:>15} {:>6}",
        "",
        "beside",
        "store",
        "it",
        "ratio",
        "spread",
        "bound"
    );
    let time = Duration::from_secs(seconds.into());
    let (good, _) = with_session(ground, async move |session| {
        let rig = |drive: &Drive, directory| Rig {
            session,
            device: drive.name.clone(),
            device_bytes: DRIVE_BYTES,
            core,
            directory,
            time,
            seed: 1,
            verify: true,
            counted: RefCell::new(None),
        };
        let in_memory = rig(&memory, None);
        let on_disk = rig(&file, Some(directory));
        Ok(all(session, &in_memory, &on_disk, rounds).await)
    })?;
    good
}

async fn all(
    _session: &Session,
    in_memory: &Rig<'_>,
    on_disk: &Rig<'_>,
    rounds: u32,
) -> Result<bool, StorePerfError> {
    let mut good = true;
    for check in &IN_MEMORY {
        good &= one(in_memory, check, rounds).await?;
    }
    good &= probe(&in_memory.device, rounds).await?;
    for check in &ON_DISK {
        good &= one(on_disk, check, rounds).await?;
    }
    Ok(good)
}

fn word(passed: bool) -> &'static str {
    if passed { "PASS" } else { "SHORT" }
}

async fn one(rig: &Rig<'_>, check: &Check, rounds: u32) -> Result<bool, StorePerfError> {
    let job = Job {
        kind: check.kind,
        sizes: Sizes::Fixed(check.bytes),
        depth: check.depth,
        read_percent: 70,
        zipf_theta: 0.99,
    };
    let mut sides = vec![Side::Store];
    sides.extend(check.beside.iter().map(|(side, _)| *side));
    let rig = Rig {
        verify: check.verify,
        counted: RefCell::new(None),
        device: rig.device.clone(),
        directory: rig.directory.clone(),
        ..*rig
    };
    let row = Row::measure(&rig, &job, &sides, rounds).await?;
    let mut good = true;
    for (side, bound) in check.beside {
        let per_second = |side| row.speed(side).map_or(0.0, |speed| speed.per_second);
        let Some(ratio) = row.ratio(*side) else {
            say!("{:<28} {:<6} did nothing UNCLEAR", check.name, side.name());
            good = false;
            continue;
        };
        // What is printed decides.
        let passed = |bound: f64| (ratio.median * 1000.0).round() >= (bound * 1000.0).round();
        let verdict = bound.map_or_else(String::new, |bound| {
            format!("{bound:>6.2} {}", word(passed(bound)))
        });
        say!(
            "{:<28} {:<6} {:>11.0} {:>11.0} {:>7.3} {:>15} {verdict}",
            check.name,
            side.name(),
            per_second(Side::Store),
            per_second(*side),
            ratio.median,
            format!("{:.3} to {:.3}", ratio.min, ratio.max),
        );
        good &= bound.is_none_or(passed);
    }
    Ok(good)
}

/// A PROBE of 32 keys that are not there, in a store with some blobs.
async fn probe(device: &str, rounds: u32) -> Result<bool, StorePerfError> {
    let shape = Shape {
        slab_bytes: 64 << 20,
        blobs_max: 1 << 16,
        verify: true,
        observe: Observe::default(),
    };
    let store = Store::fresh(device, shape).await?;
    for number in 0..PROBED_BLOBS {
        Target::put(&store, number, 100).await?;
    }
    let mut times = Vec::new();
    for round in 0..u64::from(rounds) {
        let first = PROBED_BLOBS + round * PROBES * 32;
        let keys = |at: u64| std::array::from_fn(|index| key(first + at * 32 + index as u64));
        let asked: Vec<_> = (0..PROBES).map(keys).collect();
        let start = Instant::now();
        let mut there = 0;
        for keys in &asked {
            there |= store.probe(keys);
        }
        let us = start.elapsed().as_secs_f64() * 1e6 / PROBES as f64;
        assert_eq!(there, 0, "keys that nobody put are there");
        times.push(us);
    }
    store.close().await?;
    let us = crate::against::ratio::median(times);
    let passed = (us * 1000.0).round() <= PROBE_US * 1000.0;
    say!(
        "{:<28} {us:>6.3} us of at most {PROBE_US} {}",
        "PROBE of 32 absent keys",
        word(passed)
    );
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_of_the_store_is_held() {
        let bounds = |checks: &[Check]| -> Vec<_> {
            let of = |check: &Check| (check.bytes, check.depth, check.beside[0].1);
            checks.iter().map(of).collect()
        };
        assert_eq!(
            bounds(&IN_MEMORY),
            [
                (4096, 32, Some(0.80)),
                (131_072, 32, Some(0.98)),
                (4096, 32, None),
                (4096, 32, None),
                (131_072, 32, None),
                (131_072, 32, None),
                (1 << 20, 8, None),
                (4096, 128, Some(0.50))
            ]
        );
        assert_eq!(
            bounds(&ON_DISK),
            [
                (65_536, 32, None),
                (262_144, 32, None),
                (1 << 20, 32, Some(0.90))
            ]
        );
        for check in &ON_DISK {
            assert_eq!(
                check.beside[1..],
                [(Side::Files, Some(3.0)), (Side::Foyer, Some(3.0))]
            );
        }
    }
}
