//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), as in ISA-L, and the code's matrix.

#![forbid(unsafe_code)]

use crate::limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX};
use crate::units::ShardSet;

/// x^8 reduced by the polynomial.
pub(super) const REDUCED: u8 = 0x1d;

const fn product(a: u8, b: u8) -> u8 {
    let (mut sum, mut power, mut rest) = (0u8, a, b);
    while rest != 0 {
        if rest & 1 == 1 {
            sum ^= power;
        }
        power = if power & 0x80 == 0 {
            power << 1
        } else {
            power << 1 ^ REDUCED
        };
        rest >>= 1;
    }
    sum
}

/// The powers of the generator 2, twice over so that a sum of two logarithms needs no reduction.
const EXP: [u8; 510] = {
    let mut exp = [1u8; 510];
    let mut at = 1;
    while at < 510 {
        exp[at] = product(exp[at - 1], 2);
        at += 1;
    }
    exp
};

const LOG: [u8; 256] = {
    let mut log = [0u8; 256];
    let mut at = 0;
    while at < 255 {
        log[EXP[at] as usize] = at as u8;
        at += 1;
    }
    log
};

const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        EXP[LOG[a as usize] as usize + LOG[b as usize] as usize]
    }
}

/// The inverse of an element that is not 0.
const fn inverse(a: u8) -> u8 {
    EXP[255 - LOG[a as usize] as usize]
}

/// The coefficient of each data shard in each parity shard: part of the format of stored data, never to be changed.
///
/// Parity 0 is the sum of the data, parity 1 has the coefficient 2^c for data shard c (so far they are RAID-6's P and Q), and
/// parity r from 2 on has (x + 1) / (x + 2^-c) with x = 2^(r - 1).
///
/// This is a Cauchy matrix, of which every square part is invertible, so that any k shards give back the rest: rows stand
/// for the points infinity, 0, 2 and 4, columns for 2^0, 2^-1 and so on, an entry is 1 / (row + column), and each row is
/// scaled to begin with 1. So with k = 1 every parity shard is a copy. No entry depends on k or m, so a stripe whose
/// last data shards are zeros is also a stripe of a narrower scheme.
pub(super) const COEFFICIENTS: [[u8; DATA_SHARDS_MAX]; PARITY_SHARDS_MAX] = {
    let mut matrix = [[1u8; DATA_SHARDS_MAX]; PARITY_SHARDS_MAX];
    let mut row = 1;
    while row < PARITY_SHARDS_MAX {
        let mut column = 0;
        while column < DATA_SHARDS_MAX {
            matrix[row][column] = if row == 1 {
                EXP[column]
            } else {
                let point = EXP[row - 1];
                mul(point ^ 1, inverse(point ^ inverse(EXP[column])))
            };
            column += 1;
        }
        row += 1;
    }
    matrix
};

// A row's point 2^(r - 1) is a column's 2^-c = 2^(255 - c) only for c from 256 - r on.
const _: () = assert!(DATA_SHARDS_MAX + PARITY_SHARDS_MAX <= 256);

/// Multiplication by each element as a matrix of bits, in the form of the instruction GF2P8AFFINEQB: the highest byte says
/// which bits of the factor make up bit 0 of the product.
pub(super) const MATRICES: [u64; 256] = {
    let mut matrices = [0u64; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut bit = 0;
        while bit < 8 {
            let column = product(factor as u8, 1 << bit);
            let mut row = 0;
            while row < 8 {
                matrices[factor] |= ((column >> row & 1) as u64) << (8 * (7 - row) + bit);
                row += 1;
            }
            bit += 1;
        }
        factor += 1;
    }
    matrices
};

/// A square matrix of at most [`DATA_SHARDS_MAX`] rows.
type Square = [[u8; DATA_SHARDS_MAX]; DATA_SHARDS_MAX];

/// The row of the generator matrix that gives a shard: `shard` below `data_shards` is itself, from `parity_from` on it is
/// a parity row.
fn generator_row(shard: usize, parity_from: usize) -> [u8; DATA_SHARDS_MAX] {
    if shard >= parity_from {
        return COEFFICIENTS[shard - parity_from];
    }
    let mut row = [0; DATA_SHARDS_MAX];
    row[shard] = 1;
    row
}

