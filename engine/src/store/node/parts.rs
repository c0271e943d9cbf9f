//! Blobs that are longer than a slab, in parts that lie on all drives.
//!
//! ```text
//!  put     part, part, ... (several at once) ──► all are durable ──► manifest ──► the blob is there
//!  read    manifest ──► parts of the range (several at once)
//!  delete  manifest ──► the blob is gone ──► parts
//! ```
//!
//! So no manifest is ever without its parts, but for those that went by themselves: evicted, or with a drive that was
//! forgotten. Then the blob is gone as a whole, and whoever notices takes the rest away. Parts without a manifest are
//! nobody's; `sweep.rs` finds them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::super::error::StoreError;
use super::super::join::in_order;
use super::super::log::{Put, yield_now};
use super::super::parts::{
    MANIFEST_BYTES, Manifest, Piece, large_length_max, part_bytes, part_key,
};
use super::super::reading::Wanted;
use super::super::record::{Role, window_blocks};
use super::super::types::{BLOCK_BYTES, Form, Key, KeyKind, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::lane::{Lane, Refused};
use super::puts::{Latch, UnderWay};
use super::seat::NodeDrive;
use super::table::{Command, Table};
use crate::limits::{HASH_STEP, PARTS_AT_ONCE};

type Sending = Pin<Box<dyn Future<Output = Result<(), NodeError>>>>;

/// What is under a key: nothing, a blob that fits a slab (`Some(None)`), or one in parts.
pub(super) type Under = Option<Option<Manifest>>;

/// Why a range was not read.
enum Unread {
    Error(NodeError),
    /// There is no such part.
    Missing(u16),
}

impl<D: NodeDrive> Lane<D> {
    /// What is under a key.
    pub(super) async fn under(
        &self,
        version: u64,
        realm: RealmId,
        key: Key,
    ) -> Result<Under, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        log.check_realm(realm).map_err(Refused::Error)?;
        loop {
            if log.peek(realm, &key).is_none() {
                // An index that was taken over may miss it until it is verified.
                log.trusted().await.map_err(|error| self.refused(error))?;
            }
            let Some(location) = log.peek(realm, &key) else {
                return self.unless_stale(version, None);
            };
            if location.form != Form::Manifest {
                return Ok(Some(None));
            }
            let buf = self.drive.buffer(BLOCK_BYTES);
            let buf = buf.map_err(|error| Refused::Error(error.into()))?;
            let read = log.read_window(realm, &key, 0, Wanted::Window, buf);
            let (buf, read) = read.await;
            let read = read.map_err(|error| self.refused(error))?;
            let bytes = buf.as_ref().get(..MANIFEST_BYTES);
            let manifest = bytes.and_then(|bytes| Manifest::decode(bytes, &key));
            match manifest.filter(|_| read == Some(MANIFEST_BYTES as u64)) {
                Some(manifest) => return Ok(Some(Some(manifest))),
                None if log.peek(realm, &key) == Some(location) => {
                    return Err(Refused::Error(StoreError::WrongManifest { key }));
                }
                // It went, or another blob came, meanwhile.
                None => {}
            }
        }
    }
}

impl<D: NodeDrive> Table<D> {
    /// Whether no drive is lost, so that what is not found is not there.
    pub(super) fn is_whole(&self) -> bool {
        (0..self.rows.len() as u16).all(|at| self.is_present(at))
    }
}

impl<D: NodeDrive> NodeStore<D> {
    pub(super) async fn under(&self, realm: RealmId, key: Key) -> Result<Under, NodeError> {
        let ask = async |table: &Table<D>, at: u16| {
            let (seat, version) = (self.seat(table, at)?, table.version);
            let under = seat.call(move |lane| async move { lane.under(version, realm, key).await });
            self.heard(table, at, under.await)
        };
        self.look(realm, key, ask).await
    }

    /// What is known of a blob that lies in parts, which those do that are longer than a slab; `None` if there is no such
    /// blob, or it lies in one window.
    pub async fn manifest(&self, realm: RealmId, key: &Key) -> Result<Option<Manifest>, NodeError> {
        Ok(self.under(realm, *key).await?.flatten())
    }

