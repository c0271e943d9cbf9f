//! A slab as every core sees it: one that gets no more windows, so that reads of it need nothing of the core that keeps it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::types::RealmId;
use super::windows::Windows;
use crate::holds::Holds;

pub(super) struct Shown {
    pub(super) realm: RealmId,
    pub(super) windows: Windows,
    /// Closed before the slab is given back, which those that read from it delay.
    pub(super) holds: Holds,
    /// Something in it was found damaged, ever.
    is_damaged: AtomicBool,
}

impl Shown {
    pub(super) fn new(realm: RealmId, windows: Windows, cores: usize) -> Self {
        Self {
            realm,
            windows,
            holds: Holds::new(cores),
            is_damaged: AtomicBool::new(false),
        }
    }

    pub(super) fn has_damage(&self) {
        self.is_damaged.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }
}
