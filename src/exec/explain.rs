//! Why a node has the key it has: its preimage against that of the nearest earlier record.
//!
//! It reads records and compares values; it doesn't decide what runs. Everything it says is taken from the preimages
//! that the keys were made from, so it can't differ from what the keys did.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::digest::{Change, RecipeKey, diff, leaves};
use crate::graph::Node;
use crate::store::{Record, RecordSummary, Store};

/// How many records of other stages a node is compared with at most; its own stage has as many again.
const MAX_OTHERS: usize = 32;

/// What was run before, read from the store at most once.
pub struct History<'a> {
    store: &'a Store,
    pipeline: &'a str,
    kinds: HashMap<String, Kind>,
    records: HashMap<RecipeKey, Option<Arc<Record>>>,
}

/// The records of a kind, the latest first, and where those of a node and of a stage of this pipeline are.
#[derive(Default)]
struct Kind {
    summaries: Arc<Vec<RecordSummary>>,
    by_node: HashMap<String, Vec<usize>>,
    by_stage: HashMap<String, Vec<usize>>,
}

/// The record that differs least from a node.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// The record.
    pub record: Arc<Record>,
    /// What differs in the node itself, with paths as the pipeline writes them.
    pub own: Vec<Change>,
    /// What differs in the inputs, with paths as the pipeline writes them.
    pub inputs: Vec<Change>,
    /// The same, with paths as in the preimage.
    raw: Vec<Change>,
}

impl Nearest {
    fn new(record: Arc<Record>, node: &Node, raw: Vec<Change>) -> Nearest {
        let shown = |wanted: bool| {
            let changes = raw.iter().filter(move |change| is_input(change) == wanted);
            changes.map(|change| shown(change, &record.recipe, node)).collect()
        };
        Nearest {
            own: shown(false),
            inputs: shown(true),
            record,
            raw,
        }
    }
}

impl<'a> History<'a> {
    /// Returns the history of a pipeline in a store.
    pub fn new(store: &'a Store, pipeline: &'a str) -> History<'a> {
        History {
            store,
            pipeline,
            kinds: HashMap::new(),
            records: HashMap::new(),
        }
    }

    /// Returns how long a node is expected to take, if its kind was ever run.
    pub fn seconds(&mut self, node: &Node) -> Option<f64> {
        let pipeline = self.pipeline;
        let kind = self.kind(&node.kind);
        let latest = kind
            .by_node
            .get(&node.id.0)
            .or_else(|| kind.by_stage.get(&node.stage.0));
        let latest = latest.and_then(|found| found.first()).copied();
        match latest {
            Some(idx) => Some(kind.summaries[idx].seconds),
            None => super::priority::estimate(&kind.summaries, pipeline, &node.id.0, &node.stage.0),
        }
    }

    /// Returns the record of the same kind with the fewest differences in the node itself; among equals that of the
    /// same node, then the one with the fewest differences in inputs, then the latest. A record of the very same
    /// recipe, and what came after it, is left out.
    pub fn nearest(&mut self, node: &Node) -> Option<Nearest> {
        let own = self.record(node.recipe_key);
        let is_earlier = |record: &Record| {
            record.recipe_key != node.recipe_key && own.as_ref().is_none_or(|own| record.started < own.started)
        };
        let candidates = self.candidates(node).0;
        let found = candidates
            .into_iter()
            .enumerate()
            .filter(|(_, record)| is_earlier(record));
        let ranked = found.map(|(age, record)| {
            let changes = diff(&record.recipe, &node.recipe);
            let num_inputs = changes.iter().filter(|change| is_input(change)).count();
            let is_other = record.node != node.id.0 || record.pipeline != self.pipeline;
            ((changes.len() - num_inputs, is_other, num_inputs, age), record, changes)
        });
        ranked
            .min_by_key(|(rank, ..)| *rank)
            .map(|(_, record, changes)| Nearest::new(record, node, changes))
    }

    /// Tells whether some record could turn out to be this node's, once its inputs are known: one that differs in
    /// nothing but inputs.
    pub fn may_be_known(&mut self, node: &Node) -> bool {
        let (candidates, is_complete) = self.candidates(node);
        let same = |record: &Arc<Record>| diff(&record.recipe, &node.recipe).iter().all(is_input);
        !is_complete || candidates.iter().any(same)
    }

    /// Returns records to compare a node with, of itself first, and whether those are all of its kind.
    fn candidates(&mut self, node: &Node) -> (Vec<Arc<Record>>, bool) {
        let kind = self.kind(&node.kind);
        let summaries = kind.summaries.clone();
        let own = kind.by_node.get(&node.id.0).into_iter().flatten().take(MAX_OTHERS);
        let of_stage = kind.by_stage.get(&node.stage.0).into_iter().flatten().take(MAX_OTHERS);
        let mut wanted: Vec<usize> = own
            .chain(of_stage)
            .copied()
            .chain(0..summaries.len().min(MAX_OTHERS))
            .collect();
        let mut seen = std::collections::HashSet::new();
        wanted.retain(|idx| seen.insert(*idx));
        let is_complete = wanted.len() == summaries.len();
        (
            wanted
                .into_iter()
                .filter_map(|idx| self.record(summaries[idx].recipe_key))
                .collect(),
            is_complete,
        )
    }

    fn kind(&mut self, name: &str) -> &Kind {
        match self.kinds.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut kind = Kind {
                    summaries: Arc::new(self.store.records_by_kind(name)),
                    ..Kind::default()
                };
                for (idx, summary) in kind.summaries.iter().enumerate() {
                    if summary.pipeline == self.pipeline {
                        kind.by_node.entry(summary.node.clone()).or_default().push(idx);
                        kind.by_stage.entry(summary.stage.clone()).or_default().push(idx);
                    }
                }
                entry.insert(kind)
            }
        }
    }

    fn record(&mut self, key: RecipeKey) -> Option<Arc<Record>> {
        let store = self.store;
        self.records
            .entry(key)
            .or_insert_with(|| store.record(key).map(Arc::new))
            .clone()
    }
}

