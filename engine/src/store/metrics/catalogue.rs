//! Every metric by its name, and a log's numbers as samples of them, for whatever shows them.

use super::super::types::BLOCK_BYTES;
use super::latency::Latencies;
use super::names::{ErrorKind, Operation, Outcome, Queue, ReadFor, SlabState, Step, WrittenFor};
use super::snapshot::{LogMetrics, RealmMetrics, ratio};

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Blocks of 4,096 bytes.
    Blocks,
    /// Seconds.
    Seconds,
    /// A share, or one thing for each of another.
    Ratio,
}

/// How a number behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only grows, and begins at 0 when the store is opened.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A metric. The names of counters end with `_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, and nobody else's.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// How it behaves.
    pub kind: Kind,
    /// What tells its samples apart.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What a metric is at the moment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// A number of things, bytes or blocks.
    Number(u64),
    /// Seconds, or a ratio.
    Real(f64),
    /// Times.
    Times(&'a Latencies),
}

/// A metric's value, with the values of its labels in their order.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample<'a> {
    /// Of which metric.
    pub metric: &'static Metric,
    /// As many as the metric has labels.
    pub labels: Vec<String>,
    /// What it is.
    pub value: Value<'a>,
}

macro_rules! metrics {
    ($($id:ident $name:literal $unit:ident $kind:ident [$($label:literal)*] $help:literal;)+) => {
        $(const $id: &Metric = &Metric {
            name: $name,
            unit: Unit::$unit,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// All of them.
        pub const METRICS: &[&Metric] = &[$($id),+];
    };
}

metrics! {
    OPERATIONS "oriel_store_operations_total" Count Counter ["drive" "realm" "operation" "outcome"]
        "operations that have ended";
    UNDER_WAY "oriel_store_operations_under_way" Count Gauge ["drive" "realm" "operation"]
        "operations that have not ended";
    OPERATION_BYTES "oriel_store_operation_bytes_total" Bytes Counter ["drive" "realm" "operation"]
        "bytes of blobs that came in or went out";
    OPERATION_SECONDS "oriel_store_operation_seconds" Seconds Histogram ["drive" "realm" "operation"]
        "time from call to answer, of those that are timed and did not fail";
    ERRORS "oriel_store_errors_total" Count Counter ["drive" "realm" "kind"]
        "operations that ended with an error";
    PROBED "oriel_store_probed_keys_total" Count Counter ["drive" "realm"]
        "keys that were probed";
    FOUND "oriel_store_found_keys_total" Count Counter ["drive" "realm"]
        "probed keys that were there";
    EVICTED "oriel_store_evicted_blobs_total" Count Counter ["drive" "realm"]
        "blobs that made room for others";
    BLOBS "oriel_store_blobs" Count Gauge ["drive" "realm"]
        "blobs that are there";
    USED "oriel_store_used_blocks" Blocks Gauge ["drive" "realm"]
        "blocks of windows, with blobs and reserved";
    QUOTA "oriel_store_quota_blocks" Blocks Gauge ["drive" "realm"]
        "the most of them, where there is a quota";
    PINNED "oriel_store_pinned_blobs" Count Gauge ["drive" "realm"]
        "blobs that are pinned";
    PINNED_BLOCKS "oriel_store_pinned_blocks" Blocks Gauge ["drive" "realm"]
        "their blocks";
    STEPS "oriel_store_steps_total" Count Counter ["drive" "step"]
        "steps that were done";
    STEPS_FAILED "oriel_store_failed_steps_total" Count Counter ["drive" "step"]
        "steps that failed";
    STEP_SECONDS "oriel_store_step_seconds" Seconds Histogram ["drive" "step"]
        "how long steps took, of those that were done and timed";
    WRITTEN "oriel_store_written_blocks_total" Blocks Counter ["drive" "purpose"]
        "blocks written to the drive";
    READ "oriel_store_read_blocks_total" Blocks Counter ["drive" "purpose"]
        "blocks read from the drive";
    FAILED "oriel_store_failed_transfers_total" Count Counter ["drive" "direction"]
        "reads and writes that the drive answered with an error; a write is tried once more, and the drive is lost when that fails too";
    WAITING "oriel_store_waiting" Count Gauge ["drive" "queue"]
        "what waits for the journal, a window or room, and transfers of the drive under way";
    SLABS "oriel_store_slabs" Count Gauge ["drive" "state"]
        "slabs by what they are; an emptying one is sealed, a quarantined one any";
    SLABS_FILL "oriel_store_sealed_slabs" Count Gauge ["drive" "eighths"]
        "slabs that get no more blobs, by the eighths of them that blobs take, rounded up";
    SLAB_BLOCKS "oriel_store_slab_blocks" Blocks Gauge ["drive"]
        "the size of a slab";
    LIVE "oriel_store_live_blocks" Blocks Gauge ["drive"]
        "blocks of windows that hold blobs";
    FREE "oriel_store_free_blocks" Blocks Gauge ["drive"]
        "blocks that the drive has left";
    RESERVATIONS "oriel_store_reservations" Count Gauge ["drive"]
        "windows that are reserved and not committed";
    ENTRIES "oriel_store_journal_entries_total" Count Counter ["drive"]
        "changes written to the journal; so many for each frame is what group commit saves";
    RETIRED "oriel_store_retired_slabs_total" Count Counter ["drive"]
        "slabs given back to the drive";
    MOVED "oriel_store_moved_blobs_total" Count Counter ["drive"]
        "blobs moved by compaction";
    MOVED_BLOCKS "oriel_store_moved_blocks_total" Blocks Counter ["drive"]
        "their blocks";
    EARLY_BLOCKS "oriel_store_early_moved_blocks_total" Blocks Counter ["drive"]
        "those of them that were moved before anybody waited for room";
    STUCK "oriel_store_stuck_slabs" Count Gauge ["drive"]
        "slabs that are left as they are since a blob in them, or the list of their blobs, is damaged";
    WRITE_AMPLIFICATION "oriel_store_write_amplification" Ratio Gauge ["drive"]
        "bytes written to the drive for each byte put";
    SPACE_AMPLIFICATION "oriel_store_space_amplification" Ratio Gauge ["drive"]
        "blocks of slabs for each block of a blob's window";
    QUARANTINED "oriel_store_quarantined_blobs" Count Gauge ["drive"]
        "blobs that were found damaged and are not served";
    SCRUB_ROUNDS "oriel_store_scrub_rounds_total" Count Counter ["drive"]
        "rounds of scrubbing that came to their end";
    SCRUB_PROGRESS "oriel_store_scrub_progress" Ratio Gauge ["drive"]
        "the share of its slabs that the round under way has looked at, or the last one";
    SCRUB_BLOBS "oriel_store_scrubbed_blobs_total" Count Counter ["drive"]
        "blobs that were read to see whether they are whole";
    SCRUB_DAMAGED "oriel_store_scrub_damaged_total" Count Counter ["drive"]
        "those of them that were damaged";
    SCRUB_UNREADABLE "oriel_store_scrub_unreadable_total" Count Counter ["drive"]
        "blobs and lists of slabs that could not be read";
    SCRUB_AGE "oriel_store_scrub_age_seconds" Seconds Gauge ["drive"]
        "time since the last round came to its end, if one did";
    SCRUB_TOOK "oriel_store_scrub_round_seconds" Seconds Gauge ["drive"]
        "how long that one took";
    OPEN_FOR "oriel_store_open_seconds" Seconds Gauge ["drive"]
        "time since the drive was opened";
    REACTOR_BUSY "oriel_reactor_busy_seconds_total" Seconds Counter ["core"]
        "time of turns that found something to do";
    REACTOR_IDLE "oriel_reactor_idle_seconds_total" Seconds Counter ["core"]
        "time of turns that found nothing, sleep included";
    REACTOR_TURNS "oriel_reactor_turns_total" Count Counter ["core"]
        "turns of the loop";
    REACTOR_TASKS "oriel_reactor_tasks" Count Gauge ["core"]
        "tasks that live now";
    DRIVE_LOST "oriel_store_drive_lost" Count Gauge ["drive"]
        "1 if the drive is lost, else 0";
    DRIVE_DRAINING "oriel_store_drive_draining" Count Gauge ["drive"]
        "1 if the drive is being emptied, else 0";
    DRIVE_FILLING "oriel_store_drive_filling" Count Gauge ["drive"]
        "1 if blobs that belong on the drive may still be elsewhere, else 0";
    NODE_MOVED "oriel_store_rehomed_blobs_total" Count Counter []
        "blobs that went from one drive to another";
    NODE_MOVED_BYTES "oriel_store_rehomed_bytes_total" Bytes Counter []
        "their bytes";
}

fn sample<'a>(
    metric: &'static Metric,
    labels: &[&str],
    value: Value<'a>,
    show: &mut dyn FnMut(Sample<'a>),
) {
    debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
    show(Sample {
        metric,
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        value,
    });
}

impl LogMetrics {
    /// Shows all numbers of a drive of that name. Histograms that are empty are left out, and so is what is not known.
    pub fn samples<'a>(&'a self, drive: &str, show: &mut dyn FnMut(Sample<'a>)) {
        for realm in &self.realms {
            realm_samples(realm, drive, show);
        }
        for &step in Step::ALL {
            let of = self.step(step);
            let labels = [drive, step.name()];
            sample(STEPS, &labels, Value::Number(of.done), show);
            sample(STEPS_FAILED, &labels, Value::Number(of.failed), show);
            if of.timed.count() > 0 {
                sample(STEP_SECONDS, &labels, Value::Times(&of.timed), show);
            }
        }
        let mut number = |metric, label: &str, value| {
            sample(metric, &[drive, label], Value::Number(value), show);
        };
        for &purpose in WrittenFor::ALL {
            number(WRITTEN, purpose.name(), self.written_blocks(purpose));
        }
        for &purpose in ReadFor::ALL {
            number(READ, purpose.name(), self.read_blocks(purpose));
        }
        number(FAILED, "read", self.failed_reads);
        number(FAILED, "write", self.failed_writes);
        for &queue in Queue::ALL {
            number(WAITING, queue.name(), self.queue(queue));
        }
        for &state in SlabState::ALL {
            number(SLABS, state.name(), self.slabs(state));
        }
        for (eighths, slabs) in (1..).zip(self.slabs_by_eighths) {
            let eighths: u64 = eighths;
            number(SLABS_FILL, &eighths.to_string(), slabs);
        }
        let stat = &self.stat;
        for (metric, value) in [
            (SLAB_BLOCKS, self.slab_blocks),
            (LIVE, stat.live_blocks),
            (FREE, self.free_blocks),
            (RESERVATIONS, stat.reservations),
            (ENTRIES, stat.entries),
            (RETIRED, stat.slabs_retired),
            (MOVED, stat.blobs_moved),
            (MOVED_BLOCKS, stat.blocks_moved),
            (EARLY_BLOCKS, self.early_moved_blocks),
            (STUCK, self.stuck_slabs),
            (QUARANTINED, self.quarantined_blobs),
            (SCRUB_ROUNDS, self.scrub.rounds),
            (SCRUB_BLOBS, self.scrub.blobs),
            (SCRUB_DAMAGED, self.scrub.damaged_blobs),
            (SCRUB_UNREADABLE, self.scrub.unreadable),
        ] {
            sample(metric, &[drive], Value::Number(value), show);
        }
        let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
        for (metric, value) in [
            (WRITE_AMPLIFICATION, self.write_amplification()),
            (SPACE_AMPLIFICATION, self.space_amplification()),
            (
                SCRUB_PROGRESS,
                ratio(self.scrub.slabs_done, self.scrub.slabs),
            ),
            (SCRUB_AGE, seconds(self.scrub.last_round_ago)),
            (SCRUB_TOOK, seconds(self.scrub.last_round_took)),
            (OPEN_FOR, seconds(Some(self.open_for))),
        ] {
            if let Some(value) = value {
                sample(metric, &[drive], Value::Real(value), show);
            }
        }
    }
}

fn realm_samples<'a>(realm: &'a RealmMetrics, drive: &str, show: &mut dyn FnMut(Sample<'a>)) {
    let id = realm.id.map_or("unknown".into(), |id| id.0.to_string());
    for &operation in Operation::ALL {
        let of = realm.operation(operation);
        if of.begun == 0 {
            continue;
        }
        let labels = [drive, &id, operation.name()];
        for &outcome in Outcome::ALL {
            let labels = [drive, &id, operation.name(), outcome.name()];
            let ended = Value::Number(of.ended(outcome));
            sample(OPERATIONS, &labels, ended, show);
        }
        sample(UNDER_WAY, &labels, Value::Number(of.under_way()), show);
        sample(OPERATION_BYTES, &labels, Value::Number(of.bytes), show);
        if of.timed.count() > 0 {
            sample(OPERATION_SECONDS, &labels, Value::Times(&of.timed), show);
        }
    }
    for &kind in ErrorKind::ALL {
        let errors = realm.errors(kind);
        if errors > 0 {
            let labels = [drive, &id, kind.name()];
            sample(ERRORS, &labels, Value::Number(errors), show);
        }
    }
    if realm.id.is_none() {
        return;
    }
    for (metric, value) in [
        (PROBED, Some(realm.probed_keys)),
        (FOUND, Some(realm.found_keys)),
        (EVICTED, Some(realm.evicted_blobs)),
        (BLOBS, Some(realm.blobs)),
        (USED, Some(realm.used_blocks)),
        (QUOTA, realm.quota_blocks),
        (PINNED, Some(realm.pinned_blobs)),
        (PINNED_BLOCKS, Some(realm.pinned_blocks)),
    ] {
        if let Some(value) = value {
            sample(metric, &[drive, &id], Value::Number(value), show);
        }
    }
}

/// What a node has besides its drives' logs.
pub(in super::super) struct NodeSamples {
    pub(in super::super) moved_blobs: u64,
    pub(in super::super) moved_bytes: u64,
}

impl NodeSamples {
    pub(in super::super) fn samples<'a>(&self, show: &mut dyn FnMut(Sample<'a>)) {
        sample(NODE_MOVED, &[], Value::Number(self.moved_blobs), show);
        sample(NODE_MOVED_BYTES, &[], Value::Number(self.moved_bytes), show);
    }
}

