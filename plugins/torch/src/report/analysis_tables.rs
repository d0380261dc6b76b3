//! An analysis as tables: correlations, checkpoints, accuracy by backtracks, arms, and plain CSV.
//!
//! Decides columns and formats; `table` lays them out.

use std::collections::BTreeSet;

use super::analysis::{Analysis, Benchmark, Related};
use super::analysis_notes::CAUTION;
use super::compare_tables::TEXT_WIDTH;
use super::markup::wrap;
use super::table::{Column, Table};

/// Returns what a terminal prints.
pub fn text(analysis: &Analysis) -> String {
    let mut text = format!("{}\n\n", analysis.title);
    let section = |title: String, table: &Table| format!("{title}\n\n{}\n", table.to_text(TEXT_WIDTH));
    let prose = |words: &str, indent: &str| wrap(words, TEXT_WIDTH - 2, usize::MAX).join(&format!("\n{indent}"));
    for benchmark in &analysis.benchmarks {
        let name = &benchmark.name;
        text += &section(
            format!("{name}: backtracks against accuracy over checkpoints"),
            &correlations(benchmark),
        );
        text += &section(format!("{name}: checkpoints (shares in %)"), &points(benchmark));
        if let Some(table) = by_backtracks(benchmark) {
            text += &section(
                format!("{name}: correct samples by number of backtracks (%, of n samples)"),
                &table,
            );
        }
        if let Some(table) = samples(benchmark) {
            text += &section(format!("{name}: backtracks of single samples"), &table);
        }
        if let Some(table) = arms(benchmark) {
            text += &section(format!("{name}: arms, paired by problem"), &table);
        }
    }
    text += &format!("{}\n\nNotes\n\n", prose(CAUTION, ""));
    for note in &analysis.notes {
        text += &format!("- {}\n", prose(note, "  "));
    }
    text
}

/// Returns r of backtracks and accuracy for each series, with its intervals and with others held constant.
pub fn correlations(benchmark: &Benchmark) -> Table {
    let columns = vec![
        Column::left("checkpoints of"),
        Column::right("n", "Checkpoints"),
        Column::right(
            "r",
            "Pearson's r of mean backtracks and pass@1; - where it is undefined",
        ),
        Column::right("Fisher 95%", "By Fisher's z; needs four checkpoints"),
        Column::right(
            "bootstrap 95%",
            "Percentiles over checkpoints that are drawn with replacement",
        ),
        Column::right("Spearman", "Correlation of ranks"),
        Column::right(
            "r | length",
            "Partial r with mean tokens held constant; needs four checkpoints",
        ),
        Column::right("95%", "Fisher z of the partial r; needs five checkpoints"),
        Column::right("r | step", "Partial r with the step held constant"),
        Column::right("r(length)", "Pearson's r of mean tokens and pass@1"),
    ];
    let row = |related: &Related| {
        let c = &related.backtracks_accuracy;
        vec![
            related
                .series
                .clone()
                .unwrap_or_else(|| "all series together".to_owned()),
            c.num_points.to_string(),
            number(c.pearson, 3),
            interval(c.fisher_ci95),
            interval(c.bootstrap_ci95),
            number(c.spearman, 3),
            number(related.given_tokens.map(|p| p.r), 3),
            interval(related.given_tokens.and_then(|p| p.fisher_ci95)),
            number(related.given_step.map(|p| p.r), 3),
            number(related.tokens_accuracy.pearson, 3),
        ]
    };
    Table {
        columns,
        rows: benchmark.correlations.iter().map(row).collect(),
    }
}

/// Returns the figures of each checkpoint.
pub fn points(benchmark: &Benchmark) -> Table {
    let columns = vec![
        Column::left("checkpoint"),
        Column::right("pass@1", "Mean share of correct samples, %"),
        Column::right("tokens", "Mean generated tokens of a sample"),
        Column::right("backtracks", "Mean backtracks of a sample"),
        Column::right("with any", "Samples with at least one backtrack, %"),
        Column::right("truncated", "Samples that the token limit ended, %"),
        Column::right("problems", ""),
        Column::right("samples", "Of all problems and seeds"),
        Column::right("pooled", "Scores, of several seeds, that were pooled"),
    ];
    let row = |point: &super::analysis::Point| {
        vec![
            point.name(),
            percent(point.pass_at_1),
            format!("{:.0}", point.mean_tokens),
            format!("{:.2}", point.mean_backtracks),
            point.with_backtracks.map_or_else(missing, percent),
            percent(point.truncated),
            point.num_problems.to_string(),
            point.num_samples.to_string(),
            point.num_pooled.to_string(),
        ]
    };
    Table {
        columns,
        rows: benchmark.points.iter().map(row).collect(),
    }
}

