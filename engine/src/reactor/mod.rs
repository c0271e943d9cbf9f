//! Reactors: one pinned thread for each core, which polls drives and runs tasks.
//!
//! ```text
//!   core 0 (main)                        core 1                       any thread
//!   ┌─ turn ───────────────────┐   ┌─ turn ──────────────┐
//!   │ poll SPDK threads        │   │        ...          │   ReactorHandle: spawn on
//!   │ drain inbox, mailboxes ◄─┼───┼─ send               │   a core, stats, shut_down
//!   │ run ready tasks ─────────┼──►│ inbox               │
//!   │ fire timers, book time   │   │                     │   watchdog: what holds
//!   └──────────────────────────┘   └─────────────────────┘   a reactor too long
//! ```
//!
//! - [`start`] brings them up on SPDK's threads (`&Env`) or plain ones
//!   ([`OsThreads`]) and returns when all have stopped.
//! - In a task: [`spawn_local`], [`call`], [`sleep`], [`timeout`], [`attach`],
//!   [`attach_mailbox`], [`stop_requested`], [`handle`].
//! - Everything of one reactor stays on its thread: no locks, no atomics with
//!   other writers, except in mailboxes.
//!
//! What they do not do: tasks do not move between cores, and nothing preempts a
//! task. A task that computes for long calls [`yield_now`] in between.
//!
//! An SPDK thread that was attached last is the one that SPDK calls in tasks run
//! on; one for each reactor is the rule.

mod activity;
mod call;
mod executor;
mod group;
mod handle;
mod local;
mod shutdown;
mod source;
mod stats;
mod timer;
mod turn;
mod watchdog;

#[cfg(test)]
mod tests;

pub use call::call;
pub use executor::{JoinHandle, NoTaskSlot};
pub use group::{Backoff, Finished, Hanging, OnHeld, ReactorConfig, RunError, start};
pub use handle::{CoreId, ReactorHandle, RemoteError, RemoteHandle, SpawnError};
pub(crate) use local::core_here;
pub use local::{
    StopRequested, attach, attach_mailbox, current_core, handle, spawn_local, stop_requested,
    yield_now,
};
pub use shutdown::ExitStatus;
pub use source::{Launch, LaunchError, OsThreads, Source, Work, pin_to};
pub use stats::ReactorStats;
pub use timer::{Elapsed, Sleep, sleep, sleep_until, timeout};
pub use watchdog::Held;
