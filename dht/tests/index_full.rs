//! How full the index gets, what a lookup touches by then, and what a full one says.

#![allow(clippy::unwrap_used)]

mod index_support;

use index_support::{entry, in_memory, key, mix};
use oriel_dht::index::{Index, IndexSize, InsertError, Touched, rebuild};
use oriel_dht::limits::INSERT_LINES_MAX;

/// Room for this many is a power of two of lines, filled to 85 %.
const AT_85: u64 = 27_852;
const SIZE: IndexSize = IndexSize {
    partitions: 1,
    entries: AT_85,
    entries_max: AT_85,
};

/// Lines for each lookup: of keys that are there, and of keys that are not.
fn lines(index: &Index, there: impl Iterator<Item = u64>) -> (f64, f64) {
    let (mut hits, mut misses, mut count) = (Touched::default(), Touched::default(), 0);
    for number in there {
        assert!(index.get_counted(key(number), &mut hits).is_some());
        count += 1;
    }
    for number in 0..count {
        let absent = key(1 << 60 | number);
        assert!(index.get_counted(absent, &mut misses).is_none());
    }
    assert_eq!(hits.hint_lines, count);
    let each = |touched: Touched| touched.entry_lines as f64 / count as f64;
    (each(hits), each(misses))
}

fn assert_few_lines((hits, misses): (f64, f64)) {
    assert!(
        hits <= 1.1 && misses <= 1.1,
        "lines a hit {hits:.3}, lines a miss {misses:.3}"
    );
}

#[test]
fn at_85_percent_a_lookup_touches_few_lines_and_then_some_more_fit() {
    let (index, mut writers) = in_memory(SIZE);
    assert_eq!(writers[0].slots(), 32_768);
    assert_eq!(writers[0].slots_max(), 32_768);
    for number in 0..AT_85 {
        writers[0].insert(key(number), entry(number)).unwrap();
    }
    assert_few_lines(lines(&index, 0..AT_85));
    let mut number = AT_85;
    let error = loop {
        match writers[0].insert(key(number), entry(number)) {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
    };
    let full = InsertError::Full {
        given: entry(number),
        entries: number,
        slots: 32_768,
    };
    assert_eq!(error, full);
    assert!(number > 32_768 * 858 / 1000, "full with {number} entries");
    // Nothing was lost on the way to that answer, and there is room again after a removal.
    for number in 0..number {
        assert_eq!(index.get(key(number)), Some(entry(number)));
    }
    assert_eq!(index.get(key(number)), None);
    let first = key(mix(1) % number);
    writers[0].remove(first).unwrap();
    writers[0].insert(first, entry(7)).unwrap();
}

#[test]
fn hints_stay_exact_when_entries_come_and_go() {
    let (index, mut writers) = in_memory(SIZE);
    let there = AT_85 * 95 / 100;
    for number in 0..there {
        writers[0].insert(key(number), entry(number)).unwrap();
    }
    // Three times as many as there are places.
    for number in there..there + 100_000 {
        writers[0].remove(key(number - there)).unwrap();
        writers[0].insert(key(number), entry(number)).unwrap();
    }
    assert_few_lines(lines(&index, 100_000..100_000 + there));
    for number in 100_000..100_000 + there {
        writers[0].remove(key(number)).unwrap();
    }
    let mut touched = Touched::default();
    for number in 0..10_000 {
        assert_eq!(index.get_counted(key(number), &mut touched), None);
    }
    assert_eq!(touched.entry_lines, 10_000, "an empty index has hints left");
}

#[test]
fn hints_stay_exact_through_growth() {
    let (index, mut writers) = in_memory(IndexSize {
        partitions: 2,
        entries: 0,
        entries_max: 60_000,
    });
    let start = index.slots();
    for number in 0..60_000 {
        let partition = index.partition_of(key(number)) as usize;
        writers[partition]
            .insert(key(number), entry(number))
            .unwrap();
        if number % 10_000 == 9_999 {
            assert_few_lines(lines(&index, 0..=number));
            let fill = (number + 1) as f64 / index.slots() as f64;
            assert!((0.6..0.72).contains(&fill), "{fill}");
        }
    }
    assert!(index.slots() > 16 * start, "it did not grow");
}

/// The work of an insert is the lines that it looks at; its time is this times the memory's.
#[test]
fn no_insert_looks_at_many_lines_while_the_index_grows_and_when_it_is_full() {
    let (_, mut writers) = in_memory(IndexSize {
        partitions: 1,
        entries: 0,
        entries_max: 400_000,
    });
    let writer = &mut writers[0];
    let start = writer.slots();
    let (mut number, mut most, mut fullest, mut sum) = (0, 0, 0.0_f64, 0);
    loop {
        let before = writer.lines_looked_at();
        let outcome = writer.insert(key(number), entry(number));
        let looked = writer.lines_looked_at() - before;
        assert!(looked <= INSERT_LINES_MAX as u64, "{looked} lines");
        if writer.slots() == writer.slots_max() {
            // What is left is filled up, by ever longer searches.
            if outcome.is_err() {
                break;
            }
        } else {
            outcome.unwrap();
            most = most.max(looked);
            sum += looked;
            if writer.slots() > start {
                fullest = fullest.max(writer.entries() as f64 / writer.slots() as f64);
            }
        }
        number += 1;
    }
    assert!(number > 400_000 && writer.slots() > 100 * start);
    // Growing never falls behind, and takes far less than it may.
    assert!(
        fullest < 0.71,
        "{fullest} full before it was as large as it gets"
    );
    assert!(most < 700, "{most} lines in one insert");
    assert!(sum < 50 * number, "{} lines an insert", sum / number);
}

#[test]
fn several_sources_rebuild_at_once_and_the_youngest_entry_stays() {
    for (partitions, sources) in [(1, 1), (1, 3), (4, 2), (8, 5)] {
        let (index, mut writers) = in_memory(IndexSize {
            partitions,
            entries: 20_000,
            entries_max: 20_000,
        });
        // Every key in two of the sources, at two positions.
        let source = |which: u64| {
            (0..20_000_u64)
                .filter(move |number| number % sources == which || (number + 1) % sources == which)
                .map(move |number| (key(number), entry(number * 10 + which)))
        };
        let entries = rebuild(&index, &mut writers, (0..sources).map(source).collect()).unwrap();
        assert_eq!(entries, 20_000);
        assert_eq!(index.entries(), 20_000);
        for number in 0..20_000 {
            let youngest = (number % sources).max((number + 1) % sources);
            assert_eq!(index.get(key(number)), Some(entry(number * 10 + youngest)));
        }
        let more = (0..200_000_u64).map(|number| (key(number), entry(number)));
        let error = rebuild(&index, &mut writers, vec![more]).unwrap_err();
        assert!(error.to_string().contains("too small"), "{error}");
    }
}
