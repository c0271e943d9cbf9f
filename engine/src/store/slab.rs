//! What the store keeps in memory of a slab: eight bytes for each of its blobs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use oriel_dht::region::prefetch;

use super::checkpoint::{Row, Table, dead_bytes};
use super::directory::RECORDS_PER_BLOCK;
use super::record::{Record, Role};
use super::types::RealmId;
use crate::limits::{DIRECTORY_BATCH, SLAB_BLOCKS_MAX};

const DEAD: u32 = 1 << 31;

const _: () = assert!(SLAB_BLOCKS_MAX <= DEAD as u64);

/// A blob of a slab: its first block there, whether it is dead, and its checksum.
#[derive(Clone, Copy)]
struct Known {
    word: u32,
    checksum: u32,
}

impl Known {
    fn start(self) -> u32 {
        self.word & !DEAD
    }

    fn is_dead(self) -> bool {
        self.word & DEAD != 0
    }
}

/// Where that blob is if all are of one size. There is at least one.
fn guess(blobs: &[Known], start: u32) -> usize {
    let last = blobs.len() - 1;
    let whole = u64::from(blobs[last].start()).max(1);
    let guess = u64::from(start) * last as u64 / whole;
    (guess as usize).min(last)
}

/// Where in a slab's blobs the one is whose window begins at `start`, or where it would have to be.
///
/// Each step through memory that no cache has costs more than all else in a lookup, so the search begins where the blob
/// is if all are of one size, and doubles its steps from there.
fn place_of(blobs: &[Known], start: u32) -> Result<usize, usize> {
    if blobs.is_empty() {
        return Err(0);
    }
    let guess = guess(blobs, start);
    let (mut low, mut high) = match blobs[guess].start().cmp(&start) {
        Ordering::Equal => return Ok(guess),
        // The bounds stay outside of what is searched: below `low` all are less, from `high` on greater.
        Ordering::Less => {
            let (mut low, mut step) = (guess + 1, 1);
            let high = loop {
                match blobs.get(low + step - 1) {
                    Some(known) if known.start() < start => low += step,
                    Some(_) => break low + step,
                    None => break blobs.len(),
                }
                step *= 2;
            };
            (low, high)
        }
        Ordering::Greater => {
            let (mut high, mut step) = (guess, 1);
            let low = loop {
                match high.checked_sub(step) {
                    Some(at) if blobs[at].start() > start => high = at,
                    Some(at) => break at,
                    None => break 0,
                }
                step *= 2;
            };
            (low, high)
        }
    };
    while low < high {
        let middle = low.midpoint(high);
        match blobs[middle].start().cmp(&start) {
            Ordering::Equal => return Ok(middle),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

pub(super) struct Slab<E> {
    pub(super) extent: Rc<E>,
    pub(super) realm: RealmId,
    /// Blocks of windows that hold blobs.
    pub(super) live: u64,
    /// Windows handed out, neither with a blob nor given up.
    pub(super) pending: u64,
    /// No more windows are taken from it.
    pub(super) is_sealed: bool,
    /// Parts of large blobs and manifests may be among its blobs.
    pub(super) may_have_parts: bool,
    /// In the order of their positions.
    blobs: Vec<Known>,
    dead: u32,
    in_directory: u32,
    /// The records that are not in the directory yet, in the order in which they came.
    tail: Vec<Record>,
    /// Where windows end that have a gap behind them, by their first block; the others end where the next one begins. `None`
    /// where that has to be found out first.
    ends: Option<BTreeMap<u32, u32>>,
}

/// Where a slab's windows end has to be found out from its records: see [`Slab::learn_ends`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EndsUnknown;

/// Of windows in order, the ends of those that have a gap behind them.
fn gaps(windows: impl Iterator<Item = Range<u32>>) -> BTreeMap<u32, u32> {
    let mut ends = BTreeMap::new();
    let mut last: Option<Range<u32>> = None;
    for window in windows {
        if let Some(last) = last.filter(|last| last.end != window.start) {
            ends.insert(last.start, last.end);
        }
        last = Some(window);
    }
    ends.extend(last.map(|last| (last.start, last.end)));
    ends
}

/// A row of a checkpoint that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrongRow(pub(super) &'static str);

impl<E> Slab<E> {
    pub(super) fn new(extent: Rc<E>, realm: RealmId) -> Self {
        Self {
            extent,
            realm,
            live: 0,
            pending: 0,
            is_sealed: false,
            may_have_parts: false,
            blobs: Vec::new(),
            dead: 0,
            in_directory: 0,
            tail: Vec::new(),
            ends: Some(BTreeMap::new()),
        }
    }

    /// Blobs that are in it.
    pub(super) fn blobs(&self) -> u64 {
        u64::from(self.records() - self.dead)
    }

    /// Blobs that are or were in it.
    pub(super) fn records(&self) -> u32 {
        self.blobs.len() as u32
    }

    /// Adds a blob whose window begins at block `start` of the slab; false if there is one.
    pub(super) fn add(&mut self, start: u32, record: &Record) -> bool {
        let known = Known {
            word: start,
            checksum: record.checksum,
        };
        // Blobs come nearly in the order of their windows.
        let place = match self.blobs.last() {
            Some(last) if last.start() >= start => match place_of(&self.blobs, start) {
                Ok(_) => return false,
                Err(place) => place,
            },
            _ => self.blobs.len(),
        };
        self.blobs.insert(place, known);
        self.note_end(place, start + record.blocks() as u32);
        self.tail.push(*record);
        self.may_have_parts |= record.role != Role::Whole;
        self.live += record.blocks();
        true
    }

    /// Notes where the window ends that has come to that place among the blobs.
    fn note_end(&mut self, place: usize, end: u32) {
        let Some(ends) = &mut self.ends else {
            return;
        };
        let start = self.blobs[place].start();
        if let Some(before) = place.checked_sub(1).map(|at| self.blobs[at].start())
            && ends.get(&before) == Some(&start)
        {
            ends.remove(&before);
        }
        let next = self.blobs.get(place + 1).map(|next| next.start());
        if next != Some(end) {
            ends.insert(start, end);
        }
    }

    /// The window that a block is in, of a blob that is or was in the slab.
    pub(super) fn window(&self, block: u32) -> Result<Option<Range<u32>>, EndsUnknown> {
        let at = match place_of(&self.blobs, block) {
            Ok(at) => at,
            Err(0) => return Ok(None),
            Err(behind) => behind - 1,
        };
        let ends = self.ends.as_ref().ok_or(EndsUnknown)?;
        let start = self.blobs[at].start();
        let next = self.blobs.get(at + 1).map(|next| next.start());
        let end = ends.get(&start).copied().or(next);
        let window = start..end.expect("the last window's end is noted");
        Ok(window.contains(&block).then_some(window))
    }

    /// Takes the ends of all windows from their records; false if these are not all that the slab has by now.
    pub(super) fn learn_ends(&mut self, records: &mut [Record], slab_blocks: u64) -> bool {
        records.sort_unstable_by_key(|record| record.position);
        let window = |record: &Record| {
            let start = (record.position.0 % slab_blocks) as u32;
            start..start + record.blocks() as u32
        };
        let starts = self.blobs.iter().map(|known| known.start());
        if !starts.eq(records.iter().map(|record| window(record).start)) {
            return false;
        }
        self.ends = Some(gaps(records.iter().map(window)));
        true
    }

    /// Marks the blob as dead whose window begins at block `start` and has so many blocks; whether it was alive.
    pub(super) fn kill(&mut self, start: u32, blocks: u64) -> bool {
        let found = place_of(&self.blobs, start);
        let Some(known) = found.ok().and_then(|at| self.blobs.get_mut(at)) else {
            return false;
        };
        if known.is_dead() {
            return false;
        }
        known.word |= DEAD;
        self.dead += 1;
        self.live -= blocks;
        true
    }

    /// The checksum in the record of the blob whose window begins at block `start`.
    pub(super) fn checksum(&self, start: u32) -> Option<u32> {
        let found = place_of(&self.blobs, start);
        Some(self.blobs[found.ok()?].checksum)
    }

    /// Asks for what [`checksum`](Self::checksum) will look at, without waiting for it.
    pub(super) fn prefetch_checksum(&self, start: u32) {
        if !self.blobs.is_empty() {
            prefetch(&self.blobs[guess(&self.blobs, start)]);
        }
    }

    /// The records that are not in the directory, and how many are.
    pub(super) fn known_records(&self) -> (u32, &[Record]) {
        (self.in_directory, &self.tail)
    }

    /// Takes no more windows.
    pub(super) fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Nothing will ever be in it again.
    pub(super) fn is_empty(&self) -> bool {
        self.is_sealed && self.live == 0 && self.pending == 0
    }

    /// The records to write into the directory next, and the index of the first one's block; whole blocks, unless the
    /// slab gets no more.
    pub(super) fn next_directory_write(&self) -> Option<(u64, &[Record])> {
        let most = DIRECTORY_BATCH * RECORDS_PER_BLOCK;
        let count = if self.is_sealed && self.pending == 0 {
            self.tail.len().min(most)
        } else if self.tail.len() >= most {
            most
        } else {
            0
        };
        // A block that is not full is the last one.
        debug_assert!(count == 0 || (self.in_directory as usize).is_multiple_of(RECORDS_PER_BLOCK));
        let index = self.in_directory as usize / RECORDS_PER_BLOCK;
        (count > 0).then(|| (index as u64, &self.tail[..count]))
    }

    /// So many more records are in the directory.
    pub(super) fn wrote_directory(&mut self, count: usize) {
        self.tail.drain(..count);
        self.in_directory += count as u32;
        if self.tail.is_empty() && self.is_sealed {
            self.tail.shrink_to_fit();
            self.blobs.shrink_to_fit();
        }
    }

    /// What a checkpoint says of it, with or without what is kept in memory.
    pub(super) fn row(&self, number: u64, with_table: bool) -> Row {
        let records = self.records();
        let mut bits = vec![
            0;
            if self.dead > 0 {
                dead_bytes(records)
            } else {
                0
            }
        ];
        if self.dead > 0 {
            for (rank, known) in self.blobs.iter().enumerate() {
                bits[rank / 8] |= u8::from(known.is_dead()) << (rank % 8);
            }
        }
        Row {
            number,
            realm: self.realm,
            records,
            in_directory: self.in_directory,
            tail: self.tail.clone(),
            dead: (self.dead > 0).then_some(bits),
            table: with_table.then(|| Table {
                live: u32::try_from(self.live).expect("a slab has fewer blocks"),
                known: self
                    .blobs
                    .iter()
                    .map(|known| (known.start(), known.checksum))
                    .collect(),
            }),
        }
    }

    /// A slab as it was when a checkpoint was written that has its table.
    pub(super) fn from_table(
        extent: Rc<E>,
        row: &Row,
        table: &Table,
        slab_blocks: u64,
    ) -> Result<Self, WrongRow> {
        let mut slab = Self::new(extent, row.realm);
        slab.in_directory = row.in_directory;
        slab.tail = row.tail.clone();
        slab.live = table.live.into();
        // A table does not tell.
        slab.may_have_parts = true;
        // The table has the beginnings only.
        slab.ends = None;
        slab.blobs = Vec::with_capacity(table.known.len());
        let mut free = 0;
        for (rank, &(start, checksum)) in table.known.iter().enumerate() {
            if u64::from(start) < free || u64::from(start) >= slab_blocks {
                return Err(WrongRow("a blob that reaches beyond its place"));
            }
            free = u64::from(start) + 1;
            let is_dead = row.is_dead(rank);
            slab.dead += u32::from(is_dead);
            slab.blobs.push(Known {
                word: start | if is_dead { DEAD } else { 0 },
                checksum,
            });
        }
        let blobs = slab.blobs();
        if slab.live > slab_blocks || blobs > slab.live || (blobs == 0) != (slab.live == 0) {
            return Err(WrongRow("more or fewer blocks than its blobs can have"));
        }
        Ok(slab)
    }

    /// A slab as it was when a checkpoint was written: `records` are those of its directory and of the row. Shows those
    /// that are alive.
    pub(super) fn from_row(
        extent: Rc<E>,
        row: &Row,
        mut records: Vec<Record>,
        slab_blocks: u64,
        mut show: impl FnMut(&Record),
    ) -> Result<Self, WrongRow> {
        let mut slab = Self::new(extent, row.realm);
        slab.in_directory = row.in_directory;
        slab.tail = row.tail.clone();
        if !records.is_sorted_by_key(|record| record.position) {
            records.sort_unstable_by_key(|record| record.position);
        }
        slab.blobs = Vec::with_capacity(records.len());
        let mut free = 0;
        let mut ends = BTreeMap::new();
        for (rank, record) in records.iter().enumerate() {
            let start = record.position.0 % slab_blocks;
            if record.position.0 / slab_blocks != row.number {
                return Err(WrongRow("a blob of another slab"));
            }
            if start < free || start + record.blocks() > slab_blocks {
                return Err(WrongRow("a blob that reaches beyond its place"));
            }
            if let Some(before) = slab.blobs.last().filter(|_| start != free) {
                ends.insert(before.start(), free as u32);
            }
            free = start + record.blocks();
            let is_dead = row.is_dead(rank);
            slab.blobs.push(Known {
                word: start as u32 | if is_dead { DEAD } else { 0 },
                checksum: record.checksum,
            });
            slab.may_have_parts |= record.role != Role::Whole;
            if is_dead {
                slab.dead += 1;
            } else {
                slab.live += record.blocks();
                show(record);
            }
        }
        ends.extend(slab.blobs.last().map(|last| (last.start(), free as u32)));
        slab.ends = Some(ends);
        Ok(slab)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::{BLOCK_BYTES, Key, KeyKind, Position};
    use super::*;

    fn known(start: u32) -> Known {
        Known {
            word: start | if start.is_multiple_of(3) { DEAD } else { 0 },
            checksum: start,
        }
    }

    fn record(start: u64, blocks: u64) -> Record {
        Record {
            key: Key::new([0; 32]),
            kind: KeyKind::Name,
            position: Position(0x8000 + start),
            length: blocks * BLOCK_BYTES as u64,
            checksum: 0,
            role: Role::Whole,
        }
    }

    proptest! {
        /// Windows of up to four blocks, committed in any order, some never: each block is in the window that a plain search
        /// finds, also when what is known of the ends is made anew.
        #[test]
        fn a_block_is_in_the_window_that_has_it(
            windows in prop::collection::vec((1_u64..=4, any::<bool>(), any::<u32>()), 0..60),
        ) {
            let mut committed = Vec::new();
            let mut next = 0;
            for (blocks, is_committed, turn) in windows {
                if is_committed {
                    committed.push((turn, record(next, blocks)));
                }
                next += blocks;
            }
            committed.sort_by_key(|(turn, _)| *turn);
            let mut records: Vec<Record> = committed.into_iter().map(|(_, record)| record).collect();
            let mut slab = Slab::new(Rc::new(()), RealmId(1));
            for (at, record) in records.iter().enumerate() {
                prop_assert!(slab.add((record.position.0 % 0x8000) as u32, record));
                if at % 3 == 0 {
                    slab.kill((record.position.0 % 0x8000) as u32, record.blocks());
                }
            }
            let row = Row { table: None, ..slab.row(1, false) };
            let again = Slab::from_row(Rc::new(()), &row, records.clone(), 0x8000, |_| ()).unwrap();
            for block in 0..next as u32 + 3 {
                let plain = records.iter().find_map(|record| {
                    let start = (record.position.0 % 0x8000) as u32;
                    let window = start..start + record.blocks() as u32;
                    window.contains(&block).then_some(window)
                });
                prop_assert_eq!(slab.window(block), Ok(plain.clone()));
                prop_assert_eq!(again.window(block), Ok(plain));
            }
            let whole = slab.row(1, true);
            let table = whole.table.as_ref().unwrap();
            let mut taken = Slab::from_table(Rc::new(()), &whole, table, 0x8000).unwrap();
            if let Some(last) = records.last().copied() {
                prop_assert_eq!(taken.window((last.position.0 % 0x8000) as u32), Err(EndsUnknown));
                let mut fewer = records[1..].to_vec();
                prop_assert!(!taken.learn_ends(&mut fewer, 0x8000));
            }
            prop_assert!(taken.learn_ends(&mut records, 0x8000));
            for block in 0..next as u32 + 3 {
                prop_assert_eq!(taken.window(block), slab.window(block));
            }
        }

        #[test]
        fn a_blob_is_found_where_a_plain_search_finds_it(
            starts in prop::collection::btree_set(0u32..5000, 0..400),
            few in prop::collection::btree_set(0u32..SLAB_BLOCKS_MAX as u32, 0..40),
        ) {
            for starts in [starts, few] {
                let blobs: Vec<_> = starts.iter().copied().map(known).collect();
                let near = starts.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]);
                for start in near.chain([0, 4999, SLAB_BLOCKS_MAX as u32 - 1]) {
                    let plain = blobs.binary_search_by_key(&start, |known| known.start());
                    prop_assert_eq!(place_of(&blobs, start), plain);
                }
            }
        }
    }
}
