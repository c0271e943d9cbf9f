//! The part of DPDK that a poll-mode port needs: bindings and a thin safe layer.
//!
//! [`raw`] is generated from `shim/shim.h`, a C shim of ours that makes DPDK's inline functions
//! callable, keeps its structs opaque and absorbs what differs between 20.05 and 26.03. The rest
//! of the crate is the safe layer over it, with these rules:
//!
//! ```text
//!  Eal ──lends 'eal──▶ PktPool ──alloc──▶ Mbuf ──TxQueue::send──▶ the wire
//!   │                     ▲                ▲
//!   └──────▶ Port ──start(pool)──▶ RxQueue ┘ receive
//! ```
//!
//! - Everything borrows the [`Eal`], so nothing outlives it: that is a compile error.
//! - A pool lives as long as the [`Eal`]. A ring port passes buffers on without a copy, so a
//!   frame of any pool may sit in any port's queue, and no shorter life could be shown.
//! - An [`Mbuf`] has one owner. Sending moves it; what a queue does not take stays the caller's.
//! - A queue belongs to one thread at a time (`&mut`), and its port is stopped only when the port
//!   and all its queues are dropped.
//! - A port has one owner in the process; finding it a second time is an error.
//!
//! ```compile_fail,E0505
//! # use oriel_dpdk_sys::{Eal, EalOptions, PktPool, PoolOptions};
//! let eal = Eal::start(&EalOptions::default())?;
//! let pool = PktPool::new(&eal, "frames", &PoolOptions::default())?;
//! let frame = pool.alloc()?;
//! drop(eal); // refused: the frame still borrows it
//! println!("{frame:?}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```compile_fail,E0382
//! # fn send(mut tx: oriel_dpdk_sys::TxQueue<'_>, frame: oriel_dpdk_sys::Mbuf<'_>) {
//! tx.send(&mut vec![frame]);
//! println!("{}", frame.len()); // refused: the frame is the device's
//! # }
//! ```
//!
//! What it does not do: offloads, several traffic classes, multi-process (secondary) EALs.

mod describe;
mod eal;
mod mbuf;
mod port;
pub mod ring;

/// The functions of `shim/shim.h`, as they are in C.
pub mod raw {
    #![allow(non_camel_case_types, non_upper_case_globals, unreachable_pub)]
    #![allow(missing_docs, reason = "generated; shim.h has the words")]
    #![allow(
        clippy::missing_safety_doc,
        reason = "C functions; shim.h says what they expect"
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

// Brings the EAL, mempools and rings into the program, and SPDK's choice of DPDK.
use oriel_spdk_sys as _;

pub use describe::{Link, MacAddr, PortInfo, PortOptions, Stats};
pub use eal::{AttachError, Eal, EalError, EalOptions, dpdk_release};
pub use mbuf::{Mbuf, NoBuffers, NoRoom, OutOfRange, PktPool, PoolError, PoolOptions, headroom};
pub use port::{ActivePort, FindError, Port, PortError, RxQueue, StartError, Started, TxQueue};

/// Turns the shim's negative errno into an error, and anything else into the value.
fn check(rc: core::ffi::c_int) -> Result<core::ffi::c_int, std::io::Error> {
    if rc < 0 {
        Err(std::io::Error::from_raw_os_error(-rc))
    } else {
        Ok(rc)
    }
}
