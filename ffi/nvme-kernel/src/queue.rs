//! Operations under way, by io_uring where the kernel has it, and by threads where not.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::crew::{Board, Crew};
use crate::device::Device;
use crate::held::{Buffer, Piece};
use crate::operation::{Answer, Operation};
use crate::ring::Ring;

/// How operations are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// By io_uring; commands by `IORING_OP_URING_CMD`, which Linux has since 5.19.
    Ring,
    /// By threads that wait for one operation each; commands by `NVME_IOCTL_IO64_CMD`.
    Threads,
}

/// Why there is no queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueError {
    /// The kernel has no ring for such commands, or gives this process none.
    NoRing(Errno),
    /// No thread can be started.
    NoThread(Errno),
}

/// An operation's token, and how it ended.
pub type Ended = (u64, Result<Answer, Errno>);

enum Engine<B: Buffer> {
    Ring(Box<Ring<B>>),
    Crew(Crew<B>),
}

/// Operations on one device. Dropped with operations under way, it leaves them and their memory to the kernel.
pub struct Queue<B: Buffer>(Engine<B>);

/// Ends a queue's wait, from any thread.
#[derive(Clone)]
pub struct Waker(pub(crate) WakerKind);

#[derive(Clone)]
pub(crate) enum WakerKind {
    Bell(Arc<OwnedFd>),
    Board(Arc<dyn Board>),
}

impl Waker {
    /// The queue's wait ends, or its next one does not begin.
    pub fn wake(&self) {
        match &self.0 {
            WakerKind::Bell(bell) => {
                // Nothing but a full counter could fail, and then the bell rings already.
                let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
            }
            WakerKind::Board(board) => board.ring(),
        }
    }
}

impl<B: Buffer> Queue<B> {
    /// For up to so many operations at a time, at least one. By io_uring if nothing else is said and the kernel can.
    pub fn new(device: &Arc<Device>, depth: u16, means: Option<Means>) -> Result<Self, QueueError> {
        let depth = depth.max(1);
        if means != Some(Means::Threads) {
            match Ring::new(Arc::clone(device), depth) {
                Ok(ring) => return Ok(Self(Engine::Ring(Box::new(ring)))),
                Err(error) if means.is_some() => return Err(QueueError::NoRing(error)),
                Err(_) => {}
            }
        }
        let crew = Crew::new(device, depth).map_err(QueueError::NoThread)?;
        Ok(Self(Engine::Crew(crew)))
    }

    /// How it does them.
    pub fn means(&self) -> Means {
        match &self.0 {
            Engine::Ring(_) => Means::Ring,
            Engine::Crew(_) => Means::Threads,
        }
    }

    /// What ends its wait.
    pub fn waker(&self) -> Waker {
        match &self.0 {
            Engine::Ring(ring) => Waker(WakerKind::Bell(ring.bell())),
            Engine::Crew(crew) => Waker(WakerKind::Board(crew.board())),
        }
    }

    /// How many operations it takes now.
    pub fn room(&self) -> usize {
        match &self.0 {
            Engine::Ring(ring) => ring.room(),
            Engine::Crew(crew) => crew.room(),
        }
    }

    /// Takes an operation, or gives its memory back if it is full. With io_uring it begins with the next wait.
    pub fn push(
        &mut self,
        token: u64,
        operation: Operation,
        piece: Piece<B>,
    ) -> Result<(), Piece<B>> {
        match &mut self.0 {
            Engine::Ring(ring) => ring.push(token, operation, piece),
            Engine::Crew(crew) => crew.push(token, operation, piece),
        }
    }

    /// Waits until an operation has ended, the waker wakes or the time is over, and adds what has ended. Their pieces have
    /// been let go then. May return early.
    pub fn wait(&mut self, most: Option<Duration>, ended: &mut Vec<Ended>) -> Result<(), Errno> {
        match &mut self.0 {
            Engine::Ring(ring) => ring.wait(most, ended),
            Engine::Crew(crew) => {
                crew.wait(most, ended);
                Ok(())
            }
        }
    }
}
