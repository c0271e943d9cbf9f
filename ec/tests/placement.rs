//! Layout costs and placements.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod oracle;

use oracle::store::layout;
use oriel_ec::{
    Bytes, Domain, Geometry, GeometryError, Placement, PlacementError, Scheme, StripeUnit,
    TailPolicy, tail_choices,
};
use proptest::prelude::*;

fn place(k: usize, m: usize, domains: &[u32]) -> Result<Vec<u16>, PlacementError> {
    let owners: Vec<Domain> = domains.iter().copied().map(Domain).collect();
    Placement::new(Scheme::ec(k, m).unwrap(), &owners)
        .map(|placed| placed.owners().iter().map(|owner| owner.0).collect())
}

#[test]
fn three_nodes_hold_two_shards_each_of_4_and_2() {
    assert_eq!(place(4, 2, &[10, 20, 30]).unwrap(), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn domains_are_filled_before_owners() {
    assert_eq!(place(2, 2, &[1, 1, 2, 3, 4]).unwrap(), [0, 2, 3, 4]);
    assert_eq!(
        place(4, 2, &[1, 1, 2, 2, 3, 3]).unwrap(),
        [0, 2, 4, 1, 3, 5]
    );
}

#[test]
fn too_few_domains_are_refused() {
    let scheme = Scheme::ec(4, 2).unwrap();
    let error = place(4, 2, &[1, 1, 1, 2]).unwrap_err();
    assert_eq!(
        error,
        PlacementError::TooFewDomains {
            scheme,
            found: 2,
            needed: 3,
            each: 2
        }
    );
    assert_eq!(
        error.to_string(),
        "4+2 on 2 failure domains: at most 2 shards in each need 3 domains"
    );
    assert_eq!(place(4, 2, &[]).unwrap_err(), PlacementError::NoOwners);
    assert_eq!(
        place(3, 0, &[7]).unwrap(),
        [0, 0, 0],
        "nothing can be lost without parity, wherever it lies"
    );
}

proptest! {
    #[test]
    fn no_domain_holds_more_than_m(k in 1usize..=16, m in 1usize..=4, domains in prop::collection::vec(0u32..6, 1..12)) {
        let distinct = domains.iter().collect::<std::collections::BTreeSet<_>>().len();
        match place(k, m, &domains) {
            Ok(owners) => {
                prop_assert_eq!(owners.len(), k + m);
                let count = |domain: u32| owners.iter().filter(|owner| domains[usize::from(**owner)] == domain).count();
                let counts: Vec<usize> = (0..6).filter(|domain| domains.contains(domain)).map(count).collect();
                let (most, least) = (*counts.iter().max().unwrap(), *counts.iter().min().unwrap());
                prop_assert!(most <= m && most - least <= 1, "{counts:?}");
            }
            Err(error) => prop_assert!(distinct * m < k + m, "{error}"),
        }
    }
}

#[test]
fn geometries_have_limits() {
    assert_eq!(
        Scheme::ec(0, 2),
        Err(GeometryError::DataShards { found: 0, max: 16 })
    );
    assert_eq!(
        Scheme::ec(17, 2),
        Err(GeometryError::DataShards { found: 17, max: 16 })
    );
    assert_eq!(
        Scheme::ec(4, 5),
        Err(GeometryError::ParityShards { found: 5, max: 4 })
    );
    assert_eq!(
        Scheme::replicate(0),
        Err(GeometryError::Copies { found: 0, max: 5 })
    );
    assert_eq!(Scheme::replicate(3), Scheme::ec(1, 2));
    for bytes in [0, 1, 2048, 5000, 2 << 20] {
        assert!(
            matches!(StripeUnit::new(Bytes(bytes)), Err(GeometryError::Unit { found, .. }) if found == bytes)
        );
    }
    assert!((12..=20).all(|power| StripeUnit::new(Bytes(1 << power)).is_ok()));
}

/// The table of docs/erasure-coding.md.
#[test]
fn small_blobs_cost_what_the_documentation_says() {
    let rows = [
        (
            TailPolicy::FEWEST_BYTES,
            [
                (4, 12, 1),
                (8, 16, 2),
                (16, 24, 4),
                (64, 96, 4),
                (200, 304, 4),
            ],
        ),
        (
            TailPolicy::default(),
            [
                (4, 12, 1),
                (8, 24, 1),
                (16, 32, 2),
                (64, 128, 2),
                (200, 304, 4),
            ],
        ),
        (
            TailPolicy::FEWEST_SHARDS,
            [
                (4, 12, 1),
                (8, 24, 1),
                (16, 48, 1),
                (64, 192, 1),
                (200, 304, 4),
            ],
        ),
    ];
    for (policy, costs) in rows {
        for (length, stored, shards) in costs {
            let layout = layout(4, 2, 65_536, length * 1024, policy);
            let cost = layout.cost();
            assert_eq!(
                (cost.stored.get() / 1024, cost.shards_read),
                (stored, shards),
                "{length} KiB {policy:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_layout_stores_every_byte_and_within_its_policy(
        k in 1usize..=16, m in 0usize..=4, unit in 12u32..=16, length in 0u64..3_000_000, extra in 0u32..300,
    ) {
        let geometry = Geometry::new(Scheme::ec(k, m).unwrap(), StripeUnit::new(Bytes(1 << unit)).unwrap());
        let layout = oriel_ec::Layout::new(geometry, Bytes(length), TailPolicy::within(extra));
        let least = length + length.div_ceil(k as u64) * m as u64;
        prop_assert!(layout.cost().stored.get() >= least);
        prop_assert_eq!(layout.stripes() == 0, length == 0);
        let rest = Bytes(length % geometry.stripe_bytes().get());
        let choices: Vec<_> = tail_choices(geometry, rest).collect();
        prop_assert_eq!(choices.is_empty(), rest == Bytes(0));
        let fewest = choices.iter().map(|(_, cost)| cost.stored.get()).min().unwrap_or(0);
        let tail = layout.stripe(oriel_ec::StripeIndex(layout.full_stripes()));
        if let Some(tail) = tail {
            let chosen = choices.iter().find(|(shape, _)| *shape == tail).unwrap().1;
            prop_assert!(chosen.stored.get() * 100 <= fewest * u64::from(100 + extra));
            prop_assert!(tail.last <= tail.unit && u64::from(tail.unit) <= 1 << unit);
        }
    }
}
