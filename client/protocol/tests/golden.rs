//! The protocol's bytes. A change here is another version of the protocol.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use oriel_protocol::{
    Arguments, Begun, Blob, Checksum, Chunk, Command, Direction, Epoch, InParts, Key, KeyKind,
    Length, ListRequest, Listed, Located, Location, Opcode, Page, Part, PartOf, Place, Position,
    Prefix, PutId, Stat, StoreId, Vector, Window, decode_put, encode_commit, encode_keys,
    encode_put, put_bytes, trailer,
};

fn hex(bytes: &[u8]) -> String {
    let words = bytes.chunks(8);
    let words: Vec<String> = words
        .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    words.join(" ")
}

fn key(first: u8) -> Key {
    Key::new(std::array::from_fn(|at| first + at as u8))
}

fn length(bytes: u64) -> Length {
    Length::new(bytes).unwrap()
}

const PART_OF: PartOf = PartOf {
    put: PutId(0x1234_5678_9abc_def0),
    number: 0xfedc,
};

#[test]
fn the_opcodes_stay() {
    let known = [
        (Opcode::Locate, 0x82, Direction::ToHost),
        (Opcode::Delete, 0x84, Direction::None),
        (Opcode::Probe, 0x85, Direction::ToController),
        (Opcode::Reserve, 0x86, Direction::ToHost),
        (Opcode::Commit, 0x89, Direction::ToController),
        (Opcode::List, 0x8a, Direction::ToHost),
        (Opcode::Put, 0x8d, Direction::ToController),
        (Opcode::Map, 0x8e, Direction::ToHost),
        (Opcode::Part, 0x90, Direction::None),
        (Opcode::Pin, 0x91, Direction::ToController),
        (Opcode::Stat, 0x92, Direction::ToHost),
        (Opcode::Finish, 0x94, Direction::None),
        (Opcode::Begin, 0x96, Direction::ToHost),
        (Opcode::Hold, 0x98, Direction::None),
    ];
    assert_eq!(known.len(), Opcode::ALL.len());
    for (opcode, number, direction) in known {
        assert_eq!((opcode.number(), opcode.direction()), (number, direction));
    }
}

#[test]
fn a_key_fills_the_eight_dwords_of_a_command() {
    let mut command = [0xee; 64];
    Command::Locate { key: key(1) }
        .arguments()
        .write_to(&mut command);
    assert_eq!(
        hex(&command),
        "eeeeeeeeeeeeeeee 0102030405060708 eeeeeeeeeeeeeeee eeeeeeeeeeeeeeee eeeeeeeeeeeeeeee \
         090a0b0c0d0e0f10 1112131415161718 191a1b1c1d1e1f20"
    );
    let arguments = Arguments::from_command(&command);
    let decoded = Command::decode(0x82, &arguments, 64).unwrap();
    assert_eq!(decoded, Command::Locate { key: key(1) });
}

#[test]
fn the_arguments_stay() {
    let list = ListRequest {
        cursor: Position(0x1_0000_0002),
        prefix: Prefix::new(&[1, 2, 3, 4, 5]).unwrap(),
    };
    let known = [
        (
            Command::Delete { key: key(0) },
            [
                0x0302_0100,
                0x0706_0504,
                0x0b0a_0908,
                0x0f0e_0d0c,
                0x1312_1110,
                0x1716_1514,
                0x1b1a_1918,
                0x1f1e_1d1c,
            ],
        ),
        (Command::Probe { keys: 32 }, [0, 0, 32, 0, 0, 0, 0, 0]),
        (
            Command::Pin {
                keys: 7,
                time_ms: 0xa1b2_c3d4,
            },
            [0, 0, 7, 0, 0xa1b2_c3d4, 0, 0, 0],
        ),
        (Command::Commit { records: 3 }, [0, 0, 3, 0, 0, 0, 0, 0]),
        (
            Command::Reserve {
                length: length(0x5_0000_0004),
                part: None,
            },
            [0, 0, 4, 5, 0, 0, 0, 0],
        ),
        (
            Command::Reserve {
                length: length(0x0500_0004),
                part: Some(PART_OF),
            },
            [0x9abc_def0, 0x1234_5678, 0x0500_0004, 0, 0xfedc, 1, 0, 0],
        ),
        (
            Command::Part(Part {
                of: PART_OF,
                position: Position(0x2_0000_0001),
                length: 0x0102_0304,
                checksum: Some(0xa1b2_c3d4),
                kind: KeyKind::Content,
            }),
            [
                0x9abc_def0,
                0x1234_5678,
                1,
                2,
                0xa1b2_c3d4,
                0x0102_0304,
                0x0003_fedc,
                0,
            ],
        ),
        (
            Command::Finish {
                put: PART_OF.put,
                length: length(0x5_0000_0004),
                kind: KeyKind::Content,
            },
            [0x9abc_def0, 0x1234_5678, 4, 5, 1, 0, 0, 0],
        ),
        (
            Command::Hold {
                put: PART_OF.put,
                is_over: true,
            },
            [0x9abc_def0, 0x1234_5678, 0, 0, 1, 0, 0, 0],
        ),
        (Command::Put, [0; 8]),
        (Command::List(list), [0x0403_0201, 5, 2, 1, 5, 0, 0, 0]),
        (
            Command::Map {
                offset: 0x3_0000_0001,
            },
            [0, 0, 1, 3, 0, 0, 0, 0],
        ),
        (Command::Stat, [0; 8]),
    ];
    for (command, dwords) in known {
        assert_eq!(command.arguments().0, dwords, "{command:?}");
    }
}

