//! Storing blobs piece by piece, of any length, with some parts in memory.
//!
//! ```text
//!  write ──► up to one part ────────────────────────────────────► finish ──► put in one window
//!        └─► more: BEGIN, then RESERVE, WRITE, PART, several parts at once ──► FINISH ──► the blob is there
//! ```

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oriel_protocol::{
    BEGUN_BYTES, Begun, Command, Key, KeyKind, Length, Part, PartOf, Place, result,
};

use super::{BlobError, Blobs, Outcome, Put, Transport, put_of, refused};
use crate::limits::{PART_TRIES, PARTS_AT_ONCE};
use crate::memory::Nothing;

type Sending<'a, T> =
    Pin<Box<dyn Future<Output = Result<(), BlobError<<T as Transport>::Failure>>> + Send + 'a>>;

/// A blob on its way to the node. Nothing of it is seen before it is [finished](Self::finish). Where it is dropped, the node
/// takes back what was stored when it has heard nothing for [a while](Self::time_left); [`give_up`](Self::give_up) has it do
/// so at once.
///
/// After an error nothing but giving it up is left.
pub struct StreamPut<'a, T: Transport> {
    blobs: &'a Blobs<T>,
    key: Key,
    kind: KeyKind,
    /// The part that is being filled.
    filling: Vec<u8>,
    part_bytes: usize,
    /// Bytes that were taken.
    length: u64,
    begun: Option<Begun>,
    /// Parts that were sent.
    parts: u32,
    sending: Vec<Sending<'a, T>>,
    is_there: bool,
}

