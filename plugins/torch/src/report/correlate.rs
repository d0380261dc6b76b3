//! Correlation over few points: Pearson's r with two intervals, Spearman's, and r with other quantities held constant.
//!
//! Every figure is absent, not zero, where it has no meaning: fewer points than it needs, or one side that doesn't vary.
//! Knows numbers only.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::scoring::bootstrap::quantile;

/// Standard normal quantile of 0.975.
const Z95: f64 = 1.959_963_984_540_054;
/// A side that spreads less than this, as a share of its mean, is constant up to rounding (scipy warns below the same).
const CONSTANT: f64 = 1e-13;
/// With fewer points any r is likely by chance.
pub const MIN_POINTS: usize = 3;

/// How two quantities go together over some points.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Correlation {
    pub num_points: usize,
    /// Pearson's r in [-1, 1].
    pub pearson: Option<f64>,
    /// 95% interval by Fisher's z, `tanh(atanh r +- 1.96 / sqrt(n - 3))`; needs four points.
    pub fisher_ci95: Option<[f64; 2]>,
    /// 95% percentile bootstrap interval over points; needs four points.
    pub bootstrap_ci95: Option<[f64; 2]>,
    /// Spearman's rank correlation; ties have their mean rank.
    pub spearman: Option<f64>,
}

/// Correlates `x` with `y`, which are as long as each other.
pub fn correlate(x: &[f64], y: &[f64], num_resamples: usize, seed: u64) -> Correlation {
    let r = pearson(x, y);
    Correlation {
        num_points: x.len(),
        pearson: r,
        fisher_ci95: r.and_then(|r| fisher_interval(r, x.len(), 0)),
        bootstrap_ci95: r.and_then(|_| bootstrap_interval(x, y, num_resamples, seed)),
        spearman: spearman(x, y),
    }
}

/// Returns Pearson's r, or `None` for fewer than three points or a side that is constant.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() < MIN_POINTS || x.len() != y.len() {
        return None;
    }
    let (dx, dy) = (deviations(x)?, deviations(y)?);
    let r = dx.iter().zip(&dy).map(|(a, b)| a * b).sum::<f64>();
    Some(r.clamp(-1.0, 1.0))
}

/// Returns the deviations from the mean, scaled to a norm of 1; `None` if there are none to speak of.
fn deviations(values: &[f64]) -> Option<Vec<f64>> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviations: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let norm = deviations.iter().map(|d| d * d).sum::<f64>().sqrt();
    (norm.is_finite() && norm > CONSTANT * mean.abs()).then(|| deviations.iter().map(|d| d / norm).collect())
}

/// Returns Spearman's rank correlation, or `None` as [`pearson`].
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Returns ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for ties in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + f64::midpoint(1.0, ties.len() as f64);
        ties.iter().for_each(|idx| ranks[*idx] = rank);
        before += ties.len();
    }
    ranks
}

/// r with a third quantity held constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Partial {
    pub r: f64,
    /// As [`Correlation::fisher_ci95`], with one more degree of freedom spent; needs five points.
    pub fisher_ci95: Option<[f64; 2]>,
}

/// Returns the first-order partial correlation of `x` and `y` given `z`,
/// `(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))`.
///
/// `None` for fewer than four points (three leave no freedom: the figure is always 1 or -1), for constant sides, and
/// where `z` settles `x` or `y` by itself.
pub fn partial(x: &[f64], y: &[f64], z: &[f64]) -> Option<Partial> {
    if x.len() < 4 {
        return None;
    }
    let (xy, xz, yz) = (pearson(x, y)?, pearson(x, z)?, pearson(y, z)?);
    let left = (1.0 - xz * xz) * (1.0 - yz * yz);
    if left < 1e-12 {
        return None;
    }
    let r = ((xy - xz * yz) / left.sqrt()).clamp(-1.0, 1.0);
    Some(Partial {
        r,
        fisher_ci95: fisher_interval(r, x.len(), 1),
    })
}

/// `num_controlled` quantities are held constant.
fn fisher_interval(r: f64, num_points: usize, num_controlled: usize) -> Option<[f64; 2]> {
    let freedom = num_points
        .checked_sub(3 + num_controlled)
        .filter(|freedom| *freedom > 0)?;
    let reach = Z95 / (freedom as f64).sqrt();
    // atanh of 1 is infinite, and tanh brings it back to 1.
    Some([(r.atanh() - reach).tanh(), (r.atanh() + reach).tanh()])
}

