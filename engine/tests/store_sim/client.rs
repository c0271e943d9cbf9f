//! What the clients of a simulation do, and what they may be told.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use oriel_engine::limits::RESERVATION_TIME;
use oriel_engine::store::{
    BLOCK_BYTES, Commit, DriveError, ExtentName, KeyKind, Operation, Position, Put, StoreError,
};

use super::api::Store;
use super::drive::SimDrive;
use super::life::Simulation;
use super::oracle::{Did, Op};

/// Blocks of the largest blob whose checksum is in its record.
const BLOCKS_OF_ONE_CHECKSUM: u64 = 4;

impl Simulation {
    pub(super) async fn client(&self, store: &Store, drive: &SimDrive) {
        for number in 0..self.plan.keys {
            // Whatever there was is there from the start; one client looks at some of it.
            if self.random(|rng| rng.below(self.plan.clients as u64)) == 0 {
                self.read(store, drive, number, 0, u64::MAX).await;
            }
        }
        for _ in 0..self.plan.operations {
            if self.wrong.borrow().is_some()
                || drive.is_removed() && self.random(|rng| rng.in_thousand(100))
            {
                return;
            }
            if self.random(|rng| rng.in_thousand(300)) {
                let pause = self.random(|rng| rng.between(1, 4 * self.plan.nanos_max));
                self.world.sleep(pause).await;
            }
            // Half of all operations go to a few of the keys.
            let number = self.random(|rng| {
                let among = rng.between(1, self.plan.keys as u64);
                rng.below(among) as usize
            });
            if self.oracle.borrow().under_way(number) > 3 {
                continue;
            }
            self.note(|report| report.operations += 1);
            if self.random(|rng| rng.in_thousand(self.plan.others)) {
                self.other(store, drive, number).await;
                continue;
            }
            let chance = self.random(|rng| rng.below(1000));
            let (puts, deletes) = (self.plan.puts, self.plan.deletes);
            let operation = async {
                match chance {
                    _ if chance < puts && chance.is_multiple_of(4) => {
                        self.put_reserved(store, drive, number).await;
                    }
                    _ if chance < puts => self.put(store, drive, number).await,
                    _ if chance < puts + deletes => self.delete(store, drive, number).await,
                    _ => {
                        let (offset, count) = self.random(|rng| match rng.below(3) {
                            0 => (0, u64::MAX),
                            _ => (rng.below(self.length_max), rng.between(1, self.length_max)),
                        });
                        self.read(store, drive, number, offset, count).await;
                    }
                }
            };
            match self.random(|rng| rng.in_thousand(self.plan.cancels)) {
                true => {
                    let after = self.random(|rng| rng.between(1, 3 * self.plan.nanos_max));
                    until(operation, self.world.sleep(after)).await;
                }
                false => operation.await,
            }
        }
    }

    pub(super) async fn put(&self, store: &Store, drive: &SimDrive, number: usize) {
        let value = self.random(|rng| self.blobs.next(number, self.length_max, rng));
        let bytes = self.blobs.bytes(value);
        let (key, kind) = self.blobs.key(number);
        let realm = self.blobs.realm(number).id;
        let id = self.begin(store, drive, number, Op::Put(value));
        let put = self
            .tallied(Operation::Put, store.log.put(realm, key, kind, &bytes))
            .await;
        self.sync(store, drive);
        let mut oracle = self.oracle.borrow_mut();
        let explained = match &put {
            Ok(Put::Created) => oracle.end(number, id, |did| did == Did::Create),
            Ok(Put::AlreadyThere) => oracle.end(number, id, |did| did == Did::FindThere),
            Err(error) => match self.is_uncertain(error, store, drive, number) {
                Ok(true) => {
                    oracle.doubt(number, id);
                    Ok(())
                }
                Ok(false) => oracle.refuse(number, id),
                Err(wrong) => Err(wrong),
            },
        };
        drop(oracle);
        let what = match kind {
            KeyKind::Name => "name",
            KeyKind::Content => "content",
        };
        self.check(explained, || format!("put of {what} {number}: {put:?}"));
    }

