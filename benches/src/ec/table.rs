//! A line for each cell and instruction set, and the same for machines to read.

use std::fmt;

use oriel_ec::Isa;
use serde::Serialize;

use super::machine::Machine;
use super::measure::{Cell, Speeds};
use super::rig::{Operation, Side};

#[derive(Serialize)]
pub(crate) struct Document {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
}

/// Everything that one instruction set did in one cell, in data GB/s.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    scheme: String,
    buffers: &'static str,
    threads: u32,
    isa: &'static str,
    memcpy: f64,
    reed_solomon_simd: f64,
    reed_solomon_erasure: f64,
    operations: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize)]
struct Figure {
    operation: &'static str,
    ours: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bare: Option<f64>,
    /// Medians of the ratios of each round.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_bare: Option<f64>,
    of_memcpy: f64,
    of_better_crate: f64,
}

pub(crate) fn head() -> String {
    let mut line = format!(
        "{:<5} {:<4} {:>2} {:<11} | {:>6} {:>6} {:>6}",
        "", "", "T", "", "memcpy", "simd", "eras."
    );
    for operation in Operation::ALL {
        if operation.has_bare(Isa::Avx2) {
            line += &format!(" | {:>8} {:>5} {:>5}", operation.name(), "bare", "ratio");
        } else {
            line += &format!(" | {:>10}", operation.name());
        }
    }
    line
}

pub(crate) fn rows(cell: Cell, isas: &[Isa], speeds: &Speeds) -> Vec<Row> {
    let speed = |side| speeds.of(side).unwrap_or(0.0);
    let crates = [Side::SimdCrate, Side::ErasureCrate];
    let figure = |isa: Isa, operation: Operation| {
        let ours = Side::Ours(isa, operation);
        let ratio = |theirs: &[Side]| speeds.compare(ours, theirs).map(|outcome| outcome.ratio);
        Figure {
            operation: operation.name(),
            ours: speed(ours),
            bare: speeds.of(Side::Bare(isa, operation)),
            of_bare: ratio(&[Side::Bare(isa, operation)]),
            of_memcpy: ratio(&[Side::Memcpy]).unwrap_or(0.0),
            of_better_crate: ratio(&crates).unwrap_or(0.0),
        }
    };
    let row = |isa: &Isa| Row {
        scheme: format!("{}+{}", cell.shape.k, cell.shape.m),
        buffers: cell.set.name(),
        threads: cell.threads,
        isa: isa.name(),
        memcpy: speed(Side::Memcpy),
        reed_solomon_simd: speed(Side::SimdCrate),
        reed_solomon_erasure: speed(Side::ErasureCrate),
        operations: Operation::ALL
            .iter()
            .map(|operation| figure(*isa, *operation))
            .collect(),
    };
    isas.iter().map(row).collect()
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<5} {:<4} {:>2} {:<11}",
            self.scheme, self.buffers, self.threads, self.isa
        )?;
        let peers = [
            self.memcpy,
            self.reed_solomon_simd,
            self.reed_solomon_erasure,
        ];
        write!(
            f,
            " | {:>6.1} {:>6.1} {:>6.1}",
            peers[0], peers[1], peers[2]
        )?;
        for (figure, operation) in self.operations.iter().zip(Operation::ALL) {
            match (figure.bare, figure.of_bare) {
                (Some(bare), Some(ratio)) => {
                    write!(f, " | {:>8.1} {bare:>5.1} {ratio:>5.2}", figure.ours)?
                }
                _ if operation.has_bare(Isa::Avx2) => {
                    write!(f, " | {:>8.1} {:>5} {:>5}", figure.ours, "-", "-")?
                }
                _ => write!(f, " | {:>10.1}", figure.ours)?,
            }
        }
        Ok(())
    }
}
