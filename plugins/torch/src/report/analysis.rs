//! Scores, samples and metrics of many checkpoints -> how backtracks, length and accuracy go together.
//!
//! Sorts what was gathered by its axes: a benchmark is analysed by itself, a series is one run (arm, label and whatever
//! other axes there are), a point is one checkpoint of it, pooled over seeds. `correlate` has the formulas,
//! `analysis_tables` and `analysis_page` show the result.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::analysis_notes::benchmark_notes;
use super::analysis_samples::{SampleFacts, SampleStats, sample_stats};
use super::correlate::{Correlation, Partial, correlate, partial};
use super::names::row_name;
use super::stats::{self, paired_difference};
use crate::formats::{ProblemScore, Scores, Tally};

/// Names of axes, and the bootstrap.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisConfig {
    pub title: String,
    pub step_axis: String,
    pub benchmark_axis: String,
    pub arm_axis: String,
    pub seed_axis: String,
    pub bootstrap_samples: usize,
    pub seed: u64,
}

/// Where something that was gathered comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Origin {
    pub label: Option<String>,
    pub axes: BTreeMap<String, Value>,
}

/// metric -> (step, value).
pub type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// All that was gathered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gathered {
    pub scores: Vec<(Origin, Scores)>,
    pub samples: Vec<(Origin, Vec<SampleFacts>)>,
    pub metrics: Vec<(Origin, Curves)>,
}

/// Everything that the page says, as values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    pub version: u32,
    pub title: String,
    pub benchmarks: Vec<Benchmark>,
    pub runs: Vec<Run>,
    pub notes: Vec<String>,
}

/// The points of one problem set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Benchmark {
    pub name: String,
    pub points: Vec<Point>,
    /// For each series, and for all together where there are several.
    pub correlations: Vec<Related>,
    pub arms: Vec<ArmsAt>,
}

/// One checkpoint, pooled over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    pub series: String,
    pub arm: Option<String>,
    /// The number of the step, where it is one.
    pub step: Option<f64>,
    /// The step as the pipeline says it; `None` for a model that is no checkpoint of a run.
    pub checkpoint: Option<String>,
    /// Scores that were pooled.
    pub num_pooled: usize,
    pub num_problems: usize,
    pub num_samples: usize,
    pub pass_at_1: f64,
    pub mean_tokens: f64,
    pub mean_backtracks: f64,
    pub truncated: f64,
    /// Share of samples with at least one backtrack, where they were counted.
    pub with_backtracks: Option<f64>,
    pub by_backtracks: BTreeMap<String, Tally>,
    pub samples: Option<SampleStats>,
    /// What the point has in common with those of other arms: its series without the arm.
    #[serde(skip)]
    rest: String,
    /// What each run that was pooled scored: its seed, where that is an axis, and its problems.
    #[serde(skip)]
    runs: Vec<(Option<Value>, Vec<ProblemScore>)>,
}

impl Point {
    /// Returns the series and the step, as one name.
    pub fn name(&self) -> String {
        match &self.checkpoint {
            Some(step) => format!("{} @ {step}", self.series),
            None => self.series.clone(),
        }
    }

    fn stats_runs(&self) -> Vec<stats::Run<'_>> {
        let runs = self.runs.iter();
        runs.map(|(seed, problems)| stats::Run {
            seed: seed.as_ref(),
            problems,
        })
        .collect()
    }
}

/// Backtracks against accuracy over the checkpoints of a series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Related {
    /// `None`: all series of the benchmark together.
    pub series: Option<String>,
    pub backtracks_accuracy: Correlation,
    /// The same with mean tokens held constant, and with the step.
    pub given_tokens: Option<Partial>,
    pub given_step: Option<Partial>,
    pub tokens_accuracy: Correlation,
}

/// Several arms at one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmsAt {
    /// What the arms have in common besides the step.
    pub of: String,
    pub checkpoint: Option<String>,
    pub from: String,
    pub to: String,
    /// pass@1 of `to` minus that of `from`, paired by problem.
    pub difference: f64,
    pub ci95: [f64; 2],
    pub num_problems: usize,
    /// Mean tokens and mean backtracks of `from`, then of `to`.
    pub tokens: [f64; 2],
    pub backtracks: [f64; 2],
}

/// Training metrics of one series: the mean over its seeds at each step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub series: String,
    pub metrics: Curves,
}

