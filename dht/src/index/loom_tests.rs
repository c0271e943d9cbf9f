//! Readers beside a writer, in every interleaving of small scenes.
//!
//! The writer has the first thread, which runs to its end before the checker looks for other orders, and the reader a
//! second one. Of each word the checker remembers the last access alone. Were the reader first, its loads would be
//! forgotten over the writer's own, which come before its stores to the same words, and no other order looked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::sync::Arc as SharedArc;
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

/// Every interleaving with so many switches away from a thread that could go on.
fn check(switches: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    // A split looks into 32 lines for keys that are elsewhere.
    model.max_branches = 20_000;
    let explored = Arc::new(AtomicU64::new(0));
    let counted = explored.clone();
    model.check(move || {
        counted.fetch_add(1, Relaxed);
        body();
    });
    // A scene of which the checker sees nothing would pass too.
    let explored = explored.load(Relaxed);
    println!("{explored} interleavings");
    assert!(explored > 1000, "only {explored} interleavings");
}

fn table(lines: u64) -> SharedArc<Table> {
    let layout = Layout {
        partitions: 1,
        lines_max: LINES,
    };
    let section = Section::modelled(layout.words() as usize);
    let table = SharedArc::new(Table::new(section, layout, Seeds([11, 12, 13]), true));
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
    check(3, || {
        let memory = Section::modelled(8);
        let before = Line {
            slots: [Some(slot(3)), None],
        };
        line::write(0, &memory.words().as_chunks().0[0], &before.encode());
        let reader = {
            let memory = memory.clone();
            thread::spawn(move || {
                let seen = line::look(&memory.words().as_chunks().0[0], slot(3).fingerprint);
                let (_, found) = seen.found.expect("the key is there all the time");
                assert!(found == entry(3) || found == entry(5), "{found:?}");
            })
        };
        let mut after = before;
        after.slots[0] = Some(Slot {
            fingerprint: slot(3).fingerprint,
            entry: entry(5),
        });
        line::write(0, &memory.words().as_chunks().0[0], &after.encode());
        reader.join().expect("the reader ends");
    });
}

/// Between two writes a reader may have taken some words, and everything else is as it was.
#[test]
fn loom_a_line_that_is_written_back_is_not_seen_half() {
    check(1, || {
        let memory = Section::modelled(8);
        let line_of = |block| Line {
            slots: [
                Some(Slot {
                    fingerprint: slot(3).fingerprint,
                    entry: entry(block),
                }),
                None,
            ],
        };
        let write = |block| {
            line::write(
                0,
                &memory.words().as_chunks().0[0],
                &line_of(block).encode(),
            )
        };
        write(3);
        let reader = {
            let memory = memory.clone();
            thread::spawn(move || {
                let seen = line::look(&memory.words().as_chunks().0[0], slot(3).fingerprint);
                let (_, found) = seen.found.expect("the key is there all the time");
                assert!(found == entry(3) || found == entry(5), "{found:?}");
            })
        };
        write(5);
        write(3);
        reader.join().expect("the reader ends");
    });
}

/// Runs the reader on a thread of its own, and the writer here.
fn beside<T>(
    table: &SharedArc<Table>,
    read: impl FnOnce(&Table) + Send + 'static,
    write: impl FnOnce() -> T,
) -> T {
    let reader = {
        let table = table.clone();
        thread::spawn(move || read(&table))
    };
    let written = write();
    reader.join().expect("the reader ends");
    written
}

fn writer(table: &SharedArc<Table>) -> Writer {
    Writer::new(table.clone(), 0, 0, 0)
}

