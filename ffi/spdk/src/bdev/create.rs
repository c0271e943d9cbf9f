//! Making and unmaking block devices.
//!
//! What can be checked is checked here, so that a wrong path or address gets a sentence; SPDK's own
//! answer is often only "invalid parameters". Files and kernel block devices are locked for as long
//! as the drive exists, because two processes on one store destroy it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use super::{IoKind, exists, names};
use crate::limits::BLOCK_SIZE_MAX;
use crate::pci::{PciAddress, PciDriver};
use crate::rpc::RpcError;
use crate::subsystems::Subsystems;

/// Why a device was not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The name is taken.
    #[error("a block device '{name}' exists already: choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A base device is missing.
    #[error(
        "there is no block device '{name}' to build on; there are: {}",
        super::list(known)
    )]
    NoBase {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A block size that no device has.
    #[error(
        "a block size of {block_size} bytes cannot be had: use a power of two from 512 to {BLOCK_SIZE_MAX}"
    )]
    BadBlockSize {
        /// What was asked for.
        block_size: u32,
    },
    /// A device of no blocks.
    #[error("the device '{name}' would have no blocks: give it a size")]
    Empty {
        /// The name.
        name: String,
    },
    /// The file or device cannot be opened.
    #[error("{} cannot be opened for reading and writing ({source}): does it exist, and may this user write to it?", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("{} is neither a file nor a block device: a drive needs one of these", path.display())]
    NotADrive {
        /// The path.
        path: PathBuf,
    },
    /// Smaller than one block.
    #[error("{} holds {bytes} bytes, less than one block of {block_size}: make it larger (truncate -s 1G)", path.display())]
    TooSmall {
        /// The path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The block size asked for.
        block_size: u32,
    },
    /// The linked SPDK's io_uring module wants what hardly any drive has.
    #[error(
        "the io_uring module of SPDK {release} needs a drive with queues for polling: use AIO for this drive, or the SPDK that scripts/bootstrap builds, or a newer one"
    )]
    UringBroken {
        /// The linked release.
        release: &'static str,
    },
    /// Somebody has it.
    #[error("{} is in use by another process: stop that one, or use another drive", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// No PCI device.
    #[error("there is no PCI device at {address}: lspci -D -d ::0108 lists NVMe drives")]
    NoPciDevice {
        /// The address.
        address: PciAddress,
    },
    /// The kernel has it.
    #[error(
        "the PCI device at {address} is driven by the kernel ({driver}): bind it to vfio-pci first; whatever is mounted from it would be lost"
    )]
    KernelDriven {
        /// The address.
        address: PciAddress,
        /// The kernel's driver.
        driver: String,
    },
    /// Nobody drives it.
    #[error("the PCI device at {address} has no driver: bind it to vfio-pci")]
    Unbound {
        /// The address.
        address: PciAddress,
    },
    /// An NVMe drive did not come up.
    #[error(
        "the NVMe drive at {address} did not come up: is another process driving it, and did the environment start with PCI and this address?"
    )]
    NvmeFailed {
        /// The address.
        address: PciAddress,
        /// SPDK's answer.
        source: RpcError,
    },
    /// SPDK refused for another reason.
    #[error("the block device '{name}' could not be made: {source}")]
    Failed {
        /// The name.
        name: String,
        /// SPDK's answer.
        source: RpcError,
    },
}

/// A device could not be unmade.
#[derive(Debug, Error)]
#[error("the block device '{name}' could not be removed: {source}")]
pub struct DeleteError {
    name: String,
    source: RpcError,
}

/// The kinds of device that can be made here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Memory.
    Malloc,
    /// Nothing: reads give garbage, writes vanish.
    Null,
    /// A file or kernel block device through Linux AIO.
    Aio,
    /// A file or kernel block device through io_uring.
    Uring,
    /// An NVMe controller; deleting takes the controller's name.
    Nvme,
    /// Injects errors into another device.
    Error,
    /// Delays another device's requests.
    Delay,
}

fn check_size(name: &str, blocks: u64, block_size: u32) -> Result<(), CreateError> {
    check_block_size(block_size)?;
    if blocks == 0 {
        return Err(CreateError::Empty { name: name.into() });
    }
    Ok(())
}

