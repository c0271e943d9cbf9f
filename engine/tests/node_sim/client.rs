//! What the users of a simulated node do, and what they may be told.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use oriel_engine::store::{
    BLOCK_BYTES, Commit, Key, KeyKind, NodeError, NodeStore, Position, Put, StoreError,
};

use super::life::{REALM, Simulation};
use super::oracle::{Answer, Op, Value};
use super::plan::{LARGE, bytes};
use crate::store_sim::drive::SimDrive;

pub(crate) type Store = NodeStore<SimDrive>;
type Answers = RefCell<Vec<(Op, Answer)>>;

impl Simulation {
    pub(super) async fn client(&self, store: &Store, client: usize) {
        let first = client * self.plan.keys_each;
        for number in first..first + self.plan.keys_each {
            self.at_once(store, number, &[Op::Read]).await;
        }
        for _ in 0..self.plan.operations {
            if self.wrong.borrow().is_some() {
                return;
            }
            if self.random(|rng| rng.in_thousand(300)) {
                let pause = self.random(|rng| rng.between(1, 20 * self.plan.nanos_max));
                self.world.sleep(pause).await;
            }
            let number = first + self.random(|rng| rng.below(self.plan.keys_each as u64)) as usize;
            let count = self.random(|rng| rng.one_of(&[1, 1, 1, 2, 3]));
            let ops: Vec<Op> = (0..count).map(|_| self.some_op(number)).collect();
            self.at_once(store, number, &ops).await;
        }
    }

    fn some_op(&self, number: usize) -> Op {
        match self.random(|rng| rng.below(10)) {
            0..5 => Op::Put(self.some_value(number)),
            5..7 => Op::Delete,
            _ => Op::Read,
        }
    }

    pub(super) fn some_value(&self, number: usize) -> Value {
        if self.plan.key(number).1 == KeyKind::Content {
            return self.plan.content_value(number);
        }
        let is_large = self.random(|rng| rng.in_thousand(self.plan.large));
        let mut values = self.values.borrow_mut();
        let value = 1000 + values.len() as u32;
        let value = Value(value | if is_large { LARGE } else { 0 });
        values.push((number, value));
        value
    }

