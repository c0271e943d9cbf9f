//! The builder against a checker that knows nothing of how it works.

use crate::cluster::{check, node, racks, received, settled, shall_have, slot, spec, worst};
use oriel_dht::ring::{
    BuildError, Level, Member, NodeSlot, Ring, Spec, Spread, State, Table, Warning, build,
};
use proptest::prelude::*;

const ONE_EACH: Spread = Spread {
    node: 1,
    rack: 2,
    zone: 6,
};

fn first(spec: Spec, members: &[Member]) -> Ring {
    let built = build(spec, members, None).unwrap();
    check(&built);
    assert_eq!((built.moved, built.deferred), (0, 0));
    assert_eq!(built.ring.moves().count(), 0);
    built.ring
}

/// The ring after, checked, with the moves that it takes.
fn then(before: &Ring, members: &[Member]) -> (Ring, usize) {
    let built = build(before.spec(), members, Some(before)).unwrap();
    check(&built);
    assert!(worst(&built.ring) < 1.001, "{}", worst(&built.ring));
    (built.ring, built.moved)
}

fn assert_few(moves: usize, least: u32) {
    assert!(
        moves >= least as usize,
        "{moves} moves cannot do what takes {least}"
    );
    assert!(
        moves as f64 <= f64::from(least) * 1.05,
        "{moves} moves where {least} are enough"
    );
}

#[test]
fn every_node_is_less_than_one_shard_off_its_share() {
    for nodes in [6, 7, 48, 200] {
        let ring = first(spec(4096, 6, ONE_EACH), &racks(nodes, 2));
        assert!(worst(&ring) < 1.001, "{nodes} nodes: {}", worst(&ring));
    }
    let weights: Vec<Member> = (0..60)
        .map(|at| node(at, at / 4, at / 20, 10 + at as u32))
        .collect();
    let spread = Spread {
        node: 1,
        rack: 2,
        zone: 2,
    };
    assert!(worst(&first(spec(4096, 6, spread), &weights)) < 1.001);
}

#[test]
fn one_join_or_leave_moves_little_more_than_it_must() {
    for (nodes, each) in [(12, 1), (48, 4), (200, 8)] {
        let all = racks(nodes + 1, each);
        let spread = Spread {
            node: 1,
            rack: 2,
            zone: 6,
        };
        let small = first(spec(8192, 6, spread), &all[..nodes]);
        let (joined, moves) = then(&small, &all);
        assert_few(moves, received(&small, &joined));
        let newcomer = all[nodes].name.as_str();
        assert_few(moves, shall_have(&joined)[newcomer]);
        let (left, moves) = then(&settled(&joined), &all[..nodes]);
        assert_few(moves, received(&joined, &left));
        assert_few(moves, shall_have(&joined)[newcomer]);
    }
}

#[test]
fn a_rack_that_leaves_moves_only_what_it_had() {
    let all = racks(96, 8);
    let ring = first(spec(8192, 6, ONE_EACH), &all);
    let had: u32 = all[88..]
        .iter()
        .map(|member| shall_have(&ring)[member.name.as_str()])
        .sum();
    let (_, moves) = then(&ring, &all[..88]);
    assert_few(moves, had);
}

#[test]
fn a_move_leaves_the_other_shards_in_their_places() {
    let all = racks(31, 1);
    let before = first(spec(4096, 6, ONE_EACH), &all[..30]);
    let (after, moves) = then(&before, &all);
    let mut changed = 0;
    for (old, new) in before.lines().iter().zip(after.lines()) {
        assert!(
            old.owners().eq(new.owners()),
            "nobody loses a shard before it has moved"
        );
        let other = old
            .targets()
            .zip(new.targets())
            .filter(|(a, b)| a != b)
            .count();
        changed += other;
        assert_eq!(
            new.epoch(),
            if other > 0 {
                after.epoch()
            } else {
                before.epoch()
            }
        );
    }
    assert_eq!(changed, moves);
    assert!(
        settled(&after)
            .lines()
            .iter()
            .zip(after.lines())
            .all(|(a, b)| a.owners().eq(b.targets()))
    );
}

