//! The statistics of a comparison: pass@k, pass@k at a token budget, and paired differences with an interval.
//!
//! Works on counts per problem and knows neither where they come from nor how they are shown. Problems, not samples,
//! are the unit that the bootstrap draws: the samples of one problem are not independent.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::formats::ProblemScore;

/// Returns the unbiased estimate of pass@k for one problem with `num_correct` of `num_samples` correct.
///
/// `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, arXiv:2107.03374), as a product that can't overflow. `k` above
/// `num_samples` is taken as `num_samples`; no samples give 0.
pub fn pass_at_k(num_samples: usize, num_correct: usize, k: usize) -> f64 {
    let (n, c, k) = (num_samples, num_correct.min(num_samples), k.min(num_samples));
    if k == 0 {
        return 0.0;
    }
    if n - c < k {
        return 1.0;
    }
    1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

/// Returns the mean of pass@k over problems for a `k` that need not be whole: linear between its neighbours.
///
/// `None` without problems.
pub fn mean_pass_at(problems: &[ProblemScore], k: f64) -> Option<f64> {
    if problems.is_empty() {
        return None;
    }
    let k = k.max(1.0);
    let (low, share) = (k.floor() as usize, k.fract());
    let sum: f64 = problems
        .iter()
        .map(|p| {
            let at_low = pass_at_k(p.num_samples, p.num_correct, low);
            if share == 0.0 {
                return at_low;
            }
            at_low * (1.0 - share) + pass_at_k(p.num_samples, p.num_correct, low + 1) * share
        })
        .sum();
    Some(sum / problems.len() as f64)
}

/// pass@k with as many samples as a token budget buys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EqualTokens {
    /// Samples that the budget buys: budget / mean tokens of a sample.
    pub k: f64,
    /// pass@k there; at the largest `k` that was drawn where the budget buys more.
    pub pass: f64,
    /// The budget buys more samples than were drawn, so `pass` is a lower bound.
    pub at_least: bool,
}

/// Returns pass@k for the `k` that `budget_tokens` buys at `mean_tokens` a sample.
///
/// Comparing models by pass@1 alone favours the one that writes more: a solution with backtracks costs several direct
/// ones (arXiv:2504.07052). `None` where there are no problems or no tokens to count.
pub fn equal_tokens(problems: &[ProblemScore], mean_tokens: f64, budget_tokens: f64) -> Option<EqualTokens> {
    let drawn = problems.iter().map(|p| p.num_samples).min()? as f64;
    if !(mean_tokens > 0.0 && budget_tokens.is_finite()) || drawn < 1.0 {
        return None;
    }
    let k = (budget_tokens / mean_tokens).max(1.0);
    Some(EqualTokens {
        k,
        pass: mean_pass_at(problems, k.min(drawn))?,
        at_least: k > drawn,
    })
}

/// How much more often one model is right than another on the same problems.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedDifference {
    /// Mean over problems of the difference in the share of correct samples.
    pub mean: f64,
    /// 95% percentile bootstrap interval over problems.
    pub ci95: [f64; 2],
    /// Problems that both models were asked.
    pub num_problems: usize,
}

impl PairedDifference {
    /// Tells whether the interval leaves out 0.
    pub fn resolved(&self) -> bool {
        self.ci95[0] > 0.0 || self.ci95[1] < 0.0
    }
}

