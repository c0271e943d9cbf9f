//! The blobstore: what one process wrote, another finds.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blob_support;
mod support;

use std::fs::File;
use std::path::Path;

use blob_support::{MIB, TYPE, blob_of, child, init, pattern, phase, read, write};
use oriel_spdk::bdev::create;
use oriel_spdk::blob::{BlobEntry, Blobstore, NewBlob};
use support::with_spdk;

/// A part of a test, in a process of its own.
fn part(name: &str, phase: &str, path: &Path) {
    let output = child(name, phase).env("ORIEL_FILE", path).output().unwrap();
    assert!(
        output.status.success() || phase.starts_with("abort"),
        "{phase}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn blobs_persist_from_process_to_process() {
    const NAME: &str = "blobs_persist_from_process_to_process";
    let Some(phase) = phase() else {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(64 * MIB).unwrap();
        for phase in ["make", "find", "find"] {
            part(NAME, phase, &path);
        }
        return;
    };
    let path = std::env::var("ORIEL_FILE").unwrap();
    with_spdk(async |sub| {
        create::aio(&sub, "disk", Path::new(&path), 512)
            .await
            .unwrap();
        if phase == "make" {
            let store = init("disk").await;
            for number in 0..20_u8 {
                let new = NewBlob {
                    clusters: 1 + u64::from(number) % 3,
                    xattrs: &[("number", &[number])],
                };
                let blob = store.open(store.create(new).await.unwrap()).await.unwrap();
                write(&blob, 512, 0, &pattern(number.into(), MIB as usize)).await;
                if number == 11 {
                    store.set_super_blob(Some(blob.id())).await.unwrap();
                }
            }
            store.unload().await.unwrap();
            return;
        }
        let store = Blobstore::load("disk", TYPE, |_| {}).await.unwrap();
        let entries = store.blobs().await.unwrap();
        assert_eq!(entries.len(), 20);
        let mut numbers = Vec::new();
        for BlobEntry { id, clusters } in entries {
            let blob = store.open(id).await.unwrap();
            let number = blob.xattr("number").unwrap()[0];
            assert_eq!(clusters, 1 + u64::from(number) % 3);
            assert!(read(&blob, 512, 0, 2048).await == pattern(number.into(), MIB as usize));
            if number == 11 {
                assert_eq!(store.super_blob().await.unwrap(), Some(id));
            }
            numbers.push(number);
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..20));
        store.unload().await.unwrap();
    });
}

/// SPDK before v21.10 counts metadata short when it recovers, by default on a device of just this
/// size, and gives its last cluster to a blob. The store's layout keeps that from happening.
#[test]
fn recovery_does_not_give_metadata_away() {
    const NAME: &str = "recovery_does_not_give_metadata_away";
    let Some(phase) = phase() else {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(256 * MIB).unwrap();
        for phase in ["abort-after-making", "abort-after-filling", "find"] {
            part(NAME, phase, &path);
        }
        return;
    };
    let path = std::env::var("ORIEL_FILE").unwrap();
    let cluster_of = |id| pattern(id, 4096).repeat(256);
    with_spdk(async |sub| {
        create::aio(&sub, "disk", Path::new(&path), 4096)
            .await
            .unwrap();
        let store = if phase == "abort-after-making" {
            init("disk").await
        } else {
            Blobstore::load("disk", TYPE, |_| {}).await.unwrap()
        };
        let before = store.blobs().await.unwrap();
        let used: u64 = before.iter().map(|entry| entry.clusters).sum();
        assert_eq!(store.free_clusters() + used, store.total_clusters());
        let wanted = match &*phase {
            "abort-after-making" => 100,
            "abort-after-filling" => store.total_clusters(),
            _ => used,
        };
        for _ in used..wanted {
            let blob = blob_of(&store, 1).await;
            let id = blob.id().to_raw();
            blob.set_xattr("id", &id.to_le_bytes()).unwrap();
            blob.sync_metadata().await.unwrap();
            write(&blob, 4096, 0, &cluster_of(id)).await;
        }
        if phase.starts_with("abort") {
            std::process::abort();
        }
        assert_eq!(before.len() as u64, store.total_clusters());
        for entry in before {
            let blob = store.open(entry.id).await.unwrap();
            let id = entry.id.to_raw();
            assert_eq!(blob.xattr("id").unwrap(), id.to_le_bytes());
            assert!(read(&blob, 4096, 0, 256).await == cluster_of(id));
        }
        store.unload().await.unwrap();
    });
}
