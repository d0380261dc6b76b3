//! A comparison as tables: the scores, the differences, how samples fail, accuracy by backtracks and by group.
//!
//! Decides columns and formats; `table` lays them out. `compare_csv` has the numbers as they are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::compare::{Comparison, Row};
use super::study::Study;
use super::table::{Column, Table};
use crate::scoring::bootstrap::sample_stddev;

/// Text tables are at most this wide.
pub const TEXT_WIDTH: usize = 100;

/// Returns what a terminal prints: the overview where there are several benchmarks, then each with its tables and notes.
pub fn text(study: &Study) -> String {
    let mut text = String::new();
    if let Some(table) = overview(study) {
        text += &section(&format!("{}: pass@1 (95% interval), %", study.title), &table);
    }
    for comparison in &study.benchmarks {
        let title = match &comparison.benchmark {
            Some(benchmark) if study.benchmarks.len() > 1 => benchmark.clone(),
            Some(benchmark) => format!("{}: {benchmark}", comparison.title),
            None => comparison.title.clone(),
        };
        text += &comparison_text(&title, comparison);
    }
    text
}

fn section(title: &str, table: &Table) -> String {
    format!("{title}\n\n{}\n", table.to_text(TEXT_WIDTH))
}

fn comparison_text(title: &str, comparison: &Comparison) -> String {
    let mut text = section(title, &scores(comparison, ">="));
    if let Some(table) = by_seed(comparison) {
        text += &section("pass@1 of each seed (%)", &table);
    }
    if !comparison.differences.is_empty() {
        let tested = if has_test(comparison) {
            "; McNemar: exact p on majority answers"
        } else {
            ""
        };
        text += &section(
            &format!("Differences in pass@1, paired by problem (points{tested})"),
            &differences(comparison),
        );
    }
    for (field, table) in by_meta(comparison) {
        text += &section(&format!("pass@1 by {field} (%, of n problems)"), &table);
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

/// Returns pass@1 of all models on all benchmarks, or `None` where there is only one.
pub fn overview(study: &Study) -> Option<Table> {
    if study.benchmarks.len() < 2 {
        return None;
    }
    let mut columns = vec![Column::left("model")];
    columns.extend(study.benchmarks.iter().map(|comparison| {
        let name = comparison.benchmark.as_deref().unwrap_or("other");
        Column::right(name, "pass@1 with its 95% interval, %")
    }));
    let cell = |comparison: &Comparison, name: &str| {
        let row = comparison.rows.iter().find(|row| row.name == name);
        row.map_or_else(missing, |row| {
            let [low, high] = row.pass_at_1_ci95.map(percent);
            format!("{} ({low}-{high})", percent(row.pass_at_1))
        })
    };
    let rows = study.row_names().into_iter().map(|name| {
        let cells = study.benchmarks.iter().map(|comparison| cell(comparison, name));
        std::iter::once(name.to_owned()).chain(cells).collect()
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns pass@1 of each run of the rows that pool several seeds, or `None` where there are none.
pub fn by_seed(comparison: &Comparison) -> Option<Table> {
    let pooled = || comparison.rows.iter().filter(|row| row.seeds.len() > 1);
    let mut seeds: Vec<&Value> = Vec::new();
    for run in pooled().flat_map(|row| &row.seeds) {
        if !seeds.contains(&&run.seed) {
            seeds.push(&run.seed);
        }
    }
    if seeds.is_empty() {
        return None;
    }
    let mut columns = vec![Column::left("model")];
    columns.extend(
        seeds
            .iter()
            .map(|seed| Column::right(format!("seed {}", plain(seed)), "")),
    );
    columns.push(Column::right("mean", "Mean over the runs"));
    columns.push(Column::right("st. dev.", "Standard deviation between the runs, points"));
    let rows = pooled().map(|row| {
        let of_seed = |seed: &&Value| {
            let run = row.seeds.iter().find(|run| run.seed == **seed);
            run.map_or_else(missing, |run| percent(run.pass_at_1))
        };
        let mut cells = vec![row.name.clone()];
        cells.extend(seeds.iter().map(of_seed));
        cells.push(percent(row.pass_at_1));
        let values: Vec<f64> = row.seeds.iter().map(|run| run.pass_at_1).collect();
        cells.push(sample_stddev(&values).map_or_else(missing, percent));
        cells
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns a table for each field of the problems that sorts them into groups (`level`, `subject`).
pub fn by_meta(comparison: &Comparison) -> Vec<(String, Table)> {
    let rows = &comparison.rows;
    let fields: BTreeSet<&String> = rows.iter().flat_map(|row| row.by_meta.keys()).collect();
    let table = |field: &String| {
        let groups = |row: &Row| row.by_meta.get(field).cloned().unwrap_or_default();
        let values: BTreeSet<String> = rows.iter().flat_map(|row| groups(row).into_keys()).collect();
        let mut columns = vec![Column::left("model")];
        columns.extend(
            values
                .iter()
                .map(|value| Column::right(value, "Mean over the problems with this value")),
        );
        let cells = rows.iter().map(|row| {
            let groups = groups(row);
            let cell = |value| match groups.get(value) {
                Some(group) => format!("{} (n={})", percent(group.pass_at_1), group.num_problems),
                None => missing(),
            };
            std::iter::once(row.name.clone())
                .chain(values.iter().map(cell))
                .collect()
        });
        Table {
            rows: cells.collect(),
            columns,
        }
    };
    fields.into_iter().map(|field| (field.clone(), table(field))).collect()
}

/// Returns the main table; `at_least` is the sign before a lower bound.
pub fn scores(comparison: &Comparison, at_least: &str) -> Table {
    let rows = &comparison.rows;
    let largest = rows.iter().filter_map(Row::largest_pass).map(|(k, _)| k).max();
    let majority = rows.iter().filter_map(Row::largest_maj).map(|(k, _)| k).max();
    let mut columns = vec![
        Column::left("model"),
        Column::right("pass@1", "Mean share of correct samples, %"),
        Column::right(
            "95% interval",
            "Bootstrap over problems, and over seeds where there are several",
        ),
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
        Column::right("cut off", "Samples that met the token limit, %"),
    ]);
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            percent(row.pass_at_1),
            format!("{}-{}", percent(row.pass_at_1_ci95[0]), percent(row.pass_at_1_ci95[1])),
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

fn has_test(comparison: &Comparison) -> bool {
    comparison.differences.iter().any(|d| d.mcnemar.is_some())
}

/// Returns the paired differences.
pub fn differences(comparison: &Comparison) -> Table {
    let mut columns = vec![
        Column::left("model"),
        Column::left("against"),
        Column::right("difference", "pass@1 of the first minus pass@1 of the second, points"),
        Column::right(
            "95% interval",
            "Paired bootstrap over the problems that both were asked",
        ),
        Column::left("0 outside"),
        Column::right("problems", ""),
    ];
    let tested = has_test(comparison);
    if tested {
        columns.push(Column::right(
            "McNemar p",
            "Exact test on whether the most frequent answer to each problem is correct; single runs only; not corrected \
             for the number of comparisons",
        ));
    }
    let points = |value: f64| format!("{:+.1}", value * 100.0);
    let rows = comparison.differences.iter().map(|d| {
        let mut cells = vec![
            d.to.clone(),
            d.from.clone(),
            points(d.mean),
            format!("{} to {}", points(d.ci95[0]), points(d.ci95[1])),
            if d.resolved { "yes" } else { "no" }.to_owned(),
            d.num_problems.to_string(),
        ];
        cells.extend(tested.then(|| d.mcnemar.map_or_else(missing, |test| p_value(test.p_value))));
        cells
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
    let has_recovery = comparison.rows.iter().any(|row| row.recovery.is_some());
    if has_recovery {
        columns.push(Column::right(
            "recovered",
            "Correct of the samples whose first stated answer was wrong",
        ));
    }
    let rows = comparison.rows.iter().map(|row| {
        let mut cells = vec![row.name.clone()];
        cells.extend(counts.iter().map(|count| match row.by_backtracks.get(*count) {
            Some(tally) if tally.num_samples > 0 => {
                let share = tally.num_correct as f64 / tally.num_samples as f64;
                format!("{} (n={})", percent(share), tally.num_samples)
            }
            _ => missing(),
        }));
        if has_recovery {
            let recovered = row.recovery.and_then(|r| Some((r.rate()?, r.num_first_wrong)));
            cells.push(recovered.map_or_else(missing, |(rate, n)| format!("{} (n={n})", percent(rate))));
        }
        cells
    });
    Some(Table {
        rows: rows.collect(),
        columns,
    })
}

/// Returns a value as text without quotes.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// Returns a p-value with two digits that count.
fn p_value(p: f64) -> String {
    if p < 0.0001 {
        "<0.0001".to_owned()
    } else if p < 0.01 {
        format!("{p:.4}")
    } else {
        format!("{p:.2}")
    }
}

fn missing() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::compare;
    use crate::report::compare::fixtures::{arm, at, config, five_arms};
    use crate::report::compare_csv::csv;
    use crate::report::study::study;

    fn fits(text: &str) -> bool {
        text.lines().all(|line| line.chars().count() <= TEXT_WIDTH)
    }

    /// The five arms of the Countdown pipeline with three seeds each but for the base.
    fn pooled_arms() -> Vec<crate::report::compare::Arm> {
        let arms = five_arms().into_iter();
        arms.flat_map(|a| match a.label.as_deref() {
            Some("base") => vec![a],
            _ => [7, 8, 9]
                .map(|seed: u64| at(a.clone(), &[("seed", seed.into())]))
                .into(),
        })
        .collect()
    }

    #[test]
    fn three_seeds_are_one_readable_table() {
        let text = text(&study(pooled_arms(), &config()).expect("good arms"));
        assert!(fits(&text), "{text}");
        let main: Vec<&str> = text.lines().skip(2).take_while(|line| !line.is_empty()).collect();
        assert_eq!(main.len(), 2 + 5, "one block of a header and five rows:\n{text}");
        for word in [
            "seed 7",
            "st. dev.",
            "search GRPO (seeds 7, 8, 9)",
            "One run each: base",
        ] {
            assert!(
                text.replace("\n  ", " ").contains(word),
                "{word} is missing in:\n{text}"
            );
        }
        assert!(!text.contains("seed=7"), "{text}");
    }

    #[test]
    fn several_benchmarks_are_put_side_by_side() {
        let of = |name: &str| {
            five_arms()
                .into_iter()
                .map(|a| at(a, &[("benchmark", name.into())]))
                .collect::<Vec<_>>()
        };
        let study = study(
            [of("math500"), of("aime24"), of("amc23")[..2].to_vec()].concat(),
            &config(),
        )
        .expect("good");
        let table = overview(&study).expect("three benchmarks");
        assert_eq!(table.columns.len(), 4);
        assert_eq!((table.rows.len(), table.rows[4][3].as_str()), (5, "-"));
        let text = text(&study);
        assert!(fits(&text), "{text}");
        assert!(
            text.starts_with("Countdown: pass@1 (95% interval), %") && text.contains("\naime24\n\n"),
            "{text}"
        );
        let csv = csv(&study);
        assert_eq!(
            (csv.columns[2].header.as_str(), csv.rows[5][2].as_str(), csv.rows.len()),
            ("benchmark", "aime24", 12)
        );
    }

    #[test]
    fn groups_of_problems_have_a_table() {
        let mut arms = five_arms();
        let group = |pass_at_1| crate::formats::GroupScore {
            num_problems: 43,
            pass_at_1,
            ..Default::default()
        };
        let levels = [("1".to_owned(), group(0.5)), ("5".to_owned(), group(0.25))];
        arms[1].scores.by_meta.insert("level".into(), levels.into());
        let comparison = compare(arms, &config()).expect("five arms");
        let (field, table) = &by_meta(&comparison)[0];
        assert_eq!(
            (field.as_str(), &table.rows[1][1..]),
            ("level", &["50.0 (n=43)".into(), "25.0 (n=43)".into()][..])
        );
        assert_eq!(table.rows[0][1], "-");
    }

    #[test]
    fn the_text_fits_a_terminal() {
        let text = text(&study(five_arms(), &config()).expect("five arms"));
        assert!(fits(&text), "{text}");
        for word in [
            "search GRPO",
            "equal tokens",
            "false yes",
            "3+",
            "paired by problem",
            "temperature 0.7",
            "McNemar p",
            "recovered",
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
}
