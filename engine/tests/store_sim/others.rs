//! What clients do besides putting, reading and deleting; and what is looked at whenever they do anything.

use std::time::Duration;

use oriel_engine::limits::{PIN_TIME_MAX, PINNED_PART};
use oriel_engine::store::{DriveError, Key, Operation, StoreError};

use super::api::Store;
use super::drive::SimDrive;
use super::life::Simulation;
use super::oracle::{Did, Op, OpId};

impl Simulation {
    pub(super) fn begin(&self, store: &Store, drive: &SimDrive, number: usize, op: Op) -> OpId {
        self.sync(store, drive);
        self.oracle.borrow_mut().begin(number, op)
    }

    /// Tells the oracle of evictions, and looks whether there was a reason for them; whether quotas are kept.
    pub(super) fn sync(&self, store: &Store, drive: &SimDrive) {
        let evicted = store.log.stat().blobs_evicted;
        let before = self.evicted.replace(evicted);
        // A slab's room is needed beside what is kept free: two slabs, and twice a checkpoint with the journal's records.
        let shape = &self.plan.shape;
        let kept = 2 * shape.slab_blocks + 2 * (shape.journal_blocks + 32);
        let is_low = drive.least_free() < kept || self.plan.faults.no_room > 0;
        if evicted > before {
            self.note(|report| report.evicted += evicted - before);
            let mut oracle = self.oracle.borrow_mut();
            for number in 0..self.plan.keys {
                if self.blobs.realm(number).cache.is_some() {
                    oracle.evicted(number, self.world.clock().now());
                }
            }
            drop(oracle);
            let mut caches = self
                .plan
                .realms
                .iter()
                .filter(|realm| realm.cache.is_some());
            let reason = is_low || caches.any(|realm| realm.quota_blocks.is_some());
            let wrong = reason
                .then_some(())
                .ok_or("with room for everything".into());
            self.check(wrong, || format!("{} blobs evicted", evicted - before));
        }
        self.check(self.quotas(store), || "quotas".into());
    }

    pub(super) fn quotas(&self, store: &Store) -> Result<(), String> {
        for realm in &self.plan.realms {
            let stat = store
                .log
                .realm_stat(realm.id)
                .ok_or("a realm is not there")?;
            if stat
                .quota_blocks
                .is_some_and(|quota| stat.used_blocks > quota)
            {
                return Err(format!("{} takes more than its quota: {stat:?}", realm.id));
            }
        }
        Ok(())
    }

    pub(super) async fn other(&self, store: &Store, drive: &SimDrive, number: usize) {
        match self.random(|rng| rng.below(7)) {
            0..3 => self.pin(store, drive, number),
            3 => self.unpin(store, drive, number),
            4 => self.read_elsewhere(store, drive, number).await,
            5 => self.list(store, drive, number).await,
            _ => self.probe(store, drive),
        }
    }

    fn pin(&self, store: &Store, drive: &SimDrive, number: usize) {
        let (key, realm) = (self.blobs.key(number).0, self.blobs.realm(number));
        let time = self.random(|rng| rng.between(1, 1000 * self.plan.nanos_max));
        let id = self.begin(store, drive, number, Op::Read);
        let now = self.world.clock().now();
        let pinned = store.log.pin(realm.id, &key, Duration::from_nanos(time));
        let blocks = store
            .log
            .locate(realm.id, &key)
            .map(|location| oriel_engine::store::window_blocks(location.length));
        let mut oracle = self.oracle.borrow_mut();
        let of_realm = (0..self.plan.keys).filter(|other| self.blobs.realm(*other).id == realm.id);
        let pins: Vec<(usize, (bool, u64))> = of_realm
            .filter_map(|other| Some((other, oracle.pinned(other, now)?)))
            .collect();
        let others = pins.iter().filter(|(other, _)| *other != number);
        let all: u64 = others.clone().map(|(_, (_, blocks))| blocks).sum();
        let certain: u64 = others
            .filter(|(_, (is_certain, _))| *is_certain)
            .map(|(_, (_, blocks))| blocks)
            .sum();
        let used = store
            .log
            .realm_stat(realm.id)
            .map_or(0, |stat| stat.used_blocks);
        let most = realm.quota_blocks.unwrap_or(used) / PINNED_PART;
        let explained = match (&pinned, blocks) {
            (Ok(Some(until)), Some(blocks)) => {
                self.report.borrow_mut().pins += 1;
                let expected = now + Duration::from_nanos(time).min(PIN_TIME_MAX);
                let seen = oracle.end(number, id, |did| matches!(did, Did::See(Some(_))));
                oracle.pin(number, *until, blocks);
                match (*until == expected, certain + blocks <= most) {
                    (true, true) => seen,
                    (false, _) => Err("another time was asked for".into()),
                    (_, false) => Err(format!("{certain} of {most} blocks were pinned")),
                }
            }
            (Ok(None), None) => oracle.end(number, id, |did| did == Did::See(None)),
            (Err(StoreError::TooManyPins { .. }), Some(blocks)) if all + blocks > most => {
                oracle.end(number, id, |did| matches!(did, Did::See(Some(_))))
            }
            _ => Err(format!("{all} of {most} blocks were pinned, at {blocks:?}")),
        };
        drop(oracle);
        self.check(explained, || format!("pin of {number}: {pinned:?}"));
    }

