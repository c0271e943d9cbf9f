//! `oriel-perf index` and the area `index` of `oriel-perf gate`: the index beside hashbrown and two concurrent maps,
//! with the same keys, the same number of places and ordinary memory.

mod beside;
mod gate;
mod growth;
mod rig;

use std::path::PathBuf;

use clap::Args;
use oriel_dht::index::{AdoptError, CloseError, CreateError, InsertError, SizeError};
use oriel_dht::region::{self, SectionError};

pub(crate) use gate::gate;
use growth::Pages;
use rig::{Keys, Rig, Side, Turn};

use crate::out::say;

/// Measures lookups in the index beside hashbrown, dashmap and papaya.
///
/// Nanoseconds a lookup, medians of rounds in which the sides take turns. Cold: keys in random order over the whole
/// table; warm: 512 keys over and over. The next key waits for the answer, but where it says streamed (hb-stream:
/// hashbrown's) or batched, 32 keys at a time.
#[derive(Debug, Clone, Args)]
pub(crate) struct IndexArgs {
    /// Places for entries, as a power of two; may be given several times [default: 20 and 24; 27 needs 20 GiB]
    #[arg(long, value_parser = clap::value_parser!(u32).range(14..=32))]
    slots: Vec<u32>,
    /// Percent of the places that are taken; may be given several times [default: 50, 75 and 85]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86))]
    full: Vec<u32>,
    /// How often each side is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// A file or DAX device for the index; what is there is lost [default: memory]
    #[arg(long, value_name = "PATH")]
    region: Option<PathBuf>,
    /// Leave dashmap and papaya out: 2^27 places then need 11 GiB
    #[arg(long)]
    hashbrown_only: bool,
    /// Threads that read while a writer writes; may be given several times [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    readers: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error(transparent)]
    Region(#[from] region::CreateError),
    #[error(transparent)]
    Section(#[from] SectionError),
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error(transparent)]
    Insert(#[from] InsertError),
    #[error(transparent)]
    Close(#[from] CloseError),
    #[error(transparent)]
    CloseRegion(#[from] region::CloseError),
    #[error(transparent)]
    Open(#[from] region::OpenError),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("memory for a growing index: {0}")]
    Memory(#[from] rustix::io::Errno),
}

fn or_all<T: Clone>(chosen: &[T], all: &[T]) -> Vec<T> {
    if chosen.is_empty() { all } else { chosen }.to_vec()
}

pub(crate) fn run(args: &IndexArgs) -> Result<(), IndexError> {
    let sides: Vec<Side> = Side::ALL
        .into_iter()
        .filter(|side| !args.hashbrown_only || !matches!(side, Side::Dashmap | Side::Papaya))
        .collect();
    say!(
        "{:>5} {:>4} {:<5} {:<4} {}  lines",
        "slots",
        "full",
        "keys",
        "",
        sides
            .iter()
            .map(|side| format!("{:>9}", side.name()))
            .collect::<Vec<_>>()
            .join(" ")
    );
    for log in or_all(&args.slots, &[20, 24]) {
        for percent in or_all(&args.full, &[50, 75, 85]) {
            let mut rig = Rig::build(
                1 << log,
                percent,
                args.region.as_deref(),
                !args.hashbrown_only,
            )?;
            if percent == 85 || args.full.len() == 1 {
                say!("{:>5} {}", format!("2^{log}"), rig.describe());
            }
            for keys in [Keys::Hits, Keys::Misses] {
                for turn in [Turn::Cold, Turn::Warm] {
                    let times = rig.rounds(&sides, keys, turn, args.rounds);
                    let columns: Vec<String> = sides
                        .iter()
                        .map(|side| format!("{:>9.1}", times.ns(*side)))
                        .collect();
                    say!(
                        "{:>5} {percent:>4} {:<5} {:<4} {}  {:.3}",
                        format!("2^{log}"),
                        keys.name(),
                        turn.name(),
                        columns.join(" "),
                        rig.lines(keys)
                    );
                }
            }
            for readers in or_all(&args.readers, &[1]) {
                say!("{}", beside::describe(&mut rig, readers, args.rounds));
            }
        }
    }
    for pages in Pages::BOTH {
        say!("{}", growth::describe(pages, args.rounds)?);
    }
    Ok(())
}
