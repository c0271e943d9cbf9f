//! What the log knows, and how an entry of its journal changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use oriel_dht::index::Fingerprint;

use super::answer::Answer;
use super::checkpoint::Header;
use super::error::StoreError;
use super::eviction::{Eviction, Policy};
use super::frame::Entry;
use super::identity::{Identities, Identity};
use super::keys::Keys;
use super::options::{LogStat, RealmOptions};
use super::pins::Pins;
use super::prints::{PrintMap, PrintSet};
use super::record::{Record, window_blocks};
use super::reserve::Reservation;
use super::shown::Shown;
use super::slab::Slab;
use super::types::{Key, Location, Position, RealmId};

/// An entry on its way into the journal.
pub(super) struct Queued {
    pub(super) entry: Entry,
    pub(super) answer: Option<Answer<Result<(), StoreError>>>,
    /// The window that was taken for it, and its blocks.
    pub(super) window: Option<(Position, u64)>,
    /// The key that it is about; slabs have none.
    pub(super) blob: Option<Fingerprint>,
}

impl Queued {
    pub(super) fn silent(entry: Entry) -> Self {
        Self {
            entry,
            answer: None,
            window: None,
            blob: None,
        }
    }
}

/// The slab that a realm's windows are taken from.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub(super) number: u64,
    pub(super) next_block: u64,
    /// Windows taken from it.
    pub(super) windows: u64,
}

/// Whose windows a slab is filled with. What was moved once will stay longer than what is new, so they do not share one;
/// and compaction never waits for those that wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Clients,
    Compaction,
}

/// Where the windows of a realm and a purpose come from.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) open: Option<Open>,
    /// Who waits for a slab that is being made.
    pub(super) opening: Vec<Answer<Result<(), StoreError>>>,
}

pub(super) struct Realm {
    pub(super) options: RealmOptions,
    lanes: [Lane; 2],
    pub(super) eviction: Option<Box<dyn Eviction>>,
    /// Blobs that must not be evicted until then.
    pub(super) pins: Pins,
    /// Blocks of its windows, with blobs and being written.
    pub(super) used_blocks: u64,
    /// Blobs in its slabs.
    pub(super) blobs: u64,
    /// A checkpoint that is whole says who it is.
    pub(super) is_recorded: bool,
}

impl Realm {
    pub(super) fn new(options: RealmOptions) -> Self {
        Self {
            lanes: Default::default(),
            eviction: options.cache.map(Policy::begin),
            options,
            pins: Pins::default(),
            used_blocks: 0,
            blobs: 0,
            is_recorded: false,
        }
    }

    pub(super) fn open(&self, purpose: Purpose) -> Option<Open> {
        self.lanes[purpose as usize].open
    }

    /// How many wait for a slab of that purpose.
    pub(super) fn waiting(&self, purpose: Purpose) -> usize {
        self.lanes[purpose as usize].opening.len()
    }

    pub(super) fn lane(&mut self, purpose: Purpose) -> &mut Lane {
        &mut self.lanes[purpose as usize]
    }

    /// A blob of it was used.
    pub(super) fn used(&mut self, blob: Fingerprint) {
        if let Some(eviction) = &mut self.eviction {
            eviction.accessed(blob);
        }
    }
}

/// What a checkpoint is to say, taken between two frames.
pub(super) struct Snapshot<E> {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    /// Who the realms are.
    pub(super) realms: Identities,
    /// Slabs that it does not name any more.
    pub(super) retired: Vec<Rc<E>>,
}

