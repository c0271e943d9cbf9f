//! One thread's buffers, and every side's pass over them.

use std::hint::black_box;
use std::ops::Range;

use clap::ValueEnum;
use oriel_ec::{
    Bytes, Codec, Crc32c, Geometry, Isa, Layout, Scheme, ShardIndex, StripeIndex, StripeShape,
    StripeStream, StripeUnit, TailPolicy,
};
use oriel_isal_sys::bare;
use reed_solomon_erasure::galois_8::ReedSolomon;
use reed_solomon_simd::ReedSolomonEncoder;

use super::pages::Pages;
use super::peers::{bare_decode, bare_stream, erasure, simd};

/// Data and parity shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) k: usize,
    pub(crate) m: usize,
}

pub(crate) const SHAPES: [Shape; 3] = [
    Shape { k: 4, m: 2 },
    Shape { k: 8, m: 2 },
    Shape { k: 10, m: 4 },
];

pub(crate) fn shape(text: &str) -> Result<Shape, String> {
    let numbers = text
        .split_once('+')
        .and_then(|(k, m)| Some((k.parse().ok()?, m.parse().ok()?)));
    let (k, m) = numbers.ok_or("data and parity shards, for example 4+2")?;
    if m < 2 {
        return Err("at least two parity shards, because two losses are decoded".to_owned());
    }
    Scheme::ec(k, m).map_err(|error| error.to_string())?;
    Ok(Shape { k, m })
}

/// How large the buffers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Set {
    /// 128 KiB over all buffers
    Warm,
    /// A blob of 1 MiB
    Blob,
    /// 256 MiB over all buffers
    Cold,
}

impl Set {
    pub(crate) const ALL: [Self; 3] = [Self::Warm, Self::Blob, Self::Cold];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Blob => "blob",
            Self::Cold => "cold",
        }
    }

    /// The length of each shard, in whole blocks.
    fn shard_bytes(self, shape: Shape) -> usize {
        let bytes = match self {
            Self::Warm => (128 << 10) / (shape.k + shape.m),
            Self::Blob => (1 << 20) / shape.k,
            Self::Cold => (256 << 20) / (shape.k + shape.m),
        };
        bytes & !(BLOCK - 1)
    }
}

const BLOCK: usize = 4096;
/// The stripe unit of streams over cold buffers, and what the crates code at a
/// time there: both do better in the cache.
const UNIT: usize = 64 << 10;
/// All buffers' bytes in one pass: about a millisecond, so that most passes run
/// undisturbed even on a busy machine.
const WINDOW: usize = 8 << 20;
const CRATE_CHUNK: usize = 16 << 10;
/// What arrives at a time in a stream.
pub(super) const PIECE: usize = 16 << 10;
const REPEATS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Encode,
    EncodeChecked,
    DecodeOne,
    DecodeTwo,
    Update,
    UpdateChecked,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] = [
        Self::Encode,
        Self::EncodeChecked,
        Self::DecodeOne,
        Self::DecodeTwo,
        Self::Update,
        Self::UpdateChecked,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::EncodeChecked => "encode+crc",
            Self::DecodeOne => "decode 1",
            Self::DecodeTwo => "decode 2",
            Self::Update => "update",
            Self::UpdateChecked => "update+crc",
        }
    }

    /// Whether bare ISA-L does the same with this set.
    pub(crate) fn has_bare(self, isa: Isa) -> bool {
        isa != Isa::Portable && !matches!(self, Self::EncodeChecked | Self::UpdateChecked)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Memcpy,
    SimdCrate,
    ErasureCrate,
    Ours(Isa, Operation),
    Bare(Isa, Operation),
}

/// What a side needs beside the buffers.
enum Tool {
    None,
    Simd(Box<ReedSolomonEncoder>, usize),
    Erasure(Box<ReedSolomon>, usize),
    Ours(Box<Codec>, Operation),
    Bare(bare::Bare, Operation),
}

pub(crate) struct Rig {
    shape: Shape,
    /// The shard of each data shard, and the lost ones' true bytes.
    data: Vec<Pages>,
    parity: Vec<Pages>,
    /// Where copies and rebuilt shards go.
    copy: Vec<Pages>,
    checksums: Vec<Crc32c>,
    /// The shape of a streamed stripe.
    stripe: StripeShape,
    tools: Vec<Tool>,
    /// Where each side's next pass starts.
    next: Vec<usize>,
    /// The bytes of each shard in a pass.
    window: usize,
    /// How often a pass codes its window, so that to prepare a call does not
    /// count where the call takes but a microsecond.
    repeats: usize,
}

