//! Any bytes where the blob protocol has its own: what is read encodes to the same bytes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oriel_protocol::{
    Arguments, Begun, Chunk, Command, Key, Length, ListRequest, Located, Page, Position, Prefix, Stat,
    Window, decode_commit, decode_keys, decode_put, encode_commit, encode_keys, encode_put,
    trailer,
};

fuzz_target!(|input: (u8, u8, [u32; 8], u64, &[u8])| {
    let (opcode, count, dwords, number, bytes) = input;
    let arguments = Arguments(dwords);
    if let Ok(command) = Command::decode(opcode, &arguments, number) {
        assert_eq!(
            (command.opcode().number(), command.arguments()),
            (opcode, arguments)
        );
    }
    if let Ok(located) = Located::decode(bytes) {
        assert_eq!(located.encode()[..], *bytes);
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
    if let (Some(length), Some(block)) = (Length::new(number), bytes.first_chunk::<4096>()) {
        let _ = trailer::Block::decode(block, Position(number), length, u32::from(count));
    }
});
