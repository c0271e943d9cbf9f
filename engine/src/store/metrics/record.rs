//! The numbers of a log while it counts: cells of one core, without locks.
//!
//! An operation costs an increment when it begins, two when it ends, and two readings of the clock if it is timed.

use std::cell::{Cell, OnceCell, RefCell};

use super::super::error::StoreError;
use super::super::types::RealmId;
use super::latency::Latencies;
use super::names::{ErrorKind, Operation, Outcome, ReadFor, Step, WrittenFor};
use super::snapshot::{LogMetrics, OperationMetrics, RealmMetrics, StepMetrics};
use crate::clock::{Clock, Moment};

/// What is counted and timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Observe {
    /// No operation is counted or timed: for a program that does so itself.
    Nothing,
    /// All are counted. Of gets, puts, writes, probes and locates one in so many is timed, drawn at random; of the rest each.
    OneIn(u32),
}

impl Default for Observe {
    /// One in sixteen.
    fn default() -> Self {
        Self::OneIn(16)
    }
}

pub(super) fn add(cell: &Cell<u64>, more: u64) {
    cell.set(cell.get() + more);
}

fn values<const N: usize>(cells: &[Cell<u64>; N]) -> [u64; N] {
    std::array::from_fn(|at| cells[at].get())
}

type Timed = RefCell<Option<Box<Latencies>>>;

/// Made when the first time is recorded: many realms are asked for little.
fn record(timed: &Timed, began: Moment, now: Moment) {
    let mut timed = timed.borrow_mut();
    timed.get_or_insert_default().record(now - began);
}

fn recorded(timed: &Timed) -> Latencies {
    timed.borrow().as_deref().cloned().unwrap_or_default()
}

#[derive(Default)]
struct OperationCells {
    begun: Cell<u64>,
    ended: [Cell<u64>; Outcome::ALL.len()],
    bytes: Cell<u64>,
    timed: Timed,
}

#[derive(Default)]
struct RealmCells {
    operations: [OperationCells; Operation::ALL.len()],
    errors: [Cell<u64>; ErrorKind::ALL.len()],
    probed_keys: Cell<u64>,
    found_keys: Cell<u64>,
    evicted: Cell<u64>,
}

#[derive(Default)]
struct StepCells {
    done: Cell<u64>,
    failed: Cell<u64>,
    timed: Timed,
}

/// A realm that came while the log was in use, and those that came after it.
struct Late {
    id: RealmId,
    cells: RealmCells,
    next: OnceCell<Box<Late>>,
}

/// The numbers of a log.
pub(in super::super) struct Metrics {
    clock: Clock,
    opened: Moment,
    pub(super) one_in: u32,
    dice: Cell<u64>,
    /// Sorted; what is asked of a realm that there is not is counted behind the others.
    ids: Box<[RealmId]>,
    realms: Box<[RealmCells]>,
    /// What counts has a place in a realm's numbers while it is under way, so no realm's are moved.
    late: OnceCell<Box<Late>>,
    /// Where the last one was found.
    last: Cell<usize>,
    steps: [StepCells; Step::ALL.len()],
    written_blocks: [Cell<u64>; WrittenFor::ALL.len()],
    read_blocks: [Cell<u64>; ReadFor::ALL.len()],
    /// Under way.
    pub(super) reads: Cell<u64>,
    pub(super) writes: Cell<u64>,
    /// Transfers that the drive answered with an error.
    pub(super) failed_reads: Cell<u64>,
    pub(super) failed_writes: Cell<u64>,
}

impl Metrics {
    pub(in super::super) fn new(
        clock: Clock,
        observe: Observe,
        realms: impl Iterator<Item = RealmId>,
    ) -> Self {
        let mut ids: Vec<RealmId> = realms.collect();
        ids.sort_unstable();
        ids.dedup();
        Self {
            opened: clock.now(),
            clock,
            one_in: match observe {
                Observe::Nothing => 0,
                Observe::OneIn(count) => count.max(1),
            },
            dice: Cell::new(1),
            realms: (0..=ids.len()).map(|_| RealmCells::default()).collect(),
            ids: ids.into(),
            late: OnceCell::new(),
            last: Cell::new(0),
            steps: Default::default(),
            written_blocks: Default::default(),
            read_blocks: Default::default(),
            reads: Cell::new(0),
            writes: Cell::new(0),
            failed_reads: Cell::new(0),
            failed_writes: Cell::new(0),
        }
    }

