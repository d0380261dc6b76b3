//! What a run would do, and why, without doing it: each node `cached`, `run` or `maybe`.
//!
//! A node is `maybe` where its inputs are not known before something upstream has run, and a record would fit if
//! they turn out as before. Decisions are those of `decide`; this only follows them through the graph.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::decide::{Decider, Decision, Settled, Stored};
use super::explain::{History, Nearest};
use super::selection::{self, Choice};
use super::{Reason, RunOptions};
use crate::digest::{Change, RecipeKey};
use crate::graph::{Axes, Graph, NodeId, SelectError};
use crate::store::Store;

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
    /// There is a record, and nobody signed it whom the project trusts.
    Untrusted,
    /// It was asked for with `--rerun`.
    Rerun,
    /// Nothing but what is upstream.
    Upstream,
    /// It is not there and may not run: `--only` or `--from` leave it out. A run would fail here.
    LeftOut,
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
#[derive(Debug, Clone)]
pub struct Plan {
    /// What would happen to each node, with the indices of the graph.
    entries: Vec<Entry>,
    /// What differs, for the nodes for which there is something to tell.
    reasons: HashMap<usize, Arc<[Change]>>,
    /// How many there are of each.
    pub counts: PlanCounts,
    /// How many nodes the options leave out; they count as cached.
    pub left_out: usize,
    /// The expected work of all nodes that run or may, one after the other, as far as it is known.
    pub estimate_s: f64,
    /// How long the results took that are there and are used.
    pub reused_s: f64,
}

/// Of so many nodes at most it is kept what differs in their inputs alone, which is another thing for each.
const MAX_TOLD_INPUTS: usize = 20_000;

/// A node with more inputs than this is compared without them: that would take longer than to make it, mostly.
const MAX_COMPARED_INPUTS: usize = 4096;

/// What would happen to a node: little enough to keep it for a hundred thousand.
#[derive(Debug, Clone, Copy)]
struct Entry {
    state: PlanState,
    cause: Option<Cause>,
    /// The node that the change comes from, if it is not cached.
    root: Option<u32>,
    estimate_s: Option<f32>,
}

impl Plan {
    fn of(entries: Vec<Entry>, reasons: HashMap<usize, Arc<[Change]>>, left_out: usize, reused_s: f64) -> Plan {
        let count = |state| entries.iter().filter(|entry| entry.state == state).count();
        Plan {
            counts: PlanCounts {
                cached: count(PlanState::Cached),
                run: count(PlanState::Run),
                maybe: count(PlanState::Maybe),
            },
            left_out,
            estimate_s: entries.iter().filter_map(|entry| entry.estimate_s).map(f64::from).sum(),
            reused_s,
            entries,
            reasons,
        }
    }

    /// Returns what would happen to a node.
    pub fn state(&self, idx: usize) -> PlanState {
        self.entries[idx].state
    }

    /// Returns how long a node is expected to take; 0 if it is cached, absent if its kind was never run.
    pub fn estimate_of(&self, idx: usize) -> Option<f64> {
        self.entries[idx].estimate_s.map(f64::from)
    }

    /// Returns all that is planned for a node of the graph that this is a plan of.
    pub fn node(&self, graph: &Graph, idx: usize) -> PlannedNode {
        let entry = self.entries[idx];
        let root = entry.root.map(|root| root as usize).filter(|&root| root != idx);
        PlannedNode {
            id: graph.id(idx),
            stage: graph.stage(idx).0.clone(),
            kind: graph.kind(idx).to_owned(),
            axes: graph.axes(idx),
            recipe_key: graph.recipe_key(idx),
            state: entry.state,
            cause: entry.cause,
            reasons: self
                .reasons
                .get(&idx)
                .map(|reasons| reasons.to_vec())
                .unwrap_or_default(),
            root: root.map(|root| graph.id(root)),
            estimate_s: self.estimate_of(idx),
        }
    }

