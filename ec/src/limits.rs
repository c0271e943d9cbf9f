//! Every limit of the crate, and how they relate.

/// The most data shards of a scheme.
pub const DATA_SHARDS_MAX: usize = 16;

/// The most parity shards of a scheme.
pub const PARITY_SHARDS_MAX: usize = 4;

/// The most shards of a scheme.
pub const SHARDS_MAX: usize = DATA_SHARDS_MAX + PARITY_SHARDS_MAX;

/// The smallest stripe unit, and the block to which every stored length and every planned read is rounded.
pub const BLOCK_BYTES: u32 = 4096;

/// The largest stripe unit.
pub const UNIT_BYTES_MAX: u32 = 1 << 20;

/// The most bytes over all buffers that are coded before their checksums are computed, which finds them in the L2 cache.
pub const TILE_BYTES: usize = 128 * 1024;

/// The number of erasure patterns whose tables a codec keeps.
pub const PATTERNS_KEPT: usize = 64;

/// The most groups of stripes in a plan: a partial first stripe, whole ones, a partial last one, and the tail stripe.
pub(crate) const RUNS_MAX: usize = 4;

/// The most rebuild steps in a plan: one for each run, and one more for the tail stripe's second band.
pub(crate) const REBUILDS_MAX: usize = RUNS_MAX + 1;

// A shard set is a 32-bit mask.
const _: () = assert!(SHARDS_MAX <= 32);
const _: () = assert!(BLOCK_BYTES.is_power_of_two() && UNIT_BYTES_MAX.is_power_of_two());
// A tile of the widest scheme still has whole blocks.
const _: () = assert!(TILE_BYTES / SHARDS_MAX >= BLOCK_BYTES as usize);
