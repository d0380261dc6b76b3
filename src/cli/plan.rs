//! `volvelle plan FILE`: what a run would do with each node, and why, down to the value.

use std::io::IsTerminal;

use clap::Args;
use serde::Serialize;

use super::output::Each;
use super::{CliError, Global, Output, PipelineArgs, SelectionArgs};
use crate::exec::{self, PlanCounts};
use crate::report::{self, Extent, Planned};

/// On a terminal, more nodes than this are told by stage.
const MAX_LINES: usize = 100;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Read cached results and outside files again, all of them, before they are believed; what is damaged is made again
    #[arg(long)]
    paranoid: bool,
    /// Show cached nodes as well
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlanArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    if args.paranoid {
        store.be_paranoid();
    }
    let graph = args.pipeline.graph(global, &store)?;
    let plan = exec::plan(&graph, &store, &args.selection.options())?;
    if args.json {
        return output.json(&PlanJson {
            pipeline: &graph.pipeline,
            nodes: Each(|| plan.nodes(&graph)),
            counts: plan.counts,
            estimate_s: plan.estimate_s,
            reused_s: plan.reused_s,
        });
    }
    // A pipe gets every line; nobody reads thousands of them on a screen.
    let text = if args.all || !std::io::stdout().is_terminal() {
        report::describe_plan(&plan, &graph, args.all, output.paint())
    } else {
        let planned = Planned {
            graph: &graph,
            plan: &plan,
        };
        let extent = Extent {
            all: false,
            max_lines: MAX_LINES,
            columns: None,
        };
        report::describe_plan_change(planned, None, extent, output.paint())
    };
    output.text(&text)
}

/// A plan as `--json` prints it.
#[derive(Serialize)]
struct PlanJson<'a, N> {
    pipeline: &'a str,
    nodes: N,
    counts: PlanCounts,
    estimate_s: f64,
    reused_s: f64,
}
