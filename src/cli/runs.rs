//! `volvelle runs`: lists the runs.

use clap::Args;
use serde_json::json;

use super::{CliError, Global, Output};
use crate::report;
use crate::store::RunState;

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// How many to show, the latest first
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RunsArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.local_store(None)?;
    let runs: Vec<RunState> = store.runs().into_iter().take(args.limit).collect();
    if args.json {
        return output.json(&json!(runs));
    }
    let mut rows = vec![
        ["run", "pipeline", "status", "started", "took", "nodes"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for run in &runs {
        let took = run
            .ended
            .map(|ended| ended.0.saturating_sub(run.started.0) as f64 / 1000.0);
        let counts = run.counts.iter().filter(|(_, count)| **count > 0);
        rows.push(vec![
            run.id.to_string(),
            run.pipeline.clone(),
            run.status.to_string(),
            run.started.to_string(),
            took.map(report::duration).unwrap_or_default(),
            counts
                .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
                .collect::<Vec<_>>()
                .join(", "),
        ]);
    }
    output.text(&report::table(&rows))
}