fn check_block_size(block_size: u32) -> Result<(), CreateError> {
    if !block_size.is_power_of_two() || !(512..=BLOCK_SIZE_MAX).contains(&block_size) {
        return Err(CreateError::BadBlockSize { block_size });
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), CreateError> {
    if exists(name) {
        Err(CreateError::NameTaken { name: name.into() })
    } else {
        Ok(())
    }
}

fn check_base(base: &str) -> Result<(), CreateError> {
    if exists(base) {
        Ok(())
    } else {
        Err(CreateError::NoBase {
            name: base.into(),
            known: names(),
        })
    }
}

async fn call(
    sub: &Subsystems,
    name: &str,
    method: &str,
    params: Value,
) -> Result<Value, CreateError> {
    let result = sub.rpc().call(method, params).await;
    result.map_err(|source| CreateError::Failed {
        name: name.into(),
        source,
    })
}

/// A drive in memory.
pub async fn malloc(
    sub: &Subsystems,
    name: &str,
    blocks: u64,
    block_size: u32,
) -> Result<(), CreateError> {
    check_size(name, blocks, block_size)?;
    check_name(name)?;
    let params = json!({ "name": name, "num_blocks": blocks, "block_size": block_size });
    call(sub, name, "bdev_malloc_create", params)
        .await
        .map(drop)
}

/// A drive that does nothing, at once.
pub async fn null(
    sub: &Subsystems,
    name: &str,
    blocks: u64,
    block_size: u32,
) -> Result<(), CreateError> {
    check_size(name, blocks, block_size)?;
    check_name(name)?;
    let params = json!({ "name": name, "num_blocks": blocks, "block_size": block_size });
    call(sub, name, "bdev_null_create", params).await.map(drop)
}

/// A file or kernel block device through Linux AIO with O_DIRECT.
pub async fn aio(
    sub: &Subsystems,
    name: &str,
    path: &Path,
    block_size: u32,
) -> Result<(), CreateError> {
    on_path(sub, name, path, block_size, "bdev_aio_create").await
}

/// A file or kernel block device through io_uring.
///
/// Refused with a v20.07 that scripts/bootstrap did not build: it opens its rings for polled
/// completions, and the kernel then fails every request to a drive that has no queues for polling.
pub async fn uring(
    sub: &Subsystems,
    name: &str,
    path: &Path,
    block_size: u32,
) -> Result<(), CreateError> {
    if crate::SPDK_RELEASE == "20.07" && !oriel_spdk_sys::SPDK_MENDED {
        return Err(CreateError::UringBroken {
            release: crate::SPDK_RELEASE,
        });
    }
    on_path(sub, name, path, block_size, "bdev_uring_create").await
}

async fn on_path(
    sub: &Subsystems,
    name: &str,
    path: &Path,
    block_size: u32,
    method: &str,
) -> Result<(), CreateError> {
    check_block_size(block_size)?;
    check_name(name)?;
    let lock = lock_drive(path, block_size)?;
    let params = json!({ "name": name, "filename": path, "block_size": block_size });
    call(sub, name, method, params).await?;
    sub.locks.borrow_mut().insert(name.into(), lock);
    Ok(())
}

/// Opens and locks what lies behind a drive.
fn lock_drive(path: &Path, block_size: u32) -> Result<File, CreateError> {
    let open_error = |source| CreateError::Open {
        path: path.into(),
        source,
    };
    let kind = std::fs::metadata(path).map_err(open_error)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(CreateError::NotADrive { path: path.into() });
    }
    let in_use = || CreateError::InUse { path: path.into() };
    // On a block device O_EXCL without O_CREAT asks the kernel that nothing else, a mount
    // included, has it.
    let flags = if kind.is_block_device() {
        libc::O_EXCL
    } else {
        0
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|source| {
            if source.raw_os_error() == Some(libc::EBUSY) {
                in_use()
            } else {
                open_error(source)
            }
        })?;
    if kind.is_file() {
        let bytes = file.metadata().map_err(open_error)?.len();
        if bytes < u64::from(block_size) {
            return Err(CreateError::TooSmall {
                path: path.into(),
                bytes,
                block_size,
            });
        }
    }
    // SAFETY: the descriptor is open; flock has no other precondition.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(in_use());
    }
    Ok(file)
}

