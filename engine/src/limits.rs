//! Every fixed size of this crate, and how the sizes relate.

use std::time::Duration;

/// Bytes that one core's data is kept away from another's. Adjacent-line
/// prefetch pulls lines in pairs, so two lines, not one.
pub const CACHE_PAD_BYTES: usize = 128;

/// Messages that a reactor's inbox holds before `spawn` says that it is full.
pub const INBOX_SLOTS: usize = 1024;

/// Tasks that may live on one reactor at the same time.
pub const TASKS_MAX: usize = 16 * 1024;

/// Ready tasks run in one turn at most; the rest wait for the next turn, so
/// that drives are polled in between.
pub const TASKS_PER_TURN: usize = 64;

/// Messages taken from one mailbox in one turn at most.
pub const MESSAGES_PER_TURN: usize = 64;

/// Orders from other cores that are received before the first of them is run: their memory lies in another core's cache, and
/// comes while they wait for each other.
pub const ORDERS_AT_ONCE: usize = 8;

/// Timers fired in one turn at most.
pub const TIMERS_PER_TURN: usize = 64;

/// Timer slots that a reactor allocates when it starts; more are added when a
/// program holds more sleeping futures than that.
pub const TIMERS_PREALLOCATED: usize = 1024;

/// Idle turns between two readings of the clock. A reading costs more than the
/// rest of an idle turn; a busy turn always reads it.
pub const IDLE_TURNS_PER_CLOCK_READ: u32 = 8;

/// How long one task, message or SPDK thread may hold a reactor before the
/// watchdog names it. 15 ms is known to overflow SPDK's message ring.
pub const HELD_LIMIT: Duration = Duration::from_millis(10);

/// Samples that the watchdog takes within one limit: a hold is seen at the
/// latest a quarter of the limit after it has lasted that long.
pub const WATCHDOG_SAMPLES_PER_LIMIT: u32 = 4;

/// Time from the request to stop until what still runs is named and given up.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(30);

/// Time that the main reactor has, after the deadline, to report by itself
/// before the watchdog concludes that it hangs and ends the process.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The longest single sleep of a reactor with back-off. A message or a wake-up
/// ends the sleep early; a completion that has to be polled for does not.
pub const BACKOFF_SLEEP_MAX: Duration = Duration::from_millis(1);

/// The first sleep of a reactor with back-off; each further one doubles.
pub const BACKOFF_SLEEP_MIN: Duration = Duration::from_micros(20);

/// Idle turns before a reactor with back-off sleeps for the first time.
pub const BACKOFF_IDLE_TURNS: u32 = 2000;

// ---- The store ------------------------------------------------------------------------------------------------------

/// Uses of a cache's blobs that a core has seen on another core's drive before that drive's policy hears of them.
pub const USES_AT_ONCE: usize = 64;

/// A slab that is fuller than this many eighths is not worth emptying.
pub const FULL_EIGHTHS: u64 = 6;

/// Moves that are on their way to the journal at once.
pub const MOVES_AT_ONCE: usize = 64;

/// A realm's pinned blobs take at most one part in so many of its blocks.
pub const PINNED_PART: u64 = 2;

/// Pinned blobs that a cache passes over in one go.
pub const PASSED_OVER_AT_ONCE: u64 = 1024;

/// The longest time that a blob can be pinned for; it can be pinned again.
pub const PIN_TIME_MAX: Duration = Duration::from_secs(600);

/// Empty slabs that are kept until the journal is full anyway.
pub const RETIRED_MAX: usize = 4;

/// Bytes that are hashed before other tasks have a turn.
pub const HASH_STEP: usize = 1 << 20;

/// How long a window stays reserved.
pub const RESERVATION_TIME: Duration = Duration::from_secs(60);

/// Between two looks for windows whose time has passed.
pub const RECLAIMS_APART: Duration = Duration::from_secs(1);

/// Bytes that a commit reads at once to check a key.
pub const CHECK_STEP_BLOCKS: u64 = 256;

/// Full blocks of a directory that are written at once while the slab is open.
pub const DIRECTORY_BATCH: usize = 16;

/// The largest slab: blocks fit beside the mark of the dead.
pub const SLAB_BLOCKS_MAX: u64 = 1 << 24;

/// Lines of an index that are verified before other tasks have a turn: some tenths of a millisecond.
pub const VERIFIED_LINES: u64 = 2048;

