//! `oriel-perf node`: a store of one drive a core, and what several cores do beside one.
//!
//! ```text
//!   each round:   raw, 1 core ──► log, 1 core ──► node, 1 core ──► raw ──► apart ──► node, all cores
//! ```
//!
//! Each core has a drive of its own in memory and as many blobs in flight as any other. A blob goes to the drive that its
//! key says, so with two cores every second one is on the other core's. What the machine gives is what the raw devices gain
//! from more cores, and what as many stores do *apart*, each on one core and its drive: cores that share what they compute
//! with, as those of many virtual machines do, gain less by that than by copying. The store is held to that where it is less
//! than the bound.

mod side;
mod windows;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use oriel_spdk::CoreSet;
use serde::{Deserialize, Serialize};

pub(super) use self::side::{Node, Stores};
use super::load::{Sizes, Speed};
use super::rig::{Job, Kind, Rig, Side};
use super::{Drive, StorePerfError, check_room, ground};
use crate::against::ratio::median;
use crate::bdev::session::{Session, with_session};
use crate::cores;
use crate::out::say;
use crate::size;

/// Measures a store of many drives, one a core: several cores beside one.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// What is measured; may be given several times [default: put and get]
    #[arg(short = 'w', long)]
    workload: Vec<NodeKind>,
    /// Sizes of blobs; may be given several times [default: 4k and 128k]
    #[arg(short = 'o', long, value_parser = size::parse)]
    io_size: Vec<u64>,
    /// Blobs in flight on each core
    #[arg(short = 'q', long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    queue_depth: u32,
    /// Seconds for each measurement
    #[arg(short = 't', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    time: u32,
    /// How often each side is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Bytes of each core's drive in memory
    #[arg(long, default_value = "1G", value_parser = size::parse)]
    drive_size: u64,
    /// Do not let the store check what it reads
    #[arg(long)]
    no_verify: bool,
    /// The cores to use, as a mask or a list
    #[arg(short = 'm', long, default_value = "0x3", value_parser = cores::parse)]
    core_mask: BTreeSet<u32>,
    /// Seed of what is chosen at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NodeKind {
    /// New blobs, each answered when it is durable; on the raw device writes at random
    Put,
    /// Blobs read at random
    Get,
}

/// What a gain of `cores` cores may be short of what the raw devices or stores apart gain, where that is below the bound.
const OF_MACHINE: f64 = 0.95;
/// What a core adds, of what one alone does.
const EACH_CORE: f64 = 0.9;

/// What one side did, on one core or on all.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    side: String,
    cores: usize,
    blobs_per_second: f64,
    mib_per_second: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    /// Beside the same side on one core, of each round, the middle one.
    gain: Option<f64>,
    /// Of the node on one core: beside the log.
    beside_log: Option<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    workload: String,
    bytes: u64,
    lines: Vec<Line>,
}

impl Row {
    fn gain(&self, side: &str) -> Option<f64> {
        let mut of_side = self.lines.iter().filter(|line| line.side == side);
        of_side.find_map(|line| line.gain)
    }
}

const ONE_RAW: usize = 0;
const ONE_LOG: usize = 1;
const ONE_NODE: usize = 2;
const ALL_RAW: usize = 3;
const ALL_APART: usize = 4;
const ALL_NODE: usize = 5;
const SIDES: [&str; 6] = ["raw", "log", "node", "raw", "apart", "node"];

/// The signal that ended it, if one did.
pub(crate) fn run(args: &NodeArgs) -> Result<Option<i32>, StorePerfError> {
    if args.core_mask.len() < 2 {
        return Err(StorePerfError::OneCore);
    }
    let drives: Vec<Drive> = (0..args.core_mask.len())
        .map(|at| Drive::memory_named(&format!("Memory{at}"), args.drive_size))
        .collect();
    let ground = ground(args.core_mask.clone(), &drives.iter().collect::<Vec<_>>());
    let asked = args.clone();
    let (measured, signal) = with_session(ground, async move |session| {
        Ok(rows(session, &asked, &drives).await)
    })?;
    let rows = measured?;
    if args.json {
        let text = serde_json::to_string_pretty(&rows).expect("rows are plain data");
        say!("{text}");
    }
    Ok(signal)
}

