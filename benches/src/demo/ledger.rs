//! What the demo's first program has acknowledged, as the demo heard it.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What must be true of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    There,
    Gone,
    /// Announced and not acknowledged: either is right.
    Either,
}

impl State {
    const ALL: [(Self, &str); 3] = [
        (Self::There, "there"),
        (Self::Gone, "gone"),
        (Self::Either, "either"),
    ];

    fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(state, _)| *state == self);
        found.map_or("", |(_, word)| word)
    }

    fn of(word: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == word);
        found.map(|(state, _)| *state)
    }
}

/// A blob by its number, from which its content follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) state: State,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    blobs: BTreeMap<u64, Blob>,
    pub(super) stored: u64,
    pub(super) stored_bytes: u64,
    pub(super) deleted: u64,
}

impl Ledger {
    /// Takes a line down: `put`, `delete` before, `stored`, `deleted` after. None where it makes no sense.
    pub(super) fn note(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let (word, number) = (words.next()?, words.next()?.parse().ok()?);
        if word == "put" {
            let bytes = words.next()?.parse().ok()?;
            let state = State::Either;
            let blob = Blob {
                number,
                bytes,
                state,
            };
            self.blobs.insert(number, blob);
            return Some(());
        }
        let blob = self.blobs.get_mut(&number)?;
        match word {
            "stored" => {
                blob.state = State::There;
                self.stored += 1;
                self.stored_bytes += blob.bytes;
            }
            "delete" => blob.state = State::Either,
            "deleted" => {
                blob.state = State::Gone;
                self.deleted += 1;
            }
            _ => return None,
        }
        Some(())
    }

    fn count(&self, state: State) -> u64 {
        let of_state = self.blobs.values().filter(|blob| blob.state == state);
        of_state.count() as u64
    }

    pub(super) fn there(&self) -> u64 {
        self.count(State::There)
    }

    pub(super) fn under_way(&self) -> u64 {
        self.count(State::Either)
    }

    /// For the second program.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Blob {
            number,
            bytes,
            state,
        } in self.blobs.values()
        {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{number} {bytes} {}", state.word());
        }
        text
    }
}

/// What [`Ledger::text`] says.
pub(super) fn read(text: &str) -> Option<Vec<Blob>> {
    let blob = |line: &str| {
        let mut words = line.split(' ');
        Some(Blob {
            number: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok()?,
            state: State::of(words.next()?)?,
        })
    };
    text.lines().map(blob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_knows_what_was_acknowledged() {
        let mut ledger = Ledger::default();
        for line in [
            "put 1 100",
            "put 2 200",
            "put 3 300",
            "stored 1",
            "stored 3",
            "delete 1",
            "put 4 400",
            "stored 4",
            "deleted 1",
            "delete 4",
        ] {
            assert!(ledger.note(line).is_some(), "{line}");
        }
        assert_eq!((ledger.there(), ledger.under_way()), (1, 2));
        assert_eq!((ledger.stored, ledger.stored_bytes), (3, 800));
        assert_eq!(ledger.deleted, 1);
        let states: Vec<_> = read(&ledger.text())
            .unwrap()
            .iter()
            .map(|blob| blob.state)
            .collect();
        assert_eq!(
            states,
            [State::Gone, State::Either, State::There, State::Either]
        );
        for nonsense in ["", "stored", "stored 9", "put 5", "sold 1", "put x 1"] {
            assert!(ledger.note(nonsense).is_none(), "{nonsense}");
        }
        assert_eq!(read("1 2"), None);
    }
}
