//! Looking at a store that is stopped: whether everything on its drive is as it has to be. Nothing is written.

use super::directory::Owner;
use super::drive::{Drive, ExtentName};
use super::error::{OpenError, StoreError};
use super::parts::{MANIFEST_BYTES, Manifest, part_key};
use super::record::{Record, Role};
use super::recovery::{Loaded, OpenOptions, Use, load};
use super::scan::read_directory;
use super::types::{BLOCK_BYTES, Key, RealmId};
use super::walk::check_record;
use oriel_dht::region::Section;
use std::collections::BTreeSet;

/// What is wrong with a store that can be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A blob whose bytes are not what was written, or cannot be read.
    #[error("{realm}: {error}")]
    Blob {
        /// Whose it is.
        realm: RealmId,
        /// Its key.
        key: Key,
        /// What was found.
        error: StoreError,
    },
    /// A slab's count of blobs is not that of the index.
    #[error("slab {number} holds {found} blobs, and its records speak of {expected}")]
    Count {
        /// Which.
        number: u64,
        /// Blobs by its records.
        expected: u64,
        /// Blobs that the keys lead to.
        found: u64,
    },
    /// A blob in parts lacks one.
    #[error("{realm}: blob {key} lacks part {number} on the drives that were looked at")]
    NoPart {
        /// Whose it is.
        realm: RealmId,
        /// The blob's key.
        key: Key,
        /// The first part that is not there.
        number: u16,
    },
    /// A part of no blob. Puts and deletes that a crash ended leave such, and the next start deletes them.
    #[error("{realm}: part {number} of put {generation:#x} of blob {key} belongs to no blob")]
    NoBlob {
        /// Whose it is.
        realm: RealmId,
        /// The key of the blob that it was meant for.
        key: Key,
        /// The put.
        generation: u64,
        /// Which part.
        number: u16,
    },
}

/// What a drive has of a blob that lies in parts, perhaps on others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// A part.
    Part {
        /// Whose it is.
        realm: RealmId,
        /// The blob's key.
        of: Key,
        /// The put that it is of.
        generation: u64,
        /// Which part.
        number: u16,
    },
    /// The manifest.
    Manifest {
        /// Whose it is.
        realm: RealmId,
        /// What it says.
        manifest: Manifest,
    },
}

/// What is on the drive of a stopped store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Blobs that were read.
    pub blobs: u64,
    /// Blocks of their windows.
    pub live_blocks: u64,
    /// Slabs with blobs.
    pub slabs: u64,
    /// Slabs and checkpoints that the next start gives back to the drive, after a crash.
    pub leftovers: u64,
    /// Frames of the journal that the next start applies, after a crash.
    pub frames: u64,
    /// What is there of blobs in parts; [`match_parts`] sees whether it is all that belongs together.
    pub fragments: Vec<Fragment>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Whether every manifest has its parts, and every part its manifest, over the reports of all drives of a store.
pub fn match_parts(reports: &[Report]) -> Vec<Problem> {
    let fragments = || reports.iter().flat_map(|report| &report.fragments);
    let mut parts = BTreeSet::new();
    for fragment in fragments() {
        if let Fragment::Part {
            realm,
            of,
            generation,
            number,
        } = *fragment
        {
            parts.insert((realm, of, generation, number));
        }
    }
    let mut problems = Vec::new();
    let mut owned = BTreeSet::new();
    for fragment in fragments() {
        let Fragment::Manifest { realm, manifest } = *fragment else {
            continue;
        };
        let key = manifest.key;
        let place = |number: u32| (realm, key, manifest.generation, number as u16);
        let missing = (0..manifest.parts()).find(|number| !parts.contains(&place(*number)));
        if let Some(number) = missing {
            let number = number as u16;
            problems.push(Problem::NoPart { realm, key, number });
        }
        owned.extend((0..manifest.parts()).map(place));
    }
    let of_none = parts.difference(&owned).map(|part| Problem::NoBlob {
        realm: part.0,
        key: part.1,
        generation: part.2,
        number: part.3,
    });
    problems.extend(of_none);
    problems
}

/// Reads everything, and gives what was found; an error where it could not be opened. The section is for an index.
pub async fn check<D: Drive>(
    drive: &D,
    index: Section,
    options: &OpenOptions,
) -> Result<Report, OpenError> {
    let loaded = load(drive, index, options, Use::Never).await?;
    let Loaded {
        layout,
        state,
        header,
        tail,
        extents,
        ..
    } = &loaded;
    let mut report = Report {
        frames: tail.sequence - header.sequence,
        ..Report::default()
    };
    for name in extents.keys() {
        report.leftovers += match name {
            ExtentName::Slab(number) => u64::from(!state.slabs.contains_key(number)),
            ExtentName::Checkpoint(epoch) => u64::from(*epoch != header.epoch),
            ExtentName::Label | ExtentName::Journal(_) | ExtentName::Roster(_) => 0,
        };
    }
    for (&number, slab) in &state.slabs {
        let realm = slab.realm;
        let owner = Owner {
            store: layout.store,
            realm,
            slab: number,
        };
        let (in_directory, tail) = slab.known_records();
        let (extent, slab_blocks) = (&*slab.extent, layout.slab_blocks);
        let mut records = read_directory(drive, &owner, extent, slab_blocks, in_directory).await?;
        records.extend_from_slice(tail);
        records.sort_unstable_by_key(|record| record.position);
        let mut found = 0;
        for record in &records {
            let fingerprint = state.keys.fingerprint(realm, &record.key);
            if state.keys.peek(fingerprint) != Some(record.location()) {
                continue;
            }
            found += 1;
            report.live_blocks += record.blocks();
            let checked = async {
                check_record(drive, extent, slab_blocks, record).await?;
                fragment(drive, extent, (realm, slab_blocks), record).await
            };
            match checked.await {
                Ok(fragment) => report.fragments.extend(fragment),
                Err(error) => {
                    let key = record.key;
                    report.problems.push(Problem::Blob { realm, key, error });
                }
            }
        }
        let expected = slab.blobs();
        if expected != found {
            report.problems.push(Problem::Count {
                number,
                expected,
                found,
            });
        }
        report.blobs += found;
        report.slabs += u64::from(found > 0);
    }
    Ok(report)
}

/// What a record says of a blob in parts, if it does.
async fn fragment<D: Drive>(
    drive: &D,
    extent: &D::Extent,
    (realm, slab_blocks): (RealmId, u64),
    record: &Record,
) -> Result<Option<Fragment>, StoreError> {
    let key = record.key;
    match record.role {
        Role::Whole => Ok(None),
        Role::Part { generation, number } => Ok(Some(Fragment::Part {
            realm,
            of: part_key(&key, generation, number),
            generation,
            number,
        })),
        Role::Manifest { length } => {
            let buf = drive.buffer(BLOCK_BYTES)?;
            let at = record.position.0 % slab_blocks;
            let (buf, read) = drive.read(extent, at, buf).await;
            read?;
            let manifest = Manifest::decode(&buf.as_ref()[..MANIFEST_BYTES], &key);
            let is_sound = |manifest: &Manifest| {
                record.length == MANIFEST_BYTES as u64
                    && (manifest.kind, manifest.length) == (record.kind, length)
            };
            let manifest = manifest.filter(is_sound);
            let manifest = manifest.ok_or(StoreError::WrongManifest { key })?;
            Ok(Some(Fragment::Manifest { realm, manifest }))
        }
    }
}