/// Where an origin belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    benchmark: String,
    series: String,
    checkpoint: Option<String>,
}

/// Analyses what was gathered.
pub fn analyse(gathered: &Gathered, config: &AnalysisConfig) -> Analysis {
    let samples = samples_by_place(gathered, config);
    let mut places: Vec<(Place, Vec<&(Origin, Scores)>)> = Vec::new();
    for item in &gathered.scores {
        let place = place(&item.0, config);
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, items)) => items.push(item),
            None => places.push((place, vec![item])),
        }
    }
    let mut names: Vec<&str> = Vec::new();
    for (place, _) in &places {
        if !names.contains(&place.benchmark.as_str()) {
            names.push(&place.benchmark);
        }
    }
    let benchmarks: Vec<Benchmark> = names
        .into_iter()
        .map(|name| {
            let here = places.iter().filter(|(place, _)| place.benchmark == name);
            let points = here.map(|(place, items)| pool(place, items, samples.get(place), config));
            benchmark(name, points.collect(), config)
        })
        .collect();
    let notes = notes(&benchmarks, &samples, &places);
    Analysis {
        version: 1,
        title: config.title.clone(),
        benchmarks,
        runs: runs(gathered, config),
        notes,
    }
}

fn samples_by_place(gathered: &Gathered, config: &AnalysisConfig) -> BTreeMap<Place, Vec<SampleFacts>> {
    let mut all: BTreeMap<Place, Vec<SampleFacts>> = BTreeMap::new();
    for (origin, facts) in &gathered.samples {
        all.entry(place(origin, config)).or_default().extend(facts);
    }
    all
}

/// Reads an origin: a numeric label is a step, and everything that is neither step, benchmark nor seed names the series.
fn place(origin: &Origin, config: &AnalysisConfig) -> Place {
    let (label, checkpoint) = label_and_checkpoint(origin, config);
    let mut axes = origin.axes.clone();
    let benchmark = axes.remove(&config.benchmark_axis).as_ref().map(plain);
    axes.remove(&config.step_axis);
    axes.remove(&config.seed_axis);
    Place {
        benchmark: benchmark.unwrap_or_else(|| "all problems".to_owned()),
        series: row_name(label, &axes),
        checkpoint,
    }
}

/// Returns what names an origin's series besides the arm; "" where nothing does.
fn rest(origin: &Origin, config: &AnalysisConfig) -> String {
    let (label, _) = label_and_checkpoint(origin, config);
    let mut axes = origin.axes.clone();
    for axis in [
        &config.benchmark_axis,
        &config.step_axis,
        &config.seed_axis,
        &config.arm_axis,
    ] {
        axes.remove(axis);
    }
    if label.is_none() && axes.is_empty() {
        String::new()
    } else {
        row_name(label, &axes)
    }
}

/// Returns the label where it is no step, and the step as the axis, else the label, says it.
fn label_and_checkpoint<'a>(origin: &'a Origin, config: &AnalysisConfig) -> (Option<&'a str>, Option<String>) {
    let label = origin.label.as_deref();
    let is_step = label.is_some_and(|label| label.trim().parse::<f64>().is_ok());
    let on_axis = origin.axes.get(&config.step_axis).map(plain);
    let checkpoint = on_axis.or(label.filter(|_| is_step).map(str::to_owned));
    (label.filter(|_| !is_step), checkpoint)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Means over seeds: a run counts as much as any other, as in `report.compare`.
fn pool(
    place: &Place,
    items: &[&(Origin, Scores)],
    samples: Option<&Vec<SampleFacts>>,
    config: &AnalysisConfig,
) -> Point {
    let mean = |value: fn(&Scores) -> f64| items.iter().map(|(_, s)| value(s)).sum::<f64>() / items.len() as f64;
    let samples = samples.map(|facts| sample_stats(facts));
    let mut by_backtracks: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, tally) in items.iter().flat_map(|(_, scores)| &scores.by_backtracks) {
        let sum = by_backtracks.entry(name.clone()).or_default();
        sum.num_samples += tally.num_samples;
        sum.num_correct += tally.num_correct;
    }
    if let (true, Some(stats)) = (by_backtracks.is_empty(), &samples) {
        by_backtracks = stats.by_backtracks.clone();
    }
    let counted: usize = by_backtracks.values().map(|tally| tally.num_samples).sum();
    let without = by_backtracks.get("0").map_or(0, |tally| tally.num_samples);
    let run = |(origin, scores): &&(Origin, Scores)| {
        let seed = origin.axes.get(&config.seed_axis);
        (seed.cloned(), scores.problems.clone())
    };
    Point {
        series: place.series.clone(),
        arm: items
            .first()
            .and_then(|(origin, _)| origin.axes.get(&config.arm_axis))
            .map(plain),
        step: place.checkpoint.as_ref().and_then(|step| step.trim().parse().ok()),
        checkpoint: place.checkpoint.clone(),
        num_pooled: items.len(),
        num_problems: items.iter().map(|(_, s)| s.num_problems).max().unwrap_or(0),
        num_samples: items.iter().map(|(_, s)| s.num_problems * s.num_samples).sum(),
        pass_at_1: mean(|s| s.pass_at_1),
        mean_tokens: mean(|s| s.mean_tokens),
        mean_backtracks: mean(|s| s.mean_backtracks),
        truncated: mean(|s| s.truncated),
        with_backtracks: (counted > 0).then(|| 1.0 - without as f64 / counted as f64),
        by_backtracks,
        samples,
        rest: items
            .first()
            .map_or_else(String::new, |(origin, _)| rest(origin, config)),
        runs: items.iter().map(run).collect(),
    }
}

