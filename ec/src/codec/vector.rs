//! Code of ours for the stripes of x86 CPUs, where it is faster than ISA-L's: see [`Vector`].
//!
//! Every kernel takes 64 to 256 bytes of each input, makes as many of each output in registers, and goes on. The kernels
//! for GFNI are compiled for each number of inputs, so that each input has load instructions of its own: the CPU's
//! prefetchers know a stream by the instruction that reads it, and one loop over all inputs hides the streams from
//! them (from memory, 10+4 with checksums ran at 24 GB/s of data against 19 on Zen 5).
//!
//! Checksums are made in the same step from the same registers, while the memory is waited for: the bytes of each shard are
//! folded into one register of 64 bytes, which has the same remainder as all bytes before it, and is reduced at the end.

use std::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_crc32_u64, _mm_cvtsi32_si128, _mm_prefetch,
    _mm256_add_epi8, _mm256_and_si256, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256, _mm512_add_epi8,
    _mm512_clmulepi64_epi128, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_maskz_mov_epi8, _mm512_movepi8_mask,
    _mm512_set1_epi8, _mm512_set1_epi64, _mm512_set4_epi64, _mm512_setzero_si512,
    _mm512_storeu_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512, _mm512_zextsi128_si512,
};

use super::gf::REDUCED;
use super::isa::Isa;
use super::{Prepared, isal, portable};
use crate::limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX, SHARDS_MAX};

/// What one instruction set does better than ISA-L. A value exists only where the CPU has the set: see [`Vector::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vector {
    /// Sums, and sums times powers of 2, which need no tables.
    Avx2,
    /// The same with longer registers.
    Avx512,
    /// Everything, and checksums in the same pass.
    Affine,
}

/// The states of the checksums, data shards first; parity starts at the number of data shards.
pub(super) type States = [u32; SHARDS_MAX];

impl Vector {
    /// What there is for an instruction set, if the CPU has it.
    pub(super) fn new(isa: Isa) -> Option<Self> {
        let vector = match isa {
            Isa::Portable | Isa::Avx2Gfni => return None,
            Isa::Avx2 => Self::Avx2,
            Isa::Avx512 => Self::Avx512,
            Isa::Avx512Gfni => Self::Affine,
        };
        isa.present().then_some(vector)
    }

