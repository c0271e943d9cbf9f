//! The thread that does a namespace's I/O.
//!
//! ```text
//!   callers ──► inbox ──► requests ──► ready ──► port ──► judged ──► promise kept
//!                                        ▲                  │
//!                                        └── later ◄── again┘   after a pause, until its time is over
//! ```
//!
//! A request's memory is with it from the inbox until its promise is kept.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use oriel_nvme_kernel::{
    Answer, Command, Device, Ended, Errno, Held, Means, Operation, Piece, Queue, Waker,
};
use oriel_protocol::limits::BLOCK_BYTES;
use slab::Slab;

use super::KernelOptions;
use super::error::KernelError;
use super::request::{Part, Request, Submission, Way, Whole, Work};
use super::verdict::{Verdict, failure, judge};
use crate::limits::{KERNEL_PAUSE, PLAIN_BYTES_MAX};
use crate::nvme::command::io;
use crate::nvme::identify::{ControllerData, NamespaceData};
use crate::pending::Promise;

/// What callers and the thread share.
pub(super) struct Shared {
    pub(super) path: Arc<PathBuf>,
    requests_max: usize,
    inbox: Mutex<Inbox>,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
struct Inbox {
    submissions: VecDeque<Submission>,
    /// Requests that were taken and have not ended.
    held: usize,
    /// The thread has found nothing here.
    sleeps: bool,
    is_closing: bool,
}

impl Shared {
    pub(super) fn new(path: PathBuf, requests_max: usize) -> Self {
        Self {
            path: Arc::new(path),
            requests_max,
            inbox: Mutex::default(),
            waker: OnceLock::new(),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request, or ends it with the reason why not.
    pub(super) fn submit(&self, submission: Submission) {
        let mut inbox = self.inbox();
        let device = || Arc::clone(&self.path);
        let error = if inbox.is_closing {
            KernelError::Closed { device: device() }
        } else if inbox.held == self.requests_max {
            let max = self.requests_max;
            KernelError::Full {
                device: device(),
                max,
            }
        } else {
            inbox.held += 1;
            inbox.submissions.push_back(submission);
            return self.wake(inbox);
        };
        drop(inbox);
        submission.give_back(error);
    }

    /// No more is taken; what was taken ends.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox();
        inbox.is_closing = true;
        self.wake(inbox);
    }

    fn wake(&self, mut inbox: MutexGuard<'_, Inbox>) {
        let sleeps = std::mem::take(&mut inbox.sleeps);
        drop(inbox);
        if sleeps && let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.inbox().is_closing
    }
}

/// What opening tells.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) controller: ControllerData,
    pub(super) namespace: NamespaceData,
    /// Bytes of a passed-through command's data at most.
    pub(super) transfer_bytes_max: u32,
    pub(super) means: Means,
}

/// What does the operations.
pub(super) trait Port: 'static {
    fn waker(&self) -> Waker;
    fn room(&self) -> usize;
    fn push(&mut self, token: u64, operation: Operation, piece: Piece<Whole>);
    fn wait(&mut self, most: Option<Duration>, ended: &mut Vec<Ended>);
    /// Memory for plain reads and writes begins at a multiple of so many bytes.
    fn alignment(&self) -> usize;
    /// Whether the kernel has a path to the node.
    fn has_path(&self) -> bool;
}

/// The kernel.
pub(super) struct Kernel {
    pub(super) device: Arc<Device>,
    pub(super) queue: Queue<Whole>,
}

impl Port for Kernel {
    fn waker(&self) -> Waker {
        self.queue.waker()
    }

    fn room(&self) -> usize {
        self.queue.room()
    }

    fn push(&mut self, token: u64, operation: Operation, piece: Piece<Whole>) {
        let taken = self.queue.push(token, operation, piece);
        assert!(taken.is_ok(), "there was room");
    }

    fn wait(&mut self, most: Option<Duration>, ended: &mut Vec<Ended>) {
        if let Err(errno) = self.queue.wait(most, ended) {
            tracing::warn!("io_uring fails, and is tried again: {errno}");
            std::thread::sleep(KERNEL_PAUSE);
        }
    }

    fn alignment(&self) -> usize {
        self.device.alignment()
    }

    fn has_path(&self) -> bool {
        self.device.has_path()
    }
}

/// Opens the namespace, says how that went, and does the I/O until it is closed.
pub(super) fn run<P: Port>(
    shared: &Shared,
    options: &KernelOptions,
    attach: impl FnOnce(&Shared, &KernelOptions) -> Result<(P, Attached), KernelError>,
    promise: Promise<Result<Attached, KernelError>>,
) {
    match attach(shared, options) {
        Ok((port, attached)) => {
            // Nobody has set it before: this is the only thread.
            let _ = shared.waker.set(port.waker());
            let mut driver = Driver {
                shared,
                port,
                command_timeout: options.command_timeout,
                give_up_after: options.give_up_after,
                passed_bytes_max: attached.transfer_bytes_max as usize,
                requests: Slab::new(),
                under_way: Slab::new(),
                ready: VecDeque::new(),
                later: Vec::new(),
                ended: Vec::new(),
            };
            promise.keep(Ok(attached));
            while driver.turn() {}
        }
        Err(error) => {
            shared.inbox().is_closing = true;
            promise.keep(Err(error));
        }
    }
}

struct Driver<'a, P> {
    shared: &'a Shared,
    port: P,
    /// How long a passed-through part may take once it is sent, and how long it is tried again when it cannot be.
    command_timeout: Duration,
    give_up_after: Duration,
    /// Bytes of such a part.
    passed_bytes_max: usize,
    requests: Slab<Request>,
    /// Parts that the port has; their numbers are their tokens.
    under_way: Slab<Part>,
    ready: VecDeque<Part>,
    /// Parts that are tried again at a time.
    later: Vec<(Instant, Part)>,
    ended: Vec<Ended>,
}

