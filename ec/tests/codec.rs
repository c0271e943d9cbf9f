//! The codec against the oracle, with every instruction set that the CPU has.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod oracle;

use oracle::{data, isas, layout, scheme, slices, slices_mut};
use oriel_ec::{Codec, Crc32c, Scheme, ShardIndex, ShardSet, StripeStream, TailPolicy};

#[test]
fn every_scheme_is_encoded_as_the_oracle_does() {
    for isa in isas() {
        for k in 1..=16 {
            for m in 0..=4 {
                let codec = Codec::with_isa(scheme(k, m), isa).unwrap();
                assert_eq!(codec.isa(), isa);
                for length in [1, 15, 64, 257] {
                    let data = data(k, length);
                    // Parity buffers hold rubbish beforehand, which must not show.
                    let mut parity = vec![vec![0xa5; length]; m];
                    codec
                        .encode(&slices(&data), &mut slices_mut(&mut parity))
                        .unwrap();
                    assert!(
                        parity == oracle::parity(&data, m),
                        "{k}+{m} length {length} by {isa}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_scheme_has_the_oracles_checksums_in_one_go_and_in_two() {
    for isa in isas() {
        for (k, m) in (1..=16).flat_map(|k| (0..=4).map(move |m| (k, m))) {
            let codec = Codec::with_isa(scheme(k, m), isa).unwrap();
            for (length, cut) in [(64, 64), (320, 200), (1000, 0), (1000, 512), (1000, 999)] {
                let shards = data(k, length);
                let mut parity = vec![vec![0xa5; length]; m];
                let mut checksums = vec![Crc32c::EMPTY; k + m];
                for range in [0..cut, cut..length] {
                    let inputs: Vec<&[u8]> = shards.iter().map(|s| &s[range.clone()]).collect();
                    let mut outputs: Vec<&mut [u8]> =
                        parity.iter_mut().map(|s| &mut s[range.clone()]).collect();
                    codec
                        .encode_checked(&inputs, &mut outputs, &mut checksums)
                        .unwrap();
                }
                assert!(parity == oracle::parity(&shards, m), "{k}+{m} by {isa}");
                let want = shards.iter().chain(&parity);
                let want: Vec<u32> = want.map(|shard| oracle::crc32c(shard)).collect();
                let found: Vec<u32> = checksums.iter().map(|sum| sum.value()).collect();
                assert_eq!(found, want, "{k}+{m} length {length} cut {cut} by {isa}");
            }
        }
    }
}

/// Bytes that were computed apart from this crate: stored parity must be readable for ever.
#[test]
fn the_stored_format_keeps_its_parity() {
    let data: Vec<Vec<u8>> = (0..16).map(|shard| vec![(shard * 17 + 3) as u8]).collect();
    for isa in isas() {
        let codec = Codec::with_isa(scheme(16, 4), isa).unwrap();
        let mut parity = vec![vec![0]; 4];
        codec
            .encode(&slices(&data), &mut slices_mut(&mut parity))
            .unwrap();
        assert_eq!(parity.concat(), [0xd0, 0xf6, 0x02, 0xa3], "{isa}");
    }
}

#[test]
fn every_length_is_encoded_as_the_oracle_does() {
    for isa in isas() {
        let codec = Codec::with_isa(scheme(4, 2), isa).unwrap();
        // All the ends of vectors, and all the ends of a tile (128 KiB over 6 buffers, in whole blocks).
        let tile = 20480;
        for length in (0..300).chain(tile - 65..tile + 65).chain([3 * tile + 77]) {
            let data = data(4, length);
            let mut parity = vec![vec![0xa5; length]; 2];
            let mut checksums = [Crc32c::EMPTY; 6];
            codec
                .encode_checked(&slices(&data), &mut slices_mut(&mut parity), &mut checksums)
                .unwrap();
            assert!(
                parity == oracle::parity(&data, 2),
                "length {length} by {isa}"
            );
            if length % 16 == 3 {
                let want: Vec<u32> = data
                    .iter()
                    .chain(&parity)
                    .map(|shard| oracle::crc32c(shard))
                    .collect();
                assert_eq!(
                    checksums.map(Crc32c::value).as_slice(),
                    want,
                    "length {length} by {isa}"
                );
            }
        }
    }
}

#[test]
fn bytes_around_a_buffer_are_left_alone() {
    const MARGIN: usize = 70;
    for isa in isas() {
        let mut codec = Codec::with_isa(scheme(5, 3), isa).unwrap();
        for length in (1..70).chain([127, 128, 255, 256, 257, 300, 511, 513, 1025]) {
            let data = data(5, length);
            // Each buffer at an address of its own, in the middle of bytes that must not change.
            let place = |shard: usize| MARGIN + shard..MARGIN + shard + length;
            let mut parity = vec![vec![0xa5; length + 2 * MARGIN]; 3];
            let check = |buffers: &[Vec<u8>], want: &[Vec<u8>], what: &str| {
                for (shard, (buffer, want)) in buffers.iter().zip(want).enumerate() {
                    let (from, to) = (place(shard).start, place(shard).end);
                    let around = buffer[..from].iter().chain(&buffer[to..]);
                    assert!(
                        buffer[from..to] == **want && around.copied().all(|byte| byte == 0xa5),
                        "{what} of length {length} by {isa}"
                    );
                }
            };
            let want = oracle::parity(&data, 3);
            for checked in [false, true] {
                let mut outputs: Vec<&mut [u8]> = parity
                    .iter_mut()
                    .enumerate()
                    .map(|(shard, buffer)| &mut buffer[place(shard)])
                    .collect();
                if checked {
                    let mut checksums = [Crc32c::EMPTY; 8];
                    codec
                        .encode_checked(&slices(&data), &mut outputs, &mut checksums)
                        .unwrap();
                } else {
                    codec.encode(&slices(&data), &mut outputs).unwrap();
                }
                check(&parity, &want, "parity");
            }
            let mut rebuilt = vec![vec![0xa5; length + 2 * MARGIN]; 3];
            let sources: Vec<(ShardIndex, &[u8])> = (3..8u8)
                .map(|shard| (ShardIndex(shard), usize::from(shard)))
                .map(|(index, shard)| match shard {
                    3 | 4 => (index, data[shard].as_slice()),
                    _ => (index, &parity[shard - 5][place(shard - 5)]),
                })
                .collect();
            let mut targets: Vec<(ShardIndex, &mut [u8])> = rebuilt
                .iter_mut()
                .enumerate()
                .map(|(shard, buffer)| (ShardIndex(shard as u8), &mut buffer[place(shard)]))
                .collect();
            codec.decode(&sources, &mut targets).unwrap();
            check(&rebuilt, &data[..3], "data");
        }
    }
}

/// Every erasure of up to m shards, rebuilt from the lowest and from the highest k that are left.
fn every_pattern(k: usize, m: usize) {
    let length = 131;
    let mut shards = data(k, length);
    shards.extend(oracle::parity(&shards, m));
    let all = scheme(k, m).all();
    let mut codecs: Vec<Codec> = isas()
        .map(|isa| Codec::with_isa(scheme(k, m), isa).unwrap())
        .collect();
    let mut patterns = 0;
    for mask in 1u32..1 << (k + m) {
        let lost = ShardSet::from_mask(mask);
        if lost.len() > m {
            continue;
        }
        patterns += 1;
        let left: Vec<ShardIndex> = all.minus(lost).iter().collect();
        for sources in [&left[..k], &left[left.len() - k..]] {
            let sources: Vec<(ShardIndex, &[u8])> = sources
                .iter()
                .map(|shard| (*shard, shards[shard.index()].as_slice()))
                .collect();
            for codec in &mut codecs {
                let mut rebuilt = vec![vec![0xa5; length]; lost.len()];
                let mut targets: Vec<(ShardIndex, &mut [u8])> = lost
                    .iter()
                    .zip(&mut rebuilt)
                    .map(|(shard, bytes)| (shard, bytes.as_mut_slice()))
                    .collect();
                codec.decode(&sources, &mut targets).unwrap();
                for (shard, bytes) in lost.iter().zip(&rebuilt) {
                    assert!(
                        *bytes == shards[shard.index()],
                        "{k}+{m} without {lost} by {}",
                        codec.isa()
                    );
                }
            }
        }
    }
    let choose = |n: usize, r: usize| (0..r).fold(1, |product, at| product * (n - at) / (at + 1));
    assert_eq!(
        patterns,
        (1..=m).map(|lost| choose(k + m, lost)).sum::<usize>()
    );
}

#[test]
fn every_erasure_of_4_and_2_is_decoded() {
    every_pattern(4, 2);
}

#[test]
fn every_erasure_of_8_and_2_is_decoded() {
    every_pattern(8, 2);
}

#[test]
fn every_erasure_of_10_and_4_is_decoded() {
    every_pattern(10, 4);
}

#[test]
fn order_of_sources_and_of_lost_shards_does_not_matter() {
    let mut shards = data(4, 100);
    shards.extend(oracle::parity(&shards, 2));
    let mut codec = Codec::new(scheme(4, 2));
    let sources: Vec<(ShardIndex, &[u8])> = [5u8, 0, 4, 2]
        .map(|shard| (ShardIndex(shard), shards[usize::from(shard)].as_slice()))
        .to_vec();
    let (mut one, mut three) = (vec![0; 100], vec![0; 100]);
    codec
        .decode(
            &sources,
            &mut [(ShardIndex(3), &mut three), (ShardIndex(1), &mut one)],
        )
        .unwrap();
    assert!(one == shards[1] && three == shards[3]);
}

#[test]
fn replicas_are_copies() {
    for copies in 1..=5 {
        let codec = Codec::new(Scheme::replicate(copies).unwrap());
        let blob = oracle::noise(1000, 7);
        let mut parity = vec![vec![0; 1000]; copies - 1];
        codec
            .encode(&[&blob], &mut slices_mut(&mut parity))
            .unwrap();
        assert!(parity.iter().all(|copy| *copy == blob));
    }
}

#[test]
fn short_stripes_and_streams_agree_with_the_oracle() {
    let policies = [
        TailPolicy::FEWEST_BYTES,
        TailPolicy::default(),
        TailPolicy::FEWEST_SHARDS,
    ];
    for isa in isas() {
        for (k, m) in [(4, 2), (3, 0), (1, 2), (6, 4)] {
            let codec = Codec::with_isa(scheme(k, m), isa).unwrap();
            let stripe = 16_384 * k as u64;
            for length in [1, 4096, 5000, 8192, 12_289, 20_000, stripe - 1, stripe] {
                if length > stripe {
                    continue;
                }
                for policy in policies {
                    let layout = layout(k, m, 16_384, length, policy);
                    let shape = layout.stripe(oriel_ec::StripeIndex(0)).unwrap();
                    let blob = oracle::noise(length as usize, length);
                    let mut padded: Vec<Vec<u8>> = blob
                        .chunks(shape.unit as usize)
                        .map(<[u8]>::to_vec)
                        .collect();
                    for shard in &mut padded {
                        shard.resize(shard.len().next_multiple_of(4096), 0);
                    }
                    let want = oracle::parity(&padded, m);
                    let sums: Vec<u32> = padded
                        .iter()
                        .chain(&want)
                        .map(|shard| oracle::crc32c(shard))
                        .collect();

                    let mut parity = vec![vec![0xa5; shape.unit as usize]; m];
                    let mut checksums = vec![Crc32c::from_value(9); padded.len() + m];
                    let data: Vec<&[u8]> = blob.chunks(shape.unit as usize).collect();
                    codec
                        .encode_stripe(shape, &data, &mut slices_mut(&mut parity), &mut checksums)
                        .unwrap();
                    assert!(parity == want, "{layout} by {isa}");
                    assert_eq!(
                        checksums.iter().map(|sum| sum.value()).collect::<Vec<_>>(),
                        sums,
                        "{layout} by {isa}"
                    );

                    for step in [1000, 4096, 7777, usize::MAX] {
                        let mut parity = vec![vec![0xa5; shape.unit as usize]; m];
                        let mut stream = StripeStream::checked(shape);
                        let mut plain = StripeStream::new(shape);
                        let mut unchecked = parity.clone();
                        for piece in blob.chunks(step) {
                            stream
                                .push(&codec, piece, &mut slices_mut(&mut parity))
                                .unwrap();
                            plain
                                .push(&codec, piece, &mut slices_mut(&mut unchecked))
                                .unwrap();
                        }
                        let checksums =
                            stream.finish(&codec, &mut slices_mut(&mut parity)).unwrap();
                        assert!(
                            plain
                                .finish(&codec, &mut slices_mut(&mut unchecked))
                                .unwrap()
                                .is_empty()
                        );
                        assert!(
                            parity == want && unchecked == want,
                            "{layout} in pieces of {step} by {isa}"
                        );
                        let checksums: Vec<u32> = checksums.iter().map(|sum| sum.value()).collect();
                        assert_eq!(checksums, sums, "{layout} in pieces of {step} by {isa}");
                    }
                }
            }
        }
    }
}

#[test]
fn checksums_are_castagnolis_and_continue() {
    assert_eq!(Crc32c::of(b"123456789").value(), 0xe306_9283);
    let bytes = oracle::noise(5000, 3);
    for length in (0..70).chain([
        255, 256, 257, 511, 512, 513, 575, 576, 1000, 1087, 1536, 4999,
    ]) {
        let bytes = &bytes[..length];
        let want = oracle::crc32c(bytes);
        assert_eq!(
            (
                Crc32c::of(bytes).value(),
                Crc32c::EMPTY.and_portable(bytes).value()
            ),
            (want, want)
        );
        let (head, tail) = bytes.split_at(length / 3);
        assert_eq!(Crc32c::of(head).and(tail).value(), want);
        assert_eq!(Crc32c::of(head).and_portable(tail).value(), want);
    }
}