    /// Writes to each output the sum of the inputs times their coefficients, if this is what the instruction set does
    /// better. All buffers have one length.
    pub(super) fn code(
        self,
        prepared: &Prepared,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> bool {
        if self == Self::Affine {
            let Some(kernels) = kernels(inputs.len(), outputs.len()) else {
                return false;
            };
            let kernel = if prepared.first_is_sum {
                kernels.sum
            } else {
                kernels.plain
            };
            // SAFETY: the CPU has the instruction set by `Vector::new`.
            unsafe { kernel(inputs, outputs, &prepared.matrices) };
            return true;
        }
        if !prepared.powers {
            return false;
        }
        let done = match (self, outputs.len()) {
            // SAFETY: the CPU has the instruction set by `Vector::new`.
            (Self::Avx2, 1) => unsafe { avx2::powers::<1>(inputs, outputs) },
            // SAFETY: as above.
            (Self::Avx2, _) => unsafe { avx2::powers::<2>(inputs, outputs) },
            // SAFETY: as above.
            (_, 1) => unsafe { avx512::powers::<1>(inputs, outputs) },
            // SAFETY: as above.
            (_, _) => unsafe { avx512::powers::<2>(inputs, outputs) },
        };
        portable::powers(inputs, outputs, done..inputs[0].len());
        true
    }

    /// [`Self::code`], and carries the checksums of all inputs, and of all outputs but the first, over the buffers. Only for
    /// coefficients whose first row are ones: the first output's checksum follows from those of the inputs.
    pub(super) fn code_checked(
        self,
        prepared: &Prepared,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        states: &mut States,
    ) -> bool {
        let kernels = kernels(inputs.len(), outputs.len());
        let (Self::Affine, true, Some(kernels)) = (self, prepared.first_is_sum, kernels) else {
            return false;
        };
        // SAFETY: the CPU has the instruction set by `Vector::new`.
        unsafe { (kernels.checked)(inputs, outputs, &prepared.matrices, states) };
        let rest = inputs[0].len() - inputs[0].len() % affine::BYTES;
        for (state, input) in states.iter_mut().zip(inputs) {
            *state = isal::crc32c(*state, &input[rest..]);
        }
        let parity = states[inputs.len()..].iter_mut().zip(outputs.iter());
        for (state, output) in parity.skip(1) {
            *state = isal::crc32c(*state, &output[rest..]);
        }
        true
    }
}

/// Where `N` inputs of `length` bytes begin.
#[inline(always)]
fn starts<const N: usize>(inputs: &[&[u8]], length: usize) -> [*const u8; N] {
    assert!(inputs.len() == N);
    std::array::from_fn(|place| {
        assert!(inputs[place].len() == length);
        inputs[place].as_ptr()
    })
}

/// Where `N` outputs of `length` bytes begin.
#[inline(always)]
fn starts_mut<const N: usize>(outputs: &mut [&mut [u8]], length: usize) -> [*mut u8; N] {
    assert!(outputs.len() == N);
    std::array::from_fn(|place| {
        assert!(outputs[place].len() == length);
        outputs[place].as_mut_ptr()
    })
}

/// The registers of each buffer in a step: one may be worked on while another's instructions wait for their results, and
/// reading longer runs of each buffer suits the memory.
const STEP: usize = 4;

/// Coefficients as matrices, row after row.
pub(super) type Matrices = [u64; DATA_SHARDS_MAX * PARITY_SHARDS_MAX];

type CodeFn = unsafe fn(&[&[u8]], &mut [&mut [u8]], &Matrices);
type CheckedFn = unsafe fn(&[&[u8]], &mut [&mut [u8]], &Matrices, &mut States);

/// The kernels of one number of inputs and outputs.
struct Kernels {
    /// Any coefficients.
    plain: CodeFn,
    /// The first output is the plain sum of the inputs.
    sum: CodeFn,
    /// The same with checksums.
    checked: CheckedFn,
}

macro_rules! kernels {
    ($($inputs:literal)*) => { [$([
        kernels!($inputs, 1), kernels!($inputs, 2), kernels!($inputs, 3), kernels!($inputs, 4),
    ]),*] };
    ($inputs:literal, $outputs:literal) => {
        Kernels {
            plain: affine::code::<$inputs, $outputs, false>,
            sum: affine::code::<$inputs, $outputs, true>,
            checked: affine::code_checked::<$inputs, $outputs>,
        }
    };
}

static KERNELS: [[Kernels; PARITY_SHARDS_MAX]; DATA_SHARDS_MAX] =
    kernels!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);

/// The kernels for so many inputs and outputs; none where there are none of either.
fn kernels(inputs: usize, outputs: usize) -> Option<&'static Kernels> {
    KERNELS
        .get(inputs.checked_sub(1)?)?
        .get(outputs.checked_sub(1)?)
}

/// AVX-512 with GFNI, which multiplies 64 bytes by a coefficient in one instruction.
mod affine {
    use super::*;

    pub(super) const BYTES: usize = 64;

    /// How far ahead of the loads of a pass with checksums the memory is asked for: far enough to be of use, and little
    /// beyond the end of a short unit. Without checksums the CPU's own prefetchers do better alone.
    const AHEAD: usize = 256;

    /// What the two halves of each 16 bytes of a folded register are multiplied by to move them over 64 bytes. The product
    /// of two reversed polynomials of 64 bits lacks one power of x.
    const FOLD: [i64; 2] = [fold(8 * BYTES + 63), fold(8 * BYTES - 1)];

    /// A power of x, reversed in 64 bits.
    const fn fold(power: usize) -> i64 {
        ((portable::power_of_x(power) as u64) << 32) as i64
    }

