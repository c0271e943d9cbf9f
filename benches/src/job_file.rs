//! bdevperf's job files: sections of `key=value`, one job a section, with
//! defaults for those that follow in `[global]`.
//!
//! What a job says itself wins; then the command line, then `[global]`. A new
//! `[global]` starts over from the defaults.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cores::{self, MaskError};
use crate::load::workload::{UnknownWorkload, Workload};
use crate::size::{self, SizeError};

/// What a section, or the command line, says about a job.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) bdevs: Option<Vec<String>>,
    pub(crate) cores: Option<BTreeSet<u32>>,
    pub(crate) io_bytes: Option<u64>,
    pub(crate) depth: Option<u32>,
    pub(crate) read_percent: Option<u8>,
    pub(crate) workload: Option<Workload>,
    /// In blocks, from the start of the bdev.
    pub(crate) offset_blocks: Option<u64>,
    /// In blocks; 0 is everything.
    pub(crate) length_blocks: Option<u64>,
}

/// A section that is not `[global]`, everything filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileJob {
    pub(crate) name: String,
    pub(crate) bdevs: Vec<String>,
    /// Empty: any of the program's cores.
    pub(crate) cores: BTreeSet<u32>,
    pub(crate) io_bytes: u64,
    pub(crate) depth: u32,
    pub(crate) read_percent: u8,
    pub(crate) workload: Workload,
    pub(crate) offset_blocks: u64,
    pub(crate) length_blocks: u64,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JobFileError {
    #[error("cannot read the job file {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}, line {line}: expected [name] or key=value", path.display())]
    Syntax { path: PathBuf, line: usize },
    #[error("{}, line {line}: \"{key}\" is no key of a job: use filename, cpumask, bs, iodepth, rwmixread, offset, length or rw", path.display())]
    Key {
        path: PathBuf,
        line: usize,
        key: String,
    },
    #[error("{}, line {line}: {source}", path.display())]
    Value {
        path: PathBuf,
        line: usize,
        source: ValueError,
    },
    #[error("{}: job \"{job}\" has no \"{key}\": add it to the job, to [global] or to the command line", path.display())]
    Missing {
        path: PathBuf,
        job: String,
        key: &'static str,
    },
    #[error("{}: it names no job: add a section such as [job0]", path.display())]
    NoJobs { path: PathBuf },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    #[error(transparent)]
    Mask(#[from] MaskError),
    #[error(transparent)]
    Workload(#[from] UnknownWorkload),
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("\"{key}\" must be a whole number from {min} to {max}, not \"{found}\"")]
    Number {
        key: &'static str,
        min: u64,
        max: u64,
        found: String,
    },
}

pub(crate) fn read(path: &Path, cli: &Settings) -> Result<Vec<FileJob>, JobFileError> {
    let unreadable = |source| JobFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(path, &text, cli)
}

fn parse(path: &Path, text: &str, cli: &Settings) -> Result<Vec<FileJob>, JobFileError> {
    let path = || path.to_owned();
    let mut sections: Vec<(String, Settings)> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = text.strip_prefix('[') {
            let name = name
                .strip_suffix(']')
                .ok_or(JobFileError::Syntax { path: path(), line })?;
            sections.push((name.trim().to_owned(), Settings::default()));
            continue;
        }
        let (key, value) =
            split_assignment(text).ok_or(JobFileError::Syntax { path: path(), line })?;
        let (_, settings) = sections
            .last_mut()
            .ok_or(JobFileError::Syntax { path: path(), line })?;
        let known = settings
            .set(key, value)
            .map_err(|source| JobFileError::Value {
                path: path(),
                line,
                source,
            })?;
        if !known {
            return Err(JobFileError::Key {
                path: path(),
                line,
                key: key.to_owned(),
            });
        }
    }

    let mut jobs = Vec::new();
    let mut global = cli.clone();
    for (name, settings) in sections {
        if name == "global" {
            global = cli.clone().or(settings);
            continue;
        }
        let settings = settings.or(global.clone());
        let missing = |key| JobFileError::Missing {
            path: path(),
            job: name.clone(),
            key,
        };
        jobs.push(FileJob {
            bdevs: settings.bdevs.ok_or_else(|| missing("filename"))?,
            cores: settings.cores.unwrap_or_default(),
            io_bytes: settings.io_bytes.ok_or_else(|| missing("bs"))?,
            depth: settings.depth.ok_or_else(|| missing("iodepth"))?,
            // bdevperf follows fio here: half reads unless told otherwise.
            read_percent: settings.read_percent.unwrap_or(50),
            workload: settings.workload.ok_or_else(|| missing("rw"))?,
            offset_blocks: settings.offset_blocks.unwrap_or(0),
            length_blocks: settings.length_blocks.unwrap_or(0),
            name,
        });
    }
    if jobs.is_empty() {
        return Err(JobFileError::NoJobs { path: path() });
    }
    Ok(jobs)
}

