//! `volvelle logs FILE NODE`: what a node's worker wrote, also while it still writes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{CliError, Global, Output, PipelineArgs};
use crate::exec::Event;
use crate::graph::{Graph, Node};
use crate::inspect;
use crate::store::{RunState, RunStatus, Store};

/// How often a growing log is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The node
    node: String,
    /// Go on while the node runs
    #[arg(long, short)]
    follow: bool,
}

pub(super) fn run(args: &LogsArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let graph = args.pipeline.graph(global, &store)?;
    let node = &graph.node(graph.select(&args.node)?);
    if let Some((run, log)) = last_attempt(&store, &graph, node) {
        return if args.follow {
            follow(&store, &run, node, &log, output)
        } else {
            copy(&log, 0, output).map(|_| ())
        };
    }
    // No run here has executed it, so the result came from elsewhere or its run was removed.
    let record = store.record(node.recipe_key);
    let record = record.ok_or_else(|| CliError::Absent(format!("{} never ran", node.id)))?;
    match record.log {
        Some(digest) => output.bytes(&store.read_blob(digest)?),
        None => Ok(()),
    }
}

/// Returns the log of the latest attempt at a node, and the run that it belongs to.
fn last_attempt(store: &Store, graph: &Graph, node: &Node) -> Option<(RunState, PathBuf)> {
    inspect::runs_of(store, &graph.file).into_iter().find_map(|run| {
        let events = inspect::events(store, &run);
        let log = events.into_iter().rev().find_map(|event| match event {
            Event::NodeStarted { id, log, .. } if id == node.id => Some(log),
            _ => None,
        })?;
        let path = store.run_folder(&run.id.0)?.path.join(log);
        path.is_file().then_some((run, path))
    })
}

fn follow(store: &Store, run: &RunState, node: &Node, log: &Path, output: &mut Output) -> Result<(), CliError> {
    let mut offset = 0;
    loop {
        // Asked before reading: what was written before the end is still read after it.
        let over = is_over(store, run, node);
        offset = copy(log, offset, output)?;
        output.flush()?;
        if over {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

fn is_over(store: &Store, run: &RunState, node: &Node) -> bool {
    let running = store
        .run_state(&run.id.0)
        .is_some_and(|run| run.status == RunStatus::Running);
    let finished = |event: &Event| matches!(event, Event::NodeFinished { id, .. } if *id == node.id);
    !running || inspect::events(store, run).iter().any(finished)
}

/// Prints a file from an offset on and returns the offset of its end.
fn copy(path: &Path, mut offset: u64, output: &mut Output) -> Result<u64, CliError> {
    let failed = |error: std::io::Error| CliError::Absent(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Ok(offset);
        }
        output.bytes(&buffer[..count])?;
        offset += count as u64;
    }
}
