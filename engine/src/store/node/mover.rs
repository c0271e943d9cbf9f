//! Brings blobs to where they belong: off drives that are being emptied, and on to drives that are new or were away.
//!
//! A blob is held in all its places while it is moved, so nobody changes it meanwhile; reads see it all the time, at the old
//! place until the new one is durable. A crash leaves it at either or at both, which are the same blob, and the next start
//! goes on.
//!
//! A drive stops being hungry when every drive of the store was looked through, under one table and without a compaction
//! beside it, and nothing was found that belongs elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::error::StoreError;
use super::super::record::{Record, Role};
use super::super::reserve::Commit;
use super::super::types::{BLOCK_BYTES, Key, KeyKind, Position, RealmId};
use super::handle::NodeStore;
use super::join::first;
use super::keeper::Keeper;
use super::lane::{Lane, Refused};
use super::seat::{NoLane, NodeDrive};
use super::table::{Command, Table};
use crate::clock::Moment;
use crate::limits::{MOVE_BYTES_AT_ONCE, STUCK_TOLD_MAX};

/// How long to wait after something could not be moved; twice as long each time that nothing could.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// A blob that is not where it belongs.
#[derive(Clone, Copy)]
pub(super) struct Stray {
    realm: RealmId,
    key: Key,
    kind: KeyKind,
    length: u64,
    role: Role,
}

/// What is to be found in the slabs of a lane from one on.
pub(super) struct Strays {
    found: Vec<Stray>,
    next: Option<u64>,
}

impl<D: NodeDrive> Lane<D> {
    /// Blobs of the first slab of that number or a later one whose home is another drive.
    pub(super) async fn strays(
        &self,
        table: &Table<D>,
        at: u16,
        from: u64,
    ) -> Result<Strays, Refused> {
        // What older tables have put is there when this has been entered.
        let _entered = self.hold(table.version, None).await?;
        let log = self.log().map_err(Refused::Gone)?;
        let slab = {
            let state = log.state.borrow();
            let mut slabs = state.slabs.range(from..);
            slabs.next().map(|(number, slab)| (*number, slab.realm))
        };
        let Some((number, realm)) = slab else {
            return Ok(Strays {
                found: Vec::new(),
                next: None,
            });
        };
        let records = log.live_records(number, Position(0)).await;
        let records = records.map_err(Refused::Error)?;
        let is_stray = |record: &&Record| table.spread(realm, &record.key).home != Some(at);
        let stray = |record: &Record| Stray {
            realm,
            key: record.key,
            kind: record.kind,
            length: record.length,
            role: record.role,
        };
        Ok(Strays {
            found: records.iter().filter(is_stray).map(stray).collect(),
            next: Some(number + 1),
        })
    }

    /// Keeps blobs from changing their slabs, unless they do so just now; or lets them again.
    pub(super) fn hold_compaction(&self, holds: bool) -> bool {
        let Ok(log) = self.log() else {
            return false;
        };
        if holds && log.is_compacting.get() {
            log.stop_early_compaction();
            return false;
        }
        log.holds_compaction.set(holds);
        if !holds {
            log.ring_compaction();
        }
        true
    }
}

/// Why a round of looking and moving came to nothing.
enum Broken {
    /// The table is an old one.
    Stale,
    /// It may do better soon.
    Later,
    /// It does better when somebody does something about it.
    Stuck(StoreError),
}

/// What cannot be moved, and what was said of it.
#[derive(Default)]
pub(super) struct StuckBlobs {
    told: RefCell<HashSet<Told>>,
    /// Rounds that moved nothing and left something.
    rounds: Cell<u32>,
}

/// A blob and what is wrong with it, or what is wrong with all of a drive; `None` is damage, which is another error once
/// it is in quarantine.
type Told = (
    u16,
    Option<(RealmId, Key)>,
    Option<Discriminant<StoreError>>,
);

