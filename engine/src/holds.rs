//! Who holds something that its owner wants to give up, without cores that hold it getting in each other's way.
//!
//! ```text
//!   a core      hold: word += 2, and back again if it was odd ──► uses it ──► release: word -= 2
//!   the owner   close: word |= 1, of every core ──► is_held: a word above 1
//! ```
//!
//! Each core has a word, on lines of its own. Everything about a core is decided by the order of changes of that one word: a
//! core that holds before it is closed is seen by the owner, one that comes later sees that it is closed. The release pairs
//! with the owner's look, so what was done with the thing is over when nobody is seen to hold it.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::OwnLine;

const CLOSED: u64 = 1;
const ONE: u64 = 2;

pub(crate) struct Holds {
    words: Box<[OwnLine<AtomicU64>]>,
}

impl Holds {
    /// For so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        let words = (0..cores).map(|_| OwnLine(AtomicU64::new(0)));
        Self {
            words: words.collect(),
        }
    }

    /// Holds it as one of the cores; false if it is closed.
    #[inline]
    pub(crate) fn hold(&self, core: usize) -> bool {
        let word = &self.words[core];
        let before = word.fetch_add(ONE, Ordering::Acquire);
        let is_open = before & CLOSED == 0;
        if !is_open {
            word.fetch_sub(ONE, Ordering::Release);
        }
        is_open
    }

    /// Lets go of it again.
    #[inline]
    pub(crate) fn release(&self, core: usize) {
        self.words[core].fetch_sub(ONE, Ordering::Release);
    }

    /// Nobody holds it any more who does not yet.
    pub(crate) fn close(&self) {
        for word in &self.words {
            word.fetch_or(CLOSED, Ordering::AcqRel);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        let first = self.words.first();
        first.is_some_and(|word| word.load(Ordering::Acquire) & CLOSED != 0)
    }

    /// Whether somebody holds it: once it is closed and this is false, nobody ever will.
    pub(crate) fn is_held(&self) -> bool {
        let mut words = self.words.iter();
        words.any(|word| word.load(Ordering::Acquire) >= ONE)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;

    #[test]
    fn loom_what_is_held_is_not_given_up() {
        loom::model(|| {
            // What is held is used; what nobody holds is given up.
            let thing = Arc::new((Holds::new(2), AtomicBool::new(true)));
            let readers: Vec<_> = (0..2)
                .map(|core| {
                    let thing = Arc::clone(&thing);
                    thread::spawn(move || {
                        let (holds, is_there) = &*thing;
                        if holds.hold(core) {
                            assert!(is_there.load(Ordering::Relaxed));
                            holds.release(core);
                        }
                    })
                })
                .collect();
            let (holds, is_there) = &*thing;
            holds.close();
            assert!(holds.is_closed());
            while holds.is_held() {
                thread::yield_now();
            }
            is_there.store(false, Ordering::Relaxed);
            for reader in readers {
                reader.join().expect("no reader saw what was given up");
            }
            assert!(!holds.hold(0));
        });
    }
}
