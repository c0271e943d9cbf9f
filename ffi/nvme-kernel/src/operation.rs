//! What a device is asked for, and what it answers.

use std::time::Duration;

use crate::abi::UringCommand;

/// An NVMe I/O command that is passed through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Its opcode, whose bits 1:0 say where its data go.
    pub opcode: u8,
    /// Dwords 2, 3 and 10 to 15.
    pub dwords: [u32; 8],
    /// After this time the kernel ends it, and the connection with it. Up to 2^32 ms, and at least one.
    pub timeout: Duration,
}

/// What is done with a piece of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// It is filled from the block device, from this byte on.
    Read {
        /// In bytes.
        offset: u64,
    },
    /// It is written to the block device, from this byte on.
    Write {
        /// In bytes.
        offset: u64,
    },
    /// It is a command's data, or room for them.
    Command(Command),
}

/// How a command ended that came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// The completion's "Status Field" without the phase: code in bits 7:0, type in 10:8, Do Not Retry in 14. 0 for reads
    /// and writes.
    pub status: u16,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
}

impl Command {
    pub(crate) fn for_kernel(&self, nsid: u32, address: u64, data_bytes: u32) -> UringCommand {
        let [two, three, rest @ ..] = self.dwords;
        UringCommand {
            opcode: self.opcode,
            nsid,
            dwords_2_3: [two, three],
            // "No data" is no address either.
            address: if data_bytes == 0 { 0 } else { address },
            data_bytes,
            dwords_10_15: rest,
            // 0 would be the kernel's own choice.
            timeout_ms: u32::try_from(self.timeout.as_millis())
                .unwrap_or(u32::MAX)
                .max(1),
            ..UringCommand::default()
        }
    }
}