/// Somebody needs the key's place at home.
#[test]
fn loom_a_key_is_found_while_it_moves_to_its_other_line() {
    check(2, || {
        let table = table(4);
        let (shape, seeds) = (Shape::of(4), table.seeds);
        let key = keys(&table, 1, |hash| {
            shape.home(hash) == 0 && shape.other(seeds, 0, hash.turn()) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || writer.make_room(&[0], &[]).expect("line 2 is free"),
        );
        assert_eq!(find(&table, key), Some(entry(1)));
        assert_eq!(table.part(0).hint(0, seeds.hash(key).class()), 1);
    });
}

/// And back: its other line is needed by another key.
#[test]
fn loom_a_key_is_found_while_it_moves_home() {
    check(2, || {
        let table = table(4);
        let (shape, seeds) = (Shape::of(4), table.seeds);
        let key = keys(&table, 1, |hash| {
            shape.home(hash) == 0 && shape.other(seeds, 0, hash.turn()) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        writer.make_room(&[0], &[]).expect("line 2 is free");
        assert_eq!(table.part(0).hint(0, seeds.hash(key).class()), 1);
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || writer.make_room(&[2], &[]).expect("line 0 is free"),
        );
        assert_eq!(table.part(0).hint(0, seeds.hash(key).class()), 0);
    });
}

/// There and back again: whoever looked at home meanwhile finds the hint as it was before.
#[test]
fn loom_a_key_is_found_while_it_moves_away_and_back() {
    check(1, || {
        let table = table(4);
        let (shape, seeds) = (Shape::of(4), table.seeds);
        let key = keys(&table, 1, |hash| {
            shape.home(hash) == 0 && shape.other(seeds, 0, hash.turn()) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || {
                writer.make_room(&[0], &[]).expect("line 2 is free");
                writer.make_room(&[2], &[]).expect("line 0 is free");
            },
        );
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// The hint is not zero, on account of another key: so the other line is looked at first, too early.
#[test]
fn loom_a_key_is_found_while_it_follows_another_one_of_its_class() {
    check(2, || {
        let table = table(4);
        let (shape, seeds) = (Shape::of(4), table.seeds);
        let first_of = |class: Option<usize>, other| {
            keys(&table, 1, |hash| {
                shape.home(hash) == 0
                    && shape.other(seeds, 0, hash.turn()) == other
                    && class.is_none_or(|class| hash.class() == class)
            })[0]
        };
        let key = first_of(None, 2);
        let ahead = first_of(Some(seeds.hash(key).class()), 1);
        let mut writer = writer(&table);
        writer.insert(ahead, entry(2)).expect("room");
        writer.make_room(&[0], &[]).expect("line 1 is free");
        writer.insert(key, entry(1)).expect("room");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || writer.make_room(&[0], &[]).expect("line 2 is free"),
        );
        assert_eq!(find(&table, ahead), Some(entry(2)));
    });
}

/// A split hands a key to the new line.
#[test]
fn loom_a_key_is_found_while_its_line_is_split() {
    check(2, || {
        let table = table(2);
        let (before, after) = (Shape::of(2), Shape::of(2).next());
        let key = keys(&table, 1, |hash| {
            before.home(hash) == 0 && after.home(hash) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || assert!(writer.step().expect("there is room")),
        );
        assert_eq!(table.part(0).shape().lines(), 3);
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// A key that is elsewhere comes home, to the new line, with the split.
#[test]
fn loom_a_key_elsewhere_is_found_while_its_home_is_split() {
    check(2, || {
        let table = table(2);
        let (before, after) = (Shape::of(2), Shape::of(2).next());
        let key = keys(&table, 1, |hash| {
            before.home(hash) == 0 && after.home(hash) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        writer.make_room(&[0], &[]).expect("line 1 is free");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || assert!(writer.step().expect("there is room")),
        );
        assert_eq!(table.part(0).hints(0), 0);
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// A guest of the line that is split is a guest of the new line afterwards.
#[test]
fn loom_a_guest_is_found_while_its_line_is_split() {
    check(2, || {
        let table = table(2);
        let (next, seeds) = (Shape::of(2).next(), table.seeds);
        let key = keys(&table, 1, |hash| {
            next.home(hash) == 1 && next.other(seeds, 1, hash.turn()) == 2
        })[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        writer.make_room(&[1], &[]).expect("line 0 is free");
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || assert!(writer.step().expect("there is room")),
        );
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// With the split, two other keys can be in this one's line only, so that it has to leave its home.
#[test]
fn loom_a_key_is_found_while_a_split_sends_it_away() {
    check(2, || {
        let table = table(4);
        let (next, seeds) = (Shape::of(4).next(), table.seeds);
        let of_line_0 =
            |hash: Hash, other| next.home(hash) == 0 && next.other(seeds, 0, hash.turn()) == other;
        let key = keys(&table, 1, |hash| of_line_0(hash, 1))[0];
        // Of another class, so that the key's own hint is zero before.
        let class = seeds.hash(key).class();
        let confined = keys(&table, 2, |hash| {
            of_line_0(hash, 4) && hash.class() != class
        });
        let mut writer = writer(&table);
        for (at, key) in [key, confined[0], confined[1]].into_iter().enumerate() {
            writer.insert(key, entry(at as u64 + 1)).expect("room");
        }
        let (hash, part) = (seeds.hash(key), table.part(0));
        assert_eq!((part.shape().lines(), part.hint(0, hash.class())), (4, 0));
        beside(
            &table,
            move |table| assert_eq!(find(table, key), Some(entry(1))),
            || assert!(writer.step().expect("there is room")),
        );
        assert_eq!((part.shape().lines(), part.hint(0, hash.class())), (5, 1));
        assert_eq!(find(&table, key), Some(entry(1)));
    });
}

/// What a reader saw stays seen: after a removal nobody finds the key, and before it everybody does.
#[test]
fn loom_a_removed_key_does_not_come_back() {
    check(2, || {
        let table = table(4);
        let key = keys(&table, 1, |_| true)[0];
        let mut writer = writer(&table);
        writer.insert(key, entry(1)).expect("room");
        beside(
            &table,
            move |table| {
                let first = find(table, key);
                let second = find(table, key);
                assert!(
                    first.is_some() || second.is_none(),
                    "it was gone and is back"
                );
            },
            || assert_eq!(writer.remove(key), Some(entry(1))),
        );
        assert_eq!(find(&table, key), None);
    });
}
