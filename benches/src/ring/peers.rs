//! Other ways from a key to a node, each in its plainest form.

/// A node's number.
pub(super) type Node = u32;

/// Spreads the bits of a number (the finisher of splitmix64).
pub(super) fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Jump consistent hash (Lamping and Veach, 2014): no memory, nodes may only be added and removed at the end.
pub(super) fn jump(mut key: u64, nodes: u32) -> Node {
    let (mut last, mut next) = (0i64, 0i64);
    while next < i64::from(nodes) {
        last = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let step = (1u64 << 31) as f64 / ((key >> 33) + 1) as f64;
        next = ((last + 1) as f64 * step) as i64;
    }
    last as Node
}

/// Rendezvous hashing: the node whose hash with the key is largest.
#[derive(Clone)]
pub(super) struct Rendezvous {
    seeds: Vec<u64>,
}

impl Rendezvous {
    pub(super) fn new(nodes: u32) -> Self {
        Self {
            seeds: (0..u64::from(nodes)).map(|node| mix(node + 1)).collect(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.seeds[..])
    }

    #[inline]
    pub(super) fn node(&self, key: u64) -> Node {
        let hashes = self.seeds.iter().map(|seed| mix(key ^ seed));
        let largest = hashes.enumerate().max_by_key(|(_, hash)| *hash);
        largest.map_or(0, |(node, _)| node as Node)
    }
}

/// A ring of points, 128 for every node; a key belongs to the next point after its hash.
#[derive(Clone)]
pub(super) struct Points {
    points: Vec<(u64, Node)>,
}

const POINTS_EACH: u64 = 128;

impl Points {
    pub(super) fn new(nodes: u32) -> Self {
        let point = |node: u32, copy| (mix(u64::from(node) << 32 | copy), node);
        let mut points: Vec<_> = (0..nodes)
            .flat_map(|node| (1..=POINTS_EACH).map(move |copy| point(node, copy)))
            .collect();
        points.sort_unstable();
        Self { points }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.points[..])
    }

    #[inline]
    pub(super) fn node(&self, key: u64) -> Node {
        let at = self.points.partition_point(|(point, _)| *point < key);
        let found = self.points.get(at).or(self.points.first());
        found.map_or(0, |(_, node)| *node)
    }

    /// The share of key space of each node.
    pub(super) fn shares(&self, nodes: u32) -> Vec<f64> {
        let mut shares = vec![0.0; nodes as usize];
        let mut before = self.points.last().map_or(0, |(point, _)| *point);
        for (point, node) in &self.points {
            shares[*node as usize] += point.wrapping_sub(before) as f64 / 2f64.powi(64);
            before = *point;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = u64> {
        (0..20_000).map(mix)
    }

    /// The property that makes them peers: a node more takes its share, and nothing moves between the others.
    #[test]
    fn a_node_more_moves_keys_to_itself_only() {
        let (few, many) = (
            (Rendezvous::new(10), Points::new(10)),
            (Rendezvous::new(11), Points::new(11)),
        );
        let mut moved = [0; 3];
        for key in keys() {
            let pairs = [
                (jump(key, 10), jump(key, 11)),
                (few.0.node(key), many.0.node(key)),
                (few.1.node(key), many.1.node(key)),
            ];
            for (at, (before, after)) in pairs.into_iter().enumerate() {
                assert!(before < 10 && (after == before || after == 10));
                moved[at] += usize::from(after != before);
            }
        }
        assert!(
            moved.iter().all(|moved| (1200..2600).contains(moved)),
            "{moved:?}"
        );
    }

    #[test]
    fn shares_of_points_are_what_keys_find() {
        let points = Points::new(8);
        let shares = points.shares(8);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let mut found = [0.0; 8];
        keys().for_each(|key| found[points.node(key) as usize] += 1.0 / 20_000.0);
        assert!(
            found.iter().zip(&shares).all(|(a, b)| (a - b).abs() < 0.02),
            "{found:?} {shares:?}"
        );
    }
}
