//! A partition's line: who owns it and who shall, in one cache line.
//!
//! ```text
//!  byte  0       4       8          11   12                                                  64
//!        +-------+-------+----------+----+------+------+-- --+------+------+-- --+---------+
//!        | sum   | epoch | moving   | n  | owner| owner| ... | next | next | ... | nobody  |
//!        | u32   | u32   | 24 bits  | u8 | 0    | 1    |     | (1st | (2nd |     | (FFFFh) |
//!        |       |       |          |    | u16  | u16  |     | moving shard)     |         |
//!        +-------+-------+----------+----+------+------+-- --+------+------+-- --+---------+
//! ```
//!
//! All numbers are little-endian. There are 26 places of 16 bits: first the n
//! owners in the order of shards, then for every bit that is set in `moving`,
//! in ascending order, the node that shall own that shard. What is left is
//! filled with FFFFh. `sum` is the CRC32C of the whole line with a sum of 0,
//! begun with the partition's number, so that a line in the wrong place is
//! found as well.
//! `epoch` is that of the ring in which the line last changed.

use arrayvec::ArrayVec;
use zerocopy::IntoBytes;

use super::limits::{LINE_BYTES, LINE_WORDS, OWNERS_MAX, PLACES};
use super::units::{Epoch, NodeSlot, PartitionId, Shard};

/// The words of a line as they lie in memory, read as little-endian numbers.
pub type Words = [u64; LINE_WORDS];

const SUM_AT: usize = 0;
const EPOCH_AT: usize = 4;
const MOVING_AT: usize = 8;
const COUNT_AT: usize = 11;
const PLACES_AT: usize = 12;

const _: () = assert!(EPOCH_AT == SUM_AT + 4);
const _: () = assert!(MOVING_AT == EPOCH_AT + 4);
const _: () = assert!(COUNT_AT == MOVING_AT + OWNERS_MAX / 8);
const _: () = assert!(PLACES_AT == COUNT_AT + 1);
const _: () = assert!(PLACES_AT + 2 * PLACES == LINE_BYTES);
const _: () = assert!(size_of::<Words>() == LINE_BYTES);

/// Why a line is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The checksum is another one.
    #[error(
        "the line of partition {partition} is damaged: checksum {found:#010x}, computed {computed:#010x}; fetch the table again"
    )]
    Checksum {
        /// The partition asked for.
        partition: PartitionId,
        /// The checksum in the line.
        found: u32,
        /// The checksum of the line's other bytes.
        computed: u32,
    },
    /// The checksum is right, and the content cannot be: whoever wrote it does not know this layout.
    #[error(
        "the line of partition {partition} has {owners} owners, moving shards {moving:#x}: no line has; the writer is of another version"
    )]
    Shape {
        /// The partition asked for.
        partition: PartitionId,
        /// The number of owners it claims.
        owners: u8,
        /// The moving shards it claims.
        moving: u32,
    },
    /// There is no such partition.
    #[error("there is no partition {partition}: the table has {partitions}")]
    NoPartition {
        /// The partition asked for.
        partition: PartitionId,
        /// The number of partitions.
        partitions: usize,
    },
    /// A writer has held the line for longer than any writer does.
    #[error(
        "the line of partition {partition} stays locked: its writer ended halfway; write the line again"
    )]
    Locked {
        /// The partition asked for.
        partition: PartitionId,
    },
}

/// The owners of a partition: one line, checked.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line {
    words: Words,
}

impl Line {
    /// A line that says: in this order these are the owners, and shard i shall go to `next[i]` where that is another node.
    /// As many moves as fit are taken, those of lower shards first; the number of those left out comes with the line.
    /// Nothing if there are too many owners, or none.
    pub fn new(
        partition: PartitionId,
        epoch: Epoch,
        owners: &[NodeSlot],
        next: &[NodeSlot],
    ) -> Option<(Self, usize)> {
        if owners.is_empty() || owners.len() > OWNERS_MAX {
            return None;
        }
        let mut places = [NodeSlot::NOBODY; PLACES];
        places[..owners.len()].copy_from_slice(owners);
        let (mut moving, mut used, mut deferred) = (0u32, owners.len(), 0);
        for (shard, (owner, next)) in owners.iter().zip(next).enumerate() {
            if owner == next {
                continue;
            }
            if let Some(place) = places.get_mut(used) {
                *place = *next;
                moving |= 1 << shard;
                used += 1;
            } else {
                deferred += 1;
            }
        }
        let mut bytes = [0; LINE_BYTES];
        bytes[EPOCH_AT..][..4].copy_from_slice(&epoch.0.to_le_bytes());
        bytes[MOVING_AT..][..4]
            .copy_from_slice(&(moving | (owners.len() as u32) << OWNERS_MAX).to_le_bytes());
        for (at, place) in bytes[PLACES_AT..].chunks_exact_mut(2).zip(places) {
            at.copy_from_slice(&place.0.to_le_bytes());
        }
        let sum = checksum(partition, &words_of(&bytes));
        bytes[SUM_AT..][..4].copy_from_slice(&sum.to_le_bytes());
        Some((
            Self {
                words: words_of(&bytes),
            },
            deferred,
        ))
    }

