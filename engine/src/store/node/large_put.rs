//! Storing blobs of any length, piece by piece.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::super::log::{Put, yield_now};
use super::super::parts::{Manifest, large_length_max};
use super::super::record::window_blocks;
use super::super::types::{BLOCK_BYTES, Key, KeyKind, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::parted::Parted;
use super::seat::NodeDrive;
use crate::limits::{HASH_STEP, PARTS_AT_ONCE};

type Sending = Pin<Box<dyn Future<Output = Result<(), NodeError>>>>;

impl<D: NodeDrive> NodeStore<D> {
    /// Begins to store a blob of any length, piece by piece. Nothing of it is seen until it is
    /// [`commit`](LargePut::commit)ted.
    pub fn put_large(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
    ) -> Result<LargePut<D>, NodeError> {
        Ok(LargePut {
            store: self.clone(),
            parted: Parted::begin(self, realm, key)?,
            kind,
            length: 0,
            hasher: (kind == KeyKind::Content).then(blake3::Hasher::new),
            filling: None,
            parts: 0,
            sending: Vec::new(),
            failed: None,
        })
    }

    pub(super) async fn put_in_parts(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
        bytes: &[u8],
    ) -> Result<Put, NodeError> {
        // Where that cannot be known, the commit will tell.
        if matches!(self.is_there(realm, key).await, Ok(true)) {
            return Ok(Put::AlreadyThere);
        }
        let mut put = self.put_large(realm, key, kind)?;
        // Its error comes out of the commit, which gives up what was stored.
        let _ = put.write(bytes).await;
        put.commit().await
    }
}

/// A blob of any length on its way into the store. Where it is dropped, the next sweep takes away what it has stored;
/// [`abandon`](Self::abandon) does so at once.
pub struct LargePut<D: NodeDrive> {
    store: NodeStore<D>,
    parted: Parted<D>,
    kind: KeyKind,
    /// Bytes that were taken.
    length: u64,
    hasher: Option<blake3::Hasher>,
    /// The part that is being filled, and its bytes so far.
    filling: Option<(D::Payload, usize)>,
    /// Parts that were sent.
    parts: u32,
    sending: Vec<Sending>,
    failed: Option<NodeError>,
}

impl<D: NodeDrive> LargePut<D> {
    /// Takes the next bytes, and ends when all parts that are full are durable. Some are stored at once, so several drives
    /// are used by who gives the bytes of several parts. After an error nothing but that error comes of it.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), NodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let part_bytes = self.parted.part_bytes;
        let max = large_length_max(part_bytes);
        let length = self.length.saturating_add(bytes.len() as u64);
        if length > max {
            let error = NodeError::TooLarge { bytes: length, max };
            self.failed = Some(error.clone());
            return Err(error);
        }
        let size = part_bytes as usize;
        while !bytes.is_empty() {
            if self.filling.is_none() {
                let payload = D::payload(window_blocks(part_bytes) as usize * BLOCK_BYTES);
                self.filling = Some((self.or_fail(payload.map_err(NodeError::Memory))?, 0));
            }
            let Some((payload, filled)) = &mut self.filling else {
                continue;
            };
            let count = bytes.len().min(size - *filled).min(HASH_STEP);
            let (now, later) = bytes.split_at(count);
            payload.as_mut()[*filled..*filled + count].copy_from_slice(now);
            *filled += count;
            let is_full = *filled == size;
            self.length += count as u64;
            bytes = later;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(now);
            }
            if count == HASH_STEP {
                yield_now().await;
            }
            if is_full && let Some((payload, _)) = self.filling.take() {
                self.send(payload, part_bytes);
                self.until_sending(PARTS_AT_ONCE - 1).await?;
            }
        }
        // What is under way has a place among the changes of a drive, which others wait for; nobody knows when the next bytes
        // come.
        self.until_sending(0).await
    }

    fn or_fail<T>(&mut self, result: Result<T, NodeError>) -> Result<T, NodeError> {
        result.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn send(&mut self, payload: D::Payload, length: u64) {
        let (store, realm) = (self.store.clone(), self.parted.realm);
        let (key, role) = self.parted.begin_part(self.parts as u16);
        self.parts += 1;
        self.sending.push(Box::pin(async move {
            let what = (key, KeyKind::Name, role);
            // That it is there already can be said of what was sent before to a drive that was lost then.
            let put = store.put_as(realm, what, payload, length).await.1;
            put.map(drop)
        }));
    }

    /// Goes on until no more than so many parts are being sent.
    async fn until_sending(&mut self, most: usize) -> Result<(), NodeError> {
        let Self {
            sending, failed, ..
        } = self;
        poll_fn(|cx| {
            sending.retain_mut(|part| match part.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(sent) => {
                    if let Err(error) = sent {
                        failed.get_or_insert(error);
                    }
                    false
                }
            });
            match sending.len() <= most {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Makes what was written a blob, once all of it is durable. The first to do so under a key wins.
    pub async fn commit(mut self) -> Result<Put, NodeError> {
        if let Some(error) = self.failed.clone() {
            self.take_back().await;
            return Err(error);
        }
        if self.parts == 0 {
            let filled = self.filling.take();
            let bytes = filled
                .as_ref()
                .map_or(&[][..], |(payload, filled)| &payload.as_ref()[..*filled]);
            let Parted { realm, key, .. } = self.parted;
            return self.store.put(realm, key, self.kind, bytes).await;
        }
        if let Err(error) = self.finish_parts().await {
            self.take_back().await;
            return Err(error);
        }
        self.parted.commit(&self.store, &self.manifest()).await
    }

    /// Sends the last part, waits for all of them, and looks whether they are what they should be.
    async fn finish_parts(&mut self) -> Result<(), NodeError> {
        if let Some((filled, bytes)) = self.filling.take() {
            let window = window_blocks(bytes as u64) as usize * BLOCK_BYTES;
            let payload = D::payload(window).map_err(NodeError::Memory);
            let mut payload = self.or_fail(payload)?;
            payload.as_mut()[..bytes].copy_from_slice(&filled.as_ref()[..bytes]);
            drop(filled);
            self.send(payload, bytes as u64);
        }
        self.until_sending(0).await?;
        if let Some(hasher) = &self.hasher {
            let found = Key::new(*hasher.finalize().as_bytes());
            let key = self.parted.key;
            if found != key {
                return Err(NodeError::OtherContent { key, found });
            }
        }
        let manifest = self.manifest();
        self.parted.check_there(&self.store, &manifest).await
    }

    fn manifest(&self) -> Manifest {
        self.parted.manifest(self.kind, self.length)
    }

    /// Gives the blob up, and deletes what was stored of it.
    pub async fn abandon(mut self) {
        self.take_back().await;
    }

    async fn take_back(&mut self) {
        // What is under way may become durable yet.
        let _ = self.until_sending(0).await;
        self.parted.take_back(&self.store, self.parts).await;
    }
}
