//! Round trips, and what decoders make of bytes that somebody changed: they refuse them, or read what stands there and
//! nothing else, which shows in that it encodes to the same bytes again.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

use oriel_protocol::{
    Arguments, Begun, Blob, Checksum, Chunk, Command, DecodeError, Epoch, Expected, InParts, Key,
    KeyKind, Length, ListRequest, Listed, Located, Location, Opcode, Page, Part, PartOf, Place,
    Position, Prefix, PutId, Stat, StoreId, Vector, Window, decode_commit, decode_keys, decode_put,
    encode_commit, encode_keys, encode_put, limits, result,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn keys() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key::new)
}

fn lengths() -> impl Strategy<Value = Length> {
    let some = prop_oneof![
        1..=limits::LENGTH_MAX,
        1_u64..40_000,
        (1_u64..3000).prop_map(|blocks| blocks << 12),
        Just(limits::LENGTH_MAX),
    ];
    some.prop_map(|bytes| Length::new(bytes).unwrap())
}

/// Where a window of so many blocks may lie.
fn windows(blocks: u64) -> impl Strategy<Value = Position> {
    let most = limits::NAMESPACE_BLOCKS - limits::QUIET_BLOCKS - blocks;
    (limits::QUIET_BLOCKS..=most).prop_map(Position)
}

fn locations() -> impl Strategy<Value = Located> {
    let blob = lengths().prop_flat_map(|length| {
        let whole = length.blocks() + length.vector_blocks();
        let made = move |(position, checksum): (Position, u32)| {
            Place::Window(Location {
                position,
                length,
                checksum: match length.vector_blocks() {
                    0 => Checksum::Blocks(checksum),
                    blocks => Checksum::Vector(Vector {
                        position: position.after(length.blocks()).unwrap(),
                        blocks: blocks as u32,
                        checksum,
                    }),
                },
            })
        };
        (windows(whole), any::<u32>()).prop_map(made)
    });
    let parts = (any::<u64>(), lengths(), 256_u64..=1 << 19).prop_map(|(put, length, blocks)| {
        Place::Parts(InParts {
            put: PutId(put),
            length,
            part_bytes: blocks << 12,
        })
    });
    let blob = prop_oneof![blob, parts];
    let made = |(blob, epoch)| Located {
        blob,
        epoch: Epoch(epoch),
    };
    (proptest::option::of(blob), any::<u32>()).prop_map(made)
}

fn reserved() -> impl Strategy<Value = Window> {
    lengths().prop_flat_map(|length| {
        let blocks = length.blocks();
        let made = move |(position, time_left_ms)| Window {
            position,
            blocks,
            time_left_ms,
        };
        (windows(blocks), any::<u32>()).prop_map(made)
    })
}

fn begun() -> impl Strategy<Value = Begun> {
    let made = |(put, blocks, time_left_ms): (u64, u64, u32)| Begun {
        put: PutId(put),
        part_bytes: blocks << 12,
        time_left_ms,
    };
    (any::<u64>(), 1_u64..=1 << 19, any::<u32>()).prop_map(made)
}

fn parts_of() -> impl Strategy<Value = PartOf> {
    let made = |(put, number)| PartOf {
        put: PutId(put),
        number,
    };
    (any::<u64>(), any::<u16>()).prop_map(made)
}

fn kinds() -> impl Strategy<Value = KeyKind> {
    prop_oneof![Just(KeyKind::Name), Just(KeyKind::Content)]
}

fn parts() -> impl Strategy<Value = Part> {
    let place = (1_u32..=1 << 31).prop_flat_map(|length| {
        let blocks = u64::from(length).div_ceil(4096);
        (Just(length), windows(blocks))
    });
    let made = |(of, (length, position), checksum, kind)| Part {
        of,
        position,
        length,
        checksum,
        kind,
    };
    (parts_of(), place, any::<Option<u32>>(), kinds()).prop_map(made)
}

fn blobs(lengths: impl Strategy<Value = Length>) -> impl Strategy<Value = Blob> {
    let made = |(key, is_content, length, checksum)| Blob {
        key,
        kind: if is_content {
            KeyKind::Content
        } else {
            KeyKind::Name
        },
        length,
        checksum,
    };
    (keys(), any::<bool>(), lengths, any::<Option<u32>>()).prop_map(made)
}