/// `key=value` or, as SPDK's own parser allows, `key value`.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let at = text.find(|c: char| c == '=' || c.is_whitespace())?;
    let (key, rest) = text.split_at(at);
    let value = rest
        .trim_start_matches(|c: char| c == '=' || c.is_whitespace())
        .trim_end();
    let value = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value);
    (!key.is_empty() && !value.is_empty()).then_some((key, value))
}

impl Settings {
    /// Sets one key; Ok(false) where there is no such key.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, ValueError> {
        match key {
            "filename" => {
                let names = value.split(':').map(|name| name.replace([' ', '\t'], ""));
                self.bdevs = Some(names.filter(|name| !name.is_empty()).collect());
            }
            "cpumask" => self.cores = Some(cores::parse(value)?),
            "bs" => self.io_bytes = Some(size::parse(value)?),
            "iodepth" => {
                self.depth = Some(number("iodepth", value, 1, u64::from(u16::MAX))? as u32)
            }
            "rwmixread" => self.read_percent = Some(number("rwmixread", value, 0, 100)? as u8),
            "offset" => self.offset_blocks = Some(number("offset", value, 0, u64::MAX)?),
            "length" => self.length_blocks = Some(number("length", value, 0, u64::MAX)?),
            "rw" => self.workload = Some(value.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is set here, and `other`'s for the rest.
    fn or(self, other: Self) -> Self {
        Self {
            bdevs: self.bdevs.or(other.bdevs),
            cores: self.cores.or(other.cores),
            io_bytes: self.io_bytes.or(other.io_bytes),
            depth: self.depth.or(other.depth),
            read_percent: self.read_percent.or(other.read_percent),
            workload: self.workload.or(other.workload),
            offset_blocks: self.offset_blocks.or(other.offset_blocks),
            length_blocks: self.length_blocks.or(other.length_blocks),
        }
    }
}

fn number(key: &'static str, text: &str, min: u64, max: u64) -> Result<u64, ValueError> {
    let parsed = text
        .parse()
        .ok()
        .filter(|number| (min..=max).contains(number));
    parsed.ok_or_else(|| ValueError::Number {
        key,
        min,
        max,
        found: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(text: &str) -> Result<Vec<FileJob>, JobFileError> {
        parse(Path::new("jobs.conf"), text, &Settings::default())
    }

    const TWO: &str = "
# Defaults.
[global]
bs=4096
iodepth = 32
rw=randrw
rwmixread=70

[job0]
filename=Malloc0:Malloc1
cpumask=0x1

[job1]
filename Null0
cpumask=[1]
rw=write
offset=100
length=1000
";

    #[test]
    fn jobs_take_what_global_says_and_override_it() {
        let jobs = jobs(TWO).unwrap();
        assert_eq!(jobs.len(), 2);
        assert_eq!(jobs[0].bdevs, ["Malloc0", "Malloc1"]);
        assert_eq!(
            (jobs[0].io_bytes, jobs[0].depth, jobs[0].read_percent),
            (4096, 32, 70)
        );
        assert_eq!(jobs[0].workload, Workload::RandRw);
        assert_eq!(jobs[1].workload, Workload::Write);
        assert_eq!(jobs[1].cores, BTreeSet::from([1]));
        assert_eq!((jobs[1].offset_blocks, jobs[1].length_blocks), (100, 1000));
    }

    #[test]
    fn the_command_line_overrides_global_but_not_the_job() {
        let cli = Settings {
            depth: Some(7),
            workload: Some(Workload::Read),
            ..Settings::default()
        };
        let jobs = parse(Path::new("x"), TWO, &cli).unwrap();
        assert_eq!((jobs[0].depth, jobs[0].workload), (7, Workload::Read));
        assert_eq!(jobs[1].workload, Workload::Write);
    }

    #[test]
    fn a_second_global_forgets_the_first() {
        let text =
            "[global]\nbs=512\niodepth=1\nrw=read\nfilename=A\n[a]\n[global]\nbs=1024\n[b]\n";
        assert!(matches!(jobs(text), Err(JobFileError::Missing { job, .. }) if job == "b"));
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        let message = |text: &str| jobs(text).unwrap_err().to_string();
        assert!(message("[a]\nfilename=M\ncolour=red\n").contains("line 3: \"colour\""));
        assert!(
            message("[a]\niodepth=0\n")
                .contains("line 2: \"iodepth\" must be a whole number from 1")
        );
        assert!(message("[a]\nrw=reed\n").contains("\"reed\" is no workload"));
        assert!(message("[a]\ncpumask=zz\n").contains("no core mask"));
        assert!(message("[a]\nbs=4q\n").contains("line 2"));
        assert!(message("[a\n").contains("line 1: expected [name]"));
        assert!(message("bs=1\n").contains("line 1: expected [name]"));
        assert!(message("[a]\nbs=1\niodepth=1\nrw=read\n").contains("no \"filename\""));
        assert!(message("# nothing\n").contains("names no job"));
    }
}