    /// Does all that at once, and looks whether the answers can be.
    pub(super) async fn at_once(&self, store: &Store, number: usize, ops: &[Op]) {
        self.report.borrow_mut().operations += ops.len() as u64;
        let answers = RefCell::new(ops.iter().map(|op| (*op, Answer::Unknown)).collect());
        let under_way = UnderWay {
            simulation: self,
            store,
            number,
            answers: &answers,
            was_lost: self.may_be_lost(store, number),
        };
        let mut futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let answers = &answers;
            futures.push(Box::pin(async move {
                let answer = self.ask(store, number, *op).await;
                answers.borrow_mut()[at].1 = answer;
            }));
        }
        poll_fn(|cx| {
            futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
            match futures.is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        drop(futures);
        drop(under_way);
    }

    fn may_be_lost(&self, store: &Store, number: usize) -> bool {
        if self.plan.large > 0 {
            // Its parts may be anywhere.
            return self.any_is_lost(store);
        }
        !store
            .lost_places(REALM, &self.plan.key(number).0)
            .is_empty()
    }

    async fn ask(&self, store: &Store, number: usize, op: Op) -> Answer {
        let (key, kind) = self.plan.key(number);
        let was_lost = self.may_be_lost(store, number);
        match op {
            Op::Put(value) => {
                let put = match self.random(|rng| rng.in_thousand(250)) {
                    true if value.0 & LARGE != 0 => {
                        match self.put_as_it_comes(store, number, value).await {
                            Some(put) => put,
                            None => return Answer::Refused,
                        }
                    }
                    true => self.put_in_steps(store, number, value).await,
                    false => store.put(REALM, key, kind, &bytes(value)).await,
                };
                match put {
                    Ok(Put::Created) => {
                        self.note_position(store, number, value).await;
                        Answer::Created
                    }
                    Ok(Put::AlreadyThere) => Answer::AlreadyThere,
                    Err(error) => self.explain(store, number, &error, "put", was_lost),
                }
            }
            Op::Delete => match store.delete(REALM, key).await {
                Ok(was_there) => Answer::Deleted(was_there),
                Err(error @ NodeError::Lost { .. }) => {
                    self.explain(store, number, &error, "delete", was_lost);
                    // It has deleted what it could.
                    Answer::Unknown
                }
                Err(error) => self.explain(store, number, &error, "delete", was_lost),
            },
            Op::Read => match self.read(store, number).await {
                Ok(None) => Answer::Saw(None),
                Ok(Some(read)) => {
                    let known = self.values.borrow();
                    let of_key = known.iter().filter(|(of, _)| *of == number);
                    let values = of_key
                        .map(|(_, value)| *value)
                        .chain([self.plan.content_value(number)]);
                    let value = values.into_iter().find(|value| bytes(*value) == read);
                    match value {
                        Some(value) => Answer::Saw(Some(value)),
                        None => {
                            self.is_wrong(format!("key {number} holds what nobody has put"));
                            Answer::Unknown
                        }
                    }
                }
                Err(error) => {
                    self.explain(store, number, &error, "read", was_lost);
                    // A read has no effect.
                    Answer::Refused
                }
            },
        }
    }

    /// Positions are never used twice.
    async fn note_position(&self, store: &Store, number: usize, value: Value) {
        let located = store.locate(REALM, &self.plan.key(number).0).await;
        // Somebody else may have deleted it, and put another one.
        let Ok(Some(location)) = located else {
            return;
        };
        if location.length != bytes(value).len() as u64 {
            return;
        }
        let mut positions = self.positions.borrow_mut();
        let before = *positions
            .entry(location.position)
            .or_insert((number, location.length));
        if before != (number, location.length) {
            self.is_wrong(format!(
                "{} was that of key {} and is that of key {number} now",
                location.position, before.0
            ));
        }
    }

    /// Whether a drive is lost, as far as the keys of some hundred blobs tell.
    pub(super) fn any_is_lost(&self, store: &Store) -> bool {
        let places = |key: &Key| !store.lost_places(REALM, key).is_empty();
        self.samples.iter().any(places)
    }

    /// All of a blob, in one of several ways.
    async fn read(&self, store: &Store, number: usize) -> Result<Option<Vec<u8>>, NodeError> {
        let key = self.plan.key(number).0;
        if self.random(|rng| rng.in_thousand(700)) {
            return store.read(REALM, &key, 0, u64::MAX).await;
        }
        let blocks = self.random(|rng| rng.one_of(&[48, 49, 60]));
        let (buf, read) = store
            .read_into(REALM, &key, 0, vec![0; blocks * BLOCK_BYTES])
            .await;
        let read = read?.map(|bytes| {
            let mut buf = buf.expect("there is one thread");
            buf.truncate(bytes as usize);
            buf
        });
        let Some(whole) = read else {
            return Ok(None);
        };
        // Another blob may be there by now.
        let from = self.random(|rng| rng.below(whole.len() as u64));
        let bytes = self.random(|rng| rng.between(1, 30 * BLOCK_BYTES as u64));
        let again = store.read(REALM, &key, from, bytes).await;
        let end = (from + bytes).min(whole.len() as u64) as usize;
        let is_same = |part: &[u8]| part == &whole[from as usize..end];
        match again {
            Ok(Some(part)) if is_same(&part) => self.report.borrow_mut().ranges += 1,
            _ => return store.read(REALM, &key, 0, u64::MAX).await,
        }
        Ok(Some(whole))
    }

    /// Puts a large blob as a stream; not to the end, sometimes.
    async fn put_as_it_comes(
        &self,
        store: &Store,
        number: usize,
        value: Value,
    ) -> Option<Result<Put, NodeError>> {
        let (key, kind) = self.plan.key(number);
        let data = bytes(value);
        let mut put = match store.put_large(REALM, key, kind) {
            Ok(put) => put,
            Err(error) => return Some(Err(error)),
        };
        let mut left = &data[..];
        while !left.is_empty() {
            if self.random(|rng| rng.in_thousand(50)) {
                self.report.borrow_mut().abandoned += 1;
                if self.random(|rng| rng.in_thousand(500)) {
                    put.abandon().await;
                }
                return None;
            }
            let most = left.len().min(9 * BLOCK_BYTES) as u64;
            let bytes = self.random(|rng| rng.between(1, most)) as usize;
            let (now, later) = left.split_at(bytes);
            if put.write(now).await.is_err() {
                break;
            }
            left = later;
        }
        Some(put.commit().await)
    }

    async fn put_in_steps(
        &self,
        store: &Store,
        number: usize,
        value: Value,
    ) -> Result<Put, NodeError> {
        let (key, kind) = self.plan.key(number);
        let mut data = bytes(value);
        let length = data.len() as u64;
        let reserved = store.reserve(REALM, &key, length).await?;
        data.resize(data.len().next_multiple_of(BLOCK_BYTES), 0);
        let middle = self.random(|rng| rng.below(reserved.blocks)) as usize * BLOCK_BYTES;
        for (start, part) in [(0, &data[..middle]), (middle, &data[middle..])] {
            if !part.is_empty() {
                let at = Position(reserved.position.0 + (start / BLOCK_BYTES) as u64);
                store.write(REALM, at, part.to_vec()).await.1?;
            }
        }
        let commit = Commit {
            key,
            kind,
            position: reserved.position,
            length,
            checksum: None,
        };
        store.commit(REALM, &commit).await
    }

    /// What an error means; it is wrong where there is no reason for it.
    fn explain(
        &self,
        store: &Store,
        number: usize,
        error: &NodeError,
        what: &str,
        was_lost: bool,
    ) -> Answer {
        let is_faulty = self.any_drive_fails();
        // A drive may have been lost, and added again, since.
        let may_be_lost = was_lost || self.may_be_lost(store, number) || self.is_unsure.get();
        let is_cache = self.plan.cache.is_some();
        let error = match error {
            NodeError::Part { source, .. } => source,
            error => error,
        };
        let answer = match error {
            NodeError::PartGone { .. } if is_cache || is_faulty => Answer::Refused,
            NodeError::Lost { .. } if what != "put" && may_be_lost => {
                self.report.borrow_mut().lost += 1;
                Answer::Unknown
            }
            // Of a window, or behind the home.
            NodeError::Lost { .. } if what == "put" && (is_faulty || may_be_lost) => {
                self.report.borrow_mut().lost += 1;
                Answer::Unknown
            }
            NodeError::ReadOnly { voters } if voters.here * 2 <= voters.all => {
                self.report.borrow_mut().read_only += 1;
                Answer::Refused
            }
            NodeError::NoDrive if is_faulty || !self.forgotten.borrow().is_empty() => {
                Answer::Refused
            }
            NodeError::LogEnds { .. } if is_faulty => Answer::Refused,
            NodeError::Moved { .. } => Answer::Refused,
            // Its drive was emptied, and let go, or was forgotten, perhaps just now.
            NodeError::NoSuchPosition { .. }
                if self.report.borrow().drained > 0
                    || self.is_unsure.get()
                    || !self.forgotten.borrow().is_empty() =>
            {
                Answer::Refused
            }
            NodeError::Drive {
                source: StoreError::Full,
                ..
            } => {
                self.report.borrow_mut().full += 1;
                Answer::Refused
            }
            // The log that it was reserved in has gone, or its drive's place was taken.
            NodeError::Drive {
                source: StoreError::NotReserved { .. },
                ..
            } if is_faulty => Answer::Refused,
            // A drive that does not take a blob is lost, and the blob put elsewhere; reads end so where one is pulled.
            NodeError::Drive {
                source: StoreError::Drive(_),
                ..
            } if self.any_drive_is_pulled() => Answer::Refused,
            error => {
                self.is_wrong(format!("{what} of key {number}: {error}, for no reason"));
                Answer::Unknown
            }
        };
        // It may have been begun on a drive that was lost before its end.
        match is_faulty {
            true => Answer::Unknown,
            false => answer,
        }
    }

    pub(super) fn is_wrong(&self, words: String) {
        self.wrong.borrow_mut().get_or_insert(words);
    }
}

/// Things that are done at once. Whatever stops them, what they may have done is known afterwards.
struct UnderWay<'a> {
    simulation: &'a Simulation,
    store: &'a Store,
    number: usize,
    answers: &'a Answers,
    was_lost: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Self {
            simulation, number, ..
        } = *self;
        let may_be_lost = self.was_lost
            || simulation.may_be_lost(self.store, number)
            || simulation.is_unsure.get();
        let all_are_here = !simulation.any_drive_fails();
        let learned = simulation.known.borrow_mut()[number].learn(
            &self.answers.borrow(),
            may_be_lost,
            all_are_here,
            simulation.plan.cache.is_some(),
        );
        if self
            .store
            .may_be_outdated(REALM, &simulation.plan.key(number).0)
        {
            simulation.known.borrow_mut()[number].is_outdated = true;
        }
        if let Err(words) = learned {
            simulation.is_wrong(format!("key {number}: {words}"));
        }
    }
}
