//! The comparison as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! Puts tables, charts and drawings in order; what they say is made in `compare`, `notes` and `compare_tables`. A
//! content security policy in the page keeps whatever an inlined drawing may hold from running or loading anything.

use std::collections::BTreeMap;

use super::chart::{Interval, LineChart, Series, interval_chart, line_chart};
use super::compare::{Comparison, Row};
use super::compare_tables as tables;
use super::markup::{DRAWING_CSS, escape};
use super::names::nice_label;
use super::study::Study;
use crate::formats::Sample;

/// The metrics of one training run, or their means over the runs that a row pools.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The row that the run belongs to.
    pub name: String,
    /// Runs of one group share a chart for each metric: `sft`, `grpo`.
    pub group: String,
    /// metric -> (step, value), in the order of the steps.
    pub metrics: BTreeMap<String, Vec<(f64, f64)>>,
    /// Runs behind it.
    pub num_runs: usize,
}

/// Joins curves of the same name and group into their mean over the steps that all of them have.
pub fn mean_curves(curves: Vec<Curve>) -> Vec<Curve> {
    let mut groups: Vec<Vec<Curve>> = Vec::new();
    for curve in curves {
        let same = |group: &&mut Vec<Curve>| group[0].name == curve.name && group[0].group == curve.group;
        match groups.iter_mut().find(same) {
            Some(group) => group.push(curve),
            None => groups.push(vec![curve]),
        }
    }
    groups.into_iter().filter_map(mean_curve).collect()
}

fn mean_curve(mut runs: Vec<Curve>) -> Option<Curve> {
    if runs.len() < 2 {
        return runs.pop();
    }
    let num_runs = runs.len();
    let mut mean = runs.remove(0);
    let at = |run: &Curve, metric: &str, step: f64| {
        let points = run.metrics.get(metric)?;
        points.iter().find(|(x, _)| *x == step).map(|(_, y)| *y)
    };
    for (metric, points) in &mut mean.metrics {
        let joined = points.iter().filter_map(|(step, value)| {
            let others: Option<Vec<f64>> = runs.iter().map(|run| at(run, metric, *step)).collect();
            Some((*step, (value + others?.iter().sum::<f64>()) / num_runs as f64))
        });
        *points = joined.collect();
    }
    mean.metrics.retain(|_, points| !points.is_empty());
    mean.num_runs = num_runs;
    Some(mean)
}

/// A drawing to inline.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    pub name: String,
    /// A whole `<svg>` element.
    pub svg: String,
}

/// Samples of one model, some of which are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSet {
    pub name: String,
    pub samples: Vec<Sample>,
}

/// What stands on the page besides the comparison.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extras {
    pub curves: Vec<Curve>,
    pub drawings: Vec<Drawing>,
    pub samples: Vec<SampleSet>,
}

/// Charts of these metrics come first, in this order; all others follow by name, folded away.
const FIRST_METRICS: [&str; 7] = [
    "reward",
    "pass_rate",
    "backtracks",
    "completion_length",
    "truncated",
    "loss",
    "eval_loss",
];
/// Ways to fail that get an example, per model.
const NUM_FAILURE_EXAMPLES: usize = 2;

const PAGE_CSS: &str = r#"
:root{color-scheme:light dark;--ink:#1d2329;--soft:#5b6570;--line:#dde2e8;--paper:#ffffff;--band:#f5f7f9}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b1;--line:#30383f;--paper:#14181c;--band:#1b2026}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:2.2rem 1.4rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .4rem}h2{font-size:1.15rem;margin:2.4rem 0 .5rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p{margin:.4rem 0;max-width:75ch}.soft{color:var(--soft)}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:50%}
th,td{padding:.36rem .8rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
thead th{border-bottom:2px solid var(--line);font-weight:600;color:var(--soft);font-size:.87rem}
thead th[title]{text-decoration:underline dotted;text-underline-offset:.25em;cursor:help}
tbody th{font-weight:600}.num{text-align:right}tbody tr:hover{background:var(--band)}
.charts{display:flex;flex-wrap:wrap;gap:1.2rem 1.6rem}.charts svg{max-width:100%;height:auto}
figure{margin:1rem 0}figcaption{color:var(--soft);font-size:.87rem;margin-bottom:.3rem}
.frame{overflow:auto;max-height:46rem;border:1px solid var(--line);border-radius:6px;padding:.4rem}
ul{padding-left:1.2rem;max-width:85ch}li{margin:.25rem 0}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--band);border:1px solid var(--line);border-radius:6px;
padding:.6rem .8rem;font-size:.85rem;margin:.4rem 0}
"#;

