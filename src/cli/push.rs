//! `volvelle push`: brings results to the remote.

use clap::Args;
use serde_json::json;

use super::remote::linked;
use super::{CliError, Global, Output, transfer};
use crate::digest::RecipeKey;
use crate::remote::link::PushSummary;
use crate::report;
use crate::store::Store;

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    #[command(flatten)]
    results: super::pull::ResultsArgs,
    /// Push every record of the cache
    #[arg(long, conflicts_with_all = ["file", "nodes"])]
    all: bool,
    /// Put ours there where the remote has another result under the same key
    #[arg(long)]
    replace: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PushArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let (store, link) = linked(global, args.results.file.as_deref())?;
    let keys: Vec<RecipeKey> = match &args.results.file {
        Some(file) => {
            let graph = args.results.pipeline(file).graph(global, &store)?;
            let chosen = args.results.chosen(&graph)?;
            chosen.into_iter().map(|idx| graph.recipe_key(idx)).collect()
        }
        None if args.all => every_key(&store),
        None => link.unpushed(),
    };
    let summary = transfer::told("pushing", link.sent(), || link.push_all(keys, args.replace));
    if args.json {
        output.json(&to_json(&summary))?;
    } else {
        print(&summary, &link, output)?;
    }
    if summary.failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Absent(format!(
            "{} results were not pushed",
            summary.failed.len()
        )))
    }
}

fn print(summary: &PushSummary, link: &crate::remote::link::Link, output: &mut Output) -> Result<(), CliError> {
    for (key, host) in &summary.differ {
        output.line(&format!(
            "other result under {} in the remote, made on {host}: it stays; --replace puts ours there",
            key.0.short()
        ))?;
    }
    for (key, why) in &summary.failed {
        output.line(&format!("not pushed: {}: {why}", key.0.short()))?;
    }
    let mut text = format!(
        "{}: {} pushed, {} there already",
        link.address(),
        summary.pushed,
        summary.same
    );
    if !summary.incomplete.is_empty() {
        text.push_str(&format!(", {} without a result here", summary.incomplete.len()));
    }
    let moved = summary.moved;
    text.push_str(&format!(
        "; {} over the wire, {} spared",
        report::bytes(moved.wire_bytes),
        report::bytes(moved.spared_bytes)
    ));
    output.line(&text)
}

fn to_json(summary: &PushSummary) -> serde_json::Value {
    let pairs = |pairs: &[(RecipeKey, String)], name: &str| -> Vec<serde_json::Value> {
        pairs
            .iter()
            .map(|(key, text)| json!({"recipe_key": key, name: text}))
            .collect()
    };
    json!({
        "pushed": summary.pushed,
        "same": summary.same,
        "incomplete": summary.incomplete,
        "differ": pairs(&summary.differ, "host"),
        "failed": pairs(&summary.failed, "why"),
        "wire_bytes": summary.moved.wire_bytes,
        "spared_bytes": summary.moved.spared_bytes,
    })
}

fn every_key(store: &Store) -> Vec<RecipeKey> {
    let mut keys = Vec::new();
    store.each_record(|record| keys.push(record.recipe_key));
    keys
}
