//! Looking at a store that is stopped: whether everything on its drive is as it has to be. Nothing is written.

use super::directory::Owner;
use super::drive::{Drive, ExtentName};
use super::error::{OpenError, StoreError};
use super::recovery::{Loaded, OpenOptions, Use, load};
use super::scan::read_directory;
use super::types::{Key, RealmId};
use super::walk::check_record;
use oriel_dht::region::Section;

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
    /// What is wrong.
    pub problems: Vec<Problem>,
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
            if let Err(error) = check_record(drive, extent, slab_blocks, record).await {
                let key = record.key;
                report.problems.push(Problem::Blob { realm, key, error });
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
