//! Bindings to SPDK through a C shim of ours.
//!
//! SPDK's own structs stay opaque: `shim/oriel.h` is all that bindgen reads, and the `.c` files
//! beside it absorb what differs between v20.07 and v26.05. Nothing here is safe to call without
//! SPDK's rules in mind; `oriel-spdk` is the layer that upholds them.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    missing_docs,
    clippy::missing_safety_doc
)]

// The one libisal of the program, which SPDK's archives use too, comes from this crate.
use oriel_isal_sys as _;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// The release of SPDK that this program is built against, as `"20.07"`.
pub const SPDK_RELEASE: &str = env!("ORIEL_SPDK_RELEASE");

/// Whether the scripts/bootstrap of today built it, which mends faults of v20.07.
pub const SPDK_MENDED: bool = cfg!(spdk_mended);