fn benchmark(name: &str, mut points: Vec<Point>, config: &AnalysisConfig) -> Benchmark {
    let series = series_of(&points);
    let rank = |point: &Point| {
        series
            .iter()
            .position(|name| *name == point.series)
            .unwrap_or(usize::MAX)
    };
    // A checkpoint whose step is a word, as `last`, comes after those with numbers.
    points.sort_by(|a, b| {
        let step = |p: &Point| {
            p.step.unwrap_or(if p.checkpoint.is_some() {
                f64::INFINITY
            } else {
                f64::NEG_INFINITY
            })
        };
        rank(a).cmp(&rank(b)).then(step(a).total_cmp(&step(b)))
    });
    let correlations = correlations(&points, &series, config);
    let arms = arms(&points, config);
    Benchmark {
        name: name.to_owned(),
        points,
        correlations,
        arms,
    }
}

/// Returns the names of series in the order of their first points.
pub fn series_of(points: &[Point]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for point in points {
        if !names.contains(&point.series) {
            names.push(point.series.clone());
        }
    }
    names
}

/// Returns the points that count as checkpoints: those with a step, or all where none has one.
pub fn checkpoints(points: &[Point]) -> Vec<&Point> {
    let any = points.iter().any(|point| point.checkpoint.is_some());
    points
        .iter()
        .filter(|point| !any || point.checkpoint.is_some())
        .collect()
}

fn correlations(points: &[Point], series: &[String], config: &AnalysisConfig) -> Vec<Related> {
    let all = checkpoints(points);
    let relate = |series: Option<&String>| {
        let of: Vec<&&Point> = all
            .iter()
            .filter(|p| series.is_none_or(|name| p.series == *name))
            .collect();
        let column = |value: fn(&Point) -> f64| of.iter().map(|p| value(p)).collect::<Vec<f64>>();
        let (backtracks, accuracy) = (column(|p| p.mean_backtracks), column(|p| p.pass_at_1));
        let tokens = column(|p| p.mean_tokens);
        let steps: Option<Vec<f64>> = of.iter().map(|p| p.step).collect();
        Related {
            series: series.cloned(),
            backtracks_accuracy: correlate(&backtracks, &accuracy, config.bootstrap_samples, config.seed),
            given_tokens: partial(&backtracks, &accuracy, &tokens),
            given_step: steps.and_then(|steps| partial(&backtracks, &accuracy, &steps)),
            tokens_accuracy: correlate(&tokens, &accuracy, config.bootstrap_samples, config.seed),
        }
    };
    let mut related: Vec<Related> = series.iter().map(|name| relate(Some(name))).collect();
    // Models that were never followed over steps are points of one cloud, not runs of one point each.
    related.retain(|r| r.backtracks_accuracy.num_points > 1);
    let num_followed = series
        .iter()
        .filter(|name| all.iter().any(|p| p.series == **name))
        .count();
    if num_followed > 1 || related.is_empty() {
        related.push(relate(None));
    }
    related
}

