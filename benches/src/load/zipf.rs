//! Zipf-distributed offsets: rank `k` (from 0) with a weight of `1 / (k+1)^theta`.
//!
//! Rejection inversion (Hörmann and Derflinger, "Rejection-inversion to
//! generate variates from monotone discrete distributions", 1996): no table,
//! so a range of 2^50 blocks costs as little to set up as one of ten, and any
//! theta above zero works, one included.

use super::rng::Rng;

#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    ranks: f64,
    theta: f64,
    /// The integral of the hat up to 1.5 less the weight of the first rank.
    low: f64,
    /// The integral of the hat up to `ranks + 0.5`.
    high: f64,
    /// A shift within which a candidate is accepted without evaluating its weight.
    accept: f64,
}

impl Zipf {
    /// None where there are no ranks, or theta is not a finite number above 0.
    pub(crate) fn new(ranks: u64, theta: f64) -> Option<Self> {
        if ranks == 0 || !theta.is_finite() || theta <= 0.0 {
            return None;
        }
        let ranks = ranks as f64;
        Some(Self {
            ranks,
            theta,
            low: integral(1.5, theta) - 1.0,
            high: integral(ranks + 0.5, theta),
            accept: 2.0 - inverse(integral(2.5, theta) - weight(2.0, theta), theta),
        })
    }

    /// A rank below the number given to `new`; rank 0 is the most frequent.
    pub(crate) fn rank(&self, rng: &mut Rng) -> u64 {
        loop {
            let u = self.high + rng.unit() * (self.low - self.high);
            let x = inverse(u, self.theta);
            let k = (x + 0.5).floor().clamp(1.0, self.ranks);
            if k - x <= self.accept || u >= integral(k + 0.5, self.theta) - weight(k, self.theta) {
                return k as u64 - 1;
            }
        }
    }
}

fn weight(x: f64, theta: f64) -> f64 {
    (-theta * x.ln()).exp()
}

/// The integral of `x^-theta`, up to a constant, in a form that stays exact
/// where theta comes close to 1 and the textbook form divides by zero.
fn integral(x: f64, theta: f64) -> f64 {
    let log_x = x.ln();
    expm1_over((1.0 - theta) * log_x) * log_x
}

/// The inverse function of `integral`.
fn inverse(y: f64, theta: f64) -> f64 {
    let t = (y * (1.0 - theta)).max(-1.0);
    (ln1p_over(t) * y).exp()
}

/// `(e^x - 1) / x`, 1 at zero.
fn expm1_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0
    }
}

/// `ln(1 + x) / x`, 1 at zero.
fn ln1p_over(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.ln_1p() / x
    } else {
        1.0 - x / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares observed frequencies with the exact ones over a few ranks.
    fn frequencies_match(theta: f64, ranks: u64) {
        let zipf = Zipf::new(ranks, theta).unwrap();
        let mut rng = Rng::new(42);
        let draws = 400_000;
        let mut seen = vec![0u64; ranks as usize];
        for _ in 0..draws {
            seen[zipf.rank(&mut rng) as usize] += 1;
        }
        let total: f64 = (1..=ranks).map(|k| (k as f64).powf(-theta)).sum();
        for k in [0, 1, 2, 5, ranks as usize - 1] {
            let expected = ((k + 1) as f64).powf(-theta) / total * f64::from(draws);
            let spread = 6.0 * expected.sqrt() + 1.0;
            let off = (seen[k] as f64 - expected).abs();
            assert!(
                off < spread,
                "theta {theta} rank {k}: {} against {expected}",
                seen[k]
            );
        }
    }

    #[test]
    fn frequencies_match_the_definition_below_at_and_above_one() {
        for theta in [0.5, 0.99, 1.0, 1.2, 3.0] {
            frequencies_match(theta, 100);
        }
    }

    #[test]
    fn huge_ranges_stay_within_bounds() {
        let ranks = 1u64 << 50;
        let zipf = Zipf::new(ranks, 0.8).unwrap();
        let mut rng = Rng::new(3);
        assert!((0..10_000).all(|_| zipf.rank(&mut rng) < ranks));
    }

    #[test]
    fn a_single_rank_is_always_drawn() {
        let zipf = Zipf::new(1, 1.1).unwrap();
        let mut rng = Rng::new(3);
        assert!((0..100).all(|_| zipf.rank(&mut rng) == 0));
    }

    #[test]
    fn senseless_parameters_are_refused() {
        assert!(Zipf::new(0, 1.0).is_none());
        assert!(Zipf::new(10, 0.0).is_none());
        assert!(Zipf::new(10, -1.0).is_none());
        assert!(Zipf::new(10, f64::NAN).is_none());
    }
}