    async fn is_there(&self, realm: RealmId, key: Key) -> Result<bool, NodeError> {
        let ask = async |table: &Table<D>, at: u16| {
            let seat = self.seat(table, at)?;
            let has = seat.call(move |lane| async move { lane.has(realm, key).await });
            Ok(self.heard(table, at, has.await)?.then_some(()))
        };
        Ok(self.look(realm, key, ask).await?.is_some())
    }

    // ---- Reads ----------------------------------------------------------------------------------

    /// Whether reading it again may end otherwise: a part is not there.
    async fn read_ended(
        &self,
        realm: RealmId,
        manifest: &Manifest,
        ended: Result<(), Unread>,
    ) -> Result<bool, NodeError> {
        match ended {
            Ok(()) => Ok(false),
            Err(Unread::Error(error)) => Err(error),
            Err(Unread::Missing(number)) => {
                self.is_incomplete(realm, manifest, number).await?;
                Ok(true)
            }
        }
    }

    /// Some bytes of a blob in parts.
    pub(super) async fn read_large(
        &self,
        realm: RealmId,
        key: Key,
        offset: u64,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, NodeError> {
        loop {
            let manifest = match self.under(realm, key).await? {
                Some(Some(manifest)) => manifest,
                Some(None) => return self.read(realm, &key, offset, bytes).await,
                None => return Ok(None),
            };
            let mut whole = Vec::new();
            let parts = manifest.pieces(offset, bytes).map(|piece| {
                let key = manifest.part_key(piece.number);
                async move {
                    let read = self.read_one(realm, &key, piece.offset, piece.bytes).await;
                    let read = read.map_err(|error| of_part(&manifest, piece.number, error))?;
                    let read = read.filter(|read| read.len() as u64 == piece.bytes);
                    read.ok_or(Unread::Missing(piece.number))
                }
            });
            let ended = in_order(PARTS_AT_ONCE, parts, |part: Vec<u8>| {
                whole.extend_from_slice(&part);
                Ok(())
            });
            let ended = ended.await;
            if !self.read_ended(realm, &manifest, ended).await? {
                return Ok(Some(whole));
            }
        }
    }

    /// As [`read_into`](Self::read_into), of a blob in parts.
    pub(super) async fn read_large_into(
        &self,
        realm: RealmId,
        key: Key,
        offset: u64,
        mut payload: D::Payload,
    ) -> (Option<D::Payload>, Result<Option<u64>, NodeError>) {
        let wanted = payload.as_ref().len() as u64;
        loop {
            let manifest = match self.under(realm, key).await {
                Ok(Some(Some(manifest))) => manifest,
                Ok(Some(None)) => return self.read_into(realm, &key, offset, payload).await,
                Ok(None) => return (Some(payload), Ok(None)),
                Err(error) => return (Some(payload), Err(error)),
            };
            let pieces: Vec<Piece> = manifest.pieces(offset, wanted).collect();
            let ended = match pieces[..] {
                // Without a copy.
                [piece] => {
                    let part = manifest.part_key(piece.number);
                    let (back, read) = self
                        .read_one_into(realm, &part, piece.offset, payload)
                        .await;
                    match back {
                        Some(back) => payload = back,
                        None => return (None, read),
                    }
                    match read {
                        Ok(Some(read)) if read == piece.bytes => Ok(()),
                        Ok(_) => Err(Unread::Missing(piece.number)),
                        Err(error) => Err(of_part(&manifest, piece.number, error)),
                    }
                }
                _ => {
                    let parts = pieces
                        .iter()
                        .map(|piece| self.read_piece(realm, &manifest, *piece));
                    let mut at = 0;
                    let ended = in_order(PARTS_AT_ONCE, parts, |(part, bytes)| {
                        let to = at + bytes;
                        payload.as_mut()[at..to].copy_from_slice(&part.as_ref()[..bytes]);
                        at = to;
                        Ok(())
                    });
                    ended.await
                }
            };
            match self.read_ended(realm, &manifest, ended).await {
                Ok(true) => {}
                Ok(false) => {
                    let bytes = pieces.iter().map(|piece| piece.bytes).sum();
                    return (Some(payload), Ok(Some(bytes)));
                }
                Err(error) => return (Some(payload), Err(error)),
            }
        }
    }

    async fn read_piece(
        &self,
        realm: RealmId,
        manifest: &Manifest,
        piece: Piece,
    ) -> Result<(D::Payload, usize), Unread> {
        let key = manifest.part_key(piece.number);
        let bytes = piece.bytes as usize;
        let own = D::payload(bytes.next_multiple_of(BLOCK_BYTES));
        let own = own.map_err(|error| Unread::Error(NodeError::Memory(error)))?;
        let (own, read) = self.read_one_into(realm, &key, piece.offset, own).await;
        let read = read.map_err(|error| of_part(manifest, piece.number, error))?;
        match (own, read) {
            (Some(own), Some(read)) if read >= piece.bytes => Ok((own, bytes)),
            (Some(_), _) => Err(Unread::Missing(piece.number)),
            (None, _) => Err(Unread::Error(NodeError::Closing)),
        }
    }

    // ---- What goes ------------------------------------------------------------------------------

    /// Takes a blob away that lies in parts.
    pub(super) async fn delete_large(&self, realm: RealmId, key: Key) -> Result<bool, NodeError> {
        let _latch = Latch::of(&self.shared, realm, key).await;
        let manifest = match self.under(realm, key).await {
            Ok(None) => return Ok(false),
            Ok(Some(manifest)) => manifest,
            // What its parts are is not known any more.
            Err(error) if error.is_of_manifest() => None,
            Err(error) => return Err(error),
        };
        let deleted = self.delete_form(realm, key, None).await;
        match manifest.filter(|_| deleted.is_ok()) {
            Some(manifest) => self.delete_parts(realm, &manifest).await,
            None => self.shared.command(Command::Sweep),
        }
        deleted
    }

    /// Deletes the parts of a blob that has no manifest any more.
    async fn delete_parts(&self, realm: RealmId, manifest: &Manifest) {
        let parts = manifest.part_keys();
        let deleted = parts.map(|key| self.delete_form(realm, key, Some(Form::Part)));
        let deleted = in_order(PARTS_AT_ONCE, deleted, |_| Ok(())).await;
        if let Err(error) = deleted {
            let key = manifest.key;
            tracing::info!(%realm, %key, %error, "parts of a deleted blob are left to the next sweep");
            self.shared.command(Command::Sweep);
        }
    }

    /// A part of a blob is not there. If that is so, and the blob is still that one, the rest goes as well.
    pub(super) async fn is_incomplete(
        &self,
        realm: RealmId,
        manifest: &Manifest,
        number: u16,
    ) -> Result<(), NodeError> {
        let key = manifest.key;
        let _latch = Latch::of(&self.shared, realm, key).await;
        let is_that = self.under(realm, key).await? == Some(Some(*manifest));
        if !is_that || self.is_there(realm, manifest.part_key(number)).await? {
            return Ok(());
        }
        tracing::warn!(%realm, %key, number, "a part of a blob has gone, so the rest is deleted");
        self.delete_form(realm, key, Some(Form::Manifest)).await?;
        self.delete_parts(realm, manifest).await;
        Ok(())
    }

    // ---- Puts -----------------------------------------------------------------------------------

    /// Begins to store a blob of any length, piece by piece. Nothing of it is seen until it is
    /// [`commit`](LargePut::commit)ted.
    pub fn put_large(
        &self,
        realm: RealmId,
        key: Key,
        kind: KeyKind,
    ) -> Result<LargePut<D>, NodeError> {
        let table = self.table();
        table.check_writable()?;
        Ok(LargePut {
            store: self.clone(),
            realm,
            key,
            kind,
            under_way: UnderWay::new(self.shared.clone(), realm, key),
            part_bytes: part_bytes(table.slab_blocks),
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

fn of_part(manifest: &Manifest, number: u16, error: NodeError) -> Unread {
    Unread::Error(match error {
        // They are about the drive, or the store, and name it.
        NodeError::Lost { .. } | NodeError::Closing | NodeError::Memory(_) => error,
        error => NodeError::Part {
            key: manifest.key,
            number,
            source: Box::new(error),
        },
    })
}

/// A blob of any length on its way into the store. Where it is dropped, the next sweep takes away what it has stored;
/// [`abandon`](Self::abandon) does so at once.
pub struct LargePut<D: NodeDrive> {
    store: NodeStore<D>,
    realm: RealmId,
    key: Key,
    kind: KeyKind,
    under_way: UnderWay<D>,
    part_bytes: u64,
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
    /// Takes the next bytes. Full parts are stored, some at once, while more bytes come. After an error nothing but that
    /// error comes of it.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), NodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let max = large_length_max(self.part_bytes);
        let length = self.length.saturating_add(bytes.len() as u64);
        if length > max {
            let error = NodeError::TooLarge { bytes: length, max };
            self.failed = Some(error.clone());
            return Err(error);
        }
        let size = self.part_bytes as usize;
        while !bytes.is_empty() {
            if self.filling.is_none() {
                let payload = D::payload(window_blocks(self.part_bytes) as usize * BLOCK_BYTES);
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
                yield_now().await;
            }
            if is_full && let Some((payload, _)) = self.filling.take() {
                self.send(payload, self.part_bytes);
                self.until_sending(PARTS_AT_ONCE - 1).await?;
            }
        }
        Ok(())
    }

    fn or_fail<T>(&mut self, result: Result<T, NodeError>) -> Result<T, NodeError> {
        result.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn send(&mut self, payload: D::Payload, length: u64) {
        let (store, realm) = (self.store.clone(), self.realm);
        let (number, generation) = (self.parts as u16, self.under_way.generation);
        let key = part_key(&self.key, generation, number);
        let role = Role::Part { generation, number };
        self.parts += 1;
        self.under_way.is_clean = false;
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
            return self.store.put(self.realm, self.key, self.kind, bytes).await;
        }
        if let Err(error) = self.finish_parts().await {
            self.take_back().await;
            return Err(error);
        }
        let committed = self.commit_manifest().await;
        match &committed {
            Ok(Put::Created) => self.under_way.is_clean = true,
            Ok(Put::AlreadyThere) => self.take_back().await,
            // Whether the manifest is durable is not known to those who could not write it: the next sweep sees.
            Err(_) => {}
        }
        committed
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
            if found != self.key {
                let key = self.key;
                return Err(NodeError::OtherContent { key, found });
            }
        }
        // In a cache they may have made room for each other.
        for (number, key) in (0..).zip(self.manifest().part_keys()) {
            if !self.store.is_there(self.realm, key).await? {
                let key = self.key;
                return Err(NodeError::PartGone { key, number });
            }
        }
        Ok(())
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            key: self.key,
            kind: self.kind,
            generation: self.under_way.generation,
            length: self.length,
            part_bytes: self.part_bytes,
        }
    }

    async fn commit_manifest(&self) -> Result<Put, NodeError> {
        let (store, realm, manifest) = (&self.store, self.realm, self.manifest());
        let mut payload = D::payload(BLOCK_BYTES).map_err(NodeError::Memory)?;
        payload.as_mut()[..MANIFEST_BYTES].copy_from_slice(&manifest.encode());
        let _latch = Latch::of(&store.shared, realm, self.key).await;
        let what = (self.key, self.kind, manifest.role());
        let put = store.put_as(realm, what, payload, MANIFEST_BYTES as u64);
        match put.await.1? {
            Put::Created => Ok(Put::Created),
            // It may be this one, sent before to a drive that was lost then.
            Put::AlreadyThere => match store.under(realm, self.key).await? {
                Some(Some(there)) if there == manifest => Ok(Put::Created),
                _ => Ok(Put::AlreadyThere),
            },
        }
    }

    /// Gives the blob up, and deletes what was stored of it.
    pub async fn abandon(mut self) {
        self.take_back().await;
    }

    async fn take_back(&mut self) {
        // What is under way may become durable yet.
        let _ = self.until_sending(0).await;
        let (store, realm, generation) = (&self.store, self.realm, self.under_way.generation);
        let numbers = (0..self.parts).map(|number| number as u16);
        let parts = numbers.map(|number| {
            let key = part_key(&self.key, generation, number);
            store.delete_form(realm, key, Some(Form::Part))
        });
        self.under_way.is_clean = in_order(PARTS_AT_ONCE, parts, |_| Ok(())).await.is_ok();
    }
}
