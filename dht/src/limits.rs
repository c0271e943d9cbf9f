//! Every limit of this crate, and how they relate.

/// Bytes of a cache line: what one load from far memory brings.
pub const LINE_BYTES: usize = 64;
/// 64-bit words of a cache line.
pub const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();

/// Bytes at the start of a region that hold its header.
pub const REGION_HEADER_BYTES: usize = 4096;
/// Sections of a region.
pub const SECTIONS_MAX: usize = 32;
/// Sections start at multiples of this, the size of a large page, which device memory is mapped by.
pub const SECTION_ALIGN_BYTES: usize = 2 << 20;
/// The largest region: far more than a machine's memory, far less than what overflows arithmetic.
pub const REGION_BYTES_MAX: u64 = 1 << 46;

/// Entries of one line of the index.
pub const SLOTS: usize = 2;
/// Bits of a log position: the namespace is 2^50 blocks long.
pub const POSITION_BITS: u32 = 50;
/// Bits of a blob's length in bytes: 64 GiB, many times a slab.
pub const LENGTH_BITS: u32 = 36;
/// Keys that one batched lookup keeps in flight.
pub const BATCH_MAX: usize = 32;
/// Partitions of an index; each has one writer.
pub const PARTITIONS_MAX: u64 = 256;
/// Lines of a partition come in multiples of this, so that the hints of two partitions never share a line.
pub const LINES_STEP: u64 = 128;
/// Lines of a partition at least: among very few lines it happens that some keys have no place but each other's.
pub const PARTITION_LINES_MIN: u64 = 1024;
/// Lines of a partition at most; hash bits above these choose other things.
pub const PARTITION_LINES_MAX: u64 = 1 << 36;
/// An index grows while more than this many of 1000 slots are taken.
pub const GROW_PERMILLE: u64 = 700;
/// Lines that one search for a free place looks at. Fetched ahead of their use, they take some tens of microseconds from
/// far memory. With a third of it, one of twenty tables of 2^15 places would be full before it is so to 85 %.
pub const SEARCH_LINES_MAX: usize = 768;
/// Entries that one search moves at most. With two ways on from each line, as many lines as a search looks at are no
/// further than ten away.
pub const SEARCH_MOVES_MAX: usize = 12;
/// Lines among which the keys of one home have their other lines: all of them are looked at to find those keys.
pub const OTHERS_OF_HOME: usize = 256;
/// Lines that planning a split looks at: the line itself, those of its keys that are elsewhere, and where they go.
/// Chance gives no home a tenth of the keys that would make it more.
pub const SPLIT_LINES_MAX: usize = 1 + OTHERS_OF_HOME + 64;
/// Lines that one insert looks at, with all the growing that it does. What is left to be done is done by the next one.
pub const INSERT_LINES_MAX: usize = 1536;

const _: () = assert!(LINE_WORDS == 8);
const _: () = assert!(REGION_HEADER_BYTES <= SECTION_ALIGN_BYTES);
const _: () = assert!(SECTION_ALIGN_BYTES.is_multiple_of(LINE_BYTES));
// Whatever room for its key takes, an insert can plan a split: or else growing might come to a stop.
const _: () = assert!(
    4 + SEARCH_LINES_MAX + SEARCH_MOVES_MAX * OTHERS_OF_HOME / 8 + SPLIT_LINES_MAX
        <= INSERT_LINES_MAX
);
const _: () = assert!(2_usize.pow(SEARCH_MOVES_MAX as u32) > SEARCH_LINES_MAX);
// Two bytes of hints and one of heat for each line.
const _: () = assert!((LINES_STEP as usize).is_multiple_of(LINE_BYTES));
const _: () = assert!(PARTITION_LINES_MIN.is_multiple_of(LINES_STEP));
const _: () = assert!(PARTITIONS_MAX.is_power_of_two());
