//! One simulation: a store used by several clients on a drive that has its bad days, for as many lives as the plan says.
//!
//! What is right is for the oracle to say. What may go wrong besides depends on what the drive did wrong:
//!
//! - Without a fault there is no error but "full" and "too many blobs", whatever crashes.
//! - A call that failed may fail its operation, and stop the store if it was the journal's; the oracle then keeps both ways.
//! - Where the drive has changed, lost or misplaced something, an error names a blob and a block that has suffered, or an
//!   extent. A store whose bookkeeping has suffered may refuse to open.
//! - **What the format cannot detect**: the newest frame of the journal is what nothing after it vouches for. Where it has
//!   suffered on a drive that said that it was durable, the store opens without it, as it would if it had never been
//!   written to its end. The operations in it are lost without a word; wrong bytes are not given out for that.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use oriel_dht::region::History;
use oriel_engine::clock::Clock;
use oriel_engine::store::{DriveError, ExtentName, Key, OpenError, Operation, RealmId, StoreError};

use super::api::{Lease, Store};
use super::drive::SimDrive;
use super::faults::{Faults, Temper};
use super::image::Image;
use super::oracle::Oracle;
use super::plan::{Blobs, Plan};
use super::run::{Task, run_in, run_one, run_one_in};
use super::world::{Rng, World};

/// What a simulation has come across.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Report {
    pub(crate) operations: u64,
    pub(crate) crashes: u64,
    pub(crate) images: u64,
    pub(crate) full: u64,
    pub(crate) failed: u64,
    /// Operations that were refused for want of memory.
    pub(crate) short: u64,
    pub(crate) damaged: u64,
    pub(crate) unopenable: u64,
    /// The newest frame had suffered, and nobody can know.
    pub(crate) undetectable: u64,
    pub(crate) removed: u64,
    pub(crate) evicted: u64,
    pub(crate) pins: u64,
    pub(crate) lists: u64,
    /// Indexes taken over from the life before.
    pub(crate) adopted: u64,
    /// Blocks moved before anybody waited for room.
    pub(crate) early: u64,
    /// Rounds of scrubbing, blobs that they read, and damage that they found.
    pub(crate) rounds: u64,
    pub(crate) scrubbed_itself: u64,
    pub(crate) found_itself: u64,
    pub(crate) calls: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.crashes += other.crashes;
        self.images += other.images;
        self.full += other.full;
        self.failed += other.failed;
        self.short += other.short;
        self.damaged += other.damaged;
        self.unopenable += other.unopenable;
        self.undetectable += other.undetectable;
        self.removed += other.removed;
        self.evicted += other.evicted;
        self.pins += other.pins;
        self.lists += other.lists;
        self.adopted += other.adopted;
        self.early += other.early;
        self.rounds += other.rounds;
        self.scrubbed_itself += other.scrubbed_itself;
        self.found_itself += other.found_itself;
        self.calls += other.calls;
    }
}

pub(crate) struct Simulation {
    pub(super) plan: Plan,
    pub(super) world: World,
    pub(super) oracle: RefCell<Oracle>,
    pub(super) blobs: Blobs,
    pub(super) length_max: u64,
    pub(super) report: RefCell<Report>,
    /// The first thing that was wrong.
    pub(super) wrong: RefCell<Option<String>>,
    pub(super) closing: Cell<bool>,
    /// Blobs that the store says it has evicted in this life.
    pub(super) evicted: Cell<u64>,
    /// Operations that were asked of the store in this life, and those of them that it has answered.
    pub(super) tallies: RefCell<BTreeMap<Operation, (u64, u64)>>,
    /// Keys whose blobs were found damaged in this life.
    pub(super) quarantined: RefCell<BTreeSet<usize>>,
    /// The index's memory and what is said of its last use, where it outlasts a life.
    index: RefCell<Option<(Lease, History)>>,
}

/// How a life ended.
enum End {
    Closed,
    Crashed,
    /// The drive failed where the store cannot do without it.
    Stopped,
    /// Nothing more is to be had of this drive.
    Over,
}

impl Simulation {
    pub(crate) fn run(plan: Plan) -> Result<Report, String> {
        let world = World::new(plan.seed ^ 0x0e1e_1000);
        let drive = SimDrive::new(Image::default(), plan.shape.drive_blocks);
        run_one(plan.shape.format(&drive))
            .ok_or("formatting does not end")?
            .map_err(|error| error.to_string())?;
        let (probe, _) = run_one(plan.shape.open(drive.clone()))
            .ok_or("opening does not end")?
            .map_err(|error| error.to_string())?;
        let length_max = probe.length_max();
        drop(probe);
        let blobs = world.random(|rng| Blobs::new(&plan, length_max, rng));
        let simulation = Self {
            oracle: RefCell::new(Oracle::new(plan.keys)),
            plan,
            world,
            blobs,
            length_max,
            report: RefCell::default(),
            wrong: RefCell::new(None),
            closing: Cell::new(false),
            evicted: Cell::new(0),
            tallies: RefCell::default(),
            quarantined: RefCell::default(),
            index: RefCell::new(None),
        };
        simulation.lives(drive)?;
        Ok(simulation.report.into_inner())
    }

