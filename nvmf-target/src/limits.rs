//! Every fixed size of this crate, and how the sizes relate.

use std::time::Duration;

use oriel_protocol::limits::{BLOCK_BYTES, NAMESPACE_BLOCKS, QUIET_BLOCKS, TRANSFER_BYTES_MAX};

/// Requests that one realm may have under way on one core; more are told that it is busy.
pub const REQUESTS_MAX: usize = 4096;

/// Windows that a realm may have reserved at a time; a host that wants more is told that it is busy. The node remembers eight bytes
/// for each block of them.
pub const RESERVATIONS_MAX: u64 = 1024;

/// Blobs that a realm may have put by parts at a time; a host that wants more is told that it is busy.
pub const PUTS_MAX: usize = 256;

/// How long a put by parts lasts without a command for it, unless the node's specification says otherwise. What is left of one
/// whose host is gone takes room as long as that.
pub const PUT_TIME: Duration = Duration::from_secs(300);

/// How long a host may take nothing of what waits for it, or give no sign of life, before its connection ends: until then it keeps
/// buffers that others want. Twice as long as Linux's own hosts wait for a node that is silent.
pub const HOST_PATIENCE: Duration = Duration::from_secs(10);

/// What is on its way to one connection's host by TCP at most, before the others have their turn. One connection gets no more than
/// that in a round trip.
pub const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// The most MiB a second that a configuration gives scrubs or compaction of a drive: beyond what drives do.
pub const RATE_MIB_MOST: u64 = 1 << 16;

/// The longest time between two rounds of scrubs that a configuration gives: a year.
pub const ROUND_HOURS_MOST: u64 = 365 * 24;

/// The data of one command at most, READs and WRITEs included.
///
/// SPDK before v24.01 hands a device a vendor command's data as one buffer also where they lie in several, so this is the
/// size of the transport's buffers as well.
pub const IO_BYTES_MAX: u32 = TRANSFER_BYTES_MAX;

const _: () = assert!((IO_BYTES_MAX as u64).is_multiple_of(BLOCK_BYTES));
const _: () = assert!(QUIET_BLOCKS == oriel_engine::limits::QUIET_BLOCKS);
const _: () = assert!(BLOCK_BYTES == oriel_engine::store::BLOCK_BYTES as u64);
const _: () = assert!(2 * QUIET_BLOCKS < NAMESPACE_BLOCKS);
// Each of them may be a task of the reactor.
const _: () = assert!(REQUESTS_MAX < oriel_engine::limits::TASKS_MAX);

/// Blobs that each drive of a node may hold, unless its configuration says otherwise.
pub const BLOBS_DEFAULT: u64 = 1 << 20;

/// Memory of a node, unless its configuration says otherwise.
pub const MEMORY_MIB_DEFAULT: u32 = 512;

/// The least that works without hugepages.
pub const MEMORY_MIB_LEAST: u32 = 512;

/// The least that works with them.
pub const MEMORY_MIB_LEAST_HUGE: u32 = 256;

/// The fewest connections that a node may be limited to: an admin queue and one for blobs.
pub const CONNECTIONS_LEAST: u32 = 2;

/// How often it is looked whether connections were refused, which the log then says.
pub const REFUSED_LOOK: Duration = Duration::from_secs(1);

/// The least time between two lines of the log about that.
pub const REFUSED_REST: Duration = Duration::from_secs(30);

/// Failures of hosts' requests that are told one by one, of one status and core.
pub const TROUBLE_TOLD: u64 = 10;

/// How long further ones are counted only.
pub const TROUBLE_REST: Duration = Duration::from_secs(30);