    /// Returns all nodes, one after the other, each after those it depends on.
    pub fn nodes<'a>(&'a self, graph: &'a Graph) -> impl ExactSizeIterator<Item = PlannedNode> + 'a {
        (0..self.entries.len()).map(|idx| self.node(graph, idx))
    }

    /// Returns the nodes that run or may run, in the order of the graph.
    pub fn open(&self) -> impl Iterator<Item = usize> {
        let is_open = |idx: &usize| self.entries[*idx].state != PlanState::Cached;
        (0..self.entries.len()).filter(is_open)
    }

    /// Returns how many results are there and are used.
    pub fn num_reused(&self) -> usize {
        self.counts.cached - self.left_out
    }

    /// Returns how many nodes run or may without it being known how long they take.
    pub fn num_unknown(&self) -> usize {
        self.entries.iter().filter(|entry| entry.estimate_s.is_none()).count()
    }
}

#[cfg(test)]
impl Plan {
    /// Returns a plan in which all nodes that aren't cached take a minute and a half, each with what differs in it.
    pub(crate) fn made_up(nodes: impl IntoIterator<Item = (PlanState, Change)>) -> Plan {
        let (states, changes): (Vec<PlanState>, Vec<Change>) = nodes.into_iter().unzip();
        let entry = |&state: &PlanState| match state {
            PlanState::Cached => Entry {
                state,
                cause: None,
                root: None,
                estimate_s: Some(0.0),
            },
            _ => Entry {
                state,
                cause: Some(Cause::Changed),
                root: None,
                estimate_s: Some(90.0),
            },
        };
        let reasons = changes.into_iter().map(|change| Arc::from([change])).enumerate();
        Plan::of(states.iter().map(entry).collect(), reasons.collect(), 0, 0.0)
    }
}

/// Returns what a run with some options would do with a graph; nodes that it would leave out count as cached.
///
/// # Errors
/// A name in the options names nothing.
pub fn plan(graph: &Graph, store: &Store, options: &RunOptions) -> Result<Plan, SelectError> {
    let choices = selection::select(graph, options)?;
    let snapshot = store.snapshot();
    let decider = Decider {
        graph,
        store,
        snapshot: &snapshot,
    };
    let stored = decider.stored(|idx| choices[idx].wanted);
    decider.look_ahead(&stored);
    let mut planner = Planner {
        decider,
        history: History::new(store, &graph.pipeline),
        settled: vec![None; graph.len()],
        entries: Vec::with_capacity(graph.len()),
        reasons: HashMap::new(),
        last_reasons: HashMap::new(),
        reused_s: 0.0,
    };
    for (idx, (choice, stored)) in choices.iter().zip(stored).enumerate() {
        let entry = planner.entry(idx, choice, stored);
        planner.entries.push(entry);
    }
    let left_out = choices.iter().filter(|choice| !choice.wanted).count();
    Ok(Plan::of(planner.entries, planner.reasons, left_out, planner.reused_s))
}

struct Planner<'a> {
    decider: Decider<'a>,
    history: History<'a>,
    /// The nodes that are cached.
    settled: Vec<Option<Settled>>,
    entries: Vec<Entry>,
    reasons: HashMap<usize, Arc<[Change]>>,
    /// The last reasons of each stage: mostly the next node's are the same.
    last_reasons: HashMap<u32, Arc<[Change]>>,
    reused_s: f64,
}

