//! Every fixed size of the protocol, and how the sizes relate.

/// Bytes of a block of the namespace: the unit of the log, of a window and of a checksum.
pub const BLOCK_BYTES: u64 = 4096;

/// Blocks of a namespace, most of which never exist.
pub const NAMESPACE_BLOCKS: u64 = 1 << 50;

/// The first blocks of a namespace, and as many at its end, read as zeros, so that those who look for partitions find none.
/// No window lies there.
pub const QUIET_BLOCKS: u64 = (1 << 20) / BLOCK_BYTES;

/// The longest blob.
pub const LENGTH_MAX: u64 = (1 << 36) - 1;

/// The data of one vendor command at most. A target may say less in STAT.
pub const TRANSFER_BYTES_MAX: u32 = 128 << 10;

/// Every transfer is a multiple of this, as the data digest of NVMe/TCP counts in dwords.
pub const TRANSFER_UNIT: u32 = 4;

/// Parts of one blob.
pub const PARTS_MAX: u32 = 1 << 16;

/// Bytes of a part at most.
pub const PART_BYTES_MAX: u64 = 1 << 31;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Keys in one PROBE: a bit each in the completion's dword 0.
pub const PROBE_KEYS_MAX: usize = 32;

/// Records in one COMMIT: a bit each in the completion's dword 0.
pub const COMMIT_RECORDS_MAX: usize = 32;

/// Bytes of a key's beginning by which LIST can choose.
pub const PREFIX_BYTES_MAX: usize = 8;

/// A blob of up to so many blocks is checked as a whole; a longer one has a vector of checksums behind its data.
pub const WHOLE_CHECKSUM_BLOCKS: u64 = 4;

/// The longest routing table that a client fetches.
pub const MAP_BYTES_MAX: u64 = 256 << 20;

/// Blocks of data of a blob of so many bytes.
pub const fn data_blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES)
}

/// Blocks of the vector of checksums of a blob of so many bytes.
pub const fn vector_blocks(length: u64) -> u64 {
    let data = data_blocks(length);
    if data <= WHOLE_CHECKSUM_BLOCKS {
        0
    } else {
        data.div_ceil(crate::trailer::CHECKSUMS as u64)
    }
}

const _: () =
    assert!(PROBE_KEYS_MAX <= u32::BITS as usize && COMMIT_RECORDS_MAX <= u32::BITS as usize);
const _: () = assert!(PROBE_KEYS_MAX * KEY_BYTES <= TRANSFER_BYTES_MAX as usize);
const _: () = assert!(COMMIT_RECORDS_MAX * crate::RECORD_BYTES <= TRANSFER_BYTES_MAX as usize);
const _: () = assert!(TRANSFER_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u32));
const _: () = assert!(BLOCK_BYTES.is_multiple_of(TRANSFER_UNIT as u64));
const _: () = assert!(
    data_blocks(LENGTH_MAX) + vector_blocks(LENGTH_MAX) < NAMESPACE_BLOCKS - 2 * QUIET_BLOCKS
);