    /// A put in steps, whose window may be given up before it is committed.
    async fn put_reserved(&self, store: &Store, drive: &SimDrive, number: usize) {
        let value = self.random(|rng| self.blobs.next(number, self.length_max, rng));
        let mut bytes = self.blobs.bytes(value);
        let length = bytes.len() as u64;
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let realm = self.blobs.realm(number).id;
        let reserved = match self
            .tallied(Operation::Reserve, store.log.reserve(realm, length))
            .await
        {
            Ok(reserved) => reserved,
            Err(error) => {
                let explained = self.is_uncertain(&error, store, drive, number).map(|_| ());
                return self.check(explained, || format!("reserve for {number}: {error:?}"));
            }
        };
        let clock = self.world.clock();
        let has_passed = || clock.now() >= reserved.deadline;
        let is_gone =
            |error: &StoreError| matches!(error, StoreError::NotReserved { .. }) && has_passed();
        let mut block = 0;
        while block < bytes.len() / BLOCK_BYTES {
            let left = (bytes.len() / BLOCK_BYTES - block) as u64;
            let count = self.random(|rng| rng.between(1, left)) as usize;
            let part = &bytes[block * BLOCK_BYTES..(block + count) * BLOCK_BYTES];
            let at = Position(reserved.position.0 + block as u64);
            if let Err(error) = self
                .tallied(Operation::Write, store.log.write(realm, at, part.to_vec()))
                .await
                .1
            {
                let explained = match is_gone(&error) {
                    true => Ok(()),
                    false => self.is_uncertain(&error, store, drive, number).map(|_| ()),
                };
                return self.check(explained, || format!("write for {number}: {error:?}"));
            }
            block += count;
        }
        match self.random(|rng| rng.below(10)) {
            0 => {
                let given_up = store.log.abandon(realm, reserved.position);
                let passed =
                    given_up || has_passed() || drive.is_removed() || self.drive_may_fail();
                let wrong = passed.then_some(()).ok_or("it was not reserved".into());
                return self.check(wrong, || format!("abandon for {number}"));
            }
            1 => self.world.sleep(RESERVATION_TIME.as_nanos() as u64).await,
            _ => {}
        }
        let (key, kind) = self.blobs.key(number);
        let commit = Commit {
            key,
            kind,
            position: reserved.position,
            length,
            checksum: None,
        };
        let was_late = has_passed();
        let id = self.begin(store, drive, number, Op::Put(value));
        let put = self
            .tallied(Operation::Commit, store.log.commit(realm, &commit))
            .await;
        self.sync(store, drive);
        let mut oracle = self.oracle.borrow_mut();
        let explained = match &put {
            Ok(_) if was_late => Err("its deadline had passed".into()),
            Ok(Put::Created) => oracle.end(number, id, |did| did == Did::Create),
            Ok(Put::AlreadyThere) => oracle.end(number, id, |did| did == Did::FindThere),
            Err(error) if is_gone(error) => oracle.refuse(number, id),
            // Whoever is told to come back finds the window as it was.
            Err(StoreError::Drive(DriveError::NoMemory { .. }))
                if !store.log.abandon(realm, reserved.position) && !has_passed() =>
            {
                Err("its window has gone".into())
            }
            // What was written is read again, and need not be there.
            Err(StoreError::OtherContent { .. }) if !drive.harm().is_empty() => {
                oracle.refuse(number, id)
            }
            Err(error) => match self.is_uncertain(error, store, drive, number) {
                Ok(true) => {
                    oracle.doubt(number, id);
                    Ok(())
                }
                Ok(false) => oracle.refuse(number, id),
                Err(wrong) => Err(wrong),
            },
        };
        drop(oracle);
        self.check(explained, || format!("commit of {number}: {put:?}"));
    }

    pub(super) async fn delete(&self, store: &Store, drive: &SimDrive, number: usize) {
        let realm = self.blobs.realm(number).id;
        let id = self.begin(store, drive, number, Op::Delete);
        let deleted = self
            .tallied(
                Operation::Delete,
                store.log.delete(realm, self.blobs.key(number).0),
            )
            .await;
        self.sync(store, drive);
        let mut oracle = self.oracle.borrow_mut();
        let explained = match &deleted {
            Ok(was_there) => oracle.end(number, id, |did| did == Did::Delete(*was_there)),
            Err(error) => match self.is_uncertain(error, store, drive, number) {
                Ok(true) => {
                    oracle.doubt(number, id);
                    Ok(())
                }
                Ok(false) => oracle.refuse(number, id),
                Err(wrong) => Err(wrong),
            },
        };
        drop(oracle);
        self.check(explained, || format!("delete of {number}: {deleted:?}"));
    }