/// Returns the whole page.
pub fn compare_page(study: &Study, extras: &Extras) -> String {
    let mut body = format!("<h1>{}</h1>\n", escape(&study.title));
    if let Some(table) = tables::overview(study) {
        body += &table.to_html();
        body += "<p class=\"soft\">pass@1 with its 95% interval, in percent.</p>\n";
    }
    for comparison in &study.benchmarks {
        let section = comparison_section(comparison);
        body += &match &comparison.benchmark {
            // Its headings go one level down, below the name of the benchmark.
            Some(name) => {
                let section = section.replace("<h2>", "<h3>").replace("</h2>", "</h3>");
                format!("<section>\n<h2>{}</h2>\n{section}</section>\n", escape(name))
            }
            None => section,
        };
    }
    body += &curves(&study.row_names(), &extras.curves);
    body += &drawings(&extras.drawings);
    body += &samples(&extras.samples);
    html(&study.title, &body)
}

fn comparison_section(comparison: &Comparison) -> String {
    [
        scores(comparison),
        notes(comparison),
        equal_tokens(comparison),
        by_meta(comparison),
        failures(comparison),
    ]
    .concat()
}

/// Wraps a body into a page with the style of all our pages.
pub fn html(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{PAGE_CSS}{DRAWING_CSS}</style></head>\n<body>\n{body}</body></html>\n",
        escape(title)
    )
}

fn scores(comparison: &Comparison) -> String {
    let intervals: Vec<Interval> = comparison
        .rows
        .iter()
        .enumerate()
        .map(|(style, row)| {
            let [low, high] = row.pass_at_1_ci95;
            Interval {
                name: row.name.clone(),
                style,
                value: row.pass_at_1,
                low,
                high,
            }
        })
        .collect();
    let mut html = tables::scores(comparison, "≥").to_html();
    html += "<p class=\"soft\">Shares in percent. Point at a column's head to read what it counts.</p>\n";
    html += &format!(
        "<div class=\"charts\">{}</div>\n",
        interval_chart("pass@1 with 95% interval", &intervals, 760.0)
    );
    if let Some(table) = tables::by_seed(comparison) {
        html += "<h2>Seeds</h2>\n<p class=\"soft\">pass@1 of each run, in percent.</p>\n";
        html += &table.to_html();
    }
    if !comparison.differences.is_empty() {
        html += "<h2>Differences in pass@1</h2>\n<p class=\"soft\">In points, paired by problem.</p>\n";
        html += &tables::differences(comparison).to_html();
    }
    html
}

fn notes(comparison: &Comparison) -> String {
    let items: String = comparison
        .notes
        .iter()
        .map(|note| format!("<li>{}</li>\n", escape(note)))
        .collect();
    format!("<h2>What the numbers say</h2>\n<ul>\n{items}</ul>\n")
}

fn equal_tokens(comparison: &Comparison) -> String {
    let line = |(style, row): (usize, &Row)| Series {
        name: row.name.clone(),
        style,
        points: row
            .pass_at_k
            .iter()
            .map(|(k, pass)| (*k as f64 * row.mean_tokens, *pass))
            .collect(),
    };
    let chart = LineChart {
        title: "At least one of k samples is correct, by the tokens they cost".into(),
        x_label: "mean generated tokens for k samples of a problem (k = 1, 2, 3 ... from left to right)".into(),
        width: 760.0,
        height: 380.0,
        x_log: true,
        y_percent: true,
        smooth: false,
    };
    let series: Vec<Series> = comparison.rows.iter().enumerate().map(line).collect();
    let Some(svg) = line_chart(&chart, &series) else {
        return String::new();
    };
    format!(
        "<h2>At equal generated tokens</h2>\n<p>A model that writes more per sample can be sampled less often for the \
         same money. One sample of the most expensive model costs {:.0} tokens; the table's column \"equal tokens\" \
         reads each line there.</p>\n<div class=\"charts\">{svg}</div>\n",
        comparison.budget_tokens
    )
}

fn by_meta(comparison: &Comparison) -> String {
    let section = |(field, table): (String, super::table::Table)| {
        format!(
            "<h2>pass@1 by {}</h2>\n{}",
            escape(&field.replace('_', " ")),
            table.to_html()
        )
    };
    tables::by_meta(comparison).into_iter().map(section).collect()
}

fn failures(comparison: &Comparison) -> String {
    let mut html = String::new();
    if let Some(table) = tables::failures(comparison) {
        html += "<h2>How samples fail</h2>\n<p class=\"soft\">Percent of all samples of the model.</p>\n";
        html += &table.to_html();
    }
    if let Some(table) = tables::by_backtracks(comparison) {
        html += "<h2>Accuracy by number of backtracks</h2>\n";
        html += "<p class=\"soft\">Percent correct of the n samples with so many backtracks.</p>\n";
        html += &table.to_html();
    }
    html
}

