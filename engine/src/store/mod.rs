//! The store: content-addressed blobs in an append-only log on raw drives.
//!
//! - [`Log`]: the blobs on one drive, on one core: put, read, delete, and the same in steps.
//! - [`format`] and [`open`]: making a store, and opening it again after whatever happened.
//! - [`Drive`]: the one seam to the hardware; [`SpdkDrive`] is it in a node.
//!
//! What is written, byte by byte, is in the headers of `label.rs`, `checkpoint.rs`, `identity.rs`, `directory.rs`,
//! `frame.rs`, `record.rs` and `trailer.rs`.

mod answer;
mod check;
mod checkpoint;
mod choice;
mod compaction;
mod copying;
mod directory;
mod drive;
mod error;
mod evict;
mod eviction;
mod format;
mod forms;
mod frame;
mod gauges;
mod identity;
mod index_file;
mod join;
mod journal;
mod keys;
mod label;
mod log;
mod metrics;
mod node;
mod options;
mod pace;
mod parts;
mod pins;
mod position;
mod print;
mod prints;
mod reading;
mod record;
mod recovery;
mod replay;
mod reserve;
mod scan;
mod scrub;
mod shown;
mod slab;
mod snapshot;
mod spdk_drive;
mod stamp;
mod state;
mod suspects;
mod trailer;
mod trust;
mod types;
mod walk;
mod window;
mod windows;

pub use check::{Fragment, Problem, Report, check, match_parts};
pub use drive::{Drive, DriveError, ExtentName, Transferred};
pub use error::{OpenError, StoreError};
pub use eviction::Policy;
pub use format::{FormatOptions, format};
pub use index_file::{IndexError, IndexFile, index_in_file, index_in_memory};
pub use keys::KeepError;
pub use log::{Log, Put};
pub use metrics::{
    ErrorKind, Kind, Latencies, LogMetrics, METRICS, Metric, Observe, Operation, OperationMetrics,
    Outcome, Queue, ReadFor, RealmMetrics, Sample, ScrubMetrics, SlabState, Step, StepMetrics,
    Summary, Unit, Value, WrittenFor,
};
pub use node::{
    ChangeError, Departed, DriveLabel, DriveMetrics, DriveNumber, DriveStat, Found, Guest,
    IndexPlace, Keeper, LargePut, Loss, NoGuest, NodeDrive, NodeError, NodeFormat, NodeMetrics,
    NodeOpenError, NodeOptions, NodePage, NodeRecovery, NodeStat, NodeStore, PartsPut, ReadEnd,
    Seat, Sleep, Voters, format_node, open_node, remove_old_indexes,
};
pub use options::{LogStat, RealmOptions, RealmStat};
pub use pace::Background;
pub use parts::Manifest;
pub use position::Described;
pub use record::{Record, Role, window_blocks};
pub use recovery::{OpenOptions, Phases, Recovery, open};
pub use reserve::{Commit, Reserved};
pub use spdk_drive::{SpdkBuf, SpdkDrive, SpdkDriveError, SpdkExtent, SpdkPayload};
pub use types::{
    BLOCK_BYTES, Form, Key, KeyKind, Location, Position, RealmId, SlabNumber, StoreId,
};
pub use walk::{Listed, Page};
