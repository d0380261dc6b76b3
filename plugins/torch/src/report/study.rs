//! Several benchmarks side by side: a comparison for each value of the axis `benchmark`, and pass@1 of all in one table.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::compare::{Arm, CompareConfig, CompareError, Comparison, check_names, compare_pools};
use super::names::row_name;
use super::pool::{Pool, SEED_AXIS, pools};

/// The axis that tells problem sets apart.
pub const BENCHMARK_AXIS: &str = "benchmark";

/// A comparison for each benchmark; one without a name where there is no such axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Study {
    pub version: u32,
    pub title: String,
    /// Never empty; in the order in which the benchmarks came.
    pub benchmarks: Vec<Comparison>,
}

/// Compares arms, benchmark by benchmark.
///
/// # Errors
/// There are none, or `order` or `baseline` names a row that no benchmark has.
pub fn study(arms: Vec<Arm>, config: &CompareConfig) -> Result<Study, CompareError> {
    let mut groups: Vec<(Option<String>, Vec<Arm>)> = Vec::new();
    for mut arm in arms {
        let benchmark = arm.axes.remove(BENCHMARK_AXIS).map(|value| text_of(&value));
        match groups.iter_mut().find(|(name, _)| *name == benchmark) {
            Some((_, members)) => members.push(arm),
            None => groups.push((benchmark, vec![arm])),
        }
    }
    let groups: Vec<(Option<String>, Vec<Pool>)> = groups.into_iter().map(|(name, arms)| (name, pools(arms))).collect();
    let mut names: Vec<&str> = Vec::new();
    for pool in groups.iter().flat_map(|(_, pools)| pools) {
        if !names.contains(&pool.name.as_str()) {
            names.push(&pool.name);
        }
    }
    if names.is_empty() {
        return Err(CompareError::NoScores);
    }
    check_names(config, &names)?;
    let compared = |(name, pools)| compare_pools(pools, config, name);
    Ok(Study {
        version: 1,
        title: config.title.clone(),
        benchmarks: groups.into_iter().map(compared).collect::<Result<_, _>>()?,
    })
}

impl Study {
    /// Returns the names of all rows, each once, in the order of the benchmarks.
    pub fn row_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for row in self.benchmarks.iter().flat_map(|comparison| &comparison.rows) {
            if !names.contains(&row.name.as_str()) {
                names.push(&row.name);
            }
        }
        names
    }

    /// Returns the name of the row that something with this label at these axes belongs to: as runs with several seeds
    /// are one row, so are their curves and samples.
    pub fn row_of(label: Option<&str>, axes: &BTreeMap<String, Value>) -> String {
        let mut axes = axes.clone();
        axes.remove(BENCHMARK_AXIS);
        axes.remove(SEED_AXIS);
        row_name(label, &axes)
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::fixtures::{arm, at, config, five_arms};

    fn two_benchmarks() -> Vec<Arm> {
        let of = |benchmark: &str| {
            let arms = five_arms().into_iter();
            arms.map(|arm| at(arm, &[(BENCHMARK_AXIS, benchmark.into())]))
                .collect::<Vec<_>>()
        };
        [of("math500"), of("amc23")[..3].to_vec()].concat()
    }

    #[test]
    fn each_benchmark_has_its_own_rows() {
        let config = CompareConfig {
            baseline: Some("base".into()),
            order: vec!["search GRPO".into()],
            ..config()
        };
        let study = study(two_benchmarks(), &config).expect("known rows");
        let found: Vec<(Option<&str>, usize)> = study
            .benchmarks
            .iter()
            .map(|comparison| (comparison.benchmark.as_deref(), comparison.rows.len()))
            .collect();
        assert_eq!(found, [(Some("math500"), 5), (Some("amc23"), 3)]);
        // A row that one benchmark lacks may be named.
        assert_eq!(study.benchmarks[0].rows[0].name, "search GRPO");
        assert_eq!(study.row_names().len(), 5);
    }

    #[test]
    fn curves_of_several_seeds_belong_to_the_row_that_pools_them() {
        let axes = [("seed", Value::from(1)), (BENCHMARK_AXIS, "amc23".into())];
        let run = at(arm("sft", Some("search"), &[1], 4, 1.0), &axes);
        assert_eq!(Study::row_of(Some("sft"), &run.axes), "search SFT");
        let study = study(vec![run], &config()).expect("one run");
        assert_eq!(study.row_names(), ["search SFT"]);
    }

    #[test]
    fn names_are_checked_against_all_benchmarks() {
        let config = CompareConfig {
            baseline: Some("nobody".into()),
            ..config()
        };
        let error = study(two_benchmarks(), &config).expect_err("no such row");
        assert!(error.to_string().contains("baseline names \"nobody\""), "{error}");
        assert!(matches!(study(Vec::new(), &config), Err(CompareError::NoScores)));
    }
}
