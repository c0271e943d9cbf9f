//! How a drive is cut into clusters, and how extents are named on it.

use super::super::drive::ExtentName;
use super::super::types::BLOCK_BYTES;

const XATTR_BYTES: usize = 17;
/// A drive is cut into about so many clusters: few enough for most transfers to lie in one, and for SPDK to read a page of
/// metadata for each after a crash, and enough for one that an extent of one block wastes to be nothing.
const CLUSTERS_WANTED: u64 = 1 << 10;
const CLUSTER_BYTES_MIN: u64 = 64 << 10;
/// SPDK splits transfers at clusters, and each part into what the drive takes at once. The parts of one cluster must not
/// be more than the 512 requests that SPDK has for a queue of an NVMe drive, which may take no more than 128 KiB each.
const CLUSTER_BYTES_MAX: u64 = 32 << 20;

/// Bytes of a cluster of a drive. No more than a slab has, so that slabs waste nothing.
pub(super) fn cluster_bytes(device_bytes: u64, slab_blocks: u64) -> u32 {
    let wanted = (device_bytes / CLUSTERS_WANTED).max(1).next_power_of_two();
    let slab_bytes = slab_blocks.saturating_mul(BLOCK_BYTES as u64);
    let bytes = wanted
        .min(CLUSTER_BYTES_MAX)
        .min(slab_bytes)
        .max(CLUSTER_BYTES_MIN);
    u32::try_from(bytes).expect("the largest cluster fits 32 bits")
}

pub(super) fn encode_name(name: ExtentName, blocks: u64) -> [u8; XATTR_BYTES] {
    let (kind, number) = match name {
        ExtentName::Label => (1, 0),
        ExtentName::Journal(number) => (2, number.into()),
        ExtentName::Checkpoint(epoch) => (3, epoch),
        ExtentName::Slab(number) => (4, number),
        ExtentName::Roster(number) => (5, number.into()),
    };
    let mut bytes = [0; XATTR_BYTES];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&number.to_le_bytes());
    bytes[9..].copy_from_slice(&blocks.to_le_bytes());
    bytes
}

/// `None` for what this version does not know.
pub(super) fn decode_name(bytes: &[u8]) -> Option<(ExtentName, u64)> {
    let bytes: &[u8; XATTR_BYTES] = bytes.try_into().ok()?;
    let number_at = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let number = number_at(1);
    let name = match bytes[0] {
        1 if number == 0 => ExtentName::Label,
        2 => ExtentName::Journal(u8::try_from(number).ok()?),
        3 => ExtentName::Checkpoint(number),
        4 => ExtentName::Slab(number),
        5 => ExtentName::Roster(u8::try_from(number).ok()?),
        _ => return None,
    };
    Some((name, number_at(9)))
}

#[cfg(test)]
mod tests {
    use super::super::super::format::FormatOptions;
    use super::*;

    #[test]
    fn a_name_says_what_was_written() {
        for name in [
            ExtentName::Label,
            ExtentName::Journal(1),
            ExtentName::Checkpoint(u64::MAX),
            ExtentName::Slab(77),
            ExtentName::Roster(1),
        ] {
            let bytes = encode_name(name, 1 << 40);
            assert_eq!(decode_name(&bytes), Some((name, 1 << 40)));
        }
    }

    /// The format on the drives.
    #[test]
    fn the_bytes_of_a_name_are_these() {
        let bytes = [4, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode_name(ExtentName::Slab(0x1234), 8), bytes);
        assert_eq!(encode_name(ExtentName::Label, 8)[0], 1);
        assert_eq!(encode_name(ExtentName::Journal(0), 8)[0], 2);
        assert_eq!(encode_name(ExtentName::Checkpoint(0), 8)[0], 3);
        assert_eq!(encode_name(ExtentName::Roster(0), 8)[0], 5);
    }

    #[test]
    fn what_is_no_name_is_not_taken_for_one() {
        let name = encode_name(ExtentName::Slab(1), 8);
        assert_eq!(decode_name(&name[..16]), None);
        for (byte, value) in [(0, 0), (0, 6), (0, 1), (0, 0xff)] {
            let mut other = name;
            other[byte] = value;
            assert_eq!(decode_name(&other), None, "{byte}: {value}");
        }
        let mut journal = encode_name(ExtentName::Journal(1), 8);
        journal[2] = 1;
        assert_eq!(decode_name(&journal), None, "journal 257");
    }

    #[test]
    fn clusters_waste_little_and_are_not_too_many() {
        const GIB: u64 = 1 << 30;
        let slab = FormatOptions::default().slab_blocks;
        for (device, cluster) in [
            (GIB / 16, 64 << 10),
            (GIB, 1 << 20),
            (64 * GIB, 32 << 20),
            (1000 * GIB, 32 << 20),
            (16 << 40, 32 << 20),
        ] {
            assert_eq!(cluster_bytes(device, slab), cluster, "{device}");
        }
        // A slab fills its clusters.
        assert_eq!(cluster_bytes(1000 * GIB, 256), 1 << 20);
        assert_eq!(cluster_bytes(1000 * GIB, 8), 64 << 10);
    }
}
