//! Memory for the blobstore's own: it takes some for each extent that is made, opened or deleted, and where there is none it
//! gives up half-way, with the extent's room lost until the drive is loaded again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use oriel_spdk::DmaBuf;

use super::super::drive::DriveError;
use super::super::types::BLOCK_BYTES;
use super::buffer::IdleBuffers;
use super::turn;

/// More than the metadata of an extent take: some pages of 4 KiB.
const METADATA_BYTES: usize = 64 << 10;
/// How long to wait for memory that somebody else has.
const WAIT: Duration = Duration::from_secs(5);

/// So much memory is kept for when there is no other.
#[derive(Default)]
pub(super) struct MetadataMemory(RefCell<Option<DmaBuf>>);

fn some() -> Option<DmaBuf> {
    DmaBuf::zeroed(METADATA_BYTES, BLOCK_BYTES).ok()
}

impl MetadataMemory {
    /// Does something that takes such memory, when there is some. [`DriveError::NoMemory`] if it was not begun.
    pub(super) async fn with<T>(
        &self,
        idle: &IdleBuffers,
        operation: impl Future<Output = T>,
    ) -> Result<T, DriveError> {
        let began = Instant::now();
        while !self.is_there(idle) {
            if began.elapsed() > WAIT {
                let bytes = METADATA_BYTES;
                return Err(DriveError::NoMemory { bytes });
            }
            turn().await;
        }
        let done = operation.await;
        self.keep();
        Ok(done)
    }

    pub(super) fn keep(&self) {
        let mut kept = self.0.borrow_mut();
        if kept.is_none() {
            *kept = some();
        }
    }

    /// Whether SPDK finds memory now, if need be what was kept.
    fn is_there(&self, idle: &IdleBuffers) -> bool {
        let there = some().or_else(|| {
            idle.let_go();
            some()
        });
        there.is_some() || self.0.take().is_some()
    }
}
