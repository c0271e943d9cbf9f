//! What those ask of a store who know positions: hosts that read and write its namespace.

use std::rc::Rc;

use super::super::log::{Log, Put};
use super::super::parts::part_bytes;
use super::super::position::{Described, Direct};
use super::super::record::{Role, data_blocks};
use super::super::reserve::{Commit, Reserved};
use super::super::types::{BLOCK_BYTES, Key, Position, RealmId};
use super::error::NodeError;
use super::handle::{Again, Attempt, NodeStore};
use super::lane::{Lane, Refused};
use super::seat::{NodeDrive, ReadEnd};
use super::table::Table;
use crate::limits::{MOVE_BYTES_AT_ONCE, QUIET_BLOCKS};

impl<D: NodeDrive> Lane<D> {
    async fn describe(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
    ) -> Result<Option<Described>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        log.check_realm(realm).map_err(Refused::Error)?;
        let describe = || {
            log.describe(realm, &key)
                .map_err(|error| self.refused(error))
        };
        let mut described = describe()?;
        if described.is_none() {
            // An index that was taken over may miss it until it is verified.
            log.trusted().await.map_err(|error| self.refused(error))?;
            described = describe()?;
        }
        self.unless_stale(version, described)
    }

    /// Windows that are reserved and not committed.
    fn reservations(&self) -> u64 {
        let reserved = self
            .log()
            .map(|log| log.state.borrow().reservations.len() as u64);
        reserved.unwrap_or(u64::MAX)
    }

    fn check_commit(&self, realm: RealmId, commit: Commit) -> Result<(), Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let checked = log.check_commit(realm, &commit);
        checked.map(drop).map_err(|error| self.refused(error))
    }

    async fn read_reserved(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
    ) -> Result<D::Payload, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        let buf = self.drive.take(payload);
        let (buf, read) = log.read_reserved(realm, position, buf).await;
        read.map(|()| D::give(buf))
            .map_err(|error| self.refused(error))
    }

    async fn read_position(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
    ) -> (D::Payload, Result<(), Refused>) {
        // As of a drive that takes no changes any more, if it has failed.
        let log = match self.log() {
            Ok(log) => log,
            Err(error) => return (payload, Err(Refused::Gone(error))),
        };
        let buf = self.drive.take(payload);
        let (buf, read) = log.read_position(realm, position, buf).await;
        (D::give(buf), read.map_err(|error| self.refused(error)))
    }
}

/// A read that a drive does by itself. Its log is not given up before it has ended.
struct Begun<D: NodeDrive, R> {
    log: Rc<Log<D>>,
    direct: Direct<D>,
    end: R,
}

impl<D: NodeDrive, R: ReadEnd<D::Payload>> ReadEnd<D::Payload> for Begun<D, R> {
    fn ended(self, payload: D::Payload, is_filled: bool) {
        self.log.direct_ended(&self.direct, is_filled);
        self.end.ended(payload, is_filled);
    }
}

impl<D: NodeDrive> Lane<D> {
    fn begin_read<R: ReadEnd<D::Payload>>(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
        end: R,
    ) -> Result<(), (D::Payload, R)> {
        let blocks = (payload.as_ref().len() / BLOCK_BYTES) as u64;
        let held = self.log().ok().and_then(|log| {
            let direct = log.hold_at_once(realm, position, blocks)?;
            Some((log, direct))
        });
        let Some((log, direct)) = held else {
            return Err((payload, end));
        };
        let (extent, block) = (Rc::clone(&direct.extent), direct.block);
        let begun = Begun { log, direct, end };
        let refused = self.drive.begin_read(&extent, block, payload, begun);
        refused.map_err(|(payload, begun)| {
            begun.log.direct_ended(&begun.direct, false);
            (payload, begun.end)
        })
    }
}

