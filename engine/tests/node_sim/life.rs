//! A node with several drives, from start to crash.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use oriel_dht::region::Section;
use oriel_engine::store::{
    Keeper, Key, NodeOpenError, NodeOptions, NodeStore, OpenOptions, Position, RealmId,
    RealmOptions, Seat, StoreId, format_node, index_in_memory, open_node,
};

use super::client::Store;
use super::oracle::{Known, Op, Value};
use super::plan::Plan;
use crate::store_sim::calls::Power;
use crate::store_sim::drive::SimDrive;
use crate::store_sim::faults::{Faults, Temper};
use crate::store_sim::image::Image;
use crate::store_sim::run::{Task, run_in, run_one, run_one_in};
use crate::store_sim::world::{Rng, World};

pub(crate) const REALM: RealmId = RealmId(7);
pub(super) const STORE: StoreId = StoreId([0x5e; 16]);
pub(super) const BLOBS_MAX: u64 = 1000;

thread_local! {
    /// Memory for indexes: making it anew for each would take longer than all else.
    pub(super) static INDEXES: RefCell<Vec<Section>> = const { RefCell::new(Vec::new()) };
}

/// What simulations have come across.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Report {
    pub(crate) operations: u64,
    pub(crate) calls: u64,
    pub(crate) crashes: u64,
    pub(crate) pulled: u64,
    pub(crate) missing: u64,
    pub(crate) added: u64,
    pub(crate) drained: u64,
    pub(crate) forgotten: u64,
    pub(crate) lost: u64,
    pub(crate) read_only: u64,
    pub(crate) full: u64,
    /// Stores whose drives had no room for all that they were to take from others.
    pub(crate) unsettled: u64,
    pub(crate) moved: u64,
    pub(crate) emptied: u64,
    /// Large blobs in the end, and their parts.
    pub(crate) large: u64,
    pub(crate) parts: u64,
    /// Parts of no blob that crashes left.
    pub(crate) orphans: u64,
    /// Puts of large blobs that were given up.
    pub(crate) abandoned: u64,
    /// Ranges that were read and compared.
    pub(crate) ranges: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.calls += other.calls;
        self.crashes += other.crashes;
        self.pulled += other.pulled;
        self.missing += other.missing;
        self.added += other.added;
        self.drained += other.drained;
        self.forgotten += other.forgotten;
        self.lost += other.lost;
        self.read_only += other.read_only;
        self.full += other.full;
        self.unsettled += other.unsettled;
        self.moved += other.moved;
        self.emptied += other.emptied;
        self.large += other.large;
        self.parts += other.parts;
        self.orphans += other.orphans;
        self.abandoned += other.abandoned;
        self.ranges += other.ranges;
    }
}

pub(crate) struct Simulation {
    pub(super) plan: Plan,
    pub(super) world: World,
    pub(super) drives: RefCell<Vec<SimDrive>>,
    /// Drives that the store has, as far as is known.
    pub(super) in_use: RefCell<BTreeSet<usize>>,
    pub(super) forgotten: RefCell<BTreeSet<usize>>,
    /// A drive is missing, or has its bad days.
    pub(super) is_short: Cell<bool>,
    /// A drive was forgotten in this life, at a time that is not known.
    pub(super) is_unsure: Cell<bool>,
    pub(super) known: RefCell<Vec<Known>>,
    pub(super) values: RefCell<Vec<(usize, Value)>>,
    pub(super) positions: RefCell<BTreeMap<Position, (usize, u64)>>,
    pub(super) report: RefCell<Report>,
    pub(super) wrong: RefCell<Option<String>>,
    /// Keys whose places are those of all drives together.
    pub(super) samples: Vec<Key>,
    seats: RefCell<Vec<(Seat<SimDrive>, Section)>>,
}

impl Simulation {
    pub(crate) fn run(plan: Plan) -> Result<Report, String> {
        let blank = |blocks: &u64| SimDrive::new(Image::default(), *blocks);
        let simulation = Self {
            world: World::new(plan.seed ^ 0x0e1e_2000),
            drives: RefCell::new(plan.drive_blocks.iter().map(blank).collect()),
            in_use: RefCell::new((0..plan.drives).collect()),
            forgotten: RefCell::default(),
            is_short: Cell::new(false),
            is_unsure: Cell::new(false),
            known: RefCell::new(vec![Known::nothing(); plan.keys()]),
            values: RefCell::default(),
            positions: RefCell::default(),
            report: RefCell::default(),
            wrong: RefCell::new(None),
            samples: (0..256u64)
                .map(|number| Key::of_content(&(number | 1 << 40).to_le_bytes()))
                .collect(),
            seats: RefCell::default(),
            plan,
        };
        let lived = simulation.lives();
        simulation.release();
        lived?;
        Ok(simulation.report.into_inner())
    }

