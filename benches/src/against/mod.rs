//! Ours and SPDK's bdevperf in turn, on the same configuration, each in a
//! process of its own.
//!
//! Like is compared with like: the same bdevs from the same file, the same
//! core, hugepages on both sides or on neither, bytes copied on both sides
//! (v20.07's bdevperf is told to leave its zero-copy calls), and every I/O
//! timed here where the peer times every I/O.

pub(crate) mod bdevperf;
mod child;
pub(crate) mod ratio;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::bdevperf::{Bdevperf, Measured, PeerError};
use self::child::Watched;
use self::ratio::{Comparison, Round};
use crate::config::{self, Create};
use crate::cores;
use crate::hugepages::{self, Borrowed, HugepageError};
use crate::interrupt::Interrupt;
use crate::load::workload::Workload;
use crate::report::Report;

/// A load that both sides can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) creates: Vec<Create>,
    pub(crate) bdev: Option<String>,
    pub(crate) cores: BTreeSet<u32>,
    pub(crate) workload: Workload,
    pub(crate) io_bytes: u64,
    pub(crate) depth: u32,
    pub(crate) read_percent: u8,
    pub(crate) seconds: u32,
    pub(crate) all_cores: bool,
    pub(crate) zipf_theta: Option<f64>,
    pub(crate) memory_mib: u32,
}

/// The memory both sides run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    Huge,
    Normal,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AgainstError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{}, which this bdevperf cannot do without; a bdevperf of SPDK v24.01 or later can", .0)]
    Hugepages(#[from] HugepageError),
    #[error("{}: this bdevperf needs hugepages, and --no-huge rules them out: leave it out, or name a bdevperf of SPDK v24.01 or later", program.display())]
    NeedsHugepages { program: PathBuf },
    #[error("this bdevperf ({}) knows no -F: leave it out, or name a later release's", program.display())]
    NoZipf { program: PathBuf },
    #[error("cannot put the common configuration into a temporary folder: {0}")]
    Scratch(std::io::Error),
    #[error("cannot start this program a second time: {0}")]
    Spawn(std::io::Error),
    #[error("our own side ended with {status}: {said}")]
    Ours {
        status: std::process::ExitStatus,
        said: String,
    },
    #[error("our own side printed what is no result: {0}")]
    OursUnreadable(serde_json::Error),
    #[error("a side did nothing, so there is no ratio")]
    Nothing,
    #[error("stopped by a signal")]
    Interrupted,
}

/// Two programs ready to be measured in turn. Hugepages borrowed for it are
/// given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Arena {
    peer: Bdevperf,
    pages: Pages,
    interrupt: Interrupt,
    _borrowed: Borrowed,
}

