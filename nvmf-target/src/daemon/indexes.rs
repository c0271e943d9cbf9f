//! Where the indexes of a node's drives lie: in memory, or in files that outlast the program.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use oriel_engine::store::{
    IndexPlace, NodeRecovery, NodeStore, SpdkDrive, StoreId, index_in_memory, remove_old_indexes,
};

use super::DaemonError;
use crate::config::Config;

#[derive(Clone)]
pub(super) struct Indexes {
    folder: Option<PathBuf>,
    store: StoreId,
    blobs_max: u64,
}

impl Indexes {
    /// What a configuration says.
    pub(super) fn of(config: &Config) -> Self {
        Self {
            folder: config.index.clone(),
            store: config.store,
            blobs_max: config.blobs_max,
        }
    }

    /// Makes the folder, if it is not there.
    pub(super) fn make_folder(&self) -> Result<(), DaemonError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| DaemonError::IndexFolder {
            path: folder.clone(),
            source,
        })
    }

    /// That of one drive.
    pub(super) fn place(&self) -> Result<IndexPlace, DaemonError> {
        if let Some(folder) = &self.folder {
            return Ok(IndexPlace::Folder(folder.clone()));
        }
        let blobs = self.blobs_max;
        let section = index_in_memory(blobs);
        let section = section.map_err(|source| DaemonError::Index { blobs, source })?;
        Ok(section.into())
    }

    /// Says which drives' indexes were there.
    pub(super) fn tell(&self, recovery: &NodeRecovery) {
        if self.folder.is_none() {
            return;
        }
        for (drive, of_drive) in &recovery.drives {
            match of_drive.is_adopted {
                true => tracing::info!(%drive, "its index was kept: it is taken over"),
                false => tracing::info!(
                    %drive,
                    "its index was not kept, or is none of its last stop: it is made anew"
                ),
            }
        }
    }

    /// Removes those of drives that the store does not have any more.
    pub(super) async fn tidy(&self, store: &NodeStore<SpdkDrive>) {
        let Some(folder) = &self.folder else {
            return;
        };
        let drives = store.stat().await.drives;
        let numbers: Vec<_> = (drives.iter())
            .filter_map(|drive| drive.drive.number)
            .collect();
        match remove_old_indexes(folder, self.store, &numbers) {
            Ok(removed) => removed.iter().for_each(|file| {
                let file = file.display();
                tracing::info!(%file, "the index of a drive that left is removed");
            }),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "indexes of drives that left could not be removed: remove them by hand");
            }
        }
    }
}
