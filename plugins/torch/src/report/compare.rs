//! Scores of several models -> one comparison: a row for each, and the differences that matter, paired by problem.
//!
//! Knows what is compared with what and at which token budget; `stats` knows the formulas, `compare_tables` and `page`
//! how it is shown, `notes` what can be said about it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::stats::{self, EqualTokens, PairedDifference};
use crate::formats::{Scores, Tally};

/// One model's scores and where they come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Unique among the arms; `names::row_name` makes it.
    pub name: String,
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
    /// Tokens of one sample of the most expensive model: what each model may spend on a problem at equal tokens.
    pub budget_tokens: f64,
    pub rows: Vec<Row>,
    pub differences: Vec<Difference>,
    pub notes: Vec<String>,
}

/// One model's line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub label: Option<String>,
    pub axes: BTreeMap<String, Value>,
    pub num_problems: usize,
    pub num_samples: usize,
    pub temperature: f64,
    pub max_completion_length: usize,
    pub pass_at_1: f64,
    pub pass_at_1_ci95: [f64; 2],
    /// k -> pass@k for every k that was drawn.
    pub pass_at_k: BTreeMap<usize, f64>,
    pub equal_tokens: Option<EqualTokens>,
    pub maj_at_k: BTreeMap<usize, f64>,
    pub mean_tokens: f64,
    pub mean_backtracks: f64,
    pub truncated: f64,
    pub failures: BTreeMap<String, f64>,
    pub by_backtracks: BTreeMap<String, Tally>,
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
}

/// Compares arms.
///
/// # Errors
/// There are none, or `order` or `baseline` names a row that doesn't exist.
pub fn compare(arms: Vec<Arm>, config: &CompareConfig) -> Result<Comparison, CompareError> {
    if arms.is_empty() {
        return Err(CompareError::NoScores);
    }
    let arms = in_order(arms, config)?;
    let budget_tokens = arms.iter().map(|arm| arm.scores.mean_tokens).fold(0.0, f64::max);
    let rows: Vec<Row> = arms.iter().map(|arm| row(arm, budget_tokens)).collect();
    let pairs = pairs(&arms, config.baseline.as_deref());
    let differences: Vec<Difference> = pairs
        .into_iter()
        .filter_map(|(from, to)| difference(&arms[from], &arms[to], config))
        .collect();
    let notes = super::notes::notes(&rows, &differences);
    Ok(Comparison {
        version: 1,
        title: config.title.clone(),
        budget_tokens,
        rows,
        differences,
        notes,
    })
}

fn in_order(arms: Vec<Arm>, config: &CompareConfig) -> Result<Vec<Arm>, CompareError> {
    let names: Vec<String> = arms.iter().map(|arm| arm.name.clone()).collect();
    let check = |parameter, name: &String| match names.contains(name) {
        true => Ok(()),
        false => Err(CompareError::UnknownRow {
            parameter,
            name: name.clone(),
            rows: names.join(", "),
        }),
    };
    config.order.iter().try_for_each(|name| check("order", name))?;
    config.baseline.iter().try_for_each(|name| check("baseline", name))?;
    let mut arms = arms;
    let place = |arm: &Arm| {
        config
            .order
            .iter()
            .position(|name| *name == arm.name)
            .unwrap_or(usize::MAX)
    };
    arms.sort_by_key(place);
    Ok(arms)
}

fn row(arm: &Arm, budget_tokens: f64) -> Row {
    let scores = &arm.scores;
    Row {
        name: arm.name.clone(),
        label: arm.label.clone(),
        axes: arm.axes.clone(),
        num_problems: scores.num_problems,
        num_samples: scores.num_samples,
        temperature: scores.temperature,
        max_completion_length: scores.max_completion_length,
        pass_at_1: scores.pass_at_1,
        pass_at_1_ci95: scores.pass_at_1_ci95,
        pass_at_k: scores.pass_at_k.clone(),
        equal_tokens: stats::equal_tokens(&scores.problems, scores.mean_tokens, budget_tokens),
        maj_at_k: scores.maj_at_k.clone(),
        mean_tokens: scores.mean_tokens,
        mean_backtracks: scores.mean_backtracks,
        truncated: scores.truncated,
        failures: scores.failures.clone(),
        by_backtracks: scores.by_backtracks.clone(),
    }
}

/// Returns which arms to compare, as indices: neighbours; the same point of the axes under the next label that has it
/// (search SFT, search GRPO); and each with the baseline. No pair twice.
fn pairs(arms: &[Arm], baseline: Option<&str>) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = (1..arms.len()).map(|to| (to - 1, to)).collect();
    for (to, arm) in arms.iter().enumerate() {
        let same_point = |from: &usize| arms[*from].axes == arm.axes && arms[*from].label != arm.label;
        pairs.extend((0..to).rev().find(same_point).map(|from| (from, to)));
    }
    if let Some(from) = arms.iter().position(|arm| Some(arm.name.as_str()) == baseline) {
        pairs.extend((0..arms.len()).filter(|to| *to != from).map(|to| (from, to)));
    }
    let mut unique: Vec<(usize, usize)> = Vec::new();
    for (from, to) in pairs {
        if !unique.contains(&(from, to)) && !unique.contains(&(to, from)) {
            unique.push((from, to));
        }
    }
    unique
}

fn difference(from: &Arm, to: &Arm, config: &CompareConfig) -> Option<Difference> {
    let paired = stats::paired_difference(
        &from.scores.problems,
        &to.scores.problems,
        config.bootstrap_samples,
        config.seed,
    )?;
    let resolved = paired.resolved();
    let PairedDifference {
        mean,
        ci95,
        num_problems,
    } = paired;
    Some(Difference {
        from: from.name.clone(),
        to: to.name.clone(),
        mean,
        ci95,
        num_problems,
        resolved,
    })
}

/// Arms made up for the tests of everything that shows a comparison.
#[cfg(test)]
pub mod fixtures {
    use super::*;
    use crate::formats::ProblemScore;
    use crate::report::{names, stats};

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
            })
            .collect();
        let pass = |k: usize| stats::mean_pass_at(&problems, k as f64).unwrap_or(0.0);
        let pass_at_1 = pass(1);
        let backtracks = if style == Some("search") { 3.2 } else { 0.0 };
        let tally = |num_samples, num_correct| Tally {
            num_samples,
            num_correct,
        };
        Arm {
            name: names::row_name(Some(label), &axes),
            label: Some(label.to_owned()),
            axes,
            scores: Scores {
                version: 1,
                num_problems: problems.len(),
                num_samples,
                temperature: 0.7,
                max_completion_length: 220,
                pass_at_1,
                pass_at_1_ci95: [pass_at_1 - 0.03, pass_at_1 + 0.03],
                pass_at_k: (1..=num_samples).map(|k| (k, pass(k))).collect(),
                maj_at_k: (1..=num_samples).map(|k| (k, pass_at_1)).collect(),
                mean_tokens,
                mean_backtracks: backtracks,
                truncated: if style == Some("search") { 0.15 } else { 0.0 },
                failures: [
                    ("arithmetic".to_owned(), 0.04),
                    ("false_yes".to_owned(), (1.0 - pass_at_1) * 0.8),
                ]
                .into(),
                by_backtracks: [("0".to_owned(), tally(100, 60)), ("3+".to_owned(), tally(40, 10))].into(),
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
