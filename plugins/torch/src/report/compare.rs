//! Scores of several models -> one comparison: a row for each, and the differences that matter, paired by problem.
//!
//! Knows what is compared with what and at which token budget; `pool` knows which arms are one row, `stats` and
//! `mcnemar` the formulas, `compare_tables` and `page` how it is shown, `notes` what can be said about it, `study` how
//! several benchmarks stand side by side.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::mcnemar::{McNemar, mcnemar};
use super::pool::{self, Pool};
use super::stats::{self, EqualTokens, PairedDifference};
use crate::formats::{GroupScore, Recovery, Scores, Tally};

/// One model's scores and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    pub label: Option<String>,
    pub axes: BTreeMap<String, Value>,
    pub scores: Scores,
}

/// How arms are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareConfig {
    pub title: String,
    /// Rows in this order first; the others follow as they came.
    pub order: Vec<String>,
    /// The row that every other one is compared with, besides its neighbours.
    pub baseline: Option<String>,
    pub bootstrap_samples: usize,
    pub seed: u64,
}

/// What a comparison can't be made from.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("there are no scores to compare")]
    NoScores,
    #[error("{parameter} names {name:?}, but the rows are {rows}")]
    UnknownRow {
        parameter: &'static str,
        name: String,
        rows: String,
    },
}

/// Everything that a comparison page says, as values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub version: u32,
    pub title: String,
    /// The value of the axis `benchmark`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<String>,
    /// Tokens of one sample of the most expensive model: what each model may spend on a problem at equal tokens.
    pub budget_tokens: f64,
    pub rows: Vec<Row>,
    pub differences: Vec<Difference>,
    pub notes: Vec<String>,
}

/// One model's line. Of runs with several seeds, shares and means are means over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub label: Option<String>,
    pub axes: BTreeMap<String, Value>,
    /// The runs behind the row, which differ in the axis `seed` alone; empty where there is no such axis.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<SeedScore>,
    pub num_problems: usize,
    pub num_samples: usize,
    pub temperature: Option<f64>,
    pub max_completion_length: Option<usize>,
    pub pass_at_1: f64,
    /// Over problems; with several seeds, over problems and seeds.
    pub pass_at_1_ci95: [f64; 2],
    /// k -> pass@k for every k that was drawn.
    pub pass_at_k: BTreeMap<usize, f64>,
    pub equal_tokens: Option<EqualTokens>,
    pub maj_at_k: BTreeMap<usize, f64>,
    pub mean_tokens: f64,
    pub mean_backtracks: f64,
    pub truncated: f64,
    pub failures: BTreeMap<String, f64>,
    /// Summed over seeds, as `recovery`.
    pub by_backtracks: BTreeMap<String, Tally>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_meta: BTreeMap<String, BTreeMap<String, GroupScore>>,
}

/// One run of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SeedScore {
    pub seed: Value,
    pub pass_at_1: f64,
    /// Over problems.
    pub pass_at_1_ci95: [f64; 2],
}

impl Row {
    /// Returns the largest k that was drawn, with pass@k there.
    pub fn largest_pass(&self) -> Option<(usize, f64)> {
        self.pass_at_k.last_key_value().map(|(k, pass)| (*k, *pass))
    }

    /// Returns the largest k of more than two votes, with maj@k there: with fewer a majority says nothing new.
    pub fn largest_maj(&self) -> Option<(usize, f64)> {
        self.maj_at_k
            .last_key_value()
            .filter(|(k, _)| **k > 2)
            .map(|(k, maj)| (*k, *maj))
    }
}

/// pass@1 of `to` minus that of `from`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    pub from: String,
    pub to: String,
    pub mean: f64,
    pub ci95: [f64; 2],
    pub num_problems: usize,
    /// The interval leaves out 0.
    pub resolved: bool,
    /// On majority answers, where both rows are one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
}

/// Compares arms on one benchmark; those that differ in the axis `seed` alone are one row.
///
/// # Errors
/// There are none, or `order` or `baseline` names a row that doesn't exist.
pub fn compare(arms: Vec<Arm>, config: &CompareConfig) -> Result<Comparison, CompareError> {
    let pools = pool::pools(arms);
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    check_names(config, &names)?;
    compare_pools(pools, config, None)
}

