//! `data.filter`: the problems that are worth training on, by how often a policy solves them, without those of a test set.
//!
//! Problems that a policy always or never solves teach it nothing: all rollouts of a group get the same reward. The paper
//! trains on problems of moderate difficulty (ASTRO, arXiv:2507.00417, sec. 3.2), and does not say how it found them; here
//! it is the pass rate that `eval` measured.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::problems;
use crate::formats::{Problem, ProblemScore, Scores, VERSION, read_json, read_jsonl, write_json, write_jsonl};
use crate::random::stream;
use crate::worker::Job;

/// Bars of the histogram between a pass rate of 0 and one of 1, which have bars of their own.
const NUM_BINS: usize = 10;

/// Parameters of `data.filter`; defaults are in `plugin.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Bounds of the pass rate, both included, in [0, 1].
    min_pass_rate: f64,
    max_pass_rate: f64,
    /// At most so many are kept; 0: all.
    num_problems: usize,
    /// Seed of the choice among more than `num_problems`.
    seed: u64,
}

/// What was kept, and why the rest was not.
#[derive(Debug, PartialEq, Serialize)]
struct Card {
    version: u32,
    /// Problems that came in.
    num_problems: usize,
    num_kept: usize,
    /// Reason -> problems dropped for it. A problem has the first reason that holds, in the order `in_against`,
    /// `below_min_pass_rate`, `above_max_pass_rate`, `beyond_num_problems`.
    dropped: BTreeMap<&'static str, usize>,
    /// Mean pass rate before and after; absent without scores.
    mean_pass_rate: Option<f64>,
    mean_pass_rate_kept: Option<f64>,
    /// Pass rates of all problems that came in; empty without scores.
    histogram: Vec<Bar>,
}

/// Problems with a pass rate above `from`, up to `to`. Where both are the same: with exactly this one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Bar {
    from: f64,
    to: f64,
    num_problems: usize,
    num_kept: usize,
}

/// Reads `problems`, their `scores` and what they must not overlap with, `against`; writes `problems` and `card`.
///
/// # Errors
/// There is nothing to filter by, a problem has no score, or nothing is left.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    ensure!(
        params.min_pass_rate <= params.max_pass_rate,
        "min_pass_rate is {} and max_pass_rate {}, so that no pass rate is between them",
        params.min_pass_rate,
        params.max_pass_rate
    );
    let problems = problems::read(&job.input("problems")?, 0)?;
    let scores: Option<Scores> = match job.input_opt("scores")? {
        Some(path) => Some(read_json(&path, "set of scores")?),
        None => None,
    };
    let against = job.inputs("against")?;
    ensure!(
        scores.is_some() || !against.is_empty() || params.num_problems > 0,
        "there is nothing to filter by: give scores of an eval of these problems, problems that they must not overlap with \
         (against), or num_problems"
    );
    let mut seen = BTreeSet::new();
    for input in against {
        let list: Vec<Problem> = read_jsonl(&input.path, "problem")?;
        seen.extend(list.iter().map(|problem| normalized(&problem.problem)));
    }
    let rates = scores
        .map(|scores| pass_rates(&problems, &scores.problems))
        .transpose()?;
    let (kept, card) = filter(&problems, rates.as_deref(), &seen, &params);
    if kept.is_empty() {
        bail!("{}", nothing_left(&card, &params));
    }
    job.info(&format!("{} of {} problems are kept", kept.len(), problems.len()));
    job.metric("kept", kept.len() as f64, None);
    write_jsonl(&job.output("problems")?, kept)?;
    write_json(&job.output("card")?, &card)?;
    Ok(())
}

/// Returns the pass rate of each problem.
///
/// # Errors
/// A problem has no score, or one of no samples, or an id is there twice, so that a score may be of either.
fn pass_rates(problems: &[Problem], scores: &[ProblemScore]) -> Result<Vec<f64>> {
    let mut by_id: BTreeMap<&str, &ProblemScore> = BTreeMap::new();
    for score in scores {
        ensure!(
            by_id.insert(&score.id, score).is_none(),
            "the scores have the problem {:?} twice; a pass rate needs ids that differ",
            score.id
        );
    }
    let missing: Vec<&str> = problems
        .iter()
        .map(|problem| problem.id.as_str())
        .filter(|id| by_id.get(id).is_none_or(|score| score.num_samples == 0))
        .collect();
    if let Some(first) = missing.first() {
        bail!(
            "{} of {} problems have no score, the first is {first:?}: evaluate the same problems, all of them (num_problems: 0 \
             of eval)",
            missing.len(),
            problems.len()
        );
    }
    let rate = |problem: &Problem| {
        let score = by_id[problem.id.as_str()];
        score.num_correct as f64 / score.num_samples as f64
    };
    Ok(problems.iter().map(rate).collect())
}

