//! The area `target` of `oriel-perf gate`: what is promised, and whether it is kept.

use super::plan::{self, Initiator, Kind, Side};
use super::{MooncakeArgs, TargetError, Targets, mooncake, table, two_cores};
use crate::out::say;

/// A promise: one side and initiator beside another.
struct Check {
    name: &'static str,
    job: (Kind, u64, u32),
    ours: (Kind, Side, Initiator),
    theirs: (Kind, Side, Initiator),
    bound: f64,
}

const KIB4: u64 = plan::SIZES[0];
const KIB128: u64 = plan::SIZES[1];

const fn window(name: &'static str, bytes: u64, beside: Side, bound: f64) -> Check {
    Check {
        name,
        job: (Kind::Read, bytes, 32),
        ours: (Kind::Read, Side::Oriel, Initiator::Spdk),
        theirs: (Kind::Read, beside, Initiator::Spdk),
        bound,
    }
}

const fn initiator(name: &'static str, bytes: u64, bound: f64) -> Check {
    Check {
        name,
        job: (Kind::Read, bytes, 32),
        ours: (Kind::Read, Side::Raw, Initiator::Rust),
        theirs: (Kind::Read, Side::Raw, Initiator::Spdk),
        bound,
    }
}

const CHECKS: [Check; 8] = [
    window("window 4 KiB, beside a thick lvol", KIB4, Side::Lvol, 0.98),
    window(
        "window 128 KiB, beside a thick lvol",
        KIB128,
        Side::Lvol,
        0.98,
    ),
    window("window 4 KiB, beside the drive", KIB4, Side::Raw, 0.90),
    window("window 128 KiB, beside the drive", KIB128, Side::Raw, 0.98),
    initiator("our initiator, 4 KiB", KIB4, 0.70),
    initiator("our initiator, 128 KiB", KIB128, 0.95),
    Check {
        name: "LOCATE beside a null read of 4 KiB",
        job: (Kind::Locate, KIB4, 32),
        ours: (Kind::Locate, Side::Oriel, Initiator::Rust),
        theirs: (Kind::Read, Side::Null, Initiator::Rust),
        bound: 0.80,
    },
    Check {
        name: "get 1 MiB, QD 1, beside mooncake",
        job: (Kind::Get, plan::SIZES[2], 1),
        ours: (Kind::Get, Side::Oriel, Initiator::Rust),
        theirs: (Kind::Get, Side::Mooncake, Initiator::Python),
        bound: 5.0,
    },
];

/// What stands beside the gets, to say how much of them is the kernel's.
const BY_KERNEL: [(&str, [Side; 2]); 3] = [
    ("  beside plain sockets", [Side::Oriel, Side::Loopback]),
    (
        "  beside plain sockets and a copy",
        [Side::Oriel, Side::Copied],
    ),
    ("  these, beside mooncake", [Side::Copied, Side::Mooncake]),
];

impl Targets {
    /// Prints the line of a promise; whether it is kept.
    fn check(&self, check: &Check, (rounds, seconds): (u32, u32)) -> Result<bool, TargetError> {
        let (_, bytes, depth) = check.job;
        let mut pairs = Vec::new();
        let mut by_kernel = BY_KERNEL.map(|(_, sides)| (sides, Vec::new()));
        for round in 0..rounds {
            let one = |(kind, side, initiator): (Kind, Side, Initiator)| {
                let job = (kind, bytes, depth);
                self.measure((side, initiator), job, (round, seconds))
            };
            let (ours, theirs) = (one(check.ours)?, one(check.theirs)?);
            pairs.push((ours, theirs));
            if check.theirs.1 == Side::Mooncake {
                let sockets = |side| one((check.ours.0, side, Initiator::Sockets));
                let [plain, copied] = [sockets(Side::Loopback)?, sockets(Side::Copied)?];
                let of = |side| match side {
                    Side::Loopback => plain,
                    Side::Copied => copied,
                    Side::Mooncake => theirs,
                    _ => ours,
                };
                for (sides, pairs) in &mut by_kernel {
                    pairs.push((of(sides[0]), of(sides[1])));
                }
            }
        }
        let (line, is_kept) = table::verdict(check.name, &pairs, check.bound);
        say!("{line}");
        for ((name, _), (_, pairs)) in BY_KERNEL.iter().zip(&by_kernel) {
            if !pairs.is_empty() {
                say!("{}", table::beside(name, pairs));
            }
        }
        Ok(is_kept)
    }
}

/// Prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(
    rounds: u32,
    seconds: u32,
    mooncake: &MooncakeArgs,
) -> Result<bool, TargetError> {
    let targets = Targets::start(two_cores(None)?, mooncake)?;
    say!(
        "{rounds} rounds of {seconds} s a side, IOPS, median of the rounds' ratios, over TCP, QD 32"
    );
    say!(
        "{:<36} {:>11} {:>11} {:>7} {:>16} {:>6}",
        "",
        "ours",
        "theirs",
        "ratio",
        "spread",
        "bound"
    );
    let mut good = true;
    for check in &CHECKS {
        if ![check.ours.1, check.theirs.1]
            .iter()
            .all(|side| targets.has(*side))
        {
            let why = match check.theirs.1 {
                Side::Mooncake => mooncake::REMEDY,
                _ => "this SPDK was built without logical volumes",
            };
            say!("{:<36} not measured: {why}", check.name);
            good = false;
            continue;
        }
        good &= targets.check(check, (rounds, seconds))?;
    }
    Ok(good)
}
