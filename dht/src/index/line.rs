//! One line of the index: two entries, a version for readers, a checksum for the next start.
//!
//! ```text
//! word  63                                                            0
//!  0    │ CRC-32C of the line's number and words 1-7 │ version       W│   W: being written (version odd)
//!  1    │ entry 0: fingerprint, low half                              │
//!  2    │ entry 0: fingerprint, high half                             │
//!  3    │ entry 1: fingerprint, low half                              │
//!  4    │ entry 1: fingerprint, high half                             │
//!  5    │O│0│ length 35-32 │ flags 7-0 │ entry 0: position 49-0       │   O: occupied
//!  6    │O│0│ length 35-32 │ flags 7-0 │ entry 1: position 49-0       │
//!  7    │ entry 1: length 31-0           │ entry 0: length 31-0       │
//! ```
//!
//! An unoccupied entry is all zeros, and so is a line that was never written; the checksum of a line without entries
//! is zero. The version grows by two with every write.
//!
//! The protocol, a sequence lock: the writer makes the version odd, writes, makes it even. A reader takes the version,
//! the words and the version again, and starts over unless both were the same and even. All words are atomics, so a
//! torn read is thrown away rather than undefined. The two fences pair: who read a word of a later write sees, behind
//! its fence, at least the odd version that came before that word.

use std::hint::{black_box, select_unpredictable};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::{Entry, Fingerprint, Flags, Length, Position};
use super::pause::Pause;
use crate::limits::{LENGTH_BITS, LINE_BYTES, LINE_WORDS, POSITION_BITS, SLOTS};
use crate::region::memory::{AtomicU64, fence};

/// A line as it lies in memory.
pub(super) type Shared = [AtomicU64; LINE_WORDS];
/// Words 1 to 7.
pub(super) type Content = [u64; LINE_WORDS - 1];

const WRITING: u64 = 1;
const VERSION_MASK: u64 = 0xffff_ffff;

const FLAGS_SHIFT: u32 = POSITION_BITS;
const FLAGS_BITS: u32 = 8;
const LENGTH_HIGH_SHIFT: u32 = FLAGS_SHIFT + FLAGS_BITS;
const LENGTH_LOW_BITS: u32 = 32;
const LENGTH_HIGH_BITS: u32 = LENGTH_BITS - LENGTH_LOW_BITS;
const RESERVED: u64 = 1 << 62;
const OCCUPIED: u64 = 1 << 63;

// In the content, which begins with word 1.
const AT_PLACES: usize = 4;
const AT_LENGTHS: usize = 6;

const _: () = assert!(size_of::<[u64; LINE_WORDS]>() == LINE_BYTES);
const _: () = assert!(
    LENGTH_HIGH_SHIFT + LENGTH_HIGH_BITS == 62,
    "up to the reserved bit"
);
const _: () = assert!(RESERVED << 1 == OCCUPIED);
const _: () = assert!(AT_PLACES == SLOTS * 2, "two words of fingerprint each");
const _: () = assert!(AT_LENGTHS == AT_PLACES + SLOTS);
const _: () = assert!(AT_LENGTHS + 1 == LINE_WORDS - 1);
// `look` names these words.
const _: () = assert!(1 + AT_PLACES == 5 && 1 + AT_LENGTHS == 7 && SLOTS == 2);
const _: () = assert!(LENGTH_LOW_BITS as usize * SLOTS == 64);

/// An entry with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) fingerprint: Fingerprint,
    pub(super) entry: Entry,
}

/// Why a line is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// A line's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Line {
    pub(super) slots: [Option<Slot>; SLOTS],
}

impl Line {
    pub(super) fn free(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<usize> {
        let is_it = |slot: &Option<Slot>| slot.is_some_and(|slot| slot.fingerprint == fingerprint);
        self.slots.iter().position(is_it)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, Slot)> + use<> {
        let slots = self.slots;
        (0..SLOTS).filter_map(move |at| slots[at].map(|slot| (at, slot)))
    }

    pub(super) fn encode(&self) -> Content {
        let mut content = Content::default();
        for (at, slot) in self.entries() {
            let Entry {
                position,
                length,
                flags,
            } = slot.entry;
            content[2 * at] = slot.fingerprint.low;
            content[2 * at + 1] = slot.fingerprint.high;
            content[AT_PLACES + at] = OCCUPIED
                | (length.bytes() >> LENGTH_LOW_BITS) << LENGTH_HIGH_SHIFT
                | u64::from(flags.0) << FLAGS_SHIFT
                | position.block();
            content[AT_LENGTHS] |=
                (length.bytes() & 0xffff_ffff) << (LENGTH_LOW_BITS as usize * at);
        }
        content
    }

    /// Takes the words as they are; `check` says whether they are to be believed.
    pub(super) fn decode(content: &Content) -> Self {
        let mut line = Self::default();
        for (at, slot) in line.slots.iter_mut().enumerate() {
            let place = content[AT_PLACES + at];
            if place & OCCUPIED != 0 {
                *slot = Some(Slot {
                    fingerprint: Fingerprint {
                        low: content[2 * at],
                        high: content[2 * at + 1],
                    },
                    entry: entry(at, place, content[AT_LENGTHS]),
                });
            }
        }
        line
    }

    /// Decodes a line that came out of an earlier run: nothing in it is believed unless all of it is right.
    pub(super) fn check(number: u64, first: u64, content: &Content) -> Result<Self, Damaged> {
        let line = Self::decode(content);
        let right = first & WRITING == 0
            && line.encode() == *content
            && first >> 32 == u64::from(checksum(number, content));
        if right { Ok(line) } else { Err(Damaged) }
    }
}

#[inline(always)]
fn entry(at: usize, place: u64, lengths: u64) -> Entry {
    let low = lengths >> (LENGTH_LOW_BITS as usize * at) & 0xffff_ffff;
    let high = place >> LENGTH_HIGH_SHIFT & ((1 << LENGTH_HIGH_BITS) - 1);
    let position = place & ((1 << POSITION_BITS) - 1);
    Entry {
        position: Position::new(position).expect("masked to its bits"),
        length: Length::new(high << LENGTH_LOW_BITS | low).expect("masked to its bits"),
        flags: Flags((place >> FLAGS_SHIFT) as u8),
    }
}

/// The number makes a line that was written to another line's place wrong.
fn checksum(number: u64, content: &Content) -> u32 {
    if content == &Content::default() {
        return 0;
    }
    let mut bytes = [0; LINE_BYTES];
    for (place, word) in bytes
        .as_chunks_mut()
        .0
        .iter_mut()
        .zip(std::iter::once(&number).chain(content))
    {
        *place = word.to_le_bytes();
    }
    crc32c::crc32c(&bytes)
}

/// What a reader saw of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Word 0, the same before and after.
    first: u64,
    pub(super) found: Option<(usize, Entry)>,
}

