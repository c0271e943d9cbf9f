//! Two questions, one cache line each: which nodes own this key ([`ring`]), and
//! where in the log is this blob ([`index`]). Both tables live in a [`region`]:
//! CXL memory as `/dev/dax*`, a file, or anonymous memory.
#![forbid(unsafe_code)]

pub mod index;
pub mod region;
pub mod ring;
