//! What chance brings about in one of ten million lines, brought about on purpose: splits that find no room.

use super::*;
use crate::index::address::Seeds;
use crate::index::entry::{Flags, Length};
use crate::index::layout::Layout;
use crate::region::{Existing, Place, Region, SectionKind, SectionSpec};

/// A partition of a few lines, of at most 128.
fn few_lines(lines: u64) -> Writer {
    let layout = Layout {
        partitions: 1,
        lines_max: 128,
    };
    let spec = SectionSpec {
        kind: SectionKind::INDEX,
        version: 1,
        bytes: layout.words() * 8,
    };
    let place = Place::Memory { large_pages: false };
    let region = Region::create(&place, &[spec], Existing::Keep).expect("memory for it");
    let section = region
        .section(SectionKind::INDEX, 1)
        .expect("it was created");
    let table = Arc::new(Table::new(section, layout, Seeds([11, 12, 13]), true));
    table.part(0).set_shape(Shape::of(lines));
    Writer::new(table, 0, 0, 0)
}

/// Keys for which a condition on their hash holds, none of which was drawn before.
struct Keys(u64);

impl Keys {
    fn draw(&mut self, writer: &Writer, wanted: impl Fn(Hash) -> bool) -> Fingerprint {
        loop {
            self.0 += 1;
            let key = Fingerprint {
                low: self.0,
                high: self.0 << 32,
            };
            if wanted(writer.table.seeds.hash(key)) {
                return key;
            }
        }
    }
}

fn entry(block: u64) -> Entry {
    Entry {
        position: Position::new(block).expect("small"),
        length: Length::new(block).expect("small"),
        flags: Flags(0),
    }
}

fn insert(writer: &mut Writer, keys: &[Fingerprint]) {
    for key in keys {
        let given = entry(key.low);
        writer.insert(*key, given).expect("room");
    }
}

fn assert_all_there(writer: &Writer, keys: &[Fingerprint]) {
    for key in keys {
        let hash = writer.table.seeds.hash(*key);
        let found = writer.find(*key, hash).map(|found| found.entry);
        assert_eq!(found, Some(entry(key.low)), "{key:?}");
    }
}

/// Four keys of line `at` whose other line is `other`, of a shape that does not change for them: both are full for good.
fn crowd(writer: &Writer, keys: &mut Keys, at: u64, other: u64) -> Vec<Fingerprint> {
    let (now, seeds) = (writer.shape(), writer.table.seeds);
    let one = |_| {
        keys.draw(writer, |hash| {
            now.home(hash) == at && now.other(seeds, at, hash.turn()) == other
        })
    };
    (0..4).map(one).collect()
}

/// Splits until there is a line more; more steps than that takes would be an endless split.
fn split(writer: &mut Writer) {
    let lines = writer.shape().lines();
    for _ in 0..20 {
        if writer.step().is_ok_and(|split| split) {
            assert_eq!(writer.shape().lines(), lines + 1);
            return;
        }
    }
    panic!("no split of {lines} lines in twenty steps");
}

/// Of three keys whose home is the new line two stay. The third one's other line has no room, ever, so another of them
/// has to go, whichever the third is and wherever it comes from.
#[test]
fn a_split_takes_the_key_home_that_finds_no_room_elsewhere() {
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0]] {
        let mut writer = few_lines(8);
        let mut keys = Keys(0);
        let crowd = crowd(&writer, &mut keys, 5, 6);
        let (next, seeds) = (writer.shape().next(), writer.table.seeds);
        let of_new = |other: &'static [u64]| {
            move |hash: Hash| {
                next.home(hash) == 8 && other.contains(&next.other(seeds, 8, hash.turn()))
            }
        };
        let stuck = keys.draw(&writer, of_new(&[5, 6]));
        let free = [0, 1].map(|_| keys.draw(&writer, of_new(&[1, 2, 3, 4, 7])));
        let all = [stuck, free[0], free[1]];
        insert(&mut writer, &crowd);
        insert(&mut writer, &order.map(|at: usize| all[at]));
        split(&mut writer);
        assert_all_there(&writer, &crowd);
        assert_all_there(&writer, &all);
        let place = writer.find(stuck, seeds.hash(stuck)).expect("there");
        assert_eq!(place.line, 8, "the one that can be nowhere else is at home");
    }
}

/// As above, but the seats are taken by guests of the line, which go home.
#[test]
fn a_split_sends_guests_home_for_the_key_that_finds_no_room_elsewhere() {
    let mut writer = few_lines(8);
    let mut keys = Keys(0);
    let crowd = crowd(&writer, &mut keys, 5, 6);
    let (now, next, seeds) = (writer.shape(), writer.shape().next(), writer.table.seeds);
    // Guests of line 0 that will be guests of line 8.
    let guests = [0, 1].map(|_| {
        keys.draw(&writer, |hash| {
            let home = now.home(hash);
            [1, 2, 3].contains(&home) && next.other(seeds, home, hash.turn()) == 8
        })
    });
    let stuck = keys.draw(&writer, |hash| {
        next.home(hash) == 8 && [5, 6].contains(&next.other(seeds, 8, hash.turn()))
    });
    insert(&mut writer, &crowd);
    insert(&mut writer, &guests);
    for guest in guests {
        let hash = seeds.hash(guest);
        let found = writer.find(guest, hash).expect("it was inserted");
        let at = writer.line(0).0.free().expect("room for two guests");
        writer.move_entry((found.line, found.slot), (0, at));
    }
    insert(&mut writer, &[stuck]);
    split(&mut writer);
    assert_all_there(&writer, &crowd);
    assert_all_there(&writer, &guests);
    assert_all_there(&writer, &[stuck]);
}

/// Where nothing helps, a table says so, loses nothing, and grows on when there is room again.
#[test]
fn a_split_that_cannot_be_is_given_up_and_done_later() {
    let mut writer = few_lines(8);
    let mut keys = Keys(0);
    let crowd = crowd(&writer, &mut keys, 5, 6);
    let (next, seeds) = (writer.shape().next(), writer.table.seeds);
    let stuck = [0, 1, 2].map(|_| {
        keys.draw(&writer, |hash| {
            next.home(hash) == 8 && [5, 6].contains(&next.other(seeds, 8, hash.turn()))
        })
    });
    insert(&mut writer, &crowd);
    insert(&mut writer, &stuck);
    assert!((0..40).all(|_| !writer.step().is_ok_and(|split| split)));
    assert_all_there(&writer, &crowd);
    assert_all_there(&writer, &stuck);
    for key in &crowd[..2] {
        assert!(writer.remove(*key).is_some());
    }
    split(&mut writer);
    assert_all_there(&writer, &crowd[2..]);
    assert_all_there(&writer, &stuck);
}
