//! Devices that are, or are to be, drives of a node.

use std::sync::Arc;

use oriel_engine::reactor::{CoreId, ReactorHandle};
use oriel_engine::store::{FormatOptions, Seat, SpdkDrive, SpdkDriveError};
use oriel_spdk::bdev::create::{DeleteError, Kind};
use oriel_spdk::bdev::{Access, BdevDesc, BlockRange, create};
use oriel_spdk::{DmaBuf, Subsystems};

use super::indexes::Indexes;
use super::{DaemonError, LOOKED_AT};
use crate::config::Device;

const BLOCK_BYTES: u32 = 4096;

/// A device that SPDK knows.
pub(super) struct Made {
    pub(super) device: Device,
    /// What SPDK calls it: the device of a path, the controller of an NVMe drive.
    name: String,
    pub(super) parts: Vec<Part>,
}

/// What of a device is a drive: itself, or a namespace of an NVMe drive.
#[derive(Clone)]
pub(super) struct Part {
    /// What SPDK calls it.
    pub(super) bdev: String,
    /// What the store calls it.
    pub(super) name: Arc<str>,
    pub(super) device: Device,
}

impl Made {
    /// Has SPDK know a device, under a name that it has for nothing else.
    pub(super) async fn new(
        subsystems: &Subsystems,
        name: String,
        device: &Device,
    ) -> Result<Self, DaemonError> {
        let bdevs = match device {
            Device::Path(path) => {
                create::aio(subsystems, &name, path, BLOCK_BYTES).await?;
                vec![name.clone()]
            }
            Device::Pci(address) => create::nvme(subsystems, &name, *address).await?,
        };
        let count = bdevs.len();
        let part = |(at, bdev)| Part {
            bdev,
            name: match count {
                1 => device.to_string().into(),
                _ => format!("{device}, namespace {}", at + 1).into(),
            },
            device: device.clone(),
        };
        let made = Self {
            device: device.clone(),
            name,
            parts: bdevs.into_iter().enumerate().map(part).collect(),
        };
        match count {
            0 => {
                let device = device.clone();
                made.give_back(subsystems).await;
                Err(DaemonError::NoNamespace { device })
            }
            _ => Ok(made),
        }
    }

    /// Has SPDK forget it, once nobody uses it any more.
    async fn delete(self, subsystems: &Subsystems) -> Result<(), DeleteError> {
        let kind = match self.device {
            Device::Path(_) => Kind::Aio,
            Device::Pci(_) => Kind::Nvme,
        };
        create::delete(subsystems, kind, &self.name).await
    }

    /// The same; where that fails it stays this process's until its end.
    pub(super) async fn give_back(self, subsystems: &Subsystems) {
        let device = self.device.clone();
        if let Err(error) = self.delete(subsystems).await {
            tracing::warn!(%device, %error, "a device was not let go of: it is free when the node ends");
        }
    }
}

/// Refuses a device that has something at its beginning or end.
pub(super) async fn check_empty(part: &Part) -> Result<(), DaemonError> {
    match is_empty(part).await? {
        true => Ok(()),
        false => {
            let device = part.device.clone();
            Err(DaemonError::NotEmpty { device })
        }
    }
}

pub(super) async fn is_empty(part: &Part) -> Result<bool, DaemonError> {
    let unreadable = |reason: String| DaemonError::Unreadable {
        device: part.device.clone(),
        reason,
    };
    let desc = BdevDesc::open(&part.bdev, Access::ReadOnly, |_| {});
    let desc = desc.map_err(|error| unreadable(error.to_string()))?;
    let channel = desc.channel();
    let channel = channel.map_err(|error| unreadable(error.to_string()))?;
    let blocks = desc.block_count();
    let count = blocks.min(LOOKED_AT / u64::from(desc.block_size()));
    for start in [0, blocks - count] {
        let bytes = count * u64::from(desc.block_size());
        let buf = DmaBuf::zeroed(bytes as usize, BLOCK_BYTES as usize);
        let buf = buf.map_err(|error| unreadable(error.to_string()))?;
        let (buf, read) = channel.read_at(buf, BlockRange::new(start, count)).await;
        read.map_err(|error| unreadable(error.to_string()))?;
        if buf.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is done with a device on the way to a drive.
#[derive(Clone, Copy)]
pub(super) enum Take {
    /// It has to be one already.
    Load,
    /// It is made one, whatever else is on it.
    Format(FormatOptions),
}

/// A drive of the core that calls this.
pub(super) async fn load(part: &Part, take: Take) -> Result<SpdkDrive, DaemonError> {
    let loaded = match take {
        Take::Format(options) => SpdkDrive::format(&part.bdev, &options).await,
        Take::Load => SpdkDrive::load(&part.bdev).await,
    };
    loaded.map_err(|source| DaemonError::Drive {
        device: part.device.clone(),
        source,
    })
}

/// A drive on a core.
pub(super) async fn seat(
    reactors: &ReactorHandle,
    core: CoreId,
    part: &Part,
    indexes: &Indexes,
    take: Take,
) -> Result<Seat<SpdkDrive>, DaemonError> {
    let (part, indexes) = (part.clone(), indexes.clone());
    let seat = move || async move {
        let drive = load(&part, take).await?;
        Ok(Seat::new(drive, indexes.place()?, &part.name))
    };
    let seat = reactors.spawn(core, "load a drive", seat);
    let seat = seat.map_err(|_| DaemonError::Core)?.await;
    seat.unwrap_or(Err(DaemonError::Core))
}

/// A drive that was one before, on a core; `None` if nothing is on the device. What is something else is refused.
pub(super) async fn seat_or_blank(
    reactors: &ReactorHandle,
    core: CoreId,
    part: &Part,
    indexes: &Indexes,
) -> Result<Option<Seat<SpdkDrive>>, DaemonError> {
    match seat(reactors, core, part, indexes, Take::Load).await {
        Ok(seat) => Ok(Some(seat)),
        Err(DaemonError::Drive {
            source: SpdkDriveError::NotFormatted { .. },
            ..
        }) => check_empty(part).await.map(|()| None),
        Err(error) => Err(error),
    }
}
