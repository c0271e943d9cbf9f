//! What a job does next, and whether what it read is what it wrote.
//!
//! A bdev range is cut into units of one I/O size. A course hands out steps
//! (which unit, which operation) and takes them back when they are done:
//!
//! ```text
//!          verified loads only          timed           verified writes only
//!   Fill: every unit written once -> Measure: the load -> Check: every unit
//!         with its tag                                    written is read
//! ```
//!
//! Invariants of a verified load:
//! - a unit is in at most one step at a time (`busy`), so that a read never
//!   races a write and its expected content is known;
//! - `generations[unit]` is the number of the write that last succeeded, or 0
//!   where the content is unknown, which is not checked.
//!
//! Without verification there is no such state, and a step costs a random
//! number at most.

use std::fmt;

use super::pattern::{Mismatch, Pattern};
use super::rng::Rng;
use super::workload::Workload;
use super::zipf::Zipf;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Unmap => "unmap",
            Self::Flush => "flush",
            Self::WriteZeroes => "write of zeroes",
        })
    }
}

/// One I/O to do. `generation` is the number of the write, or of the write
/// whose data a read must find; 0 where nothing is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) operation: Operation,
    pub(crate) unit: u64,
    pub(crate) generation: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Fill,
    Measure,
    Check,
}

/// What a course is made from.
#[derive(Debug, Clone)]
pub(crate) struct CourseSpec {
    pub(crate) workload: Workload,
    /// The share of reads of a mix, in percent.
    pub(crate) read_percent: u8,
    /// The number of units in the range.
    pub(crate) units: u64,
    pub(crate) zipf_theta: Option<f64>,
    pub(crate) verify: Option<Pattern>,
    /// Blocks in a unit, and the block at which the range starts: what tags need.
    pub(crate) unit_blocks: u64,
    pub(crate) first_block: u64,
    pub(crate) seed: u64,
}

/// What a buffer holds before a checked read.
const NOT_READ: u8 = 0xDB;

#[derive(Debug)]
pub(crate) struct Course {
    phase: Phase,
    workload: Workload,
    read_percent: u64,
    /// None: reads and writes in the share above.
    fixed_operation: Option<Operation>,
    units: u64,
    cursor: u64,
    rng: Rng,
    zipf: Option<Zipf>,
    verified: Option<Verified>,
    unit_blocks: u64,
    first_block: u64,
}

#[derive(Debug)]
struct Verified {
    pattern: Pattern,
    generations: Vec<u32>,
    busy: Vec<bool>,
    /// A fill or a check has been through all units.
    pass_done: bool,
}

