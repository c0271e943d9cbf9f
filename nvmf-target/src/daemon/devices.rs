//! The devices of a node that runs: which of them are drives of its store, which come, and which go.
//!
//! ```text
//!   plan: looks at new devices ──► add: drives of the store ──► forget, drain ──► ... ──► departed: given back
//!   (refuses, with nothing          (one that is refused          (refusals are
//!    changed)                        stops what follows)           foreseen by the plan)
//! ```
//!
//! What the store's drives are stands on the drives. The configuration says what they are to be, at a start and at a reload
//! alike, so either comes to the same.

use std::collections::BTreeSet;
use std::mem;

use oriel_engine::reactor::ReactorHandle;
use oriel_engine::store::{
    ChangeError, Departed, DriveNumber, DriveStat, FormatOptions, NodeStore, Seat, SpdkDrive,
};
use oriel_spdk::Subsystems;

use super::DaemonError;
use super::drives::{Made, Part, Take, seat, seat_or_blank};
use super::indexes::Indexes;
use crate::config::{Config, Device};

/// Why the drives of a node were not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevicesError {
    /// A device that cannot be a drive.
    #[error("a new device cannot be added: {0}")]
    Device(#[source] Box<DaemonError>),
    /// A drive that the store does not take.
    #[error("the device {device} cannot be added: {source}")]
    Add {
        device: Device,
        source: Box<ChangeError>,
    },
    /// One by PCI, in a node that has none.
    #[error(
        "restart orield to add the {device}: it was started without drives by pci, and cannot reach one now"
    )]
    NoPci { device: Device },
    /// One with blobs, left out.
    #[error(
        "the device {device} is left out, and has blobs: put it back with drain = true, and leave it out when it is empty"
    )]
    HasBlobs { device: Device },
    /// One that is being emptied, and is not to be any more.
    #[error(
        "the device {device} is being emptied, which does not stop: leave drain = true until it is empty, and add it again then"
    )]
    Emptied { device: Device },
    /// One that is on its way out.
    #[error(
        "the device {device} is being given back: reload once more when the log says that it is"
    )]
    GivingBack { device: Device },
    /// A lost one cannot be emptied.
    #[error(
        "the device {device} has drive {number}, which is lost, so nothing can be moved off it: restart orield when it works again, or give it up with its blobs by gone = [{number}]"
    )]
    Lost { device: Device, number: DriveNumber },
    /// Nothing would take blobs.
    #[error("no drive that works would take blobs any more: add another device")]
    NoneLeft,
    /// One that works is said to be gone.
    #[error(
        "drive {number} works, and is said to be gone: take it out of gone, and empty it by drain = true"
    )]
    Works { number: DriveNumber },
    /// The store refuses.
    #[error(transparent)]
    Change(Box<ChangeError>),
}

impl From<ChangeError> for DevicesError {
    fn from(error: ChangeError) -> Self {
        Self::Change(Box::new(error))
    }
}

impl From<DaemonError> for DevicesError {
    fn from(error: DaemonError) -> Self {
        Self::Device(Box::new(error))
    }
}

/// What changing takes.
#[derive(Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) reactors: &'a ReactorHandle,
    pub(super) subsystems: &'a Subsystems,
    pub(super) store: &'a NodeStore<SpdkDrive>,
}

/// A part of a device that is about to be a drive, with its seat if it was one before.
type Coming = (Part, Option<Seat<SpdkDrive>>);

/// The devices that SPDK knows for the node.
pub(super) struct Devices {
    used: Vec<Made>,
    /// Those that were not to be found at the start.
    missing: BTreeSet<Device>,
    /// Devices that were ever made, for names.
    made: usize,
    /// Drives that were ever seated, for cores.
    seated: usize,
    has_pci: bool,
    format: FormatOptions,
    pub(super) indexes: Indexes,
}

/// What is to be done with the devices.
#[derive(Default)]
pub(super) struct Plan {
    new: Vec<(Made, Vec<Coming>)>,
    drains: Vec<(DriveNumber, Device)>,
    forgets: Vec<DriveNumber>,
    /// What is as it is in spite of the configuration.
    pub(super) notes: Vec<String>,
}

