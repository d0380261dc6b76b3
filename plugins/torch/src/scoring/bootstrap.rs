//! Means, their standard error, and percentile bootstrap intervals.
//!
//! What is drawn again is problems, not samples: the samples of one problem are not independent.

use rand::Rng;

use crate::random;

/// The outer quantiles of a 95% interval.
const LOW: f64 = 0.025;
const HIGH: f64 = 0.975;

/// Returns the mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Returns the standard deviation of a sample (with n - 1), or `None` for fewer than two values.
pub fn sample_stddev(values: &[f64]) -> Option<f64> {
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// Returns the standard error of the mean: the sample's standard deviation over the root of its size.
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    Some(sample_stddev(values)? / (values.len() as f64).sqrt())
}

/// Returns the 95% interval of the mean over resampled values.
pub fn mean_interval(values: &[f64], num_resamples: usize, seed: u64) -> [f64; 2] {
    interval(num_resamples, seed, |rng| {
        let n = values.len();
        let sum: f64 = (0..n).map(|_| values[rng.random_range(0..n)]).sum();
        sum / n.max(1) as f64
    })
}

/// Returns the 95% interval of a statistic that draws its resample itself.
///
/// The same `seed` gives every statistic the same random numbers, so that an interval doesn't depend on which others are
/// asked for.
pub fn interval(
    num_resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&mut rand_chacha::ChaCha8Rng) -> f64,
) -> [f64; 2] {
    let mut rng = random::stream(seed, "bootstrap", 0);
    let mut values: Vec<f64> = (0..num_resamples.max(1)).map(|_| statistic(&mut rng)).collect();
    values.sort_by(f64::total_cmp);
    [quantile(&values, LOW), quantile(&values, HIGH)]
}

/// Returns the `q` quantile of sorted values, linear between neighbours, as numpy has it; 0 of nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let position = q * last as f64;
    let (low, share) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(last);
    values[low] * (1.0 - share) + values[high] * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_narrows_with_more_problems() {
        let rates = |count: usize| (0..count).map(|idx| (idx % 2) as f64).collect::<Vec<_>>();
        let width = |count| {
            let [low, high] = mean_interval(&rates(count), 2000, 1);
            assert!(low < 0.5 && 0.5 < high);
            high - low
        };
        let ratio = width(100) / width(1600);
        assert!(
            (3.0..5.5).contains(&ratio),
            "16 times the problems, a quarter of the width: {ratio}"
        );
    }

    #[test]
    fn standard_errors_need_two_values() {
        // Values 1, 2, 4: deviations from 7/3, squares 16/9 + 1/9 + 25/9 = 42/9; over 2, then over 3.
        let got = mean_stderr(&[1.0, 2.0, 4.0]).expect("three values");
        assert!((got - (42.0f64 / 9.0 / 2.0 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!((mean_stderr(&[1.0]), mean_stderr(&[])), (None, None));
    }

    #[test]
    fn quantiles_lie_between_values() {
        // numpy.quantile([1, 2, 4], [0, 0.25, 0.9, 1])
        let at = |q| quantile(&[1.0, 2.0, 4.0], q);
        assert_eq!((at(0.0), at(0.25), at(1.0)), (1.0, 1.5, 4.0));
        assert!((at(0.9) - 3.6).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
