//! `oriel-perf`: measurements beside their limits and their peers.
#![forbid(unsafe_code)]

mod against;
mod bdev;
mod config;
mod cores;
mod ec;
mod gate;
mod hugepages;
mod index;
mod interrupt;
mod job_file;
mod latency;
mod load;
mod out;
mod report;
mod restart;
mod ring;
mod size;
mod store;
mod target;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures SPDK driven from Rust, beside its limits and its peers.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Show what SPDK logs; twice for more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bdev(Box<bdev::args::BdevArgs>),
    Gate(gate::GateArgs),
    Reactor(latency::ReactorArgs),
    Ec(ec::EcArgs),
    Ring(ring::RingArgs),
    Index(index::IndexArgs),
    Store(Box<store::StoreArgs>),
    Node(store::NodeArgs),
    Restart(restart::RestartArgs),
    Target(target::TargetArgs),
    Neighbours(target::NeighboursArgs),
    #[command(hide = true)]
    TargetSide(target::SideArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => tracing::level_filters::LevelFilter::OFF,
        1 => tracing::level_filters::LevelFilter::INFO,
        _ => tracing::level_filters::LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    if let Err(error) = out::claim(cli.verbose > 0) {
        out::complain(format_args!(
            "cannot keep SPDK's lines out of standard output: {error}"
        ));
        return ExitCode::FAILURE;
    }
    let result: Result<ExitCode, Box<dyn Error>> = match &cli.command {
        Command::Bdev(args) => bdev::run(args).map(ended).map_err(Into::into),
        Command::Gate(args) => gate::run(args).map(verdict).map_err(Into::into),
        Command::Reactor(args) => latency::run(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Index(args) => index::run(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Store(args) => store::run(args).map(ended).map_err(Into::into),
        Command::Node(args) => store::run_node(args).map(ended).map_err(Into::into),
        Command::Restart(args) => restart::run(args).map(ended).map_err(Into::into),
        Command::Target(args) => target::run(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Neighbours(args) => target::run_neighbours(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::TargetSide(args) => target::side(args).map(ended).map_err(Into::into),
        Command::Ec(args) => ec::run(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Ring(args) => ring::run(args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    let status = result.unwrap_or_else(|error| {
        out::complain(format_args!("{}", sentence(error.as_ref())));
        ExitCode::FAILURE
    });
    match out::lost() {
        None => status,
        Some(error) => {
            out::complain(format_args!(
                "the results could not be written to standard output: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn verdict(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A run that a signal cut short says so as a shell would.
fn ended(signal: Option<i32>) -> ExitCode {
    match signal {
        None => ExitCode::SUCCESS,
        Some(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// The error and what led to it, as far as it does not say so itself.
fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !sentence.contains(&cause_text) {
            sentence = format!("{sentence}: {cause_text}");
        }
        source = cause.source();
    }
    sentence
}
