//! `oriel-perf demo`: a reactor on every core, a drive in memory and one in a
//! file, data written and checked, then both loaded with the speed on show.
//!
//! It runs as an ordinary user without hugepages, and leaves nothing behind:
//! the file loses its name as soon as the drive has it open, so that not even
//! a killed demo leaves one.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use oriel_spdk::CoreSet;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::against::Pages;
use crate::bdev::args::FileApi;
use crate::bdev::crew::{RunOptions, Start};
use crate::bdev::plan::{JobPlan, Part};
use crate::bdev::session::{Ground, Session, SessionError, with_session};
use crate::config::{Create, FileDrive, MemoryDrive};
use crate::cores;
use crate::load::workload::Workload;
use crate::out::{self, say};
use crate::report::{JobReport, Report};

/// Shows reactors at work on two drives, on this machine as it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// How long to run, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    pub(crate) seconds: u32,
    /// Cores to use, as a mask or a list [default: all that this process may use]
    #[arg(short = 'm', long, value_parser = cores::parse)]
    pub(crate) core_mask: Option<BTreeSet<u32>>,
    /// Where the file of the file-backed drive is made [default: the folder for temporary files]
    #[arg(long)]
    pub(crate) directory: Option<PathBuf>,
    /// How the file is read and written
    #[arg(long, default_value = "aio")]
    pub(crate) file_api: FileApi,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DemoError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot make a file of {mib} MiB in {}: {source}; name another folder with --directory", directory.display())]
    File {
        directory: PathBuf,
        mib: u64,
        source: std::io::Error,
    },
    #[error("{drive}: {error}")]
    Load { drive: String, error: String },
}

const MEMORY: &str = "Memory";
const FILE: &str = "File";
const DRIVE_BYTES: u64 = 64 << 20;
const BLOCK_BYTES: u32 = 512;
const IO_BYTES: u64 = 4096;
const DEPTH: u32 = 32;
const MEMORY_MIB: u32 = 512;

/// What the two runs showed.
struct Shown {
    verified: Vec<JobReport>,
    loaded: Vec<JobReport>,
}

/// The signal that ended it, if one did.
pub(crate) fn run(args: &DemoArgs) -> Result<Option<i32>, DemoError> {
    let cores = args
        .core_mask
        .clone()
        .unwrap_or_else(|| CoreSet::allowed().iter().collect());
    let file = make_file(args.directory.as_deref())?;
    let ground = Ground {
        cores: cores.clone(),
        memory_mib: MEMORY_MIB,
        pages: Some(Pages::Normal),
        creates: creates(&file, args.file_api),
    };
    say!(
        "SPDK {} from Rust: {} reactor{} on core{} {}, no hugepages, no root needed.",
        oriel_spdk::SPDK_RELEASE,
        cores.len(),
        plural(cores.len()),
        plural(cores.len()),
        cores
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    );
    say!(
        "Drives: \"{MEMORY}\", {} MiB of memory; \"{FILE}\", {} MiB in {}.\n",
        DRIVE_BYTES >> 20,
        DRIVE_BYTES >> 20,
        file.display()
    );
    let total = Duration::from_secs(args.seconds.into());
    let named = NamedFile(file);
    let (shown, signal) = with_session(ground, async move |session| {
        drop(named);
        show(session, &cores, total).await
    })?;
    summary(&shown, signal)?;
    Ok(signal)
}

/// A file that is removed as soon as this is dropped.
struct NamedFile(PathBuf);

impl Drop for NamedFile {
    fn drop(&mut self) {
        // It was made by this process; if somebody else removed it, all the better.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn make_file(directory: Option<&Path>) -> Result<PathBuf, DemoError> {
    let directory = directory.map_or_else(std::env::temp_dir, Path::to_owned);
    let made = tempfile::Builder::new()
        .prefix("oriel-demo-")
        .tempfile_in(&directory)
        .and_then(|file| {
            reserve(file.as_file())?;
            file.into_temp_path().keep().map_err(|error| error.error)
        });
    made.map_err(|source| DemoError::File {
        directory,
        mib: DRIVE_BYTES >> 20,
        source,
    })
}

/// Takes the room on the disk now: a file with holes would fail in the middle of
/// the run where the disk is full.
fn reserve(file: &File) -> std::io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, DRIVE_BYTES) {
            Err(Errno::INTR) => {}
            // Some file systems cannot; there the run has to find out.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(DRIVE_BYTES),
            reserved => return Ok(reserved?),
        }
    }
}

