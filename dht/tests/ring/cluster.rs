//! Members for tests, and a checker that knows nothing of how a table is built.

use std::collections::BTreeMap;

use oriel_dht::ring::{
    Built, Level, Member, NodeSlot, Partitions, Ring, Spec, Spread, State, Warning,
};

/// A node `n<number>` in rack `r<rack>` of zone `z<zone>`.
pub(crate) fn node(number: usize, rack: usize, zone: usize, weight: u32) -> Member {
    Member {
        name: format!("n{number:05}").parse().unwrap(),
        rack: format!("r{rack}").parse().unwrap(),
        zone: format!("z{zone}").parse().unwrap(),
        weight,
        state: State::Up,
        addresses: vec![format!("tcp://10.0.0.1:{}", 1 + number).parse().unwrap()],
    }
}

/// So many nodes of one weight, `each` in a rack, all racks in one zone.
pub(crate) fn racks(nodes: usize, each: usize) -> Vec<Member> {
    (0..nodes).map(|at| node(at, at / each, 0, 100)).collect()
}

pub(crate) fn spec(partitions: u64, owners: u8, spread: Spread) -> Spec {
    Spec::new(Partitions::new(partitions).unwrap(), owners, spread).unwrap()
}

/// What a table may be told from: domains as text, from the outside in.
fn domain(member: &Member, level: Level) -> String {
    match level {
        Level::Zone => member.zone.to_string(),
        Level::Rack => format!("{}/{}", member.zone, member.rack),
        Level::Node => member.name.to_string(),
    }
}

fn caps(spread: Spread) -> [(Level, u8); 3] {
    let Spread { zone, rack, node } = spread;
    [
        (Level::Zone, zone),
        (Level::Rack, rack),
        (Level::Node, node),
    ]
}

/// What the domain and all in it can take of one partition.
fn room(takers: &[&Member], spread: Spread, depth: usize) -> usize {
    let Some((level, cap)) = caps(spread).get(depth).copied() else {
        return usize::MAX;
    };
    let mut parts: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in takers {
        parts.entry(domain(member, level)).or_default().push(member);
    }
    let rooms = parts
        .values()
        .map(|part| room(part, spread, depth + 1).min(cap.into()));
    rooms.sum()
}

fn takers(ring: &Ring) -> Vec<&Member> {
    let members = ring.members().iter().map(|(_, member)| member);
    members.filter(|member| member.share() > 0).collect()
}

/// Whether the caps leave room for all owners of a partition.
pub(crate) fn is_feasible(ring: &Ring) -> bool {
    room(&takers(ring), ring.spec().spread(), 0) >= ring.spec().owners()
}

/// Everything that is true of every table; the panics say what is not.
pub(crate) fn check(built: &Built) {
    let ring = &built.ring;
    let spread = ring.spec().spread();
    let feasible = is_feasible(ring);
    let mut over: BTreeMap<(Level, String), (usize, u32)> = BTreeMap::new();
    for (partition, line) in ring.lines().iter().enumerate() {
        assert_eq!(line.len(), ring.spec().owners());
        assert!(line.epoch() <= ring.epoch() && line.epoch().0 > 0);
        for target in line.targets() {
            let member = ring.members().get(target).expect("a target is a member");
            let waits = built.deferred > 0;
            assert!(waits || member.share() > 0, "{partition}: {line:?}");
        }
        if built.deferred > 0 {
            continue;
        }
        for (level, cap) in caps(spread) {
            let mut held: BTreeMap<String, usize> = BTreeMap::new();
            for target in line.targets() {
                *held
                    .entry(domain(ring.members().get(target).unwrap(), level))
                    .or_default() += 1;
            }
            for (name, held) in held.into_iter().filter(|(_, held)| *held > cap.into()) {
                let (most, partitions) = over.entry((level, name)).or_default();
                *most = held.max(*most);
                *partitions += 1;
            }
        }
    }
    if feasible {
        assert!(
            over.is_empty(),
            "caps are broken though there is room: {over:?}"
        );
    }
    let mut warned: BTreeMap<(Level, String), (usize, u32)> = BTreeMap::new();
    for warning in &built.warnings {
        if let Warning::Crowded {
            domain,
            found,
            partitions,
            ..
        } = warning
        {
            let name = match (domain.rack(), domain.node()) {
                (_, Some(node)) => node.to_string(),
                (Some(rack), None) => format!("{}/{rack}", domain.zone),
                _ => domain.zone.to_string(),
            };
            warned.insert((domain.level, name), ((*found).into(), *partitions));
        }
    }
    assert_eq!(
        warned, over,
        "a warning names each domain that has too much, and no other"
    );
}

