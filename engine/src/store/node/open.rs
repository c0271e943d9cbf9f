//! Making a store on many drives, and opening it with those that are there.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::drive::ExtentName;
use super::super::error::{OpenError, StoreError};
use super::super::format::{FormatOptions, format};
use super::super::recovery::{OpenOptions, Recovery, read_label, was_opened};
use super::super::types::StoreId;
use super::error::{DriveLabel, Loss, NodeOpenError};
use super::handle::NodeStore;
use super::join::all;
use super::keeper::{Keeper, Kept};
use super::lane::Lane;
use super::place::DriveNumber;
use super::roster::{Member, Roster};
use super::seat::{NoLane, NodeDrive, Seat};
use crate::limits::{DRIVES_MAX, QUIET_BLOCKS};

/// How the keeper waits.
pub type Sleep = Rc<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()>>>>;

/// How a store of many drives is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeFormat {
    /// Of each drive.
    pub drive: FormatOptions,
    /// Blocks of a slot: positions are leased to drives by so many. A power of two.
    pub slot_blocks: u64,
}

impl Default for NodeFormat {
    /// Slots of 1 PiB, 4,096 of them.
    fn default() -> Self {
        Self {
            drive: FormatOptions::default(),
            slot_blocks: 1 << 38,
        }
    }
}

/// How a store of many drives is opened.
#[derive(Clone)]
pub struct NodeOptions {
    /// As for each drive, `blobs_max` among it; the quotas of realms are the store's.
    pub drive: OpenOptions,
    /// Drives that are gone for good, with all that was on them. They must not be among those that are given.
    pub gone: Vec<DriveNumber>,
    /// Bytes a second that go from drive to drive at most, where drives were added or are emptied.
    pub move_bytes_per_second: u64,
    /// No window is laid in so many of the log's first blocks: those who look for partitions read them, and are to find
    /// zeros. What is there already stays.
    pub quiet_blocks: u64,
    /// How the keeper waits.
    pub sleep: Sleep,
}

impl Default for NodeOptions {
    /// 256 MiB a second, and a MiB without windows; on reactors.
    fn default() -> Self {
        Self {
            drive: OpenOptions::default(),
            gone: Vec::new(),
            move_bytes_per_second: 256 << 20,
            quiet_blocks: QUIET_BLOCKS,
            sleep: Rc::new(|time| Box::pin(crate::reactor::sleep(time))),
        }
    }
}

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeRecovery {
    /// What each drive's log found.
    pub drives: Vec<(DriveLabel, Recovery)>,
    /// Drives of the store that are lost, and why.
    pub lost: Vec<(DriveLabel, Loss)>,
    /// Drives that were given and hold no store: they are not used. Their seats can be given to [`NodeStore::add`], or
    /// have to be closed.
    pub blank: Vec<DriveLabel>,
}

/// What stands on a drive.
struct Looked {
    store: StoreId,
    roster: Option<Roster>,
}

impl<D: NodeDrive> Lane<D> {
    async fn look(&self) -> Result<Option<Looked>, OpenError> {
        let roster = self.ledger.read(&self.drive).await?;
        let extents = self.drive.extents().await?;
        let label = extents.iter().find(|(name, _)| *name == ExtentName::Label);
        let Some((_, label)) = label else {
            // Where a drive that was emptied is given back, the rosters go last.
            let store = roster.as_ref().map(|roster| roster.store);
            return Ok(store.map(|store| Looked { store, roster }));
        };
        let label = match read_label(&self.drive, label).await {
            Err(OpenError::Damaged { .. }) if !was_opened(extents.iter().map(|(name, _)| name)) => {
                return Ok(None);
            }
            label => label?,
        };
        if roster.is_none() && !was_opened(extents.iter().map(|(name, _)| name)) {
            // It was about to be made one of the store's when the power went.
            return Ok(None);
        }
        let store = label.store;
        Ok(Some(Looked { store, roster }))
    }

