//! What the erasure codec is held to.

use std::time::Duration;

use oriel_ec::Isa;

use super::machine::Machine;
use super::measure::{Cell, Speeds, Turn, measure};
use super::rig::{Operation, SHAPES, Set, Shape, Side};
use crate::against::ratio::Comparison;
use crate::out::say;

/// Short, so that on a busy machine most turns run undisturbed.
const TURN: Duration = Duration::from_micros(500);
const TURNS: u32 = 41;

const OF_BARE: f64 = 0.98;
const OF_MEMCPY: f64 = 0.90;
const OF_CRATES_GFNI: f64 = 3.0;
const OF_CRATES_AVX2: f64 = 1.5;
const CHECKED_OF_PLAIN: f64 = 0.75;
/// A blob of 1 MiB in 25 us.
const BLOB_GB_PER_S: f64 = (1 << 20) as f64 / 25e-6 / 1e9;

/// Measures, prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(rounds: u32) -> bool {
    let turn = Turn {
        rounds,
        turns: TURNS,
        least: TURN,
    };
    let best = Isa::best();
    say!("{}", Machine::here());
    say!(
        "data GB/s by {best}, medians of {} rounds of {} turns",
        turn.rounds,
        turn.turns
    );
    say!(
        "{:<40} {:>7} {:>7} {:>7} {:>15} {:>6}",
        "",
        "ours",
        "theirs",
        "ratio",
        "spread",
        "bound"
    );
    let mut good = true;
    for shape in SHAPES {
        for set in [Set::Warm, Set::Cold] {
            good &= cell(shape, set, best, turn);
        }
    }
    good & blob(best, turn)
}

fn cell(shape: Shape, set: Set, best: Isa, turn: Turn) -> bool {
    let ours = |operation| Side::Ours(best, operation);
    let bare = |operation| Side::Bare(best, operation);
    let plain = [
        Operation::Encode,
        Operation::DecodeOne,
        Operation::DecodeTwo,
    ];
    let mut sides = vec![
        Side::Memcpy,
        Side::SimdCrate,
        Side::ErasureCrate,
        ours(Operation::EncodeChecked),
    ];
    if best != Isa::Portable {
        sides.extend(
            plain
                .iter()
                .flat_map(|operation| [ours(*operation), bare(*operation)]),
        );
    } else {
        sides.push(ours(Operation::Encode));
    }
    let avx2 = Side::Ours(Isa::Avx2, Operation::Encode);
    if Isa::Avx2.present() && best != Isa::Avx2 {
        sides.push(avx2);
    }
    let speeds = measure(
        Cell {
            shape,
            set,
            threads: 1,
        },
        &sides,
        turn,
    );
    let name = format!("{}+{} {}", shape.k, shape.m, set.name());
    let mut good = true;
    for operation in plain {
        let label = format!("{name} {} / ISA-L", operation.name());
        good &= line(
            &label,
            speeds.compare(ours(operation), &[bare(operation)]),
            OF_BARE,
        );
    }
    let encode = ours(Operation::Encode);
    if set == Set::Cold {
        good &= line(
            &format!("{name} encode / memcpy"),
            speeds.compare(encode, &[Side::Memcpy]),
            OF_MEMCPY,
        );
        let checked = speeds.compare(ours(Operation::EncodeChecked), &[encode]);
        good &= line(
            &format!("{name} encode+crc / encode"),
            checked,
            CHECKED_OF_PLAIN,
        );
    } else if shape.m == 2 {
        good &= crates(&name, &speeds, best, avx2);
    }
    good
}

/// The crates keep their buffers in the cache too, so warm buffers tell codes apart.
fn crates(name: &str, speeds: &Speeds, best: Isa, avx2: Side) -> bool {
    let theirs = [Side::SimdCrate, Side::ErasureCrate];
    let mut good = true;
    if matches!(best, Isa::Avx2Gfni | Isa::Avx512Gfni) {
        let outcome = speeds.compare(Side::Ours(best, Operation::Encode), &theirs);
        good &= line(
            &format!("{name} encode / better crate"),
            outcome,
            OF_CRATES_GFNI,
        );
    }
    good & line(
        &format!("{name} encode by avx2 / better crate"),
        speeds.compare(avx2, &theirs),
        OF_CRATES_AVX2,
    )
}

fn blob(best: Isa, turn: Turn) -> bool {
    let side = Side::Ours(best, Operation::Encode);
    let shape = Shape { k: 4, m: 2 };
    let speeds = measure(
        Cell {
            shape,
            set: Set::Blob,
            threads: 1,
        },
        &[side],
        turn,
    );
    let speed = speeds.of(side).unwrap_or(0.0);
    let passed = speed >= BLOB_GB_PER_S;
    let (us, word) = (
        (1 << 20) as f64 / speed / 1e3,
        if passed { "PASS" } else { "SHORT" },
    );
    say!(
        "{:<40} {speed:>7.1} {us:>12.1} us of at most 25 {word}",
        "4+2 blob of 1 MiB"
    );
    passed
}

/// Prints a comparison, if both sides run here, and says whether it reaches its bound.
fn line(name: &str, outcome: Option<Comparison>, bound: f64) -> bool {
    let Some(outcome) = outcome else {
        return true;
    };
    let passed = (outcome.ratio * 1000.0).round() >= (bound * 1000.0).round();
    let word = if passed { "PASS" } else { "SHORT" };
    let spread = format!("{:.3} to {:.3}", outcome.ratio_min, outcome.ratio_max);
    say!(
        "{name:<40} {:>7.1} {:>7.1} {:>7.3} {spread:>15} {bound:>6.2} {word}",
        outcome.ours,
        outcome.theirs,
        outcome.ratio
    );
    passed
}
