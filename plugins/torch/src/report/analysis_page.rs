//! An analysis as one HTML page that needs nothing else.
//!
//! Puts charts, tables and words in order; what they say is made in `analysis` and `analysis_tables`.

use std::collections::BTreeSet;

use super::analysis::{Analysis, Benchmark, Point, Related, Run, checkpoints, series_of};
use super::analysis_notes::CAUTION;
use super::analysis_tables as tables;
use super::chart::{LineChart, Series, line_chart};
use super::correlate::MIN_POINTS;
use super::markup::escape;
use super::page::html;
use super::scatter::{Cloud, Scatter, scatter};
use super::table::Table;

/// Metrics of training that are worth a chart here, in this order; `report.compare` shows all others.
const METRICS: [&str; 7] = [
    "completion_length",
    "reward",
    "pass_rate",
    "backtracks",
    "entropy",
    "kl",
    "truncated",
];

/// Returns the whole page.
pub fn analysis_page(analysis: &Analysis) -> String {
    let styles = styles(analysis);
    let mut body = format!("<h1>{}</h1>\n", escape(&analysis.title));
    let items: String = analysis
        .notes
        .iter()
        .map(|note| format!("<li>{}</li>\n", escape(note)))
        .collect();
    body += &format!("<ul>\n{items}</ul>\n");
    for benchmark in &analysis.benchmarks {
        body += &benchmark_html(benchmark, &styles);
    }
    body += &training(&analysis.runs, &styles);
    html(&analysis.title, &body)
}

/// Every series of the page, so that each has one style in all charts.
fn styles(analysis: &Analysis) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let of_points = analysis.benchmarks.iter().flat_map(|b| series_of(&b.points));
    for name in of_points.chain(analysis.runs.iter().map(|run| run.series.clone())) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn style(styles: &[String], series: &str) -> usize {
    styles.iter().position(|name| name == series).unwrap_or(0)
}

fn benchmark_html(benchmark: &Benchmark, styles: &[String]) -> String {
    let mut html = format!("<h2>{}</h2>\n", escape(&benchmark.name));
    html += "<h3>Backtracks against accuracy over checkpoints</h3>\n";
    html += &format!("<div class=\"charts\">{}</div>\n", clouds(benchmark, styles));
    html += &format!("<p><strong>Caution.</strong> {}</p>\n", escape(CAUTION));
    html += &tables::correlations(benchmark).to_html();
    let num = checkpoints(&benchmark.points).len();
    if num < MIN_POINTS {
        html += &format!(
            "<p class=\"soft\">With {num} checkpoint{} there is no correlation to speak of; it takes at least {MIN_POINTS}.</p>\n",
            if num == 1 { "" } else { "s" }
        );
    }
    let charts = over_steps(benchmark, styles);
    if !charts.is_empty() {
        html += &format!("<h3>Over training</h3>\n<div class=\"charts\">{charts}</div>\n");
    }
    html += &section("Arms", "Paired by problem; shares in points.", tables::arms(benchmark));
    html += &section(
        "Accuracy by number of backtracks",
        "Percent correct of the n samples with so many backtracks. Harder problems take more backtracks, so a fall along a \
         row says as much about problems as about backtracks.",
        tables::by_backtracks(benchmark),
    );
    html += &section(
        "Backtracks of right and wrong samples, and recovery",
        "The first stated answer is what is declared before the first return, else the first box (in Countdown: the first \
         check). Recovery: correct in the end, of the samples that were wrong at first.",
        tables::samples(benchmark),
    );
    html += &format!(
        "<details><summary>All checkpoints</summary>{}</details>\n",
        tables::points(benchmark).to_html()
    );
    html
}

fn section(title: &str, words: &str, table: Option<Table>) -> String {
    let Some(table) = table else { return String::new() };
    format!(
        "<h3>{}</h3>\n<p class=\"soft\">{}</p>\n{}",
        escape(title),
        escape(words),
        table.to_html()
    )
}

/// Returns the plots of backtracks and of length against accuracy.
fn clouds(benchmark: &Benchmark, styles: &[String]) -> String {
    let points = checkpoints(&benchmark.points);
    let cloud = |series: &String, x: fn(&Point) -> f64| Cloud {
        name: series.clone(),
        style: style(styles, series),
        points: points
            .iter()
            .filter(|p| p.series == *series)
            .map(|p| super::scatter::Point {
                x: x(p),
                y: p.pass_at_1,
                label: p.checkpoint.clone().unwrap_or_default(),
            })
            .collect(),
    };
    let plot = |x_label: &str, r: fn(&Related) -> Option<f64>, x: fn(&Point) -> f64| {
        let clouds: Vec<Cloud> = series_of(&benchmark.points).iter().map(|name| cloud(name, x)).collect();
        let plot = Scatter {
            title: heading(benchmark, points.len(), r),
            x_label: x_label.to_owned(),
            width: 510.0,
            height: 340.0,
        };
        scatter(&plot, &clouds).unwrap_or_default()
    };
    plot(
        "mean backtracks of a sample",
        |related| related.backtracks_accuracy.pearson,
        |point| point.mean_backtracks,
    ) + &plot(
        "mean generated tokens of a sample",
        |related| related.tokens_accuracy.pearson,
        |point| point.mean_tokens,
    )
}

