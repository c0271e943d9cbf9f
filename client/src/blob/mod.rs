//! The blob client: keys and bytes over any [`Transport`].
//!
//! ```text
//!   put  small ──► PUT                      get ──► window known? ──no──► LOCATE ──► none: no such blob
//!        large ──► PROBE, RESERVE,                     │ yes                │
//!                  WRITE ..., COMMIT                   └──► READ data ◄─────┘
//!                                                           READ checksums    "unwritten": forget, LOCATE again
//! ```
//!
//! - Every byte that is read is checked against the checksums of when it was put, unless the caller says otherwise.
//! - All operations take `&self`, and each is a future: as many as wanted are under way at a time.
//! - Windows are remembered. One that has moved or gone answers with an error, upon which the key is located again. A blob
//!   that another host has deleted can be read from a remembered window until the node gives its space back.

mod error;
mod get;
mod join;
mod list;
mod transport;
mod windows;

use oriel_protocol::{
    Blob, Command, Key, KeyKind, LOCATION_BYTES, Length, Located, Location, STAT_BYTES, Stat,
    WINDOW_BYTES, Window, encode_commit, encode_keys, encode_put, put_bytes, result,
};

pub use error::BlobError;
pub use list::Lister;
pub use transport::{Failure, Transport};

use crate::limits::WINDOWS_REMEMBERED;
use crate::memory::Nothing;
use join::all;
use windows::Windows;

const BLOCK: usize = oriel_protocol::limits::BLOCK_BYTES as usize;

/// How a put ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The blob is there and durable.
    Created,
    /// A blob of that key was there before.
    AlreadyThere,
}

/// The blobs of one realm on one node.
pub struct Blobs<T> {
    transport: T,
    stat: Stat,
    windows: Windows,
    is_checked: bool,
}

type Outcome<V, T> = Result<V, BlobError<<T as Transport>::Failure>>;

impl<T: Transport> Blobs<T> {
    /// Asks the node for its version and limits.
    pub async fn open(transport: T) -> Outcome<Self, T> {
        let stat = stat(&transport).await?;
        Ok(Self {
            transport,
            stat,
            windows: Windows::new(WINDOWS_REMEMBERED),
            is_checked: true,
        })
    }

    /// The same, without checking what is read: for callers who check it themselves.
    #[must_use]
    pub fn unchecked(mut self) -> Self {
        self.is_checked = false;
        self
    }

    /// The node's limits and figures, now.
    pub async fn stat(&self) -> Outcome<Stat, T> {
        stat(&self.transport).await
    }

    /// Stores a blob: the first to finish under a key wins.
    pub async fn put(&self, key: Key, kind: KeyKind, bytes: Vec<u8>) -> Outcome<Put, T> {
        let max = self.stat.length_max;
        let length = Length::new(bytes.len() as u64).filter(|length| *length <= max);
        let wrong = || BlobError::Length {
            bytes: bytes.len() as u64,
            max: max.get(),
        };
        let length = length.ok_or_else(wrong)?;
        let in_one = put_bytes(length).filter(|bytes| *bytes <= self.stat.transfer_bytes_max);
        match in_one {
            Some(_) => self.put_small(key, kind, length, bytes).await,
            None => self.put_large(key, kind, length, bytes).await,
        }
    }

    async fn put_small(
        &self,
        key: Key,
        kind: KeyKind,
        length: Length,
        mut bytes: Vec<u8>,
    ) -> Outcome<Put, T> {
        let end = bytes.len();
        bytes.resize(length.blocks() as usize * BLOCK, 0);
        let checksum = Some(crc32c::crc32c(&bytes));
        let blob = Blob {
            key,
            kind,
            length,
            checksum,
        };
        let data = encode_put(&blob, &bytes[..end]).expect("its length was looked at");
        let (_, answer) = self.transport.command(&Command::Put, data).await;
        let answer = answer.map_err(|error| refused("a put", key, error))?;
        Ok(put_of(result::put(answer)?))
    }

