//! The drives of a node.

use oriel_engine::reactor::ReactorHandle;
use oriel_engine::store::{Seat, SpdkDrive, index_in_memory};
use oriel_spdk::bdev::{Access, BdevDesc, BlockRange, create};
use oriel_spdk::{DmaBuf, Subsystems};

use super::{DaemonError, LOOKED_AT};
use crate::config::{Config, Device};

const BLOCK_BYTES: u32 = 4096;

/// A device of SPDK's, and what it is in the configuration.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) device: Device,
}

/// Has SPDK know the configured devices.
pub(super) async fn make(
    subsystems: &Subsystems,
    config: &Config,
) -> Result<Vec<Made>, DaemonError> {
    let mut made = Vec::new();
    for (at, device) in config.devices.iter().enumerate() {
        let name = format!("drive{at}");
        let names = match device {
            Device::Path(path) => {
                create::aio(subsystems, &name, path, BLOCK_BYTES).await?;
                vec![name]
            }
            Device::Pci(address) => create::nvme(subsystems, &name, *address).await?,
        };
        if names.is_empty() {
            let device = device.clone();
            return Err(DaemonError::NoNamespace { device });
        }
        made.extend(names.into_iter().map(|name| Made {
            name,
            device: device.clone(),
        }));
    }
    Ok(made)
}

/// Refuses devices that have something at their beginning or end.
pub(super) async fn check_empty(devices: &[Made]) -> Result<(), DaemonError> {
    for Made { name, device } in devices {
        if !is_empty(name, device).await? {
            let device = device.clone();
            return Err(DaemonError::NotEmpty { device });
        }
    }
    Ok(())
}

async fn is_empty(name: &str, device: &Device) -> Result<bool, DaemonError> {
    let unreadable = |reason: String| DaemonError::Unreadable {
        device: device.clone(),
        reason,
    };
    let desc = BdevDesc::open(name, Access::ReadOnly, |_| {});
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

/// A drive of the core that calls this.
pub(super) async fn load(
    made: &Made,
    config: &Config,
    is_new: bool,
) -> Result<SpdkDrive, DaemonError> {
    let loaded = match is_new {
        true => SpdkDrive::format(&made.name, &config.format).await,
        false => SpdkDrive::load(&made.name).await,
    };
    loaded.map_err(|source| DaemonError::Drive {
        device: made.device.clone(),
        source,
    })
}

/// The drives, each on a core.
pub(super) async fn seats(
    reactors: &ReactorHandle,
    made: &[Made],
    config: &Config,
    is_new: bool,
) -> Result<Vec<Seat<SpdkDrive>>, DaemonError> {
    let cores = reactors.cores();
    let mut seats = Vec::new();
    for (made, core) in made.iter().zip(cores.into_iter().cycle()) {
        let (made, config) = (made.clone(), config.clone());
        let seat = move || async move {
            let drive = load(&made, &config, is_new).await?;
            let blobs = config.blobs_max;
            let index = index_in_memory(blobs);
            let index = index.map_err(|source| DaemonError::Index { blobs, source })?;
            Ok(Seat::new(drive, index, &made.device.to_string()))
        };
        let seat = reactors.spawn(core, "load a drive", seat);
        let seat = seat.map_err(|_| DaemonError::Core)?.await;
        seats.push(seat.unwrap_or(Err(DaemonError::Core))?);
    }
    Ok(seats)
}
