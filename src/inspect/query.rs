//! What is asked of a sweep, and whether it can be: the names of axes and their values are checked here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::wanted::is_written;
use super::{Listed, Operator, PointState, Sort, Wanted};
use crate::spec::{listed, nearest, text_of};

/// What is asked of a sweep.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The stage.
    pub stage: String,
    /// The metrics; none for all that the points have.
    pub metrics: Vec<String>,
    /// Metrics that are needed besides, for the order or as chosen columns.
    pub also: Vec<String>,
    /// Which axes are collapsed.
    pub over: Over,
    /// Conditions that every point has to meet.
    pub wanted: Vec<Wanted>,
    /// The order of the rows; none for that of the sweep.
    pub sort: Option<Sort>,
    /// What is good; none to go by the name of the metric.
    pub best: Option<Direction>,
    /// How many rows to keep; the best ones where no order is given.
    pub top: Option<usize>,
}

/// Which axes are collapsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Over {
    /// Those that are named `seed` or `*_seed`.
    #[default]
    Seeds,
    /// None.
    Nothing,
    /// These.
    Axes(Vec<String>),
}

/// Whether large or small values are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Max,
    Min,
}

impl Direction {
    /// Returns what is good of a metric with this name.
    pub fn of(metric: &str) -> Direction {
        let name = metric.to_lowercase();
        let is_cost = ["loss", "perplexity", "ppl", "seconds", "error"]
            .iter()
            .any(|word| name.contains(word));
        if is_cost { Direction::Min } else { Direction::Max }
    }
}

/// Why there is no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    #[error("there is no {what} `{name}`{hint}")]
    Unknown {
        what: &'static str,
        name: String,
        hint: String,
    },
    #[error("axis `{axis}` has no value `{value}`{hint}")]
    NoSuchValue { axis: String, value: String, hint: String },
    #[error("axis `{axis}` can't be compared by size: {value} is no number")]
    NotANumber { axis: String, value: String },
    #[error("no point of `{stage}` meets all conditions together")]
    NoPoint { stage: String },
    /// Nothing is wrong with the question, but there is no result yet.
    #[error("no point of `{stage}` has a result yet: {}", counted(states))]
    NothingRun {
        stage: String,
        states: BTreeMap<PointState, usize>,
    },
}

/// Returns states with their numbers in words: `2 not run, 1 failed`.
pub fn counted(states: &BTreeMap<PointState, usize>) -> String {
    let texts: Vec<String> = states.iter().map(|(state, num)| format!("{num} {state}")).collect();
    texts.join(", ")
}

impl Over {
    /// Returns whether an axis is collapsed.
    pub(super) fn collapses(&self, axis: &str) -> bool {
        match self {
            Over::Seeds => axis == "seed" || axis.ends_with("_seed"),
            Over::Nothing => false,
            Over::Axes(axes) => axes.iter().any(|other| other == axis),
        }
    }
}

/// Returns that a name names nothing, with what could have been meant.
pub(super) fn unknown(what: &'static str, name: &str, valid: impl IntoIterator<Item = String>) -> CompareError {
    let valid: Vec<String> = valid.into_iter().collect();
    let hint = hint(name, &valid);
    CompareError::Unknown {
        what,
        name: name.to_owned(),
        hint,
    }
}

/// Returns what could have been meant, to be put behind a message.
pub(super) fn hint(name: &str, valid: &[String]) -> String {
    const MAX_LISTED: usize = 12;
    match nearest(name, valid.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if valid.is_empty() => String::new(),
        None if valid.len() <= MAX_LISTED => format!("; there is {}", listed(valid)),
        None => format!(
            "; there is {} and {} more",
            listed(&valid[..MAX_LISTED]),
            valid.len() - MAX_LISTED
        ),
    }
}

/// Returns the value of an axis, or of a parameter that is named `with.NAME`.
pub(super) fn value_of<'a>(node: &'a Listed, name: &str) -> Option<&'a Value> {
    match name.strip_prefix("with.") {
        Some(param) => node.params.get(param),
        None => node.axes.get(name),
    }
}

/// Checks the names of axes and their wanted values.
pub(super) fn check(nodes: &[Listed], axes: &BTreeSet<String>, query: &Query) -> Result<(), CompareError> {
    if let Over::Axes(over) = &query.over
        && let Some(axis) = over.iter().find(|axis| !axes.contains(*axis))
    {
        return Err(unknown("axis", axis, axes.iter().cloned()));
    }
    for wanted in &query.wanted {
        let axis = wanted.name.clone();
        let values: Vec<&Value> = nodes.iter().filter_map(|node| value_of(node, &axis)).collect();
        if values.is_empty() {
            return Err(unknown("axis", &axis, axes.iter().cloned()));
        }
        if let Some(value) = values
            .iter()
            .find(|value| wanted.operator.is_order() && !value.is_number())
        {
            return Err(CompareError::NotANumber {
                axis,
                value: value.to_string(),
            });
        }
        let has = |text: &str| values.iter().any(|value| is_written(value, text));
        let missing = wanted.alternatives().find(|text| !has(text) && !has(&wanted.text));
        if let (Operator::Equal | Operator::NotEqual, Some(missing)) = (wanted.operator, missing) {
            let valid: BTreeSet<String> = values.iter().map(|value| text_of(value)).collect();
            let hint = hint(missing, &valid.into_iter().collect::<Vec<_>>());
            return Err(CompareError::NoSuchValue {
                axis,
                value: missing.to_owned(),
                hint,
            });
        }
    }
    Ok(())
}
