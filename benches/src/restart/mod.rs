//! `oriel-perf restart`: how soon a store of many blobs serves again after a stop and after a crash, and what it keeps in
//! memory of a blob.
//!
//! ```text
//!   fill ──► stop ──► starts: index taken over ──► stop ──► starts, writes ──► kill -9 ──► starts: index made anew
//! ```
//!
//! Each start is a program of its own on the same drive, a file, and the same memory for the index, another file, by default
//! in memory as CXL memory would be. It serves when it has read a blob, and stored one.

mod program;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use clap::Args;

pub(crate) use self::program::Mode;
use self::program::Told;
use crate::bdev::session::SessionError;
use crate::out::say;
use crate::size;
use crate::store::SideError;

/// Measures how soon a store of many blobs serves again after a clean stop and after a crash.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestartArgs {
    /// Blobs of one block each
    #[arg(long, default_value = "1M", value_parser = size::parse)]
    pub(crate) blobs: u64,
    /// The folder of the drive's file, which takes 4.3 KiB for each blob [default: that for temporary files]
    #[arg(long)]
    pub(crate) directory: Option<PathBuf>,
    /// The folder of the index's file
    #[arg(long, default_value = "/dev/shm")]
    pub(crate) index_directory: PathBuf,
    /// The measurement's own programs
    #[arg(long, hide = true, requires_all = ["drive", "index"])]
    mode: Option<Mode>,
    #[arg(long, hide = true)]
    drive: Option<PathBuf>,
    #[arg(long, hide = true)]
    index: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RestartError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Store(#[from] SideError),
    #[error("cannot make a file of {mib} MiB in {}: {source}; name another folder, or fewer --blobs", directory.display())]
    File {
        directory: PathBuf,
        mib: u64,
        source: std::io::Error,
    },
    #[error("the measurement's own program cannot be run: {0}")]
    Child(#[from] std::io::Error),
    #[error("the measurement's own program ended with {0} before its time")]
    Ended(ExitStatus),
    #[error("the measurement's own program said what nobody understands: {0}")]
    Nonsense(String),
    #[error("after {after} the index was {found}, not {expected}")]
    OtherIndex {
        after: &'static str,
        expected: &'static str,
        found: &'static str,
    },
}

/// What it is held to, with ten million blobs.
const AFTER_STOP_S: f64 = 2.0;
const AFTER_CRASH_S: f64 = 20.0;
const BYTES_A_BLOB: f64 = 64.0;

/// The signal that ended it, if one did.
pub(crate) fn run(args: &RestartArgs) -> Result<Option<i32>, RestartError> {
    if let (Some(mode), Some(drive), Some(index)) = (args.mode, &args.drive, &args.index) {
        return program::run(mode, drive, index, args.blobs);
    }
    let directory = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    measure(args.blobs, &directory, &args.index_directory).map(|_| None)
}

/// A file without a name, and the way to it for other programs.
struct Nameless {
    _file: File,
    path: PathBuf,
}

fn make_file(directory: &Path, bytes: u64) -> Result<Nameless, RestartError> {
    let made = tempfile::tempfile_in(directory).and_then(|file| {
        file.set_len(bytes)?;
        Ok(file)
    });
    let file = made.map_err(|source| RestartError::File {
        directory: directory.to_owned(),
        mib: bytes >> 20,
        source,
    })?;
    let path = PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ));
    Ok(Nameless { _file: file, path })
}

struct Program {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    began: Instant,
}

impl Program {
    fn start(mode: Mode, blobs: u64, drive: &Path, index: &Path) -> Result<Self, RestartError> {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["restart", "--mode", mode.name()])
            .args(["--blobs", &blobs.to_string()])
            .arg("--drive")
            .arg(drive)
            .arg("--index")
            .arg(index)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("it has a pipe");
        Ok(Self {
            child,
            said: BufReader::new(stdout),
            began,
        })
    }

    fn told(&mut self) -> Result<Told, RestartError> {
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            return Err(RestartError::Ended(self.child.wait()?));
        }
        serde_json::from_str(&line).map_err(|_| RestartError::Nonsense(line))
    }

    fn end(mut self) -> Result<(), RestartError> {
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(RestartError::Ended(status)),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn word(passed: bool) -> &'static str {
    if passed { "PASS" } else { "SHORT" }
}