fn creates(file: &Path, api: FileApi) -> Vec<Create> {
    let num_blocks = DRIVE_BYTES / u64::from(BLOCK_BYTES);
    let memory = MemoryDrive {
        name: MEMORY.into(),
        num_blocks,
        block_size: BLOCK_BYTES,
    };
    let file = FileDrive {
        name: FILE.into(),
        filename: file.into(),
        block_size: BLOCK_BYTES,
    };
    let make_file = match api {
        FileApi::Aio => Create::Aio,
        FileApi::Uring => Create::Uring,
    };
    vec![Create::Malloc(memory), make_file(file)]
}

/// One job for each drive on each core, each its own part.
fn jobs(cores: &BTreeSet<u32>, workload: Workload, depth: u32) -> Vec<JobPlan> {
    let of = cores.len() as u64;
    let job = |bdev: &str, index, core| JobPlan {
        bdev: bdev.to_owned(),
        core,
        workload,
        io_bytes: IO_BYTES,
        depth,
        read_percent: 70,
        part: Part::Share { index, of },
    };
    let drives = [MEMORY, FILE];
    drives
        .iter()
        .flat_map(|drive| {
            (0..)
                .zip(cores)
                .map(move |(index, core)| job(drive, index, *core))
        })
        .collect()
}

fn options(time: Duration) -> RunOptions {
    RunOptions {
        time,
        times_every_io: true,
        prints_histogram: false,
        keep_going: false,
        timeout: None,
        zipf_theta: None,
        verify: false,
        iops_max: None,
        bytes_per_second_max: None,
        seed: u64::from(std::process::id()),
    }
}

async fn show(
    session: &Session,
    cores: &BTreeSet<u32>,
    total: Duration,
) -> Result<Shown, SessionError> {
    let verifying = (total / 5).max(Duration::from_secs(1));
    say!(
        "Writing blocks that say where they belong, reading each back and comparing, for {} s:",
        verifying.as_secs()
    );
    let verify = jobs(cores, Workload::Verify, 8);
    let mut live = Live::new(&verify);
    let verified = session
        .load(&verify, &options(verifying), &mut |start, elapsed| {
            live.show(start, elapsed)
        })
        .await?;
    if !verified.iter().all(JobReport::is_finished) {
        return Ok(Shown {
            verified,
            loaded: Vec::new(),
        });
    }
    let loading = total.saturating_sub(verifying);
    say!(
        "\nReading at random, {IO_BYTES} bytes each, {DEPTH} at a time for each drive and core, for {} s:",
        loading.as_secs()
    );
    let load = jobs(cores, Workload::RandRead, DEPTH);
    let mut live = Live::new(&load);
    let loaded = session
        .load(&load, &options(loading), &mut |start, elapsed| {
            live.show(start, elapsed)
        })
        .await?;
    Ok(Shown { verified, loaded })
}

fn summary(shown: &Shown, signal: Option<i32>) -> Result<(), DemoError> {
    for report in [&shown.verified, &shown.loaded] {
        let report = Report {
            results: report.clone(),
            core_count: 0,
        };
        if let Some((drive, error)) = report.failure() {
            return Err(DemoError::Load {
                drive: drive.to_owned(),
                error: error.to_owned(),
            });
        }
    }
    say!("");
    for drive in [MEMORY, FILE] {
        let units: f64 = shown
            .verified
            .iter()
            .filter(|job| job.job == drive)
            .map(|job| job.iops * job.runtime)
            .sum();
        let mib = units * IO_BYTES as f64 / f64::from(1 << 20);
        say!(
            "{drive:<8} {mib:>9.0} MiB written, read back and compared: every block as it was written."
        );
    }
    for drive in [MEMORY, FILE] {
        let jobs: Vec<_> = shown
            .loaded
            .iter()
            .filter(|job| job.job == drive)
            .cloned()
            .collect();
        if let Some(line) = drive_summary(drive, &jobs) {
            say!("{line}");
        }
    }
    match signal {
        Some(_) => {
            say!("\nStopped early; every I/O in flight was completed, and nothing is left behind.")
        }
        None => say!(
            "\nThat was SPDK's bdev layer on reactors of ours; nothing is left behind. Next: oriel-perf bdev --help"
        ),
    }
    Ok(())
}

