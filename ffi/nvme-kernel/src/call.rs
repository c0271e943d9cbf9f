//! The system calls that wait for their end.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::abi::{self, IoctlCommand, UringCommand};
use crate::device::Device;
use crate::held::{Buffer, Piece};
use crate::operation::{Answer, Operation};

fn last() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// What a read or write that returned a number of bytes has come to. A device transfers all of them, or none.
pub(crate) fn transferred(bytes: i64, wanted: usize) -> Result<Answer, Errno> {
    match usize::try_from(bytes) {
        Ok(bytes) if bytes == wanted => Ok(Answer::default()),
        _ => Err(Errno::IO),
    }
}

/// Does one operation and waits for it.
pub(crate) fn operate<B: Buffer>(
    device: &Device,
    operation: &Operation,
    piece: &Piece<B>,
) -> Result<Answer, Errno> {
    let (start, length) = (piece.start(), piece.length());
    let block = device.block().as_raw_fd();
    let place = |offset: u64| libc::off_t::try_from(offset).map_err(|_| Errno::INVAL);
    match operation {
        Operation::Read { offset } => {
            let offset = place(*offset)?;
            // SAFETY: `Piece::start` is valid for writes of that length as long as the piece is there, and this waits.
            let bytes = unsafe { libc::pread(block, start.cast(), length, offset) };
            match bytes {
                ..0 => Err(last()),
                bytes => transferred(bytes as i64, length),
            }
        }
        Operation::Write { offset } => {
            let offset = place(*offset)?;
            // SAFETY: `Piece::start` is valid for reads of that length as long as the piece is there, and this waits.
            let bytes = unsafe { libc::pwrite(block, start.cast(), length, offset) };
            match bytes {
                ..0 => Err(last()),
                bytes => transferred(bytes as i64, length),
            }
        }
        Operation::Command(command) => {
            let length = u32::try_from(length).map_err(|_| Errno::INVAL)?;
            let command = command.for_kernel(device.nsid(), start.addr() as u64, length);
            // The address is of the piece, which was exposed to the kernel by it.
            let _ = start.expose_provenance();
            // SAFETY: the data are the piece's, valid for reads and writes of that length as long as it is there.
            unsafe { pass(device.passes(), abi::IO, &command) }
        }
    }
}

/// Passes a command through and waits for it.
///
/// # Safety
/// Its address is valid for reads and writes of so many bytes as it says, and nobody else uses them meanwhile.
pub(crate) unsafe fn pass(
    file: BorrowedFd<'_>,
    request: u32,
    command: &UringCommand,
) -> Result<Answer, Errno> {
    let mut whole = IoctlCommand {
        command: *command,
        result: 0,
    };
    let place: *mut IoctlCommand = &mut whole;
    // SAFETY: both requests read and write one such structure; its data are the caller's to promise.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), request as _, place) };
    match status {
        ..0 => Err(last()),
        status => Ok(Answer {
            status: status as u16,
            result: whole.result,
        }),
    }
}

/// The number of the namespace that a file is of.
pub(crate) fn namespace(file: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the request has no argument.
    let nsid = unsafe { libc::ioctl(file.as_raw_fd(), abi::ID as _) };
    match nsid {
        ..0 => Err(last()),
        nsid => Ok(nsid as u32),
    }
}
