//! The PDUs of NVMe/TCP, as the NVMe/TCP transport specification lays them out: pure encoding and decoding.
//!
//! ```text
//!  byte  0      1       2      3     4       8
//!        ├──────┼───────┼──────┼─────┼───────┼───────── ... ─────┼──────────┼─────┼──── ... ────┼──────────┤
//!        │ type │ flags │ HLEN │ PDO │ PLEN  │ specific to type  │ [HDGST]  │ pad │ data        │ [DDGST]  │
//!        └──────┴───────┴──────┴─────┴───────┴───────── ... ─────┴──────────┴─────┴──── ... ────┴──────────┘
//! ```
//!
//! HLEN counts the header without its digest, PDO is where the data begins, PLEN is the whole. All numbers are
//! little-endian. What a controller sends is checked against itself here; whether it fits the commands under way is the
//! connection's to say.

mod decode;
mod encode;

pub use decode::{FatalStatus, IcResp, Incoming, PduError, Term};
pub use encode::{Header, Term as TermRequest, command_header, data_header, ic_req, term_req};

/// Which digests a connection's PDUs have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// A CRC32C of each header.
    pub header: bool,
    /// A CRC32C of each piece of data.
    pub data: bool,
}

impl Digests {
    /// None.
    pub const NONE: Self = Self {
        header: false,
        data: false,
    };
    /// Both.
    pub const BOTH: Self = Self {
        header: true,
        data: true,
    };

    /// Bytes that a header's digest takes.
    pub const fn header_bytes(self) -> usize {
        if self.header { DIGEST_BYTES } else { 0 }
    }

    /// Bytes that the digest of data takes.
    pub const fn data_bytes(self) -> usize {
        if self.data { DIGEST_BYTES } else { 0 }
    }
}

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 4;

/// Bytes of ICReq and ICResp.
pub const IC_BYTES: usize = 128;

/// Bytes of the header of CapsuleResp, C2HData, H2CData, R2T and the terminating PDUs.
pub const HEADER_BYTES: usize = 24;

/// Bytes of a CapsuleCmd's header: the common part and the command.
pub const CAPSULE_HEADER_BYTES: usize = 72;

/// "PDU-Type" of the NVMe/TCP transport specification.
pub(crate) mod kind {
    pub(crate) const IC_REQ: u8 = 0x00;
    pub(crate) const IC_RESP: u8 = 0x01;
    pub(crate) const H2C_TERM_REQ: u8 = 0x02;
    pub(crate) const C2H_TERM_REQ: u8 = 0x03;
    pub(crate) const CAPSULE_CMD: u8 = 0x04;
    pub(crate) const CAPSULE_RESP: u8 = 0x05;
    pub(crate) const H2C_DATA: u8 = 0x06;
    pub(crate) const C2H_DATA: u8 = 0x07;
    pub(crate) const R2T: u8 = 0x09;
}

/// "FLAGS" of the common header.
pub(crate) mod flag {
    pub(crate) const HEADER_DIGEST: u8 = 1 << 0;
    pub(crate) const DATA_DIGEST: u8 = 1 << 1;
    pub(crate) const LAST_PDU: u8 = 1 << 2;
    pub(crate) const SUCCESS: u8 = 1 << 3;
}

const _: () = assert!(HEADER_BYTES == 8 + crate::limits::COMPLETION_BYTES);
const _: () = assert!(CAPSULE_HEADER_BYTES == 8 + crate::limits::COMMAND_BYTES);
const _: () = assert!(IC_BYTES == crate::limits::HEADER_BYTES_MAX);
