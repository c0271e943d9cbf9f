//! The side of a connection that sends.
//!
//! Jobs are what is to be sent, chunks are PDUs in their final form. Chunks are made only as many as one call of the kernel
//! takes, however much an R2T asks for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use arrayvec::ArrayVec;

use super::{Buffers, Connection, ConnectionError};
use crate::limits::{CHUNKS_MAX, SLICES_MAX};
use crate::pdu::{DIGEST_BYTES, Header, command_header, data_header, term_req};
use crate::sums::crc32c;

/// What a connection has to send.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// A command.
    Capsule { slot: u16 },
    /// What is left of a piece of data that an R2T has asked for.
    Data {
        slot: u16,
        tag: u16,
        offset: u32,
        end: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    Capsule,
    Data { ends_r2t: bool },
}

/// A PDU, or what is to be sent of it.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    header: Header,
    kind: Kind,
    slot: u16,
    /// Where in the command's data its payload is.
    offset: u32,
    bytes: u32,
    digest: Option<[u8; DIGEST_BYTES]>,
}

impl Chunk {
    pub(super) fn plain(header: Header) -> Self {
        Self {
            header,
            kind: Kind::Plain,
            slot: 0,
            offset: 0,
            bytes: 0,
            digest: None,
        }
    }

    fn length(&self) -> usize {
        let digest = self.digest.map_or(0, |digest| digest.len());
        self.header.bytes().len() + self.bytes as usize + digest
    }
}

#[derive(Default)]
pub(super) struct Transmitter {
    pub(super) jobs: VecDeque<Job>,
    pub(super) chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are sent.
    sent: usize,
    /// What the controller's ICResp says.
    pub(super) alignment: u8,
    pub(super) h2c_bytes_max: u32,
}

/// Why sending has paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transmitted {
    /// Nothing is left to be sent.
    All,
    /// The network takes no more now.
    Blocked,
}

impl Connection {
    /// Whether there is something to send now.
    pub fn has_output(&self) -> bool {
        let transmitter = &self.transmitter;
        !transmitter.chunks.is_empty() || self.is_ready() && !transmitter.jobs.is_empty()
    }