    /// The line that these words are, if they are one of this partition.
    ///
    /// # Errors
    ///
    /// A wrong checksum, or content that no line has.
    #[inline]
    pub fn check(partition: PartitionId, words: Words) -> Result<Self, LineError> {
        let found = words[0] as u32;
        let computed = checksum(partition, &words);
        if found != computed {
            return Err(LineError::Checksum {
                partition,
                found,
                computed,
            });
        }
        let line = Self { words };
        let (owners, moving) = (line.len(), line.moving());
        let fits = (1..=OWNERS_MAX).contains(&owners) && moving >> owners == 0;
        if !fits || owners + moving.count_ones() as usize > PLACES {
            return Err(LineError::Shape {
                partition,
                owners: owners as u8,
                moving,
            });
        }
        Ok(line)
    }

    /// The epoch in which the line last changed.
    #[inline]
    pub const fn epoch(&self) -> Epoch {
        Epoch((self.words[0] >> 32) as u32)
    }

    const fn head(&self) -> u32 {
        self.words[1] as u32
    }

    /// The number of owners, and of shards.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "every line has an owner")]
    pub const fn len(&self) -> usize {
        (self.head() >> OWNERS_MAX) as usize
    }

    /// A bit for each shard that is on its way to another node, shard 0 the lowest.
    #[inline]
    pub const fn moving(&self) -> u32 {
        self.head() & ((1 << OWNERS_MAX) - 1)
    }

    #[inline]
    const fn place(&self, at: usize) -> NodeSlot {
        let byte = PLACES_AT + 2 * at;
        NodeSlot((self.words[byte / 8] >> (8 * (byte % 8))) as u16)
    }

    /// Who has the shard now. Nothing if the line has no such shard.
    #[inline]
    pub fn owner(&self, shard: Shard) -> Option<NodeSlot> {
        (shard.index() < self.len()).then(|| self.place(shard.index()))
    }

    /// Who shall have the shard, if it is moving.
    #[inline]
    pub fn next(&self, shard: Shard) -> Option<NodeSlot> {
        let moving = self.moving();
        let bit = 1u32.checked_shl(shard.0.into()).unwrap_or(0);
        (moving & bit != 0)
            .then(|| self.place(self.len() + (moving & (bit - 1)).count_ones() as usize))
    }

