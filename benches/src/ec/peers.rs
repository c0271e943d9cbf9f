//! What the peers do with the buffers: no less and no more than their users pay for each stripe.

use std::hint::black_box;

use oriel_isal_sys::bare::Bare;
use reed_solomon_erasure::galois_8::ReedSolomon;
use reed_solomon_simd::ReedSolomonEncoder;

use super::rig::{PIECE, Shape};

/// The encoder has memory of its own: shards are copied into it, and recovery shards out of it to where they are stored from.
pub(super) fn simd(
    encoder: &mut ReedSolomonEncoder,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    chunk: usize,
) {
    for at in (0..=inputs[0].len() - chunk).step_by(chunk) {
        for input in inputs {
            encoder
                .add_original_shard(&input[at..at + chunk])
                .expect("as many as it was made for");
        }
        let result = encoder.encode().expect("all data shards were added");
        for (output, recovery) in outputs.iter_mut().zip(result.recovery_iter()) {
            output[at..at + chunk].copy_from_slice(recovery);
        }
    }
}

pub(super) fn erasure(
    coder: &ReedSolomon,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    chunk: usize,
) {
    for at in (0..=inputs[0].len() - chunk).step_by(chunk) {
        let data: Vec<&[u8]> = inputs.iter().map(|input| &input[at..at + chunk]).collect();
        let mut parity: Vec<&mut [u8]> = outputs
            .iter_mut()
            .map(|output| &mut output[at..at + chunk])
            .collect();
        coder
            .encode_sep(&data, &mut parity)
            .expect("buffers of one length");
    }
}

pub(super) fn bare_decode(
    bare: &Bare,
    lost: usize,
    shape: Shape,
    inputs: &[&[u8]],
    parity: &[&mut [u8]],
    copy: &mut [&mut [u8]],
    repeats: usize,
) {
    let all = inputs
        .iter()
        .copied()
        .chain(parity.iter().map(|shard| &**shard));
    let sources: Vec<&[u8]> = all.skip(lost).take(shape.k).collect();
    let mut targets: Vec<&mut [u8]> = copy
        .iter_mut()
        .take(lost)
        .map(|bytes| &mut **bytes)
        .collect();
    for _ in 0..repeats {
        bare.encode(black_box(&sources), &mut targets);
    }
}

pub(super) fn bare_stream(bare: &Bare, inputs: &[&[u8]], outputs: &mut [&mut [u8]], unit: usize) {
    for at in (0..=inputs[0].len() - unit).step_by(unit) {
        for output in &mut *outputs {
            output[at..at + unit].fill(0);
        }
        for (column, input) in inputs.iter().enumerate() {
            for from in (at..at + unit).step_by(PIECE) {
                let to = (from + PIECE).min(at + unit);
                let mut parity: Vec<&mut [u8]> = outputs
                    .iter_mut()
                    .map(|output| &mut output[from..to])
                    .collect();
                bare.update(column, &input[from..to], &mut parity);
            }
        }
    }
}
