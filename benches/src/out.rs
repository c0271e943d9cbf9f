//! Standard output, kept to what this program says.
//!
//! SPDK and DPDK print to standard output as they start, and C's buffers may
//! hold it back until the very end, so it would land inside or after a table,
//! or spoil JSON. Descriptor 1 is therefore theirs, and leads nowhere unless
//! somebody asked to see it; what this program prints goes to a copy of the
//! descriptor that it was started with.

use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

static OUT: OnceLock<File> = OnceLock::new();

/// To be called once, before SPDK starts.
pub(crate) fn claim(show_theirs: bool) -> io::Result<()> {
    let ours = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if show_theirs {
        rustix::stdio::dup2_stdout(io::stderr())?;
    } else {
        rustix::stdio::dup2_stdout(File::create("/dev/null")?)?;
    }
    OUT.get_or_init(|| ours);
    Ok(())
}

/// The first error that kept output from where it should go.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes text as it is. An error is not worth ending a measurement for: it is
/// kept for the end. Whoever closed the other end does not want to hear more.
pub(crate) fn write(text: Arguments<'_>) {
    let written = match OUT.get() {
        Some(mut out) => out.write_all(text.to_string().as_bytes()),
        None => io::stdout().write_fmt(text),
    };
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| error);
    }
}

/// Why not all that was written has arrived, where it has not.
pub(crate) fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// A sentence for standard error. Where even that is full there is nobody left
/// to tell, which `eprintln!` would end the program for.
pub(crate) fn complain(text: Arguments<'_>) {
    let told = writeln!(io::stderr(), "oriel-perf: {text}");
    drop(told);
}

/// `println!` to where this program's output belongs.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::out::write(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(crate) use say;
