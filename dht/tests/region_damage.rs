//! Bytes of a region are changed at random, or cut off: the damage is found before anything wrong is answered for
//! good, or it does no harm.

#![allow(clippy::unwrap_used)]

mod index_support;

use std::fs;
use std::path::Path;

use index_support::{entry, key, spec};
use oriel_dht::index::{AdoptError, Index, IndexSize, Verification};
use oriel_dht::region::{Existing, History, Place, Region, SectionKind};
use proptest::prelude::*;

const ENTRIES: u64 = 3000;
const SIZE: IndexSize = IndexSize {
    partitions: 2,
    entries: 0,
    entries_max: 4000,
};

/// A region with entries, after growing, closed.
fn build(path: &Path) -> Vec<u8> {
    let place = Place::Path(path.to_path_buf());
    let region = Region::create(&place, &[spec(&SIZE)], Existing::Replace).unwrap();
    let section = region.section(SectionKind::INDEX, 1).unwrap();
    let (index, mut writers) = Index::create(section, &SIZE).unwrap();
    for number in 0..ENTRIES {
        let partition = index.partition_of(key(number)) as usize;
        writers[partition]
            .insert(key(number), entry(number))
            .unwrap();
    }
    index.close(writers).unwrap();
    region.close().unwrap();
    fs::read(path).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Found,
    Harmless,
}

/// Opens, adopts and verifies. What is answered until then is right or nothing; what is believed in the end is right
/// in everything.
fn examine(path: &Path) -> Outcome {
    let Ok(region) = Region::open(&Place::Path(path.to_path_buf())) else {
        return Outcome::Found;
    };
    if region.history() != History::Clean {
        return Outcome::Found;
    }
    let Ok(section) = region.section(SectionKind::INDEX, 1) else {
        return Outcome::Found;
    };
    let Ok((index, mut writers)) = Index::adopt(section) else {
        return Outcome::Found;
    };
    for number in (0..ENTRIES + 500).step_by(7) {
        if let Some(found) = index.get(key(number)) {
            assert!(
                number < ENTRIES && found == entry(number),
                "{number}: {found:?}"
            );
        }
    }
    for writer in &mut writers {
        loop {
            match writer.verify_step(500) {
                Verification::Unfinished => {}
                Verification::Sound => break,
                Verification::Damaged => {
                    assert!(index.is_damaged());
                    assert!(
                        index.close(writers).is_err(),
                        "damage was closed as if it were good"
                    );
                    return Outcome::Found;
                }
            }
        }
    }
    assert!(index.is_verified() && !index.is_damaged());
    assert_eq!(index.entries(), ENTRIES);
    for number in 0..ENTRIES + 500 {
        let expected = (number < ENTRIES).then(|| entry(number));
        assert_eq!(index.get(key(number)), expected, "{number}");
    }
    Outcome::Harmless
}

/// Where most of the bytes that mean something are: the header, the start of the section, its tables.
fn places(bytes: usize) -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0..4096_usize,
        1 => (2 << 20)..(2 << 20) + 4096_usize,
        3 => (2 << 20)..bytes,
        1 => 0..bytes,
    ]
}

#[test]
fn damage_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let good = build(&path);
    let used = (2 << 20) + SIZE.section_bytes().unwrap() as usize;
    assert_eq!(examine(&path), Outcome::Harmless);
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let changes = proptest::collection::vec((places(used), 1..=255_u8, 1..200_usize), 1..4);
    let mut outcomes = [0, 0];
    let seen = std::cell::RefCell::new(&mut outcomes);
    let result = proptest::test_runner::TestRunner::new(config).run(&changes, |changes| {
        let mut bytes = good.clone();
        for (at, with, many) in changes {
            let end = (at + many).min(bytes.len());
            // One byte, or a run of them as a lost or misplaced write leaves.
            let end = if many % 2 == 0 { at + 1 } else { end };
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= with);
        }
        fs::write(&path, &bytes).unwrap();
        let outcome = examine(&path);
        seen.borrow_mut()[usize::from(outcome == Outcome::Found)] += 1;
        Ok(())
    });
    result.unwrap();
    let [harmless, found] = outcomes;
    assert!(
        harmless > 10 && found > 50,
        "{harmless} harmless, {found} found: the cases prove little"
    );
}

#[test]
fn lines_that_are_old_lost_swapped_or_double_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let good = build(&path);
    let used = (2 << 20) + SIZE.section_bytes().unwrap() as usize;
    // The last 1024 lines of the section are the second partition's, more than half of them taken.
    let lines: Vec<usize> = (used - 1024 * 64..used).step_by(64).collect();
    let full = |at: &&usize| good[**at + 8..**at + 64].iter().any(|byte| *byte != 0);
    let taken: Vec<usize> = lines.iter().filter(full).copied().collect();
    assert!(taken.len() > 300, "{}", taken.len());
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for pair in taken.chunks_exact(2).step_by(20) {
        let (a, b) = (pair[0], pair[1]);
        let mut lost = good.clone();
        lost[a..a + 64].fill(0);
        cases.push(lost);
        let mut swapped = good.clone();
        swapped.copy_within(a..a + 64, b);
        swapped[a..a + 64].copy_from_slice(&good[b..b + 64]);
        cases.push(swapped);
        let mut double = good.clone();
        double.copy_within(a..a + 64, b);
        cases.push(double);
    }
    for (at, case) in cases.iter().enumerate() {
        fs::write(&path, case).unwrap();
        assert_eq!(examine(&path), Outcome::Found, "case {at}");
    }
    // A line as it was before its last change, checksum and all.
    let place = Place::Path(path.clone());
    fs::write(&path, &good).unwrap();
    let region = Region::open(&place).unwrap();
    let (index, mut writers) =
        Index::adopt(region.section(SectionKind::INDEX, 1).unwrap()).unwrap();
    let partition = index.partition_of(key(5)) as usize;
    let expected = entry(5).position;
    writers[partition]
        .replace_if_unchanged(key(5), expected, entry(900_000))
        .unwrap();
    index.close(writers).unwrap();
    region.close().unwrap();
    let mut stale = fs::read(&path).unwrap();
    let section = 2 << 20;
    let changed: Vec<usize> = (section + 4096..used)
        .step_by(64)
        .filter(|at| stale[at + 8..at + 64] != good[at + 8..at + 64] && full(&at))
        .collect();
    assert_eq!(changed.len(), 1, "one line was changed");
    stale[changed[0]..changed[0] + 64].copy_from_slice(&good[changed[0]..changed[0] + 64]);
    fs::write(&path, &stale).unwrap();
    assert_eq!(examine(&path), Outcome::Found, "an old line was believed");
}

#[test]
fn an_index_that_was_not_closed_is_not_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    build(&path);
    let place = Place::Path(path);
    // Killed while in use.
    drop(Region::open(&place).unwrap());
    let region = Region::open(&place).unwrap();
    let error = Index::adopt(region.section(SectionKind::INDEX, 1).unwrap()).unwrap_err();
    assert_eq!(error, AdoptError::NotClean);
    // Closed by someone who left the index as the killed one did.
    region.close().unwrap();
    let region = Region::open(&place).unwrap();
    let error = Index::adopt(region.section(SectionKind::INDEX, 1).unwrap()).unwrap_err();
    assert_eq!(error, AdoptError::NotClosed { partition: 0 });
}
