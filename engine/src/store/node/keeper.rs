//! The keeper of a store's drives: runs their logs, and is the only one who changes the roster and the table.
//!
//! ```text
//!   a drive fails ──┐
//!   add, drain ─────┼──► command ──► roster on every drive ──► table, for all cores ──► mover: blobs go home
//!   a lease wanted ─┘                                                                        │
//!                    ◄───────────────── settled, drained ◄───────────────────────────────────┘
//! ```
//!
//! What the table says is on the drives before anybody acts by it.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock};

use futures_channel::oneshot;

use super::super::error::StoreError;
use super::super::options::RealmOptions;
use super::super::types::RealmId;
use super::error::{DriveLabel, Loss};
use super::join::{Bell, Crowd, all, first};
use super::mover::StuckBlobs;
use super::open::{NodeOptions, present, stopped};
use super::place::{Draw, DriveNumber, PARTITIONS, Placed};
use super::roster::{Member, Roster};
use super::seat::{NodeDrive, Seat};
use super::table::{Command, Row, Shared, Table};
use crate::limits::{LEASE_LEFT_PART, SLAB_BLOCKS_MAX};

/// A drive of the store, as its keeper knows it.
pub(super) struct Kept<D> {
    pub(super) number: DriveNumber,
    pub(super) seat: Option<Seat<D>>,
    pub(super) name: Arc<str>,
    pub(super) loss: Option<Loss>,
    pub(super) slab_blocks: u64,
    /// Tells when its log does not run any more.
    pub(super) ended: Option<oneshot::Receiver<()>>,
}

impl<D> Kept<D> {
    pub(super) fn new(number: DriveNumber, seat: Option<Seat<D>>, name: Arc<str>) -> Self {
        Self {
            number,
            loss: seat.is_none().then_some(Loss::Missing),
            seat,
            name,
            slab_blocks: 0,
            ended: None,
        }
    }

    pub(super) fn label(&self) -> DriveLabel {
        DriveLabel {
            number: Some(self.number),
            name: self.name.clone(),
        }
    }
}

pub(super) struct State<D> {
    pub(super) roster: Roster,
    pub(super) kept: Vec<Kept<D>>,
    /// The voters of the roster that was written to all drives last.
    pub(super) voters: Vec<DriveNumber>,
    /// How many slots that roster leased.
    pub(super) slots: usize,
    pub(super) realms: Arc<[RealmOptions]>,
}

impl<D: NodeDrive> State<D> {
    /// Whether a roster may be written without those that are lost: only if they are no majority, which could be started
    /// alone and would not know of it, and if one of those that have to know it is among its own drives.
    fn may_go_on(&self) -> bool {
        let here = present(&self.kept);
        let left = self
            .voters
            .iter()
            .filter(|voter| here.contains(voter))
            .count();
        let stays = |voter: &&DriveNumber| {
            let members = &self.roster.members;
            here.contains(voter) && members.iter().any(|member| member.number == **voter)
        };
        self.voters.iter().any(|voter| stays(&voter)) && left * 2 >= self.voters.len()
    }

    pub(super) fn kept(&mut self, number: DriveNumber) -> Option<&mut Kept<D>> {
        self.kept.iter_mut().find(|kept| kept.number == number)
    }

    pub(super) fn seats(&self) -> Vec<(DriveNumber, Seat<D>)> {
        let here = self.kept.iter().filter(|kept| kept.loss.is_none());
        here.filter_map(|kept| Some((kept.number, kept.seat.clone()?)))
            .collect()
    }

