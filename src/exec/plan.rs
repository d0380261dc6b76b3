//! What a run would do, and why, without doing it: each node `cached`, `run` or `maybe`.
//!
//! A node is `maybe` where its inputs are not known before something upstream has run, and a record would fit if
//! they turn out as before. Decisions are those of `decide`; this only follows them through the graph.

use std::fmt;

use serde::Serialize;

use super::decide::{Decision, Settled, look_up};
use super::explain::{History, Nearest};
use super::{Reason, RunOptions, selection};
use crate::digest::{Change, RecipeKey};
use crate::graph::{Axes, Graph, Node, NodeId, SelectError};
use crate::store::{Lookup, Store};

/// What a run would do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// Its result is there.
    Cached,
    /// It runs.
    Run,
    /// It runs unless what is upstream makes the same bytes as before.
    Maybe,
}

impl fmt::Display for PlanState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PlanState::Cached => "cached",
            PlanState::Run => "run",
            PlanState::Maybe => "maybe",
        })
    }
}

/// Why a node is not cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The node itself differs from every record: its parameters, its kind, the code, or which inputs it takes.
    Changed,
    /// No record of its kind is there to compare it with.
    New,
    /// The record is there, a blob of it is not.
    BlobMissing,
    /// It was asked for with `--rerun`.
    Rerun,
    /// Nothing but what is upstream.
    Upstream,
}

/// A node of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedNode {
    /// The node.
    pub id: NodeId,
    /// Its stage.
    pub stage: String,
    /// Its kind.
    pub kind: String,
    /// Its coordinates.
    pub axes: Axes,
    /// Its key.
    pub recipe_key: RecipeKey,
    /// What would happen.
    pub state: PlanState,
    /// Why, if it is not cached.
    pub cause: Option<Cause>,
    /// What differs from the nearest earlier record: its own values first, then inputs.
    pub reasons: Vec<Change>,
    /// The node furthest upstream that the change comes from, if that is another one.
    pub root: Option<NodeId>,
    /// How long it is expected to take; 0 if it is cached, absent if its kind was never run.
    pub estimate_s: Option<f64>,
}

/// How many nodes are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlanCounts {
    /// Nodes whose result is there.
    pub cached: usize,
    /// Nodes that run.
    pub run: usize,
    /// Nodes that may run.
    pub maybe: usize,
}

/// What a run would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The nodes, each after those it depends on, with the indices of the graph.
    pub nodes: Vec<PlannedNode>,
    /// How many there are of each.
    pub counts: PlanCounts,
    /// The expected work of all nodes that run or may, one after the other, as far as it is known.
    pub estimate_s: f64,
}

/// Returns what a run would do with a graph if the stages or nodes in `rerun` were forced.
///
/// # Errors
/// A name in `rerun` names nothing.
pub fn plan(graph: &Graph, store: &Store, rerun: &[String]) -> Result<Plan, SelectError> {
    let options = RunOptions {
        rerun: rerun.to_vec(),
        ..RunOptions::default()
    };
    let choices = selection::select(graph, &options)?;
    let mut planner = Planner {
        graph,
        store,
        history: History::new(store, &graph.pipeline),
        settled: vec![None; graph.nodes.len()],
        roots: vec![None; graph.nodes.len()],
        nodes: Vec::with_capacity(graph.nodes.len()),
    };
    for (idx, choice) in choices.iter().enumerate() {
        let node = planner.node(idx, choice.forced);
        planner.nodes.push(node);
    }
    let nodes = planner.nodes;
    let count = |state| nodes.iter().filter(|node| node.state == state).count();
    let (cached, run, maybe) = (count(PlanState::Cached), count(PlanState::Run), count(PlanState::Maybe));
    let estimate_s = nodes.iter().filter_map(|node| node.estimate_s).sum();
    Ok(Plan {
        pipeline: graph.pipeline.clone(),
        nodes,
        counts: PlanCounts { cached, run, maybe },
        estimate_s,
    })
}

