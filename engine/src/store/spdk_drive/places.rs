//! Where extents are on their device, for transfers that need no Blobstore.

use oriel_spdk::bdev::BlockRange;
use oriel_spdk::blob::Place;

use super::super::types::BLOCK_BYTES;

/// Where an extent is on its device.
pub struct Places {
    /// By its units; empty if that is not known.
    pub(super) list: Vec<Place>,
    /// Units in a block.
    pub(super) units: u64,
    pub(super) blocks: u64,
    /// The most blocks that go to the device in one.
    pub(super) blocks_per_cluster: u64,
}

impl Places {
    /// Where on the device some of its units are, if that is one place.
    pub(super) fn on_device(&self, units: BlockRange) -> Option<BlockRange> {
        if units.count > self.units * self.blocks_per_cluster {
            return None;
        }
        let place = match &self.list[..] {
            [only] => only,
            all => {
                let behind = all.partition_point(|place| place.first <= units.start);
                all.get(behind.checked_sub(1)?)?
            }
        };
        let skipped = units.start - place.first;
        let is_inside = skipped + units.count <= place.on_device.count;
        let start = place.on_device.start + skipped;
        is_inside.then(|| BlockRange::new(start, units.count))
    }

    /// The units that so many bytes from a block on are in; `None` if they are not whole blocks of it.
    pub(super) fn units(&self, block: u64, bytes: usize) -> Option<BlockRange> {
        let blocks = bytes.div_ceil(BLOCK_BYTES) as u64;
        let is_inside = block
            .checked_add(blocks)
            .is_some_and(|end| end <= self.blocks);
        let is_whole = bytes.is_multiple_of(BLOCK_BYTES);
        (is_inside && is_whole).then(|| BlockRange::new(block * self.units, blocks * self.units))
    }
}
