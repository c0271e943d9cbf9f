//! Plans, carried out on memory and compared with the blob.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod oracle;

use oracle::store::{Store, layout};
use oriel_ec::{
    Bytes, Check, Codec, Crc32c, ExecuteError, Isa, PlanError, ReadPlan, ReadRequest,
    RepairRequest, Scheme, ShardIndex, ShardSet, StripeIndex, TailPolicy, VerifyPlan,
};
use proptest::prelude::*;

fn set(shards: &[u8]) -> ShardSet {
    shards.iter().copied().map(ShardIndex).collect()
}

fn execute(store: &Store, plan: &ReadPlan) -> Result<Vec<u8>, ExecuteError> {
    let mut codec = Codec::new(store.layout.geometry().scheme);
    let range = plan.range();
    let mut output = vec![0xa5; (range.end.get() - range.start.get()) as usize];
    plan.execute(
        &mut codec,
        &store.read(plan.reads()),
        |place| store.checksum(place),
        &mut output,
    )?;
    Ok(output)
}

fn expected<'a>(store: &'a Store, plan: &ReadPlan) -> &'a [u8] {
    &store.blob[plan.range().start.get() as usize..plan.range().end.get() as usize]
}

/// The pieces tile the range, and those that are not rebuilt lie where they say.
fn check_pieces(store: &Store, plan: &ReadPlan) {
    let mut at = plan.range().start;
    for piece in plan.pieces() {
        assert_eq!(piece.blob_offset, at);
        let (from, length) = (
            piece.shard_offset.get() as usize,
            piece.length.get() as usize,
        );
        assert!(
            store.shards[piece.shard.index()][from..][..length]
                == store.blob[at.get() as usize..][..length]
        );
        assert_eq!(piece.rebuilt, !plan.shards().contains(piece.shard));
        at = Bytes(at.get() + piece.length.get());
    }
    assert_eq!(at, plan.range().end);
}

#[derive(Clone, Debug)]
struct Case {
    k: usize,
    m: usize,
    unit: u64,
    length: u64,
    policy: u32,
    from: u64,
    to: u64,
    missing: u32,
    slow: u32,
    hedged: bool,
    device: bool,
}

prop_compose! {
    fn cases()(k in 1usize..=8, m in 0usize..=4, unit in 0u32..3)
        (
            k in Just(k),
            m in Just(m),
            unit in Just(4096u64 << unit),
            length in 1..=(4096u64 << unit) * k as u64 * 4,
            policy in prop_oneof![Just(0u32), Just(50), Just(u32::MAX)],
            ends in any::<(prop::sample::Index, prop::sample::Index)>(),
            missing in prop::collection::vec(0usize..k + m, 0..=m),
            slow in prop::collection::vec(0usize..k + m, 0..=2),
            hedged in any::<bool>(),
            device in any::<bool>(),
        ) -> Case {
            let ends = (ends.0.index(length as usize + 1) as u64, ends.1.index(length as usize + 1) as u64);
            let mask = |shards: Vec<usize>| shards.into_iter().fold(0, |mask, shard| mask | 1 << shard);
            Case {
                k, m, unit, length, policy, hedged, device,
                from: ends.0.min(ends.1),
                to: ends.0.max(ends.1),
                missing: mask(missing),
                slow: mask(slow),
            }
        }
}

impl Case {
    fn store(&self) -> Store {
        Store::new(layout(
            self.k,
            self.m,
            self.unit,
            self.length,
            TailPolicy::within(self.policy),
        ))
    }

