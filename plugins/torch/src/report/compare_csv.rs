//! A study as one flat table of unrounded numbers, for other programs.

use std::collections::BTreeSet;

use super::compare::Row;
use super::compare_tables::plain;
use super::study::Study;
use super::table::{Column, Table};

/// Returns one line per model and benchmark with unrounded numbers, shares in [0, 1], for other programs.
pub fn csv(study: &Study) -> Table {
    let rows: Vec<&Row> = study
        .benchmarks
        .iter()
        .flat_map(|comparison| &comparison.rows)
        .collect();
    let benchmarks: Vec<String> = study
        .benchmarks
        .iter()
        .flat_map(|c| c.rows.iter().map(|_| c.benchmark.clone().unwrap_or_default()))
        .collect();
    let several = benchmarks.iter().any(|name| !name.is_empty());
    let axes: BTreeSet<&String> = rows.iter().flat_map(|row| row.axes.keys()).collect();
    let ks: BTreeSet<usize> = rows.iter().flat_map(|row| row.pass_at_k.keys().copied()).collect();
    let majs: BTreeSet<usize> = rows.iter().flat_map(|row| row.maj_at_k.keys().copied()).collect();
    let kinds: BTreeSet<&String> = rows.iter().flat_map(|row| row.failures.keys()).collect();
    let mut headers: Vec<String> = vec!["model".into(), "label".into()];
    headers.extend(several.then(|| "benchmark".to_owned()));
    headers.extend(axes.iter().map(|axis| format!("axis_{axis}")));
    let fixed = [
        "num_seeds",
        "num_problems",
        "num_samples",
        "temperature",
        "max_completion_length",
        "pass_at_1",
        "ci95_low",
        "ci95_high",
        "equal_tokens_k",
        "equal_tokens_pass",
        "equal_tokens_at_least",
        "mean_tokens",
        "mean_backtracks",
        "recovery_rate",
        "truncated",
    ];
    headers.extend(fixed.map(str::to_owned));
    headers.extend(
        ks.iter()
            .map(|k| format!("pass_at_{k}"))
            .filter(|name| name != "pass_at_1"),
    );
    headers.extend(majs.iter().map(|k| format!("maj_at_{k}")));
    headers.extend(kinds.iter().map(|kind| format!("failure_{kind}")));
    let optional = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    let cells = rows.iter().zip(benchmarks).map(|(row, benchmark)| {
        let mut cells = vec![row.name.clone(), row.label.clone().unwrap_or_default()];
        cells.extend(several.then_some(benchmark));
        cells.extend(
            axes.iter()
                .map(|axis| row.axes.get(*axis).map_or_else(String::new, plain)),
        );
        cells.extend([
            row.seeds.len().max(1).to_string(),
            row.num_problems.to_string(),
            row.num_samples.to_string(),
            optional(row.temperature),
            row.max_completion_length.map_or_else(String::new, |n| n.to_string()),
            row.pass_at_1.to_string(),
            row.pass_at_1_ci95[0].to_string(),
            row.pass_at_1_ci95[1].to_string(),
            optional(row.equal_tokens.map(|e| e.k)),
            optional(row.equal_tokens.map(|e| e.pass)),
            row.equal_tokens.map_or_else(String::new, |e| e.at_least.to_string()),
            row.mean_tokens.to_string(),
            row.mean_backtracks.to_string(),
            optional(row.recovery.and_then(|recovery| recovery.rate())),
            row.truncated.to_string(),
        ]);
        cells.extend(
            ks.iter()
                .filter(|k| **k != 1)
                .map(|k| optional(row.pass_at_k.get(k).copied())),
        );
        cells.extend(majs.iter().map(|k| optional(row.maj_at_k.get(k).copied())));
        cells.extend(
            kinds
                .iter()
                .map(|kind| row.failures.get(*kind).copied().unwrap_or(0.0).to_string()),
        );
        cells
    });
    Table {
        rows: cells.collect(),
        columns: headers.into_iter().map(Column::left).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::fixtures::{config, five_arms};
    use crate::report::study::study;

    #[test]
    fn csv_has_a_cell_for_each_header() {
        let table = csv(&study(five_arms(), &config()).expect("five arms"));
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
        let headers: Vec<_> = table.columns.iter().map(|c| c.header.as_str()).collect();
        for header in [
            "axis_style",
            "pass_at_4",
            "maj_at_4",
            "failure_false_yes",
            "equal_tokens_pass",
        ] {
            assert!(headers.contains(&header), "{headers:?}");
        }
    }
}
