//! Who takes part: from a file, or from etcd.
//!
//! A node on its own reads a TOML file ([`read`]). In a cluster the nodes keep
//! their records in etcd ([`etcd`], with the feature of that name), which is
//! where agreement comes from: nothing here votes. Either way what comes out
//! are the [`Member`](crate::ring::Member)s that a ring is built from.

#[cfg(all(feature = "etcd", not(loom)))]
pub mod etcd;
mod file;
mod record;

pub use file::{File, FileError, parse, read};
pub use record::RecordError;
