//! What the sides of one job did, and how they compare.

use serde::Serialize;

use super::StorePerfError;
use super::load::{Sizes, Speed};
use super::rig::{Job, Kind, Rig, Side};
use crate::against::ratio::{Comparison, Round, median};

pub(super) const HEAD: &str =
    "workload     size   QD  side         blobs/s      MiB/s    p50 us    p99 us   store / it";

/// One job.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    workload: Kind,
    size: String,
    queue_depth: u32,
    read_percent: u8,
    sides: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize)]
struct Figure {
    side: Side,
    #[serde(flatten)]
    speed: Speed,
    /// How much faster the store is, in MiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Ratio>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Row {
    /// Measures the sides in turn, round by round.
    pub(super) async fn measure(
        rig: &Rig<'_>,
        job: &Job,
        sides: &[Side],
        rounds: u32,
    ) -> Result<Self, StorePerfError> {
        let mut speeds: Vec<Vec<Speed>> = vec![Vec::new(); sides.len()];
        for _ in 0..rounds {
            for (side, speeds) in sides.iter().zip(&mut speeds) {
                speeds.push(rig.measure(*side, job).await?);
            }
        }
        Ok(Self {
            workload: job.kind,
            size: size(job.sizes),
            queue_depth: job.depth(),
            read_percent: job.read_percent(),
            sides: figures(sides, &speeds),
        })
    }

    /// How the store compares with a side.
    pub(super) fn ratio(&self, side: Side) -> Option<Ratio> {
        let figure = self.sides.iter().find(|figure| figure.side == side)?;
        figure.ratio
    }

    pub(super) fn speed(&self, side: Side) -> Option<Speed> {
        let figure = self.sides.iter().find(|figure| figure.side == side)?;
        Some(figure.speed)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let kind = format!("{:?}", self.workload).to_lowercase();
        let line = |(at, figure): (usize, &Figure)| {
            let head = match at {
                0 => format!("{kind:<9} {:>7} {:>4}", self.size, self.queue_depth),
                _ => format!("{:22}", ""),
            };
            let us = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| format!("{us:.1}"));
            let ratio = figure.ratio.map_or_else(String::new, |ratio| {
                format!(
                    "{:>7.3} ({:.3} to {:.3})",
                    ratio.median, ratio.min, ratio.max
                )
            });
            let line = format!(
                "{head}  {:<6} {:>13.0} {:>10.1} {:>9} {:>9}   {ratio}",
                figure.side.name(),
                figure.speed.per_second,
                figure.speed.mib_per_second,
                us(figure.speed.p50_us),
                us(figure.speed.p99_us),
            );
            line.trim_end().to_owned()
        };
        self.sides.iter().enumerate().map(line).collect()
    }
}

fn size(sizes: Sizes) -> String {
    match sizes {
        Sizes::KvCache => "64K-32M".into(),
        Sizes::Fixed(bytes) if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => {
            format!("{}M", bytes >> 20)
        }
        Sizes::Fixed(bytes) if bytes >= 1 << 10 && bytes % (1 << 10) == 0 => {
            format!("{}k", bytes >> 10)
        }
        Sizes::Fixed(bytes) => bytes.to_string(),
    }
}

fn figures(sides: &[Side], speeds: &[Vec<Speed>]) -> Vec<Figure> {
    let of = |side: Side| {
        let at = sides.iter().position(|other| *other == side);
        at.map(|at| speeds[at].as_slice()).unwrap_or_default()
    };
    let store = of(Side::Store);
    let figure = |side: &Side| {
        let theirs = of(*side);
        let rounds: Vec<Round> = store
            .iter()
            .zip(theirs)
            .map(|(ours, theirs)| Round {
                ours: ours.mib_per_second,
                theirs: theirs.mib_per_second,
            })
            .collect();
        let compared = Comparison::of(&rounds).filter(|_| *side != Side::Store);
        Figure {
            side: *side,
            speed: middle(theirs),
            ratio: compared.map(|compared| Ratio {
                median: compared.ratio,
                min: compared.ratio_min,
                max: compared.ratio_max,
            }),
        }
    };
    sides.iter().map(figure).collect()
}

/// The medians of each figure.
fn middle(speeds: &[Speed]) -> Speed {
    let of = |figure: fn(&Speed) -> f64| median(speeds.iter().map(figure).collect());
    let some = |figure: fn(&Speed) -> Option<f64>| {
        let there: Vec<f64> = speeds.iter().filter_map(figure).collect();
        (!there.is_empty()).then(|| median(there))
    };
    Speed {
        per_second: of(|speed| speed.per_second),
        mib_per_second: of(|speed| speed.mib_per_second),
        p50_us: some(|speed| speed.p50_us),
        p99_us: some(|speed| speed.p99_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeds(mib: &[f64]) -> Vec<Speed> {
        let speed = |&mib| Speed {
            per_second: mib * 256.0,
            mib_per_second: mib,
            p50_us: Some(10.0),
            p99_us: None,
        };
        mib.iter().map(speed).collect()
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let sides = [Side::Raw, Side::Store];
        let measured = [speeds(&[100.0, 50.0, 200.0]), speeds(&[90.0, 40.0, 150.0])];
        let row = Row {
            workload: Kind::Get,
            size: size(Sizes::Fixed(4096)),
            queue_depth: 32,
            read_percent: 100,
            sides: figures(&sides, &measured),
        };
        let ratio = row.ratio(Side::Raw).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.8, 0.75, 0.9));
        assert_eq!(row.ratio(Side::Store), None);
        let lines = row.lines();
        assert_eq!(
            lines[0],
            "get            4k   32  raw            25600      100.0      10.0         -     0.800 (0.750 to 0.900)"
        );
        assert_eq!(
            lines[1],
            "                        store          23040       90.0      10.0         -"
        );
    }

    #[test]
    fn sizes_have_short_names() {
        let name = |bytes| size(Sizes::Fixed(bytes));
        assert_eq!(
            [name(1 << 20), name(64 << 10), name(4097), name(1)],
            ["1M", "64k", "4097", "1"]
        );
    }
}