fn curves(row_names: &[&str], curves: &[Curve]) -> String {
    if curves.is_empty() {
        return String::new();
    }
    let mut styles: Vec<&str> = row_names.to_vec();
    for curve in curves {
        if !styles.contains(&curve.name.as_str()) {
            styles.push(&curve.name);
        }
    }
    let mut groups: Vec<&str> = Vec::new();
    for curve in curves {
        if !groups.contains(&curve.group.as_str()) {
            groups.push(&curve.group);
        }
    }
    let mut html = String::from("<h2>Learning curves</h2>\n");
    html += "<p class=\"soft\">Points: each logged step. Lines: moving mean over a twelfth of the steps.";
    if let Some(most) = curves.iter().map(|curve| curve.num_runs).max().filter(|most| *most > 1) {
        html += &format!(" Runs that differ in the seed alone are shown as their mean (of up to {most}).");
    }
    html += "</p>\n";
    for group in groups {
        let members: Vec<&Curve> = curves.iter().filter(|curve| curve.group == group).collect();
        html += &format!("<h3>{}</h3>\n", escape(&nice_label(group)));
        html += &group_charts(&members, &styles);
    }
    html
}

/// Returns a chart for each metric of runs that share charts.
fn group_charts(members: &[&Curve], styles: &[&str]) -> String {
    let mut metrics: Vec<&str> = members
        .iter()
        .flat_map(|curve| curve.metrics.keys().map(String::as_str))
        .collect();
    let place = |name: &str| {
        FIRST_METRICS
            .iter()
            .position(|first| *first == name)
            .unwrap_or(FIRST_METRICS.len())
    };
    metrics.sort_by_key(|name| (place(name), *name));
    metrics.dedup();
    let chart_of = |metric: &&str| {
        let series: Vec<Series> = members
            .iter()
            .filter_map(|curve| {
                let style = styles.iter().position(|name| *name == curve.name).unwrap_or(0);
                Some(Series {
                    name: curve.name.clone(),
                    style,
                    points: curve.metrics.get(*metric)?.clone(),
                })
            })
            .collect();
        let (title, x_label) = (metric.replace('_', " "), "step".to_owned());
        let chart = LineChart {
            title,
            x_label,
            width: 510.0,
            height: 290.0,
            x_log: false,
            y_percent: false,
            smooth: true,
        };
        line_chart(&chart, &series)
    };
    let known = metrics.iter().filter(|name| place(name) < FIRST_METRICS.len()).count();
    // Without a metric that is known by name, all are equally worth showing.
    let shown = if known == 0 { metrics.len() } else { known };
    let charts = |names: &[&str]| names.iter().filter_map(chart_of).collect::<String>();
    let mut html = format!("<div class=\"charts\">{}</div>\n", charts(&metrics[..shown]));
    let rest = charts(&metrics[shown..]);
    if !rest.is_empty() {
        html += &format!("<details><summary>More metrics</summary><div class=\"charts\">{rest}</div></details>\n");
    }
    html
}

fn drawings(drawings: &[Drawing]) -> String {
    if drawings.is_empty() {
        return String::new();
    }
    let figure = |d: &Drawing| {
        format!(
            "<figure><figcaption>{}</figcaption><div class=\"frame\">{}</div></figure>\n",
            escape(&d.name),
            d.svg
        )
    };
    format!(
        "<h2>Drawn</h2>\n<p class=\"soft\">Point at a node to read it whole.</p>\n{}",
        drawings.iter().map(figure).collect::<String>()
    )
}

/// Shows a correct sample of each model and one for each of its most frequent failures.
fn samples(sets: &[SampleSet]) -> String {
    let mut html = String::new();
    for set in sets {
        let mut by_failure: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in set.samples.iter().filter(|sample| !sample.correct) {
            by_failure
                .entry(sample.failure.as_deref().unwrap_or("wrong"))
                .or_default()
                .push(sample);
        }
        let mut failures: Vec<(&str, Vec<&Sample>)> = by_failure.into_iter().collect();
        failures.sort_by_key(|(_, samples)| std::cmp::Reverse(samples.len()));
        let correct = set.samples.iter().find(|sample| sample.correct);
        let mut shown: Vec<String> = correct
            .map(|sample| sample_html("correct", sample))
            .into_iter()
            .collect();
        let wrong = failures.iter().take(NUM_FAILURE_EXAMPLES);
        shown.extend(wrong.filter_map(|(failure, samples)| Some(sample_html(failure, samples.first()?))));
        html += &format!(
            "<details><summary>{}</summary>\n{}</details>\n",
            escape(&set.name),
            shown.concat()
        );
    }
    if html.is_empty() {
        html
    } else {
        format!("<h2>Samples</h2>\n{html}")
    }
}

