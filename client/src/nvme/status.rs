//! How a command ended, in words.

use std::fmt;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::limits::COMPLETION_BYTES;

/// "Status Field" of a completion, without the phase.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// "Status Code Type".
    pub kind: u8,
    /// "Status Code".
    pub code: u8,
    /// The controller says that the same command will fail again.
    pub do_not_retry: bool,
}

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self {
        kind: 0,
        code: 0,
        do_not_retry: false,
    };

    /// From the field's bits, without the phase.
    pub(crate) const fn of_field(field: u16) -> Self {
        Self {
            kind: (field >> 8 & 7) as u8,
            code: field as u8,
            do_not_retry: field & 1 << 14 != 0,
        }
    }

    /// Whether the command did what it should.
    pub const fn is_success(self) -> bool {
        self.kind == 0 && self.code == 0
    }

    /// The same in the blob protocol, if it is one of its statuses.
    pub const fn of_blobs(self) -> Option<oriel_protocol::Status> {
        oriel_protocol::Status::from_code(self.kind, self.code)
    }

    fn words(self) -> Option<(&'static str, &'static str)> {
        Some(match (self.kind, self.code) {
            (0, 0x00) => ("Successful Completion", "nothing is to be done"),
            (0, 0x01) => (
                "Invalid Command Opcode",
                "this target does not know the command; blob commands want an Oriel node",
            ),
            (0, 0x02) => (
                "Invalid Field in Command",
                "the target does not take these arguments; its log may say which",
            ),
            (0, 0x04) => (
                "Data Transfer Error",
                "send it again; the network or the target's memory is at fault",
            ),
            (0, 0x06) => ("Internal Error", "look into the target's log"),
            (0, 0x07) | (0, 0x08) => (
                "Command Aborted",
                "the target ended it, as its queue ends; send it again",
            ),
            (0, 0x0b) => (
                "Invalid Namespace or Format",
                "this controller has no such namespace; list those that it has",
            ),
            (0, 0x0c) => (
                "Command Sequence Error",
                "something has to come first; blobs are reserved, written, then committed",
            ),
            (0, 0x0d) | (0, 0x0e) | (0, 0x0f) | (0, 0x11) => (
                "Invalid SGL",
                "the target does not take data of this length; keep to what its Identify data allow",
            ),
            (0, 0x15) => (
                "Operation Denied",
                "this host may not do that; ask who runs the target",
            ),
            (0, 0x1c) => ("Command Interrupted", "send it again"),
            (0, 0x20) => ("Namespace is Write Protected", "write elsewhere"),
            (0, 0x22) => ("Transient Transport Error", "send it again"),
            (0, 0x80) => (
                "LBA Out of Range",
                "keep to the blocks that the namespace has",
            ),
            (0, 0x81) => ("Capacity Exceeded", "delete something, or add a drive"),
            (0, 0x82) => ("Namespace Not Ready", "try again in a moment"),
            (0, 0x83) => (
                "Reservation Conflict",
                "another host has reserved the namespace",
            ),
            (1, 0x80) => (
                "Connect Incompatible Format",
                "target and host do not speak the same version of NVMe over Fabrics",
            ),
            (1, 0x81) => (
                "Connect Controller Busy",
                "the target has as many connections as it takes; let some end, or raise its limit",
            ),
            (1, 0x82) => (
                "Connect Invalid Parameters",
                "check the names of subsystem and host, and the number and size of the queues",
            ),
            (1, 0x83) => (
                "Connect Restart Discovery",
                "discover the target again; it is to be reached elsewhere",
            ),
            (1, 0x84) => (
                "Connect Invalid Host",
                "add this host's NQN to those that the subsystem allows",
            ),
            (1, 0x91) => (
                "Authentication Required",
                "this client has no DH-HMAC-CHAP; let the subsystem allow this host without",
            ),
            (2, 0x80) => ("Write Fault", "the drive did not take the data; look at it"),
            (2, 0x81) => (
                "Unrecovered Read Error",
                "the drive cannot read these blocks; look at it",
            ),
            (2, 0x82) => (
                "End-to-end Guard Check Error",
                "the data changed on their way; send it again, and look at the drive",
            ),
            (2, 0x85) => ("Compare Failure", "the blocks hold other data"),
            (2, 0x86) => (
                "Access Denied",
                "this host may not reach these blocks; blobs are written into a window that is reserved",
            ),
            (2, 0x87) => (
                "Deallocated or Unwritten Logical Block",
                "nothing was written there, or it is gone; locate the blob again",
            ),
            (3, _) => (
                "Path Related Status",
                "use another path to the namespace, or try again in a moment",
            ),
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, code, .. } = self;
        if let Some((name, what_to_do)) = self.words() {
            write!(f, "{name} ({kind:x}h/{code:02x}h): {what_to_do}")
        } else if let Some(status) = self.of_blobs() {
            write!(f, "status {kind:x}h/{code:02x}h: {status}")
        } else {
            write!(
                f,
                "status {kind:x}h/{code:02x}h: look it up in the target's documents"
            )
        }
    }
}

