//! The index does what a plain map does, whatever is done to it and in whatever order.

#![allow(clippy::unwrap_used)] // The helpers of a test are a test.

mod index_support;

use std::collections::HashMap;

use index_support::{entry, in_memory, key, spec};
use oriel_dht::index::{
    Entry, Fingerprint, Flags, Heat, Index, IndexSize, InsertError, Length, Position, ReplaceError,
    Verification, Writer,
};
use oriel_dht::region::{Existing, Place, Region, SectionKind};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, u64),
    Remove(u64),
    RemoveAt(u64, u64),
    Replace(u64, u64, u64),
    Get(u64),
    Batch(u64),
    /// From this position on, so many, in steps of so many lines with inserts in between.
    Clear(u64, u64, u64),
    /// Closes the region and adopts it; so many lines are verified before it goes on.
    Restart(u64),
}

/// Few keys, so that steps meet; positions in a small range, so that slabs have several entries.
fn steps(keys: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..keys, 0..1000_u64).prop_map(|(key, to)| Step::Insert(key, to)),
        3 => (0..keys).prop_map(Step::Remove),
        1 => (0..keys, 0..1000_u64).prop_map(|(key, at)| Step::RemoveAt(key, at)),
        3 => (0..keys, 0..1000_u64, 0..1000_u64).prop_map(|(key, at, to)| Step::Replace(key, at, to)),
        3 => (0..keys).prop_map(Step::Get),
        1 => (0..keys).prop_map(Step::Batch),
        1 => (0..1000_u64, 1..200_u64, 100..2000_u64).prop_map(|(from, many, lines)| Step::Clear(from, many, lines)),
        1 => (0..200_u64).prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..400)
}

struct Subject {
    folder: tempfile::TempDir,
    region: Option<Region>,
    index: Option<Index>,
    writers: Vec<Writer>,
}

impl Subject {
    fn place(&self) -> Place {
        Place::Path(self.folder.path().join("region"))
    }

    fn new(size: IndexSize) -> Self {
        let mut subject = Self {
            folder: tempfile::tempdir().expect("a folder"),
            region: None,
            index: None,
            writers: Vec::new(),
        };
        let region = Region::create(&subject.place(), &[spec(&size)], Existing::Keep).unwrap();
        let section = region.section(SectionKind::INDEX, 1).unwrap();
        let (index, writers) = Index::create(section, &size).unwrap();
        subject.index = Some(index);
        subject.writers = writers;
        subject.region = Some(region);
        subject
    }

    fn restart(&mut self) {
        let index = self.index.take().unwrap();
        index.close(std::mem::take(&mut self.writers)).unwrap();
        self.region.take().unwrap().close().unwrap();
        let region = Region::open(&self.place()).unwrap();
        let section = region.section(SectionKind::INDEX, 1).unwrap();
        let (index, writers) = Index::adopt(section).unwrap();
        self.index = Some(index);
        self.writers = writers;
        self.region = Some(region);
    }

    fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    fn writer(&mut self, key: Fingerprint) -> &mut Writer {
        let partition = self.index().partition_of(key) as usize;
        &mut self.writers[partition]
    }
}

fn apply(subject: &mut Subject, model: &mut HashMap<Fingerprint, Entry>, step: &Step) {
    match *step {
        Step::Insert(number, to) => {
            let (key, given) = (key(number), entry(to));
            match subject.writer(key).insert(key, given) {
                Ok(()) => assert_eq!(model.insert(key, given), None),
                Err(InsertError::Present {
                    present,
                    given: back,
                }) => {
                    assert_eq!((Some(&present), back), (model.get(&key), given));
                }
                Err(other) => panic!("{other}"),
            }
        }
        Step::Remove(number) => {
            let key = key(number);
            assert_eq!(subject.writer(key).remove(key), model.remove(&key));
        }
        Step::RemoveAt(number, at) => {
            let (key, expected) = (key(number), entry(at).position);
            let removed = subject.writer(key).remove_if_unchanged(key, expected);
            let there = model.get(&key).copied();
            assert_eq!(removed, there.filter(|there| there.position == expected));
            if removed.is_some() {
                model.remove(&key);
            }
        }
        Step::Replace(number, at, to) => {
            let (key, expected, given) = (key(number), entry(at).position, entry(to));
            let there = model.get(&key).copied();
            match subject
                .writer(key)
                .replace_if_unchanged(key, expected, given)
            {
                Ok(old) => {
                    assert_eq!((Some(old), old.position), (there, expected));
                    model.insert(key, given);
                }
                Err(ReplaceError::Absent { given: back }) => {
                    assert_eq!((there, back), (None, given));
                }
                Err(ReplaceError::Changed {
                    present,
                    given: back,
                }) => {
                    assert_eq!((there, back), (Some(present), given));
                    assert_ne!(present.position, expected);
                }
                Err(other) => panic!("{other}"),
            }
        }
        Step::Get(number) => {
            let key = key(number);
            assert_eq!(subject.index().get(key), model.get(&key).copied());
        }
        Step::Batch(first) => {
            let keys: Vec<_> = (first..first + 75).map(key).collect();
            let mut found = vec![Some(entry(1)); 80];
            subject.index().get_batch(&keys, &mut found);
            for (key, found) in keys.iter().zip(&found) {
                assert_eq!(found, &model.get(key).copied());
            }
            assert_eq!(
                found[75..],
                [Some(entry(1)); 5],
                "beyond the keys nothing is written"
            );
        }
        Step::Clear(from, many, lines) => {
            let range = entry(from).position..entry(from + many).position;
            for writer in &mut subject.writers {
                writer.begin_clear(range.clone());
            }
            // What is inserted meanwhile moves entries about, some of them behind the clearing.
            let mut number = from + 1_000_000;
            loop {
                let mut done = true;
                for writer in &mut subject.writers {
                    done &= writer.clear_step(lines);
                }
                if done {
                    break;
                }
                for _ in 0..3 {
                    let (key, given) = (key(number), entry(from + many + 1 + number % 7));
                    if subject.writer(key).insert(key, given).is_ok() {
                        model.insert(key, given);
                    }
                    number += 1;
                }
            }
            model.retain(|_, entry| !range.contains(&entry.position));
        }
        Step::Restart(lines) => {
            subject.restart();
            for writer in &mut subject.writers {
                assert_ne!(writer.verify_step(lines), Verification::Damaged);
            }
        }
    }
}

