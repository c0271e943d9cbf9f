//! Reads of a store of many drives: a key's places in turn, and what lost drives may have.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::super::types::{Key, Location, Position, RealmId};
use super::super::walk::Listed;
use super::error::{DriveLabel, NodeError};
use super::handle::{Again, Attempt, NodeStore};
use super::place::DriveNumber;
use super::seat::{NodeDrive, Seat};
use super::table::Table;
use super::visit::{Visit, Wants};

/// A part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePage {
    /// Blobs, by position.
    pub blobs: Vec<Listed>,
    /// Where to go on; `None` at the end.
    pub next: Option<Position>,
    /// Blobs that went from one drive to another since the store was opened. If that changes from the first page to the
    /// last, some of those may have been shown twice, or not at all.
    pub moved_blobs: u64,
    /// Drives whose blobs are left out, since they are lost.
    pub lost: Vec<DriveLabel>,
}

impl<D: NodeDrive> NodeStore<D> {
    /// Asks the places of a key in turn; `None` if no drive has it, and none that is lost may have it.
    pub(super) async fn look<T, F>(
        &self,
        realm: RealmId,
        key: Key,
        mut ask: F,
    ) -> Result<Option<T>, NodeError>
    where
        F: AsyncFnMut(&Table<D>, u16) -> Attempt<Option<T>>,
    {
        'tables: loop {
            let table = self.table();
            let spread = table.spread(realm, &key);
            let last = spread.present.last().copied();
            // A blob may be moved from a later place to the home just when the home has been asked.
            let once_more = spread.home.filter(|home| Some(*home) != last);
            for at in spread.present.iter().copied().chain(once_more) {
                match ask(&table, at).await {
                    Ok(Some(found)) => return Ok(Some(found)),
                    Ok(None) => {}
                    Err(again) => {
                        self.before_next(&table, again).await?;
                        continue 'tables;
                    }
                }
            }
            // Drives that failed while the store was open are asked as well: some of them can still be read.
            for &at in spread.lost.iter().filter(|at| table.seat(**at).is_some()) {
                match ask(&table, at).await {
                    Ok(Some(found)) => return Ok(Some(found)),
                    Ok(None) => {}
                    Err(_) => return Err(table.lost(at)),
                }
            }
            if let Err(Again::Never(lost)) = self.check_lost(&table, realm, key).await {
                return Err(lost);
            }
            return Ok(None);
        }
    }

    /// Some bytes of a blob, checked; `None` if there is no such blob.
    pub async fn read(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, NodeError> {
        match self.read_one(realm, key, offset, bytes).await {
            Err(error) if error.is_in_parts() => {
                Box::pin(self.read_large(realm, *key, offset, bytes)).await
            }
            read => read,
        }
    }

    /// The same, of what lies in one window.
    pub(super) async fn read_one(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, NodeError> {
        let key = *key;
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let read = seat.call(move |lane| async move {
                lane.read(version, realm, key, offset, bytes).await
            });
            self.heard(table, at, read.await)
        };
        self.look(realm, key, ask).await
    }

    /// Fills a buffer of whole blocks with a blob's bytes from `offset` on, checked; how many of them are the blob's, or
    /// `None` if there is no such blob. The buffer comes back, unless the core of the drive has stopped.
    pub async fn read_into(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        payload: D::Payload,
    ) -> (Option<D::Payload>, Result<Option<u64>, NodeError>) {
        match self.read_one_into(realm, key, offset, payload).await {
            (Some(payload), Err(error)) if error.is_in_parts() => {
                Box::pin(self.read_large_into(realm, *key, offset, payload)).await
            }
            read => read,
        }
    }

    /// The same, of what lies in one window.
    pub(super) async fn read_one_into(
        &self,
        realm: RealmId,
        key: &Key,
        offset: u64,
        payload: D::Payload,
    ) -> (Option<D::Payload>, Result<Option<u64>, NodeError>) {
        let key = *key;
        let slot = RefCell::new(Some(payload));
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let payload = slot.take();
            let mut payload = payload.ok_or(Again::Never(NodeError::Closing))?;
            let is_far = !seat.is_here();
            if is_far && let Some((visit, wants)) = self.visit(table, seat, realm) {
                let read = visit.read_into(realm, &key, offset, payload, wants);
                match read.await {
                    Ok(read) => {
                        slot.replace(Some(read.payload));
                        seat.tell_uses(read.uses);
                        return Ok(Some(read.bytes));
                    }
                    Err(back) => payload = back.ok_or(Again::Never(table.lost(at)))?,
                }
            }
            let read = seat.call(move |lane| async move {
                let read = lane.read_into(version, realm, key, offset, payload).await;
                if is_far {
                    lane.show_blob(realm, &key);
                }
                read
            });
            let answer = read.await.map(|(payload, read)| {
                slot.replace(Some(payload));
                read
            });
            self.heard(table, at, answer)
        };
        let read = self.look(realm, key, ask).await;
        (slot.into_inner(), read)
    }

    /// A drive of another core as this one reads it, and how it may.
    fn visit(
        &self,
        table: &Table<D>,
        seat: &Seat<D>,
        realm: RealmId,
    ) -> Option<(Rc<Visit<D>>, Wants)> {
        let options = table.realm(realm)?;
        let wants = Wants {
            verify: options.verify,
            is_cache: options.cache.is_some(),
        };
        let visit = seat.visit()?;
        visit.learn(table);
        Some((visit, wants))
    }

    /// Where a blob is.
    pub async fn locate(&self, realm: RealmId, key: &Key) -> Result<Option<Location>, NodeError> {
        let key = *key;
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let located =
                seat.call(move |lane| async move { lane.locate(version, realm, key).await });
            self.heard(table, at, located.await)
        };
        self.look(realm, key, ask).await
    }

    /// Whether a drive that is lost may have a later blob of that key than those that are read now. Nothing is put under
    /// such a key until the drive is back or forgotten.
    pub fn may_be_outdated(&self, realm: RealmId, key: &Key) -> bool {
        self.table().spread(realm, key).is_lost_behind_home
    }

    /// Drives that are lost and may have a blob of that key.
    pub fn lost_places(&self, realm: RealmId, key: &Key) -> Vec<DriveLabel> {
        let table = self.table();
        let lost = table.spread(realm, key).lost.iter();
        lost.map(|at| table.row(*at).label()).collect()
    }

    /// The drive that a position is on; `None` if it was never handed out, or its drive is gone for good.
    pub fn drive_of(&self, position: Position) -> Option<DriveNumber> {
        let table = self.table();
        table.row_of(position).map(|at| table.row(at).number)
    }

    /// Which of up to 64 keys can be read, a bit for each. Does not count as a use of them.
    ///
    /// # Panics
    /// When there are more.
    pub async fn probe(&self, realm: RealmId, keys: &[Key]) -> Result<u64, NodeError> {
        assert!(keys.len() <= 64, "a probe is for up to 64 keys");
        'tables: loop {
            let table = self.table();
            let mut there = 0;
            let mut rounds = 1;
            let mut round = 0;
            while round < rounds {
                let mut by_drive: Vec<(u16, Vec<(usize, Key)>)> = Vec::new();
                for (bit, key) in keys
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| there >> bit & 1 == 0)
                {
                    let spread = table.spread(realm, key);
                    let last = spread.present.last().copied();
                    let once_more = spread.home.filter(|home| Some(*home) != last);
                    let mut places = spread.present.iter().copied().chain(once_more);
                    rounds = rounds.max(places.clone().count());
                    let Some(at) = places.nth(round) else {
                        continue;
                    };
                    match by_drive.iter_mut().find(|(drive, _)| *drive == at) {
                        Some((_, keys)) => keys.push((bit, *key)),
                        None => by_drive.push((at, vec![(bit, *key)])),
                    }
                }
                for (at, keys) in by_drive {
                    let bits: Vec<usize> = keys.iter().map(|(bit, _)| *bit).collect();
                    let keys: Vec<Key> = keys.into_iter().map(|(_, key)| key).collect();
                    let version = table.version;
                    let probed = match self.seat(&table, at) {
                        Ok(seat) => {
                            let probe = seat
                                .call(move |lane| async move { lane.probe(version, realm, &keys) });
                            self.heard(&table, at, probe.await)
                        }
                        Err(again) => Err(again),
                    };
                    match probed {
                        Ok(found) => {
                            let found = bits
                                .iter()
                                .enumerate()
                                .filter(|(at, _)| found >> at & 1 == 1);
                            there |= found.fold(0, |all, (_, bit)| all | 1 << bit);
                        }
                        Err(again) => {
                            self.before_next(&table, again).await?;
                            continue 'tables;
                        }
                    }
                }
                round += 1;
            }
            return Ok(there);
        }
    }

    /// Blobs of a realm from a position on, up to `most` of them, by position over all drives.
    pub async fn list(
        &self,
        realm: RealmId,
        from: Position,
        most: usize,
    ) -> Result<NodePage, NodeError> {
        let table = self.table();
        let mut page = NodePage {
            blobs: Vec::new(),
            next: None,
            moved_blobs: self.shared.moved_blobs.load(Ordering::Relaxed),
            lost: Vec::new(),
        };
        let first = (from.0 / table.slot_blocks) as usize;
        for slot in first..table.slots.len() {
            let (start, end) = (
                slot as u64 * table.slot_blocks,
                (slot as u64 + 1) * table.slot_blocks,
            );
            let Some(at) = table.slots[slot] else {
                continue;
            };
            let from = Position(from.0.max(start));
            let label = table.row(at).label();
            let listed = match table.seat(at).filter(|_| table.is_present(at)) {
                None => None,
                Some(seat) => {
                    let left = most - page.blobs.len();
                    let listed =
                        seat.call(move |lane| async move { lane.list(realm, from, left).await });
                    match self.heard(&table, at, listed.await) {
                        Ok(listed) => Some(listed),
                        Err(Again::Never(error)) => return Err(error),
                        Err(_) => None,
                    }
                }
            };
            let Some(listed) = listed else {
                if !page.lost.contains(&label) {
                    page.lost.push(label);
                }
                continue;
            };
            let of_slot = |blob: &Listed| blob.location.position.0 < end;
            page.blobs.extend(listed.blobs.into_iter().filter(of_slot));
            if let Some(next) = listed.next.filter(|next| next.0 < end) {
                page.next = Some(next);
                return Ok(page);
            }
        }
        Ok(page)
    }
}
