//! What callers and whoever does the I/O share: requests go in, and a bell wakes a sleeper.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;

use crate::error::{CommandError, Peer};
use crate::request::Submission;

/// What callers and the driver share.
pub(crate) struct Shared {
    pub(crate) peer: Arc<Peer>,
    pub(crate) requests_max: usize,
    inbox: Mutex<Inbox>,
    /// The driver sleeps, or is about to.
    pub(super) is_sleeping: AtomicBool,
    pub(super) bell: OwnedFd,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) submissions: VecDeque<Submission>,
    /// Requests that were taken and have not ended.
    pub(super) held: usize,
    pub(super) is_closing: bool,
    pub(super) is_closed: bool,
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

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
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

    pub(super) fn is_closing(&self) -> bool {
        self.inbox().is_closing
    }

    pub(super) fn wake(&self) {
        // The driver says that it sleeps before it looks into the inbox for the last time.
        if self.is_sleeping.swap(false, Ordering::SeqCst) {
            // Nothing but a full counter could fail, and then the bell rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}