impl Rig {
    /// Other rounds have their buffers at other addresses.
    pub(crate) fn new(shape: Shape, set: Set, sides: &[Side], round: u32) -> Self {
        let length = set.shard_bytes(shape);
        let seed = |buffer: usize| round as usize * 100 + buffer;
        let noise = |shard: usize| {
            let byte = |at| (at * 31 + at / 253 + shard * 97) as u8;
            Pages::filled(length, seed(shard), byte)
        };
        let same = |count: usize, first: usize, byte: u8| -> Vec<Pages> {
            (first..first + count)
                .map(|buffer| Pages::filled(length, seed(buffer), |_| byte))
                .collect()
        };
        let scheme = Scheme::ec(shape.k, shape.m).expect("checked where it was given");
        let mut rig = Self {
            shape,
            data: (0..shape.k).map(noise).collect(),
            parity: same(shape.m, 20, 0),
            copy: same(shape.k, 40, 1),
            checksums: vec![Crc32c::EMPTY; shape.k + shape.m],
            stripe: stripe_shape(scheme, length.min(UNIT)),
            tools: Vec::new(),
            next: Vec::new(),
            window: length.min((WINDOW / (shape.k + shape.m)) & !(UNIT - 1)),
            repeats: if length <= UNIT { REPEATS } else { 1 },
        };
        rig.restore();
        rig.tools = sides
            .iter()
            .map(|side| tool(*side, shape, scheme, length))
            .collect();
        // Far enough apart that no side finds in the cache what another has used.
        let apart = (length / sides.len().max(1)) & !(UNIT - 1);
        rig.next = (0..sides.len()).map(|side| side * apart).collect();
        rig
    }

    /// Writes the true parity, which decoding needs and the peers overwrite.
    pub(crate) fn restore(&mut self) {
        let scheme = Scheme::ec(self.shape.k, self.shape.m).expect("checked where it was given");
        let data: Vec<&[u8]> = self.data.iter().map(|shard| &**shard).collect();
        let mut parity: Vec<&mut [u8]> = self.parity.iter_mut().map(|shard| &mut **shard).collect();
        Codec::new(scheme)
            .encode(&data, &mut parity)
            .expect("buffers of one length");
    }

    /// The data bytes of a pass.
    pub(crate) fn data_bytes(&self) -> usize {
        self.window * self.shape.k * self.repeats
    }

    /// Whether decoding gave the lost shards' bytes, to be asked after a pass of it.
    pub(crate) fn decoded(&self, lost: usize, range: Range<usize>) -> bool {
        let pairs = self.copy[..lost].iter().zip(&self.data);
        pairs
            .into_iter()
            .all(|(rebuilt, data)| rebuilt[range.clone()] == data[range.clone()])
    }

    /// One pass of a side over the next window of all buffers; returns the window.
    pub(crate) fn pass(&mut self, side: usize) -> Range<usize> {
        let length = self.data[0].len();
        let start = self.next[side];
        let start = if start + self.window > length {
            0
        } else {
            start
        };
        self.next[side] = start + self.window;
        let range = start..start + self.window;
        self.work(side, range.clone());
        range
    }

    fn work(&mut self, side: usize, range: Range<usize>) {
        let Self {
            shape,
            data,
            parity,
            copy,
            checksums,
            stripe,
            tools,
            repeats,
            ..
        } = self;
        let inputs: Vec<&[u8]> = data.iter().map(|shard| &shard[range.clone()]).collect();
        let inputs = black_box(inputs.as_slice());
        let mut outputs: Vec<&mut [u8]> = parity
            .iter_mut()
            .map(|shard| &mut shard[range.clone()])
            .collect();
        let mut copy: Vec<&mut [u8]> = copy
            .iter_mut()
            .map(|shard| &mut shard[range.clone()])
            .collect();
        let decoding = [Operation::DecodeOne, Operation::DecodeTwo];
        let tool = &mut tools[side];
        let (outer, inner) = match tool {
            Tool::Ours(_, operation) | Tool::Bare(_, operation) if decoding.contains(operation) => {
                (1, *repeats)
            }
            _ => (*repeats, 1),
        };
        for _ in 0..outer {
            match &mut *tool {
                Tool::None => {
                    for (to, from) in copy.iter_mut().zip(inputs) {
                        to.copy_from_slice(from);
                    }
                    black_box(&copy);
                }
                Tool::Simd(encoder, chunk) => simd(encoder, inputs, &mut outputs, *chunk),
                Tool::Erasure(coder, chunk) => erasure(coder, inputs, &mut outputs, *chunk),
                Tool::Ours(codec, Operation::Encode) => {
                    codec
                        .encode(inputs, &mut outputs)
                        .expect("buffers of one length");
                }
                Tool::Ours(codec, Operation::EncodeChecked) => {
                    codec
                        .encode_checked(inputs, &mut outputs, checksums)
                        .expect("buffers of one length");
                }
                Tool::Ours(codec, Operation::DecodeOne) => {
                    decode(codec, 1, inputs, &outputs, &mut copy, inner)
                }
                Tool::Ours(codec, Operation::DecodeTwo) => {
                    decode(codec, 2, inputs, &outputs, &mut copy, inner)
                }
                Tool::Ours(codec, Operation::Update) => {
                    stream(codec, inputs, &mut outputs, *stripe, false, checksums);
                }
                Tool::Ours(codec, Operation::UpdateChecked) => {
                    stream(codec, inputs, &mut outputs, *stripe, true, checksums);
                }
                Tool::Bare(bare, Operation::DecodeOne) => {
                    bare_decode(bare, 1, *shape, inputs, &outputs, &mut copy, inner)
                }
                Tool::Bare(bare, Operation::DecodeTwo) => {
                    bare_decode(bare, 2, *shape, inputs, &outputs, &mut copy, inner)
                }
                Tool::Bare(bare, Operation::Update | Operation::UpdateChecked) => {
                    bare_stream(bare, inputs, &mut outputs, stripe.unit as usize);
                }
                Tool::Bare(bare, _) => bare.encode(inputs, &mut outputs),
            }
        }
    }
}

