//! What can go wrong, in one sentence that says what to do, and how the program ends then.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use oriel_client::blob::{BlobError, Failure};
use oriel_client::{CommandError, ConnectError, KernelError, NamespaceError};
use oriel_protocol::Status;

use crate::address::AddressError;
use crate::keys::KeyError;
use crate::limits::JOBS_MAX;
use crate::link::LinkError;

/// How the program ends: what scripts see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    Refused,
    NoConnection,
    Damaged,
    /// Nobody reads what is written any more; the status is that of programs that SIGPIPE ends.
    BrokenPipe,
}

impl Exit {
    pub(crate) const fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::NoConnection => 5,
            Self::Damaged => 6,
            Self::BrokenPipe => 141,
        }
    }

    /// Whether there is no use in going on with what is left.
    pub(crate) const fn is_fatal(self) -> bool {
        matches!(self, Self::NoConnection | Self::BrokenPipe)
    }
}

/// Arguments that do not go together, or name nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error(
        "say which realm: --to nvme+tcp://HOST:PORT/REALM, or a device of the kernel's as in --to /dev/nvme0n1; or set ORIEL_TO"
    )]
    NoAddress,
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("say which blobs: keys, --name TEXT, or --list FILE with what put has printed")]
    NoKeys,
    #[error("{} is a folder: say -r to put all files in it", path.display())]
    Folder { path: PathBuf },
    #[error(
        "--name and --key are for one blob, and there are {count} files: leave them out, or put one at a time"
    )]
    OneName { count: usize },
    #[error("{count} blobs do not go into one file: name a folder by --into DIR")]
    ManyBlobs { count: usize },
    #[error(
        "the blob would be written to the terminal: name a file by -o FILE, or say -o - if that is meant"
    )]
    Terminal,
    #[error(
        "--json and the blob would both go to standard output: name a file by -o FILE, or a folder by --into DIR"
    )]
    JsonAndBlob,
    #[error(
        "'{label}' leads to no file below the folder of --into: get that blob by its key and -o FILE"
    )]
    Outside { label: String },
    #[error("two blobs would be written to {}: get one of them by its key and -o FILE", path.display())]
    Twice { path: PathBuf },
    #[error("standard input can be read once: name '-' only once")]
    InputTwice,
    #[error("top draws on a terminal, and this is none: say --once, or --json")]
    NoTerminal,
    #[error("{}, line {line}: {source}", file.display())]
    List {
        file: PathBuf,
        line: usize,
        source: KeyError,
    },
    #[error("{}, line {line} is no object with a \"key\": give the lines that put --json has printed", file.display())]
    ListObject { file: PathBuf, line: usize },
    #[error(
        "several nodes at {address} have a realm '{realm}': say which by its subsystem, --to nvme+tcp://{address}/NQN with one of {names}"
    )]
    Several {
        address: String,
        realm: String,
        names: String,
    },
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("the host {host} is not known ({source}): check the address of --to")]
    Unknown { host: String, source: io::Error },
    #[error("the host {host} has no address: check the address of --to")]
    NoAddresses { host: String },
    #[error(
        "{address} has no realm '{realm}' for this host, {there}: check the name in --to, and whether the realm lets this host in (--host NQN)"
    )]
    NoRealm {
        address: String,
        realm: String,
        there: There,
    },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{}", told(.0))]
    Blob(#[from] BlobError<LinkError>),
    #[error("there is no such blob: list those that there are with oriel ls")]
    NoBlob,
    #[error("there is no routing table: this node is on its own")]
    NoTable,
    #[error("it is empty, and a blob has at least one byte: leave it out")]
    Empty,
    #[error("it has {bytes} bytes, and a blob of this node up to {max}: cut it (split -b {max})")]
    TooLong { bytes: u64, max: u64 },
    #[error("it grows while it is read: put it when it is whole")]
    Grows,
    #[error("it is no file: put files, folders (-r) or - for standard input")]
    NoFile,
    #[error(
        "its name has a line break or is not UTF-8, and could not be told from others in a list: rename it, or put it by standard input"
    )]
    Name,
    #[error("it cannot be read ({0}): check its path and who may read it")]
    Unreadable(io::Error),
    #[error("{} cannot be written ({source}): check that its folder is there, and has room", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error(
        "it changed on the node while it was written out, so what was written may be of two blobs: get it again into a file"
    )]
    Changed,
    #[error(
        "the pipe's bytes cannot be kept until their hash is known ({0}): give it a name (--name), or set TMPDIR to a folder with room for them"
    )]
    Spool(io::Error),
    #[error("standard output cannot be written ({0}): check where it goes")]
    Output(io::Error),
    #[error("no thread can be started ({0}): try fewer --jobs than {JOBS_MAX}")]
    Thread(io::Error),
    #[error("signals cannot be waited for ({0})")]
    Signals(io::Error),
}

/// The realms that are to be reached.
#[derive(Debug)]
pub(crate) struct There(pub(crate) Vec<String>);

impl std::fmt::Display for There {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("nor any other"),
            false => write!(f, "but {}", self.0.join(", ")),
        }
    }
}

/// The node's own words where it has some: the rest names subsystem and key once more.
fn told(error: &BlobError<LinkError>) -> String {
    match error {
        BlobError::Refused { what, status, .. } => format!("{what} was refused: {status}"),
        BlobError::Transport(error) => match error.status() {
            Some(status) => status.to_string(),
            None => error.to_string(),
        },
        error => error.to_string(),
    }
}