impl StuckBlobs {
    /// Says why something stays where it is, once.
    fn tell<D: NodeDrive>(
        &self,
        table: &Table<D>,
        at: u16,
        stray: Option<&Stray>,
        error: &StoreError,
    ) {
        let row = table.row(at);
        let drive = row.label();
        // Where room is short, it is so for one blob as for another.
        let is_short = matches!(
            error,
            StoreError::Full
                | StoreError::OverQuota { .. }
                | StoreError::CacheHeld { .. }
                | StoreError::TooManyBlobs { .. }
        );
        let blob = stray.map(|stray| (stray.realm, stray.key));
        let of = blob.filter(|_| !is_short);
        let is_damage = matches!(
            error,
            StoreError::Damaged { .. } | StoreError::Quarantined { .. }
        );
        let kind = (!is_damage).then(|| discriminant(error));
        let mut told = self.told.borrow_mut();
        let is_more = told.len() == STUCK_TOLD_MAX;
        if is_more || !told.insert((row.number.0, of, kind)) {
            return;
        }
        match blob {
            Some((realm, key)) => {
                tracing::warn!(%drive, %realm, %key, %error, "a blob cannot be moved, and stays where it is until that is mended");
            }
            None => {
                tracing::warn!(%drive, %error, "a drive cannot be looked through, so its blobs stay where they are");
            }
        }
        if told.len() == STUCK_TOLD_MAX {
            tracing::warn!(
                "more blobs cannot be moved, of which nothing is said: mend those first"
            );
        }
    }

    /// How long to wait before the next round, after one that moved something or nothing.
    fn pause(&self, has_moved: bool) -> Duration {
        let rounds = match has_moved {
            true => 0,
            false => self.rounds.get(),
        };
        self.rounds.set(rounds.saturating_add(1));
        (RETRY * (1 << rounds.min(16))).min(RETRY_LONGEST)
    }

    /// Nothing is.
    fn none(&self) {
        self.told.borrow_mut().clear();
        self.rounds.set(0);
    }
}

type Round<T> = Result<T, Broken>;

/// What a round has found.
#[derive(Default)]
struct Tally {
    strays: u64,
    /// Those that could not be moved, which somebody has to do something about.
    stuck: u64,
}

impl<D: NodeDrive> Keeper<D> {
    /// Moves what has to be moved, whenever there is any.
    pub(super) async fn move_blobs(&self) {
        let store = NodeStore::new(self.shared());
        let mut pace = self.options.drive.clock.now();
        // Under that table nothing more can be done.
        let mut done_with = 0;
        while !self.is_closing.get() {
            let table = self.shared.table();
            let is_wanted = table
                .rows
                .iter()
                .any(|row| row.is_hungry || row.is_draining);
            if !is_wanted || table.version == done_with || table.check_writable().is_err() {
                self.mover_bell.heard().await;
                continue;
            }
            let moved = || self.shared.moved_blobs.load(Ordering::Relaxed);
            let before = moved();
            let mut tally = Tally::default();
            let round = self.round(&store, &table, &mut pace, &mut tally).await;
            let is_stuck = tally.stuck > 0 || matches!(round, Err(Broken::Stuck(_)));
            match round {
                Ok(true) => done_with = table.version,
                _ if is_stuck => {
                    let wait = self.stuck.pause(moved() > before);
                    self.pause(wait).await;
                    continue;
                }
                Ok(false) | Err(Broken::Stale) => {
                    if self.shared.version() == table.version {
                        self.pause(RETRY).await;
                    }
                }
                Err(Broken::Later | Broken::Stuck(_)) => self.pause(RETRY).await,
            }
            self.stuck.none();
        }
    }

    async fn pause(&self, time: Duration) {
        first((self.options.sleep)(time), self.mover_bell.heard()).await;
    }

