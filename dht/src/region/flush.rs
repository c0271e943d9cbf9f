//! Which instruction writes a cache line back to persistent memory on this processor.

use std::sync::OnceLock;

/// The ways to write a line back, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Writes the line back and keeps it in the cache.
    Clwb,
    /// Writes the line back and drops it; many at once.
    ClflushOpt,
    /// Writes the line back and drops it; one after the other.
    Clflush,
}

impl Flush {
    /// The best of this processor.
    pub fn detect() -> Self {
        static FOUND: OnceLock<Flush> = OnceLock::new();
        *FOUND.get_or_init(|| {
            use core::arch::x86_64::__cpuid_count;
            // Leaf 7, sub-leaf 0, EBX: bit 24 is CLWB and bit 23 CLFLUSHOPT. Leaf 0 says whether there is a leaf 7.
            if __cpuid_count(0, 0).eax < 7 {
                return Self::Clflush;
            }
            let features = __cpuid_count(7, 0).ebx;
            match (features >> 24 & 1, features >> 23 & 1) {
                (1, _) => Self::Clwb,
                (0, 1) => Self::ClflushOpt,
                _ => Self::Clflush,
            }
        })
    }

    /// Its name as the processor's manual has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clwb => "clwb",
            Self::ClflushOpt => "clflushopt",
            Self::Clflush => "clflush",
        }
    }
}
