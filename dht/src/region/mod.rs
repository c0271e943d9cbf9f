//! The mapped memory that the tables live in: CXL memory as `/dev/dax*`, a file, or memory of the process.
//!
//! ```text
//!   ┌────────┬───────────────┬──────────────────────┬─────
//!   │ header │ section RING  │ section INDX         │ ...     each section from a multiple of 2 MiB
//!   └────────┴───────────────┴──────────────────────┴─────
//!     sizes, versions, checksum; one line with the clean-shutdown mark
//! ```
//!
//! Invariants:
//! - Nothing is mapped for use before its header was read and understood: magic, version, checksum, sizes, places.
//! - A region has one user at a time, by a lock on its file. From `open` until `close` it is marked as in use, in the
//!   memory itself, before any table can be changed. So a user that was killed, at whatever point, leaves a region
//!   that says [`History::Unclean`], and only one that closed it leaves [`History::Clean`].
//! - `close` first makes the tables' last stores durable, then the mark.
//!
//! What it does not do: it does not check the content of a section. A table has checksums of its own.

#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod flush;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
mod latency;
pub(crate) mod memory;
#[cfg(not(loom))]
mod place;
mod section;

#[cfg(not(loom))]
mod whole;

#[cfg(not(loom))]
pub use error::{CloseError, CreateError, OpenError, SectionError};
#[cfg(not(loom))]
pub use flush::Flush;
#[cfg(not(loom))]
pub use header::{History, LAYOUT_VERSION, SectionKind, SectionSpec};
#[cfg(not(loom))]
pub use latency::Latency;
#[cfg(not(loom))]
pub use memory::{prefetch, prefetch_whole};
#[cfg(not(loom))]
pub use place::{Persistence, Place};
pub use section::Section;
#[cfg(not(loom))]
pub use whole::{Existing, Region};
