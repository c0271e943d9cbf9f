//! Where a drive's index lies, and how it outlasts the program.
//!
//! ```text
//!   Lane::open ──► file `<store>-<drive>.index` ──► ... ──► the log ends ──► Lane::close: kept, made durable
//!                  (another's, damaged or none: made anew)   (it did not: the file stays as it is, and is made anew)
//! ```
//!
//! The name says whose index it is, so nodes may share a folder, and drives may change their paths. What is in the file is
//! believed only if it is that of the drive's last checkpoint (`stamp.rs`), so whatever happens to files costs time alone.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use oriel_dht::region::Section;

use super::super::error::OpenError;
use super::super::index_file::{IndexFile, index_over};
use super::super::log::Log;
use super::super::types::StoreId;
use super::place::DriveNumber;
use super::seat::NodeDrive;
use crate::reactor;

/// How long the end of a log waits for those who still read by it.
const READERS_TIME: Duration = Duration::from_secs(1);
const SUFFIX: &str = ".index";

/// Where the index of a drive is to lie.
#[derive(Clone, Debug)]
pub enum IndexPlace {
    /// Memory of this process: each start makes the index anew.
    Memory(Section),
    /// A file in this folder, on any file system: the start after a stop in order takes the index over.
    Folder(PathBuf),
}

impl From<Section> for IndexPlace {
    fn from(section: Section) -> Self {
        Self::Memory(section)
    }
}

/// The file of a drive's index.
fn file_of(folder: &Path, store: StoreId, number: DriveNumber) -> PathBuf {
    folder.join(format!("{store}-{number}{SUFFIX}"))
}

/// Removes the indexes of drives that the store does not have any more, and says which. Those of other stores stay.
pub fn remove_old_indexes(
    folder: &Path,
    store: StoreId,
    drives: &[DriveNumber],
) -> io::Result<Vec<PathBuf>> {
    let of_store = format!("{store}-");
    let number = |name: &OsStr| {
        let number = name.to_str()?.strip_prefix(&of_store)?;
        number.strip_suffix(SUFFIX)?.parse().ok().map(DriveNumber)
    };
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if number(&entry.file_name()).is_some_and(|number| !drives.contains(&number)) {
            std::fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}

/// The index of a lane.
pub(super) struct LaneIndex {
    place: IndexPlace,
    /// Once the lane is open, if there is one.
    file: Option<(PathBuf, IndexFile)>,
}

impl LaneIndex {
    pub(super) fn new(place: IndexPlace) -> Self {
        Self { place, file: None }
    }

    /// Whether it outlasts the program.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.place, IndexPlace::Folder(_))
    }

    /// The memory for an index of so many blobs, with what the last run left there.
    pub(super) fn section(
        &mut self,
        (store, number): (StoreId, DriveNumber),
        blobs_max: u64,
    ) -> Result<Section, OpenError> {
        let folder = match &self.place {
            IndexPlace::Memory(section) => return Ok(section.clone()),
            IndexPlace::Folder(folder) => folder,
        };
        let path = file_of(folder, store, number);
        let refused = |error: super::super::index_file::IndexError| OpenError::IndexFile {
            path: path.clone(),
            reason: error.to_string(),
        };
        if !matches!(&self.file, Some((open, _)) if *open == path) {
            self.file = None;
            let file = index_over(&path, blobs_max).map_err(refused)?;
            self.file = Some((path.clone(), file));
        }
        let (_, file) = self.file.as_ref().expect("it was opened just now");
        file.section().map_err(refused)
    }

    /// Lets go of it, after its log: left for the next start, if that has come to its end.
    pub(super) async fn close<D: NodeDrive>(self, drive: &str, log: Option<Rc<Log<D>>>) {
        let Self { place, file } = self;
        drop(place);
        let (Some((path, file)), Some(mut log)) = (file, log) else {
            return;
        };
        let file_name = path.display();
        let last = log.clock.now() + READERS_TIME;
        let log = loop {
            match Rc::try_unwrap(log) {
                Ok(log) => break log,
                Err(_) if reactor::core_here().is_none() => return forsake(&path),
                Err(shared) if shared.clock.now() >= last => {
                    forsake(&path);
                    tracing::warn!(%drive, %file_name, "the index is not kept, since somebody still reads by it: the next start makes it anew");
                    return;
                }
                Err(shared) => log = shared,
            }
            reactor::yield_now().await;
        };
        if let Err(error) = log.keep_index() {
            tracing::warn!(%drive, %file_name, %error, "the index is not kept: the next start makes it anew");
            return;
        }
        match file.close() {
            Ok(()) => tracing::info!(%drive, %file_name, "the index is kept for the next start"),
            Err(error) => {
                tracing::warn!(%drive, %file_name, %error, "the index is not kept: the next start makes it anew");
            }
        }
    }
}

/// Leaves the file to those who still have it before them: whoever opens that path gets another one.
fn forsake(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        let file_name = path.display();
        tracing::warn!(%file_name, %error, "the file of an index that is still read cannot be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_drives_that_left_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [store, other] = [StoreId([1; 16]), StoreId([2; 16])];
        let of = |store, number| file_of(folder.path(), store, DriveNumber(number));
        let named = |name: &str| folder.path().join(name);
        let all = [of(store, 0), of(store, 7), of(store, 12), of(other, 7)];
        let strange = [
            named("7.index"),
            named(&format!("{store}-7")),
            named(&format!("{store}-x.index")),
        ];
        for file in all.iter().chain(&strange) {
            std::fs::write(file, "").unwrap();
        }
        let stay = [DriveNumber(7)];
        let mut removed = remove_old_indexes(folder.path(), store, &stay).unwrap();
        removed.sort();
        let mut expected = vec![of(store, 0), of(store, 12)];
        expected.sort();
        assert_eq!(removed, expected);
        let left = [of(store, 7), of(other, 7)];
        assert!(left.iter().chain(&strange).all(|file| file.exists()));
        assert!(removed.iter().all(|file| !file.exists()));
    }
}
