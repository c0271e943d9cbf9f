//! Reading and writing blocks.

use oriel_protocol::Arguments;

use crate::controller::Controller;
use crate::error::CommandError;
use crate::memory::{Memory, Nothing};
use crate::nvme::command::io;
use crate::nvme::identify::NamespaceData;
use crate::nvme::{Command, Flow};
use crate::pending::Pending;
use crate::request::Work;

/// Whether a command that may have been done already is sent again when its connection has come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Again {
    /// It is not: its caller learns that it may have been done.
    #[default]
    Never,
    /// It is: doing it twice is no harm, as nobody else writes the same blocks meanwhile.
    Harmless,
}

/// A namespace of a controller. What it starts goes on when the handle is dropped.
#[derive(Clone)]
pub struct Namespace {
    controller: Controller,
    data: NamespaceData,
    again: Again,
}

impl Namespace {
    pub(crate) fn new(controller: Controller, data: NamespaceData) -> Self {
        Self {
            controller,
            data,
            again: Again::Never,
        }
    }

    /// What it said of itself.
    pub fn data(&self) -> &NamespaceData {
        &self.data
    }

    /// Whose it is.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The same, with another rule for writes whose connection was lost. Reads and compares are always sent again.
    #[must_use]
    pub fn writing(mut self, again: Again) -> Self {
        self.again = again;
        self
    }

    /// Fills memory from a block on.
    pub fn read<M: Memory>(&self, block: u64, memory: M) -> Pending<M> {
        self.on_blocks(io::READ, Flow::In, block, memory, true)
    }

    /// Writes memory from a block on.
    pub fn write<M: Memory>(&self, block: u64, memory: M) -> Pending<M> {
        let is_harmless = self.again == Again::Harmless;
        self.on_blocks(io::WRITE, Flow::Out, block, memory, is_harmless)
    }

    /// Compares memory with blocks; a difference is the status Compare Failure.
    pub fn compare<M: Memory>(&self, block: u64, memory: M) -> Pending<M> {
        self.on_blocks(io::COMPARE, Flow::Out, block, memory, true)
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> Pending<Nothing> {
        let command = Command::new(io::FLUSH, self.data.nsid, Flow::None);
        self.controller.bare(command, true)
    }

    /// A command of the blob protocol, with its data or room for them.
    pub fn vendor<M: Memory>(&self, command: &oriel_protocol::Command, memory: M) -> Pending<M> {
        let is_idempotent = command.opcode().only_looks();
        let work = Work::One(Command::vendor(self.data.nsid, command));
        self.controller.submit(work, memory, false, is_idempotent)
    }

    /// Any vendor-specific command. Bits 1:0 of its opcode say where its data go.
    pub fn passthrough<M: Memory>(
        &self,
        opcode: u8,
        arguments: &Arguments,
        memory: M,
        again: Again,
    ) -> Pending<M> {
        match Command::passthrough(opcode, self.data.nsid, arguments) {
            Some(command) => {
                let is_harmless = again == Again::Harmless;
                self.controller
                    .submit(Work::One(command), memory, false, is_harmless)
            }
            None => Pending::failed(memory, CommandError::BothWays { opcode }),
        }
    }

    fn on_blocks<M: Memory>(
        &self,
        opcode: u8,
        flow: Flow,
        block: u64,
        memory: M,
        is_idempotent: bool,
    ) -> Pending<M> {
        let NamespaceData {
            nsid,
            blocks,
            block_bytes,
            ..
        } = self.data;
        let bytes = memory.region().bytes;
        if bytes == 0 || !bytes.is_multiple_of(block_bytes as usize) {
            return Pending::failed(memory, CommandError::NotWholeBlocks { bytes, block_bytes });
        }
        let count = bytes as u64 / u64::from(block_bytes);
        if block.checked_add(count).is_none_or(|end| end > blocks) {
            return Pending::failed(
                memory,
                CommandError::OutOfRange {
                    block,
                    count,
                    blocks,
                },
            );
        }
        let work = Work::Blocks {
            opcode,
            nsid,
            flow,
            block,
            block_bytes,
        };
        self.controller.submit(work, memory, false, is_idempotent)
    }
}