impl Devices {
    /// Has SPDK know the configured devices, and gives what is to be drives. Where a store may do without one that is not
    /// to be found, it does, as long as another is there.
    pub(super) async fn make(
        subsystems: &Subsystems,
        config: &Config,
        may_miss: bool,
    ) -> Result<(Self, Vec<Part>), DaemonError> {
        let mut devices = Self {
            used: Vec::new(),
            missing: BTreeSet::new(),
            made: 0,
            seated: 0,
            has_pci: (config.devices.iter()).any(|device| matches!(device, Device::Pci(_))),
            format: config.format,
            indexes: Indexes::of(config),
        };
        let mut first = None;
        for device in &config.devices {
            match devices.make_one(subsystems, device).await {
                Ok(made) => devices.used.push(made),
                Err(error) if may_miss && error.is_missing() => {
                    tracing::error!(%device, %error, "a device is missing: the node serves without it");
                    devices.missing.insert(device.clone());
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let (true, Some(error)) = (devices.used.is_empty(), first) {
            return Err(error);
        }
        let parts = devices.used.iter().flat_map(|made| &made.parts);
        let parts = parts.cloned().collect();
        Ok((devices, parts))
    }

    async fn make_one(
        &mut self,
        subsystems: &Subsystems,
        device: &Device,
    ) -> Result<Made, DaemonError> {
        let name = format!("drive{}", self.made);
        self.made += 1;
        Made::new(subsystems, name, device).await
    }

    /// Makes these new drives, on the cores in turn.
    pub(super) async fn format(
        &mut self,
        reactors: &ReactorHandle,
        parts: &[Part],
    ) -> Result<Vec<Seat<SpdkDrive>>, DaemonError> {
        let mut seats = Vec::new();
        for part in parts {
            let core = self.next_core(reactors);
            let take = Take::Format(self.format);
            seats.push(seat(reactors, core, part, &self.indexes, take).await?);
        }
        Ok(seats)
    }

    /// Loads what was a drive before, and gives apart what is blank.
    pub(super) async fn load(
        &mut self,
        reactors: &ReactorHandle,
        parts: &[Part],
    ) -> Result<Vec<Coming>, DaemonError> {
        let mut coming = Vec::new();
        for part in parts {
            let core = self.next_core(reactors);
            let seat = seat_or_blank(reactors, core, part, &self.indexes).await?;
            coming.push((part.clone(), seat));
        }
        Ok(coming)
    }

    fn next_core(&mut self, reactors: &ReactorHandle) -> oriel_engine::reactor::CoreId {
        let cores = reactors.cores();
        self.seated += 1;
        cores[(self.seated - 1) % cores.len()]
    }

    /// Adds parts of a device to the store; those that come after one that is refused are let go of.
    async fn add_parts(
        &mut self,
        tools: Tools<'_>,
        parts: Vec<Coming>,
    ) -> Result<Vec<DriveNumber>, DevicesError> {
        let mut numbers = Vec::new();
        let mut parts = parts.into_iter();
        while let Some((part, seat)) = parts.next() {
            let added = self.add_part(tools, &part, seat).await;
            match added {
                Ok(number) => {
                    let device = &part.name;
                    tracing::info!(%device, drive = %number, "a drive is added: blobs that belong on it are moved there");
                    numbers.push(number);
                }
                Err(error) => {
                    close(parts).await;
                    return Err(error);
                }
            }
        }
        Ok(numbers)
    }

    async fn add_part(
        &mut self,
        tools: Tools<'_>,
        part: &Part,
        seat: Option<Seat<SpdkDrive>>,
    ) -> Result<DriveNumber, DevicesError> {
        let seat = match seat {
            Some(seat) => seat,
            None => {
                let one = std::slice::from_ref(part);
                let made = self.format(tools.reactors, one).await;
                made?.remove(0)
            }
        };
        let added = tools.store.add(seat, &self.format).await;
        added.map_err(|source| DevicesError::Add {
            device: part.device.clone(),
            source: Box::new(source),
        })
    }

    /// After the start: what was blank or not the store's is added, or given back if it is to be emptied; drives are emptied.
    /// What is refused is logged, and the node serves all the same.
    pub(super) async fn settle(&mut self, tools: Tools<'_>, config: &Config, idle: Vec<Coming>) {
        let mut by_device: Vec<(Device, Vec<Coming>)> = Vec::new();
        for (part, seat) in idle {
            match by_device.last_mut() {
                Some((device, parts)) if *device == part.device => parts.push((part, seat)),
                _ => by_device.push((part.device.clone(), vec![(part, seat)])),
            }
        }
        for (device, parts) in by_device {
            let names: Vec<_> = parts.iter().map(|(part, _)| part.name.clone()).collect();
            if config.drains.contains(&device) {
                tracing::warn!(%device, "is to be emptied, and is no drive of the store any more: leave it out");
                close(parts).await;
            } else if let Err(error) = self.add_parts(tools, parts).await {
                tracing::error!(%device, %error, "a new device is not used");
            } else {
                continue;
            }
            let drives = tools.store.stat().await.drives;
            for name in names {
                if !(drives.iter()).any(|drive| drive.drive.name == name && drive.loss.is_none()) {
                    self.part_with(tools.subsystems, &name).await;
                }
            }
        }
        let drives = tools.store.stat().await.drives;
        let drained = match self.plan_drives(&drives, config, false) {
            Ok(mut plan) => {
                plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
                self.drain(tools, &mut plan, &mut Vec::new()).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = drained {
            tracing::error!(%error, "the drives are not all that the configuration says");
        }
    }

    /// What has to be done for the devices to be those of a configuration. Nothing is changed by it, and nothing kept where
    /// it is refused.
    pub(super) async fn plan(
        &mut self,
        tools: Tools<'_>,
        config: &Config,
    ) -> Result<Plan, DevicesError> {
        let is_new = |device: &&Device| {
            !config.drains.contains(device) && !self.used.iter().any(|made| made.device == **device)
        };
        let new: Vec<Device> = config.devices.iter().filter(is_new).cloned().collect();
        let drives = tools.store.stat().await.drives;
        let mut plan = self.plan_drives(&drives, config, !new.is_empty())?;
        for device in &new {
            match self.look_at(tools, device).await {
                Ok(coming) => plan.new.push(coming),
                Err(DevicesError::Device(error))
                    if self.missing.contains(device) && error.is_missing() =>
                {
                    plan.notes
                        .push(format!("the device {device} is missing still: {error}"));
                }
                Err(error) => {
                    self.drop_plan(tools, plan).await;
                    return Err(error);
                }
            }
        }
        Ok(plan)
    }

    /// What becomes of the drives that there are.
    fn plan_drives(
        &self,
        drives: &[DriveStat],
        config: &Config,
        has_new: bool,
    ) -> Result<Plan, DevicesError> {
        let mut plan = Plan::default();
        self.plan_used(drives, config, &mut plan)?;
        for number in &config.gone {
            let drive = drives.iter().find(|of| of.drive.number == Some(*number));
            match drive {
                Some(drive) if drive.loss.is_none() => {
                    let number = *number;
                    return Err(DevicesError::Works { number });
                }
                Some(_) => plan.forgets.push(*number),
                // Given up before.
                None => {}
            }
        }
        let drained: BTreeSet<DriveNumber> =
            plan.drains.iter().map(|(number, _)| *number).collect();
        let takes = |drive: &DriveStat| {
            let number = drive.drive.number;
            let stays = number.is_some_and(|number| !drained.contains(&number));
            drive.loss.is_none() && !drive.is_draining && stays
        };
        match drained.is_empty() || has_new || drives.iter().any(takes) {
            true => Ok(plan),
            false => Err(DevicesError::NoneLeft),
        }
    }

    /// What becomes of the devices that are drives, or were.
    fn plan_used(
        &self,
        drives: &[DriveStat],
        config: &Config,
        plan: &mut Plan,
    ) -> Result<(), DevicesError> {
        for made in &self.used {
            let device = &made.device;
            let has_name = |drive: &DriveStat| {
                let mut parts = made.parts.iter();
                parts.any(|part| part.name == drive.drive.name)
            };
            // A lost one may have had the path of one that is here.
            let is_here = |drive: &DriveStat| has_name(drive) && drive.loss.is_none();
            let has_one = drives.iter().any(is_here);
            let is_of = |drive: &&DriveStat| has_name(drive) && (is_here(drive) || !has_one);
            let is_wanted = config.devices.contains(device);
            let drains = config.drains.contains(device);
            if is_wanted && !drains && !drives.iter().any(|drive| is_of(&drive)) {
                let device = device.clone();
                return Err(DevicesError::GivingBack { device });
            }
            for drive in drives.iter().filter(is_of) {
                let Some(number) = drive.drive.number else {
                    continue;
                };
                let device = device.clone();
                let is_given_up = config.gone.contains(&number);
                match (&drive.loss, drive.is_draining) {
                    (Some(_), _) if is_given_up => {}
                    (Some(_), _) if drains => return Err(DevicesError::Lost { device, number }),
                    (Some(_), _) if !is_wanted => plan.notes.push(format!(
                        "drive {number} ({device}) is lost, and stays one of the store's without its device: gone = [{number}] gives it up with its blobs"
                    )),
                    (Some(_), _) => {}
                    (None, true) if !is_wanted || !drains => {
                        return Err(DevicesError::Emptied { device });
                    }
                    (None, true) => {}
                    (None, false) if drains => plan.drains.push((number, device)),
                    (None, false) if !is_wanted => return Err(DevicesError::HasBlobs { device }),
                    (None, false) => {}
                }
            }
        }
        for device in &config.drains {
            if !self.used.iter().any(|made| made.device == *device) {
                plan.notes.push(format!(
                    "the device {device} is to be emptied, and is no drive of the store: leave it out"
                ));
            }
        }
        Ok(())
    }

    /// Has SPDK know a new device, and looks whether it may be a drive.
    async fn look_at(
        &mut self,
        tools: Tools<'_>,
        device: &Device,
    ) -> Result<(Made, Vec<Coming>), DevicesError> {
        if matches!(device, Device::Pci(_)) && !self.has_pci {
            let device = device.clone();
            return Err(DevicesError::NoPci { device });
        }
        let made = self.make_one(tools.subsystems, device).await?;
        let parts = made.parts.clone();
        let mut coming = Vec::new();
        for part in &parts {
            let one = std::slice::from_ref(part);
            match self.load(tools.reactors, one).await {
                Ok(loaded) => coming.extend(loaded),
                Err(error) => {
                    close(coming).await;
                    made.give_back(tools.subsystems).await;
                    return Err(error.into());
                }
            }
        }
        Ok((made, coming))
    }

    /// Lets go of what a plan that is not carried out was for.
    pub(super) async fn drop_plan(&mut self, tools: Tools<'_>, plan: Plan) {
        for (made, coming) in plan.new {
            close(coming).await;
            made.give_back(tools.subsystems).await;
        }
    }

    /// Adds what is new, and says so. Where one is refused, those before it stay, and what follows is not done.
    pub(super) async fn add(
        &mut self,
        tools: Tools<'_>,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Result<(), DevicesError> {
        let mut new = mem::take(&mut plan.new).into_iter();
        while let Some((made, coming)) = new.next() {
            let device = made.device.clone();
            let added = self.add_parts(tools, coming).await;
            match added {
                Ok(numbers) => {
                    self.missing.remove(&device);
                    self.used.push(made);
                    let numbers: Vec<String> = numbers.iter().map(|of| of.to_string()).collect();
                    done.push(format!("{device} is added as drive {}", numbers.join(", ")));
                }
                Err(error) => {
                    let drives = tools.store.stat().await.drives;
                    let is_there = |part: &Part| {
                        let mut drives = drives.iter();
                        drives.any(|drive| drive.drive.name == part.name && drive.loss.is_none())
                    };
                    match made.parts.iter().any(is_there) {
                        true => self.used.push(made),
                        false => made.give_back(tools.subsystems).await,
                    }
                    plan.new = new.collect();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Gives lost drives up, and says so.
    pub(super) async fn forget(
        &mut self,
        tools: Tools<'_>,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Result<(), DevicesError> {
        for number in mem::take(&mut plan.forgets) {
            tools.store.forget(number).await?;
            done.push(format!("drive {number} is given up"));
        }
        Ok(())
    }

    /// Has drives emptied, and says so.
    pub(super) async fn drain(
        &mut self,
        tools: Tools<'_>,
        plan: &mut Plan,
        done: &mut Vec<String>,
    ) -> Result<(), DevicesError> {
        for (number, device) in mem::take(&mut plan.drains) {
            tools.store.drain(number).await?;
            tracing::info!(%device, drive = %number, "a drive is being emptied");
            done.push(format!("drive {number} ({device}) is being emptied"));
        }
        Ok(())
    }

    /// Gives the device of a drive back that has left the store, and says so.
    pub(super) async fn departed(
        &mut self,
        subsystems: &Subsystems,
        departed: &Departed,
    ) -> String {
        let Departed { drive, is_emptied } = departed;
        self.part_with(subsystems, &drive.name).await;
        let how = match is_emptied {
            true => "is empty and given back",
            false => "is given up, and its device given back",
        };
        format!("{drive} {how}: leave its device out of the configuration")
    }

    /// A drive of that name is nobody's any more: with the last one of a device that goes as well.
    async fn part_with(&mut self, subsystems: &Subsystems, name: &str) {
        let has = |made: &Made| made.parts.iter().any(|part| *part.name == *name);
        let Some(at) = self.used.iter().position(has) else {
            return;
        };
        let made = &mut self.used[at];
        made.parts.retain(|part| *part.name != *name);
        if made.parts.is_empty() {
            self.used.remove(at).give_back(subsystems).await;
        }
    }
}

/// Closes what did not become drives.
async fn close(coming: impl IntoIterator<Item = Coming>) {
    for (part, seat) in coming {
        if let Some(seat) = seat
            && let Err(error) = seat.close().await
        {
            tracing::warn!(device = %part.name, %error, "a device that is not used was not closed in order");
        }
    }
}