impl<P: Port> Driver<'_, P> {
    /// One turn; false at the end.
    fn turn(&mut self) -> bool {
        let is_closing = self.take_submissions();
        let now = Instant::now();
        let due = self.later.extract_if(.., |(at, _)| *at <= now);
        self.ready.extend(due.map(|(_, part)| part));
        while self.port.room() > 0
            && let Some(part) = self.ready.pop_front()
        {
            self.give_out(part);
        }
        if is_closing && self.requests.is_empty() {
            return false;
        }
        let next = self.later.iter().map(|(at, _)| *at).min();
        let most = next.map(|next| next.saturating_duration_since(Instant::now()));
        let mut ended = std::mem::take(&mut self.ended);
        self.port.wait(most, &mut ended);
        for (token, answer) in ended.drain(..) {
            let part = self.under_way.remove(token as usize);
            match part.way {
                Way::Plain => self.plain_ended(part, answer),
                Way::Passed => self.passed_ended(part, answer),
            }
        }
        self.ended = ended;
        true
    }

    /// Takes what callers gave; whether no more is to come.
    fn take_submissions(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        let submissions = std::mem::take(&mut inbox.submissions);
        // Whoever gives something from now on wakes.
        inbox.sleeps = true;
        let is_closing = inbox.is_closing;
        drop(inbox);
        for submission in submissions {
            let request = self.requests.insert(Request::new(submission));
            let Request { held, work, .. } = &self.requests[request];
            let way = match work {
                Work::Blocks { .. } if held.is_aligned(self.port.alignment()) => Way::Plain,
                _ => Way::Passed,
            };
            self.cut(&Part {
                request,
                range: 0..held.length(),
                way,
                deadline: None,
                invalids: 0,
            });
        }
        is_closing
    }

    /// Cuts a part into those that one operation does. A command is one, with data or without.
    fn cut(&mut self, whole: &Part) {
        let request = &mut self.requests[whole.request];
        let bytes_max = match (request.work, whole.way) {
            (Work::One { .. }, _) => usize::MAX,
            (_, Way::Plain) => PLAIN_BYTES_MAX,
            (_, Way::Passed) => self.passed_bytes_max,
        };
        let mut from = whole.range.start;
        loop {
            let to = whole.range.end.min(from.saturating_add(bytes_max));
            request.parts += 1;
            self.ready.push_back(Part {
                range: from..to,
                ..whole.clone()
            });
            from = to;
            if from == whole.range.end {
                return;
            }
        }
    }

    fn give_out(&mut self, part: Part) {
        let request = &self.requests[part.request];
        if request.has_failed() {
            return self.part_over(part.request);
        }
        let Range { start, end } = part.range;
        let count = (end - start) as u64 / BLOCK_BYTES;
        let operation = match (request.work, part.way) {
            (Work::Blocks { is_write, block }, Way::Plain) => {
                let offset = block * BLOCK_BYTES + start as u64;
                match is_write {
                    true => Operation::Write { offset },
                    false => Operation::Read { offset },
                }
            }
            (work, _) => {
                let (opcode, dwords) = match work {
                    Work::One { opcode, dwords, .. } => (opcode, dwords),
                    Work::Blocks { is_write, block } => {
                        let block = block + start as u64 / BLOCK_BYTES;
                        let opcode = if is_write { io::WRITE } else { io::READ };
                        // "Number of Logical Blocks" is 0's based.
                        let (low, high) = (block as u32, (block >> 32) as u32);
                        (opcode, [0, 0, low, high, count as u32 - 1, 0, 0, 0])
                    }
                };
                Operation::Command(Command {
                    opcode,
                    dwords,
                    timeout: self.command_timeout,
                })
            }
        };
        let piece = Held::piece(&request.held, start..end);
        let piece = piece.expect("a part is of its request's memory");
        let token = self.under_way.insert(part);
        self.port.push(token as u64, operation, piece);
    }

    /// A plain read or write that failed is passed through: the answer to that says why, or it is done by it.
    fn plain_ended(&mut self, mut part: Part, answer: Result<Answer, Errno>) {
        if let Err(errno) = answer
            && !self.requests[part.request].has_failed()
        {
            tracing::debug!(device = %self.shared.path.display(), "passed through after {errno}");
            part.way = Way::Passed;
            self.cut(&part);
        }
        self.part_over(part.request);
    }

    fn passed_ended(&mut self, mut part: Part, answer: Result<Answer, Errno>) {
        let request = &mut self.requests[part.request];
        let is_idempotent = request.work.is_idempotent();
        let has_path = || self.port.has_path();
        let verdict = judge(answer, is_idempotent, part.invalids, has_path);
        let now = Instant::now();
        match verdict {
            Verdict::Done(result) => request.done(result),
            Verdict::Again(_) if now < *part.deadline.get_or_insert(now + self.give_up_after) => {
                part.invalids = match answer {
                    Err(Errno::INVAL) if self.port.has_path() => part.invalids + 1,
                    _ => 0,
                };
                self.later.push((now + KERNEL_PAUSE, part));
                return;
            }
            verdict => {
                let name = request.work.name();
                request.fail(failure(
                    verdict,
                    &self.shared.path,
                    name,
                    self.give_up_after,
                ));
            }
        }
        self.part_over(part.request);
    }

    /// A part is no more; the last one's end is the request's.
    fn part_over(&mut self, number: usize) {
        let request = &mut self.requests[number];
        request.parts -= 1;
        if request.parts == 0 {
            self.requests.remove(number).keep();
            self.shared.inbox().held -= 1;
        }
    }
}
