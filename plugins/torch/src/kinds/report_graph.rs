//! `report.graph`: one search tree and one solution drawn as graphs, as SVG, HTML, DOT and JSON.
//!
//! Chooses what to draw by `problem_id`, else what shows the most; reading and drawing are in `report`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use crate::formats::{Problem, Sample, Tree, read_jsonl, write_json};
use crate::report::dot;
use crate::report::draw_solution::draw_solution;
use crate::report::draw_tree::draw_tree;
use crate::report::markup::{escape, svg_open};
use crate::report::page::html;
use crate::report::select::{best_solution, best_tree};
use crate::report::solution::{Phrases, Reading, Solution, patterns, plain, read_solution};
use crate::worker::Job;

/// So many of the samples with the most backtracks are read to find the one to draw.
const MAX_CANDIDATES: usize = 400;

/// The parameters; defaults live in `plugin.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The problem to draw; `None`: the most instructive tree and the most instructive sample.
    problem_id: Option<String>,
    /// Tree nodes, and steps of a solution, that are drawn at most.
    max_nodes: usize,
    /// What separates the paragraphs of a solution; `None`: found in the text.
    separator: Option<String>,
    /// Regular expressions, matched against single sentences, ignoring case.
    reflection: Vec<String>,
    negative: Vec<String>,
    positive: Vec<String>,
    go_back: Vec<String>,
    restart: Vec<String>,
    /// Regular expressions, matched against whole steps, ignoring case.
    terminal: Vec<String>,
}

impl Params {
    fn phrases(&self) -> Result<Phrases> {
        let compile = |name: &str, texts: &[String]| patterns(texts).with_context(|| format!("parameter `{name}`"));
        Ok(Phrases {
            separator: self.separator.clone(),
            reflection: compile("reflection", &self.reflection)?,
            negative: compile("negative", &self.negative)?,
            positive: compile("positive", &self.positive)?,
            go_back: compile("go_back", &self.go_back)?,
            restart: compile("restart", &self.restart)?,
            terminal: compile("terminal", &self.terminal)?,
        })
    }
}

/// Runs the kind.
///
/// # Errors
/// Neither trees nor samples are given, `problem_id` is in none of them, or a pattern is not a regular expression.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let phrases = params.phrases()?;
    let (trees_path, samples_path) = (job.input_opt("trees")?, job.input_opt("samples")?);
    if trees_path.is_none() && samples_path.is_none() {
        bail!("there is nothing to draw: needs `trees`, `samples` or both");
    }
    let trees: Vec<Tree> = trees_path.map_or(Ok(Vec::new()), |path| read_jsonl(&path, "tree"))?;
    if let Some(tree) = trees.iter().find(|tree| !is_sound(tree)) {
        bail!(
            "the tree of problem {:?} is damaged: a node's id or parent doesn't fit",
            tree.problem.id
        );
    }
    let samples: Vec<Sample> = samples_path.map_or(Ok(Vec::new()), |path| read_jsonl(&path, "sample"))?;
    let problems: Vec<Problem> = job
        .input_opt("problems")?
        .map_or(Ok(Vec::new()), |path| read_jsonl(&path, "problem"))?;

    let tree = choose_tree(&trees, params.problem_id.as_deref());
    let solution = choose_solution(&samples, &problems, &params, &phrases);
    if let Some(id) = &params.problem_id
        && tree.is_none()
        && solution.is_none()
    {
        bail!("no tree and no sample belongs to problem {id:?}");
    }
    let tree_svg = tree.map_or_else(
        || nothing("no search tree to draw"),
        |tree| draw_tree(tree, params.max_nodes),
    );
    let solution_svg = solution.as_ref().map_or_else(
        || nothing("no solution to draw"),
        |solution| draw_solution(solution, params.max_nodes),
    );
    write(job, "tree", &tree_svg)?;
    write(job, "solution", &solution_svg)?;
    write(job, "html", &page(tree, &tree_svg, solution.as_ref(), &solution_svg))?;
    write(job, "dot", &dot::dot(tree, solution.as_ref()))?;
    write_json(
        &job.output("json")?,
        &json!({"version": 1, "tree": tree, "solution": solution}),
    )?;
    Ok(())
}

/// Tells whether ids are indices and each parent comes before its children: all that drawing relies on.
fn is_sound(tree: &Tree) -> bool {
    let fits = |(idx, node): (usize, &crate::formats::TreeNode)| {
        node.id == idx && node.parent.is_some() == (idx > 0) && node.parent.is_none_or(|parent| parent < idx)
    };
    !tree.nodes.is_empty() && tree.nodes.iter().enumerate().all(fits)
}

fn choose_tree<'a>(trees: &'a [Tree], problem_id: Option<&str>) -> Option<&'a Tree> {
    match problem_id {
        Some(id) => trees.iter().find(|tree| tree.problem.id == id),
        None => best_tree(trees).map(|idx| &trees[idx]),
    }
}

fn choose_solution(samples: &[Sample], problems: &[Problem], params: &Params, phrases: &Phrases) -> Option<Solution> {
    let texts: BTreeMap<&str, &str> = problems.iter().map(|p| (p.id.as_str(), p.problem.as_str())).collect();
    let asked_for = |sample: &&Sample| params.problem_id.as_ref().is_none_or(|id| *id == sample.problem_id);
    let mut candidates: Vec<&Sample> = samples.iter().filter(asked_for).collect();
    candidates.sort_by_key(|sample| std::cmp::Reverse((sample.correct, sample.num_backtracks)));
    candidates.truncate(MAX_CANDIDATES);
    let read = |sample: &&Sample| {
        let prompt = plain(&sample.prompt);
        let reading = Reading {
            problem_id: &sample.problem_id,
            problem: texts.get(sample.problem_id.as_str()).copied().unwrap_or(&prompt),
            completion: &sample.completion,
            correct: sample.correct,
            truncated: sample.truncated,
        };
        read_solution(reading, phrases)
    };
    let mut solutions: Vec<Solution> = candidates.iter().map(read).collect();
    best_solution(&solutions, params.max_nodes).map(|idx| solutions.swap_remove(idx))
}

