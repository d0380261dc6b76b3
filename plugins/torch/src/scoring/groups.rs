//! Scores of the problems that share a level, a subject or another value of their meta fields.

use std::collections::BTreeMap;

use serde_json::Value;

use super::pass_at_k::rate;
use crate::formats::{GroupScore, Problem, ProblemScore};

/// A field with more values than this, or with fewer than two problems to a value, doesn't sort problems into groups, it
/// names them.
const MAX_VALUES: usize = 12;

/// Returns field -> value -> score, for the fields that have from 2 to `MAX_VALUES` values among the problems.
///
/// Values are texts, integers and booleans: a fraction is a measurement, not a class. Problems without a field, or with
/// something else in it, are in no group of it.
pub fn by_meta(problems: &[Problem], scores: &[ProblemScore]) -> BTreeMap<String, BTreeMap<String, GroupScore>> {
    let mut fields = BTreeMap::<String, BTreeMap<String, Vec<&ProblemScore>>>::new();
    for (problem, score) in problems.iter().zip(scores) {
        for (field, value) in &problem.meta {
            if let Some(value) = plain(value) {
                fields
                    .entry(field.clone())
                    .or_default()
                    .entry(value)
                    .or_default()
                    .push(score);
            }
        }
    }
    fields.retain(|_, values| {
        let num_problems: usize = values.values().map(Vec::len).sum();
        (2..=MAX_VALUES).contains(&values.len()) && 2 * values.len() <= num_problems
    });
    let groups = |values: BTreeMap<String, Vec<&ProblemScore>>| {
        let group = |(value, members): (String, Vec<&ProblemScore>)| (value, group_score(&members));
        values.into_iter().map(group).collect()
    };
    fields
        .into_iter()
        .map(|(field, values)| (field, groups(values)))
        .collect()
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => (!number.is_f64()).then(|| number.to_string()),
        Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn group_score(members: &[&ProblemScore]) -> GroupScore {
    GroupScore {
        num_problems: members.len(),
        num_samples: members.iter().map(|p| p.num_samples).sum(),
        num_correct: members.iter().map(|p| p.num_correct).sum(),
        pass_at_1: members.iter().map(|p| rate(p)).sum::<f64>() / members.len().max(1) as f64,
    }
}
