//! Which of the ready nodes goes first: the one with the longest way to the end behind it.
//!
//! Times come from the records of earlier runs. They are only a guess: a wrong one costs time, never a result.

use super::explain::History;
use crate::graph::Graph;
use crate::store::Store;

/// What a node is thought to take whose kind was never seen.
const UNKNOWN_SECONDS: f64 = 1.0;

/// The order in which ready nodes start; the smaller goes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rank {
    /// Whole negative seconds to the end of the pipeline: differences below that are noise.
    path: f64,
    priority: i64,
    idx: usize,
}

impl Rank {
    /// Returns the node.
    pub(crate) fn idx(&self) -> usize {
        self.idx
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Rank) -> std::cmp::Ordering {
        let by_path = self.path.total_cmp(&other.path);
        by_path
            .then(self.priority.cmp(&other.priority))
            .then(self.idx.cmp(&other.idx))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Rank) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Rank) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

/// Returns the rank of each node, given how long each is expected to take.
pub(crate) fn ranks(graph: &Graph, seconds: &[f64]) -> Vec<Rank> {
    let mut path = vec![0.0; graph.len()];
    // Nodes stand after what they depend on, so going backwards every consumer is complete when it is looked at.
    for idx in (0..graph.len()).rev() {
        path[idx] += seconds[idx];
        for producer in graph.producers(idx) {
            path[producer] = f64::max(path[producer], path[idx]);
        }
    }
    let rank = |idx: usize| Rank {
        path: -path[idx].round(),
        priority: -graph.resources(idx).priority,
        idx,
    };
    (0..graph.len()).map(rank).collect()
}

/// Returns how long each node is expected to take, from the records of its kind.
pub(crate) fn expected_seconds(graph: &Graph, store: &Store, wanted: impl Fn(usize) -> bool) -> Vec<f64> {
    let mut history = History::new(store, &graph.pipeline);
    let expected = |idx| match wanted(idx) {
        true => history.seconds(graph, idx).unwrap_or(UNKNOWN_SECONDS),
        false => UNKNOWN_SECONDS,
    };
    (0..graph.len()).map(expected).collect()
}
