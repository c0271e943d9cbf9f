//! Readers on other threads while writers are at their fastest: growing, moving, replacing, clearing.

#![allow(clippy::unwrap_used)]

mod index_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use index_support::{entry, in_memory, key, mix};
use oriel_dht::index::{Index, IndexSize, Writer};

/// Kept all the time, replaced now and then: each has to be found, whole, at any moment.
const KEPT: u64 = 1000;
/// Come and go around them.
const PASSING: u64 = 4000;
/// Of a kept key, the positions that it may be at; disjoint from those of others.
const STRIDE: u64 = 1 << 20;

fn writer_of<'a>(index: &Index, writers: &'a mut [Writer], number: u64) -> &'a mut Writer {
    &mut writers[index.partition_of(key(number)) as usize]
}

fn read(index: &Index, stop: &AtomicBool, reads: &AtomicU64, seed: u64) {
    let mut at = seed;
    let mut batch = Vec::new();
    let mut found = [None; 32];
    while !stop.load(Ordering::Relaxed) {
        at = mix(at);
        let number = at % KEPT;
        let there = if at & 1 << 40 == 0 {
            index.get(key(number))
        } else {
            index.get_and_touch(key(number))
        };
        let there = there.unwrap_or_else(|| panic!("key {number} was missed"));
        assert_eq!(
            there.position.block() / STRIDE,
            number,
            "another key's entry"
        );
        assert_eq!(there, entry(there.position.block()), "a torn entry");
        let passing = KEPT + at % PASSING;
        if let Some(there) = index.get(key(passing)) {
            assert_eq!(there, entry(passing * STRIDE), "a torn entry");
        }
        assert_eq!(
            index.get(key(at | 1 << 63)),
            None,
            "an answer for a key that never was"
        );
        if at.is_multiple_of(64) {
            batch.clear();
            batch.extend((0..32).map(|more| key((number + more) % KEPT)));
            index.get_batch(&batch, &mut found);
            for (more, there) in found.iter().enumerate() {
                let there = there.expect("a kept key was missed by a batch");
                assert_eq!(
                    there.position.block() / STRIDE,
                    (number + more as u64) % KEPT
                );
                assert_eq!(there, entry(there.position.block()), "a torn entry");
            }
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

fn write(index: &Index, writers: &mut [Writer], rounds: u64) {
    let mut version = vec![0; KEPT as usize];
    for round in 0..rounds {
        for number in KEPT..KEPT + PASSING {
            let writer = writer_of(index, writers, number);
            writer.insert(key(number), entry(number * STRIDE)).unwrap();
            let kept = mix(number ^ round << 32) % KEPT;
            let now = &mut version[kept as usize];
            let from = entry(kept * STRIDE + *now).position;
            *now = (*now + 1) % STRIDE;
            let to = entry(kept * STRIDE + *now);
            let writer = writer_of(index, writers, kept);
            writer.replace_if_unchanged(key(kept), from, to).unwrap();
        }
        if round % 2 == 0 {
            for number in KEPT..KEPT + PASSING {
                writer_of(index, writers, number)
                    .remove(key(number))
                    .unwrap();
            }
        } else {
            for writer in &mut *writers {
                let range =
                    entry(KEPT * STRIDE).position..entry((KEPT + PASSING) * STRIDE).position;
                writer.begin_clear(range);
                while !writer.clear_step(100) {}
            }
        }
        assert_eq!(index.entries(), KEPT);
    }
}

#[test]
fn no_reader_misses_a_key_or_sees_half_of_an_entry() {
    for partitions in [1, 4] {
        // Some rounds while it grows, some when it is as full as it gets.
        let (index, mut writers) = in_memory(IndexSize {
            partitions,
            entries: 0,
            entries_max: 5000,
        });
        for number in 0..KEPT {
            let writer = writer_of(&index, &mut writers, number);
            writer.insert(key(number), entry(number * STRIDE)).unwrap();
        }
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let reader = |seed| {
                let (index, stop, reads) = (&index, &stop, &reads);
                scope.spawn(move || read(index, stop, reads, seed))
            };
            let readers: Vec<_> = (0..3).map(reader).collect();
            // Whatever the writer's fate, the readers end.
            struct Stop<'a>(&'a AtomicBool);
            impl Drop for Stop<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let stop = Stop(&stop);
            let mut rounds = 0;
            // Until the readers have seen a good deal, however the cores are shared.
            while rounds < 4 || reads.load(Ordering::Relaxed) < 20_000 {
                write(&index, &mut writers, 2);
                rounds += 2;
                for number in 0..KEPT {
                    let there = index.get(key(number)).unwrap();
                    writer_of(&index, &mut writers, number)
                        .replace_if_unchanged(key(number), there.position, entry(number * STRIDE))
                        .unwrap();
                }
            }
            drop(stop);
            // Joined one by one, which ThreadSanitizer sees, as it does not see a scope's own waiting.
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
}
