//! What can go wrong, each with the target's address and name, and what to do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::ConnectionError;
use crate::memory::Placement;
use crate::nvme::Status;
use crate::nvme::command::CommandName;
use crate::nvme::identify::NamespaceDataError;

/// The other side, as messages name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The subsystem's NQN.
    pub subsystem: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at tcp://{}", self.subsystem, self.address)
    }
}

/// Why there is no connection to a controller.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A name that no host or subsystem has.
    #[error("'{name}' is no NQN ({rule}): write it as nqn.<year>-<month>.<domain>:<name>")]
    BadName {
        /// What was given.
        name: String,
        /// What it is to be.
        rule: &'static str,
    },
    /// Numbers that cannot be.
    #[error("{what} cannot be {found}: choose from {least} to {most}")]
    BadOption {
        /// Of what.
        what: &'static str,
        /// What was given.
        found: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Nobody there.
    #[error("{peer} is not to be reached ({}): look whether the target runs and listens there", io::Error::from(*.kind))]
    Unreachable {
        /// Who.
        peer: Arc<Peer>,
        /// Why.
        kind: io::ErrorKind,
    },
    /// The connection ended while it was set up.
    #[error("the connection to {peer} could not be set up: {source}")]
    Connection {
        /// Who.
        peer: Arc<Peer>,
        /// Why.
        source: ConnectionError,
    },
    /// It took too long.
    #[error("{peer} has not answered {step} within {} ms: look whether the target hangs, or allow more time", after.as_millis())]
    TimedOut {
        /// Who.
        peer: Arc<Peer>,
        /// To what.
        step: &'static str,
        /// In this time.
        after: Duration,
    },
    /// The target does not let this host in, or not so.
    #[error("{peer} refuses the host {host}{}: {status}", .about.as_ref().map(|about| format!(" because of {about}")).unwrap_or_default())]
    Refused {
        /// Who.
        peer: Arc<Peer>,
        /// The host's name.
        host: String,
        /// Why.
        status: Status,
        /// The parameter that it is about, if the target says so.
        about: Option<String>,
    },
    /// The subsystem asks for what this client does not have.
    #[error(
        "{peer} asks the host {host} to authenticate (DH-HMAC-CHAP), which this client cannot: let the subsystem allow this host without"
    )]
    Authentication {
        /// Who.
        peer: Arc<Peer>,
        /// The host's name.
        host: String,
    },
    /// No digests although they are wanted.
    #[error(
        "{peer} does not grant the digests that were asked for: connect without, or let the target have them"
    )]
    NoDigests {
        /// Who.
        peer: Arc<Peer>,
    },
    /// A command of the set-up failed.
    #[error("{peer} failed at {command}: {status}")]
    Command {
        /// Who.
        peer: Arc<Peer>,
        /// At what.
        command: CommandName,
        /// How.
        status: Status,
    },
    /// An answer that is not whole.
    #[error("{peer} answered {command} with {found} bytes of {expected}: the target is broken")]
    Short {
        /// Who.
        peer: Arc<Peer>,
        /// What.
        command: CommandName,
        /// Bytes that came.
        found: u32,
        /// Bytes that should have come.
        expected: u32,
    },
    /// The controller has failed.
    #[error(
        "{peer} reports a fatal error of its controller (CSTS.CFS): look into the target's log, and connect again"
    )]
    ControllerFailed {
        /// Who.
        peer: Arc<Peer>,
    },
    /// Another controller than before.
    #[error(
        "{peer} is another controller than before (serial number '{found}', not '{expected}'): connect anew if that is what is wanted"
    )]
    OtherController {
        /// Who.
        peer: Arc<Peer>,
        /// The serial number before.
        expected: String,
        /// The one now.
        found: String,
    },
    /// A discovery log that cannot be.
    #[error(
        "the discovery log of {peer} has {entries} entries of format {format}: up to {most} of format 0 can be read"
    )]
    DiscoveryLog {
        /// Who.
        peer: Arc<Peer>,
        /// How many it speaks of.
        entries: u64,
        /// Their format.
        format: u16,
        /// As many can be read.
        most: u64,
    },
    /// No thread.
    #[error("no thread could be started for {peer}: {}", io::Error::from(*.kind))]
    Thread {
        /// For whom.
        peer: Arc<Peer>,
        /// Why.
        kind: io::ErrorKind,
    },
    /// Not wanted any more.
    #[error("the connection to {peer} was given up while it was made")]
    Cancelled {
        /// Who.
        peer: Arc<Peer>,
    },
}

