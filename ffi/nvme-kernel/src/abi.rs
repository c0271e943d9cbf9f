//! The kernel's structures and numbers, as `linux/nvme_ioctl.h` has them.

use std::mem::{offset_of, size_of};

/// `struct nvme_uring_cmd`: the command area of a submission queue entry of 128 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct UringCommand {
    pub(crate) opcode: u8,
    pub(crate) flags: u8,
    pub(crate) reserved_1: u16,
    pub(crate) nsid: u32,
    pub(crate) dwords_2_3: [u32; 2],
    pub(crate) metadata: u64,
    pub(crate) address: u64,
    pub(crate) metadata_bytes: u32,
    pub(crate) data_bytes: u32,
    pub(crate) dwords_10_15: [u32; 6],
    pub(crate) timeout_ms: u32,
    pub(crate) reserved_2: u32,
}

/// `struct nvme_passthru_cmd64`: the same, and the place of dwords 0 and 1 of the completion.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct IoctlCommand {
    pub(crate) command: UringCommand,
    pub(crate) result: u64,
}

/// Bytes that a submission queue entry of 128 bytes has for a command.
pub(crate) const COMMAND_AREA: usize = 80;

const _: () = assert!(size_of::<UringCommand>() == 72 && size_of::<UringCommand>() <= COMMAND_AREA);
const _: () = assert!(size_of::<IoctlCommand>() == 80);
const _: () = assert!(offset_of!(UringCommand, metadata) == 16);
const _: () = assert!(offset_of!(UringCommand, address) == 24);
const _: () = assert!(offset_of!(UringCommand, data_bytes) == 36);
const _: () = assert!(offset_of!(UringCommand, dwords_10_15) == 40);
const _: () = assert!(offset_of!(UringCommand, timeout_ms) == 64);
const _: () = assert!(offset_of!(IoctlCommand, result) == 72);

/// `_IOC(direction, 'N', number, size)`.
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'N' as u32) << 8 | number
}

const NONE: u32 = 0;
const READ_AND_WRITE: u32 = 3;

/// `NVME_IOCTL_ID`: the namespace's number.
pub(crate) const ID: u32 = request(NONE, 0x40, 0);
/// `NVME_IOCTL_ADMIN64_CMD`.
pub(crate) const ADMIN: u32 = request(READ_AND_WRITE, 0x47, size_of::<IoctlCommand>());
/// `NVME_IOCTL_IO64_CMD`.
pub(crate) const IO: u32 = request(READ_AND_WRITE, 0x48, size_of::<IoctlCommand>());
/// `NVME_URING_CMD_IO`.
pub(crate) const URING_IO: u32 = request(READ_AND_WRITE, 0x80, size_of::<UringCommand>());

const _: () = assert!(ID == 0x4e40 && ADMIN == 0xc050_4e47 && IO == 0xc050_4e48);
const _: () = assert!(URING_IO == 0xc048_4e80);

impl UringCommand {
    /// The command as the bytes that the kernel reads.
    pub(crate) fn area(&self) -> [u8; COMMAND_AREA] {
        let mut area = [0; COMMAND_AREA];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            area[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[self.opcode, self.flags]);
        put(&self.reserved_1.to_ne_bytes());
        put(&self.nsid.to_ne_bytes());
        self.dwords_2_3
            .iter()
            .for_each(|word| put(&word.to_ne_bytes()));
        put(&self.metadata.to_ne_bytes());
        put(&self.address.to_ne_bytes());
        put(&self.metadata_bytes.to_ne_bytes());
        put(&self.data_bytes.to_ne_bytes());
        self.dwords_10_15
            .iter()
            .for_each(|word| put(&word.to_ne_bytes()));
        put(&self.timeout_ms.to_ne_bytes());
        put(&self.reserved_2.to_ne_bytes());
        debug_assert_eq!(at, size_of::<Self>());
        area
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lies_in_its_area_as_the_kernel_reads_it() {
        let command = UringCommand {
            opcode: 0x82,
            nsid: 1,
            dwords_2_3: [0x0302_0100, 0x0706_0504],
            address: 0x1122_3344_5566_7788,
            data_bytes: 64,
            dwords_10_15: [10, 11, 12, 13, 14, 15],
            timeout_ms: 30_000,
            ..UringCommand::default()
        };
        let area = command.area();
        let at =
            |at: usize| u32::from_ne_bytes([area[at], area[at + 1], area[at + 2], area[at + 3]]);
        assert_eq!(
            (area[0], at(4), at(8), at(12)),
            (0x82, 1, 0x0302_0100, 0x0706_0504)
        );
        assert_eq!(area[24..32], 0x1122_3344_5566_7788_u64.to_ne_bytes());
        assert_eq!((at(36), at(64)), (64, 30_000));
        assert_eq!([40, 44, 48, 52, 56, 60].map(at), [10, 11, 12, 13, 14, 15]);
        assert!(area[68..].iter().all(|byte| *byte == 0));
    }
}
