//! From the command line to a plan: which bdevs are made, and which job runs
//! where. Everything that can be known to be wrong without SPDK is found here.

use std::collections::{BTreeMap, BTreeSet};

use super::args::{BdevArgs, FileApi};
use crate::config::{self, ConfigError, Create, FileDrive};
use crate::cores;
use crate::job_file::{self, FileJob, JobFileError, Settings};
use crate::load::workload::Workload;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) creates: Vec<Create>,
    pub(crate) jobs: Vec<JobPlan>,
    pub(crate) cores: BTreeSet<u32>,
    pub(crate) memory_mib: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobPlan {
    pub(crate) bdev: String,
    pub(crate) core: u32,
    pub(crate) workload: Workload,
    pub(crate) io_bytes: u64,
    pub(crate) depth: u32,
    pub(crate) read_percent: u8,
    pub(crate) part: Part,
}

/// Which blocks of a bdev a job uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// One of `of` equal parts.
    Share {
        index: u64,
        of: u64,
    },
    Blocks {
        offset: u64,
        length: u64,
    },
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PlanError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    JobFile(#[from] JobFileError),
    #[error(
        "nothing says what to load: name a bdev with -T (Malloc0 and Null0 need no configuration), a file with --file, or a configuration with -c"
    )]
    NoBdev,
    #[error("there is no bdev \"{name}\": {known}")]
    UnknownBdev { name: String, known: Known },
    #[error("-w {0} needs the share of reads: add -M 0 to 100")]
    MixWithoutShare(Workload),
    #[error("-w {0} moves no data that could be checked: leave --verify out")]
    NothingToVerify(Workload),
    #[error("-F {0} is no zipf theta: give a number above 0, as 1.1")]
    Zipf(f64),
    #[error("-Z asks for SPDK's zero-copy calls, which this program does not use: leave it out")]
    ZeroCopy,
    #[error(
        "job \"{job}\" wants cores {wanted}, and the program has {has}: widen -m or change the job's cpumask"
    )]
    Cores {
        job: String,
        wanted: String,
        has: String,
    },
    #[error("-o {io_bytes} is beyond the 64 MiB that an I/O may have: give less")]
    IoTooLarge { io_bytes: u64 },
}

/// The names that there are, as the end of a sentence.
#[derive(Debug)]
pub(crate) struct Known(pub(crate) Vec<String>);

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("give a configuration that makes it (-c), or use Malloc0 or Null0"),
            names => write!(f, "the configuration makes {}", names.join(", ")),
        }
    }
}

const IO_BYTES_MAX: u64 = 64 << 20;
/// What SPDK's pools take beside the bdevs, by measurement, with some room.
const POOLS_MIB: u64 = 400;
/// The least that works without hugepages.
const MEMORY_MIN_MIB: u64 = 512;

pub(crate) fn plan(args: &BdevArgs) -> Result<Plan, PlanError> {
    if args.zero_copy {
        return Err(PlanError::ZeroCopy);
    }
    if let Some(theta) = args
        .zipf
        .filter(|theta| !theta.is_finite() || *theta <= 0.0)
    {
        return Err(PlanError::Zipf(theta));
    }
    let mut creates = creates(args)?;
    let jobs = match &args.job_file {
        Some(path) => jobs_of_file(job_file::read(path, &settings(args))?, &args.core_mask)?,
        None => jobs_of_args(args, &creates)?,
    };
    for job in &jobs {
        check_job(job, args.verify)?;
        if !is_made(&creates, &job.bdev) {
            let by_name = Create::by_name(&job.bdev).filter(|_| args.config.is_none());
            let known = || Known(creates.iter().map(Create::bdev_name).collect());
            creates.push(by_name.ok_or_else(|| PlanError::UnknownBdev {
                name: job.bdev.clone(),
                known: known(),
            })?);
        }
    }
    let memory_mib = args.memory.unwrap_or_else(|| memory_mib(&creates, &jobs));
    Ok(Plan {
        creates,
        jobs,
        cores: args.core_mask.clone(),
        memory_mib,
    })
}

