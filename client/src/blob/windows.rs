//! Where blobs were when this client last asked. Positions are never used twice, so what is out of date shows as an error of
//! the read and never as another blob's bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oriel_protocol::{Key, Place};

/// The oldest go first.
#[derive(Default)]
struct Known {
    places: HashMap<Key, Place>,
    order: VecDeque<Key>,
}

pub(super) struct Windows {
    known: Mutex<Known>,
    max: usize,
}

impl Windows {
    pub(super) fn new(max: usize) -> Self {
        Self {
            known: Mutex::default(),
            max,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Place> {
        self.known().places.get(key).copied()
    }

    pub(super) fn insert(&self, key: Key, place: Place) {
        if self.max == 0 {
            return;
        }
        let mut known = self.known();
        if known.places.insert(key, place).is_none() {
            known.order.push_back(key);
        }
        // Keys that were taken out meanwhile are in the order once more than in the places.
        while known.places.len() > self.max || known.order.len() > 2 * self.max {
            let Some(oldest) = known.order.pop_front() else {
                break;
            };
            known.places.remove(&oldest);
        }
    }

    /// Forgets a place, unless another is known by now.
    pub(super) fn remove(&self, key: &Key, place: Option<&Place>) {
        let mut known = self.known();
        if place.is_none_or(|place| known.places.get(key) == Some(place)) {
            known.places.remove(key);
        }
    }
}
