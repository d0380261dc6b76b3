//! Which of the ready nodes goes first: the one with the longest way to the end behind it.
//!
//! Times come from the records of earlier runs. They are only a guess: a wrong one costs time, never a result.

use std::collections::HashMap;

use crate::graph::Graph;
use crate::store::{RecordSummary, Store};

/// What a node is thought to take whose kind was never seen.
const UNKNOWN_SECONDS: f64 = 1.0;

/// The order in which ready nodes start; the smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Rank {
    /// Whole negative seconds to the end of the pipeline: differences below that are noise.
    path: f64,
    priority: i64,
    idx: usize,
}

impl Rank {
    pub(crate) fn compare(&self, other: &Rank) -> std::cmp::Ordering {
        let by_path = self.path.total_cmp(&other.path);
        by_path
            .then(self.priority.cmp(&other.priority))
            .then(self.idx.cmp(&other.idx))
    }
}

/// Returns the rank of each node, given how long each is expected to take.
pub(crate) fn ranks(graph: &Graph, seconds: &[f64]) -> Vec<Rank> {
    let mut path = vec![0.0; graph.nodes.len()];
    // Nodes stand after what they depend on, so going backwards every consumer is complete when it is looked at.
    for (idx, node) in graph.nodes.iter().enumerate().rev() {
        path[idx] += seconds[idx];
        for item in node.inputs.iter().flat_map(|input| &input.items) {
            path[item.node] = f64::max(path[item.node], path[idx]);
        }
    }
    let rank = |(idx, node): (usize, &crate::graph::Node)| Rank {
        path: -path[idx].round(),
        priority: -node.resources.priority,
        idx,
    };
    graph.nodes.iter().enumerate().map(rank).collect()
}

/// Returns how long each node is expected to take, from the records of its kind.
pub(crate) fn expected_seconds(graph: &Graph, store: &Store, wanted: impl Fn(usize) -> bool) -> Vec<f64> {
    let mut kinds: HashMap<&str, Vec<RecordSummary>> = HashMap::new();
    let mut seconds = vec![UNKNOWN_SECONDS; graph.nodes.len()];
    for (idx, node) in graph.nodes.iter().enumerate().filter(|(idx, _)| wanted(*idx)) {
        let records = kinds
            .entry(&node.kind)
            .or_insert_with(|| store.records_by_kind(&node.kind));
        seconds[idx] = estimate(records, &graph.pipeline, &node.id.0, &node.stage.0).unwrap_or(UNKNOWN_SECONDS);
    }
    seconds
}

/// Takes the latest record of the same node, else of the same stage, else of the same kind.
pub(crate) fn estimate(records: &[RecordSummary], pipeline: &str, node: &str, stage: &str) -> Option<f64> {
    let here = |record: &&RecordSummary| record.pipeline == pipeline;
    let of_node = || records.iter().filter(here).find(|record| record.node == node);
    let of_stage = || records.iter().filter(here).find(|record| record.stage == stage);
    of_node()
        .or_else(of_stage)
        .or_else(|| records.first())
        .map(|record| record.seconds)
}
