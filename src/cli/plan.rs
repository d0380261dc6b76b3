//! `volvelle plan FILE`: what a run would do with each node, and why, down to the value.

use clap::Args;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{CliError, Global, Output, PipelineArgs, SelectionArgs};
use crate::exec::{self, Plan};
use crate::graph::Graph;
use crate::report;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Show cached nodes as well
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PlanArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let graph = args.pipeline.graph(global, &store)?;
    let plan = exec::plan(&graph, &store, &args.selection.options())?;
    if args.json {
        return output.json(&AsJson {
            plan: &plan,
            graph: &graph,
        });
    }
    let text = report::describe_plan(&plan, &graph, args.all, output.paint());
    output.text(&text)
}

/// A plan as `--json` prints it, node by node, so that a large one is never whole in memory.
struct AsJson<'a> {
    plan: &'a Plan,
    graph: &'a Graph,
}

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("pipeline", &self.graph.pipeline)?;
        map.serialize_entry("nodes", &Nodes(self))?;
        map.serialize_entry("counts", &self.plan.counts)?;
        map.serialize_entry("estimate_s", &self.plan.estimate_s)?;
        map.serialize_entry("reused_s", &self.plan.reused_s)?;
        map.end()
    }
}

struct Nodes<'a>(&'a AsJson<'a>);

impl Serialize for Nodes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.plan.nodes(self.0.graph))
    }
}
