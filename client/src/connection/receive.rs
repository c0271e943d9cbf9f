//! The side of a connection that receives.
//!
//! ```text
//!   socket ──readv──► the rest of a PDU's data, in the caller's memory │ the digest and the next header, in the staging
//! ```

use std::io::{self, IoSliceMut};

use super::transmit::Job;
use super::{Buffers, Connection, ConnectionError, DataDigest, Phase, Token};
use crate::limits::{READS_PER_TURN, SHORT_DATA_BYTES, STAGING_BYTES};
use crate::nvme::{Completion, Flow};
use crate::pdu::{DIGEST_BYTES, HEADER_BYTES, IC_BYTES, IcResp, Incoming, PduError, Term, kind};
use crate::sums::crc32c_append;

/// Why receiving has paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// Nothing more is there now.
    Blocked,
    /// There may be more; others have their turn.
    Enough,
}

/// A C2HData PDU whose data are coming.
#[derive(Clone, Copy, Debug)]
struct Data {
    slot: u16,
    token: Token,
    pad_left: u8,
    /// Where in the command's data the next byte goes.
    at: u32,
    left: u32,
    /// Of what has come.
    digest: u32,
    /// No more data comes for the command.
    completes: bool,
    is_success: bool,
}

/// One call of the kernel.
struct ReadOnce {
    /// Bytes that could go into the caller's memory.
    direct: usize,
    /// Bytes that there was room for.
    asked: usize,
    /// Bytes that came.
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Data(Data),
    Digest(Data),
    TermData { term: Term, left: u32 },
}

pub(super) struct Receiver {
    state: State,
    staging: Box<[u8]>,
    /// The bytes of the staging that are not looked at yet.
    start: usize,
    end: usize,
    /// The last header that came, for a word about it.
    offender: [u8; HEADER_BYTES],
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            state: State::Header,
            staging: vec![0; STAGING_BYTES].into(),
            start: 0,
            end: 0,
            offender: [0; HEADER_BYTES],
        }
    }
}

impl Receiver {
    pub(super) fn offender(&self) -> &[u8] {
        &self.offender
    }

    fn staged(&self) -> &[u8] {
        &self.staging[self.start..self.end]
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.staged().first_chunk().copied()?;
        self.start += N;
        Some(taken)
    }
}

