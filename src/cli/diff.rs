//! `volvelle diff A B`: two runs, pipelines, or revisions of one, node by node.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::locate_run::{listing_of, run_named};
use super::revision::{Revision, check_out};
use super::{CliError, Global, Output, PipelineArgs};
use crate::inspect::{self, Listing};
use crate::report;
use crate::spec::nearest;
use crate::store::Store;

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The old side: a pipeline file, a revision of one as `HEAD~1:pipelines/x.yaml`, the id of a run, or `@2`, the run
    /// before the latest of the same pipeline (`x.yaml@2` of another)
    #[arg(value_name = "A")]
    old: String,
    /// The new side
    #[arg(value_name = "B")]
    new: String,
    /// Change a value of every side that is a pipeline
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Change a value of A only
    #[arg(long = "set-a", value_name = "PATH=VALUE")]
    sets_old: Vec<String>,
    /// Change a value of B only
    #[arg(long = "set-b", value_name = "PATH=VALUE")]
    sets_new: Vec<String>,
    /// Apply a profile to every side that is a pipeline
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Add an axis to every side that is a pipeline, as `run` does
    #[arg(long = "sweep", value_name = "PATH=VALUES")]
    sweeps: Vec<String>,
    /// Only what is about a stage, and the changes that it comes from
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a word on the command line means.
enum Origin {
    File(PathBuf),
    Revision(Box<Revision>),
    /// A run, and the pipeline file among whose runs `@N` counts.
    Run(String, Option<PathBuf>),
}

pub(super) fn run(args: &DiffArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let mut origins = [origin(&args.old)?, origin(&args.new)?];
    let is_run = |origin: &Origin| matches!(origin, Origin::Run(..));
    if origins.iter().all(is_run) && (!args.sets.is_empty() || !args.sweeps.is_empty() || args.profile.is_some()) {
        return Err(CliError::Usage(
            "both sides are runs, in which nothing can be set".to_owned(),
        ));
    }
    let files = origins.each_ref().map(Origin::file);
    let store = global.store(files.iter().flatten().next().map(PathBuf::as_path))?;
    for idx in 0..2 {
        // `@N` counts the runs of the pipeline that the other side is about.
        let other = files[1 - idx].clone().or_else(|| origins[1 - idx].file_of_run(&store));
        if let Origin::Run(_, file @ None) = &mut origins[idx] {
            *file = other.or_else(|| store.runs().into_iter().next().map(|run| run.file));
        }
    }
    let (old, old_json) = side(&origins[0], &args.old, &args.sets_old, args, global, &store)?;
    let (new, new_json) = side(&origins[1], &args.new, &args.sets_new, args, global, &store)?;
    let mut difference = inspect::difference(&store, &old, &new);
    if let Some(stage) = &args.only {
        check_stage(stage, &old, &new)?;
        difference.retain_stage(stage);
    }
    if args.json {
        return output.json(&json!({"old": old_json, "new": new_json, "difference": difference}));
    }
    let names = [&old_json, &new_json].map(|side| side["name"].as_str().unwrap_or_default());
    output.text(&report::describe_difference(&difference, names, output.paint()))
}

fn origin(text: &str) -> Result<Origin, CliError> {
    let path = Path::new(text);
    if path.is_file() {
        return Ok(Origin::File(path.to_path_buf()));
    }
    if let Some((file, age)) = text.rsplit_once('@')
        && (file.is_empty() || Path::new(file).is_file())
    {
        let file = Some(file).filter(|file| !file.is_empty()).map(PathBuf::from);
        return Ok(Origin::Run(format!("@{age}"), file));
    }
    if let Some((revision, path)) = text.split_once(':') {
        return Ok(Origin::Revision(Box::new(check_out(revision, path)?)));
    }
    if path.extension().is_some() || text.contains('/') {
        return Err(CliError::Usage(format!("there is no pipeline file {text}")));
    }
    Ok(Origin::Run(text.to_owned(), None))
}

impl Origin {
    /// Returns the pipeline file, where it is known without a store.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Origin::File(file) => Some(file.clone()),
            Origin::Revision(revision) => Some(revision.original.clone()),
            Origin::Run(_, file) => file.clone(),
        }
    }

    /// Returns the pipeline file of a run that is named by its id.
    fn file_of_run(&self, store: &Store) -> Option<PathBuf> {
        match self {
            Origin::Run(id, None) if !id.starts_with('@') => run_named(store, id, None).ok().map(|run| run.file),
            _ => None,
        }
    }
}

/// Returns the nodes of a side, and what it is, as `--json` says it.
fn side(
    origin: &Origin,
    text: &str,
    own_sets: &[String],
    args: &DiffArgs,
    global: &Global,
    store: &Store,
) -> Result<(Listing, Value), CliError> {
    let load = |file: &Path| {
        let pipeline = PipelineArgs {
            file: file.to_path_buf(),
            sets: [&args.sets[..], own_sets].concat(),
            profile: args.profile.clone(),
            sweeps: args.sweeps.clone(),
        };
        Ok::<Listing, CliError>(Listing::of_graph(&pipeline.graph(global, store)?))
    };
    let described = |kind: &str, name: String| json!({"name": name, "kind": kind});
    match origin {
        Origin::File(file) => {
            let name = name_with(text, own_sets);
            Ok((load(file)?, described("pipeline", name)))
        }
        Origin::Revision(revision) => {
            let mut listing = load(&revision.file)?;
            for node in &mut listing.nodes {
                node.params
                    .values_mut()
                    .for_each(|value| relocate(value, &revision.tree, &revision.root));
            }
            let name = name_with(text, own_sets);
            Ok((listing, described("revision", name)))
        }
        Origin::Run(id, file) => {
            if !own_sets.is_empty() {
                return Err(CliError::Usage(format!("{text} is a run, in which nothing can be set")));
            }
            let run = run_named(store, id, file.as_deref())?;
            let listing = listing_of(store, &run)?;
            let name = format!("run {} ({})", run.id, run.started);
            let mut value = described("run", name);
            value["run"] = json!(run);
            Ok((listing, value))
        }
    }
}

fn name_with(text: &str, sets: &[String]) -> String {
    match sets {
        [] => text.to_owned(),
        sets => format!("{text} with {}", sets.join(", ")),
    }
}

/// Shows paths in the temporary tree where they are in the repository.
fn relocate(value: &mut Value, from: &Path, to: &Path) {
    match value {
        Value::String(text) => {
            if let Ok(inside) = Path::new(text.as_str()).strip_prefix(from) {
                *text = to.join(inside).display().to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate(item, from, to)),
        Value::Object(members) => members.values_mut().for_each(|member| relocate(member, from, to)),
        _ => {}
    }
}

fn check_stage(stage: &str, old: &Listing, new: &Listing) -> Result<(), CliError> {
    let mut stages = new.stages();
    stages.extend(old.stages());
    if stages.contains(&stage) {
        return Ok(());
    }
    let hint = nearest(stage, stages).map(|near| format!("; did you mean `{near}`?"));
    Err(CliError::Usage(format!(
        "neither side has a stage `{stage}`{}",
        hint.unwrap_or_default()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_temporary_tree_are_shown_in_the_repository() {
        let mut value = json!(["/tmp/x/HEAD/data.jsonl", "/tmp/xy", {"a": "/tmp/x/HEAD"}, 3]);
        relocate(&mut value, Path::new("/tmp/x/HEAD"), Path::new("/repo"));
        assert_eq!(value, json!(["/repo/data.jsonl", "/tmp/xy", {"a": "/repo/"}, 3]));
    }
}
