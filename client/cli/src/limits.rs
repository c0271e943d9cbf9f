//! Every fixed size of this crate, and how the sizes relate.

use std::time::Duration;

/// Bytes that are read of a blob at a time; longer ones go through memory in such pieces.
pub(crate) const PART_BYTES: u64 = 4 << 20;

/// Pieces that are read ahead of what is written.
pub(crate) const PARTS_AHEAD: usize = 2;

/// When nothing comes from a pipe for so long, what was sent is waited for.
pub(crate) const QUIET_TIME: Duration = Duration::from_millis(200);

/// A put by parts is kept by a command each such part of the time that it lasts without one.
pub(crate) const KEEP_PART: u32 = 4;

/// Blobs under way at a time, unless told otherwise.
pub(crate) const JOBS_DEFAULT: u16 = 8;

/// The most of them: a realm may have up to 1024 windows reserved, and there are other hosts.
pub(crate) const JOBS_MAX: u16 = 256;

/// Bytes of blobs that are put at a time, all jobs together; one that is longer goes by parts.
pub(crate) const BYTES_UNDER_WAY: u64 = 512 << 20;

/// How often a blob is put again whose connection was lost, and read again because it moved.
pub(crate) const TRIES: u32 = 8;

/// The port that NVMe/TCP has where none is given.
pub(crate) const PORT: u16 = 4420;

const _: () = assert!(PART_BYTES.is_multiple_of(oriel_protocol::limits::BLOCK_BYTES));
const _: () = assert!(JOBS_DEFAULT <= JOBS_MAX);
const _: () = assert!(PART_BYTES < BYTES_UNDER_WAY);