/// Checks that `order` and `baseline` name rows.
///
/// # Errors
/// One doesn't.
pub fn check_names(config: &CompareConfig, names: &[&str]) -> Result<(), CompareError> {
    let check = |parameter, name: &String| match names.contains(&name.as_str()) {
        _ if names.is_empty() => Err(CompareError::NoScores),
        true => Ok(()),
        false => Err(CompareError::UnknownRow {
            parameter,
            name: name.clone(),
            rows: names.join(", "),
        }),
    };
    config.order.iter().try_for_each(|name| check("order", name))?;
    config.baseline.iter().try_for_each(|name| check("baseline", name))
}

/// Compares rows; names in `config` that are no rows here are passed over.
///
/// # Errors
/// There are none.
pub fn compare_pools(
    mut pools: Vec<Pool>,
    config: &CompareConfig,
    benchmark: Option<String>,
) -> Result<Comparison, CompareError> {
    if pools.is_empty() {
        return Err(CompareError::NoScores);
    }
    let place = |pool: &Pool| {
        let place = config.order.iter().position(|name| *name == pool.name);
        place.unwrap_or(usize::MAX)
    };
    pools.sort_by_key(place);
    let budget_tokens = pools.iter().map(Pool::mean_tokens).fold(0.0, f64::max);
    let rows: Vec<Row> = pools.iter().map(|pool| pool.row(budget_tokens, config)).collect();
    let differences: Vec<Difference> = pairs(&pools, config.baseline.as_deref())
        .into_iter()
        .filter_map(|(from, to)| difference(&pools[from], &pools[to], config))
        .collect();
    let notes = super::notes::notes(&rows, &differences);
    Ok(Comparison {
        version: 1,
        title: config.title.clone(),
        benchmark,
        budget_tokens,
        rows,
        differences,
        notes,
    })
}

/// Returns which rows to compare, as indices: neighbours; the same point of the axes under the next label that has it
/// (search SFT, search GRPO); the same label at the next point that differs in one axis (direct SFT, search SFT); and
/// each with the baseline. No pair twice.
fn pairs(pools: &[Pool], baseline: Option<&str>) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = (1..pools.len()).map(|to| (to - 1, to)).collect();
    for (to, pool) in pools.iter().enumerate() {
        let same_point = |from: &usize| pools[*from].axes == pool.axes && pools[*from].label != pool.label;
        let one_axis = |from: &usize| pools[*from].label == pool.label && differing_axes(&pools[*from], pool) == 1;
        pairs.extend((0..to).rev().find(same_point).map(|from| (from, to)));
        pairs.extend((0..to).rev().find(one_axis).map(|from| (from, to)));
    }
    if let Some(from) = pools.iter().position(|pool| Some(pool.name.as_str()) == baseline) {
        pairs.extend((0..pools.len()).filter(|to| *to != from).map(|to| (from, to)));
    }
    let mut unique: Vec<(usize, usize)> = Vec::new();
    for (from, to) in pairs {
        if !unique.contains(&(from, to)) && !unique.contains(&(to, from)) {
            unique.push((from, to));
        }
    }
    unique
}

/// Returns the number of axes in which two rows differ.
fn differing_axes(a: &Pool, b: &Pool) -> usize {
    let names: BTreeSet<&String> = a.axes.keys().chain(b.axes.keys()).collect();
    names
        .iter()
        .filter(|name| a.axes.get(**name) != b.axes.get(**name))
        .count()
}

fn difference(from: &Pool, to: &Pool, config: &CompareConfig) -> Option<Difference> {
    let paired = stats::paired_difference(&from.runs(), &to.runs(), config.bootstrap_samples, config.seed)?;
    let resolved = paired.resolved();
    let PairedDifference {
        mean,
        ci95,
        num_problems,
    } = paired;
    let mcnemar = match (from.members.as_slice(), to.members.as_slice()) {
        ([from], [to]) => mcnemar(&from.scores.problems, &to.scores.problems),
        _ => None,
    };
    Some(Difference {
        from: from.name.clone(),
        to: to.name.clone(),
        mean,
        ci95,
        num_problems,
        resolved,
        mcnemar,
    })
}