/// Shares of `total` by weight, none above its bound, found by halving an interval.
fn shares(total: f64, parts: &[(f64, f64)]) -> Vec<f64> {
    let at = |level: f64| {
        parts
            .iter()
            .map(move |(weight, bound)| (weight * level).min(*bound))
    };
    let (mut low, mut high) = (0.0, 1e12);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if at(middle).sum::<f64>() < total {
            low = middle
        } else {
            high = middle
        }
    }
    at(high).collect()
}

/// What each node should have, were shards divisible. Only for caps that leave room.
pub(crate) fn ideal(ring: &Ring) -> BTreeMap<String, f64> {
    let per = ring.spec().partitions().count() as f64;
    let mut found = BTreeMap::new();
    divide(
        ring.spec().shards() as f64,
        &takers(ring),
        ring.spec().spread(),
        0,
        per,
        &mut found,
    );
    found
}

fn divide(
    total: f64,
    members: &[&Member],
    spread: Spread,
    depth: usize,
    per: f64,
    found: &mut BTreeMap<String, f64>,
) {
    let Some((level, cap)) = caps(spread).get(depth).copied() else {
        found.insert(members[0].name.to_string(), total);
        return;
    };
    let mut parts: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in members {
        parts.entry(domain(member, level)).or_default().push(member);
    }
    let numbers: Vec<(f64, f64)> = parts
        .values()
        .map(|part| {
            let weight = part.iter().map(|member| f64::from(member.share())).sum();
            let room = room(part, spread, depth + 1).min(cap.into());
            (weight, room as f64 * per)
        })
        .collect();
    for (part, total) in parts.values().zip(shares(total, &numbers)) {
        divide(total, part, spread, depth + 1, per, found);
    }
}

/// What each node shall have, by name.
pub(crate) fn shall_have(ring: &Ring) -> BTreeMap<String, u32> {
    let holdings = ring.shards_by_node();
    let named = ring.members().iter();
    named
        .map(|(slot, member)| (member.name.to_string(), holdings[slot.index()].shall_have))
        .collect()
}

/// The largest distance of a node from its ideal, in shards.
pub(crate) fn worst(ring: &Ring) -> f64 {
    let have = shall_have(ring);
    let off = |(name, ideal): (&String, &f64)| (f64::from(have[name]) - ideal).abs();
    ideal(ring).iter().map(off).fold(0.0, f64::max)
}

/// The moves without which nobody could reach this balance: what nodes have to receive.
pub(crate) fn received(before: &Ring, after: &Ring) -> u32 {
    let old = shall_have(before);
    let new = shall_have(after);
    let gain =
        |(name, new): (&String, &u32)| new.saturating_sub(old.get(name).copied().unwrap_or(0));
    new.iter().map(gain).sum()
}

/// The slot of a node.
pub(crate) fn slot(ring: &Ring, name: &str) -> NodeSlot {
    ring.members().find(&name.parse().unwrap()).unwrap()
}

/// All moves made at once.
pub(crate) fn settled(ring: &Ring) -> Ring {
    let moves: Vec<_> = ring.moves().collect();
    ring.settle(&moves).unwrap()
}