impl<D: NodeDrive> NodeStore<D> {
    /// Begins what [`read_position`](Self::read_position) does, without a task: where the read needs no check and nothing that
    /// has to be looked up, and the drive is this core's, or the slab one that this core can see by itself. If it ends without
    /// the buffer being filled, `read_position` says why. What cannot be begun so comes back.
    pub fn begin_read_position<R: ReadEnd<D::Payload>>(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
        end: R,
    ) -> Result<(), (D::Payload, R)> {
        let table = self.table_here();
        let at = table.row_of(position);
        let Some(seat) = at.and_then(|at| table.seat(at)) else {
            return Err((payload, end));
        };
        if seat.is_here() {
            let lane = seat.lane_here();
            drop(table);
            return match lane {
                Some(lane) => lane.begin_read(realm, position, payload, end),
                None => Err((payload, end)),
            };
        }
        let is_checked = table.realm(realm).is_none_or(|realm| realm.verify);
        let visit = if is_checked { None } else { seat.visit() };
        if let Some(visit) = &visit {
            visit.learn(&table);
        }
        drop(table);
        match visit {
            Some(visit) => visit.begin_read(realm, position, payload, end),
            None => Err((payload, end)),
        }
    }

    /// What [`describe`](Self::describe) finds, if the drive where the key belongs has the blob and is this core's, or the
    /// slab one that this core can see by itself.
    pub fn describe_at_once(&self, realm: RealmId, key: &Key) -> Option<Described> {
        let table = self.table_here();
        let first = table.spread(realm, key).present.first();
        let seat = table.seat(*first?)?;
        if seat.is_here() {
            let lane = seat.lane_here()?;
            return lane.log().ok()?.describe_if_there(realm, key);
        }
        let visit = seat.visit()?;
        visit.learn(&table);
        let is_cache = table.realm(realm)?.cache.is_some();
        let (described, uses) = visit.describe(realm, key, is_cache)?;
        seat.tell_uses(uses);
        Some(described)
    }