fn drive_summary(drive: &str, jobs: &[JobReport]) -> Option<String> {
    let slowest = |percent: f64| {
        let of_job = |job: &JobReport| {
            job.percentiles_us
                .iter()
                .find(|(p, _)| *p == percent)
                .map(|(_, us)| *us)
        };
        jobs.iter().filter_map(of_job).reduce(f64::max)
    };
    let (p50, p99) = (slowest(50.0)?, slowest(99.0)?);
    let total = Report {
        results: jobs.to_vec(),
        core_count: 0,
    }
    .total();
    let speed = speed(total.iops);
    Some(format!(
        "{drive:<8} {speed}; half of all reads within {p50:.1} us, 99 % within {p99:.1} us"
    ))
}

fn speed(iops: f64) -> String {
    let mibps = iops * IO_BYTES as f64 / f64::from(1 << 20);
    let (iops, unit) = match iops {
        iops if iops >= 1e6 => (iops / 1e6, "M"),
        iops => (iops / 1e3, "K"),
    };
    format!("{iops:>8.2} {unit} IOPS {mibps:>9.1} MiB/s")
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The speed of the last second, drive by drive: a line that renews itself on a
/// terminal, a line a second elsewhere.
struct Live {
    drives: Vec<String>,
    completed: Vec<u64>,
    shown_at: Duration,
    redraws: bool,
}

impl Live {
    const PERIOD: Duration = Duration::from_secs(1);

    fn new(jobs: &[JobPlan]) -> Self {
        let drives = jobs.iter().map(|job| job.bdev.clone()).collect();
        Self {
            drives,
            completed: vec![0; jobs.len()],
            shown_at: Duration::ZERO,
            redraws: out::is_terminal(),
        }
    }

    fn show(&mut self, start: &Start, elapsed: Duration) {
        let passed = elapsed.saturating_sub(self.shown_at);
        if passed < Self::PERIOD {
            return;
        }
        self.shown_at = elapsed;
        let now: Vec<u64> = start
            .progress
            .iter()
            .map(|job| job.completed.load(Ordering::Relaxed))
            .collect();
        let line = self.line(&now, passed, elapsed);
        self.completed = now;
        if self.redraws {
            // Back to the start of the line, and clear what was there.
            out::write(format_args!("\r\x1b[2K{line}"));
        } else {
            say!("{line}");
        }
    }

    fn line(&self, now: &[u64], passed: Duration, elapsed: Duration) -> String {
        let mut line = format!("{:>4} s", elapsed.as_secs());
        for drive in [MEMORY, FILE] {
            let of_drive = self
                .drives
                .iter()
                .zip(now.iter().zip(&self.completed))
                .filter(|(name, _)| *name == drive);
            let done: u64 = of_drive
                .map(|(_, (now, before))| now.saturating_sub(*before))
                .sum();
            line.push_str(&format!(
                "   {drive} {}",
                speed(done as f64 / passed.as_secs_f64())
            ));
        }
        line
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.redraws {
            say!("");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn every_core_gets_its_part_of_every_drive() {
        let jobs = jobs(&BTreeSet::from([0, 3]), Workload::Verify, 8);
        let places: Vec<_> = jobs
            .iter()
            .map(|job| (job.bdev.as_str(), job.core, job.part))
            .collect();
        let share = |index| Part::Share { index, of: 2 };
        assert_eq!(
            places,
            [
                (MEMORY, 0, share(0)),
                (MEMORY, 3, share(1)),
                (FILE, 0, share(0)),
                (FILE, 3, share(1))
            ]
        );
    }

    #[test]
    fn the_live_line_shows_what_the_last_second_did() {
        let mut live = Live::new(&jobs(&BTreeSet::from([0, 1]), Workload::RandRead, 8));
        live.redraws = false;
        live.completed = vec![100, 100, 0, 0];
        let line = live.line(
            &[1_100_100, 900_100, 40_000, 40_000],
            Duration::from_secs(1),
            Duration::from_secs(3),
        );
        assert!(
            line.starts_with(
                "   3 s   Memory     2.00 M IOPS    7812.5 MiB/s   File    80.00 K IOPS"
            ),
            "{line}"
        );
    }

    #[test]
    fn the_file_has_its_size_and_goes_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = make_file(Some(directory.path())).unwrap();
        let found = std::fs::metadata(&file).unwrap();
        assert_eq!(found.len(), DRIVE_BYTES);
        assert!(found.blocks() * 512 >= DRIVE_BYTES, "it has holes");
        drop(NamedFile(file));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = make_file(Some(Path::new("/nonexistent")))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent") && error.contains("--directory"),
            "{error}"
        );
    }
}