async fn rows(
    session: &Session,
    args: &NodeArgs,
    drives: &[Drive],
) -> Result<Vec<Row>, StorePerfError> {
    let kinds = match &args.workload[..] {
        [] => &[NodeKind::Put, NodeKind::Get],
        chosen => chosen,
    };
    let sizes = match &args.io_size[..] {
        [] => &[4 << 10, 128 << 10],
        chosen => chosen,
    };
    let places: Vec<(String, u32)> = drives
        .iter()
        .map(|drive| drive.name.clone())
        .zip(args.core_mask.iter().copied())
        .collect();
    let first = places.first().ok_or(StorePerfError::OneCore)?;
    let rig = Rig {
        session,
        device: first.0.clone(),
        device_bytes: args.drive_size,
        core: first.1,
        directory: None,
        time: Duration::from_secs(args.time.into()),
        seed: args.seed,
        verify: !args.no_verify,
        counted: RefCell::new(None),
    };
    if !args.json {
        say!(
            "{} rounds of {} s a side, medians; gains are medians of the rounds' ratios",
            args.rounds,
            args.time
        );
        say!(
            "workload    size   QD  side  cores       blobs/s      MiB/s    p50 us    p99 us  beside one core"
        );
    }
    let job = |kind: &NodeKind, bytes: u64| Job {
        kind: match kind {
            NodeKind::Put => Kind::Randput,
            NodeKind::Get => Kind::Get,
        },
        sizes: Sizes::Fixed(bytes),
        depth: args.queue_depth,
        read_percent: 0,
        zipf_theta: 0.99,
    };
    let mut rows = Vec::new();
    for kind in kinds {
        for bytes in sizes {
            let job = job(kind, *bytes);
            check_room(&[job], args.drive_size)?;
            let row = measure(&rig, &job, *bytes, &places, args.rounds).await?;
            if !args.json {
                print(&row, job.depth());
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

async fn measure(
    rig: &Rig<'_>,
    job: &Job,
    bytes: u64,
    places: &[(String, u32)],
    rounds: u32,
) -> Result<Row, StorePerfError> {
    let mut speeds: [Vec<Speed>; 6] = Default::default();
    for _ in 0..rounds {
        speeds[ONE_RAW].push(rig.measure(Side::Raw, job).await?);
        speeds[ONE_LOG].push(rig.measure(Side::Store, job).await?);
        let node = async |places, stores| Node::measure(rig, job, places, stores).await;
        speeds[ONE_NODE].push(node(&places[..1], Stores::One).await?);
        speeds[ALL_RAW].push(rig.raw_on(job, places).await?);
        speeds[ALL_APART].push(node(places, Stores::Apart).await?);
        speeds[ALL_NODE].push(node(places, Stores::One).await?);
    }
    let ratio = |ours: usize, theirs: usize| {
        let pairs = speeds[ours].iter().zip(&speeds[theirs]);
        let ratios = pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second.max(1e-9));
        median(ratios.collect())
    };
    let line = |(at, of_side): (usize, &Vec<Speed>)| {
        let of = |figure: fn(&Speed) -> Option<f64>| {
            let there: Vec<f64> = of_side.iter().filter_map(figure).collect();
            (!there.is_empty()).then(|| median(there))
        };
        Line {
            side: SIDES[at].into(),
            cores: if at < ALL_RAW { 1 } else { places.len() },
            blobs_per_second: of(|speed| Some(speed.per_second)).unwrap_or(0.0),
            mib_per_second: of(|speed| Some(speed.mib_per_second)).unwrap_or(0.0),
            p50_us: of(|speed| speed.p50_us),
            p99_us: of(|speed| speed.p99_us),
            gain: match at {
                ALL_RAW => Some(ratio(ALL_RAW, ONE_RAW)),
                ALL_APART => Some(ratio(ALL_APART, ONE_NODE)),
                ALL_NODE => Some(ratio(ALL_NODE, ONE_NODE)),
                _ => None,
            },
            beside_log: (at == ONE_NODE).then(|| ratio(ONE_NODE, ONE_LOG)),
        }
    };
    Ok(Row {
        workload: if job.read_percent() == 100 {
            "get"
        } else {
            "put"
        }
        .into(),
        bytes,
        lines: speeds.iter().enumerate().map(line).collect(),
    })
}

fn print(row: &Row, depth: u32) {
    for (at, line) in row.lines.iter().enumerate() {
        let head = match at {
            0 => format!("{:<8} {:>7} {depth:>4}", row.workload, row.bytes),
            _ => format!("{:21}", ""),
        };
        let us = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| format!("{us:.1}"));
        let beside = match (line.gain, line.beside_log) {
            (Some(gain), _) => format!("{gain:.3}"),
            (_, Some(ratio)) => format!("({ratio:.3} of the log)"),
            _ => String::new(),
        };
        let line = format!(
            "{head}  {:<5} {:>5} {:>13.0} {:>10.1} {:>9} {:>9}  {beside}",
            line.side,
            line.cores,
            line.blobs_per_second,
            line.mib_per_second,
            us(line.p50_us),
            us(line.p99_us),
        );
        say!("{}", line.trim_end());
    }
}

/// Whether the store gains enough, and the bound that says so.
fn verdict(store: f64, machine: f64, cores: usize) -> (bool, f64) {
    let bound = (cores as f64 * EACH_CORE).min(machine * OF_MACHINE);
    // What is printed decides.
    ((store * 1000.0).round() >= (bound * 1000.0).round(), bound)
}

/// Measures in a program of its own, on two cores; prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(rounds: u32, seconds: u32) -> Result<bool, StorePerfError> {
    let two = CoreSet::allowed().first(2);
    if two.iter().count() < 2 {
        say!("two cores beside one: not measured, there is one core here");
        return Ok(true);
    }
    let list: Vec<String> = two.iter().map(|core| core.to_string()).collect();
    let program = std::env::current_exe().map_err(StorePerfError::Program)?;
    let output = Command::new(program)
        .args([
            "node",
            "--json",
            "--core-mask",
            &format!("[{}]", list.join(",")),
        ])
        .args([
            "--rounds",
            &rounds.to_string(),
            "--time",
            &seconds.to_string(),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(StorePerfError::Program)?;
    let rows: Option<Vec<Row>> = serde_json::from_slice(&output.stdout).ok();
    let rows = rows.filter(|_| output.status.success());
    let rows = rows.ok_or(StorePerfError::ProgramEnded(output.status))?;
    let mut good = true;
    for row in &rows {
        let gains = [row.gain("node"), row.gain("raw"), row.gain("apart")];
        let [Some(store), Some(raw), Some(apart)] = gains else {
            continue;
        };
        let (passed, bound) = verdict(store, raw.min(apart), 2);
        good &= passed;
        let name = format!("two cores, {} {} KiB", row.workload, row.bytes >> 10);
        say!(
            "{name:<28} store gains {store:.3}, raw {raw:.3}, stores apart {apart:.3}; bound {bound:.3} {}",
            if passed { "PASS" } else { "SHORT" }
        );
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_cores_have_to_give_more_unless_the_drives_do_not() {
        assert_eq!(verdict(1.8, 2.0, 2), (true, 1.8));
        assert_eq!(verdict(1.79, 2.0, 2), (false, 1.8));
        assert!(verdict(1.15, 1.2, 2).0);
        assert!(!verdict(1.13, 1.2, 2).0);
    }
}
