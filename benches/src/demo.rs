//! `oriel-perf demo`: a store on a drive in a file is killed in the middle of writing, and has lost nothing.
//!
//! ```text
//!   demo ──► first program: stores and deletes blobs, says so of each when it is durable
//!     │      kill -9
//!     └────► second program: opens the store, compares every blob with what was acknowledged, then reads
//! ```
//!
//! It runs as an ordinary user without hugepages, and leaves nothing behind: the drive's file has no name, and both
//! programs go with the demo, whatever ends it.

mod ledger;
mod program;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use self::ledger::Ledger;
use self::program::Part;
use crate::bdev::session::SessionError;
use crate::interrupt::Interrupt;
use crate::out::{self, say};
use crate::store::SideError;

/// Shows a store that is killed in the middle of writing and has lost nothing, on this machine as it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// About how long to run, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=86_400))]
    pub(crate) seconds: u32,
    /// Where the file of the drive is made [default: the folder for temporary files]
    #[arg(long)]
    pub(crate) directory: Option<PathBuf>,
    /// The demo's own programs
    #[arg(long, hide = true, requires = "drive")]
    part: Option<Part>,
    /// The drive of the demo's own programs
    #[arg(long, hide = true)]
    drive: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DemoError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Store(#[from] SideError),
    #[error("cannot make a file of {mib} MiB in {}: {source}; name another folder with --directory", directory.display())]
    File {
        directory: PathBuf,
        mib: u64,
        source: std::io::Error,
    },
    #[error("the demo's own program cannot be run: {0}")]
    Child(#[from] std::io::Error),
    #[error("the demo's own program ended with {0} before its time")]
    Ended(ExitStatus),
    #[error("the demo's own program said what nobody understands: {0}")]
    Nonsense(String),
    #[error("the store is not what was acknowledged: {0}")]
    Lost(String),
}

const DRIVE_BYTES: u64 = 256 << 20;

/// The signal that ended it, if one did.
pub(crate) fn run(args: &DemoArgs) -> Result<Option<i32>, DemoError> {
    if let (Some(part), Some(drive)) = (args.part, &args.drive) {
        return program::run(part, drive, Duration::from_secs(args.seconds.into()));
    }
    let interrupt = Interrupt::install()?;
    let directory = args.directory.clone().unwrap_or_else(std::env::temp_dir);
    let file = make_file(&directory)?;
    // Its other programs open it by this process's descriptor, since it has no name.
    let drive = PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        file.as_raw_fd()
    ));
    say!(
        "A store of blobs on a drive of {} MiB, a file in {}, through SPDK {}: one core, no hugepages, no root.",
        DRIVE_BYTES >> 20,
        directory.display(),
        oriel_spdk::SPDK_RELEASE,
    );
    let mut ledger = Ledger::default();
    let total = Duration::from_secs(args.seconds.into());
    let told = write_and_kill(&drive, total * 4 / 10, &mut ledger, &interrupt)
        .and_then(|()| check_and_read(&drive, total * 4 / 10, &mut ledger, &interrupt));
    match told {
        Err(DemoError::Lost(what)) => Err(DemoError::Lost(what)),
        // The programs that the signal ended as well have nothing to complain about.
        _ if interrupt.raised() => {
            say!("\nStopped early; nothing is left behind.");
            Ok(Some(signal_hook::consts::SIGINT))
        }
        told => told.map(|()| None),
    }
}

