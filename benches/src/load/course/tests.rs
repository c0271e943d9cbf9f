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
            course.prepare(&step, &mut data);
            if step.operation == Operation::Write {
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
fn a_drive_that_transfers_nothing_is_found() {
    let mut course = Course::new(spec(Workload::Verify, 4, true));
    let write = course.next().unwrap();
    let mut data = vec![0; 2 * BLOCK];
    course.prepare(&write, &mut data);
    let read = course.written(&write, true).unwrap();
    course.prepare(&read, &mut data);
    assert!(course.was_read(&read, &data).is_err());
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
