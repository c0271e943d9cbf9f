//! Criterion benches of the codec beside bare ISA-L, for work on one function. `oriel-perf ec` has the full table.
#![allow(missing_docs, reason = "criterion's macros make the functions")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oriel_ec::{
    Bytes, Codec, Crc32c, Geometry, Isa, Layout, ReadRequest, Scheme, ShardIndex, ShardSet,
    StripeUnit, TailPolicy,
};
use oriel_isal_sys::bare::{Bare, Set};

/// Data shards, parity shards and the bytes of each.
const CASES: [(usize, usize, usize); 3] = [(4, 2, 20_480), (8, 2, 12_288), (10, 4, 8192)];

fn scheme(k: usize, m: usize) -> Scheme {
    Scheme::ec(k, m).expect("within the limits")
}

fn shards(count: usize, length: usize) -> Vec<Vec<u8>> {
    let shard = |shard: usize| {
        (0..length)
            .map(|at| (at * 31 + shard * 97 + at / 253) as u8)
            .collect()
    };
    (0..count).map(shard).collect()
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (k, m, length) in CASES {
        let data = shards(k, length);
        let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = shards(m, length);
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        group.throughput(Throughput::Bytes((k * length) as u64));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.present()) {
            let codec = Codec::with_isa(scheme(k, m), isa).expect("present");
            group.bench_function(
                BenchmarkId::new(isa.name(), format!("{k}+{m}")),
                |bencher| {
                    bencher.iter(|| {
                        codec
                            .encode(black_box(&inputs), &mut outputs)
                            .expect("buffers of one length")
                    });
                },
            );
        }
        let codec = Codec::new(scheme(k, m));
        let mut checksums = vec![Crc32c::EMPTY; k + m];
        group.bench_function(
            BenchmarkId::new("with checksums", format!("{k}+{m}")),
            |bencher| {
                bencher.iter(|| {
                    codec.encode_checked(black_box(&inputs), &mut outputs, &mut checksums)
                });
            },
        );
        let coefficients: Vec<u8> = (0..k * m).map(|at| (at * 37 + 2) as u8).collect();
        let bare = Bare::new(Set::Dispatched, k, m, &coefficients).expect("always there");
        group.bench_function(
            BenchmarkId::new("bare ISA-L", format!("{k}+{m}")),
            |bencher| {
                bencher.iter(|| bare.encode(black_box(&inputs), &mut outputs));
            },
        );
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (k, m, length) in CASES {
        let bytes = shards(k, length);
        let mut codec = Codec::new(scheme(k, m));
        group.throughput(Throughput::Bytes((k * length) as u64));
        for lost in [1, 2] {
            let sources: Vec<(ShardIndex, &[u8])> = bytes
                .iter()
                .enumerate()
                .map(|(at, bytes)| (ShardIndex((at + lost) as u8), bytes.as_slice()))
                .collect();
            let mut rebuilt = shards(lost, length);
            let mut targets: Vec<(ShardIndex, &mut [u8])> = rebuilt
                .iter_mut()
                .enumerate()
                .map(|(at, bytes)| (ShardIndex(at as u8), bytes.as_mut_slice()))
                .collect();
            group.bench_function(
                BenchmarkId::new(format!("{lost} lost"), format!("{k}+{m}")),
                |bencher| {
                    bencher.iter(|| {
                        codec
                            .decode(black_box(&sources), &mut targets)
                            .expect("enough sources")
                    });
                },
            );
        }
    }
    group.finish();
}

fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    let unit = StripeUnit::new(Bytes(65_536)).expect("a power of two");
    let layout = Layout::new(
        Geometry::new(scheme(4, 2), unit),
        Bytes(1_000_000),
        TailPolicy::default(),
    );
    let request = ReadRequest::new(layout, Bytes(300_000)..Bytes(400_000));
    group.bench_function("read", |bencher| {
        bencher.iter(|| black_box(&request).plan())
    });
    let degraded = request.missing(ShardSet::EMPTY.with(ShardIndex(1)));
    group.bench_function("degraded read", |bencher| {
        bencher.iter(|| black_box(&degraded).plan())
    });
    group.finish();
}

criterion_group!(benches, encode, decode, plan);
criterion_main!(benches);
