//! pass@k: at least one of k samples is correct.

use crate::formats::ProblemScore;

/// Returns the share of a problem's samples that are correct; 0 without samples.
pub fn rate(problem: &ProblemScore) -> f64 {
    problem.num_correct as f64 / problem.num_samples.max(1) as f64
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problem(num_samples: usize, num_correct: usize) -> ProblemScore {
        ProblemScore {
            num_samples,
            num_correct,
            ..ProblemScore::default()
        }
    }

    /// Counts the share of all subsets of size k that hold a correct sample.
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
        let problems = [problem(4, 1), problem(4, 2)];
        let at = |k| mean_pass_at(&problems, k).expect("there are problems");
        assert!((at(1.0) - 0.375).abs() < 1e-12);
        assert!((at(2.0) - 2.0 / 3.0).abs() < 1e-12);
        assert!((at(1.5) - (0.375 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(mean_pass_at(&[], 1.0), None);
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