    /// The sums of `INPUTS` inputs times their coefficients, in `OUTPUTS` outputs. Where `SUM` is set the first output's
    /// coefficients are taken as ones.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    pub(super) fn code<const INPUTS: usize, const OUTPUTS: usize, const SUM: bool>(
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        matrices: &Matrices,
    ) {
        let length = inputs[0].len();
        let from = starts::<INPUTS>(inputs, length);
        let to = starts_mut::<OUTPUTS>(outputs, length);
        let whole = length - length % (STEP * BYTES);
        for at in (0..whole).step_by(STEP * BYTES) {
            let mut sums = [[_mm512_setzero_si512(); STEP]; OUTPUTS];
            for input in 0..INPUTS {
                let mut pieces = [_mm512_setzero_si512(); STEP];
                for (place, piece) in pieces.iter_mut().enumerate() {
                    let from = from[input].wrapping_add(at + place * BYTES);
                    // SAFETY: the whole step is within the length that `starts` has checked.
                    *piece = unsafe { _mm512_loadu_si512(from.cast()) };
                }
                for output in 0..OUTPUTS {
                    for (sum, piece) in sums[output].iter_mut().zip(&pieces) {
                        *sum = if SUM && output == 0 {
                            _mm512_xor_si512(*sum, *piece)
                        } else {
                            add(*sum, *piece, matrices[output * INPUTS + input])
                        };
                    }
                }
            }
            for (output, sums) in sums.iter().enumerate() {
                for (place, sum) in sums.iter().enumerate() {
                    let to = to[output].wrapping_add(at + place * BYTES);
                    // SAFETY: the whole step is within the length that `starts_mut` has checked.
                    unsafe { _mm512_storeu_si512(to.cast(), *sum) };
                }
            }
        }
        rest(inputs, outputs, matrices, SUM, whole);
    }

    /// [`code`] with ones for the first output, and the states go over all whole registers of every input, and of every
    /// output but the first. The next register is made when this one's sums are; more at a time would not be faster, since
    /// to fold takes longer than to code.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    pub(super) fn code_checked<const INPUTS: usize, const OUTPUTS: usize>(
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        matrices: &Matrices,
        states: &mut States,
    ) {
        let length = inputs[0].len();
        let from = starts::<INPUTS>(inputs, length);
        let to = starts_mut::<OUTPUTS>(outputs, length);
        let whole = length - length % BYTES;
        let by = _mm512_set4_epi64(FOLD[1], FOLD[0], FOLD[1], FOLD[0]);
        let mut data = [_mm512_setzero_si512(); INPUTS];
        let mut parity = [_mm512_setzero_si512(); OUTPUTS];
        let mut at = 0;
        // The states before belong to the first register's bytes.
        for (first, end) in [(true, whole.min(BYTES)), (false, whole)] {
            while at < end {
                let mut sums = [_mm512_setzero_si512(); OUTPUTS];
                for input in 0..INPUTS {
                    let from = from[input].wrapping_add(at);
                    // SAFETY: `at + BYTES` is at most the length that `starts` has checked.
                    let piece = unsafe { _mm512_loadu_si512(from.cast()) };
                    fetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD));
                    data[input] = folded(data[input], by, piece);
                    sums[0] = _mm512_xor_si512(sums[0], piece);
                    for output in 1..OUTPUTS {
                        let matrix = matrices[output * INPUTS + input];
                        sums[output] = add(sums[output], piece, matrix);
                    }
                }
                for output in 0..OUTPUTS {
                    let to = to[output].wrapping_add(at);
                    // SAFETY: `at + BYTES` is at most the length that `starts_mut` has checked.
                    unsafe { _mm512_storeu_si512(to.cast(), sums[output]) };
                    fetch::<_MM_HINT_T1>(to.wrapping_add(AHEAD));
                    if output > 0 {
                        parity[output] = folded(parity[output], by, sums[output]);
                    }
                }
                at += BYTES;
            }
            if first {
                for (sum, state) in data.iter_mut().zip(&*states) {
                    *sum = _mm512_xor_si512(*sum, low(*state));
                }
                for (sum, state) in parity.iter_mut().zip(&states[INPUTS..]) {
                    *sum = _mm512_xor_si512(*sum, low(*state));
                }
            }
        }
        if whole > 0 {
            for (state, sum) in states.iter_mut().zip(&data) {
                *state = reduced(*sum);
            }
            for (state, sum) in states[INPUTS..].iter_mut().zip(&parity).skip(1) {
                *state = reduced(*sum);
            }
        }
        rest(inputs, outputs, matrices, true, whole);
    }

    /// The bytes after the last whole step.
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    fn rest(
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        matrices: &Matrices,
        sum: bool,
        start: usize,
    ) {
        for at in (start..inputs[0].len()).step_by(BYTES) {
            let mask = |length: usize| !0 >> (BYTES - BYTES.min(length - at));
            for (output, to) in outputs.iter_mut().enumerate() {
                let mut total = _mm512_setzero_si512();
                for (input, from) in inputs.iter().enumerate() {
                    let (mask, from) = (mask(from.len()), from[at..].as_ptr());
                    // SAFETY: the mask leaves the bytes of the slice.
                    let piece = unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) };
                    total = if sum && output == 0 {
                        _mm512_xor_si512(total, piece)
                    } else {
                        add(total, piece, matrices[output * inputs.len() + input])
                    };
                }
                let (mask, to) = (mask(to.len()), to[at..].as_mut_ptr());
                // SAFETY: the mask leaves the bytes of the slice.
                unsafe { _mm512_mask_storeu_epi8(to.cast(), mask, total) };
            }
        }
    }

    #[target_feature(enable = "avx512f,gfni")]
    #[inline]
    fn add(sum: __m512i, piece: __m512i, matrix: u64) -> __m512i {
        let by = _mm512_set1_epi64(matrix as i64);
        _mm512_xor_si512(sum, _mm512_gf2p8affine_epi64_epi8::<0>(piece, by))
    }

    /// Moves a folded register over the next 64 bytes and adds them.
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    #[inline]
    fn folded(sum: __m512i, by: __m512i, piece: __m512i) -> __m512i {
        let low = _mm512_clmulepi64_epi128::<0x00>(sum, by);
        let high = _mm512_clmulepi64_epi128::<0x11>(sum, by);
        _mm512_ternarylogic_epi64::<XOR>(low, high, piece)
    }

    /// A state where the first bytes are.
    #[target_feature(enable = "avx512f")]
    fn low(state: u32) -> __m512i {
        _mm512_zextsi128_si512(_mm_cvtsi32_si128(state.cast_signed()))
    }

    /// The state after the 64 bytes of a folded register.
    #[target_feature(enable = "avx512f")]
    fn reduced(sum: __m512i) -> u32 {
        let mut bytes = [0u8; BYTES];
        // SAFETY: the array has as many bytes as the register.
        unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), sum) };
        let (words, _) = bytes.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        words.fold(0, |state, word| _mm_crc32_u64(state, word)) as u32
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn fetch<const HINT: i32>(from: *const u8) {
        // A prefetch reads nothing and never faults, wherever it points.
        _mm_prefetch::<HINT>(from.cast());
    }
}

