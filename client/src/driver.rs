//! The thread that does a controller's I/O.
//!
//! ```text
//!   callers ──► inbox ──► requests ──► parts ──► queues (the one with most room) ──► parts done ──► promise kept
//!                  │                     ▲                                               │
//!                  └── eventfd wakes     └── sent again after a reconnect, if that is no harm ◄── connection lost
//! ```
//!
//! One turn of [`Driver::turn`] takes what callers gave, sends, receives, keeps promises, looks at the clock, and sleeps if
//! nothing happened. A request's memory is with it from the inbox until its promise is kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use slab::Slab;

use crate::association::{Association, Dialler, keep_alive_failed};
use crate::connection::{Buffers, Connection, Done, Token};
use crate::error::{CommandError, ConnectError, LinkError, Peer};
use crate::limits::TIMER_STEP;
use crate::link::{Link, timespec};
use crate::nvme::command::{CommandName, admin};
use crate::nvme::identify::ControllerData;
use crate::nvme::{Command, Flow};
use crate::options::{Options, Reconnect};
use crate::pending::Promise;
use crate::request::{Request, Submission};

/// What callers and the thread share.
pub(crate) struct Shared {
    pub(crate) peer: Arc<Peer>,
    pub(crate) requests_max: usize,
    inbox: Mutex<Inbox>,
    /// The thread sleeps, or is about to.
    is_sleeping: AtomicBool,
    bell: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    submissions: VecDeque<Submission>,
    /// Requests that were taken and have not ended.
    held: usize,
    is_closing: bool,
    is_closed: bool,
}

