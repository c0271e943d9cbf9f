//! Keys to places: the index of `oriel-dht` under the store's fingerprints.
//!
//! A fingerprint is the 128-bit SipHash-1-3 of a key's 32 bytes and its realm's number, two bytes, little-endian. The hash's
//! key are the first 16 bytes of BLAKE3's key derivation of the store's 16 bytes in the context `oriel 2026-11 fingerprints
//! of the index`. Fingerprints stand in the journal, so this is a part of the format.

use oriel_dht::index::{
    AdoptError, CloseError, CreateError, Entry, Fingerprint, Flags, Index, InsertError, Length,
    Verification, Writer,
};
use oriel_dht::region::Section;

use super::index_file::{section_bytes, size};
use super::print::Printer;
use super::prints::PrintMap;
use super::stamp::Stamp;
use super::types::{Form, Key, Location, Position, RealmId, StoreId};

/// Keys whose lines are on the way ahead of the one that is inserted.
const AHEAD: usize = 16;

/// Why an index was not left for the next run, which makes it anew then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The log did not come to its end.
    #[error(
        "the log was not closed to its end, or not opened with keeps_index, so its index is not kept: the next start makes it anew"
    )]
    NotEnded,
    /// Some keys found no place in it.
    #[error(
        "{beside} keys found no place in the index, so it is not kept: open the store for more blobs"
    )]
    Crowded {
        /// How many.
        beside: usize,
    },
    /// It is damaged, or of no size of ours.
    #[error(transparent)]
    Close(#[from] CloseError),
}

/// Which blob is where.
pub(super) struct Keys {
    index: Index,
    writer: Writer,
    /// What stands for a key: 128 bits of a keyed hash, so that no choice of keys makes two of them the same. Among 10
    /// million blobs it happens by chance once in 10^25 stores.
    printer: Printer,
    /// Entries that the index had no room for although it is not full.
    beside: PrintMap<Entry>,
    section: Section,
}

fn entry(location: Location) -> Entry {
    Entry {
        position: dht_position(location.position),
        length: Length::new(location.length).expect("records have no greater lengths"),
        flags: Flags(match location.form {
            Form::Whole => 0,
            Form::Part => 1,
            Form::Manifest => 2,
        }),
    }
}

fn dht_position(position: Position) -> oriel_dht::index::Position {
    oriel_dht::index::Position::new(position.0).expect("slabs end before the log does")
}

fn location(entry: Entry) -> Location {
    Location {
        position: Position(entry.position.block()),
        length: entry.length.bytes(),
        form: match entry.flags {
            Flags(1) => Form::Part,
            Flags(2) => Form::Manifest,
            _ => Form::Whole,
        },
    }
}

/// Finds keys on any core, beside the one that keeps them.
#[derive(Clone)]
pub(super) struct Finder {
    index: Index,
    printer: Printer,
}

impl Finder {
    pub(super) fn fingerprint(&self, realm: RealmId, key: &Key) -> Fingerprint {
        self.printer.of(realm, key)
    }

    /// Where a key's blob is, which gets warmer by it; `None` says nothing.
    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<Location> {
        self.index.get_and_touch(fingerprint).map(location)
    }
}

impl Keys {
    /// An empty index for up to so many blobs. It has its full size at once: growing would cost each insert more than the
    /// insert itself.
    pub(super) fn new(
        section: Section,
        store: StoreId,
        blobs_max: u64,
    ) -> Result<Self, CreateError> {
        let wanted = section_bytes(blobs_max)?;
        if section.bytes() < wanted {
            let found = section.bytes();
            return Err(CreateError::TooSmall { wanted, found });
        }
        let made = Index::create(section.clone(), &size(blobs_max))?;
        Ok(Self::with(made, section, store))
    }

    /// The index that the last run left. Whether it is the right one is for the caller to know.
    pub(super) fn adopt(section: Section, store: StoreId) -> Result<Self, AdoptError> {
        let adopted = Index::adopt(section.clone())?;
        Ok(Self::with(adopted, section, store))
    }

    fn with((index, mut writers): (Index, Vec<Writer>), section: Section, store: StoreId) -> Self {
        let seed = blake3::derive_key("oriel 2026-11 fingerprints of the index", &store.0);
        let seed: &[u8; 16] = seed.first_chunk().expect("a hash has 32 bytes");
        Self {
            index,
            writer: writers.pop().expect("an index of one partition"),
            printer: Printer::new(seed),
            beside: PrintMap::default(),
            section,
        }
    }

    /// Leaves the index for the next run, with what ties it to the checkpoint that it is of.
    pub(super) fn keep(self, stamp: &Stamp) -> Result<(), KeepError> {
        if !self.beside.is_empty() {
            let beside = self.beside.len();
            return Err(KeepError::Crowded { beside });
        }
        self.index.close(vec![self.writer])?;
        stamp.write(&self.section);
        Ok(())
    }

    /// Verifies some more lines of an index that was taken over.
    pub(super) fn verify_step(&mut self, lines: u64) -> Verification {
        self.writer.verify_step(lines)
    }

    pub(super) fn is_verified(&self) -> bool {
        self.index.is_verified()
    }

    pub(super) fn fingerprint(&self, realm: RealmId, key: &Key) -> Fingerprint {
        self.printer.of(realm, key)
    }

    pub(super) fn finder(&self) -> Finder {
        Finder {
            index: self.index.clone(),
            printer: self.printer,
        }
    }

    /// Asks for what a lookup starts with, without waiting for it.
    pub(super) fn prefetch(&self, fingerprint: Fingerprint) {
        self.index.prefetch(fingerprint);
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

    /// Adds many keys, their lines fetched ahead; whether all were new.
    pub(super) fn insert_all(&mut self, blobs: &[(Fingerprint, Location)]) -> bool {
        for (at, (fingerprint, place)) in blobs.iter().enumerate() {
            if let Some((later, _)) = blobs.get(at + AHEAD) {
                self.writer.prefetch(*later);
            }
            if self.insert(*fingerprint, *place).is_err() {
                return false;
            }
        }
        true
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