    /// Where a blob is, and how to tell that it is whole. Counts as a use of it.
    pub async fn describe(
        &self,
        realm: RealmId,
        key: &Key,
    ) -> Result<Option<Described>, NodeError> {
        let key = *key;
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let is_far = !seat.is_here();
            let described = seat.call(move |lane| async move {
                let described = lane.describe(version, realm, key).await;
                if let (true, Ok(Some(described))) = (is_far, &described) {
                    lane.show(described.location.position);
                }
                described
            });
            self.heard(table, at, described.await)
        };
        self.look(realm, key, ask).await
    }

    /// Fills a buffer of whole blocks from a position on, all of them in the window of one blob of the realm, committed and
    /// not yet given back. Checked, if the realm's reads are. The buffer comes back, unless the core of the drive has stopped.
    pub async fn read_position(
        &self,
        realm: RealmId,
        position: Position,
        payload: D::Payload,
    ) -> (Option<D::Payload>, Result<(), NodeError>) {
        let table = self.table();
        let Some(at) = table.row_of(position) else {
            return (Some(payload), Err(NodeError::NoSuchPosition { position }));
        };
        let Some(seat) = table.seat(at) else {
            return (Some(payload), Err(table.lost(at)));
        };
        let is_far = !seat.is_here();
        let read = seat.call(move |lane| async move {
            let read = lane.read_position(realm, position, payload).await;
            if is_far && read.1.is_ok() {
                lane.show(position);
            }
            read
        });
        let mut slot = None;
        let answer = read.await.map(|(payload, read)| {
            slot = Some(payload);
            read
        });
        (slot, self.ended(&table, at, answer))
    }

    /// Hands out a window for a blob whose key is not known yet, on the drive with the fewest windows reserved. With more than
    /// one drive it may turn out to be the wrong one, which [`commit_anywhere`](Self::commit_anywhere) copes with.
    pub async fn reserve_anywhere(
        &self,
        realm: RealmId,
        length: u64,
    ) -> Result<Reserved, NodeError> {
        loop {
            let table = self.table();
            match self.try_reserve(&table, realm, length).await {
                Ok(reserved) => return Ok(reserved),
                Err(again) => self.before_next(&table, again).await?,
            }
        }
    }

    async fn try_reserve(
        &self,
        table: &Table<D>,
        realm: RealmId,
        length: u64,
    ) -> Attempt<Reserved> {
        table.check_writable().map_err(Again::Never)?;
        let takes = (0..)
            .zip(&table.rows)
            .filter(|(at, row)| table.is_present(*at) && !row.is_draining);
        let takes: Vec<u16> = takes.map(|(at, _)| at).collect();
        let mut best: Option<(u64, u16)> = None;
        for &at in &takes {
            // To one alone there is nothing to compare.
            let reserved = match takes.len() {
                1 => 0,
                _ => {
                    let seat = self.seat(table, at)?;
                    let reserved = seat.call(|lane| async move { lane.reservations() });
                    reserved.await.unwrap_or(u64::MAX)
                }
            };
            if best.is_none_or(|(least, _)| reserved < least) {
                best = Some((reserved, at));
            }
        }
        let (_, at) = best.ok_or(Again::Never(NodeError::NoDrive))?;
        let seat = self.seat(table, at)?;
        let reserved = seat.call(move |lane| async move { lane.reserve(realm, length).await });
        self.heard(table, at, reserved.await)
    }

    /// Makes what was written into a reserved window a blob, wherever the window is: if that is not on the drive where the
    /// key's blob belongs, what was written goes there first.
    pub async fn commit_anywhere(&self, realm: RealmId, commit: &Commit) -> Result<Put, NodeError> {
        self.commit_anywhere_as(realm, commit, Role::Whole).await
    }

    /// The same, for what is a part of a large blob.
    pub(super) async fn commit_anywhere_as(
        &self,
        realm: RealmId,
        commit: &Commit,
        role: Role,
    ) -> Result<Put, NodeError> {
        loop {
            match self.commit_as(realm, commit, role).await {
                Err(NodeError::Moved { .. }) => {}
                committed => return committed,
            }
            let to = self.carry(realm, commit).await?;
            let there = Commit {
                position: to,
                ..*commit
            };
            match self.commit_as(realm, &there, role).await {
                // Drives have come or gone meanwhile: it is another one's now.
                Err(NodeError::Moved { .. }) => {
                    self.abandon(realm, to).await;
                }
                Ok(put) => {
                    self.abandon(realm, commit.position).await;
                    return Ok(put);
                }
                Err(error) => {
                    self.abandon(realm, to).await;
                    return Err(error);
                }
            }
        }
    }

    /// Copies a reserved window that may be committed to where its blob belongs.
    async fn carry(&self, realm: RealmId, commit: &Commit) -> Result<Position, NodeError> {
        let (commit, key, length) = (*commit, commit.key, commit.length);
        let table = self.table();
        let at = table.row_of(commit.position);
        let at = at.ok_or(NodeError::NoSuchPosition {
            position: commit.position,
        })?;
        let seat = table.seat(at).ok_or_else(|| table.lost(at))?;
        let checked = seat.call(move |lane| async move { lane.check_commit(realm, commit) });
        self.ended(&table, at, checked.await)?;
        let to = self.reserve(realm, &key, length).await?.position;
        let blocks = data_blocks(length);
        let mut block = 0;
        while block < blocks {
            let count = (blocks - block).min((MOVE_BYTES_AT_ONCE / BLOCK_BYTES) as u64);
            let from = Position(commit.position.0 + block);
            let copied = async {
                let payload = D::payload(count as usize * BLOCK_BYTES);
                let payload = payload.map_err(NodeError::Memory)?;
                let read =
                    seat.call(
                        move |lane| async move { lane.read_reserved(realm, from, payload).await },
                    );
                let payload = self.ended(&table, at, read.await)?;
                let there = Position(to.0 + block);
                self.write(realm, there, payload).await.1
            };
            if let Err(error) = copied.await {
                self.abandon(realm, to).await;
                return Err(error);
            }
            block += count;
        }
        Ok(to)
    }

    /// Bytes of each part, but the last one, of a blob that is put in parts now.
    pub fn part_bytes(&self) -> u64 {
        part_bytes(self.table().slab_blocks)
    }

    /// The longest blob that fits each of the drives; 0 where none is there.
    pub async fn length_max(&self) -> u64 {
        let table = self.table();
        let mut most: Option<u64> = None;
        for row in &table.rows {
            let Some(seat) = &row.seat else {
                continue;
            };
            let of_drive = seat.call(|lane| async move { lane.log().map(|log| log.length_max()) });
            if let Ok(Ok(of_drive)) = of_drive.await {
                most = Some(most.map_or(of_drive, |most| most.min(of_drive)));
            }
        }
        most.unwrap_or(0)
    }

    /// Whether a blob lies in the first blocks of the log, where only stores of earlier versions have any.
    pub async fn has_quiet_blobs(&self, realm: RealmId) -> Result<bool, NodeError> {
        let first = self.list(realm, Position(0), 1).await?.blobs;
        let quiet = Position(QUIET_BLOCKS);
        Ok(first
            .first()
            .is_some_and(|blob| blob.location.position < quiet))
    }
}
