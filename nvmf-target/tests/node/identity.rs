//! What a realm's controller says of itself is what it does.

use oriel_protocol::Opcode;

use crate::hostile::BAD;
use crate::support::{HOST, NodeProcess, is_skipped, turn};
use crate::wire::{Sqe, Wire};

const PAGE: u32 = 4096;
const SUPPORTED: u32 = 1;
const CHANGES_CONTENT: u32 = 2;

/// Identify Controller.
fn identify() -> Sqe {
    Sqe::new(0x06, 0).dword(10, 1)
}

/// Part of the Commands Supported and Effects log.
fn effects(from: u32, bytes: u32) -> Sqe {
    Sqe::new(0x02, u32::MAX)
        .dword(10, (bytes / 4 - 1) << 16 | 0x05)
        .dword(12, from)
}

fn dwords(bytes: &[u8]) -> Vec<u32> {
    let (all, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    all.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

#[test]
fn a_controller_says_what_is_true_of_it() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let (mut admin, _) = Wire::admin(node.address, BAD, HOST);
    let controller = admin.read(identify(), PAGE).unwrap();
    assert_eq!(controller.len(), PAGE as usize);
    // "MN": the subsystem's own.
    assert!(
        controller[24..64].starts_with(b"Oriel"),
        "{:?}",
        &controller[24..64]
    );
    let oncs = u16::from_le_bytes([controller[520], controller[521]]);
    // Compare, Write Uncorrectable, Dataset Management, Write Zeroes, Verify, Copy.
    assert_eq!(oncs & 0b1_1000_1111, 0, "ONCS {oncs:#b}");
    assert_eq!(controller[525], 0, "no cache has to be flushed");
    assert_eq!(controller[261] & 2, 2, "there is an effects log");

    let log = dwords(&admin.read(effects(0, PAGE), PAGE).unwrap());
    let (of_admin, of_io) = log.split_at(256);
    assert_eq!((of_admin[0x06], of_admin[0x00]), (SUPPORTED, 0));
    // FLUSH, WRITE, READ, Compare, Write Zeroes, Dataset Management.
    let own: Vec<u32> = [0, 1, 2, 5, 8, 9].map(|opcode: usize| of_io[opcode]).into();
    let writes = SUPPORTED | CHANGES_CONTENT;
    assert_eq!(own, [SUPPORTED, writes, SUPPORTED, 0, 0, 0]);
    for opcode in 0x80..=0xff_u8 {
        let expected = match Opcode::try_from(opcode) {
            Ok(opcode) if opcode.only_looks() => SUPPORTED,
            Ok(_) => writes,
            Err(_) => 0,
        };
        assert_eq!(of_io[usize::from(opcode)], expected, "{opcode:#x}");
    }
    let part = admin.read(effects(1024, 1024), 1024).unwrap();
    assert_eq!(dwords(&part), of_io[..256]);

    // What is behind them in a transfer that is longer is nobody's data.
    let long = admin.read(identify(), 8 * PAGE).unwrap();
    assert_eq!(long[..PAGE as usize], controller[..]);
    assert!(long[PAGE as usize..].iter().all(|byte| *byte == 0));
    let long = admin.read(effects(0, 8), 8 * PAGE).unwrap();
    assert_eq!(dwords(&long[..8]), of_admin[..2]);
    assert!(long[8..].iter().all(|byte| *byte == 0));
    // Further than it goes, and with less room than it takes.
    assert_eq!(admin.read(effects(PAGE, 8), PAGE), Err((0, 0x02)));
    assert_eq!(admin.read(effects(2, 8), PAGE), Err((0, 0x02)));
    let end = admin.read(effects(PAGE - 8, PAGE), PAGE).unwrap();
    assert_eq!(end, [0; PAGE as usize]);
    assert!(admin.read(identify(), 512).is_err());
    assert_eq!(admin.read(identify(), PAGE).unwrap(), controller);
    drop(admin);
    node.end();
}
