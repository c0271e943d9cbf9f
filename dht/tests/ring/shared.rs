//! A table in memory that one thread writes and others read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cluster::{racks, settled, spec};
use oriel_dht::ring::{
    Epoch, LineError, PartitionId, Partitions, Ring, SharedError, SharedTable, Spread, Table,
    build, shared_words,
};

const SPREAD: Spread = Spread {
    node: 1,
    rack: 2,
    zone: 6,
};

fn memory(partitions: Partitions) -> Vec<AtomicU64> {
    (0..shared_words(partitions))
        .map(|_| AtomicU64::new(0))
        .collect()
}

/// Epochs of a ring: nodes come and go.
fn history(length: usize) -> Vec<Ring> {
    let all = racks(40, 2);
    let mut rings = vec![build(spec(1024, 6, SPREAD), &all[..20], None).unwrap().ring];
    while rings.len() < length {
        let last = rings.last().unwrap();
        let from = rings.len() % 20;
        let built = build(last.spec(), &all[from..from + 20], Some(last)).unwrap();
        rings.push(settled(&built.ring));
        rings.push(settled(&built.ring));
        let last = rings.len() - 2;
        rings[last] = built.ring;
    }
    rings
}

#[test]
fn what_is_published_is_read_and_only_changes_are_written() {
    let rings = history(3);
    let words = memory(rings[0].partitions());
    let table = SharedTable::new(&words, rings[0].partitions()).unwrap();
    assert!(matches!(table.verify(), Err(LineError::Checksum { .. })));
    assert_eq!(table.publish(&rings[0]), Ok(1024));
    assert_eq!(table.publish(&rings[0]), Ok(0));
    let changed = rings[1]
        .lines()
        .iter()
        .filter(|line| line.epoch() == Epoch(2))
        .count();
    assert_eq!(table.publish(&rings[1]), Ok(changed));
    assert!(changed > 0 && changed < 1024);
    assert_eq!(table.verify(), Ok(()));
    for partition in rings[1].partitions().iter() {
        assert_eq!(table.line(partition), rings[1].line(partition));
    }
    assert!(matches!(
        table.line(PartitionId(1024)),
        Err(LineError::NoPartition { .. })
    ));
    let older = table.publish(&rings[0]).unwrap_err();
    assert!(
        matches!(
            older,
            SharedError::Later {
                found: Epoch(2),
                ..
            }
        ),
        "{older}"
    );
}

#[test]
fn memory_of_another_size_is_refused() {
    let partitions = Partitions::new(1024).unwrap();
    let words = memory(partitions);
    let short = SharedTable::new(&words[1..], partitions).unwrap_err();
    assert_eq!(
        short.to_string(),
        "8191 words of memory for a table of 1024 partitions, which takes 8192"
    );
    let table = SharedTable::new(&words, partitions).unwrap();
    let other = build(spec(2048, 6, SPREAD), &racks(6, 1), None)
        .unwrap()
        .ring;
    assert!(matches!(
        table.publish(&other),
        Err(SharedError::Partitions { .. })
    ));
}

#[test]
fn a_line_whose_writer_died_is_reported_and_mended_by_the_next() {
    let rings = history(1);
    let words = memory(rings[0].partitions());
    let table = SharedTable::new(&words, rings[0].partitions()).unwrap();
    table.publish(&rings[0]).unwrap();
    words[8 * 7].store(u64::MAX, Ordering::Relaxed);
    words[8 * 7 + 3].store(1, Ordering::Relaxed);
    words[8 * 9 + 3].fetch_xor(1 << 40, Ordering::Relaxed);
    assert_eq!(
        table.line(PartitionId(7)),
        Err(LineError::Locked {
            partition: PartitionId(7)
        })
    );
    assert!(matches!(
        table.line(PartitionId(9)),
        Err(LineError::Checksum { .. })
    ));
    assert_eq!(table.publish(&rings[0]), Ok(2));
    assert_eq!(table.verify(), Ok(()));
}

#[test]
fn readers_see_whole_lines_that_never_get_older() {
    let rings = history(41);
    let words = memory(rings[0].partitions());
    let table = SharedTable::new(&words, rings[0].partitions()).unwrap();
    table.publish(&rings[0]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            let mut last = vec![Epoch(0); 1024];
            let mut seen = std::collections::HashSet::new();
            // At least once, however late the thread begins.
            loop {
                let is_last = stop.load(Ordering::Relaxed);
                for partition in table.partitions().iter() {
                    let line = table.line(partition).expect("a whole line");
                    assert!(line.epoch() >= last[partition.index()]);
                    last[partition.index()] = line.epoch();
                    let ring = &rings[line.epoch().0 as usize - 1];
                    assert_eq!(Ok(line), ring.line(partition), "a line that nobody wrote");
                    seen.insert(line.epoch());
                }
                if is_last {
                    return seen.len();
                }
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for ring in &rings[1..] {
            table.publish(ring).unwrap();
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
