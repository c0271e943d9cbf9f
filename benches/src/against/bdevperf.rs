//! SPDK's bdevperf as a peer: which release it is, how it is to be asked for
//! the same load, and what its table says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::child::{self, Watched};

/// A bdevperf program and what sets its release apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bdevperf {
    pub(crate) program: PathBuf,
    pub(crate) dialect: Dialect,
}

/// Read from the program's own usage text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// v20.07 moves no bytes on a malloc bdev unless `-x` turns its zero-copy
    /// calls off; later releases copy unless `-Z` turns them on.
    pub(crate) zero_copy_by_default: bool,
    /// v20.07's bdevperf cannot start without hugepages.
    pub(crate) has_no_huge: bool,
    /// Later releases time every I/O, and so must whoever is compared to them.
    pub(crate) times_every_io: bool,
    /// v20.07 reads the older configuration format with `-c`, and JSON with `--json`.
    pub(crate) json_flag: &'static str,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerError {
    #[error("there is no bdevperf at {}: build SPDK with scripts/bootstrap, or name the program (test/bdev/bdevperf/bdevperf or build/examples/bdevperf of an SPDK build tree)", .0.display())]
    Missing(PathBuf),
    #[error(
        "no bdevperf was found: run scripts/bootstrap, or point SPDK_DIR at an SPDK build tree"
    )]
    NotFound,
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not SPDK's bdevperf: its --help does not describe -q, -o and -w", .0.display())]
    NotBdevperf(PathBuf),
    #[error("{} ended with {status}: {said}", program.display())]
    Failed {
        program: PathBuf,
        status: std::process::ExitStatus,
        said: String,
    },
    #[error("{} printed no line \"Total\" to read its result from: {said}", program.display())]
    NoTotal { program: PathBuf, said: String },
}

/// What one side showed in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) iops: f64,
    pub(crate) mibps: f64,
    /// See [`Watched`].
    pub(crate) waited: Option<f64>,
}

/// Where a build tree of either age has the program.
const IN_TREE: [&str; 2] = ["build/examples/bdevperf", "test/bdev/bdevperf/bdevperf"];

