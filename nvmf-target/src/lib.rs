//! A storage node's outside: each realm of a store is an NVMe namespace, over SPDK's NVMe-oF target.
//!
//! ```text
//!   host ──► SPDK's target ──► namespace 1 ──► LogDevice (a block device in Rust) ──► NodeStore ──► drive
//!             poll group                          READ, WRITE: memory goes along, no copy
//!             of the core                         vendor commands: the blob protocol
//! ```
//!
//! - [`Node`] is a target with one subsystem for each [`Realm`], served by every core.
//! - What a host may do follows from the subsystem that it is connected to; nothing in a command says who sent it. Windows
//!   are therefore reserved by a realm: every host of the realm may write into them and commit them.
//! - A request comes on the core of its connection and is done on the core of the drive; its memory goes there and back.
#![forbid(unsafe_code)]

mod commands;
pub mod config;
pub mod daemon;
mod device;
mod error;
mod hosts;
pub mod limits;
mod node;
mod observe;
mod puts;
mod status;
mod trouble;

pub use error::{StartError, StopError};
pub use hosts::{Host, HostKeys, Hosts};
pub use node::{HostsError, Node, NodeSpec, Realm};
