//! `report.analysis`: backtracks, length and accuracy over checkpoints, as a page, a text table, CSV and JSON.
//!
//! Reads the gathered inputs, judges the first answer of each sample where the problems are given, and leaves
//! everything else to `report`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::report_compare::{read_metrics, write_text};
use crate::formats::{Problem, Sample, Scores, read_json, read_jsonl, write_json};
use crate::report::analysis::{AnalysisConfig, Curves, Gathered, Origin, analyse};
use crate::report::analysis_page::analysis_page;
use crate::report::analysis_samples::SampleFacts;
use crate::report::analysis_tables;
use crate::scoring::is_first_answer_wrong;
use crate::worker::{Input, Job};

/// The parameters; defaults live in `plugin.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// Heading of the page.
    title: String,
    /// Names of the axes of checkpoints, problem sets, arms and seeds.
    step_axis: String,
    benchmark_axis: String,
    arm_axis: String,
    seed_axis: String,
    /// Resamples of the bootstraps, at least 1.
    bootstrap_samples: usize,
}

/// Runs the kind.
///
/// # Errors
/// An input can't be read, there are no scores, or two axes have one name.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let axes = [
        ("step_axis", &params.step_axis),
        ("benchmark_axis", &params.benchmark_axis),
        ("arm_axis", &params.arm_axis),
        ("seed_axis", &params.seed_axis),
    ];
    for (idx, (name, axis)) in axes.iter().enumerate() {
        if let Some((other, _)) = axes[..idx].iter().find(|(_, other)| other == axis) {
            bail!("{other} and {name} are both {axis:?}; each needs an axis of its own");
        }
    }
    let problems = problems(job, &params.benchmark_axis)?;
    let gathered = Gathered {
        scores: scores(job)?,
        samples: samples(job, &problems, &params.benchmark_axis)?,
        metrics: metrics(job)?,
    };
    if gathered.scores.is_empty() {
        bail!("there are no scores to analyse");
    }
    let config = AnalysisConfig {
        title: params.title,
        step_axis: params.step_axis,
        benchmark_axis: params.benchmark_axis,
        arm_axis: params.arm_axis,
        seed_axis: params.seed_axis,
        bootstrap_samples: params.bootstrap_samples,
        seed: job.seed(),
    };
    let analysis = analyse(&gathered, &config);

    let page = job.output("page")?;
    std::fs::create_dir_all(&page).with_context(|| format!("{}", page.display()))?;
    write_text(&page.join("index.html"), &analysis_page(&analysis))?;
    write_text(&job.output("table")?, &analysis_tables::text(&analysis))?;
    write_text(&job.output("csv")?, &analysis_tables::csv(&analysis).to_csv())?;
    write_json(&job.output("json")?, &analysis)?;
    for benchmark in &analysis.benchmarks {
        for related in &benchmark.correlations {
            let of = related.series.as_deref().unwrap_or("all");
            if let Some(r) = related.backtracks_accuracy.pearson {
                job.metric(&format!("r/{}/{of}", benchmark.name), r, None);
            }
        }
    }
    Ok(())
}

fn origin(input: &Input) -> Origin {
    Origin {
        label: input.label.clone(),
        axes: input.axes.clone(),
    }
}

fn scores(job: &Job) -> Result<Vec<(Origin, Scores)>> {
    let inputs = job.inputs("scores")?;
    let read = |input: &Input| Ok((origin(input), read_json(&input.path, "scores file")?));
    inputs.iter().map(read).collect()
}

fn metrics(job: &Job) -> Result<Vec<(Origin, Curves)>> {
    let inputs = job.inputs("metrics")?;
    let read = |input: &Input| Ok((origin(input), read_metrics(&input.path)?));
    inputs.iter().map(read).collect()
}

/// Problems by their benchmark, `None` for those that come without one, and by their id.
type Problems = BTreeMap<(Option<String>, String), Problem>;

fn benchmark_of(input: &Input, axis: &str) -> Option<String> {
    input.axes.get(axis).map(ToString::to_string)
}

fn problems(job: &Job, benchmark_axis: &str) -> Result<Problems> {
    let mut all = Problems::new();
    for input in job.inputs("problems")? {
        let benchmark = benchmark_of(&input, benchmark_axis);
        for problem in read_jsonl::<Problem>(&input.path, "problem")? {
            all.insert((benchmark.clone(), problem.id.clone()), problem);
        }
    }
    Ok(all)
}

