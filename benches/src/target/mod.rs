//! `oriel-perf target` and the area `target` of `oriel-perf gate`: a node's windows beside SPDK's own target.
//!
//! ```text
//!   core A, two programs, one of them stopped        core B, one program at a time
//!   SPDK's target ── memory drive  "raw"    ◄── TCP ── SPDK's initiator   reads at random
//!                 ── thick lvol    "lvol"   ◄────┤
//!                 ── null drive    "null"        └──── ours, without SPDK, polled or with a thread of its own
//!   a node        ── a realm on a store  "oriel"
//! ```
//!
//! The targets are programs of their own, since v20.07 cannot have two with the same transport in one. Whoever is not
//! measured is stopped (SIGSTOP): it would poll on the same core. Mooncake's store, where there is one, is started for each
//! of its measurements, and has both cores. Gets stand beside plain sockets on the same cores, too, which is what the kernel gives.
//!
//! All sides have drives in memory of the same size, transports of the same settings, and one connection. What is read is
//! equally much everywhere: of the node the windows of its blobs, of the others as many places of the same length.

mod gate;
mod host;
mod loopback;
mod lvol;
mod mooncake;
mod neighbours;
mod plan;
mod serve;
mod table;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use clap::{Args, Subcommand, ValueEnum};
use oriel_spdk::CoreSet;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::bdev::session::SessionError;
use crate::cores;
use crate::out::say;
use crate::size;
pub(crate) use gate::gate;
pub(crate) use mooncake::MooncakeArgs;
pub(crate) use neighbours::{NeighboursArgs, gate as gate_neighbours, run as run_neighbours};
use plan::{Initiator, Kind, Plan, Served, Side, Speed};
use table::{Row, Rows};

/// Measures a node's windows beside SPDK's own target, over NVMe/TCP on this machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// Sizes of reads; may be given several times [default: 4k, 128k and 1M]
    #[arg(short = 'o', long, value_parser = size::parse)]
    io_size: Vec<u64>,
    /// Reads in flight; may be given several times [default: 1 and 32]
    #[arg(short = 'q', long, value_parser = clap::value_parser!(u32).range(1..=128))]
    queue_depth: Vec<u32>,
    /// Seconds for each measurement
    #[arg(short = 't', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    time: u32,
    /// How often each side is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// The cores of the targets and of the initiators, as a list [default: the first two]
    #[arg(short = 'm', long, value_parser = cores::parse)]
    core_mask: Option<BTreeSet<u32>>,
    #[command(flatten)]
    mooncake: MooncakeArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the other programs do.
#[derive(Debug, Clone, Args)]
pub(crate) struct SideArgs {
    #[command(subcommand)]
    side: OneSide,
}

#[derive(Debug, Clone, Subcommand)]
enum OneSide {
    /// A target.
    Serve { core: u32, which: Which },
    /// One measurement, by a plan on standard input.
    Host { core: u32 },
    /// A node with neighbours.
    Node { core: u32 },
    /// A neighbour, by a line on standard input.
    Neighbour { core: u32 },
}

/// A program with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// SPDK's own, with all other sides.
    Peer,
    /// A node.
    Node,
}

