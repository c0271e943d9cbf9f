//! A request and the commands that it is cut into.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Done;
use crate::error::{CommandError, LinkError, Peer};
use crate::memory::Memory;
use crate::nvme::command::CommandName;
use crate::nvme::{Command, Completion, Flow, Status};
use crate::pending::{Outcome, Promise};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// One command as it is.
    One(Command),
    /// Blocks, by as many commands as it takes.
    Blocks {
        opcode: u8,
        nsid: u32,
        flow: Flow,
        block: u64,
        block_bytes: u32,
    },
}

/// A request as its caller gave it.
pub(crate) struct Submission {
    pub(crate) memory: Box<dyn Memory>,
    pub(crate) work: Work,
    /// Bytes of its data.
    pub(crate) bytes: usize,
    /// Bytes of each command's data but the last one's.
    pub(crate) part_bytes: u32,
    pub(crate) is_admin: bool,
    /// Whether it does no harm to do it twice.
    pub(crate) is_idempotent: bool,
    /// How long each of its commands may take.
    pub(crate) timeout: Duration,
    pub(crate) promise: Promise<Outcome>,
}

impl Submission {
    pub(crate) fn name(&self) -> CommandName {
        match self.work {
            Work::One(command) => command.name(self.is_admin),
            Work::Blocks {
                opcode, nsid, flow, ..
            } => Command::new(opcode, nsid, flow).name(false),
        }
    }

    /// The caller has it back, undone.
    pub(crate) fn give_back(self, error: CommandError) {
        let Self {
            memory, promise, ..
        } = self;
        promise.keep(Outcome {
            memory,
            result: Err(error),
        });
    }

    fn parts(&self) -> u32 {
        match self.work {
            Work::One(_) => 1,
            Work::Blocks { .. } => self.bytes.div_ceil(self.part_bytes as usize) as u32,
        }
    }
}

/// A request under way.
pub(crate) struct Request {
    pub(crate) submission: Submission,
    /// Its memory was told of bytes that have come.
    pub(crate) is_told: bool,
    /// The first part that was not given out yet.
    next: u32,
    /// Parts that are to be given out again.
    again: Vec<u32>,
    under_way: u32,
    /// How often parts were lost.
    losses: u32,
    result: u64,
    failure: Option<CommandError>,
}

impl Request {
    pub(crate) fn new(submission: Submission) -> Self {
        Self {
            submission,
            is_told: false,
            next: 0,
            again: Vec::new(),
            under_way: 0,
            losses: 0,
            result: 0,
            failure: None,
        }
    }

    /// The bytes that a part's data are.
    pub(crate) fn range(&self, part: u32) -> Range<usize> {
        let Submission {
            bytes,
            part_bytes,
            work,
            ..
        } = &self.submission;
        match work {
            Work::One(_) => 0..*bytes,
            Work::Blocks { .. } => {
                let from = part as usize * *part_bytes as usize;
                from..(from + *part_bytes as usize).min(*bytes)
            }
        }
    }

    /// The next part to give out: its number, its command, its bytes.
    pub(crate) fn next_part(&mut self) -> Option<(u32, Command, u32)> {
        if self.failure.is_some() {
            return None;
        }
        let part = match self.again.pop() {
            Some(part) => part,
            None if self.next < self.submission.parts() => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.under_way += 1;
        let range = self.range(part);
        let bytes = range.len() as u32;
        let command = match self.submission.work {
            Work::One(command) => command,
            Work::Blocks {
                opcode,
                nsid,
                flow,
                block,
                block_bytes,
            } => {
                let first = block + range.start as u64 / u64::from(block_bytes);
                Command::on_blocks(opcode, nsid, flow, first, bytes / block_bytes)
            }
        };
        Some((part, command, bytes))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes the first thing that went wrong.
    pub(crate) fn fail(&mut self, error: CommandError) {
        self.failure.get_or_insert(error);
    }

    pub(crate) fn part_done(&mut self, peer: &Arc<Peer>, part: u32, done: &Done) {
        self.under_way -= 1;
        let (peer, command) = (Arc::clone(peer), self.submission.name());
        let expected = self.range(part).len() as u32;
        match done.result {
            Err(digest) => self.fail(CommandError::DataDigest {
                peer,
                command,
                found: digest.found,
                expected: digest.expected,
            }),
            Ok(Completion { status, result }) if !status.is_success() => {
                self.fail(CommandError::Status {
                    peer,
                    command,
                    status,
                    result: result as u32,
                });
            }
            Ok(_) if done.transferred != expected => {
                let found = done.transferred;
                self.fail(CommandError::Short {
                    peer,
                    command,
                    found,
                    expected,
                });
            }
            Ok(completion) => self.result = completion.result,
        }
    }

    /// A part's connection was lost; whether it is to be sent again.
    pub(crate) fn part_lost(
        &mut self,
        peer: &Arc<Peer>,
        part: u32,
        is_begun: bool,
        resubmissions: u32,
        cause: &Arc<LinkError>,
    ) -> bool {
        self.under_way -= 1;
        self.losses += u32::from(is_begun);
        let is_harmless = !is_begun || self.submission.is_idempotent;
        // Each of the parts may be lost as often.
        let losses_max = resubmissions.saturating_mul(self.submission.parts());
        if is_harmless && self.losses <= losses_max && self.failure.is_none() {
            self.again.push(part);
            return true;
        }
        self.fail(CommandError::ConnectionLost {
            peer: Arc::clone(peer),
            command: self.submission.name(),
            cause: Arc::clone(cause),
        });
        false
    }

    /// Whether there are parts to give out.
    pub(crate) fn has_more(&self) -> bool {
        let has_parts = !self.again.is_empty() || self.next < self.submission.parts();
        has_parts && self.failure.is_none()
    }

    /// Whether nothing of it is under way or waiting.
    pub(crate) fn is_over(&self) -> bool {
        self.under_way == 0 && !self.has_more()
    }

    /// Tells the caller how it ended.
    pub(crate) fn keep(self) {
        let Submission {
            memory, promise, ..
        } = self.submission;
        let completion = Completion {
            result: self.result,
            status: Status::SUCCESS,
        };
        let result = self.failure.map_or(Ok(completion), Err);
        promise.keep(Outcome { memory, result });
    }

    /// The same, because it cannot go on.
    pub(crate) fn give_up(mut self, error: CommandError) {
        self.fail(error);
        self.keep();
    }
}
