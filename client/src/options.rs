//! How a controller is connected to.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::ConnectError;
use crate::limits::{QUEUE_ENTRIES_MAX, QUEUES_MAX, R2TS_MAX};
use crate::nvme::fabrics::NQN_BYTES_MAX;
use crate::pdu::Digests;

/// How a lost connection comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reconnect {
    /// The wait before the second attempt (the first is made at once); each further one waits twice as long.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
    /// After this time all that waits fails, and the controller is closed.
    pub give_up_after: Duration,
    /// How often one command is sent again at most, so that one which breaks connections does not do so for ever.
    pub resubmissions: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            most: Duration::from_secs(5),
            give_up_after: Duration::from_secs(60),
            resubmissions: 5,
        }
    }
}

/// Which controller, and how. Start from [`Options::new`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The target's address.
    pub address: SocketAddr,
    /// The subsystem's NQN.
    pub subsystem: String,
    /// This host's NQN, by which the subsystem decides whether to let it in.
    pub host: String,
    /// What tells this host from others of the same name.
    pub host_id: [u8; 16],
    /// Digests of headers and data, on top of what TCP has.
    pub digests: Digests,
    /// I/O queues, each a connection of its own; the controller may give fewer.
    pub queues: u16,
    /// Entries of each of them; one always stays empty.
    pub queue_entries: u16,
    /// R2Ts that the controller may have open for one command.
    pub r2ts: u32,
    /// Requests that may wait or be under way.
    pub requests_max: usize,
    /// How long each step of connecting may take.
    pub connect_timeout: Duration,
    /// How long a command may take once it is on its way.
    pub command_timeout: Duration,
    /// The controller ends an association from which it has not heard for so long, and so does this side; `None`: neither.
    pub keep_alive: Option<Duration>,
    /// How a lost connection comes back; `None`: it does not.
    pub reconnect: Option<Reconnect>,
}

impl Options {
    /// One I/O queue of 128 entries, no digests, reconnects. The host's name is made of a number that this process has drawn
    /// by chance: name the host where a subsystem allows only some.
    pub fn new(address: SocketAddr, subsystem: impl Into<String>) -> Self {
        let host_id = random_id();
        let hex: String = host_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let (a, b, c, d, e) = (
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        );
        Self {
            address,
            subsystem: subsystem.into(),
            host: format!("nqn.2014-08.org.nvmexpress:uuid:{a}-{b}-{c}-{d}-{e}"),
            host_id,
            digests: Digests::NONE,
            queues: 1,
            queue_entries: 128,
            r2ts: 4,
            requests_max: 4096,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(30),
            keep_alive: Some(Duration::from_secs(15)),
            reconnect: Some(Reconnect::default()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        check_name(&self.subsystem)?;
        check_name(&self.host)?;
        let within = |what, found: u64, least: u64, most: u64| match (least..=most).contains(&found)
        {
            true => Ok(()),
            false => Err(ConnectError::BadOption {
                what,
                found,
                least,
                most,
            }),
        };
        within(
            "the number of I/O queues",
            self.queues.into(),
            0,
            QUEUES_MAX.into(),
        )?;
        within(
            "the entries of a queue",
            self.queue_entries.into(),
            2,
            QUEUE_ENTRIES_MAX.into(),
        )?;
        within(
            "the open R2Ts of a command",
            self.r2ts.into(),
            1,
            R2TS_MAX.into(),
        )?;
        within(
            "the number of requests",
            self.requests_max as u64,
            1,
            1 << 24,
        )
    }
}

fn check_name(name: &str) -> Result<(), ConnectError> {
    let rule = if !name.starts_with("nqn.") {
        "it begins with nqn."
    } else if name.len() > NQN_BYTES_MAX {
        "it has up to 223 bytes"
    } else if name.contains('\0') {
        "it has no zero bytes"
    } else {
        return Ok(());
    };
    Err(ConnectError::BadName {
        name: name.into(),
        rule,
    })
}

/// A number that no other process has, as a version 4 UUID.
fn random_id() -> [u8; 16] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut id = [0; 16];
    for half in id.chunks_exact_mut(8) {
        // Keyed with the system's randomness.
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