impl Which {
    /// The program that serves a side, if one of these does.
    fn of(side: Side) -> Option<Self> {
        match side {
            Side::Oriel => Some(Self::Node),
            Side::Raw | Side::Lvol | Side::Null => Some(Self::Peer),
            Side::Mooncake | Side::Loopback | Side::Copied => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TargetError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("targets and initiators need a core each, and there is one: use a machine with two")]
    OneCore,
    #[error("a side's program cannot be started: {0}")]
    Program(std::io::Error),
    #[error("a side's program ended with {0}: what it said stands above")]
    Ended(ExitStatus),
    #[error("a target's program does not serve: what it said stands above")]
    NotServing,
    #[error("a side's program said what makes no sense: {0}")]
    Nonsense(String),
    #[error("{0}")]
    Side(String),
}

/// Does what a side's program is for; the signal that ended it, if one did.
pub(crate) fn side(args: &SideArgs) -> Result<Option<i32>, TargetError> {
    // One that is stopped would not see that nobody needs it any more.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| TargetError::Program(error.into()))?;
    match args.side {
        OneSide::Serve { core, which } => serve::run(core, which),
        OneSide::Host { core } => host::run(core).map(|()| None),
        OneSide::Node { core } => neighbours::node(core),
        OneSide::Neighbour { core } => neighbours::neighbour(core).map(|()| None),
    }
}

/// The programs with the targets, which end when this is dropped.
struct Targets {
    programs: Vec<Server>,
    cores: [u32; 2],
    mooncake: MooncakeArgs,
    served: Served,
}

struct Server {
    which: Which,
    child: Child,
    input: Option<ChildStdin>,
}

fn program(what: &str, core: u32) -> Result<Command, TargetError> {
    let program = std::env::current_exe().map_err(TargetError::Program)?;
    let mut command = Command::new(program);
    command
        .args(["target-side", what, &core.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Ok(command)
}

impl Server {
    fn start(core: u32, which: Which) -> Result<(Self, Served), TargetError> {
        let name = match which {
            Which::Peer => "peer",
            Which::Node => "node",
        };
        let mut child = program("serve", core)?
            .arg(name)
            .spawn()
            .map_err(TargetError::Program)?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        let mut line = String::new();
        if let Some(output) = output {
            let read = BufReader::new(output).read_line(&mut line);
            read.map_err(TargetError::Program)?;
        }
        let server = Self {
            which,
            child,
            input,
        };
        match serde_json::from_str(&line) {
            Ok(served) => {
                server.signal(Signal::STOP)?;
                Ok((server, served))
            }
            Err(_) => Err(TargetError::NotServing),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), TargetError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| TargetError::Program(error.into()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is its sign to end. If it has ended by itself, it does not matter how.
        drop(self.input.take());
        let _ = self.signal(Signal::CONT);
        let _ = self.child.wait();
    }
}

impl Targets {
    fn start(cores: [u32; 2], mooncake: &MooncakeArgs) -> Result<Self, TargetError> {
        let core = cores[0];
        let (peer, mut served) = Server::start(core, Which::Peer)?;
        let (node, of_node) = Server::start(core, Which::Node)?;
        served.sides.extend(of_node.sides);
        served.windows = of_node.windows;
        Ok(Self {
            programs: vec![peer, node],
            cores,
            mooncake: mooncake.clone(),
            served,
        })
    }

    fn has(&self, side: Side) -> bool {
        match side {
            Side::Mooncake => self.mooncake.is_there(),
            Side::Loopback | Side::Copied => true,
            side => self.served.has(side),
        }
    }

    /// Does one thing for so many seconds.
    fn measure(
        &self,
        (side, initiator): (Side, Initiator),
        job: (Kind, u64, u32),
        (round, seconds): (u32, u32),
    ) -> Result<Speed, TargetError> {
        for program in &self.programs {
            program.signal(match Which::of(side) == Some(program.which) {
                true => Signal::CONT,
                false => Signal::STOP,
            })?;
        }
        let how = (seconds, side == Side::Copied);
        match side {
            Side::Mooncake => self.mooncake.measure(self.cores, job, (round, seconds)),
            Side::Loopback | Side::Copied => loopback::measure(self.cores, (job.1, job.2), how),
            _ => {
                let plan = self.served.plan(side, initiator, job);
                measure(self.cores[1], &plan.timed(seconds, round.into()))
            }
        }
    }
}

/// One measurement, in a program of its own.
fn measure(core: u32, plan: &Plan) -> Result<Speed, TargetError> {
    let mut child = program("host", core)?
        .spawn()
        .map_err(TargetError::Program)?;
    if let Some(mut input) = child.stdin.take() {
        let text = serde_json::to_string(plan).expect("a plan is plain data");
        // If it has ended, its status says so below.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(TargetError::Program)?;
    if !output.status.success() {
        return Err(TargetError::Ended(output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).map_err(|_| TargetError::Nonsense(text))
}

fn two_cores(asked: Option<&BTreeSet<u32>>) -> Result<[u32; 2], TargetError> {
    let cores: Vec<u32> = match asked {
        Some(cores) => cores.iter().copied().collect(),
        None => CoreSet::allowed().first(2).iter().collect(),
    };
    match cores[..] {
        [first, second, ..] => Ok([first, second]),
        _ => Err(TargetError::OneCore),
    }
}

/// What is measured, each side in turn.
fn rows(
    targets: &Targets,
    jobs: &[(Kind, u64, u32)],
    (rounds, seconds): (u32, u32),
    mut shown: impl FnMut(&Row),
) -> Result<Rows, TargetError> {
    let mut rows = Rows::default();
    for &(kind, bytes, depth) in jobs {
        let sides = table::sides(kind, |side| targets.has(side));
        let mut speeds = vec![Vec::new(); sides.len()];
        for round in 0..rounds {
            for (side, speeds) in sides.iter().zip(&mut speeds) {
                let job = (table::kind_at(kind, side.0), bytes, depth);
                speeds.push(targets.measure(*side, job, (round, seconds))?);
            }
        }
        let row = Row::new(kind, bytes, depth, &sides, &speeds);
        shown(&row);
        rows.0.push(row);
    }
    Ok(rows)
}

pub(crate) fn run(args: &TargetArgs) -> Result<(), TargetError> {
    let cores = two_cores(args.core_mask.as_ref())?;
    let targets = Targets::start(cores, &args.mooncake)?;
    let sizes = match &args.io_size[..] {
        [] => &plan::SIZES[..],
        chosen => chosen,
    };
    if let Some(other) = sizes.iter().find(|size| !plan::SIZES.contains(size)) {
        return Err(TargetError::Side(format!(
            "blobs are of 4k, 128k and 1M, not of {other} bytes: choose among these"
        )));
    }
    let depths = match &args.queue_depth[..] {
        [] => &[1, 32],
        chosen => chosen,
    };
    let mut jobs = Vec::new();
    for &bytes in sizes {
        jobs.extend(depths.iter().map(|&depth| (Kind::Read, bytes, depth)));
    }
    for kind in [Kind::Locate, Kind::Put] {
        jobs.extend(depths.iter().map(|&depth| (kind, plan::SIZES[0], depth)));
    }
    let gets = depths.iter();
    jobs.extend(gets.map(|&depth| (Kind::Get, plan::SIZES[2], depth)));
    if !args.json {
        say!(
            "{} rounds of {} s a side, medians; oriel / it: medians of the rounds' ratios",
            args.rounds,
            args.time
        );
        if !targets.served.has(Side::Lvol) {
            say!("this SPDK was built without logical volumes, so that side is left out");
        }
        say!("{}", table::HEAD);
    }
    let each = (args.rounds, args.time);
    let rows = rows(&targets, &jobs, each, |row| {
        if !args.json {
            row.lines().iter().for_each(|line| say!("{line}"));
        }
    })?;
    if args.json {
        let text = serde_json::to_string_pretty(&rows).expect("rows are plain data");
        say!("{text}");
    }
    Ok(())
}
