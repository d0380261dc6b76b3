//! Judged samples -> scores: what `eval` reports, and the same for samples that come from a file.
//!
//! Pure: no model, no file, no clock; the only randomness is the bootstrap's, from a given seed. Definitions, shared
//! with `report`:
//! - pass@1: mean over problems of correct / samples. pass@k: `pass_at_k`.
//! - maj@k: the most frequent answer of the first k samples is correct; see `majority`.
//! - intervals: percentile bootstrap over problems; see `bootstrap`.
//!
//! lm-evaluation-harness computes the same (`repeats` with `take_first_k` and `majority_vote`, `mean_stderr`), but that
//! there votes are strings and a sample without an answer votes as one more string. `tests/fixtures/scores` has numbers
//! by its formulas.

mod behaviour;
pub mod bootstrap;
mod groups;
mod judge;
mod majority;
pub mod pass_at_k;
pub mod stored;

use std::collections::BTreeMap;

pub use behaviour::{by_backtracks, is_first_answer_wrong};
pub use judge::{Finished, judge};
pub use majority::Votes;

use crate::formats::{Changed, Problem, ProblemScore, Sample, Scores, VERSION};
use behaviour::Counted;
use pass_at_k::pass_at_k;

/// Resamples of the problems behind each interval.
const NUM_RESAMPLES: usize = 2000;

/// How the samples came about, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    pub temperature: Option<f64>,
    pub max_completion_length: Option<usize>,
    /// Of the bootstrap.
    pub seed: u64,
    pub changed: Option<Changed>,
}

/// Scores `lists[i]`, the samples of `problems[i]`, in the order in which they were drawn.
///
/// Every problem needs a sample. Where problems have different numbers of them, k goes up to the smallest.
pub fn score(problems: &[Problem], lists: &[Vec<Sample>], settings: &Settings) -> Scores {
    let num_samples = lists.iter().map(Vec::len).min().unwrap_or(0);
    let votes: Vec<Votes> = problems
        .iter()
        .zip(lists)
        .map(|(problem, list)| Votes::of(problem.verifier, list))
        .collect();
    let per_problem: Vec<ProblemScore> = problems
        .iter()
        .zip(lists)
        .zip(&votes)
        .map(|((problem, list), votes)| of_problem(problem, list, votes))
        .collect();
    let counted: Vec<Counted> = problems
        .iter()
        .zip(lists)
        .flat_map(|(problem, list)| list.iter().map(|sample| Counted::of(problem, sample)))
        .collect();
    let rates: Vec<f64> = per_problem.iter().map(pass_at_k::rate).collect();
    let interval = |values: &[f64]| bootstrap::mean_interval(values, NUM_RESAMPLES, settings.seed);
    let pass: Vec<f64> = per_problem
        .iter()
        .map(|p| pass_at_k(p.num_samples, p.num_correct, num_samples))
        .collect();
    let correct_by_vote = |votes: &Votes, k: usize| f64::from(votes.majority_is_correct(k));
    let majority: Vec<f64> = votes.iter().map(|votes| correct_by_vote(votes, num_samples)).collect();
    let ks = 1..=num_samples;
    let largest = |values: &[f64]| ks.clone().last().map(|k| (k, interval(values))).into_iter().collect();
    Scores {
        version: VERSION,
        num_problems: problems.len(),
        num_samples,
        temperature: settings.temperature,
        max_completion_length: settings.max_completion_length,
        pass_at_1: bootstrap::mean(&rates),
        pass_at_1_ci95: interval(&rates),
        pass_at_1_stderr: bootstrap::mean_stderr(&rates),
        pass_at_k: ks
            .clone()
            .map(|k| (k, pass_at_k::mean_pass_at(&per_problem, k as f64).unwrap_or(0.0)))
            .collect(),
        pass_at_k_ci95: largest(&pass),
        maj_at_k: ks
            .clone()
            .map(|k| {
                let correct: Vec<f64> = votes.iter().map(|votes| correct_by_vote(votes, k)).collect();
                (k, bootstrap::mean(&correct))
            })
            .collect(),
        maj_at_k_ci95: largest(&majority),
        mean_tokens: behaviour::mean(&counted, |sample| sample.num_tokens as f64),
        token_percentiles: behaviour::token_percentiles(&counted),
        mean_backtracks: behaviour::mean(&counted, |sample| sample.num_backtracks as f64),
        mean_reflections: Some(behaviour::mean(&counted, |sample| sample.num_reflections as f64)),
        truncated: behaviour::mean(&counted, |sample| f64::from(sample.truncated)),
        failures: failures(lists),
        by_backtracks: behaviour::by_backtracks(counted.iter().map(|s| (s.num_backtracks, s.correct))),
        by_verdict: behaviour::by_verdict(&counted),
        recovery: Some(behaviour::recovery(&counted)),
        by_meta: groups::by_meta(problems, &per_problem),
        changed: settings.changed,
        problems: per_problem,
    }
}