/// Writes, row after row, the coefficients that give each lost shard from the sources, of which there are as many as the
/// stripe has data shards. Returns the number of coefficients.
pub(super) fn recovery(
    parity_from: usize,
    sources: ShardSet,
    lost: ShardSet,
    out: &mut [u8],
) -> usize {
    let size = sources.len();
    let mut matrix: Square = [[0; DATA_SHARDS_MAX]; DATA_SHARDS_MAX];
    for (row, shard) in matrix.iter_mut().zip(sources.iter()) {
        *row = generator_row(shard.index(), parity_from);
    }
    let inverted = invert(matrix, size);
    let mut written = 0;
    for shard in lost.iter() {
        let wanted = generator_row(shard.index(), parity_from);
        for column in 0..size {
            let row = inverted.iter().take(size).map(|row| row[column]);
            out[written] = row.zip(wanted).fold(0, |sum, (a, b)| sum ^ mul(a, b));
            written += 1;
        }
    }
    written
}

/// Gauss and Jordan on the first `size` rows and columns.
fn invert(mut matrix: Square, size: usize) -> Square {
    let mut inverted: Square = [[0; DATA_SHARDS_MAX]; DATA_SHARDS_MAX];
    for (at, row) in inverted.iter_mut().enumerate() {
        row[at] = 1;
    }
    for pivot in 0..size {
        let found = (pivot..size)
            .find(|&row| matrix[row][pivot] != 0)
            .expect("any k rows of the identity above a Cauchy matrix are independent");
        matrix.swap(pivot, found);
        inverted.swap(pivot, found);
        let scale = inverse(matrix[pivot][pivot]);
        for column in 0..size {
            matrix[pivot][column] = mul(matrix[pivot][column], scale);
            inverted[pivot][column] = mul(inverted[pivot][column], scale);
        }
        let (pivot_row, pivot_inverted) = (matrix[pivot], inverted[pivot]);
        for row in (0..size).filter(|&row| row != pivot) {
            let factor = matrix[row][pivot];
            for column in 0..size {
                matrix[row][column] ^= mul(factor, pivot_row[column]);
                inverted[row][column] ^= mul(factor, pivot_inverted[column]);
            }
        }
    }
    inverted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SHARDS_MAX;

    #[test]
    fn the_stored_format_keeps_its_coefficients() {
        assert_eq!(COEFFICIENTS[0], [1; DATA_SHARDS_MAX]);
        assert!(COEFFICIENTS.iter().all(|row| row[0] == 1));
        let golden: Vec<String> = COEFFICIENTS[1..]
            .iter()
            .map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        assert_eq!(
            golden,
            [
                "01020408102040801d3a74e8cd871326",
                "01f5d2c49a71f17ffc87c1c6192f4055",
                "01bba6d7c707ce824a2fa59bb660f1ad"
            ],
            "stored parity could no longer be read"
        );
    }

    #[test]
    fn any_shards_give_back_the_others() {
        let all = ShardSet::span(0, SHARDS_MAX);
        let mut patterns = 0;
        for lost in (0..1u32 << SHARDS_MAX).map(ShardSet::from_mask) {
            if lost.len() != PARITY_SHARDS_MAX {
                continue;
            }
            // It ends the test if the rows of the sources are not independent.
            let mut out = [0; DATA_SHARDS_MAX * PARITY_SHARDS_MAX];
            recovery(DATA_SHARDS_MAX, all.minus(lost), lost, &mut out);
            patterns += 1;
        }
        assert_eq!(patterns, 4845);
    }

    #[test]
    fn matrices_multiply() {
        for factor in 0..=255u8 {
            for byte in 0..=255u8 {
                let rows = MATRICES[usize::from(factor)].to_le_bytes();
                let bit = |bit: u32| ((rows[7 - bit as usize] & byte).count_ones() & 1) << bit;
                let found = (0..8).map(bit).sum::<u32>();
                assert_eq!(found, u32::from(product(factor, byte)));
            }
        }
    }

    #[test]
    fn logarithms_agree_with_long_multiplication() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                assert_eq!(mul(a, b), product(a, b));
            }
            assert!(a == 0 || product(a, inverse(a)) == 1);
        }
    }
}
