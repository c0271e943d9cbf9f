//! The codec: parity from data, lost shards from those that are left, and checksums in the same pass.
//!
//! Buffers are borrowed, may lie anywhere (each shard's is a separate slice) and are never copied. A unit that lies in
//! several pieces is coded piece by piece, since every byte is coded only with those at the same offset of other shards;
//! checksums continue over the pieces.
//!
//! Whatever is common, code of ours does: everything with AVX-512 and GFNI, and sums and powers of 2 (which is to encode one
//! or two parity shards, and to rebuild one shard from a sum) elsewhere. ISA-L does the rest, and adds pieces of a stream.
//!
//! A codec belongs to one reactor: it holds its tables and takes no lock.

mod checksum;
mod error;
mod gf;
mod isa;
#[expect(unsafe_code, reason = "the calls of ISA-L, each with its proof")]
mod isal;
mod pass;
mod portable;
mod seen;
mod stream;
#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "kernels in vector instructions, each with its proof"
)]
mod vector;
#[cfg(not(target_arch = "x86_64"))]
#[path = "no_vector.rs"]
mod vector;

use std::fmt;

use arrayvec::ArrayVec;

pub use checksum::Crc32c;
pub use error::CodecError;
pub use isa::{Isa, IsaMissing, UnknownIsa};
pub use stream::{StreamError, StripeStream};

use seen::{Seen, check_shards};

use crate::geometry::Scheme;
use crate::layout::StripeShape;
use crate::limits::{BLOCK_BYTES, DATA_SHARDS_MAX, PARITY_SHARDS_MAX, PATTERNS_KEPT, SHARDS_MAX};
use crate::units::{ShardIndex, ShardSet};

const COEFFICIENTS_MAX: usize = DATA_SHARDS_MAX * PARITY_SHARDS_MAX;

/// ISA-L fills 8 or 32 bytes for each coefficient, by instruction set and version: always room for 32.
const TABLE_BYTES_MAX: usize = 32 * COEFFICIENTS_MAX;

/// What multiplies: `rows` outputs of `inputs` coefficients each.
struct Coefficients<'a> {
    inputs: usize,
    rows: usize,
    bytes: &'a [u8],
}

/// Coefficients in the form that the codec's instruction set wants.
#[derive(Clone)]
struct Prepared {
    coefficients: [u8; COEFFICIENTS_MAX],
    /// The first output is the sum of the inputs.
    first_is_sum: bool,
    /// There are one or two outputs, the first is the sum and the second has the coefficients 1, 2, 4 and so on.
    powers: bool,
    matrices: vector::Matrices,
    tables: isal::Tables,
}

impl Prepared {
    const EMPTY: Self = Self {
        coefficients: [0; COEFFICIENTS_MAX],
        first_is_sum: false,
        powers: false,
        matrices: [0; COEFFICIENTS_MAX],
        tables: isal::Tables::empty(),
    };
}

/// The tables of one erasure pattern.
#[derive(Clone)]
struct Pattern {
    sources: ShardSet,
    lost: ShardSet,
    prepared: Prepared,
}

/// Codes the stripes of one scheme with one instruction set.
#[derive(Clone)]
pub struct Codec {
    scheme: Scheme,
    isa: Isa,
    /// `None` is the portable code.
    kernel: Option<isal::Kernel>,
    /// What is done without ISA-L.
    vector: Option<vector::Vector>,
    /// The tables for stripes of 1, 2, and up to k data shards.
    widths: Box<[Prepared]>,
    /// A direct-mapped cache; a pattern that is not there replaces the one in its place.
    patterns: Box<[Pattern]>,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Codec({} by {})", self.scheme, self.isa)
    }
}

impl Codec {
    /// A codec with the CPU's best instruction set.
    pub fn new(scheme: Scheme) -> Self {
        Self::build(scheme, Isa::best())
    }

