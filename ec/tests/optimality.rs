//! No plan reads more than a search over all possible reads finds necessary.
//!
//! The search knows only which blocks each shard stores and that a column of blocks with d data blocks is decoded by any d
//! of its blocks. It tries every choice of at most one contiguous read from each shard.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod oracle;

use oracle::store::layout;
use oriel_ec::{
    Bytes, Check, Layout, ReadRequest, RepairRequest, ShardIndex, ShardSet, StripeIndex, TailPolicy,
};

const BLOCK: u64 = 4096;
/// Blocks of a stripe unit.
const UNIT: u64 = 2;

/// One stripe's blocks at one offset.
struct Column {
    /// The row of blocks in the shards.
    row: u64,
    members: ShardSet,
    data: usize,
    wanted: ShardSet,
}

/// Whether these reads, first and last row of each shard, give all that is wanted.
fn suffices(columns: &[Column], reads: &[Option<(u64, u64)>]) -> bool {
    columns.iter().all(|column| {
        let here: ShardSet = column
            .members
            .iter()
            .filter(|shard| {
                reads[shard.index()].is_some_and(|(from, to)| (from..to).contains(&column.row))
            })
            .collect();
        column.wanted.minus(here).is_empty() || here.len() >= column.data
    })
}

/// Looks for reads that suffice and cost less than `limit` by `cost` of (shards, blocks).
fn cheaper(
    columns: &[Column],
    ends: &[Vec<u64>],
    reads: &mut Vec<Option<(u64, u64)>>,
    spent: (u64, u64),
    below: &impl Fn((u64, u64)) -> bool,
) -> bool {
    if !below(spent) {
        return false;
    }
    let Some(ends_here) = ends.get(reads.len()) else {
        return suffices(columns, reads);
    };
    reads.push(None);
    if cheaper(columns, ends, reads, spent, below) {
        return true;
    }
    for from in 0..ends_here.len() {
        for to in from + 1..ends_here.len() {
            let (first, last) = (ends_here[from], ends_here[to]);
            *reads.last_mut().unwrap() = Some((first, last));
            if cheaper(
                columns,
                ends,
                reads,
                (spent.0 + 1, spent.1 + last - first),
                below,
            ) {
                return true;
            }
        }
    }
    reads.pop();
    false
}

/// The columns of a layout; `wanted` says which of the blob's blocks, or which blocks of a shard, are.
fn columns(layout: &Layout, wanted: impl Fn(ShardIndex, u64, Option<u64>) -> bool) -> Vec<Column> {
    let mut columns = Vec::new();
    for stripe in (0..layout.stripes()).map(StripeIndex) {
        let shape = layout.stripe(stripe).unwrap();
        let k = layout.geometry().scheme.data_shards();
        for offset in 0..u64::from(shape.unit) / BLOCK {
            let members: ShardSet = shape
                .shards()
                .iter()
                .filter(|shard| offset < u64::from(shape.stored(*shard)) / BLOCK)
                .collect();
            let row = stripe.0 * UNIT + offset;
            let blob_block = |shard: ShardIndex| {
                let unit = u64::from(shape.unit) / BLOCK;
                (shard.index() < k).then(|| {
                    layout.stripe_start(stripe).get() / BLOCK + shard.index() as u64 * unit + offset
                })
            };
            let wanted = members
                .iter()
                .filter(|shard| wanted(*shard, row, blob_block(*shard)))
                .collect();
            let data = members.iter().filter(|shard| shard.index() < k).count();
            columns.push(Column {
                row,
                members,
                data,
                wanted,
            });
        }
    }
    columns
}

/// Where a read of a shard may start and end.
fn ends(layout: &Layout, usable: ShardSet, check: Check) -> Vec<Vec<u64>> {
    let shards = 0..layout.geometry().scheme.shards() as u8;
    let of = |shard: ShardIndex| {
        let stored = layout.shard_bytes(shard).get() / BLOCK;
        let mut ends: Vec<u64> = if usable.contains(shard) {
            (0..=stored).collect()
        } else {
            Vec::new()
        };
        if check == Check::Units {
            ends.retain(|end| *end == stored || *end % UNIT == 0);
        }
        ends
    };
    shards.map(ShardIndex).map(of).collect()
}

const SCHEMES: [(usize, usize); 7] = [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)];
const POLICIES: [TailPolicy; 2] = [TailPolicy::FEWEST_BYTES, TailPolicy::FEWEST_SHARDS];

fn losses(k: usize, m: usize) -> impl Iterator<Item = ShardSet> {
    (0u32..1 << (k + m))
        .map(ShardSet::from_mask)
        .filter(move |lost| lost.len() <= m)
}

#[test]
fn reads_touch_the_fewest_shards_and_then_the_fewest_bytes() {
    let mut searched = 0;
    for (k, m) in SCHEMES {
        let stripe = UNIT * k as u64;
        // Whole and partial tails, alone and behind one and two whole stripes.
        let long = if k < 3 {
            vec![2 * stripe + 1, 3 * stripe - 1]
        } else {
            Vec::new()
        };
        let lengths = (1..=stripe + 2).chain(long);
        for (length, policy) in lengths.flat_map(|length| POLICIES.map(|policy| (length, policy))) {
            let layout = layout(k, m, UNIT * BLOCK, length * BLOCK, policy);
            for missing in losses(k, m) {
                for from in 0..length {
                    for to in from + 1..=length {
                        for check in [Check::Units, Check::Device] {
                            let request =
                                ReadRequest::new(layout, Bytes(from * BLOCK)..Bytes(to * BLOCK));
                            let plan = request.missing(missing).checked_by(check).plan().unwrap();
                            let cost = (plan.reads().len() as u64, plan.bytes().get() / BLOCK);
                            let wanted = |_, _, blob: Option<u64>| {
                                blob.is_some_and(|at| (from..to).contains(&at))
                            };
                            let usable = layout.geometry().scheme.all().minus(missing);
                            let columns = columns(&layout, wanted);
                            let ends = ends(&layout, usable, check);
                            let better =
                                cheaper(&columns, &ends, &mut Vec::new(), (0, 0), &|spent| {
                                    spent < cost
                                });
                            assert!(!better, "{check:?}: there is a cheaper way than\n{plan}");
                            searched += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(searched > 10_000, "{searched} cases");
}

#[test]
fn repairs_move_the_fewest_bytes() {
    for (k, m) in SCHEMES {
        for length in 1..=UNIT * k as u64 * 2 + 1 {
            for policy in POLICIES {
                let layout = layout(k, m, UNIT * BLOCK, length * BLOCK, policy);
                for lost in losses(k, m) {
                    let plan = RepairRequest::new(layout, lost).plan().unwrap();
                    let moved = plan.bytes_moved().get() / BLOCK;
                    let columns = columns(&layout, |shard, _, _| lost.contains(shard));
                    let usable = layout.geometry().scheme.all().minus(lost);
                    let ends = ends(&layout, usable, Check::Units);
                    let better = cheaper(&columns, &ends, &mut Vec::new(), (0, 0), &|spent| {
                        spent.1 < moved
                    });
                    assert!(!better, "there is a cheaper way than\n{plan}");
                }
            }
        }
    }
}
