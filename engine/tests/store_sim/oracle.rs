//! What a store has to hold, given what it was asked and what it answered.
//!
//! Each key is looked at alone. The oracle keeps every **course** that its history may have taken: which blob is there, and
//! which of the operations under way have taken effect already. An answer rules out the courses that do not explain it;
//! when none is left, the store is wrong. A crash leaves every course that any of the operations under way may have taken.
//!
//! An operation takes effect at one instant between its call and its answer, and is durable from then on. The one exception
//! is a delete, whose key is gone for others before that is durable: `lost` is the blob that a crash may bring back, until
//! the delete is answered or a later blob of the key is there, which comes behind it in the journal. The same goes for blobs
//! of a cache that were evicted, which may happen to those that nobody has pinned, and only when the store counts it.

use std::collections::{BTreeMap, BTreeSet};

use oriel_engine::clock::Moment;

/// Names the bytes of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Value(pub(crate) u32);

/// Names an operation under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct OpId(u64);

/// Whatever evicts.
const EVICTION: OpId = OpId(u64::MAX);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Put(Value),
    Delete,
    Read,
}

/// What an operation has done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Did {
    Create,
    FindThere,
    Delete(bool),
    See(Option<Value>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Course {
    there: Option<Value>,
    lost: Option<(OpId, Value)>,
    done: BTreeMap<OpId, Did>,
}

impl Course {
    fn starting_with(there: Option<Value>) -> Self {
        Self {
            there,
            lost: None,
            done: BTreeMap::new(),
        }
    }

    /// The operation takes effect now.
    fn then(&self, id: OpId, op: Op) -> Self {
        let mut next = self.clone();
        let did = match (op, self.there) {
            (Op::Put(_), Some(_)) => Did::FindThere,
            (Op::Put(value), None) => {
                next.there = Some(value);
                next.lost = None;
                Did::Create
            }
            (Op::Delete, Some(value)) => {
                next.there = None;
                next.lost = Some((id, value));
                Did::Delete(true)
            }
            (Op::Delete, None) => Did::Delete(false),
            (Op::Read, there) => Did::See(there),
        };
        next.done.insert(id, did);
        next
    }

    /// The blob is evicted now, if there is one.
    fn evicted(&self) -> Option<Self> {
        let value = self.there?;
        Some(Self {
            there: None,
            lost: Some((EVICTION, value)),
            done: self.done.clone(),
        })
    }
}

/// What keeps a blob of a cache from being evicted.
#[derive(Clone, Copy, Debug)]
struct Pin {
    until: Moment,
    blocks: u64,
    /// Nobody has begun to take the blob away since.
    is_certain: bool,
}

struct History {
    courses: BTreeSet<Course>,
    under_way: BTreeMap<OpId, Op>,
    pin: Option<Pin>,
    /// Goes up with everything that may change what is there.
    version: u64,
}

impl History {
    /// All courses that operations under way may lead to, the present ones among them.
    fn all_courses(&self) -> BTreeSet<Course> {
        self.courses_with(false)
    }

    fn courses_with(&self, evictions: bool) -> BTreeSet<Course> {
        let mut found = self.courses.clone();
        let mut next: Vec<Course> = found.iter().cloned().collect();
        while let Some(course) = next.pop() {
            for (id, op) in &self.under_way {
                if !course.done.contains_key(id) {
                    let later = course.then(*id, *op);
                    if found.insert(later.clone()) {
                        next.push(later);
                    }
                }
            }
            if let Some(later) = course.evicted().filter(|_| evictions)
                && found.insert(later.clone())
            {
                next.push(later);
            }
        }
        found
    }
}

/// Knows what must be there, by the number of the key.
pub(crate) struct Oracle {
    keys: Vec<History>,
    begun: u64,
}

impl Oracle {
    pub(crate) fn new(keys: usize) -> Self {
        let nothing = || History {
            courses: [Course::starting_with(None)].into(),
            under_way: BTreeMap::new(),
            pin: None,
            version: 0,
        };
        Self {
            keys: (0..keys).map(|_| nothing()).collect(),
            begun: 0,
        }
    }

    pub(crate) fn begin(&mut self, key: usize, op: Op) -> OpId {
        let id = OpId(self.begun);
        self.begun += 1;
        let history = &mut self.keys[key];
        history.under_way.insert(id, op);
        if op != Op::Read {
            history.version += 1;
        }
        if op == Op::Delete
            && let Some(pin) = &mut history.pin
        {
            pin.is_certain = false;
        }
        id
    }

    /// The operation has been answered, and the answer fits what it `did` on some of the courses only.
    pub(crate) fn end(
        &mut self,
        key: usize,
        id: OpId,
        fits: impl Fn(Did) -> bool,
    ) -> Result<(), String> {
        let history = &mut self.keys[key];
        let could = history.all_courses();
        let mut left = BTreeSet::new();
        for mut course in could.iter().cloned() {
            let Some(did) = course.done.remove(&id).filter(|did| fits(*did)) else {
                continue;
            };
            // Whoever has been told of a delete may rely on it.
            if did == Did::Delete(true) && course.lost.is_some_and(|(by, _)| by == id) {
                course.lost = None;
            }
            left.insert(course);
        }
        history.under_way.remove(&id);
        if left.is_empty() {
            return Err(format!("no course explains the answer: {could:?}"));
        }
        history.courses = left;
        Ok(())
    }

    /// The operation was refused and has had no effect.
    pub(crate) fn refuse(&mut self, key: usize, id: OpId) -> Result<(), String> {
        let history = &mut self.keys[key];
        let effect = |did| matches!(did, Did::Create | Did::Delete(true));
        let left: BTreeSet<Course> = history
            .courses
            .iter()
            .filter(|course| !course.done.get(&id).is_some_and(|did| effect(*did)))
            .cloned()
            .map(|mut course| {
                course.done.remove(&id);
                course
            })
            .collect();
        history.under_way.remove(&id);
        if left.is_empty() {
            return Err("an operation was refused whose effect was seen before".into());
        }
        history.courses = left;
        Ok(())
    }

    /// The operation failed, and whether it had an effect is not known until the store is opened again: a delete that others
    /// have seen may be seen to be undone.
    pub(crate) fn doubt(&mut self, key: usize, id: OpId) {
        let history = &mut self.keys[key];
        let undone = |course: &Course| {
            let mut course = course.clone();
            course.done.remove(&id)?;
            let (_, value) = course.lost.take().filter(|_| course.there.is_none())?;
            course.there = Some(value);
            Some(course)
        };
        let undone: Vec<Course> = history.courses.iter().filter_map(undone).collect();
        history.courses.extend(undone);
    }

    /// Blobs of a cache have been evicted since the last time, this one perhaps among them.
    pub(crate) fn evicted(&mut self, key: usize, now: Moment) {
        let history = &mut self.keys[key];
        let pinned = |pin: &Pin| pin.is_certain && pin.until > now;
        if !history.pin.as_ref().is_some_and(pinned) {
            history.courses = history.courses_with(true);
            history.version += 1;
        }
    }

    /// The blob is pinned, which the store has just said.
    pub(crate) fn pin(&mut self, key: usize, until: Moment, blocks: u64) {
        let history = &mut self.keys[key];
        let deletes = || history.under_way.values().any(|op| *op == Op::Delete);
        history.pin = Some(Pin {
            until,
            blocks,
            is_certain: !deletes(),
        });
    }

    pub(crate) fn unpin(&mut self, key: usize) {
        self.keys[key].pin = None;
    }

    /// Whether the blob is pinned: certainly not, perhaps, certainly; and its blocks.
    pub(crate) fn pinned(&self, key: usize, now: Moment) -> Option<(bool, u64)> {
        let pin = self.keys[key].pin.filter(|pin| pin.until > now)?;
        Some((pin.is_certain, pin.blocks))
    }

    /// Whether a blob is there, if that is certain, and what changes when that may change.
    pub(crate) fn certain(&self, key: usize) -> Option<(bool, u64)> {
        let history = &self.keys[key];
        let there: BTreeSet<bool> = self.now(key).iter().map(Option::is_some).collect();
        let only = there.first().filter(|_| there.len() == 1)?;
        Some((*only, history.version))
    }

    /// What may be there.
    pub(crate) fn now(&self, key: usize) -> BTreeSet<Option<Value>> {
        let courses = self.keys[key].all_courses();
        courses.iter().map(|course| course.there).collect()
    }

    /// What may be there after a crash.
    pub(crate) fn after_crash(&self, key: usize) -> BTreeSet<Option<Value>> {
        let courses = self.keys[key].all_courses();
        let back = |course: &Course| course.lost.map(|(_, value)| Some(value));
        courses
            .iter()
            .flat_map(|course| back(course).into_iter().chain([course.there]))
            .collect()
    }

    /// Nothing is under way any more, and one of these is there.
    pub(crate) fn settle(&mut self, key: usize, there: BTreeSet<Option<Value>>) {
        let history = &mut self.keys[key];
        history.under_way.clear();
        history.version += 1;
        history.courses = there.into_iter().map(Course::starting_with).collect();
    }

    pub(crate) fn crash(&mut self) {
        for key in 0..self.keys.len() {
            let there = self.after_crash(key);
            self.settle(key, there);
            self.keys[key].pin = None;
        }
    }

    /// Operations under way whose answer nobody will hear.
    pub(crate) fn under_way(&self, key: usize) -> usize {
        self.keys[key].under_way.len()
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }
}
