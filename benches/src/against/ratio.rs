//! Two sides measured in turn, and how they compare.

/// One round: both sides, in the unit of the comparison (more is better).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Round {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
}

/// Medians over all rounds. The ratio is taken within each round, because the
/// machine's mood changes between rounds more than within one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
}

impl Comparison {
    /// None without rounds, or where a side came out at zero.
    pub(crate) fn of(rounds: &[Round]) -> Option<Self> {
        if rounds.is_empty()
            || rounds
                .iter()
                .any(|round| round.ours <= 0.0 || round.theirs <= 0.0)
        {
            return None;
        }
        let ratios: Vec<f64> = rounds
            .iter()
            .map(|round| round.ours / round.theirs)
            .collect();
        Some(Self {
            ours: median(rounds.iter().map(|round| round.ours).collect()),
            theirs: median(rounds.iter().map(|round| round.theirs).collect()),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            ratio: median(ratios),
        })
    }
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(ours: f64, theirs: f64) -> Round {
        Round { ours, theirs }
    }

    #[test]
    fn a_slow_round_of_both_sides_does_not_move_the_ratio() {
        let rounds = [round(100.0, 100.0), round(50.0, 50.0), round(98.0, 100.0)];
        let comparison = Comparison::of(&rounds).unwrap();
        assert_eq!(comparison.ratio, 1.0);
        assert_eq!((comparison.ratio_min, comparison.ratio_max), (0.98, 1.0));
        assert_eq!((comparison.ours, comparison.theirs), (98.0, 100.0));
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn a_side_that_did_nothing_is_no_comparison() {
        assert_eq!(Comparison::of(&[]), None);
        assert_eq!(Comparison::of(&[round(1.0, 0.0)]), None);
        assert_eq!(Comparison::of(&[round(0.0, 1.0)]), None);
    }
}
