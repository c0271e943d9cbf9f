//! Where an index lies: memory of this process, or a file or device that outlasts it.

use std::path::Path;

use oriel_dht::index::{CreateError, IndexSize};
use oriel_dht::region::{
    CloseError, CreateError as RegionError, Existing, OpenError, Place, Region, Section,
    SectionError, SectionKind, SectionSpec,
};

use super::stamp::STAMP_BYTES;

/// The layout of the index's section: the index, and the stamp in its last line.
const INDEX_VERSION: u32 = 2;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Its memory.
    #[error("no memory for the index: {0}")]
    Region(#[from] RegionError),
    /// What is in its place.
    #[error("the index's place cannot be used: {0}")]
    Open(#[from] OpenError),
    /// Its section.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// Its size.
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// The index of so many blobs.
pub(super) fn size(blobs_max: u64) -> IndexSize {
    IndexSize {
        partitions: 1,
        entries: blobs_max,
        entries_max: blobs_max,
    }
}

/// Bytes of the section for it.
pub(super) fn section_bytes(blobs_max: u64) -> Result<u64, CreateError> {
    Ok(size(blobs_max).section_bytes()? + STAMP_BYTES)
}

fn spec(blobs_max: u64) -> Result<SectionSpec, CreateError> {
    Ok(SectionSpec {
        kind: SectionKind::INDEX,
        version: INDEX_VERSION,
        bytes: section_bytes(blobs_max)?,
    })
}

/// Memory of this process for the index of a store of so many blobs.
pub fn index_in_memory(blobs_max: u64) -> Result<Section, IndexError> {
    let place = Place::Memory { large_pages: true };
    let region = Region::create(&place, &[spec(blobs_max)?], Existing::Keep)?;
    Ok(region.section(SectionKind::INDEX, INDEX_VERSION)?)
}

/// An index in a file on any file system, or on a DAX device: after a clean stop the next run takes it over as it is.
///
/// ```text
///   index_in_file ──► section ──► open ... close, run ends ──► Log::keep_index ──► IndexFile::close
/// ```
///
/// Where one of the last two steps is missing, as after a crash, the next run makes the index anew.
#[derive(Debug)]
pub struct IndexFile {
    region: Region,
}

impl IndexFile {
    /// The memory of it.
    pub fn section(&self) -> Result<Section, IndexError> {
        Ok(self.region.section(SectionKind::INDEX, INDEX_VERSION)?)
    }

    /// Makes it durable and marks it as such. The log has to be gone.
    pub fn close(self) -> Result<(), CloseError> {
        self.region.close()
    }
}

/// A file or device for the index of a store of so many blobs, with what an earlier run left there. An index of another
/// size or version is replaced; what is no region of ours is refused.
pub fn index_in_file(path: &Path, blobs_max: u64) -> Result<IndexFile, IndexError> {
    make(path, blobs_max, |_| false)
}

/// The same in a file that nobody else gave its name: whatever is there and cannot be used is replaced, with a word.
pub(super) fn index_over(path: &Path, blobs_max: u64) -> Result<IndexFile, IndexError> {
    make(path, blobs_max, |error| {
        let is_damaged = matches!(
            error,
            OpenError::Foreign { .. } | OpenError::Newer { .. } | OpenError::Contradiction { .. }
        );
        if is_damaged {
            tracing::warn!(%error, "the file of an index is written over");
        }
        is_damaged
    })
}

fn make(
    path: &Path,
    blobs_max: u64,
    may_replace: impl Fn(&OpenError) -> bool,
) -> Result<IndexFile, IndexError> {
    let wanted = spec(blobs_max)?;
    let place = Place::Path(path.to_owned());
    let replace = match Region::open(&place) {
        Ok(region) => {
            let section = region.section(wanted.kind, wanted.version);
            if section.is_ok_and(|section| section.bytes() == wanted.bytes) {
                return Ok(IndexFile { region });
            }
            true
        }
        Err(OpenError::Older { .. } | OpenError::Torn { .. } | OpenError::Truncated { .. }) => true,
        Err(OpenError::Blank { .. }) => false,
        Err(OpenError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            false
        }
        Err(error) if may_replace(&error) => true,
        Err(error) => return Err(error.into()),
    };
    let existing = match replace {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let region = Region::create(&place, &[wanted], existing)?;
    Ok(IndexFile { region })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_remade_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let generation = |blobs_max: u64| {
            let file = index_in_file(&path, blobs_max).unwrap();
            let generation = file.section().unwrap().generation();
            file.close().unwrap();
            generation
        };
        assert_eq!([generation(1000), generation(1000)], [1, 2]);
        assert_eq!([generation(1 << 20), generation(1 << 20)], [1, 2]);
        // Cut short by somebody.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(5000).unwrap();
        assert_eq!(generation(1000), 1);
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let refused = index_in_file(&path, 1000);
        assert!(
            matches!(refused, Err(IndexError::Open(OpenError::Foreign { .. }))),
            "{refused:?}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 8192]);
    }
}
