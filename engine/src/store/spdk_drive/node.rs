//! The drive in a store of many: payloads that go between cores, reads without a task, and those of other cores.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use oriel_spdk::SpdkThread;
use oriel_spdk::bdev::{
    Access, BdevDesc, BdevEvent, BlockRange, Channel, Complete, Io, IoError, Memory,
};

use super::super::drive::DriveError;
use super::super::node::{Guest, NodeDrive, ReadEnd};
use super::{Places, SpdkBuf, SpdkDrive, SpdkExtent, SpdkPayload};

/// What a read without a task needs until its end.
struct Direct<R, K> {
    bytes: usize,
    end: R,
    /// What has to be there until then.
    _keeps: K,
}

impl<R: ReadEnd<SpdkPayload>, K: 'static> Direct<R, K> {
    fn begin(
        device: &Channel,
        range: BlockRange,
        payload: SpdkPayload,
        end: R,
        keeps: K,
    ) -> Result<(), (SpdkPayload, R)> {
        let bytes = payload.as_ref().len();
        let direct = Self {
            bytes,
            end,
            _keeps: keeps,
        };
        let io = Io::new(Some(payload.into_memory()), direct);
        device.read(io, range).map_err(|rejected| {
            let Io { ctx, buf, .. } = *rejected.io;
            let payload = SpdkPayload::of(buf, bytes).expect("what is refused comes back whole");
            (payload, ctx.end)
        })
    }
}

impl<R: ReadEnd<SpdkPayload>, K: 'static> Complete<Option<Memory>> for Direct<R, K> {
    fn complete(io: Box<Io<Self, Option<Memory>>>, result: Result<(), IoError>) {
        let Io { ctx, buf, .. } = *io;
        if let Some(payload) = SpdkPayload::of(buf, ctx.bytes) {
            ctx.end.ended(payload, result.is_ok());
        }
    }
}

impl NodeDrive for SpdkDrive {
    type Payload = SpdkPayload;
    type Guest = SpdkGuest;

    fn door(&self) -> Option<String> {
        Some(self.inner.device.clone())
    }

    fn place(&self, extent: &SpdkExtent) -> Option<Arc<Places>> {
        let places = &extent.0.places;
        (!places.list.is_empty()).then(|| places.clone())
    }

    fn begin_read<R: ReadEnd<SpdkPayload>>(
        &self,
        extent: &SpdkExtent,
        block: u64,
        payload: SpdkPayload,
        end: R,
    ) -> Result<(), (SpdkPayload, R)> {
        let bytes = payload.as_ref().len();
        let units = extent.0.places.units(block, bytes);
        let short_way = units.and_then(|units| self.inner.short_way(&extent.0, units));
        let blob = extent.0.blob.borrow().clone();
        match (short_way, blob) {
            (Some((device, range)), Some(blob)) => {
                Direct::begin(&device, range, payload, end, blob)
            }
            _ => Err((payload, end)),
        }
    }

    fn payload(bytes: usize) -> Result<SpdkPayload, DriveError> {
        SpdkPayload::new(bytes)
    }

    fn take(&self, payload: SpdkPayload) -> SpdkBuf {
        SpdkBuf::from_payload(payload, &self.inner.idle)
    }

    fn give(buf: SpdkBuf) -> SpdkPayload {
        buf.into_payload()
    }

    async fn removed(&self) {
        std::future::poll_fn(|cx| {
            if self.inner.attached.borrow().is_none() {
                return Poll::Ready(());
            }
            let mut watcher = self.inner.watcher.borrow_mut();
            match &mut *watcher {
                Some(watcher) => watcher.clone_from(cx.waker()),
                None => *watcher = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    async fn close(self) -> Result<(), DriveError> {
        SpdkDrive::close(self).await
    }
}

/// A drive on a core that only reads from it, by a channel of its own.
pub struct SpdkGuest {
    /// `None` once the device was removed.
    channel: Rc<RefCell<Option<Channel>>>,
}

impl Guest<SpdkPayload> for SpdkGuest {
    /// The device's name.
    type Door = String;
    type Place = Arc<Places>;

    fn enter(device: &String) -> Option<Self> {
        if !SpdkThread::is_one_current() {
            return None;
        }
        let channel = Rc::<RefCell<Option<Channel>>>::default();
        let on_event = {
            let channel = channel.clone();
            move |event| {
                if matches!(event, BdevEvent::Removed) {
                    drop(channel.take());
                }
            }
        };
        let opened = BdevDesc::open(device, Access::ReadOnly, on_event);
        let opened = opened.map_err(|error| error.to_string());
        let opened = opened.and_then(|it| it.channel().map_err(|error| error.to_string()));
        match opened {
            Ok(opened) => channel.replace(Some(opened)),
            Err(reason) => {
                tracing::warn!(%device, %reason, "reads of this drive go by another core");
                return None;
            }
        };
        Some(Self { channel })
    }

    fn begin_read<R: ReadEnd<SpdkPayload>>(
        &self,
        place: &Arc<Places>,
        block: u64,
        payload: SpdkPayload,
        end: R,
    ) -> Result<(), (SpdkPayload, R)> {
        let units = place.units(block, payload.as_ref().len());
        let range = units.and_then(|units| place.on_device(units));
        let device = self.channel.borrow().clone();
        match (device, range) {
            (Some(device), Some(range)) => Direct::begin(&device, range, payload, end, ()),
            _ => Err((payload, end)),
        }
    }
}
