//! What came of the configuration's being read again.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::lock;

/// One time that it was.
#[derive(Clone)]
pub(crate) struct Reloaded {
    pub(crate) at: SystemTime,
    /// Whether the configuration was taken over.
    pub(crate) is_done: bool,
    /// What has changed, or why nothing has.
    pub(crate) said: String,
}

impl Reloaded {
    pub(super) fn unix_seconds(&self) -> u64 {
        let since = self.at.duration_since(UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }
}

/// How often it was, and what came of the last time.
#[derive(Clone, Default)]
pub(super) struct Reloads {
    pub(super) done: u64,
    pub(super) refused: u64,
    pub(super) last: Option<Reloaded>,
}

/// Written by the thread that reads, read by those that answer.
#[derive(Default)]
pub(crate) struct Record(Mutex<Reloads>);

impl Record {
    pub(crate) fn add(&self, reloaded: Reloaded) {
        let mut reloads = lock(&self.0);
        match reloaded.is_done {
            true => reloads.done += 1,
            false => reloads.refused += 1,
        }
        reloads.last = Some(reloaded);
    }

    pub(super) fn all(&self) -> Reloads {
        lock(&self.0).clone()
    }
}