    fn realm(&self, id: RealmId) -> &RealmCells {
        let last = self.last.get();
        if self.ids.get(last) == Some(&id) {
            return &self.realms[last];
        }
        match self.ids.binary_search(&id) {
            Ok(at) => {
                self.last.set(at);
                &self.realms[at]
            }
            Err(_) => {
                let late = self.late().find(|late| late.id == id);
                late.map_or(&self.realms[self.ids.len()], |late| &late.cells)
            }
        }
    }

    fn late(&self) -> impl Iterator<Item = &Late> {
        std::iter::successors(self.late.get(), |late| late.next.get()).map(|late| &**late)
    }

    /// Counts for a realm from now on by itself.
    pub(in super::super) fn add_realm(&self, id: RealmId) {
        if self.ids.contains(&id) || self.late().any(|late| late.id == id) {
            return;
        }
        let end = self.late().last().map_or(&self.late, |last| &last.next);
        let late = Late {
            id,
            cells: RealmCells::default(),
            next: OnceCell::new(),
        };
        end.get_or_init(|| Box::new(late));
    }

    /// Whether this one is timed: a counter would time the same one of a caller's sixteen again and again.
    pub(super) fn is_drawn(&self) -> bool {
        let next = self.dice.get();
        let next = next.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        self.dice.set(next);
        (next >> 32) * u64::from(self.one_in) < 1 << 32
    }

    /// An operation begins.
    #[inline]
    pub(in super::super) fn begin(&self, operation: Operation, realm: RealmId) -> Observed<'_> {
        if self.one_in == 0 {
            return Observed(None);
        }
        let realm = self.realm(realm);
        let cells = &realm.operations[operation as usize];
        add(&cells.begun, 1);
        let is_timed = !operation.is_sampled() || self.is_drawn();
        Observed(Some(Begun {
            clock: &self.clock,
            realm,
            cells,
            at: is_timed.then(|| self.clock.now()),
        }))
    }

    /// The same, for one that is not waited for.
    #[inline]
    pub(in super::super) fn begin_detached(
        &self,
        operation: Operation,
        realm: RealmId,
    ) -> Detached {
        let mut observed = self.begin(operation, realm);
        Detached {
            operation,
            realm,
            begun: observed.0.take().map(|begun| begun.at),
        }
    }

    /// One that was not waited for is about to end.
    #[inline]
    pub(in super::super) fn attach(&self, detached: &Detached) -> Observed<'_> {
        let &Detached {
            operation,
            realm,
            begun,
        } = detached;
        Observed(begun.map(|at| {
            let realm = self.realm(realm);
            Begun {
                clock: &self.clock,
                realm,
                cells: &realm.operations[operation as usize],
                at,
            }
        }))
    }

    pub(in super::super) fn evicted(&self, realm: RealmId, blobs: u64) {
        add(&self.realm(realm).evicted, blobs);
    }

    pub(in super::super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// A step that began then has ended.
    pub(in super::super) fn stepped(&self, step: Step, began: Moment, is_done: bool) {
        self.stepped_maybe(step, Some(began), is_done);
    }

    pub(super) fn stepped_maybe(&self, step: Step, began: Option<Moment>, is_done: bool) {
        let cells = &self.steps[step as usize];
        match is_done {
            true => add(&cells.done, 1),
            false => add(&cells.failed, 1),
        }
        if let Some(began) = began.filter(|_| is_done) {
            record(&cells.timed, began, self.clock.now());
        }
    }

    pub(in super::super) fn wrote(&self, purpose: WrittenFor, blocks: u64) {
        add(&self.written_blocks[purpose as usize], blocks);
    }

    pub(in super::super) fn read(&self, purpose: ReadFor, blocks: u64) {
        add(&self.read_blocks[purpose as usize], blocks);
    }

    /// A read of the drive that nobody waits for is under way.
    pub(in super::super) fn read_begins(&self) {
        add(&self.reads, 1);
    }

    /// It is not any more.
    pub(in super::super) fn read_ends(&self) {
        self.reads.set(self.reads.get() - 1);
    }

    /// Reads and writes of the drive under way.
    pub(in super::super) fn transfers(&self) -> (u64, u64) {
        (self.reads.get(), self.writes.get())
    }

    // ---- Reading them out -----------------------------------------------------------------------

    /// What was counted, and the time as of which.
    pub(in super::super) fn snapshot(&self) -> (LogMetrics, Moment) {
        let now = self.clock.now();
        let metrics = LogMetrics {
            open_for: now - self.opened,
            realms: self.realm_metrics(),
            steps: self.step_metrics(),
            written_blocks: values(&self.written_blocks),
            read_blocks: values(&self.read_blocks),
            failed_reads: self.failed_reads.get(),
            failed_writes: self.failed_writes.get(),
            ..LogMetrics::default()
        };
        (metrics, now)
    }

    fn realm_metrics(&self) -> Vec<RealmMetrics> {
        let ids = self.ids.iter().copied().map(Some).chain([None]);
        let late = self.late().map(|late| (Some(late.id), &late.cells));
        let mut all: Vec<_> = ids.zip(&self.realms).chain(late).collect();
        all.sort_by_key(|(id, _)| (id.is_none(), *id));
        let all = all.into_iter().map(|(id, cells)| RealmMetrics {
            id,
            operations: std::array::from_fn(|at| {
                let cells = &cells.operations[at];
                OperationMetrics {
                    begun: cells.begun.get(),
                    ended: values(&cells.ended),
                    bytes: cells.bytes.get(),
                    timed: recorded(&cells.timed),
                }
            }),
            errors: values(&cells.errors),
            probed_keys: cells.probed_keys.get(),
            found_keys: cells.found_keys.get(),
            evicted_blobs: cells.evicted.get(),
            ..RealmMetrics::default()
        });
        all.collect()
    }

    fn step_metrics(&self) -> [StepMetrics; Step::ALL.len()] {
        std::array::from_fn(|at| {
            let cells = &self.steps[at];
            StepMetrics {
                done: cells.done.get(),
                failed: cells.failed.get(),
                timed: recorded(&cells.timed),
            }
        })
    }
}

