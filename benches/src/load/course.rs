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

#[derive(Debug)]
pub(crate) struct Course {
    phase: Phase,
    workload: Workload,
    read_percent: u64,
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
        let unit = self.choose();
        let operation = self.operation();
        Some(Step {
            operation,
            unit,
            generation: 0,
        })
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
    fn operation(&mut self) -> Operation {
        match self.workload {
            Workload::Unmap => Operation::Unmap,
            Workload::Flush => Operation::Flush,
            Workload::WriteZeroes => Operation::WriteZeroes,
            _ if self.read_percent == 100 => Operation::Read,
            _ if self.read_percent > 0 && self.rng.below(100) < self.read_percent => {
                Operation::Read
            }
            _ => Operation::Write,
        }
    }

    fn next_verified(&mut self) -> Option<Step> {
        let (operation, unit) = match self.phase {
            Phase::Measure => (self.operation(), self.choose_idle()?),
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

    /// Fills the buffer of a write whose content will be checked.
    pub(crate) fn fill(&self, step: &Step, data: &mut [u8]) {
        if let Some(verified) = &self.verified {
            verified
                .pattern
                .fill(data, self.block_of(step.unit), step.generation);
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

    pub(crate) fn units(&self) -> u64 {
        self.units
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const BLOCK: usize = 512;

    fn spec(workload: Workload, units: u64, verify: bool) -> CourseSpec {
        CourseSpec {
            workload,
            read_percent: 50,
            units,
            zipf_theta: None,
            verify: verify.then(|| Pattern::new(5, BLOCK)),
            unit_blocks: 2,
            first_block: 10,
            seed: 1,
        }
    }

    /// Runs a phase against a drive in memory with several steps in flight,
    /// completed in a shuffled order. `harm` may change a write on its way.
    fn run(
        course: &mut Course,
        drive: &mut [u8],
        steps: usize,
        harm: &mut dyn FnMut(usize, &Step, &mut Vec<u8>),
    ) -> Result<usize, Mismatch> {
        let mut rng = Rng::new(77);
        let mut flying: VecDeque<(Step, Vec<u8>)> = VecDeque::new();
        let mut issued = 0;
        let place = |course: &Course, step: &Step| {
            let start = (course.block_of(step.unit) - 10) as usize * BLOCK;
            start..start + 2 * BLOCK
        };
        loop {
            while flying.len() < 4 && issued < steps {
                let Some(step) = course.next() else { break };
                let mut data = vec![0; 2 * BLOCK];
                if step.operation == Operation::Write {
                    course.fill(&step, &mut data);
                    harm(issued, &step, &mut data);
                }
                issued += 1;
                flying.push_back((step, data));
            }
            if flying.is_empty() {
                return Ok(issued);
            }
            let at = rng.below(flying.len() as u64) as usize;
            let (step, mut data) = flying.remove(at).unwrap();
            match step.operation {
                Operation::Write => {
                    drive[place(course, &step)].copy_from_slice(&data);
                    if let Some(read) = course.written(&step, true) {
                        flying.push_back((read, data));
                    }
                }
                Operation::Read => {
                    data.copy_from_slice(&drive[place(course, &step)]);
                    course.was_read(&step, &data)?;
                }
                _ => {}
            }
        }
    }

    fn whole(
        workload: Workload,
        harm: &mut dyn FnMut(usize, &Step, &mut Vec<u8>),
    ) -> Result<Vec<Phase>, Mismatch> {
        let mut course = Course::new(spec(workload, 50, true));
        let mut drive = vec![0xEE; 50 * 2 * BLOCK];
        let mut phases = vec![course.phase()];
        loop {
            run(&mut course, &mut drive, 1000, harm)?;
            match course.advance() {
                Some(phase) => phases.push(phase),
                None => return Ok(phases),
            }
        }
    }

    #[test]
    fn a_faithful_drive_passes_every_verified_workload() {
        use Phase::{Check, Fill, Measure};
        let mut nothing = |_: usize, _: &Step, _: &mut Vec<u8>| {};
        for (workload, phases) in [
            (Workload::Verify, vec![Measure]),
            (Workload::Reset, vec![Measure]),
            (Workload::Write, vec![Measure, Check]),
            (Workload::RandWrite, vec![Measure, Check]),
            (Workload::Read, vec![Fill, Measure]),
            (Workload::RandRead, vec![Fill, Measure]),
            (Workload::Rw, vec![Fill, Measure, Check]),
            (Workload::RandRw, vec![Fill, Measure, Check]),
        ] {
            assert_eq!(whole(workload, &mut nothing), Ok(phases), "{workload}");
        }
    }

    #[test]
    fn one_changed_byte_in_any_workload_is_found() {
        for workload in [
            Workload::Verify,
            Workload::Write,
            Workload::RandWrite,
            Workload::Read,
            Workload::RandRw,
        ] {
            let mut expected = None;
            let mut flip = |_: usize, step: &Step, data: &mut Vec<u8>| {
                // The last write of each unit counts, so every write of this
                // unit is harmed.
                if step.unit == 17 {
                    data[BLOCK + 100] ^= 1;
                    expected = Some(10 + 17 * 2 + 1);
                }
            };
            let mismatch = whole(workload, &mut flip).unwrap_err();
            assert_eq!(
                (Some(mismatch.lba), mismatch.byte),
                (expected, 100),
                "{workload}"
            );
        }
    }

    #[test]
    fn a_unit_is_never_in_two_steps() {
        let mut course = Course::new(spec(Workload::RandWrite, 8, true));
        let steps: Vec<_> = (0..8).map(|_| course.next().unwrap().unit).collect();
        let mut sorted = steps.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..8).collect::<Vec<_>>());
        assert_eq!(course.next(), None);
        course.failed(&Step {
            operation: Operation::Read,
            unit: 3,
            generation: 0,
        });
        assert_eq!(course.next().map(|step| step.unit), Some(3));
    }

    #[test]
    fn a_failed_write_leaves_content_that_is_not_checked() {
        let mut course = Course::new(spec(Workload::Write, 1, true));
        let step = course.next().unwrap();
        assert_eq!(course.written(&step, false), None);
        assert_eq!(course.advance(), Some(Phase::Check));
        assert_eq!(course.next(), None);
    }

    #[test]
    fn sequential_loads_wrap_and_random_ones_stay_inside() {
        let mut course = Course::new(spec(Workload::Write, 3, false));
        let units: Vec<_> = (0..7).map(|_| course.next().unwrap().unit).collect();
        assert_eq!(units, [0, 1, 2, 0, 1, 2, 0]);
        let mut course = Course::new(spec(Workload::RandRead, 3, false));
        assert!((0..1000).all(|_| course.next().unwrap().unit < 3));
        assert_eq!(course.block_of(2), 14);
    }

    #[test]
    fn a_mix_keeps_its_share() {
        let mut course = Course::new(CourseSpec {
            read_percent: 70,
            ..spec(Workload::RandRw, 1000, false)
        });
        let reads = (0..10_000)
            .filter(|_| course.next().unwrap().operation == Operation::Read)
            .count();
        assert!((6_800..7_200).contains(&reads), "{reads}");
    }

    #[test]
    fn zipf_prefers_the_first_units() {
        let mut course = Course::new(CourseSpec {
            zipf_theta: Some(1.2),
            ..spec(Workload::RandRead, 1000, false)
        });
        let low = (0..10_000)
            .filter(|_| course.next().unwrap().unit < 10)
            .count();
        assert!(low > 5_000, "{low}");
    }

    #[test]
    fn loads_without_data_do_only_their_operation() {
        for (workload, operation) in [
            (Workload::Unmap, Operation::Unmap),
            (Workload::Flush, Operation::Flush),
            (Workload::WriteZeroes, Operation::WriteZeroes),
        ] {
            let mut course = Course::new(spec(workload, 4, false));
            assert!((0..10).all(|_| course.next().unwrap().operation == operation));
        }
    }
}