fn records() -> impl Strategy<Value = Vec<(Blob, Position)>> {
    let record = blobs(lengths()).prop_flat_map(|blob| (Just(blob), windows(blob.length.blocks())));
    vec(record, 1..=limits::COMMIT_RECORDS_MAX)
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    vec(any::<u8>(), 0..=8).prop_map(|bytes| Prefix::new(&bytes).unwrap())
}

fn stats() -> impl Strategy<Value = Stat> {
    let blocks = || 0..=limits::NAMESPACE_BLOCKS;
    let limits = (1024_u32..=32768, 1_u16..=32, 1_u16..=32, lengths());
    let figures = (
        blocks(),
        blocks(),
        proptest::option::of(blocks()),
        blocks(),
        blocks(),
        blocks(),
    );
    let rest = (any::<[u8; 16]>(), any::<u32>(), any::<bool>());
    (limits, figures, rest).prop_map(|(limits, figures, rest)| Stat {
        store: StoreId(rest.0),
        transfer_bytes_max: limits.0 * 4,
        probe_keys_max: limits.1,
        commit_records_max: limits.2,
        length_max: limits.3,
        part_bytes: u64::from(limits.1) << 20,
        capacity_blocks: figures.0,
        used_blocks: figures.1,
        quota_blocks: figures.2,
        realm_used_blocks: figures.3,
        realm_blobs: figures.4,
        reservations: figures.5,
        epoch: Epoch(rest.1),
        is_cache: rest.2,
    })
}

/// A list's blobs, one behind the other.
fn lists() -> impl Strategy<Value = (ListRequest, Vec<Listed>)> {
    let blob = (keys(), 1_u64..100_000, 0_u64..5);
    (prefixes(), 256_u64..1000, vec(blob, 0..20)).prop_map(|(prefix, mut at, blobs)| {
        let cursor = Position(at);
        let blobs = blobs.into_iter().map(|(key, length, gap)| {
            let mut bytes = *key.bytes();
            bytes[..prefix.bytes().len()].copy_from_slice(prefix.bytes());
            let length = Length::new(length).unwrap();
            let position = Position(at + gap);
            at = position.0 + length.blocks();
            Listed {
                key: Key::new(bytes),
                position,
                length,
            }
        });
        let blobs = blobs.collect();
        (ListRequest { cursor, prefix }, blobs)
    })
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        keys().prop_map(|key| Command::Locate { key }),
        keys().prop_map(|key| Command::Delete { key }),
        (1_u8..=32).prop_map(|keys| Command::Probe { keys }),
        (1_u8..=32, any::<u32>()).prop_map(|(keys, time_ms)| Command::Pin { keys, time_ms }),
        (1_u8..=32).prop_map(|records| Command::Commit { records }),
        (lengths(), proptest::option::of(parts_of()))
            .prop_map(|(length, part)| Command::Reserve { length, part }),
        keys().prop_map(|key| Command::Begin { key }),
        parts().prop_map(Command::Part),
        (any::<u64>(), lengths(), kinds()).prop_map(|(put, length, kind)| {
            let put = PutId(put);
            Command::Finish { put, length, kind }
        }),
        (any::<u64>(), any::<bool>()).prop_map(|(put, is_over)| {
            let put = PutId(put);
            Command::Hold { put, is_over }
        }),
        Just(Command::Put),
        Just(Command::Stat),
        any::<u64>().prop_map(|offset| Command::Map { offset }),
        (prefixes(), 0..=limits::NAMESPACE_BLOCKS).prop_map(|(prefix, cursor)| {
            Command::List(ListRequest {
                cursor: Position(cursor),
                prefix,
            })
        }),
    ]
}

/// What is done to bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Number(Index, u64),
    Cut(Index),
    Longer(u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let extreme = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 50),
        Just((1 << 50) - 256),
        Just(255),
        any::<u64>()
    ];
    let change = prop_oneof![
        8 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (any::<Index>(), extreme).prop_map(|(at, number)| Change::Number(at, number)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => any::<u8>().prop_map(Change::Longer),
    ];
    vec(change, 1..4)
}