/// Draws points with replacement; draws in which a side is constant have no r and are left out, and where that is
/// most of them there is no interval.
fn bootstrap_interval(x: &[f64], y: &[f64], num_resamples: usize, seed: u64) -> Option<[f64; 2]> {
    let n = x.len();
    if n < 4 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Centred once, so that sums of squares lose no digits; r doesn't change.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let pairs: Vec<(f64, f64)> = x.iter().zip(y).map(|(a, b)| (a - mean_x, b - mean_y)).collect();
    let mut draw = || {
        let (mut sx, mut sy, mut sxx, mut syy, mut sxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for _ in 0..n {
            let (a, b) = pairs[rng.random_range(0..n)];
            sx += a;
            sy += b;
            sxx += a * a;
            syy += b * b;
            sxy += a * b;
        }
        let (vx, vy) = (sxx - sx * sx / n as f64, syy - sy * sy / n as f64);
        let varies = vx > 1e-12 * sxx && vy > 1e-12 * syy;
        varies.then(|| ((sxy - sx * sy / n as f64) / (vx * vy).sqrt()).clamp(-1.0, 1.0))
    };
    let mut all: Vec<f64> = (0..num_resamples.max(1)).filter_map(|_| draw()).collect();
    if 2 * all.len() < num_resamples {
        return None;
    }
    all.sort_by(f64::total_cmp);
    Some([quantile(&all, 0.025), quantile(&all, 0.975)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// Made by `tests/fixtures/correlate/reference.py` with scipy and numpy.
    #[derive(Deserialize)]
    struct Reference {
        name: String,
        x: Vec<f64>,
        y: Vec<f64>,
        z: Vec<f64>,
        pearson: Option<f64>,
        fisher_ci95: Option<[f64; 2]>,
        bootstrap_ci95: Option<[f64; 2]>,
        spearman: Option<f64>,
        partial: Option<f64>,
        partial_ci95: Option<[f64; 2]>,
    }

    fn references() -> Vec<Reference> {
        let text = include_str!("../../tests/fixtures/correlate/references.json");
        serde_json::from_str(text).expect("the fixture is JSON")
    }

    fn assert_near(what: &str, got: Option<f64>, want: Option<f64>, tolerance: f64) {
        match (got, want) {
            (Some(got), Some(want)) => assert!((got - want).abs() <= tolerance, "{what}: {got}, expected {want}"),
            _ => assert_eq!(got, want, "{what}"),
        }
    }

    fn assert_interval(what: &str, got: Option<[f64; 2]>, want: Option<[f64; 2]>, tolerance: f64) {
        for end in [0, 1] {
            assert_near(what, got.map(|ci| ci[end]), want.map(|ci| ci[end]), tolerance);
        }
    }

    #[test]
    fn figures_are_those_of_scipy() {
        let all = references();
        assert!(all.len() >= 8);
        for case in all {
            let got = correlate(&case.x, &case.y, 20_000, 3);
            let name = &case.name;
            assert_near(name, got.pearson, case.pearson, 1e-12);
            assert_near(name, got.spearman, case.spearman, 1e-12);
            assert_interval(name, got.fisher_ci95, case.fisher_ci95, 1e-10);
            // Two bootstraps with other draws: as near as 20,000 resamples let them be.
            assert_interval(name, got.bootstrap_ci95, case.bootstrap_ci95, 0.03);
            let got = partial(&case.x, &case.y, &case.z);
            assert_near(name, got.map(|p| p.r), case.partial, 1e-9);
            assert_interval(name, got.and_then(|p| p.fisher_ci95), case.partial_ci95, 1e-8);
        }
    }

    #[test]
    fn too_few_points_and_constant_sides_have_no_figure() {
        assert_eq!(pearson(&[1.0, 2.0], &[3.0, 4.0]), None);
        assert_eq!(pearson(&[0.1 + 0.2, 0.3, 0.3], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[5.0; 4], &[1.0, 2.0, 3.0, 4.0]), None);
        let three = correlate(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0], 100, 1);
        assert!(three.pearson.is_some() && three.fisher_ci95.is_none() && three.bootstrap_ci95.is_none());
        assert_eq!(partial(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0], &[2.0, 1.0, 3.0]), None);
        let x = [1.0, 2.0, 4.0, 7.0];
        assert_eq!(partial(&x, &[1.0, 3.0, 2.0, 5.0], &x), None, "z settles x");
    }

    proptest! {
        #[test]
        fn r_knows_no_units_and_no_order(
            pairs in proptest::collection::vec((-50.0..50.0f64, -50.0..50.0f64), 3..30),
            scale in 0.01..100.0f64, shift in -100.0..100.0f64,
        ) {
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            if let (Some(r), Some(rho)) = (pearson(&x, &y), spearman(&x, &y)) {
                prop_assert!((-1.0..=1.0).contains(&r) && (-1.0..=1.0).contains(&rho));
                let other: Vec<f64> = x.iter().map(|v| v * scale + shift).collect();
                prop_assert!((pearson(&other, &y).expect("it varies") - r).abs() < 1e-6);
                let flipped: Vec<f64> = y.iter().map(|v| -v).collect();
                prop_assert!((pearson(&x, &flipped).expect("it varies") + r).abs() < 1e-12);
                let reversed = |v: &[f64]| v.iter().rev().copied().collect::<Vec<f64>>();
                prop_assert!((spearman(&reversed(&y), &reversed(&x)).expect("it varies") - rho).abs() < 1e-12);
            }
        }
    }
}
