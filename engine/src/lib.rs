//! The storage engine: reactors and, over them, the log store.
//!
//! - [`reactor`]: one pinned thread for each core; tasks, timers, shutdown.
//! - [`mailbox`]: how cores talk; bounded, model-checked.
//! - [`store`]: blobs in a log on raw drives.
//! - [`clock`]: the time, injected.
//! - [`limits`]: every fixed size.
//!
//! Under `--cfg loom` there is what is model-checked alone.

// The mailbox, and it alone, allows itself what it proves.
#![deny(unsafe_code)]

#[cfg(not(loom))]
pub mod clock;
#[cfg_attr(loom, allow(dead_code, reason = "what uses it is left out"))]
mod holds;
pub mod limits;
pub mod mailbox;
#[cfg(not(loom))]
pub mod reactor;
#[cfg(not(loom))]
pub mod store;
