//! What the sides of one job showed, and how they compare.

use serde::Serialize;

use super::plan::{Initiator, Kind, Side, Speed};
use crate::against::ratio::{Comparison, Round, median};

pub(super) const HEAD: &str = "what        size   QD  initiator  side        a second      MiB/s    p50 us    p99 us  oriel / it";

/// All jobs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Rows(pub(super) Vec<Row>);

/// One job.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    kind: Kind,
    bytes: u64,
    queue_depth: u32,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    side: Side,
    initiator: Initiator,
    #[serde(flatten)]
    speed: Speed,
    /// How much faster the node is with the same initiator, by the medians of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
}

/// Who takes part in a job.
pub(super) fn sides(kind: Kind, is_there: impl Fn(Side) -> bool) -> Vec<(Side, Initiator)> {
    let mut sides = match kind {
        Kind::Read => vec![
            (Side::Raw, Initiator::Spdk),
            (Side::Lvol, Initiator::Spdk),
            (Side::Oriel, Initiator::Spdk),
            (Side::Raw, Initiator::Rust),
            (Side::Oriel, Initiator::Rust),
            (Side::Raw, Initiator::Threaded),
            (Side::Oriel, Initiator::Threaded),
        ],
        Kind::Locate => vec![
            (Side::Null, Initiator::Rust),
            (Side::Oriel, Initiator::Rust),
        ],
        Kind::Put => vec![(Side::Oriel, Initiator::Rust)],
        Kind::Get => vec![
            (Side::Mooncake, Initiator::Python),
            (Side::Loopback, Initiator::Sockets),
            (Side::Copied, Initiator::Sockets),
            (Side::Oriel, Initiator::Rust),
        ],
    };
    sides.retain(|(side, _)| is_there(*side));
    sides
}

/// What a side does in a job: drives can only be read.
pub(super) fn kind_at(kind: Kind, side: Side) -> Kind {
    match side {
        Side::Oriel | Side::Mooncake | Side::Loopback | Side::Copied => kind,
        Side::Raw | Side::Lvol | Side::Null => Kind::Read,
    }
}

impl Row {
    pub(super) fn new(
        kind: Kind,
        bytes: u64,
        queue_depth: u32,
        sides: &[(Side, Initiator)],
        speeds: &[Vec<Speed>],
    ) -> Self {
        let of = |side: Side, initiator: Initiator| {
            let at = sides.iter().position(|other| *other == (side, initiator));
            at.map_or(&[][..], |at| &speeds[at])
        };
        let line = |&(side, initiator): &(Side, Initiator)| {
            let (ours, theirs) = (of(Side::Oriel, initiator), of(side, initiator));
            let ours = match side {
                // They have clients of their own.
                Side::Mooncake | Side::Loopback | Side::Copied => of(Side::Oriel, Initiator::Rust),
                _ => ours,
            };
            let compared = compare(ours.iter().copied().zip(theirs.iter().copied()));
            Line {
                side,
                initiator,
                speed: middle(theirs),
                ratio: compared
                    .filter(|_| side != Side::Oriel)
                    .map(|compared| compared.ratio),
            }
        };
        Self {
            kind,
            bytes,
            queue_depth,
            lines: sides.iter().map(line).collect(),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let kind = format!("{:?}", self.kind).to_lowercase();
        let size = match (self.kind, self.bytes >> 10) {
            (Kind::Locate, _) => "-".into(),
            (_, kib) if kib >= 1024 => format!("{}M", kib >> 10),
            (_, kib) => format!("{kib}k"),
        };
        let line = |(at, line): (usize, &Line)| {
            let head = match at {
                0 => format!("{kind:<9} {size:>6} {:>4}", self.queue_depth),
                _ => format!("{:21}", ""),
            };
            let ratio = line
                .ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.3}"));
            let speed = line.speed;
            let line = format!(
                "{head}  {:<9}  {:<8} {:>11.0} {:>10.1} {:>9.1} {:>9.1}  {ratio}",
                line.initiator.name(),
                line.side.name(),
                speed.per_second,
                speed.mib_per_second,
                speed.p50_us,
                speed.p99_us,
            );
            line.trim_end().to_owned()
        };
        self.lines.iter().enumerate().map(line).collect()
    }
}