impl<T: Transport + Sync> Blobs<T> {
    /// Begins to store a blob piece by piece. The first to finish under a key wins. A key of [content](KeyKind::Content) has to
    /// be known beforehand.
    pub fn put_stream(&self, key: Key, kind: KeyKind) -> StreamPut<'_, T> {
        StreamPut {
            blobs: self,
            key,
            kind,
            filling: Vec::new(),
            part_bytes: self.stat.part_bytes as usize,
            length: 0,
            begun: None,
            parts: 0,
            sending: Vec::new(),
            is_there: false,
        }
    }

    async fn begin(&self, key: Key) -> Outcome<Begun, T> {
        let room = vec![0; BEGUN_BYTES];
        let (answer, begun) = self.transport.command(&Command::Begin { key }, room).await;
        let nothing = begun.map_err(|error| refused("the beginning of a put", key, error))?;
        result::nothing(nothing)?;
        Ok(Begun::decode(&answer)?)
    }

    /// Stores a part. What it costs when a connection is lost in the middle is the part, and not the blob.
    async fn put_part(
        &self,
        key: Key,
        kind: KeyKind,
        of: PartOf,
        mut bytes: Vec<u8>,
    ) -> Outcome<(), T> {
        let length = Length::new(bytes.len() as u64).expect("a part has bytes");
        let mut tries = 1;
        loop {
            let (back, filled) = self.fill_window(key, length, Some(of), bytes).await;
            bytes = back;
            let done = match filled {
                Ok((position, checksum)) => {
                    let part = Command::Part(Part {
                        of,
                        position,
                        length: length.get() as u32,
                        checksum: Some(checksum),
                        kind,
                    });
                    let (_, answer) = self.transport.command(&part, Nothing).await;
                    answer.map_err(|error| refused("a part", key, error))
                }
                Err(error) => Err(error),
            };
            match done {
                // One that is there already was sent before, and its answer got lost.
                Ok(dword) => return Ok(result::part(dword).map(drop)?),
                Err(BlobError::Transport(_)) if tries < PART_TRIES => tries += 1,
                Err(error) if error.is_of_lost_drive() && tries < PART_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn finish(
        &self,
        key: Key,
        kind: KeyKind,
        begun: &Begun,
        length: Length,
    ) -> Outcome<Put, T> {
        let put = begun.put;
        let command = Command::Finish { put, length, kind };
        let (_, answer) = self.transport.command(&command, Nothing).await;
        match answer.map_err(|error| refused("the end of a put", key, error)) {
            Ok(dword) => Ok(put_of(result::finish(dword)?)),
            // It may have been done: then this is the blob that is there.
            Err(error @ BlobError::Transport(_)) => match self.locate(&key).await {
                Ok(Some(Place::Parts(parts))) if parts.put == put => Ok(Put::Created),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn hold(&self, key: Key, begun: &Begun, is_over: bool) -> Outcome<(), T> {
        let put = begun.put;
        let command = Command::Hold { put, is_over };
        let (_, answer) = self.transport.command(&command, Nothing).await;
        let answer = answer.map_err(|error| refused("a put", key, error))?;
        Ok(result::nothing(answer)?)
    }
}

impl<'a, T: Transport + Sync> StreamPut<'a, T> {
    /// Takes the next bytes. Ends when they are taken: up to [`PARTS_AT_ONCE`] parts are then still on their way, which go on
    /// while this or [`settle`](Self::settle) is waited for. Who has no more bytes for a while settles first.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Outcome<(), T> {
        let length = self.length.saturating_add(bytes.len() as u64);
        let max = self.blobs.stat.longest();
        if length > max {
            return Err(BlobError::Length { bytes: length, max });
        }
        while !bytes.is_empty() {
            if self.is_there {
                self.length = length;
                return Ok(());
            }
            if self.filling.len() == self.part_bytes {
                // More than one part, then.
                self.send().await?;
                continue;
            }
            if self.filling.capacity() == 0 {
                self.filling.reserve_exact(self.part_bytes);
            }
            let count = bytes.len().min(self.part_bytes - self.filling.len());
            let (now, later) = bytes.split_at(count);
            self.filling.extend_from_slice(now);
            self.length += count as u64;
            bytes = later;
        }
        self.until_sending(PARTS_AT_ONCE).await
    }

    /// Waits until every part that is full is durable.
    pub async fn settle(&mut self) -> Outcome<(), T> {
        self.until_sending(0).await
    }

    /// Tells the node that the put goes on, which it takes for over when it hears nothing for [a while](Self::time_left).
    pub async fn keep(&mut self) -> Outcome<(), T> {
        match &self.begun {
            Some(begun) => self.blobs.hold(self.key, begun, false).await,
            None => Ok(()),
        }
    }

    /// How long the put lasts if nothing is sent for it; `None` as long as the node has heard of nothing.
    pub fn time_left(&self) -> Option<Duration> {
        self.begun.map(|begun| begun.time_left())
    }

    /// Whether it has turned out that a blob of that key is there: then no more bytes are needed.
    pub fn is_there(&self) -> bool {
        self.is_there
    }

    /// Bytes that were taken.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Makes what was taken a blob, once all of it is durable.
    pub async fn finish(mut self) -> Outcome<Put, T> {
        if self.is_there {
            return Ok(Put::AlreadyThere);
        }
        let (key, kind) = (self.key, self.kind);
        if self.begun.is_none() {
            let bytes = std::mem::take(&mut self.filling);
            return self.blobs.put(key, kind, bytes).await;
        }
        match self.finish_parts().await {
            Ok(put) => Ok(put),
            Err(error) => {
                self.give_up().await;
                Err(error)
            }
        }
    }

    async fn finish_parts(&mut self) -> Outcome<Put, T> {
        if !self.filling.is_empty() {
            self.send().await?;
        }
        self.until_sending(0).await?;
        let (Some(begun), Some(length)) = (&self.begun, Length::new(self.length)) else {
            let (bytes, max) = (self.length, self.blobs.stat.longest());
            return Err(BlobError::Length { bytes, max });
        };
        self.blobs.finish(self.key, self.kind, begun, length).await
    }

    /// Gives the blob up, and has the node take back what was stored. Where it cannot be told, it does so by itself.
    pub async fn give_up(mut self) {
        // Those under way would come after the end; how they end does not matter any more.
        while self.until_sending(0).await.is_err() {}
        if let Some(begun) = &self.begun {
            let _ = self.blobs.hold(self.key, begun, true).await;
        }
    }

    /// Sends what was filled.
    async fn send(&mut self) -> Outcome<(), T> {
        self.until_sending(PARTS_AT_ONCE - 1).await?;
        let put = match &self.begun {
            Some(begun) => begun.put,
            None => {
                if self.blobs.exists(&self.key).await? {
                    self.is_there = true;
                    self.filling = Vec::new();
                    return Ok(());
                }
                let begun = self.blobs.begin(self.key).await?;
                if begun.part_bytes != self.part_bytes as u64 {
                    // The node's drives have changed since they were asked.
                    let (found, expected) = (begun.part_bytes, self.part_bytes as u64);
                    self.begun = Some(begun);
                    return Err(BlobError::OtherParts { found, expected });
                }
                self.begun.insert(begun).put
            }
        };
        let of = PartOf {
            put,
            number: u16::try_from(self.parts).expect("the length was looked at"),
        };
        self.parts += 1;
        let mut bytes = Vec::with_capacity(self.part_bytes);
        std::mem::swap(&mut bytes, &mut self.filling);
        let sent = self.blobs.put_part(self.key, self.kind, of, bytes);
        self.sending.push(Box::pin(sent));
        // It goes on its way now, and not only when somebody waits for it.
        self.until_sending(PARTS_AT_ONCE).await
    }

    /// Goes on until no more than so many parts are on their way.
    async fn until_sending(&mut self, most: usize) -> Outcome<(), T> {
        poll_fn(|cx| self.poll_sending(cx, most)).await
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Outcome<(), T>> {
        let mut failed = None;
        self.sending
            .retain_mut(|part| match part.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(sent) => {
                    if let Err(error) = sent {
                        failed.get_or_insert(error);
                    }
                    false
                }
            });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if self.sending.len() <= most => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}
