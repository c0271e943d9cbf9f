//! Drives that come to a store and leave it while it is used.

use std::time::Duration;

use super::super::format::FormatOptions;
use super::super::options::RealmOptions;
use super::super::recovery::OpenOptions;
use super::error::{ChangeError, Loss, NodeError, NodeOpenError};
use super::keeper::{Keeper, Kept, State};
use super::open::{check_slot, drive_error, label, present, stopped};
use super::place::DriveNumber;
use super::roster::{Member, Voters};
use super::seat::{NodeDrive, Seat};
use super::table::Departed;
use crate::limits::DRIVES_MAX;

/// How often it is looked whether the last reader of an emptied drive is gone.
const READERS_PAUSE: Duration = Duration::from_millis(1);

impl<D: NodeDrive> Keeper<D> {
    fn voters(&self) -> Voters {
        let state = self.state.borrow();
        state.roster.voters(&present(&state.kept))
    }

    fn read_only(&self) -> ChangeError {
        let voters = self.voters();
        NodeError::ReadOnly { voters }.into()
    }

    fn check_writable(&self) -> Result<(), ChangeError> {
        match self.voters().is_majority() {
            true => Ok(()),
            false => Err(self.read_only()),
        }
    }

    pub(super) async fn add(
        &self,
        seat: &Seat<D>,
        format: &FormatOptions,
    ) -> Result<DriveNumber, ChangeError> {
        self.check_writable()?;
        let (store, slot_blocks, members) = {
            let state = self.state.borrow();
            let roster = &state.roster;
            (roster.store, roster.slot_blocks, roster.members.len())
        };
        let own = seat
            .call(|lane| async move { lane.ledger.read(&lane.drive).await })
            .await;
        let own = own.map_err(stopped).and_then(|own| own);
        let own = own
            .map_err(drive_error(label(seat, None)))
            .map_err(ChangeError::Open)?;
        let own = own.filter(|own| own.store == store);
        if let Some(own) = own {
            // Also one whose own copy says that it is none any more: the drives that took its place may have failed just when
            // it was to be let go.
            if self.state.borrow().roster.member(own.this).is_some() {
                return self.add_again(seat, own.this).await;
            }
            if own.member(own.this).is_none() {
                // It was emptied, and the power went before it was given back.
                let wiped = seat.call(|lane| async move { lane.wipe().await }).await;
                let wiped = wiped.map_err(stopped).and_then(|wiped| wiped);
                wiped.map_err(drive_error(label(seat, None)))?;
            }
        }
        check_slot(slot_blocks, format.slab_blocks)?;
        if members == DRIVES_MAX {
            let (drives, max) = (members + 1, DRIVES_MAX);
            return Err(NodeOpenError::TooManyDrives { drives, max }.into());
        }
        let options = *format;
        let prepared = seat.call(move |lane| async move { lane.prepare(store, &options).await });
        let prepared = prepared
            .await
            .map_err(stopped)
            .and_then(|prepared| prepared);
        let capacity_blocks = prepared.map_err(drive_error(label(seat, None)))?;
        let number = DriveNumber(self.state.borrow().roster.next);
        let blobs_max = self.options.drive.blobs_max;
        let index = seat
            .call(move |lane| async move { lane.make_index((store, number), blobs_max).map(drop) });
        let index = index.await.map_err(stopped).and_then(|index| index);
        index.map_err(drive_error(label(seat, Some(number))))?;
        // Whatever becomes of it, no other drive gets that number: so the new one may know it before the others know the
        // drive. Where the power goes in between, it is either theirs or blank.
        if !self.commit(|roster| roster.next += 1).await {
            self.publish().await;
            return Err(self.read_only());
        }
        let roster = self.state.borrow().roster.clone();
        let numbered =
            seat.call(move |lane| async move { lane.write_roster(roster, number).await });
        let numbered = numbered.await.map_err(stopped).and_then(|done| done);
        numbered.map_err(drive_error(label(seat, None)))?;
        let name = seat.name().clone();
        let mut kept = Kept::new(number, Some(seat.clone()), name.clone());
        kept.slab_blocks = format.slab_blocks;
        self.state.borrow_mut().kept.push(kept);
        let is_told = self
            .commit(|roster| {
                roster.members.push(Member {
                    number,
                    capacity_blocks,
                    is_draining: false,
                    is_hungry: true,
                    is_voter: true,
                    name: name.to_string(),
                });
            })
            .await;
        if !is_told {
            // The others failed just now, and know nothing of this one: so it is not the store's.
            {
                let mut state = self.state.borrow_mut();
                state.kept.retain(|kept| kept.number != number);
                let members = &mut state.roster.members;
                members.retain(|member| member.number != number);
            }
            self.publish().await;
            return Err(self.read_only());
        }
        self.take_in(seat, number).await?;
        Ok(number)
    }

