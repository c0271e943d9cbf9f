//! The jobs of one core: opened, started together with those of the other
//! cores, ticked, and reported.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use oriel_engine::reactor::{handle, sleep};
use oriel_spdk::bdev::{Access, BdevDesc, BdevEvent, ChannelError, IoKind, OpenError};
use oriel_spdk::dma::NoDmaMemory;
use oriel_spdk::{DmaBuf, ticks};

use super::job::{Behaviour, Counts, Load};
use super::load_error::LoadError;
use super::plan::{JobPlan, Part};
use crate::cores;
use crate::load::course::{Course, CourseSpec, Phase};
use crate::load::pattern::Pattern;
use crate::load::rate::Limits;
use crate::load::workload::Workload;
use crate::report::{JobReport, Status, VerifyRange};

/// How all jobs of a run behave.
#[derive(Debug, Clone)]
pub(crate) struct RunOptions {
    pub(crate) time: Duration,
    pub(crate) times_every_io: bool,
    pub(crate) prints_histogram: bool,
    pub(crate) keep_going: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) zipf_theta: Option<f64>,
    pub(crate) verify: bool,
    /// For one job: its part of what all may do together.
    pub(crate) iops_max: Option<f64>,
    pub(crate) bytes_per_second_max: Option<f64>,
    pub(crate) seed: u64,
}

/// Why a job could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SetupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Memory(#[from] NoDmaMemory),
    #[error(
        "{bdev} has blocks of {block_bytes} bytes, and -o {io_bytes} is no multiple of that: give one"
    )]
    IoSize {
        bdev: String,
        io_bytes: u64,
        block_bytes: u32,
    },
    #[error(
        "the part of {bdev} that a job has is {blocks} blocks, too small for one I/O of {io_bytes} bytes: give less with -o, or a larger drive"
    )]
    TooSmall {
        bdev: String,
        blocks: u64,
        io_bytes: u64,
    },
    #[error(
        "blocks {first} to {last} are not on {bdev}, which ends at block {end}: change offset or length of the job"
    )]
    Beyond {
        bdev: String,
        first: u64,
        last: u64,
        end: u64,
    },
    #[error("{bdev} does not support {workload}: take another -w or another bdev")]
    Unsupported { bdev: String, workload: Workload },
}

/// A job's place on its bdev, for finding jobs that would spoil each other's data.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bdev: String,
    pub(crate) first_block: u64,
    pub(crate) end_block: u64,
    pub(crate) checks: bool,
    pub(crate) writes: bool,
}

/// What one job shows while it runs.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) timed_out: AtomicU64,
}

const WAIT: u8 = 0;
const GO: u8 = 1;
const GIVE_UP: u8 = 2;

/// What the cores of one run share.
#[derive(Debug)]
pub(crate) struct Start {
    signal: AtomicU8,
    pub(crate) opened: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    pub(crate) places: std::sync::Mutex<Vec<Place>>,
    pub(crate) progress: Vec<Progress>,
}

impl Start {
    pub(crate) fn new(jobs: usize) -> Self {
        Self {
            signal: AtomicU8::new(WAIT),
            opened: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            places: std::sync::Mutex::default(),
            progress: (0..jobs).map(|_| Progress::default()).collect(),
        }
    }

    pub(crate) fn go(&self) {
        self.signal.store(GO, Ordering::Release);
    }

    pub(crate) fn give_up(&self) {
        self.signal.store(GIVE_UP, Ordering::Release);
    }
}

/// Between two ticks of a job; a rate limit wants finer steps.
const TICK: Duration = Duration::from_millis(1);
const TICK_LIMITED: Duration = Duration::from_micros(50);
/// bdevperf resets every 10 s, which a short run never sees.
const RESET_PERIOD: Duration = Duration::from_secs(1);
/// Tags take five bytes of memory for each unit of a verified range.
const VERIFIED_UNITS_MAX: u64 = 1 << 26;

/// Runs the jobs of the current core; each with its number among all jobs.
/// Counts itself into `opened` and `ended` whatever happens.
pub(crate) async fn run(
    jobs: Vec<(usize, JobPlan)>,
    options: RunOptions,
    start: std::sync::Arc<Start>,
) -> Result<Vec<(usize, JobReport)>, SetupError> {
    let opened: Result<Vec<_>, _> = jobs
        .into_iter()
        .map(|(index, plan)| Job::open(index, plan, &options))
        .collect();
    if let Ok(jobs) = &opened
        && let Ok(mut places) = start.places.lock()
    {
        places.extend(jobs.iter().map(Job::place));
    }
    start.opened.fetch_add(1, Ordering::AcqRel);
    let result = match opened {
        Ok(jobs) => Ok(attend(jobs, &options, &start).await),
        Err(error) => Err(error),
    };
    start.ended.fetch_add(1, Ordering::AcqRel);
    result
}