/// Of a slab's blocks, one part in so many is evicted at once when the drive is full.
pub const EVICTED_PART: u64 = 4;

/// So long a put to a store that is full waits for the last readers of slabs that hold nothing any more.
pub const READERS_WAIT: Duration = Duration::from_secs(1);

/// Between two looks whether they have ended.
pub const READERS_LOOK: Duration = Duration::from_millis(10);

/// Drives of a store.
pub const DRIVES_MAX: usize = 256;

/// Runs of positions that are leased to drives, over a store's whole life.
pub const SLOTS_MAX: usize = 4096;

/// The first blocks of the log, in which a store of many drives lays no window.
pub const QUIET_BLOCKS: u64 = 256;

/// A drive asks for more positions when less than one part in so many of its last run is left.
pub const LEASE_LEFT_PART: u64 = 4;

/// Keys of a drive that it remembers as in doubt; when there are more, all are.
pub const DOUBTFUL_MAX: usize = 1 << 16;

/// A part of a large blob takes one part in so many of a slab, so that little of a slab is left over behind the last one.
pub const PART_OF_SLAB: u64 = 4;

/// Blocks of data of the longest part of a large blob: long enough for a drive, short enough to use many of them.
pub const PART_BLOCKS_MAX: u64 = 4096;

/// Parts of a large blob that are put, or read, at once.
pub const PARTS_AT_ONCE: usize = 4;

/// Bytes of directories and manifests that a sweep reads in a second at most.
pub const SWEEP_BYTES_PER_SECOND: u64 = 64 << 20;

/// Compaction begins ahead of time when less than one part in so many of a drive's room for slabs is left, or so many slabs.
pub const EARLY_PART: u64 = 16;

/// See [`EARLY_PART`].
pub const EARLY_SLABS: u64 = 4;

/// A slab that is fuller than this many eighths is not emptied ahead of time.
pub const EARLY_FULL_EIGHTHS: u64 = 4;

/// How long compaction ahead of time makes way for those who count on blobs to stay where they are.
pub const EARLY_REST: Duration = Duration::from_secs(1);

/// How often a slab is tried to be emptied where transfers fail or memory is short, while others wait for its room.
pub const EMPTY_TRIES: u32 = 3;

/// Between two of these.
pub const EMPTY_PAUSE: Duration = Duration::from_millis(20);

/// After the last of them the slab is left alone for so long.
pub const STUCK_REST: Duration = Duration::from_secs(1);

/// While others use the drive, a scrub goes at one part in so many of its rate.
pub const SCRUB_BUSY_PART: u64 = 4;

/// Blobs that reads have found damaged and that wait for another look.
pub const SUSPECTS_MAX: usize = 64;

/// Bytes of these that are read in a second at most where nothing is scrubbed.
pub const SUSPECT_BYTES_PER_SECOND: u64 = 16 << 20;

/// Blobs that cannot be moved between drives, of which the log says why.
pub(crate) const STUCK_TOLD_MAX: usize = 100;

/// Bytes of a blob that go from drive to drive at once.
pub const MOVE_BYTES_AT_ONCE: usize = 1 << 20;

const _: () = assert!(INBOX_SLOTS.is_power_of_two() && TASKS_MAX.is_power_of_two());
const _: () = assert!(MESSAGES_PER_TURN.is_multiple_of(ORDERS_AT_ONCE));
const _: () = assert!(MESSAGES_PER_TURN <= INBOX_SLOTS && TASKS_PER_TURN <= TASKS_MAX);
const _: () = assert!(BACKOFF_SLEEP_MIN.as_nanos() <= BACKOFF_SLEEP_MAX.as_nanos());
const _: () = assert!(
    BACKOFF_SLEEP_MAX.as_nanos() < HELD_LIMIT.as_nanos(),
    "a sleeping reactor must wake more often than the watchdog's limit"
);
const _: () = assert!(SHUTDOWN_GRACE.as_nanos() < SHUTDOWN_DEADLINE.as_nanos());
const _: () = assert!(EARLY_FULL_EIGHTHS <= FULL_EIGHTHS && EARLY_PART >= 1);
const _: () = assert!(FULL_EIGHTHS < 8 && PINNED_PART >= 1 && EVICTED_PART >= 1);
