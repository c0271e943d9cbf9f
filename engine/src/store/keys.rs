//! Keys to places: the index of `oriel-dht` under the store's fingerprints.
//!
//! A fingerprint is the 128-bit SipHash-1-3 of a key's 32 bytes and its realm's number, two bytes, little-endian. The hash's
//! key are the first 16 bytes of BLAKE3's key derivation of the store's 16 bytes in the context `oriel 2026-11 fingerprints
//! of the index`. Fingerprints stand in the journal, so this is a part of the format.

use std::collections::HashMap;
use std::hash::Hasher;

use oriel_dht::index::{
    CreateError, Entry, Fingerprint, Flags, Index, IndexSize, InsertError, Length, Writer,
};
use oriel_dht::region::{
    CreateError as RegionError, Existing, Place, Region, Section, SectionError, SectionKind,
    SectionSpec,
};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::types::{Key, Location, Position, RealmId, StoreId};

/// The layout of the index's section.
const INDEX_VERSION: u32 = 1;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Its memory.
    #[error("no memory for the index: {0}")]
    Region(#[from] RegionError),
    /// Its section.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// Its size.
    #[error(transparent)]
    Create(#[from] CreateError),
}

fn size(blobs_max: u64) -> IndexSize {
    IndexSize {
        partitions: 1,
        entries: blobs_max.min(1 << 16),
        entries_max: blobs_max,
    }
}

/// Memory of this process for the index of a store of so many blobs.
pub fn index_in_memory(blobs_max: u64) -> Result<Section, IndexError> {
    let bytes = size(blobs_max).section_bytes();
    let spec = SectionSpec {
        kind: SectionKind::INDEX,
        version: INDEX_VERSION,
        bytes: bytes.map_err(CreateError::from)?,
    };
    let place = Place::Memory { large_pages: true };
    let region = Region::create(&place, &[spec], Existing::Keep)?;
    Ok(region.section(SectionKind::INDEX, INDEX_VERSION)?)
}

/// Which blob is where.
pub(super) struct Keys {
    index: Index,
    writer: Writer,
    /// What stands for a key: 128 bits of a keyed hash, so that no choice of keys makes two of them the same. Among 10
    /// million blobs it happens by chance once in 10^25 stores.
    hasher: SipHasher13,
    /// Entries that the index had no room for although it is not full.
    beside: HashMap<Fingerprint, Entry>,
}

fn entry(location: Location) -> Entry {
    Entry {
        position: dht_position(location.position),
        length: Length::new(location.length).expect("records have no greater lengths"),
        flags: Flags(0),
    }
}

fn dht_position(position: Position) -> oriel_dht::index::Position {
    oriel_dht::index::Position::new(position.0).expect("slabs end before the log does")
}

fn location(entry: Entry) -> Location {
    Location {
        position: Position(entry.position.block()),
        length: entry.length.bytes(),
    }
}

impl Keys {
    pub(super) fn new(
        section: Section,
        store: StoreId,
        blobs_max: u64,
    ) -> Result<Self, CreateError> {
        let (index, mut writers) = Index::create(section, &size(blobs_max))?;
        let seed = blake3::derive_key("oriel 2026-11 fingerprints of the index", &store.0);
        let seed: &[u8; 16] = seed.first_chunk().expect("a hash has 32 bytes");
        Ok(Self {
            index,
            writer: writers.pop().expect("an index of one partition"),
            hasher: SipHasher13::new_with_key(seed),
            beside: HashMap::new(),
        })
    }

    pub(super) fn fingerprint(&self, realm: RealmId, key: &Key) -> Fingerprint {
        let mut hasher = self.hasher;
        hasher.write(key.bytes());
        hasher.write(&realm.0.to_le_bytes());
        Fingerprint::from_bytes(hasher.finish128().as_bytes())
    }

    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<Location> {
        let found = self.index.get_and_touch(fingerprint);
        found.or_else(|| self.get_beside(fingerprint)).map(location)
    }

    /// The same, without that making it warmer.
    pub(super) fn peek(&self, fingerprint: Fingerprint) -> Option<Location> {
        let found = self.index.get(fingerprint);
        found.or_else(|| self.get_beside(fingerprint)).map(location)
    }

    /// Whether keys are there, which makes none of them warmer.
    pub(super) fn probe(&self, fingerprints: &[Fingerprint], there: &mut [bool]) {
        let mut entries = [None; oriel_dht::limits::BATCH_MAX];
        let batches = fingerprints.chunks(entries.len());
        for (keys, places) in batches.zip(there.chunks_mut(entries.len())) {
            self.index.get_batch(keys, &mut entries[..keys.len()]);
            for ((key, found), place) in keys.iter().zip(&entries).zip(places) {
                *place = found.is_some() || self.get_beside(*key).is_some();
            }
        }
    }

    fn get_beside(&self, fingerprint: Fingerprint) -> Option<Entry> {
        match self.beside.is_empty() {
            true => None,
            false => self.beside.get(&fingerprint).copied(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.writer.entries() + self.beside.len() as u64
    }

    /// Adds a key; where it is if it is there.
    pub(super) fn insert(
        &mut self,
        fingerprint: Fingerprint,
        place: Location,
    ) -> Result<(), Location> {
        if let Some(present) = self.get_beside(fingerprint) {
            return Err(location(present));
        }
        match self.writer.insert(fingerprint, entry(place)) {
            Ok(()) => Ok(()),
            Err(InsertError::Present { present, .. }) => Err(location(present)),
            Err(_) => {
                self.beside.insert(fingerprint, entry(place));
                Ok(())
            }
        }
    }

    /// Takes a key out if it is at that position; how long the blob was.
    pub(super) fn remove(&mut self, fingerprint: Fingerprint, from: Position) -> Option<Location> {
        let expected = dht_position(from);
        let removed = self.writer.remove_if_unchanged(fingerprint, expected);
        let removed = removed.or_else(|| {
            let there = self.get_beside(fingerprint)?;
            (there.position == expected).then(|| self.beside.remove(&fingerprint))?
        });
        removed.map(location)
    }

    /// Says where a key's blob is now, if it was at that position; whether it was.
    pub(super) fn replace(
        &mut self,
        fingerprint: Fingerprint,
        from: Position,
        to: Location,
    ) -> bool {
        let expected = dht_position(from);
        let replaced = self
            .writer
            .replace_if_unchanged(fingerprint, expected, entry(to));
        if replaced.is_ok() {
            return true;
        }
        match self.beside.get_mut(&fingerprint) {
            Some(there) if there.position == expected => {
                *there = entry(to);
                true
            }
            _ => false,
        }
    }
}