fn samples(job: &Job, problems: &Problems, benchmark_axis: &str) -> Result<Vec<(Origin, Vec<SampleFacts>)>> {
    let inputs = job.inputs("samples")?;
    let mut all = Vec::with_capacity(inputs.len());
    for (idx, input) in inputs.iter().enumerate() {
        let benchmark = benchmark_of(input, benchmark_axis);
        let find = |id: &str| {
            let at = |benchmark: Option<String>| problems.get(&(benchmark, id.to_owned()));
            at(benchmark.clone()).or_else(|| at(None))
        };
        let samples: Vec<Sample> = read_jsonl(&input.path, "sample")?;
        let facts = samples.iter().map(|sample| SampleFacts {
            correct: sample.correct,
            num_backtracks: sample.num_backtracks,
            first_wrong: find(&sample.problem_id)
                .and_then(|problem| is_first_answer_wrong(problem, &sample.completion)),
        });
        all.push((origin(input), facts.collect()));
        job.progress(idx + 1, inputs.len(), "file", "samples");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::analysis::fixtures::gathered;
    use crate::report::draw_tree::fixtures::problem;
    use crate::report::solution::fixtures::COUNTDOWN;

    fn params() -> Value {
        json!({
            "title": "Countdown", "step_axis": "step", "benchmark_axis": "benchmark", "arm_axis": "style",
            "seed_axis": "seed", "bootstrap_samples": 200,
        })
    }

    fn sample(
        problem_id: &str,
        completion: &str,
        answer: Option<&str>,
        correct: bool,
        num_backtracks: usize,
    ) -> Sample {
        Sample {
            version: 1,
            problem_id: problem_id.into(),
            sample_idx: 0,
            prompt: String::new(),
            completion: completion.into(),
            num_tokens: 10,
            answer: answer.map(str::to_owned),
            correct,
            truncated: false,
            num_backtracks,
            failure: None,
        }
    }

    /// Runs the kind on two arms with seeds and steps, with samples of one point; returns the outputs.
    fn run_with(params: Value) -> Result<[String; 4]> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let mut scores = Vec::new();
        for (idx, (origin, value)) in gathered().scores.iter().enumerate() {
            let path = at(&format!("scores{idx}"));
            write_json(&path, value)?;
            scores.push(json!({"path": path, "axes": origin.axes, "label": origin.label}));
        }
        let samples = [
            sample("e2", COUNTDOWN, Some("24"), true, 3),
            sample("e2", "7 * 4 = 28 | 3 28 ; 28 - 4 = 24 , 24 ? 24", Some("24"), true, 0),
            sample("e2", "7 + 4 = 11 | 3 11 ; 11 + 3 = 14 , 14 ? 24", Some("14"), false, 0),
        ];
        crate::formats::write_jsonl(&at("samples"), samples)?;
        crate::formats::write_jsonl(&at("problems"), [problem("e2", "7 3 4 -> 24", "24")])?;
        std::fs::write(
            at("metrics"),
            "{\"step\": 1, \"reward\": -0.5}\n{\"step\": 2, \"reward\": 0.5}\n",
        )?;
        let axes = json!({"style": "search", "step": 40, "benchmark": "math500", "seed": 1});
        let request = json!({
            "contract": 1, "kind": "report.analysis", "node": "n", "key": "k", "seed": 5, "params": params,
            "inputs": {
                "scores": scores, "samples": [{"path": at("samples"), "axes": axes}], "problems": {"path": at("problems")},
                "metrics": [{"path": at("metrics"), "axes": {"style": "search", "seed": 1}}],
            },
            "outputs": {"page": at("page"), "table": at("table"), "csv": at("csv"), "json": at("json")},
            "partial": at("partial"), "events": at("events"), "resources": {"cpu": 1},
        });
        std::fs::write(at("request"), request.to_string())?;
        run(&Job::open(&at("request"))?)?;
        let read = |name: &str| std::fs::read_to_string(at(name)).expect("an output");
        Ok(["page/index.html", "table", "csv", "json"].map(read))
    }

    #[test]
    fn all_outputs_are_written_and_the_same_twice() {
        let outputs = run_with(params()).expect("good inputs");
        assert_eq!(outputs, run_with(params()).expect("good inputs"));
        let json: Value = serde_json::from_str(&outputs[3]).expect("JSON");
        let stats = &json["benchmarks"][0]["points"][3]["samples"];
        assert_eq!(
            (&stats["num_first_wrong"], &stats["num_recovered"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(
            (&stats["num_first_known"], &stats["recovery_rate"]),
            (&json!(3), &json!(0.5))
        );
        assert!(outputs[0].contains(">reward</text>"));
        assert!(outputs[1].contains("2 of 3") && outputs[2].starts_with("benchmark,series,arm,step"));
    }

    #[test]
    fn an_axis_has_one_meaning() {
        let mut params = params();
        params["arm_axis"] = json!("step");
        let error = run_with(params).expect_err("one axis for two things");
        assert!(
            error.to_string().contains("step_axis and arm_axis are both \"step\""),
            "{error}"
        );
    }
}
