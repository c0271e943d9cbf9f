//! A reader beside a writer on one line, in every interleaving.

use loom::thread;

use super::entry::{Entry, Fingerprint, Flags, Length, Position};
use super::line::{self, Line, Slot};
use crate::region::Section;

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
