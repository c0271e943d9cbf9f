//! Any bytes where the blob protocol has its own: what is read encodes to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oriel_protocol::{
    Arguments, Begun, Chunk, Command, DecodeError, Epoch, Expected, InParts, Key, Length,
    ListRequest, Located, Opcode, Page, Place, Position, Prefix, Stat, Status, Window,
    decode_commit, decode_keys, decode_put, encode_commit, encode_keys, encode_put, result,
    trailer,
};

/// A command that is read is the one that was sent.
fn read_command(opcode: u8, arguments: Arguments, transfer_bytes: u64) -> Result<(), DecodeError> {
    let command = Command::decode(opcode, &arguments, transfer_bytes)?;
    assert_eq!(
        (command.opcode().number(), command.arguments()),
        (opcode, arguments)
    );
    Ok(())
}

/// Each of the commands in turn, with those of the dwords alone that bits say: most of them refuse what they do not use.
fn read_each_command(kept: u8, dwords: [u32; 8], transfer_bytes: u64) {
    let mut arguments = Arguments(dwords);
    for (at, dword) in arguments.0.iter_mut().enumerate() {
        if kept >> at & 1 == 0 {
            *dword = 0;
        }
    }
    for opcode in Opcode::ALL {
        let found = read_command(opcode.number(), arguments, transfer_bytes);
        // With the length that a refusal asks for, it is taken.
        if let Err(DecodeError::Transfer { expected, .. }) = found {
            let right = match expected {
                Expected::Exactly(bytes) | Expected::Between { least: bytes, .. } => bytes,
                Expected::MultipleOf { unit, .. } => transfer_bytes.next_multiple_of(unit),
                other => panic!("{opcode} has a transfer that is {other}"),
            };
            assert_eq!(
                read_command(opcode.number(), arguments, right),
                Ok(()),
                "{opcode}"
            );
        }
    }
}

/// The pieces of any bytes of a blob in parts lie in its parts and are as many bytes.
fn cut(parts: &InParts, key: &Key, offset: u64, bytes: u64) {
    let size = parts.part_bytes;
    let length = parts.length.get();
    assert!((1..=1 << 16).contains(&parts.parts()));
    let mut at = offset.min(length);
    let end = at.saturating_add(bytes).min(length);
    for piece in parts.pieces(offset, bytes).take(100) {
        assert_eq!(u64::from(piece.number) * size + piece.offset, at);
        assert!(piece.bytes > 0 && piece.offset + piece.bytes <= size);
        assert!(u32::from(piece.number) < parts.parts());
        at += piece.bytes;
        assert!(at <= end);
    }
    let last = (parts.parts() - 1) as u16;
    assert!(last == 0 || parts.part_key(key, 0) != parts.part_key(key, last));
}

/// The bits of an answer are of records that there are, and a flag is one.
fn read_results(count: u8, dword: u32) {
    for found in [result::probe(count, dword), result::commit(count, dword)] {
        assert!(found.is_err() || found == Ok(dword));
    }
    let failed = result::commit_failed(count, dword);
    assert_eq!(
        failed.ok().map(u32::from),
        Some(dword).filter(|at| *at < count.into())
    );
    for read in [result::put, result::delete, result::part, result::finish] {
        assert_eq!(read(dword).ok(), [false, true].get(dword as usize).copied());
    }
    assert_eq!(result::nothing(dword).is_ok(), dword == 0);
}

fuzz_target!(|input: (u8, u8, [u32; 8], u64, &[u8])| {
    let (opcode, count, dwords, number, bytes) = input;
    let _ = read_command(opcode, Arguments(dwords), number);
    read_each_command(opcode, dwords, number);
    if let Some(status) = Status::from_code(opcode, count) {
        assert_eq!(status.code(), (opcode, count));
    }
    read_results(count, dwords[0]);
    if let Ok(located) = Located::decode(bytes) {
        assert_eq!(located.encode()[..], *bytes);
        if let Some(Place::Parts(parts)) = &located.blob {
            cut(parts, &Key::new([count; 32]), number, dwords[0].into());
            cut(parts, &Key::new([count; 32]), dwords[1].into(), number);
        }
    }
    if let Ok(window) = Window::decode(bytes) {
        assert_eq!(window.encode()[..], *bytes);
    }
    if let Ok(begun) = Begun::decode(bytes) {
        assert_eq!(begun.encode()[..], *bytes);
    }
    if let Ok(stat) = Stat::decode(bytes) {
        assert_eq!(stat.encode()[..], *bytes);
    }
    if let Ok((blob, content)) = decode_put(bytes) {
        assert_eq!(encode_put(&blob, content).as_deref(), Some(bytes));
    }
    if let Ok(keys) = decode_keys(count, bytes) {
        let keys: Vec<Key> = keys.collect();
        assert!(keys.is_empty() || keys.len() > 32 || encode_keys(&keys).as_deref() == Some(bytes));
    }
    let records: Result<Vec<_>, _> = (0..count)
        .map(|at| decode_commit(count, bytes, at))
        .collect();
    if let Ok(records) = records
        && (1..=32).contains(&records.len())
    {
        assert_eq!(encode_commit(&records).as_deref(), Some(bytes));
    }
    let request = ListRequest {
        cursor: Position(number),
        prefix: Prefix::ANY,
    };
    if let Ok(page) = Page::decode(&request, bytes) {
        let blobs: Vec<_> = page.blobs().collect();
        let mut again = vec![0xee; bytes.len()];
        assert!(Page::encode(&blobs, page.next(), &mut again).is_some());
        assert_eq!(again, bytes);
    }
    let _ = Chunk::decode(number, bytes);
    let mut piece = [0xee; 64];
    let epoch = Epoch(dwords[0]);
    for offset in [number, number % (bytes.len() as u64 + 1)] {
        Chunk::encode(bytes, offset, epoch, &mut piece);
        let chunk = Chunk::decode(offset, &piece).expect("it was just encoded");
        assert_eq!((chunk.total, chunk.epoch), (bytes.len() as u64, epoch));
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        assert_eq!(chunk.bytes, &rest[..rest.len().min(32)]);
    }
    if let (Some(length), Some(block)) = (Length::new(number), bytes.first_chunk::<4096>()) {
        let _ = trailer::Block::decode(block, Position(number), length, u32::from(count));
    }
});
