//! Opening a device: waiting until the kernel has a path to its node, and looking whether it is a realm.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use oriel_nvme_kernel::{Answer, Device, Errno, IDENTIFY_BYTES, OpenError, Queue, QueueError};
use oriel_protocol::SUBSYSTEM_PREFIX;
use oriel_protocol::limits::{BLOCK_BYTES, TRANSFER_BYTES_MAX};

use super::KernelOptions;
use super::driver::{Attached, Kernel, Shared};
use super::error::{Cause, KernelError};
use super::verdict::{INVALIDS_MAX, Verdict, failure, judge};
use crate::limits::KERNEL_PAUSE;
use crate::nvme::command::admin;
use crate::nvme::identify::{ControllerData, NamespaceData, NamespaceDataError};
use crate::nvme::{Command, Flow};

/// NVMe's unit of the largest transfer, the smallest page of a controller, is at least this.
const PAGE_BITS: u32 = 12;

/// Identify of the namespace, and of the controller (CNS 00h and 01h).
const NAMESPACE: u32 = 0;
const CONTROLLER: u32 = 1;

struct Attaching<'a> {
    shared: &'a Shared,
    options: &'a KernelOptions,
    end: Instant,
}

pub(super) fn attach(
    path: &Path,
    shared: &Shared,
    options: &KernelOptions,
) -> Result<(Kernel, Attached), KernelError> {
    let attaching = Attaching {
        shared,
        options,
        end: Instant::now() + options.give_up_after,
    };
    let device = Arc::new(attaching.open(path)?);
    let controller = attaching.identify(&device, CONTROLLER)?;
    let controller = ControllerData::decode(&controller, PAGE_BITS);
    if !controller.subsystem.starts_with(SUBSYSTEM_PREFIX) {
        return Err(KernelError::NotOriel {
            device: Arc::clone(&shared.path),
            subsystem: controller.subsystem,
        });
    }
    let namespace = attaching.identify(&device, NAMESPACE)?;
    let namespace = namespace_data(device.nsid(), &namespace);
    let namespace = namespace.map_err(|source| KernelError::Data {
        device: Arc::clone(&shared.path),
        source,
    })?;
    let queue = Queue::new(&device, options.depth, options.means);
    let queue = queue.map_err(|error| queue_error(error, Arc::clone(&shared.path)))?;
    let most = controller.transfer_bytes_max.unwrap_or(u64::MAX);
    let attached = Attached {
        controller,
        namespace,
        transfer_bytes_max: most.min(TRANSFER_BYTES_MAX.into()) as u32,
        means: queue.means(),
    };
    Ok((Kernel { device, queue }, attached))
}

fn namespace_data(
    nsid: u32,
    bytes: &[u8; IDENTIFY_BYTES],
) -> Result<NamespaceData, NamespaceDataError> {
    let data = NamespaceData::decode(nsid, bytes)?;
    match u64::from(data.block_bytes) {
        BLOCK_BYTES => Ok(data),
        _ => Err(NamespaceDataError::BlockSize {
            nsid,
            bits: data.block_bytes.trailing_zeros() as u8,
        }),
    }
}

fn queue_error(error: QueueError, device: Arc<PathBuf>) -> KernelError {
    match error {
        QueueError::NoRing(errno) => KernelError::NoRing { device, errno },
        QueueError::NoThread(errno) => KernelError::Thread {
            device,
            kind: std::io::Error::from(errno).kind(),
        },
    }
}

impl Attaching<'_> {
    fn open(&self, path: &Path) -> Result<Device, KernelError> {
        let device = Arc::clone(&self.shared.path);
        loop {
            let errno = match Device::open(path) {
                Ok(opened) => return Ok(opened),
                Err(OpenError::NoNamespace(Errno::AGAIN)) => {
                    self.pause(Verdict::Again(Cause::Errno(Errno::AGAIN)))?;
                    continue;
                }
                Err(OpenError::Name | OpenError::Kind | OpenError::NoNamespace(_)) => {
                    return Err(KernelError::NotNvme { device });
                }
                Err(OpenError::Open(errno)) => errno,
            };
            return Err(match errno {
                Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR => {
                    KernelError::Missing { device }
                }
                Errno::ACCESS | Errno::PERM => KernelError::Denied { device, errno },
                errno => KernelError::Open { device, errno },
            });
        }
    }

    /// Asks until it is answered, or the time is over.
    fn identify(
        &self,
        device: &Device,
        structure: u32,
    ) -> Result<Box<[u8; IDENTIFY_BYTES]>, KernelError> {
        let mut invalids = 0;
        loop {
            let answer = match device.identify(structure, self.options.command_timeout) {
                Ok(Ok(data)) => return Ok(data),
                Ok(Err(status)) => Ok(Answer { status, result: 0 }),
                Err(errno) => Err(errno),
            };
            self.pause(judge(answer, true, invalids, || device.has_path()))?;
            invalids = (invalids + 1).min(INVALIDS_MAX);
        }
    }

    /// Pauses if it is to be tried again and there is time; else says why not.
    fn pause(&self, verdict: Verdict) -> Result<(), KernelError> {
        let is_again = matches!(verdict, Verdict::Again(_));
        if is_again && self.shared.is_closing() {
            return Err(KernelError::Cancelled {
                device: Arc::clone(&self.shared.path),
            });
        }
        if is_again && Instant::now() < self.end {
            std::thread::sleep(KERNEL_PAUSE);
            return Ok(());
        }
        let name = Command::new(admin::IDENTIFY, 0, Flow::In).name(true);
        Err(failure(
            verdict,
            &self.shared.path,
            name,
            self.options.give_up_after,
        ))
    }
}