/// A file without a name, which is gone when the last process lets go of it.
fn make_file(directory: &Path) -> Result<File, DemoError> {
    let made = tempfile::tempfile_in(directory).and_then(|file| {
        reserve(&file)?;
        Ok(file)
    });
    made.map_err(|source| DemoError::File {
        directory: directory.to_owned(),
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

// ---- The programs -------------------------------------------------------------------------------------------------------

/// A program of the demo's, and what it says.
struct Program {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Program {
    fn start(part: Part, drive: &Path, seconds: u64, told: &str) -> Result<Self, DemoError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["demo", "--part", part.name()])
            .arg("--drive")
            .arg(drive)
            .args(["--seconds", &seconds.max(2).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take();
        let (send, said) = mpsc::channel();
        std::thread::Builder::new()
            .name("listens".into())
            .spawn(move || {
                let lines = stdout.map(|stdout| BufReader::new(stdout).lines());
                for line in lines.into_iter().flatten().map_while(Result::ok) {
                    if send.send(line).is_err() {
                        return;
                    }
                }
            })?;
        let program = Self { child, said };
        let mut program = program;
        if let Some(mut stdin) = program.child.stdin.take() {
            stdin.write_all(told.as_bytes())?;
        }
        Ok(program)
    }

    /// What it says next; `None` when it has ended.
    fn listen(&self, limit: Duration) -> Option<Result<String, RecvTimeoutError>> {
        match self.said.recv_timeout(limit) {
            Err(RecvTimeoutError::Disconnected) => None,
            heard => Some(heard),
        }
    }

    fn kill(&mut self) -> Result<(), DemoError> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const STEP: Duration = Duration::from_millis(20);

fn write_and_kill(
    drive: &Path,
    time: Duration,
    ledger: &mut Ledger,
    interrupt: &Interrupt,
) -> Result<(), DemoError> {
    say!(
        "\nStoring blobs of 1 byte to 256 KiB, 16 at a time, deleting the oldest; each counts once it is durable:"
    );
    let mut program = Program::start(Part::Write, drive, time.as_secs(), "")?;
    let mut live = Live::new();
    let mut since: Option<Instant> = None;
    while since.is_none_or(|since| since.elapsed() < time) && !interrupt.raised() {
        match program.listen(STEP) {
            None => return Err(DemoError::Ended(program.child.wait()?)),
            Some(Ok(line)) if line == "ready" => since = Some(Instant::now()),
            Some(Ok(line)) => ledger.note(&line).ok_or(DemoError::Nonsense(line))?,
            Some(Err(_)) => {}
        }
        if let Some(since) = since {
            live.show(
                since.elapsed(),
                ledger.stored,
                ledger.stored_bytes,
                "stored",
            );
        }
    }
    program.kill()?;
    // What it said before it died counts.
    while let Some(Ok(line)) = program.listen(Duration::from_secs(5)) {
        ledger.note(&line).ok_or(DemoError::Nonsense(line))?;
    }
    live.end();
    if interrupt.raised() {
        return Ok(());
    }
    say!(
        "kill -9, with {} writes and deletes under way. Acknowledged until then: {} blobs stored, {} deleted again.",
        ledger.under_way(),
        ledger.stored,
        ledger.deleted
    );
    Ok(())
}

fn check_and_read(
    drive: &Path,
    time: Duration,
    ledger: &mut Ledger,
    interrupt: &Interrupt,
) -> Result<(), DemoError> {
    if interrupt.raised() {
        return Ok(());
    }
    let expected = ledger.there();
    let mut program = Program::start(Part::Check, drive, time.as_secs(), &ledger.text())?;
    let mut live = Live::new();
    let mut since: Option<Instant> = None;
    let (mut blobs, mut bytes) = (0, 0);
    loop {
        let line = match program.listen(STEP) {
            None => break,
            Some(Ok(line)) => line,
            Some(Err(_)) if interrupt.raised() => return program.kill(),
            Some(Err(_)) => continue,
        };
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        match (words[0], number(1), number(2), number(3)) {
            ("opened", Some(ms), ..) => {
                say!("\nAnother program opened the store again in {ms} ms.")
            }
            ("checked", Some(there), Some(gone), Some(made_it)) => {
                say!(
                    "It looked for every blob: all {there} of {expected} are there, byte for byte, and all {gone} deleted ones are gone."
                );
                say!("Of what was under way, {made_it} had been done; the rest left no trace.");
                if there != expected {
                    return Err(DemoError::Lost(format!(
                        "{there} of {expected} blobs are there"
                    )));
                }
                say!("\nNow it finds and reads blobs at random, and verifies each:");
                since = Some(Instant::now());
            }
            ("read", Some(now_blobs), Some(now_bytes), _) => {
                (blobs, bytes) = (now_blobs, now_bytes);
                if let Some(since) = since {
                    live.show(since.elapsed(), blobs, bytes, "read");
                }
            }
            ("lost", ..) => return Err(DemoError::Lost(line)),
            _ => return Err(DemoError::Nonsense(line)),
        }
    }
    live.end();
    let status = program.child.wait()?;
    if !status.success() || since.is_none() {
        return Err(DemoError::Ended(status));
    }
    say!(
        "{blobs} blobs read and verified, {} MiB. Nothing that was acknowledged is lost, and nothing is left behind.\nNext: oriel-perf store --help",
        bytes >> 20
    );
    Ok(())
}

/// The speed of the last second: a line that renews itself on a terminal, a line a second elsewhere.
struct Live {
    shown_at: Duration,
    before: (u64, u64),
    redraws: bool,
    has_shown: bool,
}

impl Live {
    const PERIOD: Duration = Duration::from_secs(1);

    fn new() -> Self {
        Self {
            shown_at: Duration::ZERO,
            before: (0, 0),
            redraws: out::is_terminal(),
            has_shown: false,
        }
    }

    fn show(&mut self, elapsed: Duration, blobs: u64, bytes: u64, verb: &str) {
        let passed = elapsed.saturating_sub(self.shown_at);
        if passed < Self::PERIOD {
            return;
        }
        let line = self.line(elapsed, passed, blobs, bytes, verb);
        self.shown_at = elapsed;
        self.before = (blobs, bytes);
        self.has_shown = true;
        if self.redraws {
            // Back to the start of the line, and clear what was there.
            out::write(format_args!("\r\x1b[2K{line}"));
        } else {
            say!("{line}");
        }
    }

    fn line(
        &self,
        elapsed: Duration,
        passed: Duration,
        blobs: u64,
        bytes: u64,
        verb: &str,
    ) -> String {
        let per_second =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / passed.as_secs_f64();
        let mib = per_second(bytes, self.before.1) / f64::from(1 << 20);
        format!(
            "{:>4} s   {blobs:>8} blobs {verb}   {:>8.0} blobs/s   {mib:>8.1} MiB/s",
            elapsed.as_secs(),
            per_second(blobs, self.before.0)
        )
    }

    fn end(&mut self) {
        if self.redraws && self.has_shown {
            say!("");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_live_line_shows_what_the_last_second_did() {
        let mut live = Live::new();
        live.before = (100, 1 << 20);
        let (now, second) = (Duration::from_secs(3), Duration::from_secs(1));
        assert_eq!(
            live.line(now, second, 1100, 11 << 20, "stored"),
            "   3 s       1100 blobs stored       1000 blobs/s       10.0 MiB/s"
        );
    }

    #[test]
    fn the_file_has_its_size_and_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = make_file(directory.path()).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), DRIVE_BYTES);
        assert!(found.blocks() * 512 >= DRIVE_BYTES, "it has holes");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = make_file(Path::new("/nonexistent"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent") && error.contains("--directory"),
            "{error}"
        );
    }
}
