//! Memory that knows the checksums of its blocks by the time it is full.
//!
//! Whoever asks for one long blob waits for its last byte; what is left to do then is what takes longer. So blocks are summed as
//! they come, in the CPU's cache, while the node is still sending, where the transport says what has come.

use std::ops::Range;

use super::BLOCK;
use crate::memory::{Memory, Region};
use crate::sums::crc32c;

/// Whole blocks of memory and their checksums.
pub(super) struct Summed<M> {
    memory: M,
    /// Of blocks all of which has come.
    sums: Vec<Option<u32>>,
}

impl<M: Memory> Summed<M> {
    pub(super) fn new(memory: M) -> Self {
        let blocks = memory.region().bytes / BLOCK;
        Self {
            memory,
            sums: vec![None; blocks],
        }
    }

    pub(super) fn into_inner(self) -> M {
        self.memory
    }

    /// The memory, full, and the checksum of each of its blocks; none where the CPU cannot reach it.
    pub(super) fn into_parts(self) -> (M, Option<Vec<u32>>) {
        let Self { memory, sums } = self;
        let sums = memory.host().map(|bytes| {
            let blocks = sums.iter().zip(bytes.chunks_exact(BLOCK));
            let sum = |(sum, block): (&Option<u32>, &[u8])| sum.unwrap_or_else(|| crc32c(block));
            blocks.map(sum).collect()
        });
        (memory, sums)
    }
}

impl<M: Memory> Memory for Summed<M> {
    fn region(&self) -> Region {
        self.memory.region()
    }

    fn host(&self) -> Option<&[u8]> {
        self.memory.host()
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        self.memory.host_mut()
    }

    fn arrived(&mut self, bytes: Range<usize>) {
        // From the block that has begun before to the last one that has ended.
        let blocks = bytes.start / BLOCK..bytes.end / BLOCK;
        if let (Some(sums), Some(all)) = (self.sums.get_mut(blocks.clone()), self.memory.host()) {
            let come = all[blocks.start * BLOCK..].chunks_exact(BLOCK);
            for (sum, block) in sums.iter_mut().zip(come) {
                *sum = Some(crc32c(block));
            }
        }
        self.memory.arrived(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: usize = 9;

    fn of_all(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(BLOCK).map(crc32c).collect()
    }

    fn write(memory: &mut Summed<Vec<u8>>, at: Range<usize>, byte: u8) {
        memory.host_mut().unwrap()[at.clone()].fill(byte);
        memory.arrived(at);
    }

    #[test]
    fn blocks_are_summed_however_they_come() {
        for step in [1000, 4095, 4096, 4097, 20_000, BLOCKS * BLOCK] {
            let mut memory = Summed::new(vec![0; BLOCKS * BLOCK]);
            // What has come before a connection was lost, and other bytes after that.
            write(&mut memory, 0..2 * BLOCK + 100, 1);
            for from in (0..BLOCKS * BLOCK).step_by(step) {
                let end = (from + step).min(BLOCKS * BLOCK);
                write(&mut memory, from..end, (from / 1000) as u8);
                let whole = end / BLOCK;
                let (so_far, _) = memory.sums.split_at(whole);
                let expected = of_all(&memory.memory[..whole * BLOCK]);
                assert!(so_far.iter().copied().eq(expected.into_iter().map(Some)));
            }
            let (memory, sums) = memory.into_parts();
            assert_eq!(sums, Some(of_all(&memory)));
        }
    }

    #[test]
    fn what_nobody_tells_of_is_summed_at_the_end() {
        let mut memory = Summed::new(vec![0; BLOCKS * BLOCK]);
        write(&mut memory, 4 * BLOCK..6 * BLOCK + 1, 3);
        memory.host_mut().unwrap()[7 * BLOCK..].fill(5);
        let (memory, sums) = memory.into_parts();
        assert_eq!(sums, Some(of_all(&memory)));
    }
}
