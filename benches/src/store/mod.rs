//! `oriel-perf store` and the area `store` of `oriel-perf gate`: the log store beside its own drive, plain files and foyer.
//!
//! ```text
//!   each round:  raw ──► seam ──► store ──► files ──► foyer      on one drive, one after the other
//! ```
//!
//! The raw device is loaded as `oriel-perf bdev` does it. The seam is the store's way to the drive without the store. A
//! put counts when it is durable; raw writes are not flushed.

mod adapter;
mod gate;
mod load;
mod node;
mod peers;
mod rig;
mod stat;
mod table;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use oriel_spdk::bdev::{Access, BdevDesc};

pub(crate) use adapter::{SideError, key};
pub(crate) use gate::gate;
use load::Sizes;
pub(crate) use node::{NodeArgs, gate as gate_node, run as run_node};
pub(crate) use peers::PeerError;
use rig::{Job, Kind, Rig, Side};
use table::Row;

use crate::bdev::args::FileApi;
use crate::bdev::session::{Ground, Session, SessionError, with_session};
use crate::config::{self, ConfigError, Create, FileDrive, MemoryDrive};
use crate::cores;
use crate::out::say;
use crate::size;

/// Measures the log store beside the raw device under it, plain files and the crate foyer.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// What is measured; may be given several times [default: put, get, read, mixed, zipf and kv]
    #[arg(short = 'w', long)]
    workload: Vec<Kind>,
    /// Sizes of blobs; may be given several times [default: 4k, 128k and 1M; kv has its own]
    #[arg(short = 'o', long, value_parser = size::parse)]
    io_size: Vec<u64>,
    /// Blobs in flight, fewer where they would take more than 256 MiB
    #[arg(short = 'q', long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    queue_depth: u32,
    /// Seconds for each measurement
    #[arg(short = 't', long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    time: u32,
    /// Share of reads in percent, for mixed
    #[arg(short = 'M', long, default_value_t = 70, value_parser = clap::value_parser!(u8).range(1..=99))]
    read_percent: u8,
    /// Skew of zipf
    #[arg(short = 'F', long, default_value_t = 0.99)]
    zipf: f64,
    /// How often each side is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Bytes of the drive that is made in memory or in --directory
    #[arg(long, default_value = "1G", value_parser = size::parse)]
    drive_size: u64,
    /// Use a file in this folder as the drive, and measure plain files and foyer there as well
    #[arg(long, conflicts_with_all = ["config", "file"])]
    directory: Option<PathBuf>,
    /// Use this file or block device as the drive; what is there is lost
    #[arg(long, conflicts_with = "config")]
    file: Option<PathBuf>,
    /// How a file is read and written
    #[arg(long, default_value = "aio")]
    file_api: FileApi,
    /// SPDK's JSON configuration, for -T; what is on that device is lost
    #[arg(short = 'c', long, requires = "bdev")]
    config: Option<PathBuf>,
    /// The device of the configuration to use, for NVMe with its namespace (Nvme0n1)
    #[arg(short = 'T', long, requires = "config")]
    bdev: Option<String>,
    /// Measure the store's transfers without the store as well
    #[arg(long)]
    seam: bool,
    /// Measure a store that counts and times nothing as well: the ratio is what counting costs
    #[arg(long)]
    blind: bool,
    /// Print what the store has counted and timed, as it was at the end of each workload's last round
    #[arg(long, conflicts_with = "json")]
    stat: bool,
    /// Do not let the store check what it reads
    #[arg(long)]
    no_verify: bool,
    /// The core to use, as a mask or a list
    #[arg(short = 'm', long, default_value = "0x1", value_parser = cores::parse)]
    core_mask: BTreeSet<u32>,
    /// Seed of what is chosen at random
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StorePerfError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Side(#[from] SideError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the raw device: {0}")]
    Raw(String),
    #[error("plain files and foyer need a folder: name one with --directory")]
    NoFolder,
    #[error("cannot make a drive of {mib} MiB in {}: {source}; name another folder with --directory, or a smaller --drive-size", directory.display())]
    File {
        directory: PathBuf,
        mib: u64,
        source: std::io::Error,
    },
    #[error(
        "blobs of {size} MiB need a drive of at least {needed} MiB: give more with --drive-size"
    )]
    DriveTooSmall { size: u64, needed: u64 },
    #[error("one core is named: give at least two with -m, as 0x3")]
    OneCore,
    #[error("the measurement's own program cannot be run: {0}")]
    Program(std::io::Error),
    #[error("the measurement's own program ended with {0}")]
    ProgramEnded(std::process::ExitStatus),
    #[error("-F {0} is no zipf theta: give a number above 0, as 1.1")]
    Zipf(f64),
}