    /// Sends as much as the network takes.
    pub fn transmit(
        &mut self,
        buffers: &dyn Buffers,
        write: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> Result<Transmitted, ConnectionError> {
        loop {
            self.make_chunks(buffers)?;
            if self.transmitter.chunks.is_empty() {
                return Ok(Transmitted::All);
            }
            let result = write(&self.slices(buffers)?);
            match result {
                Ok(0) => {
                    return Err(ConnectionError::Network {
                        kind: io::ErrorKind::WriteZero,
                    });
                }
                Ok(bytes) => self.sent(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Transmitted::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ConnectionError::Network { kind: error.kind() }),
            }
        }
    }

    /// The chunks as the kernel takes them, from the first byte that is not sent.
    fn slices<'a>(
        &'a self,
        buffers: &'a dyn Buffers,
    ) -> Result<ArrayVec<IoSlice<'a>, SLICES_MAX>, ConnectionError> {
        let mut slices = ArrayVec::new();
        let mut skip = self.transmitter.sent;
        for chunk in &self.transmitter.chunks {
            let payload: &[u8] = match chunk.bytes {
                0 => &[],
                bytes => self.payload(buffers, chunk.slot, chunk.offset, bytes)?,
            };
            let digest = chunk.digest.as_ref().map_or(&[][..], |digest| digest);
            for piece in [chunk.header.bytes(), payload, digest] {
                let rest = piece.get(skip..).unwrap_or(&[]);
                skip = skip.saturating_sub(piece.len());
                if !rest.is_empty() && slices.try_push(IoSlice::new(rest)).is_err() {
                    return Ok(slices);
                }
            }
        }
        Ok(slices)
    }

    fn payload<'a>(
        &self,
        buffers: &'a dyn Buffers,
        slot: u16,
        offset: u32,
        bytes: u32,
    ) -> Result<&'a [u8], ConnectionError> {
        let busy = self.slots[usize::from(slot)].busy.as_ref();
        let whole = busy.and_then(|busy| buffers.bytes(busy.token));
        let from = offset as usize;
        let part = whole.and_then(|whole| whole.get(from..from + bytes as usize));
        part.ok_or(ConnectionError::Memory)
    }

    /// Some bytes more are on their way.
    fn sent(&mut self, bytes: usize) {
        self.transmitter.sent += bytes;
        while let Some(chunk) = self.transmitter.chunks.front() {
            let (kind, slot, length) = (chunk.kind, chunk.slot, chunk.length());
            let is_whole = self.transmitter.sent >= length;
            let busy = self.slots[usize::from(slot)].busy.as_mut();
            if kind == Kind::Capsule
                && self.transmitter.sent > 0
                && let Some(busy) = busy
            {
                busy.is_begun = true;
                busy.is_sent = is_whole;
            }
            if !is_whole {
                return;
            }
            self.transmitter.sent -= length;
            self.transmitter.chunks.pop_front();
            if kind != Kind::Plain {
                self.release(slot, kind == Kind::Data { ends_r2t: true });
            }
        }
    }

    /// A chunk or a job needs the memory of a slot's command no more.
    fn release(&mut self, slot: u16, ends_r2t: bool) {
        if let Some(busy) = self.slots[usize::from(slot)].busy.as_mut() {
            busy.pending -= 1;
            busy.r2ts -= u32::from(ends_r2t);
        }
        self.retire(slot);
    }

    fn make_chunks(&mut self, buffers: &dyn Buffers) -> Result<(), ConnectionError> {
        while self.is_ready() && self.transmitter.chunks.len() < CHUNKS_MAX {
            let Some(job) = self.transmitter.jobs.front().copied() else {
                break;
            };
            let chunk = match job {
                Job::Capsule { slot } => {
                    self.transmitter.jobs.pop_front();
                    self.capsule(buffers, slot)?
                }
                Job::Data {
                    slot,
                    tag,
                    offset,
                    end,
                } => {
                    let bytes = (end - offset).min(self.transmitter.h2c_bytes_max);
                    let rest = offset + bytes;
                    if rest == end {
                        self.transmitter.jobs.pop_front();
                    } else if let Some(job) = self.transmitter.jobs.front_mut() {
                        *job = Job::Data {
                            slot,
                            tag,
                            offset: rest,
                            end,
                        };
                        // The rest of the job is pending, and the chunk now is, too.
                        if let Some(busy) = self.slots[usize::from(slot)].busy.as_mut() {
                            busy.pending += 1;
                        }
                    }
                    self.data(buffers, (slot, tag), offset, bytes, rest == end)?
                }
            };
            self.transmitter.chunks.push_back(chunk);
        }
        Ok(())
    }

    fn capsule(&self, buffers: &dyn Buffers, slot: u16) -> Result<Chunk, ConnectionError> {
        let cid = self.cid(slot);
        let busy = self.slots[usize::from(slot)]
            .busy
            .as_ref()
            .ok_or(ConnectionError::Memory)?;
        let command = busy.command.encode(cid, busy.bytes, busy.in_capsule);
        let bytes = if busy.in_capsule { busy.bytes } else { 0 };
        let header = command_header(&command, bytes, self.digests, self.transmitter.alignment);
        let digest = self.digest(buffers, slot, 0, bytes)?;
        Ok(Chunk {
            header,
            kind: Kind::Capsule,
            slot,
            offset: 0,
            bytes,
            digest,
        })
    }

    fn data(
        &self,
        buffers: &dyn Buffers,
        (slot, tag): (u16, u16),
        offset: u32,
        bytes: u32,
        is_last: bool,
    ) -> Result<Chunk, ConnectionError> {
        let ids = (self.cid(slot), tag);
        let alignment = self.transmitter.alignment;
        let header = data_header(ids, offset, bytes, is_last, self.digests, alignment);
        let digest = self.digest(buffers, slot, offset, bytes)?;
        let kind = Kind::Data { ends_r2t: is_last };
        Ok(Chunk {
            header,
            kind,
            slot,
            offset,
            bytes,
            digest,
        })
    }

    fn digest(
        &self,
        buffers: &dyn Buffers,
        slot: u16,
        offset: u32,
        bytes: u32,
    ) -> Result<Option<[u8; DIGEST_BYTES]>, ConnectionError> {
        if !self.digests.data || bytes == 0 {
            return Ok(None);
        }
        let payload = self.payload(buffers, slot, offset, bytes)?;
        Ok(Some(crc32c(payload).to_le_bytes()))
    }

    /// Leaves only a word about the error to be sent, if there is one to say and no PDU is half sent.
    pub fn part(&mut self, error: &ConnectionError) {
        let is_between = self.transmitter.sent == 0;
        self.transmitter.jobs.clear();
        self.transmitter.chunks.clear();
        self.transmitter.sent = 0;
        if is_between && let Some(term) = error.term() {
            let header = term_req(term, self.receiver.offender());
            self.transmitter.chunks.push_back(Chunk::plain(header));
        }
    }
}
