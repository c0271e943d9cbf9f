//! Sets of CPU cores, written as people write them: `0x3`, `0,2`, `[0-3]`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::CORES_MAX;

/// A non-empty set of CPU cores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CoreSet {
    bits: u128,
}

const _: () = assert!(CORES_MAX <= u128::BITS as usize);

/// Why a set of cores could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoreSetError {
    /// Neither a mask nor a list.
    #[error("'{text}' is no set of cores: write a mask like 0x3 or a list like 0,2-3")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// No core at all.
    #[error("'{text}' names no core: at least one is needed")]
    Empty {
        /// What was given.
        text: String,
    },
    /// A core beyond what one environment can drive.
    #[error("'{text}' names core {core}; cores go from 0 to {}", CORES_MAX - 1)]
    OutOfRange {
        /// What was given.
        text: String,
        /// The offending core.
        core: u64,
    },
}

impl CoreSet {
    /// The set of one core.
    ///
    /// # Panics
    /// When the core is beyond [`CORES_MAX`].
    pub fn single(core: u32) -> Self {
        assert!(
            (core as usize) < CORES_MAX,
            "core {core} is beyond the {CORES_MAX} that are supported"
        );
        Self { bits: 1 << core }
    }

    /// The cores that this process may run on, as the scheduler says.
    pub fn allowed() -> Self {
        let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: the pointer is valid for writes of `size` bytes; pid 0 is the calling thread.
        let rc = unsafe { libc::sched_getaffinity(0, size, set.as_mut_ptr()) };
        // SAFETY: all-zero is a valid cpu_set_t, which is what it was before the call.
        let set = unsafe { set.assume_init() };
        let mut bits = 0;
        for core in (0..CORES_MAX).filter(|_| rc == 0) {
            // SAFETY: CPU_ISSET bounds-checks the core against the set's own size.
            if unsafe { libc::CPU_ISSET(core, &set) } {
                bits |= 1 << core;
            }
        }
        Self {
            bits: if bits == 0 { 1 } else { bits },
        }
    }

    /// The first `count` cores of this set; all of them if there are fewer.
    pub fn first(self, count: usize) -> Self {
        self.iter()
            .take(count.max(1))
            .fold(Self { bits: 0 }, |set, core| set.with(core))
    }

    fn with(self, core: u32) -> Self {
        Self {
            bits: self.bits | 1 << core,
        }
    }

    /// The cores, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..CORES_MAX as u32).filter(move |&core| self.contains(core))
    }

    /// How many cores are in the set.
    pub fn count(self) -> usize {
        self.bits.count_ones() as usize
    }

    /// Whether the core is in the set.
    pub fn contains(self, core: u32) -> bool {
        (core as usize) < CORES_MAX && self.bits >> core & 1 == 1
    }

    /// The lowest core.
    pub fn lowest(self) -> u32 {
        self.bits.trailing_zeros()
    }

    /// The set as the hexadecimal mask that DPDK takes.
    pub fn mask(self) -> String {
        format!("{:#x}", self.bits)
    }
}

impl FromStr for CoreSet {
    type Err = CoreSetError;

    fn from_str(text: &str) -> Result<Self, CoreSetError> {
        let malformed = || CoreSetError::Malformed { text: text.into() };
        let trimmed = text.trim();
        let bits = if let Some(hex) = trimmed.strip_prefix("0x").or(trimmed.strip_prefix("0X")) {
            u128::from_str_radix(hex, 16).map_err(|_| malformed())?
        } else {
            let list = trimmed
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
                .unwrap_or(trimmed);
            let mut bits = 0;
            for part in list.split(',') {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let number = |text: &str| text.trim().parse::<u64>().map_err(|_| malformed());
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(malformed());
                }
                if last >= CORES_MAX as u64 {
                    return Err(CoreSetError::OutOfRange {
                        text: text.into(),
                        core: last,
                    });
                }
                bits = (first..=last).fold(bits, |bits, core| bits | 1u128 << core);
            }
            bits
        };
        if bits == 0 {
            return Err(CoreSetError::Empty { text: text.into() });
        }
        Ok(Self { bits })
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, core) in self.iter().enumerate() {
            write!(f, "{}{core}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoreSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(text: &str) -> Result<Vec<u32>, CoreSetError> {
        text.parse::<CoreSet>().map(|set| set.iter().collect())
    }

    #[test]
    fn masks_and_lists_name_the_same_cores() {
        assert_eq!(cores("0x5").unwrap(), [0, 2]);
        assert_eq!(cores("0,2").unwrap(), [0, 2]);
        assert_eq!(cores("[0-2, 5]").unwrap(), [0, 1, 2, 5]);
        assert_eq!("0-2,5".parse::<CoreSet>().unwrap().mask(), "0x27");
        assert_eq!(
            "0x80000000000000000000000000000000"
                .parse::<CoreSet>()
                .unwrap()
                .lowest(),
            127
        );
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for text in ["", "x", "0x", "0xg", "3-1", "1,,2", "-1", "[0"] {
            assert!(
                matches!(cores(text), Err(CoreSetError::Malformed { .. })),
                "{text}"
            );
        }
        assert!(matches!(cores("0x0"), Err(CoreSetError::Empty { .. })));
        assert!(matches!(
            cores("128"),
            Err(CoreSetError::OutOfRange { core: 128, .. })
        ));
    }
}
