//! A table's share of a region.

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(not(loom))]
use std::sync::Arc;

use super::memory::{AtomicU64, Memory};
#[cfg(not(loom))]
use super::{History, Persistence};

/// A section of a region, as words. It keeps the region mapped.
#[derive(Debug, Clone)]
pub struct Section {
    memory: Arc<Memory>,
    first: usize,
    words: usize,
    #[cfg(not(loom))]
    about: About,
}

/// What a section inherits from its region.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) history: History,
    pub(super) generation: u64,
    pub(super) persistence: Persistence,
    /// All of it is zero, unless a table has written since.
    pub(super) zeroed: bool,
}

impl Section {
    /// The section's words, shared with every other holder of it.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        &self.memory.words()[self.first..self.first + self.words]
    }

    #[cfg(loom)]
    pub(crate) fn modelled(words: usize) -> Self {
        Self {
            memory: Arc::new(Memory::zeroed(words)),
            first: 0,
            words,
        }
    }
}

#[cfg(not(loom))]
impl Section {
    pub(super) fn new(memory: Arc<Memory>, first: usize, words: usize, about: About) -> Self {
        assert!(first + words <= memory.words().len());
        Self {
            memory,
            first,
            words,
            about,
        }
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        (self.words * size_of::<AtomicU64>()) as u64
    }

    /// What the last user of the region left in it. Only what is clean may be believed.
    pub fn history(&self) -> History {
        self.about.history
    }

    /// How often the region was opened, this time included.
    pub fn generation(&self) -> u64 {
        self.about.generation
    }

    /// Whether all of it was zero when the region was opened: a new file or memory is, a device need not be.
    pub fn was_zeroed(&self) -> bool {
        self.about.zeroed
    }

    /// The same section for one more table after another has let go of it: what is in it is not zero any more.
    #[must_use]
    pub fn used_before(mut self) -> Self {
        self.about.zeroed = false;
        self
    }

    /// The same section as the next user of memory that outlasts its users gets it, other than by a region: with what the
    /// last user left behind.
    #[must_use]
    pub fn handed_on(mut self, history: History) -> Self {
        self.about.history = history;
        self.about.generation = self.about.generation.wrapping_add(1);
        self.about.zeroed = false;
        self
    }

    /// Writes these words through to where the power does not matter, where the memory is such and is not written by
    /// the kernel. Returns when they are there.
    pub fn persist(&self, words: std::ops::Range<usize>) {
        super::whole::persist(&self.words()[words], self.about.persistence);
    }
}