impl Arena {
    /// `wanted` None takes hugepages where they are or can be had.
    pub(crate) fn open(
        peer: Bdevperf,
        wanted: Option<Pages>,
        memory_mib: u32,
        interrupt: Interrupt,
    ) -> Result<Self, AgainstError> {
        let can_do_without = peer.dialect.has_no_huge;
        let (pages, borrowed) = match wanted {
            Some(Pages::Normal) if can_do_without => (Pages::Normal, Borrowed::default()),
            Some(Pages::Normal) => {
                return Err(AgainstError::NeedsHugepages {
                    program: peer.program,
                });
            }
            _ => match Borrowed::take(u64::from(memory_mib) + SPARE_MIB) {
                Ok(borrowed) => (Pages::Huge, borrowed),
                Err(_) if wanted.is_none() && can_do_without => {
                    (Pages::Normal, Borrowed::default())
                }
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Self {
            peer,
            pages,
            interrupt,
            _borrowed: borrowed,
        })
    }

    pub(crate) fn describe(&self) -> String {
        let pages = match self.pages {
            Pages::Huge => "hugepages",
            Pages::Normal => "no hugepages",
        };
        let copying = if self.peer.dialect.zero_copy_by_default {
            ", its zero-copy calls off (-x)"
        } else {
            ""
        };
        let timing = if self.peer.dialect.times_every_io {
            ", every I/O timed on both sides"
        } else {
            ""
        };
        format!(
            "peer {} ({pages} on both sides{copying}{timing})",
            self.peer.program.display()
        )
    }

    /// Runs the rounds; `each` hears of every round as it ends.
    pub(crate) fn compare(
        &self,
        load: &Load,
        rounds: u32,
        each: &mut dyn FnMut(u32, Sides),
    ) -> Result<Outcome, AgainstError> {
        if load.zipf_theta.is_some() && self.peer.dialect.zero_copy_by_default {
            return Err(AgainstError::NoZipf {
                program: self.peer.program.clone(),
            });
        }
        let scratch = tempfile::Builder::new()
            .prefix("oriel-perf-")
            .tempdir()
            .map_err(AgainstError::Scratch)?;
        let config = scratch.path().join("bdev.json");
        std::fs::write(&config, config::to_json(&load.creates).to_string())
            .map_err(AgainstError::Scratch)?;
        let ours = self.our_arguments(load, &config);
        let theirs = self.their_arguments(load, &config, &scratch.path().join("rpc.sock"));
        let mut clean = Vec::new();
        let mut disturbed = Vec::new();
        for round in 1..=rounds * ATTEMPTS_PER_ROUND {
            let sides = Sides {
                ours: self.uninterrupted(measure_ours(&ours))?,
                theirs: self
                    .uninterrupted(self.peer.measure(&theirs).map_err(AgainstError::from))?,
            };
            each(round, sides);
            if sides.is_disturbed() {
                &mut disturbed
            } else {
                &mut clean
            }
            .push(sides);
            if clean.len() == rounds as usize {
                break;
            }
        }
        let short_of_clean = clean.len() < rounds as usize;
        let disturbed_rounds = disturbed.len();
        if short_of_clean {
            clean.extend(disturbed);
        }
        let of = |value: fn(&Measured) -> f64| {
            let round = |sides: &Sides| Round {
                ours: value(&sides.ours),
                theirs: value(&sides.theirs),
            };
            Comparison::of(&clean.iter().map(round).collect::<Vec<_>>())
                .ok_or(AgainstError::Nothing)
        };
        Ok(Outcome {
            iops: of(|side| side.iops)?,
            mibps: of(|side| side.mibps)?,
            disturbed_rounds,
            short_of_clean,
        })
    }

    /// A signal reaches the child as well; what it says then is beside the point.
    fn uninterrupted<T>(&self, result: Result<T, AgainstError>) -> Result<T, AgainstError> {
        if self.interrupt.raised() {
            Err(AgainstError::Interrupted)
        } else {
            result
        }
    }

    fn our_arguments(&self, load: &Load, config: &Path) -> Vec<String> {
        let mut arguments = vec!["bdev".to_owned(), "--json".to_owned()];
        arguments.extend(common_arguments(load, "-c", config));
        arguments.push(
            if self.pages == Pages::Huge {
                "--huge"
            } else {
                "--no-huge"
            }
            .to_owned(),
        );
        if self.peer.dialect.times_every_io {
            arguments.push("-l".to_owned());
        }
        arguments
    }

    fn their_arguments(&self, load: &Load, config: &Path, socket: &Path) -> Vec<String> {
        let mut arguments = common_arguments(load, self.peer.dialect.json_flag, config);
        arguments.extend(["-r".to_owned(), socket.display().to_string()]);
        arguments.push(match self.pages {
            // Without it v20.07 leaves its hugepages behind, taken, in files.
            Pages::Huge => "-R".to_owned(),
            Pages::Normal => "--no-huge".to_owned(),
        });
        if self.peer.dialect.zero_copy_by_default {
            arguments.push("-x".to_owned());
        }
        if !load
            .creates
            .iter()
            .any(|create| matches!(create, Create::Nvme(_)))
        {
            arguments.push("-u".to_owned());
        }
        arguments
    }
}

/// Memory that DPDK asks for beyond what `-s` says.
const SPARE_MIB: u64 = 64;

/// Both sides of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sides {
    pub(crate) ours: Measured,
    pub(crate) theirs: Measured,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) iops: Comparison,
    pub(crate) mibps: Comparison,
    /// Rounds in which a side waited for its core.
    pub(crate) disturbed_rounds: usize,
    /// There were too few others, so those count here as well.
    pub(crate) short_of_clean: bool,
}

impl Outcome {
    /// What a reader of the figures has to know.
    pub(crate) fn warning(&self) -> Option<String> {
        self.short_of_clean.then(|| {
            format!(
                "Too few rounds were undisturbed: in {} a side waited for its core. Stop what else runs and measure again.",
                self.disturbed_rounds
            )
        })
    }
}

impl Sides {
    pub(crate) fn is_disturbed(&self) -> bool {
        [self.ours, self.theirs]
            .iter()
            .any(|side| side.waited.is_some_and(|share| share > WAITED_MAX))
    }
}

/// A round counts only if both sides really had their cores.
const WAITED_MAX: f64 = 0.02;
/// How many rounds may be run for one that counts.
const ATTEMPTS_PER_ROUND: u32 = 3;