    fn table(&self, version: u64) -> Table<D> {
        let here = present(&self.kept);
        let voters = self.roster.voters(&here);
        let mut members: Vec<&Member> = self.roster.members.iter().collect();
        members.sort_unstable_by_key(|member| member.number);
        let row = |member: &&Member| {
            let kept = self.kept.iter().find(|kept| kept.number == member.number);
            let kept = kept.expect("every member is kept");
            Row {
                number: member.number,
                seat: kept.seat.clone(),
                name: kept.name.clone(),
                loss: kept.loss.clone(),
                is_draining: member.is_draining,
                // Too few drives cannot know what others did without them.
                is_hungry: member.is_hungry || !voters.is_majority(),
                capacity_blocks: member.capacity_blocks,
            }
        };
        let of_drives = self.kept.iter().filter(|kept| kept.slab_blocks > 0);
        let slabs = of_drives.map(|kept| kept.slab_blocks);
        let rows: Vec<Row<D>> = members.iter().map(row).collect();
        let placed = |row: &Row<D>| Placed {
            number: row.number,
            capacity_blocks: row.capacity_blocks,
            is_present: row.loss.is_none(),
            is_draining: row.is_draining,
            is_hungry: row.is_hungry,
        };
        let placed: Vec<Placed> = rows.iter().map(placed).collect();
        let draw = Draw::new(self.roster.store);
        let row_of = |number: &DriveNumber| {
            let at = rows.iter().position(|row| row.number == *number);
            at.map(|at| at as u16)
        };
        Table {
            version,
            voters,
            spreads: (0..PARTITIONS).map(|_| OnceLock::new()).collect(),
            placed,
            draw,
            slot_blocks: self.roster.slot_blocks,
            slab_blocks: slabs.min().unwrap_or(SLAB_BLOCKS_MAX),
            slots: self.roster.slots.iter().map(row_of).collect(),
            realms: self.realms.clone(),
            rows,
        }
    }
}

/// Keeps a store's drives: to be [`run`](Self::run) for as long as the store is used.
pub struct Keeper<D: NodeDrive> {
    pub(super) shared: Arc<Shared<D>>,
    pub(super) options: NodeOptions,
    pub(super) mover_bell: Bell,
    pub(super) stuck: StuckBlobs,
    pub(super) sweeper_bell: Bell,
    pub(super) is_closing: Cell<bool>,
    pub(super) state: RefCell<State<D>>,
    pub(super) lanes: Crowd,
}

impl<D: NodeDrive> Keeper<D> {
    pub(super) async fn begin(roster: Roster, kept: Vec<Kept<D>>, options: NodeOptions) -> Self {
        let voters = roster.members.iter().filter(|member| member.is_voter);
        let voters = voters.map(|member| member.number).collect();
        let state = State {
            slots: roster.slots.len(),
            realms: options.drive.realms.as_slice().into(),
            roster,
            kept,
            voters,
        };
        let keeper = Self {
            shared: Arc::new(Shared::new(state.table(0))),
            options,
            mover_bell: Bell::default(),
            stuck: StuckBlobs::default(),
            sweeper_bell: Bell::default(),
            is_closing: Cell::new(false),
            state: RefCell::new(state),
            lanes: Crowd::default(),
        };
        for (number, seat) in keeper.seats() {
            keeper.settle_in(number, &seat).await;
        }
        // The lanes' logs do not run yet, and a failed drive of them is one that could not be opened.
        keeper.commit(|_| ()).await;
        for (number, seat) in keeper.seats() {
            keeper.give_leases(number, &seat).await;
        }
        keeper.publish().await;
        keeper
    }

    pub(super) fn shared(&self) -> Arc<Shared<D>> {
        self.shared.clone()
    }

    pub(super) fn losses(&self) -> Vec<(DriveLabel, Loss)> {
        let state = self.state.borrow();
        let lost = state
            .kept
            .iter()
            .filter_map(|kept| Some((kept.label(), kept.loss.clone()?)));
        lost.collect()
    }

    fn seats(&self) -> Vec<(DriveNumber, Seat<D>)> {
        self.state.borrow().seats()
    }

