//! From a blob's length to its shards.
//!
//! ```text
//!            shard 0   shard 1   shard 2   shard 3   parity 4  parity 5
//! stripe 0   [ unit ]  [ unit ]  [ unit ]  [ unit ]  [ unit ]  [ unit ]
//! stripe 1   [ unit ]  [ unit ]  [ unit ]  [ unit ]  [ unit ]  [ unit ]
//! tail       [ tail ]  [ tail ]  [la]                [ tail ]  [ tail ]
//! ```
//!
//! The bytes that do not fill a stripe are the tail, and a blob smaller than a stripe is only a tail. The tail stripe has
//! a unit of its own, at most the geometry's: its data shards are filled one after the other, the last one as far as it
//! goes (rounded to blocks), and shards that would hold nothing but zeros are not stored. Because the coefficient of a
//! data shard does not depend on k, such a stripe of d data shards is coded as one of d + m.
//!
//! A tail of t bytes with unit u stores `round(t) + m * u` bytes and a read of all of it touches `ceil(t / u)` shards:
//! small units save space, large ones save reads. [`TailPolicy`] chooses between them, [`Layout::cost`] says what was
//! chosen and [`tail_choices`] what else there was.

use std::fmt;

use crate::geometry::Geometry;
use crate::limits::BLOCK_BYTES;
use crate::units::{Bytes, ChecksumIndex, ShardIndex, ShardSet, StripeIndex};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// How much more than the fewest possible bytes a tail may take, if that lets a read touch fewer shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TailPolicy {
    /// Percent of the fewest possible bytes.
    extra_percent: u32,
}

impl TailPolicy {
    /// The tail is spread over as many shards as it takes to store the fewest bytes.
    pub const FEWEST_BYTES: Self = Self { extra_percent: 0 };

    /// The tail is put on as few data shards as the stripe unit allows: a small blob becomes m + 1 copies.
    pub const FEWEST_SHARDS: Self = Self {
        extra_percent: u32::MAX,
    };

    /// The tail may take so many percent more than the fewest bytes.
    pub const fn within(extra_percent: u32) -> Self {
        Self { extra_percent }
    }
}

impl Default for TailPolicy {
    /// A small blob is mostly read whole, and half as many reads are worth a third more space: 50 percent.
    fn default() -> Self {
        Self::within(50)
    }
}

/// What a layout costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The bytes stored on all shards.
    pub stored: Bytes,
    /// The shards that a read of the whole tail touches, or of a whole stripe where there is no tail.
    pub shards_read: usize,
    /// The shards that a write of it touches.
    pub shards_written: usize,
}

/// The shape of one stripe: d data units of `unit` bytes, the last of `last` bytes, and m parity units of `unit` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeShape {
    /// The data shards that hold something, d, from 1 to k.
    pub data_shards: u8,
    /// The stored bytes of a unit, a multiple of [`BLOCK_BYTES`].
    pub unit: u32,
    /// The stored bytes of the last data unit, a multiple of [`BLOCK_BYTES`], at most `unit`.
    pub last: u32,
    /// The number of data shards of the scheme, k, where parity starts.
    pub(crate) parity_from: u8,
    /// The number of parity shards.
    pub(crate) parity: u8,
}

impl StripeShape {
    /// The shards that hold something.
    pub fn shards(&self) -> ShardSet {
        let parity_from = usize::from(self.parity_from);
        self.data().union(ShardSet::span(
            parity_from,
            parity_from + usize::from(self.parity),
        ))
    }

    /// The data shards that hold something.
    pub(crate) fn data(&self) -> ShardSet {
        ShardSet::span(0, usize::from(self.data_shards))
    }

    /// The last data shard that holds something.
    pub(crate) fn last_shard(&self) -> ShardIndex {
        ShardIndex(self.data_shards - 1)
    }

    /// The bytes that a shard stores of the stripe.
    pub fn stored(&self, shard: ShardIndex) -> u32 {
        if !self.shards().contains(shard) {
            0
        } else if shard == self.last_shard() {
            self.last
        } else {
            self.unit
        }
    }

    fn stored_by_all(&self) -> u64 {
        let others = u64::from(self.data_shards) - 1 + u64::from(self.parity);
        others * u64::from(self.unit) + u64::from(self.last)
    }
}

/// The shape of a tail of `bytes` (more than none, less than a stripe) with a unit of `unit` bytes.
fn tail_shape(geometry: Geometry, bytes: u64, unit: u64) -> StripeShape {
    let data_shards = bytes.div_ceil(unit);
    let last = (bytes - (data_shards - 1) * unit).next_multiple_of(BLOCK);
    StripeShape {
        data_shards: data_shards as u8,
        unit: unit as u32,
        last: last as u32,
        parity_from: geometry.scheme.data_shards() as u8,
        parity: geometry.scheme.parity_shards() as u8,
    }
}