fn compare(pairs: impl Iterator<Item = (Speed, Speed)>) -> Option<Comparison> {
    let rounds: Vec<Round> = pairs
        .map(|(ours, theirs)| Round {
            ours: ours.per_second,
            theirs: theirs.per_second,
        })
        .collect();
    Comparison::of(&rounds)
}

/// The medians of each figure.
fn middle(speeds: &[Speed]) -> Speed {
    let of = |figure: fn(&Speed) -> f64| median(speeds.iter().map(figure).collect());
    Speed {
        per_second: of(|speed| speed.per_second),
        mib_per_second: of(|speed| speed.mib_per_second),
        p50_us: of(|speed| speed.p50_us),
        p99_us: of(|speed| speed.p99_us),
        core: None,
    }
}

/// The line of a promise, and whether it is kept. What is printed decides.
pub(super) fn verdict(name: &str, pairs: &[(Speed, Speed)], bound: f64) -> (String, bool) {
    let Some(compared) = compare(pairs.iter().copied()) else {
        return (format!("{name:<36} not measured"), false);
    };
    let passed = (compared.ratio * 1000.0).round() >= (bound * 1000.0).round();
    let line = format!(
        "{} {bound:>6.2} {}",
        figures(name, &compared),
        if passed { "PASS" } else { "SHORT" }
    );
    (line, passed)
}

/// One side beside another, to which nothing is promised.
pub(super) fn beside(name: &str, pairs: &[(Speed, Speed)]) -> String {
    compare(pairs.iter().copied()).map_or_else(
        || format!("{name:<36} not measured"),
        |compared| figures(name, &compared),
    )
}

fn figures(name: &str, compared: &Comparison) -> String {
    let spread = format!("{:.3} to {:.3}", compared.ratio_min, compared.ratio_max);
    format!(
        "{name:<36} {:>11.0} {:>11.0} {:>7.3} {spread:>16}",
        compared.ours, compared.theirs, compared.ratio
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(per_second: f64) -> Speed {
        Speed {
            per_second,
            mib_per_second: per_second / 256.0,
            p50_us: 10.0,
            p99_us: 20.5,
            core: None,
        }
    }

    #[test]
    fn sides_are_compared_with_the_same_initiator() {
        let sides = [
            (Side::Raw, Initiator::Spdk),
            (Side::Oriel, Initiator::Spdk),
            (Side::Raw, Initiator::Rust),
            (Side::Oriel, Initiator::Rust),
        ];
        let speeds = [1000.0, 900.0, 800.0, 400.0].map(|figure| vec![speed(figure)]);
        let row = Row::new(Kind::Read, 4096, 32, &sides, &speeds);
        let ratios: Vec<_> = row.lines.iter().map(|line| line.ratio).collect();
        assert_eq!(ratios, [Some(0.9), None, Some(0.5), None]);
        assert_eq!(
            row.lines()[..2],
            [
                "read          4k   32  SPDK       raw             1000        3.9      10.0      20.5  0.900",
                "                       SPDK       oriel            900        3.5      10.0      20.5",
            ]
        );
    }

    #[test]
    fn a_promise_is_kept_where_its_bound_is_printed() {
        let pairs = [(speed(979.6), speed(1000.0))];
        let (line, passed) = verdict("windows", &pairs, 0.98);
        assert!(passed && line.ends_with("0.98 PASS"), "{line}");
        assert!(!verdict("windows", &pairs, 0.981).1);
        assert!(!verdict("windows", &[], 0.98).1);
        let without = beside("windows", &pairs);
        assert_eq!(line, format!("{without}   0.98 PASS"));
    }
}