/// Compares arms that share everything else, step by step.
fn arms(points: &[Point], config: &AnalysisConfig) -> Vec<ArmsAt> {
    let mut groups: Vec<(&str, &Option<String>, Vec<&Point>)> = Vec::new();
    for point in points.iter().filter(|point| point.arm.is_some()) {
        match groups
            .iter_mut()
            .find(|(of, step, _)| *of == point.rest && **step == point.checkpoint)
        {
            Some((_, _, members)) => members.push(point),
            None => groups.push((&point.rest, &point.checkpoint, vec![point])),
        }
    }
    let mut rows = Vec::new();
    for (of, checkpoint, mut members) in groups {
        // By name, so that `direct` is what `search` is compared with.
        members.sort_by(|a, b| a.arm.cmp(&b.arm));
        for pair in members.windows(2) {
            let [from, to] = [pair[0], pair[1]];
            let [from_runs, to_runs] = [from, to].map(Point::stats_runs);
            let Some(difference) = paired_difference(&from_runs, &to_runs, config.bootstrap_samples, config.seed)
            else {
                continue;
            };
            rows.push(ArmsAt {
                of: of.to_owned(),
                checkpoint: checkpoint.clone(),
                from: from.arm.clone().unwrap_or_default(),
                to: to.arm.clone().unwrap_or_default(),
                difference: difference.mean,
                ci95: difference.ci95,
                num_problems: difference.num_problems,
                tokens: [from.mean_tokens, to.mean_tokens],
                backtracks: [from.mean_backtracks, to.mean_backtracks],
            });
        }
    }
    rows
}

fn runs(gathered: &Gathered, config: &AnalysisConfig) -> Vec<Run> {
    let mut runs: Vec<(String, Curves)> = Vec::new();
    for (origin, metrics) in &gathered.metrics {
        let series = place(origin, config).series;
        let idx = runs.iter().position(|(name, _)| *name == series).unwrap_or_else(|| {
            runs.push((series, BTreeMap::new()));
            runs.len() - 1
        });
        for (metric, points) in metrics {
            runs[idx].1.entry(metric.clone()).or_default().extend(points);
        }
    }
    let mean_at_each_step = |mut points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let same = points.chunk_by(|a, b| a.0 == b.0);
        same.map(|group| (group[0].0, group.iter().map(|p| p.1).sum::<f64>() / group.len() as f64))
            .collect()
    };
    runs.into_iter()
        .map(|(series, metrics)| Run {
            series,
            metrics: metrics
                .into_iter()
                .map(|(name, points)| (name, mean_at_each_step(points)))
                .collect(),
        })
        .collect()
}

/// States what the figures rest on; nothing here explains or praises.
fn notes(
    benchmarks: &[Benchmark],
    samples: &BTreeMap<Place, Vec<SampleFacts>>,
    places: &[(Place, Vec<&(Origin, Scores)>)],
) -> Vec<String> {
    let mut notes = benchmark_notes(benchmarks);
    let pooled: BTreeSet<usize> = places.iter().map(|(_, items)| items.len()).filter(|n| *n > 1).collect();
    if let (Some(least), Some(most)) = (pooled.first(), pooled.last()) {
        let many = if least == most {
            most.to_string()
        } else {
            format!("{least} to {most}")
        };
        notes.push(format!("Points with several seeds are means over {many} scores."));
    }
    let unmatched = samples
        .keys()
        .filter(|place| places.iter().all(|(known, _)| known != *place))
        .count();
    if unmatched > 0 {
        notes.push(format!(
            "{unmatched} sets of samples belong to no scores and were left out."
        ));
    }
    notes
}

/// A run made up for tests.
#[cfg(test)]
pub mod fixtures {
    use serde_json::json;

    use super::*;
    use crate::report::compare::fixtures::arm;

    pub fn config() -> AnalysisConfig {
        let axis = |name: &str| name.to_owned();
        AnalysisConfig {
            title: "Countdown".into(),
            step_axis: axis("step"),
            benchmark_axis: axis("benchmark"),
            arm_axis: axis("style"),
            seed_axis: axis("seed"),
            bootstrap_samples: 500,
            seed: 4,
        }
    }

    pub fn scores(num_correct: &[usize], tokens: f64, backtracks: f64) -> Scores {
        let mut scores = arm("x", None, num_correct, 4, tokens).scores;
        scores.mean_backtracks = backtracks;
        scores
    }

