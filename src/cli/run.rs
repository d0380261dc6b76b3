//! `volvelle run`: runs what changed.

use std::io::IsTerminal;
use std::sync::Arc;

use clap::Args;

use super::progress::Live;
use super::{CliError, Global, Output, PipelineArgs, SelectionArgs, gc};
use crate::exec::{self, Event, Limits, NodeState, RunOptions, RunReport};
use crate::graph::Graph;
use crate::report::{self, Lines};
use crate::settings::Settings;
use crate::store::{RunStatus, Store, Timestamp};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// How many nodes run at once, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// How many processors to use [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cpus: Option<u32>,
    /// How many GPUs to use [default: all, or those in CUDA_VISIBLE_DEVICES]
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// Stop everything at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Read cached results and outside files again, all of them, before they are believed; what is damaged is made again
    #[arg(long)]
    paranoid: bool,
    /// Print each event as a line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RunArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let (store, link) = global.signing(Some(&args.pipeline.file))?;
    if args.paranoid {
        store.be_paranoid();
    }
    let store = Arc::new(store);
    let graph = Arc::new(args.pipeline.graph(global, &store)?);
    let count = |number: Option<u32>| number.map(|number| number as usize);
    let options = RunOptions {
        limits: Limits {
            jobs: count(args.jobs),
            cpus: count(args.cpus),
            gpus: count(args.gpus),
        },
        fail_fast: args.fail_fast,
        tell_cached: args.json,
        link,
        ..args.selection.options()
    };
    let settings = global.settings(Some(&args.pipeline.file))?;
    let report = execute(graph, store, &options, &settings, args.json, output)?;
    match report.state.status {
        RunStatus::Succeeded => Ok(()),
        RunStatus::Interrupted => Err(CliError::Interrupted),
        _ => Err(CliError::NodesFailed),
    }
}

/// Runs a graph and shows how it goes: as JSON, live on a terminal, else as lines. Then the cache is as small as the
/// settings want it.
pub(super) fn execute(
    graph: Arc<Graph>,
    store: Arc<Store>,
    options: &RunOptions,
    settings: &Settings,
    json: bool,
    output: &mut Output,
) -> Result<RunReport, CliError> {
    let cache = Arc::clone(&store);
    let report = if json {
        with_json(output, |listener| exec::run(graph, store, options, listener))
    } else if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
        let mut live = Live::new(output.paint());
        exec::run(graph, store, options, &mut |event: &Event, at| live.show(event, at)).map_err(CliError::from)
    } else {
        with_lines(output, |listener| exec::run(graph, store, options, listener))
    }?;
    if !json {
        output.text(&report::describe_run(&report, output.paint()))?;
    }
    if report.counts[NodeState::Executed] > 0
        && let Some(line) = gc::keep_size(&cache, &settings.cache, &report.state)
    {
        // Standard output has nothing but events with `--json`.
        match json {
            true => output.error_text(&format!("{line}\n")),
            false => output.line(&line)?,
        }
    }
    Ok(report)
}

type Run<'a> = dyn FnOnce(exec::Listener<'_>) -> Result<RunReport, exec::RunError> + 'a;

fn with_json(
    output: &mut Output,
    run: impl FnOnce(exec::Listener<'_>) -> Result<RunReport, exec::RunError>,
) -> Result<RunReport, CliError> {
    print_with(output, Box::new(run), |event, at| vec![event.to_line(at)])
}

fn with_lines(
    output: &mut Output,
    run: impl FnOnce(exec::Listener<'_>) -> Result<RunReport, exec::RunError>,
) -> Result<RunReport, CliError> {
    let mut lines = Lines::new(output.paint());
    print_with(output, Box::new(run), move |event, at| lines.lines(event, at))
}

/// Prints lines as they come. A reader that goes away does not stop the run; it is told at the end.
fn print_with(
    output: &mut Output,
    run: Box<Run<'_>>,
    mut lines: impl FnMut(&Event, Timestamp) -> Vec<String>,
) -> Result<RunReport, CliError> {
    let mut printed = Ok(());
    let report = run(&mut |event: &Event, at| {
        if printed.is_ok() {
            let mut lines = lines(event, at).into_iter();
            printed = lines.try_for_each(|line| output.line(&line));
            // Cached nodes come in thousands; the others are waited for.
            let urgent = !matches!(
                event,
                Event::NodeFinished {
                    state: exec::NodeState::Cached,
                    ..
                }
            );
            if urgent && printed.is_ok() {
                printed = output.flush();
            }
        }
    })?;
    printed.map(|()| report)
}
