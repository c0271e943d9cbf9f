//! `oriel-perf`: measurements beside their limits and their peers.
#![forbid(unsafe_code)]

mod against;
mod config;
mod cores;
mod hugepages;
mod interrupt;
mod job_file;
mod load;
mod report;
mod size;
fn main() {}
