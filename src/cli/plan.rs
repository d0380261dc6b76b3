//! `volvelle plan FILE`: what a run would do with each node, and why, down to the value.

use clap::Args;

use super::{CliError, Global, Output, PipelineArgs};
use crate::exec;
use crate::report;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Plan as if this stage or node had to run again; may be given several times
    #[arg(long, value_name = "STAGE")]
    rerun: Vec<String>,
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
    let plan = exec::plan(&graph, &store, &args.rerun)?;
    if args.json {
        let value = serde_json::to_value(&plan).map_err(|error| CliError::Usage(error.to_string()))?;
        return output.json(&value);
    }
    let text = report::describe_plan(&plan, args.all, output.paint());
    output.text(&text)
}