impl Connection {
    /// Receives what the network has, for a while. A read that brings less than it could is taken for all that there is.
    pub fn receive(
        &mut self,
        buffers: &mut dyn Buffers,
        read: &mut dyn FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> Result<Received, ConnectionError> {
        for _ in 0..READS_PER_TURN {
            self.look_through(buffers)?;
            let ReadOnce {
                direct,
                asked,
                bytes,
            } = match self.read_once(buffers, read)? {
                Ok(read) => read,
                Err(io::ErrorKind::WouldBlock) => return Ok(Received::Blocked),
                Err(io::ErrorKind::Interrupted) => continue,
                Err(kind) => return Err(ConnectionError::Network { kind }),
            };
            if bytes == 0 {
                return Err(ConnectionError::Closed);
            }
            let placed = bytes.min(direct);
            self.receiver.end += bytes - placed;
            if placed > 0 {
                self.placed(buffers, placed as u32)?;
            }
            // The network had no more: asking once more would only be told so.
            if bytes < asked {
                self.look_through(buffers)?;
                return Ok(Received::Blocked);
            }
        }
        self.look_through(buffers)?;
        Ok(Received::Enough)
    }

    /// Reads into the caller's memory what belongs there, and the rest into the staging.
    fn read_once(
        &mut self,
        buffers: &mut dyn Buffers,
        read: &mut dyn FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> Result<Result<ReadOnce, io::ErrorKind>, ConnectionError> {
        let ahead = self.read_ahead();
        let receiver = &mut self.receiver;
        receiver
            .staging
            .copy_within(receiver.start..receiver.end, 0);
        receiver.end -= receiver.start;
        receiver.start = 0;
        let until = (receiver.end + ahead).min(STAGING_BYTES);
        let staging = &mut receiver.staging[receiver.end..until];
        if let State::Data(data) = receiver.state
            && data.pad_left == 0
        {
            let from = data.at as usize;
            let whole = buffers.bytes_mut(data.token);
            let part = whole.and_then(|whole| whole.get_mut(from..from + data.left as usize));
            let part = part.ok_or(ConnectionError::Memory)?;
            let direct = part.len();
            let asked = direct + staging.len();
            let result = read(&mut [IoSliceMut::new(part), IoSliceMut::new(staging)]);
            let once = |bytes| ReadOnce {
                direct,
                asked,
                bytes,
            };
            return Ok(result.map(once).map_err(|error| error.kind()));
        }
        let asked = staging.len();
        let result = read(&mut [IoSliceMut::new(staging)]);
        let once = |bytes| ReadOnce {
            direct: 0,
            asked,
            bytes,
        };
        Ok(result.map(once).map_err(|error| error.kind()))
    }

    /// Bytes to read into the staging. While long data are expected, no more than are sure to be no data; short ones cost less
    /// to copy than to ask the kernel for one by one.
    fn read_ahead(&self) -> usize {
        let staged = self.receiver.staged().len();
        let header = HEADER_BYTES + self.digests.header_bytes();
        let digest = self.digests.data_bytes();
        match self.receiver.state {
            _ if self.phase == Phase::Initializing => IC_BYTES.saturating_sub(staged).max(1),
            State::Data(data) => {
                let others = self.data_expected - u32::from(data.completes);
                match others {
                    _ if data.pad_left > 0 => usize::from(data.pad_left),
                    0 => STAGING_BYTES,
                    _ if self.expects_short_data() => STAGING_BYTES,
                    _ => digest + header,
                }
            }
            State::TermData { left, .. } => left as usize,
            _ if self.data_expected == 0 || self.expects_short_data() => STAGING_BYTES,
            State::Digest(_) => (digest + header).saturating_sub(staged).max(1),
            State::Header => header.saturating_sub(staged).max(1),
        }
    }

    fn expects_short_data(&self) -> bool {
        self.bytes_expected <= u64::from(self.data_expected) * u64::from(SHORT_DATA_BYTES)
    }

    /// Works through the staging until it ends or the next bytes belong elsewhere.
    fn look_through(&mut self, buffers: &mut dyn Buffers) -> Result<(), ConnectionError> {
        loop {
            match self.receiver.state {
                State::Header => {
                    if !self.header()? {
                        return Ok(());
                    }
                }
                State::Data(mut data) => {
                    let staged = self.receiver.staged().len();
                    if staged == 0 {
                        return Ok(());
                    }
                    if data.pad_left > 0 {
                        let pad = staged.min(usize::from(data.pad_left));
                        self.receiver.start += pad;
                        data.pad_left -= pad as u8;
                        self.receiver.state = State::Data(data);
                        continue;
                    }
                    // Short data, or a header that came later than it was waited for.
                    let bytes = staged.min(data.left as usize);
                    let from = data.at as usize;
                    let whole = buffers.bytes_mut(data.token);
                    let part = whole.and_then(|whole| whole.get_mut(from..from + bytes));
                    let part = part.ok_or(ConnectionError::Memory)?;
                    part.copy_from_slice(&self.receiver.staged()[..bytes]);
                    self.receiver.start += bytes;
                    self.placed(buffers, bytes as u32)?;
                }
                State::Digest(data) => {
                    let Some(digest) = self.receiver.take::<DIGEST_BYTES>() else {
                        return Ok(());
                    };
                    let (found, expected) = (data.digest, u32::from_le_bytes(digest));
                    let busy = self.slots[usize::from(data.slot)].busy.as_mut();
                    if found != expected
                        && let Some(busy) = busy
                    {
                        busy.damage = Some(DataDigest { found, expected });
                    }
                    self.data_ended(data);
                }
                State::TermData { term, left } => {
                    let staged = self.receiver.staged().len() as u32;
                    if staged >= left {
                        return Err(ConnectionError::Terminated(term));
                    }
                    self.receiver.start = self.receiver.end;
                    self.receiver.state = State::TermData {
                        term,
                        left: left - staged,
                    };
                    return Ok(());
                }
            }
        }
    }

    /// So many bytes are where they belong.
    fn placed(&mut self, buffers: &mut dyn Buffers, bytes: u32) -> Result<(), ConnectionError> {
        let State::Data(mut data) = self.receiver.state else {
            return Ok(());
        };
        let place = data.at as usize..(data.at + bytes) as usize;
        if self.digests.data {
            let whole = buffers.bytes(data.token);
            let part = whole.and_then(|whole| whole.get(place.clone()));
            let part = part.ok_or(ConnectionError::Memory)?;
            data.digest = crc32c_append(data.digest, part);
        }
        buffers.arrived(data.token, place);
        data.at += bytes;
        data.left -= bytes;
        if data.left > 0 {
            self.receiver.state = State::Data(data);
        } else if self.digests.data {
            self.receiver.state = State::Digest(data);
        } else {
            self.data_ended(data);
        }
        Ok(())
    }

    fn data_ended(&mut self, data: Data) {
        self.receiver.state = State::Header;
        let Some(busy) = self.slots[usize::from(data.slot)].busy.as_mut() else {
            return;
        };
        busy.transferred = data.at;
        if data.completes && !busy.has_all_data {
            busy.has_all_data = true;
            self.data_expected -= 1;
            self.bytes_expected -= u64::from(busy.bytes);
        }
        if data.is_success {
            self.end(data.slot, Completion::SUCCESS);
        }
    }

    /// Takes a header if all of it has come.
    fn header(&mut self) -> Result<bool, ConnectionError> {
        if self.phase == Phase::Initializing {
            return self.first_header();
        }
        let Some(header) = self.receiver.staged().first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let header = *header;
        let mut digest = None;
        if self.digests.header && Incoming::has_header_digest(&header) {
            let behind = &self.receiver.staged()[HEADER_BYTES..];
            let Some(found) = behind.first_chunk::<DIGEST_BYTES>() else {
                return Ok(false);
            };
            digest = Some(*found);
        }
        self.receiver.start += HEADER_BYTES + digest.map_or(0, |digest| digest.len());
        self.receiver.offender = header;
        let incoming = Incoming::decode(&header, digest, self.digests)?;
        self.handle(incoming)?;
        Ok(true)
    }

    /// The controller's first PDU.
    fn first_header(&mut self) -> Result<bool, ConnectionError> {
        let staged = self.receiver.staged();
        let Some(found) = staged.first().copied() else {
            return Ok(false);
        };
        if found == kind::C2H_TERM_REQ {
            let Some(header) = self.receiver.take::<HEADER_BYTES>() else {
                return Ok(false);
            };
            let incoming = Incoming::decode(&header, None, self.digests)?;
            self.handle(incoming)?;
            return Ok(true);
        }
        if found != kind::IC_RESP {
            // Whoever answers in another language may never send as many bytes as an ICResp has.
            return Err(PduError::Type {
                found,
                expected: "ICResp",
            }
            .into());
        }
        let Some(bytes) = self.receiver.take::<IC_BYTES>() else {
            return Ok(false);
        };
        self.receiver
            .offender
            .copy_from_slice(&bytes[..HEADER_BYTES]);
        let answer = IcResp::decode(&bytes, self.options.digests)?;
        self.digests = answer.digests;
        self.transmitter.alignment = answer.data_alignment;
        self.transmitter.h2c_bytes_max = answer.h2c_bytes_max;
        self.phase = Phase::Ready;
        Ok(true)
    }

    fn handle(&mut self, incoming: Incoming) -> Result<(), ConnectionError> {
        match incoming {
            Incoming::Response(bytes) => {
                let (cid, completion) = Completion::decode(&bytes);
                let (slot, _) = self.find("CapsuleResp", cid)?;
                self.end(slot, completion);
                Ok(())
            }
            Incoming::Data {
                cid,
                offset,
                bytes,
                pad,
                is_last,
                is_success,
            } => {
                const PDU: &str = "C2HData";
                let (slot, busy) = self.find(PDU, cid)?;
                if busy.command.flow() != Flow::In || busy.bytes == 0 {
                    return Err(ConnectionError::WrongDirection { pdu: PDU, cid });
                }
                let (whole, expected) = (busy.bytes, busy.transferred);
                let end = offset.checked_add(bytes).filter(|end| *end <= whole);
                let fits = offset == expected && !busy.has_all_data;
                let Some(end) = end.filter(|_| fits) else {
                    return Err(ConnectionError::Range {
                        pdu: PDU,
                        cid,
                        offset,
                        bytes,
                        expected,
                        whole,
                    });
                };
                self.receiver.state = State::Data(Data {
                    slot,
                    token: busy.token,
                    pad_left: pad,
                    at: offset,
                    left: bytes,
                    digest: 0,
                    completes: is_last || end == whole,
                    is_success,
                });
                Ok(())
            }
            Incoming::ReadyToTransfer {
                cid,
                tag,
                offset,
                bytes,
            } => self.ready_to_transfer((cid, tag), offset, bytes),
            Incoming::Term(term) if term.data_bytes == 0 => Err(ConnectionError::Terminated(term)),
            Incoming::Term(term) => {
                self.receiver.state = State::TermData {
                    term,
                    left: term.data_bytes,
                };
                Ok(())
            }
        }
    }

    fn ready_to_transfer(
        &mut self,
        (cid, tag): (u16, u16),
        offset: u32,
        bytes: u32,
    ) -> Result<(), ConnectionError> {
        const PDU: &str = "R2T";
        let granted = self.options.r2ts;
        let (slot, busy) = self.find(PDU, cid)?;
        if busy.command.flow() != Flow::Out || busy.bytes == 0 || busy.in_capsule {
            return Err(ConnectionError::WrongDirection { pdu: PDU, cid });
        }
        let (whole, expected) = (busy.bytes, busy.transferred);
        let end = offset.checked_add(bytes).filter(|end| *end <= whole);
        let Some(end) = end.filter(|_| offset == expected) else {
            return Err(ConnectionError::Range {
                pdu: PDU,
                cid,
                offset,
                bytes,
                expected,
                whole,
            });
        };
        if busy.r2ts == granted {
            return Err(ConnectionError::TooManyR2ts { cid, granted });
        }
        busy.r2ts += 1;
        busy.pending += 1;
        busy.transferred = end;
        self.transmitter.jobs.push_back(Job::Data {
            slot,
            tag,
            offset,
            end,
        });
        Ok(())
    }
}
