//! The store: content-addressed blobs in an append-only log on raw drives.
//!
//! - [`Log`]: the blobs of one realm on one drive, on one core: put, read, delete.
//! - [`format`] and [`open`]: making a store, and opening it again after whatever happened.
//! - [`Drive`]: the one seam to the hardware.
//!
//! What is written, byte by byte, is in the headers of `record.rs`, `frame.rs` and `checkpoint.rs`.

mod checkpoint;
mod drive;
mod error;
mod frame;
mod log;
mod record;
mod recovery;
mod spdk_drive;
mod types;

pub use drive::{Drive, DriveError, ExtentName, Transferred};
pub use error::{OpenError, StoreError};
pub use log::{Log, LogStat, Put};
pub use record::Record;
pub use recovery::{FormatOptions, OpenOptions, Recovery, format, open};
pub use spdk_drive::{SpdkBuf, SpdkDrive, SpdkDriveError, SpdkExtent};
pub use types::{BLOCK_BYTES, Key, KeyKind, Position, SlabNumber, StoreId};