    /// Two arms with two seeds at four steps on one benchmark, and a base model without a step.
    pub fn gathered() -> Gathered {
        let mut all = Gathered::default();
        for style in ["search", "direct"] {
            for seed in [1, 2] {
                for (i, step) in [10usize, 20, 30, 40].into_iter().enumerate() {
                    let search = style == "search";
                    let axes = json!({"style": style, "seed": seed, "step": step, "benchmark": "math500"});
                    let correct = [i.min(4), (i + seed - 1).min(4), if search { i } else { 1 }];
                    let backtracks = if search { [0.4, 1.0, 1.3, 2.2][i] } else { 0.0 };
                    all.scores.push((
                        Origin {
                            label: None,
                            axes: serde_json::from_value(axes).expect("a map"),
                        },
                        scores(&correct, 100.0 + [0.0, 30.0, 20.0, 60.0][i], backtracks),
                    ));
                }
            }
        }
        all.scores.push((
            Origin {
                label: Some("base".into()),
                axes: serde_json::from_value(json!({"benchmark": "math500"})).expect("a map"),
            },
            scores(&[0, 1, 0], 80.0, 0.0),
        ));
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fixtures::{config, gathered, scores};
    use super::*;
    use crate::report::compare::fixtures::{arm, at, config as compare_config};
    use crate::report::compare::{Arm, CompareConfig};
    use crate::report::correlate::pearson;
    use crate::report::pool::pools;

    fn origin(label: Option<&str>, axes: Value) -> Origin {
        Origin {
            label: label.map(str::to_owned),
            axes: serde_json::from_value(axes).expect("a map"),
        }
    }

    #[test]
    fn seeds_are_pooled_and_steps_are_in_order() {
        let analysis = analyse(&gathered(), &config());
        assert_eq!(analysis.benchmarks.len(), 1);
        let math = &analysis.benchmarks[0];
        assert_eq!(math.name, "math500");
        let names: Vec<String> = math.points.iter().map(Point::name).collect();
        assert_eq!(names[..2], ["search @ 10", "search @ 20"]);
        assert_eq!((names.len(), names[8].as_str()), (9, "base"));
        assert!(math.points[..8].iter().all(|point| point.num_pooled == 2));
        // Seeds 1 and 2 at step 20: (1 + 1 + 1) / 12 and (1 + 2 + 1) / 12.
        assert!((math.points[1].pass_at_1 - 3.5 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn each_series_and_all_together_are_correlated() {
        let analysis = analyse(&gathered(), &config());
        let related = &analysis.benchmarks[0].correlations;
        let names: Vec<Option<&str>> = related.iter().map(|r| r.series.as_deref()).collect();
        assert_eq!(names, [Some("search"), Some("direct"), None]);
        let points = &analysis.benchmarks[0].points[..4];
        let column = |value: fn(&Point) -> f64| points.iter().map(value).collect::<Vec<f64>>();
        let want = pearson(&column(|p| p.mean_backtracks), &column(|p| p.pass_at_1));
        assert_eq!(related[0].backtracks_accuracy.pearson, want);
        assert!(related[0].given_tokens.is_some() && related[0].backtracks_accuracy.fisher_ci95.is_some());
        assert_eq!(related[1].backtracks_accuracy.pearson, None, "direct never backtracks");
        assert_eq!(related[2].backtracks_accuracy.num_points, 8, "base is no checkpoint");
        assert!(
            analysis.notes.iter().any(|note| note.contains("undefined")),
            "{:?}",
            analysis.notes
        );
    }

    #[test]
    fn arms_with_seeds_have_the_interval_of_a_comparison() {
        // Seed 2 is far better than seed 1 in one arm, and was sampled twice as often: what the seeds say counts, not how
        // often they were asked.
        let mut all = Gathered::default();
        let mut compared = Vec::new();
        for (style, seed, num_samples, correct) in [
            ("direct", 1u64, 4, [1, 2, 1, 0, 2]),
            ("direct", 2, 8, [2, 3, 4, 1, 2]),
            ("search arm", 1, 4, [2, 2, 1, 0, 3]),
            ("search arm", 2, 8, [8, 7, 8, 6, 8]),
        ] {
            let scores = arm("x", None, &correct, num_samples, 10.0).scores;
            let axes = json!({"style": style, "seed": seed, "step": 10});
            all.scores.push((origin(Some("grpo"), axes), scores.clone()));
            let run = Arm {
                scores,
                ..arm("grpo", Some(style), &correct, num_samples, 10.0)
            };
            compared.push(at(run, &[("seed", seed.into())]));
        }
        let config = config();
        let analysis = analyse(&all, &config);
        let benchmark = &analysis.benchmarks[0];
        // An arm whose name is two words is an arm all the same.
        assert_eq!(benchmark.arms.len(), 1, "{:?}", benchmark.arms);
        let row = &benchmark.arms[0];
        assert_eq!(
            (row.of.as_str(), row.from.as_str(), row.to.as_str()),
            ("GRPO", "direct", "search arm")
        );

        let pools = pools(compared);
        let want = paired_difference(
            &pools[0].runs(),
            &pools[1].runs(),
            config.bootstrap_samples,
            config.seed,
        )
        .expect("the same problems");
        assert_eq!((row.difference, row.ci95), (want.mean, want.ci95));
        let compare = CompareConfig {
            bootstrap_samples: config.bootstrap_samples,
            seed: config.seed,
            ..compare_config()
        };
        for (point, pool) in benchmark.points.iter().zip(&pools) {
            assert_eq!(point.pass_at_1, pool.row(10.0, &compare).pass_at_1, "{}", point.name());
        }
    }

    #[test]
    fn arms_are_compared_at_each_step() {
        let analysis = analyse(&gathered(), &config());
        let arms = &analysis.benchmarks[0].arms;
        assert_eq!(arms.len(), 4);
        assert_eq!((arms[0].from.as_str(), arms[0].to.as_str()), ("direct", "search"));
        // At step 40 the third problem has 3 of 4 against 1 of 4; the two others are equal.
        assert!((arms[3].difference - 0.5 / 3.0).abs() < 1e-12, "{:?}", arms[3]);
        assert_eq!(arms[3].backtracks, [0.0, 2.2]);
    }

    #[test]
    fn benchmarks_are_apart_and_labels_may_be_steps() {
        let mut all = Gathered::default();
        for (benchmark, accuracy) in [("aime24", 1), ("amc23", 3)] {
            for step in ["100", "20"] {
                all.scores.push((
                    origin(Some(step), json!({"benchmark": benchmark})),
                    scores(&[accuracy], 10.0, 1.0),
                ));
            }
        }
        let analysis = analyse(&all, &config());
        let names: Vec<&str> = analysis.benchmarks.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["aime24", "amc23"]);
        let steps: Vec<Option<f64>> = analysis.benchmarks[0].points.iter().map(|p| p.step).collect();
        assert_eq!(steps, [Some(20.0), Some(100.0)]);
        assert!(analysis.notes[0].contains("needs at least 3"), "{:?}", analysis.notes);
    }

    #[test]
    fn without_steps_every_model_is_a_point() {
        let mut all = Gathered::default();
        for (label, correct, backtracks) in [("base", 1, 0.0), ("sft", 2, 1.0), ("grpo", 4, 1.5)] {
            all.scores
                .push((origin(Some(label), json!({})), scores(&[correct], 10.0, backtracks)));
        }
        let analysis = analyse(&all, &config());
        let related = &analysis.benchmarks[0].correlations;
        assert_eq!((related.len(), related[0].backtracks_accuracy.num_points), (1, 3));
        assert!(related[0].backtracks_accuracy.pearson.is_some_and(|r| r > 0.9));
    }

    #[test]
    fn metrics_of_seeds_are_averaged_and_samples_find_their_scores() {
        let mut all = gathered();
        for seed in [1, 2] {
            let points = vec![(1.0, f64::from(seed)), (2.0, 5.0)];
            all.metrics.push((
                origin(None, json!({"style": "search", "seed": seed})),
                [("reward".to_owned(), points)].into(),
            ));
        }
        let facts = SampleFacts {
            correct: true,
            num_backtracks: 1,
            first_wrong: Some(true),
        };
        let axes = json!({"style": "search", "step": 40, "benchmark": "math500", "seed": 1});
        all.samples.push((origin(None, axes), vec![facts; 3]));
        let analysis = analyse(&all, &config());
        assert_eq!(analysis.runs.len(), 1);
        assert_eq!(analysis.runs[0].metrics["reward"], [(1.0, 1.5), (2.0, 5.0)]);
        let stats = analysis.benchmarks[0].points[3]
            .samples
            .as_ref()
            .expect("samples at step 40");
        assert_eq!((stats.num_recovered, stats.recovery_rate), (3, Some(1.0)));
    }
}
