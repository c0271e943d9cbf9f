//! What a host sends.

use super::{CAPSULE_HEADER_BYTES, DIGEST_BYTES, Digests, HEADER_BYTES, IC_BYTES, flag, kind};
use crate::bytes::put;
use crate::limits::{COMMAND_BYTES, HEADER_BYTES_MAX};
use crate::sums::crc32c;

/// A header as it is sent: its digest and padding included.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; ROOM],
    length: u8,
}

/// Room for the longest header, and for the padding between a capsule's header and its data.
const ROOM: usize = 144;

const _: () = {
    assert!(HEADER_BYTES_MAX <= ROOM && ROOM <= u8::MAX as usize);
    // "CPDA" is any number of dwords up to 32, and not always a power of two.
    let mut dwords = 1;
    while dwords <= 32 {
        assert!((CAPSULE_HEADER_BYTES + DIGEST_BYTES).next_multiple_of(dwords * 4) <= ROOM);
        dwords += 1;
    }
};

impl Header {
    fn new(kind: u8, flags: u8, length: usize, pdu_bytes: u32) -> Self {
        let mut header = Self {
            bytes: [0; ROOM],
            length: length as u8,
        };
        header.bytes[0] = kind;
        header.bytes[1] = flags;
        header.bytes[2] = length as u8;
        put(&mut header.bytes, 4, &pdu_bytes.to_le_bytes());
        header
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Adds the digest, and zeros up to the data.
    fn close(&mut self, digests: Digests, data_at: usize) {
        let mut end = usize::from(self.length);
        if digests.header {
            let digest = crc32c(&self.bytes[..end]);
            put(&mut self.bytes, end, &digest.to_le_bytes());
            end += DIGEST_BYTES;
        }
        self.length = end.max(data_at) as u8;
    }
}

/// The first PDU of a connection: what this host wants of it. `r2ts` is how many R2Ts it takes for one command.
pub fn ic_req(digests: Digests, r2ts: u32) -> Header {
    let mut header = Header::new(kind::IC_REQ, 0, IC_BYTES, IC_BYTES as u32);
    // PFV 0 and HPDA 0: data may begin at any dword. MAXR2T is 0's based.
    header.bytes[11] = u8::from(digests.header) | (u8::from(digests.data) << 1);
    put(&mut header.bytes, 12, &r2ts.saturating_sub(1).to_le_bytes());
    header
}

/// Where data begins behind a header of this length.
fn data_at(header_bytes: usize, digests: Digests, alignment: u8) -> usize {
    (header_bytes + digests.header_bytes()).next_multiple_of(usize::from(alignment.max(4)))
}

/// A command; with data in its capsule if there are bytes of it.
pub fn command_header(
    command: &[u8; COMMAND_BYTES],
    data_bytes: u32,
    digests: Digests,
    alignment: u8,
) -> Header {
    let (at, end, flags) = if data_bytes == 0 {
        (0, (CAPSULE_HEADER_BYTES + digests.header_bytes()) as u32, 0)
    } else {
        let at = data_at(CAPSULE_HEADER_BYTES, digests, alignment);
        let end = at as u32 + data_bytes + digests.data_bytes() as u32;
        (at, end, u8::from(digests.data) * flag::DATA_DIGEST)
    };
    let flags = flags | (u8::from(digests.header) * flag::HEADER_DIGEST);
    let mut header = Header::new(kind::CAPSULE_CMD, flags, CAPSULE_HEADER_BYTES, end);
    header.bytes[3] = at as u8;
    put(&mut header.bytes, 8, command);
    header.close(digests, at);
    header
}

/// A piece of a command's data, which an R2T has asked for.
pub fn data_header(
    (cid, tag): (u16, u16),
    offset: u32,
    bytes: u32,
    is_last: bool,
    digests: Digests,
    alignment: u8,
) -> Header {
    let at = data_at(HEADER_BYTES, digests, alignment);
    let end = at as u32 + bytes + digests.data_bytes() as u32;
    let flags = (u8::from(digests.header) * flag::HEADER_DIGEST)
        | (u8::from(digests.data) * flag::DATA_DIGEST)
        | (u8::from(is_last) * flag::LAST_PDU);
    let mut header = Header::new(kind::H2C_DATA, flags, HEADER_BYTES, end);
    header.bytes[3] = at as u8;
    put(&mut header.bytes, 8, &cid.to_le_bytes());
    put(&mut header.bytes, 10, &tag.to_le_bytes());
    put(&mut header.bytes, 12, &offset.to_le_bytes());
    put(&mut header.bytes, 16, &bytes.to_le_bytes());
    header.close(digests, at);
    header
}

/// Why this host ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    /// "FES".
    pub status: u16,
    /// "FEI": the place of the wrong field, or the digest that does not fit.
    pub information: u32,
}

/// The last PDU of a connection: what the controller has done wrong, with the header in which it has.
pub fn term_req(term: Term, offender: &[u8]) -> Header {
    let offender = &offender[..offender.len().min(HEADER_BYTES)];
    let whole = (HEADER_BYTES + offender.len()) as u32;
    let mut header = Header::new(kind::H2C_TERM_REQ, 0, HEADER_BYTES, whole);
    put(&mut header.bytes, 8, &term.status.to_le_bytes());
    put(&mut header.bytes, 10, &term.information.to_le_bytes());
    put(&mut header.bytes, HEADER_BYTES, offender);
    header.length = whole as u8;
    header
}
