//! A simulated drive, a simulated world around it, and an oracle that knows what a store on it has to hold: one thread,
//! no real time, every outcome repeatable.
//!
//! ```text
//!  run.rs      runs futures; finds out when all of them wait for something that does not come
//!  world.rs    the clock and the dice: one seed
//!  drive.rs    what the store sees of the drive          calls.rs   what its calls do, and what a crash leaves
//!  image.rs    what is on it                             faults.rs  what it does wrong
//!  api.rs      the one place that calls the store
//!  oracle.rs   what must be there
//!  plan.rs     what a seed decides                       life.rs    a store in use, from crash to crash
//!  client.rs   what its users do                         others.rs  and what else
//!  audit.rs    what it counts
//! ```
#![allow(
    dead_code,
    reason = "each of the test programs uses some of it, and together they use all"
)]

pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod calls;
pub(crate) mod client;
pub(crate) mod drive;
pub(crate) mod faults;
pub(crate) mod image;
pub(crate) mod life;
pub(crate) mod oracle;
pub(crate) mod others;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod world;