    fn lose(&self, number: DriveNumber, loss: Loss) {
        if let Some(kept) = self.state.borrow_mut().kept(number) {
            let drive = kept.label();
            tracing::error!(%drive, reason = %loss, "a drive of the store is lost");
            kept.loss.get_or_insert(loss);
        }
    }

    fn is_writable(&self) -> bool {
        let state = self.state.borrow();
        state.roster.voters(&present(&state.kept)).is_majority()
    }

    /// Has an opened drive know whose it is, gives it positions, and has its log run with [`run`](Self::run).
    pub(super) async fn settle_in(&self, number: DriveNumber, seat: &Seat<D>) {
        let shared = self.shared.clone();
        let belongs = seat.call(move |lane| async move {
            lane.belongs(number, shared);
            lane.slab_blocks()
        });
        match belongs.await {
            Ok(Ok(slab_blocks)) => {
                if let Some(kept) = self.state.borrow_mut().kept(number) {
                    kept.slab_blocks = slab_blocks;
                }
            }
            Ok(Err(error)) => return self.lose(number, Loss::Failed(error)),
            Err(_) => return self.lose(number, Loss::CoreStopped),
        }
        self.give_leases(number, seat).await;
        if self.is_writable() {
            self.lease_if_needed(number, seat).await;
        }
        let (tell, ended) = oneshot::channel();
        if let Some(kept) = self.state.borrow_mut().kept(number) {
            kept.ended = Some(ended);
        }
        let (shared, seat) = (self.shared.clone(), seat.clone());
        self.lanes.add(async move {
            let ran = seat.call_task(|lane| async move { lane.run().await }).await;
            let reason = match ran {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(Some(reason)),
                Err(_) => Some(None),
            };
            // Before anybody who waits for the end goes on.
            if let Some(reason) = reason {
                shared.command(Command::Lost { number, reason });
            }
            let _ = tell.send(());
        });
    }

    // ---- Positions ------------------------------------------------------------------------------

    pub(super) async fn give_leases(&self, number: DriveNumber, seat: &Seat<D>) {
        let slabs = {
            let mut state = self.state.borrow_mut();
            let slab_blocks = state.kept(number).map_or(0, |kept| kept.slab_blocks);
            let is_writable = state.roster.voters(&present(&state.kept)).is_majority();
            match slab_blocks {
                0 => Vec::new(),
                // Too few drives cannot know what was leased to others meanwhile.
                _ if !is_writable => Vec::new(),
                slab_blocks => {
                    let first = self.options.quiet_blocks.div_ceil(slab_blocks);
                    let leases = state.roster.leases(number, slab_blocks).into_iter();
                    let leases = leases.map(|slabs| slabs.start.max(first)..slabs.end);
                    leases.filter(|slabs| !slabs.is_empty()).collect()
                }
            }
        };
        let given = seat.call(move |lane| async move { lane.set_leases(slabs) });
        // A lane that is not there any more says so itself.
        let _ = given.await;
    }

    /// Leases more positions to a drive that has few left, in the roster that is committed next; whether it did.
    async fn lease_if_needed(&self, number: DriveNumber, seat: &Seat<D>) -> bool {
        let left = seat.call(|lane| async move { lane.slabs_left() }).await;
        let mut state = self.state.borrow_mut();
        let slab_blocks = state.kept(number).map_or(0, |kept| kept.slab_blocks).max(1);
        let of_one = state.roster.slot_blocks / slab_blocks;
        match left {
            Ok(left) if left * LEASE_LEFT_PART < of_one || left == 0 => state.roster.lease(number),
            _ => false,
        }
    }

    async fn lease(&self, number: DriveNumber) -> bool {
        let seat = self.seats().into_iter().find(|(of, _)| *of == number);
        let Some((_, seat)) = seat.filter(|_| self.is_writable()) else {
            return false;
        };
        if !self.lease_if_needed(number, &seat).await {
            // Perhaps somebody else has asked before.
            let left = seat.call(|lane| async move { lane.slabs_left() }).await;
            return left.is_ok_and(|left| left > 0);
        }
        let is_told = self.commit(|_| ()).await;
        self.publish().await;
        self.give_leases(number, &seat).await;
        is_told
    }

