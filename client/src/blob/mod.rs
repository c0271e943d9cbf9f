//! The blob client: keys and bytes over any [`Transport`].
//!
//! ```text
//!   put  small ──► PUT                      get ──► window known? ──no──► LOCATE ──► none: no such blob
//!        large ──► PROBE, RESERVE,                     │ yes                │
//!                  WRITE ..., COMMIT                   └──► READ data ◄─────┤
//!        longer than a slab ──► parts                       READ checksums  └── in parts: LOCATE each, as above
//!
//!                                                           "unwritten": forget, LOCATE again
//! ```
//!
//! - Every byte that is read is checked against the checksums of when it was put, unless the caller says otherwise.
//! - All operations take `&self`, and each is a future: as many as wanted are under way at a time.
//! - A put whose window is on a drive that the node loses meanwhile begins anew with another window.
//! - Windows are remembered. One that has moved or gone answers with an error, upon which the key is located again. A blob
//!   that another host has deleted can be read from a remembered window until the node gives its space back.

mod error;
mod get;
mod join;
mod list;
mod stream;
mod summed;
mod transport;
mod windows;

use std::time::Duration;

use oriel_protocol::{
    Blob, Command, DecodeError, Key, KeyKind, LOCATION_BYTES, Length, Located, PartOf, Place,
    Position, STAT_BYTES, Stat, WINDOW_BYTES, Window, encode_commit, encode_keys, encode_put,
    put_bytes, result,
};

pub use error::BlobError;
pub use list::Lister;
pub use stream::StreamPut;
pub use transport::{Failure, Transport};

use crate::limits::{WINDOW_TRIES, WINDOWS_REMEMBERED};
use crate::memory::Nothing;
use crate::sums::crc32c;
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

    /// The node's limits and figures when it was first asked.
    pub fn stat_at_first(&self) -> &Stat {
        &self.stat
    }

    /// Stores a blob: the first to finish under a key wins. One that is longer than a window takes goes by parts.
    pub async fn put(&self, key: Key, kind: KeyKind, bytes: Vec<u8>) -> Outcome<Put, T>
    where
        T: Sync,
    {
        let wrong = || BlobError::Length {
            bytes: bytes.len() as u64,
            max: self.stat.longest(),
        };
        let length = Length::new(bytes.len() as u64).ok_or_else(wrong)?;
        if length > self.stat.length_max {
            let mut put = self.put_stream(key, kind);
            if let Err(error) = put.write(&bytes).await {
                put.give_up().await;
                return Err(error);
            }
            drop(bytes);
            return Box::pin(put.finish()).await;
        }
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
        let checksum = Some(crc32c(&bytes));
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
        let mut tries = 1;
        loop {
            let (back, filled) = self.fill_window(key, length, None, bytes).await;
            bytes = back;
            let put = match filled {
                Ok((position, checksum)) => {
                    let blob = Blob {
                        key,
                        kind,
                        length,
                        checksum: Some(checksum),
                    };
                    self.commit(&blob, position).await
                }
                Err(error) => Err(error),
            };
            match put {
                Err(error) if error.is_of_lost_drive() && tries < WINDOW_TRIES => tries += 1,
                put => return put,
            }
        }
    }

    async fn commit(&self, blob: &Blob, position: Position) -> Outcome<Put, T> {
        let record = encode_commit(&[(*blob, position)]).expect("it is one record");
        let (_, answer) = self
            .transport
            .command(&Command::Commit { records: 1 }, record)
            .await;
        let answer = answer.map_err(|error| refused("a commit", blob.key, error))?;
        Ok(put_of(result::commit(1, answer)? == 1))
    }

    /// Reserves a window and writes it: where it is, and the checksum of its blocks. The bytes come back as long as they were.
    async fn fill_window(
        &self,
        key: Key,
        length: Length,
        part: Option<PartOf>,
        mut bytes: Vec<u8>,
    ) -> (Vec<u8>, Outcome<(Position, u32), T>) {
        let position = match self.reserve(key, length, part).await {
            Ok(position) => position,
            Err(error) => return (bytes, Err(error)),
        };
        let end = bytes.len();
        bytes.resize(length.blocks() as usize * BLOCK, 0);
        let checksum = crc32c(&bytes);
        let (mut bytes, written) = self.transport.write(position, bytes).await;
        bytes.truncate(end);
        let written = written.map_err(|error| refused("a write", key, error));
        (bytes, written.map(|()| (position, checksum)))
    }

    async fn reserve(
        &self,
        key: Key,
        length: Length,
        part: Option<PartOf>,
    ) -> Outcome<Position, T> {
        let command = Command::Reserve { length, part };
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
        Ok(window.position)
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
        self.of_each(keys, |keys| Command::Probe { keys }, result::probe)
            .await
    }

    /// Has a cache keep blobs for a time, whatever it needs room for: a lease, which ends by itself, with the node's program at
    /// the latest, and after ten minutes if it is for longer. Of each key, whether it is pinned now: it is not if it is not
    /// there, or if the cache has as many pins as it may. Nor is it if it cannot be, since its drive is lost, say, and others
    /// that were asked for can: asked for alone, that is the error. What is durable stays anyway.
    pub async fn pin(&self, keys: &[Key], time: Duration) -> Outcome<Vec<bool>, T> {
        // Less than a millisecond is no time, which would end the pins.
        let time_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
        self.of_each(keys, |keys| Command::Pin { keys, time_ms }, result::pin)
            .await
    }

    /// Lets blobs go again that are pinned; of each key, whether it was.
    pub async fn unpin(&self, keys: &[Key]) -> Outcome<Vec<bool>, T> {
        let command = |keys| Command::Pin { keys, time_ms: 0 };
        self.of_each(keys, command, result::pin).await
    }

    /// Asks of any number of keys, as many at a time as the node takes.
    async fn of_each(
        &self,
        keys: &[Key],
        command: impl Fn(u8) -> Command,
        bits: fn(u8, u32) -> Result<u32, DecodeError>,
    ) -> Outcome<Vec<bool>, T> {
        let batches = keys.chunks(usize::from(self.stat.probe_keys_max));
        let asked = batches.map(|keys| {
            let data = encode_keys(keys).expect("a batch is within the limits");
            let count = keys.len() as u8;
            let command = command(count);
            async move {
                let (_, answer) = self.transport.command(&command, data).await;
                let bits = bits(count, answer.map_err(BlobError::Transport)?)?;
                Ok((0..count).map(move |at| bits >> at & 1 == 1))
            }
        });
        let answers: Result<Vec<_>, BlobError<T::Failure>> = all(asked).await.into_iter().collect();
        Ok(answers?.into_iter().flatten().collect())
    }

    /// Where a blob is, as the node knows it now; `None` if there is none.
    pub async fn locate(&self, key: &Key) -> Outcome<Option<Place>, T> {
        let command = Command::Locate { key: *key };
        let (answer, located) = self
            .transport
            .command(&command, vec![0; LOCATION_BYTES])
            .await;
        let nothing = located.map_err(|error| refused("a look-up", *key, error))?;
        result::nothing(nothing)?;
        let located = Located::decode(&answer)?.blob;
        match located {
            Some(place) => self.windows.insert(*key, place),
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
