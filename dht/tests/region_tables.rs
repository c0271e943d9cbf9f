//! Two tables in one region on a file, the ring's lines and an index: adopted after a clean end, made anew after any other.

#![allow(clippy::unwrap_used)]

mod index_support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use index_support::{entry, key};
use oriel_dht::index::{AdoptError, Index, IndexSize, Verification, Writer};
use oriel_dht::region::{Existing, History, Place, Region, Section, SectionKind, SectionSpec};
use oriel_dht::ring::{
    Epoch, LineError, Member, PartitionId, Partitions, Ring, SharedTable, Spec, Spread, State,
    Table, build, shared_words,
};

const ENTRIES: u64 = 5000;
const SIZE: IndexSize = IndexSize {
    partitions: 2,
    entries: 0,
    entries_max: ENTRIES,
};

fn partitions() -> Partitions {
    Partitions::new(1024).unwrap()
}

fn ring(nodes: usize, last: Option<&Ring>) -> Ring {
    let spread = Spread {
        node: 1,
        rack: 6,
        zone: 6,
    };
    let member = |at: usize| Member {
        name: format!("n{at}").parse().unwrap(),
        rack: format!("r{at}").parse().unwrap(),
        zone: "z".parse().unwrap(),
        weight: 100,
        state: State::Up,
        addresses: vec![format!("tcp://10.0.0.1:{}", 1 + at).parse().unwrap()],
    };
    let members: Vec<Member> = (0..nodes).map(member).collect();
    let spec = Spec::new(partitions(), 6, spread).unwrap();
    build(spec, &members, last).unwrap().ring
}

fn specs() -> [SectionSpec; 2] {
    let ring = SectionSpec {
        kind: SectionKind::RING,
        version: 1,
        bytes: shared_words(partitions()) as u64 * 8,
    };
    [ring, index_support::spec(&SIZE)]
}

fn place(path: &Path) -> Place {
    Place::Path(path.to_path_buf())
}

fn sections(region: &Region) -> (Section, Section) {
    let section = |kind| region.section(kind, 1).unwrap();
    (section(SectionKind::RING), section(SectionKind::INDEX))
}

fn table(section: &Section) -> SharedTable<'_> {
    SharedTable::new(section.words(), partitions()).unwrap()
}

/// Both tables, from nothing.
fn fill(ring_section: &Section, index_section: Section, ring: &Ring) -> (Index, Vec<Writer>) {
    for word in ring_section.words() {
        word.store(0, Ordering::Relaxed);
    }
    assert_eq!(table(ring_section).publish(ring), Ok(1024));
    let (index, mut writers) = Index::create(index_section, &SIZE).unwrap();
    for number in 0..ENTRIES {
        let writer = &mut writers[index.partition_of(key(number)) as usize];
        writer.insert(key(number), entry(number)).unwrap();
    }
    (index, writers)
}

fn assert_all_there(ring_section: &Section, ring: &Ring, index: &Index) {
    let table = table(ring_section);
    assert_eq!(table.verify(), Ok(()));
    for partition in ring.partitions().iter() {
        assert_eq!(table.line(partition), ring.line(partition));
    }
    assert_eq!(index.entries(), ENTRIES);
    for number in 0..ENTRIES {
        assert_eq!(index.get(key(number)), Some(entry(number)));
    }
}

fn create_and_close(path: &Path, ring: &Ring) {
    let region = Region::create(&place(path), &specs(), Existing::Keep).unwrap();
    let (ring_section, index_section) = sections(&region);
    let (index, writers) = fill(&ring_section, index_section, ring);
    assert_all_there(&ring_section, ring, &index);
    index.close(writers).unwrap();
    drop(ring_section);
    region.close().unwrap();
}

