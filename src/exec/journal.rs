//! Where events go: first into the run's file, then to whoever listens.
//!
//! It also keeps the resolved pipeline beside them, so that a run can be read without the file it came from.

use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::{Value, json};

use super::event::Event;
use crate::graph::Graph;
use crate::store::{RunFolder, Timestamp};

/// What a listener is: it sees each event once, in order.
pub type Listener<'a> = &'a mut dyn FnMut(&Event, Timestamp);

/// The end of the stream of events.
pub(crate) struct Journal<'a> {
    file: Option<BufWriter<File>>,
    listener: Listener<'a>,
}

impl<'a> Journal<'a> {
    /// Opens the file of events of a run. A run whose file can't be written still runs.
    pub(crate) fn open(run: &RunFolder, listener: Listener<'a>) -> Journal<'a> {
        let path = run.events();
        let file = File::create(&path).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "the events of this run are not kept");
        });
        Journal {
            file: file.ok().map(BufWriter::new),
            listener,
        }
    }

    pub(crate) fn emit(&mut self, event: &Event) {
        let at = Timestamp::now();
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{}", event.to_line(at))
        {
            tracing::warn!(%error, "the events of this run are not kept from here on");
            self.file = None;
        }
        (self.listener)(event, at);
    }

    /// Hands everything to the operating system, so that others can read it.
    pub(crate) fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Write::flush) {
            tracing::warn!(%error, "the events of this run are not kept from here on");
            self.file = None;
        }
    }
}

/// Writes the resolved pipeline of a run.
pub(crate) fn write_graph(run: &RunFolder, graph: &Graph) -> std::io::Result<()> {
    let node = |node: &crate::graph::Node| {
        json!({
            "id": node.id, "stage": node.stage.0, "kind": node.kind, "kind_version": node.kind_version,
            "axes": node.axes, "params": node.params, "seed": node.seed, "recipe_key": node.recipe_key,
        })
    };
    let nodes: Vec<Value> = graph.nodes.iter().map(node).collect();
    let value = json!({"format": 1, "pipeline": graph.pipeline, "file": graph.file, "nodes": nodes});
    let mut file = BufWriter::new(File::create(run.path.join("pipeline.json"))?);
    serde_json::to_writer_pretty(&mut file, &value)?;
    file.flush()
}