    // ---- The roster and the table ---------------------------------------------------------------

    /// Changes the roster, and writes it to all drives that are there. Those that it cannot be written to are lost, which
    /// is a change as well. False if too few are left to write to; then nothing is leased that was not leased before.
    pub(super) async fn commit(&self, change: impl FnOnce(&mut Roster)) -> bool {
        let is_told = self.is_writable() && self.write_everywhere(change).await;
        let mut state = self.state.borrow_mut();
        let State { roster, slots, .. } = &mut *state;
        match is_told {
            true => *slots = roster.slots.len(),
            // Whoever starts next may lease them to another drive.
            false => roster.slots.truncate(*slots),
        }
        is_told
    }

    async fn write_everywhere(&self, change: impl FnOnce(&mut Roster)) -> bool {
        change(&mut self.state.borrow_mut().roster);
        loop {
            let (roster, seats) = {
                let mut state = self.state.borrow_mut();
                let here = present(&state.kept);
                if !state.may_go_on() {
                    // From here on it can be read only. The next start asks those who were there last.
                    let State { roster, voters, .. } = &mut *state;
                    for member in &mut roster.members {
                        member.is_voter = voters.contains(&member.number);
                    }
                    return false;
                }
                state.roster.epoch += 1;
                let State { roster, kept, .. } = &mut *state;
                for member in &mut roster.members {
                    let is_here = here.contains(&member.number);
                    member.is_voter = is_here;
                    member.is_hungry |= !is_here;
                    if let Some(kept) = kept.iter().find(|kept| kept.number == member.number) {
                        member.name = kept.name.to_string();
                    }
                }
                (state.roster.clone(), state.seats())
            };
            let mut is_everywhere = true;
            // A drive that is new comes last: it must not say that it is one of the store's when the others do not know.
            for (number, seat) in seats {
                let roster = roster.clone();
                let written =
                    seat.call(move |lane| async move { lane.write_roster(roster, number).await });
                if let Err(error) = written.await.map_err(stopped).and_then(|written| written) {
                    self.lose(number, Loss::Unreadable(error));
                    is_everywhere = false;
                    break;
                }
            }
            if is_everywhere {
                let mut state = self.state.borrow_mut();
                let voters = roster.members.iter().filter(|member| member.is_voter);
                state.voters = voters.map(|member| member.number).collect();
                return true;
            }
        }
    }

    /// Shows all cores what the roster says.
    pub(super) async fn publish(&self) {
        let table = self.state.borrow().table(self.shared.version() + 1);
        if self.is_writable() {
            let roster = &self.state.borrow().roster;
            self.shared.large.begin(roster.term, roster.epoch);
        }
        let takes = |row: &&Row<D>| row.loss.is_none() && !row.is_draining;
        let all: u64 = table
            .rows
            .iter()
            .filter(takes)
            .map(|row| row.capacity_blocks)
            .sum();
        let mut shares = Vec::new();
        for row in table.rows.iter().filter(takes) {
            let share = |quota: u64| {
                let share = u128::from(quota) * u128::from(row.capacity_blocks);
                share.div_ceil(u128::from(all.max(1))) as u64
            };
            let of_realm = |realm: &RealmOptions| (realm.id, realm.quota_blocks.map(share));
            let of_realms: Vec<(RealmId, Option<u64>)> =
                table.realms.iter().map(of_realm).collect();
            if let Some(seat) = row.seat.clone() {
                shares.push((seat, of_realms));
            }
        }
        self.shared.publish(table);
        for (seat, shares) in shares {
            let set = seat.call(move |lane| async move { lane.set_quotas(&shares) });
            // A lane that is not there any more has no use for it.
            let _ = set.await;
        }
        self.mover_bell.ring();
        self.sweeper_bell.ring();
    }

