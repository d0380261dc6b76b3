//! `volvelle lineage FILE NODE` or `volvelle lineage DIGEST`: where a result came from, and what used it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use super::show::{output_of, split};
use super::{CliError, Global, Output, PipelineArgs};
use crate::digest::{Digest, RecipeKey};
use crate::exec::published_digest;
use crate::inspect::{Census, Listing, upstream};
use crate::report::{self, Lineage};
use crate::store::{Record, Store};

/// After so long without an answer, progress is shown.
const PATIENCE: Duration = Duration::from_secs(2);

/// The fewest digits of a digest that are taken for one.
const MIN_DIGITS: usize = 4;

/// Arguments of `lineage`.
#[derive(Debug, Args)]
pub struct LineageArgs {
    /// The pipeline file of NODE; or, without NODE, the beginning of an artifact's digest, or the path of a file that
    /// came from this cache
    #[arg(value_name = "FILE|DIGEST|PATH")]
    what: String,
    /// A node, one of its outputs, or a file in one: NODE, NODE.OUTPUT, NODE.OUTPUT/PATH
    node: Option<String>,
    /// Change a value of the pipeline
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Apply a profile of the pipeline
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Add an axis, as `run` does
    #[arg(long = "sweep", value_name = "PATH=VALUES")]
    sweeps: Vec<String>,
    /// How many steps to go in each direction [default: to the end]
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Only where it came from
    #[arg(long, conflicts_with = "downstream")]
    upstream: bool,
    /// Only what used it
    #[arg(long)]
    downstream: bool,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Mermaid,
}

/// What the question is about.
struct Target {
    record: Record,
    outputs: Vec<String>,
    path: Option<(String, Digest)>,
    twins: Vec<String>,
    listing: Option<Listing>,
    census: Option<Census>,
}

pub(super) fn run(args: &LineageArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let file = args.node.as_ref().map(|_| Path::new(&args.what));
    let store = global.store(file)?;
    let target = match &args.node {
        Some(node) => of_node(args, node, global, &store)?,
        None => of_digest(&args.what, &store)?,
    };
    let max_depth = args.depth.unwrap_or(usize::MAX);
    let steps =
        (!args.downstream).then(|| upstream(&store, target.record.recipe_key, target.listing.as_ref(), max_depth));
    let downstream = (!args.upstream && max_depth > 0).then(|| {
        let census = target.census.unwrap_or_else(|| take_census(&store));
        let artifacts = target
            .outputs
            .iter()
            .filter_map(|output| target.record.artifacts.get(output));
        let users = census.users(
            &store,
            &artifacts.collect::<Vec<_>>(),
            target.record.recipe_key,
            max_depth,
        );
        (census, users)
    });
    let lineage = Lineage {
        record: target.record,
        outputs: target.outputs,
        path: target.path,
        twins: target.twins,
        upstream: steps,
        downstream,
    };
    match args.format {
        _ if args.json => output.json(&report::lineage_as_json(&lineage)),
        Format::Json => output.json(&report::lineage_as_json(&lineage)),
        Format::Mermaid => output.text(&report::lineage_as_mermaid(&lineage)),
        Format::Text => output.text(&report::describe_lineage(&lineage, output.paint())),
    }
}

fn of_node(args: &LineageArgs, node: &str, global: &Global, store: &Store) -> Result<Target, CliError> {
    let pipeline = PipelineArgs {
        file: PathBuf::from(&args.what),
        sets: args.sets.clone(),
        profile: args.profile.clone(),
        sweeps: args.sweeps.clone(),
    };
    let graph = pipeline.graph(global, store)?;
    let (name, output) = split(node);
    let listed = graph.node(graph.select(name)?);
    let record = store.record(listed.recipe_key).ok_or_else(|| {
        CliError::Absent(format!(
            "{} has no result yet; `volvelle run {} --until '{}'` makes it",
            listed.id, args.what, listed.id
        ))
    })?;
    let (mut outputs, mut path) = (record.artifacts.keys().cloned().collect(), None);
    if let Some(inside) = output {
        let (name, subpath) = inside.split_once('/').unwrap_or((inside, ""));
        let artifact = output_of(&record, name)?;
        if !subpath.is_empty() {
            path = Some((subpath.to_owned(), store.digest_at(artifact, Some(subpath))?));
        }
        outputs = vec![name.to_owned()];
    }
    Ok(Target {
        record,
        outputs,
        path,
        twins: Vec::new(),
        listing: Some(Listing::of_graph(&graph)),
        census: None,
    })
}

