//! The windows of a slab as they are kept in memory: eight bytes for each.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use oriel_dht::region::prefetch;

use crate::limits::SLAB_BLOCKS_MAX;

const DEAD: u32 = 1 << 31;

const _: () = assert!(SLAB_BLOCKS_MAX <= DEAD as u64);

/// A blob of a slab: its first block there, whether it is dead, and its checksum.
pub(super) struct Known {
    /// Changed on the slab's own core only, while others look at it for the beginning.
    word: AtomicU32,
    pub(super) checksum: u32,
}

impl Known {
    pub(super) fn new(start: u32, is_dead: bool, checksum: u32) -> Self {
        let word = AtomicU32::new(start | if is_dead { DEAD } else { 0 });
        Self { word, checksum }
    }

    pub(super) fn start(&self) -> u32 {
        self.word.load(Relaxed) & !DEAD
    }

    pub(super) fn is_dead(&self) -> bool {
        self.word.load(Relaxed) & DEAD != 0
    }

    fn die(&self) {
        self.word.store(self.start() | DEAD, Relaxed);
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

/// Windows of fewer blocks than this, on average, are worth a bit for each block of their slab: 5 bytes for each of them at most.
const DENSE_BLOCKS: usize = 40;
/// Fewer windows than this are all in the caches.
const MANY: usize = 256;

/// A bit for each block that a window begins at, up to the last one: so many small windows fit the caches as bits whose
/// table does not. Empty where the table is small.
struct Starts(Vec<u64>);

impl Starts {
    fn of(blobs: &[Known]) -> Self {
        let is_dense = |last: &Known| (last.start() as usize) < blobs.len() * DENSE_BLOCKS;
        let mut starts = Self(Vec::new());
        if let Some(last) = blobs.last().filter(|_| blobs.len() >= MANY)
            && is_dense(last)
        {
            starts.0 = vec![0; last.start() as usize / 64 + 1];
            blobs.iter().for_each(|known| starts.set(known.start()));
        }
        starts
    }

    fn set(&mut self, start: u32) {
        let word = start as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (start % 64);
    }

    /// The last one that is not after a block.
    fn at_or_before(&self, block: u32) -> Option<u32> {
        let at = block as usize / 64;
        let upto = !0 >> (63 - block % 64);
        let (before, own) = match self.0.get(at) {
            Some(word) => (&self.0[..at], word & upto),
            None => (&self.0[..], 0),
        };
        if own != 0 {
            return Some(at as u32 * 64 + own.ilog2());
        }
        let found = before.iter().rposition(|word| *word != 0)?;
        Some(found as u32 * 64 + before[found].ilog2())
    }

    /// The first one after a block.
    fn after(&self, block: u32) -> Option<u32> {
        let at = block as usize / 64;
        let own = *self.0.get(at)? & (!1 << (block % 64));
        if own != 0 {
            return Some(at as u32 * 64 + own.trailing_zeros());
        }
        let behind = &self.0[at + 1..];
        let found = behind.iter().position(|word| *word != 0)?;
        Some((at + 1 + found) as u32 * 64 + behind[found].trailing_zeros())
    }
}

/// The windows of a slab that blobs are or were in, in the order of their positions.
pub(super) struct Windows {
    pub(super) blobs: Vec<Known>,
    starts: Starts,
    /// Where windows end that have a gap behind them, by their first block; the others end where the next one begins. `None`
    /// where that has to be found out first.
    pub(super) ends: Option<BTreeMap<u32, u32>>,
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

impl Windows {
    pub(super) fn new() -> Self {
        Self::of(Vec::new(), Some(BTreeMap::new()))
    }

    /// Blobs in the order of their windows, and where those end.
    pub(super) fn of(blobs: Vec<Known>, ends: Option<BTreeMap<u32, u32>>) -> Self {
        let starts = Starts::of(&blobs);
        Self {
            blobs,
            starts,
            ends,
        }
    }

    /// There will be no more.
    pub(super) fn shrink_to_fit(&mut self) {
        self.blobs.shrink_to_fit();
        self.starts.0.shrink_to_fit();
    }

    /// Adds the window that begins at block `start`; false if there is one.
    pub(super) fn add(&mut self, start: u32, blocks: u32, checksum: u32) -> bool {
        // Blobs come nearly in the order of their windows.
        let place = match self.blobs.last() {
            Some(last) if last.start() >= start => match place_of(&self.blobs, start) {
                Ok(_) => return false,
                Err(place) => place,
            },
            _ => self.blobs.len(),
        };
        self.blobs.insert(place, Known::new(start, false, checksum));
        match self.starts.0.is_empty() {
            true if self.blobs.len().is_multiple_of(MANY) => self.starts = Starts::of(&self.blobs),
            true => {}
            false => self.starts.set(start),
        }
        self.note_end(place, start + blocks);
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
        let Some((start, next)) = self.around(block) else {
            return Ok(None);
        };
        let ends = self.ends.as_ref().ok_or(EndsUnknown)?;
        let end = ends.get(&start).copied().or(next);
        let window = start..end.expect("the last window's end is noted");
        Ok(window.contains(&block).then_some(window))
    }

    /// Where the last window begins that begins at a block or before it, and the one after it.
    fn around(&self, block: u32) -> Option<(u32, Option<u32>)> {
        if !self.starts.0.is_empty() {
            let start = self.starts.at_or_before(block)?;
            return Some((start, self.starts.after(block)));
        }
        let at = match place_of(&self.blobs, block) {
            Ok(at) => at,
            Err(behind) => behind.checked_sub(1)?,
        };
        let next = self.blobs.get(at + 1).map(Known::start);
        Some((self.blobs[at].start(), next))
    }

    /// Takes the ends of all windows, which are in order; false if these are not all that there are by now.
    pub(super) fn learn_ends(&mut self, windows: impl Iterator<Item = Range<u32>> + Clone) -> bool {
        let starts = self.blobs.iter().map(Known::start);
        if !starts.eq(windows.clone().map(|window| window.start)) {
            return false;
        }
        self.ends = Some(gaps(windows));
        true
    }

    /// Marks the blob as dead whose window begins at block `start`; whether it was alive.
    pub(super) fn kill(&self, start: u32) -> bool {
        let found = place_of(&self.blobs, start).ok();
        let known = found.map(|at| &self.blobs[at]).filter(|it| !it.is_dead());
        known.inspect(|known| known.die()).is_some()
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The window of a block as a plain walk over all windows finds it.
    fn walked(windows: &BTreeMap<u32, u32>, block: u32) -> Option<Range<u32>> {
        let (&start, &end) = windows.range(..=block).next_back()?;
        (block < end).then_some(start..end)
    }

    proptest! {
        #[test]
        fn every_block_is_in_the_window_that_was_added_there(
            lengths in prop::collection::vec((1u32..6, 0u32..4), 0..700),
            late in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            far in 0u32..20_000,
        ) {
            let mut all = BTreeMap::new();
            let mut free = far;
            for (blocks, gap) in lengths {
                let start = free + gap.saturating_sub(2);
                free = start + blocks;
                all.insert(start, free);
            }
            // Nearly in order.
            let mut order: Vec<_> = all.iter().map(|(start, end)| (*start, *end)).collect();
            for late in late {
                if let Some(pairs) = order.len().checked_sub(1).filter(|pairs| *pairs > 0) {
                    let at = late.index(pairs);
                    order.swap(at, at + 1);
                }
            }
            let mut windows = Windows::new();
            for (start, end) in &order {
                prop_assert!(windows.add(*start, end - start, 0));
            }
            let known = windows.blobs.iter().map(|it| Known::new(it.start(), false, 0));
            let taken = Windows::of(known.collect(), windows.ends.clone());
            for windows in [&windows, &taken] {
                for block in (0..far.min(300)).chain(far.saturating_sub(70)..free + 200) {
                    prop_assert_eq!(windows.window(block), Ok(walked(&all, block)), "block {}", block);
                }
            }
        }

        #[test]
        fn a_blob_is_found_where_a_plain_search_finds_it(
            starts in prop::collection::btree_set(0u32..5000, 0..400),
            few in prop::collection::btree_set(0u32..SLAB_BLOCKS_MAX as u32, 0..40),
        ) {
            for starts in [starts, few] {
                let blobs: Vec<_> = starts.iter().map(|&at| Known::new(at, at % 3 == 0, at)).collect();
                let near = starts.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]);
                for start in near.chain([0, 4999, SLAB_BLOCKS_MAX as u32 - 1]) {
                    let plain = blobs.binary_search_by_key(&start, Known::start);
                    prop_assert_eq!(place_of(&blobs, start), plain);
                }
            }
        }
    }
}