#[test]
fn a_node_that_drains_gives_and_one_that_is_down_is_rebuilt() {
    let mut all = racks(20, 2);
    let ring = first(spec(1024, 6, ONE_EACH), &all);
    all[3].state = State::Draining;
    all[7].state = State::Down;
    let (after, _) = then(&ring, &all);
    let [draining, down] = ["n00003", "n00007"].map(|name| slot(&after, name));
    let had = |node: NodeSlot| ring.shards_by_node()[node.index()].has as usize;
    let moves: Vec<_> = after.moves().collect();
    assert_eq!(
        moves
            .iter()
            .filter(|one| one.from == Some(draining))
            .count(),
        had(draining)
    );
    assert_eq!(
        moves.iter().filter(|one| one.from.is_none()).count(),
        had(down)
    );
    let rest = settled(&after).shards_by_node();
    assert_eq!((rest[draining.index()].has, rest[down.index()].has), (0, 0));
}

#[test]
fn one_that_is_gone_keeps_its_slot_until_no_line_names_it() {
    let all = racks(20, 2);
    let ring = first(spec(1024, 6, ONE_EACH), &all);
    let gone = slot(&ring, "n00007");
    let rest: Vec<Member> = all
        .iter()
        .filter(|member| member.name.as_str() != "n00007")
        .cloned()
        .collect();
    let (after, _) = then(&ring, &rest);
    assert_eq!(after.members().get(gone).unwrap().state, State::Down);
    let (later, moves) = then(&settled(&after), &rest);
    assert_eq!((moves, later.members().get(gone)), (0, None));
    let mut more = rest.clone();
    more.push(node(99, 50, 0, 100));
    let (reused, _) = then(&later, &more);
    assert_eq!(slot(&reused, "n00099"), gone);
}

#[test]
fn a_second_change_meets_the_first_on_its_way() {
    let all = racks(32, 2);
    let ring = first(spec(1024, 6, ONE_EACH), &all[..30]);
    let (one, _) = then(&ring, &all[..31]);
    let some: Vec<_> = one.moves().step_by(2).collect();
    let half = one.settle(&some).unwrap();
    let (two, moves) = then(&half, &all);
    assert_few(moves, received(&half, &two));
    // Who has a shard is still named, and what was settled is not asked for again.
    for (a, b) in half.lines().iter().zip(two.lines()) {
        assert!(a.owners().eq(b.owners()));
    }
    assert!(worst(&settled(&two)) < 1.001);
    // Back to the first members: what had not moved yet does not move at all.
    let (back, moves) = then(&one, &all[..30]);
    assert_eq!((moves, back.moves().count()), (0, 0));
    assert!(
        back.lines()
            .iter()
            .zip(ring.lines())
            .all(|(a, b)| a.same_content(b))
    );
}

#[test]
fn too_few_domains_are_named() {
    let ring = |nodes: &[Member], owners, spread| {
        let built = build(spec(1024, owners, spread), nodes, None).unwrap();
        check(&built);
        let crowded = built
            .warnings
            .iter()
            .filter(|warning| matches!(warning, Warning::Crowded { .. }));
        crowded.map(ToString::to_string).collect::<Vec<_>>()
    };
    let three = ring(
        &racks(3, 1),
        6,
        Spread {
            node: 1,
            rack: 2,
            zone: 6,
        },
    );
    assert_eq!(three.len(), 3);
    assert_eq!(
        three[1],
        "node n00001 (zone z0, rack r1) holds up to 2 shards of a partition, in 1024 partitions more than the 1 asked for: add another node"
    );
    assert!(ring(&racks(3, 1), 6, Spread::surviving(Level::Node, 2)).is_empty());
    let two_racks = ring(&racks(12, 6), 6, Spread::surviving(Level::Rack, 2));
    assert_eq!(two_racks.len(), 2);
    assert!(
        two_racks[0].starts_with("rack r0 (zone z0) holds up to 3 shards"),
        "{two_racks:?}"
    );
    assert_eq!(
        ring(
            &racks(1, 1),
            6,
            Spread {
                node: 1,
                rack: 1,
                zone: 1
            }
        )
        .len(),
        3
    );
}

