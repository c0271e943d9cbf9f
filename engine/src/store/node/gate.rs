//! Who may change blobs of a lane: those who know where blobs belong now, and one for each key that may be in several
//! places.
//!
//! Every change comes with the version of the table that it was routed by. A lane serves one version at a time: a newer
//! one waits until the changes of older ones have ended, and those that come with an older one are turned away. So two
//! changes that were routed by different tables never overlap on a drive that both of them know.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::rc::Rc;

use futures_channel::oneshot;

use super::super::types::{Key, RealmId};

#[derive(Default)]
struct State {
    version: u64,
    /// Changes of this version that are under way.
    current: u64,
    /// Those of older ones.
    older: u64,
    waiting: Vec<oneshot::Sender<()>>,
    keys: HashMap<(RealmId, Key), Vec<oneshot::Sender<()>>>,
}

#[derive(Default)]
pub(super) struct Gate(RefCell<State>);

/// Came with a version that is not the newest any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stale;

/// A change that is under way.
pub(super) struct Entered {
    gate: Rc<Gate>,
    version: u64,
}

/// A key that nobody else changes.
pub(super) struct Latched {
    gate: Rc<Gate>,
    key: (RealmId, Key),
}

impl Gate {
    pub(super) fn version(&self) -> u64 {
        self.0.borrow().version
    }

    pub(super) async fn enter(self: &Rc<Self>, version: u64) -> Result<Entered, Stale> {
        loop {
            let wait = {
                let mut state = self.0.borrow_mut();
                if version < state.version {
                    return Err(Stale);
                }
                if version > state.version {
                    state.older += std::mem::take(&mut state.current);
                    state.version = version;
                }
                if state.older == 0 {
                    state.current += 1;
                    let gate = Rc::clone(self);
                    return Ok(Entered { gate, version });
                }
                let (send, heard) = oneshot::channel();
                state.waiting.push(send);
                heard
            };
            // Whoever leaves last tells, and is there until then.
            let _ = wait.await;
        }
    }

    pub(super) async fn latch(self: &Rc<Self>, key: (RealmId, Key)) -> Latched {
        loop {
            let wait = match self.0.borrow_mut().keys.entry(key) {
                Place::Vacant(place) => {
                    place.insert(Vec::new());
                    let gate = Rc::clone(self);
                    return Latched { gate, key };
                }
                Place::Occupied(mut waiting) => {
                    let (send, heard) = oneshot::channel();
                    waiting.get_mut().push(send);
                    heard
                }
            };
            let _ = wait.await;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.gate.0.borrow_mut();
            if self.version == state.version {
                state.current -= 1;
                return;
            }
            state.older -= 1;
            match state.older {
                0 => std::mem::take(&mut state.waiting),
                _ => return,
            }
        };
        for heard in waiting {
            // Whoever does not wait any more does not have to know.
            let _ = heard.send(());
        }
    }
}

impl Drop for Latched {
    fn drop(&mut self) {
        let waiting = self.gate.0.borrow_mut().keys.remove(&self.key);
        for heard in waiting.into_iter().flatten() {
            let _ = heard.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_newer_version_waits_for_the_older_and_turns_it_away() {
        let gate = Rc::<Gate>::default();
        let Poll::Ready(Ok(old)) = poll(pin!(gate.enter(1))) else {
            panic!("nobody is there");
        };
        let mut new = pin!(gate.enter(2));
        assert!(poll(new.as_mut()).is_pending());
        assert!(matches!(poll(pin!(gate.enter(1))), Poll::Ready(Err(Stale))));
        let mut newest = pin!(gate.enter(3));
        assert!(poll(newest.as_mut()).is_pending());
        drop(old);
        assert!(matches!(poll(new), Poll::Ready(Err(Stale))));
        assert!(matches!(poll(newest), Poll::Ready(Ok(_))));
        assert_eq!(gate.version(), 3);
    }

    #[test]
    fn a_key_has_one_at_a_time() {
        let gate = Rc::<Gate>::default();
        let key = (RealmId(1), Key::of_content(b"1"));
        let Poll::Ready(first) = poll(pin!(gate.latch(key))) else {
            panic!("nobody has it");
        };
        let mut second = pin!(gate.latch(key));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(pin!(gate.latch((RealmId(2), key.1)))).is_ready());
        drop(first);
        assert!(poll(second).is_ready());
    }
}
