//! What the index is held to.

use super::IndexError;
use super::beside::{self, Beside};
use super::growth::{self, Pages, us};
use super::rig::{Keys, Rig, Side, Turn};
use crate::against::ratio::Comparison;
use crate::out::say;

/// 0.6 GB: far more than any cache, so that "cold" is.
const SLOTS: u64 = 1 << 24;
const PERCENT: u32 = 85;

const BATCHED_OF_SINGLE: f64 = 3.0;
const SINGLE_OF_HASHBROWN: f64 = 1.0;
const READERS_BESIDE_WRITER: f64 = 0.80;
const LINES: f64 = 1.1;
const PAUSE_US: f64 = 100.0;
/// As often the same index grows at least.
const GROWTHS: u32 = 7;

/// Measures, prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(rounds: u32) -> Result<bool, IndexError> {
    let mut rig = Rig::build(SLOTS, PERCENT, None, false)?;
    say!("{}", rig.describe());
    say!("lookups in M/s, medians of {rounds} rounds; {PERCENT} % of 2^24 places taken");
    say!(
        "{:<44} {:>7} {:>7} {:>7} {:>15} {:>6}",
        "",
        "ours",
        "theirs",
        "ratio",
        "spread",
        "bound"
    );
    let sides = [
        Side::Single,
        Side::Streamed,
        Side::Batched,
        Side::Hashbrown,
        Side::HashbrownStreamed,
    ];
    let mut good = true;
    let cold = rig.rounds(&sides, Keys::Hits, Turn::Cold, rounds);
    good &= line(
        "a hit, cold: batched / single",
        cold.compare(Side::Batched, Side::Single),
        Some(BATCHED_OF_SINGLE),
    );
    good &= line(
        "a hit, cold: single / hashbrown",
        cold.compare(Side::Single, Side::Hashbrown),
        Some(SINGLE_OF_HASHBROWN),
    );
    // Without a bound: where nobody waits for an answer, hashbrown's few instructions let more of them overlap.
    line(
        "hits, cold: streamed / hashbrown streamed",
        cold.compare(Side::Streamed, Side::HashbrownStreamed),
        None,
    );
    line(
        "hits, cold: batched / hashbrown streamed",
        cold.compare(Side::Batched, Side::HashbrownStreamed),
        None,
    );
    let cold = rig.rounds(&sides, Keys::Misses, Turn::Cold, rounds);
    line(
        "misses, cold: streamed / hashbrown streamed",
        cold.compare(Side::Streamed, Side::HashbrownStreamed),
        None,
    );
    let Beside { readers, writes } = beside::measure(&mut rig, 1, rounds);
    good &= line(
        "readers with a writer / without",
        readers,
        Some(READERS_BESIDE_WRITER),
    );
    say!(
        "{:<44} {:>7.2} M changes a second meanwhile",
        "",
        writes / 1e6
    );
    for keys in [Keys::Hits, Keys::Misses] {
        let lines = rig.lines(keys);
        good &= at_most(&format!("lines for each {}", keys.name()), lines, LINES, "");
    }
    for pages in Pages::BOTH {
        let steps = growth::measure(pages, rounds.max(GROWTHS))?;
        let name = format!("longest insert of growth, {}", pages.name());
        good &= at_most(&name, us(steps.longest), PAUSE_US, "us");
        say!(
            "{:<44} {} lines at most; {:.0} us with interruptions, a loop of nothing {:.0} us",
            "",
            steps.lines,
            us(steps.interrupted),
            us(steps.idle)
        );
    }
    Ok(good)
}

fn word(passed: bool) -> &'static str {
    if passed { "PASS" } else { "SHORT" }
}

/// What is printed decides: a ratio that rounds to its bound has reached it.
fn line(name: &str, outcome: Option<Comparison>, bound: Option<f64>) -> bool {
    let Some(outcome) = outcome else {
        say!("{name:<44} was not measured: a side did not get a core UNCLEAR");
        return false;
    };
    let passed =
        bound.is_none_or(|bound| (outcome.ratio * 1000.0).round() >= (bound * 1000.0).round());
    say!(
        "{name:<44} {:>7.2} {:>7.2} {:>7.3} {:>15} {}",
        outcome.ours / 1e6,
        outcome.theirs / 1e6,
        outcome.ratio,
        format!("{:.3} to {:.3}", outcome.ratio_min, outcome.ratio_max),
        bound.map_or_else(String::new, |bound| format!(
            "{bound:>6.2} {}",
            word(passed)
        ))
    );
    passed
}

fn at_most(name: &str, value: f64, bound: f64, unit: &str) -> bool {
    let passed = (value * 1000.0).round() <= (bound * 1000.0).round();
    say!(
        "{name:<44} {value:>7.3} {unit} of at most {bound} {}",
        word(passed)
    );
    passed
}