fn creates(args: &BdevArgs) -> Result<Vec<Create>, PlanError> {
    if let Some(path) = &args.config {
        return Ok(config::read(path)?);
    }
    let Some(file) = &args.file else {
        return Ok(Vec::new());
    };
    let (letter, make): (_, fn(FileDrive) -> Create) = match args.file_api {
        FileApi::Aio => ("Aio0", Create::Aio),
        FileApi::Uring => ("Uring0", Create::Uring),
    };
    let name = args.bdev.clone().unwrap_or_else(|| letter.to_owned());
    let block_size = args
        .block_size
        .map_or(0, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    Ok(vec![make(FileDrive {
        name,
        filename: file.clone(),
        block_size,
    })])
}

/// A controller's namespaces are only known once it is attached.
fn is_made(creates: &[Create], bdev: &str) -> bool {
    creates.iter().any(|create| match create {
        Create::Nvme(controller) => bdev
            .strip_prefix(&controller.name)
            .is_some_and(|rest| rest.starts_with('n')),
        other => other.bdev_name() == bdev,
    })
}

/// What the command line says, as defaults for a job file.
fn settings(args: &BdevArgs) -> Settings {
    Settings {
        bdevs: args.bdev.clone().map(|bdev| vec![bdev]),
        cores: None,
        io_bytes: args.io_size,
        depth: args.queue_depth,
        read_percent: args.read_percent,
        workload: args.workload,
        offset_blocks: None,
        length_blocks: None,
    }
}

fn jobs_of_args(args: &BdevArgs, creates: &[Create]) -> Result<Vec<JobPlan>, PlanError> {
    let workload = args.workload.unwrap_or(Workload::RandRead);
    let read_percent = match args.read_percent {
        None if workload.is_mix() => return Err(PlanError::MixWithoutShare(workload)),
        share => share.unwrap_or(50),
    };
    let bdevs = match &args.bdev {
        Some(bdev) => vec![bdev.clone()],
        None => leaves(creates),
    };
    if bdevs.is_empty() {
        return Err(PlanError::NoBdev);
    }
    let job = |bdev: &String, core: u32, part: Part| JobPlan {
        bdev: bdev.clone(),
        core,
        workload,
        io_bytes: args.io_size.unwrap_or(4096),
        depth: args.queue_depth.unwrap_or(32),
        read_percent,
        part,
    };
    let cores = &args.core_mask;
    if args.all_cores {
        let of = cores.len() as u64;
        let shares = |bdev| {
            (0..)
                .zip(cores)
                .map(move |(index, core)| job(bdev, *core, Part::Share { index, of }))
        };
        return Ok(bdevs.iter().flat_map(shares).collect());
    }
    Ok(bdevs
        .iter()
        .zip(cores.iter().cycle())
        .map(|(bdev, core)| job(bdev, *core, Part::Whole))
        .collect())
}

/// The bdevs that no other one stands on: bdevperf's choice without `-T`.
fn leaves(creates: &[Create]) -> Vec<String> {
    let bases: BTreeSet<&str> = creates
        .iter()
        .filter_map(|create| match create {
            Create::Error(drive) => Some(drive.base_name.as_str()),
            Create::Delay(drive) => Some(drive.base_bdev_name.as_str()),
            _ => None,
        })
        .collect();
    creates
        .iter()
        .map(Create::bdev_name)
        .filter(|name| !bases.contains(name.as_str()))
        .collect()
}

/// A section's bdevs run on one core: the least used one that its mask allows.
fn jobs_of_file(sections: Vec<FileJob>, cores: &BTreeSet<u32>) -> Result<Vec<JobPlan>, PlanError> {
    let mut used: BTreeMap<u32, usize> = cores.iter().map(|core| (*core, 0)).collect();
    let mut jobs = Vec::new();
    for section in sections {
        let allowed = |core: &u32| section.cores.is_empty() || section.cores.contains(core);
        let core = used
            .iter()
            .filter(|(core, _)| allowed(core))
            .min_by_key(|(_, jobs)| **jobs)
            .map(|(core, _)| *core);
        let core = core.ok_or_else(|| PlanError::Cores {
            job: section.name.clone(),
            wanted: cores::to_hex(&section.cores),
            has: cores::to_hex(cores),
        })?;
        *used.entry(core).or_default() += 1;
        let part = match (section.offset_blocks, section.length_blocks) {
            // bdevperf looks at the offset only where there is a length.
            (_, 0) => Part::Whole,
            (offset, length) => Part::Blocks { offset, length },
        };
        jobs.extend(section.bdevs.into_iter().map(|bdev| JobPlan {
            bdev,
            core,
            workload: section.workload,
            io_bytes: section.io_bytes,
            depth: section.depth,
            read_percent: section.read_percent,
            part,
        }));
    }
    if jobs.is_empty() {
        Err(PlanError::NoBdev)
    } else {
        Ok(jobs)
    }
}

fn check_job(job: &JobPlan, verify: bool) -> Result<(), PlanError> {
    if verify && !job.workload.moves_data() {
        return Err(PlanError::NothingToVerify(job.workload));
    }
    if job.io_bytes > IO_BYTES_MAX {
        return Err(PlanError::IoTooLarge {
            io_bytes: job.io_bytes,
        });
    }
    Ok(())
}

fn memory_mib(creates: &[Create], jobs: &[JobPlan]) -> u32 {
    let drives: u64 = creates.iter().map(Create::dma_bytes).sum();
    let buffers: u64 = jobs
        .iter()
        .map(|job| u64::from(job.depth) * job.io_bytes)
        .sum();
    let mib = (drives + buffers).div_ceil(1 << 20) + POOLS_MIB;
    u32::try_from(mib.max(MEMORY_MIN_MIB)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::args::tests::args;
    use super::*;

    fn planned(line: &str) -> Result<Plan, PlanError> {
        plan(&args(line).unwrap())
    }

    fn with_file(text: &str, line: &str) -> Result<Plan, PlanError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        planned(&line.replace("FILE", file.path().to_str().unwrap()))
    }

    const CONFIG: &str = r#"{"subsystems":[{"subsystem":"bdev","config":[
        {"method":"bdev_malloc_create","params":{"name":"M0","num_blocks":2097152,"block_size":512}},
        {"method":"bdev_null_create","params":{"name":"N0","num_blocks":10,"block_size":512}},
        {"method":"bdev_error_create","params":{"base_name":"M0"}},
        {"method":"bdev_nvme_attach_controller","params":{"name":"Nvme0","trtype":"PCIe","traddr":"0000:01:00.0"}}]}]}"#;

    #[test]
    fn a_newcomer_needs_a_name_only() {
        let plan = planned("-T Malloc0").unwrap();
        assert!(matches!(plan.creates.as_slice(), [Create::Malloc(_)]));
        let job = &plan.jobs[0];
        assert_eq!(
            (job.depth, job.io_bytes, job.workload, job.core),
            (32, 4096, Workload::RandRead, 0)
        );
        assert_eq!(plan.memory_mib, 512);
    }

    #[test]
    fn without_t_every_leaf_gets_a_job_on_the_next_core() {
        let plan = with_file(CONFIG, "-c FILE -m 0x3").unwrap();
        let jobs: Vec<_> = plan
            .jobs
            .iter()
            .map(|job| (job.bdev.as_str(), job.core))
            .collect();
        assert_eq!(jobs, [("N0", 0), ("EE_M0", 1), ("Nvme0n1", 0)]);
        assert!(plan.memory_mib > 1024 + 400);
    }

    #[test]
    fn every_core_gets_its_share_with_a_capital_c() {
        let plan = planned("-T Null0 -C -m [0,2,3]").unwrap();
        let jobs: Vec<_> = plan.jobs.iter().map(|job| (job.core, job.part)).collect();
        let share = |index| Part::Share { index, of: 3 };
        assert_eq!(jobs, [(0, share(0)), (2, share(1)), (3, share(2))]);
    }

    #[test]
    fn a_job_file_spreads_over_the_cores_its_masks_allow() {
        let text = "[global]\nbs=4096\nrw=randread\niodepth=8\nfilename=Null0\n[a]\n[b]\n[c]\ncpumask=0x2\noffset=8\nlength=64\n[d]\n";
        let plan = with_file(text, "-j FILE -m 0x3").unwrap();
        assert_eq!(
            plan.jobs.iter().map(|job| job.core).collect::<Vec<_>>(),
            [0, 1, 1, 0]
        );
        assert_eq!(
            plan.jobs[2].part,
            Part::Blocks {
                offset: 8,
                length: 64
            }
        );
        assert_eq!(plan.creates.len(), 1);
        assert!(matches!(
            with_file(text, "-j FILE -m 0x1"),
            Err(PlanError::Cores { .. })
        ));
    }

    #[test]
    fn a_file_is_a_bdev_of_the_chosen_kind() {
        let plan = planned("--file /tmp/x --file-api uring --block-size 4k").unwrap();
        let Create::Uring(drive) = &plan.creates[0] else {
            panic!("{plan:?}")
        };
        assert_eq!((drive.name.as_str(), drive.block_size), ("Uring0", 4096));
        assert_eq!(plan.jobs[0].bdev, "Uring0");
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_starts() {
        let message = |line: &str| planned(line).unwrap_err().to_string();
        assert!(message("").contains("name a bdev with -T"));
        assert!(message("-T Nvme0n1").contains("no bdev \"Nvme0n1\""));
        assert!(message("-T Null0 -w randrw").contains("add -M"));
        assert!(message("-T Null0 -w unmap --verify").contains("leave --verify out"));
        assert!(message("-T Null0 -F 0").contains("zipf"));
        assert!(message("-T Null0 -Z").contains("zero-copy"));
        assert!(message("-T Null0 -o 65M").contains("64 MiB"));
        let message = with_file(CONFIG, "-c FILE -T Malloc0")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("the configuration makes M0, N0"),
            "{message}"
        );
        assert!(with_file(CONFIG, "-c FILE -T Nvme0n2").is_ok());
    }
}
