//! A program's life on reactors: environment, subsystems, bdevs, runs, and
//! everything put away again in order, whatever happened in between.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use oriel_engine::reactor::{
    self, CoreId, ReactorConfig, ReactorHandle, RemoteError, attach, sleep,
};
use oriel_spdk::bdev::create::{self, CreateError, Delays, DeleteError, Kind};
use oriel_spdk::cores::CoreSetError;
use oriel_spdk::env::{EnvError, Pci};
use oriel_spdk::pci::{PciAddressError, PciDriver};
use oriel_spdk::rpc::RpcError;
use oriel_spdk::subsystems::SubsystemsError;
use oriel_spdk::thread::ThreadError;
use oriel_spdk::{CoreSet, EnvOptions, PciAddress, SpdkThread, Subsystems};

use super::crew::{self, Place, RunOptions, SetupError, Start};
use super::plan::JobPlan;
use super::rpc::ListenError;
use crate::against::{Pages, pages_at_hand};
use crate::config::{Create, FileDrive};
use crate::report::JobReport;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SessionError {
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error(transparent)]
    Cores(#[from] CoreSetError),
    #[error(transparent)]
    Reactors(#[from] reactor::RunError),
    #[error(transparent)]
    Thread(#[from] ThreadError),
    #[error(transparent)]
    Subsystems(#[from] SubsystemsError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Delete(#[from] DeleteError),
    #[error(transparent)]
    Address(#[from] PciAddressError),
    #[error("controller {name} uses transport \"{transport}\", and only PCIe can be attached here")]
    Transport { name: String, transport: String },
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(
        "two jobs on {bdev} share blocks and one of them checks data: give them separate parts (-C, or offset and length in the job file)"
    )]
    Overlap { bdev: String },
    #[error("the reactor of core {core} takes no work: the program is stopping")]
    NoReactor { core: CoreId },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "drives {first} and {second} are both {}: give each a file or device of its own", path.display()
    )]
    SameFile {
        first: String,
        second: String,
        path: PathBuf,
    },
    #[error(
        "the drive {name} of {drive_mib} MiB could not be made in {memory_mib} MiB of memory: give more with -s, or make the drive smaller"
    )]
    NoMemory {
        name: String,
        drive_mib: u64,
        memory_mib: u32,
    },
}

/// What a session stands on.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) cores: BTreeSet<u32>,
    pub(crate) memory_mib: u32,
    /// None: hugepages where there are enough.
    pub(crate) pages: Option<Pages>,
    pub(crate) creates: Vec<Create>,
}

/// A running session, on the main core.
pub(crate) struct Session {
    reactors: ReactorHandle,
    subsystems: Subsystems,
}

/// What a run shows while it lasts: the counts of each job, and the time since
/// the start.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&Start, Duration);

/// Starts everything, has `work` use it, and puts everything away. The signal
/// that cut it short, if one did, comes beside the result.
pub(crate) fn with_session<T: 'static>(
    ground: Ground,
    work: impl AsyncFnOnce(&Session) -> Result<T, SessionError> + 'static,
) -> Result<(T, Option<i32>), SessionError> {
    let list = ground
        .cores
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let pages = ground
        .pages
        .unwrap_or_else(|| pages_at_hand(ground.memory_mib));
    let options = EnvOptions {
        name: "oriel-perf".into(),
        cores: format!("[{list}]").parse::<CoreSet>()?,
        memory_mib: ground.memory_mib,
        hugepages: pages == Pages::Huge,
        hugepage_dir: None,
        pci: pci(&ground.creates)?,
    };
    no_file_twice(&ground.creates)?;
    let env = options.start()?;
    let finished = reactor::start(&env, ReactorConfig::default(), move |reactors| {
        run(reactors, ground, work)
    });
    let finished = finished?;
    Ok((finished.value?, finished.signal))
}

/// Only the controllers that are named are touched. One that is not there is
/// found before the environment is asked for memory that PCI needs.
fn pci(creates: &[Create]) -> Result<Pci, SessionError> {
    let mut allowed = Vec::new();
    for create in creates {
        if let Create::Nvme(controller) = create {
            let address = controller.traddr.parse::<PciAddress>()?;
            if address.driver() == PciDriver::NoDevice {
                return Err(CreateError::NoPciDevice { address }.into());
            }
            allowed.push(address);
        }
    }
    Ok(if allowed.is_empty() {
        Pci::None
    } else {
        Pci::Allow(allowed)
    })
}

/// Two drives on one file would destroy each other's data. The lock that keeps
/// other processes away cannot tell that it is this one.
fn no_file_twice(creates: &[Create]) -> Result<(), SessionError> {
    let mut seen = BTreeMap::new();
    for create in creates {
        let (Create::Aio(drive) | Create::Uring(drive)) = create else {
            continue;
        };
        // One that is not there gets its own sentence later.
        let Ok(found) = drive.filename.metadata() else {
            continue;
        };
        let before = seen.insert((found.dev(), found.ino()), &drive.name);
        if let Some(first) = before {
            return Err(SessionError::SameFile {
                first: first.clone(),
                second: drive.name.clone(),
                path: drive.filename.clone(),
            });
        }
    }
    Ok(())
}