    fn unpin(&self, store: &Store, drive: &SimDrive, number: usize) {
        self.sync(store, drive);
        let (key, realm) = (self.blobs.key(number).0, self.blobs.realm(number).id);
        let was = store.log.unpin(realm, &key);
        let mut oracle = self.oracle.borrow_mut();
        let expected = oracle.pinned(number, self.world.clock().now());
        oracle.unpin(number);
        drop(oracle);
        let explained = match expected {
            Some((true, _)) if !was => Err("it was pinned".into()),
            _ => Ok(()),
        };
        self.check(explained, || format!("unpin of {number}"));
    }

    /// A key of one realm is nothing in another, unless that has the same key.
    async fn read_elsewhere(&self, store: &Store, drive: &SimDrive, number: usize) {
        let key = self.blobs.key(number).0;
        let its = |realm, other: usize| {
            self.blobs.realm(other).id == realm && self.blobs.key(other).0 == key
        };
        for realm in &self.plan.realms {
            let same = (0..self.plan.keys).find(|other| its(realm.id, *other));
            match same {
                Some(other) => self.read(store, drive, other, 0, u64::MAX).await,
                None => {
                    let read = self
                        .tallied(Operation::Get, store.log.read(realm.id, &key, 0, u64::MAX))
                        .await;
                    let nothing = read == Ok(None) || drive.is_removed();
                    let wrong = nothing.then_some(()).ok_or("it is of another realm".into());
                    self.check(wrong, || {
                        format!("read of {number} in {}: {read:?}", realm.id)
                    });
                }
            }
        }
    }

    /// What is there all the time is listed, and what is not there all the time is not.
    async fn list(&self, store: &Store, drive: &SimDrive, number: usize) {
        let realm = self.blobs.realm(number).id;
        self.sync(store, drive);
        let certain = || -> Vec<_> {
            let oracle = self.oracle.borrow();
            (0..self.plan.keys)
                .map(|number| oracle.certain(number))
                .collect()
        };
        let before = certain();
        let most = self.random(|rng| rng.between(1, 8)) as usize;
        let listed = store.list_of(realm, most).await;
        self.sync(store, drive);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                let explained = self.is_directory(&error, drive);
                return self.check(explained, || format!("list of {realm}: {error:?}"));
            }
        };
        self.note(|report| report.lists += 1);
        let mut explained = Ok(());
        for (number, (before, after)) in before.into_iter().zip(certain()).enumerate() {
            let (Some((there, version)), Some(after)) = (before, after) else {
                continue;
            };
            let is_its = self.blobs.realm(number).id == realm;
            let is_listed = listed.contains(&self.blobs.key(number).0);
            if is_its && (there, version) == after && is_listed != there {
                explained = Err(format!(
                    "key {number} is listed: {is_listed}; there: {there}"
                ));
            }
        }
        let known = |key: &Key| {
            (0..self.plan.keys).any(|number| {
                self.blobs.realm(number).id == realm && self.blobs.key(number).0 == *key
            })
        };
        if let Some(stranger) = listed.iter().find(|key| !known(key)) {
            explained = Err(format!("{stranger} is of another realm"));
        }
        self.check(explained, || format!("list of {realm}"));
    }

    /// Walks need directories, which a drive may have spoilt.
    fn is_directory(&self, error: &StoreError, drive: &SimDrive) -> Result<(), String> {
        let may_fail = self.drive_may_fail() || drive.is_removed();
        match error {
            StoreError::Drive(DriveError::NoMemory { .. }) if self.memory_may_be_short() => Ok(()),
            StoreError::Drive(_) | StoreError::Stopped { .. } if may_fail => Ok(()),
            StoreError::Directory { .. } if self.plan.faults.corrupt() => Ok(()),
            _ => Err("there is no reason for this".into()),
        }
    }

    /// What a scrub, compaction or a read finds damaged is put there.
    pub(super) fn may_be_quarantined(&self, number: usize) -> bool {
        self.plan.faults.corrupt() || self.quarantined.borrow().contains(&number)
    }

    fn probe(&self, store: &Store, drive: &SimDrive) {
        self.sync(store, drive);
        for realm in &self.plan.realms {
            let its = |number: &usize| self.blobs.realm(*number).id == realm.id;
            let numbers: Vec<usize> = (0..self.plan.keys).filter(its).collect();
            let keys: Vec<_> = numbers
                .iter()
                .map(|number| self.blobs.key(*number).0)
                .collect();
            let bits = store.log.probe(realm.id, &keys);
            for (place, number) in numbers.into_iter().enumerate() {
                let id = self.oracle.borrow_mut().begin(number, Op::Read);
                let there = bits >> place & 1 == 1;
                let seen = |did| matches!(did, Did::See(seen) if seen.is_some() == there);
                let explained = self.oracle.borrow_mut().end(number, id, seen);
                self.check(explained, || format!("probe of {number}: {there}"));
            }
        }
    }
}
