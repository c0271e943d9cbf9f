//! The controller's side of NVMe/TCP, written a second time and by hand, so that a mistake in the client's own encoding is
//! not made on both sides.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod rig;
pub(crate) mod server;

use oriel_client::Digests;

pub(crate) const LAST: u8 = 4;
pub(crate) const SUCCESS: u8 = 8;

/// Chance, by a seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % most.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

fn header(kind: u8, flags: u8, length: u8, pdo: u8, whole: usize) -> Vec<u8> {
    let mut bytes = vec![kind, flags, length, pdo];
    bytes.extend((whole as u32).to_le_bytes());
    bytes
}

fn flags_of(digests: Digests, has_data: bool) -> u8 {
    u8::from(digests.header) | if has_data && digests.data { 2 } else { 0 }
}

fn add_digest(bytes: &mut Vec<u8>, of: &[u8]) {
    bytes.extend(crc32c::crc32c(of).to_le_bytes());
}

fn close_header(bytes: &mut Vec<u8>, digests: Digests) {
    if digests.header {
        let whole = bytes.clone();
        add_digest(bytes, &whole);
    }
}

pub(crate) fn ic_resp(digests: Digests, cpda: u8, h2c_max: u32) -> Vec<u8> {
    let mut bytes = header(1, 0, 128, 0, 128);
    bytes.extend([
        0,
        0,
        cpda,
        u8::from(digests.header) | if digests.data { 2 } else { 0 },
    ]);
    bytes.extend(h2c_max.to_le_bytes());
    bytes.resize(128, 0);
    bytes
}

pub(crate) fn response(cid: u16, status: u16, result: u64, digests: Digests) -> Vec<u8> {
    let whole = 24 + if digests.header { 4 } else { 0 };
    let mut bytes = header(5, flags_of(digests, false), 24, 0, whole);
    bytes.extend(result.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(cid.to_le_bytes());
    bytes.extend((status << 1).to_le_bytes());
    close_header(&mut bytes, digests);
    bytes
}

pub(crate) fn data(
    cid: u16,
    offset: u32,
    content: &[u8],
    flags: u8,
    pad: usize,
    digests: Digests,
) -> Vec<u8> {
    let begin = 24 + if digests.header { 4 } else { 0 } + pad;
    let whole = begin + content.len() + if digests.data { 4 } else { 0 };
    let mut bytes = header(7, flags | flags_of(digests, true), 24, begin as u8, whole);
    bytes.extend(cid.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(offset.to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    close_header(&mut bytes, digests);
    bytes.resize(begin, 0xad);
    bytes.extend(content);
    if digests.data {
        add_digest(&mut bytes, content);
    }
    bytes
}

pub(crate) fn r2t(cid: u16, tag: u16, offset: u32, length: u32, digests: Digests) -> Vec<u8> {
    let whole = 24 + if digests.header { 4 } else { 0 };
    let mut bytes = header(9, flags_of(digests, false), 24, 0, whole);
    bytes.extend(cid.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 4]);
    close_header(&mut bytes, digests);
    bytes
}

pub(crate) fn term(status: u16, information: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(3, 0, 24, 0, 24 + content.len());
    bytes.extend(status.to_le_bytes());
    bytes.extend(information.to_le_bytes());
    bytes.resize(24, 0);
    bytes.extend(content);
    bytes
}

/// A command as it came.
#[derive(Clone, Debug)]
pub(crate) struct Capsule {
    pub(crate) command: Vec<u8>,
    pub(crate) content: Vec<u8>,
}

impl Capsule {
    pub(crate) fn opcode(&self) -> u8 {
        self.command[0]
    }

    pub(crate) fn cid(&self) -> u16 {
        u16::from_le_bytes([self.command[2], self.command[3]])
    }

    pub(crate) fn dword(&self, number: usize) -> u32 {
        u32::from_le_bytes(self.command[number * 4..number * 4 + 4].try_into().unwrap())
    }

    /// Bytes of its data, and whether they are in the capsule.
    pub(crate) fn sgl(&self) -> (u32, bool) {
        (self.dword(8), self.command[39] == 1)
    }
}

/// What a host sends.
#[derive(Clone, Debug)]
pub(crate) enum FromHost {
    IcReq {
        r2ts: u32,
    },
    Capsule(Capsule),
    Data {
        cid: u16,
        tag: u16,
        offset: u32,
        content: Vec<u8>,
        is_last: bool,
    },
    Term {
        status: u16,
        offender: Vec<u8>,
    },
}

/// Takes a PDU from the front if it is whole, and checks everything about it that the specification rules.
pub(crate) fn take(input: &mut Vec<u8>, digests: Digests, cpda: u8) -> Option<FromHost> {
    if input.len() < 8 {
        return None;
    }
    let whole = u32::from_le_bytes(input[4..8].try_into().unwrap()) as usize;
    assert!((24..4 << 20).contains(&whole), "PLEN {whole}");
    if input.len() < whole {
        return None;
    }
    let pdu: Vec<u8> = input.drain(..whole).collect();
    let (kind, flags, length, begin) = (pdu[0], pdu[1], usize::from(pdu[2]), usize::from(pdu[3]));
    match kind {
        0 => {
            assert_eq!((flags, length, whole), (0, 128, 128));
            assert_eq!(pdu[8..11], [0; 3]);
            let r2ts = u32::from_le_bytes(pdu[12..16].try_into().unwrap()) + 1;
            return Some(FromHost::IcReq { r2ts });
        }
        2 => {
            assert_eq!((flags, length), (0, 24));
            assert!(whole <= 152);
            let status = u16::from_le_bytes([pdu[8], pdu[9]]);
            return Some(FromHost::Term {
                status,
                offender: pdu[24..].to_vec(),
            });
        }
        _ => {}
    }
    assert_eq!(flags & 1 != 0, digests.header, "HDGSTF");
    let mut end = length;
    if digests.header {
        assert_eq!(
            pdu[end..end + 4],
            crc32c::crc32c(&pdu[..end]).to_le_bytes(),
            "HDGST"
        );
        end += 4;
    }
    let mut content = Vec::new();
    if whole > end {
        assert_eq!(flags & 2 != 0, digests.data, "DDGSTF");
        assert!(
            begin >= end && begin.is_multiple_of((usize::from(cpda) + 1) * 4),
            "PDO {begin}"
        );
        let until = whole - if digests.data { 4 } else { 0 };
        content = pdu[begin..until].to_vec();
        if digests.data {
            assert_eq!(
                pdu[until..],
                crc32c::crc32c(&content).to_le_bytes(),
                "DDGST"
            );
        }
    }
    let number = |at: usize| u32::from_le_bytes(pdu[at..at + 4].try_into().unwrap());
    Some(match kind {
        4 => {
            assert_eq!(length, 72);
            assert_eq!(pdu[9] >> 6, 1, "PSDT");
            let capsule = Capsule {
                command: pdu[8..72].to_vec(),
                content,
            };
            let (bytes, in_capsule) = capsule.sgl();
            assert_eq!(
                capsule.content.len(),
                if in_capsule { bytes as usize } else { 0 }
            );
            FromHost::Capsule(capsule)
        }
        6 => {
            assert_eq!(length, 24);
            assert_eq!(number(16) as usize, content.len(), "DATAL");
            assert!(!content.is_empty());
            FromHost::Data {
                cid: u16::from_le_bytes([pdu[8], pdu[9]]),
                tag: u16::from_le_bytes([pdu[10], pdu[11]]),
                offset: number(12),
                content,
                is_last: flags & LAST != 0,
            }
        }
        other => panic!("a host sent a PDU of type {other}"),
    })
}