    pub(super) async fn read(
        &self,
        store: &Store,
        drive: &SimDrive,
        number: usize,
        offset: u64,
        count: u64,
    ) {
        let realm = self.blobs.realm(number).id;
        let key = self.blobs.key(number).0;
        let id = self.begin(store, drive, number, Op::Read);
        let read = self
            .tallied(Operation::Get, store.log.read(realm, &key, offset, count))
            .await;
        self.sync(store, drive);
        let mut oracle = self.oracle.borrow_mut();
        let explained = match &read {
            Ok(read) => oracle.end(number, id, |did| match did {
                Did::See(None) => read.is_none(),
                Did::See(Some(value)) => {
                    read.as_ref() == Some(&self.blobs.part(value, offset, count))
                }
                _ => false,
            }),
            Err(StoreError::Damaged { position, .. }) => {
                self.note(|report| report.damaged += 1);
                // Another look is on its way.
                self.quarantined.borrow_mut().insert(number);
                let slab_blocks = self.plan.shape.slab_blocks;
                let (slab, block) = (position.0 / slab_blocks, position.0 % slab_blocks);
                // A blob without a trailer has one checksum for all of its blocks, and the first one is named.
                match drive
                    .harm()
                    .within(ExtentName::Slab(slab), block, BLOCKS_OF_ONE_CHECKSUM)
                {
                    true => oracle.end(number, id, |did| matches!(did, Did::See(Some(_)))),
                    false => Err(format!("only this has suffered: {:?}", drive.harm())),
                }
            }
            Err(StoreError::Quarantined { .. }) if self.may_be_quarantined(number) => {
                oracle.end(number, id, |did| matches!(did, Did::See(Some(_))))
            }
            Err(error) => match self.is_uncertain(error, store, drive, number) {
                Ok(_) => oracle.refuse(number, id),
                Err(wrong) => Err(wrong),
            },
        };
        drop(oracle);
        let read = read.map(|read| read.map(|bytes| bytes.len()));
        self.check(explained, || {
            format!("read of {number} from {offset}: {read:?}")
        });
    }

    /// Whether an operation that failed may have had its effect; an error where it should not have failed.
    pub(super) fn is_uncertain(
        &self,
        error: &StoreError,
        store: &Store,
        drive: &SimDrive,
        number: usize,
    ) -> Result<bool, String> {
        let may_fail = self.drive_may_fail() || drive.is_removed();
        match error {
            StoreError::Full => {
                self.note(|report| report.full += 1);
                Ok(false)
            }
            StoreError::TooManyBlobs { blobs } if *blobs >= self.plan.shape.blobs_max => Ok(false),
            StoreError::OverQuota { quota, .. } | StoreError::CacheHeld { quota, .. } => {
                let realm = self.blobs.realm(number);
                let used = store.log.realm_stat(realm.id).map(|stat| stat.used_blocks);
                let is_full = used.is_some_and(|used| used + self.plan.shape.slab_blocks > *quota);
                match realm.quota_blocks == Some(*quota) && is_full {
                    true => Ok(false),
                    false => Err(format!("{used:?} blocks are used")),
                }
            }
            StoreError::Drive(DriveError::NoMemory { .. }) if self.memory_may_be_short() => {
                self.note(|report| report.short += 1);
                Ok(false)
            }
            // The drive is not to blame for that.
            StoreError::Stopped {
                reason: DriveError::NoMemory { .. },
            } => Err("nothing stops for want of memory".into()),
            StoreError::Drive(_) if may_fail => {
                self.note(|report| report.failed += 1);
                Ok(false)
            }
            StoreError::Stopped { .. } if may_fail => {
                self.note(|report| report.failed += 1);
                Ok(true)
            }
            _ => Err("there is no reason for this".into()),
        }
    }

    pub(super) fn check(&self, explained: Result<(), String>, what: impl FnOnce() -> String) {
        if let Err(wrong) = explained {
            self.wrong
                .borrow_mut()
                .get_or_insert_with(|| format!("{}: {wrong}", what()));
        }
    }
}

/// Runs the first to its end, or until the second ends.
async fn until(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|cx| {
        let ended = first.as_mut().poll(cx).is_ready() || second.as_mut().poll(cx).is_ready();
        match ended {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