#[test]
fn a_location_stays() {
    let small = Located {
        blob: Some(Place::Window(Location {
            position: Position(0x1122_3344_5566),
            length: length(16384),
            checksum: Checksum::Blocks(0xdead_beef),
        })),
        epoch: Epoch(7),
    };
    let bytes = small.encode();
    assert_eq!(
        hex(&bytes),
        "01000100efbeadde 6655443322110000 0040000000000000 0000000000000000 0000000007000000 \
         0000000000000000 0000000000000000 0000000000000000"
    );
    assert_eq!(Located::decode(&bytes), Ok(small));
    let large = Located {
        blob: Some(Place::Window(Location {
            position: Position(0x10000),
            length: length((1020 << 12) + 1),
            checksum: Checksum::Vector(Vector {
                position: Position(0x10000 + 1021),
                blocks: 2,
                checksum: 0x0102_0304,
            }),
        })),
        epoch: Epoch(0),
    };
    let bytes = large.encode();
    assert_eq!(
        hex(&bytes),
        "0100020004030201 0000010000000000 01c03f0000000000 fd03010000000000 0200000000000000 \
         0000000000000000 0000000000000000 0000000000000000"
    );
    assert_eq!(Located::decode(&bytes), Ok(large));
    let parts = Located {
        blob: Some(Place::Parts(InParts {
            put: PART_OF.put,
            length: length(0x5_0000_0004),
            part_bytes: 16 << 20,
        })),
        epoch: Epoch(7),
    };
    let bytes = parts.encode();
    assert_eq!(
        hex(&bytes),
        "0200000000000000 f0debc9a78563412 0400000005000000 0000000100000000 0000000007000000 \
         0000000000000000 0000000000000000 0000000000000000"
    );
    assert_eq!(Located::decode(&bytes), Ok(parts));
    let none = Located {
        blob: None,
        epoch: Epoch(9),
    };
    let mut expected = [0; 64];
    expected[36] = 9;
    assert_eq!(none.encode(), expected);
    assert_eq!(Located::decode(&expected), Ok(none));
}

#[test]
fn a_window_stays() {
    let window = Window {
        position: Position(0x1234),
        blocks: 5,
        time_left_ms: 60_000,
    };
    let bytes = window.encode();
    assert_eq!(
        hex(&bytes),
        "3412000000000000 0500000000000000 60ea000000000000 0000000000000000"
    );
    assert_eq!(Window::decode(&bytes), Ok(window));
}

#[test]
fn what_begins_a_put_by_parts_stays() {
    let begun = Begun {
        put: PART_OF.put,
        part_bytes: 16 << 20,
        time_left_ms: 300_000,
    };
    let bytes = begun.encode();
    assert_eq!(
        hex(&bytes),
        "f0debc9a78563412 0000000100000000 e093040000000000 0000000000000000"
    );
    assert_eq!(Begun::decode(&bytes), Ok(begun));
    // A part's key: what was stored under it is not found under another.
    let parts = InParts {
        put: PutId(7),
        length: length(1 << 30),
        part_bytes: 16 << 20,
    };
    assert_eq!(
        parts.part_key(&Key::new([0xab; 32]), 3).to_string(),
        "de4a60681fac00ef54e0a023200e1eb0695e889a66e8984bf5222a1c2568fa98",
        "the same as in the store"
    );
}

#[test]
fn records_and_puts_stay() {
    let blob = Blob {
        key: key(0x10),
        kind: KeyKind::Content,
        length: length(6),
        checksum: Some(0xa1b2_c3d4),
    };
    let commit = encode_commit(&[(blob, Position(0x99_0000))]).unwrap();
    assert_eq!(
        hex(&commit),
        "1011121314151617 18191a1b1c1d1e1f 2021222324252627 28292a2b2c2d2e2f 0000990000000000 \
         0600000000000000 d4c3b2a101010000 0000000000000000"
    );
    let put = encode_put(
        &Blob {
            kind: KeyKind::Name,
            checksum: None,
            ..blob
        },
        b"abcdef",
    )
    .unwrap();
    assert_eq!(
        hex(&put),
        "1011121314151617 18191a1b1c1d1e1f 2021222324252627 28292a2b2c2d2e2f 0000000000000000 \
         0600000000000000 0000000000000000 0000000000000000 6162636465660000"
    );
    assert_eq!(decode_put(&put).unwrap().1, b"abcdef");
    assert_eq!(put_bytes(length((128 << 10) - 64)), Some(128 << 10));
    assert_eq!(put_bytes(length((128 << 10) - 63)), None);
    assert_eq!(encode_put(&blob, b"abcde"), None);
}