fn page(tree: Option<&Tree>, tree_svg: &str, solution: Option<&Solution>, solution_svg: &str) -> String {
    let figure = |title: &str, id: Option<&str>, svg: &str| {
        let caption = id.map_or_else(String::new, |id| format!("problem {}", escape(id)));
        format!(
            "<h2>{title}</h2>\n<figure><figcaption>{caption}</figcaption><div class=\"frame\">{svg}</div></figure>\n"
        )
    };
    let body = "<h1>A search and a solution</h1>\n<p class=\"soft\">Point at a node to read it whole.</p>\n".to_owned()
        + &figure("Search tree", tree.map(|tree| tree.problem.id.as_str()), tree_svg)
        + &figure(
            "Solution",
            solution.map(|solution| solution.problem_id.as_str()),
            solution_svg,
        );
    html("A search and a solution", &body)
}

/// A drawing that says why there is none, since an output must be there.
fn nothing(why: &str) -> String {
    format!(
        "{}<text class=\"soft\" x=\"20\" y=\"35\">{}</text>\n</svg>\n",
        svg_open(320.0, 60.0, why),
        escape(why)
    )
}

fn write(job: &Job, output: &str, text: &str) -> Result<()> {
    let path = job.output(output)?;
    write_file(&path, text)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::draw_tree::fixtures::{countdown_tree, problem};
    use crate::report::solution::fixtures::COUNTDOWN;

    fn params(problem_id: Option<&str>) -> Value {
        json!({
            "problem_id": problem_id, "max_nodes": 60, "separator": null,
            "reflection": ["^\\s*but wait", "^\\s*hmm\\W*$"], "negative": ["not sure if we're solving"],
            "positive": ["seems to be correct so far"], "go_back": ["let's go back to"], "restart": ["let's restart"],
            "terminal": ["\\s\\?\\s", "\\\\boxed\\{"],
        })
    }

    fn sample(problem_id: &str, completion: &str, num_backtracks: usize) -> Sample {
        Sample {
            version: 1,
            problem_id: problem_id.into(),
            sample_idx: 0,
            prompt: "<|user|> 7 3 4 -> 24 <|assistant|>".into(),
            completion: completion.into(),
            num_tokens: 40,
            answer: Some("24".into()),
            correct: true,
            truncated: false,
            num_backtracks,
            failure: None,
        }
    }

    /// Runs the kind and returns its JSON output.
    fn run_with(params: Value, with_tree: bool, with_samples: bool) -> Result<Value> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let mut inputs = serde_json::Map::new();
        if with_tree {
            crate::formats::write_jsonl(&at("trees"), [countdown_tree()])?;
            inputs.insert("trees".into(), json!({"path": at("trees"), "axes": {}, "label": null}));
        }
        if with_samples {
            let direct = sample("e1", "7 * 4 = 28 | 3 28 ; 28 - 4 = 24 , 24 ? 24 <|end|>", 0);
            crate::formats::write_jsonl(&at("samples"), [direct, sample("e2", COUNTDOWN, 3)])?;
            crate::formats::write_jsonl(&at("problems"), [problem("e2", "7 3 4 -> 24", "24")])?;
            inputs.insert("samples".into(), json!({"path": at("samples")}));
            inputs.insert("problems".into(), json!({"path": at("problems")}));
        }
        let outputs: BTreeMap<&str, _> = ["tree", "solution", "html", "dot", "json"]
            .map(|name| (name, at(name)))
            .into();
        let request = json!({
            "contract": 1, "kind": "report.graph", "node": "n", "key": "k", "seed": 5, "params": params, "inputs": inputs,
            "outputs": outputs, "partial": at("partial"), "events": at("events"), "resources": {"cpu": 1},
        });
        std::fs::write(at("request"), request.to_string())?;
        run(&Job::open(&at("request"))?)?;
        for output in outputs.values() {
            assert!(output.is_file(), "{}", output.display());
        }
        Ok(serde_json::from_slice(&std::fs::read(at("json"))?)?)
    }

    #[test]
    fn the_most_instructive_ones_are_drawn() {
        let json = run_with(params(None), true, true).expect("good inputs");
        assert_eq!(
            (
                json["tree"]["problem"]["id"].as_str(),
                json["solution"]["problem_id"].as_str()
            ),
            (Some("t1"), Some("e2"))
        );
        assert_eq!(json["solution"]["moves"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn a_problem_can_be_chosen() {
        let json = run_with(params(Some("e1")), true, true).expect("good inputs");
        assert!(json["tree"].is_null());
        assert_eq!(
            json["solution"]["steps"][0]["text"], "7 3 4 -> 24",
            "the prompt without its chat markers"
        );
        let error = run_with(params(Some("e9")), true, true).expect_err("no such problem");
        assert!(error.to_string().contains("problem \"e9\""), "{error}");
    }

    #[test]
    fn one_input_is_enough_and_none_is_not() {
        assert!(run_with(params(None), true, false).is_ok_and(|json| json["solution"].is_null()));
        assert!(run_with(params(None), false, true).is_ok_and(|json| json["tree"].is_null()));
        assert!(run_with(params(None), false, false).is_err());
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let mut params = params(None);
        params["go_back"] = json!(["("]);
        let error = run_with(params, true, false).expect_err("a broken pattern");
        assert!(format!("{error:#}").contains("parameter `go_back`"), "{error:#}");
    }
}