/// Names the plot with r over all that it shows.
fn heading(benchmark: &Benchmark, num_points: usize, r: fn(&Related) -> Option<f64>) -> String {
    let all = benchmark.correlations.iter().find(|related| related.series.is_none());
    let only = benchmark
        .correlations
        .first()
        .filter(|_| benchmark.correlations.len() == 1);
    let r = match all.or(only).and_then(r) {
        Some(r) => format!("r = {r:.3}"),
        None if num_points < MIN_POINTS => "too few points for r".to_owned(),
        None => "r undefined".to_owned(),
    };
    format!("pass@1, {}: {r}, n = {num_points}", benchmark.name)
}

/// A title, whether the value is a share, and the value.
type Quantity = (&'static str, bool, fn(&Point) -> f64);

fn over_steps(benchmark: &Benchmark, styles: &[String]) -> String {
    let quantities: [Quantity; 4] = [
        ("pass@1", true, |p| p.pass_at_1),
        ("mean tokens", false, |p| p.mean_tokens),
        ("mean backtracks", false, |p| p.mean_backtracks),
        ("truncated", true, |p| p.truncated),
    ];
    let mut charts = String::new();
    for (title, y_percent, value) in quantities {
        let series: Vec<Series> = series_of(&benchmark.points)
            .into_iter()
            .map(|name| Series {
                style: style(styles, &name),
                points: benchmark
                    .points
                    .iter()
                    .filter(|p| p.series == name)
                    .filter_map(|p| Some((p.step?, value(p))))
                    .collect(),
                name,
            })
            .collect();
        charts += &line_chart(&chart(title, y_percent, false), &series).unwrap_or_default();
    }
    charts
}

fn chart(title: &str, y_percent: bool, smooth: bool) -> LineChart {
    LineChart {
        title: title.to_owned(),
        x_label: "step".to_owned(),
        width: 510.0,
        height: 290.0,
        x_log: false,
        y_percent,
        smooth,
    }
}

fn training(runs: &[Run], styles: &[String]) -> String {
    let known: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| run.metrics.keys())
        .map(String::as_str)
        .collect();
    let mut charts = String::new();
    for metric in METRICS.into_iter().filter(|metric| known.contains(metric)) {
        let series: Vec<Series> = runs
            .iter()
            .filter_map(|run| {
                Some(Series {
                    name: run.series.clone(),
                    style: style(styles, &run.series),
                    points: run.metrics.get(metric)?.clone(),
                })
            })
            .collect();
        charts += &line_chart(&chart(&metric.replace('_', " "), false, true), &series).unwrap_or_default();
    }
    if charts.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Training</h2>\n<p class=\"soft\">What training logged of its own rollouts. Points: each step, the mean over \
         seeds. Lines: moving mean over a twelfth of the steps.</p>\n<div class=\"charts\">{charts}</div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::analysis::fixtures::{config, gathered};
    use crate::report::analysis::{Gathered, Origin, analyse};

    #[test]
    fn the_page_has_its_plots_and_the_caution_under_each() {
        let page = analysis_page(&analyse(&gathered(), &config()));
        assert!(page.contains("default-src 'none'") && !page.contains("<script"));
        assert!(page.contains("pass@1, math500: r = ") && page.contains("n = 8"));
        let (plot, caution) = (page.find("mean backtracks of a sample"), page.find("no proof of cause"));
        assert!(plot < caution && plot.is_some());
        assert!(page.contains("Over training") && page.contains(">Arms<"));
    }

    #[test]
    fn one_point_says_that_it_is_too_few() {
        let mut few = gathered();
        few.scores.truncate(1);
        let page = analysis_page(&analyse(&few, &config()));
        assert!(page.contains("With 1 checkpoint there is no correlation") && page.contains("too few points for r"));
    }

    #[test]
    fn names_are_escaped() {
        let mut all = gathered();
        for (origin, _) in &mut all.scores {
            origin.label = Some("<script>x".into());
            origin.axes.insert("benchmark".into(), "<b>".into());
        }
        let page = analysis_page(&analyse(&all, &config()));
        assert!(!page.contains("<script") && !page.contains("<b>") && page.contains("&lt;script&gt;x"));
    }

    #[test]
    fn metrics_have_their_charts() {
        let mut all = Gathered::default();
        let points: Vec<(f64, f64)> = (0..40).map(|i| (f64::from(i), f64::from(i) * 0.1)).collect();
        let metrics = [("entropy".to_owned(), points.clone()), ("other".to_owned(), points)];
        all.metrics.push((Origin::default(), metrics.into()));
        let page = analysis_page(&analyse(&all, &config()));
        assert!(page.contains(">entropy</text>") && !page.contains(">other</text>"));
    }
}
