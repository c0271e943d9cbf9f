//! What can go wrong with the kernel's devices, and what to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oriel_nvme_kernel::Errno;

use crate::memory::Placement;
use crate::nvme::Status;
use crate::nvme::command::CommandName;
use crate::nvme::identify::NamespaceDataError;

/// Why a namespace of the kernel's cannot be used, or a command did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Nothing there.
    #[error(
        "there is no {}: attach the realm (nvme connect), and see what it is called (nvme list)", device.display()
    )]
    Missing {
        /// What was named.
        device: Arc<PathBuf>,
    },
    /// This user may not.
    #[error(
        "{} cannot be used by this process ({errno}): Linux passes vendor-specific NVMe commands through for CAP_SYS_ADMIN alone, so run it as root, or give the program the capability (setcap cap_sys_admin+ep)", device.display()
    )]
    Denied {
        /// What was to be used.
        device: Arc<PathBuf>,
        /// The kernel's word.
        errno: Errno,
    },
    /// It cannot be opened for another reason.
    #[error("{} cannot be opened: {errno}", device.display())]
    Open {
        /// What was named.
        device: Arc<PathBuf>,
        /// The kernel's word.
        errno: Errno,
    },
    /// Something else.
    #[error(
        "{} is no NVMe namespace: name one by its block device, as in /dev/nvme0n1 (nvme list shows them)", device.display()
    )]
    NotNvme {
        /// What was named.
        device: Arc<PathBuf>,
    },
    /// Another maker's.
    #[error(
        "{} is no realm of an Oriel node, but of the subsystem '{subsystem}': name one whose subsystem begins with {} (nvme list-subsys shows them)",
        device.display(), oriel_protocol::SUBSYSTEM_PREFIX
    )]
    NotOriel {
        /// What was named.
        device: Arc<PathBuf>,
        /// Whose it is.
        subsystem: String,
    },
    /// The kernel passes nothing through.
    #[error(
        "this kernel does not pass commands to {} through ({errno}): use Linux 5.19 or newer, or the realm's address over TCP", device.display()
    )]
    TooOld {
        /// To what.
        device: Arc<PathBuf>,
        /// The kernel's word.
        errno: Errno,
    },
    /// Its description.
    #[error("{}: {source}", device.display())]
    Data {
        /// Of what.
        device: Arc<PathBuf>,
        /// What is wrong with it.
        source: NamespaceDataError,
    },
    /// The node says so.
    #[error("{command} failed on {}: {status}", device.display())]
    Status {
        /// Where.
        device: Arc<PathBuf>,
        /// The command.
        command: CommandName,
        /// How.
        status: Status,
        /// Dword 0 of the completion.
        result: u32,
    },
    /// No path to the node.
    #[error(
        "the kernel had no path to the node of {} for {} s, so {command} was given up ({cause}): look at nvme list-subsys, and whether the node runs", device.display(), after.as_secs()
    )]
    Away {
        /// Where.
        device: Arc<PathBuf>,
        /// The command.
        command: CommandName,
        /// For how long it was tried.
        after: Duration,
        /// What the kernel said last.
        cause: Cause,
    },
    /// The connection was lost while the command was under way.
    #[error(
        "the kernel lost the connection of {} before {command} was answered, which may have been done: look before it is sent again", device.display()
    )]
    Lost {
        /// Where.
        device: Arc<PathBuf>,
        /// The command.
        command: CommandName,
    },
    /// Detached.
    #[error(
        "{} is not attached any more ({errno}): attach the realm again (nvme connect)", device.display()
    )]
    Gone {
        /// What.
        device: Arc<PathBuf>,
        /// The kernel's word.
        errno: Errno,
    },
    /// Something else that the kernel says.
    #[error("the kernel does not do {command} on {}: {errno}; its log may say why", device.display())]
    System {
        /// Where.
        device: Arc<PathBuf>,
        /// The command.
        command: CommandName,
        /// The kernel's word.
        errno: Errno,
    },
    /// No room now.
    #[error("{max} requests to {} are waiting: wait for one to end, or allow more", device.display())]
    Full {
        /// Where.
        device: Arc<PathBuf>,
        /// As many may be.
        max: usize,
    },
    /// After the end.
    #[error("{} is closed: open it anew", device.display())]
    Closed {
        /// Where.
        device: Arc<PathBuf>,
    },
    /// A length that a namespace cannot transfer.
    #[error(
        "{bytes} bytes are not whole blocks of {block_bytes} bytes: transfer at least one, and only whole ones"
    )]
    NotWholeBlocks {
        /// What was given.
        bytes: usize,
        /// The namespace's blocks.
        block_bytes: u32,
    },
    /// Behind the end.
    #[error("{count} blocks from block {block} on end behind the namespace, which has {blocks}")]
    OutOfRange {
        /// The first block.
        block: u64,
        /// How many.
        count: u64,
        /// Those that there are.
        blocks: u64,
    },
    /// More than one command may transfer.
    #[error("{command} takes at most {max} bytes at once, not {bytes}: cut it in parts")]
    TooLong {
        /// The command.
        command: CommandName,
        /// What was given.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// Memory that the CPU cannot reach.
    #[error(
        "the kernel's devices are read through memory of the host, not of {placement:?}: give memory of the host, or read the device with cuFile"
    )]
    NotHostMemory {
        /// Whose memory it is.
        placement: Placement,
    },
    /// No thread.
    #[error("no thread could be started for {}: {}", device.display(), io::Error::from(*.kind))]
    Thread {
        /// For what.
        device: Arc<PathBuf>,
        /// Why.
        kind: io::ErrorKind,
    },
    /// No io_uring, and nothing else was asked for.
    #[error(
        "io_uring cannot be used for {} ({errno}): use Linux 5.19 or newer and look at the sysctl kernel.io_uring_disabled, or let threads do it", device.display()
    )]
    NoRing {
        /// For what.
        device: Arc<PathBuf>,
        /// The kernel's word.
        errno: Errno,
    },
    /// Not wanted any more.
    #[error("{} was given up while it was opened", device.display())]
    Cancelled {
        /// What.
        device: Arc<PathBuf>,
    },
}

/// What the kernel said of a command that did not reach the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// By an error number.
    #[error("{0}")]
    Errno(Errno),
    /// By a status that it made itself, or that ended the connection.
    #[error("{0}")]
    Status(Status),
}