    fn request(&self, store: &Store) -> ReadRequest {
        let request = ReadRequest::new(store.layout, Bytes(self.from)..Bytes(self.to))
            .missing(ShardSet::from_mask(self.missing))
            .slow(ShardSet::from_mask(self.slow))
            .checked_by(if self.device {
                Check::Device
            } else {
                Check::Units
            });
        if self.hedged {
            request.hedged()
        } else {
            request
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_read_gives_the_blobs_bytes(case in cases()) {
        let store = case.store();
        let missing = ShardSet::from_mask(case.missing);
        match case.request(&store).plan() {
            Ok(plan) => {
                prop_assert!(plan.shards().intersection(missing).is_empty());
                prop_assert!(execute(&store, &plan).unwrap() == expected(&store, &plan), "{plan}");
                for late in plan.shards().iter().filter(|_| case.hedged) {
                    let arrived = plan.shards().minus(ShardSet::EMPTY.with(late));
                    let settled = plan.settle(arrived).unwrap();
                    prop_assert_eq!(settled.shards(), arrived);
                    prop_assert!(execute(&store, &settled).unwrap() == expected(&store, &plan), "{settled}");
                }
                if !case.hedged {
                    check_pieces(&store, &plan);
                }
            }
            // Up to m losses leave enough for any read; a spare needs one more.
            Err(error) => prop_assert!(case.hedged && missing.len() == case.m, "{error}"),
        }
    }

    #[test]
    fn every_repair_gives_the_lost_shards(case in cases()) {
        let store = case.store();
        let (lost, local) = (ShardSet::from_mask(case.missing), ShardSet::from_mask(case.slow));
        let plan = RepairRequest::new(store.layout, lost).local(local.minus(lost)).plan().unwrap();
        let mut codec = Codec::new(store.layout.geometry().scheme);
        let mut rebuilt: Vec<Vec<u8>> =
            lost.iter().map(|shard| vec![0xa5; store.layout.shard_bytes(shard).get() as usize]).collect();
        let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        plan.execute(&mut codec, &store.read(plan.reads()), |place| store.checksum(place), &mut outputs).unwrap();
        for (shard, bytes) in lost.iter().zip(&rebuilt) {
            prop_assert!(*bytes == store.shards[shard.index()], "{plan}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_never_returned(case in cases(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut store = case.store();
        let checks: Vec<_> = VerifyPlan::whole(store.layout).units().collect();
        prop_assert_eq!(checks.len() as u64, store.layout.checksums());
        let hit = checks[place.index(checks.len())];
        let at = hit.offset.get() as usize + place.index(hit.length.get() as usize);
        store.shards[hit.shard.index()][at] ^= 1 << bit;

        let plan = VerifyPlan::whole(store.layout);
        let mut findings = Vec::new();
        plan.execute(&store.read(plan.reads()), |place| store.checksum(place), |found| findings.push(found)).unwrap();
        prop_assert_eq!(findings.len(), 1);
        let named = matches!(&findings[0], ExecuteError::Corrupted { shard, stripe, .. }
            if *shard == hit.shard && *stripe == hit.stripe);
        prop_assert!(named, "{}", findings[0]);

        let request = case.request(&store).checked_by(Check::Units);
        if let Ok(plan) = request.plan() {
            match execute(&store, &plan) {
                Ok(bytes) => prop_assert!(bytes == expected(&store, &plan)),
                Err(ExecuteError::Corrupted { shard, stripe, expected, found }) => {
                    prop_assert!(shard == hit.shard && stripe == hit.stripe && expected != found);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}

#[test]
fn a_corrupted_shard_is_read_around() {
    let mut store = Store::new(layout(4, 2, 4096, 100_000, TailPolicy::default()));
    store.shards[1][5000] ^= 0x10;
    let request = ReadRequest::new(store.layout, Bytes(0)..Bytes(100_000));
    let error = execute(&store, &request.plan().unwrap()).unwrap_err();
    let found = Crc32c::of(&store.shards[1][4096..8192]);
    let expected_checksum = store.checksum(
        store
            .layout
            .checksum(StripeIndex(1), ShardIndex(1))
            .unwrap(),
    );
    let (shard, stripe) = (ShardIndex(1), StripeIndex(1));
    assert_eq!(
        error,
        ExecuteError::Corrupted {
            shard,
            stripe,
            expected: expected_checksum,
            found
        }
    );
    let plan = request.missing(set(&[1])).plan().unwrap();
    assert!(execute(&store, &plan).unwrap() == store.blob);
}

#[test]
fn a_degraded_read_prints_what_it_does_and_why() {
    let layout = layout(4, 2, 65_536, 1_000_000, TailPolicy::default());
    let plan = ReadRequest::new(layout, Bytes(300_000)..Bytes(400_000))
        .missing(set(&[1]))
        .plan()
        .unwrap();
    let text = "bytes 300000..400000 of 1000000 bytes as 4+2 unit 65536: 3 whole stripes, tail of 4 data units of 57344 \
                (last 45056); stores 1511424; without {1}\n  \
                read shard 0 from 65536 length 65536\n  \
                read shard 2 from 65536 length 65536\n  \
                read shard 3 from 65536 length 65536\n  \
                read shard 4 from 65536 length 65536\n  \
                stripes 1..2 offsets 0..65536: rebuild {1} from {0 2 3 4}";
    assert_eq!(plan.to_string(), text);
}

#[test]
fn slow_shards_are_read_only_when_nothing_else_is_left() {
    let layout = layout(4, 2, 4096, 4 * 4096, TailPolicy::default());
    let all = || ReadRequest::new(layout, Bytes(0)..Bytes(4 * 4096));
    assert_eq!(all().plan().unwrap().shards(), set(&[0, 1, 2, 3]));
    assert_eq!(
        all().slow(set(&[1, 2])).plan().unwrap().shards(),
        set(&[0, 3, 4, 5])
    );
    assert_eq!(
        all()
            .slow(set(&[1, 2]))
            .missing(set(&[5]))
            .plan()
            .unwrap()
            .shards(),
        set(&[0, 1, 3, 4])
    );
    assert_eq!(
        all()
            .slow(set(&[4]))
            .missing(set(&[0, 1]))
            .plan()
            .unwrap()
            .shards(),
        set(&[2, 3, 4, 5])
    );
    assert_eq!(all().hedged().plan().unwrap().shards().len(), 5);
}

#[test]
fn repair_reads_no_more_than_k_shards_and_prefers_local_ones() {
    let layout = layout(4, 2, 4096, 40 * 4096, TailPolicy::default());
    let plan = RepairRequest::new(layout, set(&[0, 5])).plan().unwrap();
    assert_eq!(plan.bytes_moved(), Bytes(4 * 10 * 4096));
    assert_eq!(plan.bytes_written(), Bytes(2 * 10 * 4096));
    let local = RepairRequest::new(layout, set(&[0]))
        .local(set(&[3, 5]))
        .plan()
        .unwrap();
    assert_eq!(local.bytes_moved(), Bytes(2 * 10 * 4096));
    assert_eq!(
        local
            .reads()
            .iter()
            .filter(|read| [3, 5].contains(&read.shard.0))
            .count(),
        2
    );
}

#[test]
fn a_lost_shard_that_holds_nothing_of_the_tail_costs_nothing_there() {
    let layout = layout(4, 2, 4096, 4096, TailPolicy::default());
    let plan = RepairRequest::new(layout, set(&[2])).plan().unwrap();
    assert!(plan.reads().is_empty());
    let plan = RepairRequest::new(layout, set(&[0])).plan().unwrap();
    assert_eq!(
        plan.bytes_moved(),
        Bytes(4096),
        "a copy of a small blob is repaired from one other"
    );
}

#[test]
fn impossible_requests_are_refused() {
    let layout = layout(4, 2, 4096, 100_000, TailPolicy::default());
    let read = |from, to| ReadRequest::new(layout, Bytes(from)..Bytes(to));
    let error = read(0, 100_001).plan().unwrap_err();
    assert_eq!(
        error,
        PlanError::OutOfRange {
            range: Bytes(0)..Bytes(100_001),
            length: Bytes(100_000)
        }
    );
    let error = read(0, 100).missing(set(&[0, 1, 4])).plan().unwrap_err();
    assert_eq!(
        error,
        PlanError::TooManyLost {
            stripe: StripeIndex(0),
            left: set(&[2, 3, 5]),
            needed: 4
        }
    );
    assert!(
        read(4096 * 2, 4096 * 4)
            .missing(set(&[0, 1, 4]))
            .plan()
            .is_ok(),
        "nothing of what is wanted is lost"
    );
    let error = read(0, 100).missing(set(&[6])).plan().unwrap_err();
    assert_eq!(
        error,
        PlanError::ForeignShards {
            found: set(&[6]),
            members: set(&[0, 1, 2, 3, 4, 5])
        }
    );
    let error = RepairRequest::new(layout, set(&[0, 1, 2]))
        .plan()
        .unwrap_err();
    assert!(matches!(error, PlanError::TooManyLost { needed: 4, .. }));
    let stripes = layout.stripes();
    let error =
        VerifyPlan::new(layout, set(&[0]), StripeIndex(0)..StripeIndex(stripes + 1)).unwrap_err();
    assert_eq!(
        error,
        PlanError::NoSuchStripes {
            range: 0..stripes + 1,
            stripes
        }
    );
    let plan = read(0, 100_000).plan().unwrap();
    assert!(
        plan.settle(set(&[0, 1])).is_err(),
        "two of four shards settle nothing"
    );
}

#[test]
fn buffers_and_codecs_of_another_plan_are_refused() {
    let store = Store::new(layout(4, 2, 4096, 100_000, TailPolicy::default()));
    let plan = ReadRequest::new(store.layout, Bytes(10)..Bytes(50_000))
        .plan()
        .unwrap();
    let buffers = store.read(plan.reads());
    let mut output = vec![0; 49_990];
    let checksum = |place| store.checksum(place);
    let (ours, other) = (Scheme::ec(4, 2).unwrap(), Scheme::ec(4, 1).unwrap());
    let error = plan
        .execute(&mut Codec::new(other), &buffers, checksum, &mut output)
        .unwrap_err();
    assert_eq!(
        error,
        ExecuteError::OtherScheme {
            expected: ours,
            found: other
        }
    );
    let mut codec = Codec::with_isa(ours, Isa::Portable).unwrap();
    let error = plan
        .execute(&mut codec, &buffers[1..], checksum, &mut output)
        .unwrap_err();
    assert_eq!(
        error,
        ExecuteError::Buffers {
            expected: 4,
            found: 3
        }
    );
    let error = plan
        .execute(&mut codec, &buffers, checksum, &mut output[1..])
        .unwrap_err();
    assert_eq!(
        error,
        ExecuteError::Output {
            expected: 49_990,
            found: 49_989
        }
    );
    let mut short = buffers.clone();
    short[2] = &short[2][1..];
    let error = plan
        .execute(&mut codec, &short, checksum, &mut output)
        .unwrap_err();
    let expected = plan.reads()[2].length.get();
    assert_eq!(
        error,
        ExecuteError::Length {
            shard: ShardIndex(2),
            expected,
            found: expected - 1
        }
    );
    plan.execute(&mut codec, &buffers, checksum, &mut output)
        .unwrap();
    assert!(output == store.blob[10..50_000]);
}

#[test]
fn plans_and_decodes_allocate_nothing_after_the_first() {
    let store = Store::new(layout(4, 2, 4096, 200_000, TailPolicy::default()));
    let mut codec = Codec::new(Scheme::ec(4, 2).unwrap());
    let mut output = vec![0; 150_000];
    let request =
        ReadRequest::new(store.layout, Bytes(20_000)..Bytes(170_000)).missing(set(&[0, 2]));
    let plan = request.plan().unwrap();
    let buffers = store.read(plan.reads());
    let checksum = |place| store.checksum(place);
    plan.execute(&mut codec, &buffers, checksum, &mut output)
        .unwrap();
    let counted = allocation_counter::measure(|| {
        let again = request.plan().unwrap();
        let hedged = ReadRequest::new(store.layout, Bytes(0)..Bytes(9))
            .hedged()
            .plan()
            .unwrap();
        let settled = hedged.settle(set(&[1, 2, 3, 4, 5])).unwrap();
        let repair = RepairRequest::new(store.layout, set(&[3, 4]))
            .plan()
            .unwrap();
        let verify = VerifyPlan::whole(store.layout);
        assert!(settled.pieces().count() + repair.reads().len() + verify.units().count() > 0);
        again
            .execute(&mut codec, &buffers, checksum, &mut output)
            .unwrap();
    });
    assert_eq!(counted.count_total, 0);
    assert!(output == store.blob[20_000..170_000]);
}