async fn run<T>(
    reactors: ReactorHandle,
    ground: Ground,
    work: impl AsyncFnOnce(&Session) -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    attach(SpdkThread::create("perf")?);
    let session = Session {
        subsystems: Subsystems::start().await?,
        reactors,
    };
    let mut made = Vec::new();
    let result = match session.set_up(&ground, &mut made).await {
        Ok(()) => work(&session).await,
        Err(error) => Err(error),
    };
    // What was made goes even where something failed; the first error counts.
    let mut deleted = Ok(());
    for (kind, name) in made.into_iter().rev() {
        deleted = deleted.and(create::delete(&session.subsystems, kind, &name).await);
    }
    session.subsystems.stop().await;
    let value = result?;
    deleted?;
    Ok(value)
}

impl Session {
    pub(crate) fn subsystems(&self) -> &Subsystems {
        &self.subsystems
    }

    /// Gives each reactor its SPDK thread, then makes the bdevs; `made` gets
    /// what has to be deleted again.
    async fn set_up(
        &self,
        ground: &Ground,
        made: &mut Vec<(Kind, String)>,
    ) -> Result<(), SessionError> {
        for core in self.reactors.cores().into_iter().skip(1) {
            let attached = self.reactors.spawn(core, "attach", move || async move {
                SpdkThread::create(&format!("perf{core}")).map(attach)
            });
            let attached = attached.map_err(|_| SessionError::NoReactor { core })?;
            attached.await??;
        }
        for create in &ground.creates {
            let one = make(&self.subsystems, create).await;
            made.push(one.map_err(|error| explain(error, create, ground.memory_mib))?);
        }
        Ok(())
    }

