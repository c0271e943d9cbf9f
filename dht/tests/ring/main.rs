//! The ring, from outside.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod build;
mod cluster;
mod pages;
mod shared;
mod transition;