/// Measures, prints a line for each promise, and says whether all are kept.
pub(crate) fn measure(
    blobs: u64,
    directory: &Path,
    index_directory: &Path,
) -> Result<bool, RestartError> {
    let drive = make_file(directory, program::drive_bytes(blobs))?;
    let index = make_file(index_directory, 0)?;
    say!(
        "{blobs} blobs of one block, a drive of {} MiB in {}, the index in {}",
        program::drive_bytes(blobs) >> 20,
        directory.display(),
        index_directory.display()
    );
    let start = |mode| Program::start(mode, blobs, &drive.path, &index.path);
    let mut filling = start(Mode::Fill)?;
    let filled = match filling.told()? {
        Told::Filled { seconds } => seconds,
        other => return Err(RestartError::Nonsense(format!("{other:?}"))),
    };
    filling.end()?;
    say!("filled in {filled:.1} s");
    say!(
        "{:<14} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6}",
        "seconds",
        "program",
        "drive",
        "index",
        "check-",
        "slabs",
        "journal",
        "own",
        "first",
        "first",
        "bound"
    );
    say!(
        "{:<14} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "serving after",
        "starts",
        "loaded",
        "mapped",
        "point",
        "",
        "",
        "chkpt",
        "read",
        "put"
    );
    let mut good = true;
    for (after, mode, is_adopted, bound) in [
        ("a stop", Mode::Stop, true, AFTER_STOP_S),
        ("a stop", Mode::Write, true, AFTER_STOP_S),
        ("a crash", Mode::Stop, false, AFTER_CRASH_S),
    ] {
        let mut program = start(mode)?;
        let Told::Serves(served) = program.told()? else {
            return Err(RestartError::Nonsense(
                "it has to say that it serves".into(),
            ));
        };
        let all = program.began.elapsed().as_secs_f64();
        let kind = |adopted| if adopted { "taken over" } else { "made anew" };
        if served.is_adopted != is_adopted {
            let (expected, found) = (kind(is_adopted), kind(served.is_adopted));
            return Err(RestartError::OtherIndex {
                after,
                expected,
                found,
            });
        }
        let passed = all <= bound;
        good &= passed;
        let phases = &served.seconds;
        say!(
            "{:<8} {all:>5.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {bound:>6} {}  index {}",
            after,
            all - phases.iter().sum::<f64>(),
            phases[0],
            phases[1],
            phases[2],
            phases[3],
            phases[4],
            phases[5],
            phases[6],
            phases[7],
            word(passed),
            kind(served.is_adopted),
        );
        if mode == Mode::Write {
            // Into the middle of what it writes.
            let Told::Wrote { .. } = program.told()? else {
                return Err(RestartError::Nonsense("it has to say that it wrote".into()));
            };
            program.child.kill()?;
            program.child.wait()?;
            continue;
        }
        let Told::Holds(held) = program.told()? else {
            return Err(RestartError::Nonsense("it has to say what it holds".into()));
        };
        let of_blob = |bytes: u64| bytes as f64 / held.blobs as f64;
        let counted = of_blob(held.index_bytes + held.slab_bytes);
        let resident = of_blob(held.resident_bytes);
        // Of few blobs the rest of the program is the larger part.
        let passed = counted.max(resident) <= BYTES_A_BLOB || held.blobs < 1 << 22;
        good &= passed;
        say!(
            "{:<8} memory of each of {} blobs: index {:.1} + slabs {:.1} = {counted:.1} B; the program grew by {resident:.1} B, of at most {BYTES_A_BLOB} {}",
            "",
            held.blobs,
            of_blob(held.index_bytes),
            of_blob(held.slab_bytes),
            word(passed)
        );
        program.end()?;
    }
    Ok(good)
}
