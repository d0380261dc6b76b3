//! What earlier runs said about the nodes of a pipeline.

use std::collections::HashMap;
use std::path::Path;

use crate::exec::{Event, NodeState};
use crate::graph::NodeId;
use crate::store::{RunState, Store};

/// Returns the runs of a pipeline file, the latest first.
pub fn runs_of(store: &Store, file: &Path) -> Vec<RunState> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let mut runs = store.runs();
    runs.retain(|run| run.file == file);
    runs
}

/// Returns the events of a run as far as they are written.
pub fn events(store: &Store, run: &RunState) -> Vec<Event> {
    let path = store.run_folder(&run.id.0).map(|folder| folder.events());
    let text = path
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    text.lines().filter_map(Event::from_line).collect()
}

/// Returns the last state that a run told of each node, with the message of a failure.
pub fn last_words(store: &Store, run: &RunState) -> HashMap<NodeId, (NodeState, Option<String>)> {
    let mut said = HashMap::new();
    for event in events(store, run) {
        match event {
            Event::NodeStarted { id, .. } => {
                said.insert(id, (NodeState::Running, None));
            }
            Event::NodeFinished { id, state, message, .. } => {
                said.insert(id, (state, message));
            }
            _ => {}
        }
    }
    said
}