    /// Runs jobs to their end, or until the program is asked to stop.
    pub(crate) async fn load(
        &self,
        jobs: &[JobPlan],
        options: &RunOptions,
        watch: Watch<'_>,
    ) -> Result<Vec<JobReport>, SessionError> {
        let start = Arc::new(Start::new(jobs.len()));
        let mut by_core: BTreeMap<u32, Vec<(usize, JobPlan)>> = BTreeMap::new();
        for (index, job) in jobs.iter().enumerate() {
            by_core
                .entry(job.core)
                .or_default()
                .push((index, job.clone()));
        }
        let crews = by_core.len();
        let mut running = Vec::new();
        for (core, jobs) in by_core {
            let (options, start) = (options.clone(), Arc::clone(&start));
            let core = CoreId(core);
            let spawned = self
                .reactors
                .spawn(core, "jobs", move || crew::run(jobs, options, start));
            running.push(spawned.map_err(|_| {
                // The crews that run wait for a word.
                SessionError::NoReactor { core }
            }));
        }
        while start.opened.load(Ordering::Acquire)
            < running.iter().filter(|crew| crew.is_ok()).count()
        {
            sleep(Duration::from_micros(100)).await;
        }
        let overlap = overlapping(&start.places.lock().unwrap_or_else(PoisonError::into_inner));
        let all_opened = start
            .places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
            == jobs.len();
        if all_opened && overlap.is_none() && running.iter().all(Result::is_ok) {
            start.go();
            self.wait_for_end(&start, crews, watch).await;
        } else {
            start.give_up();
        }
        let mut reports = Vec::new();
        for crew in running {
            reports.extend(crew?.await??);
        }
        if let Some(bdev) = overlap {
            return Err(SessionError::Overlap { bdev });
        }
        reports.sort_by_key(|(index, _)| *index);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    async fn wait_for_end(&self, start: &Start, crews: usize, watch: Watch<'_>) {
        let since = Instant::now();
        while start.ended.load(Ordering::Acquire) < crews {
            sleep(Duration::from_millis(2)).await;
            watch(start, since.elapsed());
        }
    }
}

async fn make(subsystems: &Subsystems, create: &Create) -> Result<(Kind, String), SessionError> {
    let name = create.bdev_name();
    let kind = match create {
        Create::Malloc(drive) => {
            create::malloc(subsystems, &name, drive.num_blocks, drive.block_size).await?;
            Kind::Malloc
        }
        Create::Null(drive) => {
            create::null(subsystems, &name, drive.num_blocks, drive.block_size).await?;
            Kind::Null
        }
        Create::Aio(drive) => {
            create::aio(subsystems, &name, &drive.filename, block_size(drive)).await?;
            Kind::Aio
        }
        Create::Uring(drive) => {
            create::uring(subsystems, &name, &drive.filename, block_size(drive)).await?;
            Kind::Uring
        }
        Create::Nvme(controller) => {
            if !controller.trtype.eq_ignore_ascii_case("pcie") {
                let (name, transport) = (controller.name.clone(), controller.trtype.clone());
                return Err(SessionError::Transport { name, transport });
            }
            create::nvme(subsystems, &controller.name, controller.traddr.parse()?).await?;
            return Ok((Kind::Nvme, controller.name.clone()));
        }
        Create::Error(drive) => {
            create::error(subsystems, &drive.base_name).await?;
            Kind::Error
        }
        Create::Delay(drive) => {
            let delays = Delays {
                read: Duration::from_micros(drive.avg_read_latency),
                read_p99: Duration::from_micros(drive.p99_read_latency),
                write: Duration::from_micros(drive.avg_write_latency),
                write_p99: Duration::from_micros(drive.p99_write_latency),
            };
            create::delay(subsystems, &name, &drive.base_bdev_name, delays).await?;
            Kind::Delay
        }
    };
    Ok((kind, name))
}

/// What to do about a drive in memory that finds no room there.
fn explain(error: SessionError, create: &Create, memory_mib: u32) -> SessionError {
    /// What SPDK answers where its memory has run out: -ENOMEM.
    const NO_MEMORY: i64 = -12;
    match (error, create) {
        (
            SessionError::Create(CreateError::Failed {
                name,
                source:
                    RpcError::Refused {
                        code: NO_MEMORY, ..
                    },
            }),
            Create::Malloc(_),
        ) => SessionError::NoMemory {
            name,
            drive_mib: create.dma_bytes() >> 20,
            memory_mib,
        },
        (error, _) => error,
    }
}

/// The block size that was asked for, else the block device's own, else the
/// smallest, which any file can do.
fn block_size(drive: &FileDrive) -> u32 {
    if drive.block_size > 0 {
        return drive.block_size;
    }
    logical_block_size(&drive.filename).unwrap_or(512)
}

fn logical_block_size(path: &Path) -> Option<u32> {
    let name = path.canonicalize().ok()?.file_name()?.to_owned();
    let device = Path::new("/sys/class/block")
        .join(name)
        .canonicalize()
        .ok()?;
    // A partition has no queue of its own; the disk above it has.
    let queue =
        |directory: &Path| std::fs::read_to_string(directory.join("queue/logical_block_size")).ok();
    let text = queue(&device).or_else(|| queue(device.parent()?))?;
    text.trim().parse().ok()
}

/// A bdev on which one job checks data that another one writes over.
fn overlapping(places: &[Place]) -> Option<String> {
    let clash = |a: &Place, b: &Place| {
        let shared = a.bdev == b.bdev && a.first_block < b.end_block && b.first_block < a.end_block;
        shared && ((a.checks && b.writes) || (b.checks && a.writes))
    };
    let clashes = places
        .iter()
        .enumerate()
        .find(|(index, a)| places[index + 1..].iter().any(|b| clash(a, b)));
    clashes.map(|(_, place)| place.bdev.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bdev: &str, blocks: std::ops::Range<u64>, checks: bool, writes: bool) -> Place {
        Place {
            bdev: bdev.into(),
            first_block: blocks.start,
            end_block: blocks.end,
            checks,
            writes,
        }
    }

    #[test]
    fn only_a_checked_part_that_another_job_writes_is_a_clash() {
        let checked = place("M", 0..100, true, true);
        assert_eq!(
            overlapping(&[checked.clone(), place("M", 99..200, false, true)]),
            Some("M".into())
        );
        assert_eq!(
            overlapping(&[place("M", 99..200, false, true), checked.clone()]),
            Some("M".into())
        );
        assert_eq!(
            overlapping(&[checked.clone(), place("M", 100..200, true, true)]),
            None
        );
        assert_eq!(
            overlapping(&[checked.clone(), place("N", 0..100, true, true)]),
            None
        );
        assert_eq!(
            overlapping(&[checked, place("M", 0..100, false, false)]),
            None
        );
        assert_eq!(
            overlapping(&[place("M", 0..9, false, true), place("M", 0..9, false, true)]),
            None
        );
    }

    #[test]
    fn a_file_has_no_block_size_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let drive = FileDrive {
            name: "A".into(),
            filename: file.path().into(),
            block_size: 0,
        };
        assert_eq!(block_size(&drive), 512);
        assert_eq!(
            block_size(&FileDrive {
                block_size: 4096,
                ..drive
            }),
            4096
        );
    }

    #[test]
    fn one_file_under_two_names_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("drive");
        let link = directory.path().join("link");
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let drive = |name: &str, filename: &Path| FileDrive {
            name: name.into(),
            filename: filename.into(),
            block_size: 0,
        };
        let twice = [
            Create::Aio(drive("A", &path)),
            Create::Uring(drive("B", &link)),
        ];
        let error = no_file_twice(&twice).unwrap_err().to_string();
        assert!(error.contains("A and B are both"), "{error}");
        assert!(no_file_twice(&twice[..1]).is_ok());
    }

    #[test]
    fn a_controller_that_is_not_there_is_said_before_anything_starts() {
        let controller = |traddr: &str| {
            Create::Nvme(crate::config::Controller {
                name: "Nvme0".into(),
                trtype: "PCIe".into(),
                traddr: traddr.into(),
            })
        };
        let error = pci(&[controller("fffe:ff:1f.7")]).unwrap_err().to_string();
        assert!(error.contains("no PCI device at fffe:ff:1f.7"), "{error}");
        assert!(matches!(
            pci(&[controller("nonsense")]),
            Err(SessionError::Address(_))
        ));
        assert_eq!(pci(&[]).unwrap(), Pci::None);
    }
}