    /// Makes the drive one of that store, and says how many blocks it has; what an attempt before this one has left is
    /// written over.
    pub(super) async fn prepare(
        &self,
        store: StoreId,
        options: &FormatOptions,
    ) -> Result<u64, OpenError> {
        match format(&self.drive, store, options).await {
            Err(OpenError::Formatted { store: found }) if found == store => {
                let extents = self.drive.extents().await?;
                if was_opened(extents.iter().map(|(name, _)| name)) {
                    return Err(OpenError::Formatted { store: found });
                }
                drop(extents);
                self.wipe().await?;
                format(&self.drive, store, options).await?;
            }
            formatted => formatted?,
        }
        Ok(self.drive.free_blocks())
    }

    /// Deletes all extents: the label late, and the rosters last, which say that this may be gone on with.
    pub(super) async fn wipe(&self) -> Result<(), OpenError> {
        self.ledger.drop_extents();
        let mut extents = self.drive.extents().await?;
        extents.sort_by_key(|(name, _)| match name {
            ExtentName::Roster(_) => 2,
            ExtentName::Label => 1,
            _ => 0,
        });
        for (_, extent) in extents {
            self.drive.delete(extent).await?;
        }
        Ok(())
    }

    pub(super) async fn write_roster(
        &self,
        mut roster: Roster,
        this: DriveNumber,
    ) -> Result<(), OpenError> {
        roster.this = this;
        let written = self.ledger.write(&self.drive, roster).await;
        // A drive that does not keep what is written to it has nothing more to promise.
        if let (Err(OpenError::Drive(reason)), Ok(log)) = (&written, self.log()) {
            log.stop(Vec::new(), reason.clone());
        }
        written
    }

    pub(super) fn slab_blocks(&self) -> Result<u64, StoreError> {
        Ok(self.log()?.layout.slab_blocks)
    }
}

pub(super) fn label<D: NodeDrive>(seat: &Seat<D>, number: Option<DriveNumber>) -> DriveLabel {
    DriveLabel {
        number,
        name: seat.name().clone(),
    }
}

pub(super) fn drive_error(drive: DriveLabel) -> impl FnOnce(OpenError) -> NodeOpenError {
    |source| NodeOpenError::Drive { drive, source }
}

pub(super) fn stopped(_: NoLane) -> OpenError {
    OpenError::Drive(super::super::drive::DriveError::Failed {
        reason: "its core has stopped".into(),
    })
}

pub(super) fn check_slot(slot_blocks: u64, slab_blocks: u64) -> Result<(), NodeOpenError> {
    match slot_blocks.is_power_of_two() && slot_blocks >= slab_blocks {
        true => Ok(()),
        false => Err(NodeOpenError::BadSlot {
            slot_blocks,
            slab_blocks,
        }),
    }
}

/// Makes a store on drives that hold none. If that did not come to its end, it can be done again.
pub async fn format_node<D: NodeDrive>(
    seats: &[Seat<D>],
    store: StoreId,
    options: &NodeFormat,
) -> Result<(), NodeOpenError> {
    check_count(seats)?;
    check_slot(options.slot_blocks, options.drive.slab_blocks)?;
    let mut members = Vec::new();
    for (number, seat) in (0..).map(DriveNumber).zip(seats) {
        let drive = options.drive;
        let prepared = seat.call(move |lane| async move { lane.prepare(store, &drive).await });
        let prepared = prepared
            .await
            .map_err(stopped)
            .and_then(|prepared| prepared);
        members.push(Member {
            number,
            capacity_blocks: prepared.map_err(drive_error(label(seat, Some(number))))?,
            is_draining: false,
            is_hungry: false,
            is_voter: true,
            name: seat.name().to_string(),
        });
    }
    let roster = Roster {
        store,
        term: 1,
        epoch: 1,
        promised: 1,
        writes: 0,
        slot_blocks: options.slot_blocks,
        this: DriveNumber(0),
        next: seats.len() as u16,
        slots: Vec::new(),
        members,
    };
    for (number, seat) in (0..).map(DriveNumber).zip(seats) {
        let roster = roster.clone();
        let written = seat.call(move |lane| async move { lane.write_roster(roster, number).await });
        let written = written.await.map_err(stopped).and_then(|written| written);
        written.map_err(drive_error(label(seat, Some(number))))?;
    }
    Ok(())
}

