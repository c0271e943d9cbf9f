//! The workloads that bdevperf knows, by its names.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Read,
    Write,
    RandRead,
    RandWrite,
    Rw,
    RandRw,
    /// Writes a tagged pattern in order and reads each unit back at once.
    Verify,
    /// As `Verify`, with a device reset at intervals.
    Reset,
    Unmap,
    Flush,
    WriteZeroes,
}

/// Every workload beside the name that selects it.
pub(crate) const NAMES: [(&str, Workload); 11] = [
    ("read", Workload::Read),
    ("write", Workload::Write),
    ("randread", Workload::RandRead),
    ("randwrite", Workload::RandWrite),
    ("rw", Workload::Rw),
    ("randrw", Workload::RandRw),
    ("verify", Workload::Verify),
    ("reset", Workload::Reset),
    ("unmap", Workload::Unmap),
    ("flush", Workload::Flush),
    ("write_zeroes", Workload::WriteZeroes),
];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{0}\" is no workload: take one of read, write, randread, randwrite, rw, randrw, verify, reset, unmap, flush, write_zeroes"
)]
pub(crate) struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = NAMES.iter().find(|(name, _)| *name == text);
        named
            .map(|(_, workload)| *workload)
            .ok_or_else(|| UnknownWorkload(text.to_owned()))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMES.iter().find(|(_, workload)| workload == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl Workload {
    /// Whether a share of reads (`-M`) applies.
    pub(crate) fn is_mix(self) -> bool {
        matches!(self, Self::Rw | Self::RandRw)
    }

    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    /// Whether each write is read back at once, as bdevperf's verify does.
    pub(crate) fn reads_back(self) -> bool {
        matches!(self, Self::Verify | Self::Reset)
    }

    /// Whether it moves data, so that there is something to check.
    pub(crate) fn moves_data(self) -> bool {
        !matches!(self, Self::Unmap | Self::Flush | Self::WriteZeroes)
    }

    /// Whether it may change what a drive holds.
    pub(crate) fn changes_data(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead | Self::Flush)
    }

    /// Whether a drive that may only be read will do.
    pub(crate) fn only_reads(self) -> bool {
        matches!(self, Self::Read | Self::RandRead)
    }

    /// The share of reads, in percent, where it does not come from `-M`.
    pub(crate) fn read_percent(self, mix: u8) -> u8 {
        match self {
            Self::Read | Self::RandRead => 100,
            Self::Rw | Self::RandRw => mix,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_the_workload_that_prints_it() {
        for (name, workload) in NAMES {
            assert_eq!(name.parse::<Workload>(), Ok(workload));
            assert_eq!(workload.to_string(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let message = "randreed".parse::<Workload>().unwrap_err().to_string();
        for (name, _) in NAMES {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn reads_and_writes_get_the_share_their_name_says() {
        assert_eq!(Workload::RandRead.read_percent(10), 100);
        assert_eq!(Workload::Write.read_percent(90), 0);
        assert_eq!(Workload::RandRw.read_percent(70), 70);
    }
}
