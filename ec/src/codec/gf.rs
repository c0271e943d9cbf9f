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
/// The entry 1 / ((16 + row) xor column) makes a Cauchy matrix, of which every square part is invertible, so that any k
/// shards give back the rest. Scaling its columns and rows keeps that, and makes the first row and the first column all
/// ones: one parity is plain XOR, and with k = 1 every parity shard is a copy. No entry depends on k or m, so a stripe
/// whose last data shards are zeros is also a stripe of a narrower scheme.
pub(super) const COEFFICIENTS: [[u8; DATA_SHARDS_MAX]; PARITY_SHARDS_MAX] = {
    let mut matrix = [[0u8; DATA_SHARDS_MAX]; PARITY_SHARDS_MAX];
    let mut row = 0;
    while row < PARITY_SHARDS_MAX {
        let mut column = 0;
        while column < DATA_SHARDS_MAX {
            let cauchy = inverse((DATA_SHARDS_MAX + row) as u8 ^ column as u8);
            let first_in_column = inverse(DATA_SHARDS_MAX as u8 ^ column as u8);
            let scaled = mul(cauchy, inverse(first_in_column));
            // The first entry of this row after the columns were scaled: column 0's 1 / (16 + row) times 16.
            let first_in_row = mul(
                inverse((DATA_SHARDS_MAX + row) as u8),
                DATA_SHARDS_MAX as u8,
            );
            matrix[row][column] = mul(scaled, inverse(first_in_row));
            column += 1;
        }
        row += 1;
    }
    matrix
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
                "01820a15803753586e4051162773d26d",
                "010a37da27f749515491b5b4e17cd95e",
                "0115dab4a57ed07fc143dbf4af8d78ab"
            ],
            "stored parity could no longer be read"
        );
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