fn of_problem(problem: &Problem, list: &[Sample], votes: &Votes) -> ProblemScore {
    ProblemScore {
        id: problem.id.clone(),
        num_samples: list.len(),
        num_correct: list.iter().filter(|sample| sample.correct).count(),
        num_tokens: list.iter().map(|sample| sample.num_tokens).sum(),
        num_backtracks: list.iter().map(|sample| sample.num_backtracks).sum(),
        majority_correct: Some(votes.majority_is_correct(list.len())),
    }
}

/// Returns failure -> its share of all samples.
fn failures(lists: &[Vec<Sample>]) -> BTreeMap<String, f64> {
    let count = lists.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let mut counts = BTreeMap::<String, usize>::new();
    for failure in lists.iter().flatten().filter_map(|sample| sample.failure.as_ref()) {
        *counts.entry(failure.clone()).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(failure, n)| (failure, n as f64 / count))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::stored::{StoredError, StoredSample, judge_stored};
    use super::*;
    use crate::formats::VerifierName;

    /// A problem with a level.
    pub fn problem(id: &str, answer: &str) -> Problem {
        let meta = json!({"level": id.len(), "id_again": id, "one": 1, "list": [1]});
        Problem {
            version: VERSION,
            id: id.to_owned(),
            problem: format!("What is {answer}?"),
            answer: answer.to_owned(),
            verifier: VerifierName::Math,
            meta: meta.as_object().expect("an object").clone(),
        }
    }

    pub fn sample(problem_id: &str, answer: Option<&str>, correct: bool) -> Sample {
        Sample {
            version: VERSION,
            problem_id: problem_id.to_owned(),
            sample_idx: 0,
            prompt: String::new(),
            completion: String::new(),
            num_tokens: 10,
            answer: answer.map(str::to_owned),
            correct,
            truncated: false,
            num_backtracks: 1,
            failure: (!correct).then(|| "wrong_answer".to_owned()),
        }
    }

    #[test]
    fn a_problem_with_fewer_samples_bounds_k_and_counts_as_much_as_another() {
        let problems = [problem("a", "1"), problem("bb", "2")];
        let lists = [
            vec![sample("a", Some("1"), true), sample("a", Some("3"), false)],
            vec![sample("bb", Some("2"), true)],
        ];
        let scores = score(&problems, &lists, &Settings::default());
        assert_eq!((scores.num_samples, scores.pass_at_1), (1, 0.75));
        assert_eq!(scores.pass_at_k, BTreeMap::from([(1, 0.75)]));
        assert_eq!(scores.maj_at_k, BTreeMap::from([(1, 1.0)]));
        assert_eq!(scores.problems[0].majority_correct, Some(true));
        assert_eq!(scores.problems[0].num_backtracks, 2);
        assert_eq!(
            scores.failures,
            BTreeMap::from([("wrong_answer".to_owned(), 1.0 / 3.0)])
        );
    }

    #[test]
    fn fields_that_sort_problems_into_groups_are_scored_by_value() {
        let problems: Vec<Problem> = (0..30).map(|i| problem(&"x".repeat(1 + i % 2), "1")).collect();
        let lists: Vec<Vec<Sample>> = (0..30).map(|i| vec![sample("", None, i % 2 == 0)]).collect();
        let by_meta = score(&problems, &lists, &Settings::default()).by_meta;
        assert_eq!(by_meta["level"]["1"].pass_at_1, 1.0);
        assert_eq!(
            (by_meta["level"]["2"].num_problems, by_meta["level"]["2"].num_correct),
            (15, 0)
        );
        assert!(
            !by_meta.contains_key("one") && !by_meta.contains_key("list"),
            "{by_meta:?}"
        );
        let many: Vec<Problem> = (0..30).map(|i| problem(&format!("p{i:02}"), "1")).collect();
        assert!(
            !score(&many, &lists, &Settings::default())
                .by_meta
                .contains_key("id_again")
        );
    }

    fn stored(problem_id: &str, completion: &str, correct: Option<bool>) -> (usize, StoredSample) {
        let text = json!({"problem_id": problem_id, "completion": completion, "correct": correct});
        (1, serde_json::from_value(text).expect("a stored sample"))
    }

    #[test]
    fn stored_samples_are_judged_by_the_verifier_of_today() {
        let problems = [problem("a", "1"), problem("b", "2")];
        let lines = vec![
            stored("b", "\\boxed{2}", Some(false)),
            stored("a", "\\boxed{7}", Some(true)),
            stored("a", "\\boxed{1}", None),
        ];
        let judged = judge_stored(&problems, lines, false).expect("good samples");
        let verdicts: Vec<Vec<bool>> = judged
            .samples
            .iter()
            .map(|l| l.iter().map(|s| s.correct).collect())
            .collect();
        assert_eq!(verdicts, [vec![false, true], vec![true]]);
        let changed = judged.changed;
        assert_eq!(
            (changed.num_judged_before, changed.num_to_correct, changed.num_to_wrong),
            (2, 1, 1)
        );
    }

    #[test]
    fn samples_that_fit_no_problem_are_errors() {
        let problems = [problem("a", "1"), problem("b", "2")];
        let error = judge_stored(&problems, vec![stored("c", "", None)], false).expect_err("no such problem");
        assert!(error.to_string().contains("no problem \"c\""), "{error}");
        let one = vec![stored("b", "\\boxed{2}", None)];
        let error = judge_stored(&problems, one.clone(), false).expect_err("a has none");
        assert_eq!(
            error.to_string(),
            "1 of 2 problems have no sample, the first of them \"a\""
        );
        let judged = judge_stored(&problems, one, true).expect("allowed");
        assert_eq!((judged.problems.len(), judged.num_missing), (1, 1));
        assert!(matches!(
            judge_stored(&problems, Vec::new(), true),
            Err(StoredError::Missing { .. })
        ));
        let mut twice = vec![stored("a", "", None), stored("a", "", None)];
        twice.iter_mut().for_each(|(_, sample)| sample.sample_idx = Some(3));
        assert!(matches!(
            judge_stored(&problems, twice, true),
            Err(StoredError::Repeated { sample_idx: 3, .. })
        ));
    }

    #[test]
    fn samples_without_a_place_take_those_that_are_free() {
        let problems = [problem("a", "1")];
        let mut lines = vec![stored("a", "\\boxed{2}", None), stored("a", "\\boxed{1}", None)];
        lines[0].1.sample_idx = Some(1);
        let judged = judge_stored(&problems, lines, false).expect("two places");
        let places: Vec<(usize, bool)> = judged.samples[0].iter().map(|s| (s.sample_idx, s.correct)).collect();
        assert_eq!(places, [(1, false), (2, true)]);
    }
}
