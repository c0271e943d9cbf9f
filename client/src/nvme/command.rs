//! A command in 64 bytes.

use std::fmt;

use oriel_protocol::{Arguments, Direction};

use crate::bytes::{put, u32_at};
use crate::limits::COMMAND_BYTES;

/// Where a command's data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// There are none.
    None,
    /// To the controller.
    Out,
    /// To the host.
    In,
}

impl From<Direction> for Flow {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::None => Self::None,
            Direction::ToController => Self::Out,
            Direction::ToHost => Self::In,
        }
    }
}

/// "PRP or SGL for Data Transfer" 01b: fabrics know SGLs only.
const SGL: u8 = 1 << 6;

/// An SGL descriptor's type: a data block, given by its offset in the capsule.
const IN_CAPSULE: u8 = 0x01;

/// An SGL descriptor's type: a transport data block; the transport moves the data.
const BY_TRANSPORT: u8 = 0x5a;

/// Opcodes of the NVM command set.
pub mod io {
    /// Flush.
    pub const FLUSH: u8 = 0x00;
    /// Write.
    pub const WRITE: u8 = 0x01;
    /// Read.
    pub const READ: u8 = 0x02;
    /// Compare.
    pub const COMPARE: u8 = 0x05;
}

/// Opcodes of the admin command set.
pub mod admin {
    /// Get Log Page.
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Identify.
    pub const IDENTIFY: u8 = 0x06;
    /// Set Features.
    pub const SET_FEATURES: u8 = 0x09;
    /// Keep Alive.
    pub const KEEP_ALIVE: u8 = 0x18;
}

/// A command, but for what its transport fills in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command {
    bytes: [u8; COMMAND_BYTES],
    flow: Flow,
}

impl Command {
    /// One of that opcode, all else zero.
    pub fn new(opcode: u8, nsid: u32, flow: Flow) -> Self {
        let mut bytes = [0; COMMAND_BYTES];
        bytes[0] = opcode;
        bytes[1] = SGL;
        put(&mut bytes, 4, &nsid.to_le_bytes());
        Self { bytes, flow }
    }

    /// Sets a dword.
    ///
    /// # Panics
    /// For dwords that are the transport's (0 and 6 to 9), and those behind the command.
    #[must_use]
    pub fn dword(mut self, number: usize, value: u32) -> Self {
        assert!(
            matches!(number, 1..=5 | 10..=15),
            "dword {number} is not the caller's"
        );
        put(&mut self.bytes, number * 4, &value.to_le_bytes());
        self
    }

    /// Sets two dwords to a 64-bit number, whose lower half goes into the first.
    #[must_use]
    pub fn wide(self, number: usize, value: u64) -> Self {
        self.dword(number, value as u32)
            .dword(number + 1, (value >> 32) as u32)
    }

    /// A command on blocks.
    pub fn on_blocks(opcode: u8, nsid: u32, flow: Flow, block: u64, blocks: u32) -> Self {
        // "Number of Logical Blocks" is 0's based.
        Self::new(opcode, nsid, flow)
            .wide(10, block)
            .dword(12, (blocks - 1) & 0xffff)
    }

    /// A vendor command of the blob protocol.
    pub fn vendor(nsid: u32, command: &oriel_protocol::Command) -> Self {
        let opcode = command.opcode();
        let mut made = Self::new(opcode.number(), nsid, opcode.direction().into());
        command.arguments().write_to(&mut made.bytes);
        made
    }

    /// A command with arguments in dwords 2, 3 and 10 to 15; opcode bits 1:0 say where its data goes.
    pub fn passthrough(opcode: u8, nsid: u32, arguments: &Arguments) -> Option<Self> {
        let mut made = Self::new(opcode, nsid, Direction::of(opcode)?.into());
        arguments.write_to(&mut made.bytes);
        Some(made)
    }

    /// A fabrics command, whose fields stand where others have theirs.
    pub(crate) fn fabrics(kind: u8, flow: Flow, fields: &[(usize, &[u8])]) -> Self {
        let mut made = Self::new(super::fabrics::OPCODE, 0, flow);
        made.bytes[4] = kind;
        for (at, field) in fields {
            put(&mut made.bytes, *at, field);
        }
        made
    }

    /// Its opcode.
    pub const fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// Where its data goes.
    pub const fn flow(&self) -> Flow {
        self.flow
    }

    /// The command as it is sent.
    pub(crate) fn encode(
        &self,
        cid: u16,
        data_bytes: u32,
        in_capsule: bool,
    ) -> [u8; COMMAND_BYTES] {
        let mut bytes = self.bytes;
        put(&mut bytes, 2, &cid.to_le_bytes());
        put(&mut bytes, 32, &data_bytes.to_le_bytes());
        bytes[39] = if in_capsule { IN_CAPSULE } else { BY_TRANSPORT };
        bytes
    }

    /// Its name, as the specifications have it.
    pub fn name(&self, is_admin: bool) -> CommandName {
        CommandName {
            opcode: self.opcode(),
            fabrics: self.bytes[4],
            is_admin,
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dwords: [u32; 16] = std::array::from_fn(|at| u32_at(&self.bytes, at * 4));
        f.debug_struct("Command")
            .field("dwords", &dwords)
            .field("flow", &self.flow)
            .finish()
    }
}

/// A command by name, for those who read messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandName {
    opcode: u8,
    fabrics: u8,
    is_admin: bool,
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.is_admin, self.opcode) {
            (_, super::fabrics::OPCODE) => match self.fabrics {
                super::fabrics::kind::CONNECT => "Connect",
                super::fabrics::kind::PROPERTY_GET => "Property Get",
                super::fabrics::kind::PROPERTY_SET => "Property Set",
                _ => "a fabrics command",
            },
            (true, admin::GET_LOG_PAGE) => "Get Log Page",
            (true, admin::IDENTIFY) => "Identify",
            (true, admin::SET_FEATURES) => "Set Features",
            (true, admin::KEEP_ALIVE) => "Keep Alive",
            (false, io::FLUSH) => "Flush",
            (false, io::WRITE) => "Write",
            (false, io::READ) => "Read",
            (false, io::COMPARE) => "Compare",
            (false, opcode) => match oriel_protocol::Opcode::try_from(opcode) {
                Ok(opcode) => opcode.word(),
                Err(_) => return write!(f, "the command {opcode:#04x}"),
            },
            (true, opcode) => return write!(f, "the admin command {opcode:#04x}"),
        };
        f.write_str(name)
    }
}
