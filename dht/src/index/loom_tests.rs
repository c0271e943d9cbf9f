//! Readers beside a writer, in every interleaving of small scenes.

use loom::sync::Arc;
use loom::thread;

use super::address::{Hash, Seeds, Shape};
use super::entry::{Entry, Fingerprint, Flags, Length, Position};
use super::layout::Layout;
use super::line::{self, Line, Slot};
use super::table::Table;
use super::writer::Writer;
use crate::region::Section;

/// The fewest that the layout knows; scenes use the first few.
const LINES: u64 = 8;

fn entry(block: u64) -> Entry {
    Entry {
        position: Position::new(block).expect("small"),
        length: Length::new(block << 30 | block).expect("small"),
        flags: Flags(block as u8),
    }
}

fn slot(block: u64) -> Slot {
    Slot {
        fingerprint: Fingerprint {
            low: block,
            high: block,
        },
        entry: entry(block),
    }
}

fn check(body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

fn table(lines: u64) -> Arc<Table> {
    let layout = Layout {
        partitions: 1,
        lines_max: LINES,
    };
    let section = Section::modelled(layout.words() as usize);
    let table = Arc::new(Table::new(section, layout, Seeds([11, 12, 13]), true));
    table.part(0).set_shape(Shape::of(lines));
    table
}

/// The first keys for which a condition on their hash holds.
fn keys(table: &Table, count: usize, wanted: impl Fn(Hash) -> bool) -> Vec<Fingerprint> {
    (1..)
        .map(|number| Fingerprint {
            low: number,
            high: number << 32,
        })
        .filter(|key| wanted(table.seeds.hash(*key)))
        .take(count)
        .collect()
}

fn find(table: &Table, key: Fingerprint) -> Option<Entry> {
    let hash = table.seeds.hash(key);
    Some(table.part(0).find(key, hash, &mut ())?.entry)
}

#[test]
fn loom_a_line_is_seen_before_or_after_a_write_never_between() {
    check(|| {
        let memory = Section::modelled(8);
        let before = Line {
            slots: [Some(slot(3)), None],
        };
        line::write(0, &memory.words().as_chunks().0[0], &before.encode());
        let writer = {
            let memory = memory.clone();
            thread::spawn(move || {
                let mut after = before;
                after.slots[0] = Some(Slot {
                    fingerprint: slot(3).fingerprint,
                    entry: entry(5),
                });
                line::write(0, &memory.words().as_chunks().0[0], &after.encode());
            })
        };
        let seen = line::look(&memory.words().as_chunks().0[0], slot(3).fingerprint);
        let (_, found) = seen.found.expect("the key is there all the time");
        assert!(found == entry(3) || found == entry(5), "{found:?}");
        writer.join().expect("the writer ends");
    });
}

/// Home full: the third key moves one of the others to its other line, under the reader's eyes.
#[test]
#[ignore = "loom tries one interleaving of this scene only, so it proves nothing yet"]
fn loom_a_key_is_found_while_it_moves_to_its_other_line() {
    check(|| {
        let table = table(4);
        let shape = Shape::of(4);
        let seeds = table.seeds;
        // Two keys at home in line 0; the third one's other line is full of two others.
        let at_home = keys(&table, 2, |hash| {
            shape.home(hash) == 0 && shape.other(seeds, 0, hash.turn()) == 2
        });
        let mut writer = Writer::new(table.clone(), 0, 0, 0);
        for (at, key) in at_home.iter().enumerate() {
            writer.insert(*key, entry(at as u64 + 1)).expect("room");
        }
        let moving = {
            thread::spawn(move || {
                writer.make_room(&[0], &[], 8).expect("line 2 is free");
                writer
            })
        };
        for (at, key) in at_home.iter().enumerate().take(1) {
            assert_eq!(find(&table, *key), Some(entry(at as u64 + 1)));
        }
        moving.join().expect("the writer ends");
        assert_eq!(find(&table, at_home[1]), Some(entry(2)));
    });
}

/// And back: its other line is needed by another key.
#[test]
#[ignore = "loom tries one interleaving of this scene only, so it proves nothing yet"]
fn loom_a_key_is_found_while_it_moves_home() {
    check(|| {
        let table = table(4);
        let shape = Shape::of(4);
        let seeds = table.seeds;
        let key = keys(&table, 1, |hash| {
            shape.home(hash) == 0 && shape.other(seeds, 0, hash.turn()) == 2
        })[0];
        let mut writer = Writer::new(table.clone(), 0, 0, 0);
        writer.insert(key, entry(1)).expect("room");
        writer.make_room(&[0], &[], 8).expect("line 2 is free");
        assert_eq!(table.part(0).hint(0, seeds.hash(key).class()), 1);
        let moving = thread::spawn(move || {
            writer.make_room(&[2], &[], 8).expect("line 0 is free");
        });
        assert_eq!(find(&table, key), Some(entry(1)));
        moving.join().expect("the writer ends");
        assert_eq!(table.part(0).hint(0, seeds.hash(key).class()), 0);
    });
}

/// A split hands a key to the new line.
#[test]
#[ignore = "loom tries one interleaving of this scene only, so it proves nothing yet"]
fn loom_a_key_is_found_while_its_line_is_split() {
    check(|| {
        let table = table(2);
        let (before, after) = (Shape::of(2), Shape::of(2).next());
        let key = keys(&table, 1, |hash| {
            before.home(hash) == 0 && after.home(hash) == 2
        })[0];
        let mut writer = Writer::new(table.clone(), 0, 0, 0);
        writer.insert(key, entry(1)).expect("room");
        let splitting = thread::spawn(move || assert!(writer.step().expect("there is room")));
        assert_eq!(find(&table, key), Some(entry(1)));
        splitting.join().expect("the writer ends");
        assert_eq!(table.part(0).shape().lines(), 3);
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// A key that is elsewhere comes home, to the new line, with the split.
#[test]
#[ignore = "loom tries one interleaving of this scene only, so it proves nothing yet"]
fn loom_a_key_elsewhere_is_found_while_its_home_is_split() {
    check(|| {
        let table = table(2);
        let (before, after) = (Shape::of(2), Shape::of(2).next());
        let key = keys(&table, 1, |hash| {
            before.home(hash) == 0 && after.home(hash) == 2
        })[0];
        let mut writer = Writer::new(table.clone(), 0, 0, 0);
        writer.insert(key, entry(1)).expect("room");
        writer.make_room(&[0], &[], 8).expect("line 1 is free");
        let splitting = thread::spawn(move || assert!(writer.step().expect("there is room")));
        assert_eq!(find(&table, key), Some(entry(1)));
        splitting.join().expect("the writer ends");
        assert_eq!(table.part(0).hints(0), 0);
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// What a reader saw stays seen: after a removal nobody finds the key, and before it everybody does.
#[test]
#[ignore = "loom tries one interleaving of this scene only, so it proves nothing yet"]
fn loom_a_removed_key_does_not_come_back() {
    check(|| {
        let table = table(4);
        let key = keys(&table, 1, |_| true)[0];
        let mut writer = Writer::new(table.clone(), 0, 0, 0);
        writer.insert(key, entry(1)).expect("room");
        let removing = thread::spawn(move || writer.remove(key));
        let first = find(&table, key);
        let second = find(&table, key);
        assert!(
            first.is_some() || second.is_none(),
            "it was gone and is back"
        );
        assert_eq!(removing.join().expect("the writer ends"), Some(entry(1)));
        assert_eq!(find(&table, key), None);
    });
}
