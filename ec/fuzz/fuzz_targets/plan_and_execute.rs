//! Any request on any blob with any damage: the answer is the blob's bytes or an error that says why not, and neither a
//! panic nor other bytes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oriel_ec::{
    Bytes, Check, ChecksumIndex, Codec, Crc32c, ExecuteError, Geometry, Isa, Layout, PlanError,
    ReadPlan, ReadRequest, RepairRequest, Scheme, ShardIndex, ShardRead, ShardSet, StripeIndex,
    StripeStream, StripeUnit, TailPolicy,
};

#[derive(Arbitrary, Debug)]
struct Input {
    k: u8,
    m: u8,
    unit: u8,
    isa: u8,
    length: u32,
    policy: u8,
    from: u32,
    to: u32,
    missing: u32,
    slow: u32,
    late: u32,
    hedged: bool,
    device: bool,
    piece: u16,
    /// Where in which shard a bit is flipped, if anywhere.
    damage: Option<(u8, u32)>,
}

struct Store {
    layout: Layout,
    blob: Vec<u8>,
    shards: Vec<Vec<u8>>,
    checksums: Vec<Crc32c>,
}

impl Store {
    fn new(layout: Layout, codec: &Codec, piece: usize) -> Self {
        let blob: Vec<u8> = (0..layout.length().get())
            .map(|at| (at * 31 + at / 251) as u8)
            .collect();
        let scheme = layout.geometry().scheme;
        let mut shards = vec![Vec::new(); scheme.shards()];
        let mut checksums = Vec::new();
        for stripe in (0..layout.stripes()).map(StripeIndex) {
            let shape = layout.stripe(stripe).unwrap();
            let start = layout.stripe_start(stripe).get() as usize;
            let end = blob
                .len()
                .min(layout.stripe_start(StripeIndex(stripe.0 + 1)).get() as usize);
            let mut parity = vec![vec![0x5a; shape.unit as usize]; scheme.parity_shards()];
            let mut targets: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            let mut stream = StripeStream::checked(shape);
            for bytes in blob[start..end].chunks(piece) {
                stream.push(codec, bytes, &mut targets).unwrap();
            }
            checksums.extend(stream.finish(codec, &mut targets).unwrap());
            for (shard, bytes) in shards
                .iter_mut()
                .zip(blob[start..end].chunks(shape.unit as usize))
            {
                shard.extend_from_slice(bytes);
                shard.resize(shard.len().next_multiple_of(4096), 0);
            }
            for (shard, bytes) in shards[scheme.data_shards()..].iter_mut().zip(&parity) {
                shard.extend_from_slice(bytes);
            }
        }
        Self {
            layout,
            blob,
            shards,
            checksums,
        }
    }

    fn read(&self, reads: &[ShardRead]) -> Vec<&[u8]> {
        let bytes = |read: &ShardRead| {
            &self.shards[read.shard.index()][read.offset.get() as usize..]
                [..read.length.get() as usize]
        };
        reads.iter().map(bytes).collect()
    }

    fn checksum(&self, place: ChecksumIndex) -> Crc32c {
        self.checksums[place.0 as usize]
    }

    fn check(&self, plan: &ReadPlan, codec: &mut Codec, damaged: Option<ShardIndex>) {
        let range = plan.range();
        let (from, to) = (range.start.get() as usize, range.end.get() as usize);
        let mut output = vec![0x5a; to - from];
        match plan.execute(
            codec,
            &self.read(plan.reads()),
            |place| self.checksum(place),
            &mut output,
        ) {
            Ok(()) if plan.check() == Check::Units || damaged.is_none() => {
                assert!(output == self.blob[from..to], "{plan}")
            }
            Ok(()) => {}
            Err(ExecuteError::Corrupted { shard, .. }) => {
                assert_eq!(Some(shard), damaged, "{plan}")
            }
            Err(error) => panic!("{error}: {plan}"),
        }
    }
}

fuzz_target!(|input: Input| {
    let (k, m) = (usize::from(input.k % 16) + 1, usize::from(input.m % 5));
    let scheme = Scheme::ec(k, m).unwrap();
    let unit = 4096u64 << (input.unit % 3);
    let geometry = Geometry::new(scheme, StripeUnit::new(Bytes(unit)).unwrap());
    let length = u64::from(input.length) % (geometry.stripe_bytes().get() * 5 / 2 + 1);
    let layout = Layout::new(
        geometry,
        Bytes(length),
        TailPolicy::within(u32::from(input.policy)),
    );
    let present: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.present()).collect();
    let mut codec =
        Codec::with_isa(scheme, present[usize::from(input.isa) % present.len()]).unwrap();
    let mut store = Store::new(layout, &codec, usize::from(input.piece) + 1);

    let damaged = input.damage.and_then(|(shard, at)| {
        let shard = ShardIndex(shard % scheme.shards() as u8);
        let bytes = &mut store.shards[shard.index()];
        let at = at as usize % bytes.len().max(1);
        *bytes.get_mut(at)? ^= 1 << (at % 8);
        Some(shard)
    });

    let (from, to) = (
        u64::from(input.from) % (length + 2),
        u64::from(input.to) % (length + 2),
    );
    let missing = ShardSet::from_mask(input.missing & scheme.all().mask());
    let mut request = ReadRequest::new(layout, Bytes(from)..Bytes(to))
        .missing(missing)
        .slow(ShardSet::from_mask(input.slow & scheme.all().mask()))
        .checked_by(if input.device {
            Check::Device
        } else {
            Check::Units
        });
    if input.hedged {
        request = request.hedged();
    }
    match request.plan() {
        Ok(plan) => {
            store.check(&plan, &mut codec, damaged);
            let arrived = plan.shards().minus(ShardSet::from_mask(input.late));
            match plan.settle(arrived) {
                Ok(settled) => store.check(&settled, &mut codec, damaged),
                // One that is late is what a hedged plan is for.
                Err(error) => assert!(
                    !input.hedged || plan.shards().minus(arrived).len() > 1,
                    "{error}: {plan}"
                ),
            }
        }
        Err(PlanError::OutOfRange { .. }) => assert!(from > to || to > length),
        Err(PlanError::TooManyLost { .. }) => {
            assert!(missing.len() + usize::from(input.hedged) > m)
        }
        Err(error) => panic!("{error}"),
    }

    if let Ok(plan) = RepairRequest::new(layout, missing).plan() {
        let mut rebuilt: Vec<Vec<u8>> = missing
            .iter()
            .map(|shard| vec![0x5a; layout.shard_bytes(shard).get() as usize])
            .collect();
        let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
        match plan.execute(
            &mut codec,
            &store.read(plan.reads()),
            |place| store.checksum(place),
            &mut outputs,
        ) {
            Ok(()) => {
                for (shard, bytes) in missing.iter().zip(&rebuilt) {
                    assert!(
                        Some(shard) == damaged || *bytes == store.shards[shard.index()],
                        "{plan}"
                    );
                }
            }
            Err(ExecuteError::Corrupted { shard, .. }) => {
                assert_eq!(Some(shard), damaged, "{plan}")
            }
            Err(error) => panic!("{error}: {plan}"),
        }
    } else {
        assert!(missing.len() > m);
    }
});
