//! Blobs of other cores' drives, read whole or from a block on, and checked as their own core does.

use std::rc::Rc;

use futures_channel::oneshot;

use super::{Uses, Visit, Visited};
use crate::store::metrics::{Operation, Outcome, ReadFor};
use crate::store::node::seat::{NodeDrive, ReadEnd};
use crate::store::reading::{Blocks, check_large, check_small};
use crate::store::record::{SMALL_BLOCKS, data_blocks};
use crate::store::trailer::TRAILER_CHECKSUMS;
use crate::store::types::{BLOCK_BYTES, Key, Location, RealmId};

/// Trailers' buffers that are kept.
const TRAILERS_KEPT: usize = 64;

/// How a blob is to be read.
#[derive(Clone, Copy)]
pub(in super::super) struct Wants {
    /// The realm's reads are checked.
    pub(in super::super) verify: bool,
    /// Its policy wants to hear of it.
    pub(in super::super) is_cache: bool,
}

/// What was read of a blob.
pub(in super::super) struct Read<P> {
    pub(in super::super) payload: P,
    /// Bytes of it that are the blob's.
    pub(in super::super) bytes: u64,
    pub(in super::super) uses: Uses,
}

struct Told<P>(oneshot::Sender<(P, bool)>);

impl<P: 'static> ReadEnd<P> for Told<P> {
    fn ended(self, payload: P, is_filled: bool) {
        let _ = self.0.send((payload, is_filled));
    }
}

/// A buffer on its way, or where it could not go.
type Sent<P> = Result<oneshot::Receiver<(P, bool)>, P>;

/// The buffer, and whether it was filled. Lost with its drive, it is no more.
async fn came<P>(sent: Sent<P>) -> (Option<P>, bool) {
    match sent {
        Ok(told) => told
            .await
            .map_or((None, false), |(payload, is)| (Some(payload), is)),
        Err(payload) => (Some(payload), false),
    }
}

impl<D: NodeDrive> Visit<D> {
    fn send(
        self: &Rc<Self>,
        slab: &Rc<Visited<D>>,
        block: u64,
        payload: D::Payload,
    ) -> Sent<D::Payload> {
        let (tell, told) = oneshot::channel();
        let purpose = (ReadFor::Get, None);
        let begun = self
            .clone()
            .begin_blocks(slab, purpose, block, payload, Told(tell));
        begun.map(|()| told).map_err(|(payload, _)| payload)
    }

    /// Fills a buffer with a blob's bytes from `offset` on, where no copy is needed. What has to go by the drive's core,
    /// errors included, comes back; no buffer does where it was lost with the drive.
    pub(in super::super) async fn read_into(
        self: Rc<Self>,
        realm: RealmId,
        key: &Key,
        offset: u64,
        payload: D::Payload,
        wants: Wants,
    ) -> Result<Read<D::Payload>, Option<D::Payload>> {
        let fingerprint = self.door.finder.fingerprint(realm, key);
        let Some((location, slab, start)) = self.find(realm, fingerprint) else {
            return Err(Some(payload));
        };
        let length = payload.as_ref().len();
        let (first, count) = (offset / BLOCK_BYTES as u64, (length / BLOCK_BYTES) as u64);
        let all = data_blocks(location.length);
        let is_whole = offset.is_multiple_of(BLOCK_BYTES as u64) && length % BLOCK_BYTES == 0;
        let is_small = all <= SMALL_BLOCKS;
        let is_inside = count > 0 && first < all && count <= all - first;
        let is_checkable = !wants.verify || !is_small || count == all;
        if !(is_whole && is_inside && is_checkable) {
            return Err(Some(payload));
        }
        let observed = self.metrics.begin(Operation::Get, realm);
        let blocks = Blocks { first, count };
        let payload = match wants.verify && !is_small {
            true => {
                self.read_large(&slab, key, location, blocks, payload)
                    .await?
            }
            false => {
                let sent = self.send(&slab, start + first, payload);
                let (payload, is_filled) = came(sent).await;
                let Some(payload) = payload else {
                    return Err(None);
                };
                if !is_filled {
                    return Err(Some(payload));
                }
                let checksum = slab.shown.windows.checksum(start as u32);
                let is_good = !wants.verify
                    || checksum.is_some_and(|checksum| {
                        check_small(key, location, checksum, payload.as_ref()).is_ok()
                    });
                match is_good {
                    true => payload,
                    false => return Err(Some(payload)),
                }
            }
        };
        let bytes = (location.length - offset).min(length as u64);
        observed.end(Outcome::Done, bytes);
        let uses = match wants.is_cache {
            true => self.used(realm, fingerprint),
            false => Uses::new(),
        };
        Ok(Read {
            payload,
            bytes,
            uses,
        })
    }

    async fn read_large(
        self: &Rc<Self>,
        slab: &Rc<Visited<D>>,
        key: &Key,
        location: Location,
        blocks: Blocks,
        payload: D::Payload,
    ) -> Result<D::Payload, Option<D::Payload>> {
        let Blocks { first, count } = blocks;
        let of_first = first / TRAILER_CHECKSUMS;
        let of_last = (first + count - 1) / TRAILER_CHECKSUMS;
        let kept = match of_first == of_last {
            true => self.trailers.borrow_mut().pop(),
            false => None,
        };
        let bytes = (of_last - of_first + 1) as usize * BLOCK_BYTES;
        let Ok(trailer) = kept.map_or_else(|| D::payload(bytes), Ok) else {
            return Err(Some(payload));
        };
        let start = location.position.0 % self.door.slab_blocks;
        let behind = data_blocks(location.length) + of_first;
        let trailer = self.send(slab, start + behind, trailer);
        let payload = self.send(slab, start + first, payload);
        let (trailer, has_trailer) = came(trailer).await;
        let (payload, is_filled) = came(payload).await;
        let is_good = match (&payload, &trailer) {
            (Some(payload), Some(trailer)) if has_trailer && is_filled => {
                check_large(key, location, blocks, payload.as_ref(), trailer.as_ref()).is_ok()
            }
            _ => false,
        };
        let mut trailers = self.trailers.borrow_mut();
        if of_first == of_last && trailers.len() < TRAILERS_KEPT {
            trailers.extend(trailer);
        }
        match is_good {
            true => payload.ok_or(None),
            false => Err(payload),
        }
    }
}