/// Why a command did not do what it should. The memory comes back beside it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The controller says so.
    #[error("{command} failed on {peer}: {status}")]
    Status {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// How.
        status: Status,
        /// Dword 0 of the completion.
        result: u32,
    },
    /// The connection ended while the command was under way.
    #[error(
        "the connection to {peer} ended before {command} was answered, which may have been done: look before it is sent again ({cause})"
    )]
    ConnectionLost {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// Why.
        cause: Arc<LinkError>,
    },
    /// The connection did not come back.
    #[error("{peer} did not come back within {} s, so {command} was given up: {cause}", after.as_secs())]
    GaveUp {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// For how long it was tried.
        after: Duration,
        /// What went wrong last.
        cause: Arc<LinkError>,
    },
    /// No answer.
    #[error("{peer} has not answered {command} within {} ms, so the connection was ended: look whether the target hangs", after.as_millis())]
    TimedOut {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// In this time.
        after: Duration,
    },
    /// Data that changed on the way.
    #[error(
        "the data of {command} from {peer} have the digest {found:#010x}, not {expected:#010x}: read them again, something on the way changes data"
    )]
    DataDigest {
        /// From where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// That of the bytes.
        found: u32,
        /// The one that came with them.
        expected: u32,
    },
    /// A success without all data.
    #[error(
        "{peer} says that {command} is done, but only {found} of {expected} bytes were transferred: the target is broken"
    )]
    Short {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// Bytes that were.
        found: u32,
        /// Bytes that should have been.
        expected: u32,
    },
    /// No room now.
    #[error("{max} requests to {peer} are waiting: wait for one to end, or allow more")]
    Full {
        /// Where.
        peer: Arc<Peer>,
        /// As many may be.
        max: usize,
    },
    /// After the end.
    #[error("the connection to {peer} is closed: connect anew")]
    Closed {
        /// Where.
        peer: Arc<Peer>,
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
    #[error("{command} takes at most {max} bytes at once on {peer}, not {bytes}: cut it in parts")]
    TooLong {
        /// Where.
        peer: Arc<Peer>,
        /// The command.
        command: CommandName,
        /// What was given.
        bytes: usize,
        /// The most.
        max: u32,
    },
    /// An opcode that says that data go both ways.
    #[error(
        "opcode {opcode:#04x} says that data go both ways at once, which no transport does: use another"
    )]
    BothWays {
        /// The opcode.
        opcode: u8,
    },
    /// Memory that the CPU cannot reach.
    #[error(
        "NVMe/TCP moves data by the CPU, which cannot reach memory of {placement:?}: give memory of the host"
    )]
    NotHostMemory {
        /// Whose memory it is.
        placement: Placement,
    },
}

/// Why a namespace cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// Its description.
    #[error("{peer}: {source}")]
    Data {
        /// Where.
        peer: Arc<Peer>,
        /// What is wrong with it.
        source: NamespaceDataError,
    },
    /// It could not be asked for.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why an association of queues ended, or could not be made again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// One of its connections.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A command took too long.
    #[error("a command was not answered within {} ms", after.as_millis())]
    TimedOut {
        /// Its time.
        after: Duration,
    },
    /// The controller does not answer keep-alives as it should.
    #[error("the keep-alive failed: {status}")]
    KeepAlive {
        /// How.
        status: Status,
    },
    /// It could not be made again.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}