const BLOCK_BYTES: u32 = 4096;
const MEMORY: &str = "Memory";
const FILE: &str = "File";
/// Blobs in flight, twice, and SPDK's pools.
const MEMORY_BESIDE_DRIVES_MIB: u64 = 1536;

/// A drive and what is needed to make it.
struct Drive {
    create: Vec<Create>,
    name: String,
    bytes: Option<u64>,
    /// Removed when this is dropped.
    _file: Option<tempfile::TempPath>,
}

impl Drive {
    fn memory(bytes: u64) -> Self {
        Self::memory_named(MEMORY, bytes)
    }

    fn memory_named(name: &str, bytes: u64) -> Self {
        let drive = MemoryDrive {
            name: name.into(),
            num_blocks: bytes / u64::from(BLOCK_BYTES),
            block_size: BLOCK_BYTES,
        };
        Self {
            create: vec![Create::Malloc(drive)],
            name: name.into(),
            bytes: Some(bytes),
            _file: None,
        }
    }

    fn existing(path: &Path, api: FileApi) -> Self {
        let drive = FileDrive {
            name: FILE.into(),
            filename: path.to_owned(),
            block_size: 0,
        };
        let create = match api {
            FileApi::Aio => Create::Aio(drive),
            FileApi::Uring => Create::Uring(drive),
        };
        Self {
            create: vec![create],
            name: FILE.into(),
            bytes: None,
            _file: None,
        }
    }

    /// A file whose blocks have been written, as those of a drive in use: the first write to a block of a new file costs
    /// the file system more than the ones after it.
    fn in_folder(directory: &Path, bytes: u64, api: FileApi) -> Result<Self, StorePerfError> {
        let made = tempfile::Builder::new()
            .prefix("oriel-perf-drive-")
            .tempfile_in(directory)
            .and_then(|mut file| {
                let zeros = vec![0; 1 << 20];
                for _ in 0..bytes >> 20 {
                    std::io::Write::write_all(file.as_file_mut(), &zeros)?;
                }
                file.as_file().sync_all()?;
                Ok(file.into_temp_path())
            });
        let path = made.map_err(|source| StorePerfError::File {
            directory: directory.to_owned(),
            mib: bytes >> 20,
            source,
        })?;
        let drive = Self::existing(&path, api);
        Ok(Self {
            create: drive.create,
            name: drive.name,
            bytes: Some(bytes),
            _file: Some(path),
        })
    }

    fn configured(path: &Path, bdev: &str) -> Result<Self, StorePerfError> {
        Ok(Self {
            create: config::read(path)?,
            name: bdev.to_owned(),
            bytes: None,
            _file: None,
        })
    }
}

impl StoreArgs {
    fn drive(&self) -> Result<Drive, StorePerfError> {
        match (&self.directory, &self.file, &self.config, &self.bdev) {
            (Some(directory), ..) => Drive::in_folder(directory, self.drive_size, self.file_api),
            (_, Some(file), ..) => Ok(Drive::existing(file, self.file_api)),
            (_, _, Some(config), Some(bdev)) => Drive::configured(config, bdev),
            _ => Ok(Drive::memory(self.drive_size)),
        }
    }

    fn jobs(&self) -> Vec<Job> {
        let kinds = match &self.workload[..] {
            [] => &[
                Kind::Put,
                Kind::Get,
                Kind::Read,
                Kind::Mixed,
                Kind::Zipf,
                Kind::Kv,
            ],
            chosen => chosen,
        };
        let sizes = match &self.io_size[..] {
            [] => &[4 << 10, 128 << 10, 1 << 20],
            chosen => chosen,
        };
        let job = |kind, sizes| Job {
            kind,
            sizes,
            depth: self.queue_depth,
            read_percent: self.read_percent,
            zipf_theta: self.zipf,
        };
        let of_kind = |kind: &Kind| match *kind {
            Kind::Kv => vec![job(Kind::Kv, Sizes::KvCache)],
            kind => sizes
                .iter()
                .map(|bytes| job(kind, Sizes::Fixed(*bytes)))
                .collect(),
        };
        kinds.iter().flat_map(of_kind).collect()
    }

