//! A controller whose I/O is done by whoever polls.

use std::time::Duration;

use crate::driver::{Driver, SLEEP_MAX, Turn};

/// Does one controller's I/O on the thread that calls it: for programs that poll anyway, such as reactors, and do not want
/// another thread's wake-ups between a request and its answer. [`Controller::connect_polled`] makes it.
///
/// Requests go on only while it is polled, connecting and reconnecting included. When it is dropped, what is under way fails
/// and the sockets are closed.
///
/// [`Controller::connect_polled`]: crate::Controller::connect_polled
pub struct Poller(pub(crate) Driver);

impl Poller {
    /// Does what there is to do, without waiting. The turn that finds the controller closed shuts it down first, which takes
    /// some round trips.
    pub fn poll(&mut self) -> Turn {
        self.0.turn()
    }

    /// Sleeps until there may be something to do: answers, requests of other threads, or the clock's. A thread that has
    /// nothing else to do calls this after a turn that was [`Turn::Idle`].
    pub fn park(&mut self, at_most: Duration) {
        self.0.park(at_most);
    }

    /// Does the I/O until the controller is closed.
    pub(crate) fn run(&mut self) {
        self.0.has_thread();
        loop {
            match self.poll() {
                Turn::Busy => {}
                Turn::Idle => self.park(SLEEP_MAX),
                Turn::Over => return,
            }
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        // Whoever waits after a panic is to learn of it.
        if !std::thread::panicking() {
            self.0.abandon();
        }
    }
}