    /// A codec with this instruction set.
    ///
    /// # Errors
    ///
    /// The CPU does not have it.
    pub fn with_isa(scheme: Scheme, isa: Isa) -> Result<Self, IsaMissing> {
        if !isa.present() {
            return Err(IsaMissing {
                wanted: isa,
                best: Isa::best(),
            });
        }
        Ok(Self::build(scheme, isa))
    }

    fn build(scheme: Scheme, isa: Isa) -> Self {
        let empty = Pattern {
            sources: ShardSet::EMPTY,
            lost: ShardSet::EMPTY,
            prepared: Prepared::EMPTY,
        };
        let mut codec = Self {
            scheme,
            isa,
            kernel: isal::Kernel::new(isa),
            vector: vector::Vector::new(isa),
            widths: vec![Prepared::EMPTY; scheme.data_shards()].into(),
            patterns: vec![empty; PATTERNS_KEPT].into(),
        };
        for width in 1..=scheme.data_shards() {
            let mut prepared = Prepared::EMPTY;
            for row in 0..scheme.parity_shards() {
                prepared.coefficients[row * width..][..width]
                    .copy_from_slice(&gf::COEFFICIENTS[row][..width]);
            }
            codec.expand(&mut prepared, width, scheme.parity_shards());
            codec.widths[width - 1] = prepared;
        }
        codec
    }

    /// Makes what follows from the coefficients.
    fn expand(&self, prepared: &mut Prepared, inputs: usize, rows: usize) {
        let used = &prepared.coefficients[..inputs * rows];
        let is = |row: usize| used[row * inputs..][..inputs] == gf::COEFFICIENTS[row][..inputs];
        prepared.first_is_sum = rows > 0 && is(0);
        prepared.powers = prepared.first_is_sum && (rows == 1 || rows == 2 && is(1));
        for (matrix, coefficient) in prepared.matrices.iter_mut().zip(used) {
            *matrix = gf::MATRICES[usize::from(*coefficient)];
        }
        if let Some(kernel) = self.kernel {
            let coefficients = Coefficients {
                inputs,
                rows,
                bytes: &prepared.coefficients,
            };
            kernel.expand(&coefficients, &mut prepared.tables);
        }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Writes the parity of k data buffers, all buffers being of one length.
    ///
    /// # Errors
    ///
    /// A wrong number of buffers or a wrong length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), CodecError> {
        self.check_buffers(data, parity, self.scheme.data_shards())?;
        self.code(&self.widths[data.len() - 1], data, parity);
        Ok(())
    }

    /// [`Self::encode`], and carries the checksums, first those of the data and then those of the parity shards, over the
    /// buffers. They start as [`Crc32c::EMPTY`], or as they were after the piece before.
    ///
    /// # Errors
    ///
    /// A wrong number of buffers or checksums or a wrong length.
    pub fn encode_checked(
        &self,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
        checksums: &mut [Crc32c],
    ) -> Result<(), CodecError> {
        self.check_buffers(data, parity, self.scheme.data_shards())?;
        if checksums.len() != data.len() + parity.len() {
            return Err(CodecError::Checksums {
                expected: data.len() + parity.len(),
                found: checksums.len(),
            });
        }
        self.code_checked(&self.widths[data.len() - 1], data, parity, checksums);
        Ok(())
    }