    async fn put_large(
        &self,
        key: Key,
        kind: KeyKind,
        length: Length,
        mut bytes: Vec<u8>,
    ) -> Outcome<Put, T> {
        if self.exists(&key).await? {
            return Ok(Put::AlreadyThere);
        }
        let command = Command::Reserve { length };
        let (answer, reserved) = self
            .transport
            .command(&command, vec![0; WINDOW_BYTES])
            .await;
        let nothing = reserved.map_err(|error| refused("a reservation", key, error))?;
        result::nothing(nothing)?;
        let window = Window::decode(&answer)?;
        let (blocks, needed) = (window.blocks, length.blocks());
        if blocks < needed {
            return Err(BlobError::SmallWindow { blocks, needed });
        }
        bytes.resize(needed as usize * BLOCK, 0);
        let checksum = Some(crc32c::crc32c(&bytes));
        let (_, written) = self.transport.write(window.position, bytes).await;
        written.map_err(|error| refused("a write", key, error))?;
        let blob = Blob {
            key,
            kind,
            length,
            checksum,
        };
        let record = encode_commit(&[(blob, window.position)]).expect("it is one record");
        let (_, answer) = self
            .transport
            .command(&Command::Commit { records: 1 }, record)
            .await;
        let answer = answer.map_err(|error| refused("a commit", key, error))?;
        Ok(put_of(result::commit(1, answer)? == 1))
    }

    /// Takes a blob away; whether there was one.
    pub async fn delete(&self, key: &Key) -> Outcome<bool, T> {
        self.windows.remove(key, None);
        let (_, answer) = self
            .transport
            .command(&Command::Delete { key: *key }, Nothing)
            .await;
        let answer = answer.map_err(|error| refused("a delete", *key, error))?;
        Ok(result::delete(answer)?)
    }

    /// Whether there is a blob.
    pub async fn exists(&self, key: &Key) -> Outcome<bool, T> {
        Ok(self.probe(std::slice::from_ref(key)).await?.first() == Some(&true))
    }

    /// Which of any number of keys are there. Does not count as a use of them.
    pub async fn probe(&self, keys: &[Key]) -> Outcome<Vec<bool>, T> {
        let batches = keys.chunks(usize::from(self.stat.probe_keys_max));
        let probes = batches.map(|keys| async move {
            let data = encode_keys(keys).expect("a batch is within the limits");
            let count = keys.len() as u8;
            let command = Command::Probe { keys: count };
            let (_, answer) = self.transport.command(&command, data).await;
            let answer = answer.map_err(BlobError::Transport)?;
            let bits = result::probe(count, answer)?;
            Ok((0..count).map(move |at| bits >> at & 1 == 1))
        });
        let answers: Result<Vec<_>, BlobError<T::Failure>> =
            all(probes).await.into_iter().collect();
        Ok(answers?.into_iter().flatten().collect())
    }

    /// Where a blob is, as the node knows it now; `None` if there is none.
    pub async fn locate(&self, key: &Key) -> Outcome<Option<Location>, T> {
        let command = Command::Locate { key: *key };
        let (answer, located) = self
            .transport
            .command(&command, vec![0; LOCATION_BYTES])
            .await;
        let nothing = located.map_err(|error| refused("a look-up", *key, error))?;
        result::nothing(nothing)?;
        let located = Located::decode(&answer)?.blob;
        match located {
            Some(location) => self.windows.insert(*key, location),
            None => self.windows.remove(key, None),
        }
        Ok(located)
    }
}

fn put_of(is_new: bool) -> Put {
    match is_new {
        true => Put::Created,
        false => Put::AlreadyThere,
    }
}

async fn stat<T: Transport>(transport: &T) -> Outcome<Stat, T> {
    let (answer, done) = transport.command(&Command::Stat, vec![0; STAT_BYTES]).await;
    result::nothing(done.map_err(BlobError::Transport)?)?;
    Ok(Stat::decode(&answer)?)
}

fn refused<E: Failure>(what: &'static str, key: Key, source: E) -> BlobError<E> {
    match source.status() {
        Some(status) => BlobError::Refused {
            what,
            key,
            status,
            source,
        },
        None => BlobError::Transport(source),
    }
}
