//! The bytes of PDUs, from the NVMe/TCP transport specification's figures; and decoding of whatever comes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use oriel_client::Digests;
use oriel_client::pdu::{
    IcResp, Incoming, PduError, TermRequest, command_header, data_header, ic_req, term_req,
};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes
        .chunks(8)
        .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    words.join(" ")
}

#[test]
fn ic_req_stays() {
    let header = ic_req(Digests::BOTH, 16);
    let bytes = header.bytes();
    assert_eq!(bytes.len(), 128);
    assert_eq!(hex(&bytes[..16]), "0000800080000000 000000030f000000");
    assert_eq!(bytes[16..], [0; 112]);
}

#[test]
fn commands_stay() {
    let command: [u8; 64] = std::array::from_fn(|at| at as u8);
    let plain = command_header(&command, 0, Digests::NONE, 4);
    assert_eq!(
        hex(&plain.bytes()[..16]),
        "0400480048000000 0001020304050607"
    );
    assert_eq!(plain.bytes().len(), 72);
    // Both digests, data at a multiple of 64: 76 bytes of header, so they begin at 128.
    let with_data = command_header(&command, 512, Digests::BOTH, 64);
    let bytes = with_data.bytes();
    assert_eq!(hex(&bytes[..8]), "0403488084020000");
    assert_eq!(bytes[72..76], crc32c::crc32c(&bytes[..72]).to_le_bytes());
    assert_eq!(bytes[76..], [0; 52]);
}

#[test]
fn data_stay() {
    let header = data_header((0x1234, 0x5678), 0x1000, 0x200, true, Digests::NONE, 4);
    assert_eq!(
        hex(header.bytes()),
        "0604181818020000 3412785600100000 0002000000000000"
    );
    let header = data_header(
        (1, 2),
        0,
        8,
        false,
        Digests {
            header: false,
            data: true,
        },
        32,
    );
    assert_eq!(hex(&header.bytes()[..8]), "060218202c000000");
    assert_eq!(header.bytes().len(), 32);
}

#[test]
fn the_last_word_stays() {
    let term = TermRequest {
        status: 4,
        information: 12,
    };
    let header = term_req(term, &[9; 30]);
    assert_eq!(
        hex(header.bytes()),
        "0200180030000000 04000c0000000000 0000000000000000 \
         0909090909090909 0909090909090909 0909090909090909"
    );
}

/// Every alignment that a controller may ask for.
#[test]
fn data_begin_where_the_controller_wants_them() {
    for cpda in 0..32_u8 {
        let alignment = (cpda + 1) * 4;
        for digests in [Digests::NONE, Digests::BOTH] {
            let capsule = command_header(&[0; 64], 8, digests, alignment);
            let data = data_header((0, 0), 0, 8, true, digests, alignment);
            for (header, least) in [(capsule, 72), (data, 24)] {
                let begin = usize::from(header.bytes()[3]);
                assert_eq!(header.bytes().len(), begin);
                assert!(begin >= least + digests.header_bytes());
                assert!(begin.is_multiple_of(usize::from(alignment)));
            }
        }
    }
}

#[test]
fn answers_stay() {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&[7, 0x0c, 24, 32, 0x28, 0, 0, 0]);
    bytes[8..20].copy_from_slice(&[0x34, 0x12, 0, 0, 0, 0x10, 0, 0, 8, 0, 0, 0]);
    assert_eq!(
        Incoming::decode(&bytes, None, Digests::NONE),
        Ok(Incoming::Data {
            cid: 0x1234,
            offset: 0x1000,
            bytes: 8,
            pad: 8,
            is_last: true,
            is_success: true,
        })
    );
    bytes[..8].copy_from_slice(&[9, 0, 24, 0, 24, 0, 0, 0]);
    bytes[10] = 0x78;
    assert_eq!(
        Incoming::decode(&bytes, None, Digests::NONE),
        Ok(Incoming::ReadyToTransfer {
            cid: 0x1234,
            tag: 0x78,
            offset: 0x1000,
            bytes: 8
        })
    );
    let mut first = [0; 128];
    first[..16].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 31, 2, 3, 0, 2, 0]);
    let answer = IcResp::decode(&first, Digests::BOTH).unwrap();
    assert_eq!(
        (answer.data_alignment, answer.h2c_bytes_max),
        (128, 0x2_0000)
    );
    assert_eq!(
        answer.digests,
        Digests {
            header: false,
            data: true
        }
    );
    let error = IcResp::decode(&first, Digests::NONE).unwrap_err();
    assert_eq!(error, PduError::Digests { asked: 0, found: 2 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// What is read from any bytes goes with the lengths that stand in them.
    #[test]
    fn any_header_is_read_or_refused(mut bytes in any::<[u8; 24]>(), kind in 0_usize..8, sane in any::<bool>(), which in 0_usize..3) {
        let digests = [Digests::NONE, Digests::BOTH, Digests { header: false, data: true }][which];
        bytes[0] = [3, 5, 7, 9, 7, 9, bytes[0], 1][kind];
        if sane {
            // Far enough from chance that lengths and offsets are looked at.
            bytes[1] = (bytes[1] & 0xc) | u8::from(digests.header) | (u8::from(digests.data) << 1);
            bytes[2] = 24;
            bytes[17..20].fill(0);
            let begin = 24 + digests.header_bytes() as u8 + (bytes[3] & 3) * 4;
            bytes[3] = begin;
            let data = if bytes[0] == 7 { u32::from(bytes[16]) + digests.data_bytes() as u32 } else { 0 };
            let header = if bytes[0] == 7 { u32::from(begin) } else { 24 + digests.header_bytes() as u32 };
            bytes[4..8].copy_from_slice(&(header + data).to_le_bytes());
        }
        let plen = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        let digest = digests.header.then(|| crc32c::crc32c(&bytes).to_le_bytes());
        match Incoming::decode(&bytes, digest, digests) {
            Ok(Incoming::Data { bytes: length, pad, is_last, is_success, .. }) => {
                let header = 24 + digests.header_bytes() as u32 + u32::from(pad);
                prop_assert_eq!(plen, header + length + digests.data_bytes() as u32);
                prop_assert!(length > 0 && (is_last || !is_success));
            }
            Ok(Incoming::Response(_)) => prop_assert_eq!(plen, 24 + digests.header_bytes() as u32),
            Ok(Incoming::ReadyToTransfer { bytes: length, .. }) => {
                prop_assert_eq!(plen, 24 + digests.header_bytes() as u32);
                prop_assert!(length > 0);
            }
            Ok(Incoming::Term(term)) => prop_assert!(term.data_bytes == plen - 24 && plen <= 152),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let wrong = digest.map(|digest| digest.map(|byte| byte ^ 1));
        if wrong.is_some() {
            let read = Incoming::decode(&bytes, wrong, digests);
            let is_refused = matches!(read, Err(PduError::HeaderDigest { .. }));
            prop_assert!(is_refused);
        }
    }
}