/// Whether a drive is lost, being emptied, being filled.
pub(in super::super) fn drive_samples<'a>(
    drive: &str,
    states: [bool; 3],
    show: &mut dyn FnMut(Sample<'a>),
) {
    let metrics = [DRIVE_LOST, DRIVE_DRAINING, DRIVE_FILLING];
    for (metric, is_so) in metrics.into_iter().zip(states) {
        sample(metric, &[drive], Value::Number(is_so.into()), show);
    }
}

/// The numbers of a reactor.
pub(in super::super) fn reactor_samples<'a>(
    core: u32,
    stats: &crate::reactor::ReactorStats,
    show: &mut dyn FnMut(Sample<'a>),
) {
    let core = core.to_string();
    for (metric, value) in [
        (REACTOR_BUSY, Value::Real(stats.busy.as_secs_f64())),
        (REACTOR_IDLE, Value::Real(stats.idle.as_secs_f64())),
        (REACTOR_TURNS, Value::Number(stats.turns)),
        (REACTOR_TASKS, Value::Number(stats.tasks_live)),
    ] {
        sample(metric, &[&core], value, show);
    }
}

const _: () = assert!(BLOCK_BYTES == 4096, "the names say so");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_in_the_documentation_as_it_is_here() {
        let table = include_str!("../../../../docs/metrics.md");
        let mut documented: BTreeSet<String> = table
            .lines()
            .filter(|line| line.starts_with("| `oriel_") && !line.starts_with("| `oriel_target_"))
            .map(str::to_owned)
            .collect();
        for metric in METRICS {
            let row = format!(
                "| `{}` | {} | {} | {} | {} |",
                metric.name,
                format!("{:?}", metric.kind).to_lowercase(),
                format!("{:?}", metric.unit).to_lowercase(),
                metric.labels.join(", "),
                metric.help,
            );
            assert!(documented.remove(&row), "docs/metrics.md lacks\n{row}");
        }
        assert_eq!(documented, BTreeSet::new(), "these are no metrics");
    }

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for Metric {
            name, unit, kind, ..
        } in METRICS
        {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            if *unit == Unit::Seconds {
                assert!(name.contains("_seconds"), "{name}");
            }
        }
    }

    #[test]
    fn samples_have_the_labels_of_their_metrics() {
        let mut log = LogMetrics::default();
        log.realms.push(RealmMetrics::default());
        log.realms[0].operations[0].begun = 1;
        let mut seen = BTreeSet::new();
        log.samples("d", &mut |sample| {
            assert_eq!(sample.labels.len(), sample.metric.labels.len());
            assert!(METRICS.contains(&sample.metric));
            assert!(seen.insert((sample.metric.name, sample.labels)));
        });
        assert!(seen.len() > 30, "{seen:?}");
    }
}
