//! The sides in turn, round after round, so that what disturbs the machine
//! disturbs all.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::rig::{Operation, Rig, Set, Shape, Side};
use crate::against::ratio::{Comparison, Round, median};

/// What is measured together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) shape: Shape,
    pub(crate) set: Set,
    pub(crate) threads: u32,
}

/// How long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) rounds: u32,
    /// Each round is this many turns of every side, of which the median counts:
    /// turns are short, and on a busy machine some are interrupted.
    pub(crate) turns: u32,
    /// A turn ends with the first pass after this.
    pub(crate) least: Duration,
}

/// The median speed of every side in every round, in data GB/s of all threads.
pub(crate) struct Speeds {
    sides: Vec<Side>,
    rounds: Vec<Vec<f64>>,
}

impl Speeds {
    fn place(&self, side: Side) -> Option<usize> {
        self.sides.iter().position(|known| *known == side)
    }

    /// The median over all rounds.
    pub(crate) fn of(&self, side: Side) -> Option<f64> {
        let place = self.place(side)?;
        Some(median(
            self.rounds.iter().map(|round| round[place]).collect(),
        ))
    }

    /// One side against the best of others, round by round.
    pub(crate) fn compare(&self, ours: Side, theirs: &[Side]) -> Option<Comparison> {
        let ours = self.place(ours)?;
        let places: Option<Vec<usize>> = theirs.iter().map(|side| self.place(*side)).collect();
        let places = places.filter(|places| !places.is_empty())?;
        let rounds = self.rounds.iter().map(|round| Round {
            ours: round[ours],
            theirs: places.iter().map(|place| round[*place]).fold(0.0, f64::max),
        });
        Comparison::of(&rounds.collect::<Vec<_>>())
    }
}

pub(crate) fn measure(cell: Cell, sides: &[Side], turn: Turn) -> Speeds {
    let barrier = Barrier::new(cell.threads as usize);
    let threads: Vec<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| thread(cell, sides, turn, &barrier));
        let running: Vec<_> = (0..cell.threads).map(|_| start()).collect();
        let results = running.into_iter().map(|thread| thread.join());
        results
            .map(|speeds| speeds.expect("a measuring thread panicked"))
            .collect()
    });
    let turn_speed = |at: usize, side: usize| threads.iter().map(|thread| thread[at][side]).sum();
    let turns = turn.turns as usize;
    let middle = |round: usize, side: usize| {
        median(
            (round * turns..(round + 1) * turns)
                .map(|at| turn_speed(at, side))
                .collect(),
        )
    };
    let rounds = (0..turn.rounds as usize)
        .map(|round| (0..sides.len()).map(|side| middle(round, side)).collect())
        .collect();
    Speeds {
        sides: sides.to_vec(),
        rounds,
    }
}

fn thread(cell: Cell, sides: &[Side], turn: Turn, barrier: &Barrier) -> Vec<Vec<f64>> {
    let mut speeds = Vec::new();
    for round in 0..turn.rounds {
        // Buffers of its own for each round: where they lie makes some kernels faster or slower by a quarter.
        let mut rig = Rig::new(cell.shape, cell.set, sides, round);
        for (place, side) in sides.iter().enumerate() {
            first_pass(&mut rig, place, *side);
        }
        for _ in 0..turn.turns {
            let turns = (0..sides.len()).map(|place| one_turn(&mut rig, place, turn, barrier));
            speeds.push(turns.collect());
        }
    }
    speeds
}

/// The first pass builds tables and touches pages, and shows that the side works at all.
fn first_pass(rig: &mut Rig, place: usize, side: Side) {
    let range = rig.pass(place);
    match side {
        Side::Ours(_, Operation::DecodeOne) => {
            assert!(rig.decoded(1, range), "{side:?} decodes wrongly")
        }
        Side::Ours(_, Operation::DecodeTwo) => {
            assert!(rig.decoded(2, range), "{side:?} decodes wrongly")
        }
        Side::SimdCrate | Side::ErasureCrate | Side::Bare(..) => rig.restore(),
        _ => {}
    }
}

/// A side's speed in one turn.
fn one_turn(rig: &mut Rig, place: usize, turn: Turn, barrier: &Barrier) -> f64 {
    let bytes = rig.data_bytes();
    barrier.wait();
    let start = Instant::now();
    let mut passes = 0u64;
    while passes == 0 || start.elapsed() < turn.least {
        rig.pass(place);
        passes += 1;
    }
    passes as f64 * bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}
