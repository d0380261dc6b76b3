//! `volvelle status FILE`: how each node of a pipeline stands, and its last run.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{CliError, Global, Output, PipelineArgs};
use crate::exec::{self, NodeState, Reason};
use crate::graph::Graph;
use crate::inspect;
use crate::report;
use crate::store::{RunState, RunStatus, Store};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A node as `status` shows it.
struct Line {
    state: NodeState,
    reason: Option<Reason>,
    last_error: Option<String>,
}

pub(super) fn run(args: &StatusArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let graph = Arc::new(args.pipeline.graph(global, &store)?);
    let last = last_run(&store, &graph);
    let lines = lines(&store, &graph, last.as_ref());
    if args.json {
        return print_json(&graph, &lines, last.as_ref(), output);
    }
    let paint = output.paint();
    let mut rows = Vec::new();
    for (idx, line) in lines.iter().enumerate() {
        let record = line
            .state
            .is_done()
            .then(|| store.record(graph.recipe_key(idx)))
            .flatten();
        let what = match (&record, &line.reason, &line.last_error) {
            (Some(record), ..) => format!("{}, took {}", record.ended, report::duration(record.seconds)),
            (None, _, Some(error)) => error.clone(),
            (None, Some(reason), None) => reason.to_string(),
            (None, None, None) => String::new(),
        };
        // The word is padded before it is coloured: what can't be seen has no width.
        rows.push((line.state, vec![graph.id(idx).0, format!("{:<9}", line.state), what]));
    }
    let plain: Vec<Vec<String>> = rows.iter().map(|(_, row)| row.clone()).collect();
    for (text, (state, _)) in report::table(&plain).lines().zip(&rows) {
        output.line(&paint.state(*state, text))?;
    }
    match last {
        Some(run) => output.line(&format!("last run: {} {} ({})", run.id, run.status, run.started)),
        None => output.line("never run"),
    }
}

fn print_json(graph: &Graph, lines: &[Line], last: Option<&RunState>, output: &mut Output) -> Result<(), CliError> {
    let nodes = lines.iter().enumerate().map(|(idx, line)| {
        json!({
            "id": graph.id(idx), "stage": graph.stage(idx), "kind": graph.kind(idx), "recipe_key": graph.recipe_key(idx),
            "state": line.state, "reason": line.reason, "last_error": line.last_error,
        })
    });
    let nodes: Vec<serde_json::Value> = nodes.collect();
    output.json(&json!({"pipeline": graph.pipeline, "nodes": nodes, "last_run": last}))
}

/// Joins what the cache says with what the last run said about the nodes that have no result.
fn lines(store: &Store, graph: &Arc<Graph>, last: Option<&RunState>) -> Vec<Line> {
    let said = last.map(|run| inspect::last_words(store, run)).unwrap_or_default();
    let alive = last.is_some_and(|run| run.status == RunStatus::Running);
    let states = exec::states(graph, store).into_iter().enumerate();
    let line = |(idx, (state, reason)): (usize, (NodeState, Option<Reason>))| {
        let (state, last_error) = match said.get(&graph.id(idx)) {
            Some((NodeState::Running, _)) if alive && !state.is_done() => (NodeState::Running, None),
            Some((NodeState::Failed, message)) if !state.is_done() => (NodeState::Failed, message.clone()),
            _ => (state, None),
        };
        Line {
            state,
            reason,
            last_error,
        }
    };
    states.map(line).collect()
}

/// Returns the last run of the same pipeline file.
pub(super) fn last_run(store: &Store, graph: &Graph) -> Option<RunState> {
    inspect::runs_of(store, &graph.file).into_iter().next()
}
