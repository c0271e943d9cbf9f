//! What does a controller's I/O, on a thread of its own or on that of a caller who polls.
//!
//! ```text
//!   callers ──► inbox ──► requests ──► parts ──► queues (the one with most room) ──► parts done ──► promise kept
//!                  │                     ▲                                               │
//!                  └── eventfd wakes     └── sent again after a reconnect, if that is no harm ◄── connection lost
//! ```
//!
//! One turn of [`Driver::turn`] takes what callers gave, sends, receives, keeps promises, and looks at the clock; it never
//! waits. [`Driver::park`] sleeps until there may be something to do. A request's memory is with it from the inbox until its
//! promise is kept. Connections are made by a thread that lives as long as that takes.

mod down;
mod inbox;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, poll};
use slab::Slab;

use crate::association::{Association, Dialler, keep_alive_failed};
use crate::connection::{Buffers, Connection, Done, Received, Token};
use crate::error::{CommandError, ConnectError, LinkError};
use crate::limits::{QUEUES_MAX, REQUESTS_OF_ONE, TIMER_STEP};
use crate::link::{Link, timespec};
use crate::nvme::command::{CommandName, admin};
use crate::nvme::identify::ControllerData;
use crate::nvme::{Command, Flow};
use crate::options::Options;
use crate::pending::Promise;
use crate::request::Request;
use down::{Dialling, Down};
pub(crate) use inbox::Shared;

/// The bell, the admin queue, the others.
const FDS_MAX: usize = 2 + QUEUES_MAX as usize;

/// A sleep without any other end: whatever was overlooked is seen after it.
pub(crate) const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What came of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Something was sent, received or ended.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The controller was closed, or connecting to it given up; nothing comes any more.
    Over,
}

/// Requests by number; a token is a request's number and a part's.
struct Requests {
    all: Slab<Request>,
    /// The thread is the controller's own, and callers wait on others.
    is_thread_own: bool,
}

const KEEP_ALIVE: Token = u64::MAX;

fn token(request: usize, part: u32) -> Token {
    (request as u64) << 32 | u64::from(part)
}

fn parts_of(token: Token) -> (usize, u32) {
    ((token >> 32) as usize, token as u32)
}

impl Buffers for Requests {
    fn bytes(&self, token: Token) -> Option<&[u8]> {
        let (request, part) = parts_of(token);
        let request = self.all.get(request)?;
        request.submission.memory.host()?.get(request.range(part))
    }

    fn bytes_mut(&mut self, token: Token) -> Option<&mut [u8]> {
        let (request, part) = parts_of(token);
        let request = self.all.get_mut(request)?;
        let range = request.range(part);
        request.submission.memory.host_mut()?.get_mut(range)
    }

    fn arrived(&mut self, token: Token, bytes: Range<usize>) {
        // What callers do with it, they do on their own threads where several keep this one busy. But who was told of bytes
        // is told when they come again.
        let is_busy = self.is_thread_own && self.all.len() > REQUESTS_OF_ONE;
        let (request, part) = parts_of(token);
        if let Some(request) = self.all.get_mut(request)
            && (request.is_told || !is_busy)
        {
            request.is_told = true;
            let from = request.range(part).start;
            let bytes = from + bytes.start..from + bytes.end;
            request.submission.memory.arrived(bytes);
        }
    }
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    options: Options,
    requests: Requests,
    waiting: VecDeque<usize>,
    waiting_admin: VecDeque<usize>,
    up: Option<Association>,
    down: Option<Down>,
    dialling: Option<Dialling>,
    /// Who waits for the first connection.
    connected: Option<Promise<Connected>>,
    serial: Option<String>,
    /// The queue whose connection failed, and whose controller is told why.
    broken: Option<usize>,
    keep_alive_due: Option<Instant>,
    timer_due: Instant,
    /// The admin queue's socket is to be looked at even if no command of its is under way.
    looks_at_admin: bool,
    is_over: bool,
}

/// What a first connection tells.
pub(crate) type Connected = Result<(ControllerData, u32, usize), ConnectError>;

