//! What puts in parts have in common: whether a program in the node gives their bytes ([`super::LargePut`]), or hosts write
//! the windows of their parts ([`super::PartsPut`]).

use super::super::join::in_order;
use super::super::log::Put;
use super::super::parts::{MANIFEST_BYTES, Manifest, part_bytes, part_key};
use super::super::record::Role;
use super::super::types::{BLOCK_BYTES, Form, Key, KeyKind, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::puts::{Latch, UnderWay};
use super::seat::NodeDrive;
use crate::limits::PARTS_AT_ONCE;

/// A blob on its way into the store, part by part. Where it is dropped before it came to an end, a sweep takes away what it
/// has stored.
pub(super) struct Parted<D: NodeDrive> {
    pub(super) realm: RealmId,
    pub(super) key: Key,
    /// Bytes of each part but the last one.
    pub(super) part_bytes: u64,
    under_way: UnderWay<D>,
}

impl<D: NodeDrive> Parted<D> {
    pub(super) fn begin(store: &NodeStore<D>, realm: RealmId, key: Key) -> Result<Self, NodeError> {
        let table = store.table();
        table.check_writable()?;
        Ok(Self {
            realm,
            key,
            part_bytes: part_bytes(table.slab_blocks),
            under_way: UnderWay::new(store.shared.clone(), realm, key),
        })
    }

    /// The put's own number.
    pub(super) fn generation(&self) -> u64 {
        self.under_way.generation
    }

    /// The key of a part.
    pub(super) fn part_key(&self, number: u16) -> Key {
        part_key(&self.key, self.generation(), number)
    }

    /// What a part's record says, which is going to be stored: something may be left from now on.
    pub(super) fn begin_part(&self, number: u16) -> (Key, Role) {
        self.leaves_something();
        let generation = self.generation();
        (self.part_key(number), Role::Part { generation, number })
    }

    /// A sweep has to look.
    pub(super) fn leaves_something(&self) {
        self.under_way.set_clean(false);
    }

    pub(super) fn manifest(&self, kind: KeyKind, length: u64) -> Manifest {
        Manifest {
            key: self.key,
            kind,
            generation: self.generation(),
            length,
            part_bytes: self.part_bytes,
        }
    }

    /// Whether all parts are there still: in a cache they may have made room for each other.
    pub(super) async fn check_there(
        &self,
        store: &NodeStore<D>,
        manifest: &Manifest,
    ) -> Result<(), NodeError> {
        for (number, part) in (0..).zip(manifest.part_keys()) {
            if !store.is_there(self.realm, part).await? {
                let key = self.key;
                return Err(NodeError::PartGone { key, number });
            }
        }
        Ok(())
    }

    /// Commits the manifest, when all parts of it are durable. The first under a key wins; of the others the parts go.
    pub(super) async fn commit(
        &self,
        store: &NodeStore<D>,
        manifest: &Manifest,
    ) -> Result<Put, NodeError> {
        let committed = self.commit_manifest(store, manifest).await;
        match &committed {
            Ok(Put::Created) => self.under_way.set_clean(true),
            Ok(Put::AlreadyThere) => self.take_back(store, manifest.parts()).await,
            // Whether the manifest is durable is not known to those who could not write it: the next sweep sees.
            Err(_) => {}
        }
        committed
    }

    async fn commit_manifest(
        &self,
        store: &NodeStore<D>,
        manifest: &Manifest,
    ) -> Result<Put, NodeError> {
        let realm = self.realm;
        let mut payload = D::payload(BLOCK_BYTES).map_err(NodeError::Memory)?;
        payload.as_mut()[..MANIFEST_BYTES].copy_from_slice(&manifest.encode());
        let _latch = Latch::of(&store.shared, realm, self.key).await;
        let what = (self.key, manifest.kind, manifest.role());
        let put = store.put_as(realm, what, payload, MANIFEST_BYTES as u64);
        match put.await.1? {
            Put::Created => Ok(Put::Created),
            // It may be this one, sent before to a drive that was lost then.
            Put::AlreadyThere => match store.under(realm, self.key).await? {
                Some(Some(there)) if there == *manifest => Ok(Put::Created),
                _ => Ok(Put::AlreadyThere),
            },
        }
    }

    /// Deletes the first so many parts, none of which is under way.
    pub(super) async fn take_back(&self, store: &NodeStore<D>, parts: u32) {
        let parts = (0..parts).map(|number| {
            let part = self.part_key(number as u16);
            store.delete_form(self.realm, part, Some(Form::Part))
        });
        let is_clean = in_order(PARTS_AT_ONCE, parts, |_| Ok(())).await.is_ok();
        self.under_way.set_clean(is_clean);
    }
}
