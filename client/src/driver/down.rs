//! While there is no association: what becomes of the requests, and how it comes back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Connected, Driver, Turn, parts_of};
use crate::association::{Association, Dialler};
use crate::error::{ConnectError, LinkError};
use crate::options::Reconnect;
use crate::pending::Promise;

/// Since when there is no association, and when the next attempt is made.
pub(super) struct Down {
    pub(super) since: Instant,
    pub(super) next: Instant,
    wait: Duration,
    pub(super) cause: Arc<LinkError>,
}

type Dialled = Result<Association, ConnectError>;

/// A connection that a thread is making.
pub(super) struct Dialling(Arc<Mutex<Option<Dialled>>>);

impl Dialling {
    fn take(&self) -> Option<Dialled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn has_ended(&self) -> bool {
        let result = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        result.is_some()
    }
}

impl Driver {
    /// Has a thread connect, which rings the bell when it has.
    pub(super) fn dial(&mut self) {
        let result = Arc::new(Mutex::new(None));
        let (shared, options) = (Arc::clone(&self.shared), self.options.clone());
        let its_result = Arc::clone(&result);
        let thread = std::thread::Builder::new().name("oriel-dial".into());
        let spawned = thread.spawn(move || {
            let goes_on = || !shared.is_closing();
            let dialler = Dialler {
                options: &options,
                peer: &shared.peer,
                goes_on: &goes_on,
            };
            let dialled = dialler.associate();
            let mut result = its_result.lock().unwrap_or_else(PoisonError::into_inner);
            *result = Some(dialled);
            drop(result);
            shared.wake();
        });
        let dialling = Dialling(result);
        if let Err(error) = spawned {
            let peer = Arc::clone(&self.shared.peer);
            let kind = error.kind();
            let mut result = dialling.0.lock().unwrap_or_else(PoisonError::into_inner);
            *result = Some(Err(ConnectError::Thread { peer, kind }));
        }
        self.dialling = Some(dialling);
    }

    /// The association is over: what may be sent again waits, the rest fails.
    pub(super) fn lose(&mut self, association: Association, error: LinkError) {
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
                if let Some(request) = self.requests.all.get_mut(number) {
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

    /// A turn without an association.
    pub(super) fn come_back(&mut self) -> Turn {
        if let Some(dialling) = &self.dialling {
            // One that is not wanted any more ends soon.
            let Some(dialled) = dialling.take() else {
                return Turn::Idle;
            };
            self.dialling = None;
            return match self.connected.take() {
                Some(promise) => self.first_time(dialled, promise),
                None => self.again(dialled),
            };
        }
        let is_closing = self.shared.is_closing();
        let (Some(reconnect), Some(down)) = (self.options.reconnect, self.down.as_ref()) else {
            return self.end(None);
        };
        if is_closing || down.since.elapsed() >= reconnect.give_up_after {
            return self.end(None);
        }
        if down.next > Instant::now() {
            return Turn::Idle;
        }
        self.dial();
        Turn::Busy
    }

    fn first_time(&mut self, dialled: Dialled, promise: Promise<Connected>) -> Turn {
        match dialled {
            Ok(association) => {
                let data = association.data.clone();
                let (transfer, queues) = (association.transfer_bytes_max, association.queues.len());
                self.is_up(association);
                promise.keep(Ok((data, transfer, queues)));
                Turn::Busy
            }
            Err(error) => {
                let over = self.end(None);
                promise.keep(Err(error));
                over
            }
        }
    }

    fn again(&mut self, dialled: Dialled) -> Turn {
        match dialled.and_then(|up| self.check_same(up)) {
            Ok(association) => {
                let peer = &self.shared.peer;
                tracing::info!(%peer, "the connection is back");
                self.is_up(association);
            }
            Err(error) => {
                if let Some(reconnect) = self.options.reconnect {
                    self.try_later(reconnect, error);
                }
            }
        }
        Turn::Busy
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
}
