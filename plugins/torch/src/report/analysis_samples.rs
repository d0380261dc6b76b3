//! What single samples tell about backtracks that scores don't: how they go with being right, and how often a solution
//! that was wrong at first ends right.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::formats::Tally;
use crate::scoring::by_backtracks;

/// One judged sample, as far as the analysis needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleFacts {
    pub correct: bool,
    pub num_backtracks: usize,
    /// Whether the first answer that the text states is wrong; `None` where that isn't known.
    pub first_wrong: Option<bool>,
}

/// Samples of one model on one benchmark, counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleStats {
    pub num_samples: usize,
    /// Mean backtracks of correct samples, and of wrong ones.
    pub backtracks_if_correct: Option<f64>,
    pub backtracks_if_wrong: Option<f64>,
    /// Samples whose first stated answer is wrong, and those of them that are correct in the end.
    pub num_first_wrong: usize,
    pub num_recovered: usize,
    /// Samples of which it is known whether their first stated answer is wrong.
    pub num_first_known: usize,
    /// num_recovered / num_first_wrong.
    pub recovery_rate: Option<f64>,
    #[serde(skip)]
    pub by_backtracks: BTreeMap<String, Tally>,
}

/// Counts samples.
pub fn sample_stats(samples: &[SampleFacts]) -> SampleStats {
    let mean = |correct: bool| {
        let counts: Vec<usize> = samples
            .iter()
            .filter(|s| s.correct == correct)
            .map(|s| s.num_backtracks)
            .collect();
        (!counts.is_empty()).then(|| counts.iter().sum::<usize>() as f64 / counts.len() as f64)
    };
    let first_wrong: Vec<&SampleFacts> = samples.iter().filter(|s| s.first_wrong == Some(true)).collect();
    let num_recovered = first_wrong.iter().filter(|s| s.correct).count();
    SampleStats {
        num_samples: samples.len(),
        backtracks_if_correct: mean(true),
        backtracks_if_wrong: mean(false),
        num_first_wrong: first_wrong.len(),
        num_recovered,
        num_first_known: samples.iter().filter(|s| s.first_wrong.is_some()).count(),
        recovery_rate: (!first_wrong.is_empty()).then(|| num_recovered as f64 / first_wrong.len() as f64),
        by_backtracks: by_backtracks(samples.iter().map(|s| (s.num_backtracks, s.correct))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(correct: bool, num_backtracks: usize, first_wrong: Option<bool>) -> SampleFacts {
        SampleFacts {
            correct,
            num_backtracks,
            first_wrong,
        }
    }

    #[test]
    fn samples_are_counted() {
        let stats = sample_stats(&[
            facts(true, 0, Some(false)),
            facts(true, 3, Some(true)),
            facts(true, 5, Some(true)),
            facts(false, 1, Some(true)),
            facts(false, 0, None),
        ]);
        assert_eq!(
            (stats.backtracks_if_correct, stats.backtracks_if_wrong),
            (Some(8.0 / 3.0), Some(0.5))
        );
        assert_eq!(
            (stats.num_first_wrong, stats.num_recovered, stats.num_first_known),
            (3, 2, 4)
        );
        assert_eq!(stats.recovery_rate, Some(2.0 / 3.0));
        let at = |name: &str| stats.by_backtracks[name];
        assert_eq!(
            (at("3+").num_samples, at("3+").num_correct, at("0").num_correct),
            (2, 2, 1)
        );
    }

    #[test]
    fn what_nothing_is_known_of_is_absent() {
        let stats = sample_stats(&[facts(true, 1, None)]);
        assert_eq!((stats.backtracks_if_wrong, stats.recovery_rate), (None, None));
    }
}
