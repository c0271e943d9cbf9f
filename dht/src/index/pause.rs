//! What a reader does while a writer is half-way through a line: that takes nanoseconds, unless the writer has just
//! lost its core.

#[cfg(loom)]
use loom::thread::yield_now;
#[cfg(not(loom))]
use std::thread::yield_now;

/// Turns of mere waiting before the core is offered to others.
const SPINS: u32 = if cfg!(loom) { 0 } else { 64 };
/// Turns after which no living writer can be the reason.
const LONG: u32 = 1 << 16;

pub(super) struct Pause {
    turns: u32,
}

impl Pause {
    #[inline]
    pub(super) fn new() -> Self {
        Self { turns: 0 }
    }

    #[cold]
    pub(super) fn wait(&mut self) {
        self.turns = self.turns.saturating_add(1);
        if self.turns > SPINS {
            yield_now();
        } else {
            std::hint::spin_loop();
        }
    }

    pub(super) fn is_long(&self) -> bool {
        self.turns > LONG
    }
}