/// Arms made up for the tests of everything that shows a comparison.
#[cfg(test)]
pub mod fixtures {
    use super::*;
    use crate::formats::ProblemScore;
    use crate::scoring::pass_at_k;

    /// Returns an arm with `correct[i]` of `num_samples` correct on problem `i`.
    pub fn arm(label: &str, style: Option<&str>, correct: &[usize], num_samples: usize, mean_tokens: f64) -> Arm {
        let axes: BTreeMap<String, Value> = style
            .map(|s| ("style".to_owned(), Value::from(s)))
            .into_iter()
            .collect();
        let problems: Vec<ProblemScore> = correct
            .iter()
            .enumerate()
            .map(|(i, c)| ProblemScore {
                id: format!("p{i}"),
                num_samples,
                num_correct: *c,
                num_tokens: 10,
                num_backtracks: 0,
                majority_correct: Some(2 * c > num_samples),
            })
            .collect();
        let pass = |k: usize| pass_at_k::mean_pass_at(&problems, k as f64).unwrap_or(0.0);
        let pass_at_1 = pass(1);
        let backtracks = if style == Some("search") { 3.2 } else { 0.0 };
        let tally = |num_samples, num_correct| Tally {
            num_samples,
            num_correct,
        };
        Arm {
            label: Some(label.to_owned()),
            axes,
            scores: Scores {
                version: 1,
                num_problems: problems.len(),
                num_samples,
                temperature: Some(0.7),
                max_completion_length: Some(220),
                pass_at_1,
                pass_at_1_ci95: [pass_at_1 - 0.03, pass_at_1 + 0.03],
                pass_at_1_stderr: Some(0.015),
                pass_at_k: (1..=num_samples).map(|k| (k, pass(k))).collect(),
                pass_at_k_ci95: BTreeMap::new(),
                maj_at_k: (1..=num_samples).map(|k| (k, pass_at_1)).collect(),
                maj_at_k_ci95: BTreeMap::new(),
                mean_tokens,
                token_percentiles: BTreeMap::new(),
                mean_backtracks: backtracks,
                mean_reflections: None,
                truncated: if style == Some("search") { 0.15 } else { 0.0 },
                failures: [
                    ("arithmetic".to_owned(), 0.04),
                    ("false_yes".to_owned(), (1.0 - pass_at_1) * 0.8),
                ]
                .into(),
                by_backtracks: [("0".to_owned(), tally(100, 60)), ("3+".to_owned(), tally(40, 10))].into(),
                by_verdict: BTreeMap::new(),
                recovery: (backtracks > 0.0).then_some(Recovery {
                    num_first_wrong: 200,
                    num_recovered: 50,
                }),
                by_meta: BTreeMap::new(),
                changed: None,
                problems,
            },
        }
    }

    /// Returns the five arms of the Countdown pipeline, roughly as they score there.
    pub fn five_arms() -> Vec<Arm> {
        let correct = |threshold: usize| {
            (0..500)
                .map(|i| (i * 37 % 100 * threshold / 100 / 10).min(4))
                .collect::<Vec<_>>()
        };
        vec![
            arm("base", None, &correct(12), 4, 25.0),
            arm("sft", Some("direct"), &correct(45), 4, 26.0),
            arm("sft", Some("search"), &correct(58), 4, 121.0),
            arm("grpo", Some("direct"), &correct(46), 4, 26.0),
            arm("grpo", Some("search"), &correct(66), 4, 140.0),
        ]
    }

