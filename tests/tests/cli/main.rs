//! `oriel` against `orield`, as their users start them.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blobs;
mod killed;
mod support;
mod terminal;
mod wrong;
