//! What the store keeps in memory of a slab: eight bytes for each of its blobs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::checkpoint::{Row, Table, dead_bytes};
use super::directory::RECORDS_PER_BLOCK;
use super::record::{Record, Role};
use super::shown::Shown;
use super::types::RealmId;
use super::windows::{EndsUnknown, Known, Windows};
use crate::limits::DIRECTORY_BATCH;

/// Whose what is kept of the windows is.
enum Whose {
    /// This slab's, which may get more of them.
    Own(Windows),
    /// Every core's: there will be no others.
    All(Arc<Shown>),
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
    windows: Whose,
    dead: u32,
    in_directory: u32,
    /// The records that are not in the directory yet, in the order in which they came.
    tail: Vec<Record>,
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
            windows: Whose::Own(Windows::new()),
            dead: 0,
            in_directory: 0,
            tail: Vec::new(),
        }
    }

    fn windows(&self) -> &Windows {
        match &self.windows {
            Whose::Own(windows) => windows,
            Whose::All(shown) => &shown.windows,
        }
    }

    /// Has other cores see its windows, of which there will be no more; `None` if there may be.
    pub(super) fn show(&mut self, cores: usize) -> Option<Arc<Shown>> {
        let own = match &mut self.windows {
            Whose::All(shown) => return Some(shown.clone()),
            Whose::Own(own) if self.is_sealed && self.pending == 0 && own.ends.is_some() => own,
            Whose::Own(_) => return None,
        };
        let windows = std::mem::replace(own, Windows::new());
        let shown = Arc::new(Shown::new(self.realm, windows, cores));
        self.windows = Whose::All(shown.clone());
        Some(shown)
    }

    /// What other cores see of it.
    pub(super) fn shown(&self) -> Option<&Arc<Shown>> {
        match &self.windows {
            Whose::Own(_) => None,
            Whose::All(shown) => Some(shown),
        }
    }

    /// Blobs that are in it.
    pub(super) fn blobs(&self) -> u64 {
        u64::from(self.records() - self.dead)
    }

    /// Blobs that are or were in it.
    pub(super) fn records(&self) -> u32 {
        self.windows().blobs.len() as u32
    }

    /// Adds a blob whose window begins at block `start` of the slab; false if there is one, or there may be no more.
    pub(super) fn add(&mut self, start: u32, record: &Record) -> bool {
        let Whose::Own(windows) = &mut self.windows else {
            return false;
        };
        if !windows.add(start, record.blocks() as u32, record.checksum) {
            return false;
        }
        self.tail.push(*record);
        self.may_have_parts |= record.role != Role::Whole;
        self.live += record.blocks();
        true
    }

    /// The window that a block is in, of a blob that is or was in the slab.
    pub(super) fn window(&self, block: u32) -> Result<Option<Range<u32>>, EndsUnknown> {
        self.windows().window(block)
    }

    /// Takes the ends of all windows from their records; false if these are not all that the slab has by now.
    pub(super) fn learn_ends(&mut self, records: &mut [Record], slab_blocks: u64) -> bool {
        let Whose::Own(windows) = &mut self.windows else {
            return true;
        };
        records.sort_unstable_by_key(|record| record.position);
        windows.learn_ends(records.iter().map(|record| {
            let start = (record.position.0 % slab_blocks) as u32;
            start..start + record.blocks() as u32
        }))
    }

    /// Marks the blob as dead whose window begins at block `start` and has so many blocks; whether it was alive.
    pub(super) fn kill(&mut self, start: u32, blocks: u64) -> bool {
        let was_alive = self.windows().kill(start);
        if was_alive {
            self.dead += 1;
            self.live -= blocks;
        }
        was_alive
    }

    /// The checksum in the record of the blob whose window begins at block `start`.
    pub(super) fn checksum(&self, start: u32) -> Option<u32> {
        self.windows().checksum(start)
    }

    /// Asks for what [`checksum`](Self::checksum) will look at, without waiting for it.
    pub(super) fn prefetch_checksum(&self, start: u32) {
        self.windows().prefetch_checksum(start);
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
            if let Whose::Own(windows) = &mut self.windows {
                windows.shrink_to_fit();
            }
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
            for (rank, known) in self.windows().blobs.iter().enumerate() {
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
                    .windows()
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
        let mut blobs = Vec::with_capacity(table.known.len());
        let mut free = 0;
        for (rank, &(start, checksum)) in table.known.iter().enumerate() {
            if u64::from(start) < free || u64::from(start) >= slab_blocks {
                return Err(WrongRow("a blob that reaches beyond its place"));
            }
            free = u64::from(start) + 1;
            let is_dead = row.is_dead(rank);
            slab.dead += u32::from(is_dead);
            blobs.push(Known::new(start, is_dead, checksum));
        }
        // The table has the beginnings only.
        let ends = None;
        slab.windows = Whose::Own(Windows::of(blobs, ends));
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
        let mut blobs: Vec<Known> = Vec::with_capacity(records.len());
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
            if let Some(before) = blobs.last().filter(|_| start != free) {
                ends.insert(before.start(), free as u32);
            }
            free = start + record.blocks();
            let is_dead = row.is_dead(rank);
            blobs.push(Known::new(start as u32, is_dead, record.checksum));
            slab.may_have_parts |= record.role != Role::Whole;
            if is_dead {
                slab.dead += 1;
            } else {
                slab.live += record.blocks();
                show(record);
            }
        }
        ends.extend(blobs.last().map(|last| (last.start(), free as u32)));
        let ends = Some(ends);
        slab.windows = Whose::Own(Windows::of(blobs, ends));
        Ok(slab)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::{BLOCK_BYTES, Key, KeyKind, Position};
    use super::*;

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
    }
}