    // ---- Commands -------------------------------------------------------------------------------

    /// Runs the drives' logs, and does what becomes necessary, until the store is closed.
    pub async fn run(self) {
        let work = async {
            loop {
                match self.shared.next_command().await {
                    Command::Close => break,
                    command => self.handle(command).await,
                }
            }
            self.is_closing.set(true);
            self.mover_bell.ring();
        };
        let work = async {
            let background = async {
                first(self.move_blobs(), self.sweep_parts()).await;
                std::future::pending().await
            };
            first(work, background).await;
            for (_, seat) in self.all_seats() {
                // Where the core has stopped, so has the log.
                let _ = seat.call(|lane| async move { lane.finish() }).await;
            }
            self.lanes.last_call();
            std::future::pending().await
        };
        first(self.lanes.run(), work).await;
        // All at once: an index that is kept is written out, which takes its time.
        let close = |(number, seat): (DriveNumber, Seat<D>)| async move {
            let closed = seat.call(|lane| async move { lane.close().await }).await;
            if let Ok(Err(error)) = closed {
                tracing::warn!(drive = %number, %error, "a drive was not closed in order");
            }
            seat.give_up().await;
        };
        all(self.all_seats().into_iter().map(close)).await;
        self.shared.end();
    }

    pub(super) fn all_seats(&self) -> Vec<(DriveNumber, Seat<D>)> {
        let state = self.state.borrow();
        let seats = state
            .kept
            .iter()
            .filter_map(|kept| Some((kept.number, kept.seat.clone()?)));
        seats.collect()
    }

    async fn handle(&self, command: Command<D>) {
        // Whoever asked may have lost interest.
        match command {
            Command::Lost { number, reason } => self.has_failed(number, reason).await,
            Command::Lease { number, reply } => {
                let is_granted = self.lease(number).await;
                if let Some(reply) = reply {
                    let _ = reply.send(is_granted);
                }
            }
            Command::Add {
                seat,
                format,
                reply,
            } => {
                let added = self.add(&seat, &format).await;
                if added.is_err() {
                    let _ = seat.call(|lane| async move { lane.close().await }).await;
                    seat.give_up().await;
                }
                let _ = reply.send(added);
            }
            Command::Realms { realms, reply } => {
                let _ = reply.send(self.set_realms(&realms).await);
            }
            Command::Drain { number, reply } => {
                let _ = reply.send(self.drain(number).await);
            }
            Command::Forget { number, reply } => {
                let _ = reply.send(self.forget(number).await);
            }
            Command::Sweep => self.sweeper_bell.ring(),
            Command::Settled { version } if version == self.shared.version() => {
                let settle = |roster: &mut Roster| {
                    roster
                        .members
                        .iter_mut()
                        .for_each(|member| member.is_hungry = false);
                };
                self.commit(settle).await;
                self.publish().await;
            }
            Command::Drained { number, version } if version == self.shared.version() => {
                self.let_go(number).await;
            }
            Command::Settled { .. } | Command::Drained { .. } | Command::Close => {}
        }
    }

    async fn has_failed(&self, number: DriveNumber, reason: Option<StoreError>) {
        let is_news = {
            let mut state = self.state.borrow_mut();
            let kept = state.kept(number);
            kept.is_some_and(|kept| kept.loss.is_none())
        };
        if !is_news || self.is_closing.get() {
            return;
        }
        self.lose(number, reason.map_or(Loss::CoreStopped, Loss::Failed));
        let goes_on = self.state.borrow().may_go_on() && self.shared.table().voters.is_majority();
        if goes_on && let Some(member) = self.state.borrow_mut().roster.member_mut(number) {
            // As one that is lost, it must not be counted on to say so.
            member.is_voter = false;
        }
        self.commit(|_| ()).await;
        self.publish().await;
    }
}
