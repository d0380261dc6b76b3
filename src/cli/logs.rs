//! `volvelle logs FILE NODE`: what a node's worker wrote, also while it still writes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

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
    /// Print each line as a line of JSON, with the node and the run
    #[arg(long)]
    json: bool,
}

/// Where a log goes: as it is, or line by line as JSON.
struct Printer<'a> {
    output: &'a mut Output,
    /// What stands beside each line.
    labels: Option<Map<String, Value>>,
    /// The beginning of a line that is not written to its end yet.
    unfinished: Vec<u8>,
}

impl Printer<'_> {
    fn print(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        if self.labels.is_none() {
            return self.output.bytes(bytes);
        }
        let mut lines = bytes.split(|byte| *byte == b'\n');
        // What follows the last line break is a line only when there is another, or nothing follows at all.
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            self.unfinished.extend_from_slice(line);
            self.finish_line()?;
        }
        self.unfinished.extend_from_slice(last);
        Ok(())
    }

    /// Prints what is left where the log ends.
    fn end(&mut self) -> Result<(), CliError> {
        if self.unfinished.is_empty() {
            Ok(())
        } else {
            self.finish_line()
        }
    }

    fn finish_line(&mut self) -> Result<(), CliError> {
        let mut line = self.labels.clone().unwrap_or_default();
        let bytes = std::mem::take(&mut self.unfinished);
        line.insert("line".to_owned(), String::from_utf8_lossy(&bytes).into());
        self.output.line(&Value::Object(line).to_string())
    }
}

pub(super) fn run(args: &LogsArgs, global: &Global, output: &mut Output) -> Result<(), CliError> {
    let store = global.store(Some(&args.pipeline.file))?;
    let graph = args.pipeline.graph(global, &store)?;
    let node = &graph.node(graph.select(&args.node)?);
    let mut printer = Printer {
        output,
        labels: None,
        unfinished: Vec::new(),
    };
    let labels = |run: &str| {
        let labels = [("node", json!(node.id)), ("run", json!(run))];
        args.json.then(|| {
            labels
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect()
        })
    };
    if let Some((run, log)) = last_attempt(&store, &graph, node) {
        printer.labels = labels(&run.id.0);
        if args.follow {
            follow(&store, &run, node, &log, &mut printer)?;
        } else {
            copy(&log, 0, &mut printer)?;
        }
        return printer.end();
    }
    // No run here has executed it, so the result came from elsewhere or its run was removed.
    store.look_ahead([node.recipe_key]);
    let record = store.record(node.recipe_key);
    let record = record.ok_or_else(|| CliError::Absent(format!("{} never ran", node.id)))?;
    printer.labels = labels(&record.run);
    if let Some(digest) = record.log {
        printer.print(&store.read_blob_anywhere(digest)?)?;
    }
    printer.end()
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

fn follow(store: &Store, run: &RunState, node: &Node, log: &Path, printer: &mut Printer<'_>) -> Result<(), CliError> {
    let mut offset = 0;
    loop {
        // Asked before reading: what was written before the end is still read after it.
        let over = is_over(store, run, node);
        offset = copy(log, offset, printer)?;
        printer.output.flush()?;
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
fn copy(path: &Path, mut offset: u64, printer: &mut Printer<'_>) -> Result<u64, CliError> {
    let failed = |error: std::io::Error| CliError::Absent(format!("cannot read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Ok(offset);
        }
        printer.print(&buffer[..count])?;
        offset += count as u64;
    }
}