/// What both command lines share, letter for letter but for the configuration's.
fn common_arguments(load: &Load, json_flag: &str, config: &Path) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add(json_flag, config.display().to_string());
    add("-q", load.depth.to_string());
    add("-o", load.io_bytes.to_string());
    add("-w", load.workload.to_string());
    add("-t", load.seconds.to_string());
    add("-m", cores::to_hex(&load.cores));
    add("-s", load.memory_mib.to_string());
    if load.workload.is_mix() {
        add("-M", load.read_percent.to_string());
    }
    if let Some(bdev) = &load.bdev {
        add("-T", bdev.clone());
    }
    if let Some(theta) = load.zipf_theta {
        add("-F", theta.to_string());
    }
    if load.all_cores {
        arguments.push("-C".to_owned());
    }
    arguments
}

fn measure_ours(arguments: &[String]) -> Result<Measured, AgainstError> {
    let program = std::env::current_exe().map_err(AgainstError::Spawn)?;
    let watched = child::run(Command::new(program).args(arguments));
    let Watched { output, waited } = watched.map_err(AgainstError::Spawn)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or("it said nothing");
        let said = said.strip_prefix("oriel-perf: ").unwrap_or(said).to_owned();
        return Err(AgainstError::Ours {
            status: output.status,
            said,
        });
    }
    let report: Report =
        serde_json::from_slice(&output.stdout).map_err(AgainstError::OursUnreadable)?;
    let total = report.total();
    Ok(Measured {
        iops: total.iops,
        mibps: total.mibps,
        waited,
    })
}

/// Whether a program of ours that needs `memory_mib` will find hugepages.
pub(crate) fn pages_at_hand(memory_mib: u32) -> Pages {
    if hugepages::available(u64::from(memory_mib)) {
        Pages::Huge
    } else {
        Pages::Normal
    }
}

#[cfg(test)]
mod tests {
    use super::bdevperf::Dialect;
    use super::*;

    fn load() -> Load {
        Load {
            creates: vec![Create::by_name("Malloc0").unwrap()],
            bdev: Some("Malloc0".into()),
            cores: BTreeSet::from([1]),
            workload: Workload::RandRw,
            io_bytes: 4096,
            depth: 32,
            read_percent: 70,
            seconds: 2,
            all_cores: false,
            zipf_theta: None,
            memory_mib: 512,
        }
    }

    fn arena(dialect: Dialect, pages: Pages) -> Arena {
        let peer = Bdevperf {
            program: "/spdk/bdevperf".into(),
            dialect,
        };
        Arena {
            peer,
            pages,
            interrupt: Interrupt::install().unwrap(),
            _borrowed: Borrowed::default(),
        }
    }

    const OLD: Dialect = Dialect {
        zero_copy_by_default: true,
        has_no_huge: false,
        times_every_io: false,
        json_flag: "--json",
    };
    const NEW: Dialect = Dialect {
        zero_copy_by_default: false,
        has_no_huge: true,
        times_every_io: true,
        json_flag: "-c",
    };

    #[test]
    fn both_sides_are_asked_for_the_same_load() {
        let arena = arena(OLD, Pages::Huge);
        let common = "/x/bdev.json -q 32 -o 4096 -w randrw -t 2 -m 0x2 -s 512 -M 70 -T Malloc0";
        let ours = arena
            .our_arguments(&load(), Path::new("/x/bdev.json"))
            .join(" ");
        assert_eq!(ours, format!("bdev --json -c {common} --huge"));
        let theirs = arena
            .their_arguments(&load(), Path::new("/x/bdev.json"), Path::new("/x/s"))
            .join(" ");
        assert_eq!(theirs, format!("--json {common} -r /x/s -R -x -u"));
    }

    #[test]
    fn a_later_release_is_compared_with_every_io_timed_and_may_go_without_hugepages() {
        let arena = arena(NEW, Pages::Normal);
        let ours = arena.our_arguments(&load(), Path::new("c")).join(" ");
        assert!(ours.ends_with("--no-huge -l"), "{ours}");
        let theirs = arena
            .their_arguments(&load(), Path::new("c"), Path::new("s"))
            .join(" ");
        assert!(theirs.ends_with("-r s --no-huge -u"), "{theirs}");
    }

    #[test]
    fn what_the_old_program_cannot_do_is_said() {
        let peer = Bdevperf {
            program: "/spdk/bdevperf".into(),
            dialect: OLD,
        };
        let opened = Arena::open(
            peer,
            Some(Pages::Normal),
            512,
            Interrupt::install().unwrap(),
        );
        assert!(matches!(opened, Err(AgainstError::NeedsHugepages { .. })));
        let skewed = Load {
            zipf_theta: Some(1.1),
            ..load()
        };
        let compared = arena(OLD, Pages::Huge).compare(&skewed, 1, &mut |_, _| {});
        assert!(matches!(compared, Err(AgainstError::NoZipf { .. })));
    }
}
