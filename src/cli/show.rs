//! `volvelle show`: records, outputs and runs.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{CliError, Global, Output, PipelineArgs, pin, status};
use crate::digest::RecipeKey;
use crate::graph::Graph;
use crate::inspect::Listing;
use crate::report;
use crate::store::{Artifact, Part, Record, RunFolder, Store, TreeFile, TreeLink};

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline file, or the id of a run
    file: PathBuf,
    /// A node, one of its outputs, or a file inside one: NODE, NODE.OUTPUT, NODE.OUTPUT/PATH
    target: Option<String>,
    /// Change a value of the pipeline
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Add an axis to the pipeline
    #[arg(long = "sweep", value_name = "PATH=VALUES")]
    sweeps: Vec<String>,
    /// Apply a profile of the pipeline
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Print where the output lies instead of what is in it
    #[arg(long, conflicts_with_all = ["to", "json"])]
    path: bool,
    /// Write a copy of the output
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    to: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The nodes that can be shown: those of a pipeline as it is now, or of a run as it was.
enum Source {
    Pipeline(Arc<Graph>),
    Run(RunFolder, Vec<(String, RecipeKey)>),
}

pub(super) fn run(args: &ShowArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let (store, source) = source(args, global)?;
    let Some(target) = &args.target else {
        return overview(&store, &source, args.json, output);
    };
    let (name, inside) = split(target);
    let record = record(&store, &source, name)?;
    if inside.is_none() && (args.to.is_some() || args.path) {
        let outputs: Vec<&str> = record.artifacts.keys().map(String::as_str).collect();
        return Err(CliError::Usage(format!(
            "--to and --path are about one output: name it, as in `{name}.{}`",
            outputs.first().copied().unwrap_or("OUTPUT")
        )));
    }
    let Some(inside) = inside else {
        return if args.json {
            output.json(&json!(record))
        } else {
            let pins = pin::names_of(&store, record.recipe_key);
            if !pins.is_empty() {
                output.line(&format!("pinned as {}", pins.join(", ")))?;
            }
            output.text(&report::describe_record(&record))
        };
    };
    let (name, subpath) = match inside.split_once('/') {
        Some((name, subpath)) => (name, Some(subpath).filter(|subpath| !subpath.is_empty())),
        None => (inside, None),
    };
    let artifact = output_of(&record, name)?;
    show_output(&store, artifact, subpath, args, output)
}

fn source(args: &ShowArgs, global: &Global) -> Result<(Store, Source), CliError> {
    if !args.file.exists()
        && let Some(id) = args.file.to_str()
    {
        let store = global.store(None)?;
        if let Some(folder) = store.run_folder(id) {
            let nodes = Listing::of_run(&store, &folder).map_err(CliError::Absent)?.nodes;
            let nodes = nodes.into_iter().map(|node| (node.id.0, node.recipe_key)).collect();
            return Ok((store, Source::Run(folder, nodes)));
        }
    }
    let pipeline = PipelineArgs {
        file: args.file.clone(),
        sets: args.sets.clone(),
        sweeps: args.sweeps.clone(),
        profile: args.profile.clone(),
    };
    let store = global.store(Some(&args.file))?;
    let graph = Arc::new(pipeline.graph(global, &store)?);
    Ok((store, Source::Pipeline(graph)))
}

/// Returns an output of a record by its name.
pub(super) fn output_of<'a>(record: &'a Record, name: &str) -> Result<&'a Artifact, CliError> {
    record.artifacts.get(name).ok_or_else(|| {
        let has: Vec<&str> = record.artifacts.keys().map(String::as_str).collect();
        CliError::Usage(format!(
            "{} has no output `{name}`; it has {}",
            record.node,
            has.join(", ")
        ))
    })
}

/// Cuts `NODE.OUTPUT/PATH` behind the node; dots inside brackets belong to its coordinates.
pub(super) fn split(target: &str) -> (&str, Option<&str>) {
    // The dots of another pipeline's file, and of axis values, are part of the node's name.
    let file = target.find(".yaml#").or(target.find(".yml#")).unwrap_or(0);
    let from = target
        .rfind(']')
        .unwrap_or(target[file..].find('#').map_or(0, |hash| file + hash));
    match target[from..].find('.') {
        Some(dot) => (&target[..from + dot], Some(&target[from + dot + 1..])),
        None => (target, None),
    }
}

fn record(store: &Store, source: &Source, name: &str) -> Result<Record, CliError> {
    let (id, key) = match source {
        Source::Pipeline(graph) => {
            let idx = graph.select(name)?;
            (graph.id(idx).0, graph.recipe_key(idx))
        }
        Source::Run(folder, nodes) => {
            let found = nodes.iter().find(|(id, _)| id == name);
            found
                .cloned()
                .ok_or_else(|| CliError::Usage(format!("run {} has no node `{name}`", folder.id)))?
        }
    };
    store.look_ahead([key]);
    store
        .record(key)
        .ok_or_else(|| CliError::Absent(format!("{id} has no result yet")))
}