fn compare(subject: &mut Subject, model: &HashMap<Fingerprint, Entry>) {
    assert_eq!(subject.index().entries(), model.len() as u64);
    let mut scanned = HashMap::new();
    for writer in &subject.writers {
        writer.scan(|key, entry, _| assert_eq!(scanned.insert(key, entry), None));
    }
    assert_eq!(&scanned, model);
    for (key, entry) in model {
        assert_eq!(subject.index().get(*key), Some(*entry));
    }
    for writer in &mut subject.writers {
        while writer.verify_step(50) == Verification::Unfinished {}
        assert_eq!(writer.verify_step(1), Verification::Sound);
    }
    assert!(!subject.index().is_damaged());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_steps_leave_what_a_map_would_have(
        before in 0..4000_u64, steps in steps(4000), partitions in 0..3_u32,
    ) {
        let size = IndexSize { partitions: 1 << partitions, entries: 0, entries_max: 20_000 };
        let (mut subject, mut model) = (Subject::new(size), HashMap::new());
        // So many that most cases begin in the middle of growing.
        for number in 0..before {
            apply(&mut subject, &mut model, &Step::Insert(number, number % 1000));
        }
        for step in &steps {
            apply(&mut subject, &mut model, step);
        }
        compare(&mut subject, &model);
        subject.restart();
        compare(&mut subject, &model);
    }
}

/// Keys that differ in any one bit are different keys, those of all zeros and all ones among them.
#[test]
fn no_bit_of_a_key_is_ignored() {
    let (index, mut writers) = in_memory(IndexSize {
        partitions: 1,
        entries: 0,
        entries_max: 2000,
    });
    let mut keys = Vec::new();
    for base in [[0; 16], [0xff; 16], key(1).to_bytes()] {
        keys.push(Fingerprint::from_bytes(base));
        for bit in 0..128 {
            let mut bytes = base;
            bytes[bit / 8] ^= 1 << (bit % 8);
            keys.push(Fingerprint::from_bytes(bytes));
        }
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(index.get(*key), None);
        writers[0].insert(*key, entry(at as u64)).unwrap();
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(index.get(*key), Some(entry(at as u64)));
        assert_eq!(Fingerprint::from_bytes(key.to_bytes()), *key);
    }
}

#[test]
fn entries_keep_every_value_of_every_field() {
    let (index, mut writers) = in_memory(IndexSize {
        partitions: 1,
        entries: 0,
        entries_max: 2000,
    });
    let mut number = 0;
    for position in [0, 1, (1 << 50) - 1] {
        for length in [0, 1, u32::MAX.into(), 1 << 32, (1 << 36) - 1] {
            for flags in [0, 1, 0x80, 0xff] {
                let entry = Entry {
                    position: Position::new(position).unwrap(),
                    length: Length::new(length).unwrap(),
                    flags: Flags(flags),
                };
                writers[0].insert(key(number), entry).unwrap();
                assert_eq!(index.get(key(number)), Some(entry));
                number += 1;
            }
        }
    }
    assert_eq!(Position::new(1 << 50), None);
    assert_eq!(Length::new(1 << 36), None);
}

#[test]
fn heat_counts_up_to_its_end_moves_with_its_entry_and_cools() {
    let (index, mut writers) = in_memory(IndexSize {
        partitions: 1,
        entries: 0,
        entries_max: 5000,
    });
    let writer = &mut writers[0];
    for number in 0..100 {
        writer.insert(key(number), entry(number)).unwrap();
        for _ in 0..number {
            assert_eq!(index.get_and_touch(key(number)), Some(entry(number)));
        }
    }
    // Growing and making room moves them about.
    for number in 100..4000 {
        writer.insert(key(number), entry(number)).unwrap();
    }
    for number in 0..4000_u64 {
        let heat = if number < 100 {
            number.min(15) as u8
        } else {
            0
        };
        assert_eq!(index.heat(key(number)), Some(Heat(heat)), "{number}");
    }
    let (mut line, mut shown) = (0, HashMap::new());
    loop {
        line = writer.cool(line, 100, |key, _, heat| {
            shown.insert(key, heat);
        });
        if line == 0 {
            break;
        }
    }
    assert_eq!(shown.len(), 4000);
    for number in 0..100_u64 {
        assert_eq!(shown[&key(number)], Heat(number.min(15) as u8 / 2));
    }
    // A place that is taken again starts cold.
    writer.remove(key(50)).unwrap();
    writer.insert(key(50), entry(50)).unwrap();
    assert_eq!(index.heat(key(50)), Some(Heat(0)));
}