impl Planner<'_> {
    fn entry(&mut self, idx: usize, choice: &Choice, stored: Stored) -> Entry {
        let has_record = !matches!(stored, Stored::Absent);
        let (state, cause) = if choice.wanted {
            self.state(idx, choice.forced, stored)
        } else {
            (PlanState::Cached, None)
        };
        let mut entry = Entry {
            state,
            cause,
            root: None,
            estimate_s: Some(0.0),
        };
        let Some(cause) = cause else { return entry };
        if !choice.may_run {
            entry.cause = Some(Cause::LeftOut);
            entry.root = Some(idx as u32);
            return entry;
        }
        let graph = self.decider.graph;
        entry.estimate_s = self.history.seconds(graph, idx).map(|seconds| seconds as f32);
        // A record of this very recipe has nothing to differ in.
        if matches!(cause, Cause::Changed | Cause::New | Cause::Upstream) && !has_record {
            entry.cause = Some(self.compare(idx, cause));
        }
        let upstream = || graph.items(idx).find_map(|item| self.entries[item.node].root);
        entry.root = match entry.cause {
            Some(Cause::Upstream) => upstream(),
            // Where there is no history at all, what is upstream is as new and explains nothing.
            _ => None,
        };
        entry.root = entry.root.or(Some(idx as u32));
        entry
    }

    /// Compares a node without a record with the nearest one and returns why it isn't cached.
    fn compare(&mut self, idx: usize, cause: Cause) -> Cause {
        let graph = self.decider.graph;
        let (own, inputs) = if graph.items(idx).nth(MAX_COMPARED_INPUTS).is_some() {
            match self.history.own_changes(graph, idx) {
                None => return Cause::New,
                Some(own) => (own, Vec::new()),
            }
        } else {
            match self.history.nearest(&graph.node(idx)) {
                None => return Cause::New,
                Some(Nearest { own, inputs, .. }) => (own, inputs),
            }
        };
        let is_changed = !own.is_empty();
        self.keep_reasons(idx, own, inputs);
        // With all inputs cached, a difference in inputs is a change of this node: it reads something else.
        if is_changed || cause != Cause::Upstream {
            Cause::Changed
        } else {
            Cause::Upstream
        }
    }

    fn keep_reasons(&mut self, idx: usize, own: Vec<Change>, inputs: Vec<Change>) {
        // What is the node's own says it all; its inputs then differ as those of its producers do.
        let reasons: Arc<[Change]> = match own.is_empty() {
            true if self.reasons.len() >= MAX_TOLD_INPUTS => return,
            true => inputs.into(),
            false => own.into_iter().chain(inputs).collect(),
        };
        let stage = self.decider.graph.stage_idx(idx);
        let last = self.last_reasons.entry(stage).or_insert_with(|| Arc::clone(&reasons));
        if *last != reasons {
            *last = reasons;
        }
        self.reasons.insert(idx, Arc::clone(last));
    }

    /// Returns what happens to a node and the first guess at why.
    fn state(&mut self, idx: usize, is_forced: bool, stored: Stored) -> (PlanState, Option<Cause>) {
        if is_forced {
            return (PlanState::Run, Some(Cause::Rerun));
        }
        let graph = self.decider.graph;
        if graph.items(idx).any(|item| self.settled[item.node].is_none()) {
            let is_known = self.history.may_be_known(graph, idx);
            return (
                if is_known { PlanState::Maybe } else { PlanState::Run },
                Some(Cause::Upstream),
            );
        }
        let is_absent = matches!(stored, Stored::Absent);
        match self.decider.look_up(idx, &self.settled, stored) {
            Ok(Decision::Hit { found, .. }) => {
                self.reused_s += self.decider.snapshot.seconds(&found);
                self.settled[idx] = Some(Settled { found, fresh: false });
                (PlanState::Cached, None)
            }
            Ok(Decision::Run(pending)) if matches!(pending.reason, Reason::BlobMissing { .. }) => {
                (PlanState::Run, Some(Cause::BlobMissing))
            }
            Ok(Decision::Run(pending)) if matches!(pending.reason, Reason::Untrusted { .. }) => {
                (PlanState::Run, Some(Cause::Untrusted))
            }
            Ok(Decision::Run(_)) if is_absent => (PlanState::Run, Some(Cause::Changed)),
            // Its inputs were made again since, with other bytes.
            Ok(Decision::Run(_)) => (PlanState::Run, Some(Cause::Upstream)),
            // The run will say what is wrong with the input.
            Err(_) => (PlanState::Run, Some(Cause::Changed)),
        }
    }
}