impl Driver {
    /// Begins to connect.
    pub(crate) fn new(
        shared: Arc<Shared>,
        options: Options,
        connected: Promise<Connected>,
    ) -> Self {
        let mut driver = Self {
            shared,
            options,
            requests: Requests {
                all: Slab::new(),
                is_thread_own: false,
            },
            waiting: VecDeque::new(),
            waiting_admin: VecDeque::new(),
            up: None,
            down: None,
            dialling: None,
            connected: Some(connected),
            serial: None,
            broken: None,
            keep_alive_due: None,
            timer_due: Instant::now(),
            looks_at_admin: false,
            is_over: false,
        };
        driver.dial();
        driver
    }

    /// The thread has nothing else to do.
    pub(crate) fn has_thread(&mut self) {
        self.requests.is_thread_own = true;
    }

    fn is_up(&mut self, association: Association) {
        let now = Instant::now();
        self.keep_alive_due = self.options.keep_alive.map(|time| now + time / 2);
        self.serial = Some(association.data.serial.clone());
        self.up = Some(association);
        self.down = None;
    }

    /// One turn, which does not wait for anything but the shutdown at the end.
    pub(crate) fn turn(&mut self) -> Turn {
        if self.is_over {
            return Turn::Over;
        }
        let (is_closing, has_taken) = self.take_submissions();
        let Some(mut association) = self.up.take() else {
            return self.come_back();
        };
        match self.work(&mut association) {
            Ok(_) if is_closing && self.requests.all.is_empty() => self.end(Some(association)),
            Ok(has_worked) => {
                self.up = Some(association);
                match has_taken || has_worked {
                    true => Turn::Busy,
                    false => Turn::Idle,
                }
            }
            Err(error) => {
                self.lose(association, error);
                Turn::Busy
            }
        }
    }

    /// Takes what callers gave: whether no more is to come, and whether there was anything.
    fn take_submissions(&mut self) -> (bool, bool) {
        let mut inbox = self.shared.inbox();
        let has_taken = !inbox.submissions.is_empty();
        while let Some(submission) = inbox.submissions.pop_front() {
            let is_admin = submission.is_admin;
            let number = self.requests.all.insert(Request::new(submission));
            match is_admin {
                true => self.waiting_admin.push_back(number),
                false => self.waiting.push_back(number),
            }
        }
        (inbox.is_closing, has_taken)
    }

    /// Sends, receives, looks at the clock; whether anything came.
    fn work(&mut self, up: &mut Association) -> Result<bool, LinkError> {
        let now = Instant::now();
        self.give_out(up, now);
        let is_time = now >= self.timer_due;
        let with_admin = self.looks_at_admin || is_time || up.admin.connection.under_way() > 0;
        self.looks_at_admin = false;
        let mut has_worked = false;
        for number in usize::from(!with_admin)..=up.queues.len() {
            let link = link_of(up, number);
            let sent = link.transmit(&self.requests);
            let received = sent.and_then(|_| link.receive(&mut self.requests));
            match received {
                Ok(received) => has_worked |= received == Received::Enough,
                Err(error) => {
                    self.broken = Some(number);
                    return Err(error.into());
                }
            }
            while let Some(done) = link_of(up, number).connection.next_done() {
                has_worked = true;
                self.part_done(done)?;
            }
        }
        if is_time {
            self.timer_due = now + TIMER_STEP;
            self.look_at_clock(up, now)?;
        }
        Ok(has_worked)
    }

    /// Gives waiting parts to queues with room.
    fn give_out(&mut self, up: &mut Association, now: Instant) {
        while let Some(number) = self.waiting.front().copied() {
            let best = up
                .queues
                .iter_mut()
                .max_by_key(|link| link.connection.room());
            let Some(link) = best.filter(|link| link.connection.room() > 0) else {
                break;
            };
            if !self.give_part(&mut link.connection, number, now) {
                self.waiting.pop_front();
            }
        }
        while let Some(number) = self.waiting_admin.front().copied() {
            // One slot stays for the keep-alive.
            if up.admin.connection.room() < 2 {
                break;
            }
            if !self.give_part(&mut up.admin.connection, number, now) {
                self.waiting_admin.pop_front();
            }
        }
    }

