//! Every limit of this crate in one place.

/// The least memory without hugepages that SPDK's pools fit into.
pub const MEMORY_MIN_NO_HUGE_MIB: u32 = 512;

/// Address space that an environment takes beside its memory and what the program has mapped before, in MiB: DPDK's
/// tables and the C library's arenas. Measured at 110 without hugepages on one core; DPDK 20.05 spins for ever where it
/// runs out.
pub(crate) const ADDRESS_SPACE_ROOM_MIB: u64 = 192;

/// The same for each further core: a stack of 8 MiB and an arena of 64 MiB.
pub(crate) const ADDRESS_SPACE_CORE_MIB: u64 = 80;

/// Files that an environment and its subsystems may open before there is any drive. Counted: 12 without hugepages.
pub(crate) const FILES_ROOM: u64 = 32;

/// The longest name that a Unix socket can have: `sun_path` without its NUL.
pub(crate) const SOCKET_NAME_BYTES_MAX: usize = 107;

/// The least memory with hugepages that SPDK's pools fit into.
pub const MEMORY_MIN_HUGE_MIB: u32 = 128;

/// Cores that one environment can drive: what fits the masks that DPDK takes by default.
pub const CORES_MAX: usize = 128;

/// Finished asynchronous requests that a channel keeps for reuse.
pub const ASYNC_REQUESTS_KEPT_PER_CHANNEL: usize = 256;

/// How long a thread may take to let go of its pollers and channels once it was told to exit.
pub const THREAD_EXIT_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// How long block devices may stay open once the subsystems were told to stop.
pub const SUBSYSTEMS_STOP_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// The longest reply of SPDK's JSON-RPC server that is believed.
pub const RPC_REPLY_BYTES_MAX: usize = 64 << 20;

/// The block size that SPDK's devices here accept: powers of two from 512 B to 64 KiB.
pub const BLOCK_SIZE_MAX: u32 = 64 << 10;

/// The longest NVMe qualified name, without the NUL (NVMe base specification, 4.7).
pub const NQN_BYTES_MAX: usize = 223;

/// A subsystem's serial number (SN of Identify Controller).
pub const SERIAL_BYTES_MAX: usize = 20;

/// A subsystem's model number (MN of Identify Controller).
pub const MODEL_BYTES_MAX: usize = 40;

/// How long a subsystem of an NVMe-oF target may take to change its state: it waits for commands in
/// flight, so a block device that never answers would hold it forever.
pub const SUBSYSTEM_CHANGE_LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// The cluster size of a blobstore, unless another is asked for.
pub const CLUSTER_BYTES_DEFAULT: u32 = 1 << 20;

/// What a blobstore's channel can do at once, in SPDK's units.
pub const BLOB_CHANNEL_OPS: u32 = 1024;

/// Data requests of a blobstore in flight. One takes up to two of SPDK's units (it may cross
/// clusters), and a metadata operation must always find some: SPDK loses clusters if it does not.
pub const BLOB_REQUESTS_IN_FLIGHT_MAX: usize = 448;

/// An attribute of a blob with its name: it must fit a metadata page.
pub const XATTR_BYTES_MAX: usize = 4000;

/// How long SPDK may take to let go of a device on which a blobstore could not be loaded.
pub const BLOB_DEVICE_RELEASE_LIMIT: std::time::Duration = std::time::Duration::from_millis(500);

const _: () = assert!(2 * BLOB_REQUESTS_IN_FLIGHT_MAX + 64 <= BLOB_CHANNEL_OPS as usize);
const _: () = assert!(XATTR_BYTES_MAX < 4096 - 32);
const _: () = assert!(MEMORY_MIN_HUGE_MIB <= MEMORY_MIN_NO_HUGE_MIB);
const _: () = assert!(BLOCK_SIZE_MAX.is_power_of_two());

/// Lines that one place in SPDK's source may log in a second; hosts can have it write as many as they send commands.
pub(crate) const LOG_LINES_PER_SECOND: u32 = 10;
