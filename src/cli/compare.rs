//! `volvelle compare FILE STAGE`: all points of a sweep in one table, with any metric, the best marked.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::locate_run::{listing_of, run_named};
use super::{CliError, Global, Output, PipelineArgs};
use crate::inspect::{self, CompareError, Direction, Listing, Over, Query, Sort, Wanted};
use crate::report;
use crate::store::{RunState, Store};

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The stage whose points are compared
    stage: String,
    /// A metric [default: all that the points have]: `loss`, `seconds`, a number inside a JSON output as
    /// `scores.pass_at_1`, or a parameter as `with.learning_rate`; may be given several times
    #[arg(long = "metric", short = 'm', value_name = "METRIC", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Order by a metric or an axis; `-METRIC` puts the largest first
    #[arg(long, value_name = "METRIC", allow_hyphen_values = true)]
    sort: Option<Sort>,
    /// Only points where this holds: `style=search`, `seed!=1`, `learning_rate<=1e-4`, `style=search,direct`; may be
    /// given several times
    #[arg(long = "where", value_name = "CONDITION")]
    wanted: Vec<Wanted>,
    /// Take the mean over an axis [default: `seed` and `*_seed`]
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    over: Vec<String>,
    /// Show every point, also those that differ only in their seed
    #[arg(long, conflicts_with = "over")]
    no_over: bool,
    /// What is good [default: min for a loss, a perplexity, an error or seconds, else max]
    #[arg(long, value_name = "WHAT")]
    best: Option<Good>,
    /// Show so many rows, the best ones unless --sort says otherwise
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// The columns, in order: axes, metrics, `node`, `n`, `state`
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    columns: Vec<String>,
    /// Compare what an earlier run was about: its id, or `@1` for the latest of this pipeline
    #[arg(long, value_name = "RUN", conflicts_with_all = ["sets", "profile"])]
    run: Option<String>,
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
    Csv,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Good {
    Max,
    Min,
}

pub(super) fn run(args: &CompareArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let (listing, run) = source(args, global, &store)?;
    store.look_ahead(listing.nodes.iter().map(|node| node.recipe_key));
    let pipeline = listing.pipeline.clone();
    let query = query(args);
    let table = inspect::compare(&store, listing, run.as_ref(), args.run.is_some(), &query);
    let table = table.map_err(|error| match error {
        CompareError::NothingRun { .. } => CliError::Absent(format!("{error}; {}", how_to_run(args))),
        error => CliError::Usage(error.to_string()),
    })?;
    if let Some(axis) = args.columns.iter().find(|column| table.over.contains(column)) {
        return Err(CliError::Usage(format!(
            "the axis `{axis}` can't be a column, because the mean is taken over it; pass --no-over"
        )));
    }
    match args.format {
        Format::Text if !args.json => {
            let text = report::describe_table(&table, &args.columns, output.columns(), output.paint());
            output.text(&text)
        }
        Format::Csv => output.text(&report::table_as_csv(&table, &args.columns)),
        Format::Json | Format::Text => {
            let mut value = report::table_as_json(&table);
            value["pipeline"] = pipeline.into();
            value["stage"] = args.stage.clone().into();
            value["run"] = run
                .filter(|_| args.run.is_some())
                .map_or(Value::Null, |run| run.id.0.into());
            output.json(&value)
        }
    }
}

/// Returns the nodes, and the run whose words count about those without a result.
fn source(args: &CompareArgs, global: &Global, store: &Store) -> Result<(Listing, Option<RunState>), CliError> {
    let file = &args.pipeline.file;
    if let Some(text) = &args.run {
        let run = run_named(store, text, Some(file))?;
        return Ok((listing_of(store, &run)?, Some(run)));
    }
    let graph = args.pipeline.graph(global, store)?;
    let last = inspect::runs_of(store, file).into_iter().next();
    Ok((Listing::of_graph(&graph), last))
}

fn query(args: &CompareArgs) -> Query {
    let is_other = |column: &&String| !report::OTHER_COLUMNS.contains(&column.as_str());
    Query {
        stage: args.stage.clone(),
        metrics: args.metrics.clone(),
        also: args.columns.iter().filter(is_other).cloned().collect(),
        over: match (&args.over[..], args.no_over) {
            (_, true) => Over::Nothing,
            ([], false) => Over::Seeds,
            (axes, false) => Over::Axes(axes.to_vec()),
        },
        wanted: args.wanted.clone(),
        sort: args.sort.clone(),
        best: args.best.map(|best| match best {
            Good::Max => Direction::Max,
            Good::Min => Direction::Min,
        }),
        top: args.top,
    }
}

fn how_to_run(args: &CompareArgs) -> String {
    let PipelineArgs {
        file,
        sets,
        profile,
        sweeps,
    } = &args.pipeline;
    let mut command = format!("volvelle run {}", file.display());
    for option in profile.iter().map(|profile| format!(" --profile {profile}")) {
        command.push_str(&option);
    }
    for set in sets {
        command.push_str(&format!(" --set '{set}'"));
    }
    for sweep in sweeps {
        command.push_str(&format!(" --sweep '{sweep}'"));
    }
    format!("`{command} --until {}` makes them", args.stage)
}