/// Decides on each problem; what is kept stays in order.
fn filter<'a>(
    problems: &'a [Problem],
    rates: Option<&[f64]>,
    against: &BTreeSet<String>,
    params: &Params,
) -> (Vec<&'a Problem>, Card) {
    let rate = |idx: usize| rates.map(|rates| rates[idx]);
    let mut reasons: Vec<Option<&'static str>> = (0..problems.len())
        .map(|idx| match rate(idx) {
            _ if !against.is_empty() && against.contains(&normalized(&problems[idx].problem)) => Some("in_against"),
            Some(rate) if rate < params.min_pass_rate => Some("below_min_pass_rate"),
            Some(rate) if rate > params.max_pass_rate => Some("above_max_pass_rate"),
            _ => None,
        })
        .collect();
    let mut candidates: Vec<usize> = (0..problems.len()).filter(|&idx| reasons[idx].is_none()).collect();
    if params.num_problems > 0 && candidates.len() > params.num_problems {
        candidates.shuffle(&mut stream(params.seed, "filter", 0));
        for idx in candidates.drain(params.num_problems..) {
            reasons[idx] = Some("beyond_num_problems");
        }
        candidates.sort_unstable();
    }
    let mut dropped = BTreeMap::new();
    for reason in reasons.iter().flatten() {
        *dropped.entry(*reason).or_default() += 1;
    }
    let mean = |indices: &[usize]| {
        let rates: Vec<f64> = indices.iter().filter_map(|&idx| rate(idx)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
    };
    let card = Card {
        version: VERSION,
        num_problems: problems.len(),
        num_kept: candidates.len(),
        dropped,
        mean_pass_rate: mean(&(0..problems.len()).collect::<Vec<_>>()),
        mean_pass_rate_kept: mean(&candidates),
        histogram: rates.map_or_else(Vec::new, |rates| histogram(rates, &reasons)),
    };
    (candidates.into_iter().map(|idx| &problems[idx]).collect(), card)
}

fn histogram(rates: &[f64], reasons: &[Option<&'static str>]) -> Vec<Bar> {
    let bar = |from: f64, to: f64| {
        let is_in = |rate: f64| {
            if from == to {
                rate == from
            } else {
                rate > from && rate <= to && rate < 1.0
            }
        };
        let kept = || rates.iter().zip(reasons).filter(|(rate, _)| is_in(**rate));
        Bar {
            from,
            to,
            num_problems: kept().count(),
            num_kept: kept().filter(|(_, reason)| reason.is_none()).count(),
        }
    };
    let edge = |idx: usize| idx as f64 / NUM_BINS as f64;
    let between = (0..NUM_BINS).map(|idx| bar(edge(idx), edge(idx + 1)));
    std::iter::once(bar(0.0, 0.0))
        .chain(between)
        .chain([bar(1.0, 1.0)])
        .collect()
}

fn nothing_left(card: &Card, params: &Params) -> String {
    let dropped: Vec<String> = card
        .dropped
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let bars: Vec<String> = card
        .histogram
        .iter()
        .filter(|bar| bar.num_problems > 0)
        .map(|bar| match bar {
            Bar {
                from, to, num_problems, ..
            } if from == to => format!("{from}: {num_problems}"),
            Bar {
                from, to, num_problems, ..
            } => format!("{from}-{to}: {num_problems}"),
        })
        .collect();
    let rates = match bars.is_empty() {
        true => String::new(),
        false => format!(
            "; their pass rates are {}, and [{}, {}] is asked for",
            bars.join(", "),
            params.min_pass_rate,
            params.max_pass_rate
        ),
    };
    format!(
        "none of {} problems is left ({}){rates}",
        card.num_problems,
        dropped.join(", ")
    )
}

/// Returns the letters and digits of a text, in lower case: two that differ in spaces, signs or markup only are taken for the
/// same problem. Between two digits one space stays for whatever is there, since `1 2` is not `12`.
fn normalized(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut is_after_gap = false;
    for letter in text.chars() {
        if !letter.is_alphanumeric() {
            is_after_gap = true;
            continue;
        }
        if is_after_gap && letter.is_numeric() && kept.chars().next_back().is_some_and(char::is_numeric) {
            kept.push(' ');
        }
        kept.extend(letter.to_lowercase());
        is_after_gap = false;
    }
    // A text of signs alone is compared as it is.
    if kept.is_empty() { text.to_owned() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::VerifierName;

    fn problem(id: usize, text: &str) -> Problem {
        Problem {
            version: VERSION,
            id: id.to_string(),
            problem: text.to_owned(),
            answer: "1".to_owned(),
            verifier: VerifierName::Math,
            meta: serde_json::Map::new(),
        }
    }

    fn params() -> Params {
        Params {
            min_pass_rate: 0.01,
            max_pass_rate: 0.75,
            num_problems: 0,
            seed: 3,
        }
    }

    fn score(id: usize, num_correct: usize, num_samples: usize) -> ProblemScore {
        ProblemScore {
            num_samples,
            num_correct,
            ..serde_json::from_value(serde_json::json!({
                "id": id.to_string(), "num_samples": 0, "num_correct": 0, "num_tokens": 0
            }))
            .unwrap()
        }
    }

    fn problems(count: usize) -> Vec<Problem> {
        (0..count).map(|id| problem(id, &format!("what is {id}?"))).collect()
    }

    fn ids(kept: &[&Problem]) -> Vec<String> {
        kept.iter().map(|problem| problem.id.clone()).collect()
    }

    #[test]
    fn bounds_are_included_and_order_is_kept() {
        let all = problems(6);
        let rates = [0.0, 0.01, 0.5, 0.75, 0.76, 1.0];
        let (kept, card) = filter(&all, Some(&rates), &BTreeSet::new(), &params());
        assert_eq!(ids(&kept), ["1", "2", "3"]);
        assert_eq!(
            card.dropped,
            BTreeMap::from([("below_min_pass_rate", 1), ("above_max_pass_rate", 2)])
        );
        assert_eq!(card.mean_pass_rate_kept, Some((0.01 + 0.5 + 0.75) / 3.0));
        let bars: Vec<(usize, usize)> = card
            .histogram
            .iter()
            .map(|bar| (bar.num_problems, bar.num_kept))
            .collect();
        let mut expected = vec![(0, 0); NUM_BINS + 2];
        for (bar, counts) in [(0, (1, 0)), (1, (1, 1)), (5, (1, 1)), (8, (2, 1)), (11, (1, 0))] {
            expected[bar] = counts;
        }
        assert_eq!(bars, expected);
        assert_eq!(card.histogram.iter().map(|bar| bar.num_problems).sum::<usize>(), 6);
    }

    #[test]
    fn a_cap_draws_by_the_seed_and_keeps_the_order() {
        let all = problems(40);
        let draw = |seed| {
            let params = Params {
                num_problems: 7,
                seed,
                ..params()
            };
            let (kept, card) = filter(&all, None, &BTreeSet::new(), &params);
            assert_eq!((card.num_kept, card.dropped["beyond_num_problems"]), (7, 33));
            kept.iter()
                .map(|problem| problem.id.parse().unwrap())
                .collect::<Vec<usize>>()
        };
        let first = draw(1);
        assert!(first.is_sorted());
        assert_eq!(first, draw(1));
        assert_ne!(first, draw(2));
        assert_ne!(first, (0..7).collect::<Vec<_>>(), "not the first ones");
    }

    #[test]
    fn a_problem_that_is_written_otherwise_is_the_same() {
        let test: BTreeSet<String> = [r"What is $\frac{1}{2} + x$?", "7 3 4 -> 24"]
            .iter()
            .map(|text| normalized(text))
            .collect();
        let all = [
            problem(0, "what is \\( \\frac{1}{2}+X \\)"),
            problem(1, "73 4 -> 24"),
            problem(2, "7, 3, 4 -> 24"),
            problem(3, "What is 1/2 + y?"),
        ];
        let (kept, card) = filter(&all, None, &test, &params());
        assert_eq!(ids(&kept), ["1", "3"]);
        assert_eq!(card.dropped, BTreeMap::from([("in_against", 2)]));
        assert!(card.histogram.is_empty() && card.mean_pass_rate.is_none());
        assert_ne!(normalized("+"), normalized("-"));
    }

    #[test]
    fn scores_that_lack_a_problem_are_an_error_that_names_it() {
        let all = problems(3);
        let error = |scores: &[ProblemScore]| pass_rates(&all, scores).unwrap_err().to_string();
        let some = [score(0, 1, 4), score(2, 2, 0)];
        assert!(error(&some).contains("2 of 3 problems have no score, the first is \"1\""));
        assert!(error(&[score(1, 1, 4), score(1, 2, 4)]).contains("\"1\" twice"));
        let rates = pass_rates(&all, &[score(2, 1, 4), score(1, 0, 4), score(0, 4, 4), score(9, 1, 1)]);
        assert_eq!(rates.unwrap(), [1.0, 0.0, 0.25]);
    }

    #[test]
    fn where_nothing_is_left_the_message_has_the_pass_rates() {
        let all = problems(3);
        let (kept, card) = filter(&all, Some(&[0.0, 0.8, 1.0]), &BTreeSet::new(), &params());
        assert!(kept.is_empty());
        assert_eq!(
            nothing_left(&card, &params()),
            "none of 3 problems is left (2 above_max_pass_rate, 1 below_min_pass_rate); their pass rates are 0: 1, 0.7-0.8: 1, \
             1: 1, and [0.01, 0.75] is asked for"
        );
    }
}
