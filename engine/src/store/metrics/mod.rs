//! What a store counts and times while it is used, always.
//!
//! ```text
//!   record.rs     cells of one core ──► snapshot.rs   values ──► catalogue.rs   names, units, labels
//!   latency.rs    times, log-linear ──► hdrhistogram
//! ```
//!
//! A realm of a drive takes 1 KiB, and 4.7 KiB for each kind of operation that was timed there: at most 39 KiB. A drive
//! takes at most 30 KiB besides.

mod catalogue;
mod latency;
mod names;
mod record;
mod snapshot;
mod transfers;

pub use catalogue::{Kind, METRICS, Metric, Sample, Unit, Value};
pub(super) use catalogue::{NodeSamples, drive_samples, reactor_samples};
pub use latency::{Latencies, Summary};
pub use names::{ErrorKind, Operation, Outcome, Queue, ReadFor, SlabState, Step, WrittenFor};
pub use record::Observe;
pub(super) use record::{Detached, Metrics};
pub(super) use snapshot::Gauges;
pub use snapshot::{LogMetrics, OperationMetrics, RealmMetrics, ScrubMetrics, StepMetrics};
