//! The instruction sets that code can be run with.

#![forbid(unsafe_code)]

use std::fmt;

/// An instruction set for the erasure code, from the plainest to the most capable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Safe Rust that the compiler vectorises for the build's target; runs everywhere.
    Portable,
    /// AVX2: code of ours for one and two parity shards, and for what a sum gives back; otherwise ISA-L.
    Avx2,
    /// AVX-512 (F, BW, CD, DQ, VL), in the same way.
    Avx512,
    /// AVX2 and GFNI: ISA-L.
    Avx2Gfni,
    /// AVX-512, GFNI and VPCLMULQDQ: code of ours, with checksums in the same pass.
    Avx512Gfni,
}

/// The CPU lacks the instruction set that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this CPU has no {wanted}: the most it has is {best}")]
pub struct IsaMissing {
    /// The set asked for.
    pub wanted: Isa,
    /// The most capable one that there is.
    pub best: Isa,
}

/// The name names no instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set: choose portable, avx2, avx512, avx2-gfni or avx512-gfni")]
pub struct UnknownIsa;

impl Isa {
    /// Every instruction set, from the plainest to the most capable.
    pub const ALL: [Self; 5] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx2Gfni,
        Self::Avx512Gfni,
    ];

    /// The most capable one of this CPU.
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|isa| isa.present())
            .unwrap_or(Self::Portable)
    }

    /// Whether this CPU has it.
    pub fn present(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = || is_x86_feature_detected!("avx2");
            let gfni = || is_x86_feature_detected!("gfni");
            let avx512 = || {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2(),
                Self::Avx512 => avx512(),
                Self::Avx2Gfni => avx2() && gfni(),
                Self::Avx512Gfni => avx512() && gfni() && is_x86_feature_detected!("vpclmulqdq"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable
        }
    }

    /// The name by which it is printed and asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx2Gfni => "avx2-gfni",
            Self::Avx512Gfni => "avx512-gfni",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or(UnknownIsa)
    }
}
