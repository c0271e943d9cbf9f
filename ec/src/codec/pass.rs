//! The one pass over the buffers, in tiles that are in the cache when their checksums are computed.
//!
//! Without checksums there is nothing to come back for, and one call codes whole buffers: the CPU's own prefetchers then
//! run through undisturbed.
//!
//! The checksum of a parity shard whose coefficients are all 1 is not computed from its bytes: it follows from those of
//! the data.

#![forbid(unsafe_code)]

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{Codec, Crc32c, Prepared, portable};
use crate::limits::{BLOCK_BYTES, SHARDS_MAX, TILE_BYTES};

impl Codec {
    /// Codes buffers of one length, tile by tile. Checksums of inputs and outputs are carried along where they are wanted,
    /// which is only with the tables of `widths`.
    pub(super) fn code(
        &self,
        prepared: &Prepared,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        mut checksums: Option<&mut [Crc32c]>,
    ) {
        let length = inputs.first().map_or(0, |input| input.len());
        let tile = if checksums.is_some() {
            tile_length(inputs.len() + outputs.len())
        } else {
            CALL_BYTES
        };
        let before: Option<ArrayVec<Crc32c, SHARDS_MAX>> = checksums
            .as_deref()
            .map(|checksums| checksums.iter().copied().collect());
        let mut at = 0;
        while at < length {
            let range = at..length.min(at + tile);
            match self.kernel {
                Some(kernel) => kernel.encode(&prepared.tables, inputs, outputs, range.clone()),
                None => portable::combine(
                    &prepared.coefficients,
                    inputs.len(),
                    0,
                    inputs,
                    outputs,
                    range.clone(),
                    false,
                ),
            }
            if let Some(checksums) = checksums.as_deref_mut() {
                self.carry(checksums, inputs, outputs, range.clone());
            }
            at = range.end;
        }
        if let (Some(checksums), Some(before)) = (checksums, before) {
            let (data, parity) = checksums.split_at_mut(inputs.len());
            for (row, checksum) in parity
                .iter_mut()
                .enumerate()
                .take(sums_of_data(inputs.len(), outputs.len()))
            {
                *checksum = Crc32c::of_sum(
                    &before[..inputs.len()],
                    data,
                    before[inputs.len() + row],
                    length,
                );
            }
        }
    }

    /// Carries the checksums over a tile that was just coded, but for those that follow from others.
    fn carry(
        &self,
        checksums: &mut [Crc32c],
        inputs: &[&[u8]],
        outputs: &[&mut [u8]],
        range: Range<usize>,
    ) {
        let (data, parity) = checksums.split_at_mut(inputs.len());
        for (checksum, buffer) in data.iter_mut().zip(inputs) {
            *checksum = self.checksum(*checksum, &buffer[range.clone()]);
        }
        let sums = sums_of_data(inputs.len(), outputs.len());
        for (checksum, buffer) in parity.iter_mut().zip(outputs).skip(sums) {
            *checksum = self.checksum(*checksum, &buffer[range.clone()]);
        }
    }

    /// Adds one data shard's piece to the parity at the same offsets.
    pub(super) fn add(&self, shard: usize, piece: &[u8], parity: &mut [&mut [u8]]) {
        let columns = self.scheme.data_shards();
        let prepared = &self.widths[columns - 1];
        match self.kernel {
            Some(kernel) => kernel.update(&prepared.tables, columns, shard, piece, parity),
            None => {
                portable::combine(
                    &prepared.coefficients,
                    columns,
                    shard,
                    &[piece],
                    parity,
                    0..piece.len(),
                    true,
                );
            }
        }
    }

    pub(super) fn checksum(&self, before: Crc32c, bytes: &[u8]) -> Crc32c {
        if self.kernel.is_some() {
            before.and(bytes)
        } else {
            before.and_portable(bytes)
        }
    }
}

/// The most bytes of each buffer in one call where no checksums are wanted: whole units, but a length that fits a C int.
const CALL_BYTES: usize = 1 << 30;

/// How many parity shards, from the first on, are plain sums of the data: their checksums follow from those of the data.
fn sums_of_data(width: usize, parity: usize) -> usize {
    if width == 1 { parity } else { parity.min(1) }
}

/// The bytes of each of so many buffers in one tile: whole blocks, which prefetchers like.
fn tile_length(buffers: usize) -> usize {
    (TILE_BYTES / buffers) & !(BLOCK_BYTES as usize - 1)
}