/// The namespaces of the NVMe drive at a PCI address, as devices `<name>n1`, `<name>n2`, ...
pub async fn nvme(
    sub: &Subsystems,
    name: &str,
    address: PciAddress,
) -> Result<Vec<String>, CreateError> {
    match address.driver() {
        PciDriver::NoDevice => return Err(CreateError::NoPciDevice { address }),
        PciDriver::Unbound => return Err(CreateError::Unbound { address }),
        PciDriver::Kernel(driver) => return Err(CreateError::KernelDriven { address, driver }),
        PciDriver::UserSpace(_) => {}
    }
    check_name(&format!("{name}n1"))?;
    let params = json!({ "name": name, "trtype": "PCIe", "traddr": address.to_string() });
    let made = sub.rpc().call("bdev_nvme_attach_controller", params).await;
    let made = made.map_err(|source| CreateError::NvmeFailed { address, source })?;
    let namespaces = made.as_array().into_iter().flatten();
    Ok(namespaces
        .filter_map(|name| name.as_str().map(String::from))
        .collect())
}

/// A device over `base` that fails requests on demand, named `EE_<base>`; see [`inject`].
pub async fn error(sub: &Subsystems, base: &str) -> Result<String, CreateError> {
    check_base(base)?;
    let name = format!("EE_{base}");
    check_name(&name)?;
    call(
        sub,
        &name,
        "bdev_error_create",
        json!({ "base_name": base }),
    )
    .await?;
    Ok(name)
}

/// What an error-injecting device does to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Fails it.
    Fail,
    /// Keeps it until a reset.
    Hang,
}

/// Lets the next `count` requests of a kind on an error-injecting device go wrong.
///
/// # Panics
/// When the kind is none that SPDK can inject into: read, write, unmap or flush.
pub async fn inject(
    sub: &Subsystems,
    name: &str,
    kind: IoKind,
    fault: Fault,
    count: u32,
) -> Result<(), CreateError> {
    let io_type = match kind {
        IoKind::Read => "read",
        IoKind::Write => "write",
        IoKind::Unmap => "unmap",
        IoKind::Flush => "flush",
        other => panic!("SPDK cannot inject faults into {other:?} requests"),
    };
    let error_type = match fault {
        Fault::Fail => "failure",
        Fault::Hang => "pending",
    };
    let params =
        json!({ "name": name, "io_type": io_type, "error_type": error_type, "num": count });
    call(sub, name, "bdev_error_inject_error", params)
        .await
        .map(drop)
}

/// How long a delaying device holds requests back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// Reads: the usual delay.
    pub read: Duration,
    /// Reads: the delay of one in a hundred.
    pub read_p99: Duration,
    /// Writes: the usual delay.
    pub write: Duration,
    /// Writes: the delay of one in a hundred.
    pub write_p99: Duration,
}

/// A device `name` over `base` that delays requests.
pub async fn delay(
    sub: &Subsystems,
    name: &str,
    base: &str,
    delays: Delays,
) -> Result<(), CreateError> {
    check_base(base)?;
    check_name(name)?;
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let params = json!({
        "name": name,
        "base_bdev_name": base,
        "avg_read_latency": us(delays.read),
        "p99_read_latency": us(delays.read_p99),
        "avg_write_latency": us(delays.write),
        "p99_write_latency": us(delays.write_p99),
    });
    call(sub, name, "bdev_delay_create", params).await.map(drop)
}

/// Removes a device that was made here. Whoever has it open gets
/// [`BdevEvent::Removed`](super::BdevEvent::Removed); the call returns once all have let go.
pub async fn delete(sub: &Subsystems, kind: Kind, name: &str) -> Result<(), DeleteError> {
    let method = match kind {
        Kind::Malloc => "bdev_malloc_delete",
        Kind::Null => "bdev_null_delete",
        Kind::Aio => "bdev_aio_delete",
        Kind::Uring => "bdev_uring_delete",
        Kind::Nvme => "bdev_nvme_detach_controller",
        Kind::Error => "bdev_error_delete",
        Kind::Delay => "bdev_delay_delete",
    };
    let failed = |source| DeleteError {
        name: name.into(),
        source,
    };
    let called = sub.rpc().call(method, json!({ "name": name })).await;
    called.map_err(failed)?;
    if kind == Kind::Nvme {
        // SPDK answers at once. The controller goes after its block devices, and only then may the
        // drive be attached again, or another process have it.
        while has_controller(sub, name).await.map_err(failed)? {}
    }
    sub.locks.borrow_mut().remove(name);
    Ok(())
}

async fn has_controller(sub: &Subsystems, name: &str) -> Result<bool, RpcError> {
    let controllers = sub.rpc().call("bdev_nvme_get_controllers", Value::Null);
    let controllers = controllers.await?;
    let mut named = controllers.as_array().into_iter().flatten();
    Ok(named.any(|controller| controller["name"] == name))
}
