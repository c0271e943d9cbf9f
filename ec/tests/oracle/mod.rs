//! What the crate is compared with: the slowest and plainest way to the same bytes, sharing no code with it.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod store;

use oriel_ec::{Bytes, Geometry, Isa, Layout, Scheme, StripeUnit, TailPolicy};

/// The product in GF(2^8) by schoolbook multiplication and long division by x^8 + x^4 + x^3 + x^2 + 1.
pub(crate) fn product(a: u8, b: u8) -> u8 {
    let mut wide = 0u16;
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            wide ^= u16::from(a) << bit;
        }
    }
    for bit in (8..16).rev() {
        if wide >> bit & 1 == 1 {
            wide ^= 0x11d << (bit - 8);
        }
    }
    wide as u8
}

/// The inverse by search.
pub(crate) fn inverse(a: u8) -> u8 {
    (1..=255)
        .find(|b| product(a, *b) == 1)
        .expect("every element but 0 has an inverse")
}

/// The coefficient of a data shard in a parity row: 1, then powers of 2, then the Cauchy rows of the points 2 and 4.
pub(crate) fn coefficient(row: usize, column: usize) -> u8 {
    let power = (0..column).fold(1, |power, _| product(power, 2));
    let point = [0, 0, 2, 4][row];
    match row {
        0 => 1,
        1 => power,
        _ => product(point ^ 1, inverse(point ^ inverse(power))),
    }
}

/// The parity of data shards, the missing ends of shorter ones counting as zeros.
pub(crate) fn parity(data: &[Vec<u8>], rows: usize) -> Vec<Vec<u8>> {
    let length = data.iter().map(Vec::len).max().unwrap_or(0);
    let mut parity = vec![vec![0; length]; rows];
    for (row, parity) in parity.iter_mut().enumerate() {
        for (column, shard) in data.iter().enumerate() {
            let coefficient = coefficient(row, column);
            let multiples: Vec<u8> = (0..=255).map(|byte| product(coefficient, byte)).collect();
            for (sum, byte) in parity.iter_mut().zip(shard) {
                *sum ^= multiples[usize::from(*byte)];
            }
        }
    }
    parity
}

/// CRC32C bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut state = !0u32;
    for byte in bytes {
        state ^= u32::from(*byte);
        for _ in 0..8 {
            state = if state & 1 == 1 {
                state >> 1 ^ 0x82f6_3b78
            } else {
                state >> 1
            };
        }
    }
    !state
}

/// Bytes without a pattern that a coding mistake could hide in.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub(crate) fn scheme(k: usize, m: usize) -> Scheme {
    Scheme::ec(k, m).unwrap()
}

pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.present())
}

pub(crate) fn data(k: usize, length: usize) -> Vec<Vec<u8>> {
    (0..k)
        .map(|shard| noise(length, shard as u64 * 1000 + length as u64))
        .collect()
}

pub(crate) fn slices(shards: &[Vec<u8>]) -> Vec<&[u8]> {
    shards.iter().map(Vec::as_slice).collect()
}

pub(crate) fn slices_mut(shards: &mut [Vec<u8>]) -> Vec<&mut [u8]> {
    shards.iter_mut().map(Vec::as_mut_slice).collect()
}

pub(crate) fn layout(k: usize, m: usize, unit: u64, length: u64, policy: TailPolicy) -> Layout {
    let geometry = Geometry::new(scheme(k, m), StripeUnit::new(Bytes(unit)).unwrap());
    Layout::new(geometry, Bytes(length), policy)
}