struct Begun<'a> {
    clock: &'a Clock,
    realm: &'a RealmCells,
    cells: &'a OperationCells,
    at: Option<Moment>,
}

/// An operation that goes on although nobody waits for it.
pub(in super::super) struct Detached {
    operation: Operation,
    realm: RealmId,
    /// Since when, if it is timed; `None` if it is not counted.
    begun: Option<Option<Moment>>,
}

/// An operation under way. Dropped, it was given up.
pub(in super::super) struct Observed<'a>(Option<Begun<'a>>);

impl Observed<'_> {
    /// It has ended, with so many bytes that went in or out.
    #[inline]
    pub(in super::super) fn end(mut self, outcome: Outcome, bytes: u64) {
        if let Some(begun) = self.0.take() {
            add(&begun.cells.ended[outcome as usize], 1);
            add(&begun.cells.bytes, bytes);
            if let Some(at) = begun.at {
                record(&begun.cells.timed, at, begun.clock.now());
            }
        }
    }

    #[cold]
    pub(in super::super) fn fail(mut self, error: &StoreError) {
        if let Some(begun) = self.0.take() {
            add(&begun.cells.ended[Outcome::Failed as usize], 1);
            add(&begun.realm.errors[ErrorKind::of(error) as usize], 1);
        }
    }

    /// It has ended so; `of` tells what an answer means.
    #[inline]
    pub(in super::super) fn heard<T>(
        self,
        answer: &Result<T, StoreError>,
        of: impl FnOnce(&T) -> (Outcome, u64),
    ) {
        match answer {
            Ok(value) => {
                let (outcome, bytes) = of(value);
                self.end(outcome, bytes);
            }
            // The blob was found, and its parts are asked for next.
            Err(StoreError::InParts { .. }) => self.end(Outcome::Done, 0),
            Err(error) => self.fail(error),
        }
    }

    /// A probe has ended.
    pub(in super::super) fn probed(self, keys: u64, found: u64) {
        if let Some(begun) = &self.0 {
            add(&begun.realm.probed_keys, keys);
            add(&begun.realm.found_keys, found);
        }
        let outcome = match found {
            0 => Outcome::Nothing,
            _ => Outcome::Done,
        };
        self.end(outcome, 0);
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.0.take() {
            add(&begun.cells.ended[Outcome::GivenUp as usize], 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::super::transfers::UnderWay;
    use super::*;

    const REALM: RealmId = RealmId(7);

    fn metrics(clock: &Clock, observe: Observe) -> Metrics {
        Metrics::new(clock.clone(), observe, [REALM, RealmId(3)].into_iter())
    }

    #[test]
    fn an_operation_is_counted_where_it_belongs_however_it_ends() {
        let clock = Clock::manual();
        let metrics = metrics(&clock, Observe::OneIn(1));
        let get = metrics.begin(Operation::Get, REALM);
        clock.advance(Duration::from_micros(7));
        get.heard(&Ok(5), |bytes| (Outcome::Done, *bytes));
        metrics
            .begin(Operation::Get, REALM)
            .end(Outcome::Nothing, 0);
        drop(metrics.begin(Operation::Get, REALM));
        let lost = Err::<u64, _>(StoreError::Full);
        metrics
            .begin(Operation::Put, REALM)
            .heard(&lost, |_| (Outcome::Done, 0));
        let unknown = metrics.begin(Operation::Put, RealmId(9));
        let (snapshot, _) = metrics.snapshot();
        let [third, seventh, none] = &snapshot.realms[..] else {
            panic!("{snapshot:?}");
        };
        assert_eq!(
            (third.id, seventh.id, none.id),
            (Some(RealmId(3)), Some(REALM), None)
        );
        let gets = seventh.operation(Operation::Get);
        let ended: Vec<u64> = Outcome::ALL.iter().map(|of| gets.ended(*of)).collect();
        assert_eq!((gets.begun, gets.bytes, ended), (3, 5, vec![1, 1, 0, 1]));
        assert_eq!(gets.timed.count(), 2);
        assert_eq!(gets.timed.summary().max, Duration::from_micros(7));
        let puts = seventh.operation(Operation::Put);
        assert_eq!((puts.ended(Outcome::Failed), puts.timed.count()), (1, 0));
        assert_eq!(seventh.errors(ErrorKind::Full), 1);
        assert_eq!(none.operation(Operation::Put).under_way(), 1);
        drop(unknown);
    }

    #[test]
    fn one_in_so_many_is_timed_and_all_are_counted() {
        let clock = Clock::manual();
        for one_in in [1, 2, 16, 1000] {
            let metrics = metrics(&clock, Observe::OneIn(one_in));
            for _ in 0..100_000 {
                metrics.begin(Operation::Get, REALM).end(Outcome::Done, 1);
                metrics
                    .begin(Operation::Delete, REALM)
                    .end(Outcome::Done, 0);
            }
            let (snapshot, _) = metrics.snapshot();
            let of = |operation| snapshot.realms[1].operation(operation);
            let timed = of(Operation::Get).timed.count() * u64::from(one_in);
            assert!((60_000..140_000).contains(&timed), "{timed} of {one_in}");
            assert_eq!(of(Operation::Get).ended(Outcome::Done), 100_000);
            assert_eq!(of(Operation::Delete).timed.count(), 100_000);
        }
        let nothing = metrics(&clock, Observe::Nothing);
        nothing.begin(Operation::Get, REALM).end(Outcome::Done, 1);
        assert_eq!(
            nothing
                .snapshot()
                .0
                .all_realms()
                .operation(Operation::Get)
                .begun,
            0
        );
    }

    /// `cargo test --release -p oriel-engine --lib what_counting_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "measures, and asserts nothing"]
    fn what_counting_costs() {
        for observe in [Observe::Nothing, Observe::OneIn(16), Observe::OneIn(1)] {
            let metrics = metrics(&Clock::monotonic(), observe);
            let rounds = 10_000_000u32;
            let began = Instant::now();
            for _ in 0..rounds {
                let transfer = UnderWay::new(&metrics.reads);
                let get = black_box(&metrics).begin(Operation::Get, black_box(REALM));
                drop(transfer);
                metrics.read(ReadFor::Get, 1);
                get.heard(black_box(&Ok(4096)), |bytes| (Outcome::Done, *bytes));
            }
            let each = began.elapsed().as_secs_f64() * 1e9 / f64::from(rounds);
            println!("{observe:?}: {each:.1} ns for a get");
        }
    }
}
