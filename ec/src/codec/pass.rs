//! The one pass over the buffers.
//!
//! Without checksums one call codes whole buffers: the CPU's own prefetchers then run through undisturbed. With checksums
//! the best kernel makes them as it codes; elsewhere work goes in tiles that are in the cache when their checksums are
//! computed.
//!
//! The checksum of a parity shard whose coefficients are all 1 is not computed from its bytes: it follows from those of
//! the data.

#![forbid(unsafe_code)]

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{Codec, Crc32c, Prepared, portable};
use crate::limits::{BLOCK_BYTES, SHARDS_MAX, TILE_BYTES};

impl Codec {
    /// Codes buffers of one length.
    pub(super) fn code(&self, prepared: &Prepared, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        if let Some(vector) = self.vector
            && vector.code(prepared, inputs, outputs)
        {
            return;
        }
        let length = inputs.first().map_or(0, |input| input.len());
        for start in (0..length).step_by(CALL_BYTES) {
            let range = start..length.min(start + CALL_BYTES);
            self.code_range(prepared, inputs, outputs, range);
        }
    }

    /// [`Self::code`] with tables of `widths`, and carries the checksums of inputs and outputs along.
    pub(super) fn code_checked(
        &self,
        prepared: &Prepared,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        checksums: &mut [Crc32c],
    ) {
        let before: ArrayVec<Crc32c, SHARDS_MAX> = checksums.iter().copied().collect();
        let length = inputs.first().map_or(0, |input| input.len());
        let mut states = Crc32c::states(checksums);
        if let Some(vector) = self.vector
            && vector.code_checked(prepared, inputs, outputs, &mut states)
        {
            Crc32c::set_states(checksums, &states);
        } else {
            let tile = tile_length(inputs.len() + outputs.len());
            for start in (0..length).step_by(tile) {
                let range = start..length.min(start + tile);
                self.code_range(prepared, inputs, outputs, range.clone());
                self.carry(checksums, inputs, outputs, range);
            }
        }
        let (data, parity) = checksums.split_at_mut(inputs.len());
        let (data_before, parity_before) = before.split_at(inputs.len());
        let sums = sums_of_data(inputs.len(), outputs.len());
        for (checksum, own) in parity.iter_mut().zip(parity_before).take(sums) {
            *checksum = Crc32c::of_sum(data_before, data, *own, length);
        }
    }

    fn code_range(
        &self,
        prepared: &Prepared,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        range: Range<usize>,
    ) {
        match self.kernel {
            Some(kernel) => kernel.encode(&prepared.tables, inputs, outputs, range),
            None if prepared.powers => portable::powers(inputs, outputs, range),
            None => portable::combine(
                &prepared.coefficients,
                inputs.len(),
                0,
                inputs,
                outputs,
                range,
                false,
            ),
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