/// The truth table of a XOR of three.
const XOR: i32 = 0x96;

/// Declares `powers`: the sum of the inputs in the first output, and with two outputs the sum of input c times 2^c in the
/// second, by doubling and adding from the last input to the first. Returns the number of bytes done.
macro_rules! powers {
    ($features:literal, $bytes:literal, $zero:ident, $load:ident, $store:ident, $xor:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn powers<const OUTPUTS: usize>(
            inputs: &[&[u8]],
            outputs: &mut [&mut [u8]],
        ) -> usize {
            let length = inputs[0].len();
            assert!(inputs.iter().all(|input| input.len() == length));
            let to = starts_mut::<OUTPUTS>(outputs, length);
            let whole = length - length % (STEP * $bytes);
            for at in (0..whole).step_by(STEP * $bytes) {
                let mut sums = [[$zero(); STEP]; OUTPUTS];
                for input in inputs.iter().rev() {
                    for place in 0..STEP {
                        let from = input.as_ptr().wrapping_add(at + place * $bytes);
                        // SAFETY: the whole step is within the length that the assertion has checked.
                        let piece = unsafe { $load(from.cast()) };
                        sums[0][place] = $xor(sums[0][place], piece);
                        if OUTPUTS > 1 {
                            sums[1][place] = doubled_and(sums[1][place], piece);
                        }
                    }
                }
                for output in 0..OUTPUTS {
                    for place in 0..STEP {
                        let to = to[output].wrapping_add(at + place * $bytes);
                        // SAFETY: the whole step is within the length that `starts_mut` has checked.
                        unsafe { $store(to.cast(), sums[output][place]) };
                    }
                }
            }
            whole
        }
    };
}

mod avx2 {
    use super::*;

    powers!(
        "avx2",
        32,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_xor_si256
    );

    #[target_feature(enable = "avx2")]
    #[inline]
    fn doubled_and(sum: __m256i, piece: __m256i) -> __m256i {
        let carried = _mm256_cmpgt_epi8(_mm256_setzero_si256(), sum);
        let reduced = _mm256_and_si256(carried, _mm256_set1_epi8(REDUCED.cast_signed()));
        _mm256_xor_si256(_mm256_xor_si256(_mm256_add_epi8(sum, sum), piece), reduced)
    }
}

mod avx512 {
    use super::*;

    powers!(
        "avx512f,avx512bw",
        64,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_xor_si512
    );

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn doubled_and(sum: __m512i, piece: __m512i) -> __m512i {
        let carried = _mm512_movepi8_mask(sum);
        let reduced = _mm512_maskz_mov_epi8(carried, _mm512_set1_epi8(REDUCED.cast_signed()));
        _mm512_ternarylogic_epi64::<XOR>(_mm512_add_epi8(sum, sum), piece, reduced)
    }
}