    pub(super) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        self.world.random(choose)
    }

    pub(super) fn name(drive: usize) -> String {
        format!("d{drive}")
    }

    pub(super) fn any_drive_fails(&self) -> bool {
        let drives = self.drives.borrow();
        let fails = |drive: &SimDrive| drive.is_removed() || drive.is_worn_out();
        self.is_short.get() || drives.iter().any(fails)
    }

    pub(super) fn any_drive_is_pulled(&self) -> bool {
        self.drives.borrow().iter().any(SimDrive::is_removed)
    }

    pub(super) fn seat(&self, drive: usize) -> Seat<SimDrive> {
        let idle = INDEXES.with_borrow_mut(Vec::pop);
        let index = idle.unwrap_or_else(|| index_in_memory(BLOBS_MAX).unwrap());
        let loaded = self.drives.borrow()[drive].clone();
        let seat = Seat::new(loaded, index.clone(), &Self::name(drive));
        self.seats.borrow_mut().push((seat.clone(), index));
        seat
    }

    fn release(&self) {
        for (seat, index) in self.seats.take() {
            seat.release();
            INDEXES.with_borrow_mut(|idle| idle.push(index.used_before()));
        }
    }

    pub(super) fn realm(&self) -> RealmOptions {
        RealmOptions {
            cache: self.plan.cache,
            ..RealmOptions::new(REALM)
        }
    }

    fn options(&self, power: &Rc<Power>) -> NodeOptions {
        let (world, power) = (self.world.clone(), power.clone());
        let sleep = move |time: Duration| {
            let (world, power) = (world.clone(), power.clone());
            let nanos = time.as_nanos() as u64;
            Box::pin(async move {
                world.sleep(nanos).await;
                if power.is_gone() {
                    // Nobody is there any more to wake up.
                    std::future::pending::<()>().await;
                }
            }) as Pin<Box<dyn Future<Output = ()>>>
        };
        NodeOptions {
            drive: OpenOptions {
                store: Some(STORE),
                blobs_max: BLOBS_MAX,
                realms: vec![self.realm()],
                clock: self.world.clock(),
                background: self.plan.background,
                ..OpenOptions::default()
            },
            gone: Vec::new(),
            move_bytes_per_second: self.plan.move_bytes_per_second,
            quiet_blocks: 0,
            sleep: Rc::new(sleep),
        }
    }

    fn lives(&self) -> Result<(), String> {
        let seats: Vec<_> = (0..self.plan.drives)
            .map(|drive| self.seat(drive))
            .collect();
        let formatted = run_one(format_node(&seats, STORE, &self.plan.format));
        formatted
            .ok_or("formatting does not end")?
            .map_err(|error| error.to_string())?;
        for life in 0..self.plan.lives {
            self.live(Some(life))
                .map_err(|wrong| format!("life {life}: {wrong}"))?;
        }
        // Twice, since the first may end when a drive has just been emptied.
        self.live(None)
            .map_err(|wrong| format!("last life: {wrong}"))
    }

    /// The drives as the last life left them, for another one.
    fn power_up(&self, life: Option<u64>) -> Rc<Power> {
        let is_last = life.is_none();
        let power = Rc::<Power>::default();
        let is_crash = self.random(|rng| rng.in_thousand(500));
        self.report.borrow_mut().crashes += u64::from(is_crash);
        let mut drives = self.drives.borrow_mut();
        for (number, drive) in drives.iter_mut().enumerate() {
            let has_faults = !is_last && number == self.plan.faulty;
            let faults = match has_faults {
                true => self.plan.faults,
                false => Faults::default(),
            };
            self.report.borrow_mut().calls += drive.ended_calls();
            let next = self.random(|rng| match is_crash {
                true => drive.after_crash(rng),
                false => drive.after_kill(rng),
            });
            *drive = next.with_power(&power).with_temper(Rc::new(Temper {
                world: self.world.clone(),
                faults,
                nanos_max: self.plan.nanos_max,
                slow: self.plan.slow,
                short_until: Cell::new(0),
            }));
            let wears_out = self.plan.wears_out;
            if let Some((_, _, call)) =
                wears_out.filter(|(of, at, _)| (Some(*of), *at) == (life, number))
            {
                drive.wear_out_at(call);
            }
        }
        if !is_last && self.random(|rng| rng.in_thousand(self.plan.crashes)) {
            power
                .goes_at
                .set(Some(self.random(|rng| rng.between(1, 1200))));
        }
        let faults = &self.plan.faults;
        let has_faults = faults.write_errors + faults.flush_errors > 0;
        self.is_short.set(!is_last && has_faults);
        self.is_unsure.set(false);
        power
    }

    fn live(&self, life: Option<u64>) -> Result<(), String> {
        let is_last = life.is_none();
        self.world.clear();
        self.release();
        let power = self.power_up(life);
        let goes_at = power.goes_at.take();
        self.look_at_drives()?;
        power.calls.set(0);
        power.goes_at.set(goes_at);
        let mut given = self.in_use.borrow().clone();
        given.retain(|drive| !self.forgotten.borrow().contains(drive));
        if !is_last && given.len() > 1 && self.random(|rng| rng.in_thousand(self.plan.missing)) {
            let all: Vec<usize> = given.iter().copied().collect();
            given.remove(&self.random(|rng| rng.one_of(&all)));
            self.is_short.set(true);
            self.report.borrow_mut().missing += 1;
        }
        let (store, keeper) = loop {
            let seats = given.iter().map(|drive| self.seat(*drive)).collect();
            let Some(opened) =
                run_one_in(Some(&self.world), open_node(seats, self.options(&power)))
            else {
                return match power.is_gone() {
                    true => Ok(()),
                    false => Err("opening does not end".into()),
                };
            };
            match opened {
                Ok((store, keeper, recovery)) => {
                    for blank in recovery.blank {
                        given.retain(|drive| *Self::name(*drive) != *blank.name);
                    }
                    break (store, keeper);
                }
                // It was about to be added, or was forgotten, when the power went.
                Err(NodeOpenError::Unknown { drive } | NodeOpenError::Forgotten { drive }) => {
                    given.retain(|given| *Self::name(*given) != *drive.name);
                }
                Err(_) if self.any_drive_fails() => return Ok(()),
                Err(error) => return Err(format!("opening: {error}")),
            }
        };
        *self.in_use.borrow_mut() = match self.is_short.get() {
            // One that was missing is a drive of the store all the same.
            true => &given | &*self.in_use.borrow(),
            false => given,
        };
        match is_last {
            false => self.use_it(store, keeper, &power),
            true => self.last(store, keeper),
        }
    }

    fn use_it(&self, store: Store, keeper: Keeper<SimDrive>, power: &Power) -> Result<(), String> {
        let left = Cell::new(self.plan.clients + 1);
        let moved = Cell::new(0);
        let done = || {
            left.set(left.get() - 1);
            if left.get() == 0 {
                store.close();
            }
        };
        let mut tasks: Vec<Task<'_>> = vec![Box::pin(keeper.run())];
        for client in 0..self.plan.clients {
            let (own, done) = (store.clone(), &done);
            tasks.push(Box::pin(async move {
                self.client(&own, client).await;
                done();
            }));
        }
        tasks.push(Box::pin(async {
            self.events(&store).await;
            moved.set(store.stat().await.moved_blobs);
            done();
        }));
        let ended = run_in(Some(&self.world), &mut tasks);
        // What was under way is looked at while the store is still there.
        drop(tasks);
        self.report.borrow_mut().moved += moved.get();
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        match ended.contains(&false) && !power.is_gone() {
            true => Err(format!("something hangs: {ended:?}")),
            false => Ok(()),
        }
    }

    /// With all drives, and none that fails, everything comes to be where it belongs, and is what it has to be.
    fn last(&self, store: Store, keeper: Keeper<SimDrive>) -> Result<(), String> {
        let mut tasks: Vec<Task<'_>> = vec![
            Box::pin(keeper.run()),
            Box::pin(async {
                if let Err(wrong) = self.last_words(&store).await {
                    self.is_wrong(wrong);
                }
                store.close();
            }),
        ];
        let ended = run_in(Some(&self.world), &mut tasks);
        drop(tasks);
        match (self.wrong.take(), ended.contains(&false)) {
            (Some(wrong), _) => Err(wrong),
            (None, true) => Err(format!("something hangs: {ended:?}")),
            (None, false) => Ok(()),
        }
    }

    async fn last_words(&self, store: &NodeStore<SimDrive>) -> Result<(), String> {
        for number in 0..self.plan.keys() {
            self.at_once(store, number, &[Op::Read]).await;
        }
        let stat = store.stat().await;
        if stat.drives.iter().any(|drive| drive.loss.is_some()) {
            return self.without_some(&stat);
        }
        let mut rounds = 0;
        loop {
            let stat = store.stat().await;
            if !stat
                .drives
                .iter()
                .any(|drive| drive.is_filling || drive.is_draining)
            {
                self.report.borrow_mut().moved += stat.moved_blobs;
                break;
            }
            if stat.drives.iter().all(|drive| drive.is_draining) {
                // The others were forgotten: there is nowhere to go.
                return Ok(());
            }
            rounds += 1;
            if rounds > 60 {
                if self.is_a_drive_full(store).await {
                    // What belongs there now stays where it is.
                    self.report.borrow_mut().unsettled += 1;
                    break;
                }
                return Err(format!("it does not settle: {stat:?}"));
            }
            self.world.sleep(1_000_000_000).await;
        }
        let mut there = BTreeSet::new();
        for number in 0..self.plan.keys() {
            self.at_once(store, number, &[Op::Read]).await;
            let key = self.plan.key(number).0;
            let known = self.known.borrow()[number].clone();
            let is_there = match self.plan.cache.is_some() || known.is_fragile {
                false => known.now.iter().any(Option::is_some),
                // Nothing goes any more.
                true => {
                    let read = store.read(REALM, &key, 0, 1).await;
                    read.map_err(|error| error.to_string())?.is_some()
                }
            };
            if is_there {
                there.insert(key);
            }
        }
        let mut parts = 0;
        for key in &there {
            let manifest = store.manifest(REALM, key).await;
            if let Some(manifest) = manifest.map_err(|error| error.to_string())? {
                self.report.borrow_mut().large += 1;
                parts += u64::from(manifest.parts());
            }
        }
        self.report.borrow_mut().parts += parts;
        let mut rounds = 0;
        loop {
            let stat = store.stat().await;
            if stat.blobs == there.len() as u64 + parts {
                break;
            }
            // What crashes have left of large blobs is swept up at leisure.
            rounds += 1;
            if self.plan.large == 0 || rounds > 20 {
                return Err(format!(
                    "{} blobs, and {} keys have one, with {parts} parts: {stat:?}",
                    stat.blobs,
                    there.len()
                ));
            }
            self.world.sleep(1_000_000_000).await;
        }
        let most = self.random(|rng| rng.between(1, 5)) as usize;
        let mut listed = BTreeSet::new();
        let mut from = Some(Position(0));
        while let Some(at) = from {
            let page = store
                .list(REALM, at, most)
                .await
                .map_err(|error| error.to_string())?;
            listed.extend(page.blobs.iter().map(|blob| blob.key));
            from = page.next;
        }
        if listed != there {
            return Err(format!("{listed:?} are listed, and {there:?} are there"));
        }
        let keys: Vec<_> = (0..self.plan.keys())
            .map(|number| self.plan.key(number).0)
            .collect();
        let probed = store
            .probe(REALM, &keys)
            .await
            .map_err(|error| error.to_string())?;
        for (number, key) in keys.iter().enumerate() {
            if (probed >> number & 1 == 1) != there.contains(key) {
                return Err(format!("a probe is wrong about key {number}"));
            }
        }
        for number in 0..self.plan.keys() {
            self.at_once(store, number, &[Op::Delete]).await;
        }
        match store.stat().await.blobs {
            0 => Ok(()),
            blobs => Err(format!("{blobs} blobs are left when all keys are deleted")),
        }
    }

    /// A drive that was drained, added or forgotten when the power went may be missing in the end as well.
    fn without_some(&self, stat: &oriel_engine::store::NodeStat) -> Result<(), String> {
        let is_named = |name: &str| {
            self.forgotten
                .borrow()
                .iter()
                .any(|drive| *Self::name(*drive) == *name)
                || !self
                    .in_use
                    .borrow()
                    .iter()
                    .any(|drive| *Self::name(*drive) == *name)
        };
        let lost = stat.drives.iter().filter(|drive| drive.loss.is_some());
        match lost
            .clone()
            .all(|drive| drive.is_filling || is_named(&drive.drive.name))
        {
            true => Ok(()),
            false => Err(format!("drives are lost for no reason: {stat:?}")),
        }
    }
}