    /// Gives a request's next part to a queue; whether there are more.
    fn give_part(&mut self, connection: &mut Connection, number: usize, now: Instant) -> bool {
        let Some(request) = self.requests.all.get_mut(number) else {
            return false;
        };
        let Some((part, command, bytes)) = request.next_part() else {
            return false;
        };
        let expires = now + request.submission.timeout;
        connection.submit(token(number, part), command, bytes, Some(expires));
        request.has_more()
    }

    fn part_done(&mut self, done: Done) -> Result<(), LinkError> {
        if done.token == KEEP_ALIVE {
            let failed = done.result.ok().and_then(keep_alive_failed);
            return failed.map_or(Ok(()), |status| Err(LinkError::KeepAlive { status }));
        }
        let (number, part) = parts_of(done.token);
        if let Some(request) = self.requests.all.get_mut(number) {
            request.part_done(&self.shared.peer, part, &done);
            self.end_if_over(number);
        }
        Ok(())
    }

    /// Keeps a request's promise if nothing of it is under way or waiting.
    fn end_if_over(&mut self, number: usize) {
        let Some(request) = self.requests.all.get(number) else {
            return;
        };
        if request.is_over() {
            if request.has_failed() {
                // It may have had parts waiting, and its number is another's from now on.
                self.waiting.retain(|waiting| *waiting != number);
                self.waiting_admin.retain(|waiting| *waiting != number);
            }
            let request = self.requests.all.remove(number);
            self.shared.inbox().held -= 1;
            request.keep();
        }
    }

    fn look_at_clock(&mut self, up: &mut Association, now: Instant) -> Result<(), LinkError> {
        for number in 0..=up.queues.len() {
            if let Some(expired) = link_of(up, number).connection.expired(now) {
                let (request, _) = parts_of(expired.token);
                let mut after = self.options.keep_alive.unwrap_or_default();
                if let Some(request) = self.requests.all.get_mut(request) {
                    after = request.submission.timeout;
                    request.fail(CommandError::TimedOut {
                        peer: Arc::clone(&self.shared.peer),
                        command: request.submission.name(),
                        after,
                    });
                }
                return Err(LinkError::TimedOut { after });
            }
        }
        if let (Some(due), Some(time)) = (self.keep_alive_due, self.options.keep_alive)
            && now >= due
            && up.admin.connection.room() > 0
        {
            let command = Command::new(admin::KEEP_ALIVE, 0, Flow::None);
            up.admin
                .connection
                .submit(KEEP_ALIVE, command, 0, Some(now + time));
            self.keep_alive_due = Some(now + time / 2);
        }
        Ok(())
    }

    /// Sleeps until something comes from the network or from callers, or the clock is to be looked at, and no longer than so.
    pub(crate) fn park(&mut self, at_most: Duration) {
        let shared = Arc::clone(&self.shared);
        shared.is_sleeping.store(true, Ordering::SeqCst);
        let is_idle = {
            let inbox = shared.inbox();
            let has_end = inbox.is_closing && self.requests.all.is_empty();
            inbox.submissions.is_empty() && !has_end
        };
        let is_dialled = self.dialling.as_ref().is_some_and(Dialling::has_ended);
        let time = match is_idle && !is_dialled {
            true => self.time_to_sleep().min(at_most),
            false => Duration::ZERO,
        };
        let mut fds: ArrayVec<PollFd<'_>, FDS_MAX> = ArrayVec::new();
        fds.push(PollFd::new(&shared.bell, PollFlags::IN));
        if let Some(up) = &self.up {
            let links = std::iter::once(&up.admin).chain(&up.queues);
            fds.extend(links.map(|link| PollFd::from_borrowed_fd(link.fd(), link.interest())));
        }
        // Interrupted or not: the next turn looks at everything.
        let _ = poll(&mut fds, Some(&timespec(time)));
        let is_set = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
        let (has_rung, has_admin) = (is_set(fds.first()), is_set(fds.get(1)));
        shared.is_sleeping.store(false, Ordering::SeqCst);
        self.looks_at_admin |= has_admin;
        if has_rung {
            // Nothing there is fine, too.
            let _ = rustix::io::read(&shared.bell, &mut [0_u8; 8]);
        }
    }

