//! How many metadata pages a store gets.
//!
//! SPDK before v21.10 forgets, when it recovers a store that was not unloaded, that super block and
//! masks lie before the metadata pages: it reserves clusters for the pages alone. If pages and what
//! lies before them reach into one cluster more than the pages alone would, that last cluster is
//! given to the next blob, whose data then overwrites metadata. SPDK's default, one page for each
//! cluster, has this on every device of a multiple of 256 MiB with clusters of 1 MiB.
//!
//! So the number of pages is chosen here such that both counts are the same: the pages fill their
//! last cluster. Devices on which that cannot be are refused with an SPDK that needs it.

/// A metadata page, and everything before the pages, is a multiple of this.
pub(super) const PAGE_BYTES: u32 = 4096;

/// Before the bits of a mask: type and length.
const MASK_HEADER_BYTES: u64 = 5;

/// Whether the SPDK that this program is built against miscounts in recovery.
pub(super) fn recovery_miscounts() -> bool {
    let (major, minor) = oriel_spdk_sys::SPDK_RELEASE
        .split_once('.')
        .unwrap_or_default();
    match (major.parse::<u32>(), minor.parse::<u32>()) {
        (Ok(major), Ok(minor)) => (major, minor) < (21, 10),
        // An unknown release is taken for an old one.
        _ => true,
    }
}

/// Whether recovery before v21.10 would reserve fewer clusters than the metadata takes.
pub(super) fn is_miscounted(md_start: u64, md_len: u64, pages_per_cluster: u64) -> bool {
    (md_start + md_len).div_ceil(pages_per_cluster) != md_len.div_ceil(pages_per_cluster)
}

/// Pages before the metadata pages: the super block and three masks.
fn pages_before(clusters: u64, md_len: u64) -> u64 {
    let mask = |bits: u64| (MASK_HEADER_BYTES + bits.div_ceil(8)).div_ceil(PAGE_BYTES.into());
    1 + 2 * mask(md_len) + mask(clusters)
}

/// What came of the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MetadataPages {
    /// So many.
    Fill(u32),
    /// Fill, but recovery before v21.10 would miscount.
    FillMiscounted(u32),
    /// Metadata would leave no cluster for a blob.
    NoRoom,
}

/// About one page for each cluster, filling up the last cluster that they reach into.
pub(super) fn metadata_pages(clusters: u64, cluster_bytes: u32) -> MetadataPages {
    let per_cluster = u64::from(cluster_bytes / PAGE_BYTES);
    let wanted = (pages_before(clusters, clusters) + clusters).div_ceil(per_cluster);
    let filled = wanted * per_cluster;
    let before = pages_before(clusters, filled);
    let Some(pages) = filled
        .checked_sub(before)
        .filter(|&pages| pages > 0 && wanted < clusters)
        // The largest number means "default" to SPDK.
        .and_then(|pages| u32::try_from(pages).ok().filter(|&pages| pages < u32::MAX))
    else {
        return MetadataPages::NoRoom;
    };
    if is_miscounted(
        pages_before(clusters, pages.into()),
        pages.into(),
        per_cluster,
    ) {
        MetadataPages::FillMiscounted(pages)
    } else {
        MetadataPages::Fill(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn spdks_default_is_miscounted_on_a_power_of_two() {
        for clusters in [256, 1024, 1 << 20] {
            let before = pages_before(clusters, clusters);
            assert!(is_miscounted(before, clusters, 256), "{clusters}");
        }
    }

    #[test]
    fn what_is_chosen_is_counted_right_and_is_enough() {
        for cluster_bytes in [64 << 10, 256 << 10, MIB, 4 * MIB] {
            let per_cluster = u64::from(cluster_bytes / PAGE_BYTES);
            for clusters in [64, 127, 128, 255, 256, 257, 1000, 4096, 65_536, 1 << 20] {
                let MetadataPages::Fill(pages) = metadata_pages(clusters, cluster_bytes) else {
                    // Small clusters on a large device: the masks alone take more than one.
                    assert!(pages_before(clusters, clusters) >= per_cluster);
                    continue;
                };
                let pages = u64::from(pages);
                let before = pages_before(clusters, pages);
                assert!(!is_miscounted(before, pages, per_cluster));
                assert!(pages + before + 4 >= clusters, "{clusters}: {pages} pages");
                assert!((before + pages).div_ceil(per_cluster) < clusters);
            }
        }
    }

    #[test]
    fn a_drive_of_16_tib_needs_larger_clusters_than_1_mib() {
        let bytes: u64 = 16 << 40;
        assert!(matches!(
            metadata_pages(bytes / u64::from(MIB), MIB),
            MetadataPages::FillMiscounted(_)
        ));
        assert!(matches!(
            metadata_pages(bytes / u64::from(4 * MIB), 4 * MIB),
            MetadataPages::Fill(_)
        ));
    }

    #[test]
    fn a_device_of_a_few_clusters_has_no_room() {
        assert_eq!(metadata_pages(0, MIB), MetadataPages::NoRoom);
        assert_eq!(metadata_pages(1, MIB), MetadataPages::NoRoom);
        assert_eq!(metadata_pages(2, MIB), MetadataPages::Fill(252));
        assert_eq!(metadata_pages(1000, 4096), MetadataPages::NoRoom);
    }
}
