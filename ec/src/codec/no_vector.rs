//! What `vector.rs` is on other CPUs than x86: nothing.

#![forbid(unsafe_code)]

use super::Prepared;
use super::isa::Isa;
use crate::limits::{DATA_SHARDS_MAX, PARITY_SHARDS_MAX, SHARDS_MAX};

/// What one instruction set does better than ISA-L: there is none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vector {}

/// The states of the checksums.
pub(super) type States = [u32; SHARDS_MAX];

/// Coefficients as matrices.
pub(super) type Matrices = [u64; DATA_SHARDS_MAX * PARITY_SHARDS_MAX];

impl Vector {
    /// None.
    pub(super) fn new(_isa: Isa) -> Option<Self> {
        None
    }

    /// Cannot be called.
    pub(super) fn code(
        self,
        _prepared: &Prepared,
        _inputs: &[&[u8]],
        _outputs: &mut [&mut [u8]],
    ) -> bool {
        match self {}
    }

    /// Cannot be called.
    pub(super) fn code_checked(
        self,
        _prepared: &Prepared,
        _inputs: &[&[u8]],
        _outputs: &mut [&mut [u8]],
        _states: &mut States,
    ) -> bool {
        match self {}
    }
}