fn tool(side: Side, shape: Shape, scheme: Scheme, length: usize) -> Tool {
    let Shape { k, m } = shape;
    // Whole buffers where they are in the cache anyway.
    let chunk = if length <= 4 * CRATE_CHUNK {
        length
    } else {
        CRATE_CHUNK
    };
    match side {
        Side::Memcpy => Tool::None,
        Side::SimdCrate => {
            let encoder =
                ReedSolomonEncoder::new(k, m, chunk).expect("it takes every shape of ours");
            Tool::Simd(Box::new(encoder), chunk)
        }
        Side::ErasureCrate => {
            let coder = ReedSolomon::new(k, m).expect("it takes every shape of ours");
            Tool::Erasure(Box::new(coder), chunk)
        }
        Side::Ours(isa, operation) => {
            let codec = Codec::with_isa(scheme, isa).expect("checked where it was given");
            Tool::Ours(Box::new(codec), operation)
        }
        Side::Bare(isa, operation) => {
            let rows = match operation {
                Operation::DecodeOne => 1,
                Operation::DecodeTwo => 2,
                _ => m,
            };
            // Speed does not depend on the coefficients.
            let coefficients: Vec<u8> = (0..k * rows).map(|at| (at * 37 + 2) as u8).collect();
            let bare = bare::Bare::new(set_of(isa), k, rows, &coefficients);
            Tool::Bare(bare.expect("checked where it was given"), operation)
        }
    }
}

fn set_of(isa: Isa) -> bare::Set {
    match isa {
        Isa::Portable => bare::Set::Dispatched,
        Isa::Avx2 => bare::Set::Avx2,
        Isa::Avx512 => bare::Set::Avx512,
        Isa::Avx2Gfni => bare::Set::Avx2Gfni,
        Isa::Avx512Gfni => bare::Set::Avx512Gfni,
    }
}

/// A whole stripe of this unit, which need not be a power of two.
fn stripe_shape(scheme: Scheme, unit: usize) -> StripeShape {
    let larger = Bytes((unit + 1).next_power_of_two() as u64);
    let larger = StripeUnit::new(larger).expect("a power of two in range");
    let length = Bytes((unit * scheme.data_shards()) as u64);
    let layout = Layout::new(
        Geometry::new(scheme, larger),
        length,
        TailPolicy::FEWEST_BYTES,
    );
    layout
        .stripe(StripeIndex(0))
        .expect("a blob that is not empty has a stripe")
}

fn decode(
    codec: &mut Codec,
    lost: usize,
    inputs: &[&[u8]],
    parity: &[&mut [u8]],
    copy: &mut [&mut [u8]],
    repeats: usize,
) {
    let all = inputs
        .iter()
        .copied()
        .chain(parity.iter().map(|shard| &**shard))
        .enumerate();
    let left = all
        .skip(lost)
        .map(|(shard, bytes)| (ShardIndex(shard as u8), bytes));
    let sources: Vec<(ShardIndex, &[u8])> = left.take(inputs.len()).collect();
    let targets = copy.iter_mut().take(lost).enumerate();
    let mut targets: Vec<(ShardIndex, &mut [u8])> = targets
        .map(|(shard, bytes)| (ShardIndex(shard as u8), &mut **bytes))
        .collect();
    for _ in 0..repeats {
        codec
            .decode(black_box(&sources), &mut targets)
            .expect("as many sources as data shards");
    }
}

fn stream(
    codec: &Codec,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    shape: StripeShape,
    checked: bool,
    checksums: &mut [Crc32c],
) {
    let unit = shape.unit as usize;
    for at in (0..=inputs[0].len() - unit).step_by(unit) {
        let mut parity: Vec<&mut [u8]> = outputs
            .iter_mut()
            .map(|output| &mut output[at..at + unit])
            .collect();
        let mut stream = if checked {
            StripeStream::checked(shape)
        } else {
            StripeStream::new(shape)
        };
        for input in inputs {
            for piece in input[at..at + unit].chunks(PIECE) {
                stream
                    .push(codec, piece, &mut parity)
                    .expect("pieces of the stripe");
            }
        }
        let sums = stream
            .finish(codec, &mut parity)
            .expect("all pieces were pushed");
        checksums[..sums.len()].copy_from_slice(&sums);
    }
}
