//! A comparison as tables: the scores, the differences, how samples fail, accuracy by backtracks, and plain CSV.
//!
//! Decides columns and formats; `table` lays them out.

use std::collections::BTreeSet;

use serde_json::Value;

use super::compare::{Comparison, Row};
use super::table::{Column, Table};

/// Text tables are at most this wide.
pub const TEXT_WIDTH: usize = 110;

/// Returns what a terminal prints: every table and the notes.
pub fn text(comparison: &Comparison) -> String {
    let section = |title: &str, table: &Table| format!("{title}\n\n{}\n", table.to_text(TEXT_WIDTH));
    let mut text = section(&comparison.title, &scores(comparison, ">="));
    if !comparison.differences.is_empty() {
        text += &section(
            "Differences in pass@1, paired by problem (points)",
            &differences(comparison),
        );
    }
    if let Some(table) = failures(comparison) {
        text += &section("How samples fail (% of all samples of the model)", &table);
    }
    if let Some(table) = by_backtracks(comparison) {
        text += &section("Correct samples by number of backtracks (%, of n samples)", &table);
    }
    text += "Notes\n\n";
    for note in &comparison.notes {
        let lines = super::markup::wrap(note, TEXT_WIDTH - 2, usize::MAX);
        text += &format!("- {}\n", lines.join("\n  "));
    }
    text
}

/// Returns the main table; `at_least` is the sign before a lower bound.
pub fn scores(comparison: &Comparison, at_least: &str) -> Table {
    let rows = &comparison.rows;
    let largest = rows.iter().filter_map(Row::largest_pass).map(|(k, _)| k).max();
    let majority = rows.iter().filter_map(Row::largest_maj).map(|(k, _)| k).max();
    let mut columns = vec![
        Column::left("model"),
        Column::right("pass@1", "Mean share of correct samples, %"),
        Column::right("95% interval", "Bootstrap over problems"),
    ];
    if let Some(k) = largest.filter(|k| *k > 1) {
        columns.push(Column::right(
            format!("pass@{k}"),
            "At least one of k samples is correct, unbiased estimate, %",
        ));
    }
    columns.push(Column::right(
        "equal tokens",
        format!(
            "pass@k where k is as many samples as {:.0} generated tokens buy: one sample of the most expensive model",
            comparison.budget_tokens
        ),
    ));
    if let Some(k) = majority {
        columns.push(Column::right(
            format!("maj@{k}"),
            "The most frequent of k answers is correct, %",
        ));
    }
    columns.extend([
        Column::right("tokens", "Mean generated tokens of a sample"),
        Column::right("backtracks", "Mean per sample"),
        Column::right("truncated", "Samples that met the token limit, %"),
    ]);
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            percent(row.pass_at_1),
            format!(
                "{} - {}",
                percent(row.pass_at_1_ci95[0]),
                percent(row.pass_at_1_ci95[1])
            ),
        ];
        if let Some(k) = largest.filter(|k| *k > 1) {
            cells.push(row.pass_at_k.get(&k).map_or_else(missing, |pass| percent(*pass)));
        }
        cells.push(row.equal_tokens.map_or_else(missing, |e| {
            format!(
                "{}{} (k={:.1})",
                if e.at_least { at_least } else { "" },
                percent(e.pass),
                e.k
            )
        }));
        if let Some(k) = majority {
            cells.push(row.maj_at_k.get(&k).map_or_else(missing, |maj| percent(*maj)));
        }
        cells.extend([
            format!("{:.1}", row.mean_tokens),
            format!("{:.2}", row.mean_backtracks),
            percent(row.truncated),
        ]);
        cells
    });
    Table {
        rows: cells.collect(),
        columns,
    }
}

/// Returns the paired differences.
pub fn differences(comparison: &Comparison) -> Table {
    let columns = vec![
        Column::left("model"),
        Column::left("against"),
        Column::right("difference", "pass@1 of the first minus pass@1 of the second, points"),
        Column::right(
            "95% interval",
            "Paired bootstrap over the problems that both were asked",
        ),
        Column::right("problems", ""),
        Column::left("0 outside"),
    ];
    let points = |value: f64| format!("{:+.1}", value * 100.0);
    let rows = comparison.differences.iter().map(|d| {
        vec![
            d.to.clone(),
            d.from.clone(),
            points(d.mean),
            format!("{} to {}", points(d.ci95[0]), points(d.ci95[1])),
            d.num_problems.to_string(),
            if d.resolved { "yes" } else { "no" }.to_owned(),
        ]
    });
    Table {
        rows: rows.collect(),
        columns,
    }
}