    /// Looks through the drives and moves what is found; whether all that can be done under this table is done.
    async fn round(
        &self,
        store: &NodeStore<D>,
        table: &Arc<Table<D>>,
        pace: &mut Moment,
        tally: &mut Tally,
    ) -> Round<bool> {
        let is_hungry = table.rows.iter().any(|row| row.is_hungry);
        for at in 0..table.rows.len() as u16 {
            let row = table.row(at);
            if table.is_present(at) && (is_hungry || row.is_draining) {
                let looked = self.look_through(store, table, at, pace, tally).await;
                if let Err(Broken::Stuck(error)) = &looked {
                    self.stuck.tell(table, at, None, error);
                }
                looked?;
            }
        }
        let version = table.version;
        let mut is_written = false;
        for at in 0..table.rows.len() as u16 {
            let row = table.row(at);
            let Some(seat) = row
                .seat
                .as_ref()
                .filter(|_| row.is_draining && row.loss.is_none())
            else {
                continue;
            };
            let stat = seat.call(move |lane| async move {
                let _entered = lane.hold(version, None).await?;
                Ok(lane.stat())
            });
            let stat = heard(stat.await)?;
            // What is being written there goes elsewhere when it is committed.
            is_written |= stat.reservations > 0;
            if stat.blobs == 0 && stat.reservations == 0 {
                let number = row.number;
                self.shared.command(Command::Drained { number, version });
                return Ok(true);
            }
        }
        if tally.strays > 0 || is_written {
            return Ok(false);
        }
        let all_here = (0..table.rows.len() as u16).all(|at| table.is_present(at));
        if !is_hungry || !all_here {
            // What is on a lost drive may belong on a hungry one.
            return Ok(true);
        }
        match self.is_settled(table).await? {
            true => {
                self.shared.command(Command::Settled { version });
                Ok(true)
            }
            false => Err(Broken::Later),
        }
    }