impl Seen {
    /// Of a line that is not believed.
    pub(super) fn nothing(line: &Shared) -> Self {
        Self {
            first: line[0].load(Acquire),
            found: None,
        }
    }

    /// Whether the line was not written since.
    #[inline(always)]
    pub(super) fn is_current(&self, line: &Shared) -> bool {
        line[0].load(Acquire) == self.first
    }
}

/// Looks for a fingerprint in a line, from any thread.
///
/// Which of the two entries it is cannot be foreseen, and a processor that guesses wrong throws away the lookups that
/// it has begun behind this one. So the choice is made without a branch.
#[inline(always)]
pub(super) fn look(line: &Shared, fingerprint: Fingerprint) -> Seen {
    let mut pause = Pause::new();
    loop {
        let first = line[0].load(Acquire);
        let is_it = |slot: usize, place: u64| {
            let differs = (line[1 + 2 * slot].load(Relaxed) ^ fingerprint.low)
                | (line[2 + 2 * slot].load(Relaxed) ^ fingerprint.high);
            // An unoccupied slot is all zeros, and so may a fingerprint be.
            (differs == 0) & (place & OCCUPIED != 0)
        };
        let places = [5, 6].map(|word: usize| line[word].load(Relaxed));
        let lengths = line[7].load(Relaxed);
        let (zeroth, other) = (is_it(0, places[0]), is_it(1, places[1]));
        fence(Acquire);
        if first & WRITING == 0 && line[0].load(Relaxed) == first {
            let place = select_unpredictable(other, places[1], places[0]);
            let slot = usize::from(other);
            // Seen through, this would become a branch on either.
            let is_there = black_box(zeroth | other);
            let found = is_there.then(|| (slot, entry(slot, place, lengths)));
            return Seen { first, found };
        }
        pause.wait();
    }
}

/// Takes a whole line, from any thread. None where it stays half-written for long, as only a damaged one does.
pub(super) fn take(line: &Shared) -> Option<(u64, Content)> {
    let mut pause = Pause::new();
    while !pause.is_long() {
        let first = line[0].load(Acquire);
        if first & WRITING == 0 {
            let mut content = Content::default();
            for (word, there) in content.iter_mut().zip(&line[1..]) {
                *word = there.load(Relaxed);
            }
            fence(Acquire);
            if line[0].load(Relaxed) == first {
                return Some((first, content));
            }
        }
        pause.wait();
    }
    None
}

/// As `look`, in a line of an earlier run that nobody has verified yet.
pub(super) fn look_checked(
    number: u64,
    line: &Shared,
    fingerprint: Fingerprint,
) -> Result<Seen, Damaged> {
    let (first, content) = take(line).ok_or(Damaged)?;
    let checked = Line::check(number, first, &content)?;
    let found = checked.find(fingerprint).and_then(|at| {
        let slot = checked.slots[at]?;
        Some((at, slot.entry))
    });
    Ok(Seen { first, found })
}

/// The writer's own view: nobody else writes.
pub(super) fn own(line: &Shared) -> (u64, Content) {
    let mut content = Content::default();
    for (word, there) in content.iter_mut().zip(&line[1..]) {
        *word = there.load(Relaxed);
    }
    (line[0].load(Relaxed), content)
}

/// Writes a line. Only its partition's writer may.
pub(super) fn write(number: u64, line: &Shared, content: &Content) {
    let version = line[0].load(Relaxed) & VERSION_MASK & !WRITING;
    let crc = u64::from(checksum(number, content));
    line[0].store(version | WRITING, Relaxed);
    fence(Release);
    for (word, there) in content.iter().zip(&line[1..]) {
        there.store(*word, Relaxed);
    }
    line[0].store(crc << 32 | ((version + 2) & VERSION_MASK), Release);
}