    /// How long nothing is to be done by the clock.
    fn time_to_sleep(&self) -> Duration {
        let until = match (&self.up, &self.down) {
            (Some(up), _) => {
                let mut links = std::iter::once(&up.admin).chain(&up.queues);
                let is_busy = links.any(|link| link.connection.under_way() > 0);
                match self.keep_alive_due {
                    Some(due) if !is_busy => due,
                    None if !is_busy => return SLEEP_MAX,
                    _ => self.timer_due,
                }
            }
            (None, Some(down)) if self.dialling.is_none() => down.next,
            // The bell rings when the connection is there.
            (None, _) => return SLEEP_MAX,
        };
        until.saturating_duration_since(Instant::now())
    }

    /// Nobody polls any more: the sockets are closed, what is left fails.
    pub(crate) fn abandon(&mut self) {
        if !self.is_over {
            // A thread that is connecting gives up.
            self.shared.close();
            self.up = None;
            self.end(None);
        }
    }

    /// Shuts the controller down if there is one, and fails what is left.
    fn end(&mut self, association: Option<Association>) -> Turn {
        self.is_over = true;
        self.shared.inbox().is_closed = true;
        // What came in between.
        self.take_submissions();
        let after = self
            .down
            .as_ref()
            .map_or(Duration::ZERO, |down| down.since.elapsed());
        let peer = &self.shared.peer;
        for request in self.requests.all.drain() {
            let command: CommandName = request.submission.name();
            let peer = Arc::clone(peer);
            let error = match &self.down {
                Some(down) => CommandError::GaveUp {
                    peer,
                    command,
                    after,
                    cause: Arc::clone(&down.cause),
                },
                None => CommandError::Closed { peer },
            };
            request.give_up(error);
        }
        if let Some(association) = association {
            let always = || true;
            let dialler = Dialler {
                options: &self.options,
                peer,
                goes_on: &always,
            };
            dialler.shut_down(association);
        }
        Turn::Over
    }
}

/// The admin queue is number 0.
fn link_of(up: &mut Association, number: usize) -> &mut Link {
    match number.checked_sub(1) {
        None => &mut up.admin,
        Some(number) => &mut up.queues[number],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, Region};
    use crate::pending::promise;
    use crate::request::{Submission, Work};

    /// Counts what it is told of.
    struct Told(Vec<u8>, Arc<std::sync::Mutex<Vec<Range<usize>>>>);

    impl Memory for Told {
        fn region(&self) -> Region {
            self.0.region()
        }
        fn host(&self) -> Option<&[u8]> {
            self.0.host()
        }
        fn host_mut(&mut self) -> Option<&mut [u8]> {
            self.0.host_mut()
        }
        fn arrived(&mut self, bytes: Range<usize>) {
            self.1.lock().expect("nobody panicked").push(bytes);
        }
    }

    fn told() -> (Request, Arc<std::sync::Mutex<Vec<Range<usize>>>>) {
        let ranges = Arc::default();
        let request = Request::new(Submission {
            memory: Box::new(Told(vec![0; 8192], Arc::clone(&ranges))),
            work: Work::One(Command::new(2, 1, Flow::In)),
            bytes: 8192,
            part_bytes: 8192,
            is_admin: false,
            is_idempotent: true,
            timeout: Duration::from_secs(1),
            promise: promise().0,
        });
        (request, ranges)
    }

    #[test]
    fn memory_that_was_told_of_bytes_is_told_when_they_come_again() {
        for is_thread_own in [false, true] {
            let mut requests = Requests {
                all: Slab::new(),
                is_thread_own,
            };
            let (first, of_first) = told();
            let first = requests.all.insert(first);
            requests.arrived(token(first, 0), 0..4096);
            // The connection is lost, others come, and the bytes once more.
            let others: Vec<_> = (0..REQUESTS_OF_ONE).map(|_| told()).collect();
            let of_other = Arc::clone(&others[0].1);
            let others: Vec<_> = others
                .into_iter()
                .map(|(other, _)| requests.all.insert(other))
                .collect();
            requests.arrived(token(first, 0), 0..8192);
            requests.arrived(token(others[0], 0), 0..4096);
            assert_eq!(
                *of_first.lock().expect("nobody panicked"),
                [0..4096, 0..8192]
            );
            let is_other_told = !of_other.lock().expect("nobody panicked").is_empty();
            assert_eq!(is_other_told, !is_thread_own);
        }
    }
}