    /// Takes back a drive that was lost.
    async fn add_again(
        &self,
        seat: &Seat<D>,
        number: DriveNumber,
    ) -> Result<DriveNumber, ChangeError> {
        let before = {
            let mut state = self.state.borrow_mut();
            let drive = label(seat, Some(number));
            let kept = state
                .kept(number)
                .ok_or(ChangeError::NoSuchDrive { number })?;
            if kept.loss.is_none() {
                return Err(ChangeError::InUse { drive });
            }
            (kept.seat.take(), kept.ended.take())
        };
        // What is left of it from before it was lost.
        if let (Some(seat), ended) = before {
            let _ = seat.call(|lane| async move { lane.finish() }).await;
            if let Some(ended) = ended {
                let _ = ended.await;
            }
            let _ = seat.call(|lane| async move { lane.close().await }).await;
            seat.give_up().await;
        }
        if let Some(kept) = self.state.borrow_mut().kept(number) {
            kept.seat = Some(seat.clone());
            kept.name = seat.name().clone();
        }
        self.take_in(seat, number).await?;
        Ok(number)
    }

    /// Opens the log of a drive that came, and lets everybody know.
    async fn take_in(&self, seat: &Seat<D>, number: DriveNumber) -> Result<(), ChangeError> {
        let options = OpenOptions {
            realms: self.state.borrow().realms.to_vec(),
            ..self.options.drive.clone()
        };
        let of = (self.state.borrow().roster.store, number);
        let opened = seat.call(move |lane| async move { lane.open(of, &options).await });
        let opened = opened.await.map_err(stopped).and_then(|opened| opened);
        if let Err(error) = opened {
            if let Some(kept) = self.state.borrow_mut().kept(number) {
                kept.loss = Some(Loss::Unreadable(error.clone()));
                kept.seat = None;
            }
            self.commit(|_| ()).await;
            self.publish().await;
            return Err(drive_error(label(seat, Some(number)))(error).into());
        }
        if let Some(kept) = self.state.borrow_mut().kept(number) {
            kept.loss = None;
        }
        self.settle_in(number, seat).await;
        self.commit(|roster| {
            if let Some(member) = roster.member_mut(number) {
                member.is_hungry = true;
            }
        })
        .await;
        self.give_leases(number, seat).await;
        self.publish().await;
        Ok(())
    }

    /// Takes new realms in, and has those that there are checked and limited as they are given.
    pub(super) async fn set_realms(&self, realms: &[RealmOptions]) -> Result<(), ChangeError> {
        for known in self.state.borrow().realms.iter() {
            let realm = known.id;
            let wanted = realms.iter().find(|wanted| wanted.id == realm);
            let wanted = wanted.ok_or(ChangeError::RealmLeftOut { realm })?;
            if wanted.cache != known.cache {
                return Err(ChangeError::CacheOfRealm { realm });
            }
            if wanted.name != known.name {
                return Err(ChangeError::NameOfRealm { realm });
            }
        }
        // Every drive knows them before anybody else does.
        for (_, seat) in self.all_seats() {
            let realms = realms.to_vec();
            // Where the core has stopped, so has the log.
            let _ = seat
                .call(move |lane| async move { lane.set_realms(&realms) })
                .await;
        }
        self.state.borrow_mut().realms = realms.into();
        self.publish().await;
        Ok(())
    }