/// The end of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Dwords 0 and 1: what the command answers besides data.
    pub result: u64,
    /// How it ended.
    pub status: Status,
}

impl Completion {
    /// What C2HData with SUCCESS stands for.
    pub(crate) const SUCCESS: Self = Self {
        result: 0,
        status: Status::SUCCESS,
    };

    /// The completion, and the identifier of the command that it is of.
    pub(crate) fn decode(bytes: &[u8; COMPLETION_BYTES]) -> (u16, Self) {
        let status = Status::of_field(u16_at(bytes, 14) >> 1);
        (
            u16_at(bytes, 12),
            Self {
                result: u64_at(bytes, 0),
                status,
            },
        )
    }

    /// Dword 0.
    pub const fn dword(&self) -> u32 {
        self.result as u32
    }
}

/// The parameter that Connect Invalid Parameters is about.
pub(crate) fn invalid_parameter(result: u64) -> String {
    let bytes = result.to_le_bytes();
    let (at, in_data) = (u16_at(&bytes, 0), u32_at(&bytes, 0) >> 16 & 1 == 1);
    match (in_data, at) {
        (true, 256) => "the subsystem's NQN".into(),
        (true, 512) => "the host's NQN".into(),
        (true, 16) => "the controller's identifier".into(),
        (true, 0) => "the host's identifier".into(),
        (false, 42) => "the queue's number".into(),
        (false, 44) => "the queue's size".into(),
        (false, 40) => "the record format".into(),
        (false, 48) => "the keep-alive time".into(),
        (true, at) => format!("byte {at} of the data"),
        (false, at) => format!("byte {at} of the command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_read_bit_by_bit() {
        let mut bytes = [0; COMPLETION_BYTES];
        bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        bytes[12..].copy_from_slice(&[0x34, 0x12, 0x0f, 0x85]);
        let (cid, completion) = Completion::decode(&bytes);
        assert_eq!(cid, 0x1234);
        assert_eq!(
            (completion.result, completion.dword()),
            (0x0807_0605_0403_0201, 0x0403_0201)
        );
        let status = Status {
            kind: 2,
            code: 0x87,
            do_not_retry: true,
        };
        assert_eq!(completion.status, status);
    }

    #[test]
    fn every_status_has_a_sentence() {
        for kind in 0..8 {
            for code in 0..=255 {
                let status = Status {
                    kind,
                    code,
                    do_not_retry: false,
                };
                let said = status.to_string();
                assert!(
                    said.contains(": ") && said.contains(&format!("{code:02x}h")),
                    "{said}"
                );
            }
        }
        let busy = Status {
            kind: 7,
            code: 0x0c,
            do_not_retry: false,
        };
        assert!(busy.to_string().contains("let some end first"), "{busy}");
    }
}
