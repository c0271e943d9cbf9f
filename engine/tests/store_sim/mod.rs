//! A simulated drive and the executor that runs the store on it: one thread, no clock, every outcome repeatable.

pub(crate) mod drive;
pub(crate) mod run;
