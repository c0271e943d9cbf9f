//! What the codec says of wrong buffers, and that it writes nothing then.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod oracle;

use oracle::{data, layout, scheme, slices, slices_mut};
use oriel_ec::{
    Bytes, Codec, CodecError, Crc32c, Isa, ShardIndex, ShardSet, StreamError, StripeStream,
    TailPolicy,
};

#[test]
fn wrong_buffers_are_named() {
    let codec = Codec::new(scheme(4, 2));
    let shards = data(4, 100);
    let mut parity = vec![vec![0; 100]; 2];
    let error = codec
        .encode(&slices(&shards[..3]), &mut slices_mut(&mut parity))
        .unwrap_err();
    assert_eq!(
        error,
        CodecError::DataBuffers {
            expected: 4,
            found: 3
        }
    );
    let error = codec
        .encode(&slices(&shards), &mut slices_mut(&mut parity[..1]))
        .unwrap_err();
    assert_eq!(
        error,
        CodecError::ParityBuffers {
            expected: 2,
            found: 1
        }
    );
    let mut short = slices(&shards);
    short[2] = &short[2][..99];
    let error = codec
        .encode(&short, &mut slices_mut(&mut parity))
        .unwrap_err();
    assert_eq!(
        error,
        CodecError::Length {
            shard: ShardIndex(2),
            expected: 100,
            found: 99
        }
    );
    parity[1].push(0);
    let error = codec
        .encode(&slices(&shards), &mut slices_mut(&mut parity))
        .unwrap_err();
    assert_eq!(
        error,
        CodecError::Length {
            shard: ShardIndex(5),
            expected: 100,
            found: 101
        }
    );
    parity[1].pop();
    let error = codec.encode_checked(
        &slices(&shards),
        &mut slices_mut(&mut parity),
        &mut [Crc32c::EMPTY; 5],
    );
    assert_eq!(
        error.unwrap_err(),
        CodecError::Checksums {
            expected: 6,
            found: 5
        }
    );

    let other = layout(5, 2, 4096, 100, TailPolicy::default())
        .stripe(oriel_ec::StripeIndex(0))
        .unwrap();
    let error = codec.encode_stripe(
        other,
        &[&[0; 100]],
        &mut slices_mut(&mut parity),
        &mut [Crc32c::EMPTY; 3],
    );
    assert_eq!(
        error.unwrap_err(),
        CodecError::OtherScheme {
            scheme: scheme(4, 2),
            found: 5
        }
    );
}

#[test]
fn wrong_sources_are_named() {
    let mut codec = Codec::new(scheme(4, 2));
    let bytes = vec![0u8; 100];
    let source = |shard: u8| (ShardIndex(shard), bytes.as_slice());
    let mut out = vec![7u8; 100];
    let mut decode = |sources: &[(ShardIndex, &[u8])], lost: u8, out: &mut [u8]| {
        codec
            .decode(sources, &mut [(ShardIndex(lost), out)])
            .unwrap_err()
    };
    let error = decode(&[source(0), source(2), source(5)], 1, &mut out);
    let sources = [0, 2, 5].map(ShardIndex).into_iter().collect();
    let lost = ShardSet::EMPTY.with(ShardIndex(1));
    assert_eq!(
        error,
        CodecError::TooFewSources {
            lost,
            sources,
            needed: 4
        }
    );
    assert_eq!(
        error.to_string(),
        "cannot rebuild {1} from {0 2 5}: 4 sources are needed"
    );
    let error = decode(&[source(0), source(2), source(2), source(5)], 1, &mut out);
    assert_eq!(
        error,
        CodecError::RepeatedShard {
            shard: ShardIndex(2)
        }
    );
    let error = decode(&[source(0), source(2), source(3), source(5)], 3, &mut out);
    assert_eq!(
        error,
        CodecError::RepeatedShard {
            shard: ShardIndex(3)
        }
    );
    let error = decode(&[source(0), source(2), source(3), source(6)], 1, &mut out);
    assert_eq!(
        error,
        CodecError::ForeignShard {
            shard: ShardIndex(6),
            members: scheme(4, 2).all()
        }
    );
    let error = decode(
        &[source(0), source(2), source(3), source(5)],
        1,
        &mut out[..50],
    );
    assert_eq!(
        error,
        CodecError::Length {
            shard: ShardIndex(1),
            expected: 100,
            found: 50
        }
    );
    assert!(
        out.iter().all(|byte| *byte == 7),
        "a rejected call must not write"
    );
}

#[test]
fn a_stream_says_what_it_lacks() {
    let codec = Codec::new(scheme(4, 2));
    let shape = layout(4, 2, 4096, 16_000, TailPolicy::default())
        .stripe(oriel_ec::StripeIndex(0))
        .unwrap();
    let mut parity = vec![vec![0; shape.unit as usize]; 2];
    let mut stream = StripeStream::new(shape);
    let error = stream
        .push(&codec, &[0; 20_000], &mut slices_mut(&mut parity))
        .unwrap_err();
    assert_eq!(
        error,
        StreamError::TooLong {
            room: Bytes(16_384),
            found: Bytes(20_000)
        }
    );
    stream
        .push(&codec, &[0; 12_288], &mut slices_mut(&mut parity))
        .unwrap();
    let error = stream
        .finish(&codec, &mut slices_mut(&mut parity))
        .unwrap_err();
    assert_eq!(
        error,
        StreamError::TooShort {
            expected: Bytes(12_289),
            found: Bytes(12_288)
        }
    );
}

#[test]
fn an_absent_instruction_set_is_refused() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
        assert_eq!(Codec::with_isa(scheme(4, 2), isa).is_ok(), isa.present());
    }
    assert!(Isa::best().present() && Isa::Portable.present());
    assert!("mmx".parse::<Isa>().is_err());
}