    /// Writes the parity and the checksums of one stripe of a layout. The last data buffer may end within its last block:
    /// the rest of the block counts as zeros, in the checksum too, and is to be stored as such.
    ///
    /// # Errors
    ///
    /// A wrong number of buffers or checksums or a wrong length.
    pub fn encode_stripe(
        &self,
        shape: StripeShape,
        data: &[&[u8]],
        parity: &mut [&mut [u8]],
        checksums: &mut [Crc32c],
    ) -> Result<(), CodecError> {
        self.check_stripe(shape, data, parity, checksums)?;
        let (unit, whole) = (shape.unit as usize, data.len() - 1);
        let last = data[whole];

        let covered: ArrayVec<&[u8], DATA_SHARDS_MAX> =
            data.iter().map(|shard| &shard[..last.len()]).collect();
        let beyond: ArrayVec<&[u8], DATA_SHARDS_MAX> = data[..whole]
            .iter()
            .map(|shard| &shard[last.len()..])
            .collect();
        let mut all: ArrayVec<Crc32c, SHARDS_MAX> =
            std::iter::repeat_n(Crc32c::EMPTY, checksums.len()).collect();
        let mut front: ArrayVec<&mut [u8], PARITY_SHARDS_MAX> = ArrayVec::new();
        let mut back: ArrayVec<&mut [u8], PARITY_SHARDS_MAX> = ArrayVec::new();
        for shard in parity.iter_mut() {
            let (head, tail) = shard.split_at_mut(last.len());
            front.push(head);
            back.push(tail);
        }
        self.code_checked(&self.widths[whole], &covered, &mut front, &mut all);
        let padding = [0u8; BLOCK_BYTES as usize];
        all[whole] = all[whole].and(&padding[..shape.last as usize - last.len()]);
        if last.len() < unit {
            let padded = all.remove(whole);
            if whole == 0 {
                for (shard, checksum) in back.iter_mut().zip(&mut all) {
                    shard.fill(0);
                    *checksum = checksum.and(shard);
                }
            } else {
                self.code_checked(&self.widths[whole - 1], &beyond, &mut back, &mut all);
            }
            all.insert(whole, padded);
        }
        checksums.copy_from_slice(&all);
        Ok(())
    }

    /// Rebuilds lost shards of a whole stripe, data or parity, from any k others, all buffers being of one length. Of more
    /// than k sources the first k are used.
    ///
    /// # Errors
    ///
    /// Too few sources, a shard that is given twice or is none of the scheme's, or a wrong length.
    pub fn decode(
        &mut self,
        sources: &[(ShardIndex, &[u8])],
        lost: &mut [(ShardIndex, &mut [u8])],
    ) -> Result<(), CodecError> {
        self.decode_band(self.scheme.data_shards(), sources, lost)
    }

    /// [`Self::decode`] where only the first `width` data shards hold anything.
    pub(crate) fn decode_band(
        &mut self,
        width: usize,
        sources: &[(ShardIndex, &[u8])],
        lost: &mut [(ShardIndex, &mut [u8])],
    ) -> Result<(), CodecError> {
        let members = ShardSet::span(0, width).union(self.scheme.parity());
        let length = sources.first().map_or(0, |(_, bytes)| bytes.len());
        let mut given = Seen::NONE;
        let mut inputs: ArrayVec<&[u8], DATA_SHARDS_MAX> = ArrayVec::new();
        for (shard, bytes) in sources {
            given.see(*shard, bytes.len(), length);
            if inputs.len() < width {
                inputs.push(bytes);
            }
        }
        let mut wanted = Seen::NONE;
        for (shard, bytes) in &*lost {
            wanted.see(*shard, bytes.len(), length);
        }
        let in_order = given.in_order(&wanted, members);
        if !in_order {
            let lengths = |shard: ShardIndex, bytes: &[u8]| (shard, bytes.len());
            let sources = sources.iter().map(|(shard, bytes)| lengths(*shard, bytes));
            let lost = lost.iter().map(|(shard, bytes)| lengths(*shard, bytes));
            check_shards(members, length, sources.chain(lost))?;
        }
        if inputs.len() < width {
            return Err(CodecError::TooFewSources {
                lost: wanted.shards(),
                sources: given.shards(),
                needed: width,
            });
        }
        let mut from = given.shards();
        if !in_order {
            // Tables are made for shards in ascending order, in which most callers give them.
            from = sources[..width].iter().map(|(shard, _)| *shard).collect();
            for (input, shard) in inputs.iter_mut().zip(from.iter()) {
                let given = sources.iter().find(|(given, _)| *given == shard);
                *input = given.map_or(&[], |(_, bytes)| bytes);
            }
            lost.sort_unstable_by_key(|(shard, _)| *shard);
        } else if sources.len() > width {
            from = from.lowest(width);
        }
        let mut outputs: ArrayVec<&mut [u8], PARITY_SHARDS_MAX> = ArrayVec::new();
        // More than m distinct shards cannot be lost where k others are given, so the outputs have room.
        for (_, bytes) in lost.iter_mut() {
            outputs.push(bytes);
        }
        let place = self.pattern(from, wanted.shards());
        self.code(&self.patterns[place].prepared, &inputs, &mut outputs);
        Ok(())
    }

