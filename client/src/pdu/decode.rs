//! What a controller sends.

use super::{DIGEST_BYTES, Digests, HEADER_BYTES, IC_BYTES, flag, kind};
use crate::bytes::{u16_at, u32_at};
use crate::limits::{COMPLETION_BYTES, H2C_BYTES_MIN, TERM_DATA_BYTES_MAX};
use crate::sums::crc32c;

/// Why a PDU cannot be what a controller sends on a sane connection. All but the digests are mistakes of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PduError {
    /// A type that no controller sends, or not at this time.
    #[error(
        "a PDU of type {found:#04x} came where {expected} belongs: that port does not speak NVMe/TCP, or its controller is broken"
    )]
    Type {
        /// The type.
        found: u8,
        /// What could have come.
        expected: &'static str,
    },
    /// A field that does not go with the others.
    #[error(
        "{field} of a {pdu} is {found}, not {expected}: the controller is broken, or something on the way is"
    )]
    Field {
        /// The kind of PDU.
        pdu: &'static str,
        /// The field, as the specification calls it.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it has to be, or be at least.
        expected: u64,
    },
    /// A header that changed on the way.
    #[error(
        "the header of a PDU has the digest {found:#010x}, not {expected:#010x}: something on the way changes data"
    )]
    HeaderDigest {
        /// That of the bytes.
        found: u32,
        /// The one that came with them.
        expected: u32,
    },
    /// Digests that were not asked for, or are missing.
    #[error(
        "the controller answers with digests {found:#04x} where {asked:#04x} were asked for: have both or none on this connection"
    )]
    Digests {
        /// Those asked for (bit 0: header, bit 1: data).
        asked: u8,
        /// Those granted.
        found: u8,
    },
}

/// The controller's side of the first exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcResp {
    /// Data that is sent begins at a multiple of so many bytes.
    pub data_alignment: u8,
    /// The digests of this connection.
    pub digests: Digests,
    /// Bytes of data in one H2CData at most.
    pub h2c_bytes_max: u32,
}

/// Why the other side ends the connection: "Fatal Error Status" of the terminating PDUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FatalStatus(pub u16);

impl std::fmt::Display for FatalStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self.0 {
            1 => "invalid PDU header field",
            2 => "PDU sequence error",
            3 => "header digest error",
            4 => "data transfer out of range",
            5 => "R2T or data transfer limit exceeded",
            6 => "unsupported parameter",
            _ => return write!(f, "unknown reason {:#06x}", self.0),
        };
        f.write_str(words)
    }
}

/// The controller ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    /// Why.
    pub status: FatalStatus,
    /// The field's offset, or the digest, that it is about.
    pub information: u32,
    /// Bytes of the offending header that follow.
    pub data_bytes: u32,
}

/// A PDU's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    /// CapsuleResp: a command has ended.
    Response([u8; COMPLETION_BYTES]),
    /// C2HData: a piece of a command's data.
    Data {
        /// The command's identifier.
        cid: u16,
        /// Where in the command's data.
        offset: u32,
        /// Bytes of it; at least one.
        bytes: u32,
        /// Bytes between the header and the data.
        pad: u8,
        /// No more data for the command.
        is_last: bool,
        /// The command has ended well, and no response follows.
        is_success: bool,
    },
    /// R2T: the controller wants a piece of the command's data.
    ReadyToTransfer {
        /// The command's identifier.
        cid: u16,
        /// To be sent with the data.
        tag: u16,
        /// Where in the command's data.
        offset: u32,
        /// Bytes of it; at least one.
        bytes: u32,
    },
    /// C2HTermReq: the controller ends the connection.
    Term(Term),
}

fn field(
    pdu: &'static str,
    field: &'static str,
    found: impl Into<u64>,
    expected: impl Into<u64>,
) -> Result<(), PduError> {
    let (found, expected) = (found.into(), expected.into());
    match found == expected {
        true => Ok(()),
        false => Err(PduError::Field {
            pdu,
            field,
            found,
            expected,
        }),
    }
}

fn at_least(
    pdu: &'static str,
    field: &'static str,
    found: impl Into<u64>,
    expected: impl Into<u64>,
) -> Result<(), PduError> {
    let (found, expected) = (found.into(), expected.into());
    match found >= expected {
        true => Ok(()),
        false => Err(PduError::Field {
            pdu,
            field,
            found,
            expected,
        }),
    }
}

impl IcResp {
    /// Reads the answer to an ICReq that asked for these digests.
    pub fn decode(bytes: &[u8; IC_BYTES], asked: Digests) -> Result<Self, PduError> {
        const PDU: &str = "ICResp";
        if bytes[0] != kind::IC_RESP {
            return Err(PduError::Type {
                found: bytes[0],
                expected: PDU,
            });
        }
        field(PDU, "HLEN", bytes[2], IC_BYTES as u8)?;
        field(PDU, "PLEN", u32_at(bytes, 4), IC_BYTES as u32)?;
        field(PDU, "PFV", u16_at(bytes, 8), 0_u16)?;
        // "CPDA": a 0's based number of dwords.
        let cpda = bytes[10];
        if cpda > 31 {
            return Err(PduError::Field {
                pdu: PDU,
                field: "CPDA",
                found: cpda.into(),
                expected: 31,
            });
        }
        let granted = bytes[11];
        let wanted = u8::from(asked.header) | u8::from(asked.data) << 1;
        if granted & !wanted != 0 {
            return Err(PduError::Digests {
                asked: wanted,
                found: granted,
            });
        }
        let h2c_bytes_max = u32_at(bytes, 12);
        at_least(PDU, "MAXH2CDATA", h2c_bytes_max, H2C_BYTES_MIN)?;
        Ok(Self {
            data_alignment: (cpda + 1) * 4,
            digests: Digests {
                header: granted & 1 != 0,
                data: granted & 2 != 0,
            },
            // Pieces of data begin at whole dwords.
            h2c_bytes_max: h2c_bytes_max & !3,
        })
    }
}

