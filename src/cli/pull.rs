//! `volvelle pull`: brings results of a pipeline from the remote.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::remote::linked;
use super::{CliError, Global, Output, PipelineArgs, transfer};
use crate::graph::Graph;
use crate::report;

/// Which results a transfer is about.
#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// The pipeline file
    pub file: Option<PathBuf>,
    /// Stages, nodes or patterns, as `run --only` takes them [default: all]
    pub nodes: Vec<String>,
    /// Change a value of the pipeline
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "file")]
    sets: Vec<String>,
    /// Add an axis to the pipeline
    #[arg(long = "sweep", value_name = "PATH=VALUES", requires = "file")]
    sweeps: Vec<String>,
    /// Apply a profile of the pipeline
    #[arg(long, value_name = "NAME", requires = "file")]
    profile: Option<String>,
}

impl ResultsArgs {
    /// Returns the pipeline that is meant.
    pub fn pipeline(&self, file: &Path) -> PipelineArgs {
        PipelineArgs {
            file: file.to_path_buf(),
            sets: self.sets.clone(),
            sweeps: self.sweeps.clone(),
            profile: self.profile.clone(),
        }
    }

    /// Returns the nodes that are meant.
    pub fn chosen(&self, graph: &Graph) -> Result<Vec<usize>, CliError> {
        if self.nodes.is_empty() {
            return Ok((0..graph.len()).collect());
        }
        let mut chosen = Vec::new();
        for name in &self.nodes {
            chosen.extend(graph.select_all(name)?);
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    #[command(flatten)]
    results: ResultsArgs,
    /// Only the records, which `plan`, `compare` and `lineage` read, and no artifacts
    #[arg(long)]
    records: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PullArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let Some(file) = &args.results.file else {
        return Err(CliError::Usage(
            "name the pipeline whose results are wanted: `volvelle pull PIPELINE.yaml [NODE...]`".into(),
        ));
    };
    let (store, link) = linked(global, Some(file))?;
    let graph = args.results.pipeline(file).graph(global, &store)?;
    let chosen = args.results.chosen(&graph)?;
    store.look_ahead(chosen.iter().map(|&idx| graph.recipe_key(idx)));
    let records: Vec<_> = chosen.iter().map(|&idx| store.record(graph.recipe_key(idx))).collect();
    let absent = records.iter().filter(|record| record.is_none()).count();
    let mut failed = Vec::new();
    let mut fetched = 0;
    if !args.records {
        let what = format!("pulling from {}", link.address());
        transfer::told(&what, link.fetched(), || {
            for record in records.iter().flatten() {
                for (name, artifact) in &record.artifacts {
                    if store.missing_blob(artifact).is_none() {
                        continue;
                    }
                    match link.bring(artifact, None) {
                        Ok(()) => fetched += 1,
                        Err(error) => failed.push((format!("{}.{name}", record.node), error.to_string())),
                    }
                }
            }
        });
    }
    let meter = link.fetched();
    let wire_bytes = meter.wire_bytes.load(std::sync::atomic::Ordering::Relaxed);
    let found = records.len() - absent;
    if args.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(name, why)| json!({"artifact": name, "why": why}))
            .collect();
        output.json(&json!({
            "records": found, "absent": absent, "fetched": fetched, "failed": failed, "wire_bytes": wire_bytes,
        }))?;
    } else {
        for (name, why) in &failed {
            output.line(&format!("not pulled: {name}: {why}"))?;
        }
        output.line(&format!(
            "{}: {found} of {} results known, {fetched} artifacts pulled, {} over the wire",
            link.address(),
            records.len(),
            report::bytes(wire_bytes)
        ))?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Absent(format!("{} artifacts were not pulled", failed.len())))
    }
}
