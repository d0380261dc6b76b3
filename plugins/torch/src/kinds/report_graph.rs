//! `report.graph`: search trees, traces and solutions drawn as graphs: the best of each as SVG, DOT and JSON, and
//! several of them whole on one HTML page.
//!
//! Chooses what to draw by `problem_id`, else what shows the most; reading and drawing are in `report`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::formats::{Problem, Sample, Trace, Tree, read_jsonl, write_json};
use crate::report::dot;
use crate::report::draw_outline::draw_outline;
use crate::report::draw_solution::draw_solution;
use crate::report::draw_tree::draw_tree;
use crate::report::graph_data::{Graph, of_solution, of_trace, of_tree};
use crate::report::graph_page::{Fallback, graph_page};
use crate::report::markup::{escape, svg_open};
use crate::report::prune::{Shown, prune};
use crate::report::select::{solutions_by_worth, trees_by_worth};
use crate::report::solution::{Phrases, Reading, Solution, patterns, plain, read_solution};
use crate::worker::Job;

/// So many of the samples with the most backtracks are read to find the one to draw.
const MAX_CANDIDATES: usize = 400;

const PAGE_TITLE: &str = "Searches and solutions";

/// Nodes of all graphs of the page, at most; a larger tree is cut to its most visited nodes, later graphs are left out.
const MAX_PAGE_NODES: usize = 20_000;

/// The parameters; defaults live in `plugin.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    /// The problem to draw; `None`: the most instructive tree and the most instructive sample.
    problem_id: Option<String>,
    /// Trees, traces and solutions, of each at most so many, on the page.
    num_problems: usize,
    /// Tree nodes, and steps of a solution, that the SVG files have at most.
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
/// Neither trees, traces nor samples are given, `problem_id` is in none of them, or a pattern is not a regular expression.
pub fn run(job: &Job) -> Result<()> {
    let params: Params = job.params()?;
    let phrases = params.phrases()?;
    let trees: Option<Vec<Tree>> = read(job, "trees", "tree")?;
    let traces: Option<Vec<Trace>> = read(job, "traces", "trace")?;
    let samples: Option<Vec<Sample>> = read(job, "samples", "sample")?;
    if trees.is_none() && traces.is_none() && samples.is_none() {
        bail!("there is nothing to draw: needs `trees`, `traces`, `samples` or several of them");
    }
    let (trees, traces, samples) = (
        trees.unwrap_or_default(),
        traces.unwrap_or_default(),
        samples.unwrap_or_default(),
    );
    if let Some(tree) = trees.iter().find(|tree| !is_sound(tree)) {
        bail!(
            "the tree of problem {:?} is damaged: a node's id or parent doesn't fit",
            tree.problem.id
        );
    }
    let problems: Vec<Problem> = read(job, "problems", "problem")?.unwrap_or_default();

    let trees = choose_trees(trees, params.problem_id.as_deref(), params.num_problems);
    let traces = choose_traces(&traces, &trees, &params);
    let solutions = choose_solutions(&samples, &problems, &params, &phrases);
    if let Some(id) = &params.problem_id
        && trees.is_empty()
        && traces.is_empty()
        && solutions.is_empty()
    {
        bail!("no tree, no trace and no sample belongs to problem {id:?}");
    }
    let (tree, solution) = (trees.first(), solutions.first());
    let tree_svg = tree.map_or_else(
        || nothing("no search tree to draw"),
        |tree| draw_tree(tree, params.max_nodes),
    );
    let solution_svg = solution.map_or_else(
        || nothing("no solution to draw"),
        |solution| draw_solution(solution, params.max_nodes),
    );
    write(job, "tree", &tree_svg)?;
    write(job, "solution", &solution_svg)?;
    let graphs = graphs(job, &trees, &traces, &solutions);
    let whole_tree = tree.filter(|tree| (params.max_nodes + 1..=MAX_PAGE_NODES).contains(&tree.nodes.len()));
    let fallbacks = [
        Fallback {
            title: "Search tree",
            svg: &whole_tree.map_or(tree_svg, draw_outline),
        },
        Fallback {
            title: "Solution",
            svg: &solution_svg,
        },
    ];
    write(job, "html", &graph_page(PAGE_TITLE, graphs, &fallbacks))?;
    write(job, "dot", &dot::dot(tree, solution))?;
    write_json(
        &job.output("json")?,
        &json!({"version": 1, "tree": tree, "solution": solution}),
    )?;
    Ok(())
}

