//! How many shards each node shall have.

use super::Level;
use super::caps::Caps;
use super::tree::Tree;

/// Shares closer to a whole number than this are that number: floating point is not exact.
const EPSILON: f64 = 1e-6;

/// What nodes shall have, by number.
pub(super) struct Quotas {
    /// Whole shards; their sum is the shards of all partitions.
    pub(super) shards: Vec<u32>,
    /// Domains whose share by weight is more than their cap lets them take: level, number, and both shares of the whole.
    pub(super) full: Vec<(Level, usize, f64, f64)>,
}

/// The quotas of a table of so many partitions and owners. `have` is what each node already has and would keep: where a
/// share lies between two whole numbers, that decides which one it becomes, so that fewer shards move.
pub(super) fn quotas(
    tree: &Tree,
    caps: &Caps,
    partitions: usize,
    owners: usize,
    have: &[u32],
) -> Quotas {
    let per = partitions as f64;
    let total = (partitions * owners) as f64;
    let bounds = |room: &[usize]| {
        room.iter()
            .map(|room| *room as f64 * per)
            .collect::<Vec<_>>()
    };
    let (rack_bounds, zone_bounds) = (bounds(&caps.rack_room), bounds(&caps.zone_room));
    let zone_weights: Vec<f64> = tree.zones.iter().map(|zone| zone.weight as f64).collect();
    let rack_weights: Vec<f64> = tree.racks.iter().map(|rack| rack.weight as f64).collect();
    let node_weights: Vec<f64> = tree.nodes.iter().map(|node| node.weight.into()).collect();
    let node_bounds = vec![caps.node as f64 * per; tree.nodes.len()];

    let zones = pour(total, &zone_weights, &zone_bounds);
    let inside =
        |shares: &[f64], branches: &[super::tree::Branch], weights: &[f64], bounds: &[f64]| {
            let parts = branches.iter().zip(shares).flat_map(|(branch, share)| {
                let children = branch.children.clone();
                pour(*share, &weights[children.clone()], &bounds[children])
            });
            parts.collect::<Vec<f64>>()
        };
    let racks = inside(&zones, &tree.zones, &rack_weights, &rack_bounds);
    let nodes = inside(&racks, &tree.racks, &node_weights, &node_bounds);

    let sum = |range: &std::ops::Range<usize>| have[range.clone()].iter().sum::<u32>();
    let rack_have: Vec<u32> = tree.racks.iter().map(|rack| sum(&rack.children)).collect();
    let zone_have: Vec<u32> = tree
        .zones
        .iter()
        .map(|zone| rack_have[zone.children.clone()].iter().sum())
        .collect();
    let zone_quotas = round((partitions * owners) as u32, &zones, &zone_have);
    let within =
        |quotas: &[u32], branches: &[super::tree::Branch], shares: &[f64], have: &[u32]| {
            let parts = branches.iter().zip(quotas).flat_map(|(branch, quota)| {
                let children = branch.children.clone();
                round(*quota, &shares[children.clone()], &have[children])
            });
            parts.collect::<Vec<u32>>()
        };
    let rack_quotas = within(&zone_quotas, &tree.zones, &racks, &rack_have);
    let shards = within(&rack_quotas, &tree.racks, &nodes, have);

    let weight = tree.weight() as f64;
    let levels = [
        (Level::Zone, &zone_weights, &zones, &zone_bounds),
        (Level::Rack, &rack_weights, &racks, &rack_bounds),
        (Level::Node, &node_weights, &nodes, &node_bounds),
    ];
    let mut full = Vec::new();
    for (level, weights, shares, bounds) in levels {
        for (number, ((own, share), bound)) in weights.iter().zip(shares).zip(bounds).enumerate() {
            let wanted = own / weight;
            if *share >= bound - EPSILON && wanted * total > share + 1.0 {
                full.push((level, number, wanted, share / total));
            }
        }
    }
    Quotas { shards, full }
}

/// Shares by weight, none above its bound: what one cannot take the others get.
fn pour(total: f64, weights: &[f64], bounds: &[f64]) -> Vec<f64> {
    let mut full = vec![false; weights.len()];
    loop {
        let (mut rest, mut weight) = (total, 0.0);
        for (at, full) in full.iter().enumerate() {
            if *full {
                rest -= bounds[at];
            } else {
                weight += weights[at];
            }
        }
        let level = if weight > 0.0 { rest / weight } else { 0.0 };
        let mut more = false;
        for (at, full) in full.iter_mut().enumerate() {
            if !*full && weights[at] * level > bounds[at] {
                (*full, more) = (true, true);
            }
        }
        if !more {
            let share = |at: usize| {
                if full[at] {
                    bounds[at]
                } else {
                    weights[at] * level
                }
            };
            return (0..weights.len()).map(share).collect();
        }
    }
}

/// Whole numbers less than one away from the shares, of the given sum, which is less than one away from theirs.
fn round(total: u32, shares: &[f64], have: &[u32]) -> Vec<u32> {
    let floor = |share: f64| (share + EPSILON).floor().max(0.0);
    let mut quotas: Vec<u32> = shares.iter().map(|share| floor(*share) as u32).collect();
    let left = i64::from(total) - quotas.iter().map(|quota| i64::from(*quota)).sum::<i64>();
    let above = |at: usize| shares[at] - f64::from(quotas[at]);
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let keeps = |at: usize| above(at) > EPSILON && have[at] > quotas[at];
    order.sort_by(|a, b| {
        let fractional = |at: usize| above(at) > EPSILON;
        (fractional(*b), keeps(*b))
            .cmp(&(fractional(*a), keeps(*a)))
            .then(above(*b).total_cmp(&above(*a)))
            .then(a.cmp(b))
    });
    for at in order.iter().take(left.max(0) as usize) {
        quotas[*at] += 1;
    }
    // Where rounding errors have added up to a whole, which takes shares of many millions.
    for at in order.iter().rev().take(left.min(0).unsigned_abs() as usize) {
        quotas[*at] = quotas[*at].saturating_sub(1);
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_one_cannot_take_the_others_get_by_weight() {
        let shares = pour(60.0, &[6.0, 2.0, 1.0, 1.0], &[20.0; 4]);
        assert_eq!(shares, [20.0, 20.0, 10.0, 10.0]);
        assert_eq!(pour(30.0, &[1.0, 2.0], &[40.0; 2]), [10.0, 20.0]);
        assert_eq!(pour(40.0, &[1.0, 9.0], &[20.0; 2]), [20.0, 20.0]);
    }

    #[test]
    fn a_share_between_two_numbers_goes_where_fewer_shards_move() {
        let thirds = [10.0 / 3.0; 3];
        assert_eq!(round(10, &thirds, &[0, 0, 0]), [4, 3, 3]);
        assert_eq!(round(10, &thirds, &[3, 3, 4]), [3, 3, 4]);
        assert_eq!(round(11, &thirds, &[0, 4, 0]), [4, 4, 3]);
        assert_eq!(round(7, &[1.2, 2.9, 2.9], &[9, 0, 0]), [2, 3, 2]);
    }

    #[test]
    fn whole_shares_stay_whole() {
        let share = 393_216.0 / 3.0 + 1e-9;
        assert_eq!(round(393_216, &[share; 3], &[0; 3]), [131_072; 3]);
        let share = 393_216.0 / 3.0 - 1e-9;
        assert_eq!(round(393_216, &[share; 3], &[0; 3]), [131_072; 3]);
    }
}