struct Planner<'a> {
    graph: &'a Graph,
    store: &'a Store,
    history: History<'a>,
    /// The records of the nodes that are cached.
    settled: Vec<Option<Settled>>,
    /// For every node that is not cached, the node that its change comes from.
    roots: Vec<Option<usize>>,
    nodes: Vec<PlannedNode>,
}

impl Planner<'_> {
    fn node(&mut self, idx: usize, is_forced: bool) -> PlannedNode {
        let node = &self.graph.nodes[idx];
        let (state, cause) = self.state(idx, is_forced);
        let mut planned = PlannedNode {
            id: node.id.clone(),
            stage: node.stage.0.clone(),
            kind: node.kind.clone(),
            axes: node.axes.clone(),
            recipe_key: node.recipe_key,
            state,
            cause,
            reasons: Vec::new(),
            root: None,
            estimate_s: Some(0.0),
        };
        let Some(cause) = cause else { return planned };
        planned.estimate_s = self.history.seconds(node);
        // A record of this very recipe has nothing to differ in.
        if matches!(cause, Cause::Changed | Cause::New | Cause::Upstream)
            && self.store.record(node.recipe_key).is_none()
        {
            let nearest = self.history.nearest(node);
            planned.cause = Some(match &nearest {
                None => Cause::New,
                // With all inputs cached, a difference in inputs is a change of this node: it reads something else.
                Some(nearest) if !nearest.own.is_empty() || cause != Cause::Upstream => Cause::Changed,
                Some(_) => Cause::Upstream,
            });
            planned.reasons = nearest
                .map(|Nearest { own, inputs, .. }| [own, inputs].concat())
                .unwrap_or_default();
        }
        let upstream = self.producers(node).find_map(|producer| self.roots[producer]);
        let root = match planned.cause {
            Some(Cause::Upstream) => upstream.unwrap_or(idx),
            // Where there is no history at all, what is upstream is as new and explains nothing.
            _ => idx,
        };
        self.roots[idx] = Some(root);
        planned.root = (root != idx).then(|| self.graph.nodes[root].id.clone());
        planned
    }

    /// Returns what happens to a node and the first guess at why.
    fn state(&mut self, idx: usize, is_forced: bool) -> (PlanState, Option<Cause>) {
        let node = &self.graph.nodes[idx];
        if is_forced {
            return (PlanState::Run, Some(Cause::Rerun));
        }
        if self.producers(node).any(|producer| self.settled[producer].is_none()) {
            let is_known = self.history.may_be_known(node);
            return (
                if is_known { PlanState::Maybe } else { PlanState::Run },
                Some(Cause::Upstream),
            );
        }
        match look_up(self.store, node, &self.settled) {
            Ok(Decision::Hit { record, .. }) => {
                self.settled[idx] = Some(Settled { record, fresh: false });
                (PlanState::Cached, None)
            }
            Ok(Decision::Run(pending)) if matches!(pending.reason, Reason::BlobMissing { .. }) => {
                (PlanState::Run, Some(Cause::BlobMissing))
            }
            Ok(Decision::Run(_)) => (PlanState::Run, Some(self.cause_of_miss(node))),
            // The run will say what is wrong with the input.
            Err(_) => (PlanState::Run, Some(Cause::Changed)),
        }
    }

    /// Tells why a node misses although all of its inputs are cached.
    fn cause_of_miss(&self, node: &Node) -> Cause {
        match self.store.lookup(node.recipe_key) {
            // Its inputs were made again since, with other bytes.
            Lookup::Hit(_) | Lookup::Incomplete { .. } => Cause::Upstream,
            Lookup::Miss => Cause::Changed,
        }
    }

    fn producers(&self, node: &Node) -> impl Iterator<Item = usize> {
        let items = node.inputs.iter().flat_map(|input| &input.items);
        items.map(|item| item.node).collect::<Vec<_>>().into_iter()
    }
}
