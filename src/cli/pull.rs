//! `volvelle pull`: brings results of a pipeline from the remote.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde_json::json;

use super::remote::linked;
use super::{CliError, Global, Output, PipelineArgs, transfer};
use crate::graph::Graph;
use crate::remote::RemoteError;
use crate::remote::link::Link;
use crate::report;
use crate::store::{Record, Store};

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

/// How many artifacts are brought at once; the transfers of each are parallel too.
const AT_ONCE: usize = 8;

/// Brings what is missing of some records; returns what became of each artifact, by its name.
fn bring_all(store: &Store, link: &Link, records: &[Option<Record>]) -> Vec<(String, Result<(), RemoteError>)> {
    let outputs = records.iter().flatten().flat_map(|record| {
        let outputs = record.artifacts.iter();
        outputs.map(move |(name, artifact)| (format!("{}.{name}", record.node), artifact))
    });
    let wanted: Vec<_> = outputs
        .filter(|(_, artifact)| store.missing_blob(artifact).is_some())
        .collect();
    let next = Mutex::new(wanted.into_iter());
    let bring = || {
        let mut brought = Vec::new();
        loop {
            // Not held while something is brought.
            let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((name, artifact)) = taken else { return brought };
            brought.push((name, link.bring(artifact, None)));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(bring)).collect();
        let brought = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("bringing does not panic"));
        brought.collect()
    })
}

pub(super) fn run(args: &PullArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let Some(file) = &args.results.file else {
        return Err(CliError::Usage(
            "name the pipeline whose results are wanted: `volvelle pull PIPELINE.yaml [NODE...]`".into(),
        ));
    };
    let (store, link) = linked(global, Some(file))?;
    if !link.settings().pull {
        return Err(CliError::Usage(
            "volvelle.yaml says `pull: false` of the remote; --remote URL overrides it".into(),
        ));
    }
    let graph = args.results.pipeline(file).graph(global, &store)?;
    let chosen = args.results.chosen(&graph)?;
    store.look_ahead(chosen.iter().map(|&idx| graph.recipe_key(idx)));
    let records: Vec<_> = chosen.iter().map(|&idx| store.record(graph.recipe_key(idx))).collect();
    let absent = records.iter().filter(|record| record.is_none()).count();
    let (mut failed, mut fetched) = (Vec::new(), 0);
    if !args.records {
        let brought = transfer::told("pulling", link.fetched(), || bring_all(&store, &link, &records));
        for (name, result) in brought {
            match result {
                Ok(()) => fetched += 1,
                Err(error) => failed.push((name, error.to_string())),
            }
        }
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
    if link.is_down() {
        return Err(CliError::Absent(format!("{} could not be used", link.address())));
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Absent(format!("{} artifacts were not pulled", failed.len())))
    }
}