pub(super) struct State<E> {
    pub(super) keys: Keys,
    pub(super) slabs: BTreeMap<u64, Slab<E>>,
    /// Those that may have records for their directories, or may be empty.
    pub(super) changed: BTreeSet<u64>,
    pub(super) realms: BTreeMap<RealmId, Realm>,
    pub(super) next_slab: u64,
    /// The numbers that slabs may have; all, if the store has no other drive.
    pub(super) leases: Option<Vec<std::ops::Range<u64>>>,
    /// Keys that a put is about to create, and who waits to hear of it.
    pub(super) claims: PrintMap<Vec<Answer<()>>>,
    /// Keys that are being deleted. They stay so if that fails: whether it is on the drive is not known.
    pub(super) dying: PrintSet,
    /// Windows that are written from outside, by their first block.
    pub(super) reservations: BTreeMap<u64, Reservation<E>>,
    pub(super) queue: VecDeque<Queued>,
    /// Slabs that are wanted, for each purpose.
    pub(super) wanted: [VecDeque<RealmId>; 2],
    /// Slabs without blobs, which the next checkpoint does not name any more.
    pub(super) retired: Vec<Rc<E>>,
    /// Those that no checkpoint names, as long as somebody still reads.
    pub(super) forgotten: Vec<Rc<E>>,
    /// Slabs that are to go, which other cores may still read from.
    pub(super) leaving: Vec<(Rc<E>, Arc<Shown>)>,
    pub(super) snapshot: Option<Snapshot<E>>,
    /// Blobs that were found damaged, by the first block of their windows.
    pub(super) quarantine: BTreeSet<Position>,
    pub(super) stat: LogStat,
}

/// An entry that cannot follow what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contradiction(pub(super) &'static str);

impl<E> State<E> {
    pub(super) fn new(keys: Keys, realms: &[RealmOptions], next_slab: u64) -> Self {
        let realm = |options: &RealmOptions| (options.id, Realm::new(options.clone()));
        Self {
            keys,
            slabs: BTreeMap::new(),
            changed: BTreeSet::new(),
            realms: realms.iter().map(realm).collect(),
            next_slab,
            leases: None,
            claims: PrintMap::default(),
            dying: PrintSet::default(),
            reservations: BTreeMap::new(),
            queue: VecDeque::new(),
            wanted: Default::default(),
            retired: Vec::new(),
            forgotten: Vec::new(),
            leaving: Vec::new(),
            snapshot: None,
            quarantine: BTreeSet::new(),
            stat: LogStat::default(),
        }
    }

    /// The number of the slab that is made next.
    pub(super) fn next_number(&self) -> Option<u64> {
        let Some(leases) = &self.leases else {
            return Some(self.next_slab);
        };
        let usable = |lease: &&std::ops::Range<u64>| lease.end > self.next_slab;
        let lease = leases.iter().filter(usable).min_by_key(|lease| lease.start);
        lease.map(|lease| lease.start.max(self.next_slab))
    }

    pub(super) fn realm(&mut self, id: RealmId) -> Option<&mut Realm> {
        self.realms.get_mut(&id)
    }

    /// Who the realms are.
    pub(super) fn identities(&self) -> Identities {
        let realms = self.realms.iter();
        let identity = |(id, realm): (&RealmId, &Realm)| (*id, Identity::of(&realm.options));
        realms.map(identity).collect()
    }

    /// A checkpoint that is whole says who these are.
    pub(super) fn have_recorded(&mut self, realms: &Identities) {
        for (id, realm) in &mut self.realms {
            realm.is_recorded |= realms.contains_key(id);
        }
    }

    /// A blob of a realm was used.
    pub(super) fn used(&mut self, realm: RealmId, blob: Fingerprint) {
        if let Some(realm) = self.realms.get_mut(&realm) {
            realm.used(blob);
        }
    }

    /// Where a blob is that nobody is deleting.
    pub(super) fn locate(&self, fingerprint: Fingerprint) -> Option<Location> {
        self.unless_dying(fingerprint, self.keys.get(fingerprint)?)
    }

    /// The same, without that counting as a use of the blob.
    pub(super) fn locate_quietly(&self, fingerprint: Fingerprint) -> Option<Location> {
        self.unless_dying(fingerprint, self.keys.peek(fingerprint)?)
    }

    fn unless_dying(&self, fingerprint: Fingerprint, location: Location) -> Option<Location> {
        let is_dying = !self.dying.is_empty() && self.dying.contains(&fingerprint);
        (!is_dying).then_some(location)
    }

