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

use super::super::error::StoreError;
use super::super::join::in_order;
use super::super::parts::{MANIFEST_BYTES, Manifest, Piece};
use super::super::position::Described;
use super::super::reading::Wanted;
use super::super::types::{BLOCK_BYTES, Form, Key, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::lane::{Lane, Refused};
use super::puts::Latch;
use super::seat::NodeDrive;
use super::table::{Command, Table};
use crate::limits::PARTS_AT_ONCE;

/// What is under a key: nothing, a blob that fits a slab (`Some(None)`), or one in parts.
pub(super) type Under = Option<Option<Manifest>>;

/// Where a blob's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// In one window: those of a blob that fits a slab, and of a part of one that does not.
    Window(Described),
    /// In parts.
    Parts(Manifest),
}

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

    /// Where a blob is, whether it lies in one window or in parts. Counts as a use of it.
    pub async fn find(&self, realm: RealmId, key: &Key) -> Result<Option<Found>, NodeError> {
        loop {
            match self.describe(realm, key).await {
                Err(error) if error.is_in_parts() => match self.under(realm, *key).await? {
                    Some(Some(manifest)) => return Ok(Some(Found::Parts(manifest))),
                    // Another one came meanwhile.
                    Some(None) => {}
                    None => return Ok(None),
                },
                described => return Ok(described?.map(Found::Window)),
            }
        }
    }

    pub(super) async fn is_there(&self, realm: RealmId, key: Key) -> Result<bool, NodeError> {
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