#[test]
fn a_probe_is_its_keys() {
    let data = encode_keys(&[key(0), key(0x40)]).unwrap();
    assert_eq!(data.len(), 64);
    assert_eq!((data[0], data[31], data[32], data[63]), (0, 31, 0x40, 0x5f));
    assert_eq!(encode_keys(&[]), None);
    assert_eq!(encode_keys(&[key(0); 33]), None);
}

#[test]
fn a_page_stays() {
    let request = ListRequest {
        cursor: Position(0),
        prefix: Prefix::ANY,
    };
    let blobs = [Listed {
        key: key(1),
        position: Position(0x400),
        length: length(5000),
    }];
    let mut transfer = [0xff; 116];
    Page::encode(&blobs, Some(Position(0x402)), &mut transfer).unwrap();
    assert_eq!(
        hex(&transfer),
        "0204000000000000 0100000000000000 0102030405060708 090a0b0c0d0e0f10 1112131415161718 \
         191a1b1c1d1e1f20 0004000000000000 8813000000000000 0000000000000000 0000000000000000 \
         0000000000000000 0000000000000000 0000000000000000 0000000000000000 00000000"
    );
    let page = Page::decode(&request, &transfer).unwrap();
    assert_eq!(page.blobs().collect::<Vec<_>>(), blobs);
    assert_eq!(page.next(), Some(Position(0x402)));
}

#[test]
fn a_chunk_stays() {
    let table: Vec<u8> = (0..10).collect();
    let mut transfer = [0xff; 40];
    Chunk::encode(&table, 4, Epoch(3), &mut transfer);
    assert_eq!(
        hex(&transfer),
        "0a00000000000000 0400000000000000 0600000003000000 0000000000000000 0405060708090000"
    );
    let chunk = Chunk::decode(4, &transfer).unwrap();
    assert_eq!(
        (chunk.total, chunk.epoch, chunk.bytes),
        (10, Epoch(3), &table[4..])
    );
}

#[test]
fn stat_stays() {
    let stat = Stat {
        store: StoreId([0x5a; 16]),
        transfer_bytes_max: 131_072,
        probe_keys_max: 32,
        commit_records_max: 16,
        length_max: length(1 << 30),
        part_bytes: 16 << 20,
        capacity_blocks: 0x11,
        used_blocks: 0x12,
        quota_blocks: None,
        realm_used_blocks: 0x13,
        realm_blobs: 0x14,
        reservations: 0x15,
        epoch: Epoch(0x16),
        is_cache: true,
    };
    let bytes = stat.encode();
    assert_eq!(
        hex(&bytes),
        "4f5249454c424c42 0200000000100000 5a5a5a5a5a5a5a5a 5a5a5a5a5a5a5a5a 0000020020001000 \
         0000004000000000 1100000000000000 1200000000000000 ffffffffffffffff 1300000000000000 \
         1400000000000000 1500000000000000 1600000001000000 0000000100000000 0000000000000000 \
         0000000000000000"
    );
    assert_eq!(Stat::decode(&bytes), Ok(stat));
    let mut newer = bytes;
    newer[8] = 3;
    let error = Stat::decode(&newer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the protocol's version is 3, which has to be 2: mend or update the sender"
    );
}

#[test]
fn a_vector_of_checksums_stays() {
    let mut vector = vec![0xff; 2 << 12];
    let whole = trailer::encode(&mut vector, Position(0x77), 1..=1500);
    assert_eq!(whole, crc32c::crc32c(&vector));
    assert_eq!(vector[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
    let second = &vector[4096..];
    assert_eq!(second[4080..4092], [0x77, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        second[4092..],
        crc32c::crc32c(&second[..4092]).to_le_bytes()
    );
    let of = length(1500 << 12);
    let block = trailer::Block::decode(second, Position(0x77), of, 1).unwrap();
    assert_eq!(block.checksum(0), Some(1021));
    assert_eq!(
        (block.checksum(479), block.checksum(480)),
        (Some(1500), None)
    );
    assert_eq!(trailer::place_of(1499), (1, 479));
    assert!(trailer::Block::decode(second, Position(0x78), of, 1).is_err());
    assert!(trailer::Block::decode(second, Position(0x77), of, 0).is_err());
    assert!(trailer::Block::decode(second, Position(0x77), length(1499 << 12), 1).is_err());
    for bit in 0..4096 * 8 {
        let mut flipped = second.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(
            trailer::Block::decode(&flipped, Position(0x77), of, 1).is_err(),
            "bit {bit}"
        );
    }
}