    pub(super) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        self.world.random(choose)
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.borrow_mut());
    }

    fn temper(&self, faults: Faults) -> Rc<Temper> {
        Rc::new(Temper {
            world: self.world.clone(),
            faults,
            nanos_max: self.plan.nanos_max,
            slow: self.plan.slow,
            short_until: Cell::new(0),
        })
    }

    fn lives(&self, mut drive: SimDrive) -> Result<(), String> {
        for life in 0..self.plan.lives {
            drive = self
                .random(|rng| drive.after_kill(rng))
                .with_temper(self.temper(self.plan.faults));
            if self.random(|rng| rng.in_thousand(self.plan.crashes)) {
                drive.crash_at(self.random(|rng| rng.between(1, 400)));
            } else if self.plan.removal == Some(life) {
                drive.remove_at(self.random(|rng| rng.between(1, 200)));
            }
            if let Some((_, call)) = self.plan.wears_out.filter(|(of, _)| *of == life) {
                drive.wear_out_at(call);
            }
            let end = self
                .live(&drive)
                .map_err(|wrong| format!("life {life}: {wrong}"))?;
            self.world.clear();
            self.note(|report| report.calls += drive.ended_calls());
            let is_crash = match end {
                End::Over => return Ok(()),
                End::Crashed | End::Stopped => self.random(|rng| rng.in_thousand(700)),
                End::Closed => self.random(|rng| rng.in_thousand(500)),
            };
            self.note(|report| report.crashes += u64::from(is_crash));
            if is_crash && !self.plan.faults.corrupt() {
                for _ in 0..3 {
                    let after = self.random(|rng| drive.after_crash(rng));
                    self.look(after)
                        .map_err(|wrong| format!("after life {life}: {wrong}"))?;
                }
            }
            drive = self.random(|rng| match is_crash {
                true => drive.after_crash(rng),
                false => drive.after_kill(rng),
            });
            self.oracle.borrow_mut().crash();
        }
        self.last_life(drive)
            .map_err(|wrong| format!("in the last life: {wrong}"))
    }

    /// What may be left by a crash has to hold what it may hold.
    fn look(&self, drive: SimDrive) -> Result<(), String> {
        self.note(|report| report.images += 1);
        let realms = &self.plan.realms;
        let open =
            self.plan
                .shape
                .open_with(drive, Clock::manual(), realms, self.plan.background, None);
        let (store, _) = run_one(open)
            .ok_or("opening does not end")?
            .map_err(|error| error.to_string())?;
        let mut there = 0;
        for number in 0..self.plan.keys {
            let key = self.blobs.key(number).0;
            let realm = self.blobs.realm(number).id;
            let read = store.log.read(realm, &key, 0, u64::MAX);
            let read = run_one(read).ok_or("reading does not end")?;
            let read = read.map_err(|error| error.to_string())?;
            there += u64::from(read.is_some());
            let allowed = self.oracle.borrow().after_crash(number);
            let bytes = |value| self.blobs.bytes(value);
            if !allowed.iter().any(|allowed| allowed.map(bytes) == read) {
                let length = read.map(|read| read.len());
                return Err(format!(
                    "key {number}: {length:?} bytes, and not {allowed:?}"
                ));
            }
        }
        for realm in self.plan.realms.iter().map(|realm| realm.id) {
            self.look_at_realm(&store, realm)?;
        }
        self.audit_blocks(&store)?;
        match store.stat().blobs {
            blobs if blobs == there => Ok(()),
            blobs => Err(format!("{blobs} blobs, and {there} of them are known")),
        }
    }

    fn look_at_realm(&self, store: &Store, realm: RealmId) -> Result<(), String> {
        let most = self.random(|rng| rng.between(1, 8)) as usize;
        let listed = run_one(store.list_of(realm, most)).ok_or("listing does not end")?;
        let mut listed = listed.map_err(|error| error.to_string())?;
        listed.sort_unstable();
        let its = |number: &usize| self.blobs.realm(*number).id == realm;
        let keys = (0..self.plan.keys).filter(its);
        let keys: Vec<Key> = keys.map(|number| self.blobs.key(number).0).collect();
        let is_there = |key: &Key| store.log.locate(realm, key).is_some();
        let mut known = keys.clone();
        known.retain(is_there);
        known.sort_unstable();
        if listed != known {
            return Err(format!("{listed:?} are listed, and {known:?} are there"));
        }
        for (place, key) in keys.iter().enumerate() {
            let bit = store.log.probe(realm, &keys) >> place & 1 == 1;
            if bit != is_there(key) {
                return Err(format!("a probe says {bit} of {key}"));
            }
        }
        Ok(())
    }

    /// Opens the store; `None` where the drive explains why not.
    fn open(&self, drive: &SimDrive) -> Result<Result<Store, End>, String> {
        let (shape, realms) = (&self.plan.shape, &self.plan.realms);
        let index = self.index.take();
        let fresh = || (Lease::new(shape.blobs_max), History::Fresh);
        let index = index.or_else(|| self.plan.keeps_index.then(fresh));
        let (clock, background) = (self.world.clock(), self.plan.background);
        let open = shape.open_with(drive.clone(), clock, realms, background, index);
        self.evicted.set(0);
        self.tallies.borrow_mut().clear();
        self.quarantined.borrow_mut().clear();
        let undetectable = drive.end_of_journal_is_harmed();
        let Some(opened) = run_one_in(Some(&self.world), open) else {
            return match drive.has_crashed() {
                true => Ok(Err(End::Crashed)),
                false => Err("opening does not end".into()),
            };
        };
        if undetectable {
            self.note(|report| report.undetectable += 1);
            self.forget_what_is_there();
        }
        match opened {
            Ok((store, recovery)) => {
                self.note(|report| report.adopted += u64::from(recovery.is_adopted));
                Ok(Ok(store))
            }
            Err(error) if drive.is_removed() && matches!(error, OpenError::Drive(_)) => {
                self.note(|report| report.removed += 1);
                Ok(Err(End::Over))
            }
            Err(OpenError::Drive(DriveError::NoMemory { .. })) if self.memory_may_be_short() => {
                Ok(Err(End::Stopped))
            }
            Err(OpenError::Drive(_)) if self.drive_may_fail() => Ok(Err(End::Stopped)),
            Err(error) => {
                let named = match &error {
                    OpenError::Damaged { extent, .. } | OpenError::Missing { extent, .. } => {
                        *extent
                    }
                    _ => return Err(format!("opening: {error}")),
                };
                let harm = drive.harm();
                // What is lost in one place may be missed in another.
                let faults = &self.plan.faults;
                let explained = match faults.lost + faults.misdirected {
                    0 => harm.within(named, 0, 1 << 32),
                    _ => harm.of_bookkeeping() || harm.within(named, 0, 1 << 32),
                };
                if !explained {
                    return Err(format!("opening: {error}"));
                }
                self.note(|report| report.unopenable += 1);
                Ok(Err(End::Over))
            }
        }
    }

    pub(super) fn drive_may_fail(&self) -> bool {
        let faults = &self.plan.faults;
        let rates = faults.read_errors + faults.write_errors + faults.flush_errors;
        rates + faults.no_room > 0 || self.plan.wears_out.is_some()
    }

    pub(super) fn memory_may_be_short(&self) -> bool {
        self.plan.faults.no_memory > 0
    }

    /// What is there is not known any more, apart from what can be.
    fn forget_what_is_there(&self) {
        for number in 0..self.plan.keys {
            let ever = self.blobs.of_key(number).into_iter().map(Some);
            let ever = ever.chain([None]).collect();
            self.oracle.borrow_mut().settle(number, ever);
        }
    }

    fn live(&self, drive: &SimDrive) -> Result<End, String> {
        let store = match self.open(drive)? {
            Ok(store) => store,
            Err(end) => return Ok(end),
        };
        self.closing.set(false);
        let left = Cell::new(self.plan.clients);
        let ran = RefCell::new(None);
        let mut tasks: Vec<Task<'_>> = vec![Box::pin(async {
            let result = store.run().await;
            *ran.borrow_mut() = Some(result);
        })];
        for _ in 0..self.plan.clients {
            tasks.push(Box::pin(async {
                self.client(&store, drive).await;
                left.set(left.get() - 1);
                if left.get() == 0 {
                    self.closing.set(true);
                    store.close();
                }
            }));
        }
        let ended = run_in(Some(&self.world), &mut tasks);
        drop(tasks);
        self.sync(&store, drive);
        self.audit(&store)?;
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let ran = ran.into_inner();
        if matches!(ran, Some(Ok(()))) && !drive.has_crashed() {
            self.count(&store, drive)?;
            self.quotas(&store)?;
        }
        self.end_index(store, matches!(ran, Some(Ok(()))))?;
        if drive.has_crashed() {
            return Ok(End::Crashed);
        }
        if ended.contains(&false) {
            return Err(format!(
                "something hangs: which of the tasks have ended: {ended:?}"
            ));
        }
        match ran {
            Some(Ok(())) => Ok(End::Closed),
            Some(Err(
                error @ StoreError::Stopped {
                    reason: DriveError::NoMemory { .. },
                },
            )) => Err(format!("the store stopped for want of memory: {error}")),
            Some(Err(StoreError::Stopped { .. })) if drive.is_removed() => {
                self.note(|report| report.removed += 1);
                Ok(End::Over)
            }
            Some(Err(StoreError::Stopped { .. })) if self.drive_may_fail() => Ok(End::Stopped),
            // Compaction and directories read what was written.
            Some(Err(error)) => Err(format!("the store stopped: {error}")),
            None => Err("the journal's writer has not ended".into()),
        }
    }

    /// Leaves the index for the next life, or as the crash left it, of which whoever keeps the memory may know or not.
    fn end_index(&self, store: Store, is_closed: bool) -> Result<(), String> {
        if !self.plan.keeps_index {
            return Ok(());
        }
        let knows = self.random(|rng| rng.in_thousand(500));
        let index = match is_closed {
            true => (store.keep_index()?, History::Clean),
            false if knows => (store.into_lease(), History::Unclean),
            false => (store.into_lease(), History::Clean),
        };
        self.index.replace(Some(index));
        Ok(())
    }

    /// The drive holds the extents of a store that is closed, and no others.
    fn count(&self, store: &Store, drive: &SimDrive) -> Result<(), String> {
        let extents: Vec<ExtentName> = drive.image().extents().map(|(name, _)| name).collect();
        let of = |is: fn(&ExtentName) -> bool| extents.iter().filter(|name| is(name)).count();
        let checkpoints = of(|name| matches!(name, ExtentName::Checkpoint(_)));
        let slabs = of(|name| matches!(name, ExtentName::Slab(_))) as u64;
        let known = store.stat().slabs;
        match (checkpoints, slabs) {
            (1, slabs) if slabs == known => Ok(()),
            _ => Err(format!(
                "{known} slabs and a checkpoint are known, and there are {extents:?}"
            )),
        }
    }

    /// On a drive that does nothing wrong any more, everything is as it should be, and all space comes back.
    fn last_life(&self, drive: SimDrive) -> Result<(), String> {
        let drive = self
            .random(|rng| drive.after_kill(rng))
            .with_temper(self.temper(Faults::default()));
        let store = match self.open(&drive)? {
            Ok(store) => store,
            Err(End::Over) => return Ok(()),
            Err(_) => return Err("opening fails on a drive that works".into()),
        };
        let ran = RefCell::new(None);
        let mut tasks: Vec<Task<'_>> = vec![
            Box::pin(async { *ran.borrow_mut() = Some(store.run().await) }),
            Box::pin(async {
                self.empty(&store, &drive).await;
                store.close();
            }),
        ];
        let ended = run_in(Some(&self.world), &mut tasks);
        drop(tasks);
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        if ended.contains(&false) {
            return Err(format!("something hangs: {ended:?}"));
        }
        match ran.into_inner() {
            Some(Ok(())) => {}
            other => return Err(format!("the journal's writer ended with {other:?}")),
        }
        self.count(&store, &drive)?;
        self.oracle.borrow_mut().crash();
        match self.plan.faults.corrupt() {
            true => Ok(()),
            false => self.look(self.random(|rng| drive.after_crash(rng))),
        }
    }

    async fn empty(&self, store: &Store, drive: &SimDrive) {
        for number in 0..self.plan.keys {
            self.read(store, drive, number, 0, u64::MAX).await;
        }
        let counts = (0..self.plan.keys).map(|number| {
            let there = self.oracle.borrow().now(number);
            (there.len() == 1).then(|| u64::from(!there.contains(&None)))
        });
        let certain: Option<u64> = counts.sum();
        let blobs = store.stat().blobs;
        if certain.is_some_and(|there| there != blobs) {
            self.check(Err(format!("{blobs} blobs, not {certain:?}")), || {
                "count".into()
            });
        }
        for number in 0..self.plan.keys {
            self.delete(store, drive, number).await;
        }
        let stat = store.stat();
        if (stat.blobs, stat.live_blocks) != (0, 0) {
            self.check(Err(format!("{stat:?}")), || "an empty store".into());
        }
        let before = self.report.borrow().full;
        let mut created = 0;
        for number in 0..self.plan.keys.min(2) {
            self.put(store, drive, number).await;
            let (key, realm) = (self.blobs.key(number).0, self.blobs.realm(number).id);
            created += u64::from(store.log.locate(realm, &key).is_some());
        }
        let is_full = self.report.borrow().full > before;
        if is_full || created == 0 {
            let used = drive.image().used_blocks();
            self.check(
                Err(format!(
                    "{created} of 2 blobs fit into an empty store, {used} blocks used"
                )),
                || "after all was deleted".into(),
            );
        }
    }
}
