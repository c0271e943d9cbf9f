//! The pure parts of a load: what to do next, when, with which bytes, and how
//! long it took. Nothing here touches a device or a clock, so all of it is
//! tested with plain unit tests.

pub(crate) mod course;
pub(crate) mod histogram;
pub(crate) mod pattern;
pub(crate) mod rate;
pub(crate) mod rng;
pub(crate) mod workload;
pub(crate) mod zipf;
