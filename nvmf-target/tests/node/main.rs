//! A node over the wire: the pure Rust client against it, by NVMe/TCP on loopback.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod blobs;
mod crowd;
mod ends;
mod fair;
mod host;
mod hostile;
mod identity;
mod large;
mod malformed;
mod realms;
mod strange;
mod support;
mod windows;
mod wire;
mod worn;

#[test]
#[ignore = "the other process of these tests, which start it themselves"]
fn node_process() {
    support::node_main();
}
