//! Two questions, one cache line each: which nodes own this key ([`ring`]), and
//! where in the log is this blob ([`index`]). Both tables live in a [`region`]:
//! CXL memory as `/dev/dax*`, a file, or anonymous memory. Who takes part comes
//! from [`membership`].
#![deny(unsafe_code)]
// The model checker sees the parts that threads share, without what opens and sizes them.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(feature = "region")]
pub mod index;
#[cfg(feature = "region")]
pub mod limits;
pub mod membership;
#[cfg(feature = "region")]
pub mod region;
pub mod ring;
