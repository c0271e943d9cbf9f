//! Plans: every move once, none above the throttle, and any order ends the same.

use std::collections::{HashMap, HashSet};

use crate::cluster::{racks, settled, slot, spec};
use oriel_dht::ring::{
    Member, Move, Plan, Ring, SettleError, Shard, Spread, State, Table, Throttle, build,
};
use proptest::prelude::*;

const SPREAD: Spread = Spread {
    node: 1,
    rack: 2,
    zone: 6,
};

/// One node joins, one drains, one is lost.
fn in_transition() -> Ring {
    let mut all: Vec<Member> = racks(25, 2);
    let ring = build(spec(1024, 6, SPREAD), &all[..24], None).unwrap().ring;
    all[4].state = State::Draining;
    all[9].state = State::Down;
    build(ring.spec(), &all, Some(&ring)).unwrap().ring
}

#[test]
fn what_has_lost_its_owner_comes_first() {
    let ring = in_transition();
    let throttle = Throttle {
        from_node: u16::MAX,
        to_node: u16::MAX,
        total: u32::MAX,
    };
    let mut plan = Plan::new(&ring, throttle);
    let order: Vec<Move> = std::iter::from_fn(|| plan.begin()).collect();
    let lost = order.iter().filter(|one| one.from.is_none()).count();
    assert!(lost > 100 && order[..lost].iter().all(|one| one.from.is_none()));
    assert_eq!(order.len(), ring.moves().count());
    assert_eq!(
        order.iter().collect::<HashSet<_>>(),
        ring.moves().collect::<Vec<_>>().iter().collect()
    );
    assert_eq!((plan.left(), plan.under_way() as usize), (0, order.len()));
}

#[test]
fn no_node_sends_or_receives_more_than_its_share() {
    let ring = in_transition();
    let throttle = Throttle {
        from_node: 2,
        to_node: 3,
        total: 20,
    };
    let mut plan = Plan::new(&ring, throttle);
    let mut under_way: Vec<Move> = Vec::new();
    let (mut made, mut failed) = (HashSet::new(), HashSet::new());
    let mut most = 0;
    loop {
        while let Some(one) = plan.begin() {
            under_way.push(one);
        }
        let (mut from, mut to) = (HashMap::new(), HashMap::new());
        for one in &under_way {
            *to.entry(one.to).or_insert(0) += 1;
            one.from
                .iter()
                .for_each(|node| *from.entry(*node).or_insert(0) += 1);
        }
        assert!(from.values().all(|count| *count <= 2) && to.values().all(|count| *count <= 3));
        assert!(under_way.len() <= 20);
        most = most.max(under_way.len());
        if under_way.is_empty() {
            break;
        }
        // Every third fails once, on its first try.
        let one = under_way.remove(under_way.len() / 2);
        if one.partition.0.is_multiple_of(3) && failed.insert(one) {
            plan.failed(one);
        } else {
            plan.made(&one);
            assert!(made.insert(one), "{one:?} came twice");
        }
    }
    assert_eq!((plan.left(), plan.under_way(), most), (0, 0, 20));
    assert_eq!(made.len(), ring.moves().count());
}

#[test]
fn a_plan_made_again_halfway_knows_what_is_left() {
    let ring = in_transition();
    let mut plan = Plan::new(&ring, Throttle::default());
    let begun: Vec<Move> = std::iter::from_fn(|| plan.begin()).collect();
    assert!(!begun.is_empty());
    let half = ring.settle(&begun).unwrap();
    assert_eq!(
        Plan::new(&half, Throttle::default()).left(),
        ring.moves().count() - begun.len()
    );
    let again = half.settle(&begun[..1]).unwrap_err();
    assert!(
        matches!(again, SettleError::NoSuchMove { partition, .. } if partition == begun[0].partition)
    );
    let mut wrong = begun[0];
    wrong.shard = Shard(99);
    assert!(ring.settle(&[wrong]).is_err());
}

#[test]
fn while_a_shard_moves_a_lookup_yields_both_owners() {
    let ring = in_transition();
    for one in ring.moves() {
        let line = ring.line(one.partition).unwrap();
        assert_eq!(line.next(one.shard), Some(one.to));
        let owner = line.owner(one.shard).unwrap();
        assert!(line.nodes().contains(&owner) && line.nodes().contains(&one.to));
        assert!(one.from.is_none_or(|from| from == owner));
    }
    let rest = settled(&ring);
    assert_eq!(
        (rest.moves().count(), rest.epoch().0),
        (0, ring.epoch().0 + 1)
    );
    let gone = slot(&rest, "n00009");
    assert!(
        rest.lines()
            .iter()
            .all(|line| !line.nodes().contains(&gone))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn moves_settled_in_any_order_and_in_any_groups_end_the_same(
        order in Just(in_transition().moves().collect::<Vec<_>>()).prop_shuffle(),
        group in 1usize..400,
    ) {
        let start = in_transition();
        let mut ring = start.clone();
        for group in order.chunks(group) {
            ring = ring.settle(group).unwrap();
        }
        let end = settled(&start);
        prop_assert!(ring.lines().iter().zip(end.lines()).all(|(a, b)| a.same_content(b)));
    }
}
