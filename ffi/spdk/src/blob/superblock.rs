//! The super block, read before SPDK reads it: SPDK's answer to most of what can be wrong with it is
//! one and the same errno.

use super::error::{LoadError, ReadError};
use super::geometry::{PAGE_BYTES, is_miscounted, recovery_miscounts};
use super::{StoreType, TYPE_BYTES};
use crate::DmaBuf;
use crate::bdev::{Access, BdevDesc, BlockRange, OpenError};

const SIGNATURE: &[u8; 8] = b"SPDKBLOB";

/// Where the fields lie, in bytes; all are little-endian and packed.
mod at {
    pub(super) const VERSION: usize = 8;
    pub(super) const CLEAN: usize = 16;
    pub(super) const CLUSTER_BYTES: usize = 28;
    pub(super) const MD_START: usize = 48;
    pub(super) const MD_LEN: usize = 52;
    pub(super) const TYPE: usize = 56;
    pub(super) const USED_BLOBIDS_LEN: usize = 76;
    pub(super) const DEVICE_BYTES: usize = 80;
    pub(super) const IO_UNIT_BYTES: usize = 88;
    pub(super) const MD_PAGE_BYTES: usize = 92;
    pub(super) const CHECKSUM: usize = 4092;
}

const BYTES: usize = PAGE_BYTES as usize;

const _: () = assert!(at::CHECKSUM + 4 == BYTES);

/// What the device looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DeviceSize {
    pub(super) block_size: u32,
    pub(super) blocks: u64,
}

impl DeviceSize {
    pub(super) fn bytes(self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }
}

/// The first page of a device, whatever it holds.
pub(super) struct FirstPage(Box<[u8; BYTES]>);

/// The parts of a super block that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SuperBlock {
    pub(super) version: u32,
    pub(super) cluster_bytes: u32,
}

/// Reads the first page, if the device has blocks that a blobstore can be on.
pub(super) async fn read(
    device: &str,
) -> Result<(DeviceSize, Result<FirstPage, ReadError>), OpenError> {
    let desc = BdevDesc::open(device, Access::ReadOnly, |_| {})?;
    let size = DeviceSize {
        block_size: desc.block_size(),
        blocks: desc.block_count(),
    };
    Ok((size, read_page(&desc).await))
}

async fn read_page(desc: &BdevDesc) -> Result<FirstPage, ReadError> {
    let channel = desc.channel()?;
    let blocks = u64::from(PAGE_BYTES.div_ceil(desc.block_size())).min(desc.block_count());
    let block_size = desc.block_size() as usize;
    let align = desc.buffer_align().max(PAGE_BYTES as usize);
    let buf = DmaBuf::zeroed((blocks as usize * block_size).max(BYTES), align)?;
    let (buf, result) = channel.read_at(buf, BlockRange::new(0, blocks)).await;
    result?;
    let mut page = Box::new([0; BYTES]);
    page.copy_from_slice(&buf[..BYTES]);
    Ok(FirstPage(page))
}

impl FirstPage {
    fn u32(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    fn checksum(&self) -> u32 {
        // SAFETY: reads BYTES - 4 bytes of the page, which is BYTES long.
        !unsafe {
            oriel_spdk_sys::spdk_crc32c_update(self.0.as_ptr().cast(), at::CHECKSUM, u32::MAX)
        }
    }

    /// The type of the store whose super block this is, whether it is whole or not.
    pub(super) fn store_type(&self) -> Option<StoreType> {
        let mut name = [0; TYPE_BYTES];
        name.copy_from_slice(&self.0[at::TYPE..at::TYPE + TYPE_BYTES]);
        self.0
            .starts_with(SIGNATURE)
            .then(|| StoreType::from_bytes(name))
    }

    /// Checks everything that SPDK would refuse, and what it should.
    pub(super) fn check(
        &self,
        device: &str,
        size: DeviceSize,
        expected: StoreType,
    ) -> Result<SuperBlock, LoadError> {
        let device = || device.to_owned();
        let Some(found) = self.store_type() else {
            return Err(LoadError::NotABlobstore { device: device() });
        };
        if self.checksum() != self.u32(at::CHECKSUM) {
            return Err(LoadError::CorruptSuperBlock {
                device: device(),
                found: self.u32(at::CHECKSUM),
                expected: self.checksum(),
            });
        }
        if found != expected {
            return Err(LoadError::WrongType {
                device: device(),
                found,
                expected,
            });
        }
        let needed = self.u64(at::DEVICE_BYTES);
        if needed > size.bytes() {
            return Err(LoadError::DeviceTooSmall {
                device: device(),
                needed,
                found: size.bytes(),
            });
        }
        // Zero stands for a page in stores older than the field.
        let or_page = |bytes: u32| if bytes == 0 { PAGE_BYTES } else { bytes };
        let io_unit = or_page(self.u32(at::IO_UNIT_BYTES));
        if io_unit != size.block_size {
            return Err(LoadError::BlockSizeChanged {
                device: device(),
                expected: io_unit,
                found: size.block_size,
            });
        }
        let cluster_bytes = self.u32(at::CLUSTER_BYTES);
        let pages_per_cluster = cluster_bytes / or_page(self.u32(at::MD_PAGE_BYTES));
        if pages_per_cluster == 0 {
            return Err(LoadError::BadSuperBlock { device: device() });
        }
        let (md_start, md_len) = (self.u32(at::MD_START), self.u32(at::MD_LEN));
        let recovers = self.u32(at::CLEAN) == 0 || self.u32(at::USED_BLOBIDS_LEN) == 0;
        if recovers
            && recovery_miscounts()
            && is_miscounted(md_start.into(), md_len.into(), pages_per_cluster.into())
        {
            return Err(LoadError::UnsafeRecovery { device: device() });
        }
        Ok(SuperBlock {
            version: self.u32(at::VERSION),
            cluster_bytes,
        })
    }
}
