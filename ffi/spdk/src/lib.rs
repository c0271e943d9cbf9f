//! A safe wrapper of SPDK, one file for each kind of SPDK object.
//!
//! ```text
//!   Env                 the process's DPDK environment: memory, cores, PCI      env.rs
//!    └─ SpdkThread      polled by the OS thread that made it                     thread.rs
//!        ├─ Subsystems  bdev layer, sockets, accelerators; JSON-RPC             subsystems.rs, rpc.rs
//!        ├─ BdevDesc ── Channel ── Io                                           bdev/
//!        ├─ Device      a block device written in Rust                          device.rs
//!        ├─ Blobstore ── Blob                                                   blob/
//!        └─ Target      NVMe-oF: transports, subsystems, poll groups            nvmf/
//! ```
//!
//! Rules that the types uphold:
//!
//! - Whatever belongs to one SPDK thread is neither `Send` nor `Sync`, so it cannot leave the OS
//!   thread that polls it.
//! - A buffer under I/O belongs to the request and comes back with the completion. Dropping a
//!   future never frees memory that a device may still write to.
//! - A channel stays open while one of its requests is in flight, and a descriptor while one of
//!   its channels is open, whatever the caller drops first.
//! - Callbacks from C are `extern "C"`, so a panic in one ends the process instead of unwinding
//!   through SPDK.
//!
//! All `async` functions are plain futures that complete while their SPDK thread is polled; any
//! single-threaded executor can run them, [`block_on`] among them.

mod address_space;
pub mod bdev;
pub mod blob;
pub mod cores;
pub mod device;
pub mod dma;
pub mod env;
pub mod isolate;
pub mod keyring;
pub mod limits;
mod log;
pub mod nvmf;
mod oneshot;
mod open_files;
pub mod pci;
pub mod rpc;
pub mod subsystems;
pub mod thread;
pub mod ticks;

pub use cores::CoreSet;
pub use dma::DmaBuf;
pub use env::{Env, EnvOptions};
pub use oriel_spdk_sys::SPDK_RELEASE;
pub use pci::PciAddress;
pub use subsystems::Subsystems;
pub use thread::{SpdkThread, block_on};