/// Reads an input of JSON Lines; `None` where it was not given.
fn read<T: DeserializeOwned>(job: &Job, input: &str, what: &'static str) -> Result<Option<Vec<T>>> {
    Ok(job.input_opt(input)?.map(|path| read_jsonl(&path, what)).transpose()?)
}

/// Returns the graphs of the page: trees, traces, solutions, as many as it has room for.
fn graphs(job: &Job, trees: &[Tree], traces: &[Trace], solutions: &[Solution]) -> Vec<Graph> {
    let shown: Vec<Shown> = trees.iter().map(|tree| prune(tree, MAX_PAGE_NODES)).collect();
    let of_problem = |trace: &Trace| {
        let idx = trees.iter().position(|tree| tree.problem.id == trace.problem.id)?;
        Some((&trees[idx], &shown[idx]))
    };
    let all = trees
        .iter()
        .zip(&shown)
        .map(|(tree, shown)| of_tree(tree, shown))
        .chain(traces.iter().map(|trace| of_trace(trace, of_problem(trace))))
        .chain(solutions.iter().map(of_solution));
    let (mut graphs, mut num_nodes, mut num_left_out): (Vec<Graph>, usize, usize) = (Vec::new(), 0, 0);
    for graph in all {
        if graphs.is_empty() || num_nodes + graph.nodes.len() <= MAX_PAGE_NODES {
            num_nodes += graph.nodes.len();
            graphs.push(graph);
        } else {
            num_left_out += 1;
        }
    }
    if num_left_out > 0 {
        job.info(&format!(
            "{num_left_out} graphs are not on the page, which has room for {MAX_PAGE_NODES} nodes"
        ));
    }
    for idx in 0..graphs.len() {
        let name = graphs[idx].name.clone();
        let same: Vec<usize> = (idx..graphs.len())
            .filter(|other| graphs[*other].name == name)
            .collect();
        if same.len() > 1 {
            for (number, other) in same.into_iter().enumerate() {
                graphs[other].name += &format!(" ({})", number + 1);
            }
        }
    }
    graphs
}

/// Tells whether ids are indices and each parent comes before its children: all that drawing relies on.
fn is_sound(tree: &Tree) -> bool {
    let fits = |(idx, node): (usize, &crate::formats::TreeNode)| {
        node.id == idx && node.parent.is_some() == (idx > 0) && node.parent.is_none_or(|parent| parent < idx)
    };
    !tree.nodes.is_empty() && tree.nodes.iter().enumerate().all(fits)
}

fn choose_trees(mut trees: Vec<Tree>, problem_id: Option<&str>, count: usize) -> Vec<Tree> {
    trees.retain(|tree| problem_id.is_none_or(|id| tree.problem.id == id));
    let order = trees_by_worth(&trees);
    let mut trees: Vec<Option<Tree>> = trees.into_iter().map(Some).collect();
    order
        .into_iter()
        .take(count)
        .filter_map(|idx| trees[idx].take())
        .collect()
}

/// Returns the traces over the chosen trees first, then those with the most backtracks.
fn choose_traces(traces: &[Trace], trees: &[Tree], params: &Params) -> Vec<Trace> {
    let asked_for = |trace: &&Trace| params.problem_id.as_ref().is_none_or(|id| *id == trace.problem.id);
    let mut chosen: Vec<&Trace> = traces.iter().filter(asked_for).collect();
    let over = |trace: &Trace| {
        trees
            .iter()
            .position(|tree| tree.problem.id == trace.problem.id)
            .unwrap_or(usize::MAX)
    };
    chosen.sort_by_key(|trace| (over(trace), std::cmp::Reverse(trace.k)));
    chosen.truncate(params.num_problems);
    chosen.into_iter().cloned().collect()
}

fn choose_solutions(samples: &[Sample], problems: &[Problem], params: &Params, phrases: &Phrases) -> Vec<Solution> {
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
    let solutions: Vec<Solution> = candidates.iter().map(read).collect();
    let order = solutions_by_worth(&solutions, params.max_nodes);
    let chosen = order.into_iter().take(params.num_problems);
    chosen.map(|idx| solutions[idx].clone()).collect()
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
            "problem_id": problem_id, "num_problems": 8, "max_nodes": 60, "separator": null,
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
