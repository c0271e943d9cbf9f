//! Coding a stripe while its bytes arrive, each piece while it is still in the cache.
//!
//! Pieces come in the blob's order and may have any length. The first data shard's pieces set the parity (its
//! coefficients are all 1), those of the others are added to it. A piece that holds the whole stripe is coded at once.

#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::{Codec, CodecError, Crc32c};
use crate::layout::StripeShape;
use crate::limits::{BLOCK_BYTES, DATA_SHARDS_MAX, PARITY_SHARDS_MAX, SHARDS_MAX, TILE_BYTES};
use crate::units::Bytes;

/// Why a piece was not taken, or a stream does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The piece reaches beyond the stripe: pass the rest to the next stripe's stream.
    #[error("a piece of {found} bytes where the stripe has room for {room}")]
    TooLong {
        /// The bytes that fit.
        room: Bytes,
        /// The piece's length.
        found: Bytes,
    },
    /// The stripe is not complete.
    #[error("the stripe ends after {found} bytes where at least {expected} belong to it")]
    TooShort {
        /// The fewest bytes of a stripe of this shape.
        expected: Bytes,
        /// The bytes that came.
        found: Bytes,
    },
    /// The buffers do not fit the stripe.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The state of a stripe that is being coded.
#[derive(Clone, Debug)]
pub struct StripeStream {
    shape: StripeShape,
    /// The bytes that came.
    at: usize,
    /// Whether checksums are wanted.
    checked: bool,
    /// Data shards first, as far as they came; a parity shard's covers the bytes that can no longer change.
    checksums: ArrayVec<Crc32c, SHARDS_MAX>,
    /// How far the parity checksums go.
    parity_checked: usize,
}

impl StripeStream {
    /// The start of a stripe of this shape, without checksums.
    pub fn new(shape: StripeShape) -> Self {
        let checksums = std::iter::repeat_n(Crc32c::EMPTY, shape.shards().len()).collect();
        Self {
            shape,
            at: 0,
            checked: false,
            checksums,
            parity_checked: 0,
        }
    }

    /// The start of a stripe of this shape, with checksums.
    pub fn checked(shape: StripeShape) -> Self {
        Self {
            checked: true,
            ..Self::new(shape)
        }
    }

    /// The bytes that the stripe still takes.
    pub fn room(&self) -> Bytes {
        Bytes((self.capacity() - self.at) as u64)
    }

    fn capacity(&self) -> usize {
        (usize::from(self.shape.data_shards) - 1) * self.shape.unit as usize
            + self.shape.last as usize
    }

    /// Adds the next bytes to the parity units, which need not be cleared before the first piece.
    ///
    /// # Errors
    ///
    /// A piece that does not fit the stripe, of which nothing was taken, or parity buffers that do not fit it.
    pub fn push(
        &mut self,
        codec: &Codec,
        piece: &[u8],
        parity: &mut [&mut [u8]],
    ) -> Result<(), StreamError> {
        codec.check_shape(self.shape)?;
        codec.check_parity(parity, self.shape.unit as usize)?;
        if piece.len() > self.room().in_memory() {
            return Err(StreamError::TooLong {
                room: self.room(),
                found: Bytes(piece.len() as u64),
            });
        }
        if self.at == 0 && piece.len() == self.capacity() && self.shape.last == self.shape.unit {
            self.push_whole(codec, piece, parity);
            return Ok(());
        }
        let unit = self.shape.unit as usize;
        let step = TILE_BYTES / (1 + PARITY_SHARDS_MAX);
        let mut rest = piece;
        while !rest.is_empty() {
            let (shard, offset) = (self.at / unit, self.at % unit);
            let (part, after) = rest.split_at(rest.len().min(unit - offset).min(step));
            self.push_part(codec, shard, offset, part, parity);
            self.at += part.len();
            rest = after;
        }
        Ok(())
    }

    fn push_whole(&mut self, codec: &Codec, piece: &[u8], parity: &mut [&mut [u8]]) {
        let data: ArrayVec<&[u8], DATA_SHARDS_MAX> =
            piece.chunks(self.shape.unit as usize).collect();
        let prepared = &codec.widths[data.len() - 1];
        if self.checked {
            codec.code_checked(prepared, &data, parity, &mut self.checksums);
        } else {
            codec.code(prepared, &data, parity);
        }
        self.at = piece.len();
        self.parity_checked = self.shape.unit as usize;
    }

    fn push_part(
        &mut self,
        codec: &Codec,
        shard: usize,
        offset: usize,
        part: &[u8],
        parity: &mut [&mut [u8]],
    ) {
        let mut here: ArrayVec<&mut [u8], PARITY_SHARDS_MAX> = parity
            .iter_mut()
            .map(|shard| &mut shard[offset..offset + part.len()])
            .collect();
        if shard == 0 {
            codec.code(&codec.widths[0], &[part], &mut here);
        } else {
            codec.add(shard, part, &mut here);
        }
        if !self.checked {
            return;
        }
        self.checksums[shard] = codec.checksum(self.checksums[shard], part);
        if shard == usize::from(self.shape.data_shards) - 1 {
            self.parity_checked = offset + part.len();
            for (checksum, bytes) in self.checksums[shard + 1..].iter_mut().zip(&here) {
                *checksum = codec.checksum(*checksum, bytes);
            }
        }
    }

    /// Ends the stripe and returns its checksums, data shards first, if they were wanted. A last block that was not filled
    /// counts as filled with zeros.
    ///
    /// # Errors
    ///
    /// Bytes are missing, or the parity buffers do not fit the stripe.
    pub fn finish(
        mut self,
        codec: &Codec,
        parity: &mut [&mut [u8]],
    ) -> Result<ArrayVec<Crc32c, SHARDS_MAX>, StreamError> {
        codec.check_parity(parity, self.shape.unit as usize)?;
        let missing = self.capacity() - self.at;
        if missing >= BLOCK_BYTES as usize {
            let expected = Bytes((self.capacity() - BLOCK_BYTES as usize + 1) as u64);
            return Err(StreamError::TooShort {
                expected,
                found: Bytes(self.at as u64),
            });
        }
        let zeros = [0u8; BLOCK_BYTES as usize];
        let width = usize::from(self.shape.data_shards);
        if width == 1 {
            // Parity beyond the only data shard's bytes was never written.
            for shard in parity.iter_mut() {
                shard[self.at..].fill(0);
            }
        }
        if !self.checked {
            self.checksums.clear();
            return Ok(self.checksums);
        }
        self.checksums[width - 1] = codec.checksum(self.checksums[width - 1], &zeros[..missing]);
        for (checksum, shard) in self.checksums[width..].iter_mut().zip(&*parity) {
            *checksum = codec.checksum(*checksum, &shard[self.parity_checked..]);
        }
        Ok(self.checksums)
    }
}