impl Incoming {
    /// Whether a header of this type has a digest behind it where headers have digests.
    pub fn has_header_digest(bytes: &[u8; HEADER_BYTES]) -> bool {
        bytes[0] != kind::C2H_TERM_REQ
    }

    /// Reads a header; with its digest if the connection has them.
    pub fn decode(
        bytes: &[u8; HEADER_BYTES],
        digest: Option<[u8; DIGEST_BYTES]>,
        digests: Digests,
    ) -> Result<Self, PduError> {
        if let Some(digest) = digest {
            let (found, expected) = (crc32c(bytes), u32::from_le_bytes(digest));
            if found != expected {
                return Err(PduError::HeaderDigest { found, expected });
            }
        }
        match bytes[0] {
            kind::CAPSULE_RESP => response(bytes, digests),
            kind::C2H_DATA => data(bytes, digests),
            kind::R2T => ready_to_transfer(bytes, digests),
            kind::C2H_TERM_REQ => term(bytes),
            found => {
                let expected = "CapsuleResp, C2HData, R2T or C2HTermReq";
                Err(PduError::Type { found, expected })
            }
        }
    }
}

/// Checks HLEN and the flag of the header's digest, and gives the header's length with it.
fn common(
    pdu: &'static str,
    bytes: &[u8; HEADER_BYTES],
    digests: Digests,
) -> Result<u32, PduError> {
    field(pdu, "HLEN", bytes[2], HEADER_BYTES as u8)?;
    let has_digest = u8::from(digests.header);
    field(
        pdu,
        "HDGSTF",
        bytes[1] & flag::HEADER_DIGEST,
        has_digest * flag::HEADER_DIGEST,
    )?;
    Ok((HEADER_BYTES + digests.header_bytes()) as u32)
}

fn response(bytes: &[u8; HEADER_BYTES], digests: Digests) -> Result<Incoming, PduError> {
    const PDU: &str = "CapsuleResp";
    let header = common(PDU, bytes, digests)?;
    field(PDU, "PLEN", u32_at(bytes, 4), header)?;
    let mut completion = [0; COMPLETION_BYTES];
    completion.copy_from_slice(&bytes[8..]);
    Ok(Incoming::Response(completion))
}

fn data(bytes: &[u8; HEADER_BYTES], digests: Digests) -> Result<Incoming, PduError> {
    const PDU: &str = "C2HData";
    let header = common(PDU, bytes, digests)?;
    let flags = bytes[1];
    let has_digest = u8::from(digests.data);
    field(
        PDU,
        "DDGSTF",
        flags & flag::DATA_DIGEST,
        has_digest * flag::DATA_DIGEST,
    )?;
    let (offset, length) = (u32_at(bytes, 12), u32_at(bytes, 16));
    at_least(PDU, "DATAL", length, 1_u32)?;
    let begin = u32::from(bytes[3]);
    at_least(PDU, "PDO", begin, header)?;
    field(PDU, "PDO modulo 4", begin % 4, 0_u32)?;
    let whole = u64::from(begin) + u64::from(length) + digests.data_bytes() as u64;
    field(PDU, "PLEN", u32_at(bytes, 4), whole)?;
    let is_last = flags & flag::LAST_PDU != 0;
    let is_success = flags & flag::SUCCESS != 0;
    if is_success {
        // "SUCCESS ... shall be cleared to '0' if the LAST_PDU flag is cleared".
        field(PDU, "LAST_PDU with SUCCESS", u8::from(is_last), 1_u8)?;
    }
    Ok(Incoming::Data {
        cid: u16_at(bytes, 8),
        offset,
        bytes: length,
        // PDO is a byte, and no less than the header.
        pad: (begin - header) as u8,
        is_last,
        is_success,
    })
}

fn ready_to_transfer(bytes: &[u8; HEADER_BYTES], digests: Digests) -> Result<Incoming, PduError> {
    const PDU: &str = "R2T";
    let header = common(PDU, bytes, digests)?;
    field(PDU, "PLEN", u32_at(bytes, 4), header)?;
    let length = u32_at(bytes, 16);
    at_least(PDU, "R2TL", length, 1_u32)?;
    Ok(Incoming::ReadyToTransfer {
        cid: u16_at(bytes, 8),
        tag: u16_at(bytes, 10),
        offset: u32_at(bytes, 12),
        bytes: length,
    })
}

fn term(bytes: &[u8; HEADER_BYTES]) -> Result<Incoming, PduError> {
    const PDU: &str = "C2HTermReq";
    field(PDU, "HLEN", bytes[2], HEADER_BYTES as u8)?;
    let whole = u32_at(bytes, 4);
    at_least(PDU, "PLEN", whole, HEADER_BYTES as u32)?;
    let data_bytes = whole - HEADER_BYTES as u32;
    if data_bytes > TERM_DATA_BYTES_MAX {
        let expected = u64::from(TERM_DATA_BYTES_MAX) + HEADER_BYTES as u64;
        return Err(PduError::Field {
            pdu: PDU,
            field: "PLEN",
            found: whole.into(),
            expected,
        });
    }
    Ok(Incoming::Term(Term {
        status: FatalStatus(u16_at(bytes, 8)),
        information: u32_at(bytes, 10),
        data_bytes,
    }))
}