    pub(super) async fn drain(&self, number: DriveNumber) -> Result<(), ChangeError> {
        self.check_writable()?;
        {
            let mut state = self.state.borrow_mut();
            let State { roster, .. } = &*state;
            let takes = |member: &&Member| member.number != number && !member.is_draining;
            let mut others: Vec<DriveNumber> = roster
                .members
                .iter()
                .filter(takes)
                .map(|member| member.number)
                .collect();
            let here = present(&state.kept);
            others.retain(|number| here.contains(number));
            let kept = state
                .kept(number)
                .ok_or(ChangeError::NoSuchDrive { number })?;
            let drive = kept.label();
            if kept.loss.is_some() {
                return Err(ChangeError::CannotDrain { drive });
            }
            if others.is_empty() {
                return Err(ChangeError::LastDrive { drive });
            }
        }
        self.commit(|roster| {
            if let Some(member) = roster.member_mut(number) {
                member.is_draining = true;
            }
        })
        .await;
        self.publish().await;
        Ok(())
    }

    pub(super) async fn forget(&self, number: DriveNumber) -> Result<(), ChangeError> {
        {
            let mut state = self.state.borrow_mut();
            let kept = state
                .kept(number)
                .ok_or(ChangeError::NoSuchDrive { number })?;
            let drive = kept.label();
            if kept.loss.is_none() {
                return Err(ChangeError::NotLost { drive });
            }
            // Whoever says so speaks for it.
            let State {
                roster,
                kept,
                voters: before,
                ..
            } = &mut *state;
            let mut without = roster.clone();
            without.members.retain(|member| member.number != number);
            let voters = without.voters(&present(kept));
            if !voters.is_majority() {
                return Err(NodeError::ReadOnly { voters }.into());
            }
            before.retain(|voter| *voter != number);
            *roster = without;
        }
        self.commit(|_| ()).await;
        let kept = {
            let mut state = self.state.borrow_mut();
            let at = state.kept.iter().position(|kept| kept.number == number);
            at.map(|at| state.kept.swap_remove(at))
        };
        self.publish().await;
        if let Some(kept) = kept {
            tracing::warn!(drive = %kept.label(), "a lost drive is given up, with all that was on it");
            self.part_with(kept, false);
        }
        Ok(())
    }

    /// A drive holds nothing any more: it is not the store's from here on.
    pub(super) async fn let_go(&self, number: DriveNumber) {
        // The drive's own copy says so, too, which is why it may be wiped.
        let member = {
            let mut state = self.state.borrow_mut();
            let here = present(&state.kept);
            let takes_over = |member: &Member| {
                member.number != number && member.is_voter && here.contains(&member.number)
            };
            if !state.roster.members.iter().any(takes_over) {
                // It alone has a say now, and stays until another drive is back that has one.
                return;
            }
            state.roster.member_mut(number).cloned()
        };
        let is_told = self
            .commit(|roster| roster.members.retain(|member| member.number != number))
            .await;
        if !is_told {
            // The drives that its blobs went to failed just now, and it has the say that they would need.
            self.state.borrow_mut().roster.members.extend(member);
            self.publish().await;
            return;
        }
        let kept = {
            let mut state = self.state.borrow_mut();
            let at = state.kept.iter().position(|kept| kept.number == number);
            at.map(|at| state.kept.swap_remove(at))
        };
        self.publish().await;
        let Some(kept) = kept else {
            return;
        };
        tracing::info!(drive = %kept.label(), "a drive is empty, and not the store's any more");
        let is_well = kept.loss.is_none();
        self.part_with(kept, is_well);
    }

    /// Closes a drive that nobody asks any more, once its last reader is gone.
    fn part_with(&self, kept: Kept<D>, wipes: bool) {
        let drive = kept.label();
        let Kept { seat, ended, .. } = kept;
        let Some(seat) = seat else {
            return;
        };
        let sleep = self.options.sleep.clone();
        let shared = self.shared.clone();
        self.lanes.add(async move {
            // Whatever fails here is tried again at the next start.
            let _ = seat.call(|lane| async move { lane.finish() }).await;
            if let Some(ended) = ended {
                let _ = ended.await;
            }
            while let Ok(true) = seat.call(|lane| async move { lane.is_read() }).await {
                sleep(READERS_PAUSE).await;
            }
            let closed = seat.call(move |lane| async move {
                lane.drop_log();
                if wipes && let Err(error) = lane.wipe().await {
                    tracing::warn!(drive = %lane.name, %error, "an emptied drive could not be wiped");
                }
                lane.close().await
            });
            let _ = closed.await;
            seat.give_up().await;
            let is_emptied = wipes;
            shared.has_departed(Departed { drive, is_emptied });
        });
    }
}
