//! Blobs that are longer than a slab, in parts.

use std::time::{Duration, Instant};

use oriel_client::blob::{BlobError, Blobs, Put};
use oriel_client::{CommandError, Namespace, block_on};
use oriel_protocol::{
    BEGUN_BYTES, Begun, Command, InParts, Key, KeyKind, Length, Part, PartOf, Place, Position,
    PutId, Status, WINDOW_BYTES, Window,
};

use crate::host::{blob, commit, content, failed_at, key, list, read, send, window_of, write};
use crate::support::{
    BLOCK, CLOSED, LONGEST, NodeProcess, OPEN, blobs, is_skipped, namespace, status, turn,
};

/// Of the node's slabs, a quarter.
const PART: usize = 512 * BLOCK;
/// Longer than anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

fn content_key(bytes: &[u8]) -> Key {
    Key::of_content(bytes)
}

fn parts_of(place: Option<Place>) -> InParts {
    match place {
        Some(Place::Parts(parts)) => parts,
        other => panic!("it lies in no parts: {other:?}"),
    }
}

fn statuses<T: std::fmt::Debug>(result: Result<T, BlobError<CommandError>>) -> Status {
    match result {
        Err(BlobError::Refused { status, .. }) => status,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// Until nothing of any blob is left, which a sweep sees to.
async fn until_empty(blobs: &Blobs<Namespace>) {
    let began = Instant::now();
    loop {
        let stat = blobs.stat().await.unwrap();
        if (stat.realm_blobs, stat.realm_used_blocks) == (0, 0) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{stat:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes from a pipe, as much at a time as comes.
async fn put_in_pieces(blobs: &Blobs<Namespace>, key: Key, kind: KeyKind, bytes: &[u8]) -> Put {
    let mut put = blobs.put_stream(key, kind);
    for (number, piece) in bytes.chunks(777_777).enumerate() {
        put.write(piece).await.unwrap();
        if number % 3 == 2 {
            put.settle().await.unwrap();
            put.keep().await.unwrap();
        }
    }
    put.finish().await.unwrap()
}

#[test]
fn blobs_longer_than_a_slab_go_over_the_wire_and_outlast_the_node() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let mut node = NodeProcess::start();
    let controller = node.connect(OPEN);
    let (raw, blobs) = (namespace(&controller), blobs(&controller));
    // As short as parts can make up, in the middle of a block, and as long as some slabs.
    let named = content(1, 2 * PART + 1);
    let pieces = content(2, 7 * PART + 70_001);
    let hashed = content(3, LONGEST + 1);
    let by_hash = content_key(&hashed);
    block_on(async {
        let put = put_in_pieces(&blobs, key(1), KeyKind::Name, &named);
        assert_eq!(put.await, Put::Created);
        let put = put_in_pieces(&blobs, key(2), KeyKind::Name, &pieces);
        assert_eq!(put.await, Put::Created);
        let put = blobs.put(by_hash, KeyKind::Content, hashed.clone());
        assert_eq!(put.await.unwrap(), Put::Created);
        // What fits one part is no matter of parts.
        let put = put_in_pieces(&blobs, key(3), KeyKind::Name, &named[..PART]);
        assert_eq!(put.await, Put::Created);
        window_of(blobs.locate(&key(3)).await.unwrap());
        for (of, kind) in [(key(1), KeyKind::Name), (by_hash, KeyKind::Content)] {
            let mut again = blobs.put_stream(of, kind);
            again.write(&hashed).await.unwrap();
            assert!(again.is_there());
            assert_eq!(again.finish().await.unwrap(), Put::AlreadyThere);
        }
        let wrong = blobs.put(key(9), KeyKind::Content, hashed.clone()).await;
        assert_eq!(statuses(wrong), Status::OtherContent);
        assert_eq!(blobs.locate(&key(9)).await.unwrap(), None);
        // Nobody has parts but those that are there.
        let stat = blobs.stat().await.unwrap();
        assert_eq!(
            (stat.part_bytes, stat.longest()),
            (PART as u64, (1 << 36) - 1)
        );
        assert_eq!(
            (stat.realm_blobs, stat.reservations),
            ((3 + 1) + (8 + 1) + 1 + (4 + 1), 0)
        );
        let there = [key(1), key(2), by_hash, key(9)];
        let there = blobs.probe(&there).await.unwrap();
        assert_eq!(there, [true, true, true, false]);
        let all = list(&blobs, &[]).await;
        let lengths: Vec<u64> = [key(1), key(2), by_hash].map(|key| all[&key]).into();
        assert_eq!(
            lengths,
            [&named, &pieces, &hashed].map(|blob| blob.len() as u64)
        );
        assert_eq!(all.len(), 4);
    });
    let parts = parts_of(block_on(blobs.locate(&key(2))).unwrap());
    assert_eq!((parts.part_bytes, parts.parts()), (PART as u64, 8));
    let fifth = parts.part_key(&key(2), 5);
    let place = window_of(block_on(blobs.locate(&fifth)).unwrap());
    for is_killed in [true, false] {
        block_on(async {
            for (name, blob) in [(key(1), &named), (key(2), &pieces), (by_hash, &hashed)] {
                assert!(blobs.get(&name).await.unwrap().as_ref() == Some(blob));
                for (from, most) in [
                    (0, 1),
                    (PART - 1, 2),
                    (PART - 5000, 2 * PART),
                    (PART, PART),
                    (3, blob.len() - 3),
                    (blob.len() - 1, 9),
                    (blob.len(), 9),
                ] {
                    let expected = &blob[from..(from + most).min(blob.len())];
                    let part = blobs.get_range(&name, from as u64, most as u64).await;
                    assert!(part.unwrap().unwrap() == expected, "{from} {most}");
                    let memory = vec![0xee; most];
                    let (memory, filled) = blobs.get_into(&name, from as u64, memory).await;
                    assert_eq!(filled.unwrap(), Some(expected.len() as u64));
                    assert!(memory[..expected.len()] == *expected, "{from} {most}");
                }
            }
        });
        // A part's window is read as any other, at the same address.
        assert_eq!(window_of(block_on(blobs.locate(&fifth)).unwrap()), place);
        let first = read(&raw, place.position.0, 1).unwrap();
        assert!(first == pieces[5 * PART..][..BLOCK]);
        assert!(
            !block_on(blobs.delete(&fifth)).unwrap(),
            "it is no blob of anybody's"
        );
        node = node.again(is_killed);
    }
    block_on(async {
        for name in [key(1), key(2), by_hash, key(3)] {
            assert!(blobs.delete(&name).await.unwrap());
            assert!(!blobs.delete(&name).await.unwrap());
            assert_eq!(blobs.get(&name).await.unwrap(), None);
        }
        until_empty(&blobs).await;
    });
    drop((raw, blobs));
    controller.close();
    node.end();
}

// ---- Commands by hand ---------------------------------------------------------------------------

fn begin(raw: &Namespace, key: Key) -> Begun {
    let (answer, result) = raw
        .vendor(&Command::Begin { key }, vec![0xee; BEGUN_BYTES])
        .wait();
    result.unwrap();
    Begun::decode(&answer).unwrap()
}

fn reserve_part(raw: &Namespace, of: PartOf, bytes: usize) -> Result<Position, CommandError> {
    let length = Length::new(bytes as u64).unwrap();
    let part = Some(of);
    let command = Command::Reserve { length, part };
    let (answer, result) = raw.vendor(&command, vec![0; WINDOW_BYTES]).wait();
    result.map(|_| Window::decode(&answer).unwrap().position)
}

/// Writes a part into a window of its own.
fn written(raw: &Namespace, of: PartOf, bytes: &[u8]) -> Position {
    let position = reserve_part(raw, of, bytes.len()).unwrap();
    let mut blocks = bytes.to_vec();
    blocks.resize(bytes.len().next_multiple_of(BLOCK), 0);
    write(raw, position.0, blocks).unwrap();
    position
}

fn part(of: PartOf, position: Position, bytes: usize) -> Part {
    Part {
        of,
        position,
        length: bytes as u32,
        checksum: None,
        kind: KeyKind::Name,
    }
}

fn put_part(raw: &Namespace, part: Part) -> Result<u32, CommandError> {
    send(raw, &Command::Part(part), vec![])
}

fn finish(raw: &Namespace, put: PutId, bytes: usize, kind: KeyKind) -> Result<u32, CommandError> {
    let length = Length::new(bytes as u64).unwrap();
    send(raw, &Command::Finish { put, length, kind }, vec![])
}

#[test]
fn parts_that_are_no_blob_are_refused() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let (controller, other) = (node.connect(OPEN), node.connect(CLOSED));
    let (raw, theirs) = (namespace(&controller), namespace(&other));
    let blobs = blobs(&controller);
    let bytes = content(1, 2 * PART + 5000);
    let begun = begin(&raw, key(1));
    let (put, part_bytes) = (begun.put, begun.part_bytes);
    assert_eq!((part_bytes, begun.time_left_ms > 0), (PART as u64, true));
    let of = |number| PartOf { put, number };
    let hold = |raw: &Namespace, put, is_over| send(raw, &Command::Hold { put, is_over }, vec![]);

    // Another realm knows nothing of it, nor anybody of one that was never begun.
    let stranger = PutId(put.0 ^ 1);
    for (who, put) in [(&theirs, put), (&raw, stranger)] {
        let of = PartOf { put, number: 0 };
        assert_eq!(status(reserve_part(who, of, 100)), Status::NoSuchPut);
        let part = part(of, Position(4096), 100);
        assert_eq!(status(put_part(who, part)), Status::NoSuchPut);
        assert_eq!(
            status(finish(who, put, 3 * PART, KeyKind::Name)),
            Status::NoSuchPut
        );
        assert_eq!(status(hold(who, put, true)), Status::NoSuchPut);
    }
    // Windows that are no part's: longer than a part, not written, not all written, of other bytes, nobody's.
    assert_eq!(
        status(reserve_part(&raw, of(0), PART + 1)),
        Status::OtherParts
    );
    let window = reserve_part(&raw, of(0), PART).unwrap();
    assert_eq!(
        status(put_part(&raw, part(of(0), window, PART))),
        Status::NotWritten
    );
    write(&raw, window.0, bytes[..PART].to_vec()).unwrap();
    let wrong = Part {
        checksum: Some(1),
        ..part(of(0), window, PART)
    };
    assert_eq!(status(put_part(&raw, wrong)), Status::OtherChecksum);
    assert_eq!(
        status(put_part(&raw, part(of(0), window, PART + 1))),
        Status::OtherParts
    );
    let nowhere = Position(window.0 + 1);
    assert_eq!(
        status(put_part(&raw, part(of(0), nowhere, 9))),
        Status::NotReserved
    );
    let right = Part {
        checksum: Some(crc32c::crc32c(&bytes[..PART])),
        ..part(of(0), window, PART)
    };
    assert_eq!(put_part(&raw, right).unwrap(), 1);
    // Its window is not to be written or committed again, and a part that is there stays as it is.
    assert_eq!(
        status(write(&raw, window.0, vec![0; BLOCK])),
        Status::AccessDenied
    );
    let theft = commit(&raw, &[(blob(7, PART, None), window)]);
    assert_eq!(failed_at(theft), (Status::NotReserved, 0));
    let again = written(&raw, of(0), &content(9, 100));
    assert_eq!(put_part(&raw, part(of(0), again, 100)).unwrap(), 0);

    // Manifests of what is not there: of one part, of parts that are missing, shorter, or more.
    let refused = |bytes: usize, why: &str| {
        let found = status(finish(&raw, put, bytes, KeyKind::Name));
        assert_eq!(found, Status::OtherParts, "{why}");
        assert_eq!(block_on(blobs.locate(&key(1))).unwrap(), None, "{why}");
    };
    refused(PART, "it is one part");
    refused(bytes.len(), "two parts are missing");
    let third = written(&raw, of(2), &bytes[2 * PART..]);
    assert_eq!(put_part(&raw, part(of(2), third, 5000)).unwrap(), 1);
    refused(bytes.len(), "the middle is missing");
    let second = written(&raw, of(1), &bytes[PART..2 * PART]);
    assert_eq!(put_part(&raw, part(of(1), second, PART)).unwrap(), 1);
    refused(bytes.len() - 1, "the last part is longer");
    refused(bytes.len() + 1, "the last part is shorter");
    refused(2 * PART, "there is one more");
    refused(3 * PART + 1, "there is one less");
    refused((1 << 36) - 1, "there are many less");
    assert_eq!(list_of(&blobs), []);
    assert_eq!(finish(&raw, put, bytes.len(), KeyKind::Name).unwrap(), 1);
    assert!(block_on(blobs.get(&key(1))).unwrap() == Some(bytes.clone()));
    // That was its end.
    assert_eq!(
        status(finish(&raw, put, bytes.len(), KeyKind::Name)),
        Status::NoSuchPut
    );
    assert_eq!(
        status(put_part(&raw, part(of(3), third, 5000))),
        Status::NoSuchPut
    );

    // Two puts under one key have no part in common: the first to finish wins, and takes nothing from the other.
    let (winner, loser) = (begin(&raw, key(2)).put, begin(&raw, key(2)).put);
    for (put, seed) in [(winner, 3), (loser, 4)] {
        for number in 0..2 {
            let of = PartOf { put, number };
            let window = written(&raw, of, &content(seed, PART));
            assert_eq!(put_part(&raw, part(of, window, PART)).unwrap(), 1);
        }
    }
    assert_eq!(finish(&raw, winner, 2 * PART, KeyKind::Name).unwrap(), 1);
    assert_eq!(finish(&raw, loser, 2 * PART, KeyKind::Name).unwrap(), 0);
    let two = [content(3, PART), content(3, PART)].concat();
    assert!(block_on(blobs.get(&key(2))).unwrap() == Some(two));

    // Content: the hash of all parts, and nothing but parts of content.
    for (name, kind, expected) in [
        (content_key(&bytes), KeyKind::Name, Status::OtherParts),
        (key(4), KeyKind::Content, Status::OtherContent),
    ] {
        let put = begin(&raw, name).put;
        for (number, bytes) in (0..).zip(bytes.chunks(PART)) {
            let of = PartOf { put, number };
            let window = written(&raw, of, bytes);
            let part = part(of, window, bytes.len());
            assert_eq!(put_part(&raw, Part { kind, ..part }).unwrap(), 1);
        }
        let ended = finish(&raw, put, bytes.len(), KeyKind::Content);
        assert_eq!(status(ended), expected);
        assert_eq!(status(hold(&raw, put, false)), Status::NoSuchPut);
    }
    // One that is given up is gone at once.
    let put = begin(&raw, key(5)).put;
    let of_it = PartOf { put, number: 0 };
    let window = written(&raw, of_it, &bytes[..PART]);
    assert_eq!(put_part(&raw, part(of_it, window, PART)).unwrap(), 1);
    assert_eq!(hold(&raw, put, false).unwrap(), 0);
    assert_eq!(hold(&raw, put, true).unwrap(), 0);
    assert_eq!(
        status(put_part(&raw, part(of_it, window, PART))),
        Status::NoSuchPut
    );
    assert_eq!(list_of(&blobs), [key(1), key(2)]);
    for name in [key(1), key(2)] {
        assert!(block_on(blobs.delete(&name)).unwrap());
    }
    block_on(until_empty(&blobs));
    drop((raw, theirs, blobs));
    controller.close();
    other.close();
    node.end();
}

fn list_of(blobs: &Blobs<Namespace>) -> Vec<Key> {
    block_on(list(blobs, &[])).into_keys().collect()
}

/// Of a put whose node was killed, or whose host has gone, nothing is seen and nothing stays; of one under way all does.
#[test]
fn what_a_put_that_was_cut_off_has_left_is_taken_away() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start_with(Duration::from_secs(5));
    let controller = node.connect(OPEN);
    let raw = namespace(&controller);
    let blobs = blobs(&controller);
    let bytes = content(1, 3 * PART);
    block_on(async {
        let mut put = blobs.put_stream(key(1), KeyKind::Name);
        put.write(&bytes).await.unwrap();
        put.settle().await.unwrap();
        assert_eq!(blobs.locate(&key(1)).await.unwrap(), None);
        let stat = blobs.stat().await.unwrap();
        assert_eq!((stat.realm_blobs, stat.reservations), (2, 0));
        drop(put);
        until_empty(&blobs).await;
    });
    let begun = begin(&raw, key(2)).put;
    let of = PartOf {
        put: begun,
        number: 0,
    };
    let window = written(&raw, of, &bytes[..PART]);
    assert_eq!(put_part(&raw, part(of, window, PART)).unwrap(), 1);
    let node = node.again(true);
    assert_eq!(
        status(finish(&raw, begun, 2 * PART, KeyKind::Name)),
        Status::NoSuchPut
    );
    assert_eq!(block_on(blobs.locate(&key(2))).unwrap(), None);
    block_on(until_empty(&blobs));

    // Sweeps go on while one is under way, and leave it alone.
    block_on(async {
        let mut put = blobs.put_stream(key(3), KeyKind::Name);
        put.write(&bytes).await.unwrap();
        put.settle().await.unwrap();
        for _ in 0..3 {
            let mut other = blobs.put_stream(key(4), KeyKind::Name);
            other.write(&bytes).await.unwrap();
            other.give_up().await;
            put.keep().await.unwrap();
        }
        assert_eq!(put.finish().await.unwrap(), Put::Created);
        assert!(blobs.get(&key(3)).await.unwrap() == Some(bytes));
        assert_eq!(blobs.stat().await.unwrap().realm_blobs, 4);
    });
    drop((raw, blobs));
    controller.close();
    node.end();
}
