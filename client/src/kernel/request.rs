//! A request, and the parts that it is cut into.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use oriel_nvme_kernel::{Buffer, Held};
use oriel_protocol::{Command, Direction};

use super::error::KernelError;
use crate::memory::Memory;
use crate::nvme::command::{CommandName, io};
use crate::nvme::{self, Completion, Flow, Status};
use crate::pending::{Outcome, Promise};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// One command as it is.
    One {
        opcode: u8,
        dwords: [u32; 8],
        is_idempotent: bool,
    },
    /// Blocks, by as many operations as it takes.
    Blocks { is_write: bool, block: u64 },
}

impl Work {
    pub(super) fn vendor(command: &Command) -> Self {
        Self::One {
            opcode: command.opcode().number(),
            dwords: command.arguments().0,
            is_idempotent: command.opcode().only_looks(),
        }
    }

    /// Whether it does no harm to do it twice. Nobody else writes into a window that this host has reserved.
    pub(super) fn is_idempotent(&self) -> bool {
        match self {
            Self::One { is_idempotent, .. } => *is_idempotent,
            Self::Blocks { .. } => true,
        }
    }

    pub(super) fn name(&self) -> CommandName {
        let opcode = match self {
            Self::One { opcode, .. } => *opcode,
            Self::Blocks { is_write: true, .. } => io::WRITE,
            Self::Blocks { .. } => io::READ,
        };
        let flow = Direction::of(opcode).map_or(Flow::None, Flow::from);
        nvme::Command::new(opcode, 0, flow).name(false)
    }
}

/// A request as its caller gave it.
pub(super) struct Submission {
    /// The host's.
    pub(super) memory: Box<dyn Memory>,
    pub(super) work: Work,
    pub(super) promise: Promise<Outcome<KernelError>>,
}

impl Submission {
    /// The caller has it back, undone.
    pub(super) fn give_back(self, error: KernelError) {
        self.promise.keep(Outcome {
            memory: self.memory,
            result: Err(error),
        });
    }
}

/// A caller's memory, whatever it is.
pub(crate) struct Whole(Box<dyn Memory>);

impl Buffer for Whole {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.host_mut().unwrap_or_default()
    }
}

/// How a part is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// By the block device.
    Plain,
    /// By a command that is passed through.
    Passed,
}

/// A part of a request that waits or is under way.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The request's number.
    pub(super) request: usize,
    pub(super) range: Range<usize>,
    pub(super) way: Way,
    /// When it is given up; set when it could not be sent for the first time.
    pub(super) deadline: Option<Instant>,
    /// How often it was said to be invalid, one after the other.
    pub(super) invalids: u8,
}

/// A request under way.
pub(super) struct Request {
    pub(super) held: Arc<Held<Whole>>,
    pub(super) work: Work,
    promise: Promise<Outcome<KernelError>>,
    /// Parts that wait or are under way.
    pub(super) parts: usize,
    result: u64,
    failure: Option<KernelError>,
}

impl Request {
    pub(super) fn new(submission: Submission) -> Self {
        let Submission {
            memory,
            work,
            promise,
        } = submission;
        Self {
            held: Held::new(Whole(memory)),
            work,
            promise,
            parts: 0,
            result: 0,
            failure: None,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes the first thing that went wrong.
    pub(super) fn fail(&mut self, error: KernelError) {
        self.failure.get_or_insert(error);
    }

    pub(super) fn done(&mut self, result: u64) {
        self.result = result;
    }

    /// Tells the caller how it ended. None of its parts is under way any more.
    pub(super) fn keep(self) {
        let Ok(Whole(memory)) = Held::into_inner(self.held) else {
            unreachable!("a queue lets a piece go before it says that its operation has ended");
        };
        let completion = Completion {
            result: self.result,
            status: Status::SUCCESS,
        };
        let result = self.failure.map_or(Ok(completion), Err);
        self.promise.keep(Outcome { memory, result });
    }
}
