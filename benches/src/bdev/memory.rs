//! Drives in memory as drives in use are.

use std::fmt;

use oriel_spdk::bdev::{Access, BdevDesc, BlockRange};

const BYTES_AT_ONCE: u64 = 64 << 20;

/// A drive in memory could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the drive {name} in memory could not be written: {reason}")]
pub(crate) struct TouchError {
    name: String,
    reason: String,
}

/// Writes a drive in memory from its start to its end. Before its first write, memory that is read is one and the same page
/// of zeros, which no cache ever loses: to read that is no measure of anything.
pub(crate) async fn touch(name: &str) -> Result<(), TouchError> {
    let failed = |reason: &dyn fmt::Display| TouchError {
        name: name.into(),
        reason: reason.to_string(),
    };
    let drive = BdevDesc::open(name, Access::ReadWrite, |_| {}).map_err(|error| failed(&error))?;
    let channel = drive.channel().map_err(|error| failed(&error))?;
    let blocks = drive.block_count();
    let step = BYTES_AT_ONCE / u64::from(drive.block_size());
    let mut start = 0;
    while start < blocks {
        let range = BlockRange::new(start, step.min(blocks - start));
        let written = channel.write_zeroes_at(range).await;
        written.map_err(|error| failed(&error))?;
        start += range.count;
    }
    Ok(())
}
