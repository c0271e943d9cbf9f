//! `oriel-perf ring` and the area `ring` of `oriel-perf gate`: the routing
//! table beside other ways from a key to a node, its balance, and its moves.

mod cluster;
mod gate;
mod movement;
mod peers;
mod speed;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::ec::machine::Machine;
use crate::out::say;
use cluster::SIZES;
pub(crate) use gate::gate;
use movement::{Event, Outcome};
use speed::{Effort, Figures, Side};

/// Measures the routing table beside jump hash, rendezvous hashing and a ring of points, then what changes of the members cost.
///
/// A lookup of the table answers with all six owners of a key, its peers with one node.
#[derive(Debug, Clone, Args)]
pub(crate) struct RingArgs {
    /// Nodes; may be given several times [default: 3, 6, 48, 1000 and 2000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=20_000))]
    nodes: Vec<u32>,
    /// How often each side is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Lookups of each measurement
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    lookups: u64,
    /// Leave out the lookups
    #[arg(long)]
    no_speed: bool,
    /// Also write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    #[error("cannot write {}: {source}", path.display())]
    Json { path: PathBuf, source: io::Error },
    #[error("cannot put the figures into JSON: {0}")]
    Serialize(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Document {
    machine: Machine,
    lookups: Vec<Figures>,
    /// One dependent load from cold memory, by the number of nodes.
    cold_load_ns: Vec<(u32, f64)>,
    changes: Vec<Outcome>,
}

pub(crate) fn run(args: &RingArgs) -> Result<(), RingError> {
    let sizes = if args.nodes.is_empty() {
        SIZES.to_vec()
    } else {
        args.nodes.clone()
    };
    let machine = Machine::here();
    say!("{machine}");
    let mut document = Document {
        machine,
        lookups: Vec::new(),
        cold_load_ns: Vec::new(),
        changes: Vec::new(),
    };
    if !args.no_speed {
        let effort = Effort {
            rounds: args.rounds,
            lookups: args.lookups,
        };
        lookups(&sizes, effort, &mut document);
    }
    say!("65536 partitions of 6 owners; shares by weight, distances in shards and percent");
    say!("{}", movement::head());
    for nodes in sizes {
        for outcome in Event::ALL
            .into_iter()
            .filter_map(|event| movement::measure(nodes, event))
        {
            say!("{}", outcome.line());
            document.changes.push(outcome);
        }
        let shares = peers::Points::new(nodes).shares(nodes);
        let off = |share: &f64| (share * f64::from(nodes) - 1.0).abs() * 100.0;
        let worst = shares.iter().map(off).fold(0.0, f64::max);
        say!(
            "{nodes:>6} {:<15} {:>8} {:>8} {:>6} {:>8} {worst:>8.1}",
            "(128 points)",
            "",
            "",
            "",
            ""
        );
    }
    if let Some(path) = &args.json {
        let file = File::create(path).map_err(|source| RingError::Json {
            path: path.clone(),
            source,
        })?;
        serde_json::to_writer_pretty(file, &document)?;
    }
    Ok(())
}

fn lookups(sizes: &[u32], effort: Effort, document: &mut Document) {
    say!(
        "ns for a lookup, medians over {} rounds of {} lookups in short turns",
        effort.rounds,
        effort.lookups
    );
    say!(
        "{:>6} {:<21} {:>8} {:>8} {:>8} {:>12}",
        "nodes",
        "",
        "warm",
        "table",
        "cold",
        "M/s, table"
    );
    for nodes in sizes {
        let (figures, load) = speed::measure(*nodes, &Side::ALL, effort);
        for row in &figures {
            let cold = row.cold_ns.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
            say!(
                "{nodes:>6} {:<21} {:>8.1} {:>8.1} {cold:>8} {:>12.1}",
                row.side.name(),
                row.warm_ns,
                row.table_ns,
                1e3 / row.table_ns
            );
        }
        say!(
            "{nodes:>6} {:<21} {:>8} {:>8} {load:>8.0}",
            "one dependent load",
            "",
            ""
        );
        document.lookups.extend(figures);
        document.cold_load_ns.push((*nodes, load));
    }
}