fn check_count<D>(seats: &[Seat<D>]) -> Result<(), NodeOpenError> {
    match seats.len() {
        0 => Err(NodeOpenError::NoDrives),
        drives if drives > DRIVES_MAX => Err(NodeOpenError::TooManyDrives {
            drives,
            max: DRIVES_MAX,
        }),
        _ => Ok(()),
    }
}

/// Opens a store with those of its drives that are given. The keeper has to be run for as long as the store is used.
///
/// A drive that cannot be read is lost, and the store goes on without it. Where that leaves it too few drives, it is
/// opened to be read only.
pub async fn open_node<D: NodeDrive>(
    seats: Vec<Seat<D>>,
    options: NodeOptions,
) -> Result<(NodeStore<D>, Keeper<D>, NodeRecovery), NodeOpenError> {
    let opened = try_open(&seats, options).await;
    if opened.is_err() {
        for seat in &seats {
            // What is wrong with the drives is known already.
            let _ = seat.call(|lane| async move { lane.close().await }).await;
            seat.give_up().await;
        }
    }
    opened
}

/// The drives whose rosters could be read.
struct Found<D> {
    newest: Roster,
    own: BTreeMap<DriveNumber, (Seat<D>, Roster)>,
}

async fn find<D: NodeDrive>(
    seats: &[Seat<D>],
    expected: Option<StoreId>,
    recovery: &mut NodeRecovery,
) -> Result<Found<D>, NodeOpenError> {
    let look = |seat: Seat<D>| async move {
        let looked = seat.call(|lane| async move { lane.look().await }).await;
        (seat, looked.map_err(stopped).and_then(|looked| looked))
    };
    let looked = all(seats.iter().cloned().map(look)).await;
    let mut rosters = Vec::new();
    let mut expected = expected;
    for (seat, looked) in looked {
        let name = label(&seat, None);
        let looked = match looked {
            Ok(Some(looked)) => looked,
            Ok(None) => {
                recovery.blank.push(name);
                continue;
            }
            Err(error @ (OpenError::Drive(_) | OpenError::Damaged { .. })) => {
                recovery.lost.push((name, Loss::Unreadable(error)));
                continue;
            }
            Err(error) => return Err(drive_error(name)(error)),
        };
        let found = looked.store;
        let store = *expected.get_or_insert(found);
        if store != found {
            return Err(NodeOpenError::OtherStore {
                name: seat.name().clone(),
                expected: store,
                found,
            });
        }
        let roster = looked.roster;
        let drive = name.clone();
        rosters.push((seat, roster.ok_or(NodeOpenError::Unknown { drive })?));
    }
    let newest = rosters
        .iter()
        .map(|(_, roster)| roster)
        .max_by_key(|roster| roster.age());
    let newest = newest.cloned().ok_or(NodeOpenError::NoDrives)?;
    let mut own: BTreeMap<DriveNumber, (Seat<D>, Roster)> = BTreeMap::new();
    for (seat, roster) in rosters {
        let number = roster.this;
        if newest.member(number).is_none() {
            let drive = label(&seat, Some(number));
            if roster.member(number).is_some() {
                return Err(NodeOpenError::Forgotten { drive });
            }
            // It was emptied, and is to be given back.
            let wiped = seat.call(|lane| async move { lane.wipe().await }).await;
            if let Err(error) = wiped.map_err(stopped).and_then(|wiped| wiped) {
                tracing::warn!(%drive, %error, "a drive that was emptied could not be wiped");
            }
            recovery.blank.push(drive);
            continue;
        }
        if let Some((first, _)) = own.get(&number) {
            return Err(NodeOpenError::Twice {
                number,
                first: first.name().clone(),
                second: seat.name().clone(),
            });
        }
        own.insert(number, (seat, roster));
    }
    Ok(Found { newest, own })
}

