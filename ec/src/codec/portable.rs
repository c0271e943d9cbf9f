//! The erasure code and CRC32C in safe Rust, for machines that ISA-L has no code for.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::gf::REDUCED;

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
        for (row, output) in outputs.iter_mut().enumerate() {
            let output = &mut output[at..at + len];
            let mut sum = [0u8; CHUNK];
            if keep {
                sum[..len].copy_from_slice(output);
            }
            for (column, input) in inputs.iter().enumerate() {
                let mut power = [0u8; CHUNK];
                power[..len].copy_from_slice(&input[at..at + len]);
                add_product(&mut sum, power, coefficients[row * stride + first + column]);
            }
            output.copy_from_slice(&sum[..len]);
        }
        at += len;
    }
}

/// Adds `power` times `coefficient`: for each bit of the coefficient that is set, one doubling more of the input.
#[inline(always)]
fn add_product(sum: &mut [u8; CHUNK], mut power: [u8; CHUNK], coefficient: u8) {
    let mut rest = coefficient;
    loop {
        if rest & 1 == 1 {
            for (sum, power) in sum.iter_mut().zip(&power) {
                *sum ^= power;
            }
        }
        rest >>= 1;
        if rest == 0 {
            return;
        }
        for byte in &mut power {
            // The top bit, spread over the byte, selects the reduction without a branch.
            let carried = ((*byte as i8) >> 7) as u8;
            *byte = *byte << 1 ^ carried & REDUCED;
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