fn of_digest(what: &str, store: &Store) -> Result<Target, CliError> {
    let path = Path::new(what);
    let is_pipeline = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let prefix = match path.exists() {
        true if is_pipeline && published_digest(path).is_none() => {
            let message = format!("name a node of {what} as well: `volvelle lineage {what} NODE`");
            return Err(CliError::Usage(message));
        }
        true => digest_of_path(path)?.to_string(),
        false => what.to_owned(),
    };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if prefix.len() < MIN_DIGITS || prefix.len() > 64 || !prefix.bytes().all(is_digit) {
        return Err(CliError::Usage(format!(
            "`{what}` is no file, and no beginning of a digest, which has {MIN_DIGITS} to 64 digits from 0 to 9 and a to f"
        )));
    }
    let census = take_census(store);
    let found = census.artifacts(&prefix);
    if found.len() > 1 {
        let names = found.iter().take(4).map(|(digest, makers)| {
            let (entry, output) = makers[0];
            format!("{} ({}.{output})", digest.short(), census.entries[entry].node)
        });
        let names = names.collect::<Vec<_>>().join(", ");
        return Err(CliError::Usage(format!(
            "{} artifacts begin with {prefix}, such as {names}",
            found.len()
        )));
    }
    let (entry, output, inside, makers) = match found.into_values().next() {
        // Of several nodes that made the same bytes the latest is the most likely to be known.
        Some(makers) => {
            let (entry, output) = makers[makers.len() - 1];
            (entry, output.to_owned(), None, makers)
        }
        None => {
            let digest = prefix.parse().ok();
            let found = digest.and_then(|digest| Some((census.folder_with(store, digest)?, digest)));
            let ((entry, output, inside), digest) = found.ok_or_else(|| unknown(what, path, &prefix))?;
            (entry, output.to_owned(), Some((inside, digest)), Vec::new())
        }
    };
    let record = recorded(store, census.entries[entry].recipe_key)?;
    let others = makers.iter().filter(|(other, _)| *other != entry);
    let twins = others.map(|&(other, output)| {
        let other = &census.entries[other];
        format!("{}.{output} of {} in run {}", other.node, other.pipeline, other.run)
    });
    Ok(Target {
        twins: twins.collect(),
        record,
        outputs: vec![output],
        path: inside,
        listing: None,
        census: Some(census),
    })
}

fn recorded(store: &Store, key: RecipeKey) -> Result<Record, CliError> {
    store
        .record(key)
        .ok_or_else(|| CliError::Absent(format!("the record of recipe {} was removed just now", key.short())))
}

fn unknown(what: &str, path: &Path, prefix: &str) -> CliError {
    match published_digest(path) {
        Some(then) if path.is_file() => CliError::Usage(format!(
            "{what} was changed since a run put it there; then it had the digest {then}"
        )),
        _ if path.exists() => CliError::Usage(format!("no record of this cache made {what}, digest {prefix}")),
        _ => CliError::Usage(format!(
            "no artifact of this cache has a digest that begins with {prefix}"
        )),
    }
}

/// Returns the digest of a file's bytes, or of a folder that a run or `show --path` laid out.
fn digest_of_path(path: &Path) -> Result<Digest, CliError> {
    if path.is_file() {
        return crate::digest::file_digest(path, None).map_err(|error| CliError::Usage(error.to_string()));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    published_digest(path).or_else(|| name?.parse().ok()).ok_or_else(|| {
        CliError::Usage(format!(
            "{} is a folder that no run put there; name a file in it, or a node",
            path.display()
        ))
    })
}

/// Looks at every record, and says so where that takes long.
fn take_census(store: &Store) -> Census {
    let start = Instant::now();
    let mut num_read = 0u64;
    let mut bar: Option<ProgressBar> = None;
    let census = Census::take(store, || {
        num_read += 1;
        if bar.is_none() && start.elapsed() > PATIENCE && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{spinner} reading records: {pos}, {per_sec}");
            bar =
                Some(ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())));
        }
        if let Some(bar) = &bar {
            bar.set_position(num_read);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    census
}
