//! McNemar's exact test: do two models answer different problems right?
//!
//! The test is about one answer for each problem, so it is given the majority answers of all samples: with one sample,
//! as in greedy decoding, that is the sample itself. It says nothing of pass@1 with more samples; for that there is the
//! paired bootstrap. It needs independent problems, so that runs with several seeds, which answer each problem several
//! times, are not tested.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::formats::ProblemScore;

/// The outcome of the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Problems that only the first model's majority answers right.
    pub only_from: usize,
    /// Problems that only the second's does.
    pub only_to: usize,
    /// Two-sided exact p: how likely a split at least as uneven is, if both were as good.
    pub p_value: f64,
}

/// Tests two models on the problems that both were asked; `None` where they share none with a majority.
pub fn mcnemar(from: &[ProblemScore], to: &[ProblemScore]) -> Option<McNemar> {
    let verdicts = |p: &ProblemScore| Some((p.id.clone(), p.majority_correct?));
    let from: BTreeMap<String, bool> = from.iter().filter_map(verdicts).collect();
    let pairs: Vec<(bool, bool)> = to
        .iter()
        .filter_map(|p| Some((*from.get(&p.id)?, p.majority_correct?)))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let only_from = pairs.iter().filter(|(a, b)| *a && !b).count();
    let only_to = pairs.iter().filter(|(a, b)| !a && *b).count();
    Some(McNemar {
        only_from,
        only_to,
        p_value: p_value(only_from, only_to),
    })
}

/// Returns `min(1, 2 P(X <= min(b, c)))` for `X` of a binomial distribution with `b + c` fair trials.
fn p_value(b: usize, c: usize) -> f64 {
    let n = b + c;
    // C(n, i) / 2^n one after the other, in logarithms, since 2^n overflows at a thousand problems.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=b.min(c) {
        tail += log_term.exp();
        log_term += ((n - i) as f64 / (i + 1) as f64).ln();
    }
    f64::min(1.0, 2.0 * tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_scipy() {
        // scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue, scipy 1.17.1; statsmodels' mcnemar(exact=True) is the same.
        let expected = [
            (0, 0, 1.0),
            (0, 1, 1.0),
            (1, 5, 0.21875),
            (3, 12, 0.03515625),
            (10, 10, 1.0),
            (10, 11, 1.0),
            (40, 61, 0.046044066929342785),
            (120, 90, 0.045114087864840696),
            (0, 60, 1.734723475976807e-18),
            (700, 640, 0.10697992524490962),
            (2000, 1500, 2.942363832253349e-17),
        ];
        for (b, c, want) in expected {
            for got in [p_value(b, c), p_value(c, b)] {
                assert!((got - want).abs() <= 1e-9 * want, "{b} {c}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn only_problems_that_both_have_and_differ_in_count() {
        let score = |(id, correct): (&str, Option<bool>)| ProblemScore {
            id: id.to_owned(),
            majority_correct: correct,
            ..ProblemScore::default()
        };
        let from: Vec<_> = [("a", Some(true)), ("b", Some(true)), ("c", Some(false)), ("d", None)]
            .map(score)
            .into();
        let to: Vec<_> = [
            ("c", Some(true)),
            ("b", Some(true)),
            ("a", Some(false)),
            ("d", Some(true)),
            ("e", Some(true)),
        ]
        .map(score)
        .into();
        let got = mcnemar(&from, &to).expect("they share problems");
        assert_eq!((got.only_from, got.only_to, got.p_value), (1, 1, 1.0));
        assert_eq!(mcnemar(&from[3..], &to), None);
    }
}
