//! What the routing table is held to.

use super::cluster::SIZES;
use super::movement::{self, Event};
use super::speed::{self, Effort, Side};
use crate::ec::machine::Machine;
use crate::out::say;

const WARM_NS_MAX: f64 = 20.0;
/// A second dependent line would double it; computing the checksum and the key's partition comes on top of one.
const COLD_OF_A_LOAD_MAX: f64 = 1.5;
const MOVED_OF_LEAST_MAX: f64 = 1.05;
const BUILD_MS_MAX: f64 = 1000.0;

/// Measures, prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(rounds: u32) -> bool {
    say!("{}", Machine::here());
    say!("{:<44} {:>10} {:>10}", "", "found", "at most");
    let effort = Effort {
        rounds,
        lookups: 2_000_000,
    };
    let mut good = true;
    let (figures, load) = speed::measure(1000, &[Side::Ring, Side::View, Side::Shared], effort);
    for row in &figures {
        let name = format!("warm lookup, {} (ns)", row.side.name());
        good &= line(&name, row.warm_ns, WARM_NS_MAX);
    }
    for row in &figures {
        if let Some(cold) = row.cold_ns {
            let name = format!("cold lookup, {} / one load", row.side.name());
            good &= line(&name, cold / load, COLD_OF_A_LOAD_MAX);
        }
    }
    for nodes in SIZES {
        for event in Event::ALL {
            let Some(outcome) = movement::measure(nodes, event) else {
                continue;
            };
            let name = format!("{nodes} nodes, {}", event.name());
            let bound = outcome.percent_max();
            good &= line(
                &format!("{name}: off its share (%)"),
                outcome.worst_percent,
                bound,
            );
            if matches!(event, Event::Join | Event::Leave) {
                good &= line(
                    &format!("{name}: moved / least"),
                    outcome.ratio(),
                    MOVED_OF_LEAST_MAX,
                );
            }
            if nodes == 1000 {
                good &= line(
                    &format!("{name}: build (ms)"),
                    outcome.build_ms,
                    BUILD_MS_MAX,
                );
            }
            good &= line(&format!("{name}: warnings"), outcome.warnings as f64, 0.0);
        }
    }
    good
}

/// What is printed decides.
fn line(name: &str, found: f64, bound: f64) -> bool {
    let passed = (found * 1000.0).round() <= (bound * 1000.0).round();
    let word = if passed { "PASS" } else { "SHORT" };
    say!("{name:<44} {found:>10.3} {bound:>10.3} {word}");
    passed
}