fn overview(store: &Store, source: &Source, as_json: bool, output: &mut Output) -> Result<(), CliError> {
    let nodes: Vec<(String, RecipeKey)> = match source {
        Source::Pipeline(graph) => (0..graph.len())
            .map(|idx| (graph.id(idx).0, graph.recipe_key(idx)))
            .collect(),
        Source::Run(_, nodes) => nodes.clone(),
    };
    store.look_ahead(nodes.iter().map(|(_, key)| *key));
    let records: Vec<(String, Option<Record>)> = nodes.into_iter().map(|(id, key)| (id, store.record(key))).collect();
    let run = match source {
        Source::Pipeline(graph) => status::last_run(store, graph),
        Source::Run(folder, _) => store.run_state(&folder.id.0),
    };
    if as_json {
        let records: Vec<serde_json::Value> = records
            .iter()
            .map(|(id, record)| json!({"id": id, "record": record}))
            .collect();
        return output.json(&json!({"run": run, "nodes": records}));
    }
    if let Some(run) = run {
        output.line(&format!(
            "run {} of {}: {} ({})",
            run.id, run.pipeline, run.status, run.started
        ))?;
    }
    let mut rows = Vec::new();
    for (id, record) in &records {
        let Some(record) = record else {
            rows.push(vec![id.clone(), "no result".to_owned()]);
            continue;
        };
        for (idx, (name, artifact)) in record.artifacts.iter().enumerate() {
            let first = |text: String| if idx == 0 { text } else { String::new() };
            let (id, took) = (first(id.clone()), first(report::duration(record.seconds)));
            rows.push(vec![
                id,
                took,
                name.clone(),
                report::artifact_line(artifact),
                artifact.digest.short(),
            ]);
        }
    }
    output.text(&report::table(&rows))
}

fn show_output(
    store: &Store,
    artifact: &Artifact,
    subpath: Option<&str>,
    args: &ShowArgs,
    output: &mut Output,
) -> Result<(), CliError> {
    if let Some(to) = &args.to {
        store.export(artifact, subpath, to)?;
        return output.line(&to.display().to_string());
    }
    if args.path {
        return output.line(&store.readable_path(artifact, subpath)?.display().to_string());
    }
    if args.json {
        return output.json(&output_json(store, artifact, subpath)?);
    }
    match store.read_file(artifact, subpath)? {
        Some(bytes) => output.bytes(&bytes),
        None => output.text(&report::table(&rows(&store.part(artifact, subpath)?, subpath))),
    }
}

/// Returns what a folder has in it, each entry with its path in the artifact.
fn rows(part: &Part, subpath: Option<&str>) -> Vec<Vec<String>> {
    let Part::Folder(folder) = part else { return Vec::new() };
    let file = |file: &TreeFile| {
        vec![
            full_path(subpath, &file.path),
            report::bytes(file.size),
            file.digest.short(),
        ]
    };
    let link = |link: &TreeLink| vec![format!("{} -> {}", full_path(subpath, &link.path), link.target)];
    let empty = |path: &String| vec![format!("{}/", full_path(subpath, path))];
    let files = folder.files.iter().map(file);
    files
        .chain(folder.links.iter().map(link))
        .chain(folder.folders.iter().map(empty))
        .collect()
}

/// Returns what an output, or a part of one, is: its digest, its size, and what is in a folder.
fn output_json(store: &Store, artifact: &Artifact, subpath: Option<&str>) -> Result<Value, CliError> {
    let digest = store.digest_at(artifact, subpath)?;
    let mut folder = match store.part(artifact, subpath)? {
        Part::File { size, .. } => return Ok(json!({"digest": digest, "size_bytes": size})),
        Part::Folder(folder) => folder,
    };
    let size_bytes = folder.size_bytes();
    let files = folder.files.iter_mut().map(|file| &mut file.path);
    let links = folder.links.iter_mut().map(|link| &mut link.path);
    for path in files.chain(links).chain(&mut folder.folders) {
        *path = full_path(subpath, path);
    }
    let mut told = json!({"digest": digest, "size_bytes": size_bytes, "files": folder.files});
    // Most folders have none.
    if folder.format > 1 {
        told["links"] = json!(folder.links);
        told["empty_folders"] = json!(folder.folders);
    }
    Ok(told)
}

/// Returns the path in the artifact of something in a folder of it.
fn full_path(subpath: Option<&str>, path: &str) -> String {
    match subpath.map(|subpath| subpath.trim_matches('/')) {
        Some(subpath) => format!("{subpath}/{path}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_coordinates_are_not_the_end_of_a_node() {
        assert_eq!(split("sft[lr=0.1]"), ("sft[lr=0.1]", None));
        assert_eq!(
            split("sft[lr=0.1].model/config.json"),
            ("sft[lr=0.1]", Some("model/config.json"))
        );
        assert_eq!(split("table.page"), ("table", Some("page")));
        assert_eq!(split("table"), ("table", None));
    }
}
