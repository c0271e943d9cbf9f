//! `oriel-perf bdev`: loads on bdevs, as SPDK's bdevperf runs them.
//!
//! ```text
//!   args ── plan ──► session: environment, reactors, bdevs
//!                      └─ crew (one for each core)
//!                           └─ job ── course, pattern, limits, latencies
//!   against: the same plan here and in SPDK's bdevperf, in turn
//! ```

pub(crate) mod args;
pub(crate) mod crew;
mod job;
mod load_error;
pub(crate) mod plan;
mod rpc;
pub(crate) mod session;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use self::args::BdevArgs;
use self::crew::{RunOptions, Start};
use self::plan::{Plan, PlanError};
use self::session::{Ground, SessionError, with_session};
use crate::against::bdevperf::Bdevperf;
use crate::against::ratio::Comparison;
use crate::against::{AgainstError, Arena, Load, Pages};
use crate::interrupt::Interrupt;
use crate::load::workload::Workload;
use crate::out::{self, say};
use crate::report::{self, JobReport, Report};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BdevError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Against(#[from] AgainstError),
    #[error("{bdev}: {error}")]
    Load { bdev: String, error: String },
    #[error(
        "{0} has no counterpart in bdevperf, so there is nothing to compare: leave it out, or leave --against out"
    )]
    NotComparable(&'static str),
}

/// The signal that ended it, if one did.
pub(crate) fn run(args: &BdevArgs) -> Result<Option<i32>, BdevError> {
    let plan = plan::plan(args)?;
    if args.read_percent.is_some()
        && args.job_file.is_none()
        && !args.workload.is_some_and(Workload::is_mix)
    {
        out::complain(format_args!("-M is only looked at with -w rw or randrw"));
    }
    match &args.against {
        Some(peer) => against(args, plan, peer).map(|()| None),
        None => load(args, plan),
    }
}

fn options(args: &BdevArgs, jobs: usize) -> RunOptions {
    let share = |all: u64| all as f64 / jobs as f64;
    RunOptions {
        time: Duration::from_secs(args.time.into()),
        times_every_io: args.times_every_io(),
        prints_histogram: args.prints_histogram(),
        keep_going: args.keep_going,
        timeout: args
            .timeout
            .map(|seconds| Duration::from_secs(seconds.into())),
        zipf_theta: args.zipf,
        verify: args.verify,
        iops_max: args.rate_iops.map(share),
        bytes_per_second_max: args.rate_mbps.map(|mbps| share(mbps << 20)),
        seed: args.seed,
    }
}

fn pages(args: &BdevArgs) -> Option<Pages> {
    match (args.huge, args.no_huge) {
        (true, _) => Some(Pages::Huge),
        (_, true) => Some(Pages::Normal),
        _ => None,
    }
}

fn load(args: &BdevArgs, plan: Plan) -> Result<Option<i32>, BdevError> {
    let options = options(args, plan.jobs.len());
    let ground = Ground {
        cores: plan.cores,
        memory_mib: plan.memory_mib,
        pages: pages(args),
        creates: plan.creates,
    };
    let (jobs, json, period) = (plan.jobs, args.json, args.period);
    let core_count = jobs
        .iter()
        .map(|job| job.core)
        .collect::<BTreeSet<_>>()
        .len();
    let socket = args.wait_for_tests.then(|| args.rpc_socket.clone());
    let (results, signal) = with_session(ground, async move |session| {
        let run = async || {
            if !json {
                say!("Running I/O for {} seconds...", options.time.as_secs());
            }
            let mut ticker = Ticker::new(period.filter(|_| !json), &jobs);
            let mut watch = |start: &Start, elapsed| ticker.show(start, elapsed);
            session.load(&jobs, &options, &mut watch).await
        };
        match socket {
            None => run().await,
            Some(socket) => on_request(&socket, core_count, run).await,
        }
    })?;
    if args.wait_for_tests && results.is_empty() {
        return Ok(signal);
    }
    let report = Report {
        results,
        core_count,
    };
    if json {
        say!(
            "{}",
            serde_json::to_string_pretty(&report).expect("a report is plain data")
        );
    } else {
        out::write(format_args!("{}", report.table()));
        print_sampling_note(args);
    }
    if let Some((bdev, error)) = report.failure() {
        return Err(BdevError::Load {
            bdev: bdev.to_owned(),
            error: error.to_owned(),
        });
    }
    Ok(signal)
}