#[test]
fn a_domain_too_heavy_for_its_cap_is_named_and_the_others_take_the_rest() {
    let mut all = racks(16, 2);
    all[0].weight = 2000;
    all[1].weight = 2000;
    let built = build(
        spec(
            1024,
            6,
            Spread {
                node: 1,
                rack: 2,
                zone: 6,
            },
        ),
        &all,
        None,
    )
    .unwrap();
    check(&built);
    assert!(worst(&built.ring) < 1.001);
    let text: Vec<_> = built.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        text[0],
        "rack r0 (zone z0) has 74.1 % of the weight and gets 33.3 % of the shards, the most that its cap allows: add weight to others"
    );
    assert_eq!(shall_have(&built.ring)["n00000"], 1024);
}

/// Eight nodes in four racks, two shards to a rack: with the ninth, its rack is entitled to two shards of every partition,
/// which is exactly what it may have, so that every partition has to be made right.
#[test]
fn a_rack_that_a_join_makes_full_is_filled_without_a_search_for_every_shard() {
    let mut all = racks(8, 2);
    let before = first(spec(16384, 6, ONE_EACH), &all);
    all.push(node(8, 0, 0, 100));
    let (after, moves) = then(&before, &all);
    let least = received(&before, &after) as usize;
    assert!(moves <= least + least / 8, "{moves} of {least}");
    let full = after.lines().iter().all(|line| {
        let in_rack = line
            .targets()
            .filter(|node| [0, 1, 8].contains(&node.index()));
        in_rack.count() == 2
    });
    assert!(full);
}

#[test]
fn the_order_in_which_members_are_named_makes_no_difference() {
    let mut all = racks(40, 4);
    let once = first(spec(1024, 6, ONE_EACH), &all);
    all.reverse();
    assert_eq!(once, first(spec(1024, 6, ONE_EACH), &all));
    let fewer = &all[1..];
    let (a, _) = then(&once, fewer);
    let mut turned = fewer.to_vec();
    turned.rotate_left(11);
    assert_eq!(a, then(&once, &turned).0);
}

#[test]
fn the_partitions_of_a_node_are_shared_with_all_others() {
    let ring = first(spec(8192, 6, ONE_EACH), &racks(60, 2));
    let node = slot(&ring, "n00017");
    let mut peers = vec![0; 60];
    for line in ring
        .lines()
        .iter()
        .filter(|line| line.owners().any(|owner| owner == node))
    {
        line.owners().for_each(|owner| peers[owner.index()] += 1);
    }
    let (least, most) = (
        peers.iter().min().unwrap(),
        peers.iter().filter(|n| **n < 800).max().unwrap(),
    );
    // About 819 partitions with 5 others each, over 59 others.
    assert!(*least >= 30 && *most <= 110, "{peers:?}");
}

#[test]
fn arguments_that_no_ring_can_be_made_of_are_refused() {
    let spec_6 = spec(1024, 6, ONE_EACH);
    let mut all = racks(6, 1);
    let ring = first(spec_6, &all);
    let other = build(spec(2048, 6, ONE_EACH), &all, Some(&ring)).unwrap_err();
    assert!(matches!(other, BuildError::OtherShape { .. }), "{other}");
    assert!(matches!(build(spec_6, &[], None), Err(BuildError::NoNodes)));
    all[0].weight = u32::MAX;
    assert!(matches!(
        build(spec_6, &all, None),
        Err(BuildError::Weight { .. })
    ));
    all[0].weight = 0;
    let built = build(spec_6, &all, None).unwrap();
    assert_eq!(shall_have(&built.ring)["n00000"], 0);
    all[1].name = all[0].name.clone();
    assert!(matches!(
        build(spec_6, &all, None),
        Err(BuildError::Members(_))
    ));
}

