//! The erasure code and CRC32C in safe Rust, for machines that ISA-L has no code for.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::gf::REDUCED;
use crate::limits::PARITY_SHARDS_MAX;

/// The bytes that are coded together: a few vector registers of any machine.
const CHUNK: usize = 64;

/// Writes to each output the sum of all inputs, each times its coefficient, or adds it where `keep` is set. The
/// coefficients lie row by row, one row of `stride` for each output; input 0 has column `first`.
pub(super) fn combine(
    coefficients: &[u8],
    stride: usize,
    first: usize,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
    keep: bool,
) {
    let mut at = range.start;
    while at < range.end {
        let len = CHUNK.min(range.end - at);
        let mut sums = [[0u8; CHUNK]; PARITY_SHARDS_MAX];
        if keep {
            for (sum, output) in sums.iter_mut().zip(&*outputs) {
                sum[..len].copy_from_slice(&output[at..at + len]);
            }
        }
        for (column, input) in inputs.iter().enumerate() {
            let mut power = [0u8; CHUNK];
            power[..len].copy_from_slice(&input[at..at + len]);
            let mut factors = [0u8; PARITY_SHARDS_MAX];
            for (row, factor) in factors[..outputs.len()].iter_mut().enumerate() {
                *factor = coefficients[row * stride + first + column];
            }
            add_products(&mut sums, power, factors);
        }
        for (sum, output) in sums.iter().zip(&mut *outputs) {
            output[at..at + len].copy_from_slice(&sum[..len]);
        }
        at += len;
    }
}

/// [`combine`] for one or two outputs with the coefficients 1, 1, 1 and so on, and 1, 2, 4 and so on: by doubling and adding
/// from the last input to the first.
pub(super) fn powers(inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    for at in range.clone().step_by(CHUNK) {
        let len = CHUNK.min(range.end - at);
        let mut sums = [[0u8; CHUNK]; 2];
        for input in inputs.iter().rev() {
            let mut piece = [0u8; CHUNK];
            piece[..len].copy_from_slice(&input[at..at + len]);
            let [plain, doubled] = &mut sums;
            for (sum, byte) in plain.iter_mut().zip(&piece) {
                *sum ^= byte;
            }
            if outputs.len() > 1 {
                for (sum, byte) in doubled.iter_mut().zip(&piece) {
                    *sum = double(*sum) ^ byte;
                }
            }
        }
        for (sum, output) in sums.iter().zip(&mut *outputs) {
            output[at..at + len].copy_from_slice(&sum[..len]);
        }
    }
}

/// The top bit, spread over the byte, selects the reduction without a branch.
#[inline(always)]
fn double(byte: u8) -> u8 {
    let carried = ((byte as i8) >> 7) as u8;
    byte << 1 ^ carried & REDUCED
}

/// Adds `power` times each factor to its sum: for each bit that is set, one doubling more of the input, which all sums share.
#[inline(always)]
fn add_products(
    sums: &mut [[u8; CHUNK]; PARITY_SHARDS_MAX],
    mut power: [u8; CHUNK],
    mut factors: [u8; PARITY_SHARDS_MAX],
) {
    loop {
        for (sum, factor) in sums.iter_mut().zip(&mut factors) {
            if *factor & 1 == 1 {
                for (sum, power) in sum.iter_mut().zip(&power) {
                    *sum ^= power;
                }
            }
            *factor >>= 1;
        }
        if factors == [0; PARITY_SHARDS_MAX] {
            return;
        }
        for byte in &mut power {
            *byte = double(*byte);
        }
    }
}

/// The polynomial of CRC32C, bits reversed.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// `TABLES[n][b]` is the effect of byte `b` followed by `n` zero bytes.
const TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ CASTAGNOLI
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
};

/// Carries the state of a CRC32C over more bytes, eight at a time.
pub(super) fn crc32c(mut state: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let word = u64::from_le_bytes(*eight) ^ u64::from(state);
        state = (0..8).fold(0, |sum, at| {
            sum ^ TABLES[7 - at][(word >> (8 * at) & 0xff) as usize]
        });
    }
    for byte in rest {
        state = state >> 8 ^ TABLES[0][((state ^ u32::from(*byte)) & 0xff) as usize];
    }
    state
}

/// `SHIFTS[n]` is x to the power 8 * 2^n modulo the polynomial: what 2^n zero bytes multiply a state by.
const SHIFTS: [u32; 32] = {
    let mut shifts = [0u32; 32];
    // x^8; the bits are reversed, so that x^0 is the highest.
    shifts[0] = 1 << 23;
    let mut at = 1;
    while at < 32 {
        shifts[at] = polynomial_product(shifts[at - 1], shifts[at - 1]);
        at += 1;
    }
    shifts
};

/// The product of two polynomials modulo CRC32C's.
const fn polynomial_product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        if a >> bit & 1 == 1 {
            sum ^= b;
        }
        b = if b & 1 == 1 {
            b >> 1 ^ CASTAGNOLI
        } else {
            b >> 1
        };
    }
    sum
}

/// x to this power modulo CRC32C's polynomial, bits reversed.
#[cfg(target_arch = "x86_64")]
pub(super) const fn power_of_x(mut power: usize) -> u32 {
    let mut value = 1u32 << 31;
    while power > 0 {
        value = (value >> 1) ^ (CASTAGNOLI * (value & 1));
        power -= 1;
    }
    value
}

/// Carries the state of a CRC32C over `length` zero bytes.
pub(super) fn over_zeros(state: u32, length: usize) -> u32 {
    if state == 0 {
        return 0;
    }
    let powers = SHIFTS
        .iter()
        .enumerate()
        .filter(|(power, _)| length >> power & 1 == 1);
    powers.fold(state, |state, (_, shift)| polynomial_product(*shift, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_skipped_as_if_they_were_read() {
        for length in [0, 1, 2, 3, 64, 1000, 4096, 20_480, 65_537] {
            for state in [0, 1, !0, 0x1234_5678] {
                assert_eq!(over_zeros(state, length), crc32c(state, &vec![0; length]));
            }
        }
    }
}