    /// Returns the arm at further points of its axes.
    pub fn at(mut arm: Arm, axes: &[(&str, Value)]) -> Arm {
        arm.axes
            .extend(axes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        arm
    }

    pub fn config() -> CompareConfig {
        CompareConfig {
            title: "Countdown".into(),
            order: Vec::new(),
            baseline: None,
            bootstrap_samples: 400,
            seed: 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{arm, config, five_arms};
    use super::*;

    #[test]
    fn the_most_expensive_model_sets_the_budget() {
        let arms = vec![arm("a", None, &[1, 2], 4, 40.0), arm("b", None, &[4, 0], 4, 100.0)];
        let comparison = compare(arms, &config()).expect("two arms");
        assert_eq!(comparison.budget_tokens, 100.0);
        let a = comparison.rows[0].equal_tokens.expect("tokens were counted");
        assert!((a.k - 2.5).abs() < 1e-12 && (a.pass - (2.0 / 3.0 + 0.875) / 2.0).abs() < 1e-12);
        let b = comparison.rows[1].equal_tokens.expect("tokens were counted");
        assert!((b.k - 1.0).abs() < 1e-12 && (b.pass - 0.5).abs() < 1e-12);
    }

    #[test]
    fn rows_follow_the_order_asked_for() {
        let order = vec!["search GRPO".to_owned(), "base".to_owned()];
        let comparison = compare(five_arms(), &CompareConfig { order, ..config() }).expect("known rows");
        let names: Vec<_> = comparison.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(
            names,
            ["search GRPO", "base", "direct SFT", "search SFT", "direct GRPO"]
        );
    }

    #[test]
    fn an_unknown_row_is_named_with_those_that_exist() {
        let baseline = Some("sft".to_owned());
        let error = compare(five_arms(), &CompareConfig { baseline, ..config() }).expect_err("no such row");
        assert!(
            error
                .to_string()
                .contains("baseline names \"sft\", but the rows are base, direct SFT"),
            "{error}"
        );
        assert!(matches!(compare(Vec::new(), &config()), Err(CompareError::NoScores)));
    }

    #[test]
    fn arms_of_one_label_are_compared_wherever_they_stand() {
        let arm = |label, style| arm(label, Some(style), &[1, 2], 4, 10.0);
        let arms = vec![
            arm("sft", "direct"),
            arm("grpo", "direct"),
            arm("sft", "search"),
            arm("grpo", "search"),
        ];
        let comparison = compare(arms, &config()).expect("four arms");
        let has = |from: &str, to: &str| comparison.differences.iter().any(|d| d.from == from && d.to == to);
        assert!(has("direct SFT", "search SFT") && has("direct GRPO", "search GRPO"));
        assert!(!has("direct SFT", "search GRPO"));
    }

    #[test]
    fn single_runs_are_tested_and_pools_are_not() {
        let arms = vec![arm("a", None, &[0; 10], 4, 1.0), arm("b", None, &[4; 10], 4, 1.0)];
        let comparison = compare(arms.clone(), &config()).expect("two arms");
        // All ten problems changed to right: 2 / 2^10.
        let test = comparison.differences[0].mcnemar.expect("both are one run");
        assert_eq!((test.only_from, test.only_to), (0, 10));
        assert!((test.p_value - 2.0 / 1024.0).abs() < 1e-12);
        let seeds = [1, 2].map(|seed| fixtures::at(arms[1].clone(), &[("seed", seed.into())]));
        let pooled = compare([arms[..1].to_vec(), seeds.to_vec()].concat(), &config()).expect("two rows");
        assert_eq!(pooled.rows.len(), 2);
        assert_eq!(pooled.differences[0].mcnemar, None);
    }

    #[test]
    fn neighbours_and_equal_points_are_paired_once() {
        let pairs_of = |baseline| {
            let comparison = compare(five_arms(), &CompareConfig { baseline, ..config() }).expect("known rows");
            comparison
                .differences
                .iter()
                .map(|d| format!("{} > {}", d.from, d.to))
                .collect::<Vec<_>>()
        };
        let mut want = vec![
            "base > direct SFT",
            "direct SFT > search SFT",
            "search SFT > direct GRPO",
            "direct GRPO > search GRPO",
            "direct SFT > direct GRPO",
            "search SFT > search GRPO",
        ];
        assert_eq!(pairs_of(None), want);
        want.extend(["base > search SFT", "base > direct GRPO", "base > search GRPO"]);
        assert_eq!(pairs_of(Some("base".to_owned())), want);
    }
}