#[test]
fn more_than_thirteen_owners_move_in_several_steps() {
    let spread = Spread {
        node: 1,
        rack: 20,
        zone: 20,
    };
    let all = racks(44, 1);
    let mut ring = first(spec(1024, 20, spread), &all[..22]);
    let mut steps = 0;
    loop {
        let built = build(ring.spec(), &all[22..], Some(&ring)).unwrap();
        check(&built);
        ring = settled(&built.ring);
        steps += 1;
        if built.deferred == 0 {
            break;
        }
        assert!(steps < 10);
    }
    assert!(steps > 1 && worst(&ring) < 1.001);
    assert!(
        ring.lines()
            .iter()
            .all(|line| line.owners().all(|owner| owner.index() >= 22))
    );
}

#[derive(Clone, Debug)]
enum Change {
    Join {
        rack: usize,
        zone: usize,
        weight: u32,
    },
    Leave(prop::sample::Index),
    Weigh(prop::sample::Index, u32),
    Set(prop::sample::Index, State),
    Settle(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let weight = || prop_oneof![4 => 50u32..150, 1 => 0u32..3000];
    let index = any::<prop::sample::Index>;
    let state = prop::sample::select(&State::ALL[..]);
    prop_oneof![
        4 => (0usize..5, 0usize..3, weight()).prop_map(|(rack, zone, weight)| Change::Join { rack, zone, weight }),
        2 => index().prop_map(Change::Leave),
        2 => (index(), weight()).prop_map(|(at, weight)| Change::Weigh(at, weight)),
        1 => (index(), state).prop_map(|(at, state)| Change::Set(at, state)),
        2 => index().prop_map(Change::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: caps hold, warnings are true, every node has its share, and the moves are few.
    #[test]
    fn any_history_keeps_every_promise(
        start in prop::collection::vec((0usize..5, 0usize..3, 50u32..150), 1..20),
        changes in prop::collection::vec(change(), 1..10),
        owners in 1u8..9,
        (node_cap, rack_cap, zone_cap) in (1u8..3, 1u8..4, 1u8..9),
    ) {
        let spread = Spread { node: node_cap, rack: rack_cap, zone: zone_cap };
        let mut members: Vec<Member> = start
            .iter()
            .enumerate()
            .map(|(at, (rack, zone, weight))| node(at, *rack, *zone, *weight))
            .collect();
        let mut named = members.len();
        let mut ring = first(spec(1024, owners, spread), &members);
        for change in changes {
            match change {
                Change::Join { rack, zone, weight } => {
                    members.push(node(named, rack, zone, weight));
                    named += 1;
                }
                Change::Leave(at) => drop(members.swap_remove(at.index(members.len()))),
                Change::Weigh(at, weight) => {
                    let at = at.index(members.len());
                    members[at].weight = weight;
                }
                Change::Set(at, state) => {
                    let at = at.index(members.len());
                    members[at].state = state;
                }
                Change::Settle(stop) => {
                    let moves: Vec<_> = ring.moves().collect();
                    let count = if moves.is_empty() { 0 } else { stop.index(moves.len()) };
                    ring = ring.settle(&moves[..count]).unwrap();
                }
            }
            match build(ring.spec(), &members, Some(&ring)) {
                Err(error) => {
                    prop_assert_eq!(error, BuildError::NoNodes);
                    break;
                }
                Ok(built) => {
                    check(&built);
                    prop_assert_eq!(built.deferred, 0);
                    if crate::cluster::is_feasible(&built.ring) {
                        prop_assert!(worst(&built.ring) < 1.001, "{}", worst(&built.ring));
                    }
                    // Tight caps can cost moves beyond what nodes receive, and more where they could not be kept before: 1.6
                    // times as many were the most that 3,600 histories at random showed.
                    if crate::cluster::is_feasible(&ring) {
                        let least = received(&ring, &built.ring) as usize;
                        prop_assert!(built.moved <= 2 * least + 2, "{} of {least}", built.moved);
                    }
                    ring = built.ring;
                }
            }
        }
        prop_assert_eq!(ring.partitions().count(), ring.lines().len());
    }
}
