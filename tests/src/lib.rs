//! What whole-system tests share. The tests themselves are in `tests/`, the hardware lab in `lab/`
//! and the programs that run inside it in `src/bin/`.
#![forbid(unsafe_code)]

pub mod lab;
pub mod pattern;