/// Returns the share of samples for each way to fail, or `None` where nothing failed.
pub fn failures(comparison: &Comparison) -> Option<Table> {
    let kinds: BTreeSet<&String> = comparison.rows.iter().flat_map(|row| row.failures.keys()).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut columns = vec![Column::left("model")];
    columns.extend(kinds.iter().map(|kind| Column::right(kind.replace('_', " "), "")));
    columns.push(Column::right("all wrong", ""));
    let rows = comparison.rows.iter().map(|row| {
        let mut cells = vec![row.name.clone()];
        cells.extend(
            kinds
                .iter()
                .map(|kind| percent(row.failures.get(*kind).copied().unwrap_or(0.0))),
        );
        cells.push(percent(1.0 - row.pass_at_1));
        cells
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns accuracy by number of backtracks, or `None` where it was not counted.
pub fn by_backtracks(comparison: &Comparison) -> Option<Table> {
    let counts: BTreeSet<&String> = comparison
        .rows
        .iter()
        .flat_map(|row| row.by_backtracks.keys())
        .collect();
    if counts.is_empty() {
        return None;
    }
    let mut columns = vec![Column::left("model")];
    columns.extend(
        counts
            .iter()
            .map(|count| Column::right((*count).clone(), "Correct of the samples with so many")),
    );
    let rows = comparison.rows.iter().map(|row| {
        let mut cells = vec![row.name.clone()];
        cells.extend(counts.iter().map(|count| match row.by_backtracks.get(*count) {
            Some(tally) if tally.num_samples > 0 => {
                let share = tally.num_correct as f64 / tally.num_samples as f64;
                format!("{} (n={})", percent(share), tally.num_samples)
            }
            _ => missing(),
        }));
        cells
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns one line per model with unrounded numbers, shares in [0, 1], for other programs.
pub fn csv(comparison: &Comparison) -> Table {
    let rows = &comparison.rows;
    let axes: BTreeSet<&String> = rows.iter().flat_map(|row| row.axes.keys()).collect();
    let ks: BTreeSet<usize> = rows.iter().flat_map(|row| row.pass_at_k.keys().copied()).collect();
    let majs: BTreeSet<usize> = rows.iter().flat_map(|row| row.maj_at_k.keys().copied()).collect();
    let kinds: BTreeSet<&String> = rows.iter().flat_map(|row| row.failures.keys()).collect();
    let mut headers: Vec<String> = vec!["model".into(), "label".into()];
    headers.extend(axes.iter().map(|axis| format!("axis_{axis}")));
    let fixed = [
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
    let cells = rows.iter().map(|row| {
        let mut cells = vec![row.name.clone(), row.label.clone().unwrap_or_default()];
        cells.extend(
            axes.iter()
                .map(|axis| row.axes.get(*axis).map_or_else(String::new, plain)),
        );
        cells.extend([
            row.num_problems.to_string(),
            row.num_samples.to_string(),
            row.temperature.to_string(),
            row.max_completion_length.to_string(),
            row.pass_at_1.to_string(),
            row.pass_at_1_ci95[0].to_string(),
            row.pass_at_1_ci95[1].to_string(),
            optional(row.equal_tokens.map(|e| e.k)),
            optional(row.equal_tokens.map(|e| e.pass)),
            row.equal_tokens.map_or_else(String::new, |e| e.at_least.to_string()),
            row.mean_tokens.to_string(),
            row.mean_backtracks.to_string(),
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

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

fn missing() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::compare;
    use crate::report::compare::fixtures::{arm, config, five_arms};

    #[test]
    fn the_text_fits_a_terminal() {
        let text = text(&compare(five_arms(), &config()).expect("five arms"));
        assert!(text.lines().all(|line| line.chars().count() <= TEXT_WIDTH), "{text}");
        for word in [
            "search GRPO",
            "equal tokens",
            "false yes",
            "3+",
            "paired by problem",
            "temperature 0.7",
        ] {
            assert!(text.contains(word), "{word} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_lower_bound_has_its_sign() {
        let comparison = compare(
            vec![arm("a", None, &[1, 2], 4, 10.0), arm("b", None, &[4, 4], 4, 100.0)],
            &config(),
        );
        let table = scores(&comparison.expect("two arms"), ">=");
        assert_eq!(table.rows[0][4], ">=100.0 (k=10.0)");
        assert_eq!(table.rows[1][4], "100.0 (k=1.0)");
    }

    #[test]
    fn csv_has_a_cell_for_each_header() {
        let table = csv(&compare(five_arms(), &config()).expect("five arms"));
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
