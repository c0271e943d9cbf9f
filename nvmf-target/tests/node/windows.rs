//! Windows, by plain READs and WRITEs.

use oriel_client::block_on;
use oriel_protocol::{
    Blob, Chunk, Command, Epoch, KeyKind, Length, Position, Status, WINDOW_BYTES, Window,
    encode_keys,
};

use crate::host::{blob, commit, content, failed_at, key, read, reserve, send, write};
use crate::support::{
    BLOCK, LONGEST, NodeProcess, OPEN, blobs, is_skipped, namespace, status, turn,
};

/// Windows are reserved, written by plain WRITEs in any order, committed, and read by plain READs; and nothing else is.
#[test]
fn windows_are_written_and_read_by_plain_commands() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let controller = node.connect(OPEN);
    let raw = namespace(&controller);
    // The first and the last MiB are zeros, and nothing can be written there.
    for block in [0, 255, (1 << 50) - 256, (1 << 50) - 1] {
        assert!(read(&raw, block, 1).unwrap().iter().all(|&byte| byte == 0));
        assert_eq!(
            status(write(&raw, block, vec![1; BLOCK])),
            Status::AccessDenied
        );
    }
    assert!(read(&raw, 200, 56).unwrap().iter().all(|&byte| byte == 0));
    for (block, blocks) in [(255, 2), (256, 1), (1 << 40, 32), ((1 << 50) - 257, 1)] {
        assert_eq!(
            status(read(&raw, block, blocks)),
            Status::Unwritten,
            "{block}"
        );
        let bytes = vec![1; blocks * BLOCK];
        assert_eq!(
            status(write(&raw, block, bytes)),
            Status::AccessDenied,
            "{block}"
        );
    }
    raw.flush().wait().1.unwrap();

    // More than one transfer takes, and a last block that is not full.
    let bytes = 70 * BLOCK - 5;
    let mut data = content(1, bytes);
    data.resize(70 * BLOCK, 0);
    let window = reserve(&raw, bytes as u64).unwrap();
    let at = window.position;
    assert_eq!(window.blocks, 70);
    assert!((1..=60_000).contains(&window.time_left_ms));
    assert!(at.0 >= 256);
    let stat = block_on(blobs(&controller).stat()).unwrap();
    assert_eq!((stat.reservations, stat.realm_blobs), (1, 0));
    assert_eq!(
        status(read(&raw, at.0, 1)),
        Status::Unwritten,
        "not committed"
    );
    let sum = crc32c::crc32c(&data);
    let good = Some(sum);
    let whole = blob(1, bytes, good);
    assert_eq!(status(commit(&raw, &[(whole, at)])), Status::NotWritten);
    write(&raw, at.0 + 32, data[32 * BLOCK..].to_vec()).unwrap();
    write(&raw, at.0, data[..32 * BLOCK].to_vec()).unwrap();
    // Beside the window, and behind its end: its checksums are not the host's to write.
    assert_eq!(
        status(write(&raw, at.0 + 70, vec![1; BLOCK])),
        Status::AccessDenied
    );
    assert_eq!(
        status(write(&raw, at.0 + 69, vec![1; 2 * BLOCK])),
        Status::AccessDenied
    );
    assert_eq!(
        status(read(&raw, at.0, 70)),
        Status::Unwritten,
        "not committed"
    );
    let records = [
        (blob(1, bytes, Some(sum ^ 1)), Status::OtherChecksum),
        (blob(1, bytes + BLOCK, good), Status::LongerThanReserved),
        (
            Blob {
                kind: KeyKind::Content,
                ..whole
            },
            Status::OtherContent,
        ),
    ];
    for (record, expected) in records {
        assert_eq!(failed_at(commit(&raw, &[(record, at)])), (expected, 0));
    }
    let elsewhere = (whole, Position(at.0 + 1));
    assert_eq!(
        failed_at(commit(&raw, &[elsewhere])),
        (Status::NotReserved, 0)
    );
    assert_eq!(commit(&raw, &[(whole, at)]).unwrap(), 1);
    assert_eq!(
        failed_at(commit(&raw, &[(whole, at)])),
        (Status::NotReserved, 0)
    );
    assert_eq!(
        status(write(&raw, at.0, vec![1; BLOCK])),
        Status::AccessDenied
    );
    assert!(read(&raw, at.0, 70).unwrap() == data);
    for (first, blocks) in [(0, 1), (69, 1), (3, 64), (31, 33)] {
        let part = read(&raw, at.0 + first as u64, blocks).unwrap();
        assert!(
            part == data[first * BLOCK..(first + blocks) * BLOCK],
            "{first}"
        );
    }
    // The block of checksums is a part of the window, what follows is not.
    let trailer = read(&raw, at.0 + 70, 1).unwrap();
    assert_eq!(trailer[4080..4088], at.0.to_le_bytes());
    assert_eq!(status(read(&raw, at.0 + 70, 2)), Status::Unwritten);
    assert!(block_on(blobs(&controller).get(&key(1))).unwrap() == Some(data[..bytes].to_vec()));

    // Several at once: the first that fails says where it is, those before it are there.
    let windows: Vec<Window> = (0..3).map(|_| reserve(&raw, 100).unwrap()).collect();
    for window in &windows[..2] {
        write(&raw, window.position.0, vec![7; BLOCK]).unwrap();
    }
    let records: Vec<(Blob, Position)> = (2..5)
        .zip(&windows)
        .map(|(name, window)| (blob(name, 100, None), window.position))
        .collect();
    assert_eq!(failed_at(commit(&raw, &records)), (Status::NotWritten, 2));
    write(&raw, windows[2].position.0, vec![9; BLOCK]).unwrap();
    assert_eq!(commit(&raw, &records[2..]).unwrap(), 1);
    let probe = encode_keys(&[key(1), key(9), key(2), key(3), key(4)]).unwrap();
    assert_eq!(
        send(&raw, &Command::Probe { keys: 5 }, probe).unwrap(),
        0b11101
    );
    // Under a key that is there a window comes to nothing.
    let window = reserve(&raw, 100).unwrap();
    write(&raw, window.position.0, vec![8; BLOCK]).unwrap();
    assert_eq!(
        commit(&raw, &[(blob(2, 100, None), window.position)]).unwrap(),
        0
    );
    assert_eq!(status(read(&raw, window.position.0, 1)), Status::Unwritten);
    // Windows next to each other are read one at a time.
    assert_eq!(
        status(read(&raw, windows[0].position.0, 2)),
        Status::Unwritten
    );
    assert_eq!(status(reserve(&raw, LONGEST as u64 + 1)), Status::TooLarge);

    // What is deleted answers until its space is given back; its key does not.
    let place = windows[0].position.0;
    assert_eq!(
        send(&raw, &Command::Delete { key: key(2) }, vec![]).unwrap(),
        1
    );
    assert_eq!(
        send(&raw, &Command::Delete { key: key(2) }, vec![]).unwrap(),
        0
    );
    assert!(read(&raw, place, 1).unwrap()[..100] == [7; 100]);
    let map = Command::Map { offset: 0 };
    let (answer, result) = raw.vendor(&map, vec![0xee; 4096]).wait();
    result.unwrap();
    let chunk = Chunk::decode(0, &answer).unwrap();
    assert_eq!(
        (chunk.total, chunk.epoch),
        (0, Epoch(0)),
        "a node has no table yet"
    );
    drop(raw);
    controller.close();
    node.end();
}

/// A realm has as many windows reserved as it may; those who let one go make room for another.
#[test]
fn reservations_have_an_end() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let controller = node.connect(OPEN);
    let raw = namespace(&controller);
    let length = Length::new(1).unwrap();
    let mut windows = Vec::new();
    for _ in 0..16 {
        // Many at a time, as one after the other takes a while.
        let command = Command::Reserve { length, part: None };
        let some = (0..64).map(|_| raw.vendor(&command, vec![0; WINDOW_BYTES]));
        for answer in some.collect::<Vec<_>>() {
            let (answer, result) = answer.wait();
            result.unwrap();
            windows.push(Window::decode(&answer).unwrap());
        }
    }
    assert_eq!(status(reserve(&raw, 1)), Status::Busy);
    write(&raw, windows[7].position.0, vec![0; BLOCK]).unwrap();
    assert_eq!(
        commit(&raw, &[(blob(1, 1, None), windows[7].position)]).unwrap(),
        1
    );
    reserve(&raw, 1).unwrap();
    assert_eq!(status(reserve(&raw, 1)), Status::Busy);
    drop(raw);
    controller.close();
    node.end();
}