async fn attend(
    mut jobs: Vec<Job>,
    options: &RunOptions,
    start: &Start,
) -> Vec<(usize, JobReport)> {
    while start.signal.load(Ordering::Acquire) == WAIT {
        sleep(Duration::from_micros(100)).await;
    }
    if start.signal.load(Ordering::Acquire) == GIVE_UP {
        return jobs.into_iter().map(|job| job.report(options)).collect();
    }
    let limited = options.iops_max.is_some() || options.bytes_per_second_max.is_some();
    let tick = if limited { TICK_LIMITED } else { TICK };
    for job in &mut jobs {
        job.begin(ticks::now());
    }
    loop {
        sleep(tick).await;
        let stopping = handle().is_stopping();
        let mut busy = false;
        for job in &mut jobs {
            busy |= job.tick(ticks::now(), stopping);
            job.show(&start.progress[job.index]);
        }
        if !busy {
            return jobs.into_iter().map(|job| job.report(options)).collect();
        }
    }
}

/// A job with its bdev open.
struct Job {
    index: usize,
    plan: JobPlan,
    load: Rc<Load>,
    desc: BdevDesc,
    removed: Rc<Cell<bool>>,
    first_block: u64,
    units: u64,
    unit_blocks: u64,
    depth: u32,
    verified: bool,
    time_ticks: u64,
    /// Of the measured phase.
    started_ticks: u64,
    next_reset_ticks: u64,
    terminated: bool,
    done: bool,
    measured: Option<(Counts, f64)>,
}

