//! Every fixed size of this crate, and how the sizes relate.

use std::time::Duration;

/// Bytes of an NVMe command.
pub const COMMAND_BYTES: usize = 64;

/// Bytes of an NVMe completion.
pub const COMPLETION_BYTES: usize = 16;

/// I/O queues of a controller.
pub const QUEUES_MAX: u16 = 64;

/// Entries of a queue; one of them stays empty, as in every NVMe queue.
pub const QUEUE_ENTRIES_MAX: u16 = 1024;

/// Entries of an admin queue: the least that NVMe over Fabrics allows.
pub const ADMIN_QUEUE_ENTRIES: u16 = 32;

/// Bits of a command identifier that say which slot it is in; the others count the slot's uses.
pub const SLOT_BITS: u32 = 10;

/// Bytes of one command's data at most, whatever a controller allows. Longer transfers are split.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// Bytes that a connection reads ahead while no long data are expected, which belong into a caller's memory.
pub const STAGING_BYTES: usize = 64 << 10;

/// The mean length of the data that are expected up to which they are read ahead and copied: copying so many takes less
/// time than one call of the kernel.
pub const SHORT_DATA_BYTES: u32 = 8 << 10;

/// Parts of PDUs that wait to be sent; more are made when these are on their way.
pub const CHUNKS_MAX: usize = 64;

/// Pieces of memory in one call of the kernel. A chunk has up to three.
pub const SLICES_MAX: usize = 3 * CHUNKS_MAX;

/// Turns that one connection reads before the next one has a turn.
pub const READS_PER_TURN: usize = 64;

/// R2Ts that a controller may have open for one command.
pub const R2TS_MAX: u32 = 16;

/// The least that a controller may say that it takes in one H2CData PDU (MAXH2CDATA of the NVMe/TCP specification).
pub const H2C_BYTES_MIN: u32 = 4096;

/// Bytes of an admin command's data that may travel in its capsule; NVMe/TCP grants as many before any Identify.
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

/// The longest PDU header, that of ICReq and ICResp.
pub const HEADER_BYTES_MAX: usize = 128;

/// Bytes of data that a terminating PDU brings at most.
pub const TERM_DATA_BYTES_MAX: u32 = 128;

/// Discovery log entries that are taken of one service.
pub const DISCOVERY_ENTRIES_MAX: u64 = 4096;

/// How often commands are looked through for those that take too long.
pub const TIMER_STEP: Duration = Duration::from_millis(20);

/// The longest wait while a connection is being made before it is looked whether it is still wanted.
pub const DIAL_STEP: Duration = Duration::from_millis(50);

/// How long a controller is waited for that shuts down.
pub const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

/// A write that is not taken while a connection ends because of an error is given up after this time.
pub const PARTING_TIME: Duration = Duration::from_millis(100);

/// Operations that the kernel has at a time of one of its namespaces.
pub const KERNEL_DEPTH: u16 = 128;

/// Bytes of one plain read or write of the kernel's device; it cuts them itself, and has several under way.
pub const PLAIN_BYTES_MAX: usize = 1 << 20;

/// The wait before the kernel is asked again for a path to a node.
pub const KERNEL_PAUSE: Duration = Duration::from_millis(50);

/// Memory that begins at a multiple of this suits every device of the kernel's.
pub const ALIGNMENT: usize = 4096;

/// Requests that a caller has under way who gets one blob: its data, and their checksums.
pub const REQUESTS_OF_ONE: usize = 2;

/// Windows that a blob client remembers.
pub const WINDOWS_REMEMBERED: usize = 64 << 10;

/// Parts of a blob that are on their way to a node at a time, by one put.
pub const PARTS_AT_ONCE: usize = 4;

/// How often a blob of one window is sent where the node loses the drive of its window.
pub const WINDOW_TRIES: u32 = 3;

/// How often a part is sent where the connection is lost, or the node loses the drive of its window.
pub const PART_TRIES: u32 = 3;

/// How often a blob may move while it is being read.
pub const MOVES_MAX: u32 = 8;

const _: () = assert!(QUEUE_ENTRIES_MAX as u32 <= 1 << SLOT_BITS && SLOT_BITS < 16);
const _: () = assert!(PLAIN_BYTES_MAX.is_multiple_of(oriel_protocol::limits::BLOCK_BYTES as usize));
const _: () = assert!(ALIGNMENT.is_power_of_two());
const _: () = assert!(ADMIN_QUEUE_ENTRIES <= QUEUE_ENTRIES_MAX);
const _: () = assert!(STAGING_BYTES >= HEADER_BYTES_MAX + TERM_DATA_BYTES_MAX as usize);
const _: () = assert!(TRANSFER_BYTES_MAX.is_multiple_of(H2C_BYTES_MIN));
const _: () = assert!(TRANSFER_BYTES_MAX >= oriel_protocol::limits::TRANSFER_BYTES_MAX);