impl CliError {
    pub(crate) fn output(error: io::Error) -> Self {
        Self::Output(error)
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_)
            | Self::Connect(ConnectError::BadName { .. } | ConnectError::BadOption { .. }) => {
                Exit::Usage
            }
            Self::Unknown { .. }
            | Self::NoAddresses { .. }
            | Self::NoRealm { .. }
            | Self::Connect(_) => Exit::NoConnection,
            Self::Namespace(NamespaceError::Command(error)) => of_command(error),
            Self::Kernel(error) => of_kernel(error),
            Self::Blob(error) => of_blob(error),
            Self::NoBlob | Self::NoTable => Exit::NotFound,
            Self::Empty | Self::TooLong { .. } => Exit::Refused,
            Self::Output(error) if error.kind() == ErrorKind::BrokenPipe => Exit::BrokenPipe,
            _ => Exit::Failed,
        }
    }
}

fn of_blob(error: &BlobError<LinkError>) -> Exit {
    match error {
        BlobError::Length { .. } => Exit::Refused,
        BlobError::Refused { source, .. } | BlobError::Transport(source) => match source {
            LinkError::Tcp(error) => of_command(error),
            LinkError::Kernel(error) => of_kernel(error),
        },
        BlobError::Damaged { .. } => Exit::Damaged,
        _ => Exit::Failed,
    }
}

fn of_command(error: &CommandError) -> Exit {
    match error {
        CommandError::ConnectionLost { .. }
        | CommandError::GaveUp { .. }
        | CommandError::TimedOut { .. }
        | CommandError::Closed { .. } => Exit::NoConnection,
        error => of_status(error.status()),
    }
}

fn of_kernel(error: &KernelError) -> Exit {
    match error {
        KernelError::NotNvme { .. } => Exit::Usage,
        KernelError::Missing { .. }
        | KernelError::Denied { .. }
        | KernelError::Open { .. }
        | KernelError::NotOriel { .. }
        | KernelError::TooOld { .. }
        | KernelError::Away { .. }
        | KernelError::Lost { .. }
        | KernelError::Gone { .. }
        | KernelError::Closed { .. } => Exit::NoConnection,
        error => of_status(error.status()),
    }
}

fn of_status(status: Option<Status>) -> Exit {
    match status {
        Some(
            Status::CapacityExceeded
            | Status::OverQuota
            | Status::TooManyBlobs
            | Status::TooLarge
            | Status::Stopped
            | Status::LogEnds
            | Status::Busy,
        ) => Exit::Refused,
        Some(Status::Damaged | Status::Unreadable) => Exit::Damaged,
        _ => Exit::Failed,
    }
}

/// Whether it helps to put a blob once more from its beginning: the connection was lost and nobody knows whether it was done, or the
/// node began anew in the middle and knows nothing of its window or put.
pub(crate) fn wants_another_try(error: &CliError) -> bool {
    let source = match error {
        CliError::Blob(BlobError::Refused { source, .. } | BlobError::Transport(source)) => source,
        _ => return false,
    };
    let is_lost = matches!(
        source,
        LinkError::Tcp(CommandError::ConnectionLost { .. })
            | LinkError::Kernel(KernelError::Lost { .. })
    );
    is_lost
        || matches!(
            source.status(),
            Some(
                Status::AccessDenied
                    | Status::NotReserved
                    | Status::NotWritten
                    | Status::OtherChecksum
                    | Status::NotReady
                    | Status::NoSuchPut
            )
        )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use oriel_client::Peer;

    use super::*;

    fn peer() -> Arc<Peer> {
        Arc::new(Peer {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 4420)),
            subsystem: "nqn.2026-11.io.oriel:a:b".into(),
        })
    }

    #[test]
    fn each_status_has_its_meaning() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Refused,
            Exit::NoConnection,
            Exit::Damaged,
            Exit::BrokenPipe,
        ];
        // Scripts know them: docs/cli.md.
        assert_eq!(all.map(Exit::status), [0, 1, 2, 3, 4, 5, 6, 141]);
    }

    #[test]
    fn errors_end_the_program_as_scripts_expect() {
        let exit = |error: CliError| error.exit();
        assert_eq!(exit(UsageError::NoAddress.into()), Exit::Usage);
        assert_eq!(exit(CliError::NoBlob), Exit::NotFound);
        assert_eq!(exit(CliError::TooLong { bytes: 2, max: 1 }), Exit::Refused);
        let closed = CommandError::Closed { peer: peer() };
        assert_eq!(
            exit(BlobError::Transport(LinkError::Tcp(closed)).into()),
            Exit::NoConnection
        );
        let device = || Arc::new("/dev/nvme0n1".into());
        let missing = KernelError::Missing { device: device() };
        assert_eq!(exit(missing.into()), Exit::NoConnection);
        let other = KernelError::NotNvme { device: device() };
        assert_eq!(exit(other.into()), Exit::Usage);
        let pipe = io::Error::from(ErrorKind::BrokenPipe);
        assert_eq!(exit(CliError::Output(pipe)), Exit::BrokenPipe);
        let full = io::Error::from(ErrorKind::StorageFull);
        assert_eq!(exit(CliError::Output(full)), Exit::Failed);
        assert!(!wants_another_try(&CliError::NoBlob));
    }
}