    /// The place of a pattern's tables, which are made if they are not there.
    fn pattern(&mut self, sources: ShardSet, lost: ShardSet) -> usize {
        let key = u64::from(sources.mask()) << 32 | u64::from(lost.mask());
        // Multiplication by the golden ratio spreads neighbouring masks; the highest bits are the best mixed.
        let place = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PATTERNS_KEPT;
        let found = &self.patterns[place];
        if found.sources != sources || found.lost != lost {
            let mut prepared = Prepared::EMPTY;
            gf::recovery(
                self.scheme.data_shards(),
                sources,
                lost,
                &mut prepared.coefficients,
            );
            self.expand(&mut prepared, sources.len(), lost.len());
            self.patterns[place] = Pattern {
                sources,
                lost,
                prepared,
            };
        }
        place
    }

    fn check_buffers(
        &self,
        data: &[&[u8]],
        parity: &[&mut [u8]],
        width: usize,
    ) -> Result<(), CodecError> {
        if data.len() != width {
            return Err(CodecError::DataBuffers {
                expected: width,
                found: data.len(),
            });
        }
        self.check_parity(parity, data[0].len())?;
        check_lengths(data.iter().map(|shard| shard.len()), 0, data[0].len())
    }

    fn check_parity(&self, parity: &[&mut [u8]], length: usize) -> Result<(), CodecError> {
        let (expected, found) = (self.scheme.parity_shards(), parity.len());
        if found != expected {
            return Err(CodecError::ParityBuffers { expected, found });
        }
        check_lengths(
            parity.iter().map(|shard| shard.len()),
            self.scheme.data_shards(),
            length,
        )
    }

    fn check_stripe(
        &self,
        shape: StripeShape,
        data: &[&[u8]],
        parity: &[&mut [u8]],
        checksums: &[Crc32c],
    ) -> Result<(), CodecError> {
        self.check_shape(shape)?;
        let (width, unit) = (usize::from(shape.data_shards), shape.unit as usize);
        if data.len() != width {
            return Err(CodecError::DataBuffers {
                expected: width,
                found: data.len(),
            });
        }
        check_lengths(data[..width - 1].iter().map(|shard| shard.len()), 0, unit)?;
        let (expected, found) = (shape.last as usize, data[width - 1].len());
        if found > expected || expected - found >= BLOCK_BYTES as usize {
            return Err(CodecError::Length {
                shard: shape.last_shard(),
                expected,
                found,
            });
        }
        self.check_parity(parity, unit)?;
        let expected = data.len() + parity.len();
        if checksums.len() != expected {
            return Err(CodecError::Checksums {
                expected,
                found: checksums.len(),
            });
        }
        Ok(())
    }

    fn check_shape(&self, shape: StripeShape) -> Result<(), CodecError> {
        let found = usize::from(shape.parity_from);
        if found != self.scheme.data_shards()
            || usize::from(shape.parity) != self.scheme.parity_shards()
        {
            return Err(CodecError::OtherScheme {
                scheme: self.scheme,
                found,
            });
        }
        Ok(())
    }
}

fn check_lengths(
    lengths: impl Iterator<Item = usize>,
    first: usize,
    expected: usize,
) -> Result<(), CodecError> {
    for (place, found) in lengths.enumerate() {
        if found != expected {
            return Err(CodecError::Length {
                shard: ShardIndex((first + place) as u8),
                expected,
                found,
            });
        }
    }
    Ok(())
}
