//! A store of several simulated drives, used, pulled apart and put together again, by seed.
//!
//! ```text
//!  plan.rs     what a seed decides, and the bytes of its blobs
//!  oracle.rs   what a key may hold, given what was asked and answered, drives being lost or not
//!  life.rs     the node from start to crash, and the last life, in which everything has to be as it should be
//!  client.rs   what its users do
//!  look.rs     what is on its drives between two lives
//!  events.rs   what happens to its drives
//! ```

pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod life;
pub(crate) mod look;
pub(crate) mod oracle;
pub(crate) mod plan;
