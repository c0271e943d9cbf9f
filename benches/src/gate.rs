//! `oriel-perf gate AREA`: the comparisons an area is held to, a line each,
//! and exit status 1 where one falls short.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::against::bdevperf::Bdevperf;
use crate::against::ratio::Comparison;
use crate::against::{AgainstError, Arena, Load, Pages};
use crate::config::Create;
use crate::cores;
use crate::interrupt::Interrupt;
use crate::latency::{self, ReactorArgs};
use crate::load::workload::Workload;
use crate::out::say;

/// Measures what an area promises beside its peer or its limit.
#[derive(Debug, Clone, Args)]
pub(crate) struct GateArgs {
    /// What to measure
    pub(crate) area: Area,
    /// SPDK's bdevperf, or an SPDK build tree [default: SPDK_DIR, then what scripts/bootstrap built]
    #[arg(long, value_name = "BDEVPERF")]
    pub(crate) against: Option<PathBuf>,
    /// How often each side is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds for each measurement
    #[arg(short = 't', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) time: u32,
    /// The core both sides run on, as a mask or a list
    #[arg(short = 'm', long, default_value = "0x1", value_parser = cores::parse)]
    pub(crate) core_mask: BTreeSet<u32>,
    /// Run both sides without hugepages (not with v20.07's bdevperf)
    #[arg(long)]
    pub(crate) no_huge: bool,
    /// Folder on the disk that the store and its peers are measured on [default: the folder for temporary files]
    #[arg(long)]
    pub(crate) directory: Option<PathBuf>,
    /// Blobs of the store that is stopped and killed, 4.3 KiB each on that disk
    #[arg(long, default_value = "10M", value_parser = crate::size::parse)]
    pub(crate) blobs: u64,
    #[command(flatten)]
    pub(crate) mooncake: crate::target::MooncakeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Area {
    /// Our load generator on SPDK's bdevs beside SPDK's own
    Ground,
    /// The erasure codec beside ISA-L, memcpy and two crates (in GB/s; times and cores do not apply)
    Ec,
    /// The routing table: lookups, balance, moves (times and cores do not apply)
    Ring,
    /// Lookups in the index beside hashbrown, and beside a writer (times and cores do not apply)
    Index,
    /// The log store on a drive in memory, and on a disk beside plain files and foyer
    Store,
    /// A node's windows beside SPDK's own target, over TCP on this machine (on the first two cores)
    Target,
    /// What a node's other hosts notice of one that is stuck, greedy or refused (on the first two cores)
    Neighbours,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error(transparent)]
    Against(#[from] AgainstError),
    #[error(transparent)]
    Index(#[from] crate::index::IndexError),
    #[error(transparent)]
    Store(#[from] crate::store::StorePerfError),
    #[error(transparent)]
    Target(#[from] crate::target::TargetError),
    #[error(transparent)]
    Restart(#[from] crate::restart::RestartError),
}

/// One comparison and the ratio it must reach.
struct Check {
    name: &'static str,
    bdev: &'static str,
    io_bytes: u64,
    bound: f64,
}

/// Memory shows the path with a copy, null nothing but overhead.
const GROUND: [Check; 3] = [
    Check {
        name: "malloc 4 KiB randread QD 32",
        bdev: "Malloc0",
        io_bytes: 4096,
        bound: 0.97,
    },
    Check {
        name: "malloc 128 KiB randread QD 32",
        bdev: "Malloc0",
        io_bytes: 128 << 10,
        bound: 0.99,
    },
    Check {
        name: "null 4 KiB randread QD 32",
        bdev: "Null0",
        io_bytes: 4096,
        bound: 0.90,
    },
];

const MEMORY_MIB: u32 = 512;

/// Ok(true): everything reached its bound.
pub(crate) fn run(args: &GateArgs) -> Result<bool, GateError> {
    match args.area {
        Area::Ground => Ok(ground(args)?),
        Area::Ec => Ok(crate::ec::gate(args.rounds)),
        Area::Ring => Ok(crate::ring::gate(args.rounds)),
        Area::Index => Ok(crate::index::gate(args.rounds)?),
        Area::Target => Ok(crate::target::gate(args.rounds, args.time, &args.mooncake)?),
        Area::Neighbours => Ok(crate::target::gate_neighbours(args.rounds, args.time)?),
        Area::Store => {
            let (rounds, directory) = (args.rounds, args.directory.clone());
            // In a program of its own, which has this thread's cores: the rest keeps to one.
            let good = crate::store::gate_node(rounds, args.time)?;
            let rest = crate::store::gate(rounds, args.time, &args.core_mask, directory.clone())?;
            let good = rest && good;
            let directory = directory.unwrap_or_else(std::env::temp_dir);
            let memory = PathBuf::from("/dev/shm");
            Ok(crate::restart::measure(args.blobs, &directory, &memory)? && good)
        }
    }
}

fn ground(args: &GateArgs) -> Result<bool, AgainstError> {
    let interrupt = Interrupt::install().map_err(AgainstError::Spawn)?;
    let peer = match &args.against {
        Some(path) => Bdevperf::at(path)?,
        None => Bdevperf::find()?,
    };
    let pages = args.no_huge.then_some(Pages::Normal);
    let arena = Arena::open(peer, pages, MEMORY_MIB, interrupt)?;
    say!("{}", arena.describe());
    say!(
        "{} rounds of {} s a side, IOPS, median of the rounds' ratios",
        args.rounds,
        args.time
    );
    say!("{}", head());
    let mut good = true;
    for check in &GROUND {
        let load = Load {
            creates: Create::by_name(check.bdev).into_iter().collect(),
            bdev: Some(check.bdev.to_owned()),
            cores: args.core_mask.clone(),
            workload: Workload::RandRead,
            io_bytes: check.io_bytes,
            depth: 32,
            read_percent: 100,
            seconds: args.time,
            all_cores: false,
            zipf_theta: None,
            memory_mib: MEMORY_MIB,
        };
        let outcome = arena.compare(&load, args.rounds, &mut |_, _| {})?;
        let clean = !outcome.short_of_clean;
        let (line, passed) = verdict(check.name, &outcome.iops, check.bound, clean);
        say!("{line}");
        if let Some(warning) = outcome.warning() {
            say!("{:<32} {warning}", "");
        }
        good &= passed;
    }
    // Figures without a bound, for the record.
    say!("");
    if let Err(error) = latency::run(&ReactorArgs::brief()) {
        say!("reactors were not measured: {error}");
    }
    Ok(good)
}

fn head() -> String {
    format!(
        "{:<32} {:>12} {:>12} {:>7} {:>15} {:>6}",
        "", "ours", "theirs", "ratio", "spread", "bound"
    )
}

/// The line, and whether it is a pass. What is printed decides: a ratio that
/// rounds to its bound has reached it. Rounds in which a side had to wait for
/// its core prove nothing, whichever way they came out.
fn verdict(name: &str, outcome: &Comparison, bound: f64, clean: bool) -> (String, bool) {
    let reached = (outcome.ratio * 1000.0).round() >= (bound * 1000.0).round();
    let word = match (clean, reached) {
        (false, _) => "UNCLEAR",
        (true, true) => "PASS",
        (true, false) => "SHORT",
    };
    let passed = clean && reached;
    let spread = format!("{:.3} to {:.3}", outcome.ratio_min, outcome.ratio_max);
    let line = format!(
        "{name:<32} {:>12.0} {:>12.0} {:>7.3} {spread:>15} {bound:>6.2} {word}",
        outcome.ours, outcome.theirs, outcome.ratio
    );
    (line, passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ratio: f64) -> Comparison {
        Comparison {
            ours: 970.0,
            theirs: 1000.0,
            ratio,
            ratio_min: 0.9,
            ratio_max: 1.1,
        }
    }

    #[test]
    fn the_line_names_both_sides_the_ratio_and_the_bound() {
        let (line, passed) = verdict("malloc", &outcome(0.9714), 0.97, true);
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "malloc", "970", "1000", "0.971", "0.900", "to", "1.100", "0.97", "PASS"
            ]
        );
        assert!(passed);
    }

    #[test]
    fn below_the_bound_is_short() {
        assert!(!verdict("malloc", &outcome(0.9690), 0.97, true).1);
        assert!(
            verdict("malloc", &outcome(0.9690), 0.97, true)
                .0
                .ends_with("SHORT")
        );
        assert!(verdict("malloc", &outcome(0.9700), 0.97, true).1);
    }

    #[test]
    fn rounds_without_a_core_prove_nothing() {
        let (line, passed) = verdict("malloc", &outcome(1.5), 0.97, false);
        assert!(line.ends_with("UNCLEAR") && !passed, "{line}");
    }

    #[test]
    fn every_bound_of_the_ground_is_held() {
        let bounds: Vec<_> = GROUND
            .iter()
            .map(|check| (check.bdev, check.io_bytes, check.bound))
            .collect();
        assert_eq!(
            bounds,
            [
                ("Malloc0", 4096, 0.97),
                ("Malloc0", 131_072, 0.99),
                ("Null0", 4096, 0.90)
            ]
        );
        assert!(
            GROUND
                .iter()
                .all(|check| Create::by_name(check.bdev).is_some())
        );
    }
}
