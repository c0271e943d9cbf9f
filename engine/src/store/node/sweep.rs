//! Takes away what is left of large blobs: parts whose manifest was never committed, or was deleted before them, and blobs
//! of which a part has gone.
//!
//! A crash leaves the first, and so do puts that were dropped; evictions and drives that were forgotten leave the second. A
//! sweep looks through the slabs that may have parts, after each start, whenever drives came or went, and when a put or a
//! delete could not clean up behind itself.
//!
//! **Nothing is taken away while a drive is lost**: it may have the manifest, or a later one than is read now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::parts::part_key;
use super::super::record::Role;
use super::super::types::{BLOCK_BYTES, Form, Key, Position, RealmId};
use super::handle::NodeStore;
use super::keeper::Keeper;
use super::lane::{Lane, Refused};
use super::puts::Latch;
use super::seat::NodeDrive;
use super::table::Table;
use crate::limits::SWEEP_BYTES_PER_SECOND;

/// Keys of a probe.
const PROBED: usize = 64;

/// Of a slab, what belongs to large blobs.
pub(super) struct Swept {
    realm: RealmId,
    records: Vec<(Key, Role)>,
    /// Bytes that were read to know it.
    bytes: u64,
    /// The slab to go on with.
    next: u64,
}

/// A sweep came upon something that the next one may do better with.
struct Broken;

impl<D: NodeDrive> Lane<D> {
    /// What belongs to large blobs in the first slab of that number or a later one that has any; `None` at the end.
    pub(super) async fn parts_from(&self, from: u64) -> Result<Option<Swept>, Refused> {
        let log = self.log().map_err(Refused::Gone)?;
        log.trusted().await.map_err(|error| self.refused(error))?;
        if !log.may_have_parts() {
            return Ok(None);
        }
        let slab = {
            let state = log.state.borrow();
            let mut slabs = state.slabs.range(from..);
            slabs.find_map(|(number, slab)| {
                let bytes = u64::from(slab.records()) * 64;
                slab.may_have_parts.then_some((*number, slab.realm, bytes))
            })
        };
        let Some((number, realm, bytes)) = slab else {
            return Ok(None);
        };
        let records = log.live_records(number, Position(0)).await;
        let records = records.map_err(|error| self.refused(error))?;
        let of_parts = records
            .iter()
            .filter(|record| record.role != Role::Whole)
            .map(|record| (record.key, record.role));
        Ok(Some(Swept {
            realm,
            records: of_parts.collect(),
            bytes,
            next: number + 1,
        }))
    }
}

impl<D: NodeDrive> Keeper<D> {
    /// Sweeps whenever somebody asks for it.
    pub(super) async fn sweep_parts(&self) {
        let store = NodeStore::new(self.shared());
        while !self.is_closing.get() {
            self.sweeper_bell.heard().await;
            let table = self.shared.table();
            if table.is_whole() && table.check_writable().is_ok() {
                // What it could not do is done after the next change of the drives, or the next start.
                let _ = self.sweep(&store, &table).await;
            }
        }
    }

    async fn sweep(&self, store: &NodeStore<D>, table: &Arc<Table<D>>) -> Result<(), Broken> {
        for at in 0..table.rows.len() as u16 {
            let seat = table.seat(at).ok_or(Broken)?;
            let mut from = 0;
            loop {
                let swept = seat.call(move |lane| async move { lane.parts_from(from).await });
                let swept = swept.await.map_err(|_| Broken)?.map_err(|_| Broken)?;
                let Some(swept) = swept else {
                    break;
                };
                from = swept.next;
                self.sweep_slab(store, swept).await?;
            }
        }
        Ok(())
    }

    async fn sweep_slab(&self, store: &NodeStore<D>, swept: Swept) -> Result<(), Broken> {
        let realm = swept.realm;
        let mut puts: BTreeMap<(Key, u64), Vec<u16>> = BTreeMap::new();
        let mut manifests = Vec::new();
        for (key, role) in swept.records {
            match role {
                Role::Part { generation, number } => {
                    let of = part_key(&key, generation, number);
                    puts.entry((of, generation)).or_default().push(number);
                }
                Role::Manifest { .. } => manifests.push(key),
                Role::Whole => {}
            }
        }
        self.rest(swept.bytes).await?;
        for ((of, generation), numbers) in puts {
            self.rest(BLOCK_BYTES as u64).await?;
            self.sweep_put(store, realm, (of, generation), &numbers)
                .await?;
        }
        for key in manifests {
            self.rest(BLOCK_BYTES as u64).await?;
            self.sweep_blob(store, realm, key).await?;
        }
        Ok(())
    }

    /// Keeps to the rate.
    async fn rest(&self, bytes: u64) -> Result<(), Broken> {
        let nanos = bytes.saturating_mul(1_000_000_000) / SWEEP_BYTES_PER_SECOND;
        (self.options.sleep)(Duration::from_nanos(nanos)).await;
        match self.is_closing.get() {
            true => Err(Broken),
            false => Ok(()),
        }
    }

    /// Deletes parts that no manifest speaks of.
    async fn sweep_put(
        &self,
        store: &NodeStore<D>,
        realm: RealmId,
        (key, generation): (Key, u64),
        numbers: &[u16],
    ) -> Result<(), Broken> {
        let shared = &self.shared;
        if shared.large.is_under_way(realm, key, generation) {
            return Ok(());
        }
        // A put that ended meanwhile has its manifest by now, and no other put has its generation.
        let _latch = Latch::of(shared, realm, key).await;
        let manifest = match store.under(realm, key).await {
            Ok(under) => under.flatten(),
            // Its blob is reported by reads and by scrubs; its parts stay for whoever repairs it.
            Err(error) if error.is_of_manifest() => return Ok(()),
            Err(_) => return Err(Broken),
        };
        // A drive that was lost just now may have a later manifest than this one.
        if !shared.table().is_whole() {
            return Err(Broken);
        }
        let is_of_it = |number: u16| manifest.is_some_and(|of| of.has(generation, number));
        let mut gone = 0;
        for &number in numbers.iter().filter(|number| !is_of_it(**number)) {
            let part = part_key(&key, generation, number);
            let deleted = store.delete_form(realm, part, Some(Form::Part)).await;
            gone += u64::from(deleted.map_err(|_| Broken)?);
        }
        if gone > 0 {
            tracing::info!(%realm, %key, parts = gone, "parts of no blob were deleted");
        }
        Ok(())
    }

    /// Deletes what is left of a blob of which a part has gone.
    async fn sweep_blob(
        &self,
        store: &NodeStore<D>,
        realm: RealmId,
        key: Key,
    ) -> Result<(), Broken> {
        let manifest = match store.under(realm, key).await {
            Ok(Some(Some(manifest))) => manifest,
            Err(error) if !error.is_of_manifest() => return Err(Broken),
            _ => return Ok(()),
        };
        let parts: Vec<Key> = manifest.part_keys().collect();
        for (batch, keys) in parts.chunks(PROBED).enumerate() {
            let there = store.probe(realm, keys).await.map_err(|_| Broken)?;
            let missing = (!there).trailing_zeros() as usize;
            if missing < keys.len() {
                let number = (batch * PROBED + missing) as u16;
                let gone = store.is_incomplete(realm, &manifest, number).await;
                return gone.map_err(|_| Broken);
            }
        }
        Ok(())
    }
}
