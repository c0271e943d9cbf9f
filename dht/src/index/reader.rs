//! Looking keys up, from any thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::address::Hash;
use super::entry::{Entry, Fingerprint, Heat};
use super::table::{Found, Table, Touched};
use crate::limits::{BATCH_MAX, SLOTS};

/// The readers' side of an index; clones share it.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) table: Arc<Table>,
}

impl Index {
    /// A key's entry.
    #[inline]
    pub fn get(&self, fingerprint: Fingerprint) -> Option<Entry> {
        let (_, found) = self.table.find(fingerprint, &mut ())?;
        Some(found.entry)
    }

    /// A key's entry, which gets warmer by it.
    #[inline]
    pub fn get_and_touch(&self, fingerprint: Fingerprint) -> Option<Entry> {
        let (partition, Found { line, slot, entry }) = self.table.find(fingerprint, &mut ())?;
        let warmer = |heat: Heat| Heat(heat.0.saturating_add(1));
        self.table.part(partition).change_heat(line, slot, warmer);
        Some(entry)
    }

    /// Asks for the lines that `get_and_touch` starts with, without waiting for them.
    #[inline]
    pub fn prefetch(&self, fingerprint: Fingerprint) {
        let hash = self.table.seeds.hash(fingerprint);
        let partition = self.table.partition_of(hash);
        self.table.part(partition).prefetch_with_heat(hash);
    }

    /// As `get`, and counts the cache lines that it took.
    pub fn get_counted(&self, fingerprint: Fingerprint, touched: &mut Touched) -> Option<Entry> {
        let (_, found) = self.table.find(fingerprint, touched)?;
        Some(found.entry)
    }

    /// The entries of many keys, each in the place of its key: their lines are on the way all at once. Panics where
    /// `entries` is shorter than `fingerprints`.
    pub fn get_batch(&self, fingerprints: &[Fingerprint], entries: &mut [Option<Entry>]) {
        let entries = &mut entries[..fingerprints.len()];
        let table = &*self.table;
        for (keys, places) in fingerprints
            .chunks(BATCH_MAX)
            .zip(entries.chunks_mut(BATCH_MAX))
        {
            let part = |hash| table.part(table.partition_of(hash));
            let mut hashes = [Hash(0); BATCH_MAX];
            for (key, hash) in keys.iter().zip(&mut hashes) {
                *hash = table.seeds.hash(*key);
                part(*hash).prefetch(*hash);
            }
            for hash in &hashes[..keys.len()] {
                part(*hash).prefetch_other(*hash);
            }
            for ((key, hash), place) in keys.iter().zip(&hashes).zip(places) {
                let found = part(*hash).find(*key, *hash, &mut ());
                *place = found.map(|found| found.entry);
            }
        }
    }

    /// How warm a key's entry is.
    pub fn heat(&self, fingerprint: Fingerprint) -> Option<Heat> {
        let (partition, found) = self.table.find(fingerprint, &mut ())?;
        Some(self.table.part(partition).heat(found.line, found.slot))
    }

    /// Whose writer a key belongs to.
    #[inline]
    pub fn partition_of(&self, fingerprint: Fingerprint) -> u32 {
        self.table.partition_of(self.table.seeds.hash(fingerprint)) as u32
    }

    /// Partitions, each with one writer.
    pub fn partitions(&self) -> u32 {
        self.table.layout.partitions as u32
    }

    /// Entries, a moment ago.
    pub fn entries(&self) -> u64 {
        let partitions = 0..self.table.layout.partitions as usize;
        partitions
            .map(|partition| self.table.entries(partition).load(Relaxed))
            .sum()
    }

    /// Places for entries now; growing makes more.
    pub fn slots(&self) -> u64 {
        let partitions = 0..self.table.layout.partitions as usize;
        let lines = |partition| self.table.part(partition).shape().lines();
        partitions.map(lines).sum::<u64>() * SLOTS as u64
    }

    /// Whether something in it was found wrong since it was adopted. It is then to be made anew.
    pub fn is_damaged(&self) -> bool {
        self.table.trusts().any(|trust| trust.damaged.load(Relaxed))
    }

    /// Whether every line was verified since it was adopted, or it was made now.
    pub fn is_verified(&self) -> bool {
        self.table
            .trusts()
            .all(|trust| trust.verified.load(Relaxed))
    }
}