    /// Whether nothing is where it does not belong, on any drive.
    async fn is_settled(&self, table: &Arc<Table<D>>) -> Round<bool> {
        for row in &table.rows {
            let Some(seat) = &row.seat else {
                return Ok(false);
            };
            let held = seat
                .call(|lane| async move { Ok(lane.hold_compaction(true)) })
                .await;
            let is_clean = match heard(held)? {
                false => Ok(false),
                true => self.has_no_strays(table, row.number.0).await,
            };
            let let_go = seat
                .call(|lane| async move { lane.hold_compaction(false) })
                .await;
            if !is_clean? || let_go.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn has_no_strays(&self, table: &Arc<Table<D>>, number: u16) -> Round<bool> {
        let at = table.rows.iter().position(|row| row.number.0 == number);
        let at = at.ok_or(Broken::Stale)? as u16;
        let mut next = Some(0);
        while let Some(from) = next {
            let strays = self.strays(table, at, from).await?;
            if !strays.found.is_empty() {
                return Ok(false);
            }
            next = strays.next;
        }
        Ok(true)
    }

    async fn strays(&self, table: &Arc<Table<D>>, at: u16, from: u64) -> Round<Strays> {
        let seat = table.seat(at).ok_or(Broken::Stale)?;
        let known = table.clone();
        heard(
            seat.call(move |lane| async move { lane.strays(&known, at, from).await })
                .await,
        )
    }

    async fn look_through(
        &self,
        store: &NodeStore<D>,
        table: &Arc<Table<D>>,
        at: u16,
        pace: &mut Moment,
        tally: &mut Tally,
    ) -> Round<()> {
        let mut next = Some(0);
        while let Some(from) = next {
            let strays = self.strays(table, at, from).await?;
            for stray in strays.found {
                if self.is_closing.get() {
                    return Err(Broken::Stale);
                }
                if table.spread(stray.realm, &stray.key).is_lost_behind_home {
                    // What the lost drive has would stand before it. It is looked at again when the drive is back, or gone.
                    continue;
                }
                tally.strays += 1;
                self.keep_pace(pace, stray.length).await;
                match self.move_one(store, table, at, &stray).await {
                    Ok(true) => {
                        self.shared.moved_blobs.fetch_add(1, Ordering::Relaxed);
                        self.shared
                            .moved_bytes
                            .fetch_add(stray.length, Ordering::Relaxed);
                    }
                    Ok(false) => {}
                    Err(Broken::Stale) => return Err(Broken::Stale),
                    // The others may fare better.
                    Err(Broken::Later) => {}
                    Err(Broken::Stuck(error)) => {
                        self.stuck.tell(table, at, Some(&stray), &error);
                        tally.stuck += 1;
                    }
                }
            }
            next = strays.next;
        }
        if tally.stuck > 0 {
            let (drive, stuck) = (table.row(at).label(), tally.stuck);
            tracing::debug!(%drive, stuck, "blobs could not be moved; they are tried again");
        }
        Ok(())
    }

    /// Waits until so many bytes may go.
    async fn keep_pace(&self, pace: &mut Moment, bytes: u64) {
        let rate = self.options.move_bytes_per_second.max(1);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let now = self.options.drive.clock.now();
        while !self.is_closing.get() && self.options.drive.clock.now() < *pace {
            self.pause(pace.since(self.options.drive.clock.now())).await;
        }
        *pace = now.max(*pace) + Duration::from_nanos(nanos as u64);
    }

    /// Moves a blob home; whether it was moved. One that is older than a copy elsewhere, or the same, goes.
    async fn move_one(
        &self,
        store: &NodeStore<D>,
        table: &Arc<Table<D>>,
        from: u16,
        stray: &Stray,
    ) -> Round<bool> {
        let &Stray { realm, key, .. } = stray;
        let spread = table.spread(realm, &key);
        let home = spread.home.ok_or(Broken::Later)?;
        let held = store.hold(table, realm, key, &spread.present, home).await;
        let _held = held.map_err(|(_, refused)| match refused {
            Ok(refused) => broken(&refused),
            Err(NoLane) => Broken::Stale,
        })?;
        let mut first = None;
        for &at in &spread.present {
            let seat = table.seat(at).ok_or(Broken::Stale)?;
            if heard(
                seat.call(move |lane| async move { lane.has(realm, key).await })
                    .await,
            )? {
                first = Some(at);
                break;
            }
        }
        let delete_at = async |at: u16| -> Round<bool> {
            let seat = table.seat(at).ok_or(Broken::Stale)?;
            heard(
                seat.call(move |lane| async move { lane.delete(None, realm, key, None).await })
                    .await,
            )
        };
        if first.is_some_and(|first| first != from) {
            delete_at(from).await?;
            return Ok(false);
        }
        if first.is_none() && !spread.present.contains(&from) {
            let seat = table.seat(from).ok_or(Broken::Stale)?;
            let has = seat.call(move |lane| async move { lane.has(realm, key).await });
            first = heard(has.await)?.then_some(from);
        }
        if first.is_none() {
            // It was deleted meanwhile.
            return Ok(false);
        }
        // Others are from before drives were away, and must not come to stand before this one where it goes.
        for &at in spread.present.iter().filter(|at| **at != from) {
            delete_at(at).await?;
        }
        self.copy(table, from, home, stray).await?;
        delete_at(from).await?;
        Ok(true)
    }

    async fn copy(&self, table: &Table<D>, from: u16, to: u16, stray: &Stray) -> Round<()> {
        let &Stray {
            realm,
            key,
            kind,
            length,
            role,
        } = stray;
        let source = table.seat(from).ok_or(Broken::Stale)?;
        let target = table.seat(to).ok_or(Broken::Stale)?;
        let reserved = target.call(move |lane| async move { lane.import(realm, length).await });
        let reserved = reserved.await;
        if matches!(reserved, Ok(Err(Refused::NoLease))) {
            let (number, reply) = (table.row(to).number, None);
            self.shared.command(Command::Lease { number, reply });
        }
        let position = heard(reserved)?.position;
        let copied = async {
            let mut offset = 0;
            while offset < length {
                let bytes = (length - offset).min(MOVE_BYTES_AT_ONCE as u64) as usize;
                let part = source
                    .call(move |lane| async move { lane.export(realm, key, offset, bytes).await });
                let part = heard(part.await)?.ok_or(Broken::Later)?;
                let at = Position(position.0 + offset / BLOCK_BYTES as u64);
                let written =
                    target.call(move |lane| async move { lane.write(realm, at, part).await.1 });
                heard(written.await)?;
                offset += bytes as u64;
            }
            let commit = Commit {
                key,
                kind,
                position,
                length,
                checksum: None,
            };
            let committed = target
                .call(move |lane| async move { lane.commit(None, realm, commit, role).await });
            heard(committed.await).map(drop)
        };
        let copied = copied.await;
        if copied.is_err() {
            let give_up = target.call(move |lane| async move { lane.abandon(realm, position) });
            // A window that nobody gives up ends with its time.
            let _ = give_up.await;
        }
        copied
    }
}

fn broken(refused: &Refused) -> Broken {
    match refused {
        Refused::Stale | Refused::Gone(_) => Broken::Stale,
        Refused::NoLease => Broken::Later,
        Refused::Error(error) => Broken::Stuck(error.clone()),
    }
}

fn heard<T>(answer: Result<Result<T, Refused>, NoLane>) -> Round<T> {
    match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(refused)) => Err(broken(&refused)),
        Err(NoLane) => Err(Broken::Stale),
    }
}
