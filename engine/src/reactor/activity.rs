//! What a reactor does right now, for the watchdog, at the price of one relaxed
//! store for each thing it does.
//!
//! The word is `count << 32 | name`: the count changes with each thing begun, so
//! an unchanged word means the same thing all the time. Name 0 is "nothing":
//! between turns, or asleep.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::mailbox::OwnLine;

/// A name in the table; 0 is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ActivityId(u32);

#[derive(Default)]
struct Names {
    by_id: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, u32>,
}

/// Names of all reactors. Locked when a name is first used on a core and when the
/// watchdog reports; never in a turn.
static NAMES: Mutex<Option<Names>> = Mutex::new(None);

impl ActivityId {
    pub(crate) fn of(name: &str) -> Self {
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let names = names.get_or_insert_default();
        if let Some(&id) = names.ids.get(name) {
            return Self(id);
        }
        let name: Arc<str> = name.into();
        names.by_id.push(name.clone());
        let id = u32::try_from(names.by_id.len()).expect("fewer than 2^32 names in a program");
        names.ids.insert(name, id);
        Self(id)
    }
}

/// The names of tasks that this core has used, by the address of the literal.
#[derive(Debug, Default)]
pub(crate) struct TaskNames {
    ids: HashMap<(usize, usize), ActivityId>,
    /// The last one that was asked for: often the next is the same.
    last: Option<((usize, usize), ActivityId)>,
}

impl TaskNames {
    pub(crate) fn id(&mut self, name: &'static str) -> ActivityId {
        let literal = (name.as_ptr() as usize, name.len());
        if let Some((last, id)) = self.last
            && last == literal
        {
            return id;
        }
        let of = || ActivityId::of(&format!("task '{name}'"));
        let id = *self.ids.entry(literal).or_insert_with(of);
        self.last = Some((literal, id));
        id
    }
}

/// The word that other threads read.
#[derive(Debug, Default)]
pub(crate) struct ActivityWord(OwnLine<AtomicU64>);

/// One reading of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reading(u64);

impl ActivityWord {
    pub(crate) fn read(&self) -> Reading {
        Reading(self.0.load(Ordering::Relaxed))
    }
}

impl Reading {
    /// What is going on; `None` for nothing.
    pub(crate) fn name(self) -> Option<Arc<str>> {
        let id = (self.0 as u32).checked_sub(1)?;
        let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        names.as_ref()?.by_id.get(id as usize).cloned()
    }
}

/// The owner's side of the word.
#[derive(Debug)]
pub(crate) struct Activity {
    word: Arc<super::stats::PerCore>,
    count: Cell<u32>,
    begun: Cell<bool>,
}

impl Activity {
    pub(crate) fn new(word: Arc<super::stats::PerCore>) -> Self {
        Self {
            word,
            count: Cell::new(0),
            begun: Cell::new(false),
        }
    }

    #[inline]
    pub(crate) fn begin(&self, id: ActivityId) {
        let count = self.count.get().wrapping_add(1);
        self.count.set(count);
        self.begun.set(true);
        let word = u64::from(count) << 32 | u64::from(id.0);
        self.word.activity.0.store(word, Ordering::Relaxed);
    }

    /// Nothing goes on any more.
    #[inline]
    pub(crate) fn end(&self) {
        if self.begun.replace(false) {
            self.word.activity.0.store(0, Ordering::Relaxed);
        }
    }
}