    fn sides(&self, job: &Job) -> Vec<Side> {
        let mut sides = vec![Side::Raw];
        if self.seam && job.sizes != Sizes::KvCache && job.kind != Kind::Read {
            sides.push(Side::Seam);
        }
        sides.push(Side::Store);
        if self.blind && job.kind != Kind::Read {
            sides.push(Side::Blind);
        }
        if self.directory.is_some() && job.read_percent() == 0 {
            sides.extend([Side::Files, Side::Foyer]);
        }
        sides
    }
}

/// A store needs room for its journals, some slabs and half as much again.
fn check_room(jobs: &[Job], bytes: u64) -> Result<(), StorePerfError> {
    let largest = jobs.iter().map(|job| job.sizes.largest()).max();
    let largest = largest.unwrap_or(0);
    let needed = (largest * 12).max(1 << 30);
    if bytes < needed {
        let (size, needed) = (largest >> 20, needed >> 20);
        return Err(StorePerfError::DriveTooSmall { size, needed });
    }
    Ok(())
}

fn ground(cores: BTreeSet<u32>, drives: &[&Drive]) -> Ground {
    let creates: Vec<Create> = drives
        .iter()
        .flat_map(|drive| drive.create.clone())
        .collect();
    let of_drives: u64 = creates.iter().map(Create::dma_bytes).sum();
    let memory_mib = (of_drives >> 20) + MEMORY_BESIDE_DRIVES_MIB;
    Ground {
        cores,
        memory_mib: u32::try_from(memory_mib).unwrap_or(u32::MAX),
        pages: None,
        creates,
    }
}

/// Bytes of a device that somebody else made.
fn device_bytes(name: &str) -> Result<u64, SideError> {
    let desc = BdevDesc::open(name, Access::ReadOnly, |_| {})?;
    Ok(desc.block_count() * u64::from(desc.block_size()))
}

/// The signal that ended it, if one did.
pub(crate) fn run(args: &StoreArgs) -> Result<Option<i32>, StorePerfError> {
    if !args.zipf.is_finite() || args.zipf <= 0.0 {
        return Err(StorePerfError::Zipf(args.zipf));
    }
    let jobs = args.jobs();
    let drive = args.drive()?;
    let core = args.core_mask.first().copied().unwrap_or(0);
    let ground = ground(BTreeSet::from([core]), &[&drive]);
    let asked = args.clone();
    let (measured, signal) = with_session(ground, async move |session| {
        Ok(rows(session, &asked, &jobs, &drive, core).await)
    })?;
    let rows = measured?;
    if args.json {
        say!(
            "{}",
            serde_json::to_string_pretty(&rows).expect("rows are plain data")
        );
    }
    Ok(signal)
}

async fn rows(
    session: &Session,
    args: &StoreArgs,
    jobs: &[Job],
    drive: &Drive,
    core: u32,
) -> Result<Vec<Row>, StorePerfError> {
    let bytes = match drive.bytes {
        Some(bytes) => bytes,
        None => device_bytes(&drive.name)?,
    };
    check_room(jobs, bytes)?;
    let rig = Rig {
        session,
        device: drive.name.clone(),
        device_bytes: bytes,
        core,
        directory: args.directory.clone(),
        time: Duration::from_secs(args.time.into()),
        seed: args.seed,
        verify: !args.no_verify,
        counted: RefCell::new(None),
    };
    if !args.json {
        say!(
            "{} rounds of {} s a side, medians; ratios by MiB/s, medians of the rounds' ratios",
            args.rounds,
            args.time
        );
        say!("{}", table::HEAD);
    }
    let mut rows = Vec::new();
    for job in jobs {
        let row = Row::measure(&rig, job, &args.sides(job), args.rounds).await?;
        if !args.json {
            row.lines().iter().for_each(|line| say!("{line}"));
            if let Some(metrics) = rig.counted.take().filter(|_| args.stat) {
                stat::lines(&metrics).iter().for_each(|line| say!("{line}"));
            }
        }
        rows.push(row);
    }
    Ok(rows)
}