async fn try_open<D: NodeDrive>(
    seats: &[Seat<D>],
    options: NodeOptions,
) -> Result<(NodeStore<D>, Keeper<D>, NodeRecovery), NodeOpenError> {
    check_count(seats)?;
    let mut recovery = NodeRecovery::default();
    let Found { mut newest, own } = find(seats, options.drive.store, &mut recovery).await?;
    if let Some((number, (seat, _))) = own.iter().find(|(of, _)| options.gone.contains(of)) {
        let drive = label(seat, Some(*number));
        return Err(NodeOpenError::NotGone { drive });
    }
    newest
        .members
        .retain(|member| !options.gone.contains(&member.number));
    if newest.members.is_empty() {
        return Err(NodeOpenError::NoDrives);
    }
    let mut kept: Vec<Kept<D>> = Vec::new();
    for member in &newest.members {
        let seat = own.get(&member.number).map(|(seat, _)| seat.clone());
        let name: Arc<str> = match &seat {
            Some(seat) => seat.name().clone(),
            None => member.name.as_str().into(),
        };
        kept.push(Kept::new(member.number, seat, name));
    }
    promise(&mut newest, &own, &mut kept).await;
    let open = |kept: &Kept<D>| {
        let (seat, loss) = (kept.seat.clone(), kept.loss.clone());
        let of = (newest.store, kept.number);
        let drive = OpenOptions {
            store: Some(newest.store),
            // The store's quota is shared out once it is known to how many.
            ..options.drive.clone()
        };
        async move {
            let seat = seat.filter(|_| loss.is_none())?;
            let opened = seat.call(move |lane| async move {
                let recovery = lane.open(of, &drive).await?;
                let slab_blocks = lane.slab_blocks();
                Ok((recovery, slab_blocks))
            });
            Some(opened.await.map_err(stopped).and_then(|opened| opened))
        }
    };
    let opened = all(kept.iter().map(open)).await;
    for (kept, opened) in kept.iter_mut().zip(opened) {
        match opened {
            None => {}
            Some(Ok((of_drive, slab_blocks))) => {
                kept.slab_blocks = slab_blocks.unwrap_or(newest.slot_blocks);
                check_slot(newest.slot_blocks, kept.slab_blocks)?;
                recovery.drives.push((kept.label(), of_drive));
            }
            Some(Err(
                error @ (OpenError::Drive(_)
                | OpenError::Damaged { .. }
                | OpenError::Missing { .. }
                | OpenError::NotFormatted),
            )) => kept.loss = Some(Loss::Unreadable(error)),
            Some(Err(error)) => return Err(drive_error(kept.label())(error)),
        }
    }
    let keeper = Keeper::begin(newest, kept, options).await;
    recovery.lost.extend(keeper.losses());
    Ok((NodeStore::new(keeper.shared()), keeper, recovery))
}

/// Has a majority promise a term that nobody has written in; without one, nothing is changed.
async fn promise<D: NodeDrive>(
    newest: &mut Roster,
    own: &BTreeMap<DriveNumber, (Seat<D>, Roster)>,
    kept: &mut [Kept<D>],
) {
    if !newest.voters(&present(kept)).is_majority() {
        return;
    }
    let promises = own
        .values()
        .map(|(_, roster)| roster.promised.max(roster.term));
    let term = promises.max().unwrap_or(0) + 1;
    for kept in kept.iter_mut() {
        let Some((seat, roster)) = own.get(&kept.number) else {
            continue;
        };
        let mut roster = roster.clone();
        roster.promised = term;
        let number = kept.number;
        let written = seat.call(move |lane| async move { lane.write_roster(roster, number).await });
        if let Err(error) = written.await.map_err(stopped).and_then(|written| written) {
            kept.loss = Some(Loss::Unreadable(error));
        }
    }
    if newest.voters(&present(kept)).is_majority() {
        newest.term = term;
        newest.promised = term;
    }
}

/// The drives that are there.
pub(super) fn present<D>(kept: &[Kept<D>]) -> Vec<DriveNumber> {
    let present = kept
        .iter()
        .filter(|kept| kept.loss.is_none() && kept.seat.is_some());
    present.map(|kept| kept.number).collect()
}