impl Job {
    fn open(index: usize, plan: JobPlan, options: &RunOptions) -> Result<Self, SetupError> {
        let verified = options.verify || plan.workload.reads_back();
        let access = if verified || !plan.workload.only_reads() {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let removed = Rc::new(Cell::new(false));
        let on_event = Rc::clone(&removed);
        let desc = BdevDesc::open(&plan.bdev, access, move |event| {
            on_event.set(on_event.get() || event == BdevEvent::Removed)
        })?;
        check_kind(&plan, &desc)?;
        let (first_block, units, unit_blocks) = range(&plan, &desc)?;
        let units = if verified {
            units.min(VERIFIED_UNITS_MAX)
        } else {
            units
        };
        let depth = if verified {
            u64::from(plan.depth).min(units) as u32
        } else {
            plan.depth
        };
        let seed = options.seed.wrapping_add(index as u64);
        let course = Course::new(CourseSpec {
            workload: plan.workload,
            read_percent: plan.read_percent,
            units,
            zipf_theta: options.zipf_theta,
            verify: verified.then(|| Pattern::new(seed, desc.block_size() as usize)),
            unit_blocks,
            first_block,
            seed,
        });
        let limits = Limits::new(
            options.iops_max,
            options.bytes_per_second_max,
            ticks::per_second(),
            ticks::now(),
        );
        let behaviour = Behaviour {
            workload: plan.workload,
            unit_blocks,
            // A plan holds no I/O beyond 64 MiB.
            io_bytes: plan.io_bytes as u32,
            times_every_io: options.times_every_io,
            keep_going: options.keep_going,
            timeout_ticks: options.timeout.map_or(0, to_ticks),
            verified,
        };
        let channel = desc.channel()?;
        let buffer = || DmaBuf::zeroed(plan.io_bytes as usize, desc.buffer_align());
        let buffers = (0..depth)
            .map(|_| buffer())
            .collect::<Result<Vec<_>, _>>()?;
        let load = Load::new(channel, course, limits, behaviour, buffers);
        if plan.workload == Workload::Reset {
            load.add_reset_task(buffer()?);
        }
        Ok(Self {
            index,
            load,
            removed,
            first_block,
            units,
            unit_blocks,
            depth,
            verified,
            time_ticks: to_ticks(options.time),
            started_ticks: 0,
            next_reset_ticks: u64::MAX,
            terminated: false,
            done: false,
            measured: None,
            plan,
            desc,
        })
    }

    fn place(&self) -> Place {
        Place {
            bdev: self.plan.bdev.clone(),
            first_block: self.first_block,
            end_block: self.first_block + self.units * self.unit_blocks,
            checks: self.verified,
            writes: self.verified || self.plan.workload.changes_data(),
        }
    }

    fn begin(&mut self, now_ticks: u64) {
        self.started_ticks = now_ticks;
        if self.plan.workload == Workload::Reset {
            self.next_reset_ticks = now_ticks + to_ticks(RESET_PERIOD);
        }
        self.load.start_phase(now_ticks);
    }

    /// Sees to the job; false once it is done.
    fn tick(&mut self, now_ticks: u64, stopping: bool) -> bool {
        if self.done {
            return false;
        }
        if self.removed.get() {
            self.load.fail(LoadError::Removed);
        }
        let measuring = self.load.phase() == Phase::Measure;
        let time_is_up =
            measuring && now_ticks.saturating_sub(self.started_ticks) >= self.time_ticks;
        // Only what cuts a run short is a termination.
        self.terminated |= stopping && !time_is_up && self.measured.is_none();
        if stopping || time_is_up {
            self.load.drain();
        } else if now_ticks >= self.next_reset_ticks {
            self.load.reset_drive();
            self.next_reset_ticks = now_ticks + to_ticks(RESET_PERIOD);
        }
        self.load.tick(now_ticks);
        // In the measured phase a quiet load may just be waiting for its limit.
        let over = !measuring || stopping || time_is_up || self.load.has_failed();
        if over && self.load.is_quiet() {
            self.next_phase(now_ticks, stopping);
        }
        !self.done
    }

    fn next_phase(&mut self, now_ticks: u64, stopping: bool) {
        if self.load.phase() == Phase::Measure {
            let ticks = self.load.last_ticks().saturating_sub(self.started_ticks);
            self.measured = Some((
                self.load.counts(),
                ticks as f64 / ticks::per_second() as f64,
            ));
        }
        match self.load.advance() {
            Some(phase) if !stopping && !self.load.has_failed() => {
                if phase == Phase::Measure {
                    self.started_ticks = now_ticks;
                } else {
                    self.next_reset_ticks = u64::MAX;
                }
                self.load.start_phase(now_ticks);
            }
            _ => self.done = true,
        }
    }

    fn show(&self, progress: &Progress) {
        let counts = self.load.counts();
        progress
            .completed
            .store(counts.completed, Ordering::Relaxed);
        progress.failed.store(counts.failed, Ordering::Relaxed);
        progress
            .timed_out
            .store(counts.timed_out, Ordering::Relaxed);
    }

    fn report(self, options: &RunOptions) -> (usize, JobReport) {
        let (latencies, error) = self.load.finish();
        let hz = ticks::per_second();
        let (counts, runtime) = self.measured.unwrap_or_default();
        let iops = if runtime > 0.0 {
            counts.completed as f64 / runtime
        } else {
            0.0
        };
        let summary = latencies.summary(hz);
        let status = match (&error, self.terminated) {
            (Some(_), _) => Status::Failed,
            (None, true) => Status::Terminated,
            (None, false) => Status::Finished,
        };
        let start = self.first_block / self.unit_blocks;
        let report = JobReport {
            job: self.desc.name().to_owned(),
            core_mask: cores::to_hex(&BTreeSet::from([self.plan.core])),
            workload: self.plan.workload.to_string(),
            percentage: self
                .plan
                .workload
                .is_mix()
                .then_some(self.plan.read_percent),
            status,
            verify_range: self.verified.then_some(VerifyRange {
                start,
                length: self.units,
            }),
            queue_depth: self.depth,
            io_size: self.plan.io_bytes,
            runtime,
            iops,
            mibps: iops * self.plan.io_bytes as f64 / f64::from(1 << 20),
            io_failed: counts.failed,
            io_timeout: counts.timed_out,
            avg_latency_us: summary.average_us,
            min_latency_us: summary.min_us,
            max_latency_us: summary.max_us,
            latency_samples: summary.samples,
            percentiles_us: if options.times_every_io {
                latencies.percentiles(hz)
            } else {
                Vec::new()
            },
            histogram_us: if options.prints_histogram {
                latencies.buckets(hz).collect()
            } else {
                Vec::new()
            },
            error: error.map(|error| error.to_string()),
        };
        (self.index, report)
    }
}

fn to_ticks(time: Duration) -> u64 {
    (time.as_secs_f64() * ticks::per_second() as f64) as u64
}

fn check_kind(plan: &JobPlan, desc: &BdevDesc) -> Result<(), SetupError> {
    let kind = match plan.workload {
        Workload::Unmap => IoKind::Unmap,
        Workload::Flush => IoKind::Flush,
        Workload::WriteZeroes => IoKind::WriteZeroes,
        Workload::Reset => IoKind::Reset,
        _ => return Ok(()),
    };
    if desc.supports(kind) {
        return Ok(());
    }
    Err(SetupError::Unsupported {
        bdev: plan.bdev.clone(),
        workload: plan.workload,
    })
}

/// The first block, the number of units, and the blocks in a unit.
fn range(plan: &JobPlan, desc: &BdevDesc) -> Result<(u64, u64, u64), SetupError> {
    let block_bytes = desc.block_size();
    let bdev = || plan.bdev.clone();
    let io_bytes = plan.io_bytes;
    if !io_bytes.is_multiple_of(u64::from(block_bytes)) {
        return Err(SetupError::IoSize {
            bdev: bdev(),
            io_bytes,
            block_bytes,
        });
    }
    let unit_blocks = io_bytes / u64::from(block_bytes);
    let end = desc.block_count();
    let (first, blocks) = match plan.part {
        Part::Whole => (0, end),
        Part::Share { index, of } => (end / of * index, end / of),
        Part::Blocks { offset, length } => (offset, length),
    };
    if first.checked_add(blocks).is_none_or(|last| last > end) {
        return Err(SetupError::Beyond {
            bdev: bdev(),
            first,
            last: first.saturating_add(blocks),
            end,
        });
    }
    // bdevperf places a job at a multiple of its I/O size.
    let start = first.div_ceil(unit_blocks) * unit_blocks;
    let units = (first + blocks).saturating_sub(start) / unit_blocks;
    if units == 0 {
        return Err(SetupError::TooSmall {
            bdev: bdev(),
            blocks,
            io_bytes,
        });
    }
    Ok((start, units, unit_blocks))
}