/// Returns accuracy by number of backtracks, or `None` where it was not counted.
pub fn by_backtracks(benchmark: &Benchmark) -> Option<Table> {
    let counts: BTreeSet<&String> = benchmark.points.iter().flat_map(|p| p.by_backtracks.keys()).collect();
    if counts.is_empty() {
        return None;
    }
    let mut columns = vec![Column::left("checkpoint")];
    let help = "Correct of the samples with so many backtracks";
    columns.extend(counts.iter().map(|count| Column::right((*count).clone(), help)));
    let rows = benchmark.points.iter().map(|point| {
        let mut cells = vec![point.name()];
        cells.extend(counts.iter().map(|count| match point.by_backtracks.get(*count) {
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

/// Returns what only single samples tell, or `None` without any.
pub fn samples(benchmark: &Benchmark) -> Option<Table> {
    let columns = vec![
        Column::left("checkpoint"),
        Column::right("samples", ""),
        Column::right("backtracks | right", "Mean backtracks of correct samples"),
        Column::right("backtracks | wrong", "Mean backtracks of wrong samples"),
        Column::right(
            "wrong at first",
            "Samples whose first stated answer is wrong, of those where that is known",
        ),
        Column::right("recovery, %", "Correct in the end, of those that were wrong at first"),
    ];
    let rows: Vec<Vec<String>> = benchmark
        .points
        .iter()
        .filter_map(|point| {
            let stats = point.samples.as_ref()?;
            let first = if stats.num_first_known == 0 {
                missing()
            } else {
                format!("{} of {}", stats.num_first_wrong, stats.num_first_known)
            };
            Some(vec![
                point.name(),
                stats.num_samples.to_string(),
                number(stats.backtracks_if_correct, 2),
                number(stats.backtracks_if_wrong, 2),
                first,
                stats.recovery_rate.map_or_else(missing, percent),
            ])
        })
        .collect();
    (!rows.is_empty()).then_some(Table { columns, rows })
}

/// Returns the differences between arms, or `None` where there is one arm only.
pub fn arms(benchmark: &Benchmark) -> Option<Table> {
    if benchmark.arms.is_empty() {
        return None;
    }
    let columns = vec![
        Column::left("arms"),
        Column::right("step", ""),
        Column::right("pass@1", "Difference in points, paired by problem"),
        Column::right("95% interval", "Bootstrap over problems"),
        Column::right("tokens", "Mean tokens of a sample, of either arm"),
        Column::right("backtracks", "Mean backtracks of a sample, of either arm"),
        Column::right("problems", "Problems that both were asked"),
    ];
    let rows = benchmark.arms.iter().map(|row| {
        let of = if row.of.is_empty() {
            String::new()
        } else {
            format!(" ({})", row.of)
        };
        vec![
            format!("{} - {}{of}", row.to, row.from),
            row.checkpoint.clone().unwrap_or_else(missing),
            format!("{:+.1}", row.difference * 100.0),
            format!("{:+.1} to {:+.1}", row.ci95[0] * 100.0, row.ci95[1] * 100.0),
            format!("{:.0} - {:.0}", row.tokens[1], row.tokens[0]),
            format!("{:.2} - {:.2}", row.backtracks[1], row.backtracks[0]),
            row.num_problems.to_string(),
        ]
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns one line per checkpoint with unrounded numbers, shares in [0, 1], for other programs.
pub fn csv(analysis: &Analysis) -> Table {
    let counts: BTreeSet<&String> = analysis
        .benchmarks
        .iter()
        .flat_map(|b| &b.points)
        .flat_map(|p| p.by_backtracks.keys())
        .collect();
    let fixed = [
        "benchmark",
        "series",
        "arm",
        "step",
        "num_pooled",
        "num_problems",
        "num_samples",
        "pass_at_1",
        "mean_tokens",
        "mean_backtracks",
        "with_backtracks",
        "truncated",
        "backtracks_if_correct",
        "backtracks_if_wrong",
        "num_first_wrong",
        "num_recovered",
        "recovery_rate",
    ];
    let mut headers: Vec<String> = fixed.map(str::to_owned).to_vec();
    for count in &counts {
        headers.extend([format!("num_samples_{count}"), format!("num_correct_{count}")]);
    }
    let optional = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    let mut rows = Vec::new();
    for benchmark in &analysis.benchmarks {
        for point in &benchmark.points {
            let stats = point.samples.as_ref();
            let count = |value: Option<usize>| value.map_or_else(String::new, |v| v.to_string());
            let mut cells = vec![
                benchmark.name.clone(),
                point.series.clone(),
                point.arm.clone().unwrap_or_default(),
                point.checkpoint.clone().unwrap_or_default(),
                point.num_pooled.to_string(),
                point.num_problems.to_string(),
                point.num_samples.to_string(),
                point.pass_at_1.to_string(),
                point.mean_tokens.to_string(),
                point.mean_backtracks.to_string(),
                optional(point.with_backtracks),
                point.truncated.to_string(),
                optional(stats.and_then(|s| s.backtracks_if_correct)),
                optional(stats.and_then(|s| s.backtracks_if_wrong)),
                count(stats.map(|s| s.num_first_wrong)),
                count(stats.map(|s| s.num_recovered)),
                optional(stats.and_then(|s| s.recovery_rate)),
            ];
            for name in &counts {
                let tally = point.by_backtracks.get(*name).copied().unwrap_or_default();
                cells.extend([tally.num_samples.to_string(), tally.num_correct.to_string()]);
            }
            rows.push(cells);
        }
    }
    Table {
        rows,
        columns: headers.into_iter().map(Column::left).collect(),
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(missing, |v| format!("{v:.digits$}"))
}

fn interval(value: Option<[f64; 2]>) -> String {
    value.map_or_else(missing, |[low, high]| format!("{low:.2} to {high:.2}"))
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
    use crate::report::analysis::analyse;
    use crate::report::analysis::fixtures::{config, gathered};

    #[test]
    fn the_text_fits_a_terminal_and_has_the_caution() {
        let text = text(&analyse(&gathered(), &config()));
        assert!(text.lines().all(|line| line.chars().count() <= TEXT_WIDTH), "{text}");
        for words in [
            "no proof of",
            "search @ 40",
            "search - direct",
            "r | length",
            "all series together",
        ] {
            assert!(text.contains(words), "{words} is missing in:\n{text}");
        }
    }

    #[test]
    fn csv_has_a_cell_for_each_header() {
        let table = csv(&analyse(&gathered(), &config()));
        assert_eq!(table.rows.len(), 9);
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
    }
}
