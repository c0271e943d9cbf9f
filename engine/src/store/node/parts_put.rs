//! Blobs in parts whose windows are written from outside.
//!
//! ```text
//!  begin_put ──► reserve_part ──► a window on the part's drive ──► write ... ──► commit_part   several at once
//!            └─► finish_put: every part is there, as long as it has to be ──► manifest ──► the blob is there
//!            └─► give_up_put, or dropped: the parts go
//! ```
//!
//! Who finishes says how long the blob is and no more. What its parts are is known from their commits, so nobody can make a
//! blob of parts that are missing, of another length, or of another put.
//!
//! **Content.** The hash of a blob is a tree, and a part (a power of two of blocks, but for the last one) is a subtree of it.
//! A part of content is read again when it is committed and hashed for its place in the tree, so what is left to do at the end
//! is to put the parts' hashes together. Nobody reads a blob of many GiB in one command.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use super::super::log::Put;
use super::super::record::data_blocks;
use super::super::reserve::{Commit, Reserved};
use super::super::types::{BLOCK_BYTES, Form, Key, KeyKind, RealmId};
use super::error::NodeError;
use super::handle::NodeStore;
use super::parted::Parted;
use super::seat::NodeDrive;
use crate::limits::HASH_STEP;

/// A part that is durable.
#[derive(Clone, Copy)]
struct There {
    length: u64,
    /// Its place in the tree of the blob's hash, if it is one of content.
    subtree: Option<ChainingValue>,
}

#[derive(Default)]
struct Inner {
    there: BTreeMap<u16, There>,
    /// No part with this number or a later one was ever begun.
    begun: u32,
    /// Commits of parts that have not ended.
    under_way: u32,
    is_over: bool,
}

/// A put of a blob in parts, each of which is written from outside. Used from every core. Where it is dropped without having
/// been finished, the next sweep takes away what was stored.
pub struct PartsPut<D: NodeDrive> {
    parted: Parted<D>,
    inner: Mutex<Inner>,
}

impl<D: NodeDrive> PartsPut<D> {
    /// A number that no other put of the store has.
    pub fn number(&self) -> u64 {
        self.parted.generation()
    }

    /// The blob's key.
    pub fn key(&self) -> Key {
        self.parted.key
    }

    /// Bytes of each part but the last one.
    pub fn part_bytes(&self) -> u64 {
        self.parted.part_bytes
    }

    /// Whether it has come to an end, well or not.
    pub fn is_over(&self) -> bool {
        self.inner().is_over
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_part(&self, number: u16, bytes: u64) -> Result<(), NodeError> {
        let most = self.part_bytes();
        match bytes <= most {
            true => Ok(()),
            false => Err(NodeError::OtherPart {
                key: self.parted.key,
                number: number.into(),
                expected: most,
                found: bytes,
            }),
        }
    }

    fn enter(&self, number: u16) -> Result<Entered<'_>, NodeError> {
        let mut inner = self.inner();
        if inner.is_over {
            return Err(NodeError::PutOver);
        }
        inner.under_way += 1;
        inner.begun = inner.begun.max(u32::from(number) + 1);
        Ok(Entered(&self.inner))
    }

    /// Lets no more parts come; how many numbers they have at most.
    fn end(&self) -> Result<u32, NodeError> {
        let mut inner = self.inner();
        match (inner.is_over, inner.under_way) {
            (true, _) => Err(NodeError::PutOver),
            (false, 0) => {
                inner.is_over = true;
                Ok(inner.begun)
            }
            (false, _) => Err(NodeError::PartUnderWay),
        }
    }

    /// Whether the parts are those of a blob of that length; and the hash of it, if it is known.
    fn whole(&self, length: u64) -> Result<Option<Key>, NodeError> {
        let (key, size) = (self.parted.key, self.part_bytes());
        if length <= size {
            return Err(NodeError::OnePart {
                bytes: length,
                part_bytes: size,
            });
        }
        let inner = self.inner();
        let parts = length.div_ceil(size);
        let mut subtrees = Vec::with_capacity(inner.there.len());
        let mut at = 0;
        for number in 0..parts.max(u64::from(inner.begun)) {
            let there = u16::try_from(number).ok();
            let there = there.and_then(|number| inner.there.get(&number));
            let expected = length.saturating_sub(at).min(size);
            let found = there.map_or(0, |there| there.length);
            if found != expected {
                return Err(NodeError::OtherPart {
                    key,
                    number: number as u32,
                    expected,
                    found,
                });
            }
            subtrees.extend(there.and_then(|there| there.subtree));
            at += expected;
        }
        let is_hashed = subtrees.len() as u64 == parts;
        Ok(is_hashed.then(|| root_of(&subtrees, length, size)))
    }
}

/// A commit of a part that is under way, until it is dropped.
struct Entered<'a>(&'a Mutex<Inner>);

impl Entered<'_> {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.inner().under_way -= 1;
    }
}

