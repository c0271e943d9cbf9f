//! A blob on shards in memory.

use oriel_ec::{
    Bytes, ChecksumIndex, Codec, Crc32c, Geometry, Layout, Scheme, ShardIndex, ShardRead,
};
use oriel_ec::{StripeIndex, StripeUnit, TailPolicy};

pub(crate) struct Store {
    pub(crate) layout: Layout,
    pub(crate) blob: Vec<u8>,
    pub(crate) shards: Vec<Vec<u8>>,
    pub(crate) checksums: Vec<Crc32c>,
}

pub(crate) fn layout(k: usize, m: usize, unit: u64, length: u64, policy: TailPolicy) -> Layout {
    let unit = StripeUnit::new(Bytes(unit)).unwrap();
    Layout::new(
        Geometry::new(Scheme::ec(k, m).unwrap(), unit),
        Bytes(length),
        policy,
    )
}

impl Store {
    /// Stores noise as the layout says.
    pub(crate) fn new(layout: Layout) -> Self {
        let blob = super::noise(layout.length().get() as usize, layout.length().get());
        let scheme = layout.geometry().scheme;
        let codec = Codec::new(scheme);
        let mut shards = vec![Vec::new(); scheme.shards()];
        let mut checksums = Vec::new();
        for stripe in (0..layout.stripes()).map(StripeIndex) {
            let shape = layout.stripe(stripe).unwrap();
            let start = layout.stripe_start(stripe).get() as usize;
            let end = blob
                .len()
                .min(layout.stripe_start(StripeIndex(stripe.0 + 1)).get() as usize);
            let data: Vec<&[u8]> = blob[start..end].chunks(shape.unit as usize).collect();
            let mut parity = vec![vec![0; shape.unit as usize]; scheme.parity_shards()];
            let mut sums = vec![Crc32c::EMPTY; data.len() + parity.len()];
            let mut targets: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
            codec
                .encode_stripe(shape, &data, &mut targets, &mut sums)
                .unwrap();
            for (shard, bytes) in shards.iter_mut().zip(&data) {
                shard.extend_from_slice(bytes);
                shard.resize(shard.len().next_multiple_of(4096), 0);
            }
            for (shard, bytes) in shards[scheme.data_shards()..].iter_mut().zip(&parity) {
                shard.extend_from_slice(bytes);
            }
            checksums.extend_from_slice(&sums);
        }
        assert_eq!(checksums.len() as u64, layout.checksums());
        for (shard, bytes) in shards.iter().enumerate() {
            assert_eq!(
                bytes.len() as u64,
                layout.shard_bytes(ShardIndex(shard as u8)).get(),
                "shard {shard} of {layout}"
            );
        }
        Self {
            layout,
            blob,
            shards,
            checksums,
        }
    }

    /// What the reads bring.
    pub(crate) fn read(&self, reads: &[ShardRead]) -> Vec<&[u8]> {
        let bytes = reads.iter().map(|read| {
            assert!(
                read.offset.get() % 4096 == 0 && read.length.get() % 4096 == 0,
                "{read}"
            );
            &self.shards[read.shard.index()][read.offset.get() as usize..]
                [..read.length.get() as usize]
        });
        bytes.collect()
    }

    pub(crate) fn checksum(&self, place: ChecksumIndex) -> Crc32c {
        self.checksums[place.0 as usize]
    }
}