fn sample_html(verdict: &str, sample: &Sample) -> String {
    format!(
        "<p><strong>{}</strong> <span class=\"soft\">problem {}, sample {}, {} tokens, {} backtracks</span></p>\
         <pre>{}\n{}</pre>\n",
        escape(&verdict.replace('_', " ")),
        escape(&sample.problem_id),
        sample.sample_idx,
        sample.num_tokens,
        sample.num_backtracks,
        escape(sample.prompt.trim()),
        escape(sample.completion.trim())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::compare::fixtures::{at, config, five_arms};
    use crate::report::study::study;

    fn sample(correct: bool, failure: Option<&str>, completion: &str) -> Sample {
        Sample {
            version: 1,
            problem_id: "p1".into(),
            sample_idx: 0,
            prompt: "7 3 4 -> 24".into(),
            completion: completion.into(),
            num_tokens: 12,
            answer: None,
            correct,
            truncated: false,
            num_backtracks: 0,
            failure: failure.map(str::to_owned),
        }
    }

    fn page(extras: &Extras) -> String {
        compare_page(&study(five_arms(), &config()).expect("five arms"), extras)
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let page = page(&Extras::default());
        assert!(page.contains("default-src 'none'"));
        let without_namespaces = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!without_namespaces.contains("http://") && !without_namespaces.contains("https://"));
        assert!(!page.contains("<script") && !page.contains("src=\"") && !page.contains("@import"));
    }

    #[test]
    fn each_benchmark_is_a_section_below_the_overview() {
        let of = |name: &str| {
            five_arms()
                .into_iter()
                .map(|a| at(a, &[("benchmark", name.into())]))
                .collect::<Vec<_>>()
        };
        let study = study([of("math<500>"), of("amc23")].concat(), &config()).expect("two benchmarks");
        let page = compare_page(&study, &Extras::default());
        assert!(page.contains("<h2>math&lt;500&gt;</h2>") && page.contains("<h2>amc23</h2>"));
        assert!(page.contains("<h3>Differences in pass@1</h3>") && !page.contains("<h2>Differences"));
    }

    #[test]
    fn runs_of_one_row_are_joined_step_by_step() {
        let run = |points: &[(f64, f64)]| Curve {
            name: "search SFT".into(),
            group: "sft".into(),
            metrics: [("loss".to_owned(), points.to_vec())].into(),
            num_runs: 1,
        };
        let alone = Curve {
            group: "grpo".into(),
            ..run(&[(1.0, 9.0)])
        };
        let joined = mean_curves(vec![
            run(&[(1.0, 2.0), (2.0, 1.0), (3.0, 0.0)]),
            alone.clone(),
            run(&[(1.0, 4.0), (3.0, 1.0)]),
        ]);
        assert_eq!(joined[0].metrics["loss"], [(1.0, 3.0), (3.0, 0.5)]);
        assert_eq!((joined[0].num_runs, &joined[1]), (2, &alone));
    }

    #[test]
    fn sections_without_data_are_left_out() {
        let bare = page(&Extras::default());
        assert!(!bare.contains("Learning curves") && !bare.contains("Drawn") && !bare.contains("<h2>Samples"));
    }

    #[test]
    fn known_metrics_come_first_and_others_are_folded() {
        let points: Vec<(f64, f64)> = (0..30).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect();
        let metrics = ["zeta", "reward", "loss"]
            .map(|name| (name.to_owned(), points.clone()))
            .into();
        let curve = Curve {
            name: "search GRPO".into(),
            group: "grpo".into(),
            metrics,
            num_runs: 1,
        };
        let page = page(&Extras {
            curves: vec![curve],
            ..Extras::default()
        });
        let at = |what: &str| page.find(what).unwrap_or_else(|| panic!("no {what}"));
        assert!(at(">reward</text>") < at(">loss</text>") && at(">loss</text>") < at("More metrics"));
        assert!(at("More metrics") < at(">zeta</text>") && page.contains("<h3>GRPO</h3>"));
    }

    #[test]
    fn samples_are_escaped_and_the_frequent_failures_shown() {
        let samples = vec![
            sample(false, Some("false_yes"), "<b>24 ? 24</b>"),
            sample(false, Some("arithmetic"), "a"),
            sample(false, Some("arithmetic"), "b"),
            sample(false, Some("operand"), "c"),
            sample(false, Some("operand"), "d"),
            sample(true, None, "right"),
        ];
        let page = page(&Extras {
            samples: vec![SampleSet {
                name: "search <SFT>".into(),
                samples,
            }],
            ..Extras::default()
        });
        assert!(page.contains("search &lt;SFT&gt;") && page.contains("<strong>operand</strong>"));
        assert!(page.contains("7 3 4 -&gt; 24") && !page.contains("<b>"));
        assert!(
            !page.contains("<strong>false yes</strong>"),
            "only the two most frequent failures are shown"
        );
    }
}
