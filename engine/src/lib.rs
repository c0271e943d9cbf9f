//! The storage engine: reactors and, over them, the log store.
#![deny(unsafe_code)]

pub mod limits;
pub mod mailbox;