impl Course {
    pub(crate) fn new(spec: CourseSpec) -> Self {
        assert!(spec.units > 0, "a range without a whole unit has no course");
        let random = spec.workload.is_random();
        let verified = spec.verify.map(|pattern| Verified {
            pattern,
            generations: vec![0; spec.units as usize],
            busy: vec![false; spec.units as usize],
            pass_done: false,
        });
        let fills = verified.is_some() && spec.workload.read_percent(spec.read_percent) > 0;
        Self {
            phase: if fills { Phase::Fill } else { Phase::Measure },
            workload: spec.workload,
            read_percent: u64::from(spec.workload.read_percent(spec.read_percent)),
            fixed_operation: fixed_operation(spec.workload),
            units: spec.units,
            cursor: 0,
            rng: Rng::new(spec.seed),
            zipf: spec
                .zipf_theta
                .filter(|_| random)
                .and_then(|theta| Zipf::new(spec.units, theta)),
            verified,
            unit_blocks: spec.unit_blocks,
            first_block: spec.first_block,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The next phase, once every step of this one is back. None: all done.
    pub(crate) fn advance(&mut self) -> Option<Phase> {
        let verified = self.verified.as_mut()?;
        debug_assert!(
            !verified.busy.contains(&true),
            "a phase ends when all its steps are back"
        );
        verified.pass_done = false;
        self.cursor = 0;
        self.phase = match self.phase {
            Phase::Fill => Phase::Measure,
            Phase::Measure if !self.workload.reads_back() && self.read_percent < 100 => {
                Phase::Check
            }
            Phase::Measure | Phase::Check => return None,
        };
        Some(self.phase)
    }

    /// What to do next; None where a pass has nothing left to hand out, or
    /// every unit of a verified range is busy.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Step> {
        if self.verified.is_some() {
            return self.next_verified();
        }
        Some(self.next_unverified())
    }

    /// What to do next in a load that checks nothing: there is always something.
    #[inline]
    pub(crate) fn next_unverified(&mut self) -> Step {
        let unit = self.choose();
        let operation = match self.fixed_operation {
            Some(operation) => operation,
            None => self.mixed_operation(),
        };
        Step {
            operation,
            unit,
            generation: 0,
        }
    }

    #[inline]
    fn choose(&mut self) -> u64 {
        if !self.workload.is_random() {
            let unit = self.cursor;
            self.cursor = if unit + 1 == self.units { 0 } else { unit + 1 };
            return unit;
        }
        match &self.zipf {
            Some(zipf) => zipf.rank(&mut self.rng),
            None => self.rng.below(self.units),
        }
    }

    #[inline]
    fn mixed_operation(&mut self) -> Operation {
        if self.rng.below(100) < self.read_percent {
            Operation::Read
        } else {
            Operation::Write
        }
    }

    fn next_verified(&mut self) -> Option<Step> {
        let (operation, unit) = match self.phase {
            Phase::Measure => {
                let operation = self.fixed_operation;
                let operation = operation.unwrap_or_else(|| self.mixed_operation());
                (operation, self.choose_idle()?)
            }
            Phase::Fill => (Operation::Write, self.next_of_pass(|_| true)?),
            Phase::Check => (
                Operation::Read,
                self.next_of_pass(|generation| generation > 0)?,
            ),
        };
        let verified = self.verified.as_mut()?;
        verified.busy[unit as usize] = true;
        let last = verified.generations[unit as usize];
        let generation = match operation {
            // 0 means unknown, so a counter that wraps starts again at 1.
            Operation::Write => last.checked_add(1).unwrap_or(1),
            _ => last,
        };
        Some(Step {
            operation,
            unit,
            generation,
        })
    }

    /// The unit that the load would take, or the next one that is idle.
    fn choose_idle(&mut self) -> Option<u64> {
        let chosen = self.choose();
        let busy = &self.verified.as_ref()?.busy;
        let mut units = (chosen..self.units).chain(0..chosen);
        let unit = units.find(|unit| !busy[*unit as usize])?;
        if !self.workload.is_random() {
            self.cursor = if unit + 1 == self.units { 0 } else { unit + 1 };
        }
        Some(unit)
    }

    fn next_of_pass(&mut self, wanted: impl Fn(u32) -> bool) -> Option<u64> {
        let verified = self.verified.as_mut()?;
        while !verified.pass_done {
            let unit = self.cursor;
            self.cursor += 1;
            verified.pass_done = self.cursor == self.units;
            if wanted(verified.generations[unit as usize]) {
                return Some(unit);
            }
        }
        None
    }

    /// Prepares the buffer of a step whose content will be checked: a write gets
    /// its tags, and a read must not find them there already, or a drive that
    /// transfers nothing would pass.
    pub(crate) fn prepare(&self, step: &Step, data: &mut [u8]) {
        let Some(verified) = &self.verified else {
            return;
        };
        match step.operation {
            Operation::Write => {
                verified
                    .pattern
                    .fill(data, self.block_of(step.unit), step.generation);
            }
            Operation::Read => data.fill(NOT_READ),
            _ => {}
        }
    }

    /// Takes back a write. With `verify` and `reset`, a write that succeeded
    /// is followed by the read that this returns.
    pub(crate) fn written(&mut self, step: &Step, succeeded: bool) -> Option<Step> {
        let verified = self.verified.as_mut()?;
        let unit = step.unit as usize;
        // A failed write may have reached the device or not.
        verified.generations[unit] = if succeeded { step.generation } else { 0 };
        if succeeded && self.workload.reads_back() {
            return Some(Step {
                operation: Operation::Read,
                ..*step
            });
        }
        verified.busy[unit] = false;
        None
    }

    /// Takes back a read that succeeded, and checks it.
    pub(crate) fn was_read(&mut self, step: &Step, data: &[u8]) -> Result<(), Mismatch> {
        let first_lba = self.block_of(step.unit);
        let Some(verified) = &mut self.verified else {
            return Ok(());
        };
        verified.busy[step.unit as usize] = false;
        if step.generation == 0 {
            return Ok(());
        }
        verified.pattern.check(data, first_lba, step.generation)
    }

    /// Takes back a step that failed and was not a write.
    pub(crate) fn failed(&mut self, step: &Step) {
        if let Some(verified) = &mut self.verified {
            verified.busy[step.unit as usize] = false;
        }
    }

    #[inline]
    pub(crate) fn block_of(&self, unit: u64) -> u64 {
        self.first_block + unit * self.unit_blocks
    }
}

/// What a workload does, unless it mixes.
fn fixed_operation(workload: Workload) -> Option<Operation> {
    match workload {
        Workload::Read | Workload::RandRead => Some(Operation::Read),
        Workload::Rw | Workload::RandRw => None,
        Workload::Unmap => Some(Operation::Unmap),
        Workload::Flush => Some(Operation::Flush),
        Workload::WriteZeroes => Some(Operation::WriteZeroes),
        Workload::Write | Workload::RandWrite | Workload::Verify | Workload::Reset => {
            Some(Operation::Write)
        }
    }
}

#[cfg(test)]
mod tests;