/// The hash of a blob of more than one part.
fn root_of(subtrees: &[ChainingValue], length: u64, size: u64) -> Key {
    let left = left_subtree_len(length);
    let (left_parts, right_parts) = subtrees.split_at((left / size) as usize);
    let left = subtree_of(left_parts, left, size);
    let right = subtree_of(right_parts, length - left_parts.len() as u64 * size, size);
    Key::new(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn subtree_of(subtrees: &[ChainingValue], length: u64, size: u64) -> ChainingValue {
    match subtrees {
        [one] => *one,
        _ => {
            let left = left_subtree_len(length);
            let (left_parts, right_parts) = subtrees.split_at((left / size) as usize);
            let left_hash = subtree_of(left_parts, left, size);
            let right_hash = subtree_of(right_parts, length - left, size);
            merge_subtrees_non_root(&left_hash, &right_hash, Mode::Hash)
        }
    }
}

impl<D: NodeDrive> NodeStore<D> {
    /// Begins to store a blob that is longer than a part, whose parts are written from outside. Nothing of it is seen until it
    /// is [finished](Self::finish_put).
    pub fn begin_put(&self, realm: RealmId, key: Key) -> Result<PartsPut<D>, NodeError> {
        Ok(PartsPut {
            parted: Parted::begin(self, realm, key)?,
            inner: Mutex::default(),
        })
    }

    /// Hands out a window for a part, on the drive where the part belongs.
    pub async fn reserve_part(
        &self,
        put: &PartsPut<D>,
        number: u16,
        length: u64,
    ) -> Result<Reserved, NodeError> {
        put.check_part(number, length)?;
        if put.is_over() {
            return Err(NodeError::PutOver);
        }
        let Parted { realm, .. } = put.parted;
        self.reserve(realm, &put.parted.part_key(number), length)
            .await
    }

    /// Makes what was written into a reserved window a part of the blob. A part that is there already stays as it is. The
    /// commit's key is the blob's; bytes of content are read again.
    pub async fn commit_part(
        &self,
        put: &PartsPut<D>,
        number: u16,
        commit: &Commit,
    ) -> Result<Put, NodeError> {
        put.check_part(number, commit.length)?;
        let entered = put.enter(number)?;
        let realm = put.parted.realm;
        // Before the window is used up: whoever is told that memory is short tries again.
        let read_again = match commit.kind {
            KeyKind::Name => None,
            KeyKind::Content => {
                let step = data_blocks(commit.length) as usize * BLOCK_BYTES;
                Some(D::payload(step.min(HASH_STEP)).map_err(NodeError::Memory)?)
            }
        };
        let (key, role) = put.parted.begin_part(number);
        let of_part = Commit {
            key,
            kind: KeyKind::Name,
            ..*commit
        };
        let committed = self.commit_anywhere_as(realm, &of_part, role).await?;
        // What counts is what is there, also if it came by another commit.
        let there = self.locate(realm, &key).await?;
        let there = there.filter(|there| there.form == Form::Part);
        let length = there.map(|there| there.length).ok_or(NodeError::PartGone {
            key: put.parted.key,
            number: number.into(),
        })?;
        let subtree = match read_again {
            None => None,
            Some(payload) => Some(self.hash_part(put, number, length, payload).await?),
        };
        let there = There { length, subtree };
        entered.inner().there.insert(number, there);
        Ok(committed)
    }

    /// A part's place in the tree of its blob's hash.
    async fn hash_part(
        &self,
        put: &PartsPut<D>,
        number: u16,
        length: u64,
        mut payload: D::Payload,
    ) -> Result<ChainingValue, NodeError> {
        let Parted { realm, key, .. } = put.parted;
        let part = put.parted.part_key(number);
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(u64::from(number) * put.part_bytes());
        let mut offset = 0;
        while offset < length {
            let (back, read) = self.read_one_into(realm, &part, offset, payload).await;
            let bytes = read?.filter(|bytes| *bytes > 0);
            let gone = NodeError::PartGone {
                key,
                number: number.into(),
            };
            let bytes = bytes.ok_or(gone)?.min(length - offset);
            payload = back.ok_or(NodeError::Closing)?;
            hasher.update(&payload.as_ref()[..bytes as usize]);
            offset += bytes;
        }
        Ok(hasher.finalize_non_root())
    }

    /// Makes the parts a blob of that length. The first to do so under a key wins. Where the parts are not those of such a
    /// blob, the put goes on, and what is missing can still come; any other error is its end, and the parts go.
    pub async fn finish_put(
        &self,
        put: &PartsPut<D>,
        kind: KeyKind,
        length: u64,
    ) -> Result<Put, NodeError> {
        let begun = put.end()?;
        let parted = &put.parted;
        let found = put.whole(length).inspect_err(|_| {
            put.inner().is_over = false;
        })?;
        let manifest = parted.manifest(kind, length);
        let checked = match (kind, found) {
            (KeyKind::Content, found) if found != Some(parted.key) => Err(match found {
                Some(found) => NodeError::OtherContent {
                    key: parted.key,
                    found,
                },
                None => NodeError::NotHashed { key: parted.key },
            }),
            _ => parted.check_there(self, &manifest).await,
        };
        if let Err(error) = checked {
            parted.take_back(self, begun).await;
            return Err(error);
        }
        let committed = parted.commit(self, &manifest).await;
        if begun > manifest.parts() {
            // One behind its end may be there, if its commit failed late.
            parted.leaves_something();
        }
        committed
    }

    /// Gives a put up, and deletes what was stored of it.
    pub async fn give_up_put(&self, put: &PartsPut<D>) -> Result<(), NodeError> {
        let begun = put.end()?;
        put.parted.take_back(self, begun).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of parts up to some, and ends in the middle of a chunk, a block and a part.
    #[test]
    fn the_hash_of_a_blob_is_put_together_from_its_parts() {
        let bytes: Vec<u8> = (0..13 * 8192).map(|at| (at % 251) as u8).collect();
        for size in [4096_usize, 8192] {
            for end in (size + 1..bytes.len()).step_by(1777) {
                let blob = &bytes[..end];
                let subtrees: Vec<ChainingValue> = (0..)
                    .zip(blob.chunks(size))
                    .map(|(number, part)| {
                        let mut hasher = blake3::Hasher::new();
                        hasher.set_input_offset(number * size as u64);
                        hasher.update(part).finalize_non_root()
                    })
                    .collect();
                let root = root_of(&subtrees, end as u64, size as u64);
                assert_eq!(
                    root,
                    Key::of_content(blob),
                    "{end} bytes in parts of {size}"
                );
            }
        }
    }
}
