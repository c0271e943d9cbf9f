//! `oriel-perf ec` and the area `ec` of `oriel-perf gate`: the erasure codec
//! beside bare ISA-L, memcpy and two crates, on the same buffers.

mod gate;
pub(crate) mod machine;
mod measure;
mod pages;
mod peers;
mod rig;
mod table;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use oriel_ec::Isa;

pub(crate) use gate::gate;
use measure::{Cell, Turn};
use rig::{Operation, Set, Shape, Side};

use crate::out::say;

/// Measures the erasure codec beside bare ISA-L, memcpy and two crates.
///
/// Gigabytes of data (not of parity) a second, medians of rounds in which the
/// sides take turns.
#[derive(Debug, Clone, Args)]
pub(crate) struct EcArgs {
    /// Data and parity shards; may be given several times [default: 4+2, 8+2 and 10+4]
    #[arg(long, value_name = "K+M", value_parser = rig::shape)]
    scheme: Vec<Shape>,
    /// Instruction set (portable, avx2, avx512, avx2-gfni, avx512-gfni); may be given several times [default: all of this CPU]
    #[arg(long, value_name = "ISA", value_parser = present)]
    isa: Vec<Isa>,
    /// Buffers; may be given several times [default: all]
    #[arg(long, value_enum)]
    set: Vec<Set>,
    /// Threads; may be given several times [default: 1 and 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,
    /// How often each side is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Turns of every side in a round, of which the median counts
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,
    /// Microseconds of a turn, which is at least one pass
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    turn_us: u64,
    /// Also write all figures and ratios to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EcError {
    #[error("cannot write {}: {source}", path.display())]
    Json { path: PathBuf, source: io::Error },
    #[error("cannot put the figures into JSON: {0}")]
    Serialize(#[from] serde_json::Error),
}

fn present(name: &str) -> Result<Isa, String> {
    let isa: Isa = name
        .parse()
        .map_err(|error: oriel_ec::UnknownIsa| error.to_string())?;
    if isa.present() {
        Ok(isa)
    } else {
        Err(format!("this CPU has at most {}", Isa::best()))
    }
}

fn or_all<T: Clone>(chosen: &[T], all: impl IntoIterator<Item = T>) -> Vec<T> {
    if chosen.is_empty() {
        all.into_iter().collect()
    } else {
        chosen.to_vec()
    }
}

pub(crate) fn run(args: &EcArgs) -> Result<(), EcError> {
    let isas = or_all(&args.isa, Isa::ALL.into_iter().filter(|isa| isa.present()));
    let turn = Turn {
        rounds: args.rounds,
        turns: args.turns,
        least: Duration::from_micros(args.turn_us),
    };
    let machine = machine::Machine::here();
    say!("{machine}");
    say!(
        "data GB/s, medians of {} rounds of {} turns",
        args.rounds,
        args.turns
    );
    say!("{}", table::head());
    let mut rows = Vec::new();
    for shape in or_all(&args.scheme, rig::SHAPES) {
        for set in or_all(&args.set, Set::ALL) {
            for threads in or_all(&args.threads, [1, 2]) {
                let cell = Cell {
                    shape,
                    set,
                    threads,
                };
                let speeds = measure::measure(cell, &sides(&isas), turn);
                let lines = table::rows(cell, &isas, &speeds);
                for line in &lines {
                    say!("{line}");
                }
                rows.extend(lines);
            }
        }
    }
    if let Some(path) = &args.json {
        let file = File::create(path).map_err(|source| EcError::Json {
            path: path.clone(),
            source,
        })?;
        serde_json::to_writer_pretty(file, &table::Document { machine, rows })?;
    }
    Ok(())
}

/// The peers once, and every operation with every instruction set.
fn sides(isas: &[Isa]) -> Vec<Side> {
    let mut sides = vec![Side::Memcpy, Side::SimdCrate, Side::ErasureCrate];
    for isa in isas {
        for operation in Operation::ALL {
            sides.push(Side::Ours(*isa, operation));
            if operation.has_bare(*isa) {
                sides.push(Side::Bare(*isa, operation));
            }
        }
    }
    sides
}
