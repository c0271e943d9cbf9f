//! A host that is hostile, or broken.

use std::cell::Cell;

use oriel_client::blob::Put;
use oriel_client::{Again, block_on};
use oriel_protocol::{Arguments, KeyKind, Opcode, Position, Status, encode_commit, encode_put};

use crate::host::{blob, content, key};
use crate::support::{NodeProcess, OPEN, blobs, is_skipped, namespace, status, turn};

/// Every command with every field wrong, by one host; another one reads meanwhile, and after it.
#[test]
fn malformed_commands_get_their_status_and_harm_nobody() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let (good, bad) = (node.connect(OPEN), node.connect(OPEN));
    let good_blobs = blobs(&good);
    let blob_of_good = content(5, 50_000);
    let put = block_on(good_blobs.put(key(1), KeyKind::Name, blob_of_good.clone()));
    assert_eq!(put.unwrap(), Put::Created);
    let raw = namespace(&bad);
    let sent = Cell::new(0);
    let refused = |opcode: u8, arguments: [u32; 8], data: Vec<u8>, expected: &[Status]| {
        sent.set(sent.get() + 1);
        let bytes = data.len();
        let arguments = Arguments(arguments);
        let (_, result) = raw
            .passthrough(opcode, &arguments, data, Again::Harmless)
            .wait();
        let found = status(result.map(|completion| completion.dword()));
        assert!(
            expected.contains(&found),
            "{opcode:#x} {arguments:x?} {bytes}: {found:?}"
        );
    };
    let wrong_length = [Status::DataLengthInvalid];
    let wrong_field = [Status::InvalidField];
    for opcode in Opcode::ALL {
        let number = opcode.number();
        // Every length but its own.
        let (own, arguments): (&[usize], _) = match opcode {
            Opcode::Locate => (&[64], [1; 8]),
            Opcode::Delete => (&[0], [1; 8]),
            Opcode::Part | Opcode::Finish | Opcode::Hold => (&[0], [0; 8]),
            Opcode::Begin => (&[32], [1; 8]),
            Opcode::Probe | Opcode::Pin => (&[96], [0, 0, 3, 0, 0, 0, 0, 0]),
            Opcode::Reserve => (&[32], [0, 0, 4096, 0, 0, 0, 0, 0]),
            Opcode::Commit => (&[128], [0, 0, 2, 0, 0, 0, 0, 0]),
            Opcode::Stat => (&[128], [0; 8]),
            // These take what the host chooses, within bounds.
            Opcode::List | Opcode::Put | Opcode::Map => (&[], [0; 8]),
        };
        if !own.is_empty() && own != [0] {
            for bytes in [4, 32, 60, 64, 68, 96, 128, 132, 4096, 131_072] {
                if !own.contains(&bytes) {
                    refused(number, arguments, vec![0; bytes], &wrong_length);
                }
            }
        }
        // Every argument that is reserved, and every one that is out of bounds.
        let reserved: &[usize] = match opcode {
            Opcode::Locate | Opcode::Delete | Opcode::Begin => &[],
            Opcode::Part => &[7],
            Opcode::Finish => &[5, 6, 7],
            Opcode::Hold => &[2, 3, 5, 6, 7],
            Opcode::Probe | Opcode::Commit => &[0, 1, 3, 4, 5, 6, 7],
            Opcode::Pin => &[0, 1, 3, 5, 6, 7],
            Opcode::Reserve => &[0, 1, 4, 6, 7],
            Opcode::Map => &[0, 1, 4, 5, 6, 7],
            Opcode::List => &[5, 6, 7],
            Opcode::Put | Opcode::Stat => &[0, 1, 2, 3, 4, 5, 6, 7],
        };
        let bytes = own.first().copied().unwrap_or(4096);
        for place in reserved {
            for value in [1, 0x8000_0000, u32::MAX] {
                let mut arguments = arguments;
                arguments[*place] = value;
                refused(number, arguments, vec![0; bytes], &wrong_field);
            }
        }
    }
    for opcode in [Opcode::Probe, Opcode::Pin, Opcode::Commit] {
        for count in [0, 33, 256, u32::MAX] {
            let arguments = [0, 0, count, 0, 0, 0, 0, 0];
            refused(opcode.number(), arguments, vec![0; 64], &wrong_field);
        }
    }
    // No length, more than there can be, longer than a slab.
    for (low, high, expected) in [
        (0, 0, Status::InvalidField),
        (0, 16, Status::InvalidField),
        (u32::MAX, u32::MAX, Status::InvalidField),
        (u32::MAX, 15, Status::TooLarge),
    ] {
        let arguments = [0, 0, low, high, 0, 0, 0, 0];
        refused(
            Opcode::Reserve.number(),
            arguments,
            vec![0; 32],
            &[expected],
        );
    }
    // For a part: flags that are none, a number that is none, and puts that there are not.
    for (dword, value) in [(5, 2), (5, u32::MAX), (4, 1 << 16), (4, u32::MAX), (6, 1)] {
        let mut arguments = [9, 9, 4096, 0, 3, 1, 0, 0];
        arguments[dword] = value;
        refused(
            Opcode::Reserve.number(),
            arguments,
            vec![0; 32],
            &wrong_field,
        );
    }
    let no_such_put = [Status::NoSuchPut];
    refused(
        Opcode::Reserve.number(),
        [9, 9, 4096, 0, 3, 1, 0, 0],
        vec![0; 32],
        &no_such_put,
    );
    // Each dword of those that have no data: the put, position, checksum, length, number and flags.
    for (opcode, good, wrong) in [
        (
            Opcode::Part,
            [9, 9, 4096, 0, 0, 100, 0, 0],
            &[
                (2, 255),
                (3, 1 << 18),
                (3, u32::MAX),
                (4, 1),
                (5, 0),
                (5, (1 << 31) + 1),
                (5, u32::MAX),
                (6, 1 << 18),
                (6, 1 << 31),
            ][..],
        ),
        (
            Opcode::Finish,
            [9, 9, 100, 0, 0, 0, 0, 0],
            &[(2, 0), (3, 16), (3, u32::MAX), (4, 2), (4, u32::MAX)],
        ),
        (
            Opcode::Hold,
            [9, 9, 0, 0, 1, 0, 0, 0],
            &[(4, 2), (4, u32::MAX)],
        ),
    ] {
        refused(opcode.number(), good, vec![], &no_such_put);
        for &(dword, value) in wrong {
            let mut arguments = good;
            arguments[dword] = value;
            refused(opcode.number(), arguments, vec![], &wrong_field);
        }
    }
    // A prefix that is too long, or longer than it says; a cursor beyond the namespace; too little room.
    for arguments in [
        [0, 0, 0, 0, 9, 0, 0, 0],
        [0x100, 0, 0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 4, 0, 0, 0],
        [0, 0, 1, 1 << 18, 0, 0, 0, 0],
    ] {
        refused(
            Opcode::List.number(),
            arguments,
            vec![0; 4096],
            &wrong_field,
        );
    }
    refused(Opcode::List.number(), [0; 8], vec![0; 60], &wrong_length);
    refused(Opcode::Map.number(), [0; 8], vec![0; 32], &wrong_length);
    refused(Opcode::Put.number(), [0; 8], vec![0; 64], &wrong_length);

    // Records with each byte wrong that is reserved, flags, kinds, positions and lengths.
    let record = encode_commit(&[(blob(7, 100, None), Position(4096))]).unwrap();
    let put = encode_put(&blob(7, 100, None), &[1; 100]).unwrap();
    let one = [0, 0, 1, 0, 0, 0, 0, 0];
    for at in 48..64 {
        for bit in [1, 2, 0x80] {
            let is_fine = (at == 52 || at == 53) && bit == 1;
            if is_fine {
                // Another kind of key, or a checksum: these are refused for what they say.
                continue;
            }
            let (mut record, mut put) = (record.clone(), put.clone());
            record[at] ^= bit;
            put[at] ^= bit;
            refused(Opcode::Commit.number(), one, record, &wrong_field);
            refused(Opcode::Put.number(), [0; 8], put, &wrong_field);
        }
    }
    for (position, length) in [
        (0, 100),
        (255, 100),
        (1 << 50, 100),
        ((1 << 50) - 256, 100),
        (u64::MAX, 100),
        (4096, 0),
        (4096, 1 << 36),
        (4096, u64::MAX),
    ] {
        let mut record = record.clone();
        record[32..40].copy_from_slice(&position.to_le_bytes());
        record[40..48].copy_from_slice(&length.to_le_bytes());
        refused(Opcode::Commit.number(), one, record, &wrong_field);
        let mut put = put.clone();
        // 0 is what a PUT has there.
        put[32..40].copy_from_slice(&u64::max(position, 1).to_le_bytes());
        put[40..48].copy_from_slice(&length.to_le_bytes());
        refused(Opcode::Put.number(), [0; 8], put, &wrong_field);
    }
    for length in [96_u64, 101, 104, 4096, 131_072] {
        let mut put = put.clone();
        put[40..48].copy_from_slice(&length.to_le_bytes());
        refused(Opcode::Put.number(), [0; 8], put, &wrong_field);
    }
    let mut flipped = encode_put(&blob(7, 100, Some(1)), &[1; 100]).unwrap();
    refused(
        Opcode::Put.number(),
        [0; 8],
        flipped.clone(),
        &[Status::OtherChecksum],
    );
    flipped[52] = 1;
    flipped[53] = 0;
    flipped[48..52].fill(0);
    refused(
        Opcode::Put.number(),
        [0; 8],
        flipped,
        &[Status::OtherContent],
    );
    // Commands that are none, in each direction.
    for opcode in (0x80..=0xff_u8).filter(|opcode| opcode & 3 != 3) {
        if Opcode::try_from(opcode).is_err() {
            let data = if opcode & 3 == 0 {
                vec![]
            } else {
                vec![0; 512]
            };
            refused(opcode, [0; 8], data, &[Status::InvalidOpcode]);
        }
        if opcode % 16 == 0 {
            let read = block_on(good_blobs.get(&key(1))).unwrap();
            assert!(read == Some(blob_of_good.clone()));
        }
    }
    assert!(sent.get() > 300, "{sent:?}");
    // Neither connection was lost, nothing was stored, nothing stays reserved.
    let stat = block_on(blobs(&bad).stat()).unwrap();
    assert_eq!((stat.realm_blobs, stat.reservations), (1, 0));
    assert!(block_on(good_blobs.get(&key(1))).unwrap() == Some(blob_of_good));
    drop((raw, good_blobs));
    good.close();
    bad.close();
    node.end();
}
