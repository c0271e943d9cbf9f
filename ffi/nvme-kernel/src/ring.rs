//! Operations by io_uring.
//!
//! ```text
//!   push ──► slot, entry of 128 bytes ──► wait: one call submits all and waits ──► completion of 32 bytes ──► slot freed, ended
//!                                           ▲
//!   waker ──► eventfd ──► a poll of it that is always in the ring
//! ```
//!
//! A slot's number is its entry's user data. There are no more slots than the queues have entries, so neither overflows.

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use slab::Slab;

use crate::abi;
use crate::call::transferred;
use crate::device::Device;
use crate::held::{Buffer, Piece};
use crate::operation::{Answer, Operation};
use crate::queue::Ended;

/// The user data of the bell's poll.
const BELL: u64 = u64::MAX;

struct UnderWay<B: Buffer> {
    token: u64,
    is_command: bool,
    piece: Piece<B>,
}

pub(crate) struct Ring<B: Buffer> {
    ring: IoUring<squeue::Entry128, cqueue::Entry32>,
    /// What the kernel may use; left to it if this is dropped before all has ended.
    slots: ManuallyDrop<Slab<UnderWay<B>>>,
    depth: usize,
    bell: Arc<OwnedFd>,
    is_bell_polled: bool,
    device: Arc<Device>,
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl<B: Buffer> Ring<B> {
    /// `Err` where the kernel has no such ring (before 5.19), passes nothing through by it, or keeps io_uring from this process.
    pub(crate) fn new(device: Arc<Device>, depth: u16) -> Result<Self, Errno> {
        if device.generic().is_none() {
            return Err(Errno::NODEV);
        }
        let entries = u32::from(depth) + 1;
        let ring = IoUring::builder().dontfork().build(entries);
        let ring: IoUring<squeue::Entry128, cqueue::Entry32> =
            ring.map_err(|error| errno(&error))?;
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|error| errno(&error))?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::PollAdd::CODE,
            opcode::UringCmd80::CODE,
        ];
        let has_all = needed.iter().all(|code| probe.is_supported(*code));
        if !has_all || !ring.params().is_feature_ext_arg() {
            return Err(Errno::OPNOTSUPP);
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            ring,
            slots: ManuallyDrop::new(Slab::with_capacity(depth.into())),
            depth: depth.into(),
            bell: Arc::new(bell),
            is_bell_polled: false,
            device,
        })
    }

    pub(crate) fn bell(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.bell)
    }

    pub(crate) fn room(&self) -> usize {
        self.depth - self.slots.len()
    }

    pub(crate) fn push(
        &mut self,
        token: u64,
        operation: Operation,
        piece: Piece<B>,
    ) -> Result<(), Piece<B>> {
        if self.room() == 0 {
            return Err(piece);
        }
        let slot = self.slots.insert(UnderWay {
            token,
            is_command: matches!(operation, Operation::Command(_)),
            piece,
        });
        let entry = self.entry(&operation, &self.slots[slot].piece);
        let entry = entry.user_data(slot as u64);
        // SAFETY: the memory is the piece's, which stays in its slot until the operation has ended (`take`), whatever becomes
        // of this ring; it is valid for reads and writes of that length for as long. The files are the device's, which this
        // ring has until it is gone.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("there are no more slots than entries, and each wait empties the queue");
        Ok(())
    }

    fn entry(&self, operation: &Operation, piece: &Piece<B>) -> squeue::Entry128 {
        let (start, length) = (piece.start(), piece.length());
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        let block = Fd(self.device.block().as_raw_fd());
        match operation {
            Operation::Read { offset } => opcode::Read::new(block, start, bytes)
                .offset(*offset)
                .build()
                .into(),
            Operation::Write { offset } => opcode::Write::new(block, start, bytes)
                .offset(*offset)
                .build()
                .into(),
            Operation::Command(command) => {
                let address = start.expose_provenance() as u64;
                let command = command.for_kernel(self.device.nsid(), address, bytes);
                let generic = Fd(self.device.passes().as_raw_fd());
                opcode::UringCmd80::new(generic, abi::URING_IO)
                    .cmd(command.area())
                    .build()
            }
        }
    }

    pub(crate) fn wait(
        &mut self,
        most: Option<Duration>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), Errno> {
        if !self.is_bell_polled {
            let poll = opcode::PollAdd::new(Fd(self.bell.as_raw_fd()), libc::POLLIN as u32);
            let poll: squeue::Entry128 = poll.build().user_data(BELL).into();
            // SAFETY: the entry has no memory, and the bell is there as long as this ring.
            let pushed = unsafe { self.ring.submission().push(&poll) };
            pushed.expect("the queue has an entry more than there are slots");
            self.is_bell_polled = true;
        }
        let is_done = !self.ring.completion().is_empty();
        let waited = match most {
            _ if is_done => self.ring.submit(),
            None => self.ring.submit_and_wait(1),
            Some(most) => {
                let most = Timespec::from(most);
                let submitter = self.ring.submitter();
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&most))
            }
        };
        let waited = waited.map_err(|error| errno(&error));
        self.take(ended);
        match waited {
            // The time is over, a signal came, or what has ended had to be taken first.
            Ok(_) | Err(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes what has ended.
    fn take(&mut self, ended: &mut Vec<Ended>) {
        for entry in self.ring.completion() {
            if entry.user_data() == BELL {
                self.is_bell_polled = false;
                // An empty one would be no loss: who rang has been heard.
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                continue;
            }
            let UnderWay {
                token,
                is_command,
                piece,
            } = self.slots.remove(entry.user_data() as usize);
            let result = match entry.result() {
                error @ ..0 => Err(Errno::from_raw_os_error(-error)),
                status if is_command => Ok(Answer {
                    status: status as u16,
                    result: entry.big_cqe()[0],
                }),
                bytes => transferred(bytes.into(), piece.length()),
            };
            ended.push((token, result));
        }
    }
}

impl<B: Buffer> Drop for Ring<B> {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            // SAFETY: nothing uses the slots after this, and it is done once.
            unsafe { ManuallyDrop::drop(&mut self.slots) };
        }
    }
}