    /// Makes an entry's change. Slabs have to be there already.
    pub(super) fn apply(&mut self, entry: &Entry, slab_blocks: u64) -> Result<(), Contradiction> {
        match entry {
            Entry::Put(record) => self.add(record, slab_blocks),
            Entry::Delete { key, position } => self.remove(key, *position, slab_blocks),
            Entry::Evict { blob, position } => self.forget(*blob, *position, slab_blocks),
            Entry::Move { record, from } => self.relocate(record, *from, slab_blocks),
            Entry::Slab(number, _) => {
                self.next_slab = self.next_slab.max(number.0 + 1);
                Ok(())
            }
        }
    }

    fn add(&mut self, record: &Record, slab_blocks: u64) -> Result<(), Contradiction> {
        let realm = self.add_window(record, slab_blocks)?;
        let fingerprint = self.keys.fingerprint(realm, &record.key);
        let inserted = self.keys.insert(fingerprint, record.location());
        inserted.map_err(|_| Contradiction("a blob is put whose key is there"))?;
        self.came(realm, fingerprint, record.blocks());
        Ok(())
    }

    /// A blob of a realm is there.
    pub(super) fn came(&mut self, realm: RealmId, blob: Fingerprint, blocks: u64) {
        let realm = self.realms.get_mut(&realm);
        if let Some(eviction) = realm.and_then(|realm| realm.eviction.as_mut()) {
            eviction.inserted(blob, blocks);
        }
    }

    /// The realm of the slab that the window is in.
    fn add_window(&mut self, record: &Record, slab_blocks: u64) -> Result<RealmId, Contradiction> {
        let position = record.position.0;
        let number = position / slab_blocks;
        let slab = self.slabs.get_mut(&number);
        let slab = slab.ok_or(Contradiction("a blob's slab is not there"))?;
        self.changed.insert(number);
        let start = position % slab_blocks;
        if start + record.blocks() > slab_blocks || !slab.add(start as u32, record) {
            return Err(Contradiction("a blob's window is not free"));
        }
        let id = slab.realm;
        if let Some(realm) = self.realms.get_mut(&id) {
            realm.used_blocks += record.blocks();
            realm.blobs += 1;
        }
        Ok(id)
    }

    /// Makes an entry say what is true when it is written: between being asked for and being written, blobs are moved and
    /// go. `ahead` is where blobs will be after the entries before it. False if there is nothing left to say.
    pub(super) fn settle(
        &self,
        queued: &mut Queued,
        ahead: &mut PrintMap<Option<Position>>,
    ) -> bool {
        let Some(blob) = queued.blob else {
            let Entry::Slab(number, _) = queued.entry else {
                return true;
            };
            // All its windows may have been given up, and the slab with them.
            return self.slabs.contains_key(&number.0);
        };
        let there = || {
            let now = || self.keys.peek(blob).map(|location| location.position);
            ahead.get(&blob).copied().unwrap_or_else(now)
        };
        let after = match &mut queued.entry {
            // Nobody can have asked for anything of it that comes after this one: it cannot be seen yet.
            Entry::Put(_) => return true,
            Entry::Move { record, from } if there() == Some(*from) => Some(record.position),
            Entry::Delete { position, .. } | Entry::Evict { position, .. } => {
                *position = there().unwrap_or(*position);
                None
            }
            Entry::Move { .. } | Entry::Slab(..) => return false,
        };
        ahead.insert(blob, after);
        true
    }

    fn remove(
        &mut self,
        key: &Key,
        position: Position,
        slab_blocks: u64,
    ) -> Result<(), Contradiction> {
        let number = position.0 / slab_blocks;
        let slab = self.slabs.get(&number);
        let slab = slab.ok_or(Contradiction("the slab of a deleted blob is not there"))?;
        let fingerprint = self.keys.fingerprint(slab.realm, key);
        self.forget(fingerprint, position, slab_blocks)
    }

    fn forget(
        &mut self,
        fingerprint: Fingerprint,
        position: Position,
        slab_blocks: u64,
    ) -> Result<(), Contradiction> {
        let slab = self.slabs.get(&(position.0 / slab_blocks));
        let slab = slab.ok_or(Contradiction("the slab of a deleted blob is not there"))?;
        let realm = self.realms.get_mut(&slab.realm);
        if let Some(realm) = realm {
            realm.pins.remove(fingerprint);
            if let Some(eviction) = &mut realm.eviction {
                eviction.removed(fingerprint);
            }
        }
        if let Some(removed) = self.keys.remove(fingerprint, position) {
            self.kill_window(removed, slab_blocks)?;
        }
        self.dying.remove(&fingerprint);
        Ok(())
    }