impl Bdevperf {
    /// `path` may be the program itself or an SPDK build tree.
    pub(crate) fn at(path: &Path) -> Result<Self, PeerError> {
        let in_tree = || {
            IN_TREE
                .iter()
                .map(|tail| path.join(tail))
                .find(|program| program.is_file())
        };
        let program = if path.is_dir() {
            in_tree()
        } else {
            path.is_file().then(|| path.to_owned())
        };
        let program = program.ok_or_else(|| PeerError::Missing(path.to_owned()))?;
        let output = Command::new(&program)
            .arg("-h")
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|source| PeerError::Spawn {
            program: program.clone(),
            source,
        })?;
        let usage = [output.stdout, output.stderr].concat();
        let dialect = Dialect::from_usage(&String::from_utf8_lossy(&usage));
        match dialect {
            Some(dialect) => Ok(Self { program, dialect }),
            None => Err(PeerError::NotBdevperf(program)),
        }
    }

    /// The one that the bootstrap built, or that of the user's own SPDK.
    pub(crate) fn find() -> Result<Self, PeerError> {
        if let Some(tree) = std::env::var_os("SPDK_DIR") {
            return Self::at(Path::new(&tree));
        }
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let tree = cache.ok_or(PeerError::NotFound)?.join("oriel/spdk");
        if tree.is_dir() {
            Self::at(&tree)
        } else {
            Err(PeerError::NotFound)
        }
    }

    /// Runs it with `arguments` and reads its table.
    pub(crate) fn measure(&self, arguments: &[String]) -> Result<Measured, PeerError> {
        let program = || self.program.clone();
        let watched = child::run(Command::new(&self.program).args(arguments));
        let Watched { output, waited } = watched.map_err(|source| PeerError::Spawn {
            program: program(),
            source,
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = || {
            first_complaint(&errors)
                .or_else(|| last_line(&errors))
                .or_else(|| last_line(&text))
                .unwrap_or_default()
        };
        if !output.status.success() {
            return Err(PeerError::Failed {
                program: program(),
                status: output.status,
                said: said(),
            });
        }
        let (iops, mibps) = parse_total(&text).ok_or_else(|| PeerError::NoTotal {
            program: program(),
            said: said(),
        })?;
        Ok(Measured {
            iops,
            mibps,
            waited,
        })
    }
}

fn last_line(text: &str) -> Option<String> {
    text.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .map(str::to_owned)
}

/// The first line in which SPDK or DPDK names an error.
fn first_complaint(errors: &str) -> Option<String> {
    let complaint = errors.lines().find(|line| {
        line.contains("*ERROR*") || line.contains("EAL: Cannot") || line.contains("EAL: FATAL")
    });
    complaint.map(|line| line.trim().to_owned())
}

impl Dialect {
    fn from_usage(usage: &str) -> Option<Self> {
        let has = |start: &str| {
            usage
                .lines()
                .any(|line| line.trim_start().starts_with(start))
        };
        if !(has("-q <depth>") && has("-o <size>") && has("-w <type>")) {
            return None;
        }
        Some(Self {
            zero_copy_by_default: has("-x ") && usage.contains("disable using zcopy"),
            has_no_huge: usage.contains("--no-huge"),
            times_every_io: has("-l "),
            json_flag: if has("--json <config>") {
                "--json"
            } else {
                "-c"
            },
        })
    }
}

/// IOPS and MiB/s of the line "Total" of either table: v20.07 prints figures with their
/// units, later releases columns.
fn parse_total(text: &str) -> Option<(f64, f64)> {
    let lines = text
        .lines()
        .map(|line| line.trim_matches(|c: char| c == '\r' || c.is_whitespace()));
    let total = lines.rev().find(|line| line.starts_with("Total"))?;
    let words: Vec<&str> = total.split_once(':')?.1.split_whitespace().collect();
    let numbers: Vec<f64> = match words.as_slice() {
        [iops, "IOPS", mibps, "MiB/s", ..] => vec![iops.parse().ok()?, mibps.parse().ok()?],
        columns => columns.iter().map_while(|word| word.parse().ok()).collect(),
    };
    match numbers.as_slice() {
        [iops, mibps, ..] => Some((*iops, *mibps)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V20_07: &str = "Running I/O for 2 seconds...\n\r Thread name: Malloc0_1\n\r Core Mask: 0x1\n\
        \r Malloc0             : 1969127.11 IOPS    7691.90 MiB/s\n\
        \r =====================================================\n\
        \r Total               : 1969127.50 IOPS    7691.90 MiB/s\n";
    const V26_05: &str = "\n                    Latency(us)\n\
        \r Device Information          : runtime(s)       IOPS      MiB/s     Fail/s     TO/s    Average        min        max\n\
        Job: Malloc0 (Core Mask 0x1, workload: randread, depth: 32, IO size: 4096)\n\
        \t Malloc0             :       2.00 1860000.00    7265.62       0.00     0.00      17.10       3.20     310.00\n\
        \r ======================\n\
        \r Total                       :            1860000.00    7265.62       0.00     0.00      17.10       3.20     310.00\n";

    #[test]
    fn the_tables_of_either_age_are_read() {
        assert_eq!(parse_total(V20_07), Some((1_969_127.5, 7691.9)));
        assert_eq!(parse_total(V26_05), Some((1_860_000.0, 7265.62)));
    }

    #[test]
    fn with_a_period_the_last_total_counts() {
        let text = format!("{}{V20_07}", V20_07.replace("1969127.50", "1.00"));
        assert_eq!(parse_total(&text).map(|(iops, _)| iops), Some(1_969_127.5));
    }

    #[test]
    fn output_without_a_total_is_no_result() {
        assert_eq!(parse_total("Running I/O for 2 seconds...\n"), None);
        assert_eq!(parse_total("Total : \n"), None);
    }

    #[test]
    fn the_usage_text_tells_the_releases_apart() {
        let old = "     --json <config>  JSON config file\n -q <depth> io depth\n -o <size>  x\n -w <type> x\n -x     disable using zcopy bdev API for read or write I/O\n";
        let old = Dialect::from_usage(old).unwrap();
        assert!(old.zero_copy_by_default && !old.has_no_huge && !old.times_every_io);
        assert_eq!(old.json_flag, "--json");
        let new = "     --no-huge  run without using hugepages\n -q <depth> d\n -o <size> s\n -w <type> t\n -Z   enable using zcopy\n -l    display latency histogram\n";
        let new = Dialect::from_usage(new).unwrap();
        assert!(!new.zero_copy_by_default && new.has_no_huge && new.times_every_io);
        assert_eq!(new.json_flag, "-c");
        assert_eq!(Dialect::from_usage("usage: cat [FILE]"), None);
    }

    #[test]
    fn a_missing_or_foreign_program_is_named() {
        let error = Bdevperf::at(Path::new("/nonexistent/bdevperf"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/bdevperf") && error.contains("scripts/bootstrap"),
            "{error}"
        );
        assert!(matches!(
            Bdevperf::at(Path::new("/bin/true")),
            Err(PeerError::NotBdevperf(_))
        ));
    }
}
