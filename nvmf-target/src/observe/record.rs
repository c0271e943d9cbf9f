//! What a node remembers of its changes: what came of the configuration's being read again, and drives that have left.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::lock;
use crate::Realm;

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

/// Drives that are remembered after they were given back.
const GIVEN_BACK_MAX: usize = 64;

/// What has become of a node since its start. Written by those who change it, read by those that answer.
#[derive(Default)]
pub(crate) struct Record {
    reloads: Mutex<Reloads>,
    given_back: Mutex<Vec<String>>,
    realms: Mutex<Vec<Realm>>,
}

impl Record {
    pub(crate) fn add(&self, reloaded: Reloaded) {
        let mut reloads = lock(&self.reloads);
        match reloaded.is_done {
            true => reloads.done += 1,
            false => reloads.refused += 1,
        }
        reloads.last = Some(reloaded);
    }

    /// These are its realms from now on.
    pub(crate) fn serves(&self, realms: Vec<Realm>) {
        *lock(&self.realms) = realms;
    }

    pub(super) fn realms(&self) -> Vec<Realm> {
        lock(&self.realms).clone()
    }

    /// A drive has left the store, and its device can be taken out.
    pub(crate) fn gave_back(&self, drive: String) {
        let mut drives = lock(&self.given_back);
        if drives.len() == GIVEN_BACK_MAX {
            drives.remove(0);
        }
        drives.push(drive);
    }

    pub(super) fn given_back(&self) -> Vec<String> {
        lock(&self.given_back).clone()
    }

    pub(super) fn all(&self) -> Reloads {
        lock(&self.reloads).clone()
    }
}