    fn kill_window(&mut self, was: Location, slab_blocks: u64) -> Result<(), Contradiction> {
        let blocks = window_blocks(was.length);
        let number = was.position.0 / slab_blocks;
        let slab = self.slabs.get_mut(&number);
        let slab = slab.ok_or(Contradiction("a blob's slab is not there"))?;
        self.changed.insert(number);
        if !slab.kill((was.position.0 % slab_blocks) as u32, blocks) {
            return Err(Contradiction("a deleted blob was not in its slab"));
        }
        if let Some(realm) = self.realms.get_mut(&slab.realm) {
            realm.used_blocks -= blocks;
            realm.blobs -= 1;
        }
        if !self.quarantine.is_empty() {
            self.quarantine.remove(&was.position);
        }
        Ok(())
    }

    fn relocate(
        &mut self,
        record: &Record,
        from: Position,
        slab_blocks: u64,
    ) -> Result<(), Contradiction> {
        let slab = self.slabs.get(&(from.0 / slab_blocks));
        let slab = slab.ok_or(Contradiction("the slab of a moved blob is not there"))?;
        let fingerprint = self.keys.fingerprint(slab.realm, &record.key);
        if !self.keys.replace(fingerprint, from, record.location()) {
            return Err(Contradiction("a moved blob was not where it was"));
        }
        let was = Location {
            position: from,
            ..record.location()
        };
        self.kill_window(was, slab_blocks)?;
        self.add_window(record, slab_blocks)?;
        Ok(())
    }

    /// A window is no longer being written: it holds a blob now, or was given up.
    pub(super) fn release_window(&mut self, position: Position, blocks: u64, slab_blocks: u64) {
        let number = position.0 / slab_blocks;
        if let Some(slab) = self.slabs.get_mut(&number) {
            self.changed.insert(number);
            slab.pending -= 1;
            if let Some(realm) = self.realms.get_mut(&slab.realm) {
                realm.used_blocks -= blocks;
            }
        }
    }

    /// A blob was found damaged.
    pub(super) fn put_in_quarantine(&mut self, position: Position, slab_blocks: u64) {
        self.quarantine.insert(position);
        let slab = self.slabs.get(&(position.0 / slab_blocks));
        if let Some(shown) = slab.and_then(Slab::shown) {
            shown.has_damage();
        }
    }

    /// Has other cores see a slab, if nothing about it can change that matters to them.
    pub(super) fn show(
        &mut self,
        number: u64,
        slab_blocks: u64,
        cores: usize,
    ) -> Option<(Rc<E>, Arc<Shown>)> {
        let of_slab = Position(number * slab_blocks)..Position((number + 1) * slab_blocks);
        if self.quarantine.range(of_slab).next().is_some() {
            return None;
        }
        let slab = self.slabs.get_mut(&number)?;
        let shown = slab.show(cores)?;
        Some((slab.extent.clone(), shown))
    }

    /// Whether other cores read from the drive just now.
    pub(super) fn is_read_elsewhere(&self) -> bool {
        let mut shown = self.slabs.values().filter_map(Slab::shown);
        shown.any(|shown| shown.holds.is_held())
    }

    /// Slabs that are forgotten may be given back as soon as nobody reads from them on any core.
    pub(super) fn let_leave(&mut self) {
        self.leaving.retain(|(_, shown)| shown.holds.is_held());
    }

    /// Moves slabs that can hold nothing any more out of the way of the next checkpoint.
    pub(super) fn retire(&mut self) {
        let Self {
            slabs,
            changed,
            retired,
            leaving,
            ..
        } = self;
        changed.retain(|number| {
            let is_empty = slabs.get(number).is_some_and(Slab::is_empty);
            let empty = is_empty.then(|| slabs.remove(number)).flatten();
            if let Some(slab) = empty {
                if let Some(shown) = slab.shown() {
                    shown.holds.close();
                    leaving.push((slab.extent.clone(), shown.clone()));
                }
                retired.push(slab.extent);
            }
            !is_empty
        });
    }
}