/// One value that a key is made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// Where it is, as the pipeline writes it: `with.learning_rate`, `needs.model.recipe`.
    pub path: String,
    /// The value in the nearest earlier record; absent where that has none, or where there is no such record.
    pub old: Option<Value>,
    /// The value now; absent where only the earlier record has one.
    pub new: Option<Value>,
    /// Whether the two differ.
    pub changed: bool,
}

/// Returns all parts of a node's recipe key, each beside that of the nearest earlier record.
pub fn parts(node: &Node, nearest: Option<&Nearest>) -> Vec<Part> {
    let changes = nearest.map(|nearest| nearest.raw.as_slice()).unwrap_or_default();
    let is_under = |path: &str, change: &Change| {
        path.strip_prefix(change.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let changed = nearest
        .into_iter()
        .flat_map(|nearest| nearest.own.iter().chain(&nearest.inputs))
        .cloned();
    let mut parts: Vec<Part> = changed
        .map(|change| Part {
            path: change.path,
            old: change.old,
            new: change.new,
            changed: true,
        })
        .collect();
    for (path, value) in leaves(&node.recipe) {
        // A node without inputs or parameters has nothing to say about them.
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        if !is_empty && !changes.iter().any(|change| is_under(&path, change)) {
            let old = nearest.map(|_| value.clone());
            parts.push(Part {
                path: shown_path(&path),
                old,
                new: Some(value),
                changed: false,
            });
        }
    }
    parts.sort_by(|a, b| order(&a.path).cmp(&order(&b.path)).then_with(|| a.path.cmp(&b.path)));
    parts
}

/// Orders parts as a stage is written: the kind first, then parameters, then inputs.
fn order(path: &str) -> usize {
    let head = path.split(['.', '[']).next().unwrap_or_default();
    ["format", "kind", "version", "code", "with", "outputs", "needs"]
        .iter()
        .position(|h| *h == head)
        .unwrap_or(7)
}

fn is_input(change: &Change) -> bool {
    change.path == "inputs" || change.path.starts_with("inputs.")
}

/// Returns a change in the words of the pipeline, with the default where a recipe leaves a parameter out.
fn shown(change: &Change, recorded: &Value, node: &Node) -> Change {
    // A recipe leaves a parameter out where it is at its default.
    let name = change.path.strip_prefix("params.").unwrap_or_default();
    let default = |recipe: &Value| {
        node.defaults
            .get(name)
            .filter(|_| recipe["params"].get(name).is_none())
            .cloned()
    };
    let old = change.old.clone().or_else(|| default(recorded));
    let new = change.new.clone().or_else(|| default(&node.recipe));
    Change {
        path: shown_path(&change.path),
        old,
        new,
    }
}

/// Returns a path of a preimage in the words of the pipeline.
fn shown_path(path: &str) -> String {
    for (inside, outside) in [("params", "with"), ("inputs", "needs")] {
        if let Some(rest) = path.strip_prefix(inside)
            && (rest.is_empty() || rest.starts_with('.'))
        {
            return format!("{outside}{rest}");
        }
    }
    path.to_owned()
}
