//! Every limit of the ring, and how they relate.

/// The fewest partitions, as a power of two.
pub const PARTITION_BITS_MIN: u8 = 10;

/// The most partitions, as a power of two.
pub const PARTITION_BITS_MAX: u8 = 20;

/// The partitions of a ring that does not say otherwise, as a power of two.
pub const PARTITION_BITS_DEFAULT: u8 = 16;

/// The bytes of a partition's line: one cache line.
pub const LINE_BYTES: usize = 64;

/// The 64-bit words of a line.
pub const LINE_WORDS: usize = LINE_BYTES / 8;

/// The places in a line, shared by the owners of a partition and those that shall replace them.
pub const PLACES: usize = 26;

/// The most owners of a partition.
pub const OWNERS_MAX: usize = 24;

/// The most node slots of a ring. The number after the last one stands for "nobody".
pub const NODES_MAX: usize = u16::MAX as usize;

/// The most bytes of a name: of a node, a rack or a zone.
pub const NAME_BYTES_MAX: usize = 64;

/// The most addresses of a node.
pub const ADDRESSES_MAX: usize = 16;

/// The most bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// The largest weight of a node.
pub const WEIGHT_MAX: u32 = 1 << 24;

/// How often a reader looks again at a line that is being written before it calls the line damaged.
pub const READ_TRIES: u32 = 1 << 20;

// The widest erasure code (16+4) has a place for each shard.
const _: () = assert!(OWNERS_MAX >= 20 && OWNERS_MAX <= PLACES);
// All of twelve owners can be replaced at once.
const _: () = assert!(PLACES >= 2 * 12);
// A bit for each owner, and their number, share a 32-bit word.
const _: () = assert!(OWNERS_MAX <= 24);
const _: () = assert!(LINE_BYTES == 4 + 4 + 4 + 2 * PLACES);
// A partition's number fits a u32, and so does a slot's in the whole table.
const _: () = assert!((OWNERS_MAX << PARTITION_BITS_MAX) < u32::MAX as usize);
const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(ADDRESS_BYTES_MAX <= u8::MAX as usize);
