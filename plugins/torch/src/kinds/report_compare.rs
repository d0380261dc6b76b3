//! `report.compare`: the scores of several models side by side, as a page, a text table, CSV and JSON.
//!
//! Reads the gathered inputs, names each item by its label and axes, and leaves everything else to `report`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::formats::{Sample, Scores, read_json, read_jsonl, write_json};
use crate::report::compare::{Arm, CompareConfig};
use crate::report::names::{make_unique, row_name};
use crate::report::page::{Curve, Drawing, Extras, SampleSet, compare_page, mean_curves};
use crate::report::study::{Study, study};
use crate::report::{compare_csv, compare_tables};
use crate::worker::{Input, Job};

/// The parameters; defaults live in `plugin.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Heading of the page.
    title: String,
    /// Names of the rows that come first, as `report::names` makes them.
    order: Vec<String>,
    /// The row that all others are compared with, besides their neighbours.
    baseline: Option<String>,
    /// Resamples of the paired bootstrap, at least 1.
    bootstrap_samples: usize,
}

/// Runs the kind.
///
/// # Errors
/// An input can't be read, or `order` or `baseline` names no row.
pub fn run(job: &Job) -> Result<()> {
    let Params {
        title,
        order,
        baseline,
        bootstrap_samples,
    } = job.params()?;
    let config = CompareConfig {
        title,
        order,
        baseline,
        bootstrap_samples,
        seed: job.seed(),
    };
    let study = study(arms(job)?, &config)?;
    let extras = Extras {
        curves: curves(job)?,
        drawings: drawings(job)?,
        samples: samples(job)?,
    };
    let known: BTreeSet<&str> = study.row_names().into_iter().collect();
    for name in extras
        .curves
        .iter()
        .map(|c| &c.name)
        .chain(extras.samples.iter().map(|s| &s.name))
    {
        if !known.contains(name.as_str()) {
            job.info(&format!("{name:?} has curves or samples but no scores"));
        }
    }

    let page = job.output("page")?;
    std::fs::create_dir_all(&page).with_context(|| format!("{}", page.display()))?;
    write_text(&page.join("index.html"), &compare_page(&study, &extras))?;
    write_text(&job.output("table")?, &compare_tables::text(&study))?;
    write_text(&job.output("csv")?, &compare_csv::csv(&study).to_csv())?;
    match study.benchmarks.as_slice() {
        [only] => write_json(&job.output("json")?, only)?,
        _ => write_json(&job.output("json")?, &study)?,
    }
    for comparison in &study.benchmarks {
        let place = comparison
            .benchmark
            .as_ref()
            .map_or_else(String::new, |name| format!("{name}/"));
        for row in &comparison.rows {
            job.metric(&format!("pass_at_1/{place}{}", row.name), row.pass_at_1, None);
        }
    }
    Ok(())
}

fn arms(job: &Job) -> Result<Vec<Arm>> {
    let inputs = job.inputs("scores")?;
    let read = |input: Input| -> Result<Arm> {
        let scores: Scores = read_json(&input.path, "scores file")?;
        Ok(Arm {
            label: input.label,
            axes: input.axes,
            scores,
        })
    };
    inputs.into_iter().map(read).collect()
}

fn curves(job: &Job) -> Result<Vec<Curve>> {
    let inputs = job.inputs("curves")?;
    let read = |input: &Input| -> Result<Curve> {
        let group = input.label.clone().unwrap_or_else(|| "training".to_owned());
        Ok(Curve {
            name: Study::row_of(input.label.as_deref(), &input.axes),
            group,
            metrics: read_metrics(&input.path)?,
            num_runs: 1,
        })
    };
    Ok(mean_curves(inputs.iter().map(read).collect::<Result<_>>()?))
}

/// Reads the numbers of a metrics file; fields that are no numbers are not for a chart.
pub(super) fn read_metrics(path: &Path) -> Result<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut metrics: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in read_jsonl::<BTreeMap<String, Value>>(path, "metrics line")? {
        let Some(step) = line.get("step").and_then(Value::as_f64) else {
            bail!("{}: a metrics line has no number `step`", path.display());
        };
        for (name, value) in line {
            if let Some(value) = value.as_f64()
                && !matches!(name.as_str(), "step" | "version")
            {
                metrics.entry(name).or_default().push((step, value));
            }
        }
    }
    Ok(metrics)
}

fn drawings(job: &Job) -> Result<Vec<Drawing>> {
    let inputs = job.inputs("graphs")?;
    let read = |(input, name): (&Input, String)| -> Result<Drawing> {
        let path = input.path.display();
        let text = std::fs::read_to_string(&input.path).with_context(|| format!("{path}"))?;
        let (Some(start), Some(end)) = (text.find("<svg"), text.rfind("</svg>")) else {
            bail!("{path} is not an SVG file");
        };
        if end < start {
            bail!("{path} is not an SVG file");
        }
        Ok(Drawing {
            name,
            svg: text[start..end + "</svg>".len()].to_owned(),
        })
    };
    inputs.iter().zip(names(&inputs)).map(read).collect()
}

fn samples(job: &Job) -> Result<Vec<SampleSet>> {
    let mut sets: Vec<SampleSet> = Vec::new();
    for input in job.inputs("samples")? {
        let name = Study::row_of(input.label.as_deref(), &input.axes);
        let samples = read_jsonl::<Sample>(&input.path, "sample")?;
        match sets.iter_mut().find(|set| set.name == name) {
            Some(set) => set.samples.extend(samples),
            None => sets.push(SampleSet { name, samples }),
        }
    }
    Ok(sets)
}