/// Returns pass@1 of `to` minus pass@1 of `from` over the problems that both have, or `None` if they share none.
///
/// The same `seed` draws the same problems for every pair, so that a pair's interval doesn't depend on which other
/// pairs are asked for.
pub fn paired_difference(
    from: &[ProblemScore],
    to: &[ProblemScore],
    num_resamples: usize,
    seed: u64,
) -> Option<PairedDifference> {
    let rate = |p: &ProblemScore| p.num_correct as f64 / p.num_samples.max(1) as f64;
    let from: BTreeMap<&str, f64> = from.iter().map(|p| (p.id.as_str(), rate(p))).collect();
    let to: BTreeMap<&str, f64> = to.iter().map(|p| (p.id.as_str(), rate(p))).collect();
    let differences: Vec<f64> = to.iter().filter_map(|(id, b)| from.get(id).map(|a| b - a)).collect();
    if differences.is_empty() {
        return None;
    }
    let n = differences.len();
    let mean = differences.iter().sum::<f64>() / n as f64;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..num_resamples.max(1))
        .map(|_| (0..n).map(|_| differences[rng.random_range(0..n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    Some(PairedDifference {
        mean,
        ci95: [quantile(&means, 0.025), quantile(&means, 0.975)],
        num_problems: n,
    })
}

/// Returns the `q` quantile of sorted values, linear between neighbours; `values` is not empty.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let position = q * (values.len() - 1) as f64;
    let (low, share) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(values.len() - 1);
    values[low] * (1.0 - share) + values[high] * share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(id: &str, num_samples: usize, num_correct: usize) -> ProblemScore {
        ProblemScore {
            id: id.to_owned(),
            num_samples,
            num_correct,
            num_tokens: 0,
        }
    }

    /// The share of all subsets of size k that hold a correct sample.
    fn brute_force(n: usize, c: usize, k: usize) -> f64 {
        let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == k);
        let (mut all, mut hit) = (0.0, 0.0);
        for subset in subsets {
            all += 1.0;
            hit += f64::from(u8::from(subset & ((1 << c) - 1) != 0));
        }
        hit / all
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_correct_sample() {
        for n in 1..=9 {
            for c in 0..=n {
                for k in 1..=n {
                    let (got, want) = (pass_at_k(n, c, k), brute_force(n, c, k));
                    assert!((got - want).abs() < 1e-12, "n {n} c {c} k {k}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn a_fractional_k_lies_between_its_neighbours() {
        // n 4, c 1: pass@1 = 1/4, pass@2 = 1/2; n 4, c 2: 1/2 and 5/6. Means 0.375 and 0.6667.
        let problems = [problem("a", 4, 1), problem("b", 4, 2)];
        let at = |k| mean_pass_at(&problems, k).expect("there are problems");
        assert!((at(1.0) - 0.375).abs() < 1e-12);
        assert!((at(2.0) - 2.0 / 3.0).abs() < 1e-12);
        assert!((at(1.5) - (0.375 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(mean_pass_at(&[], 1.0), None);
    }

    #[test]
    fn a_budget_buys_more_samples_of_a_cheap_model() {
        let problems = [problem("a", 4, 1), problem("b", 4, 2)];
        // 100 tokens at 40 a sample: k = 2.5, between pass@2 = 2/3 and pass@3 = (3/4 + 1) / 2 = 0.875.
        let got = equal_tokens(&problems, 40.0, 100.0).expect("there are problems");
        assert!((got.k - 2.5).abs() < 1e-12 && !got.at_least);
        assert!((got.pass - (2.0 / 3.0 + 0.875) / 2.0).abs() < 1e-12);
        // The most expensive model gets one sample.
        let got = equal_tokens(&problems, 100.0, 100.0).expect("there are problems");
        assert!((got.k - 1.0).abs() < 1e-12 && (got.pass - 0.375).abs() < 1e-12);
        // 100 tokens at 10 a sample would buy 10 of the 4 that were drawn: pass@4 = 1 is a lower bound.
        let got = equal_tokens(&problems, 10.0, 100.0).expect("there are problems");
        assert!(got.at_least && (got.k - 10.0).abs() < 1e-12 && (got.pass - 1.0).abs() < 1e-12);
        assert_eq!(equal_tokens(&problems, 0.0, 100.0), None);
        assert_eq!(equal_tokens(&[], 10.0, 100.0), None);
    }

    #[test]
    fn differences_are_paired_by_problem() {
        let a: Vec<_> = (0..50).map(|i| problem(&format!("p{i}"), 4, i % 4)).collect();
        // One sample in four better on each problem, in another order, and one problem that only `b` has.
        let mut b: Vec<_> = (0..50).rev().map(|i| problem(&format!("p{i}"), 4, i % 4 + 1)).collect();
        b.push(problem("extra", 4, 0));
        let got = paired_difference(&a, &b, 500, 1).expect("they share problems");
        assert_eq!(got.num_problems, 50);
        assert!((got.mean - 0.25).abs() < 1e-12);
        assert!(
            got.ci95.iter().all(|v| (v - 0.25).abs() < 1e-12),
            "every problem differs alike: {got:?}"
        );
        assert!(got.resolved());
        assert_eq!(paired_difference(&a, &[problem("x", 1, 1)], 10, 1), None);
    }

    #[test]
    fn the_interval_is_as_wide_as_theory_says() {
        // 400 problems, differences -1, 0, +1 equally often: standard error sqrt(2/3) / 20 = 0.0408, 1.96 x that = 0.080.
        let a: Vec<_> = (0..399)
            .map(|i| problem(&format!("p{i}"), 1, usize::from(i % 3 == 0)))
            .collect();
        let b: Vec<_> = (0..399)
            .map(|i| problem(&format!("p{i}"), 1, usize::from(i % 3 == 1)))
            .collect();
        let got = paired_difference(&a, &b, 4000, 7).expect("they share problems");
        assert!(got.mean.abs() < 1e-12 && !got.resolved());
        assert!((got.ci95[1] - got.ci95[0] - 0.16).abs() < 0.012, "{got:?}");
        assert_eq!(paired_difference(&a, &b, 4000, 7), Some(got));
    }

    proptest! {
        #[test]
        fn pass_at_k_grows_with_k_and_with_correct(n in 1usize..64, c in 0usize..64, k in 1usize..64) {
            let (c, k) = (c.min(n), k.min(n));
            let here = pass_at_k(n, c, k);
            prop_assert!((0.0..=1.0).contains(&here));
            prop_assert!(pass_at_k(n, c, k + 1) >= here - 1e-12);
            prop_assert!(pass_at_k(n, c + 1, k) >= here - 1e-12);
        }
    }
}
