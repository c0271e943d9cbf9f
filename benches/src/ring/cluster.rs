//! Clusters to measure on.

use oriel_dht::ring::{Built, Level, Member, Partitions, Ring, Spec, Spread, State, build};

/// k + m of 4+2.
pub(super) const OWNERS: u8 = 6;

/// The sizes that are always measured.
pub(super) const SIZES: [u32; 5] = [3, 6, 48, 1000, 2000];

/// So many nodes of one weight, in racks as large as they are in practice.
pub(super) fn members(nodes: u32) -> Vec<Member> {
    (0..nodes).map(|number| member(number, nodes)).collect()
}

/// Nodes in a rack of a cluster of this size.
pub(super) fn rack_nodes(nodes: u32) -> u32 {
    match nodes {
        0..24 => 1,
        24..200 => 6,
        _ => 20,
    }
}

pub(super) fn member(number: u32, nodes: u32) -> Member {
    let name = |text: String| text.parse().expect("letters and digits are a name");
    Member {
        name: name(format!("n{number:05}")),
        rack: name(format!("r{:04}", number / rack_nodes(nodes))),
        zone: name("z".to_owned()),
        weight: 1000,
        state: State::Up,
        addresses: Vec::new(),
    }
}

/// 4+2 that survives a rack, or with few nodes a node.
pub(super) fn spec(nodes: u32) -> Spec {
    let level = if nodes < 24 { Level::Node } else { Level::Rack };
    Spec::new(Partitions::default(), OWNERS, Spread::surviving(level, 2))
        .expect("numbers that a ring can have")
}

pub(super) fn built(spec: Spec, members: &[Member], before: Option<&Ring>) -> Built {
    build(spec, members, before).expect("members that a ring can have")
}

/// A ring of so many nodes at rest.
pub(super) fn ring(nodes: u32) -> Ring {
    built(spec(nodes), &members(nodes), None).ring
}

/// All moves made.
pub(super) fn settled(ring: &Ring) -> Ring {
    let moves: Vec<_> = ring.moves().collect();
    ring.settle(&moves).expect("its own moves")
}
