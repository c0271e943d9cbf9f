//! A log's transfers, counted.

use std::cell::Cell;

use super::super::drive::{Drive, DriveError, Transferred};
use super::super::log::Log;
use super::super::types::BLOCK_BYTES;
use super::names::{ReadFor, Step, WrittenFor};
use super::record::add;

/// A transfer that somebody waits for.
pub(super) struct UnderWay<'a>(&'a Cell<u64>);

impl<'a> UnderWay<'a> {
    pub(super) fn new(count: &'a Cell<u64>) -> Self {
        add(count, 1);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Transfers that are counted.
impl<D: Drive> Log<D> {
    #[inline]
    pub(in super::super) async fn read_for(
        &self,
        purpose: ReadFor,
        extent: &D::Extent,
        block: u64,
        buf: D::Buf,
    ) -> Transferred<D::Buf> {
        let _under_way = UnderWay::new(&self.metrics.reads);
        let (buf, read) = self.drive.read(extent, block, buf).await;
        match &read {
            Ok(()) => {
                let blocks = (buf.as_ref().len() / BLOCK_BYTES) as u64;
                self.metrics.read(purpose, blocks);
            }
            Err(_) => add(&self.metrics.failed_reads, 1),
        }
        (buf, read)
    }

    /// Writes what the journal is to speak of later: a buffer whose last blocks are checksums, `trailer` of them.
    pub(in super::super) async fn write_data(
        &self,
        extent: &D::Extent,
        block: u64,
        buf: D::Buf,
        trailer: u64,
    ) -> Transferred<D::Buf> {
        let metrics = &self.metrics;
        let blocks = (buf.as_ref().len() / BLOCK_BYTES) as u64;
        let is_timed = metrics.one_in > 0 && metrics.is_drawn();
        let began = is_timed.then(|| metrics.now());
        let (buf, written) = self.write_uncounted(extent, block, buf).await;
        metrics.stepped_maybe(Step::DataWrite, began, written.is_ok());
        if written.is_ok() {
            metrics.wrote(WrittenFor::Data, blocks - trailer);
            metrics.wrote(WrittenFor::Trailer, trailer);
        }
        (buf, written)
    }

    pub(in super::super) async fn write_for(
        &self,
        purpose: WrittenFor,
        extent: &D::Extent,
        block: u64,
        buf: D::Buf,
    ) -> Transferred<D::Buf> {
        let blocks = (buf.as_ref().len() / BLOCK_BYTES) as u64;
        let (buf, written) = self.write_uncounted(extent, block, buf).await;
        if written.is_ok() {
            self.metrics.wrote(purpose, blocks);
        }
        (buf, written)
    }

    async fn write_uncounted(
        &self,
        extent: &D::Extent,
        block: u64,
        buf: D::Buf,
    ) -> Transferred<D::Buf> {
        let _under_way = UnderWay::new(&self.metrics.writes);
        match self.drive.write(extent, block, buf).await {
            (buf, Ok(())) => (buf, Ok(())),
            // Nothing of this is kept ready by the writes that go well.
            (buf, Err(reason)) => Box::pin(self.write_again(extent, block, buf, reason)).await,
        }
    }

    /// The second try of [`write_twice`](super::super::drive::write_twice). A drive that fails that as well takes no more
    /// changes: which of them it would keep, nobody knows.
    async fn write_again(
        &self,
        extent: &D::Extent,
        block: u64,
        mut buf: D::Buf,
        reason: DriveError,
    ) -> Transferred<D::Buf> {
        add(&self.metrics.failed_writes, 1);
        let is_tried_again = reason.is_worth_a_second_try();
        let mut written = Err(reason);
        if is_tried_again {
            (buf, written) = self.drive.write(extent, block, buf).await;
            let failed = u64::from(written.is_err());
            add(&self.metrics.failed_writes, failed);
        }
        if let Err(reason) = &written {
            self.stop(Vec::new(), reason.clone());
        }
        (buf, written)
    }
}