impl Shared {
    pub(crate) fn new(peer: Arc<Peer>, requests_max: usize) -> std::io::Result<Self> {
        Ok(Self {
            peer,
            requests_max,
            inbox: Mutex::default(),
            is_sleeping: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request, or ends it with the reason why not.
    pub(crate) fn submit(&self, submission: Submission) {
        let peer = || Arc::clone(&self.peer);
        let mut inbox = self.inbox();
        let error = if inbox.is_closing || inbox.is_closed {
            CommandError::Closed { peer: peer() }
        } else if inbox.held == self.requests_max {
            let max = self.requests_max;
            CommandError::Full { peer: peer(), max }
        } else {
            inbox.held += 1;
            inbox.submissions.push_back(submission);
            drop(inbox);
            return self.wake();
        };
        drop(inbox);
        submission.give_back(error);
    }

    /// No more is taken; what was taken ends.
    pub(crate) fn close(&self) {
        self.inbox().is_closing = true;
        self.wake();
    }

    fn is_closing(&self) -> bool {
        self.inbox().is_closing
    }

    fn wake(&self) {
        // The thread says that it sleeps before it looks into the inbox for the last time.
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            // Nothing but a full counter could fail, and then the bell rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// Requests by number; a token is a request's number and a part's.
struct Requests(Slab<Request>);

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
        let request = self.0.get(request)?;
        request.submission.memory.host()?.get(request.range(part))
    }

    fn bytes_mut(&mut self, token: Token) -> Option<&mut [u8]> {
        let (request, part) = parts_of(token);
        let request = self.0.get_mut(request)?;
        let range = request.range(part);
        request.submission.memory.host_mut()?.get_mut(range)
    }
}

/// Since when there is no association, and when the next attempt is made.
struct Down {
    since: Instant,
    next: Instant,
    wait: Duration,
    cause: Arc<LinkError>,
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    options: Options,
    requests: Requests,
    waiting: VecDeque<usize>,
    waiting_admin: VecDeque<usize>,
    up: Option<Association>,
    down: Option<Down>,
    serial: Option<String>,
    /// The queue whose connection failed, and whose controller is told why.
    broken: Option<usize>,
    keep_alive_due: Option<Instant>,
    timer_due: Instant,
}

/// What a first connection tells.
pub(crate) type Connected = Result<(ControllerData, u32, usize), ConnectError>;

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, options: Options) -> Self {
        Self {
            shared,
            options,
            requests: Requests(Slab::new()),
            waiting: VecDeque::new(),
            waiting_admin: VecDeque::new(),
            up: None,
            down: None,
            serial: None,
            broken: None,
            keep_alive_due: None,
            timer_due: Instant::now(),
        }
    }

    /// Connects, says how that went, and does the I/O until it is closed.
    pub(crate) fn run(mut self, connected: Promise<Connected>) {
        match self.associate() {
            Ok(association) => {
                let data = association.data.clone();
                let (transfer, queues) = (association.transfer_bytes_max, association.queues.len());
                self.is_up(association);
                connected.keep(Ok((data, transfer, queues)));
            }
            Err(error) => {
                self.shared.inbox().is_closed = true;
                connected.keep(Err(error));
                return;
            }
        }
        while self.turn() {}
    }

    fn associate(&self) -> Result<Association, ConnectError> {
        let goes_on = || !self.shared.is_closing();
        let dialler = Dialler {
            options: &self.options,
            peer: &self.shared.peer,
            goes_on: &goes_on,
        };
        dialler.associate()
    }

    fn is_up(&mut self, association: Association) {
        let now = Instant::now();
        self.keep_alive_due = self.options.keep_alive.map(|time| now + time / 2);
        self.serial = Some(association.data.serial.clone());
        self.up = Some(association);
        self.down = None;
    }

    /// One turn; false at the end.
    fn turn(&mut self) -> bool {
        let is_closing = self.take_submissions();
        if let Some(mut association) = self.up.take() {
            match self.work(&mut association) {
                Ok(()) if is_closing && self.requests.0.is_empty() => {
                    self.end(Some(association));
                    return false;
                }
                Ok(()) => {
                    self.sleep(&association);
                    self.up = Some(association);
                }
                Err(error) => self.lose(association, error),
            }
        } else if !self.come_back() {
            self.end(None);
            return false;
        }
        true
    }

    /// Takes what callers gave; whether no more is to come.
    fn take_submissions(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        while let Some(submission) = inbox.submissions.pop_front() {
            let is_admin = submission.is_admin;
            let number = self.requests.0.insert(Request::new(submission));
            match is_admin {
                true => self.waiting_admin.push_back(number),
                false => self.waiting.push_back(number),
            }
        }
        inbox.is_closing
    }

    /// Sends, receives, looks at the clock.
    fn work(&mut self, up: &mut Association) -> Result<(), LinkError> {
        let now = Instant::now();
        self.give_out(up, now);
        for number in 0..=up.queues.len() {
            let link = link_of(up, number);
            let sent = link.transmit(&self.requests);
            let received = sent.and_then(|_| link.receive(&mut self.requests));
            if let Err(error) = received {
                self.broken = Some(number);
                return Err(error.into());
            }
            while let Some(done) = link_of(up, number).connection.next_done() {
                self.part_done(done)?;
            }
        }
        if now >= self.timer_due {
            self.timer_due = now + TIMER_STEP;
            self.look_at_clock(up, now)?;
        }
        Ok(())
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
        let Some(request) = self.requests.0.get_mut(number) else {
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
        if let Some(request) = self.requests.0.get_mut(number) {
            request.part_done(&self.shared.peer, part, &done);
            self.end_if_over(number);
        }
        Ok(())
    }

    /// Keeps a request's promise if nothing of it is under way or waiting.
    fn end_if_over(&mut self, number: usize) {
        let Some(request) = self.requests.0.get(number) else {
            return;
        };
        if request.is_over() {
            if request.has_failed() {
                // It may have had parts waiting, and its number is another's from now on.
                self.waiting.retain(|waiting| *waiting != number);
                self.waiting_admin.retain(|waiting| *waiting != number);
            }
            let request = self.requests.0.remove(number);
            self.shared.inbox().held -= 1;
            request.keep();
        }
    }

    fn look_at_clock(&mut self, up: &mut Association, now: Instant) -> Result<(), LinkError> {
        for number in 0..=up.queues.len() {
            if let Some(expired) = link_of(up, number).connection.expired(now) {
                let (request, _) = parts_of(expired.token);
                let mut after = self.options.keep_alive.unwrap_or_default();
                if let Some(request) = self.requests.0.get_mut(request) {
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

    /// Sleeps until something comes from the network or from callers, or the clock is to be looked at.
    fn sleep(&mut self, up: &Association) {
        self.shared.is_sleeping.store(true, Ordering::SeqCst);
        let is_idle = {
            let inbox = self.shared.inbox();
            inbox.submissions.is_empty() && !(inbox.is_closing && self.requests.0.is_empty())
        };
        let mut fds = vec![PollFd::new(&self.shared.bell, PollFlags::IN)];
        let links = std::iter::once(&up.admin).chain(&up.queues);
        fds.extend(links.map(|link| PollFd::from_borrowed_fd(link.fd(), link.interest())));
        let is_busy = up.queues.iter().any(|link| link.connection.under_way() > 0);
        let until = match is_busy || up.admin.connection.under_way() > 0 {
            true => self.timer_due,
            false => self
                .keep_alive_due
                .unwrap_or(self.timer_due + Duration::from_secs(1)),
        };
        let time = if is_idle {
            until.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        // Interrupted or not: the next turn looks at everything.
        let _ = poll(&mut fds, Some(&timespec(time)));
        self.shared.is_sleeping.store(false, Ordering::SeqCst);
        self.quiet_bell();
    }

    fn quiet_bell(&self) {
        // Nothing there is fine, too.
        let _ = rustix::io::read(&self.shared.bell, &mut [0_u8; 8]);
    }

    /// The association is over: what may be sent again waits, the rest fails.
    fn lose(&mut self, association: Association, error: LinkError) {
        let cause = Arc::new(error);
        let peer = &self.shared.peer;
        tracing::warn!(%peer, %cause, "the connection is lost");
        let resubmissions = self
            .options
            .reconnect
            .map_or(0, |reconnect| reconnect.resubmissions);
        let links = std::iter::once(association.admin).chain(association.queues);
        let broken = self.broken.take();
        for (number, mut link) in links.enumerate() {
            while let Some(done) = link.connection.next_done() {
                // A keep-alive that failed besides is no news.
                let _ = self.part_done(done);
            }
            for (token, is_begun) in link.connection.abandon() {
                let (number, part) = parts_of(token);
                if let Some(request) = self.requests.0.get_mut(number) {
                    let peer = &self.shared.peer;
                    if request.part_lost(peer, part, is_begun, resubmissions, &cause) {
                        let is_admin = request.submission.is_admin;
                        let waiting = if is_admin {
                            &mut self.waiting_admin
                        } else {
                            &mut self.waiting
                        };
                        if !waiting.contains(&number) {
                            waiting.push_front(number);
                        }
                    }
                    self.end_if_over(number);
                }
            }
            if let LinkError::Connection(error) = &*cause
                && broken == Some(number)
            {
                link.part(error);
            }
        }
        let now = Instant::now();
        let wait = self
            .options
            .reconnect
            .map_or(Duration::ZERO, |reconnect| reconnect.first);
        self.down = Some(Down {
            since: now,
            next: now,
            wait,
            cause,
        });
    }

    /// Tries to connect again when it is time; false when that was given up.
    fn come_back(&mut self) -> bool {
        let (Some(reconnect), Some(down)) = (self.options.reconnect, self.down.as_ref()) else {
            return false;
        };
        let is_idle = self.requests.0.is_empty();
        if self.shared.is_closing() && is_idle || down.since.elapsed() >= reconnect.give_up_after {
            return false;
        }
        let left = down.next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.shared.is_sleeping.store(true, Ordering::SeqCst);
            let mut fds = [PollFd::new(&self.shared.bell, PollFlags::IN)];
            let time = if self.shared.is_closing() {
                left.min(TIMER_STEP)
            } else {
                left
            };
            let _ = poll(&mut fds, Some(&timespec(time)));
            self.shared.is_sleeping.store(false, Ordering::SeqCst);
            self.quiet_bell();
            return !self.shared.is_closing();
        }
        match self.associate().and_then(|up| self.check_same(up)) {
            Ok(association) => {
                let peer = &self.shared.peer;
                tracing::info!(%peer, "the connection is back");
                self.is_up(association);
            }
            Err(error) => self.try_later(reconnect, error),
        }
        !self.shared.is_closing() || self.up.is_some()
    }

    fn check_same(&self, up: Association) -> Result<Association, ConnectError> {
        match &self.serial {
            Some(expected) if *expected != up.data.serial => Err(ConnectError::OtherController {
                peer: Arc::clone(&self.shared.peer),
                expected: expected.clone(),
                found: up.data.serial,
            }),
            _ => Ok(up),
        }
    }

    fn try_later(&mut self, reconnect: Reconnect, error: ConnectError) {
        if let Some(down) = &mut self.down {
            down.cause = Arc::new(error.into());
            down.next = Instant::now() + down.wait;
            down.wait = (down.wait * 2).min(reconnect.most);
        }
    }

    /// Shuts the controller down if there is one, and fails what is left.
    fn end(&mut self, association: Option<Association>) {
        {
            let mut inbox = self.shared.inbox();
            inbox.is_closed = true;
        }
        // What came in between.
        self.take_submissions();
        let after = self
            .down
            .as_ref()
            .map_or(Duration::ZERO, |down| down.since.elapsed());
        let peer = &self.shared.peer;
        for request in self.requests.0.drain() {
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
    }
}

/// The admin queue is number 0.
fn link_of(up: &mut Association, number: usize) -> &mut Link {
    match number.checked_sub(1) {
        None => &mut up.admin,
        Some(number) => &mut up.queues[number],
    }
}