#[test]
fn both_tables_are_adopted_after_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let first = ring(8, None);
    create_and_close(&path, &first);
    let mut last = first;
    for nodes in 9..12 {
        let region = Region::open(&place(&path)).unwrap();
        assert_eq!(region.history(), History::Clean);
        let (ring_section, index_section) = sections(&region);
        let (index, mut writers) = Index::adopt(index_section).unwrap();
        assert_all_there(&ring_section, &last, &index);
        for writer in &mut writers {
            assert_eq!(writer.verify_step(u64::MAX), Verification::Sound);
        }
        // The next epoch is published over what was adopted, and what did not change is not written again.
        let next = ring(nodes, Some(&last));
        let written = table(&ring_section).publish(&next).unwrap();
        assert!(written > 0 && written < 1024, "{written} lines");
        assert_all_there(&ring_section, &next, &index);
        index.close(writers).unwrap();
        drop(ring_section);
        region.close().unwrap();
        last = next;
    }
    assert_eq!(last.epoch(), Epoch(4));
}

#[test]
fn after_an_end_without_close_both_tables_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let first = ring(8, None);
    create_and_close(&path, &first);
    {
        // Somebody was in the middle of a line of the ring, and of the index.
        let region = Region::open(&place(&path)).unwrap();
        let (ring_section, index_section) = sections(&region);
        ring_section.words()[8 * 7].store(u64::MAX, Ordering::Relaxed);
        ring_section.words()[8 * 7 + 3].store(1, Ordering::Relaxed);
        let (index, mut writers) = Index::adopt(index_section).unwrap();
        writers[index.partition_of(key(1)) as usize].remove(key(1));
    }
    let region = Region::open(&place(&path)).unwrap();
    assert_eq!(region.history(), History::Unclean);
    let (ring_section, index_section) = sections(&region);
    assert_eq!(ring_section.history(), History::Unclean);
    assert_eq!(
        table(&ring_section).verify(),
        Err(LineError::Locked {
            partition: PartitionId(7)
        })
    );
    assert!(matches!(
        Index::adopt(index_section.clone()),
        Err(AdoptError::NotClean)
    ));
    let (index, writers) = fill(&ring_section, index_section, &first);
    assert_all_there(&ring_section, &first, &index);
    index.close(writers).unwrap();
    drop(ring_section);
    region.close().unwrap();
    // And that is adopted again.
    let region = Region::open(&place(&path)).unwrap();
    assert_eq!(region.history(), History::Clean);
    let (ring_section, index_section) = sections(&region);
    let (index, _writers) = Index::adopt(index_section).unwrap();
    assert_all_there(&ring_section, &first, &index);
}

/// Where the file changed behind a clean mark, each table finds what is its own, and the other one is not concerned.
#[test]
fn damage_to_one_table_is_found_by_it_and_leaves_the_other_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = ring(8, None);
    for damaged in [SectionKind::RING, SectionKind::INDEX] {
        let path = folder.path().join(format!("{damaged:?}"));
        create_and_close(&path, &first);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        // Sections begin at multiples of 2 MiB. Of the index it is the last line with an entry.
        let at = if damaged == SectionKind::RING {
            (2 << 20) + 64 * 500 + 24
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            assert!(last > 4 << 20);
            last as u64
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        drop(file);

        let region = Region::open(&place(&path)).unwrap();
        assert_eq!(region.history(), History::Clean);
        let (ring_section, index_section) = sections(&region);
        let (index, mut writers) = Index::adopt(index_section).unwrap();
        let verified: Vec<Verification> = writers
            .iter_mut()
            .map(|writer| writer.verify_step(u64::MAX))
            .collect();
        if damaged == SectionKind::RING {
            assert!(matches!(
                table(&ring_section).verify(),
                Err(LineError::Checksum { .. })
            ));
            assert_eq!(verified, [Verification::Sound; 2]);
            // One line is mended, from whoever has the ring.
            assert_eq!(table(&ring_section).publish(&first), Ok(1));
            assert_all_there(&ring_section, &first, &index);
        } else {
            assert_eq!(table(&ring_section).verify(), Ok(()));
            assert!(verified.contains(&Verification::Damaged), "{verified:?}");
            assert!(index.is_damaged());
            drop((index, writers));
            let (_, index_section) = sections(&region);
            // What is there is not zero, whatever the section says of a fresh one.
            let (index, _writers) = fill(&ring_section, index_section.used_before(), &first);
            assert_all_there(&ring_section, &first, &index);
        }
    }
}