/// Runs the jobs whenever a client asks for it; the last results are the
/// program's own.
async fn on_request(
    socket: &Path,
    core_count: usize,
    run: impl AsyncFn() -> Result<Vec<JobReport>, SessionError>,
) -> Result<Vec<JobReport>, SessionError> {
    let server = rpc::Server::listen(socket)?;
    let mut last = Vec::new();
    while let Some((call, client)) = server.next_call().await {
        if call == rpc::Call::Kill {
            client.succeed(true.into());
            break;
        }
        last = run().await?;
        let report = Report {
            results: last,
            core_count,
        };
        match report.failure() {
            Some((bdev, error)) => client.fail(&format!("{bdev}: {error}")),
            None => client.succeed(serde_json::to_value(&report).expect("a report is plain data")),
        }
        last = report.results;
    }
    Ok(last)
}

fn print_sampling_note(args: &BdevArgs) {
    if !args.times_every_io() && args.timeout.is_none() {
        say!(
            "\n Latency is that of one I/O in {}; -l times every one and adds percentiles.",
            job::SAMPLE_EVERY
        );
    }
}

/// What `-S` prints: the mean speed of each job since the start.
struct Ticker {
    period: Option<Duration>,
    next: Duration,
    jobs: Vec<(String, u64)>,
}

impl Ticker {
    fn new(period: Option<u32>, jobs: &[plan::JobPlan]) -> Self {
        let period = period.map(|seconds| Duration::from_secs(seconds.into()));
        let jobs = jobs
            .iter()
            .map(|job| (job.bdev.clone(), job.io_bytes))
            .collect();
        Self {
            period,
            next: period.unwrap_or(Duration::MAX),
            jobs,
        }
    }

    fn show(&mut self, start: &Start, elapsed: Duration) {
        let Some(period) = self.period.filter(|_| elapsed >= self.next) else {
            return;
        };
        self.next += period;
        let seconds = elapsed.as_secs_f64();
        let mut total = (0.0, 0.0);
        for ((name, io_bytes), progress) in self.jobs.iter().zip(&start.progress) {
            let per_second = |count: u64| count as f64 / seconds;
            let iops = per_second(progress.completed.load(Ordering::Relaxed));
            let mibps = iops * *io_bytes as f64 / f64::from(1 << 20);
            let failed = per_second(progress.failed.load(Ordering::Relaxed));
            let late = per_second(progress.timed_out.load(Ordering::Relaxed));
            say!(
                "{}",
                report::live_row(name, seconds, [iops, mibps], [failed, late])
            );
            total = (total.0 + iops, total.1 + mibps);
        }
        say!(
            "{}",
            report::live_row("Total", seconds, [total.0, total.1], [0.0, 0.0])
        );
    }
}

fn against(args: &BdevArgs, plan: Plan, peer: &Path) -> Result<(), BdevError> {
    let ours_only = [
        (args.verify, "--verify"),
        (args.rate_iops.is_some(), "--rate-iops"),
        (args.rate_mbps.is_some(), "--rate-mbps"),
        (args.json, "--json"),
    ];
    if let Some((_, flag)) = ours_only.into_iter().find(|(set, _)| *set) {
        return Err(BdevError::NotComparable(flag));
    }
    let job = plan.jobs.first().ok_or(PlanError::NoBdev)?;
    let load = Load {
        bdev: args
            .bdev
            .clone()
            .or_else(|| args.file.as_ref().map(|_| job.bdev.clone())),
        workload: job.workload,
        io_bytes: job.io_bytes,
        depth: job.depth,
        read_percent: job.read_percent,
        cores: plan.cores,
        seconds: args.time,
        all_cores: args.all_cores,
        zipf_theta: args.zipf,
        memory_mib: plan.memory_mib,
        creates: plan.creates,
    };
    let interrupt = Interrupt::install().map_err(AgainstError::Spawn)?;
    let arena = Arena::open(
        Bdevperf::at(peer).map_err(AgainstError::from)?,
        pages(args),
        plan.memory_mib,
        interrupt,
    )?;
    say!("{}", arena.describe());
    say!(
        "{:>5} {:>14} {:>14} {:>7}",
        "round",
        "ours IOPS",
        "theirs IOPS",
        "ratio"
    );
    let outcome = arena.compare(&load, args.rounds, &mut |round, sides| {
        let ratio = sides.ours.iops / sides.theirs.iops;
        let note = if sides.is_disturbed() {
            "  a side waited for its core"
        } else {
            ""
        };
        say!(
            "{round:>5} {:>14.2} {:>14.2} {ratio:>7.3}{note}",
            sides.ours.iops,
            sides.theirs.iops
        );
    })?;
    let Comparison {
        ours,
        theirs,
        ratio,
        ratio_min,
        ratio_max,
    } = outcome.iops;
    say!(
        "IOPS  {ours:>14.2} {theirs:>14.2} {ratio:>7.3}  (median of the rounds; ratio from {ratio_min:.3} to {ratio_max:.3})"
    );
    say!(
        "MiB/s {:>14.2} {:>14.2}",
        outcome.mibps.ours,
        outcome.mibps.theirs
    );
    if let Some(warning) = outcome.warning() {
        say!("{warning}");
    }
    Ok(())
}