/// Every sensible shape of a tail of `bytes`: for each number of data shards the one with the smallest unit, the most
/// shards and the fewest bytes first. None where `bytes` is zero or not less than a stripe.
pub fn tail_choices(geometry: Geometry, bytes: Bytes) -> impl Iterator<Item = (StripeShape, Cost)> {
    let tail = bytes.get();
    let is_tail = tail > 0 && tail < geometry.stripe_bytes().get();
    let most = if is_tail {
        geometry.scheme.data_shards() as u64
    } else {
        0
    };
    (1..=most).rev().filter_map(move |spread| {
        let unit = tail.div_ceil(spread).next_multiple_of(BLOCK);
        // Rounding may leave shards empty; the same shape then comes again with its own number of shards.
        if unit > geometry.unit.bytes().get() || tail.div_ceil(unit) != spread {
            return None;
        }
        let shape = tail_shape(geometry, tail, unit);
        let cost = Cost {
            stored: Bytes(shape.stored_by_all()),
            shards_read: usize::from(shape.data_shards),
            shards_written: shape.shards().len(),
        };
        Some((shape, cost))
    })
}

/// How a blob of one length lies on the shards of a geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: Geometry,
    length: Bytes,
    /// The number of whole stripes.
    full: u64,
    /// The stripe after the whole ones, if the blob does not end with one.
    tail: Option<StripeShape>,
}

impl Layout {
    /// Lays out a blob of `length` bytes.
    pub fn new(geometry: Geometry, length: Bytes, policy: TailPolicy) -> Self {
        let stripe = geometry.stripe_bytes().get();
        let rest = Bytes(length.get() % stripe);
        let fewest = tail_choices(geometry, rest)
            .map(|(_, cost)| cost.stored.get())
            .min()
            .unwrap_or(0);
        let allowed = fewest + (u128::from(fewest) * u128::from(policy.extra_percent) / 100) as u64;
        // The choices come with ever fewer shards, so the last one allowed touches the fewest.
        let tail = tail_choices(geometry, rest)
            .filter(|(_, cost)| cost.stored.get() <= allowed)
            .last();
        Self {
            geometry,
            length,
            full: length.get() / stripe,
            tail: tail.map(|(shape, _)| shape),
        }
    }

    /// The geometry.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The blob's length.
    pub fn length(&self) -> Bytes {
        self.length
    }

    /// The number of stripes, the tail's included.
    pub fn stripes(&self) -> u64 {
        self.full + u64::from(self.tail.is_some())
    }

    /// The number of whole stripes.
    pub fn full_stripes(&self) -> u64 {
        self.full
    }

    /// The shape of a stripe, or `None` past the last one.
    pub fn stripe(&self, stripe: StripeIndex) -> Option<StripeShape> {
        if stripe.0 < self.full {
            Some(self.full_shape())
        } else {
            self.tail.filter(|_| stripe.0 == self.full)
        }
    }

    pub(crate) fn full_shape(&self) -> StripeShape {
        StripeShape {
            data_shards: self.geometry.scheme.data_shards() as u8,
            unit: self.geometry.unit.raw(),
            last: self.geometry.unit.raw(),
            parity_from: self.geometry.scheme.data_shards() as u8,
            parity: self.geometry.scheme.parity_shards() as u8,
        }
    }

    pub(crate) fn tail(&self) -> Option<StripeShape> {
        self.tail
    }

    /// The blob bytes before a stripe.
    pub fn stripe_start(&self, stripe: StripeIndex) -> Bytes {
        Bytes(stripe.0 * self.geometry.stripe_bytes().get())
    }

    /// The bytes on every shard before a stripe.
    pub fn shard_start(&self, stripe: StripeIndex) -> Bytes {
        Bytes(stripe.0 * self.geometry.unit.bytes().get())
    }

    /// The bytes that a shard stores, a multiple of [`BLOCK_BYTES`].
    pub fn shard_bytes(&self, shard: ShardIndex) -> Bytes {
        if shard.index() >= self.geometry.scheme.shards() {
            return Bytes(0);
        }
        let tail = self.tail.map_or(0, |shape| shape.stored(shard));
        Bytes(self.full * self.geometry.unit.bytes().get() + u64::from(tail))
    }

    /// The place of a unit's checksum in the blob's table, or `None` where the shard stores nothing of the stripe.
    pub fn checksum(&self, stripe: StripeIndex, shard: ShardIndex) -> Option<ChecksumIndex> {
        let shards = self.stripe(stripe)?.shards();
        let before = shards
            .intersection(ShardSet::span(0, shard.index().min(31)))
            .len();
        shards.contains(shard).then_some(ChecksumIndex(
            stripe.0 * self.geometry.scheme.shards() as u64 + before as u64,
        ))
    }

    /// The length of the blob's table of checksums: the number of stored units.
    pub fn checksums(&self) -> u64 {
        let tail = self.tail.map_or(0, |shape| shape.shards().len() as u64);
        self.full * self.geometry.scheme.shards() as u64 + tail
    }

    /// What the layout costs.
    pub fn cost(&self) -> Cost {
        let stored = (0..self.geometry.scheme.shards())
            .map(|shard| self.shard_bytes(ShardIndex(shard as u8)).get())
            .sum();
        let widest = if self.full > 0 {
            Some(self.full_shape())
        } else {
            self.tail
        };
        Cost {
            stored: Bytes(stored),
            shards_read: self
                .tail
                .or(widest)
                .map_or(0, |shape| usize::from(shape.data_shards)),
            shards_written: widest.map_or(0, |shape| shape.shards().len()),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes as {}: {} whole stripes",
            self.length, self.geometry, self.full
        )?;
        if let Some(tail) = self.tail {
            write!(
                f,
                ", tail of {} data units of {} (last {})",
                tail.data_shards, tail.unit, tail.last
            )?;
        }
        write!(f, "; stores {}", self.cost().stored)
    }
}
