//! Erasure coding: stripe geometry, planner and codec.
#![deny(unsafe_code)]

mod codec;
mod geometry;
mod layout;
pub mod limits;
mod placement;
mod plan;
mod units;

pub use codec::{
    Codec, CodecError, Crc32c, Isa, IsaMissing, StreamError, StripeStream, UnknownIsa,
};
pub use geometry::{Geometry, GeometryError, Scheme, StripeUnit};
pub use layout::{Cost, Layout, StripeShape, TailPolicy, tail_choices};
pub use placement::{Domain, OwnerIndex, Placement, PlacementError};
pub use plan::{
    Check, ExecuteError, Piece, PlanError, ReadPlan, ReadRequest, Rebuild, RepairPlan,
    RepairRequest, ShardRead, UnitCheck, VerifyPlan,
};
pub use units::{Bytes, ChecksumIndex, ShardIndex, ShardSet, StripeIndex};