    /// Who has each shard now, shard by shard.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = NodeSlot> + '_ {
        (0..self.len()).map(|shard| self.place(shard))
    }

    /// Who has each shard once all moves are done.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = NodeSlot> + '_ {
        (0..self.len()).map(|shard| {
            self.next(Shard(shard as u8))
                .unwrap_or_else(|| self.place(shard))
        })
    }

    /// Every node to ask or to write to while moves last: the owners, then those that shall replace some. Owners of
    /// several shards come once.
    pub fn nodes(&self) -> ArrayVec<NodeSlot, PLACES> {
        let mut nodes = ArrayVec::new();
        for at in 0..self.len() + self.moving().count_ones() as usize {
            let node = self.place(at);
            if node != NodeSlot::NOBODY && !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// Whether both say the same, whatever their epochs.
    pub fn same_content(&self, other: &Self) -> bool {
        self.words[1..] == other.words[1..]
    }

    /// The line as it lies in memory.
    pub const fn words(&self) -> &Words {
        &self.words
    }

    /// The line as it travels.
    pub fn bytes(&self) -> [u8; LINE_BYTES] {
        bytes_of(&self.words)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owners: Vec<u16> = self.owners().map(|node| node.0).collect();
        write!(f, "epoch {} owners {owners:?}", self.epoch())?;
        for shard in 0..self.len() {
            if let Some(next) = self.next(Shard(shard as u8)) {
                write!(f, " {shard}->{next}")?;
            }
        }
        Ok(())
    }
}

/// Whole words, since every byte beside them takes as long as a word does.
#[inline]
fn checksum(partition: PartitionId, words: &Words) -> u32 {
    let mut words = words.map(u64::to_le);
    words[0] &= !0xFFFF_FFFFu64.to_le();
    crc32c::crc32c_append(partition.0, words.as_bytes())
}

#[inline]
pub(super) fn bytes_of(words: &Words) -> [u8; LINE_BYTES] {
    let mut bytes = [0; LINE_BYTES];
    for (at, word) in bytes.chunks_exact_mut(8).zip(words) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[inline]
pub(super) fn words_of(bytes: &[u8; LINE_BYTES]) -> Words {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: &[u16]) -> Vec<NodeSlot> {
        numbers.iter().copied().map(NodeSlot).collect()
    }

    fn line(owners: &[u16], next: &[u16]) -> Line {
        let (line, deferred) =
            Line::new(PartitionId(7), Epoch(3), &nodes(owners), &nodes(next)).unwrap();
        assert_eq!(deferred, 0);
        line
    }

    #[test]
    fn the_bytes_of_a_line_are_these() {
        let line = line(&[1, 2, 0x0304], &[1, 9, 0x0304]);
        let mut expected = vec![3, 0, 0, 0, 0b010, 0, 0, 3, 1, 0, 2, 0, 4, 3, 9, 0];
        expected.resize(60, 0xFF);
        assert_eq!(line.bytes()[4..], expected);
        assert_eq!(line.bytes()[..4], GOLDEN_SUM);
        assert_eq!(Line::check(PartitionId(7), *line.words()), Ok(line));
    }

    /// Written down once; the next test computes it bit by bit.
    const GOLDEN_SUM: [u8; 4] = [63, 12, 91, 231];

    #[test]
    fn the_checksum_is_crc32c_begun_with_the_partition() {
        let bytes = line(&[1, 2, 0x0304], &[1, 9, 0x0304]).bytes();
        let mut crc = !7u32;
        for byte in [0; 4].iter().chain(&bytes[4..]) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            }
        }
        assert_eq!(bytes[..4], (!crc).to_le_bytes());
    }

    #[test]
    fn moving_shards_have_an_old_and_a_new_owner() {
        let line = line(&[5, 6, 7, 8], &[5, 16, 7, 18]);
        assert_eq!(line.moving(), 0b1010);
        assert_eq!(line.owners().collect::<Vec<_>>(), nodes(&[5, 6, 7, 8]));
        assert_eq!(line.targets().collect::<Vec<_>>(), nodes(&[5, 16, 7, 18]));
        let next: Vec<_> = (0..6).map(|shard| line.next(Shard(shard))).collect();
        let [a, b] = [16, 18].map(|node| Some(NodeSlot(node)));
        assert_eq!(next, [None, a, None, b, None, None]);
        assert_eq!(line.owner(Shard(3)), Some(NodeSlot(8)));
        assert_eq!(line.owner(Shard(4)), None);
        assert_eq!(line.next(Shard(200)), None);
        assert_eq!(line.nodes()[..], nodes(&[5, 6, 7, 8, 16, 18]));
    }

    #[test]
    fn moves_beyond_the_places_are_left_out_and_counted() {
        let owners: Vec<u16> = (0..20).collect();
        let next: Vec<u16> = (100..120).collect();
        let (line, deferred) =
            Line::new(PartitionId(0), Epoch(1), &nodes(&owners), &nodes(&next)).unwrap();
        assert_eq!(deferred, 14);
        assert_eq!(line.moving(), 0b11_1111);
        assert_eq!(line.targets().nth(5), Some(NodeSlot(105)));
        assert_eq!(line.targets().nth(6), Some(NodeSlot(6)));
        let twelve = Line::new(
            PartitionId(0),
            Epoch(1),
            &nodes(&owners[..12]),
            &nodes(&next[..12]),
        );
        assert_eq!(twelve.unwrap().1, 0);
        assert!(Line::new(PartitionId(0), Epoch(1), &nodes(&[1; 25]), &[]).is_none());
        assert!(Line::new(PartitionId(0), Epoch(1), &[], &[]).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_other_partition_is_found() {
        let line = line(&[1, 2, 3, 4, 5, 6], &[1, 2, 9, 4, 5, 6]);
        for bit in 0..8 * LINE_BYTES {
            let mut bytes = line.bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let result = Line::check(PartitionId(7), words_of(&bytes));
            assert!(matches!(result, Err(LineError::Checksum { .. })), "{bit}");
        }
        for other in (0..1 << 20).filter(|other| *other != 7) {
            assert!(Line::check(PartitionId(other), *line.words()).is_err());
        }
    }

    #[test]
    fn a_shape_that_no_line_has_is_refused_though_its_checksum_is_right() {
        let good = line(&[1, 2, 3], &[1, 2, 3]).bytes();
        for (moving, count) in [(0u8, 0u8), (0, 25), (0b1000, 3), (0, 255)] {
            let mut bytes = good;
            bytes[MOVING_AT] = moving;
            bytes[COUNT_AT] = count;
            let sum = checksum(PartitionId(7), &words_of(&bytes));
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
            let result = Line::check(PartitionId(7), words_of(&bytes));
            assert!(matches!(result, Err(LineError::Shape { .. })), "{count}");
        }
    }
}