fn apply(changes: &[Change], bytes: &mut Vec<u8>) {
    for change in changes {
        if bytes.is_empty() {
            return;
        }
        match change {
            Change::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Change::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Number(at, number) => {
                let words = bytes.len() / 8;
                if words > 0 {
                    let at = at.index(words) * 8;
                    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
                }
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Longer(by) => bytes.extend(std::iter::repeat_n(0, usize::from(*by))),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn commands_come_back(command in commands(), extra in 0_u64..100) {
        let (least, most) = command.transfer_bytes();
        let bytes = (least + extra * 4).min(most);
        let (opcode, arguments) = (command.opcode().number(), command.arguments());
        prop_assert_eq!(Command::decode(opcode, &arguments, bytes), Ok(command));
        if bytes > 0 {
            prop_assert!(Command::decode(opcode, &arguments, bytes - 1).is_err());
        }
        prop_assert!(Command::decode(opcode, &arguments, most + 4).is_err());
        prop_assert!(Command::decode(opcode, &arguments, u64::MAX).is_err());
    }

    #[test]
    fn changed_commands_are_refused_or_read_exactly(
        command in commands(),
        changes in changes(),
        opcode in proptest::option::of(any::<u8>()),
    ) {
        let mut sqe = [0; 64];
        command.arguments().write_to(&mut sqe);
        let mut bytes = sqe.to_vec();
        apply(&changes, &mut bytes);
        bytes.resize(64, 0);
        let arguments = Arguments::from_command(bytes.as_slice().try_into().unwrap());
        let opcode = opcode.unwrap_or(command.opcode().number());
        for transfer in [0, 32, 64, 96, 128, 4096, 131_072] {
            if let Ok(read) = Command::decode(opcode, &arguments, transfer) {
                prop_assert_eq!(read.opcode().number(), opcode);
                prop_assert_eq!(read.arguments(), arguments);
                let (least, most) = read.transfer_bytes();
                prop_assert!((least..=most).contains(&transfer));
            }
        }
    }

    #[test]
    fn locations_come_back(located in locations(), changes in changes()) {
        let bytes = located.encode();
        prop_assert_eq!(Located::decode(&bytes), Ok(located));
        let mut bytes = bytes.to_vec();
        apply(&changes, &mut bytes);
        if let Ok(read) = Located::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn windows_come_back(window in reserved(), changes in changes()) {
        let bytes = window.encode();
        prop_assert_eq!(Window::decode(&bytes), Ok(window));
        let mut bytes = bytes.to_vec();
        apply(&changes, &mut bytes);
        if let Ok(read) = Window::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn what_begins_a_put_comes_back(begun in begun(), changes in changes()) {
        let bytes = begun.encode();
        prop_assert_eq!(Begun::decode(&bytes), Ok(begun));
        let mut bytes = bytes.to_vec();
        apply(&changes, &mut bytes);
        if let Ok(read) = Begun::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn commits_come_back(records in records(), changes in changes()) {
        let count = records.len() as u8;
        let mut bytes = encode_commit(&records).unwrap();
        for (index, record) in (0_u8..).zip(&records) {
            prop_assert_eq!(decode_commit(count, &bytes, index), Ok(*record));
        }
        prop_assert!(decode_commit(count, &bytes, count).is_err());
        prop_assert!(decode_commit(count - 1, &bytes, 0).is_err());
        apply(&changes, &mut bytes);
        let read: Result<Vec<_>, _> =
            (0..count).map(|index| decode_commit(count, &bytes, index)).collect();
        if let Ok(read) = read {
            prop_assert_eq!(encode_commit(&read).unwrap(), bytes);
        }
    }

    #[test]
    fn puts_come_back(
        blob in blobs((1_u64..600).prop_map(|bytes| Length::new(bytes).unwrap())),
        changes in changes(),
    ) {
        let content: Vec<u8> = (0..blob.length.get()).map(|at| at as u8 | 1).collect();
        let mut bytes = encode_put(&blob, &content).unwrap();
        prop_assert_eq!(decode_put(&bytes), Ok((blob, &content[..])));
        apply(&changes, &mut bytes);
        if let Ok((blob, content)) = decode_put(&bytes) {
            prop_assert_eq!(encode_put(&blob, content).unwrap(), bytes);
        }
    }

    #[test]
    fn keys_come_back(keys in vec(keys(), 1..=32), changes in changes()) {
        let count = keys.len() as u8;
        let mut bytes = encode_keys(&keys).unwrap();
        prop_assert_eq!(decode_keys(count, &bytes).unwrap().collect::<Vec<_>>(), keys);
        apply(&changes, &mut bytes);
        if let Ok(read) = decode_keys(count, &bytes) {
            let read: Vec<_> = read.collect();
            prop_assert_eq!(&encode_keys(&read).unwrap(), &bytes);
        }
    }

    #[test]
    fn pages_come_back(
        (request, blobs) in lists(),
        spare in 0_usize..30,
        has_next in any::<bool>(),
        changes in changes(),
    ) {
        let end = blobs.last().map_or(request.cursor.0 + 1, |last| last.position.0 + last.length.blocks());
        let next = has_next.then_some(Position(end));
        let mut bytes = vec![0xee; 64 + blobs.len() * 48 + spare * 4];
        Page::encode(&blobs, next, &mut bytes).unwrap();
        let page = Page::decode(&request, &bytes).unwrap();
        prop_assert_eq!(page.blobs().collect::<Vec<_>>(), blobs);
        prop_assert_eq!(page.next(), next);
        apply(&changes, &mut bytes);
        if let Ok(page) = Page::decode(&request, &bytes) {
            let (blobs, next): (Vec<_>, _) = (page.blobs().collect(), page.next());
            let mut again = vec![0xee; bytes.len()];
            Page::encode(&blobs, next, &mut again).unwrap();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn chunks_come_back(
        table in vec(any::<u8>(), 0..300),
        offset in 0_u64..400,
        room in 1_usize..80,
        epoch in any::<u32>(),
        changes in changes(),
    ) {
        let mut bytes = vec![0xee; 32 + room * 4];
        Chunk::encode(&table, offset, Epoch(epoch), &mut bytes);
        let chunk = Chunk::decode(offset, &bytes).unwrap();
        let from = (offset as usize).min(table.len());
        let to = (from + room * 4).min(table.len());
        prop_assert_eq!((chunk.total, chunk.bytes), (table.len() as u64, &table[from..to]));
        apply(&changes, &mut bytes);
        if let Ok(chunk) = Chunk::decode(offset, &bytes) {
            let mut whole = vec![0; chunk.total as usize];
            let from = (offset as usize).min(whole.len());
            whole[from..from + chunk.bytes.len()].copy_from_slice(chunk.bytes);
            let mut again = vec![0xee; bytes.len()];
            Chunk::encode(&whole, offset, chunk.epoch, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn stats_come_back(stat in stats(), changes in changes()) {
        let bytes = stat.encode();
        prop_assert_eq!(Stat::decode(&bytes), Ok(stat));
        let mut bytes = bytes.to_vec();
        apply(&changes, &mut bytes);
        if let Ok(read) = Stat::decode(&bytes) {
            prop_assert_eq!(&read.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn random_bytes_are_no_trouble(bytes in vec(any::<u8>(), 0..400), opcode in any::<u8>(), offset in any::<u64>()) {
        let request = ListRequest { cursor: Position(offset), prefix: Prefix::ANY };
        let _ = Located::decode(&bytes);
        let _ = Window::decode(&bytes);
        let _ = Begun::decode(&bytes);
        let _ = Stat::decode(&bytes);
        let _ = decode_put(&bytes);
        let _ = Page::decode(&request, &bytes);
        let _ = Chunk::decode(offset, &bytes);
        let _ = decode_commit(opcode, &bytes, opcode);
        let _ = decode_keys(opcode, &bytes).map(|keys| keys.count());
    }
}

/// Every bit of an answer is looked at: with any of them flipped it reads as something else, or not at all.
#[test]
fn no_bit_is_ignored() {
    let located = Located {
        blob: Some(Place::Window(Location {
            position: Position(0x10000),
            length: Length::new(5 << 20).unwrap(),
            checksum: Checksum::Vector(Vector {
                position: Position(0x10000 + 1280),
                blocks: 2,
                checksum: 1,
            }),
        })),
        epoch: Epoch(0),
    };
    let window = Window {
        position: Position(0x1234),
        blocks: 5,
        time_left_ms: 1,
    };
    let mut refused = 0;
    let bytes = located.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = Located::decode(&flipped);
        assert_ne!(read, Ok(located), "bit {bit}");
        refused += u32::from(read.is_err());
    }
    assert!(refused > 300, "{refused}");
    let begun = Begun {
        put: PutId(5),
        part_bytes: 4096,
        time_left_ms: 1,
    };
    let bytes = begun.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(Begun::decode(&flipped), Ok(begun), "bit {bit}");
    }
    let bytes = window.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(Window::decode(&flipped), Ok(window), "bit {bit}");
    }
}

#[test]
fn errors_name_the_field_what_it_is_and_what_it_has_to_be() {
    let mut arguments = Command::Probe { keys: 2 }.arguments();
    let short = Command::decode(Opcode::Probe.number(), &arguments, 32).unwrap_err();
    assert_eq!(
        short,
        DecodeError::Transfer {
            what: "PROBE",
            found: 32,
            expected: Expected::Exactly(64)
        }
    );
    assert_eq!(
        short.to_string(),
        "the transfer of PROBE has 32 bytes, which has to be 64: send it with that length"
    );
    assert_eq!(short.status().code(), (0, 0x0f));
    arguments.0[2] = 33;
    let many = Command::decode(Opcode::Probe.number(), &arguments, 33 * 32).unwrap_err();
    assert_eq!(
        many.to_string(),
        "dword 10, the number of keys is 33, which has to be from 1 to 32: mend or update the sender"
    );
    assert_eq!(many.status().code(), (0, 2));
    let unknown = Command::decode(0xc0, &arguments, 0).unwrap_err();
    assert_eq!(unknown.status().code(), (0, 1));
    assert!(unknown.to_string().contains("0xc0"), "{unknown}");
    for opcode in Opcode::ALL {
        // A reserved dword in each of those that have one.
        let arguments = Arguments([0, 0, 1, 0, 0, 9, 0, 1]);
        let has_one = !matches!(opcode, Opcode::Locate | Opcode::Delete | Opcode::Begin);
        let read = Command::decode(opcode.number(), &arguments, 64);
        assert_eq!(
            matches!(read, Err(DecodeError::Field { .. })),
            has_one,
            "{opcode}"
        );
    }
}

/// Found by fuzzing.
#[test]
fn a_list_from_behind_the_last_block_does_not_go_on() {
    let request = ListRequest {
        cursor: Position(u64::MAX),
        prefix: Prefix::ANY,
    };
    let mut bytes = vec![0; 64];
    Page::encode(&[], Some(Position(1)), &mut bytes).unwrap();
    let error = Page::decode(&request, &bytes).unwrap_err();
    assert!(
        error.to_string().starts_with("where the list goes on is 1"),
        "{error}"
    );
    Page::encode(&[], None, &mut bytes).unwrap();
    assert_eq!(Page::decode(&request, &bytes).unwrap().next(), None);
}

#[test]
fn results_have_no_bits_but_theirs() {
    assert_eq!(result::probe(3, 0b101), Ok(5));
    assert!(result::probe(3, 0b1000).is_err());
    assert_eq!(result::probe(32, u32::MAX), Ok(u32::MAX));
    assert_eq!(result::commit(1, 1), Ok(1));
    assert!(result::commit(1, 2).is_err());
    assert_eq!(result::commit_failed(4, 3), Ok(3));
    assert!(result::commit_failed(4, 4).is_err());
    assert_eq!(result::put(1), Ok(true));
    assert!(result::put(2).is_err());
    assert_eq!(result::delete(0), Ok(false));
    assert_eq!((result::part(1), result::finish(0)), (Ok(true), Ok(false)));
    assert!(result::part(2).is_err() && result::finish(2).is_err());
    assert!(result::nothing(1).is_err());
}
