//! A pure Rust NVMe/TCP initiator: no SPDK, no root, no kernel driver. And the same realms by the kernel's own initiator.
//!
//! ```text
//!   any executor, any thread                       one thread a controller                         network
//!   Namespace::read(block, memory) ──► Pending     driver ──► association ──► link ──► connection ◄──► TCP
//!                    │                    ▲           │       (admin and I/O queues)      │
//!                    └── request ─────────┼───────────┘                                   │
//!                                         └──────────────── memory and completion ◄───────┘
//! ```
//!
//! - [`Controller::connect`] makes the queues; [`Controller::namespace`] gives what is read and written.
//! - [`Controller::connect_polled`] does the same without a thread: its [`Poller`] does the I/O where it is polled.
//! - A [`Pending`] is a future for any executor; [`Pending::wait`] waits on a plain thread.
//! - Memory goes with the request and comes back with its result. Data that are read go from the socket into it and
//!   nowhere else ([`memory::Memory`]).
//! - A lost connection comes back by itself. What does no harm when it is done twice is sent again, the rest fails with the
//!   reason ([`Again`]).
//! - [`blob`] is the client of the blob protocol over it.
//! - [`kernel`] carries the same protocol over what `nvme connect` has attached: `/dev/nvmeXnY` and `/dev/ngXnY`, by io_uring.
//!
//! [`connection`] and [`pdu`] are the protocol without any I/O. Written from the NVMe base, NVMe over Fabrics and NVMe/TCP
//! transport specifications; their words stand beside the code that follows them.
#![forbid(unsafe_code)]

mod association;
pub mod blob;
mod bytes;
pub mod connection;
mod controller;
mod discover;
mod driver;
mod error;
pub mod kernel;
pub mod limits;
mod link;
pub mod memory;
mod namespace;
pub mod nvme;
mod options;
pub mod pdu;
mod pending;
mod poller;
mod request;
mod sums;

pub use controller::{Connecting, Controller};
pub use discover::discover;
pub use driver::Turn;
pub use error::{CommandError, ConnectError, LinkError, NamespaceError, Peer};
pub use kernel::{KernelError, KernelNamespace, KernelOptions};
pub use memory::Memory;
pub use namespace::{Again, Namespace};
pub use options::{Options, Reconnect};
pub use pdu::Digests;
pub use pending::{Pending, block_on};
pub use poller::Poller;