/// Names inputs so that no two have the same name.
fn names(inputs: &[Input]) -> Vec<String> {
    let mut names: Vec<String> = inputs
        .iter()
        .map(|input| row_name(input.label.as_deref(), &input.axes))
        .collect();
    make_unique(&mut names);
    names
}

/// Writes a text file, naming it where that fails.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::compare::fixtures::{at, five_arms};

    /// Runs the kind on five arms with curves, a drawing and samples.
    fn run_in(folder: &Path, params: Value) -> Result<()> {
        run_on(folder, params, &five_arms(), &[json!({"style": "search"})])
    }

    /// Runs the kind on arms, and on curves of `sft` at some points.
    fn run_on(folder: &Path, params: Value, arms: &[Arm], curve_axes: &[Value]) -> Result<()> {
        let mut inputs: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        let mut add = |name: &'static str, file: String, text: String, label: Option<&str>, axes: Value| {
            let path = folder.join(file);
            std::fs::write(&path, text).expect("a temporary folder can be written");
            inputs
                .entry(name)
                .or_default()
                .push(json!({"path": path, "axes": axes, "label": label}));
        };
        for (i, arm) in arms.iter().enumerate() {
            let text = serde_json::to_string(&arm.scores).expect("scores are JSON");
            add(
                "scores",
                format!("scores{i}"),
                text,
                arm.label.as_deref(),
                json!(arm.axes),
            );
        }
        let metrics = "{\"step\": 1, \"loss\": 2.5, \"note\": \"x\", \"nan\": null}\n{\"step\": 2, \"loss\": 1.5}\n";
        for (i, axes) in curve_axes.iter().enumerate() {
            add("curves", format!("curve{i}"), metrics.into(), Some("sft"), axes.clone());
        }
        add(
            "graphs",
            "tree.svg".into(),
            "<?xml version=\"1.0\"?>\n<svg><title>drawn</title></svg>\n".into(),
            Some("tree"),
            json!({}),
        );
        let request = json!({
            "contract": 1, "kind": "report.compare", "node": "n", "key": "k", "seed": 5, "params": params, "inputs": inputs,
            "outputs": {"page": folder.join("page"), "table": folder.join("table.txt"), "csv": folder.join("c.csv"), "json": folder.join("c.json")},
            "partial": folder.join("partial"), "events": folder.join("events.jsonl"), "resources": {"cpu": 1},
        });
        let path = folder.join("request.json");
        std::fs::write(&path, request.to_string())?;
        run(&Job::open(&path)?)
    }

    fn params(order: &[&str]) -> Value {
        json!({"title": "Countdown", "order": order, "baseline": "base", "bootstrap_samples": 200})
    }

    #[test]
    fn all_outputs_are_written_and_the_same_twice() {
        let read_all = || {
            let folder = tempfile::tempdir().expect("a temporary folder");
            run_in(folder.path(), params(&[])).expect("good inputs");
            ["page/index.html", "table.txt", "c.csv", "c.json"]
                .map(|name| std::fs::read_to_string(folder.path().join(name)).expect("an output"))
        };
        let outputs = read_all();
        assert_eq!(outputs, read_all());
        assert!(outputs[0].contains("<title>drawn</title>") && outputs[0].contains(">loss</text>"));
        assert!(outputs[1].contains("search GRPO") && outputs[2].starts_with("model,label,axis_style"));
    }

    #[test]
    fn seeds_are_pooled_and_benchmarks_stand_apart() {
        let mut arms = Vec::new();
        for benchmark in ["math500", "amc23"] {
            for arm in five_arms() {
                let seeds = if arm.label.as_deref() == Some("base") {
                    0..1
                } else {
                    1..4
                };
                arms.extend(seeds.map(|seed: u64| {
                    let mut axes = vec![("benchmark", Value::from(benchmark))];
                    if seed > 0 {
                        axes.push(("seed", seed.into()));
                    }
                    at(arm.clone(), &axes)
                }));
            }
        }
        let curves = [1, 2, 3].map(|seed| json!({"style": "search", "seed": seed}));
        let folder = tempfile::tempdir().expect("a temporary folder");
        run_on(folder.path(), params(&["search GRPO"]), &arms, &curves).expect("good inputs");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("an output");
        let json: Value = serde_json::from_str(&read("c.json")).expect("JSON");
        let first = &json["benchmarks"][0];
        assert_eq!(
            (first["benchmark"].as_str(), first["rows"][0]["name"].as_str()),
            (Some("math500"), Some("search GRPO"))
        );
        assert_eq!(first["rows"][0]["seeds"].as_array().map(Vec::len), Some(3));
        assert_eq!(json["benchmarks"][1]["rows"].as_array().map(Vec::len), Some(5));
        // A line for each row and benchmark, and the head.
        assert_eq!(read("c.csv").lines().count(), 1 + 10);
        let page = read("page/index.html");
        assert!(page.contains("shown as their mean (of up to 3)") && page.contains("<h2>amc23</h2>"));
        assert!(
            !read("events.jsonl").contains("but no scores"),
            "the curves belong to a row"
        );
        assert!(read("events.jsonl").contains("pass_at_1/math500/search GRPO"));
    }

    #[test]
    fn an_unknown_row_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let error = run_in(folder.path(), params(&["nobody"])).expect_err("no such row");
        assert!(error.to_string().contains("order names \"nobody\""), "{error}");
    }
}
