//! The commands that only fabrics have: Connect, Property Get, Property Set; and the properties.

use super::command::{Command, Flow};
use crate::bytes::put;

/// The opcode of all fabrics commands.
pub(crate) const OPCODE: u8 = 0x7f;

/// "Fabrics Command Type".
pub(crate) mod kind {
    pub(crate) const PROPERTY_SET: u8 = 0x00;
    pub(crate) const CONNECT: u8 = 0x01;
    pub(crate) const PROPERTY_GET: u8 = 0x04;
}

/// Bytes of Connect's data.
pub(crate) const CONNECT_BYTES: usize = 1024;

/// "The controller is to be any": the dynamic controller model.
pub(crate) const ANY_CONTROLLER: u16 = 0xffff;

/// The longest NQN.
pub(crate) const NQN_BYTES_MAX: usize = 223;

/// The name of every discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Connects a queue of so many entries. The keep-alive time counts on the admin queue only.
pub(crate) fn connect(queue: u16, entries: u16, keep_alive_ms: u32) -> Command {
    let fields: [(usize, &[u8]); 3] = [
        (42, &queue.to_le_bytes()),
        // "SQSIZE" is 0's based.
        (44, &(entries - 1).to_le_bytes()),
        (48, &keep_alive_ms.to_le_bytes()),
    ];
    Command::fabrics(kind::CONNECT, Flow::Out, &fields)
}

/// Who connects to what.
pub(crate) fn connect_data(
    host_id: &[u8; 16],
    controller: u16,
    subsystem: &str,
    host: &str,
) -> Vec<u8> {
    let mut data = vec![0; CONNECT_BYTES];
    put(&mut data, 0, host_id);
    put(&mut data, 16, &controller.to_le_bytes());
    put(
        &mut data,
        256,
        &subsystem.as_bytes()[..subsystem.len().min(NQN_BYTES_MAX)],
    );
    put(
        &mut data,
        512,
        &host.as_bytes()[..host.len().min(NQN_BYTES_MAX)],
    );
    data
}

/// A property of a controller, by its offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Property {
    /// "CAP": what it can do.
    Capabilities,
    /// "CC": how it is configured.
    Configuration,
    /// "CSTS": what it does.
    Status,
}

impl Property {
    const fn place(self) -> (u32, u8) {
        match self {
            Self::Capabilities => (0x00, 1),
            Self::Configuration => (0x14, 0),
            Self::Status => (0x1c, 0),
        }
    }

    /// Asks for it.
    pub(crate) fn get(self) -> Command {
        let (offset, size) = self.place();
        Command::fabrics(
            kind::PROPERTY_GET,
            Flow::None,
            &[(40, &[size]), (44, &offset.to_le_bytes())],
        )
    }

    /// Sets it.
    pub(crate) fn set(self, value: u64) -> Command {
        let (offset, size) = self.place();
        let fields: [(usize, &[u8]); 3] = [
            (40, &[size]),
            (44, &offset.to_le_bytes()),
            (48, &value.to_le_bytes()),
        ];
        Command::fabrics(kind::PROPERTY_SET, Flow::None, &fields)
    }
}

/// "CAP".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capabilities(pub(crate) u64);

impl Capabilities {
    /// Entries that a queue may have.
    pub(crate) const fn queue_entries(self) -> u32 {
        // "MQES" is 0's based.
        (self.0 & 0xffff) as u32 + 1
    }

    /// How long the controller may take to become ready.
    pub(crate) const fn ready_within(self) -> std::time::Duration {
        std::time::Duration::from_millis((self.0 >> 24 & 0xff) * 500)
    }

    /// The unit of "MDTS", as a power of two of bytes.
    pub(crate) const fn page_bits(self) -> u32 {
        12 + (self.0 >> 48 & 0xf) as u32
    }
}

/// "CC": enabled, NVM command set, entries of 64 and 16 bytes.
pub(crate) const ENABLED: u64 = 1 | 6 << 16 | 4 << 20;

/// "CC" with "SHN" 01b: a normal shutdown.
pub(crate) const SHUT_DOWN: u64 = ENABLED | 1 << 14;

/// "CSTS".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ControllerStatus(pub(crate) u64);

impl ControllerStatus {
    pub(crate) const fn is_ready(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) const fn has_failed(self) -> bool {
        self.0 & 2 != 0
    }

    /// "SHST" 10b.
    pub(crate) const fn is_shut_down(self) -> bool {
        self.0 >> 2 & 3 == 2
    }
}
