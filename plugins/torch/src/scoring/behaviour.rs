//! How samples were written: length, backtracks, reflections, and whether a wrong first answer was mended.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::bootstrap::quantile;
use crate::formats::{Behaviour, Problem, Recovery, Sample, Tally};
use crate::verify::{self, BacktrackPatterns, count_backtracks};

/// What makes a paragraph a reflection: ASTRO's question before a verdict, and the usual words of doubt.
const REFLECTIONS: [&str; 2] = [r"(?i)\bbut wait\b", r"(?i)\bhmm+\b"];

/// Backtracks from here on share a row.
const MANY_BACKTRACKS: usize = 3;

/// Tells whether the first answer that a completion states is wrong, mended later or not; `None` where it states none.
///
/// Of math that is what is declared before the first return sentence (a box, "the answer is"), else the first box: a mere
/// value that a return gives up is a step. For a text without a box it is what the text states at all.
pub fn is_first_answer_wrong(problem: &Problem, completion: &str) -> Option<bool> {
    let first = verify::first_answer(problem.verifier, completion)?;
    Some(!verify::same_answer(problem.verifier, &problem.answer, &first))
}

/// One sample, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub num_tokens: usize,
    pub num_backtracks: usize,
    pub num_reflections: usize,
    pub correct: bool,
    pub truncated: bool,
    /// See [`is_first_answer_wrong`].
    first_wrong: Option<bool>,
}

impl Counted {
    /// Counts a sample of a problem.
    pub fn of(problem: &Problem, sample: &Sample) -> Self {
        Self {
            num_tokens: sample.num_tokens,
            num_backtracks: sample.num_backtracks,
            num_reflections: num_reflections(&sample.completion),
            correct: sample.correct,
            truncated: sample.truncated,
            first_wrong: is_first_answer_wrong(problem, &sample.completion),
        }
    }
}

/// Returns the number of paragraphs before the final answer in which a text doubts or checks itself.
fn num_reflections(text: &str) -> usize {
    static PATTERNS: LazyLock<BacktrackPatterns> =
        LazyLock::new(|| BacktrackPatterns::new(&REFLECTIONS).expect("the built-in patterns are regular expressions"));
    count_backtracks(text, &PATTERNS)
}

/// Returns the mean of a value over samples; 0 without samples.
pub fn mean(samples: &[Counted], value: impl Fn(&Counted) -> f64) -> f64 {
    samples.iter().map(value).sum::<f64>() / samples.len().max(1) as f64
}

/// Returns percentiles of the tokens of a sample; empty where nobody counted tokens.
pub fn token_percentiles(samples: &[Counted]) -> BTreeMap<String, f64> {
    let mut tokens: Vec<f64> = samples.iter().map(|sample| sample.num_tokens as f64).collect();
    tokens.sort_by(f64::total_cmp);
    if tokens.last().is_none_or(|most| *most == 0.0) {
        return BTreeMap::new();
    }
    [("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)]
        .map(|(name, q)| (name.to_owned(), quantile(&tokens, q)))
        .into()
}

/// Returns samples and correct ones by number of backtracks, from each sample's backtracks and verdict.
pub fn by_backtracks(samples: impl IntoIterator<Item = (usize, bool)>) -> BTreeMap<String, Tally> {
    let mut rows = BTreeMap::<String, Tally>::new();
    for (num_backtracks, correct) in samples {
        let row = if num_backtracks >= MANY_BACKTRACKS {
            format!("{MANY_BACKTRACKS}+")
        } else {
            num_backtracks.to_string()
        };
        let tally = rows.entry(row).or_default();
        tally.num_samples += 1;
        tally.num_correct += usize::from(correct);
    }
    rows
}

/// Returns how correct and how wrong samples were written; a verdict that no sample has is left out.
pub fn by_verdict(samples: &[Counted]) -> BTreeMap<String, Behaviour> {
    let of = |correct: bool| {
        let own: Vec<Counted> = samples.iter().filter(|s| s.correct == correct).copied().collect();
        (!own.is_empty()).then(|| Behaviour {
            num_samples: own.len(),
            mean_tokens: mean(&own, |s| s.num_tokens as f64),
            mean_backtracks: mean(&own, |s| s.num_backtracks as f64),
            mean_reflections: mean(&own, |s| s.num_reflections as f64),
            with_backtracks: mean(&own, |s| f64::from(s.num_backtracks > 0)),
        })
    };
    [("correct", true), ("wrong", false)]
        .into_iter()
        .filter_map(|(name, correct)| Some((name.to_owned(), of(correct)?)))
        .collect()
}

/// Counts the samples whose first stated answer was wrong, and which of them were correct in the end.
pub fn recovery(samples: &[Counted]) -> Recovery {
    let wrong: Vec<&Counted> = samples.iter().filter(|s| s.first_wrong == Some(true)).collect();
    Recovery {
        num_first_wrong: wrong.len(),
        num_recovered: wrong.iter().filter(|s| s.correct).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::tests::{problem, sample};

    fn counted(completion: &str, correct: bool) -> Counted {
        let sample = Sample {
            completion: completion.to_owned(),
            num_tokens: completion.len(),
            num_backtracks: completion.matches("go back").count(),
            ..sample("p", None, correct)
        };
        Counted::of(&problem("p", "4"), &sample)
    }

    #[test]
    fn recovery_counts_what_was_wrong_at_first() {
        let samples = [
            counted("\\boxed{5}\n\nBut wait. Let's go back to x.\n\n\\boxed{4}", true),
            counted("\\boxed{5}\n\nHmm...\n\n\\boxed{6}", false),
            counted("\\boxed{4}", true),
            counted("no answer at all", false),
        ];
        let recovery = recovery(&samples);
        assert_eq!((recovery.num_first_wrong, recovery.num_recovered), (2, 1));
        assert_eq!(recovery.rate(), Some(0.5));
        assert_eq!(Recovery::default().rate(), None);
        assert_eq!(mean(&samples, |s| s.num_reflections as f64), 0.5);
        let verdicts = by_verdict(&samples);
        assert_eq!(
            (verdicts["correct"].num_samples, verdicts["correct"].with_backtracks),
            (2, 0.5)
        );
        let rows = by_backtracks(samples.iter().map(|s| (s.num_backtracks, s.correct)));
        assert_eq!(rows["1"].num_correct, 1);
    }

    #[test]
    fn the_first_answer_is_declared_and_not_a_step_that_a_return_gives_up() {
        let wrong = |completion: &str| is_first_answer_wrong(&problem("p", "4"), completion);
        assert_eq!(
            wrong("x is 5.\n\nBut wait. Let's go back to x.\n\n\\boxed{4}"),
            Some(false)
        );
        assert_eq!(
            wrong("x is 5. The answer is 5.\n\nBut wait. Let's go back to x.\n\n\\boxed{4}"),
            Some(true)
        );
        assert_eq!(wrong("\\boxed{5}\n\nLet's restart.\n\n\\boxed{4}"), Some(true));
        // As of a sample that was cut off, and so is not correct.
        assert_eq!(wrong("So \\boxed{4}. Let me check"), Some(false));
        assert_eq!(wrong("I do not know."), None);
    }

    #[test]
    fn lengths_that_nobody_counted_have_no_percentiles() {
        assert!(token_percentiles(&[counted("", true)]).is_empty());
        assert!(token_percentiles(&[]).is_empty());
        let got = token_percentiles(&[counted("ab", true), counted("abcd", true)]);
        assert_eq!((got["p50"], got["max"]), (3.0, 4.0));
    }
}
